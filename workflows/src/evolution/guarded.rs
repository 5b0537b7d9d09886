//! Decides, right before it is sent, whether a call that creates or deletes may go out, and remembers whether one may still
//! be under way at the API. Every other call passes through.

use std::{
    future::Future,
    sync::atomic::{AtomicU8, Ordering},
    time::Duration,
};

use super::{
    ApiError, ApiState, Call, Connect, Created, ErrorKind, Evolution, Listed, StoredWebhook, Webhook, classify,
};
use crate::{ids::InstanceName, secret::Secret};

/// Whether enough of the lease is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permission {
    Granted,
    Withheld,
}

/// What is known of the calls that create or delete, sent through one `Guarded`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flight {
    /// None was sent.
    None,
    /// One was sent, and its final answer has not come (yet, or ever): it may be under way.
    Unknown,
    /// Each that was sent has its final answer.
    Landed,
}

/// An `Evolution` whose `create` and `delete` ask for permission first.
pub struct Guarded<C, G> {
    api: C,
    permission: G,
    flight: AtomicU8,
}

impl<C: Evolution, G: Fn() -> Permission + Sync> Guarded<C, G> {
    /// `permission` is asked right before each call that creates or deletes; it must be quick and must not block.
    pub fn new(api: C, permission: G) -> Self {
        Self { api, permission, flight: AtomicU8::new(NONE) }
    }

    /// Whether a create or delete may still be under way. A call that was dropped in the middle counts as under way.
    pub fn flight(&self) -> Flight {
        match self.flight.load(Ordering::Acquire) {
            NONE => Flight::None,
            LANDED => Flight::Landed,
            _ => Flight::Unknown,
        }
    }

    async fn send<T>(&self, call: Call, sent: impl Future<Output = Result<T, ApiError>> + Send) -> Result<T, ApiError> {
        if (self.permission)() == Permission::Withheld {
            return Err(ApiError { call, kind: ErrorKind::Withheld });
        }
        let before = self.flight.swap(UNKNOWN, Ordering::AcqRel);
        let result = sent.await;
        let after = match &result {
            Err(error) if classify::never_left(error) => before,
            Err(error) if !classify::is_final(error) => UNKNOWN,
            // One that landed says nothing about an earlier one that did not.
            _ if before == UNKNOWN => UNKNOWN,
            _ => LANDED,
        };
        self.flight.store(after, Ordering::Release);
        result
    }
}

const NONE: u8 = 0;
const UNKNOWN: u8 = 1;
const LANDED: u8 = 2;

impl<C: Evolution, G: Fn() -> Permission + Sync> Evolution for Guarded<C, G> {
    async fn create(&self, name: &InstanceName, token: &Secret) -> Result<Created, ApiError> {
        self.send(Call::Create, self.api.create(name, token)).await
    }

    async fn delete(&self, name: &InstanceName, token: &Secret) -> Result<(), ApiError> {
        self.send(Call::Delete, self.api.delete(name, token)).await
    }

    fn fetch(&self, name: &InstanceName) -> impl Future<Output = Result<Option<Listed>, ApiError>> + Send {
        self.api.fetch(name)
    }

    fn connection_state(&self, name: &InstanceName) -> impl Future<Output = Result<Option<ApiState>, ApiError>> + Send {
        self.api.connection_state(name)
    }

    fn connect(&self, name: &InstanceName) -> impl Future<Output = Result<Connect, ApiError>> + Send {
        self.api.connect(name)
    }

    fn set_webhook(
        &self,
        name: &InstanceName,
        webhook: &Webhook,
    ) -> impl Future<Output = Result<StoredWebhook, ApiError>> + Send {
        self.api.set_webhook(name, webhook)
    }

    fn find_webhook(
        &self,
        name: &InstanceName,
    ) -> impl Future<Output = Result<Option<StoredWebhook>, ApiError>> + Send {
        self.api.find_webhook(name)
    }

    fn verify_creds(&self) -> impl Future<Output = Result<(), ApiError>> + Send {
        self.api.verify_creds()
    }

    fn pause(&self, duration: Duration) -> impl Future<Output = ()> + Send {
        self.api.pause(duration)
    }
}
