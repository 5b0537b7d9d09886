//! What one blow costs in the middle of a burst. Of the users 40 % are ready; then every process of
//! Sluice is killed and started again at once, or Redis is wiped. The bursts take turns with one
//! that nothing disturbs: the work that was left takes its time there too.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::{
    app::App,
    burst::warm_up,
    stage::{Roles, Setup, Stage},
    stats::median,
};

/// How many of 1,000 users are ready when the blow comes.
const READY: f64 = 0.4;
const PAUSE: Duration = Duration::from_millis(10);
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Blow {
    Nothing,
    /// SIGKILL of all processes of Sluice, which are started again at once.
    Killed,
    /// FLUSHALL.
    Wiped,
}

impl Blow {
    pub fn name(self) -> &'static str {
        match self {
            Self::Nothing => "undisturbed",
            Self::Killed => "one SIGKILL of everything",
            Self::Wiped => "one FLUSHALL",
        }
    }
}

/// All rounds with one blow.
#[derive(Clone, Debug, Serialize)]
pub struct Recovery {
    pub blow: Blow,
    pub roles: Roles,
    pub users: usize,
    /// From the blow to the last user who is ready, round by round, in seconds.
    pub rest_done_in: Vec<f64>,
    /// The median of these.
    pub seconds: f64,
    /// Instances that were made more than once, in all rounds.
    pub made_twice: usize,
    /// Calls that create a name which exists or is being made, in all rounds.
    pub duplicate_creates: u64,
}

pub async fn recovery(stage: &mut Stage, roles: Roles, users: usize, rounds: usize) -> Result<Vec<Recovery>> {
    let mut blows = vec![Blow::Nothing, Blow::Killed];
    match stage.site.own_redis() {
        Some(_) => blows.push(Blow::Wiped),
        None => (stage.say)("   no FLUSHALL: the Redis was given, and others may use it"),
    }
    let new = |blow| Recovery {
        blow,
        roles,
        users,
        rest_done_in: Vec::new(),
        seconds: 0.0,
        made_twice: 0,
        duplicate_creates: 0,
    };
    let mut all: Vec<Recovery> = blows.into_iter().map(new).collect();
    for round in 1..=rounds {
        for one in &mut all {
            let seconds = once(stage, one).await.with_context(|| one.blow.name())?;
            one.rest_done_in.push(seconds);
            let (roles, blow) = (roles.name(), one.blow.name());
            (stage.say)(&format!("   {roles}, {blow}, round {round} of {rounds}: the rest done in {seconds:.2} s"));
        }
    }
    for one in &mut all {
        one.seconds = median(&one.rest_done_in);
    }
    Ok(all)
}

/// How long the rest took.
async fn once(stage: &mut Stage, one: &mut Recovery) -> Result<f64> {
    stage.api.reset().await?;
    let setup = Setup::new(one.roles, &stage.new_database().await?);
    stage.start(&setup).await?;
    let mut app = App::connect(&setup.database, 2).await?;
    warm_up(&mut app).await?;

    let users = app.together(one.users).await?.users;
    let enough = (one.users as f64 * READY) as i64;
    let deadline = Instant::now() + PATIENCE;
    while app.ready(&users).await? < enough {
        ensure!(Instant::now() < deadline, "{enough} sign-ups were not ready within {PATIENCE:?}");
        sleep(PAUSE).await;
    }
    let blow = SystemTime::now().duration_since(UNIX_EPOCH).context("read the clock")?.as_secs_f64();
    match one.blow {
        Blow::Nothing => {}
        Blow::Killed => stage.kill_and_start_again().await?,
        Blow::Wiped => stage.site.own_redis().context("there is no Redis of our own")?.flush_all().await?,
    }
    app.await_ready(&users).await?;
    let last = app.ways(&users).await?.last().context("nobody is ready")?.ready;
    let creates = stage.api.creates().await?;
    one.made_twice += creates.made_twice;
    one.duplicate_creates += creates.duplicates;
    stage.stop().await?;
    app.close().await?;
    stage.site.clear().await?;
    Ok((last - blow).max(0.0))
}
