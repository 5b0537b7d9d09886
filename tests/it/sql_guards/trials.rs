//! Every guard is taken away. Beforehand the same behaviours hold with every guard in place: else
//! their failing would mean nothing.

use std::{
    collections::BTreeSet,
    io::Write,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use super::{
    Guard, NONE, guards,
    trial::{Verdict, let_trials_be_quiet, try_out},
};

/// A behaviour, on a ledger that lacks this guard, or none.
type Trial = (Option<&'static Guard>, &'static str);

#[test]
fn every_guard_of_the_sql_is_needed() {
    let guards: Vec<&'static Guard> = guards().collect();
    let behaviours: BTreeSet<_> = guards.iter().flat_map(|guard| guard.missed_by).copied().collect();
    let sound: Vec<Trial> = behaviours.into_iter().map(|behaviour| (None, behaviour)).collect();
    let lacking: Vec<Trial> =
        guards.iter().flat_map(|guard| guard.missed_by.iter().map(|behaviour| (Some(*guard), *behaviour))).collect();

    let_trials_be_quiet();

    let unsound = faults(&try_all(&sound), |verdict| *verdict == Verdict::Holds);
    assert!(unsound.is_empty(), "with every guard in place these do not hold:{unsound}");
    let tried = try_all(&lacking);

    say(&table(&tried));
    let unmissed = faults(&tried, |verdict| matches!(verdict, Verdict::Breaks(_)));
    assert!(unmissed.is_empty(), "these guards are not missed:{unmissed}");
}

const ITS_MOMENT: Guard = Guard {
    name: "a guard to try the trials with",
    within: "claim",
    clause: "\n          and due.due_at <= now()",
    missed_by: &["a_claim_before_its_moment_takes_nothing"],
    ..NONE
};

#[test]
fn a_guard_is_missed_only_where_one_was_taken_away() {
    static TAKEN: Guard = ITS_MOMENT;
    static GONE: Guard = Guard { clause: "and due.due_at < now()", ..ITS_MOMENT };
    static TWICE: Guard = Guard { clause: "and due.due_at <= now()", ..ITS_MOMENT };
    static NOWHERE: Guard = Guard { within: "unclaim", ..ITS_MOMENT };
    static STILL_THERE: Guard = Guard { instead: "\n          and due.due_at <= now()", ..ITS_MOMENT };
    static NO_SQL: Guard = Guard { instead: "\n      and duly", ..ITS_MOMENT };
    let_trials_be_quiet();

    let verdict = |guard: &'static Guard| try_out(Some(guard), guard.missed_by[0]);

    for gone in [&GONE, &TWICE, &NOWHERE] {
        assert!(matches!(verdict(gone), Verdict::NotFound(_)), "{gone:?}");
    }
    assert_eq!(verdict(&STILL_THERE), Verdict::Holds);
    assert!(matches!(verdict(&NO_SQL), Verdict::NoSql(why) if why.contains("duly")));
    assert!(matches!(verdict(&TAKEN), Verdict::Breaks(_)));
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

/// Two lines a trial: what was removed, what that keeps, who missed it; and how.
fn table(tried: &[(Trial, Verdict)]) -> String {
    let mut text = format!("{:<40}{:<40}what breaks\n", "guard removed", "it keeps");
    for ((guard, behaviour), verdict) in tried {
        if let (Some(guard), Verdict::Breaks(how)) = (guard, verdict) {
            let how: String = how.trim_start_matches("assertion `left == right` failed").chars().take(120).collect();
            text.push_str(&format!("{:<40}{:<40}{behaviour}\n      {}\n", guard.name, guard.keeps, how.trim()));
        }
    }
    text
}

/// What did not come out as it must, a line each.
fn faults(tried: &[(Trial, Verdict)], right: impl Fn(&Verdict) -> bool) -> String {
    let wrong = tried.iter().filter(|(_, verdict)| !right(verdict));
    wrong
        .map(|((guard, behaviour), verdict)| {
            format!("\n  {}: {behaviour}: {verdict:?}", guard.map_or("every guard", |guard| guard.name))
        })
        .collect()
}

/// Past the test harness, which keeps what is printed from those who pass.
fn say(text: &str) {
    let written = std::io::stdout().write_all(text.as_bytes());
    assert!(written.is_ok(), "cannot print: {written:?}");
}
