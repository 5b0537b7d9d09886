//! What the figures are to be, on two cores, and what makes them worthless.

use serde::Serialize;

use super::{burst::Burst, recovery::Blow, report::Report, scaling, stage::Roles};

/// The simulated API may take no more of the machine than this, in CPU-seconds per 1,000 sign-ups.
const API_AT_MOST: f64 = 0.4;

#[derive(Clone, Debug, Serialize)]
pub struct Goal {
    pub what: String,
    pub wanted: String,
    pub measured: String,
    pub reached: bool,
}

struct Goals(Vec<Goal>);

impl Goals {
    fn at_most(&mut self, what: impl Into<String>, measured: Option<f64>, limit: f64, unit: &str) {
        let Some(value) = measured else { return };
        self.add(what.into(), format!("at most {limit}{unit}"), value, unit, value <= limit);
    }

    fn at_least(&mut self, what: impl Into<String>, measured: Option<f64>, limit: f64, unit: &str) {
        let Some(value) = measured else { return };
        self.add(what.into(), format!("at least {limit}{unit}"), value, unit, value >= limit);
    }

    fn add(&mut self, what: String, wanted: String, value: f64, unit: &str, reached: bool) {
        let digits = if value >= 100.0 { 0 } else { 2 };
        self.0.push(Goal { what, wanted, measured: format!("{value:.digits$}{unit}"), reached });
    }
}

/// Those that the parts that ran say something of.
pub fn reached(report: &Report) -> Vec<Goal> {
    let mut goals = Goals(Vec::new());
    of_bursts(report, &mut goals);
    of_streams(report, &mut goals);
    for single in &report.single {
        let name = |figure: &str| format!("one at a time, {}: {figure}", single.roles.name());
        goals.at_most(name("median"), Some(single.latency.median), 10.0, " ms");
        goals.at_most(name("p99"), Some(single.latency.p99), 25.0, " ms");
    }
    if let Some(idle) = &report.idle {
        let both = idle.cpu.postgres.map(|postgres| postgres + idle.cpu.sluice);
        goals.at_most("idle, all roles and Postgres", both, 1.0, " % of a core");
    }
    for (what, compared) in [("waiting", &report.waiting), ("finished", &report.history)] {
        let Some(compared) = compared else { continue };
        let what = format!("of a burst's rate with {} runs that are {what}", compared.rows);
        goals.at_least(what, Some(compared.ratio), 0.9, "");
    }
    for (burst, times) in scaling::doublings(&report.scaling) {
        if scaling::busy(burst, report.machine.cores).is_some_and(|percent| percent < scaling::FULL) {
            goals.at_least(format!("times the rate with twice the workers ({})", burst.name), Some(times), 1.7, "");
        }
    }
    if let Some((drain, burst)) = report.drain.as_ref().zip(usual(report)) {
        let what = format!("of a burst's rate with {} users at once", drain.users);
        goals.at_least(what, Some(drain.per_second / burst.per_second), 0.9, "");
    }
    for one in &report.recovery {
        let name = |figure: &str| format!("{}, {}: {figure}", one.blow.name(), one.roles.name());
        let within = match one.blow {
            Blow::Nothing => continue,
            Blow::Killed => 3.0,
            Blow::Wiped => 2.0,
        };
        goals.at_most(name("the rest done in"), Some(one.seconds), within, " s");
        let creates = one.made_twice as f64 + one.duplicate_creates as f64;
        goals.at_most(name("second creates"), Some(creates), 0.0, "");
    }
    let deadlocks = report.all_bursts().flat_map(|burst| &burst.rounds).filter_map(|round| round.sluice.as_ref());
    let deadlocks =
        deadlocks.map(|inside| inside.deadlocks).chain(report.all_streams().map(|one| one.inside.deadlocks));
    if report.all_bursts().next().is_some() || report.all_streams().next().is_some() {
        goals.at_most("deadlocks", Some(deadlocks.sum::<i64>() as f64), 0.0, "");
    }
    goals.0
}

/// The burst of a process per role.
pub fn usual(report: &Report) -> Option<&Burst> {
    of_roles(report, Roles::USUAL)
}

fn of_roles(report: &Report, roles: Roles) -> Option<&Burst> {
    report.burst.iter().find(|burst| burst.name.contains(roles.name()))
}

fn of_bursts(report: &Report, goals: &mut Goals) {
    for roles in [Roles::USUAL, Roles::Pair] {
        if let Some(burst) = of_roles(report, roles) {
            of_burst(burst, roles, goals);
        }
    }
}

fn of_burst(burst: &Burst, roles: Roles, goals: &mut Goals) {
    let name = |figure: &str| format!("burst of {}, {}: {figure}", burst.users, roles.name());
    let inside = burst.rounds.iter().filter_map(|round| round.sluice.as_ref());
    let most =
        |figure: &dyn Fn(&super::burst::Inside) -> Option<f64>| inside.clone().filter_map(figure).reduce(f64::max);
    goals.at_least(name("rate"), Some(burst.per_second), 1000.0, "/s");
    goals.at_least(name("of the engine-free loop's rate"), burst.ratio, 0.5, "");
    goals.at_most(name("CPU per 1,000"), burst.cpu.total(), 1.5, " CPU-s");
    goals.at_most(name("WAL records per sign-up"), most(&|inside| inside.wal_records), 60.0, "");
    let memory = most(&|inside| inside.memory.iter().map(|memory| memory.at_most).reduce(f64::max));
    goals.at_most(name("the largest process"), memory, 30.0, " MB");
}

fn of_streams(report: &Report, goals: &mut Goals) {
    for stream in report.steady.iter().filter(|stream| stream.rate >= 100.0) {
        let name = |figure: &str| format!("{:.0}/s, {}: {figure}", stream.rate, stream.roles.name());
        goals.at_most(name("CPU per 1,000"), stream.cpu.total(), 2.5, " CPU-s");
        goals.at_most(name("median"), Some(stream.latency.median), 15.0, " ms");
        goals.at_most(name("p99"), Some(stream.latency.p99), 50.0, " ms");
        if stream.rate == 100.0 {
            goals.at_most(name("statements per sign-up"), stream.inside.statements, 10.0, "");
            goals.at_most(name("transactions per sign-up"), Some(stream.inside.transactions), 8.0, "");
            goals.at_most(name("WAL records per sign-up"), stream.inside.wal_records, 60.0, "");
        }
    }
}

/// What lets the figures prove nothing.
pub fn void(report: &Report) -> Vec<String> {
    let mut void = Vec::new();
    for burst in report.burst.iter().chain(&report.workers).filter(|burst| burst.cpu.api > API_AT_MOST) {
        let (name, users, api) = (&burst.name, burst.users, burst.cpu.api);
        void.push(format!(
            "{name}, burst of {users}: the simulated API took {api:.2} CPU-s per 1,000, more than {API_AT_MOST}"
        ));
    }
    for (setting, value) in
        [("fsync", &report.machine.fsync), ("synchronous_commit", &report.machine.synchronous_commit)]
    {
        if value != "on" {
            void.push(format!("Postgres runs with {setting} = {value}"));
        }
    }
    if report.machine.build != "release" {
        void.push("this is a build without optimisations".to_owned());
    }
    void
}
