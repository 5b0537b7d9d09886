//! What Sluice costs the app's own transactions: as many sign-ups as 20 clients can commit, without
//! our trigger, with it and its notification off, and with both; once with nobody there to be
//! woken, once with a relay.

use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use super::{
    app::App,
    site::Database,
    stage::{Roles, Setup, Stage},
};

const CLIENTS: u32 = 20;

/// Rows per second.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Doorbell {
    /// Whether a relay runs (and no worker).
    pub relay: bool,
    pub without_trigger: f64,
    pub without_notification: f64,
    pub with_both: f64,
}

/// Before each turn: the trigger, and the setting that it reads.
const TURNS: [&str; 3] = [
    "alter table public.profiles disable trigger user",
    "alter table public.profiles enable trigger user;
     update sluice.setting set value = 'off' where name = 'intake_notify'",
    "alter table public.profiles enable trigger user;
     update sluice.setting set value = 'on' where name = 'intake_notify'",
];

pub async fn doorbell(stage: &mut Stage, seconds: f64) -> Result<Vec<Doorbell>> {
    let mut all = Vec::new();
    for relay in [false, true] {
        // What is taken in and never served would be in the way of what is measured next.
        let database = stage.new_database().await?;
        if relay {
            stage.start(&Setup::new(Roles::OneRelay, &database)).await?;
        }
        all.push(three(stage, &database, relay, seconds).await?);
        stage.stop().await?;
        stage.site.clear().await?;
    }
    Ok(all)
}

/// Who signed up without the trigger is a lost sign-up, which a relay would find and serve.
const FORGET: &str = "delete from auth.users
    where not exists (
      select from public.evolution_instance_creation_queue as queue
      where queue.user_id = users.id
    )";

/// In short turns, one after the other, so that a disk that is busy for a while is so for all
/// three.
async fn three(stage: &Stage, database: &Database, relay: bool, seconds: f64) -> Result<Doorbell> {
    const ROUNDS: u32 = 3;
    let mut app = App::connect(database, CLIENTS).await?;
    app.warm().await?;
    let mut rates = [0.0; 3];
    for _ in 0..ROUNDS {
        for (turn, rate) in TURNS.iter().zip(&mut rates) {
            app.run(turn).await?;
            tokio::time::sleep(Duration::from_millis(500)).await;
            *rate += app.as_many_as_possible(seconds / f64::from(ROUNDS)).await? / f64::from(ROUNDS);
            app.run(FORGET).await?;
        }
    }
    app.close().await?;
    let [without_trigger, without_notification, with_both] = rates;
    let with = if relay { "a relay" } else { "nobody" };
    (stage.say)(&format!(
        "   with {with} to be woken: {without_trigger:.0}/s, {without_notification:.0}/s, {with_both:.0}/s"
    ));
    Ok(Doorbell { relay, without_trigger, without_notification, with_both })
}
