//! The leases of the attempts that run in this process. The process' own monotonic clock judges
//! them, from before the claim or the renewal was sent. When in doubt a lease is over: stopping is
//! safe, going on is not.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;
use workflows::{
    calls::Permission,
    definition::{EXCLUSIVE_CALL, RENEWED_AT},
};

use crate::ledger::{Key, Lease};

/// How old a heartbeat is when it is made again, where no lease is held. Who has lost a lease and
/// lives beats once more between the moment at which it would have moved that lease (1.1 s) and its
/// end (4 s).
const IDLE_BEAT: Duration = Duration::from_millis(2_500);

/// Every lease that this process holds.
#[derive(Default)]
pub struct Leases {
    held: Mutex<HashMap<Key, Entry>>,
    /// The process ends: every attempt is to hand its step back.
    going: CancellationToken,
}

struct Entry {
    length: Duration,
    /// No renewal goes beyond this: an attempt that hangs loses its step.
    until: Instant,
    /// When the lease ends by our own clock. In the past: it is lost.
    ends: watch::Sender<Instant>,
}

/// One attempt's lease. Dropping it ends its renewals.
pub struct Held {
    leases: Arc<Leases>,
    key: Key,
    ends: watch::Receiver<Instant>,
}

impl Leases {
    /// Begin to keep a lease that was claimed by a message sent at `asked`, for at most `most`.
    pub fn hold(self: &Arc<Self>, lease: Lease, asked: Instant, most: Duration) -> Held {
        let (ends, watched) = watch::channel(asked + lease.length);
        let entry = Entry { length: lease.length, until: asked + most, ends };
        self.held.lock().insert(lease.key, entry);
        Held { leases: self.clone(), key: lease.key, ends: watched }
    }

    /// Whether something is to be renewed now, or the heartbeat, which is so old.
    pub fn must_renew(&self, beat: Duration) -> bool {
        let oldest = if self.held.lock().is_empty() { IDLE_BEAT } else { RENEWED_AT };
        beat >= oldest || !self.due().is_empty()
    }

    /// What is to be renewed now, in key order.
    pub fn due(&self) -> Vec<Lease> {
        let now = Instant::now();
        let held = self.held.lock();
        let mut leases: Vec<_> = held
            .iter()
            .filter(|(_, entry)| entry.is_due(now))
            .map(|(key, entry)| Lease { key: *key, length: entry.length })
            .collect();
        leases.sort_unstable_by_key(|lease| lease.key);
        leases
    }

    /// What the ledger answered to renewals that were sent at `asked`.
    pub fn renewed(&self, asked: Instant, leases: &[Lease], answers: &[Option<bool>]) {
        let held = self.held.lock();
        for (lease, kept) in leases.iter().zip(answers) {
            let (Some(entry), Some(kept)) = (held.get(&lease.key), kept) else { continue };
            let end = if *kept { asked + lease.length } else { asked };
            entry.ends.send_replace(end);
        }
    }

    /// Asks every attempt of this process to hand its step back now.
    pub fn let_go(&self) {
        self.going.cancel();
    }
}

impl Entry {
    fn is_due(&self, now: Instant) -> bool {
        let left = self.ends.borrow().saturating_duration_since(now);
        now < self.until && left + RENEWED_AT <= self.length
    }
}

impl Held {
    /// Whether a call that creates or deletes may be sent: only with enough lease left for the
    /// server to finish it.
    pub fn permission(&self) -> Permission {
        let left = self.ends.borrow().saturating_duration_since(Instant::now());
        if left >= EXCLUSIVE_CALL { Permission::Granted } else { Permission::Withheld }
    }

    /// Returns when the process wants its steps handed back.
    pub async fn let_go(&self) {
        self.leases.going.cancelled().await;
    }

    /// Whether the lease is over.
    pub fn is_lost(&self) -> bool {
        *self.ends.borrow() <= Instant::now()
    }

    /// Returns when the lease is over.
    pub async fn lost(&self) {
        let mut ends = self.ends.clone();
        loop {
            let end = *ends.borrow_and_update();
            if end <= Instant::now() {
                return;
            }
            // In a fixed order: nothing here may depend on chance, or no simulated run would
            // replay.
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(end) => {}
                changed = ends.changed() => if changed.is_err() { return },
            }
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.leases.held.lock().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use workflows::{
        definition::RENEWAL_TICK,
        ids::{RunId, Token},
    };

    fn lease() -> Lease {
        let key = Key { run: RunId::new(uuid::Uuid::nil()), position: 0, token: Token::new(1) };
        Lease { key, length: Duration::from_secs(4) }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_is_not_renewed_is_lost_when_it_ends() {
        let leases = Arc::new(Leases::default());
        let started = Instant::now();
        let held = leases.hold(lease(), started, Duration::from_secs(60));

        held.lost().await;

        assert_eq!(started.elapsed(), Duration::from_secs(4));
        assert_eq!(held.permission(), Permission::Withheld);
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_counts_from_when_it_was_sent() {
        let leases = Arc::new(Leases::default());
        let started = Instant::now();
        let held = leases.hold(lease(), started, Duration::from_secs(60));

        tokio::time::advance(Duration::from_secs(2)).await;
        leases.renewed(started + Duration::from_secs(1), &leases.due(), &[Some(true)]);
        held.lost().await;

        assert_eq!(started.elapsed(), Duration::from_secs(5));
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_the_ledger_denies_is_lost_at_once() {
        let leases = Arc::new(Leases::default());
        let held = leases.hold(lease(), Instant::now(), Duration::from_secs(60));

        leases.renewed(Instant::now(), &[lease()], &[Some(false)]);

        held.lost().await;
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_sent_that_the_lease_may_not_outlast() {
        let leases = Arc::new(Leases::default());
        let held = leases.hold(lease(), Instant::now(), Duration::from_secs(60));

        assert_eq!(held.permission(), Permission::Granted);
        tokio::time::advance(Duration::from_millis(1501)).await;

        assert_eq!(held.permission(), Permission::Withheld);
    }

    #[tokio::test(start_paused = true)]
    async fn renewals_stop_when_the_attempt_has_had_its_time() {
        let leases = Arc::new(Leases::default());
        let _held = leases.hold(lease(), Instant::now(), Duration::from_secs(30));

        tokio::time::advance(Duration::from_secs(31)).await;

        assert!(leases.due().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_short_attempt_is_never_renewed_and_a_long_one_every_second() {
        let leases = Arc::new(Leases::default());
        let _held = leases.hold(lease(), Instant::now(), Duration::from_secs(60));
        let mut renewals = Vec::new();

        for tick in 1..=6 {
            tokio::time::advance(RENEWAL_TICK).await;
            let due = leases.due();
            leases.renewed(Instant::now(), &due, &vec![Some(true); due.len()]);
            renewals.extend(due.iter().map(|_| tick));
        }

        assert_eq!(renewals, [2, 4, 6]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_without_a_lease_beats_more_rarely() {
        let leases = Arc::new(Leases::default());
        assert!(!leases.must_renew(RENEWED_AT));
        assert!(leases.must_renew(IDLE_BEAT));

        let held = leases.hold(lease(), Instant::now(), Duration::from_secs(60));
        assert!(leases.must_renew(RENEWED_AT));
        drop(held);

        assert!(!leases.must_renew(RENEWED_AT));
    }

    #[tokio::test(start_paused = true)]
    async fn renewals_go_in_key_order() {
        let leases = Arc::new(Leases::default());
        let lease = |number| {
            let key = Key { run: RunId::new(uuid::Uuid::from_u128(number)), ..lease().key };
            Lease { key, ..lease() }
        };
        let _held = [3, 1, 2].map(|number| leases.hold(lease(number), Instant::now(), Duration::from_secs(60)));

        tokio::time::advance(Duration::from_secs(1)).await;

        assert_eq!(leases.due(), [1, 2, 3].map(lease));
    }
}
