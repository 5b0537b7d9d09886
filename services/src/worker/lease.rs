//! The leases of the attempts that run in this process. The process' own monotonic clock judges
//! them, from before the claim or the renewal was sent. When in doubt a lease is over: stopping is
//! safe, going on is not.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use workflows::{
    calls::{Permission, Permit},
    definition::{CALLED_WITHIN, EXCLUSIVE_CALL, RENEWED_AT},
    workflow::Boxed,
};

use crate::ledger::{Key, Lease};

/// How old a heartbeat is when it is made again, where no lease is held. Who has lost a lease and
/// lives beats once more between the moment at which it would have moved that lease (1.1 s) and its
/// end (4 s).
const IDLE_BEAT: Duration = Duration::from_millis(2_500);

/// Every lease that this process holds.
#[derive(Default)]
pub struct Leases {
    held: Mutex<BTreeMap<Key, Entry>>,
    /// A renewal is asked for before its time.
    wanted: Notify,
    /// The process ends: every attempt is to hand its step back.
    going: CancellationToken,
}

struct Entry {
    length: Duration,
    /// No renewal goes beyond this: an attempt that hangs loses its step.
    until: Instant,
    /// It is to be renewed now, however young it is.
    wanted: bool,
    term: watch::Sender<Term>,
}

/// By our own clock.
#[derive(Debug, Clone, Copy)]
struct Term {
    /// When the lease ends. In the past: it is lost.
    ends: Instant,
    /// Until when a call that creates or deletes may be sent.
    calls_until: Instant,
}

/// One attempt's lease. Dropping it ends its renewals.
pub struct Held {
    leases: Arc<Leases>,
    key: Key,
    term: watch::Receiver<Term>,
}

impl Leases {
    /// Begin to keep a lease that was claimed by a message sent at `asked`, for at most `most`.
    pub fn hold(self: &Arc<Self>, lease: Lease, asked: Instant, most: Duration) -> Held {
        let claimed = Term { ends: asked + lease.length, calls_until: asked + CALLED_WITHIN };
        let (term, watched) = watch::channel(claimed);
        let entry = Entry { length: lease.length, until: asked + most, wanted: false, term };
        self.held.lock().insert(lease.key, entry);
        Held { leases: self.clone(), key: lease.key, term: watched }
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
        let due = held.iter().filter(|(_, entry)| entry.is_due(now));
        due.map(|(key, entry)| Lease { key: *key, length: entry.length }).collect()
    }

    /// What the ledger answered to renewals that were sent at `asked`.
    pub fn renewed(&self, asked: Instant, leases: &[Lease], answers: &[Option<bool>]) {
        let mut held = self.held.lock();
        for (lease, kept) in leases.iter().zip(answers) {
            let (Some(entry), Some(kept)) = (held.get_mut(&lease.key), kept) else { continue };
            let ends = if *kept { asked + lease.length } else { asked };
            entry.wanted = false;
            entry.term.send_replace(Term { ends, calls_until: ends - EXCLUSIVE_CALL });
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
    fn is_due(&self, now: Instant) -> bool {
        let left = self.term.borrow().ends.saturating_duration_since(now);
        now < self.until && (self.wanted || left + RENEWED_AT <= self.length)
    }
}

impl Held {
    async fn renew_for_a_call(&self) -> Permission {
        let mut term = self.term.clone();
        term.mark_unchanged();
        if let Some(entry) = self.leases.held.lock().get_mut(&self.key) {
            entry.wanted = true;
        }
        self.leases.wanted.notify_one();
        let renewed = term.changed().await;
        if renewed.is_ok() && self.may_call() { Permission::Granted } else { Permission::Withheld }
    }

    fn may_call(&self) -> bool {
        Instant::now() <= self.term.borrow().calls_until
    }

    /// Returns when the process wants its steps handed back.
    pub async fn let_go(&self) {
        self.leases.going.cancelled().await;
    }

    /// Whether the lease is over.
    pub fn is_lost(&self) -> bool {
        self.term.borrow().ends <= Instant::now()
    }

    /// Returns when the lease is over.
    pub async fn lost(&self) {
        let mut term = self.term.clone();
        loop {
            let end = term.borrow_and_update().ends;
            if end <= Instant::now() {
                return;
            }
            // In a fixed order: nothing here may depend on chance, or no simulated run would
            // replay.
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(end) => {}
                changed = term.changed() => if changed.is_err() { return },
            }
        }
    }
}

impl Permit for Held {
    /// Only where the lease will hold until the server has finished. Some time after the claim, it
    /// is renewed first.
    fn permission(&self) -> Boxed<'_, Permission> {
        Box::pin(async {
            if self.may_call() {
                return Permission::Granted;
            }
            tokio::select! {
                biased;
                () = self.lost() => Permission::Withheld,
                permission = self.renew_for_a_call() => permission,
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

    /// A lease that was claimed now, for an attempt of at most a minute.
    fn hold() -> (Arc<Leases>, Held) {
        let leases = Arc::new(Leases::default());
        let held = leases.hold(lease(), Instant::now(), Duration::from_secs(60));
        (leases, held)
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_is_not_renewed_is_lost_when_it_ends() {
        let (started, (_leases, held)) = (Instant::now(), hold());

        held.lost().await;

        assert_eq!(started.elapsed(), Duration::from_secs(4));
        assert_eq!(held.permission().await, Permission::Withheld);
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_counts_from_when_it_was_sent() {
        let (started, (leases, held)) = (Instant::now(), hold());

        tokio::time::advance(Duration::from_secs(2)).await;
        leases.renewed(started + Duration::from_secs(1), &leases.due(), &[Some(true)]);
        held.lost().await;

        assert_eq!(started.elapsed(), Duration::from_secs(5));
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_the_ledger_denies_is_lost_at_once() {
        let (leases, held) = hold();

        leases.renewed(Instant::now(), &[lease()], &[Some(false)]);

        held.lost().await;
    }

    #[tokio::test(start_paused = true)]
    async fn right_after_a_claim_a_call_is_sent_without_a_renewal() {
        let (leases, held) = hold();

        tokio::time::advance(CALLED_WITHIN).await;

        assert_eq!(held.permission().await, Permission::Granted);
        assert!(leases.due().is_empty());
    }

    /// Of a call that comes a second after the claim, or this long after a renewal.
    async fn permission(since_renewal: Option<Duration>, renewal_takes: Duration) -> (Permission, usize) {
        let (leases, held) = hold();
        tokio::time::advance(Duration::from_secs(1)).await;
        if let Some(since) = since_renewal {
            leases.renewed(Instant::now(), &leases.due(), &[Some(true)]);
            tokio::time::advance(since).await;
        }
        let mut renewals = 0;
        let renewing = async {
            loop {
                leases.wanted().await;
                let (asked, due) = (Instant::now(), leases.due());
                assert_eq!(due, [lease()]);
                tokio::time::sleep(renewal_takes).await;
                leases.renewed(asked, &due, &[Some(true)]);
                renewals += 1;
            }
        };
        let permission = tokio::select! {
            permission = held.permission() => permission,
            () = renewing => unreachable!(),
        };
        (permission, renewals)
    }

    #[tokio::test(start_paused = true)]
    async fn later_a_lease_is_renewed_before_a_call() {
        let millis = Duration::from_millis;

        assert_eq!(permission(None, millis(1500)).await, (Permission::Granted, 1));
        assert_eq!(permission(None, millis(1501)).await, (Permission::Withheld, 1));
        assert_eq!(permission(Some(millis(1500)), millis(10)).await, (Permission::Granted, 0));
        assert_eq!(permission(Some(millis(1501)), millis(10)).await, (Permission::Granted, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn no_call_is_sent_where_the_lease_cannot_be_renewed() {
        let (_leases, held) = hold();
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
        let (leases, _held) = hold();
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
