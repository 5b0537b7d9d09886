//! Calls that create or delete: whether one may be sent, decided right before it is, and whether
//! one may still be under way at the API. Every other call needs none of this.

use std::future::Future;

use parking_lot::Mutex;

/// Whether enough of the lease is left.
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

/// The lease is too short for a call that creates or deletes: nothing was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Withheld;

/// One attempt's calls that create or delete.
pub struct ExclusiveCalls<'a> {
    permission: Box<dyn Fn() -> Permission + Send + Sync + 'a>,
    in_flight: Mutex<InFlight>,
}

impl<'a> ExclusiveCalls<'a> {
    /// `permission` is asked right before each call; it must be quick and must not block.
    pub fn new(permission: impl Fn() -> Permission + Send + Sync + 'a) -> Self {
        Self { permission: Box::new(permission), in_flight: Mutex::new(InFlight::Never) }
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
        if (self.permission)() == Permission::Withheld {
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
