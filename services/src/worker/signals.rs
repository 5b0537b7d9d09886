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
    breaker::{Answer, Cause, Probed, Rules, Signal, State, Word},
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
pub struct Signals {
    heard: Mutex<Heard>,
    said: Notify,
}

#[derive(Default)]
struct Heard {
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
    /// While the breaker is closed, a good answer matters only after failures, and undoes them.
    /// Where the last look is old, the answer is kept, and a new look decides.
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
}

impl Signals {
    pub fn hear(&self, signal: Signal, word: Option<Word>) {
        let mut heard = self.heard.lock();
        if word.is_some() {
            heard.word = word;
        }
        if heard.hear(signal) {
            self.said.notify_one();
        }
    }

    fn gate(&self) -> HostGate {
        self.heard.lock().gate
    }

    /// Whether the gate passes and nobody has asked anything of the host since it was looked at.
    fn are_idle(&self) -> bool {
        let heard = self.heard.lock();
        is_well(&heard.gate) && !heard.active && heard.seen.is_some()
    }

    fn take(&self) -> Vec<Signal> {
        std::mem::take(&mut self.heard.lock().pending)
    }

    /// The report failed: it is made again, before what was heard since.
    fn give_back(&self, mut signals: Vec<Signal>) {
        let mut heard = self.heard.lock();
        signals.append(&mut heard.pending);
        signals.truncate(MOST);
        heard.pending = signals;
    }

    fn word(&self) -> Option<Word> {
        self.heard.lock().word.clone()
    }

    fn see(&self, host: &str, gate: HostGate, rules: &Rules) {
        let before = {
            let mut heard = self.heard.lock();
            (heard.seen, heard.active) = (Some(Instant::now()), false);
            std::mem::replace(&mut heard.gate, gate)
        };
        match (before.breaker, gate.breaker) {
            (State::Open, State::Open) if before.cause != gate.cause => self.warn(host, gate.cause, rules),
            (before, after) if before == after => {}
            (_, State::Open) => self.warn(host, gate.cause, rules),
            (_, State::HalfOpen) => tracing::info!(host, "the API answers again: one run is let through"),
            (_, State::Closed) => tracing::info!(host, "the API's breaker is closed"),
        }
    }

    /// As the gate says it.
    fn warn(&self, host: &str, cause: Option<Cause>, rules: &Rules) {
        let reason = cause.unwrap_or(Cause::Outage).reason(host, rules.key_advice, self.word().as_ref());
        tracing::warn!(host, reason, "the API's breaker is open");
    }
}

/// Watches one host for one process.
pub struct Watch<L> {
    pub host: String,
    pub ledger: L,
    pub probe: Arc<dyn Probe>,
    pub signals: Signals,
    pub rules: Rules,
    pub dice: Dice,
}

impl<L: WorkerLedger> Watch<L> {
    /// Tells what was heard, looks at the gate, and probes where it is this process' turn. Never
    /// returns.
    pub async fn run(&self, pulse: Pulse) -> Infallible {
        let mut unasked = Said::default();
        loop {
            let look = if self.signals.are_idle() { IDLE_LOOK.max(self.rules.look) } else { self.rules.look };
            let said = pulse.waiting(timeout(look, self.signals.said.notified())).await.is_ok();
            if said && self.signals.gate().breaker == State::Closed {
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
        if !self.signals.gate().probe_due {
            return Ok(());
        }
        let lease = self.rules.patience + Duration::from_secs(2);
        let Some(probe) = self.ledger.probe(&self.host, lease).await? else { return Ok(()) };
        let answer = self.ask(self.rules.patience).await;
        tracing::debug!(host = %self.host, number = probe.number, found = ?answer.found, "probed");
        let gate = self.ledger.probed(&self.host, probe, &answer, &self.rules, (self.dice)()).await?;
        self.signals.see(&self.host, gate, &self.rules);
        if let Some(duration) = answer.hold {
            self.signals.hear(Signal::of_a_probe(HostSignal::Hold(duration)), None);
        }
        Ok(())
    }

    /// One report where there is something to say, else one look.
    pub async fn tell(&self) -> Result<HostGate> {
        let signals = self.signals.take();
        match self.say(&signals).await {
            Ok(gate) => {
                self.signals.see(&self.host, gate, &self.rules);
                Ok(gate)
            }
            Err(error) => {
                self.signals.give_back(signals);
                Err(error)
            }
        }
    }

    /// Good answers alone are said only where the gate, looked at now, waits for one.
    async fn say(&self, signals: &[Signal]) -> Result<HostGate> {
        if signals.iter().all(|signal| signal.heard == HostSignal::Healthy) {
            let gate = self.ledger.host_gate(&self.host).await?;
            if signals.is_empty() || is_well(&gate) {
                return Ok(gate);
            }
        }
        let word = self.signals.word();
        self.ledger.report(&self.host, signals, word.as_ref(), &self.rules, (self.dice)()).await
    }

    /// Asks the host whether it works. A probe that panics has failed.
    pub(super) async fn ask(&self, patience: Duration) -> Answer {
        let asking = AssertUnwindSafe(async { self.probe.ask().await }).catch_unwind();
        match timeout(patience, asking).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) | Err(_) => Probed::Failed.into(),
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
        let signals = Signals::default();
        signals.see("api", HostGate::default(), &Rules::default());
        signals.hear(Signal::of(run(1), HostSignal::Healthy), None);
        assert_eq!(signals.take(), []);

        tokio::time::advance(FRESH + Duration::from_millis(1)).await;
        for number in 2..1000 {
            signals.hear(Signal::of(run(number), HostSignal::Healthy), None);
        }

        assert_eq!(signals.take(), [Signal::of(run(2), HostSignal::Healthy)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_gate_that_passes_is_looked_at_more_rarely_until_an_attempt_ends() {
        let signals = Signals::default();
        assert!(!signals.are_idle(), "nobody has looked yet");

        signals.see("api", HostGate::default(), &Rules::default());
        assert!(signals.are_idle());
        signals.hear(Signal::of(run(1), HostSignal::Healthy), None);
        assert!(!signals.are_idle());

        signals.see("api", HostGate { failing: true, ..HostGate::default() }, &Rules::default());
        assert!(!signals.are_idle());
    }

    #[test]
    fn what_is_told_depends_on_how_the_gate_stands() {
        let (healthy, failing) = (
            |number| Signal::of(run(number), HostSignal::Healthy),
            |number| Signal::of(run(number), HostSignal::Failing),
        );
        let gate = HostGate::default();
        for (what, gate, heard, told) in [
            ("good answers of a healthy host are not", Some(gate), (0..1000).map(healthy).collect(), vec![]),
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
            let signals = Signals::default();
            gate.into_iter().for_each(|gate| signals.see("api", gate, &Rules::default()));
            heard.into_iter().for_each(|signal: Signal| signals.hear(signal, None));

            assert_eq!(signals.take(), told, "{what}");
        }
    }

    #[test]
    fn a_report_that_failed_is_made_again_in_order() {
        let signals = Signals::default();
        signals.hear(Signal::of(run(1), HostSignal::Failing), None);
        let told = signals.take();
        signals.hear(Signal::of(run(2), HostSignal::Failing), None);

        signals.give_back(told);

        assert_eq!(signals.take(), [Signal::of(run(1), HostSignal::Failing), Signal::of(run(2), HostSignal::Failing)]);
    }
}
