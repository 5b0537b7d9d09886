//! Our own transport: one script each for pushing, fetching and counting, and an apalis backend (`backend`).
//!
//! The keys of a queue: `waiting` (sorted set, in the order of the push) holds the ids that no worker has fetched; `fetched`
//! (sorted set, by Redis' clock) those that a worker has fetched and not acknowledged; `traces` (hash) the traceparents of
//! those that wait; `refill` says when a relay is to be woken, because more is due than the queue had capacity for.
//!
//! A mark in `fetched` counts for 5 s. Then its worker is taken for dead, and the hint is new to whoever pushes it. So no
//! worker is registered and nothing is handed back, and nobody needs to notice that Redis was wiped, restored or replaced.

mod acknowledge;
mod backend;

use std::{sync::LazyLock, time::Duration};

use redis::Script;
use workflows::ids::StepName;

pub(super) use self::{
    acknowledge::{Acknowledged, keep_acknowledging, tell},
    backend::work,
};
use super::{Error, Hint, Queue, keys};

static PUSH: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/push.lua")));
static FETCH: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/fetch.lua")));
static DEPTH: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/depth.lua")));

/// How long a fetched hint is held. Well above the time from a fetch to the answer of its claim.
const HELD_FOR: Duration = Duration::from_secs(5);

/// A letter for each hint, up to the first one that there was no capacity for.
pub(super) async fn push(queue: &Queue, step: &StepName, hints: &[Hint], most: Option<usize>) -> Result<String, Error> {
    let keys = queue.keys(step);
    let (capacity, high_water) = (queue.capacity(most), queue.shared.config.high_water);
    // What a smaller limit keeps out is not let in by a worker that fetches.
    let refill_at = if capacity == high_water { high_water / 2 } else { 0 };
    let mut call = PUSH.key(keys.key("waiting"));
    call.key(keys.key("fetched")).key(keys.key("traces")).key(keys.key("refill"));
    call.arg(HELD_FOR.as_millis() as u64).arg(capacity).arg(refill_at).arg(keys.wake());
    for hint in hints {
        call.arg(hint.id()).arg(hint.trace.as_deref().unwrap_or(""));
    }
    queue.ask("push hints", call.invoke_async(&mut queue.connection())).await
}

pub(super) async fn depth(queue: &Queue, step: &StepName) -> Result<u64, Error> {
    let keys = queue.keys(step);
    let mut call = DEPTH.key(keys.key("waiting"));
    call.key(keys.key("fetched")).arg(HELD_FOR.as_millis() as u64);
    queue.ask("read the depth", call.invoke_async(&mut queue.connection())).await
}

/// Acknowledges hints, and fetches up to `most` others: each its id, and its traceparent after a space.
async fn fetch(queue: &Queue, step: &StepName, most: usize, acknowledged: &[String]) -> Result<Vec<String>, Error> {
    let keys = queue.keys(step);
    let mut call = FETCH.key(keys.key("waiting"));
    call.key(keys.key("fetched")).key(keys.key("traces")).key(keys.key("refill"));
    call.arg(HELD_FOR.as_millis() as u64)
        .arg(most)
        .arg(keys::wake_relay(&queue.shared.config.prefix))
        .arg(acknowledged);
    queue.ask("fetch hints", call.invoke_async(&mut queue.connection())).await
}
