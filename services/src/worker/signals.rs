//! What the attempts of this process hear of an API host is told to the host's gate in batches, and
//! a host whose breaker is open is probed. A settle never waits for this, and good answers are told
//! only where they are news.

use std::{convert::Infallible, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::FutureExt;
use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout},
};
use workflows::{
    breaker::{Answer, Cause, Probed, Rules, Say, Signal, State, Word},
    outcome::HostSignal,
    workflow::Probe,
};

use super::Dice;
use crate::{
    ledger::{HostGate, Result, WorkerLedger},
    telemetry::{Said, health::Pulse},
};

/// How long signals wait for others while the breaker is closed.
const BATCH: Duration = Duration::from_millis(250);

/// How often the gate is looked at while it passes and no attempt ends. An attempt that ends later
/// brings about a look of its own.
const IDLE_LOOK: Duration = Duration::from_secs(3);

/// How old the look at the gate may be that a good answer is judged by: no breaker opens and lets a
/// run through in so short a time.
const FRESH: Duration = Duration::from_millis(500);

/// The most that one report holds. Beyond it nothing is learnt that the first ones did not say.
const MOST: usize = 500;

/// What was heard and not yet told, and how the gate stood when it was last seen.
#[derive(Default)]
pub(super) struct Heard {
    pending: Vec<Signal>,
    /// What the host last said to one that failed.
    word: Option<Word>,
    gate: HostGate,
    /// When the gate was looked at.
    seen: Option<Instant>,
    /// An attempt has ended since.
    active: bool,
}

impl Heard {
    /// Whether it is news. While the breaker is closed, a good answer matters only after failures,
    /// and undoes them. Where the last look is old, the answer is kept, and a new look decides.
    fn hear(&mut self, signal: Signal) -> bool {
        if signal.heard == HostSignal::Silent {
            return false;
        }
        self.active = true;
        let closed = self.gate.breaker == State::Closed;
        let matters = self.gate.failing || self.seen.is_none_or(|seen| seen.elapsed() > FRESH);
        match signal.heard {
            HostSignal::Healthy if closed => {
                let failed =
                    self.pending.iter().any(|other| !matches!(other.heard, HostSignal::Healthy | HostSignal::Hold(_)));
                if !failed && (!matters || self.pending.iter().any(|other| other.heard == HostSignal::Healthy)) {
                    return false;
                }
                self.pending.retain(|other| other.heard != HostSignal::Failing);
            }
            HostSignal::Hold(_) => {}
            _ if self.pending.contains(&signal) => return false,
            _ => {}
        }
        if self.pending.len() < MOST {
            self.pending.push(signal);
        }
        true
    }

    /// Whether the gate passes and nobody has asked anything of the host since it was looked at.
    fn is_idle(&self) -> bool {
        is_well(&self.gate) && !self.active && self.seen.is_some()
    }

    /// Returns how the gate stood before.
    fn see(&mut self, gate: HostGate) -> HostGate {
        (self.seen, self.active) = (Some(Instant::now()), false);
        std::mem::replace(&mut self.gate, gate)
    }

    fn take(&mut self) -> Vec<Signal> {
        std::mem::take(&mut self.pending)
    }

    /// The report failed: it is made again, before what was heard since.
    fn give_back(&mut self, mut signals: Vec<Signal>) {
        signals.append(&mut self.pending);
        signals.truncate(MOST);
        self.pending = signals;
    }
}

/// Watches one host for one process.
pub struct Watch<L> {
    pub host: String,
    pub ledger: L,
    pub probe: Arc<dyn Probe>,
    pub rules: Rules,
    pub dice: Dice,
    pub(super) heard: Mutex<Heard>,
    pub(super) said: Notify,
}

impl<L: WorkerLedger> Watch<L> {
    pub(super) fn hear(&self, signal: Signal, word: Option<Word>) {
        let mut heard = self.heard.lock();
        heard.word = word.or(heard.word.take());
        if heard.hear(signal) {
            self.said.notify_one();
        }
    }

    /// Tells what was heard, looks at the gate, and probes where it is this process' turn. Never
    /// returns.
    pub async fn run(&self, pulse: Pulse) -> Infallible {
        let mut unasked = Said::default();
        loop {
            let look = if self.heard.lock().is_idle() { IDLE_LOOK.max(self.rules.look) } else { self.rules.look };
            let said = pulse.waiting(timeout(look, self.said.notified())).await.is_ok();
            if said && self.heard.lock().gate.breaker == State::Closed {
                sleep(BATCH.min(self.rules.look)).await;
            }
            match self.once().await {
                Ok(()) => unasked = Said::default(),
                Err(error) => {
                    if unasked.is_news(&error) {
                        tracing::warn!(host = %self.host, %error, "cannot ask the gate of the API's host; trying again");
                    }
                    sleep(BATCH).await;
                }
            }
        }
    }

    pub async fn once(&self) -> Result<()> {
        self.tell().await?;
        if !self.heard.lock().gate.probe_due {
            return Ok(());
        }
        let lease = self.rules.patience + Duration::from_secs(2);
        let Some(probe) = self.ledger.probe(&self.host, lease).await? else { return Ok(()) };
        let answer = self.ask(self.rules.patience).await;
        tracing::debug!(host = %self.host, number = probe.number, found = ?answer.found, "probed");
        let gate = self.ledger.probed(&self.host, probe, &answer, &self.rules, (self.dice)()).await?;
        self.see(gate);
        if let Some(duration) = answer.hold {
            self.hear(Signal::of_a_probe(HostSignal::Hold(duration)), None);
        }
        Ok(())
    }

    /// One report where there is something to say, else one look.
    pub async fn tell(&self) -> Result<HostGate> {
        let signals = self.heard.lock().take();
        let said = self.say(&signals).await;
        said.inspect(|gate| self.see(*gate)).inspect_err(|_| self.heard.lock().give_back(signals))
    }

    /// Good answers alone are said only where the gate, looked at now, waits for one.
    async fn say(&self, signals: &[Signal]) -> Result<HostGate> {
        if signals.iter().all(|signal| signal.heard == HostSignal::Healthy) {
            let gate = self.ledger.host_gate(&self.host).await?;
            if signals.is_empty() || is_well(&gate) {
                return Ok(gate);
            }
        }
        let word = self.word();
        self.ledger.report(&self.host, signals, word.as_ref(), &self.rules, (self.dice)()).await
    }

    fn see(&self, gate: HostGate) {
        let before = self.heard.lock().see(gate);
        let (host, moved) = (&self.host, before.breaker != gate.breaker);
        match gate.breaker {
            State::Open if moved || before.cause != gate.cause => {
                // As the gate says it.
                let (word, advice) = (self.word(), self.rules.key_advice);
                let reason = gate.cause.unwrap_or(Cause::Outage).reason(&Say { host, advice, word: word.as_ref() });
                tracing::warn!(host, reason, "the API's breaker is open");
            }
            State::HalfOpen if moved => tracing::info!(host, "the API answers again: one run is let through"),
            State::Closed if moved => tracing::info!(host, "the API's breaker is closed"),
            _ => {}
        }
    }

    fn word(&self) -> Option<Word> {
        self.heard.lock().word.clone()
    }

    /// Asks the host whether it works. A probe that panics has failed.
    pub(super) async fn ask(&self, patience: Duration) -> Answer {
        let asking = AssertUnwindSafe(async { self.probe.ask().await }).catch_unwind();
        match timeout(patience, asking).await {
            Ok(Ok(answer)) => answer,
            _ => Probed::Failed.into(),
        }
    }
}

/// Whether a good answer is no news to the gate.
fn is_well(gate: &HostGate) -> bool {
    gate.breaker == State::Closed && !gate.failing
}

#[cfg(test)]
mod tests {
    use super::*;
    use workflows::ids::RunId;

    fn run(number: u128) -> RunId {
        RunId::new(uuid::Uuid::from_u128(number))
    }

    #[tokio::test(start_paused = true)]
    async fn one_good_answer_is_kept_where_nobody_has_looked_for_a_while() {
        let mut heard = Heard::default();
        heard.see(HostGate::default());
        heard.hear(Signal::of(run(1), HostSignal::Healthy));
        assert_eq!(heard.take(), []);

        tokio::time::advance(FRESH + Duration::from_millis(1)).await;
        for number in 2..1000 {
            heard.hear(Signal::of(run(number), HostSignal::Healthy));
        }

        assert_eq!(heard.take(), [Signal::of(run(2), HostSignal::Healthy)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_gate_that_passes_is_looked_at_more_rarely_until_an_attempt_ends() {
        let mut heard = Heard::default();
        assert!(!heard.is_idle(), "nobody has looked yet");

        heard.see(HostGate::default());
        assert!(heard.is_idle());
        heard.hear(Signal::of(run(1), HostSignal::Healthy));
        assert!(!heard.is_idle());

        heard.see(HostGate { failing: true, ..HostGate::default() });
        assert!(!heard.is_idle());
    }

    #[test]
    fn what_is_told_depends_on_how_the_gate_stands() {
        let healthy = |number| Signal::of(run(number), HostSignal::Healthy);
        let failing = |number| Signal::of(run(number), HostSignal::Failing);
        let gate = HostGate::default();
        for (what, gate, signals, told) in [
            ("good answers of a healthy host are not", Some(gate), (0..1000).map(healthy).collect::<Vec<_>>(), vec![]),
            (
                "a good answer is, once, where runs have failed",
                Some(HostGate { failing: true, ..gate }),
                (0..1000).map(healthy).collect(),
                vec![healthy(0)],
            ),
            (
                "what a good answer undid is not",
                None,
                vec![failing(1), failing(1), healthy(2), failing(3)],
                vec![healthy(2), failing(3)],
            ),
            (
                "the answer to the run let through is, always",
                Some(HostGate { breaker: State::HalfOpen, ..gate }),
                [1, 2, 1].map(healthy).to_vec(),
                vec![healthy(1), healthy(2)],
            ),
        ] {
            let mut heard = Heard::default();
            if let Some(gate) = gate {
                heard.see(gate);
            }
            for signal in signals {
                heard.hear(signal);
            }

            assert_eq!(heard.take(), told, "{what}");
        }
    }

    #[test]
    fn a_report_that_failed_is_made_again_in_order() {
        let mut heard = Heard::default();
        heard.hear(Signal::of(run(1), HostSignal::Failing));
        let told = heard.take();
        heard.hear(Signal::of(run(2), HostSignal::Failing));

        heard.give_back(told);

        assert_eq!(heard.take(), [Signal::of(run(1), HostSignal::Failing), Signal::of(run(2), HostSignal::Failing)]);
    }
}
