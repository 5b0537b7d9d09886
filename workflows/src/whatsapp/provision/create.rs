//! `create-instance`: the instance is there, with a token that the ledger knows. A create is
//! neither atomic nor idempotent at the API, and two at once destroy each other: so it is sent only
//! where the instance is known to be absent, and what is unknown afterwards is read back until it
//! is known.

use std::time::Duration;

use serde_json::{Value, json};

use super::{
    Attempt, Exclusive, Host, Settings,
    given::{key, standing},
    healthy, loading,
    mend::{not_loaded, phantom},
    presence::{Look, glance, look},
    said,
};
use crate::{
    outcome::{Class, Memory, Outcome},
    whatsapp::{
        evolution::{
            ApiError, Created, Evolution, ExclusiveApi, ExclusiveEvolution, Kind, Listed,
            classify::{self, Pairing, Verdict, classify, instance_status},
        },
        names::{InstanceName, InstanceStatus, UserId},
        provision::{Counts, Given},
    },
};

/// After so many looks without an answer the rest is left to the next attempt: each may take a
/// whole timeout.
const UNCLEAR_LOOKS: u32 = 3;

/// So many creates in a row may fail for want of their row before it counts: a database that
/// restarts does this once or twice.
const WITHOUT_ROW: u32 = 8;

/// Makes the subject's instance, or finds it made.
pub(super) async fn create_instance(
    api: &ExclusiveApi<'_, impl ExclusiveEvolution>,
    given: &Given,
    settings: &Settings,
    host: &Host,
) -> Outcome {
    if let Some(refused) = host.refuses(&**api).await {
        return refused;
    }
    let mut attempt = Attempt::new(api, given, settings);
    let outcome = match make_or_find(&mut attempt, host).await {
        Ok(outcome) => outcome,
        Err(error) => classify::outcome(&error, &given.instance),
    };
    if matches!(outcome, Outcome::Success { .. }) {
        attempt.counts = Counts::default();
    }
    attempt.end(outcome)
}

/// The outcome, or the error of a look.
async fn make_or_find(attempt: &mut Exclusive<'_, impl ExclusiveEvolution>, host: &Host) -> Result<Outcome, ApiError> {
    let Attempt { api, given, .. } = *attempt;
    let seen = match given.created_before {
        true => look(&**api, given).await,
        false => first_look(&**api, given, host).await,
    };
    if !matches!(seen, Ok(Look::NotLoaded)) {
        attempt.counts.not_loaded = 0;
    }
    match seen? {
        Look::There(row) => Ok(found(given, row)),
        Look::NotLoaded => not_loaded(attempt).await,
        Look::Phantom => phantom(attempt).await,
        Look::Absent => Ok(create(attempt).await.remembering(&given.finding_it_gone())),
    }
}

/// No create of ours was ever sent for this name. The API refuses a name that it has loaded; where
/// it may be loading still, the list of its database tells whether somebody else made one.
async fn first_look(api: &impl Evolution, given: &Given, host: &Host) -> Result<Look, ApiError> {
    match host.roster(api).await?.get(&given.instance) {
        Some(_) => look(api, given).await,
        None => Ok(Look::Absent),
    }
}

pub(super) async fn create(attempt: &mut Exclusive<'_, impl ExclusiveEvolution>) -> Outcome {
    let Attempt { api, given, .. } = *attempt;
    let name = &given.instance;
    match api.create(name, &given.token).await {
        // Not confirmed by another GET: what could undo it is a create of somebody else's, and that
        // would come after the GET as well as before it. `verify` reads back later, and sends the
        // run back here where the instance is gone.
        Ok(created) => made(given, created),
        Err(error) => match classify(&error, name) {
            Verdict::Exists => taken(&**api, given, &error).await,
            Verdict::ReadBack => read_back(attempt, error).await,
            _ => classify::outcome(&error, name),
        },
    }
}

fn made(given: &Given, created: Created) -> Outcome {
    let mut memory = given.forgetting_the_webhook();
    // Of the one that was there before, if any, nothing holds any more. A plain sign-up has nothing
    // to forget.
    if given.created_before || given.paired_before {
        let new = standing(InstanceStatus::Creating, None, None);
        memory.merge(&new.with(key::PAIRED, false).with(key::PHONE_NUMBER, Value::Null));
    }
    // The API takes our token as it is. Where it answers with another one, that is the one that
    // works.
    match created.token.filter(|token| token != &given.token) {
        Some(foreign) => {
            let note = "the API gave the instance a token of its own, which is kept";
            success(given, "created", created.instance_id, memory.with(key::TOKEN, foreign.expose()), Some(note))
        }
        None => success(given, "created", created.instance_id, memory, None),
    }
}

/// The API says that the name is taken: by whom?
async fn taken(api: &impl Evolution, given: &Given, error: &ApiError) -> Outcome {
    match glance(api, &given.instance).await {
        Ok(Look::There(row)) => found(given, row),
        Ok(Look::NotLoaded | Look::Absent) => {
            loading(format!("{error}; yet the API does not list it: it is being loaded or deleted"))
        }
        Ok(Look::Phantom) => loading(format!("{error}; yet the API's database does not have it")),
        Err(error) => classify::outcome(&error, &given.instance),
    }
}

/// Nobody knows whether the create was done, or is still under way: asks until the instance is
/// there, or is not seen any more after the time in which the server finishes what it was sent.
/// Nothing is sent on the strength of these looks.
async fn read_back(attempt: &mut Exclusive<'_, impl ExclusiveEvolution>, sent: ApiError) -> Outcome {
    let Attempt { api, given, settings, .. } = *attempt;
    let name = &given.instance;
    let timings = &settings.timings;
    let (mut waited, mut pause, mut unclear) = (Duration::ZERO, timings.read_back_pause, 0);
    loop {
        api.pause(pause).await;
        waited += pause;
        match glance(&**api, name).await {
            Ok(Look::There(row)) => return found(given, row),
            Ok(Look::Absent) if waited >= timings.quiet => return failed(&sent, name, &mut attempt.counts),
            Ok(Look::Phantom) if waited >= timings.quiet => {
                return loading(format!(
                    "{sent}; it left the name in the API's memory, where the next attempt deletes it"
                ));
            }
            Ok(Look::NotLoaded | Look::Phantom | Look::Absent) => {}
            Err(error) => match classify::outcome(&error, name) {
                // It burns no attempt: there is no point in asking on within this one.
                away @ Outcome::Defer { .. } => return away,
                _ => unclear += 1,
            },
        }
        if waited >= timings.read_back_limit || unclear >= UNCLEAR_LOOKS {
            let unknown = "whether the instance was made is still unknown, the next attempt reads back first";
            return said(classify::outcome(&sent, name), unknown);
        }
        pause = (pause * 2).min(timings.read_back_pause * 4);
    }
}

/// The create left nothing. Where its row was not inserted, the API's database was away for a
/// moment: that is not counted, as long as it does not go on.
fn failed(sent: &ApiError, name: &InstanceName, counts: &mut Counts) -> Outcome {
    let without_row = classify::is_without_row(sent, name);
    counts.without_row = if without_row { counts.without_row + 1 } else { 0 };
    if without_row && counts.without_row <= WITHOUT_ROW {
        let failure = classify::failure(sent, name).and("its database did not take the new row, and nothing was left");
        return Outcome::Defer { failure, after: None };
    }
    classify::outcome(sent, name)
}

/// The instance is there: ours by its token, or by its name.
pub(super) fn found(given: &Given, row: Listed) -> Outcome {
    let Listed { instance_id, token, status, kind, pairing, phone_number, .. } = row;
    let name = &given.instance;
    if let Kind::Other(kind) = kind {
        return name_taken(format!(
            "the name \"{name}\" belongs to an instance of another kind ({kind}), which is not taken over: give the subject \
             another instance name, or delete that instance if nobody needs it"
        ));
    }
    let memory = known(given, instance_status(status, pairing), pairing, phone_number);
    if token.as_ref() == Some(&given.token) {
        return success(given, "found", instance_id, memory, Some("the instance was there with our token"));
    }
    let is_own = given.imported || UserId::of(&given.subject).is_some_and(|user| name.is_of(user));
    if !is_own {
        return name_taken(format!(
            "the name \"{name}\" belongs to an instance with another token, and it is not this subject's own name: \
             give the subject another instance name, or delete that instance"
        ));
    }
    let (memory, note) = match &token {
        Some(theirs) => (
            memory.with(key::TOKEN, theirs.expose()),
            "the instance was there under its subject's name with another token: adopted, the API's token is kept",
        ),
        None => (
            memory,
            "the instance was there under its subject's name and the API shows no token: adopted, ours is kept",
        ),
    };
    success(given, "adopted", instance_id, memory, Some(note))
}

/// What the API's row says of an instance that is there. What the user's row says may be forged, or
/// out of date.
fn known(given: &Given, status: Option<InstanceStatus>, pairing: Pairing, number: Option<String>) -> Memory {
    // A code to scan is shown until `verify` has another.
    let status = status.filter(|status| !(given.connecting_before && *status == InstanceStatus::Connecting));
    let memory = status.map(|status| standing(status, None, None)).unwrap_or_default();
    match (pairing, number) {
        (Pairing::NotYet, _) => memory.with(key::PHONE_NUMBER, Value::Null),
        (Pairing::Done, Some(number)) => memory.with(key::PAIRED, true).with(key::PHONE_NUMBER, number),
        // A list that has no number of a paired instance does not say that there is none.
        (Pairing::Done, None) => memory.with(key::PAIRED, true),
    }
}

fn name_taken(message: String) -> Outcome {
    Outcome::Permanent(healthy(Class::NameTaken, message))
}

/// `how` the instance came to be there: this attempt's create made it, or it was found with our
/// token, or adopted with another.
fn success(given: &Given, how: &str, instance_id: Option<String>, memory: Memory, note: Option<&str>) -> Outcome {
    let output = json!({ "instance": given.instance, "how": how, "instance_id": instance_id });
    Outcome::Success { output, memory, note: note.map(str::to_owned) }
}
