//! The breaker of an API host, for the whole fleet: what the workers hear of the host, and what
//! follows from it. Pure: the ledger brings the state and writes the next one, under the gate's
//! lock.
//! ```text
//! closed --failures of three runs, or the key refused--> open --the probe is answered--> half-open
//!    ^                                                   ^   <--the run let through fails--+  |
//!    +-------------- the run that was let through gets an answer -----------------------------+
//! ```

use std::time::Duration;

use serde::Deserialize;

use super::{
    ids::RunId,
    outcome::{Failure, HostSignal, Mend},
    policy::equal_jitter,
};

/// Where a breaker stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    #[default]
    Closed,
    /// Nothing is let through; the host is probed.
    Open,
    /// The probe was answered: one run at a time is let through.
    HalfOpen,
}

/// Why a breaker is not closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The host does not answer, or only with errors.
    Outage,
    /// The host refuses our key.
    Key,
}

/// What was heard of the host, and by whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signal {
    /// None: a probe heard it.
    pub run: Option<RunId>,
    pub heard: HostSignal,
}

/// What the questions of a probe came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probed {
    Answered,
    Failed,
    KeyRefused,
}

/// The answer to a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub found: Probed,
    /// How long the host asks to be left alone, if it does.
    pub hold: Option<Duration>,
    /// What the host said, where it does not work.
    pub word: Option<Word>,
}

impl From<Probed> for Answer {
    fn from(found: Probed) -> Self {
        Self { found, hold: None, word: None }
    }
}

/// What was last heard of a host that does not work, for people: many see it, so it names nobody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    text: String,
    mend: Mend,
}

/// The most that is repeated of it.
const WORD_CHARS: usize = 400;

impl Word {
    /// Of a failure that the host is to blame for. `names` are those of its run.
    pub fn of(failure: &Failure, names: [&str; 2]) -> Option<Self> {
        if !matches!(failure.host, HostSignal::Failing | HostSignal::KeyRefused) {
            return None;
        }
        let without = |text: String, name: &&str| text.replace(*name, "…");
        let text = names.iter().filter(|name| !name.is_empty()).fold(failure.message.clone(), without);
        Some(Self { text: text.chars().take(WORD_CHARS).collect(), mend: failure.mend })
    }
}

/// When a breaker opens and how the host is probed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rules {
    /// How many different runs must fail, with no good answer in between, before it opens.
    pub runs: usize,
    /// Failures further apart than this have nothing to do with each other.
    pub window: Duration,
    /// The pause before each of the first `quick` probes; then it doubles up to `longest`.
    pub first: Duration,
    pub quick: u32,
    pub longest: Duration,
    /// The pause between two probes while the key is refused: a person mends that, and looks on.
    pub key: Duration,
    /// How long one probe may take.
    pub patience: Duration,
    /// How often a worker looks at its host's gate.
    pub look: Duration,
    /// What a person does where the host refuses our key.
    pub key_advice: &'static str,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            runs: 3,
            window: Duration::from_secs(60),
            first: Duration::from_secs(1),
            // About a minute: whatever restarts is back by then.
            quick: 80,
            longest: Duration::from_secs(30),
            key: Duration::from_secs(4),
            patience: Duration::from_secs(5),
            look: Duration::from_secs(1),
            key_advice: "give the workers the key that the API takes and restart them",
        }
    }
}

/// A host's breaker, as its gate row holds it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Breaker {
    pub state: State,
    /// Set unless closed.
    pub cause: Option<Cause>,
    /// The runs that failed since the last good answer, each once, oldest first.
    pub failing: Vec<RunId>,
    /// How long ago the first of them failed.
    pub failing_for: Duration,
    /// How many probes were made since it opened.
    pub probes: u32,
    /// The run that a half-open breaker lets through.
    pub probe_run: Option<RunId>,
}

/// The most runs that are remembered as failing: they are the last to be let through by a half-open
/// breaker.
const REMEMBERED: usize = 64;

impl Rules {
    /// The pause after the `probes`th probe, or after opening. Half of it is drawn, so that relays
    /// and hosts spread.
    pub fn pause(&self, breaker: &Breaker, jitter: f64) -> Duration {
        let whole = match breaker.cause {
            Some(Cause::Key) => self.key,
            _ => {
                let doublings = breaker.probes.saturating_sub(self.quick).min(16);
                self.first.saturating_mul(2u32.saturating_pow(doublings)).min(self.longest)
            }
        };
        equal_jitter(whole, jitter)
    }
}

/// What a reason is made of.
#[derive(Debug, Clone, Copy)]
pub struct Say<'a> {
    pub host: &'a str,
    /// What a person does where the host refuses our key.
    pub advice: &'a str,
    pub word: Option<&'a Word>,
}

impl Breaker {
    /// The breaker after what the workers heard, in order.
    pub fn hear(mut self, signals: &[Signal], rules: &Rules) -> Self {
        for signal in signals {
            // What a probe finds comes by `probed`; here it has only a hold to tell of.
            let Some(run) = signal.run else { continue };
            // Attempts that began before it opened end while it is half-open: only the run let
            // through is heard.
            if self.state == State::HalfOpen && self.probe_run != Some(run) {
                continue;
            }
            match (self.state, signal.heard) {
                (State::Closed, HostSignal::Healthy) => self.forget(),
                (State::Closed, HostSignal::Failing) => {
                    self.remember(run, rules);
                    if self.failing.len() >= rules.runs {
                        self.open(Cause::Outage);
                    }
                }
                (State::Closed, HostSignal::KeyRefused) => self.open(Cause::Key),
                (State::Open, HostSignal::KeyRefused) => self.cause = Some(Cause::Key),
                (State::HalfOpen, HostSignal::Healthy) => self = Self::default(),
                (State::HalfOpen, HostSignal::Failing) => {
                    self.remember(run, rules);
                    self.reopen(Cause::Outage);
                }
                (State::HalfOpen, HostSignal::KeyRefused) => self.reopen(Cause::Key),
                (State::Open, _) | (_, HostSignal::Hold(_) | HostSignal::Silent) => {}
            }
        }
        self
    }

    /// The breaker after a probe. Only an open one is probed.
    pub fn probed(mut self, found: Probed) -> Self {
        if self.state != State::Open {
            return self;
        }
        match found {
            Probed::Answered => (self.state, self.probe_run) = (State::HalfOpen, None),
            Probed::Failed => self.cause = Some(Cause::Outage),
            Probed::KeyRefused => self.cause = Some(Cause::Key),
        }
        self
    }

    /// Why it is not closed, for people, after it was `before` and said `there`. Where nothing new
    /// was heard, that stays.
    pub fn reason(&self, before: Option<Cause>, there: Option<String>, say: &Say) -> Option<String> {
        let cause = self.cause?;
        let kept = there.filter(|_| say.word.is_none() && before == Some(cause));
        Some(kept.unwrap_or_else(|| cause.reason(say)))
    }

    fn open(&mut self, cause: Cause) {
        self.probes = 0;
        self.reopen(cause);
    }

    /// Open again: the pauses between probes go on growing.
    fn reopen(&mut self, cause: Cause) {
        self.state = State::Open;
        self.cause = Some(cause);
        self.probe_run = None;
    }

    fn forget(&mut self) {
        self.failing.clear();
        self.failing_for = Duration::ZERO;
    }

    fn remember(&mut self, run: RunId, rules: &Rules) {
        if self.state == State::Closed && self.failing_for > rules.window {
            self.forget();
        }
        self.failing.retain(|other| *other != run);
        self.failing.push(run);
        let over = self.failing.len().saturating_sub(REMEMBERED);
        self.failing.drain(..over);
    }
}

impl Signal {
    /// What an attempt of `run` heard.
    pub fn of(run: RunId, heard: HostSignal) -> Self {
        Self { run: Some(run), heard }
    }

    /// What a probe heard beside its answer.
    pub fn of_a_probe(heard: HostSignal) -> Self {
        Self { run: None, heard }
    }

    /// How long the host asks to be left alone, if it does.
    pub fn hold(&self) -> Option<Duration> {
        match self.heard {
            HostSignal::Hold(duration) => Some(duration),
            HostSignal::Silent | HostSignal::Healthy | HostSignal::Failing | HostSignal::KeyRefused => None,
        }
    }
}

impl Cause {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Outage => "outage",
            Self::Key => "key",
        }
    }

    /// What a person reads, wherever a run waits for it.
    pub fn reason(self, say: &Say) -> String {
        let (what, mend) = match (self, say.word) {
            (Self::Key, _) => (format!("refuses our key: {}", say.advice), Mend::Person),
            (Self::Outage, Some(Word { text, mend })) => (format!("does not work: {text}"), *mend),
            (Self::Outage, None) => ("does not answer, or only with errors".to_owned(), Mend::Itself),
        };
        let until = match mend {
            Mend::Itself => "and goes on by itself when the API is back",
            Mend::Person => "until that is done",
        };
        format!("the API at {} {what}; the run waits, uncounted, {until}", say.host)
    }
}

impl State {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{HostSignal::*, *};
    use crate::outcome::Class;

    fn run(number: u128) -> RunId {
        RunId::new(uuid::Uuid::from_u128(number))
    }

    fn hear(breaker: Breaker, heard: &[(u128, HostSignal)]) -> Breaker {
        let signals: Vec<_> = heard.iter().map(|(number, heard)| Signal::of(run(*number), *heard)).collect();
        breaker.hear(&signals, &Rules::default())
    }

    fn open() -> Breaker {
        hear(Breaker::default(), &[(1, Failing), (2, Failing), (3, Failing)])
    }

    fn half_open(probe_run: RunId) -> Breaker {
        Breaker { probe_run: Some(probe_run), probes: 2, ..open().probed(Probed::Answered) }
    }

    #[test]
    fn three_different_runs_or_a_refused_key_open_it() {
        for (what, heard, state, cause) in [
            ("three runs", &[(1, Failing), (2, Failing), (3, Failing)][..], State::Open, Some(Cause::Outage)),
            ("two runs, again and again", &[1, 2, 1, 2, 2].map(|number| (number, Failing)), State::Closed, None),
            ("one poison run", &[(1, Failing); 100], State::Closed, None),
            (
                "a good answer in between",
                &[(1, Failing), (2, Failing), (9, Healthy), (3, Failing)],
                State::Closed,
                None,
            ),
            ("a refused key, at once", &[(1, KeyRefused)], State::Open, Some(Cause::Key)),
        ] {
            let breaker = hear(Breaker::default(), heard);
            assert_eq!((breaker.state, breaker.cause), (state, cause), "{what}");
        }
    }

    #[test]
    fn failures_far_apart_have_nothing_to_do_with_each_other() {
        let later =
            Breaker { failing_for: Duration::from_secs(61), ..hear(Breaker::default(), &[(1, Failing), (2, Failing)]) };

        let heard = hear(later, &[(3, Failing)]);

        assert_eq!((heard.state, heard.failing), (State::Closed, vec![run(3)]));
    }

    #[test]
    fn an_open_one_listens_to_probes_only() {
        let refused = hear(Breaker::default(), &[(1, KeyRefused)]);

        assert_eq!(hear(open(), &[(1, Healthy), (9, Healthy), (8, Failing)]), open());
        assert_eq!(open().probed(Probed::Failed), open());
        assert_eq!(refused.probed(Probed::Answered).state, State::HalfOpen);
    }

    #[test]
    fn only_the_run_let_through_closes_or_reopens_a_half_open_one() {
        let half = half_open(run(7));

        assert_eq!(hear(half.clone(), &[(1, Healthy), (2, Failing)]), half);
        assert_eq!(hear(half.clone(), &[(7, Healthy)]), Breaker::default());
        let reopened = hear(half, &[(7, Failing)]);
        assert_eq!((reopened.state, reopened.probes, reopened.probe_run), (State::Open, 2, None));
        assert_eq!(reopened.failing.last(), Some(&run(7)));
    }

    #[test]
    fn a_host_that_just_died_is_probed_each_second_and_then_pauses_grow_and_spread() {
        let rules = Rules::default();
        let first: Duration = (0..rules.quick).map(|probes| rules.pause(&Breaker { probes, ..open() }, 0.5)).sum();
        assert!(first >= Duration::from_secs(60), "{first:?}");

        let rules = Rules { quick: 0, ..rules };
        let pause = |probes, jitter| rules.pause(&Breaker { probes, ..open() }, jitter).as_millis();

        assert_eq!([0, 1, 2, 5, 60].map(|probes| pause(probes, 1.0)), [1000, 2000, 4000, 30_000, 30_000]);
        assert_eq!(pause(5, 0.0), 15_000);
        let refused = hear(Breaker::default(), &[(1, KeyRefused)]);
        assert!(rules.pause(&Breaker { probes: 900, ..refused }, 1.0) <= Duration::from_secs(5));
    }

    #[test]
    fn what_is_remembered_of_failing_runs_is_bounded() {
        let rules = Rules { runs: usize::MAX, ..Rules::default() };
        let signals: Vec<_> = (0..1000).map(|number| Signal::of(run(number), Failing)).collect();

        assert_eq!(Breaker::default().hear(&signals, &rules).failing.len(), REMEMBERED);
        assert_eq!(hear(Breaker::default(), &[(1, Failing); 100]).failing, [run(1)]);
    }

    #[test]
    fn the_reason_of_a_refused_key_says_what_to_do() {
        let say = Say { host: "api.example", advice: "set THE_KEY", word: None };

        assert!(Cause::Key.reason(&say).contains("set THE_KEY"));
    }

    #[test]
    fn an_outages_reason_quotes_what_was_heard_and_names_nobody() {
        let failure = |message: &str, mend| Failure::new(Class::Unreadable, message).with_host(Failing).with_mend(mend);
        let page = Word::of(&failure("answered 404 to user_1: page not found", Mend::Itself), ["user_1", "1"]).unwrap();
        let moved = Word::of(&failure("set THE_URL", Mend::Person), ["user_1", "1"]).unwrap();
        let reason = |word| Cause::Outage.reason(&Say { host: "api.example", advice: "", word: Some(word) });

        assert!(reason(&page).contains("answered 404 to …: page not found"), "{}", reason(&page));
        assert!(reason(&page).ends_with("goes on by itself when the API is back"));
        assert!(reason(&moved).ends_with("set THE_URL; the run waits, uncounted, until that is done"));
        assert_eq!(Word::of(&Failure::new(Class::Rejected, "no"), ["", ""]), None);
    }

    #[test]
    fn a_reason_stays_where_nothing_new_was_heard() {
        let say = Say { host: "api.example", advice: "", word: None };
        let there = Some("what was heard first".to_owned());

        assert_eq!(open().reason(Some(Cause::Outage), there.clone(), &say), there);
        assert_ne!(open().reason(Some(Cause::Key), there.clone(), &say), there);
        assert_eq!(Breaker::default().reason(Some(Cause::Outage), there, &say), None);
    }
}
