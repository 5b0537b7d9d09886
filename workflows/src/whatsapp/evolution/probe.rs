//! Whether the API works again: it takes our key, and its database answers. Without a database the
//! API still takes the key, and answers much from its memory; the second question is one that it
//! cannot answer from there.

use super::{ApiError, Evolution, classify};
use crate::{
    breaker::{Answer, Probed, Word},
    outcome::HostSignal,
    whatsapp::names::{InstanceName, UserId},
    workflow::{Boxed, Probe},
};

/// The probe of one API host.
pub struct HostProbe<E> {
    host: String,
    api: E,
}

impl<E: Evolution> HostProbe<E> {
    /// `host` is named as the steps' definitions name it.
    pub fn new(host: impl Into<String>, api: E) -> Self {
        Self { host: host.into(), api }
    }
}

impl<E: Evolution + Send + Sync> Probe for HostProbe<E> {
    fn host(&self) -> &str {
        &self.host
    }

    fn ask(&self) -> Boxed<'_, Answer> {
        Box::pin(async {
            match judge(&self.api.verify_creds().await) {
                Answer { found: Probed::Answered, .. } => judge(&self.api.database().await),
                not_well => not_well,
            }
        })
    }

    fn key_advice(&self) -> &'static str {
        "set EVOLUTION_API_KEY to the API's AUTHENTICATION_API_KEY and restart the workers"
    }
}

/// What the answer to a probe's question means: any of the API's own below 500, other than 401, 408
/// and 429, shows that the host works, unless it says that the API's database does not.
fn judge<T>(answer: &Result<T, ApiError>) -> Answer {
    // A name that no instance has: the questions of a probe are about none.
    let nobody = InstanceName::of_user(UserId::new(uuid::Uuid::nil()));
    let failure = answer.as_ref().err().map(|error| classify::failure(error, &nobody));
    let (found, hold) = match failure.as_ref().map(|failure| failure.host) {
        None | Some(HostSignal::Healthy) => (Probed::Answered, None),
        Some(HostSignal::KeyRefused) => (Probed::KeyRefused, None),
        Some(HostSignal::Hold(duration)) => (Probed::Failed, Some(duration)),
        Some(HostSignal::Failing | HostSignal::Silent) => (Probed::Failed, None),
    };
    Answer { found, hold, word: failure.and_then(|failure| Word::of(&failure, [nobody.as_str(), ""])) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::whatsapp::evolution::{Answer, Call, ErrorKind, RetryAfter, Shape};

    fn judged(kind: ErrorKind) -> (Probed, Option<Duration>) {
        let judged = judge::<()>(&Err(ApiError { call: Call::VerifyCreds, kind }));
        (judged.found, judged.hold)
    }

    #[test]
    fn any_answer_of_its_own_below_500_but_401_408_and_429_shows_that_the_host_works() {
        let retry_after = RetryAfter::parse("7", None);
        for (status, found, hold) in [
            (400, Probed::Answered, None),
            (404, Probed::Answered, None),
            (401, Probed::KeyRefused, None),
            (408, Probed::Failed, None),
            (429, Probed::Failed, Some(Duration::from_secs(7))),
            (500, Probed::Failed, Some(Duration::from_secs(7))),
        ] {
            let retry_after = retry_after.filter(|_| hold.is_some());
            let answer = Answer { status, shape: Shape::Plain, message: String::new(), retry_after };

            assert_eq!(judged(ErrorKind::Answer(answer)), (found, hold), "{status}");
        }
        assert_eq!(judge(&Ok(())), Probed::Answered.into());
        assert_eq!(judged(ErrorKind::Unreachable("refused".to_owned())).0, Probed::Failed);
    }

    #[test]
    fn what_is_not_the_api_shows_nothing_of_it() {
        for status in [400, 401, 403, 404, 308] {
            let answer = Answer { status, shape: Shape::Foreign, message: "a page".to_owned(), retry_after: None };

            assert_eq!(judged(ErrorKind::Answer(answer)).0, Probed::Failed, "{status}");
        }
        assert_eq!(judged(ErrorKind::Foreign { status: 200, what: "a page".to_owned() }).0, Probed::Failed);
    }
}
