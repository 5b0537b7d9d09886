//! One round of watching for a loss of Redis. Every relay runs one each half second; none is special.
//!
//! 1. Read the ledger's mark, then what Redis says; `judge`.
//! 2. Intact, and the beat is due: raise it in Redis (only if still as judged), then record it in the ledger.
//! 3. Lost: write a fresh random epoch to Redis (only if still as judged), then, in one transaction of the ledger that
//!    is guarded by the epoch as read, set the new epoch and make every dispatched step due.
//!
//! A relay that dies after Redis was stamped leaves two epochs that differ: the next round of anyone is a loss again.

use std::sync::LazyLock;

use redis::{RedisError, Script};

use super::{
    Error, Queue,
    check::field,
    keys,
    loss::{Epoch, Loss, Mark, Seen, judge},
};

static BEAT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/beat.lua")));
static STAMP: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/stamp.lua")));

/// The ledger's half of the watch.
pub trait Marks {
    type Error: From<Error>;

    /// What the ledger says of Redis now.
    fn read(&self) -> impl Future<Output = Result<Mark, Self::Error>> + Send;

    /// Records a beat that Redis already carries. Guarded: only where the epoch is this one and the recorded beat is
    /// lower. Takes the server where the ledger knows none.
    fn record_beat(
        &self,
        epoch: Epoch,
        beat: i64,
        server: Option<&str>,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Takes the epoch that Redis already carries. Guarded: only where the epoch is still `was`. In the same
    /// transaction every dispatched step is put back to due. False where another relay was faster.
    fn take_epoch(
        &self,
        was: Option<Epoch>,
        now: Epoch,
        server: Option<&str>,
    ) -> impl Future<Output = Result<bool, Self::Error>> + Send;
}

/// The queue's half of the watch: Redis, or the simulator's queue.
pub trait Stamps: Sync {
    /// What the queue says of itself.
    fn seen(&self) -> impl Future<Output = Result<Seen, Error>> + Send;

    /// Raises the beat, only where the queue is still as `seen`. False where it is not.
    fn raise_beat(&self, seen: &Seen, beat: i64) -> impl Future<Output = Result<bool, Error>> + Send;

    /// Writes a fresh epoch, only where the queue still has the epoch of `seen`. False where it has not.
    fn stamp(&self, seen: &Seen, fresh: Epoch) -> impl Future<Output = Result<bool, Error>> + Send;
}

/// What one round did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Round {
    /// Nothing is lost.
    Intact,
    /// A loss was noticed and handled: every dispatched step is due.
    Handled(Loss),
    /// A loss was noticed, and another relay was faster to handle it; the next round sees how.
    Overtaken(Loss),
}

/// One round. `fresh` is random and used once. While it fails (Redis or Postgres away) nothing is known and nothing
/// changed that the next round would not see.
pub async fn watch_once<Q: Stamps, M: Marks>(queue: &Q, marks: &M, fresh: Epoch) -> Result<Round, M::Error> {
    let mark = marks.read().await?;
    let seen = queue.seen().await?;
    let Some(loss) = judge(&mark, &seen) else {
        beat(queue, marks, &mark, &seen).await?;
        return Ok(Round::Intact);
    };
    if !queue.stamp(&seen, fresh).await? {
        return Ok(Round::Overtaken(loss));
    }
    let handled = marks.take_epoch(mark.epoch, fresh, seen.server.as_deref()).await?;
    Ok(if handled { Round::Handled(loss) } else { Round::Overtaken(loss) })
}

async fn beat<Q: Stamps, M: Marks>(queue: &Q, marks: &M, mark: &Mark, seen: &Seen) -> Result<(), M::Error> {
    let Some(epoch) = mark.epoch else { return Ok(()) };
    if !mark.beat_is_due {
        return Ok(());
    }
    let beat = seen.beat + 1;
    if queue.raise_beat(seen, beat).await? {
        marks.record_beat(epoch, beat, seen.server.as_deref()).await?;
    }
    Ok(())
}

impl Stamps for Queue {
    async fn seen(&self) -> Result<Seen, Error> {
        self.ask("read the epoch", async {
            let mut manager = self.manager();
            let server = server(&mut manager).await?;
            let mut get = redis::cmd("HMGET");
            let get = get.arg(keys::epoch(&self.shared.config.prefix)).arg("epoch").arg("beat");
            let (epoch, beat): (Option<i64>, Option<i64>) = get.query_async(&mut manager).await?;
            Ok(Seen { epoch: epoch.map(Epoch::new), beat: beat.unwrap_or(0), server })
        })
        .await
    }

    async fn raise_beat(&self, seen: &Seen, beat: i64) -> Result<bool, Error> {
        let Some(epoch) = seen.epoch else { return Ok(false) };
        let mut call = BEAT.key(keys::epoch(&self.shared.config.prefix));
        call.arg(epoch.bits()).arg(seen.beat).arg(beat);
        self.ask("raise the beat", call.invoke_async(&mut self.manager())).await
    }

    async fn stamp(&self, seen: &Seen, fresh: Epoch) -> Result<bool, Error> {
        let was = seen.epoch.map(|epoch| epoch.bits().to_string()).unwrap_or_default();
        let mut call = STAMP.key(keys::epoch(&self.shared.config.prefix));
        call.arg(was).arg(fresh.bits());
        self.ask("stamp the epoch", call.invoke_async(&mut self.manager())).await
    }
}

/// Run id and replication id: the first changes with the process, the second with a resynchronisation. None where
/// INFO is forbidden.
async fn server(manager: &mut redis::aio::ConnectionManager) -> Result<Option<String>, RedisError> {
    let mut parts = Vec::new();
    for (section, name) in [("server", "run_id"), ("replication", "master_replid")] {
        match redis::cmd("INFO").arg(section).query_async::<String>(manager).await {
            Ok(info) => parts.extend(field(&info, name)),
            Err(error) if error.is_io_error() => return Err(error),
            Err(_) => {}
        }
    }
    Ok((!parts.is_empty()).then(|| parts.join("/")))
}
