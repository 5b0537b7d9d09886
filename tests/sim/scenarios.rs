//! Recorded runs as tests, one a file: `sluice runs export ID > tests/sim/scenarios/<what went
//! wrong>.json` adds one.

use std::{io::Write, path::Path};

use sluice::ledger::scenario::{FORMAT, Scenario};

use crate::{log::Keep, plan::Plan, simulate::simulate};

#[test]
fn every_recorded_run_ends_as_it_must() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("sim/scenarios");
    let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{} holds no scenario", folder.display());

    for file in files {
        let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&file).unwrap();
        let scenario: Scenario = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        replay(&name, scenario);
        writeln!(std::io::stdout(), "scenario {name} ... ok").unwrap();
    }
}

/// The run meets what was recorded, attempt by attempt, and no invariant breaks.
fn replay(name: &str, scenario: Scenario) {
    assert_eq!(scenario.format, FORMAT, "{name} is of another format: export the run again");
    let recorded: Vec<_> = scenario.attempts.iter().map(|met| (met.step.to_string(), met.outcome.clone())).collect();

    let report = simulate(Plan::replaying(scenario.clone()), Keep::Lines);

    let trace = report.lines.join("\n");
    assert_eq!(report.broken, Vec::<String>::new(), "{name}\n{trace}");
    let met: Vec<_> = report.attempts.iter().take(recorded.len()).cloned().collect();
    assert_eq!(met, recorded, "{name} went otherwise\n{trace}");
    assert_eq!(report.states, [scenario.state], "{name}\n{trace}");
}
