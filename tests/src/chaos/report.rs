//! What a scenario ends with, and the table of several: faults injected × invariants.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Fault, Scenario, stage::Stage, verdict::Verdict};

#[derive(Debug, Serialize)]
pub struct Report {
    pub scenario: Scenario,
    pub seed: u64,
    pub users: u32,
    #[serde(flatten)]
    pub verdict: Verdict,
    pub faults: BTreeMap<Fault, u32>,
    /// Processes that ended without having been killed.
    pub ended_by_themselves: u32,
    pub notes: Vec<String>,
    /// What the scenario promises beside the invariants, and did not keep.
    pub broken: Vec<String>,
}

impl Report {
    pub(super) async fn of(scenario: Scenario, seed: u64, users: u32, stage: &Stage) -> anyhow::Result<Self> {
        let mut report = Self {
            scenario,
            seed,
            users,
            verdict: Verdict::read(stage).await?,
            faults: stage.record.counts(),
            ended_by_themselves: stage.record.processes_that_ended(),
            notes: Vec::new(),
            broken: Vec::new(),
        };
        let twice = report.verdict.twice;
        report.expect(twice == 0, || format!("{twice} users have more than one 201"));
        Ok(report)
    }

    /// What a scenario promises beside the invariants.
    pub(super) fn expect(&mut self, kept: bool, otherwise: impl FnOnce() -> String) {
        if !kept {
            self.broken.push(otherwise());
        }
    }

    pub(super) fn expect_all_ready(&mut self) {
        let (ready, users) = (self.verdict.ready, self.users);
        self.expect(ready == users as usize, || format!("{ready} of {users} users are ready"));
    }

    pub(super) fn expect_no_create_of_existing(&mut self) {
        let unexplained = self.verdict.creates_of_existing;
        self.expect(unexplained == 0, || format!("{unexplained} create calls for a name that existed"));
    }

    /// Attempts that counted as failures of their step.
    pub(super) fn failures(&self) -> i64 {
        self.verdict.attempts.iter().filter(|(ended, _)| ended.starts_with("failed")).map(|(_, count)| count).sum()
    }

    pub fn held(&self) -> bool {
        self.broken.is_empty() && self.verdict.violations.values().all(Vec::is_empty)
    }
}

/// Scenarios side by side.
pub fn markdown(reports: &[Report]) -> String {
    let mut table = Table { reports, text: String::new() };
    table.row("", |report| format!("`{}`", report.scenario));
    table.text.push_str(&format!("|---|{}\n", "---:|".repeat(reports.len())));
    table.row("users", |report| report.users.to_string());
    for fault in Fault::ALL {
        if reports.iter().any(|report| report.faults.contains_key(&fault)) {
            table.row(&fault.to_string(), |report| number(report.faults.get(&fault).copied().unwrap_or_default()));
        }
    }
    table.row("leases that expired", |report| number(report.verdict.leases_expired));
    for name in super::verdict::INVARIANTS {
        table.row(&format!("**{name}**"), |report| held(report.verdict.violations.get(name).map_or(0, Vec::len)));
    }
    table.row("ready", |report| report.verdict.ready.to_string());
    table.row("dead letters", |report| dead(&report.verdict.dead));
    table.row("lost", |report| report.verdict.lost.to_string());
    table.row("twice (more than one 201)", |report| report.verdict.twice.to_string());
    table.row("creates of a name that existed", |report| report.verdict.creates_of_existing.to_string());
    table.row("overlaps of a frozen worker", |report| report.verdict.overlaps_of_frozen.to_string());
    table.row("first sign-up to last ready", |report| format!("{:.1} s", report.verdict.seconds));
    table.row("time to recover", |report| {
        report.verdict.recovered_after.map_or_else(|| "–".to_owned(), |seconds| format!("{seconds:.1} s"))
    });
    table.row("verdict", |report| if report.held() { "held" } else { "**broken**" }.to_owned());
    table.text
}

struct Table<'a> {
    reports: &'a [Report],
    text: String,
}

impl Table<'_> {
    fn row(&mut self, name: &str, cell: impl Fn(&Report) -> String) {
        let cells: Vec<String> = self.reports.iter().map(cell).collect();
        self.text.push_str(&format!("| {name} | {} |\n", cells.join(" | ")));
    }
}

fn number(count: impl Into<i64>) -> String {
    match count.into() {
        0 => "–".to_owned(),
        count => count.to_string(),
    }
}

fn held(violations: usize) -> String {
    match violations {
        0 => "held".to_owned(),
        count => format!("**{count} ×**"),
    }
}

fn dead(dead: &BTreeMap<String, i64>) -> String {
    let reasons: Vec<String> = dead.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    if reasons.is_empty() { "0".to_owned() } else { reasons.join(", ") }
}
