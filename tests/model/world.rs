//! A state of the model: the ledger, Redis, the workers, the relays and the API, and how many
//! faults may still happen. States that differ only in which worker is which, or in how tokens and
//! generations are numbered, are one.

use crate::{
    guard::Guard,
    ledger::{CONFIGURE, CREATE, Generation, Hint, Key, Ledger, Outcome, Quiet, Token, VERIFY},
};

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct World {
    pub ledger: Ledger,
    /// What Redis holds, copies counted.
    pub hints: Vec<Hint>,
    pub workers: [Option<Attempt>; 2],
    pub relays: [Duty; 2],
    /// The creates that the API has not finished.
    pub calls: Vec<Call>,
    pub instance: Instance,
    /// The API's memory has the name, and its database no row of it: what a failed create may
    /// leave.
    pub phantom: bool,
    /// The API's database has the row, and its memory has not loaded it: its guard does not see it.
    pub hidden: bool,
    pub faults_left: u8,
    /// A process was frozen between its lease check and the end of its call.
    pub frozen: bool,
    /// It died before it could say that its call had outlived its lease.
    pub mute: bool,
    pub seen: Seen,
}

/// What went wrong on the way here, where the state itself does not show it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Seen {
    /// An attempt that had been settled changed the ledger.
    pub stale_write: bool,
    /// A create was sent for an instance that was there.
    pub needless_create: bool,
    /// What we sent took an instance away.
    pub destroyed: bool,
    /// A step was claimed twice while it was due once.
    pub claimed_twice: bool,
    /// A hint of an earlier generation claimed a step.
    pub stale_claim: bool,
}

/// What a worker has in hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Attempt {
    pub key: Key,
    pub phase: Phase,
    pub created_before: bool,
    /// A create of this attempt may be under way, for all that the worker knows.
    pub unsure: bool,
    /// A create of this attempt has left.
    pub sent: bool,
    /// By the worker's own clock, which errs towards stopping.
    pub lease_over: bool,
    /// Its settle was late, and a create of it may have met another: it has still to say so.
    pub owes_doubt: bool,
    /// It stood still between its lease check and the call.
    pub froze: bool,
    /// The ledger has its end already. The worker does not know; nothing of the protocol reads it.
    pub ended: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Phase {
    Claimed,
    /// Looked, and the instance is absent.
    ReadBack,
    /// Looked twice, and the API's memory has the name without a row.
    Phantom,
    /// The lease was checked, the process stopped, and the call is not sent yet.
    Frozen,
    /// The create is sent, its answer has not come.
    Waiting,
    /// The API says that the name is taken.
    Taken,
    /// Nobody knows whether the create was done.
    Unknown,
    Known(Outcome),
}

/// What a relay is in the middle of: each of these is one read and one write, and anything may
/// happen between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Duty {
    None,
    /// Read or made due, not pushed.
    Push(Hint),
    /// Read as expired; its worker lives or is gone.
    Rescue(Key, Outcome),
}

/// A create at the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Call {
    pub token: Token,
    pub stage: Stage,
    /// Sent in the same moment as the lease was checked: then the server finishes before that lease
    /// ends.
    pub prompt: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    Sent,
    /// The name was free when it was checked.
    Checked,
    /// The row is in.
    Inserted,
    /// Another create was faster: this one will fail, and may delete what has the name.
    Beaten,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Instance {
    Absent,
    Bare,
    /// Its webhook is what was asked.
    Good,
}

impl Attempt {
    pub fn quiet(&self) -> Quiet {
        if self.unsure { Quiet::Unsure } else { Quiet::Yes }
    }

    /// Whether its worker may have the next step by its settle: none of its calls is under way.
    pub fn may_go_on(&self) -> bool {
        self.phase == Phase::Known(Outcome::Success) && self.quiet() == Quiet::Yes && self.key.position < VERIFY
    }

    /// Whether an attempt that the ledger has closed may still do more than read and settle.
    fn may_matter(&self) -> bool {
        self.sent || self.may_touch_the_api()
    }

    fn may_touch_the_api(&self) -> bool {
        match self.phase {
            Phase::Claimed | Phase::ReadBack | Phase::Phantom if self.key.position == CREATE => !self.lease_over,
            Phase::Claimed => self.key.position == CONFIGURE,
            Phase::Frozen => true,
            Phase::ReadBack | Phase::Phantom | Phase::Waiting | Phase::Taken | Phase::Unknown | Phase::Known(_) => {
                false
            }
        }
    }
}

impl World {
    /// A relay has taken the request in, and is about to push.
    pub fn start(faults: u8) -> Self {
        let ledger = Ledger::after_intake();
        let push = ledger.due(CREATE).map_or(Duty::None, Duty::Push);
        Self {
            ledger,
            hints: Vec::new(),
            workers: [None; 2],
            relays: [Duty::None, push],
            calls: Vec::new(),
            instance: Instance::Absent,
            phantom: false,
            hidden: false,
            faults_left: faults,
            frozen: false,
            mute: false,
            seen: Seen::default(),
        }
    }

    /// What the API's guard and its memory say of the name.
    pub fn seems_there(&self) -> bool {
        self.phantom || (self.instance != Instance::Absent && !self.hidden)
    }

    /// A call of ours takes away whatever has the name.
    pub fn take_away(&mut self) {
        self.seen.destroyed |= self.instance != Instance::Absent && !self.frozen;
        self.instance = Instance::Absent;
        (self.phantom, self.hidden) = (false, false);
    }

    /// Every token that somebody holds.
    pub fn tokens(&self) -> Vec<Token> {
        let mut found = Vec::new();
        let mut add = |token: Token| {
            if !found.contains(&token) {
                found.push(token);
            }
        };
        self.ledger.rows.iter().flatten().filter_map(|row| row.token).for_each(&mut add);
        self.ledger.busy.iter().for_each(|busy| add(busy.token));
        self.workers.iter().flatten().for_each(|held| add(held.key.token));
        self.relays.iter().for_each(|duty| match duty {
            Duty::Rescue(key, _) => add(key.token),
            Duty::None | Duty::Push(_) => {}
        });
        self.calls.iter().for_each(|call| add(call.token));
        found
    }

    /// A token that nobody holds.
    pub fn draw(&self, without: Option<Guard>) -> Token {
        let held = self.tokens();
        if without == Some(Guard::FreshTokens) {
            return held.first().copied().unwrap_or(Token(1));
        }
        let fresh = (1..).map(Token).find(|token| !held.contains(token));
        fresh.expect("fewer than 255 tokens are held")
    }

    /// Redis takes a hint only where it does not hold it.
    pub fn push(&mut self, hint: Hint) {
        if !self.hints.contains(&hint) {
            self.hints.push(hint);
        }
    }

    pub fn take_hint(&mut self, hint: Hint) {
        if let Some(at) = self.hints.iter().position(|held| *held == hint) {
            self.hints.swap_remove(at);
        }
    }

    /// Whether a call of `token` is at the API that the server finishes while its lease lasts.
    pub fn holds_lease(&self, token: Token) -> bool {
        self.calls.iter().any(|call| call.token == token && call.prompt)
    }

    /// The same state with workers, relays and hints in order, tokens numbered from 1, and of every
    /// hint only whether it is of now.
    pub fn canonical(mut self) -> Self {
        self.number_generations();
        self.workers.sort_by_key(|worker| worker.as_ref().map(|held| (held.phase, held.key.position, held.unsure)));
        let tokens = self.tokens();
        self.each_token(&mut |token| {
            let place = tokens.iter().position(|known| known == token).unwrap_or_default();
            *token = Token(u8::try_from(place + 1).unwrap_or(u8::MAX));
        });
        self.workers.sort_unstable();
        self.relays.sort_unstable();
        self.hints.sort_unstable();
        self.calls.sort_unstable();
        self
    }

    fn number_generations(&mut self) {
        let ledger = &self.ledger;
        let number = |hint: &mut Hint| {
            hint.generation = if ledger.is_of_now(*hint) { Generation::NOW } else { Generation::PAST };
        };
        self.hints.iter_mut().for_each(number);
        self.relays.iter_mut().for_each(|duty| match duty {
            Duty::Push(hint) => number(hint),
            Duty::None | Duty::Rescue(..) => {}
        });
        self.ledger.rows.iter_mut().flatten().for_each(|row| row.generation = Generation::NOW);
    }

    /// Forgets what can only come to nothing from here on. That it does is `I9: nothing stale
    /// changes the ledger`, which is asked of every state; a model that lacks a guard forgets
    /// nothing.
    pub fn forget_what_is_stale(&mut self) {
        let ledger = &self.ledger;
        self.hints.retain(|hint| ledger.is_due(*hint));
        for duty in &mut self.relays {
            let stale = match duty {
                Duty::None => false,
                Duty::Push(hint) => !ledger.is_due(*hint),
                Duty::Rescue(key, _) => !ledger.is_running(*key),
            };
            if stale {
                *duty = Duty::None;
            }
        }
        for worker in &mut self.workers {
            *worker = worker.filter(|held| ledger.is_running(held.key) || held.may_matter());
        }
    }

    /// A hint of an earlier generation does what any other such hint does: one stands for all. A
    /// quiet time that is over matters only while its holder may still move it on.
    pub fn forget_what_is_over(&mut self) {
        let ledger = &self.ledger;
        let mut stale = 0;
        self.hints.retain(|hint| {
            let good = ledger.is_of_now(*hint);
            stale += usize::from(!good);
            good || stale == 1
        });
        let Some(busy) = self.ledger.busy.filter(|busy| busy.over) else { return };
        let holds = |position| self.ledger.is_running(Key { position, token: busy.token });
        if !(0..self.ledger.rows.len()).any(holds) {
            self.ledger.busy = None;
        }
    }

    fn each_token(&mut self, visit: &mut impl FnMut(&mut Token)) {
        self.ledger.rows.iter_mut().flatten().filter_map(|row| row.token.as_mut()).for_each(&mut *visit);
        self.ledger.busy.iter_mut().for_each(|busy| visit(&mut busy.token));
        self.workers.iter_mut().flatten().for_each(|attempt| visit(&mut attempt.key.token));
        for duty in &mut self.relays {
            if let Duty::Rescue(key, _) = duty {
                visit(&mut key.token);
            }
        }
        self.calls.iter_mut().for_each(|call| visit(&mut call.token));
    }
}
