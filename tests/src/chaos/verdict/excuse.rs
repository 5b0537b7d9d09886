//! What only a frozen worker explains: calls for a name whose create that very worker had in hand
//! while it stood still, and what became of such a name. Everybody else's overlap is a violation,
//! whoever stood still at that moment.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use sqlx::PgConnection;

use crate::{
    chaos::record::Frozen,
    evolution::{Clash, Destroyed},
};

/// What a process that was frozen had in hand goes out within this of its waking, also on a busy
/// machine.
const AFTER_WAKING: Duration = Duration::from_secs(2);

/// By name: when, in the API's time, a frozen worker may have met somebody there.
#[derive(Debug, Default)]
pub(super) struct Excuses(BTreeMap<String, Vec<RangeInclusive<Duration>>>);

impl Excuses {
    /// What these workers had in hand, by the attempts that the ledger knows of.
    pub async fn read(session: &mut PgConnection, freezes: &[Frozen]) -> Result<Self> {
        let mut excuses = Self::default();
        for frozen in freezes {
            let names: Vec<String> = sqlx::query_scalar(include_str!("in_hand.sql"))
                .bind(frozen.pid.to_string())
                .bind(seconds(frozen.from.wall))
                .bind(seconds(frozen.to.wall))
                .fetch_all(&mut *session)
                .await
                .context("read what a frozen worker had in hand")?;
            for name in names {
                excuses.0.entry(name).or_default().push(frozen.from.api..=frozen.to.api + AFTER_WAKING);
            }
        }
        Ok(excuses)
    }

    pub fn explains(&self, name: &str, at: Duration) -> bool {
        self.0.get(name).is_some_and(|times| times.iter().any(|time| time.contains(&at)))
    }

    /// Calls that a frozen worker explains, and those that nothing does.
    pub fn sort<'a>(&self, clashes: impl Iterator<Item = &'a Clash>) -> Sorted {
        let (explained, unexplained) = clashes.cloned().partition(|clash| self.explains(&clash.name, clash.at));
        Sorted { explained, unexplained }
    }
}

/// Calls for one name that met.
#[derive(Debug, Default)]
pub(super) struct Sorted {
    pub explained: Vec<Clash>,
    pub unexplained: Vec<Clash>,
}

impl Sorted {
    /// The names that the known hole has touched.
    pub fn touched(&self) -> BTreeSet<&str> {
        self.explained.iter().map(|clash| clash.name.as_str()).collect()
    }

    /// Whether the known hole took this instance: a call that it explains had met it before.
    pub fn took(&self, destroyed: &Destroyed) -> bool {
        self.explained.iter().any(|clash| clash.name == destroyed.name && clash.at <= destroyed.at)
    }
}

fn seconds(moment: SystemTime) -> f64 {
    moment.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
