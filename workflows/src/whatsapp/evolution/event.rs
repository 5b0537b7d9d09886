//! The events that an instance's webhook may ask for. The API refuses a webhook that names any
//! other.

use std::{fmt, str::FromStr};

/// A text that names no event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("event {0:?} is unknown: expected one of {list}", list = NAMES.join(", "))]
pub struct UnknownEvent(pub String);

/// As the API names them when they are subscribed: what it takes an empty list for.
const NAMES: [&str; 31] = [
    "APPLICATION_STARTUP",
    "QRCODE_UPDATED",
    "MESSAGES_SET",
    "MESSAGES_UPSERT",
    "MESSAGES_EDITED",
    "MESSAGES_UPDATE",
    "MESSAGES_DELETE",
    "SEND_MESSAGE",
    "SEND_MESSAGE_UPDATE",
    "CONTACTS_SET",
    "CONTACTS_UPSERT",
    "CONTACTS_UPDATE",
    "PRESENCE_UPDATE",
    "CHATS_SET",
    "CHATS_UPSERT",
    "CHATS_UPDATE",
    "CHATS_DELETE",
    "GROUPS_UPSERT",
    "GROUP_UPDATE",
    "GROUP_PARTICIPANTS_UPDATE",
    "CONNECTION_UPDATE",
    "LABELS_EDIT",
    "LABELS_ASSOCIATION",
    "CALL",
    "TYPEBOT_START",
    "TYPEBOT_CHANGE_STATUS",
    "REMOVE_INSTANCE",
    "LOGOUT_INSTANCE",
    "INSTANCE_CREATE",
    "INSTANCE_DELETE",
    "STATUS_INSTANCE",
];

/// One event, by its place among `NAMES`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Event(usize);

impl FromStr for Event {
    type Err = UnknownEvent;

    fn from_str(text: &str) -> Result<Self, UnknownEvent> {
        let place = NAMES.iter().position(|name| *name == text);
        place.map(Self).ok_or_else(|| UnknownEvent(text.chars().take(80).collect()))
    }
}

impl AsRef<str> for Event {
    fn as_ref(&self) -> &str {
        NAMES[self.0]
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(NAMES[self.0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_reads_back_and_none_else_does() {
        for name in NAMES {
            assert_eq!(name.parse::<Event>().map(|event| event.to_string()), Ok(name.to_owned()));
        }
        let error = "GROUPS_UPDATE".parse::<Event>().unwrap_err().to_string();
        assert!(error.starts_with(r#"event "GROUPS_UPDATE" is unknown: expected one of APPLICATION_STARTUP, "#));
    }
}
