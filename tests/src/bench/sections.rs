//! Which figures stand in which table.

use super::{
    burst::{Burst, Inside},
    cpu::Cpu,
    crowd::Compared,
    recovery::Blow,
    report::Report,
    scaling::{busy, doublings},
    steady::Steady,
    table::Section,
};

/// All that was measured.
pub fn sections(report: &Report) -> Vec<Section> {
    let mut all = vec![bursts("Burst: many sign up at once", &report.burst)];
    for roles in report.roles.and_beside() {
        let streamed: Vec<Steady> = report.steady.iter().filter(|stream| stream.roles == roles).cloned().collect();
        let title = format!("Steady stream, each sign-up its own transaction: {}", roles.name());
        all.push(streams(title, &streamed));
    }
    all.push(single(report));
    all.extend(idle(report));
    all.push(doorbell(report));
    all.push(bursts("Settings: what a user can turn", &report.workers));
    all.push(scaling(report));
    all.push(recovery(report));
    if let Some(recorded) = &report.recorded {
        all.push(bursts("With the recorded times of the real API: burst", &recorded.burst));
        all.push(streams("With the recorded times of the real API: steady", std::slice::from_ref(&recorded.steady)));
    }
    if let Some(tracing) = &report.tracing {
        all.push(bursts("Tracing: every span recorded, none lost", &[tracing.off.clone(), tracing.on.clone()]));
    }
    all.push(crowd(report));
    all.extend(compared("With so many that wait for their time", report.waiting.as_ref()));
    all.extend(compared("With so many that have finished", report.history.as_ref()));
    all.extend(profile(report));
    all.push(goals(report));
    all.retain(|section| !section.rows.is_empty());
    all
}

fn bursts(title: &'static str, bursts: &[Burst]) -> Section {
    let header = [
        "",
        "users",
        "ready/s",
        "lowest–highest",
        "of the loop",
        "CPU-s per 1,000",
        "Sluice",
        "Postgres",
        "Redis",
        "statements",
        "transactions",
        "WAL records",
        "calls",
    ];
    bursts.iter().fold(Section::new(title, &header), |section, burst| {
        let last = burst.rounds.last();
        let inside = last.and_then(|round| round.sluice.as_ref());
        let mut cells = vec![
            burst.name.clone(),
            burst.users.to_string(),
            whole(burst.per_second),
            range(burst),
            maybe(burst.ratio),
        ];
        cells.extend(cpu(&burst.cpu, inside.is_some()));
        cells.extend(counted(inside));
        cells.push(last.map_or(none(), |round| two(round.calls)));
        section.row(cells)
    })
}

fn scaling(report: &Report) -> Section {
    let header = [
        "workers of each step",
        "users",
        "ready/s",
        "lowest–highest",
        "times the row before",
        "CPU busy, % of all cores",
        "CPU-s per 1,000",
        "Sluice",
        "Postgres",
        "Redis",
    ];
    let section = Section::new("Work scales: 4 attempts at once a worker, 50 ms for each call of the API", &header);
    let times = std::iter::once(None).chain(doublings(&report.scaling).map(|(_, times)| Some(times)));
    report.scaling.iter().zip(times).fold(section, |section, (burst, times)| {
        let mut cells = vec![
            burst.name.clone(),
            burst.users.to_string(),
            one(burst.per_second),
            range(burst),
            maybe(times),
            busy(burst, report.machine.cores).map_or(none(), whole),
        ];
        cells.extend(cpu(&burst.cpu, true));
        section.row(cells)
    })
}

fn recovery(report: &Report) -> Section {
    let header = ["when 40 % are ready", "users", "rest done in, s", "lowest–highest", "s more", "second creates"];
    let section = Section::new("Recovery: one blow in the middle of a burst", &header);
    report.recovery.iter().fold(section, |section, one| {
        let seconds = || one.rest_done_in.iter().copied();
        let range = seconds().reduce(f64::min).zip(seconds().reduce(f64::max));
        let beside = report.recovery.iter().find(|other| other.roles == one.roles && other.blow == Blow::Nothing);
        let more = beside.filter(|_| one.blow != Blow::Nothing).map(|beside| one.seconds - beside.seconds);
        section.row(vec![
            format!("{}, {}", one.blow.name(), one.roles.name()),
            one.users.to_string(),
            two(one.seconds),
            range.map_or(none(), |(least, most)| format!("{least:.2}–{most:.2}")),
            maybe(more),
            (one.made_twice as u64 + one.duplicate_creates).to_string(),
        ])
    })
}

/// The lowest and the highest rate of its rounds.
fn range(burst: &Burst) -> String {
    let rates = || burst.rounds.iter().map(|round| round.per_second);
    let range = rates().reduce(f64::min).zip(rates().reduce(f64::max));
    range.map_or(none(), |(least, most)| format!("{least:.0}–{most:.0}"))
}

/// The loop's own time is the bench's.
fn cpu(cpu: &Cpu, is_sluice: bool) -> [String; 4] {
    let (total, own) = if is_sluice { (cpu.total(), cpu.sluice) } else { (cpu.of_the_loop(), cpu.bench) };
    [maybe(total), two(own), maybe(cpu.postgres), if is_sluice { maybe(cpu.redis) } else { none() }]
}

fn counted(inside: Option<&Inside>) -> [String; 3] {
    let Some(inside) = inside else { return [none(), none(), none()] };
    [maybe(inside.statements), two(inside.transactions), inside.wal_records.map_or(none(), whole)]
}

fn streams(title: impl Into<String>, streams: &[Steady]) -> Section {
    let header = [
        "per second",
        "sent/s",
        "median ms",
        "p99 ms",
        "behind ms",
        "commit ms",
        "CPU-s per 1,000",
        "Sluice",
        "Postgres",
        "Redis",
        "of it the app's",
        "engine-free loop",
        "times the loop",
        "statements",
        "transactions",
        "WAL records",
        "of it the app's",
    ];
    streams.iter().fold(Section::new(title, &header), |section, stream| {
        let mut cells = vec![
            whole(stream.rate),
            whole(stream.sent),
            one(stream.latency.median),
            one(stream.latency.p99),
            one(stream.behind),
            one(stream.commit.median),
        ];
        cells.extend(cpu(&stream.cpu, true));
        cells.push(maybe(stream.app.and_then(|app| app.postgres)));
        cells.push(maybe(stream.engine_free));
        cells.push(maybe(stream.times_the_loop()));
        cells.extend(counted(Some(&stream.inside)));
        cells.push(stream.app.and_then(|app| app.wal_records).map_or(none(), whole));
        section.row(cells)
    })
}

fn single(report: &Report) -> Section {
    let header = ["milliseconds", "median", "p99", "longest", "statements", "transactions", "WAL records"];
    let section = Section::new("One at a time: sign-up to ready", &header);
    report.single.iter().fold(section, |section, single| {
        let seen = [("by Postgres' clock", single.latency), ("as another connection sees it", single.seen)];
        seen.into_iter().fold(section, |section, (by, latency)| {
            let name = format!("{}, {by}", single.roles.name());
            let mut cells = vec![name, one(latency.median), one(latency.p99), one(latency.longest)];
            cells.extend(counted(Some(&single.inside)));
            section.row(cells)
        })
    })
}

fn idle(report: &Report) -> Option<Section> {
    let idle = report.idle.as_ref()?;
    let header = ["", "CPU, % of a core", "memory at most, MB", "memory now, MB"];
    let mut section = Section::new("Nobody comes", &header);
    let only_cpu = |name: &str, percent: Option<f64>| vec![name.to_owned(), maybe(percent), none(), none()];
    section = section.row(only_cpu("all roles", Some(idle.cpu.sluice)));
    section = section.row(only_cpu("Postgres", idle.cpu.postgres));
    section = section.row(only_cpu("Redis", idle.cpu.redis));
    section = section.row(only_cpu("Postgres with no role", idle.servers_alone.postgres));
    section = section.row(only_cpu("Redis with no role", idle.servers_alone.redis));
    let memory =
        |memory: &super::stage::Memory| vec![memory.process.clone(), none(), one(memory.at_most), one(memory.now)];
    Some(idle.memory.iter().fold(section, |section, each| section.row(memory(each))))
}

fn doorbell(report: &Report) -> Section {
    let header = ["rows/s that 20 clients insert", "no trigger", "trigger, no notification", "both"];
    let section = Section::new("What the app's transactions pay", &header);
    report.doorbell.iter().fold(section, |section, bell| {
        let who = if bell.relay { "a relay to be woken" } else { "nobody to be woken" };
        let rates = [bell.without_trigger, bell.without_notification, bell.with_both].map(whole);
        section.row(std::iter::once(who.to_owned()).chain(rates).collect())
    })
}

fn crowd(report: &Report) -> Section {
    let section = Section::new("A crowd that signs up at once, served to the last", &["users", "seconds", "ready/s"]);
    report.drain.iter().fold(section, |section, drain| {
        section.row(vec![drain.users.to_string(), one(drain.seconds), whole(drain.per_second)])
    })
}

fn compared(title: &'static str, compared: Option<&Compared>) -> Option<Section> {
    let compared = compared?;
    let mut section = bursts(title, &[compared.empty.clone(), compared.full.clone()]);
    for (row, ratio) in section.rows.iter_mut().zip([None, Some(compared.ratio)]) {
        if let Some(cell) = row.get_mut(4) {
            *cell = maybe(ratio);
        }
    }
    if let Some(head) = section.header.get_mut(4) {
        *head = "of the empty";
    }
    Some(section)
}

fn profile(report: &Report) -> Option<Section> {
    let profile = report.profile.as_ref()?;
    let section = Section::new("What the burst's CPU is spent on", &["", "% of samples"]);
    Some(profile.costs.iter().fold(section, |section, cost| section.row(vec![cost.what.clone(), one(cost.percent)])))
}

fn goals(report: &Report) -> Section {
    let section = Section::new("Goals, on two cores", &["", "wanted", "measured", ""]);
    report.goals.iter().fold(section, |section, goal| {
        let verdict = if goal.reached { "reached" } else { "missed" };
        section.row(vec![goal.what.clone(), goal.wanted.clone(), goal.measured.clone(), verdict.to_owned()])
    })
}

fn none() -> String {
    "–".to_owned()
}

fn maybe(value: Option<f64>) -> String {
    value.map_or_else(none, two)
}

fn two(value: f64) -> String {
    format!("{value:.2}")
}

fn one(value: f64) -> String {
    format!("{value:.1}")
}

fn whole(value: f64) -> String {
    format!("{value:.0}")
}
