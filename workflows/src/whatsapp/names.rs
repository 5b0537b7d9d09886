//! The product's words: the users of the app, their instances, and how an instance stands.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::ids::{Invalid, ResourceName, Subject};

/// A user of the app: the id of a row of `profiles`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UserId(Uuid);

impl UserId {
    pub fn new(id: Uuid) -> Self {
        Self(id)
    }

    pub fn uuid(self) -> Uuid {
        self.0
    }

    /// The subject of this user's runs.
    pub fn subject(self) -> Subject {
        Subject::try_from(self.0.to_string()).expect("a uuid is a valid subject")
    }

    /// The user behind a subject, where it is one.
    pub fn of(subject: &Subject) -> Option<Self> {
        subject.as_str().parse().ok()
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for UserId {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        text.parse().map(Self).map_err(|_| Invalid::new("user id", text, "the uuid of a profile"))
    }
}

/// The name of an instance at the Evolution API, as it stands there; it is percent-encoded only in
/// a URL.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct InstanceName(ResourceName);

impl InstanceName {
    /// The name that a user's instance gets.
    pub fn of_user(user: UserId) -> Self {
        Self(format!("user_{user}").parse().expect("a user's instance name is a valid name"))
    }

    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// Whether the name is this user's own: theirs, or an older one that begins with it
    /// (`user_<uuid>_v2`). A uuid has one length, so that no user's name is the beginning of
    /// another user's.
    pub fn is_of(&self, user: UserId) -> bool {
        self.as_str().starts_with(Self::of_user(user).as_str())
    }

    /// The resource that runs work on for this instance.
    pub fn resource(&self) -> ResourceName {
        self.0.clone()
    }
}

impl From<ResourceName> for InstanceName {
    fn from(name: ResourceName) -> Self {
        Self(name)
    }
}

impl FromStr for InstanceName {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        text.parse().map(Self)
    }
}

impl fmt::Display for InstanceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The public row's `instance_status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InstanceStatus {
    Creating,
    Disconnected,
    Connecting,
    Connected,
    Error,
}

impl InstanceStatus {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Disconnected => "disconnected",
            Self::Connecting => "connecting",
            Self::Connected => "connected",
            Self::Error => "error",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_users_instance_is_named_after_the_user() {
        let user: UserId = "7051bc96-9e27-4940-86ab-2c040b518faa".parse().unwrap();

        assert_eq!(InstanceName::of_user(user).as_str(), "user_7051bc96-9e27-4940-86ab-2c040b518faa");
        assert_eq!(UserId::of(&user.subject()), Some(user));
    }

    #[test]
    fn a_name_that_begins_with_the_users_own_is_the_users() {
        let user: UserId = "7051bc96-9e27-4940-86ab-2c040b518faa".parse().unwrap();
        let own = InstanceName::of_user(user);
        let is_own = |name: String| name.parse::<InstanceName>().unwrap().is_of(user);

        assert!(is_own(own.to_string()));
        assert!(is_own(format!("{own}_1700000000000")));
        assert!(is_own(format!("{own}_v2")));
        assert!(!is_own("user_7051bc96".to_owned()));
        assert!(!is_own(format!("x{own}")));
        assert!(!is_own(format!("user_{}", Uuid::nil())));
    }
}
