//! A program of one's own: relay, worker, events, follow and all over a catalog of workflows, with
//! the options that `sluice` has.

use std::{mem, process::ExitCode};

use workflows::workflow::Catalog;

use crate::{
    config::{AllOptions, EventsOptions, Faults, FollowOptions, RelayOptions, WorkerOptions},
    events::feed::Feed,
    process,
    relay::Duty,
    telemetry::Vitals,
};

/// The workflows of a program, and its roles. Each role runs until the process is told to stop, and
/// says how the process is to exit. None starts with a workflow that cannot run.
#[derive(Default)]
pub struct Program {
    catalog: Catalog,
    additions: Vec<Addition>,
    duties: Vec<Box<dyn Duty>>,
    feed: Option<Read>,
}

type Read = Box<dyn FnOnce(&mut Faults) -> Option<Feed>>;
type Addition = Box<dyn FnOnce(Catalog, &Vitals, &mut Faults) -> Catalog>;

impl Program {
    pub fn new(catalog: Catalog) -> Self {
        Self { catalog, ..Self::default() }
    }

    /// Adds workflows that people set: what is wrong with their settings is said with what is wrong
    /// with the role's own.
    pub fn adding(mut self, add: impl FnOnce(Catalog, &Vitals, &mut Faults) -> Catalog + 'static) -> Self {
        self.additions.push(Box::new(add));
        self
    }

    /// Adds a duty that each relay of the program does.
    pub fn with_duty(mut self, duty: impl Duty) -> Self {
        self.duties.push(Box::new(duty));
        self
    }

    /// Follows another program's events, where `read` finds in its settings where they are.
    pub fn following(mut self, read: impl FnOnce(&mut Faults) -> Option<Feed> + 'static) -> Self {
        self.feed = Some(Box::new(read));
        self
    }

    /// Moves requests into runs and due steps into Redis. It needs the workflows' definitions only.
    pub fn relay(mut self, options: &RelayOptions) -> ExitCode {
        let (vitals, catalog, faults) = self.complete("relay");
        let run = async |config, life| process::relay(config, self.duties, life).await;
        process::serve(vitals, options.parse(&catalog, faults), run)
    }

    /// Runs steps.
    pub fn worker(mut self, options: &WorkerOptions) -> ExitCode {
        let (vitals, catalog, faults) = self.complete("worker");
        process::serve(vitals, options.parse(&catalog, faults), process::worker)
    }

    /// Publishes events. It needs no workflow.
    pub fn events(mut self, options: &EventsOptions) -> ExitCode {
        let (vitals, _, faults) = self.complete("events");
        process::serve(vitals, options.parse(faults), process::events)
    }

    /// Takes in the events of the feed. It needs no workflow.
    pub fn follow(mut self, options: &FollowOptions) -> ExitCode {
        let (vitals, _, mut faults) = self.complete("follow");
        let feed = self.feed.and_then(|read| read(&mut faults));
        process::serve(vitals, options.parse(feed, faults), process::follow)
    }

    /// All, in one process.
    pub fn all(mut self, options: &AllOptions) -> ExitCode {
        let (vitals, catalog, mut faults) = self.complete("all");
        let feed = self.feed.and_then(|read| read(&mut faults));
        let run = async |config, life| process::all(config, self.duties, life).await;
        process::serve(vitals, options.parse(&catalog, feed, faults), run)
    }

    /// Every workflow, and what is wrong with their settings and definitions.
    fn complete(&mut self, role: &str) -> (Vitals, Catalog, Faults) {
        let (vitals, mut faults) = (Vitals::new(role), Faults::default());
        let (additions, catalog) = (mem::take(&mut self.additions), mem::take(&mut self.catalog));
        let catalog = additions.into_iter().fold(catalog, |catalog, add| add(catalog, &vitals, &mut faults));
        faults.add_definitions(&catalog.registry());
        (vitals, catalog, faults)
    }
}

#[cfg(test)]
mod tests {
    use clap::{Args, Parser};
    use workflows::{
        calls::ExclusiveCalls,
        definition::Definition,
        ids::StepName,
        outcome::{Outcome, StepInput},
        workflow::{Boxed, Workflow},
    };

    use super::*;

    /// A workflow that somebody has begun to write.
    struct Begun;

    impl Workflow for Begun {
        fn definitions(&self) -> Vec<Definition> {
            vec![Definition {
                name: "begun".parse().unwrap(),
                version: 1,
                steps: Vec::new(),
                deadline: Default::default(),
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

    #[derive(Parser)]
    struct Told<O: Args> {
        #[command(flatten)]
        options: O,
    }

    fn told<O: Args>(settings: &[&str]) -> O {
        let command = ["program", "--database-url=postgres://ada@127.0.0.1:9/app"].iter().chain(settings);
        Told::<O>::parse_from(command).options
    }

    fn begun() -> Program {
        Program::new(Catalog::default().with(Begun))
    }

    #[test]
    fn a_program_says_what_is_wrong_with_its_workflows_after_what_is_wrong_with_its_settings() {
        let add = |catalog: Catalog, _: &Vitals, faults: &mut Faults| {
            faults.add("GREETING", "", "is empty");
            catalog.with(Begun)
        };

        let (.., faults) = begun().adding(add).complete("all");

        assert_eq!(
            faults.to_string(),
            "GREETING=: is empty\n\
             WORKFLOW=begun 1: has no step: give it one, or leave the workflow out\n\
             WORKFLOW=begun 1: is defined twice: give one of the two another name or version\n\
             WORKFLOW=begun 1: has no step: give it one, or leave the workflow out"
        );
    }

    #[test]
    fn no_role_starts_with_a_workflow_that_cannot_run() {
        let (redis, amqp) = ("--redis-url=redis://127.0.0.1:9", "--amqp-url=amqp://127.0.0.1:9/%2f");

        for ended in [begun().relay(&told(&[redis])), begun().events(&told(&[amqp])), begun().all(&told(&[redis]))] {
            assert_eq!(ended, ExitCode::from(2));
        }
    }
}
