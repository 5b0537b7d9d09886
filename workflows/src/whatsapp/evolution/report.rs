//! What the API reports of an instance by itself: its own events, as it publishes them (RabbitMQ)
//! or posts them (webhooks). They arrive twice, late and in any order; the API's `date_time` orders
//! them. That is the API's local time with a `Z` behind it, so it is compared with nothing else;
//! one that is more than a day ahead is not believed.

use std::collections::BTreeMap;

use chrono::{DateTime, Datelike, Utc};
use serde::Serialize;
use serde_json::{Value, json};

use super::answer::{phone_number, qr_code};
use crate::{secret::Secret, whatsapp::names::InstanceName};

/// The events that say how an instance stands, as routing keys.
pub const EVENTS: [&str; 7] = [
    "instance.create",
    "connection.update",
    "qrcode.updated",
    "status.instance",
    "logout.instance",
    "remove.instance",
    "instance.delete",
];

/// A body that is none of the API's events.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unreadable(&'static str);

/// How an instance stands. Of two reports of one moment the greater one holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Standing {
    Connecting,
    Connected,
    Disconnected,
    /// It was deleted.
    Gone,
}

impl Standing {
    fn of(state: &str) -> Option<Self> {
        match state {
            "connecting" => Some(Self::Connecting),
            "open" => Some(Self::Connected),
            // The API reports a `close` only where it has given up, before the first pairing too.
            // `refused`: the QR codes are used up, and it closes the socket.
            "close" | "refused" => Some(Self::Disconnected),
            _ => None,
        }
    }
}

type At = DateTime<Utc>;

/// The years of a moment that Postgres reads as RFC 3339 writes it.
const YEARS: std::ops::RangeInclusive<i32> = 1..=9999;

/// What is known of one instance from one event or from many: of each kind the last.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    pub instance: InstanceName,
    standing: Option<(At, Standing)>,
    /// When a socket last opened or ended: an older QR code is of no use.
    ended_at: Option<At>,
    /// None within: the API gives no more codes.
    qr_code: Option<(At, Option<Secret>)>,
    phone_number: Option<(At, String)>,
}

impl Report {
    /// `None`: an event that says nothing of how an instance stands, or of one that cannot be ours.
    pub fn parse(body: &[u8]) -> Result<Option<Self>, Unreadable> {
        let body: Value = serde_json::from_slice(body).map_err(|_| Unreadable("the body is no JSON"))?;
        let event = body["event"].as_str().ok_or(Unreadable("it names no event"))?;
        if !EVENTS.contains(&event) {
            return Ok(None);
        }
        let instance = body["instance"].as_str().ok_or(Unreadable("it names no instance"))?;
        let at = body["date_time"].as_str().and_then(|text| DateTime::parse_from_rfc3339(text).ok());
        let at = at.map(|at| at.to_utc()).filter(|at| YEARS.contains(&at.year()));
        let at = at.ok_or(Unreadable("it has no date_time"))?;
        let Ok(instance) = instance.parse() else { return Ok(None) };
        let nothing = Self { instance, standing: None, ended_at: None, qr_code: None, phone_number: None };
        Ok(nothing.with(event, at, &body["data"]))
    }

    fn with(self, event: &str, at: At, data: &Value) -> Option<Self> {
        match event {
            "connection.update" => {
                let standing = Standing::of(data["state"].as_str()?)?;
                let owner = data["wuid"].as_str().or_else(|| data["ownerJid"].as_str());
                let number = owner.filter(|_| standing == Standing::Connected).and_then(phone_number);
                Some(Self { phone_number: number.map(|number| (at, number)), ..self.standing(at, standing) })
            }
            // Anything else than a code is that there are no more.
            "qrcode.updated" => Some(Self { qr_code: Some((at, qr_code(&data["qrcode"]["base64"]))), ..self }),
            "status.instance" if data["status"] != "closed" => None,
            "status.instance" | "logout.instance" => Some(self.standing(at, Standing::Disconnected)),
            "instance.create" => Some(self.standing(at, Standing::Connecting)),
            "remove.instance" | "instance.delete" => Some(self.standing(at, Standing::Gone)),
            _ => None,
        }
    }

    fn standing(self, at: At, standing: Standing) -> Self {
        let ended_at = (standing != Standing::Connecting).then_some(at);
        Self { standing: Some((at, standing)), ended_at, ..self }
    }

    /// Of each instance one report, in the order of their names.
    pub fn last(reports: impl IntoIterator<Item = Self>) -> Vec<Self> {
        let mut last = BTreeMap::<InstanceName, Self>::new();
        for report in reports {
            let merged = match last.remove(&report.instance) {
                Some(other) => other.and(report),
                None => report,
            };
            last.insert(merged.instance.clone(), merged);
        }
        last.into_values().collect()
    }

    /// Both, in whatever order they came.
    fn and(self, other: Self) -> Self {
        fn key(code: &Option<(At, Option<Secret>)>) -> Option<(At, Option<&str>)> {
            code.as_ref().map(|(at, code)| (*at, code.as_ref().map(Secret::expose)))
        }
        let is_newer_code = key(&other.qr_code) > key(&self.qr_code);
        Self {
            standing: self.standing.max(other.standing),
            ended_at: self.ended_at.max(other.ended_at),
            qr_code: if is_newer_code { other.qr_code } else { self.qr_code },
            phone_number: self.phone_number.max(other.phone_number),
            instance: self.instance,
        }
    }

    /// As the ledger takes it: `sluice.hear`. It holds the QR code.
    pub fn to_json(&self) -> Value {
        let (status_at, status) = self.standing.unzip();
        let (qr_at, qr_code) = self.qr_code.as_ref().map(|(at, code)| (at, code.as_ref())).unzip();
        let (number_at, phone_number) = self.phone_number.as_ref().map(|(at, number)| (at, number)).unzip();
        json!({
            "instance": self.instance,
            "status_at": status_at,
            "status": status,
            "ended_at": self.ended_at,
            "qr_at": qr_at,
            "qr_code": qr_code.flatten().map(Secret::expose),
            "number_at": number_at,
            "phone_number": phone_number,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(event: &str, second: u32, data: &Value) -> Report {
        let date = format!("2026-11-22T16:23:{second:02}.000Z");
        let body = json!({ "event": event, "instance": "user_1", "data": data, "date_time": date });
        Report::parse(body.to_string().as_bytes()).unwrap().unwrap()
    }

    fn last(reports: Vec<Report>) -> Value {
        let last = Report::last(reports);
        assert_eq!(last.len(), 1);
        last[0].to_json()
    }

    #[test]
    fn the_last_of_each_kind_holds_in_whatever_order_they_come() {
        let reports = vec![
            event("instance.create", 1, &Value::Null),
            event("connection.update", 2, &json!({ "state": "connecting" })),
            event("qrcode.updated", 3, &json!({ "qrcode": { "base64": "data:image/png;base64,QR" } })),
            event("connection.update", 5, &json!({ "state": "open", "wuid": "5511999990101:7@s.whatsapp.net" })),
            event("connection.update", 6, &json!({ "state": "connecting" })),
        ];

        let forwards = last(reports.clone());
        let backwards = last(reports.iter().rev().chain(&reports).cloned().collect());

        assert_eq!(forwards, backwards);
        assert_eq!(forwards["status"], "connecting");
        assert_eq!(forwards["phone_number"], "5511999990101");
        assert!(forwards["qr_at"].as_str() < forwards["ended_at"].as_str(), "{forwards:#}");
    }

    #[test]
    fn what_closes_deletes_or_refuses_is_told_from_what_connects() {
        for (name, data, status) in [
            ("connection.update", json!({ "state": "open" }), "connected"),
            ("connection.update", json!({ "state": "close", "statusReason": 401 }), "disconnected"),
            ("connection.update", json!({ "state": "refused", "statusReason": 428 }), "disconnected"),
            ("status.instance", json!({ "status": "closed" }), "disconnected"),
            ("logout.instance", Value::Null, "disconnected"),
            ("remove.instance", Value::Null, "gone"),
            ("instance.delete", json!({ "instanceName": "user_1" }), "gone"),
        ] {
            assert_eq!(event(name, 1, &data).to_json()["status"], status, "{name} {data}");
        }
        let limit = event("qrcode.updated", 1, &json!({ "message": "QR code limit reached", "statusCode": 500 }));
        assert_eq!((limit.to_json()["qr_at"].is_string(), limit.to_json()["qr_code"].is_null()), (true, true));
    }

    #[test]
    fn of_one_moment_the_end_holds() {
        let open = event("connection.update", 1, &json!({ "state": "open" }));
        let closed = event("logout.instance", 1, &Value::Null);
        let deleted = event("remove.instance", 1, &Value::Null);

        assert_eq!(last(vec![closed.clone(), open.clone()])["status"], "disconnected");
        assert_eq!(last(vec![deleted, closed, open])["status"], "gone");
    }

    /// One that cannot be stored would keep its whole batch from being written.
    #[test]
    fn a_code_that_no_row_can_hold_is_no_code() {
        for code in ["data:image/png;base64,a\0b", "data:image/png;base64,ä", "2@pairing", ""] {
            let report = event("qrcode.updated", 1, &json!({ "qrcode": { "base64": code } }));
            assert_eq!(report.qr_code.unwrap().1, None, "{code:?}");
        }
    }

    #[test]
    fn what_says_nothing_of_an_instance_is_passed_over_and_what_is_no_event_is_unreadable() {
        let others = [
            r#"{"event": "messages.upsert", "instance": "user_1", "data": {}}"#,
            r#"{"event": "error", "data": {"error": "Not Found"}, "date_time": "2026-11-22T16:43:36.861Z"}"#,
            r#"{"event": "connection.update", "instance": "user_1", "data": {"state": "dreaming"}, "date_time": "2026-11-22T16:43:36.861Z"}"#,
            r#"{"event": "logout.instance", "instance": "", "data": null, "date_time": "2026-11-22T16:43:36.861Z"}"#,
        ];
        for body in others {
            assert_eq!(Report::parse(body.as_bytes()), Ok(None), "{body}");
        }
        let bodies = [
            "",
            "hello",
            "[]",
            r#"{"event": "logout.instance", "date_time": "2026-11-22T16:43:36.861Z"}"#,
            r#"{"event": "logout.instance", "instance": "user_1", "date_time": "yesterday"}"#,
            r#"{"event": "logout.instance", "instance": "user_1", "date_time": "0000-01-01T00:00:00Z"}"#,
            r#"{"event": "logout.instance", "instance": "user_1", "date_time": "9999-12-31T23:59:59-23:00"}"#,
        ];
        for body in bodies {
            assert!(Report::parse(body.as_bytes()).is_err(), "{body}");
        }
    }
}
