//! What came of many seeds together: how often everything was met, and how to see again what broke.

use std::{
    collections::BTreeMap,
    fmt::Write,
    time::{Duration, Instant},
};

use crate::simulate::Report;

/// All that can happen here and must, in enough seeds. What the API's own journal counts comes on
/// top.
const EXPECTED: [&str; 77] = [
    "api.instance_removed",
    "api.refused",
    "api.restarted",
    "api.restarted_in_create",
    "api.without_whatsapp",
    "attempt.overtaken",
    "breaker.closed",
    "breaker.half_opened",
    "breaker.opened",
    "breaker.probed",
    "call.discarded",
    "call.doubted",
    "claim.failed",
    "claim.gate_closed",
    "claim.resource_busy",
    "claim.stale",
    "create.of_one_that_is_there",
    "end.cancelled",
    "end.dead",
    "end.ready",
    "end.removed_behind_our_back",
    "event.arrived_again",
    "instance.looked_at_again",
    "lease.ended_with_its_session",
    "ledger.answer_lost",
    "ledger.away",
    "ledger.slow",
    "neighbour.visited",
    "network.broken",
    "network.broken_in_create",
    "overlap.destroyed_a_good_one",
    "overlap.frozen",
    "overlap.slow_server",
    "people.asked_again",
    "people.asked_through_the_front_end",
    "people.asked_with_a_fresh_budget",
    "people.cancelled",
    "people.had_an_instance",
    "people.limited",
    "people.paused",
    "people.revived",
    "people.signed_up",
    "people.signed_up_twice",
    "phone.paired",
    "phone.unlinked",
    "process.frozen_in_call",
    "process.poisoned",
    "process.relay_frozen",
    "process.relay_killed",
    "process.relay_killed_before_push",
    "process.worker_frozen",
    "process.worker_killed",
    "process.worker_killed_before_push",
    "quirk.database.left_phantom",
    "quirk.database.left_row_unloaded",
    "quirk.not_loaded.hidden_by_cache",
    "queue.answer_lost",
    "queue.away",
    "queue.delayed",
    "queue.doubled",
    "queue.full",
    "queue.known",
    "queue.lost",
    "queue.mixed_up",
    "queue.pushed_again",
    "queue.restored",
    "queue.wiped",
    "renew.late",
    "renew.refused",
    "session.cut",
    "settle.carried_on",
    "settle.crashed",
    "settle.deferred",
    "settle.failed",
    "settle.sent_back",
    "settle.stale",
    "settle.succeeded",
];

/// So many seeds meet everything.
pub const ENOUGH: u64 = 4_000;

/// Many seeds together.
pub struct Total {
    began: Instant,
    seeds: u64,
    virtual_time: Duration,
    hits: BTreeMap<&'static str, u64>,
    pub broken: BTreeMap<u64, Vec<String>>,
}

impl Total {
    pub fn new() -> Self {
        let hits = EXPECTED.iter().map(|name| (*name, 0)).collect();
        Self { began: Instant::now(), seeds: 0, virtual_time: Duration::ZERO, hits, broken: BTreeMap::new() }
    }

    pub fn add(&mut self, report: Report) {
        self.seeds += 1;
        self.virtual_time += report.virtual_time;
        for (name, count) in report.hits.into_iter().chain(report.quirks) {
            *self.hits.entry(name).or_default() += count;
        }
        if !report.broken.is_empty() {
            self.broken.insert(report.seed, report.broken);
        }
    }

    /// What was never met, where there were enough seeds to meet it.
    pub fn never_met(&self) -> Vec<&'static str> {
        let never = self.hits.iter().filter(|(_, count)| **count == 0).map(|(name, _)| *name);
        if self.seeds >= ENOUGH { never.collect() } else { Vec::new() }
    }

    /// For a person to read.
    pub fn text(&self) -> String {
        let hours = self.virtual_time.as_secs_f64() / 3600.0;
        let wall = self.began.elapsed().as_secs_f64();
        let mut text = format!("{} seeds, {hours:.0} hours of virtual time in {wall:.1} s\n", self.seeds);
        for pair in self.hits.iter().collect::<Vec<_>>().chunks(2) {
            for (name, count) in pair {
                let _ = write!(text, "  {name:<36}{count:>9}");
            }
            text.push('\n');
        }
        let of = |name| self.hits.get(name).copied().unwrap_or_default();
        let _ = writeln!(
            text,
            "calls for one name that met: {} after a freeze between lease check and call, {} at a server slower than \
             its quiet time; they destroyed {} good instances{}",
            of("overlap.frozen"),
            of("overlap.slow_server"),
            of("overlap.destroyed_a_good_one"),
            self.in_the_end(),
        );
        text
    }

    /// Said of all seeds, so only where it holds in each.
    fn in_the_end(&self) -> String {
        match self.broken.len() {
            0 => ", and every run still ended with exactly one".to_owned(),
            broken => format!("; {broken} seeds broke"),
        }
    }
}

/// How to see a failing seed again, and its last lines.
pub fn failure(seed: u64, broken: &[String], lines: &[String]) -> String {
    let mut text = format!("seed {seed} broke:\n  {}\n", broken.join("\n  "));
    let first = lines.iter().position(|line| line.contains("BROKEN")).unwrap_or(lines.len());
    let from = first.saturating_sub(40);
    let to = (first + 10).min(lines.len());
    for line in &lines[from..to] {
        let cut: String = line.chars().take(200).collect();
        let _ = writeln!(text, "  {cut}");
    }
    let _ = writeln!(text, "replay it in full: SIM_SEED={seed} cargo test -p tests --test sim");
    text
}

#[test]
fn the_last_line_promises_nothing_that_a_seed_broke() {
    let mut total = Total::new();
    let promise = "every run still ended with exactly one";

    let held = total.text();
    total.broken.insert(7, vec!["I3".to_owned()]);
    let broken = total.text();

    assert!(held.contains(promise), "{held}");
    assert!(!broken.contains(promise) && broken.contains("1 seeds broke"), "{broken}");
}
