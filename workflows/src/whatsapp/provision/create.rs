//! `create-instance`: the instance is there, with a token that the ledger knows. A create is
//! neither atomic nor idempotent at the API, and two at once destroy each other: so it is sent only
//! where the instance is known to be absent, and what is unknown afterwards is read back until it
//! is known.

use std::time::Duration;

use super::{
    Attempt, Exclusive, Host, How, Made, Settings, is_uncounted, loading,
    mend::{not_loaded, phantom},
    output,
    presence::{Look, glance, look},
};
use crate::{
    outcome::{Class, Failure, HostSignal, Outcome},
    whatsapp::{
        evolution::{
            ApiError, Created, Evolution, ExclusiveApi, ExclusiveEvolution, Kind, Listed,
            classify::{self, Pairing, Verdict, classify, instance_status},
        },
        names::{InstanceName, InstanceStatus, UserId},
        provision::{Counts, Facts, Given},
    },
};

/// After so many looks without an answer the rest is left to the next attempt: each may take a
/// whole timeout.
const UNCLEAR_LOOKS: u32 = 3;

/// So many creates in a row may fail for want of their row before it counts: a database that
/// restarts does this once or twice.
const WITHOUT_ROW: u32 = 8;

/// Makes the subject's instance, or finds it made.
pub async fn create_instance(
    api: &ExclusiveApi<'_, impl ExclusiveEvolution>,
    given: &Given,
    settings: &Settings,
    host: &Host,
) -> Outcome {
    if let Some(refused) = host.refuses(&**api).await {
        return refused;
    }
    let mut attempt = Attempt::new(api, given, settings);
    let outcome = make_or_find(&mut attempt, host).await;
    if matches!(outcome, Outcome::Success { .. }) {
        attempt.counts = Counts::default();
    }
    attempt.end(outcome)
}

async fn make_or_find(attempt: &mut Exclusive<'_, impl ExclusiveEvolution>, host: &Host) -> Outcome {
    let Attempt { api, given, .. } = *attempt;
    let seen = match given.created_before {
        true => look(&**api, given).await,
        false => first_look(&**api, given, host).await,
    };
    if !matches!(seen, Look::NotLoaded) {
        attempt.counts.not_loaded = 0;
    }
    match seen {
        Look::There(row) => found(given, row),
        Look::NotLoaded => not_loaded(attempt).await,
        Look::Phantom => phantom(attempt).await,
        Look::Unclear(error) => classify::outcome(&error, &given.instance),
        Look::Absent => create(attempt).await.remembering(&given.finding_it_gone()),
    }
}

/// No create of ours was ever sent for this name. The API refuses a name that it has loaded; where
/// it may be loading still, the list of its database tells whether somebody else made one.
async fn first_look(api: &impl Evolution, given: &Given, host: &Host) -> Look {
    match host.roster(api).await {
        Ok(roster) if roster.get(&given.instance).is_some() => look(api, given).await,
        Ok(_) => Look::Absent,
        Err(error) => Look::Unclear(error),
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
    // The API takes our token as it is. Where it answers with another one, that is the one that
    // works.
    let foreign = created.token.filter(|token| token != &given.token);
    let note = foreign.is_some().then(|| "the API gave the instance a token of its own, which is kept".to_owned());
    let mut facts = Facts { token: foreign, ..Facts::default() };
    // Of the one that was there before, if any, nothing holds any more. A plain sign-up has nothing
    // to forget.
    if given.created_before || given.paired_before {
        facts.status = Some(InstanceStatus::Creating);
        facts.paired = Some(false);
        facts.phone_number = Some(None);
    }
    success(given, How::Created, created.instance_id, facts, note).remembering(&given.forgetting_the_webhook())
}

/// The API says that the name is taken: by whom?
async fn taken(api: &impl Evolution, given: &Given, error: &ApiError) -> Outcome {
    match glance(api, &given.instance).await {
        Look::There(row) => found(given, row),
        Look::NotLoaded | Look::Absent => {
            loading(format!("{error}; yet the API does not list it: it is being loaded or deleted"))
        }
        Look::Phantom => loading(format!("{error}; yet the API's database does not have it")),
        Look::Unclear(error) => classify::outcome(&error, &given.instance),
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
            Look::There(row) => return found(given, row),
            Look::Absent if waited >= timings.quiet => return failed(&sent, name, &mut attempt.counts),
            Look::Phantom if waited >= timings.quiet => {
                return loading(format!(
                    "{sent}; it left the name in the API's memory, where the next attempt deletes it"
                ));
            }
            Look::Unclear(error) if is_uncounted(&error, name) => return classify::outcome(&error, name),
            Look::Unclear(_) => unclear += 1,
            Look::NotLoaded | Look::Phantom | Look::Absent => {}
        }
        if waited >= timings.read_back_limit || unclear >= UNCLEAR_LOOKS {
            return still_unknown(&sent, name);
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

fn still_unknown(sent: &ApiError, name: &InstanceName) -> Outcome {
    let mut outcome = classify::outcome(sent, name);
    if let Outcome::Retry(failure) | Outcome::Defer { failure, .. } = &mut outcome {
        failure.message.push_str("; whether the instance was made is still unknown, the next attempt reads back first");
    }
    outcome
}

/// The instance is there: ours by its token, or by its name.
pub(super) fn found(given: &Given, row: Listed) -> Outcome {
    let Listed { instance_id, token, status, kind, pairing, phone_number, .. } = row;
    if let Kind::Other(kind) = kind {
        return another_kind(&given.instance, &kind);
    }
    // What the user's row says of it may be forged, or out of date. A code to scan is shown until
    // `verify` has another.
    let status = instance_status(status, pairing);
    let facts = Facts {
        status: status.filter(|status| !(given.connecting_before && *status == InstanceStatus::Connecting)),
        paired: (pairing == Pairing::Done).then_some(true),
        // A list that has none of a paired instance does not say that there is none.
        phone_number: if pairing == Pairing::NotYet { Some(None) } else { phone_number.map(Some) },
        ..Facts::default()
    };
    if token.as_ref() == Some(&given.token) {
        let note = "the instance was there with our token".to_owned();
        return success(given, How::Found, instance_id, facts, Some(note));
    }
    if !is_the_subjects_own(given) {
        return name_taken(&given.instance);
    }
    let note = match &token {
        Some(_) => {
            "the instance was there under its subject's name with another token: adopted, the API's token is kept"
        }
        None => "the instance was there under its subject's name and the API shows no token: adopted, ours is kept",
    };
    success(given, How::Adopted, instance_id, Facts { token, ..facts }, Some(note.to_owned()))
}

fn is_the_subjects_own(given: &Given) -> bool {
    given.imported || UserId::of(&given.subject).is_some_and(|user| given.instance.is_of(user))
}

fn name_taken(name: &InstanceName) -> Outcome {
    let message = format!(
        "the name \"{name}\" belongs to an instance with another token, and it is not this subject's own name: \
         give the subject another instance name, or delete that instance"
    );
    Outcome::Permanent(Failure::new(Class::NameTaken, message).with_host(HostSignal::Healthy))
}

fn another_kind(name: &InstanceName, kind: &str) -> Outcome {
    let message = format!(
        "the name \"{name}\" belongs to an instance of another kind ({kind}), which is not taken over: give the subject \
         another instance name, or delete that instance if nobody needs it"
    );
    Outcome::Permanent(Failure::new(Class::NameTaken, message).with_host(HostSignal::Healthy))
}

fn success(given: &Given, how: How, instance_id: Option<String>, facts: Facts, note: Option<String>) -> Outcome {
    let made = Made { instance: given.instance.clone(), how, instance_id };
    Outcome::Success { output: output(made), memory: facts.into(), note }
}
