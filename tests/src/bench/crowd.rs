//! With much behind it and much before it: a ledger with a million finished runs, one in which
//! 100,000 wait for their time, and 100,000 who sign up at once. The ledger's rows are written by
//! SQL; the crowd goes the way of every sign-up.

use std::{collections::BTreeMap, ops::Range};

use anyhow::{Context, Result};
use serde::Serialize;

use super::{
    app::App,
    burst::{Burst, Contender, Runs, contest},
    site::Database,
    stage::{Roles, Setup, Stage},
    steady::{self, Steady},
};

const SQL: &str = include_str!("history.sql");
const CHUNK: usize = 20_000;

/// What a ledger is filled with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    Finished,
    Waiting,
}

/// The same bursts on an empty ledger and on a full one, in turns.
#[derive(Clone, Debug, Serialize)]
pub struct Compared {
    pub rows: usize,
    pub empty: Burst,
    pub full: Burst,
    /// How much of the empty one's rate is left.
    pub ratio: f64,
    /// A stream of 100 a second on the full one.
    pub steady: Option<Steady>,
}

pub async fn compare(
    stage: &mut Stage,
    roles: Roles,
    fill: Fill,
    rows: usize,
    users: usize,
    rounds: usize,
) -> Result<Compared> {
    let empty = stage.new_database().await?;
    let full = stage.new_database().await?;
    filled(stage, &full, fill, 0..rows).await?;
    let name = match fill {
        Fill::Finished => format!("{rows} finished runs"),
        Fill::Waiting => format!("{rows} waiting runs"),
    };
    let contender =
        |name: &str, database| Contender { name: name.to_owned(), runs: Runs::Sluice(Setup::new(roles, database)) };
    let contenders = [contender("empty ledger", &empty), contender(&name, &full)];
    let mut bursts = contest(stage, &contenders, users, rounds).await?.into_iter();
    let (on_empty, on_full) = (bursts.next().context("no burst")?, bursts.next().context("no burst")?);
    let steady = steady::stream(stage, &Setup::new(roles, &full), 100.0, 10.0).await?;
    let ratio = on_full.per_second / on_empty.per_second;
    Ok(Compared { rows, empty: on_empty, full: on_full, ratio, steady: Some(steady) })
}

/// Writes the sign-ups of these numbers; a number is one user's.
pub async fn filled(stage: &Stage, database: &Database, fill: Fill, sign_ups: Range<usize>) -> Result<()> {
    let mut app = App::connect(database, 1).await?;
    app.run(SQL).await?;
    app.run("set synchronous_commit = off").await?;
    let statement = match fill {
        Fill::Finished => "select bench.finished($1, $2)",
        Fill::Waiting => "select bench.waiting($1, $2)",
    };
    for (index, first) in sign_ups.clone().step_by(CHUNK).enumerate() {
        let number = CHUNK.min(sign_ups.end - first);
        let chunk = sqlx::query(statement).bind(i64::try_from(first)?).bind(i64::try_from(number)?);
        chunk.execute(app.look()).await.context("write the ledger's history")?;
        if index % 5 == 4 {
            (stage.say)(&format!("   {} of {} runs written", first + number - sign_ups.start, sign_ups.len()));
        }
    }
    app.run("select bench.fill_steps(-5)").await?;
    app.run("drop schema bench cascade").await?;
    app.run("vacuum (analyze)").await?;
    app.run("checkpoint").await?;
    app.close().await
}

/// A crowd that signs up at once, served to the last.
#[derive(Clone, Debug, Serialize)]
pub struct Drain {
    pub users: usize,
    pub seconds: f64,
    pub per_second: f64,
    /// How many became ready in each second.
    pub by_second: Vec<usize>,
}

pub async fn drain(stage: &mut Stage, roles: Roles, users: usize) -> Result<Drain> {
    stage.api.reset().await?;
    let database = stage.new_database().await?;
    let mut app = App::connect(&database, 2).await?;
    let mut all = Vec::new();
    for first in (0..users).step_by(10_000) {
        all.extend(app.together(10_000.min(users - first)).await?.users);
    }
    (stage.say)(&format!("   {users} have signed up, nobody serves yet"));
    app.run("vacuum (analyze)").await?;
    stage.start(&Setup::new(roles, &database)).await?;
    let say = stage.say;
    let mut next = users / 10;
    app.await_ready_telling(&all, |ready| {
        if ready >= next {
            say(&format!("   {ready} of {users} are ready"));
            next += users / 10;
        }
    })
    .await?;
    stage.stop().await?;
    let mut by_second = BTreeMap::<usize, usize>::new();
    let ways = app.ways(&all).await?;
    let first = ways.first().context("nobody is ready")?.ready;
    let last = ways.last().context("nobody is ready")?.ready;
    for way in &ways {
        *by_second.entry((way.ready - first) as usize).or_default() += 1;
    }
    app.close().await?;
    let seconds = last - first;
    let by_second = (0..=seconds as usize).map(|second| by_second.get(&second).copied().unwrap_or_default()).collect();
    Ok(Drain { users, seconds, per_second: users as f64 / seconds, by_second })
}
