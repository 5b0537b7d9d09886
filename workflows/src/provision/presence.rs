//! Whether an instance is there. A single 404 is no proof: while the API starts, the list misses instances that exist, and
//! while it deletes, a name is taken that the list misses.

use super::Timings;
use crate::{
    evolution::{
        ApiError, Evolution, Listed,
        classify::{Verdict, classify},
    },
    ids::InstanceName,
};

/// What one look at the API says.
#[derive(Debug)]
pub(super) enum Look {
    /// In the list, with its token.
    There(Listed),
    /// Not in the list, yet the API knows the name: being loaded or deleted.
    Loading,
    /// Neither the list nor the memory knows it.
    Absent,
    /// The question got no answer.
    Unclear(ApiError),
}

/// One look: the list, and where that misses the instance, the memory.
pub(super) async fn look(api: &impl Evolution, name: &InstanceName) -> Look {
    match api.fetch(name).await {
        Ok(Some(row)) => return Look::There(row),
        Ok(None) => {}
        Err(error) if classify(&error, name) == Verdict::Absent => {}
        Err(error) => return Look::Unclear(error),
    }
    match api.connection_state(name).await {
        Ok(_) => Look::Loading,
        Err(error) if classify(&error, name) == Verdict::Absent => Look::Absent,
        Err(error) => Look::Unclear(error),
    }
}

/// Whether the instance is gone: absent twice, some seconds apart. Else what the last look saw.
pub(super) async fn look_twice(api: &impl Evolution, name: &InstanceName, timings: &Timings) -> Look {
    match look(api, name).await {
        Look::Absent => {
            api.pause(timings.gone_after).await;
            look(api, name).await
        }
        seen => seen,
    }
}
