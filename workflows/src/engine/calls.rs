//! Calls that create or delete: whether one may be sent, decided right before it is, and whether
//! one may still be under way at the API. Every other call needs none of this.

use std::future::Future;

use parking_lot::Mutex;

use super::workflow::Boxed;

/// Whether the lease is known to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permission {
    Granted,
    Withheld,
}

/// What is known of the calls that one attempt sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InFlight {
    /// None was sent.
    Never,
    /// One was sent, and its final answer has not come (yet, or ever): it may be under way.
    Unknown,
    /// Each that was sent has its final answer.
    Landed,
}

/// How one call ended, as far as the API's part in it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallEnd {
    /// It was never sent.
    NotSent,
    /// The API has finished with it.
    Final,
    /// Only our waiting has ended.
    Unknown,
}

/// The lease is not known to hold for long enough for a call that creates or deletes: nothing was
/// sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Withheld;

/// Says whether a call may be sent now.
pub trait Permit: Send + Sync {
    fn permission(&self) -> Boxed<'_, Permission>;
}

/// Always the same: for tests of a workflow.
impl Permit for Permission {
    fn permission(&self) -> Boxed<'_, Permission> {
        Box::pin(std::future::ready(*self))
    }
}

/// One attempt's calls that create or delete.
pub struct ExclusiveCalls<'a> {
    permit: &'a dyn Permit,
    in_flight: Mutex<InFlight>,
}

impl<'a> ExclusiveCalls<'a> {
    /// `permit` is asked right before each call.
    pub fn new(permit: &'a dyn Permit) -> Self {
        Self { permit, in_flight: Mutex::new(InFlight::Never) }
    }

    /// Whether a call may still be under way. A call that was dropped in the middle counts as under
    /// way.
    pub fn in_flight(&self) -> InFlight {
        *self.in_flight.lock()
    }

    /// Sends `call` where the lease allows it. `end` judges its result.
    pub async fn send<T>(
        &self,
        call: impl Future<Output = T> + Send,
        end: impl FnOnce(&T) -> CallEnd,
    ) -> Result<T, Withheld> {
        if self.permit.permission().await == Permission::Withheld {
            return Err(Withheld);
        }
        let before = std::mem::replace(&mut *self.in_flight.lock(), InFlight::Unknown);
        let result = call.await;
        let after = match end(&result) {
            CallEnd::NotSent => before,
            CallEnd::Unknown => InFlight::Unknown,
            // One that landed says nothing about an earlier one that did not.
            CallEnd::Final if before == InFlight::Unknown => before,
            CallEnd::Final => InFlight::Landed,
        };
        *self.in_flight.lock() = after;
        Ok(result)
    }
}
