//! The events that an instance's webhook may ask for. The API refuses a webhook that names any other.

use std::{fmt, str::FromStr};

/// A text that names no event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("event {0:?} is unknown: expected one of {list}", list = Event::names().join(", "))]
pub struct UnknownEvent(pub String);

/// Makes the enum and both ways between it and the API's names.
macro_rules! events {
    ($($event:ident = $name:literal),+ $(,)?) => {
        /// One event, as the API names it when it is subscribed.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Event { $($event),+ }

        impl Event {
            /// All of them: what the API takes an empty list for.
            pub const ALL: &[Self] = &[$(Self::$event),+];

            pub fn as_str(self) -> &'static str {
                match self { $(Self::$event => $name),+ }
            }
        }
    };
}

events! {
    ApplicationStartup = "APPLICATION_STARTUP",
    QrcodeUpdated = "QRCODE_UPDATED",
    MessagesSet = "MESSAGES_SET",
    MessagesUpsert = "MESSAGES_UPSERT",
    MessagesEdited = "MESSAGES_EDITED",
    MessagesUpdate = "MESSAGES_UPDATE",
    MessagesDelete = "MESSAGES_DELETE",
    SendMessage = "SEND_MESSAGE",
    SendMessageUpdate = "SEND_MESSAGE_UPDATE",
    ContactsSet = "CONTACTS_SET",
    ContactsUpsert = "CONTACTS_UPSERT",
    ContactsUpdate = "CONTACTS_UPDATE",
    PresenceUpdate = "PRESENCE_UPDATE",
    ChatsSet = "CHATS_SET",
    ChatsUpsert = "CHATS_UPSERT",
    ChatsUpdate = "CHATS_UPDATE",
    ChatsDelete = "CHATS_DELETE",
    GroupsUpsert = "GROUPS_UPSERT",
    GroupUpdate = "GROUP_UPDATE",
    GroupParticipantsUpdate = "GROUP_PARTICIPANTS_UPDATE",
    ConnectionUpdate = "CONNECTION_UPDATE",
    LabelsEdit = "LABELS_EDIT",
    LabelsAssociation = "LABELS_ASSOCIATION",
    Call = "CALL",
    TypebotStart = "TYPEBOT_START",
    TypebotChangeStatus = "TYPEBOT_CHANGE_STATUS",
    RemoveInstance = "REMOVE_INSTANCE",
    LogoutInstance = "LOGOUT_INSTANCE",
    InstanceCreate = "INSTANCE_CREATE",
    InstanceDelete = "INSTANCE_DELETE",
    StatusInstance = "STATUS_INSTANCE",
}

impl Event {
    fn names() -> Vec<&'static str> {
        Self::ALL.iter().map(|event| event.as_str()).collect()
    }
}

impl FromStr for Event {
    type Err = UnknownEvent;

    fn from_str(text: &str) -> Result<Self, UnknownEvent> {
        let found = Self::ALL.iter().find(|event| event.as_str() == text);
        found.copied().ok_or_else(|| UnknownEvent(text.chars().take(80).collect()))
    }
}

impl AsRef<str> for Event {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_reads_back_and_none_else_does() {
        assert_eq!(Event::ALL.len(), 31);
        for event in Event::ALL {
            assert_eq!(event.as_str().parse(), Ok(*event));
        }
        let error = "GROUPS_UPDATE".parse::<Event>().unwrap_err().to_string();
        assert!(error.starts_with(r#"event "GROUPS_UPDATE" is unknown: expected one of APPLICATION_STARTUP, "#));
    }
}
