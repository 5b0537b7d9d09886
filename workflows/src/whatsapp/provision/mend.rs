//! What a failed create leaves at the API, and how it is cleared away: a name in the API's memory
//! without a row in its database, or a row that never gets into its memory. Deleted there and made
//! again, by the exclusive step alone, and only where a create of ours was claimed for this name,
//! no phone was ever paired with it, and nothing of ours is under way: the claim has waited out the
//! resource's quiet time.

use std::time::Duration;

use super::{
    Attempt, Exclusive,
    create::{create, found},
    loading,
    presence::{Look, has_loaded, look, phantom_twice},
};
use crate::{
    outcome::{Class, Failure, HostSignal, Outcome},
    whatsapp::{
        evolution::{
            ExclusiveEvolution,
            classify::{self, Pairing, Verdict, classify},
        },
        provision::Given,
    },
};

/// After so many it counts, and a person hears of it.
const DISCARDS: u32 = 3;

/// The pause between two looks at an instance that is not loaded, after the first few.
const BETWEEN_LOOKS: Duration = Duration::from_secs(10);
const QUICK_LOOKS: u32 = 3;

/// The API's memory has the name and no list has.
pub(super) async fn phantom(attempt: &mut Exclusive<'_, impl ExclusiveEvolution>) -> Outcome {
    let Attempt { api, given, settings, .. } = *attempt;
    let name = &given.instance;
    if !given.created_before {
        return loading(format!("\"{name}\" is in the API's memory and not in its database"));
    }
    match phantom_twice(&**api, given, &settings.timings).await {
        Look::Phantom => discard(attempt, "in the API's memory and not in its database").await,
        Look::There(row) => found(given, row),
        Look::NotLoaded => loading(format!("instance \"{name}\" is being loaded or deleted")),
        Look::Absent => create(attempt).await,
        Look::Unclear(error) => classify::outcome(&error, name),
    }
}

/// The API's database has the instance and its memory has not. That is waited for; once a load
/// would have ended, what is ours and was never paired is made again. No call loads one: 2.3.6 and
/// 2.3.7 answer a `connect` for a name that is not in memory with `{"error":true}`.
pub(super) async fn not_loaded(attempt: &mut Exclusive<'_, impl ExclusiveEvolution>) -> Outcome {
    let (api, given) = (attempt.api, attempt.given);
    let name = &given.instance;
    let (waiting, outcome) = wait_for_load(attempt);
    if waiting == Waiting::ForALoad || !given.created_before || given.paired_before {
        return outcome;
    }
    let roster = match has_loaded(&**api, name).await {
        Ok(true) => api.roster().await,
        Ok(false) => return outcome,
        Err(error) => return classify::outcome(&error, name),
    };
    match roster {
        Ok(roster) => match roster.get(name) {
            Some(row) if row.pairing == Pairing::NotYet && row.token.as_ref() == Some(&given.token) => {
                discard(attempt, "in the API's database and was never loaded").await
            }
            _ => outcome,
        },
        Err(error) => classify::outcome(&error, name),
    }
}

/// Whether a load may still be going on.
#[derive(PartialEq)]
pub(super) enum Waiting {
    ForALoad,
    /// Longer than any load takes.
    ForTooLong,
}

/// Counts one more look that found the instance not loaded. The outcome is for where nothing can be
/// done about it.
pub(super) fn wait_for_load<A>(attempt: &mut Attempt<'_, A>) -> (Waiting, Outcome) {
    let Attempt { given: Given { instance: name, .. }, settings, counts, .. } = attempt;
    let loading = settings.timings.loading;
    counts.not_loaded = counts.not_loaded.saturating_add(1);
    let slow = counts.not_loaded.saturating_sub(QUICK_LOOKS);
    let (waiting, text) = if BETWEEN_LOOKS * slow <= loading {
        let text =
            format!("instance \"{name}\" is in the API's database and not loaded yet: it is waited for, uncounted");
        (Waiting::ForALoad, text)
    } else {
        let text = format!(
            "instance \"{name}\" is in the API's database, and the API has not loaded it for over {loading:?}: a restart of \
             the API loads it; it is waited for, uncounted"
        );
        (Waiting::ForTooLong, text)
    };
    let failure = Failure::new(Class::Loading, text).with_host(HostSignal::Healthy);
    (waiting, Outcome::Defer { failure, after: (slow > 0).then_some(BETWEEN_LOOKS) })
}

/// Deletes what stands there under this name, and makes the instance.
async fn discard(attempt: &mut Exclusive<'_, impl ExclusiveEvolution>, what: &str) -> Outcome {
    let Attempt { api, given, settings, ref mut counts } = *attempt;
    let name = &given.instance;
    if counts.discards >= DISCARDS {
        let text = format!(
            "instance \"{name}\" is {what}, although it was deleted there and made again {DISCARDS} times: a person must look \
             at the API's log, and restart the API"
        );
        return Outcome::Retry(Failure::new(Class::Loading, text).with_host(HostSignal::Healthy));
    }
    match api.discard(name).await {
        Err(error) if classify::never_left(&error) => return classify::outcome(&error, name),
        // The API's guard does not know a row that is not loaded. A create clears such a row away,
        // in failing.
        Err(error) if classify(&error, name) == Verdict::Absent => counts.discards += 1,
        Err(error) => {
            counts.discards += 1;
            let failure = classify::failure(&error, name).and(&format!("\"{name}\" was to be deleted: it is {what}"));
            return Outcome::Defer { failure, after: None };
        }
        Ok(()) => counts.discards += 1,
    }
    // The API answers before it has done it.
    api.pause(settings.timings.quiet.max(settings.timings.gone_after)).await;
    let outcome = match look(&**api, given).await {
        Look::Absent | Look::NotLoaded => create(attempt).await,
        Look::There(row) => return found(given, row),
        Look::Phantom => loading(format!("instance \"{name}\" is {what}, and is being deleted there")),
        Look::Unclear(error) => classify::outcome(&error, name),
    };
    said(outcome, &format!("an earlier create had left it {what}: deleted there and made again"))
}

/// The same end, with this on the attempt.
fn said(mut outcome: Outcome, text: &str) -> Outcome {
    match &mut outcome {
        Outcome::Success { note: Some(note), .. } => *note = format!("{note}; {text}"),
        Outcome::Success { note, .. } => *note = Some(text.to_owned()),
        Outcome::Retry(failure)
        | Outcome::Permanent(failure)
        | Outcome::Defer { failure, .. }
        | Outcome::SendBack { failure, .. } => *failure = failure.clone().and(text),
    }
    outcome
}
