//! What people ask of the ledger: lists, one run, dead letters, queues, and a run as a scenario; and the gauges of relays. One
//! function a statement; each only reads (the gauges keep a copy), gives up after two seconds and returns no more than its
//! limit.
//!
//! No instance token, QR code, input or output leaves this module, and texts that came from outside are cut once more. States
//! and classes are the ledger's own labels, so that one which a newer program wrote is shown and not refused.

mod export;
mod gauges;
mod letters;
mod queues;
mod run;
mod runs;

use sqlx::FromRow;
use workflows::{evolution::redact::Redaction, secret::Secret};

pub use self::{
    export::export,
    gauges::{COUNTED, GateGauges, Gauges, LetterGauges, StepGauges, TAKE as TAKE_GAUGES, gauges},
    letters::{Letter, LetterFilter, LetterId, Which, letters, letters_by_id},
    queues::{Gate, OpenLetters, Pending, Steps, gates, open_letters, pending_projections, steps},
    run::{Attempt, Event, RunDetail, Step, run},
    runs::{Run, RunFilter, runs, user_by_email},
};
use super::{Postgres, Result, Tx, limit, seconds};

/// The most rows that any read returns.
pub const MOST: usize = 10_000;

/// A transaction that changes nothing, sees one moment, and neither waits nor works for long.
async fn begin(ledger: &Postgres) -> Result<Tx> {
    let begin = "begin isolation level repeatable read read only; \
        set local lock_timeout = '1s'; \
        set local statement_timeout = '2s'; \
        set local idle_in_transaction_session_timeout = '10s'";
    let inner = ledger.pool.begin_with(begin).await?;
    Ok(Tx { inner, pooling: ledger.pooling, guards: ledger.guards.clone() })
}

/// What must not be seen in a text about an instance.
#[derive(Debug, FromRow)]
struct Secrets {
    secret_token: Option<String>,
    secret_url: Option<String>,
}

impl Secrets {
    /// The text without them. They were cut before it was written; this is for texts that another program wrote.
    fn cut(&self, resource: &str, text: &mut Option<String>) {
        let Some(given) = text else { return };
        let name = resource.parse().ok();
        let secrets: Vec<Secret> =
            [&self.secret_token, &self.secret_url].into_iter().flatten().map(Secret::new).collect();
        *given = Redaction::new(name.as_ref(), &secrets).readable(given);
    }
}

/// At most `MOST`.
fn capped(most: usize) -> i64 {
    limit(most.min(MOST))
}
