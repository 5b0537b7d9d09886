//! A process: what it does before a role starts, how it is told to stop, and what its exit code
//! says.
//!
//! `roles` builds what each role works with and runs it; `database` waits for Postgres and the
//! schema, `refusals` says why a pool gets no connection; `http` answers for its health, which
//! `readiness` asks after; `signals` turns SIGTERM and SIGINT into a shutdown. A role that fails
//! ends its process: whoever supervises it starts it again.

mod database;
mod http;
mod readiness;
mod refusals;
mod roles;
mod signals;
mod supervise;

use std::{process::ExitCode, sync::Arc};

use anyhow::Context;
use tokio_util::sync::CancellationToken;

use self::readiness::Readiness;
pub(crate) use self::{
    database::{open, open_session},
    roles::{all, events, follow, relay, worker},
};
use crate::{
    config::{Config, Fault, Faults},
    telemetry::{
        self, Vitals,
        export::{Exporters, Traces},
        log::{Format, Log},
    },
};

/// For `--help`: scripts and supervisors rely on these.
pub const EXIT_CODES: &str = "\
Exit codes:
  0        done, or stopped by a signal in good order
  1        failed: the last line of the log says why
  2        refused to start: settings, arguments, the database or Redis are not as they must be, and waiting mends none of it
  3        migrate --check: a migration is pending, or something that one made is missing
  4        adopt, dead-letters, runs, queue, events: nothing matched
  101      a panic, which is a bug
  130 143  stopped at once by a second SIGINT or SIGTERM";

const FAILED: u8 = 1;
const REFUSED: u8 = 2;

/// What forbids to start, a line each; restarting without a change will not help.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub(crate) struct Refused(pub(crate) Vec<String>);

/// Runs a role to its end as this process' only purpose.
pub(crate) fn run<R>(
    parsed: Result<Config<R>, Faults>,
    role: impl AsyncFnOnce(R, CancellationToken) -> anyhow::Result<ExitCode>,
) -> ExitCode {
    let Config { log, traces, role: config, .. } = match parsed {
        Ok(config) => config,
        Err(faults) => return refuse(&faults),
    };
    let (tracers, exporters) = traces.map(Traces::start).unzip();
    if let Err(error) = log.start(tracers.map(telemetry::layer)) {
        eprintln!("sluice cannot start: {error:#}");
        return ExitCode::from(FAILED);
    }
    // What uses rustls takes the process' provider; a second installation is refused, which is
    // fine.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match start(config, exporters, role) {
        Ok(code) => code,
        Err(error) => {
            let Some(Refused(reasons)) = error.downcast_ref() else {
                tracing::error!("{}", telemetry::chain(error.as_ref()));
                return ExitCode::from(FAILED);
            };
            reasons.iter().for_each(|reason| tracing::error!("cannot start: {reason}"));
            ExitCode::from(REFUSED)
        }
    }
}

/// Runs a person's command that changes nothing: the first signal ends it, whatever it waits for.
pub(crate) fn read<R>(
    parsed: Result<Config<R>, Faults>,
    command: impl AsyncFnOnce(R) -> anyhow::Result<ExitCode>,
) -> ExitCode {
    run(parsed, async |config, shutdown| unless_interrupted(&shutdown, command(config)).await)
}

/// Waits for what a signal may end at any moment: nothing that changes something.
pub(crate) async fn unless_interrupted<T>(
    shutdown: &CancellationToken,
    asked: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    shutdown.run_until_cancelled(asked).await.context("interrupted")?
}

/// Says every fault: for people a line each, for machines an object each.
fn refuse(faults: &Faults) -> ExitCode {
    let log = Log { format: Format::Json, filter: "error".to_owned() };
    if faults.format == Some(Format::Json) && log.start(None).is_ok() {
        for fault in faults.iter() {
            tracing::error!(setting = fault.setting, "cannot start: {fault}");
        }
    } else {
        let (workflows, settings): (Vec<&Fault>, Vec<_>) = faults.iter().partition(|fault| fault.is_of_a_workflow());
        let what = if settings.is_empty() { "workflows" } else { "settings" };
        eprintln!("sluice cannot start, for these {what} are not right:\n{faults}");
        if !workflows.is_empty() {
            eprintln!("A WORKFLOW is mended in the code of its definition: see docs/adding-a-workflow.md.");
        }
        if !settings.is_empty() {
            eprintln!("Every setting is a variable and a flag: see --help and .env.example.");
        }
    }
    ExitCode::from(REFUSED)
}

/// What a role that runs for long is given beside its settings.
pub(crate) struct Life {
    vitals: Vitals,
    readiness: Arc<Readiness>,
    shutdown: CancellationToken,
}

/// Runs a role that serves until it is told to stop, and answers for its health from before it
/// looks for Postgres until it has drained.
pub(crate) fn serve<R>(
    vitals: Vitals,
    parsed: Result<Config<R>, Faults>,
    role: impl AsyncFnOnce(R, Life) -> anyhow::Result<()>,
) -> ExitCode {
    let address = parsed.as_ref().ok().and_then(|config| config.http);
    let traces = parsed.as_ref().ok().and_then(|config| config.traces.as_ref());
    let exported = traces.map(|traces| traces.exported.clone()).unwrap_or_default();
    run(parsed, async |config, shutdown| {
        let readiness = Arc::new(Readiness::new(shutdown.clone()));
        vitals.metrics.spans_from(exported);
        let _server = match address {
            Some(address) => Some(http::listen(address, vitals.clone(), readiness.clone()).await?),
            None => None,
        };
        role(config, Life { vitals, readiness, shutdown }).await?;
        Ok(ExitCode::SUCCESS)
    })
}

fn start<R>(
    config: R,
    exporters: Option<Exporters>,
    role: impl AsyncFnOnce(R, CancellationToken) -> anyhow::Result<ExitCode>,
) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")?;
    let code = runtime.block_on(async {
        let shutdown = CancellationToken::new();
        signals::listen(shutdown.clone()).context("listen for signals")?;
        let role = role(config, shutdown);
        match exporters {
            Some(exporters) => exporters.beside(role).await,
            None => role.await,
        }
    });
    // A task that is still blocked somewhere must not keep the process.
    runtime.shutdown_background();
    code
}
