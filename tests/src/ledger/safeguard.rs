//! The guards of the protocol, each of which a test can take away to see what it is for. Only this
//! ledger can lose one.

use super::ModelLedger;

/// What keeps an invariant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Safeguard {
    /// A claim needs the step's generation, a renewal and a settle its token.
    Fencing,
    /// A step waits while a call that creates or deletes may be under way on its resource.
    SingleFlight,
    /// The leases of a worker that is gone end once nothing that it sent can be under way.
    CallTime,
    /// A crash is counted.
    CrashCount,
    /// A create that was ever claimed is read back before another is sent.
    ReadBack,
    /// A claim meets the gates.
    GateAtClaim,
    /// Of each run one event is under way to the broker.
    EventOrder,
}

impl Safeguard {
    pub const ALL: [Self; 7] = [
        Self::Fencing,
        Self::SingleFlight,
        Self::CallTime,
        Self::CrashCount,
        Self::ReadBack,
        Self::GateAtClaim,
        Self::EventOrder,
    ];
}

impl ModelLedger {
    /// The same rows, guarded by all but one.
    pub fn without(&self, removed: Safeguard) -> Self {
        Self { removed: Some(removed), ..self.clone() }
    }
}
