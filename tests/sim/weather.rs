//! What is wrong just now with all that the processes depend on. Mishaps set it, actors meet it.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tests::evolution::Rule;

#[derive(Default)]
struct Now {
    ledger_away: u32,
    ledger_slow: u32,
    ledger_forgetful: u32,
    queue_away: u32,
    queue_lossy: u32,
    network_broken: u32,
    relays_to_kill: u32,
    workers_to_kill: u32,
    calls_to_freeze: u32,
    creates_to_cut: u32,
    creates_to_lose: u32,
    rules: Vec<(u64, Rule)>,
    rules_made: u64,
    troubled_at: Duration,
}

/// What may be wrong for a while. Several may overlap: each begins and ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    LedgerAway,
    LedgerSlow,
    /// Answers of the ledger are lost after their commit.
    LedgerForgetful,
    QueueAway,
    /// The queue loses, doubles, delays and mixes up hints.
    QueueLossy,
    /// No connection to the API can be made.
    NetworkBroken,
}

/// Who pushes hints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pusher {
    Relay,
    Worker,
}

#[derive(Default)]
pub struct Weather {
    now: Mutex<Now>,
}

impl Weather {
    fn lock(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn begin(&self, trouble: Trouble, at: Duration) {
        let mut now = self.lock();
        *now.of(trouble) += 1;
        now.troubled_at = at;
    }

    pub fn end(&self, trouble: Trouble, at: Duration) {
        let mut now = self.lock();
        let count = now.of(trouble);
        *count = count.saturating_sub(1);
        now.troubled_at = at;
    }

    /// Everything is well again. What was begun may still end.
    pub fn clear(&self, at: Duration) {
        let rules_made = self.lock().rules_made;
        *self.lock() = Now { troubled_at: at, rules_made, ..Now::default() };
    }

    /// For how long ledger and queue have been well.
    pub fn calm_for(&self, at: Duration) -> Duration {
        let now = self.lock();
        let ledger = now.ledger_away + now.ledger_slow + now.ledger_forgetful;
        let troubled = ledger + now.queue_away + now.queue_lossy;
        if troubled > 0 { Duration::ZERO } else { at.saturating_sub(now.troubled_at) }
    }

    pub fn ledger_is_away(&self) -> bool {
        self.lock().ledger_away > 0
    }

    pub fn ledger_is_slow(&self) -> bool {
        self.lock().ledger_slow > 0
    }

    pub fn ledger_is_forgetful(&self) -> bool {
        self.lock().ledger_forgetful > 0
    }

    pub fn queue_is_away(&self) -> bool {
        self.lock().queue_away > 0
    }

    pub fn queue_is_lossy(&self) -> bool {
        self.lock().queue_lossy > 0
    }

    pub fn network_is_broken(&self) -> bool {
        self.lock().network_broken > 0
    }

    /// The next such process that pushes dies between its commit and its push.
    pub fn take_before_push(&self, pusher: Pusher) {
        *self.lock().deaths_of(pusher) += 1;
    }

    pub fn takes_before_push(&self, pusher: Pusher) -> bool {
        take(self.lock().deaths_of(pusher))
    }

    /// The next process that creates freezes between its lease check and its call.
    pub fn freeze_next_call(&self) {
        self.lock().calls_to_freeze += 1;
    }

    pub fn freezes_call(&self) -> bool {
        take(&mut self.lock().calls_to_freeze)
    }

    /// The API dies in the next create.
    pub fn cut_next_create(&self) {
        self.lock().creates_to_cut += 1;
    }

    pub fn cuts_create(&self) -> bool {
        take(&mut self.lock().creates_to_cut)
    }

    /// The network breaks while the API works on the next create.
    pub fn lose_next_create(&self) {
        self.lock().creates_to_lose += 1;
    }

    pub fn loses_create(&self) -> bool {
        take(&mut self.lock().creates_to_lose)
    }

    /// The number by which the rule is taken away again.
    pub fn add_rule(&self, rule: Rule) -> u64 {
        let mut now = self.lock();
        now.rules_made += 1;
        let number = now.rules_made;
        now.rules.push((number, rule));
        number
    }

    pub fn remove_rule(&self, number: u64) {
        self.lock().rules.retain(|(other, _)| *other != number);
    }

    pub fn rules(&self) -> Vec<Rule> {
        self.lock().rules.iter().map(|(_, rule)| rule.clone()).collect()
    }
}

impl Now {
    fn deaths_of(&mut self, pusher: Pusher) -> &mut u32 {
        match pusher {
            Pusher::Relay => &mut self.relays_to_kill,
            Pusher::Worker => &mut self.workers_to_kill,
        }
    }

    fn of(&mut self, trouble: Trouble) -> &mut u32 {
        match trouble {
            Trouble::LedgerAway => &mut self.ledger_away,
            Trouble::LedgerSlow => &mut self.ledger_slow,
            Trouble::LedgerForgetful => &mut self.ledger_forgetful,
            Trouble::QueueAway => &mut self.queue_away,
            Trouble::QueueLossy => &mut self.queue_lossy,
            Trouble::NetworkBroken => &mut self.network_broken,
        }
    }
}

fn take(count: &mut u32) -> bool {
    let some = *count > 0;
    *count = count.saturating_sub(1);
    some
}
