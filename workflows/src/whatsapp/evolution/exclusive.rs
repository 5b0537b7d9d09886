//! The API as one attempt may use it: `create`, `delete` and `discard` go through the attempt's
//! exclusive calls. Every other call passes through.

use std::{future::Future, ops::Deref};

use super::{ApiError, Call, Created, ErrorKind, ExclusiveEvolution, classify};
use crate::{
    calls::{ExclusiveCalls, InFlight, Withheld},
    secret::Secret,
    whatsapp::names::InstanceName,
};

/// The API as one attempt may use it. Its own methods stand before those of the API that have the
/// same names.
pub struct ExclusiveApi<'a, C> {
    api: &'a C,
    calls: &'a ExclusiveCalls<'a>,
}

impl<'a, C: ExclusiveEvolution> ExclusiveApi<'a, C> {
    pub fn new(api: &'a C, calls: &'a ExclusiveCalls<'a>) -> Self {
        Self { api, calls }
    }

    pub async fn create(&self, name: &InstanceName, token: &Secret) -> Result<Created, ApiError> {
        self.send(Call::Create, self.api.create(name, token)).await
    }

    pub async fn delete(&self, name: &InstanceName, token: &Secret) -> Result<(), ApiError> {
        self.send(Call::Delete, self.api.delete(name, token)).await
    }

    pub async fn discard(&self, name: &InstanceName) -> Result<(), ApiError> {
        self.send(Call::Discard, self.api.discard(name)).await
    }

    async fn send<T: Send>(
        &self,
        call: Call,
        sent: impl Future<Output = Result<T, ApiError>> + Send,
    ) -> Result<T, ApiError> {
        let sent = self.calls.send(sent, |result| result.as_ref().map_or_else(call_end, |_| InFlight::Landed)).await;
        sent.unwrap_or_else(|Withheld| Err(ApiError { call, kind: ErrorKind::Withheld }))
    }
}

impl<C> Deref for ExclusiveApi<'_, C> {
    type Target = C;

    fn deref(&self) -> &C {
        self.api
    }
}

fn call_end(error: &ApiError) -> InFlight {
    match error {
        error if classify::never_left(error) => InFlight::Never,
        error if classify::is_final(error) => InFlight::Landed,
        _ => InFlight::Unknown,
    }
}
