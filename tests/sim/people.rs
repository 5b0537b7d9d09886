//! The people: users who sign up (some twice, some through the front end as well), and an operator
//! with a console and SQL.

use std::{sync::Arc, time::Duration};

use sluice::ledger::{By, Changed, OperatorLedger, Scope};
use tests::ledger::Ledger;
use tokio::time;
use workflows::{
    ids::RunId,
    state::RunState,
    whatsapp::names::{InstanceName, UserId},
};

use crate::{chance::Chance, stage::Stage};

/// Users sign up, spread over the first two thirds of the bad times.
pub async fn sign_ups(stage: Arc<Stage>) {
    let latest = stage.plan.bad_times.as_millis() as u64 * 2 / 3;
    if let [user] = stage.plan.users[..]
        && !stage.plan.script.is_empty()
    {
        stage.facts().users.push(user);
        stage.ledger.sign_up(user);
        return;
    }
    for (number, user) in stage.plan.users.iter().enumerate() {
        let chance = stage.chance(&format!("user {number}"));
        let on = stage.clone();
        let user = *user;
        stage.spawn("a user", async move {
            time::sleep(chance.millis(0, latest)).await;
            one(&on, user, &chance).await;
        });
    }
}

async fn one(stage: &Arc<Stage>, user: UserId, chance: &Chance) {
    if chance.percent(8) {
        // What the old set-up left behind.
        let name = InstanceName::of_user(user);
        let token = if chance.percent(50) { "a-token-of-the-old-set-up" } else { "another-token" };
        stage.api.world(|world, now| world.plant(now, tests::evolution::Planted::new(name.as_str(), token)));
        stage.log.hit("people.had_an_instance");
    }
    stage.log.note(|| format!("{user} signs up"));
    stage.log.hit("people.signed_up");
    stage.facts().users.push(user);
    stage.ledger.sign_up(user);
    if chance.percent(20) {
        time::sleep(chance.millis(0, 2_000)).await;
        stage.log.hit("people.signed_up_twice");
        stage.ledger.sign_up(user);
    }
    if chance.percent(25) {
        for _ in 0..chance.between(1, 9) {
            stage.log.hit("people.asked_through_the_front_end");
            let _ = stage.ledger.start(&[stage.ledger.request_of(user)]).await;
            time::sleep(chance.millis(0, 300)).await;
        }
    }
}

/// Something that an operator may do to one of the runs.
pub async fn revive_one(stage: &Arc<Stage>, chance: &Chance) {
    let Some((run, _)) = pick(stage, chance, RunState::Dead) else { return };
    if stage.ledger.revive(run, &by("operator")).await.is_ok_and(|changed| changed == Changed::Yes) {
        stage.log.note(|| format!("{run} is revived"));
        stage.log.hit("people.revived");
    }
}

pub async fn cancel_one(stage: &Arc<Stage>, chance: &Chance) {
    let Some((run, _)) = pick(stage, chance, RunState::Active) else { return };
    if let Ok(Changed::Yes | Changed::AtSettle) = stage.ledger.cancel(run, &by("operator")).await {
        stage.log.note(|| format!("{run} is cancelled"));
        stage.log.hit("people.cancelled");
    }
}

/// The guide's statements for stuck and failed rows.
pub fn ask_again(stage: &Arc<Stage>, chance: &Chance) {
    let users = stage.facts().users.clone();
    let Some(user) = chance.pick(&users) else { return };
    stage.log.note(|| format!("the row of {user} is set to pending"));
    if chance.percent(50) {
        stage.log.hit("people.asked_again");
        stage.ledger.ask_again(user);
    } else {
        stage.log.hit("people.asked_with_a_fresh_budget");
        stage.ledger.ask_again_with_a_fresh_budget(user);
    }
}

/// A step is paused for a while.
pub async fn pause(stage: &Arc<Stage>, chance: &Chance) {
    let Some(step) = chance.pick(&stage.registry.queues()) else { return };
    stage.log.hit("people.paused");
    stage.log.note(|| format!("{step} is paused"));
    let _ = stage.ledger.pause(Scope::Step, step.as_str(), &by("operator")).await;
    *stage.facts().paused.entry(step.clone()).or_default() += 1;
    time::sleep(chance.millis(500, 15_000)).await;
    if stage.facts().resumes(&step) {
        let _ = stage.ledger.resume(Scope::Step, step.as_str(), &by("operator")).await;
        stage.log.note(|| format!("{step} is resumed"));
    }
}

/// The host is held, or limited, for a while.
pub async fn limit(stage: &Arc<Stage>, chance: &Chance) {
    stage.log.hit("people.limited");
    let host = crate::stage::HOST;
    let by = by("operator");
    let _ = stage.ledger.hold(Scope::Host, host, chance.millis(100, 10_000)).await;
    let _ = stage.ledger.set_rate(Scope::Host, host, Some(chance.between(1, 20) as f64 / 4.0), &by).await;
    let _ = stage.ledger.set_concurrency(Scope::Host, host, Some(chance.between(1, 4) as u32), &by).await;
    time::sleep(chance.millis(500, 20_000)).await;
    let _ = stage.ledger.set_rate(Scope::Host, host, None, &by).await;
    let _ = stage.ledger.set_concurrency(Scope::Host, host, None, &by).await;
}

/// After the bad times most dead letters are seen to.
pub async fn tidy_up(stage: &Arc<Stage>) {
    let chance = stage.chance("operator who tidies up");
    for (run, row) in stage.ledger.tables().runs {
        if row.state == RunState::Dead && chance.percent(70) {
            stage.log.hit("people.revived");
            let _ = stage.ledger.revive(run, &by("operator")).await;
        }
    }
    time::sleep(Duration::from_millis(1)).await;
}

fn pick(stage: &Stage, chance: &Chance, state: RunState) -> Option<(RunId, UserId)> {
    let runs: Vec<_> = stage
        .ledger
        .tables()
        .runs
        .into_values()
        .filter(|run| run.state == state)
        .filter_map(|run| Some((run.id, UserId::of(&run.subject)?)))
        .collect();
    chance.pick(&runs)
}

fn by(actor: &str) -> By {
    By { actor: actor.to_owned(), note: Some("in the simulation".to_owned()) }
}
