//! What people ask of the ledger: lists, one run, dead letters, queues, and a run as a scenario;
//! and the gauges of relays. One function a statement; each only reads (the gauges keep a copy),
//! gives up after two seconds and returns no more than its limit.
//!
//! No secret, memory, input or output leaves this module, and texts that came from outside are cut
//! once more. States and classes are the ledger's own labels, so that one which a newer program
//! wrote is shown and not refused.

mod events;
mod export;
mod gauges;
mod letters;
mod queues;
mod run;
mod runs;
mod secrets;
mod waits;

pub(super) use self::secrets::Held;
pub use self::{
    events::{EventFilter, ListedEvent, events},
    export::export,
    gauges::{Gauges, Taken, gauges, standing},
    letters::{Letter, LetterFilter, LetterId, letters, letters_by_id},
    queues::{COUNTED, Gate, OpenLetters, Pending, ReadOnly, STEPS, Steps, Unfinished, known, read_only},
    run::{Attempt, Event, RunDetail, Step, run},
    runs::{Run, RunFilter, runs},
    waits::Wait,
};
use super::{Postgres, Result, seconds};
use crate::database::Tx;

/// The most rows that any read returns.
pub const MOST: usize = 10_000;

/// A transaction that changes nothing, sees one moment, and neither waits nor works for long.
/// Compiling these statements takes Postgres seconds, running them milliseconds.
async fn begin(ledger: &Postgres) -> Result<Tx> {
    let begin = "begin isolation level repeatable read read only; \
        set local lock_timeout = '1s'; \
        set local statement_timeout = '2s'; \
        set local idle_in_transaction_session_timeout = '10s'; \
        set local jit = off";
    Ok(ledger.database.begin_with(begin).await?)
}

/// At most `MOST`.
fn capped(most: usize) -> i64 {
    i64::try_from(most.min(MOST)).unwrap_or(i64::MAX)
}
