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

/// Whether the API may still be at work on a call, or on one of all that an attempt sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InFlight {
    /// None was sent.
    Never,
    /// Its final answer has not come (yet, or ever): only our waiting may have ended.
    Unknown,
    /// The API has finished with each that was sent.
    Landed,
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

    /// Of all calls so far. One that was dropped in the middle counts as under way.
    pub fn in_flight(&self) -> InFlight {
        *self.in_flight.lock()
    }

    /// Sends `call` where the lease allows it. `end` judges its result.
    pub async fn send<T>(
        &self,
        call: impl Future<Output = T> + Send,
        end: impl FnOnce(&T) -> InFlight,
    ) -> Result<T, Withheld> {
        if self.permit.permission().await == Permission::Withheld {
            return Err(Withheld);
        }
        let before = std::mem::replace(&mut *self.in_flight.lock(), InFlight::Unknown);
        let result = call.await;
        *self.in_flight.lock() = match end(&result) {
            InFlight::Never => before,
            // One that landed says nothing about an earlier one that did not.
            InFlight::Landed if before == InFlight::Unknown => before,
            end => end,
        };
        Ok(result)
    }
}
