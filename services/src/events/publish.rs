//! One round: claim events, send them, and write down which of them the broker has confirmed.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::Span;
use uuid::Uuid;

use super::Message;
use crate::{
    ledger::{self, EventLedger},
    telemetry::{spans, trace},
};

/// How long events are one publisher's own. Longer than a broker is waited for, so that what is
/// confirmed late is still ours to write down.
pub const CLAIM: Duration = Duration::from_secs(30);
/// The pause before a publication that could not be written down is tried again.
const PAUSE: Duration = Duration::from_millis(250);

/// Where messages go: RabbitMQ, or the simulator's.
pub trait Broker: Sync {
    /// Sends all, then waits for the answer to each, no longer than the broker is given. One answer
    /// per message, in order.
    fn publish(&self, messages: &[Message]) -> impl Future<Output = Vec<Answer>> + Send;
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The broker has it, and will not lose it.
    Confirmed,
    /// The broker has it, and no queue wants it.
    Unroutable,
    /// The broker refused it, or has not answered: nobody knows whether it has it.
    Unknown,
}

/// What a round came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Published {
    pub claimed: usize,
    pub routed: usize,
    pub unroutable: usize,
    /// They go out again, under the same ids.
    pub unconfirmed: usize,
}

/// Publishes up to `most` events. An error is the ledger's: what was confirmed meanwhile goes out
/// again once its claim has ended, under the same id.
pub async fn publish_once<L: EventLedger, B: Broker>(
    ledger: &L,
    broker: &B,
    publisher: &str,
    most: usize,
) -> ledger::Result<Published> {
    let began = Instant::now();
    let events = ledger.claim_events(publisher, CLAIM, most).await?;
    if events.is_empty() {
        return Ok(Published::default());
    }
    // Who stood still since may not be the only one who has them.
    let is_late = began.elapsed() > CLAIM / 2;
    let sent: Vec<(Span, Message)> = events
        .iter()
        .map(|event| {
            let span = spans::publish(event);
            let context = trace::traceparent(&span).or_else(|| event.traceparent.clone());
            (span, Message::of(event, context))
        })
        .collect();
    let (spans, messages): (Vec<_>, Vec<_>) = sent.into_iter().unzip();
    let answers = match is_late {
        true => Vec::new(),
        false => broker.publish(&messages).await,
    };

    let mut published = Published { claimed: events.len(), ..Published::default() };
    let (mut confirmed, mut unconfirmed) = (Vec::new(), Vec::new());
    for (number, (message, span)) in messages.iter().zip(spans).enumerate() {
        match answers.get(number).copied().unwrap_or(Answer::Unknown) {
            Answer::Confirmed => published.routed += 1,
            Answer::Unroutable => published.unroutable += 1,
            Answer::Unknown => {
                published.unconfirmed += 1;
                unconfirmed.push(message.id);
                continue;
            }
        }
        trace::keep(&span);
        confirmed.push(message.id);
    }
    write_down(ledger, publisher, &confirmed, &unconfirmed, began + CLAIM).await?;
    Ok(published)
}

/// Tries until the claim ends: then others publish them again anyway.
async fn write_down<L: EventLedger>(
    ledger: &L,
    publisher: &str,
    confirmed: &[Uuid],
    unconfirmed: &[Uuid],
    until: Instant,
) -> ledger::Result<()> {
    loop {
        match ledger.publish_events(publisher, confirmed, unconfirmed).await {
            Err(error) if Instant::now() + PAUSE < until => {
                tracing::debug!(%error, "cannot write down what was published; trying again");
                sleep(PAUSE).await;
            }
            written => return written,
        }
    }
}
