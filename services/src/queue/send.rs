//! What became due, to the queues, in one span for each hint that a queue did not hold yet.

use tracing::Span;
use workflows::ids::StepName;

use super::{Error, Hint, HintSink, PushReport, Pushed};
use crate::{
    ledger::Due,
    telemetry::{spans, trace},
};

/// Pushes what is due, in its order, each to its step's queue. `most` is how many hints of each
/// step may be outstanding.
pub async fn send<S: HintSink>(sink: &S, due: &[Due], most: Option<usize>) -> Result<PushReport, Error> {
    let mut all = Vec::with_capacity(due.len());
    for (step, due) in by_step(due) {
        let (hints, spans): (Vec<Hint>, Vec<Span>) = due.into_iter().map(|due| hint(step, due)).unzip();
        match sink.push(step, &hints, most).await {
            Ok(outcomes) => {
                let new = spans.iter().zip(&outcomes).filter(|(_, outcome)| **outcome == Pushed::New);
                new.for_each(|(span, _)| trace::keep(span));
                all.extend(outcomes);
            }
            Err(error) => {
                for span in &spans {
                    spans::failed(span);
                    trace::keep(span);
                }
                return Err(error);
            }
        }
    }
    Ok(PushReport::of(&all))
}

fn by_step(due: &[Due]) -> Vec<(&StepName, Vec<&Due>)> {
    let mut steps: Vec<(&StepName, Vec<&Due>)> = Vec::new();
    for due in due {
        match steps.iter_mut().find(|(step, _)| *step == &due.step) {
            Some((_, of_step)) => of_step.push(due),
            None => steps.push((&due.step, vec![due])),
        }
    }
    steps
}

/// A hint, and the span that is open until the queue has it. What the hint brings about is below
/// that span.
fn hint(step: &StepName, due: &Due) -> (Hint, Span) {
    let span = spans::send(step, due.key, due.traceparent.as_deref());
    (Hint { key: due.key, trace: trace::traceparent(&span) }, span)
}
