//! The ledger of the model: one run of three steps, moved by the program's own `transition` under
//! the guards that the SQL has. A verb answers whether its guard held. It knows no clock: that a
//! lease or a quiet time is over is a fact that the model states.

use workflows::state::{Effect, Limits, Move, Place, RunState, Spent, Standing, StepState, transition};

use crate::guard::Guard;

/// `create-instance`, `configure-webhooks`, `verify`.
pub const STEPS: usize = 3;
pub const CREATE: usize = 0;
pub const CONFIGURE: usize = 1;
pub const VERIFY: usize = 2;

/// Small, so that every budget is spent within few faults.
pub const LIMITS: Limits = Limits { failures: 2, crashes: 2, send_backs: 1 };

/// The number of a claim. Only equality counts, so the model takes the smallest that nobody holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(pub u8);

/// An attempt: a step and the token that its claim drew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    pub position: usize,
    pub token: Token,
}

/// Which time a step is due. Only equality with the row's own counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Generation(pub u8);

impl Generation {
    /// Of every hint that is too late.
    pub const PAST: Self = Self(0);
    pub const NOW: Self = Self(1);

    fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// What a hint carries: a step and which time it is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hint {
    pub position: usize,
    pub generation: Generation,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Row {
    pub step: Standing,
    pub generation: Generation,
    /// A claim of this generation was won.
    pub claimed: bool,
    pub token: Option<Token>,
    /// The lease has run out, and nobody has settled the step yet.
    pub lease_over: bool,
    /// Due without a moment: an earlier step runs again first.
    pub waits: bool,
}

/// A create may be under way for this token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Busy {
    pub token: Token,
    pub over: bool,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Outcome {
    Success,
    Retry,
    Defer,
    SendBack(usize),
    /// Written by a relay: the lease ran out and the worker is gone.
    Crash,
}

/// Whether the API has finished with every create of the attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Quiet {
    Yes,
    /// The quiet time begins anew.
    Unsure,
    /// The worker was not asked: it was quiet as long as its lease.
    AsTheLease,
}

/// What a claim came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claimed {
    Yes {
        created_before: bool,
        /// Another claim of this generation had been won.
        again: bool,
        /// By a hint of an earlier generation.
        too_late: bool,
    },
    No,
}

/// What a settle came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// The step that became due by it, and may be pushed at once.
    Done(Option<Hint>),
    Stale,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Ledger {
    pub run: RunState,
    pub rows: [Option<Row>; STEPS],
    pub busy: Option<Busy>,
    /// A create was claimed for this instance, ever.
    pub create_claimed: bool,
    /// A create outlived its lease.
    pub doubted: bool,
}

impl Ledger {
    /// Right after intake: the first step is due.
    pub fn after_intake() -> Self {
        Self {
            run: RunState::Active,
            rows: [Some(Row::due(Generation::NOW)), None, None],
            busy: None,
            create_claimed: false,
            doubted: false,
        }
    }

    /// The run has ended: another one looks at a doubted instance, where the last one succeeded.
    pub fn look_again(&mut self) {
        self.doubted = false;
        if self.run == RunState::Succeeded {
            self.start_again();
        }
    }

    /// A new run for the same instance. Hints of the old one are good for nothing.
    pub fn start_again(&mut self) {
        self.run = RunState::Active;
        let past = self.rows[CREATE].as_ref().map_or(Generation::PAST, |row| row.generation);
        self.rows = [Some(Row::due(past.next())), None, None];
    }

    /// What the step's hint is, where it is due.
    pub fn due(&self, position: usize) -> Option<Hint> {
        let due = |row: &&Row| row.step.state == StepState::Due && !row.waits;
        let row = self.rows[position].as_ref().filter(due).filter(|_| self.run == RunState::Active)?;
        Some(Hint { position, generation: row.generation })
    }

    pub fn is_due(&self, hint: Hint) -> bool {
        self.due(hint.position) == Some(hint)
    }

    /// Whether the hint is of the time that the step is, or was last, due.
    pub fn is_of_now(&self, hint: Hint) -> bool {
        self.rows[hint.position].as_ref().is_some_and(|row| row.generation == hint.generation)
    }

    pub fn is_running(&self, key: Key) -> bool {
        let running = |row: &Row| row.step.state == StepState::Running && row.token == Some(key.token);
        self.rows[key.position].as_ref().is_some_and(running)
    }

    /// A claim that is refused writes nothing.
    pub fn claim(&mut self, hint: Hint, token: Token, without: Option<Guard>) -> Claimed {
        let Some(row) = &self.rows[hint.position] else { return Claimed::No };
        let is_due = self.due(hint.position).is_some();
        let held_already = without == Some(Guard::ClaimState) && row.step.state == StepState::Running;
        let too_late = row.generation != hint.generation;
        if !is_due && !held_already || too_late && without != Some(Guard::Generation) {
            return Claimed::No;
        }
        if self.busy.is_some_and(|busy| !busy.over) && !held_already && without != Some(Guard::BusyMark) {
            return Claimed::No;
        }
        if !held_already {
            self.moved(hint.position, Move::Claim, &LIMITS);
        }
        let row = self.row(hint.position);
        (row.token, row.lease_over) = (Some(token), false);
        let again = std::mem::replace(&mut row.claimed, true);
        let created_before = self.create_claimed;
        if hint.position == CREATE {
            self.busy = Some(Busy { token, over: false });
            self.create_claimed = true;
        }
        Claimed::Yes { created_before, again, too_late }
    }

    /// Moves the lease on, and the quiet time that hangs on it, also where both had run out
    /// unnoticed.
    pub fn renew(&mut self, key: Key) -> bool {
        let kept = self.is_running(key);
        if kept {
            self.row(key.position).lease_over = false;
            if let Some(busy) = self.busy.as_mut().filter(|busy| busy.token == key.token) {
                busy.over = false;
            }
        }
        kept
    }

    /// The lease that was held under `token` ends by the database's clock, and with it the quiet
    /// time.
    pub fn lease_ends(&mut self, token: Token) {
        for row in self.rows.iter_mut().flatten() {
            row.lease_over |= row.step.state == StepState::Running && row.token == Some(token);
        }
        if let Some(busy) = self.busy.as_mut().filter(|busy| busy.token == token) {
            busy.over = true;
        }
    }

    /// Whether a lease or a quiet time of `token` is still to end.
    pub fn is_leased(&self, token: Token) -> bool {
        let leased = |row: &Row| row.step.state == StepState::Running && row.token == Some(token) && !row.lease_over;
        self.rows.iter().flatten().any(leased) || self.busy == Some(Busy { token, over: false })
    }

    /// A relay's settle of a lease that ran out. The step is due at once.
    pub fn rescue(&mut self, key: Key, outcome: Outcome, without: Option<Guard>) -> Settled {
        let over = self.rows[key.position].as_ref().is_some_and(|row| row.lease_over);
        if !over && without != Some(Guard::RescueExpiry) {
            return Settled::Stale;
        }
        match self.settle(key, outcome, Quiet::AsTheLease, without) {
            Settled::Done(_) => Settled::Done(self.due(key.position)),
            Settled::Stale => Settled::Stale,
        }
    }

    /// How an attempt ended: the step, what follows it, and the resource.
    pub fn settle(&mut self, key: Key, outcome: Outcome, quiet: Quiet, without: Option<Guard>) -> Settled {
        let running = |row: &Row| row.step.state == StepState::Running;
        let unfenced = without == Some(Guard::Fencing) && self.rows[key.position].as_ref().is_some_and(running);
        if !self.is_running(key) && !unfenced {
            return Settled::Stale;
        }
        let limits = match without {
            Some(Guard::CrashLimit) => Limits { crashes: u32::MAX, ..LIMITS },
            _ => LIMITS,
        };
        let place = if key.position == VERIFY { Place::Last } else { Place::Inner };
        let wanted = match outcome {
            Outcome::Success => Move::Succeed(place),
            Outcome::Retry => Move::Fail,
            Outcome::Defer => Move::Defer,
            Outcome::SendBack(_) => Move::SendBack,
            Outcome::Crash => Move::Expire,
        };
        let Some(effects) = self.moved(key.position, wanted, &limits) else { return Settled::Stale };
        let row = self.row(key.position);
        row.become_another();
        match quiet {
            Quiet::Yes => self.busy = self.busy.filter(|busy| busy.token != key.token),
            Quiet::Unsure => {
                self.busy.iter_mut().filter(|busy| busy.token == key.token).for_each(|busy| busy.over = false);
            }
            Quiet::AsTheLease => {}
        }
        if effects.contains(&Effect::Advance) {
            self.advance(key.position + 1);
        }
        self.end_run(&effects);
        Settled::Done(match outcome {
            Outcome::SendBack(to) => {
                self.row(key.position).waits = true;
                self.rerun(to, &limits);
                self.due(to)
            }
            Outcome::Success => (key.position < VERIFY).then(|| self.due(key.position + 1)).flatten(),
            // Due after a delay: it is found when that is over.
            Outcome::Retry | Outcome::Defer | Outcome::Crash => None,
        })
    }

    fn advance(&mut self, next: usize) {
        match &mut self.rows[next] {
            Some(row) if row.step.state == StepState::Due => {
                row.become_another();
                row.waits = false;
            }
            Some(_) => {}
            none => *none = Some(Row::due(Generation::NOW)),
        }
    }

    /// The step `to` is due again, or dies where it was sent back to too often; those after it wait
    /// for it.
    fn rerun(&mut self, to: usize, limits: &Limits) {
        let effects = self.moved(to, Move::Rerun, limits).unwrap_or_default();
        self.row(to).become_another();
        for row in self.rows[to + 1..].iter_mut().flatten() {
            if row.step.state == StepState::Succeeded {
                row.step.state = StepState::Due;
                row.become_another();
                row.waits = true;
            }
        }
        self.end_run(&effects);
    }

    fn end_run(&mut self, effects: &[Effect]) {
        for effect in effects {
            if let Effect::EndRun(state) = effect {
                self.run = *state;
            }
        }
    }

    fn row(&mut self, position: usize) -> &mut Row {
        self.rows[position].as_mut().expect("a step that was found is there")
    }

    /// The one way in which a step moves. Defers in a row only make delays grow: the model has none
    /// and forgets them.
    fn moved(&mut self, position: usize, wanted: Move, limits: &Limits) -> Option<Vec<Effect>> {
        let row = self.rows[position].as_mut()?;
        let (step, effects) = transition(row.step, wanted, limits).ok()?;
        row.step = Standing { spent: Spent { defers: 0, ..step.spent }, ..step };
        Some(effects)
    }
}

impl Row {
    fn due(generation: Generation) -> Self {
        let step = Standing { state: StepState::Due, spent: Spent::default() };
        Self { step, generation, claimed: false, token: None, lease_over: false, waits: false }
    }

    /// Whoever holds it, or a hint of it, is too late from now on.
    fn become_another(&mut self) {
        self.generation = self.generation.next();
        (self.claimed, self.token, self.lease_over) = (false, None, false);
    }
}
