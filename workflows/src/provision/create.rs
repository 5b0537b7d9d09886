//! `create-instance`: the instance is there, with a token that the ledger knows. A create is neither atomic nor idempotent at
//! the API, and two at once destroy each other: so it is sent at most once per attempt, only where the instance is known to
//! be absent, and what is unknown afterwards is read back until it is known.

use std::time::Duration;

use super::{
    How, Made, Settings, is_uncounted, loading, output, phantom,
    presence::{Look, look},
};
use crate::{
    evolution::{
        ApiError, Created, Evolution, Listed,
        classify::{self, Verdict, classify},
    },
    ids::InstanceName,
    outcome::{Class, Facts, Failure, Given, HostSignal, Outcome},
};

/// After so many looks without an answer the rest is left to the next attempt: each may take a whole timeout.
const UNCLEAR_LOOKS: u32 = 3;

/// Makes the subject's instance, or finds it made.
pub async fn create_instance(api: &impl Evolution, given: &Given, settings: &Settings) -> Outcome {
    let name = &given.instance;
    if given.created_before {
        match look(api, name).await {
            Look::There(row) => return found(given, row),
            Look::Loading => return loading(format!("instance {name:?} is being loaded or deleted")),
            Look::Phantom => return phantom(name),
            Look::Unclear(error) => return classify::outcome(&error, name),
            Look::Absent => {}
        }
    }
    match api.create(name, &given.token).await {
        // Not confirmed by another GET: what could undo it is a create of somebody else's, and that would come after the
        // GET as well as before it. `verify` reads back later, and sends the run back here where the instance is gone.
        Ok(created) => made(given, created),
        Err(error) => match classify(&error, name) {
            Verdict::Exists => taken(api, given, &error).await,
            Verdict::ReadBack => read_back(api, given, settings, error).await,
            _ => classify::outcome(&error, name),
        },
    }
}

fn made(given: &Given, created: Created) -> Outcome {
    // The API takes our token as it is. Where it answers with another one, that is the one that works.
    let foreign = created.token.filter(|token| token != &given.token);
    let note = foreign.is_some().then(|| "the API gave the instance a token of its own, which is kept".to_owned());
    success(given, How::Created, created.instance_id, Facts { token: foreign, ..Facts::default() }, note)
}

/// The API says that the name is taken: by whom?
async fn taken(api: &impl Evolution, given: &Given, error: &ApiError) -> Outcome {
    let name = &given.instance;
    match look(api, name).await {
        Look::There(row) => found(given, row),
        Look::Phantom => phantom(name),
        Look::Loading | Look::Absent => {
            loading(format!("{error}; yet the API does not list it: it is being loaded or deleted"))
        }
        Look::Unclear(error) => classify::outcome(&error, name),
    }
}

/// Nobody knows whether the create was done, or is still under way: asks until the instance is there, or is known to be
/// absent after the time in which the server finishes what it was sent.
async fn read_back(api: &impl Evolution, given: &Given, settings: &Settings, sent: ApiError) -> Outcome {
    let name = &given.instance;
    let timings = &settings.timings;
    let (mut waited, mut pause, mut unclear) = (Duration::ZERO, timings.read_back_pause, 0);
    loop {
        api.pause(pause).await;
        waited += pause;
        match look(api, name).await {
            Look::There(row) => return found(given, row),
            Look::Absent if waited >= timings.quiet => return classify::outcome(&sent, name),
            Look::Unclear(error) if is_uncounted(&error, name) => return classify::outcome(&error, name),
            Look::Unclear(_) => unclear += 1,
            Look::Loading | Look::Phantom | Look::Absent => {}
        }
        if waited >= timings.read_back_limit || unclear >= UNCLEAR_LOOKS {
            return still_unknown(&sent, name);
        }
        pause = (pause * 2).min(timings.read_back_pause * 4);
    }
}

fn still_unknown(sent: &ApiError, name: &InstanceName) -> Outcome {
    let mut outcome = classify::outcome(sent, name);
    if let Outcome::Retry(failure) | Outcome::Defer { failure, .. } = &mut outcome {
        failure.message.push_str("; whether the instance was made is still unknown, the next attempt reads back first");
    }
    outcome
}

/// The instance is there: ours by its token, or by its name.
fn found(given: &Given, row: Listed) -> Outcome {
    let Listed { instance_id, token, .. } = row;
    if token.as_ref() == Some(&given.token) {
        let note = "the instance was there with our token".to_owned();
        return success(given, How::Found, instance_id, Facts::default(), Some(note));
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
    success(given, How::Adopted, instance_id, Facts { token, ..Facts::default() }, Some(note.to_owned()))
}

fn is_the_subjects_own(given: &Given) -> bool {
    let of_user = given.subject.user().map(InstanceName::of_user);
    given.imported || of_user.as_ref() == Some(&given.instance)
}

fn name_taken(name: &InstanceName) -> Outcome {
    let message = format!(
        "the name {name:?} belongs to an instance with another token, and it is not this subject's own name: \
         give the subject another instance name, or delete that instance"
    );
    Outcome::Permanent(Failure::new(Class::NameTaken, message).with_host(HostSignal::Healthy))
}

fn success(given: &Given, how: How, instance_id: Option<String>, facts: Facts, note: Option<String>) -> Outcome {
    let made = Made { instance: given.instance.clone(), how, instance_id };
    Outcome::Success { output: output(made), facts, note }
}
