//! Whether each guard still names what there is: its clause in the migrations, and the behaviours
//! that miss it. No database is needed, so every run of the tests sees a clause that has moved;
//! `make mutants` takes the clauses away.

use super::{Guard, NONE, guards};
use crate::{app::migrations, conformance::BEHAVIOURS};

#[test]
fn the_clause_of_every_guard_stands_in_the_migrations_exactly_once() {
    let sql = migrations().concat();

    let moved = guards().filter_map(|guard| {
        let times = times(&sql, guard);
        (times != Some(1)).then(|| format!("\n  {}: in {}: {times:?} times", guard.name, guard.within))
    });

    let moved: String = moved.collect();
    assert!(moved.is_empty(), "bring these clauses in line with the migrations:{moved}");
}

#[test]
fn a_clause_that_moved_is_seen() {
    let sql = migrations().concat();
    let guard = |within, clause| Guard { within, clause, ..NONE };

    let counted = [
        guard("claim", "\n          and due.due_at <= now()"),
        guard("claim", "and due.due_at < now()"),
        guard("claim", "due.due_at"),
        guard("unclaim", "and due.due_at <= now()"),
        guard("gate_now", "(paused_at IS NOT NULL) OR"),
        guard("gate_now", "paused_at IS NULL"),
    ];
    let counted = counted.map(|guard| times(&sql, &guard));

    assert!(counted[2] > Some(1), "{counted:?}");
    assert_eq!(
        [counted[0], counted[1], counted[3], counted[4], counted[5]],
        [Some(1), Some(0), None, Some(1), Some(0)]
    );
}

#[test]
fn every_guard_says_what_it_keeps_and_is_missed_by_behaviours_that_there_are() {
    let sql = migrations().concat();
    for guard in guards() {
        assert!(!guard.keeps.is_empty() && !guard.missed_by.is_empty(), "{guard:?}");
        assert_ne!(guard.clause, guard.instead, "{guard:?} takes nothing away");
        for behaviour in guard.missed_by {
            assert!(BEHAVIOURS.contains(behaviour), "no behaviour is called {behaviour}: {guard:?}");
        }
        // `drop index sluice.…`: what it names is there.
        let dropped = guard.schema.rsplit("sluice.").next().unwrap_or_default();
        assert!(sql.contains(dropped), "{dropped} is in no migration: {guard:?}");
    }
}

/// How often the clause stands in what has it. None: nothing is called so.
fn times(sql: &str, guard: &Guard) -> Option<usize> {
    let function = format!("create or replace function sluice.{}(", guard.within);
    if let Some((_, from)) = sql.rsplit_once(&function) {
        let (body, _) = from.split_once("\n$$;")?;
        return Some(body.matches(guard.clause).count());
    }
    let view = format!("create or replace view sluice.{} as", guard.within);
    let (_, from) = sql.rsplit_once(&view)?;
    let (body, _) = from.split_once(';')?;
    Some(plain(body).matches(&plain(guard.clause)).count())
}

/// Postgres prints a view with other capitals, brackets, spaces and casts than it was written with.
fn plain(sql: &str) -> String {
    let sql = sql.to_lowercase().replace("::text", "");
    sql.chars().filter(|character| !character.is_whitespace() && !matches!(character, '(' | ')')).collect()
}
