//! Due steps into Redis: the ledger's token first, then the push. A push that fails puts the steps back.

use anyhow::Context;
use tracing::Span;
use workflows::ids::{StepName, Token};

use super::{Next, Settings};
use crate::{
    ledger::{Dispatched, Draw, Key, Ledger},
    queue::{Hint, Inlet},
    telemetry::{spans, trace},
};

/// Dispatches every queue that has due steps, up to the high-water mark of each. At once again where a full batch was
/// taken: there may be more behind it. `draw` draws tokens, each of them new.
pub async fn dispatch_once<L: Ledger, Q: Inlet>(
    settings: &Settings,
    ledger: &L,
    queue: &Q,
    draw: &Draw<Token>,
) -> anyhow::Result<Next> {
    let mut next = Next::AtTick;
    for step in ledger.due().await.context("look for due steps")? {
        if dispatch_queue(settings, ledger, queue, draw, &step).await? == Next::AtOnce {
            next = Next::AtOnce;
        }
    }
    Ok(next)
}

async fn dispatch_queue<L: Ledger, Q: Inlet>(
    settings: &Settings,
    ledger: &L,
    queue: &Q,
    draw: &Draw<Token>,
    step: &StepName,
) -> anyhow::Result<Next> {
    // Redis' own count, so that any number of relays share the mark. With Redis away nothing is dispatched.
    let depth = queue.depth(step).await?;
    let room = usize::try_from(settings.high_water.saturating_sub(depth)).unwrap_or(usize::MAX).min(settings.batch);
    if room == 0 {
        return Ok(Next::AtTick);
    }
    let tokens: Vec<Token> = (0..room).map(|_| draw()).collect();
    let dispatched = ledger.dispatch(step, settings.host.as_deref(), &tokens).await.context("dispatch steps")?;
    if dispatched.is_empty() {
        return Ok(Next::AtTick);
    }
    tracing::debug!(%step, count = dispatched.len(), "dispatched");
    push(ledger, queue, step, &dispatched).await?;
    Ok(if dispatched.len() == settings.batch { Next::AtOnce } else { Next::AtTick })
}

async fn push<L: Ledger, Q: Inlet>(
    ledger: &L,
    queue: &Q,
    step: &StepName,
    dispatched: &[Dispatched],
) -> anyhow::Result<()> {
    let parents = parents(ledger, dispatched).await;
    let (hints, spans): (Vec<Hint>, Vec<Span>) =
        dispatched.iter().zip(parents).map(|(dispatched, parent)| hint(step, dispatched.key, parent)).unzip();
    if let Err(error) = queue.push(step, &hints).await {
        let keys: Vec<Key> = dispatched.iter().map(|dispatched| dispatched.key).collect();
        let count = ledger.put_back(&keys).await.context("put steps back after a push that failed")?;
        spans.iter().for_each(spans::failed);
        tracing::warn!(%step, count, "Redis did not take the steps: put back");
        return Err(error.into());
    }
    Ok(())
}

/// A hint, and the span that is open until Redis has it. What the hint brings about is below that span.
fn hint(step: &StepName, Key { run, position, token }: Key, parent: Option<String>) -> (Hint, Span) {
    let mut hint = Hint { run, position, token, trace: parent };
    let span = spans::send(step, &hint);
    hint.trace = trace::traceparent(&span);
    (hint, span)
}

/// The context of each step's run. Where somebody traces, a run without one begins a trace; where its context cannot be
/// stored, the step goes out in a trace of its own.
async fn parents<L: Ledger>(ledger: &L, dispatched: &[Dispatched]) -> Vec<Option<String>> {
    let mut parents: Vec<_> = dispatched.iter().map(|dispatched| dispatched.traceparent.clone()).collect();
    let mut begun = Vec::new();
    for (at, Dispatched { key, workflow, linked, .. }) in dispatched.iter().enumerate() {
        if parents[at].is_none() {
            let span = spans::begin(workflow, key.run, linked.as_deref());
            begun.extend(trace::traceparent(&span).map(|context| (at, span, (key.run, context))));
        }
    }
    if begun.is_empty() {
        return parents;
    }
    let contexts: Vec<_> = begun.iter().map(|(.., context)| context.clone()).collect();
    let stored = ledger.begin_traces(&contexts).await.unwrap_or_default();
    for ((at, span, (_, context)), stored) in begun.into_iter().zip(stored) {
        if stored {
            trace::keep(&span);
            parents[at] = Some(context);
        }
    }
    parents
}
