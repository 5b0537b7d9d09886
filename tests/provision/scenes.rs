//! What the steps of these tests are given, and what the API says to them.

use workflows::whatsapp::{evolution::Answer, provision::Fault};

use super::*;

pub const USER: &str = "7051bc96-9e27-4940-86ab-2c040b518faa";
pub const TOKEN: &str = "our-token-1";
/// That of an instance which is not ours.
pub const THEIRS: &str = "their-token-1";
const HEADERS: [(&str, &str); 2] = [("authorization", "Bearer {token}"), ("jwt_key", "signing-key-1")];

/// What the engine gives a step, where this is remembered of the instance.
pub fn input(memory: Memory) -> StepInput {
    StepInput {
        subject: USER.parse().unwrap(),
        resource: format!("user_{USER}").parse().unwrap(),
        secret: Secret::new(TOKEN),
        memory,
        exclusive_before: false,
        input: Value::Null,
    }
}

pub fn given() -> Given {
    Given::of(&input(Memory::default()))
}

/// Where a create was claimed before.
pub fn again() -> Given {
    Given { created_before: true, ..given() }
}

/// The webhook of these tests, changed so, with its placeholders.
pub fn template(change: impl FnOnce(&mut WebhookOptions)) -> Result<WebhookTemplate, Vec<Fault>> {
    let mut options = WebhookOptions {
        url: "https://app.test/hook/{user_id}?i={instance}&t={token}".into(),
        events: vec!["QRCODE_UPDATED".into(), "CONNECTION_UPDATE".into()],
        headers: HEADERS.map(|(name, value)| (name.to_owned(), Secret::new(value))).into(),
        by_events: false,
        base64: true,
    };
    change(&mut options);
    WebhookTemplate::parse(options)
}

/// The settings of these tests, with the webhook changed so.
pub fn settings_with(change: impl FnOnce(&mut WebhookOptions)) -> Settings {
    Settings {
        webhook: template(change).unwrap(),
        qr_at_signup: QrAtSignup::Skip,
        amqp_mode: AmqpMode::Global,
        timings: Timings::default(),
    }
}

pub fn settings() -> Settings {
    settings_with(|_| ())
}

/// Of an API that publishes for each instance.
pub fn per_instance() -> Settings {
    Settings { amqp_mode: AmqpMode::Instance, ..settings() }
}

/// The webhook as the API stores what the settings of these tests ask for, changed so.
pub fn webhook(change: impl FnOnce(&mut StoredWebhook)) -> Reply {
    let mut stored = StoredWebhook {
        enabled: true,
        url: Secret::new(format!("https://app.test/hook/{USER}?i=user_{USER}&t={TOKEN}")),
        events: ["CONNECTION_UPDATE", "QRCODE_UPDATED"].map(str::to_owned).into(),
        headers: HEADERS.map(|(name, value)| (name.to_owned(), Secret::new(value.replace("{token}", TOKEN)))).into(),
        by_events: false,
        base64: true,
    };
    change(&mut stored);
    Reply::Webhook(Some(stored))
}

pub fn as_asked() -> Reply {
    webhook(|_| ())
}

/// What these settings ask for this instance, as the step sends it that sets it, and its end.
pub fn sent(given: &Given, settings: &Settings) -> (Webhook, Ended) {
    let script = Script::new(vec![(Call::SetWebhook, as_asked())]);
    let ended = script.play(CONFIGURE_WEBHOOKS, given, settings);
    (script.sent.lock().unwrap().remove(0), ended)
}

/// An instance all of whose events that a follower reads are published, and these too.
pub fn published(more: &[&str]) -> Rabbitmq {
    let mut all = Rabbitmq::to_set(None).unwrap();
    all.events.extend(more.iter().map(|event| (*event).to_owned()));
    all
}

/// An instance's row with this token; none: the API does not show it.
pub fn row(token: &str) -> Listed {
    let token = (!token.is_empty()).then(|| Secret::new(token));
    let instance_id = Some("i-1".into());
    let (status, phone_number, has_settings) = (None, None, None);
    Listed { instance_id, token, status, kind: Kind::Ours, pairing: Pairing::NotYet, phone_number, has_settings }
}

/// The whole list: our instance by this row, and these others.
pub fn roster(own: Option<Listed>, others: &[&str]) -> (Call, Reply) {
    let own = own.map(|row| (format!("user_{USER}"), row));
    let others = others.iter().map(|name| ((*name).to_owned(), row("t")));
    (Call::Roster, Reply::Roster(own.into_iter().chain(others).collect()))
}

/// A host that is asked for the first time, says this version, and lists no instance.
pub fn asked(version: &'static str) -> Calls {
    vec![(Call::Version, Reply::Version(version)), roster(None, &[])]
}

pub fn made() -> Calls {
    vec![(Call::Create, Reply::Created(TOKEN))]
}

/// The list has the name, with this row.
pub fn listed(row: Listed) -> Calls {
    vec![(Call::Fetch, Reply::Row(Some(row)))]
}

/// The list has the name, with this token.
pub fn found(token: &str) -> Calls {
    listed(row(token))
}

/// What the database says to the instance's own token.
pub fn own(own: Own) -> Calls {
    vec![(Call::FetchOwn, Reply::Own(own))]
}

/// What the database says of a name that it does not have.
pub fn not_in_database() -> Calls {
    [own(Own::NoSuchRow), vec![roster(None, &[])]].concat()
}

/// What the API's memory says of a name that the list does not have.
pub fn not_listed(state: Reply) -> Calls {
    vec![(Call::Fetch, not_in_list()), (Call::ConnectionState, state)]
}

/// The API's memory does not have the name.
pub fn absent() -> Calls {
    not_listed(not_there())
}

/// Absent by the database's word.
pub fn gone() -> Calls {
    [absent(), not_in_database()].concat()
}

/// Absent twice, the second time by the database's word.
pub fn gone_twice() -> Calls {
    [absent(), gone()].concat()
}

/// The API's database has the name, and its memory has not.
pub fn not_loaded() -> Calls {
    not_listed(Reply::State(None))
}

/// The API's memory has the name, and its database has not.
pub fn phantom() -> Calls {
    vec![(Call::Fetch, Reply::Row(None)), (Call::ConnectionState, Reply::State(Some(ApiState::Close)))]
}

pub fn answer(status: u16, shape: Shape, message: impl Into<String>) -> Reply {
    Reply::Error(ErrorKind::Answer(Answer { status, shape, message: message.into(), retry_after: None }))
}

pub fn in_use() -> Reply {
    answer(403, Shape::Listed, format!("This name \"user_{USER}\" is already in use."))
}

pub fn not_in_list() -> Reply {
    answer(404, Shape::Listed, format!("Instance \"user_{USER}\" not found"))
}

pub fn not_there() -> Reply {
    answer(404, Shape::Listed, format!("The \"user_{USER}\" instance does not exist"))
}

pub fn timed_out() -> Reply {
    Reply::Error(ErrorKind::NoAnswer("none within 15s".into()))
}

pub fn refused() -> Reply {
    Reply::Error(ErrorKind::Unreachable("connection refused".into()))
}

pub fn database_away() -> Reply {
    answer(500, Shape::Plain, "database \"evolution\" is not currently accepting connections")
}
