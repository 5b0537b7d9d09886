//! Steps that are dispatched and that Redis knows nothing of: their relay died between commit and push, or the hint was
//! dropped. The ledger says which steps wait for a claim, Redis which of them it holds; the rest is due again.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Context;
use workflows::ids::StepName;

use crate::{
    ledger::{Key, Ledger},
    queue::{Hint, Inlet},
};

/// A push that is under way has ended by then, one way or the other: its timeout is shorter.
const PUSHED_WITHIN: Duration = Duration::from_secs(3);
/// The most that one round asks for. Those that wait longest come first, and a queue that long has other troubles.
const BATCH: usize = 500;

/// How many steps are due again. A step whose hint is only late is none of them, and a late hint of one that is finds its
/// token used up.
pub async fn recover_once<L: Ledger, Q: Inlet>(ledger: &L, queue: &Q) -> anyhow::Result<usize> {
    let mut waiting: BTreeMap<StepName, Vec<Hint>> = BTreeMap::new();
    for (step, Key { run, position, token }) in
        ledger.unclaimed(PUSHED_WITHIN, BATCH).await.context("look for unclaimed steps")?
    {
        waiting.entry(step).or_default().push(Hint { run, position, token, trace: None });
    }
    let mut recovered = 0;
    for (step, hints) in waiting {
        let stray: Vec<Key> = queue.missing(&step, &hints).await?.iter().map(Hint::key).collect();
        if stray.is_empty() {
            continue;
        }
        let count = ledger.put_back(&stray).await.context("put stray steps back")?;
        tracing::warn!(%step, count, "Redis holds no hint of these steps: due again");
        recovered += count;
    }
    Ok(recovered)
}
