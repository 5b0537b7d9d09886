//! Pushing. One hint alone, which is what a settle pushes, goes without a script: that is half the
//! work for Redis.

use std::{
    collections::BTreeMap,
    sync::LazyLock,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use redis::Script;
use workflows::ids::StepName;

use super::sweep;
use crate::queue::{Error, Hint, Queue};

static PUSH: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/push.lua")));

/// How often a process that pushes sweeps, and for how long it takes a full queue for full.
const EVERY: Duration = Duration::from_millis(900);

/// What this process knows of the queues that it pushes to.
#[derive(Default)]
pub(in crate::queue) struct Pushers(Mutex<BTreeMap<StepName, Pusher>>);

#[derive(Default)]
struct Pusher {
    swept: Option<Instant>,
    full: Option<Instant>,
}

impl Pushers {
    /// Whether it is time to sweep (then it is not for a while), and whether the queue is full.
    fn look(&self, step: &StepName) -> (bool, bool) {
        let mut pushers = self.0.lock();
        let pusher = pushers.entry(step.clone()).or_default();
        let sweeps = !is_recent(pusher.swept);
        if sweeps {
            pusher.swept = Some(Instant::now());
        }
        (sweeps, is_recent(pusher.full))
    }

    fn found_full(&self, step: &StepName) {
        self.0.lock().entry(step.clone()).or_default().full = Some(Instant::now());
    }
}

fn is_recent(moment: Option<Instant>) -> bool {
    moment.is_some_and(|moment| moment.elapsed() < EVERY)
}

/// A letter for each hint, up to the first one that there was no capacity for.
pub(in crate::queue) async fn push(
    queue: &Queue,
    step: &StepName,
    hints: &[Hint],
    most: Option<usize>,
) -> Result<String, Error> {
    let (sweeps, full) = queue.shared.pushers.look(step);
    if sweeps {
        sweep(queue, step).await?;
    }
    match hints {
        [hint] if most.is_none() && !full => push_one(queue, step, hint).await,
        _ => push_many(queue, step, hints, most).await,
    }
}

async fn push_many(queue: &Queue, step: &StepName, hints: &[Hint], most: Option<usize>) -> Result<String, Error> {
    let keys = queue.keys(step);
    let (capacity, high_water) = (queue.capacity(most), queue.shared.config.high_water);
    // What a smaller limit keeps out is not let in because workers fetch.
    let refill_at = if capacity == high_water { high_water / 2 } else { 0 };
    let mut call = PUSH.key(keys.key("waiting"));
    call.key(keys.key("held")).key(keys.key("refill")).arg(capacity).arg(refill_at);
    for hint in hints {
        call.arg(hint.id()).arg(hint.trace.as_deref().unwrap_or(""));
    }
    let answers: String = queue.ask("push hints", call.invoke_async(&mut queue.connection())).await?;
    if answers.len() < hints.len() && capacity == high_water {
        queue.shared.pushers.found_full(step);
    }
    Ok(answers)
}

/// As `push_many`, which looks before it adds; this looks afterwards. Hardly ever is a hint held
/// that became due just now: then its second copy is taken out again; if a worker was faster, one
/// of the two claims finds nothing to do. A queue that is full takes one hint more from each who
/// did not know it.
async fn push_one(queue: &Queue, step: &StepName, hint: &Hint) -> Result<String, Error> {
    let keys = queue.keys(step);
    let (waiting, held, id) = (keys.key("waiting"), keys.key("held"), hint.id());
    let element = match &hint.trace {
        Some(trace) => format!("{id} {trace}"),
        None => id.clone(),
    };
    let mut call = redis::pipe();
    call.cmd("ZADD").arg(&held).arg("NX").arg(0).arg(&id);
    call.cmd("RPUSH").arg(&waiting).arg(&element).ignore();
    call.cmd("ZCARD").arg(&held);
    let (added, outstanding): (u64, u64) = queue.ask("push a hint", call.query_async(&mut queue.connection())).await?;
    if outstanding >= queue.shared.config.high_water {
        queue.shared.pushers.found_full(step);
    }
    if added == 1 {
        return Ok("n".to_owned());
    }
    let mut remove = redis::cmd("LREM");
    remove.arg(&waiting).arg(-1).arg(&element);
    let removed: u64 = queue.ask("take a second copy out", remove.query_async(&mut queue.connection())).await?;
    // Where a worker has it, what it brings about is below this push.
    Ok(if removed == 0 { "n" } else { "k" }.to_owned())
}
