//! The leases of the attempts that run in this process. The process' own monotonic clock judges
//! them, from before the claim or the renewal was sent. When in doubt a lease is over: stopping is
//! safe, going on is not.

use std::{collections::HashMap, pin::Pin, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use workflows::{
    calls::{Permission, Permit},
    definition::{CONFIRMED_WITHIN, LATE_CALL, RENEWED_AT},
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
    /// A renewal is asked for before its time.
    wanted: Notify,
    /// The process ends: every attempt is to hand its step back.
    going: CancellationToken,
}

struct Entry {
    length: Duration,
    /// No renewal goes beyond this: an attempt that hangs loses its step.
    until: Instant,
    /// It is to be renewed now, however young it is, for a call that comes later.
    wanted: bool,
    /// When the lease ends by our own clock. In the past: it is lost.
    ends: watch::Sender<Instant>,
}

/// One attempt's lease. Dropping it ends its renewals.
pub struct Held {
    leases: Arc<Leases>,
    key: Key,
    length: Duration,
    ends: watch::Receiver<Instant>,
}

impl Leases {
    /// Begin to keep a lease that was claimed by a message sent at `asked`, for at most `most`.
    pub fn hold(self: &Arc<Self>, lease: Lease, asked: Instant, most: Duration) -> Held {
        let (ends, watched) = watch::channel(asked + lease.length);
        let entry = Entry { length: lease.length, until: asked + most, wanted: false, ends };
        self.held.lock().insert(lease.key, entry);
        Held { leases: self.clone(), key: lease.key, length: lease.length, ends: watched }
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
            .map(|(key, entry)| Lease { key: *key, length: entry.asked_length() })
            .collect();
        leases.sort_unstable_by_key(|lease| lease.key);
        leases
    }

    /// What the ledger answered to renewals that were sent at `asked`.
    pub fn renewed(&self, asked: Instant, leases: &[Lease], answers: &[Option<bool>]) {
        let mut held = self.held.lock();
        for (lease, kept) in leases.iter().zip(answers) {
            let (Some(entry), Some(kept)) = (held.get_mut(&lease.key), kept) else { continue };
            let end = if *kept { asked + lease.length } else { asked };
            // One that was under way when it was asked for is not the one.
            entry.wanted &= lease.length == entry.length;
            entry.ends.send_replace(end);
        }
    }

    /// Returns when a renewal is asked for before its time.
    pub async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// Asks every attempt of this process to hand its step back now.
    pub fn let_go(&self) {
        self.going.cancel();
    }
}

impl Entry {
    fn asked_length(&self) -> Duration {
        if self.wanted { self.length + LATE_CALL } else { self.length }
    }

    fn is_due(&self, now: Instant) -> bool {
        let left = self.ends.borrow().saturating_duration_since(now);
        now < self.until && (self.wanted || left + RENEWED_AT <= self.length)
    }
}

impl Held {
    async fn confirm(&self) -> Permission {
        if self.is_confirmed() {
            return Permission::Granted;
        }
        let mut ends = self.ends.clone();
        ends.mark_unchanged();
        self.ask_for_renewal();
        // One may be under way, beside the one that was asked for.
        for _ in 0..2 {
            if ends.changed().await.is_ok() && self.is_confirmed() {
                return Permission::Granted;
            }
        }
        Permission::Withheld
    }

    /// Where the lease was made longer by `LATE_CALL`, so is the time in which a call may be sent.
    fn is_confirmed(&self) -> bool {
        let left = self.ends.borrow().saturating_duration_since(Instant::now());
        left + CONFIRMED_WITHIN >= self.length
    }

    fn ask_for_renewal(&self) {
        if let Some(entry) = self.leases.held.lock().get_mut(&self.key) {
            entry.wanted = true;
        }
        self.leases.wanted.notify_one();
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

impl Permit for Held {
    /// Only where the ledger has just said that the lease holds. Where that was too long ago, the
    /// lease is renewed first.
    fn permission(&self) -> Pin<Box<dyn Future<Output = Permission> + Send + '_>> {
        Box::pin(async {
            tokio::select! {
                biased;
                () = self.lost() => Permission::Withheld,
                permission = self.confirm() => permission,
            }
        })
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
        assert_eq!(held.permission().await, Permission::Withheld);
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
    async fn a_lease_that_was_just_confirmed_is_not_renewed_before_a_call() {
        let leases = Arc::new(Leases::default());
        let held = leases.hold(lease(), Instant::now(), Duration::from_secs(60));

        tokio::time::advance(CONFIRMED_WITHIN).await;

        assert_eq!(held.permission().await, Permission::Granted);
        assert!(leases.due().is_empty());
    }

    /// Asks for a permission at a lease that is a second old, while a renewal takes so long.
    async fn permission_where_a_renewal_takes(delay: Duration) -> Permission {
        let leases = Arc::new(Leases::default());
        let held = leases.hold(lease(), Instant::now(), Duration::from_secs(60));
        tokio::time::advance(Duration::from_secs(1)).await;
        let renewing = async {
            leases.wanted().await;
            let (asked, due) = (Instant::now(), leases.due());
            assert_eq!(due, [Lease { length: Duration::from_secs(4) + LATE_CALL, ..lease() }]);
            tokio::time::sleep(delay).await;
            leases.renewed(asked, &due, &[Some(true)]);
            assert!(leases.due().is_empty(), "it was renewed");
        };
        tokio::join!(held.permission(), renewing).0
    }

    #[tokio::test(start_paused = true)]
    async fn before_a_late_call_a_lease_is_renewed_and_made_longer() {
        assert_eq!(permission_where_a_renewal_takes(CONFIRMED_WITHIN + LATE_CALL).await, Permission::Granted);
    }

    #[tokio::test(start_paused = true)]
    async fn no_call_is_sent_where_renewals_take_too_long() {
        let leases = Arc::new(Leases::default());
        let held = leases.hold(lease(), Instant::now(), Duration::from_secs(60));
        tokio::time::advance(Duration::from_secs(1)).await;
        let renewing = async {
            for _ in 0..2 {
                let (asked, due) = (Instant::now(), leases.due());
                tokio::time::sleep(CONFIRMED_WITHIN + LATE_CALL + Duration::from_millis(1)).await;
                leases.renewed(asked, &due, &[Some(true)]);
            }
        };

        assert_eq!(tokio::join!(held.permission(), renewing).0, Permission::Withheld);
    }

    /// A renewal was under way already when the permission was asked for.
    #[tokio::test(start_paused = true)]
    async fn the_answer_to_an_earlier_renewal_does_not_pass_for_the_one_that_was_asked_for() {
        let leases = Arc::new(Leases::default());
        let held = leases.hold(lease(), Instant::now(), Duration::from_secs(60));
        tokio::time::advance(Duration::from_secs(1)).await;
        let (asked, due) = (Instant::now(), leases.due());
        let renewing = async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            leases.renewed(asked, &due, &[Some(true)]);
            let (asked, due) = (Instant::now(), leases.due());
            assert_eq!(due, [Lease { length: Duration::from_secs(4) + LATE_CALL, ..lease() }]);
            tokio::time::sleep(Duration::from_millis(500)).await;
            leases.renewed(asked, &due, &[Some(true)]);
        };

        assert_eq!(tokio::join!(held.permission(), renewing).0, Permission::Granted);
    }

    /// Such a renewal would take the time from a call that is on its way.
    #[tokio::test(start_paused = true)]
    async fn a_lease_that_was_made_longer_is_not_renewed_while_a_call_may_be_sent() {
        let leases = Arc::new(Leases::default());
        let held = leases.hold(lease(), Instant::now(), Duration::from_secs(60));
        let longer = Lease { length: Duration::from_secs(4) + LATE_CALL, ..lease() };
        leases.renewed(Instant::now(), &[longer], &[Some(true)]);

        tokio::time::advance(CONFIRMED_WITHIN + LATE_CALL).await;

        assert_eq!((held.permission().await, leases.due()), (Permission::Granted, Vec::new()));
    }

    #[tokio::test(start_paused = true)]
    async fn no_call_is_sent_where_the_lease_cannot_be_renewed() {
        let leases = Arc::new(Leases::default());
        let held = leases.hold(lease(), Instant::now(), Duration::from_secs(60));
        tokio::time::advance(Duration::from_secs(1)).await;

        assert_eq!(held.permission().await, Permission::Withheld);
        assert!(held.is_lost());
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
