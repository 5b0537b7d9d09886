//! Each guard of the protocol is taken away once, and the simulator must miss it.

use std::io::Write;

use tests::ledger::Safeguard;

use crate::{
    log::Keep,
    plan::{Plan, Removed},
    simulate::simulate,
};

/// How many seeds a guard may be missing before somebody notices.
const SEEDS: u64 = 2_000;

#[test]
fn every_guard_is_needed() {
    let mut all: Vec<_> = Safeguard::ALL.into_iter().map(Removed::Ledger).collect();
    all.extend([Removed::Scan, Removed::DatabasesWord, Removed::Discard]);
    let mut table = String::from("guard removed        seed  what breaks\n");
    let mut unmissed = Vec::new();

    for removed in all {
        let guard = match removed {
            Removed::Ledger(safeguard) => format!("{safeguard:?}"),
            Removed::Scan | Removed::DatabasesWord | Removed::Discard => format!("{removed:?}"),
        };
        let plans = (0..SEEDS).map(|seed| Plan { removed: Some(removed), ..Plan::of(seed) });
        let broken = plans.map(|plan| simulate(plan, Keep::Counts)).find(|report| !report.broken.is_empty());
        match broken {
            Some(report) => table.push_str(&format!("{guard:<20} {:>4}  {}\n", report.seed, report.broken[0])),
            None => unmissed.push(guard),
        }
    }

    std::io::stdout().write_all(table.as_bytes()).unwrap();
    assert!(unmissed.is_empty(), "{SEEDS} seeds do not miss {unmissed:?}");
}
