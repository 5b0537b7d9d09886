//! Attempts that ask the ledger at the same moment share one transaction: questions that come while
//! a batch is under way are in the next one. No timer is involved, so nobody waits for a batch to
//! fill.

use std::{future::Future, panic::AssertUnwindSafe, sync::Arc};

use futures::FutureExt;
use tokio::sync::{mpsc, oneshot};

use crate::ledger::{Error, Result};

/// The most that goes into one batch.
const MOST: usize = 64;

/// Asks for one, answers for one; batches in between.
pub struct Batch<Q, A> {
    questions: mpsc::Sender<(Q, oneshot::Sender<Result<A>>)>,
}

impl<Q: Send + 'static, A: Send + 'static> Batch<Q, A> {
    /// `ask` answers every question of a slice, in order.
    pub fn new<F, Fut>(ask: F) -> Self
    where
        F: Fn(Vec<Q>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Vec<A>>> + Send + 'static,
    {
        let (questions, mut received) = mpsc::channel::<(Q, oneshot::Sender<Result<A>>)>(MOST);
        tokio::spawn(async move {
            let mut batch = Vec::with_capacity(MOST);
            while received.recv_many(&mut batch, MOST).await > 0 {
                let (asked, waiting): (Vec<_>, Vec<_>) = batch.drain(..).unzip();
                // A panic ends its own batch only: without this task nothing of this process would
                // be claimed again.
                let asking = AssertUnwindSafe(async { ask(asked).await }).catch_unwind();
                answer(waiting, asking.await.unwrap_or_else(|_| Err(Error::Panicked)));
            }
        });
        Self { questions }
    }

    pub async fn ask(&self, question: Q) -> Result<A> {
        let (answer, answered) = oneshot::channel();
        let gone = || Error::Unreadable("the end of its own batch".to_owned());
        self.questions.send((question, answer)).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

/// Skips callers that have stopped waiting.
fn answer<A>(waiting: Vec<oneshot::Sender<Result<A>>>, answers: Result<Vec<A>>) {
    let mut answers = answers.map(Vec::into_iter).map_err(Arc::new);
    for waiting in waiting {
        let answer = answers.as_mut().map_err(|error| Error::Batch(error.clone())).map(Iterator::next);
        let Some(answer) = answer.transpose() else { return };
        let _ = waiting.send(answer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_ends_its_own_batch_and_no_other() {
        let batch = Batch::new(async |asked: Vec<u32>| {
            assert!(!asked.contains(&0), "a question that nobody expected");
            Ok(asked)
        });

        assert!(matches!(batch.ask(0).await, Err(Error::Batch(_))));
        assert_eq!(batch.ask(7).await.ok(), Some(7));
    }
}
