//! Each guard of the SQL is taken away once, and the suite must miss it. Beforehand the same behaviours hold with every
//! guard in place: else their failing would mean nothing.

mod ends;
mod starts;
mod trial;
mod ways;

use std::{
    collections::BTreeSet,
    io::Write,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use trial::{Verdict, try_out};

/// A guard as the ledger's SQL has it.
#[derive(Debug)]
struct Guard {
    name: &'static str,
    keeps: &'static str,
    /// Text that its statement contains, and no other.
    statement: &'static str,
    clause: &'static str,
    instead: &'static str,
    /// What else guards the same, in the schema: taken away with it.
    schema: &'static str,
    /// Behaviours of the conformance suite, each of which must miss it.
    missed_by: &'static [&'static str],
}

/// What a guard says nothing about.
const NONE: Guard = Guard { name: "", keeps: "", statement: "", clause: "", instead: "", schema: "", missed_by: &[] };

/// A behaviour, on a ledger that lacks this guard, or none.
type Trial = (Option<&'static Guard>, &'static str);

#[test]
fn every_guard_of_the_sql_is_needed() {
    let guards: Vec<&'static Guard> = [starts::GUARDS, ways::GUARDS, ends::GUARDS].into_iter().flatten().collect();
    let behaviours: BTreeSet<_> = guards.iter().flat_map(|guard| guard.missed_by).copied().collect();
    let sound: Vec<Trial> = behaviours.into_iter().map(|behaviour| (None, behaviour)).collect();
    let lacking: Vec<Trial> =
        guards.iter().flat_map(|guard| guard.missed_by.iter().map(|behaviour| (Some(*guard), *behaviour))).collect();

    let broken: Vec<_> = try_all(&sound).into_iter().filter(|(_, verdict)| *verdict != Verdict::Holds).collect();
    assert!(broken.is_empty(), "with every guard in place these do not hold: {broken:#?}");
    let tried = try_all(&lacking);

    say(&table(&tried));
    let faults: Vec<String> = tried
        .iter()
        .filter(|(_, verdict)| !matches!(verdict, Verdict::Breaks(_)))
        .map(|((guard, behaviour), verdict)| {
            format!("{}: {behaviour}: {verdict:?}", guard.map_or("none", |guard| guard.name))
        })
        .collect();
    assert!(faults.is_empty(), "not every guard is missed:\n{}", faults.join("\n"));
}

/// In the order of the trials; two are under way at any moment.
fn try_all(trials: &[Trial]) -> Vec<(Trial, Verdict)> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut tried = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some((guard, behaviour)) = trials.get(number) else { return tried };
            tried.push((number, try_out(*guard, behaviour)));
        }
    };
    let mut tried = thread::scope(|scope| {
        let hands = [scope.spawn(work), scope.spawn(work)];
        hands.into_iter().flat_map(|hand| hand.join().unwrap()).collect::<Vec<_>>()
    });
    tried.sort_unstable_by_key(|(number, _)| *number);
    tried.into_iter().map(|(number, verdict)| (trials[number], verdict)).collect()
}

fn table(tried: &[(Trial, Verdict)]) -> String {
    let mut text = format!("{:<38} {:<40} what breaks\n", "guard removed", "it keeps");
    for ((guard, behaviour), verdict) in tried {
        if let (Some(guard), Verdict::Breaks(how)) = (guard, verdict) {
            let how: String = how.trim_start_matches("assertion `left == right` failed ").chars().take(90).collect();
            text.push_str(&format!("{:<38} {:<40} {behaviour}\n{:80}{how}\n", guard.name, guard.keeps, ""));
        }
    }
    text
}

/// Past the test harness, which keeps what is printed from those who pass.
fn say(text: &str) {
    let written = std::io::stdout().write_all(text.as_bytes());
    assert!(written.is_ok(), "cannot print: {written:?}");
}
