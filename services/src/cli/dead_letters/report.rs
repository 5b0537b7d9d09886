//! What became of each of many dead letters.

use std::process::ExitCode;

use serde::Serialize;
use uuid::Uuid;

use super::bulk::Done;
use crate::{
    cli::output::{Column, FAILED, NOTHING_MATCHED, or_dash, table},
    ledger::postgres::read::{Letter, LetterId},
};

/// What is done to dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Action {
    Revive,
    Discard,
}

impl Action {
    pub(super) fn question(self) -> &'static str {
        match self {
            Self::Revive => "Revive the runs of",
            Self::Discard => "Discard for good",
        }
    }

    pub(super) fn past(self) -> &'static str {
        match self {
            Self::Revive => "revived",
            Self::Discard => "discarded",
        }
    }
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    action: Action,
    dry_run: bool,
    /// How many dead letters fit.
    matched: usize,
    /// With `dry_run`: what would be done.
    done: Vec<Item>,
    skipped: Vec<Item>,
    failed: Vec<Item>,
    /// What an interruption, a failure or a "no" left out.
    untried: usize,
    #[serde(skip)]
    named: usize,
}

/// One dead letter.
#[derive(Debug, Serialize)]
struct Item {
    id: Option<i64>,
    run: Option<Uuid>,
    step: Option<String>,
    /// Why it was not done.
    why: Option<String>,
}

impl Item {
    fn of(letter: &Letter, why: Option<String>) -> Self {
        Self { id: Some(letter.id), run: Some(letter.run), step: Some(letter.step.clone()), why }
    }

    fn missing(id: &LetterId) -> Self {
        let (id, run) = match id {
            LetterId::Number(number) => (Some(*number), None),
            LetterId::Run(run) => (None, Some(run.uuid())),
        };
        Self { id, run, step: None, why: Some("there is no such dead letter".to_owned()) }
    }
}

impl Report {
    /// Before anything is tried. `named`: by id; none where a filter chose.
    pub(super) fn new(action: Action, dry_run: bool, letters: &[Letter], named: &[LetterId]) -> Self {
        let is_there = |id: &LetterId| match id {
            LetterId::Number(number) => letters.iter().any(|letter| letter.id == *number),
            LetterId::Run(run) => letters.iter().any(|letter| letter.run == run.uuid()),
        };
        let skipped = named.iter().filter(|id| !is_there(id)).map(Item::missing).collect();
        let (matched, named) = (letters.len(), named.len());
        Self { action, dry_run, matched, done: Vec::new(), skipped, failed: Vec::new(), untried: matched, named }
    }

    pub(super) fn take(&mut self, letter: &Letter, done: Done) {
        self.untried -= 1;
        match done {
            Ok(()) => self.done.push(Item::of(letter, None)),
            Err(why) => self.skipped.push(Item::of(letter, Some(why))),
        }
    }

    pub(super) fn fail(&mut self, letter: &Letter, error: String) {
        self.untried -= 1;
        self.failed.push(Item::of(letter, Some(error)));
    }

    /// With a filter, what somebody else did meanwhile is no failure; what was named and not done
    /// is one.
    pub(super) fn exit_code(&self) -> ExitCode {
        let unmet = self.named > 0 && !self.skipped.is_empty();
        match self.matched {
            0 => ExitCode::from(NOTHING_MATCHED),
            _ if unmet || !self.failed.is_empty() || self.untried > 0 => ExitCode::from(FAILED),
            _ => ExitCode::SUCCESS,
        }
    }

    pub(super) fn describe(&self) -> String {
        let did = match self.dry_run {
            true => format!("would be {}", self.action.past()),
            false => self.action.past().to_owned(),
        };
        let results = [(did.as_str(), &self.done), ("skipped", &self.skipped), ("failed", &self.failed)];
        let rows: Vec<_> =
            results.iter().flat_map(|(result, items)| items.iter().map(move |item| (item, *result))).collect();
        let [done, skipped, failed] = results.map(|(_, items)| items.len());
        let mut sum = format!("{done} {did}, {skipped} skipped, {failed} failed");
        if self.untried > 0 {
            sum.push_str(&format!(", {} not tried", self.untried));
        }
        if rows.is_empty() {
            return if self.untried == 0 { "no dead letter matches".to_owned() } else { sum };
        }
        let columns: &[Column<(&Item, &str)>] = &[
            ("ID", |(item, _)| or_dash(item.id)),
            ("RUN", |(item, _)| or_dash(item.run)),
            ("STEP", |(item, _)| or_dash(item.step.as_deref())),
            ("RESULT", |(_, result)| (*result).to_owned()),
            ("WHY", |(item, _)| or_dash(item.why.as_deref())),
        ];
        format!("{}\n{sum}", table(&rows, columns))
    }
}
