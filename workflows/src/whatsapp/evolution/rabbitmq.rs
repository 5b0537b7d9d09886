//! What is asked of the API for the events of one instance at its RabbitMQ, and what it says that
//! it has.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{Event, report};

/// Where the API publishes the events of instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AmqpMode {
    /// Those of all to one exchange: the API's own settings say which.
    #[default]
    Global,
    /// Those of each to an exchange of the instance's name: `rabbitmq/set` says which.
    Instance,
}

/// What the API publishes of an instance, as it stores it. Events are texts: the API does not check
/// those that came inside a create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rabbitmq {
    pub enabled: bool,
    pub events: BTreeSet<String>,
}

impl Rabbitmq {
    /// The events that a follower reads and the API does not publish where this is stored.
    pub fn missing(stored: Option<&Self>) -> Vec<String> {
        let published = |event: &String| stored.is_some_and(|stored| stored.enabled && stored.events.contains(event));
        followed().filter(|event| !published(event)).collect()
    }

    /// What to set where this is stored: what a follower reads, beside what others have asked for.
    /// `None`: that is published already.
    pub fn to_set(stored: Option<&Self>) -> Option<Self> {
        if Self::missing(stored).is_empty() {
            return None;
        }
        let others = stored.into_iter().flat_map(|stored| &stored.events);
        // The API refuses a set that names any other.
        let others = others.filter(|event| event.parse::<Event>().is_ok()).cloned();
        Some(Self { enabled: true, events: followed().chain(others).collect() })
    }

    /// The request body.
    pub fn body(&self) -> Value {
        json!({ "rabbitmq": { "enabled": self.enabled, "events": self.events } })
    }
}

/// The events that a follower reads, as they are subscribed.
fn followed() -> impl Iterator<Item = String> {
    report::EVENTS.iter().map(|key| key.replace('.', "_").to_ascii_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(enabled: bool, events: &[&str]) -> Rabbitmq {
        Rabbitmq { enabled, events: events.iter().map(|event| (*event).to_owned()).collect() }
    }

    #[test]
    fn what_a_follower_reads_is_known_to_the_api() {
        assert_eq!(followed().count(), 7);
        for event in followed() {
            assert!(event.parse::<Event>().is_ok(), "{event}");
        }
    }

    #[test]
    fn what_is_missing_is_set_beside_what_others_have_asked_for() {
        let all: Vec<String> = followed().collect();
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        let more = [&all[..], &["CALL"]].concat();
        let theirs = stored(true, &["CALL", "MESSAGES_UPSERT", "NOPE"]);

        assert_eq!(Rabbitmq::to_set(None), Some(stored(true, &all)));
        assert_eq!(Rabbitmq::to_set(Some(&stored(false, &[]))), Some(stored(true, &all)));
        assert_eq!(Rabbitmq::to_set(Some(&stored(false, &more))), Some(stored(true, &more)));
        assert_eq!(Rabbitmq::to_set(Some(&stored(true, &more))), None);
        let set = Rabbitmq::to_set(Some(&theirs)).unwrap();
        assert_eq!(set, stored(true, &[&more[..], &["MESSAGES_UPSERT"]].concat()));
        assert_eq!(Rabbitmq::missing(Some(&stored(true, &all[1..]))), [all[0]]);
    }
}
