//! What this process knows of the API's host beyond one attempt: which version it is, and whether a
//! name that nobody ever made through us may still be in its database without being loaded.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;

use super::{healthy, said};
use crate::{
    outcome::{Class, HostSignal, Outcome},
    whatsapp::evolution::{ApiError, Evolution, Roster, Support, TRIED, Version},
};

/// A silence of this length may hide a restart of the API, which takes longer.
const SILENCE: Duration = Duration::from_secs(2);

/// How long the version is not asked for again after the API did not tell it.
const ASK_AGAIN: Duration = Duration::from_secs(60);

/// One host, as the attempts of this process see it.
#[derive(Debug, Default)]
pub struct Host(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    version: Option<Version>,
    /// When the host did not tell it.
    unsaid_at: Option<Duration>,
    /// Whether a run was told that the version is a newer one.
    warned: bool,
    roster: Option<Arc<Roster>>,
    /// When the host last answered.
    heard_at: Option<Duration>,
    /// How often it was seen not to answer.
    breaks: u64,
}

impl Host {
    /// An attempt ended so. Where the host did not answer, it may have restarted.
    pub(super) fn heard(&self, now: Duration, outcome: &Outcome) {
        let mut known = self.0.lock();
        known.notice_silence(now);
        match outcome.failure().map(|failure| failure.host) {
            None | Some(HostSignal::Healthy) => known.heard_at = Some(now),
            Some(HostSignal::Failing) => known.forget(),
            Some(HostSignal::Silent | HostSignal::Hold(_) | HostSignal::KeyRefused) => {}
        }
    }

    /// The list of every instance, no older than the API's last restart: what it lacks and the
    /// API's memory lacks does not exist. One list serves for as long as the host answers without a
    /// break.
    pub(super) async fn roster(&self, api: &impl Evolution) -> Result<Arc<Roster>, ApiError> {
        let breaks = {
            let mut known = self.0.lock();
            known.notice_silence(api.elapsed());
            if let Some(roster) = &known.roster {
                return Ok(roster.clone());
            }
            known.breaks
        };
        let roster = api.roster().await?;
        let mut known = self.0.lock();
        if known.breaks == breaks {
            known.roster = Some(roster.clone());
            known.heard_at = Some(api.elapsed());
        }
        Ok(roster)
    }

    /// Refuses a version that our calls do not fit, before anything is made. A host that does not
    /// tell its version is not held up for that. Nobody relies on a question that another attempt
    /// has under way.
    pub(super) async fn refuses(&self, api: &impl Evolution) -> Option<Outcome> {
        let known = {
            let known = self.0.lock();
            let asked_lately = known.unsaid_at.is_some_and(|at| api.elapsed().saturating_sub(at) < ASK_AGAIN);
            match &known.version {
                Some(version) if version.support() != Support::Older => return None,
                None if asked_lately => return None,
                other => other.clone(),
            }
        };
        let said = api.version().await.ok();
        let mut host = self.0.lock();
        if said.is_none() {
            host.unsaid_at = Some(api.elapsed());
        }
        let version = said.or(known)?;
        host.version = Some(version.clone());
        (version.support() == Support::Older).then(|| refused(&version))
    }

    /// Says which version the API is, where nobody tried it: once on a success, and with every
    /// answer that nobody recorded.
    pub(super) fn say(&self, outcome: Outcome) -> Outcome {
        let mut known = self.0.lock();
        let newer = known.version.clone().filter(|version| version.support() == Support::Newer);
        let Some(version) = newer else { return outcome };
        let is_to_be_said = match &outcome {
            Outcome::Success { .. } => !std::mem::replace(&mut known.warned, true),
            Outcome::Retry(failure) | Outcome::Permanent(failure) => {
                matches!(failure.class, Class::Unreadable | Class::Rejected)
            }
            Outcome::Defer { .. } | Outcome::SendBack { .. } => false,
        };
        if !is_to_be_said {
            return outcome;
        }
        let text = format!("the API says that it is version {version}, newer than those that were tried ({TRIED})");
        said(outcome, &text)
    }
}

impl Known {
    fn notice_silence(&mut self, now: Duration) {
        if self.heard_at.is_none_or(|at| now.saturating_sub(at) >= SILENCE) {
            self.roster = None;
        }
    }

    /// It may come back as another version.
    fn forget(&mut self) {
        *self = Self { warned: self.warned, breaks: self.breaks + 1, ..Self::default() };
    }
}

fn refused(version: &Version) -> Outcome {
    let message = format!(
        "the API is version {version}, whose webhooks these calls do not fit, and nothing was made: a person must update it \
         to one of those that were tried ({TRIED}); the run goes on by itself after that"
    );
    Outcome::Defer { failure: healthy(Class::Rejected, message), after: None }
}
