//! One round: claim events, send them, and write down which of them the broker has confirmed.

use std::{iter, time::Duration};

use tokio::time::{Instant, sleep};
use tracing::Span;
use uuid::Uuid;

use super::Message;
use crate::{
    ledger::{EventLedger, Result},
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
    /// The broker refused it, or has not answered in time. It goes out again once its claim has
    /// ended, so that it does not stand in the way of others.
    Unconfirmed,
    /// The link broke: nobody knows whether the broker has it. It goes out again at once.
    Lost,
}

/// What a round came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Round {
    pub claimed: usize,
    pub routed: usize,
    pub unroutable: usize,
    /// Sent, and not confirmed: they go out again, under the same ids.
    pub unconfirmed: usize,
}

/// Publishes up to `most` events. An error is the ledger's: what was confirmed meanwhile goes out
/// again once its claim has ended, under the same id.
pub async fn publish_once(
    ledger: &impl EventLedger,
    broker: &impl Broker,
    publisher: &str,
    most: usize,
) -> Result<Round> {
    let began = Instant::now();
    let events = ledger.claim_events(publisher, CLAIM, most).await?;
    if events.is_empty() {
        return Ok(Round::default());
    }
    let mut round = Round { claimed: events.len(), ..Round::default() };
    // Who stood still since may not be the only one who has them.
    if began.elapsed() > CLAIM / 2 {
        let all: Vec<Uuid> = events.iter().map(|event| event.id).collect();
        write_down(ledger, publisher, &[], &all, began + CLAIM).await?;
        return Ok(round);
    }
    let sent = events.iter().map(|event| {
        let span = spans::publish(event);
        let context = trace::traceparent(&span).or_else(|| event.traceparent.clone());
        (span, Message::of(event, context))
    });
    let (spans, messages): (Vec<Span>, Vec<Message>) = sent.unzip();
    let answers = broker.publish(&messages).await.into_iter().chain(iter::repeat(Answer::Lost));

    let (mut confirmed, mut lost) = (Vec::new(), Vec::new());
    for ((message, span), answer) in messages.iter().zip(spans).zip(answers) {
        match answer {
            Answer::Confirmed => round.routed += 1,
            Answer::Unroutable => round.unroutable += 1,
            Answer::Unconfirmed => {}
            Answer::Lost => lost.push(message.id),
        }
        if matches!(answer, Answer::Confirmed | Answer::Unroutable) {
            trace::keep(&span);
            confirmed.push(message.id);
        }
    }
    round.unconfirmed = round.claimed - confirmed.len();
    write_down(ledger, publisher, &confirmed, &lost, began + CLAIM).await?;
    Ok(round)
}

/// Tries until the claim ends: then others publish them again anyway.
async fn write_down(
    ledger: &impl EventLedger,
    publisher: &str,
    confirmed: &[Uuid],
    given_back: &[Uuid],
    until: Instant,
) -> Result<()> {
    loop {
        match ledger.publish_events(publisher, confirmed, given_back).await {
            Err(error) if Instant::now() + PAUSE < until => {
                tracing::debug!(%error, "cannot write down what was published; trying again");
                sleep(PAUSE).await;
            }
            written => return written,
        }
    }
}
