//! A program that runs under a guard: its log, its signals, its end. Used for `sluice` itself and
//! below every server.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal};

use super::guard::Guard;
use super::{tree, until};

/// What to run. The environment holds only `PATH`, `HOME` and what is given here.
#[derive(Clone)]
pub struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
}

impl Program {
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), arguments: Vec::new(), environment: Vec::new() }
    }

    pub fn args(mut self, arguments: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Starts it as ourselves, in a temporary directory of its own, where its log is.
    pub fn start(self) -> Result<Process> {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let guard = Guard::new(&name, None, "KILL")?;
        Process::start(guard, self)
    }
}

/// A started program. Dropping it ends it and removes its directory.
pub struct Process {
    child: Child,
    ended: Option<ExitStatus>,
    program: Program,
    guard: Guard,
}

impl Process {
    pub(super) fn start(mut guard: Guard, program: Program) -> Result<Self> {
        let child = spawn(&mut guard, &program)?;
        Ok(Self { child, ended: None, program, guard })
    }

    /// Starts the same program again in the same directory, once the one before has ended.
    pub fn start_again(&mut self) -> Result<()> {
        if self.exited()?.is_none() {
            bail!("{} still runs: stop or kill it first", self.name());
        }
        self.child = spawn(&mut self.guard, &self.program)?;
        self.ended = None;
        Ok(())
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to end (SIGTERM); see `wait_for_exit`.
    pub fn terminate(&mut self) -> Result<()> {
        self.signal(Signal::TERM)
    }

    /// Ends it and all that it started at one stroke (SIGKILL); nothing of it runs once this
    /// returns.
    pub async fn kill(&mut self) -> Result<()> {
        if self.exited()?.is_some() {
            return Ok(());
        }
        let killed = tree::kill(self.root());
        self.wait_for_exit(Duration::from_secs(10)).await?;
        until(Duration::from_secs(10), async || killed.iter().all(|pid| !tree::is_alive(*pid)).then_some(()))
            .await
            .with_context(|| format!("a child of {} outlives SIGKILL", self.name()))
    }

    /// Freezes it and all that it started (SIGSTOP).
    pub fn pause(&mut self) -> Result<()> {
        self.running()?;
        tree::pause(self.root());
        Ok(())
    }

    /// Lets it run on after `pause` (SIGCONT).
    pub fn resume(&mut self) -> Result<()> {
        self.running()?;
        tree::resume(self.root());
        Ok(())
    }

    /// How it ended, if it has.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().context("ask how a process ended")?;
            if self.ended.is_some() {
                self.guard.forget_server();
            }
        }
        Ok(self.ended)
    }

    pub async fn wait_for_exit(&mut self, within: Duration) -> Result<ExitStatus> {
        match until(within, async || self.exited().transpose()).await {
            Some(status) => status,
            None => bail!("{} has not ended within {within:?}; its log ends:\n{}", self.name(), self.log_tail()),
        }
    }

    /// Waits until `text` is in the log; an error, with the log's end, if it ends or the time runs
    /// out before.
    pub async fn wait_for_log(&mut self, text: &str, within: Duration) -> Result<()> {
        let seen = until(within, async || {
            let ended = self.exited().is_ok_and(|status| status.is_some());
            match self.log().contains(text) {
                true => Some(true),
                false => ended.then_some(false),
            }
        });
        match seen.await {
            Some(true) => Ok(()),
            _ => bail!("{} did not log '{text}' within {within:?}; its log ends:\n{}", self.name(), self.log_tail()),
        }
    }

    /// All that it wrote to its standard output and error so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.log_path()).unwrap_or_default()).into_owned()
    }

    pub fn log_path(&self) -> PathBuf {
        self.guard.log_path()
    }

    pub fn log_tail(&self) -> String {
        self.guard.log_tail()
    }

    /// The temporary directory, which is also its working directory.
    pub fn directory(&self) -> &Path {
        self.guard.directory()
    }

    /// Starts another program in the same directory, once the one before has ended.
    pub(super) fn start_other(&mut self, program: Program) -> Result<()> {
        self.program = program;
        self.start_again()
    }

    pub(super) fn signal(&mut self, signal: Signal) -> Result<()> {
        self.running()?;
        tree::send(signal, &[self.root()]);
        Ok(())
    }

    fn running(&mut self) -> Result<()> {
        match self.exited()? {
            None => Ok(()),
            Some(status) => bail!("{} ended before ({status}); its log ends:\n{}", self.name(), self.log_tail()),
        }
    }

    fn root(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    fn name(&self) -> String {
        self.program.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the log of {} ({}) ends:\n{}\n---", self.name(), self.pid(), self.log_tail());
        }
        self.guard.close();
        let _ = self.child.wait();
    }
}

fn spawn(guard: &mut Guard, program: &Program) -> Result<Child> {
    let mut command = guard.command(&program.path)?;
    command.args(&program.arguments).envs(program.environment.iter().map(|(name, value)| (name, value)));
    guard.spawn(&mut command)
}
