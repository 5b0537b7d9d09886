//! Our own transport: pushes, acknowledgements and sweeps as scripts, and an apalis backend
//! (`backend`) whose worker blocks in Redis, which hands it the next hint at once.
//!
//! The keys of a queue: `waiting` (list) has the hints that no worker has fetched, each its id, and
//! its traceparent after a space; `held` (sorted set) has the ids of those and of what is fetched
//! and not acknowledged, so that a hint is there once; `refill` says when a relay is to be woken,
//! because more is due than the queue had capacity for.
//!
//! A worker that dies leaves ids in `held` that wait no more. A sweep forgets them a second after
//! one has met them, and a relay's scan pushes their hints anew. So no worker is registered and
//! nothing is handed back, and nobody needs to notice that Redis was wiped, restored or replaced.

mod acknowledge;
mod backend;
mod push;

use std::{sync::LazyLock, time::Duration};

use redis::Script;
use workflows::ids::StepName;

pub(super) use self::{
    acknowledge::{Acknowledged, keep_acknowledging, tell},
    backend::work,
    push::{Pushers, push},
};
use super::{Error, Queue};

static SWEEP: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/sweep.lua")));

/// How long a hint that a sweep met as fetched stays held. Well above the time that a claim takes,
/// and so short that a relay's next scan pushes what died with its worker: all must go on within 3
/// s after everything was killed.
const HELD_FOR: Duration = Duration::from_millis(900);

pub(super) async fn depth(queue: &Queue, step: &StepName) -> Result<u64, Error> {
    let mut count = redis::cmd("ZCARD");
    count.arg(queue.keys(step).key("held"));
    queue.ask("read the depth", count.query_async(&mut queue.connection())).await
}

/// Forgets hints whose worker is dead.
async fn sweep(queue: &Queue, step: &StepName) -> Result<(), Error> {
    let keys = queue.keys(step);
    let mut call = SWEEP.key(keys.key("waiting"));
    call.key(keys.key("held")).arg(HELD_FOR.as_millis() as u64);
    queue.ask("sweep", call.invoke_async(&mut queue.connection())).await
}
