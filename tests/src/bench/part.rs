//! The parts of the bench, each a question with an answer of its own.

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use super::{
    Say,
    api::{Api, Times},
    bare::Bare,
    burst::{Burst, Contender, Runs, contest},
    crowd::{self, Fill},
    doorbell::doorbell,
    goal,
    idle::idle,
    machine::Machine,
    profile,
    recovery::recovery,
    report::{Recorded, Report},
    scaling,
    site::Given,
    stage::{Roles, Setup, Stage},
    steady, traced,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Part {
    /// Many users at once, beside the engine-free loop
    Burst,
    /// Users who come one by one, 50 to 400 a second
    Steady,
    /// One user at a time: the latency
    Single,
    /// What it costs when nobody comes
    Idle,
    /// What Sluice's trigger costs the app's own transactions
    Doorbell,
    /// Other numbers of processes, attempts at once and connections
    Workers,
    /// 1, 2 and 4 workers of each step against an API that takes 50 ms for each call
    Scaling,
    /// One SIGKILL of everything, and one FLUSHALL, in the middle of a burst of 1,000
    Recovery,
    /// The simulated API with the times that the real one was recorded with
    Recorded,
    /// Tracing on against tracing off
    Tracing,
    /// 100,000 who sign up at once, and 100,000 runs that wait for their time
    Waiting,
    /// A ledger with a million finished runs
    History,
    /// A flame graph of the burst (needs perf)
    Profile,
}

/// How much of everything.
#[derive(Clone, Debug)]
pub struct Scale {
    pub bursts: Vec<usize>,
    pub rounds: usize,
    pub rates: Vec<f64>,
    /// Of a stream, and of each doorbell.
    pub seconds: f64,
    pub singles: usize,
    pub idle_seconds: f64,
    pub waiting: usize,
    pub history: usize,
}

impl Scale {
    /// For figures that are kept: some 30 minutes.
    pub fn full() -> Self {
        Self {
            bursts: vec![2000, 10_000],
            rounds: 3,
            rates: vec![50.0, 100.0, 200.0, 400.0],
            seconds: 20.0,
            singles: 200,
            idle_seconds: 30.0,
            waiting: 100_000,
            history: 1_000_000,
        }
    }

    /// For whoever has just changed something: under two minutes.
    pub fn quick() -> Self {
        Self {
            bursts: vec![2000],
            rounds: 1,
            rates: vec![100.0],
            seconds: 8.0,
            singles: 40,
            idle_seconds: 8.0,
            waiting: 20_000,
            history: 50_000,
        }
    }
}

#[derive(Clone, Debug)]
pub struct Options {
    pub parts: Vec<Part>,
    pub scale: Scale,
    /// Where a part does not choose by itself.
    pub roles: Roles,
    pub given: Given,
    pub say: Say,
}

/// Runs the parts in their own order and evaluates the goals.
pub async fn run(options: &Options) -> Result<Report> {
    let mut stage = Stage::open(&options.given, options.say).await?;
    let mut report = Report::new(Machine::read(&mut stage.site).await?, options.roles);
    for part in Part::value_variants() {
        if !options.parts.contains(part) {
            continue;
        }
        let name = part.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        (options.say)(&format!("== {name}"));
        let began = tokio::time::Instant::now();
        one(*part, &mut stage, options, &mut report).await.with_context(|| format!("the part {name}"))?;
        stage.site.clear().await?;
        (options.say)(&format!("== {name}: {:.0} s", began.elapsed().as_secs_f64()));
    }
    stage.site.leave().await?;
    report.goals = goal::reached(&report);
    report.void = goal::void(&report);
    Ok(report)
}

async fn one(part: Part, stage: &mut Stage, options: &Options, report: &mut Report) -> Result<()> {
    let Options { scale, roles, .. } = options;
    match part {
        Part::Burst => report.burst = bursts(stage, scale).await?,
        Part::Steady => {
            for roles in roles.and_beside() {
                report.steady.extend(streams(stage, roles, scale).await?);
                stage.site.clear().await?;
            }
        }
        Part::Single => {
            for roles in roles.and_beside() {
                let setup = setup(stage, roles).await?;
                report.single.push(steady::single(stage, &setup, scale.singles).await?);
            }
        }
        Part::Idle => {
            let setup = setup(stage, *roles).await?;
            report.idle = Some(idle(stage, &setup, scale.idle_seconds).await?);
        }
        Part::Doorbell => report.doorbell = doorbell(stage, scale.seconds / 2.0).await?,
        Part::Workers => report.workers = workers(stage, scale).await?,
        Part::Scaling => report.scaling = scaling::scaling(stage, first(scale)? / 4, scale.rounds).await?,
        Part::Recovery => {
            for roles in roles.and_beside() {
                report.recovery.extend(recovery(stage, roles, first(scale)? / 2, scale.rounds).await?);
            }
        }
        Part::Recorded => report.recorded = Some(recorded(stage, *roles, scale).await?),
        Part::Tracing => report.tracing = Some(traced::cost(stage, *roles, first(scale)?, scale.rounds).await?),
        Part::Waiting => {
            let (users, rounds) = (first(scale)?, scale.rounds);
            report.drain = Some(crowd::drain(stage, *roles, scale.waiting).await?);
            stage.site.clear().await?;
            report.waiting = Some(crowd::compare(stage, *roles, Fill::Waiting, scale.waiting, users, rounds).await?);
        }
        Part::History => {
            let (users, rounds) = (first(scale)?, scale.rounds);
            report.history = Some(crowd::compare(stage, *roles, Fill::Finished, scale.history, users, rounds).await?);
        }
        Part::Profile => report.profile = Some(profile::burst(stage, *roles, first(scale)?).await?),
    }
    Ok(())
}

fn first(scale: &Scale) -> Result<usize> {
    scale.bursts.first().copied().context("no size of a burst")
}

async fn setup(stage: &mut Stage, roles: Roles) -> Result<Setup> {
    Ok(Setup::new(roles, &stage.new_database().await?))
}

async fn bursts(stage: &mut Stage, scale: &Scale) -> Result<Vec<Burst>> {
    let mut all = Vec::new();
    for users in &scale.bursts {
        let database = stage.new_database().await?;
        let bare = Runs::Loop(Bare::prepare(stage, &database).await?);
        let mut contenders = vec![Contender { name: "engine-free loop".to_owned(), runs: bare }];
        for roles in [Roles::USUAL, Roles::Pair, Roles::All(1)] {
            let runs = Runs::Sluice(setup(stage, roles).await?);
            contenders.push(Contender { name: format!("Sluice, {}", roles.name()), runs });
        }
        all.extend(contest(stage, &contenders, *users, scale.rounds).await?);
    }
    Ok(all)
}

async fn streams(stage: &mut Stage, roles: Roles, scale: &Scale) -> Result<Vec<steady::Steady>> {
    let setup = setup(stage, roles).await?;
    // Elsewhere: who signs up without the trigger is a lost sign-up, which a relay would find and
    // serve.
    let elsewhere = stage.new_database().await?;
    let bare = Bare::prepare(stage, &elsewhere).await?;
    let mut all = Vec::new();
    for rate in &scale.rates {
        let mut one = steady::stream(stage, &setup, *rate, scale.seconds).await?;
        one.app = Some(steady::alone(stage, &elsewhere, *rate, scale.seconds / 4.0).await?);
        let through_loop = bare.stream(stage, *rate, scale.seconds / 2.0).await?;
        one.engine_free = through_loop.cpu.per_thousand(through_loop.users).of_the_loop();
        let (median, p99) = (one.latency.median, one.latency.p99);
        let cpu = one.cpu.total().map_or(String::new(), |total| format!(", {total:.2} CPU-s per 1,000"));
        (stage.say)(&format!("   {}, {rate:.0}/s: {median:.0} ms, p99 {p99:.0} ms{cpu}", roles.name()));
        all.push(one);
    }
    Ok(all)
}

/// What a user can turn.
async fn workers(stage: &mut Stage, scale: &Scale) -> Result<Vec<Burst>> {
    let (usual, doubled) = (Roles::USUAL, Roles::Separate { relays: 2, workers: 2 });
    let settings = [
        ("1 relay, 1 worker a step", usual, None),
        ("10 attempts at once", usual, Some(("WORKER_CONCURRENCY", 10))),
        ("200 attempts at once", usual, Some(("WORKER_CONCURRENCY", 200))),
        ("8 connections", usual, Some(("DATABASE_MAX_CONNECTIONS", 8))),
        ("2 relays, 2 workers a step", doubled, None),
        ("a relay and a worker", Roles::Pair, None),
        ("all in one", Roles::All(1), None),
        ("two of all in one", Roles::All(2), None),
    ];
    let mut contenders = Vec::new();
    for (name, roles, variable) in settings {
        let setup = setup(stage, roles).await?;
        let setup = variable.into_iter().fold(setup, |setup, (name, value)| setup.set(name, value));
        contenders.push(Contender { name: name.to_owned(), runs: Runs::Sluice(setup) });
    }
    contest(stage, &contenders, first(scale)?, scale.rounds).await
}

/// The recorded server takes creates up one after another, some 9 ms apart: it serves 110 users a
/// second at most.
async fn recorded(stage: &mut Stage, roles: Roles, scale: &Scale) -> Result<Recorded> {
    stage.api = Api::start(Times::Recorded).await?;
    let setup = setup(stage, roles).await?;
    let database = stage.new_database().await?;
    let contenders = [
        Contender { name: "engine-free loop".to_owned(), runs: Runs::Loop(Bare::prepare(stage, &database).await?) },
        Contender { name: "Sluice".to_owned(), runs: Runs::Sluice(setup.clone()) },
    ];
    let burst = contest(stage, &contenders, first(scale)? / 4, 1).await?;
    let steady = steady::stream(stage, &setup, 50.0, scale.seconds / 2.0).await?;
    stage.api = Api::start(Times::None).await?;
    if burst.is_empty() {
        bail!("no burst");
    }
    Ok(Recorded { burst, steady })
}
