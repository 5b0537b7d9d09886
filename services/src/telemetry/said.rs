//! A trouble that goes on is said once, and again each minute.

use std::time::Duration;

use tokio::time::Instant;

const SAY_AGAIN: Duration = Duration::from_secs(60);

/// What was said last, and when.
#[derive(Default)]
pub struct Said(Option<(String, Instant)>);

impl Said {
    /// Whether this is to be said now: it is another trouble than the last one, or a minute has
    /// passed.
    pub fn is_news(&mut self, trouble: &impl ToString) -> bool {
        let trouble = trouble.to_string();
        let is_known = self.0.as_ref().is_some_and(|(said, at)| *said == trouble && at.elapsed() < SAY_AGAIN);
        if !is_known {
            self.0 = Some((trouble, Instant::now()));
        }
        !is_known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_trouble_is_said_once_and_again_each_minute() {
        let mut said = Said::default();

        let first = ["no disk", "no disk", "no network"].map(|trouble| said.is_news(&trouble));
        tokio::time::advance(SAY_AGAIN).await;

        assert_eq!(first, [true, false, true]);
        assert!(said.is_news(&"no network"));
    }
}
