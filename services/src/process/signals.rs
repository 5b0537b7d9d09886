//! SIGTERM and SIGINT: the first asks for a shutdown, the second ends the process at once.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Must be called within a runtime; from then on signals no longer end the process by themselves.
pub(super) fn listen(shutdown: CancellationToken) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        let (name, _) = next(&mut terminate, &mut interrupt).await;
        tracing::info!("{name}: stopping in good order; a second signal stops at once");
        shutdown.cancel();
        let (name, number) = next(&mut terminate, &mut interrupt).await;
        tracing::warn!("{name} again: stopping at once; leases will run out, and nothing is lost");
        std::process::exit(128 + number);
    });
    Ok(())
}

async fn next(terminate: &mut Signal, interrupt: &mut Signal) -> (&'static str, i32) {
    tokio::select! {
        _ = terminate.recv() => ("SIGTERM", SignalKind::terminate().as_raw_value()),
        _ = interrupt.recv() => ("SIGINT", SignalKind::interrupt().as_raw_value()),
    }
}
