//! What a due step waits for, in a person's words.

use crate::{cli::moment::relative, ledger::postgres::read::Wait};

/// Everything that it waits for; none where it is not due.
pub(super) fn describe(waits: &[Wait]) -> Option<String> {
    let texts: Vec<String> = waits.iter().map(text).collect();
    (!texts.is_empty()).then(|| texts.join("; "))
}

fn text(wait: &Wait) -> String {
    match wait {
        Wait::EarlierStep => "an earlier step".to_owned(),
        Wait::Turn { behind: Some(run) } => format!("its turn behind run {run}"),
        Wait::Turn { behind: None } => "its turn".to_owned(),
        Wait::Backoff { until } => format!("its delay, over {}", relative(*until)),
        Wait::Gate { reason: Some(reason) } => format!("a gate: {reason}"),
        Wait::Gate { reason: None } => "a gate".to_owned(),
        Wait::Limit => "a rate or concurrency limit".to_owned(),
        Wait::Resource { until } => format!("its resource, free {}", relative(*until)),
        Wait::Definition => "a build that knows the step".to_owned(),
        Wait::Worker => "a worker".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use chrono::{TimeDelta, Utc};
    use uuid::Uuid;

    use super::*;

    #[test]
    fn each_wait_is_said_in_words() {
        let until = Utc::now() + TimeDelta::seconds(90);
        let said = [
            (Wait::Backoff { until }, "its delay, over in 1m"),
            (Wait::Resource { until }, "its resource, free in 1m"),
            (Wait::Gate { reason: Some("paused by ana".to_owned()) }, "a gate: paused by ana"),
            (Wait::Turn { behind: Some(Uuid::nil()) }, "its turn behind run 00000000-0000-0000-0000-000000000000"),
        ];

        for (wait, words) in said {
            assert_eq!(text(&wait), words);
        }
        assert_eq!(
            describe(&[Wait::EarlierStep, Wait::Limit]).unwrap(),
            "an earlier step; a rate or concurrency limit"
        );
        assert_eq!(describe(&[]), None);
    }
}
