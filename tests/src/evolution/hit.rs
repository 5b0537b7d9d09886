//! The quirks and faults that a call can meet, by name, and how often each was met.

use std::collections::BTreeMap;

/// A quirk or fault that a call met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hit {
    CreateRaceForeignKey,
    CreateRaceNoMemory,
    CreateDestroyedOther,
    CreateDestroyedAnswered,
    NameBeforeKey,
    CreateWaited,
    ConnectWaited,
    QrNotReady,
    NameUndefined,
    DeleteAnsweredEarly,
    DeleteRepeated,
    DeleteDestroyedNewer,
    CreateWhileLeaving,
    DeadHookDelay,
    HalfMade,
    NotLoadedState,
    NotLoadedFetch,
    NotLoadedFind,
    NotLoadedSet,
    NotLoadedCreate,
    NotLoadedHidden,
    QueryOverride,
    DatabaseCheckFailed,
    DatabaseCreateFailed,
    DatabaseLeftRow,
    DatabaseLeftRowUnloaded,
    PhantomLeft,
    DatabaseTokenRefused,
    DatabaseCallFailed,
    FaultLatency,
    FaultError,
    FaultDropBeforeWork,
    FaultDropAfterWork,
    FaultHang,
    FaultRetryAfterSeconds,
    FaultRetryAfterDate,
    OutageRefuse,
    OutageHang,
    OutageError,
    OutagePage,
    OutageUnlicensed,
    Killed,
    Down,
    ClientGone,
}

/// In the order of the enum, which `hits_are_named_in_order` holds to.
const HITS: [(Hit, &str); 44] = [
    (Hit::CreateRaceForeignKey, "quirk.create_race_foreign_key"),
    (Hit::CreateRaceNoMemory, "quirk.create_race_no_memory"),
    (Hit::CreateDestroyedOther, "quirk.create_destroyed_other"),
    (Hit::CreateDestroyedAnswered, "quirk.create_destroyed_answered_201"),
    (Hit::NameBeforeKey, "quirk.name_before_key"),
    (Hit::CreateWaited, "quirk.create_waited"),
    (Hit::ConnectWaited, "quirk.connect_waited"),
    (Hit::QrNotReady, "quirk.qr_not_ready"),
    (Hit::NameUndefined, "quirk.name_undefined"),
    (Hit::DeleteAnsweredEarly, "quirk.delete_answered_early"),
    (Hit::DeleteRepeated, "quirk.delete_repeated"),
    (Hit::DeleteDestroyedNewer, "quirk.delete_destroyed_newer"),
    (Hit::CreateWhileLeaving, "quirk.create_while_leaving"),
    (Hit::DeadHookDelay, "quirk.dead_hook_delay"),
    (Hit::HalfMade, "quirk.half_made"),
    (Hit::NotLoadedState, "quirk.not_loaded.state"),
    (Hit::NotLoadedFetch, "quirk.not_loaded.fetch"),
    (Hit::NotLoadedFind, "quirk.not_loaded.find"),
    (Hit::NotLoadedSet, "quirk.not_loaded.set"),
    (Hit::NotLoadedCreate, "quirk.not_loaded.create"),
    (Hit::NotLoadedHidden, "quirk.not_loaded.hidden_by_cache"),
    (Hit::QueryOverride, "quirk.query_override"),
    (Hit::DatabaseCheckFailed, "quirk.database.name_check_500"),
    (Hit::DatabaseCreateFailed, "quirk.database.create_400"),
    (Hit::DatabaseLeftRow, "quirk.database.left_row"),
    (Hit::DatabaseLeftRowUnloaded, "quirk.database.left_row_unloaded"),
    (Hit::PhantomLeft, "quirk.database.left_phantom"),
    (Hit::DatabaseTokenRefused, "quirk.database.token_401"),
    (Hit::DatabaseCallFailed, "quirk.database.call_500"),
    (Hit::FaultLatency, "fault.latency"),
    (Hit::FaultError, "fault.error"),
    (Hit::FaultDropBeforeWork, "fault.drop_before_work"),
    (Hit::FaultDropAfterWork, "fault.drop_after_work"),
    (Hit::FaultHang, "fault.hang"),
    (Hit::FaultRetryAfterSeconds, "fault.retry_after_seconds"),
    (Hit::FaultRetryAfterDate, "fault.retry_after_date"),
    (Hit::OutageRefuse, "fault.outage_refuse"),
    (Hit::OutageHang, "fault.outage_hang"),
    (Hit::OutageError, "fault.outage_error"),
    (Hit::OutagePage, "fault.outage_page"),
    (Hit::OutageUnlicensed, "fault.outage_unlicensed"),
    (Hit::Killed, "fault.killed_in_call"),
    (Hit::Down, "fault.down"),
    (Hit::ClientGone, "fault.client_gone"),
];

impl Hit {
    pub fn name(self) -> &'static str {
        HITS[self as usize].1
    }
}

#[derive(Clone, Debug)]
pub(super) struct Counts([u64; HITS.len()]);

impl Default for Counts {
    fn default() -> Self {
        Self([0; HITS.len()])
    }
}

impl Counts {
    pub fn add(&mut self, hit: Hit) {
        self.0[hit as usize] += 1;
    }

    pub fn of(&self, hit: Hit) -> u64 {
        self.0[hit as usize]
    }

    /// All of them, those never met with 0.
    pub fn by_name(&self) -> BTreeMap<&'static str, u64> {
        HITS.iter().map(|(hit, name)| (*name, self.of(*hit))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::HITS;

    #[test]
    fn hits_are_named_in_order() {
        for (index, (hit, name)) in HITS.iter().enumerate() {
            assert_eq!(*hit as usize, index, "{name} is out of order");
        }
    }
}
