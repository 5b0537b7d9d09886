//! One port per process: `/livez` (its loops turn), `/readyz` (it can work), `/metrics`. It answers
//! from the first moment to the end of the drain, names what is wrong in a line each, and never
//! says anything secret.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{
        HeaderMap, StatusCode,
        header::{ACCEPT, CONTENT_TYPE},
    },
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::{
    net::TcpListener,
    time::{Instant, sleep},
};
use tokio_util::task::AbortOnDropHandle;

use super::{Refused, readiness::Readiness};
use crate::telemetry::{Vitals, metrics::Format};

type Served = (Vitals, Arc<Readiness>);

/// How long a port that is taken is tried for: the process before this one may be about to end.
const TAKEN: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_millis(200);

/// Begins to answer; the server ends when its handle is dropped. A port that cannot be had is a
/// reason not to start.
pub(super) async fn listen(
    address: SocketAddr,
    vitals: Vitals,
    readiness: Arc<Readiness>,
) -> anyhow::Result<AbortOnDropHandle<()>> {
    let refused = |error| {
        let mend = "choose another port, or stop the program that has it";
        Refused(vec![format!("HTTP_LISTEN={address} cannot be listened on ({error}): {mend}")])
    };
    let listener = bind(address).await.map_err(refused)?;
    let address = listener.local_addr().map_err(refused)?;
    let router = Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(show_metrics))
        .with_state((vitals, readiness));
    let serving = tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "health and metrics are no longer served");
        }
    });
    tracing::info!(%address, "health and metrics");
    Ok(AbortOnDropHandle::new(serving))
}

async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let deadline = Instant::now() + TAKEN;
    let mut is_said = false;
    loop {
        match TcpListener::bind(address).await {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                if !std::mem::replace(&mut is_said, true) {
                    tracing::warn!(%address, "the port of HTTP_LISTEN is taken; trying again for {TAKEN:?}");
                }
                sleep(AGAIN).await;
            }
            bound => return bound,
        }
    }
}

async fn livez(State((vitals, _)): State<Served>) -> Response {
    let hung = vitals.health.hung();
    let lines = hung.iter().map(|(name, since)| format!("{name} hangs since {} s", since.as_secs()));
    answer(lines.collect())
}

async fn readyz(State((_, readiness)): State<Served>) -> Response {
    let missing = readiness.missing().await;
    answer(missing.iter().map(|what| format!("not ready: {what}")).collect())
}

async fn show_metrics(State((vitals, _)): State<Served>, headers: HeaderMap) -> Response {
    let accepted = headers.get(ACCEPT).and_then(|accepted| accepted.to_str().ok());
    let format = Format::accepted(accepted.unwrap_or_default());
    ([(CONTENT_TYPE, format.content_type())], vitals.metrics.scrape(format).await).into_response()
}

/// `ok`, or what is wrong, a line each.
fn answer(wrong: Vec<String>) -> Response {
    match wrong.is_empty() {
        true => "ok\n".into_response(),
        false => (StatusCode::SERVICE_UNAVAILABLE, wrong.join("\n") + "\n").into_response(),
    }
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::telemetry::health::LIMIT;

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_hangs_is_named_with_503() {
        let vitals = Vitals::default();
        let pulse = vitals.health.pulse("relay: dispatch");
        let readiness = Arc::new(Readiness::new(CancellationToken::new()));
        let served = (vitals, readiness);

        let turning = livez(State(served.clone())).await.status();
        tokio::time::advance(LIMIT + Duration::from_secs(2)).await;
        let hung = livez(State(served.clone())).await;
        pulse.beat();
        let again = livez(State(served)).await.status();

        assert_eq!((turning, hung.status(), again), (StatusCode::OK, StatusCode::SERVICE_UNAVAILABLE, StatusCode::OK));
        let body = to_bytes(hung.into_body(), 1000).await.unwrap();
        assert_eq!(body, "relay: dispatch hangs since 32 s\n");
    }
}
