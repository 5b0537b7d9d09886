//! A program of one's own: relay, worker and all over a catalog of workflows, with the options that `sluice` has.

use std::process::ExitCode;

use workflows::workflow::Catalog;

use crate::{
    config::{AllOptions, Config, Faults, RelayOptions, WorkerOptions},
    process::{self, Life},
    telemetry::Vitals,
};

/// The workflows of a program, and its roles. Each role runs until the process is told to stop, and says how the process
/// is to exit.
#[derive(Default)]
pub struct Program {
    catalog: Catalog,
    additions: Vec<Addition>,
}

type Addition = Box<dyn FnOnce(Catalog, &Vitals, &mut Faults) -> Catalog>;

impl Program {
    pub fn new(catalog: Catalog) -> Self {
        Self { catalog, additions: Vec::new() }
    }

    /// Adds workflows that people set: what is wrong with their settings is said with what is wrong with the role's own.
    pub fn adding(mut self, add: impl FnOnce(Catalog, &Vitals, &mut Faults) -> Catalog + 'static) -> Self {
        self.additions.push(Box::new(add));
        self
    }

    /// Moves requests into runs and due steps into Redis. It needs the workflows' definitions only.
    pub fn relay(self, options: &RelayOptions) -> ExitCode {
        self.serve("relay", |catalog, faults| options.parse(catalog, faults), process::relay)
    }

    /// Runs steps.
    pub fn worker(self, options: &WorkerOptions) -> ExitCode {
        self.serve("worker", |catalog, faults| options.parse(catalog, faults), process::worker)
    }

    /// Both, in one process.
    pub fn all(self, options: &AllOptions) -> ExitCode {
        self.serve("all", |catalog, faults| options.parse(catalog, faults), process::all)
    }

    fn serve<R, F>(
        self,
        name: &str,
        parse: impl FnOnce(&Catalog, Faults) -> Result<Config<R>, Faults>,
        role: impl FnOnce(R, Life) -> F,
    ) -> ExitCode
    where
        F: Future<Output = anyhow::Result<ExitCode>>,
    {
        let (vitals, mut faults) = (Vitals::new(name), Faults::default());
        let additions = self.additions.into_iter();
        let catalog = additions.fold(self.catalog, |catalog, add| add(catalog, &vitals, &mut faults));
        process::serve(vitals, parse(&catalog, faults), role)
    }
}
