//! What a failed create leaves at the API, and how it is cleared away: a name in the API's memory
//! without a row in its database, or a row that never gets into its memory. Deleted there and made
//! again, by the exclusive step alone, and only where a create of ours was claimed for this name,
//! no phone was ever paired with it, and nothing of ours is under way: the claim has waited out the
//! resource's quiet time.

use std::time::Duration;

use super::{
    Attempt, Exclusive,
    create::{create, found},
    healthy, loading,
    presence::{Look, has_loaded, look, phantom_twice},
    said,
};
use crate::{
    outcome::{Class, Outcome},
    whatsapp::evolution::{
        ApiError, ExclusiveEvolution,
        classify::{self, Pairing, Verdict, classify},
    },
};

/// After so many it counts, and a person hears of it.
const DISCARDS: u32 = 3;

/// The pause between two looks at an instance that is not loaded, after the first few.
const BETWEEN_LOOKS: Duration = Duration::from_secs(10);
const QUICK_LOOKS: u32 = 3;

/// The API's memory has the name and no list has.
pub(super) async fn phantom(attempt: &mut Exclusive<'_, impl ExclusiveEvolution>) -> Result<Outcome, ApiError> {
    let Attempt { api, given, settings, .. } = *attempt;
    let name = &given.instance;
    if !given.created_before {
        return Ok(loading(format!("\"{name}\" is in the API's memory and not in its database")));
    }
    Ok(match phantom_twice(&**api, given, &settings.timings).await? {
        Look::Phantom => discard(attempt, "in the API's memory and not in its database").await,
        Look::There(row) => found(given, row),
        Look::NotLoaded => loading(format!("instance \"{name}\" is being loaded or deleted")),
        Look::Absent => create(attempt).await,
    })
}

/// The API's database has the instance and its memory has not. That is waited for; once a load
/// would have ended, what is ours and was never paired is made again. No call loads one: 2.3.6 and
/// 2.3.7 answer a `connect` for a name that is not in memory with `{"error":true}`.
pub(super) async fn not_loaded(attempt: &mut Exclusive<'_, impl ExclusiveEvolution>) -> Result<Outcome, ApiError> {
    let Attempt { api, given, .. } = *attempt;
    let name = &given.instance;
    let (too_long, outcome) = wait_for_load(attempt);
    if !too_long || !given.created_before || given.paired_before || !has_loaded(&**api, name).await? {
        return Ok(outcome);
    }
    Ok(match api.roster().await?.get(name) {
        Some(row) if row.pairing == Pairing::NotYet && row.token.as_ref() == Some(&given.token) => {
            discard(attempt, "in the API's database and was never loaded").await
        }
        _ => outcome,
    })
}

/// Counts one more look that found the instance not loaded. Answers whether that lasts longer than
/// any load takes, and the outcome for where nothing can be done about it.
pub(super) fn wait_for_load<A>(attempt: &mut Attempt<'_, A>) -> (bool, Outcome) {
    let Attempt { given, settings, ref mut counts, .. } = *attempt;
    let (name, loading) = (&given.instance, settings.timings.loading);
    counts.not_loaded = counts.not_loaded.saturating_add(1);
    let slow = counts.not_loaded.saturating_sub(QUICK_LOOKS);
    let too_long = BETWEEN_LOOKS * slow > loading;
    let text = match too_long {
        false => {
            format!("instance \"{name}\" is in the API's database and not loaded yet: it is waited for, uncounted")
        }
        true => format!(
            "instance \"{name}\" is in the API's database, and the API has not loaded it for over {loading:?}: a restart of \
             the API loads it; it is waited for, uncounted"
        ),
    };
    let after = (slow > 0).then_some(BETWEEN_LOOKS);
    (too_long, Outcome::Defer { failure: healthy(Class::Loading, text), after })
}

/// Deletes what stands there under this name, and makes the instance.
async fn discard(attempt: &mut Exclusive<'_, impl ExclusiveEvolution>, what: &str) -> Outcome {
    let Attempt { api, given, settings, ref mut counts, .. } = *attempt;
    let name = &given.instance;
    if counts.discards >= DISCARDS {
        let text = format!(
            "instance \"{name}\" is {what}, although it was deleted there and made again {DISCARDS} times: a person must look \
             at the API's log, and restart the API"
        );
        return Outcome::Retry(healthy(Class::Loading, text));
    }
    let discarded = api.discard(name).await;
    if let Err(error) = &discarded
        && classify::never_left(error)
    {
        return classify::outcome(error, name);
    }
    counts.discards += 1;
    // The API's guard does not know a row that is not loaded. A create clears such a row away, in
    // failing.
    if let Err(error) = discarded
        && classify(&error, name) != Verdict::Absent
    {
        let failure = classify::failure(&error, name).and(&format!("\"{name}\" was to be deleted: it is {what}"));
        return Outcome::Defer { failure, after: None };
    }
    // The API answers before it has done it.
    api.pause(settings.timings.quiet.max(settings.timings.gone_after)).await;
    let outcome = match look(&**api, given).await {
        Ok(Look::Absent | Look::NotLoaded) => create(attempt).await,
        Ok(Look::There(row)) => return found(given, row),
        Ok(Look::Phantom) => loading(format!("instance \"{name}\" is {what}, and is being deleted there")),
        Err(error) => classify::outcome(&error, name),
    };
    said(outcome, &format!("an earlier create had left it {what}: deleted there and made again"))
}
