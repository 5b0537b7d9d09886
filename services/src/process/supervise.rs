//! Several roles in one process: they live and end together.

use futures::{StreamExt, future::LocalBoxFuture, stream::FuturesUnordered};
use tokio_util::sync::CancellationToken;

use crate::telemetry::chain;

/// A role by its name.
pub(super) type Named<'a> = (&'static str, LocalBoxFuture<'a, anyhow::Result<()>>);

/// Runs all until `shutdown`. When one ends before, the others are asked to stop in good order, and
/// its error (or that it ended at all) is the answer. A panic in any of them is a panic here.
pub(super) async fn supervise(roles: Vec<Named<'_>>, shutdown: CancellationToken) -> anyhow::Result<()> {
    let mut running: FuturesUnordered<_> =
        roles.into_iter().map(|(name, run)| async move { (name, run.await) }).collect();
    let mut outcome = Ok(());
    while let Some((name, ended)) = running.next().await {
        let ended = match ended {
            Ok(()) if !shutdown.is_cancelled() => Err(anyhow::anyhow!("ended without being asked to")),
            ended => ended,
        };
        if let Err(error) = ended {
            shutdown.cancel();
            // `Refused` stays what it is below the context.
            let error = error.context(format!("the role {name}"));
            match outcome {
                Ok(()) => outcome = Err(error),
                Err(_) => tracing::error!("{}", chain(error.as_ref())),
            }
        }
    }
    outcome
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn until_shutdown(shutdown: &CancellationToken) -> Named<'static> {
        let cancelled = shutdown.clone().cancelled_owned();
        ("patient", cancelled.map(Ok).boxed_local())
    }

    #[tokio::test]
    async fn a_role_that_ends_unasked_stops_the_others_and_is_the_answer() {
        let ends = [
            (Err(anyhow::anyhow!("no disk")), "the role ending: no disk"),
            (Ok(()), "the role ending: ended without being asked to"),
        ];

        for (end, answer) in ends {
            let shutdown = CancellationToken::new();
            let ending = ("ending", async { end }.boxed_local());

            let error = supervise(vec![ending, until_shutdown(&shutdown)], shutdown.clone()).await.unwrap_err();

            assert_eq!(format!("{error:#}"), answer);
            assert!(shutdown.is_cancelled(), "{answer}");
        }
    }

    #[tokio::test]
    async fn roles_that_were_asked_to_end_have_done_well() {
        let shutdown = CancellationToken::new();
        shutdown.cancel();

        let outcome = supervise(vec![until_shutdown(&shutdown), until_shutdown(&shutdown)], shutdown).await;

        assert!(outcome.is_ok());
    }
}
