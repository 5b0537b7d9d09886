//! A program of one's own: relay, worker, events, follow and all over a catalog of workflows, with
//! the options that `sluice` has.

use std::process::ExitCode;

use workflows::workflow::Catalog;

use crate::{
    config::{AllOptions, Config, EventsOptions, Faults, FollowOptions, RelayOptions, WorkerOptions},
    events::feed::Feed,
    process::{self, Life},
    telemetry::Vitals,
};

/// The workflows of a program, and its roles. Each role runs until the process is told to stop, and says how the process
/// is to exit.
#[derive(Default)]
pub struct Program {
    catalog: Catalog,
    additions: Vec<Addition>,
    feed: Option<Read>,
}

type Read = Box<dyn FnOnce(&mut Faults) -> Option<Feed>>;
type Addition = Box<dyn FnOnce(Catalog, &Vitals, &mut Faults) -> Catalog>;

impl Program {
    pub fn new(catalog: Catalog) -> Self {
        Self { catalog, ..Self::default() }
    }

    /// Adds workflows that people set: what is wrong with their settings is said with what is wrong with the role's own.
    pub fn adding(mut self, add: impl FnOnce(Catalog, &Vitals, &mut Faults) -> Catalog + 'static) -> Self {
        self.additions.push(Box::new(add));
        self
    }

    /// Follows another program's events, where `read` finds in its settings where they are.
    pub fn following(mut self, read: impl FnOnce(&mut Faults) -> Option<Feed> + 'static) -> Self {
        self.feed = Some(Box::new(read));
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

    /// Publishes events. It needs no workflow.
    pub fn events(self, options: &EventsOptions) -> ExitCode {
        self.serve("events", |_, faults| options.parse(faults), process::events)
    }

    /// Takes in the events of the feed. It needs no workflow.
    pub fn follow(self, options: &FollowOptions) -> ExitCode {
        self.serve_with_feed("follow", |_, feed, faults| options.parse(feed, faults), process::follow)
    }

    /// All, in one process.
    pub fn all(self, options: &AllOptions) -> ExitCode {
        self.serve_with_feed("all", |catalog, feed, faults| options.parse(catalog, feed, faults), process::all)
    }

    fn serve_with_feed<R>(
        mut self,
        name: &str,
        parse: impl FnOnce(&Catalog, Option<Feed>, Faults) -> Result<Config<R>, Faults>,
        role: impl AsyncFnOnce(R, Life) -> anyhow::Result<()>,
    ) -> ExitCode {
        let read = self.feed.take();
        let parse = |catalog: &Catalog, mut faults: Faults| {
            let feed = read.and_then(|read| read(&mut faults));
            parse(catalog, feed, faults)
        };
        self.serve(name, parse, role)
    }

    fn serve<R>(
        self,
        name: &str,
        parse: impl FnOnce(&Catalog, Faults) -> Result<Config<R>, Faults>,
        role: impl AsyncFnOnce(R, Life) -> anyhow::Result<()>,
    ) -> ExitCode {
        let (vitals, mut faults) = (Vitals::new(name), Faults::default());
        let additions = self.additions.into_iter();
        let catalog = additions.fold(self.catalog, |catalog, add| add(catalog, &vitals, &mut faults));
        process::serve(vitals, parse(&catalog, faults), role)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use workflows::{
        calls::ExclusiveCalls,
        definition::{Definition, LEASE, Reach, Step},
        ids::StepName,
        outcome::{Outcome, StepInput},
        policy::Retry,
        workflow::{Boxed, Workflow},
    };

    use super::*;

    #[derive(Parser)]
    struct Own {
        #[command(flatten)]
        options: WorkerOptions,
    }

    struct Greeting;

    impl Workflow for Greeting {
        fn definitions(&self) -> Vec<Definition> {
            let (timeout, deadline) = (std::time::Duration::from_secs(30), std::time::Duration::from_secs(3600));
            let (name, retry, reach) = ("greet".parse().unwrap(), Retry::default(), Reach::Shared);
            let steps = vec![Step { name, timeout, lease: LEASE, retry, reach, host: None }];
            let name = "greeting".parse().unwrap();
            vec![Definition {
                name,
                version: 1,
                steps,
                deadline,
                priority: 0,
                projection: None,
                source: None,
                gone: None,
            }]
        }

        fn run<'a>(
            &'a self,
            _: &'a StepName,
            _: &'a StepInput,
            _: &'a ExclusiveCalls<'a>,
        ) -> Boxed<'a, Option<Outcome>> {
            Box::pin(async { None })
        }
    }

    fn parse(step: &str, faults: Faults) -> Result<crate::config::Worker, Faults> {
        let arguments =
            ["own", step, "--database-url", "postgres://ada@db/app", "--redis-url", "redis://cache"].map(str::to_owned);
        let catalog = Catalog::default().with(Greeting);
        Own::parse_from(arguments).options.parse(&catalog, faults).map(|config| config.role)
    }

    #[test]
    fn a_program_without_the_product_is_asked_for_nothing_of_its() {
        let worker = parse("greet", Faults::default()).map_err(|faults| faults.to_string()).unwrap();

        assert_eq!(worker.settings.steps, ["greet".parse().unwrap()]);
        assert_eq!(worker.ledger.registry.queues(), worker.settings.steps);
    }

    #[test]
    fn what_is_wrong_with_workflows_is_said_with_what_is_wrong_with_the_role() {
        let mut faults = Faults::default();
        faults.add("GREETING", "", "is empty");

        let faults = parse("great", faults).err().unwrap();

        assert_eq!(faults.to_string(), "STEP=great: is no step of this build: expected greet\nGREETING=: is empty");
    }
}
