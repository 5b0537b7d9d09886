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
    /// In the API's memory, with a state, and in no list: a create that failed halfway left it, without a row in the database.
    /// It answers 403 to every create, and nothing but a restart of the API or a delete by hand ends it.
    Phantom,
    /// Neither the list nor the memory knows it.
    Absent,
    /// The question got no answer.
    Unclear(ApiError),
}

/// One look: the list, and where that misses the instance, the memory.
pub(super) async fn look(api: &impl Evolution, name: &InstanceName) -> Look {
    // A 404 comes from the API's memory, an empty list from its database.
    let without_row = match api.fetch(name).await {
        Ok(Some(row)) => return Look::There(row),
        Ok(None) => Look::Phantom,
        Err(error) if classify(&error, name) == Verdict::Absent => Look::Loading,
        Err(error) => return Look::Unclear(error),
    };
    match api.connection_state(name).await {
        Ok(None) => Look::Loading,
        Ok(Some(_)) => without_row,
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
