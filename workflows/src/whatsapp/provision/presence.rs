//! Whether an instance is there. The API answers most questions from its memory, and for a minute
//! after a restart its memory lacks instances that its database has: a create for such a name
//! destroys it. So "absent" is only what the database says.

use super::Timings;
use crate::whatsapp::{
    evolution::{
        ApiError, Evolution, Listed, Own,
        classify::{Verdict, classify},
    },
    names::InstanceName,
    provision::Given,
};

/// What one look at the API says.
#[derive(Debug)]
pub(super) enum Look {
    /// In the list, with its token.
    There(Listed),
    /// In the API's database and not in its memory: being loaded or deleted, or left so by a load
    /// that failed.
    NotLoaded,
    /// In the API's memory, with a state, and in no list: a create that failed halfway left it,
    /// without a row in the database. It answers 403 to every create.
    Phantom,
    /// Neither the memory nor the database knows it.
    Absent,
}

/// A look at the API's memory, and at its database where the API asks that by itself. Its `Absent`
/// is no proof.
pub(super) async fn glance(api: &impl Evolution, name: &InstanceName) -> Result<Look, ApiError> {
    // A 404 comes from the API's memory, an empty list from its database.
    let without_row = match api.fetch(name).await {
        Ok(Some(row)) => return Ok(Look::There(row)),
        Ok(None) => Look::Phantom,
        Err(error) if classify(&error, name) == Verdict::Absent => Look::NotLoaded,
        Err(error) => return Err(error),
    };
    match api.connection_state(name).await {
        Ok(None) => Ok(Look::NotLoaded),
        Ok(Some(_)) => Ok(without_row),
        Err(error) if classify(&error, name) == Verdict::Absent => Ok(Look::Absent),
        Err(error) => Err(error),
    }
}

/// One look whose `Absent` the API's database has said: before a create, and before an instance
/// counts as gone.
pub(super) async fn look(api: &impl Evolution, given: &Given) -> Result<Look, ApiError> {
    match glance(api, &given.instance).await? {
        Look::Absent => ask_the_database(api, given).await,
        seen => Ok(seen),
    }
}

/// With its cache of instances switched on, the API's guard never asks the database; only these two
/// questions reach it. The cheap one first: a row with our token that is not loaded. It cannot say
/// "none": the API gives the same answer where its database is away.
async fn ask_the_database(api: &impl Evolution, given: &Given) -> Result<Look, ApiError> {
    match api.fetch_own(&given.instance, &given.token).await? {
        Own::Loaded(row) => return Ok(Look::There(row)),
        Own::NotLoaded => return Ok(Look::NotLoaded),
        Own::NoSuchRow => {}
    }
    let is_listed = api.roster().await?.get(&given.instance).is_some();
    Ok(if is_listed { Look::NotLoaded } else { Look::Absent })
}

/// Whether the instance is gone: absent twice, some seconds apart, and the second time by its
/// database's word. Else what the last look saw.
pub(super) async fn look_twice(api: &impl Evolution, given: &Given, timings: &Timings) -> Result<Look, ApiError> {
    match glance(api, &given.instance).await? {
        Look::Absent => {
            api.pause(timings.gone_after).await;
            look(api, given).await
        }
        seen => Ok(seen),
    }
}

/// Whether the instance is in the API's memory without a row: seen twice, some seconds apart, and
/// no row by its database's word. Else what the last look saw.
pub(super) async fn phantom_twice(api: &impl Evolution, given: &Given, timings: &Timings) -> Result<Look, ApiError> {
    api.pause(timings.gone_after).await;
    let seen = glance(api, &given.instance).await?;
    if !matches!(seen, Look::Phantom | Look::Absent) {
        return Ok(seen);
    }
    Ok(match ask_the_database(api, given).await? {
        Look::Absent => seen,
        known => known,
    })
}

/// How many other instances are asked about.
const SAMPLE: usize = 8;

/// Whether the API has loaded what it loads: at least half of the others that stand in its list are
/// in its memory. Not all of them, since what strands one instance strands others with it.
pub(super) async fn has_loaded(api: &impl Evolution, name: &InstanceName) -> Result<bool, ApiError> {
    let others = api.roster().await?.others(name, SAMPLE);
    let mut loaded = 0;
    for other in &others {
        match api.connection_state(other).await {
            Ok(state) => loaded += usize::from(state.is_some()),
            Err(error) if classify(&error, other) == Verdict::Absent => {}
            Err(error) => return Err(error),
        }
    }
    Ok(loaded * 2 >= others.len())
}
