//! The invariants as the simulator holds them: while it runs, after a loss of the queue, and at the
//! end.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use serde_json::Value;
use sluice::ledger::{Due, RelayLedger};
use tests::{
    evolution::{Destroyer, Instance},
    ledger::{Attempt, QueueStatus, Resource, Run, Tables},
};
use tokio::time;
use workflows::{
    state::{DeathReason, RunState},
    whatsapp::names::{InstanceName, UserId},
};

use crate::stage::{KEY, Stage, webhook_url};

/// How soon the queue holds again what it lost.
const PUSHED_WITHIN: Duration = Duration::from_secs(2);
/// How long ledger, queue and a relay must have been well for that: also before the loss, since a
/// relay that failed pauses.
const CALM: Duration = Duration::from_millis(4_500);

/// What the rows alone can show, every few seconds.
pub async fn watch(stage: Arc<Stage>) {
    loop {
        time::sleep(Duration::from_secs(7)).await;
        rows(&stage);
    }
}

fn rows(stage: &Stage) {
    for broken in stage.ledger.check_invariants() {
        stage.log.broken(broken);
    }
}

/// The queue lost what it held just now: where nothing else goes wrong, what is due is soon there
/// again, or asked for.
pub async fn what_is_due_is_pushed_again(stage: &Arc<Stage>) {
    let mut lost = pushable(stage).await;
    let began = stage.log.now();
    let mut since = began;
    while !lost.is_empty() {
        time::sleep(Duration::from_millis(100)).await;
        let due = pushable(stage).await;
        lost.retain(|lost| due.contains(lost) && !stage.redis.holds(&lost.key) && !was_asked_for(stage, lost, began));
        if calm_for(stage) < CALM {
            since = stage.log.now();
        } else if stage.log.now() - since > PUSHED_WITHIN {
            for Due { key, .. } in &lost {
                stage.log.broken(format!("{} at {} is due and not pushed again", key.run, key.position));
            }
            return;
        }
    }
    stage.log.hit("queue.pushed_again");
}

/// Whether a worker had a hint of it since then.
fn was_asked_for(stage: &Stage, due: &Due, since: Duration) -> bool {
    stage.facts().asked_at.get(&due.key).is_some_and(|at| *at > since)
}

/// What is due, with nothing before it and room for it in the queue: the first of each step.
async fn pushable(stage: &Arc<Stage>) -> Vec<Due> {
    let waiting = stage.ledger.waiting(stage.plan.batch).await.unwrap_or_default();
    let plain = waiting.into_iter().filter(|waiting| waiting.most.is_none());
    let due = plain.filter(|waiting| stage.redis.has_capacity(&waiting.queue, None));
    due.filter_map(|waiting| waiting.due.into_iter().next()).collect()
}

/// For how long a relay has been running undisturbed.
fn calm_for(stage: &Stage) -> Duration {
    let weather = stage.weather.calm_for(stage.log.now());
    let relay = stage.facts().relays.iter().map(|relay| relay.steady_for()).max().unwrap_or_default();
    weather.min(relay)
}

/// Whether every sign-up has come to its end.
pub fn all_ended(stage: &Stage) -> bool {
    let users = stage.facts().users.len();
    users == stage.plan.users.len() && stage.ledger.is_idle()
}

/// Whether every event is written down as published.
pub fn all_published(stage: &Stage) -> bool {
    stage.ledger.read(|tables| tables.events.iter().all(|event| event.is_published))
}

/// I7: each event arrived, under its own id, and those of a run in their order by their first
/// arrivals.
fn published(stage: &Stage, tables: &Tables) {
    let (log, facts) = (&stage.log, stage.facts());
    let (mut seen, mut last) = (BTreeSet::new(), BTreeMap::new());
    for arrival in &facts.arrived {
        if !seen.insert(arrival.id.as_str()) {
            log.hit("event.arrived_again");
            continue;
        }
        let before = last.insert(arrival.run.as_str(), arrival.sequence).unwrap_or_default();
        if arrival.sequence != before + 1 {
            log.broken(format!("I7: event {} of {} arrived after event {before}", arrival.sequence, arrival.run));
        }
    }
    for event in &tables.events {
        if !event.is_published || !seen.remove(event.id().to_string().as_str()) {
            log.broken(format!("I7: {} of {} did not arrive", event.routing_key, event.run));
        }
    }
    if !seen.is_empty() {
        log.broken(format!("I7: {} messages arrived under ids that no event has", seen.len()));
    }
}

/// All that must hold when nothing moves any more.
pub fn end(stage: &Stage) {
    rows(stage);
    let tables = stage.ledger.tables();
    let users = stage.facts().users.clone();
    for user in users {
        sign_up(stage, &tables, user);
    }
    published(stage, &tables);
    for broken in secrets(&tables) {
        stage.log.broken(broken);
    }
    destroyed(stage);
}

/// I1: every sign-up is ready, dead with a dead letter, or cancelled.
fn sign_up(stage: &Stage, tables: &Tables, user: UserId) {
    let log = &stage.log;
    let Some(row) = tables.queue.get(&user) else {
        return log.broken(format!("I1: {user} has no queue row any more"));
    };
    let runs = || tables.runs.values().filter(|run| run.subject == user.subject());
    let Some(run) = runs().next_back() else {
        return log.broken(format!("I1: {user} signed up and has no run"));
    };
    match run.state {
        RunState::Active => {
            return log.broken(format!("I1: {} of {user} did not end: {}", run.id, standing(tables, run)));
        }
        RunState::Succeeded => ready(stage, tables, run, user),
        RunState::Dead => dead(stage, tables, run),
        RunState::Cancelled => log.hit("end.cancelled"),
    }
    // Nobody hears of an internal run, unless it needs a person.
    let shown = runs().rfind(|run| !run.internal || run.state == RunState::Dead);
    if shown.is_some_and(|run| row.status != status_of(run.state)) {
        log.broken(format!("I1: {} is {:?} and its queue row {:?}", run.id, run.state, row.status));
    }
}

fn status_of(state: RunState) -> QueueStatus {
    match state {
        RunState::Active => QueueStatus::Processing,
        RunState::Succeeded => QueueStatus::Completed,
        RunState::Dead | RunState::Cancelled => QueueStatus::Failed,
    }
}

fn standing(tables: &Tables, run: &Run) -> String {
    let steps = tables.steps.range((run.id, 0)..=(run.id, i16::MAX));
    let said: Vec<_> = steps.map(|(_, step)| format!("{} {:?} due {:?}", step.name, step.state, step.due_at)).collect();
    said.join(", ")
}

/// Dead only for a reason that there was.
fn dead(stage: &Stage, tables: &Tables, run: &Run) {
    let letters = tables.dead_letters.iter().rev();
    let Some(letter) = letters.clone().find(|letter| letter.run == run.id && letter.resolved.is_none()) else {
        return stage.log.broken(format!("I1: {} is dead without a dead letter", run.id));
    };
    stage.log.hit("end.dead");
    let count = |outcome| {
        let of_this = |attempt: &&Attempt| attempt.run == run.id && attempt.ended.outcome == outcome;
        tables.attempts.iter().filter(of_this).count()
    };
    let justified = match letter.reason {
        DeathReason::WorkerLost => count("crashed") >= 10,
        DeathReason::AttemptsExhausted => count("failed") >= 30 || count("sent_back") >= 4,
        DeathReason::PermanentError | DeathReason::DeadlineExceeded => false,
    };
    if !justified {
        stage.log.broken(format!("I1: {} died of {:?} ({:?}) without a reason", run.id, letter.reason, letter.error));
    }
}

/// Exactly one good instance, which the ledger knows.
fn ready(stage: &Stage, tables: &Tables, run: &Run, user: UserId) {
    let log = &stage.log;
    let name = &run.resource;
    log.hit("end.ready");
    let verified = tables.attempts.iter().rev().find(|attempt| attempt.run == run.id).map(|attempt| attempt.started_at);
    if stage.facts().removed_at.get(&InstanceName::from(name.clone())).copied() >= verified {
        return log.hit("end.removed_behind_our_back");
    }
    let Some(instance) = stage.api.world(|world, _| world.instance(name.as_str())) else {
        return log.broken(format!("I3: {} succeeded and {name} is not there", run.id));
    };
    let known = tables.resources.get(name).map(token_of);
    if known != Some(instance.token.reveal()) {
        log.broken(format!("I3: the ledger does not know the token of {name}"));
    }
    for fault in faults(&instance, user) {
        log.broken(format!("I3: {} succeeded and {name} {fault}", run.id));
    }
}

/// The instance's token: the API's own where that was adopted, else ours.
fn token_of(resource: &Resource) -> &str {
    resource.memory.get("token").and_then(Value::as_str).unwrap_or_else(|| resource.secret.expose())
}

fn faults(instance: &Instance, user: UserId) -> Vec<String> {
    let mut faults = Vec::new();
    if instance.state.is_none() {
        faults.push("is not loaded".to_owned());
    }
    if instance.leaving {
        faults.push("is being deleted".to_owned());
    }
    match &instance.webhook {
        None => faults.push("has no webhook".to_owned()),
        Some(webhook) => {
            if !webhook.enabled || webhook.url.as_str() != Some(&webhook_url(user)) {
                faults.push(format!("delivers to {}", webhook.url));
            }
        }
    }
    faults
}

/// I4: nothing of ours destroyed an instance for which somebody had a 201.
fn destroyed(stage: &Stage) {
    let users: Vec<_> = stage.facts().users.iter().map(|user| InstanceName::of_user(*user)).collect();
    let destroyed = stage.api.world(|world, _| world.journal().destroyed().cloned().collect::<Vec<_>>());
    for one in destroyed {
        let Some(name) = users.iter().find(|name| name.as_str() == one.name) else { continue };
        let ours = one.by != Destroyer::Test;
        let unprotected = stage.facts().unprotected.get(name).copied();
        if ours && one.answered_201 {
            match unprotected {
                Some(_) => stage.log.hit("overlap.destroyed_a_good_one"),
                None => stage.log.broken(format!("I4: {name} was destroyed by {:?} at {:?}", one.by, one.at)),
            }
        }
    }
}

/// I8: no secret stands where people read.
fn secrets(tables: &Tables) -> Vec<String> {
    let mut secrets: Vec<String> = tables.resources.values().map(|resource| token_of(resource).to_owned()).collect();
    secrets.extend(tables.resources.values().map(|resource| resource.secret.expose().to_owned()));
    secrets.push(KEY.to_owned());
    let attempts = tables.attempts.iter().flat_map(|attempt| [&attempt.ended.error, &attempt.ended.note]).flatten();
    let events = tables.events.iter().map(|event| event.payload.to_string());
    let letters = tables.dead_letters.iter().filter_map(|letter| letter.error.clone());
    let texts: Vec<String> = attempts.cloned().chain(events).chain(letters).collect();
    let shown = |text: &&String| secrets.iter().any(|secret| text.contains(secret.as_str()));
    texts.iter().filter(shown).map(|text| format!("I8: a secret stands in {text:?}")).collect()
}
