//! An `Evolution` whose `create`, `delete` and `discard` go through the attempt's exclusive calls. Every other call passes through.

use std::{future::Future, sync::Arc, time::Duration};

use super::{
    ApiError, ApiState, Call, Connect, Created, ErrorKind, Evolution, Listed, Own, Rabbitmq, Roster, StoredWebhook,
    Version, Webhook, classify,
};
use crate::{
    calls::{CallEnd, ExclusiveCalls, Withheld},
    secret::Secret,
    whatsapp::names::InstanceName,
};

/// The API as one attempt may use it.
pub struct Guarded<'a, C> {
    api: C,
    calls: &'a ExclusiveCalls<'a>,
}

impl<'a, C: Evolution> Guarded<'a, C> {
    pub fn new(api: C, calls: &'a ExclusiveCalls<'a>) -> Self {
        Self { api, calls }
    }

    async fn send<T: Send>(
        &self,
        call: Call,
        sent: impl Future<Output = Result<T, ApiError>> + Send,
    ) -> Result<T, ApiError> {
        let sent = self.calls.send(sent, |result| result.as_ref().map_or_else(call_end, |_| CallEnd::Final)).await;
        sent.unwrap_or_else(|Withheld| Err(ApiError { call, kind: ErrorKind::Withheld }))
    }
}

fn call_end(error: &ApiError) -> CallEnd {
    match error {
        error if classify::never_left(error) => CallEnd::NotSent,
        error if classify::is_final(error) => CallEnd::Final,
        _ => CallEnd::Unknown,
    }
}

impl<C: Evolution> Evolution for Guarded<'_, C> {
    async fn create(&self, name: &InstanceName, token: &Secret) -> Result<Created, ApiError> {
        self.send(Call::Create, self.api.create(name, token)).await
    }

    fn fetch(&self, name: &InstanceName) -> impl Future<Output = Result<Option<Listed>, ApiError>> + Send {
        self.api.fetch(name)
    }

    fn fetch_own(&self, name: &InstanceName, token: &Secret) -> impl Future<Output = Result<Own, ApiError>> + Send {
        self.api.fetch_own(name, token)
    }

    fn roster(&self) -> impl Future<Output = Result<Arc<Roster>, ApiError>> + Send {
        self.api.roster()
    }

    fn connection_state(&self, name: &InstanceName) -> impl Future<Output = Result<Option<ApiState>, ApiError>> + Send {
        self.api.connection_state(name)
    }

    fn connect(&self, name: &InstanceName, within: Duration) -> impl Future<Output = Result<Connect, ApiError>> + Send {
        self.api.connect(name, within)
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

    fn set_rabbitmq(
        &self,
        name: &InstanceName,
        rabbitmq: &Rabbitmq,
    ) -> impl Future<Output = Result<Rabbitmq, ApiError>> + Send {
        self.api.set_rabbitmq(name, rabbitmq)
    }

    fn find_rabbitmq(&self, name: &InstanceName) -> impl Future<Output = Result<Option<Rabbitmq>, ApiError>> + Send {
        self.api.find_rabbitmq(name)
    }

    fn has_settings(&self, name: &InstanceName) -> impl Future<Output = Result<bool, ApiError>> + Send {
        self.api.has_settings(name)
    }

    fn set_settings(&self, name: &InstanceName) -> impl Future<Output = Result<(), ApiError>> + Send {
        self.api.set_settings(name)
    }

    async fn delete(&self, name: &InstanceName, token: &Secret) -> Result<(), ApiError> {
        self.send(Call::Delete, self.api.delete(name, token)).await
    }

    async fn discard(&self, name: &InstanceName) -> Result<(), ApiError> {
        self.send(Call::Discard, self.api.discard(name)).await
    }

    fn version(&self) -> impl Future<Output = Result<Version, ApiError>> + Send {
        self.api.version()
    }

    fn database(&self) -> impl Future<Output = Result<(), ApiError>> + Send {
        self.api.database()
    }

    fn verify_creds(&self) -> impl Future<Output = Result<(), ApiError>> + Send {
        self.api.verify_creds()
    }

    fn pause(&self, duration: Duration) -> impl Future<Output = ()> + Send {
        self.api.pause(duration)
    }

    fn elapsed(&self) -> Duration {
        self.api.elapsed()
    }
}
