//! Each guard of the SQL is taken away once, and the suite must miss it. The guards stand in the
//! functions and views of the migrations: one without the guard is put in its place, in that
//! trial's own database (`trials`, for `make mutants`). Whether each clause still stands where the
//! table says is seen by every run of the tests (`source`).

mod ends;
mod source;
mod starts;
#[cfg(feature = "mutants")]
mod trial;
#[cfg(feature = "mutants")]
mod trials;
mod ways;

/// A guard as the ledger's SQL has it.
#[derive(Debug)]
struct Guard {
    name: &'static str,
    keeps: &'static str,
    /// The function or view of the schema `sluice` that has it.
    within: &'static str,
    /// What is taken away: it stands there exactly once.
    clause: &'static str,
    instead: &'static str,
    /// What else guards the same, in the schema: taken away with it.
    schema: &'static str,
    /// Behaviours of the conformance suite, each of which must miss it.
    missed_by: &'static [&'static str],
}

/// What a guard says nothing about.
const NONE: Guard = Guard { name: "", keeps: "", within: "", clause: "", instead: "", schema: "", missed_by: &[] };

fn guards() -> impl Iterator<Item = &'static Guard> {
    [starts::GUARDS, ways::GUARDS, ends::GUARDS].into_iter().flatten()
}
