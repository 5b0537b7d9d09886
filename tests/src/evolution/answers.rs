//! The bodies that the server answers with, letter by letter as recorded.

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use rand::Rng;
use serde_json::{Map, Value, json};

use super::message::Response;
use super::store::{Extra, Row, Webhook};

pub(super) fn error(status: u16, name: &str, message: Value) -> Response {
    Response::json(status, json!({"status": status, "error": name, "response": {"message": message}}))
}

/// 400 from within create: the message in a list.
pub(super) fn refused(message: impl Into<String>) -> Response {
    error(400, "Bad Request", json!([message.into()]))
}

/// 400 from the schema: the messages in a list in a list.
pub(super) fn invalid(messages: Vec<String>) -> Response {
    error(400, "Bad Request", json!([messages]))
}

pub(super) fn unauthorized() -> Response {
    error(401, "Unauthorized", json!("Unauthorized"))
}

pub(super) fn name_taken(name: &str) -> Response {
    error(403, "Forbidden", json!([format!("This name \"{name}\" is already in use.")]))
}

pub(super) fn unknown_instance(name: &str) -> Response {
    not_found(format!("The \"{name}\" instance does not exist"))
}

pub(super) fn not_found(message: String) -> Response {
    error(404, "Not Found", json!([message]))
}

pub(super) fn server_error(message: Value) -> Response {
    error(500, "Internal Server Error", message)
}

pub(super) fn done(message: &str) -> Response {
    Response::json(200, json!({"status": "SUCCESS", "error": false, "response": {"message": message}}))
}

/// What `connect` and `restart` answer, with 200, where they failed.
pub(super) fn swallowed() -> Response {
    Response::json(200, json!({"error": true, "message": "[object Object]"}))
}

/// A database error as the ORM words it: several lines, with the server's source.
pub(super) fn orm(call: &str, file: &str, fault: &str) -> String {
    format!(
        "\nInvalid `{call}` invocation in\n{file}\n\n   87 const data = {{\n   88   instanceId,\n   89 }};\n→ 90 await {call}(\n{fault}"
    )
}

pub(super) fn orm_settings(fault: &str) -> String {
    orm("this.prismaRepository.setting.upsert()", "/evolution/src/api/services/channel.service.ts:163:41", fault)
}

pub(super) fn orm_webhook(fault: &str) -> String {
    orm(
        "this.prisma.webhook.upsert()",
        "/evolution/src/api/integrations/event/webhook/webhook.controller.ts:34:31",
        fault,
    )
}

pub(super) fn foreign_key(table: &str) -> String {
    format!("Foreign key constraint violated on the constraint: `{table}_instanceId_fkey`")
}

/// The name check with a name that is not a string.
pub(super) fn orm_name_check(provided: &str) -> Response {
    let text = orm(
        "prismaRepository.instance.findMany()",
        "/evolution/src/api/guards/instance.guard.ts:23:63",
        &format!("Argument `name`: Invalid value provided. Expected StringFilter or String, provided {provided}."),
    );
    server_error(json!([format!("PrismaClientValidationError: {text}")]))
}

/// Formats times and makes ids: what a body needs besides its facts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    pub epoch_ms: i64,
}

impl Clock {
    fn at(self, now: Duration) -> DateTime<Utc> {
        let millis = i64::try_from(now.as_millis()).unwrap_or(i64::MAX);
        DateTime::from_timestamp_millis(self.epoch_ms.saturating_add(millis)).unwrap_or_default()
    }

    pub fn iso(self, now: Duration) -> String {
        self.at(now).to_rfc3339_opts(SecondsFormat::Millis, true)
    }

    /// An HTTP date (`Date`, `Retry-After`).
    pub fn http(self, now: Duration) -> String {
        self.at(now).format("%a, %d %b %Y %H:%M:%S GMT").to_string()
    }
}

pub(super) fn uuid(rng: &mut impl Rng) -> String {
    uuid::Builder::from_random_bytes(rng.random()).into_uuid().to_string()
}

/// Ids of the tables that hang on an instance.
pub(super) fn cuid(rng: &mut impl Rng) -> String {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let mut id = String::from("c");
    id.extend((0..24).map(|_| char::from(DIGITS[rng.random_range(0..DIGITS.len())])));
    id
}

pub(super) fn webhook(row: &Webhook, instance_id: &str, clock: Clock) -> Value {
    json!({
        "id": row.id,
        "url": row.url,
        "headers": row.headers,
        "enabled": row.enabled,
        "events": row.events,
        "webhookByEvents": row.by_events,
        "webhookBase64": row.base64,
        "createdAt": clock.iso(row.created),
        "updatedAt": clock.iso(row.updated),
        "instanceId": instance_id,
    })
}

pub(super) fn instance_row(name: &str, row: &Row, clock: Clock) -> Value {
    json!({
        "id": row.id,
        "name": name,
        "connectionStatus": row.status.as_str(),
        "ownerJid": row.owner_jid,
        "profileName": row.owner_jid.as_ref().map(|_| "Test Phone"),
        "profilePicUrl": null,
        "integration": row.integration,
        "number": row.number,
        "businessId": null,
        "token": row.token.reveal(),
        "clientName": "evolution_exchange",
        "disconnectionReasonCode": row.disconnection.as_ref().map(|gone| gone.code),
        "disconnectionObject": row.disconnection.as_ref().map(|gone| gone.object.as_str()),
        "disconnectionAt": row.disconnection.as_ref().map(|gone| clock.iso(gone.at)),
        "createdAt": clock.iso(row.created),
        "updatedAt": clock.iso(row.updated),
        "Chatwoot": null,
        "Proxy": null,
        "Rabbitmq": row.rabbitmq.as_ref().map(|extra| extra_row(extra, &row.id, clock)),
        "Nats": null,
        "Sqs": null,
        "Websocket": null,
        "Setting": row.settings.as_ref().map(|extra| extra_row(extra, &row.id, clock)),
        "_count": {"Message": 0, "Contact": 0, "Chat": 0},
    })
}

pub(super) fn extra_row(extra: &Extra, instance_id: &str, clock: Clock) -> Value {
    let mut fields: Map<String, Value> = extra.fields.clone();
    fields.insert("id".to_owned(), json!(extra.id));
    fields.insert("createdAt".to_owned(), json!(clock.iso(extra.created)));
    fields.insert("updatedAt".to_owned(), json!(clock.iso(extra.updated)));
    fields.insert("instanceId".to_owned(), json!(instance_id));
    Value::Object(fields)
}
