//! The ledger of the model: one run of three steps, moved by the program's own `transition` under the guards that the SQL
//! has. A verb answers whether its guard held. It knows no clock: that a lease or a quiet time is over is a fact that the
//! model states.

use workflows::state::{Effect, Event, Limits, Place, RunState, Spent, Step, StepState, transition};

use crate::guard::Guard;

/// `create-instance`, `configure-webhooks`, `verify`.
pub const STEPS: usize = 3;
pub const CREATE: usize = 0;
pub const CONFIGURE: usize = 1;
pub const VERIFY: usize = 2;

/// Small, so that every budget is spent within few faults.
pub const LIMITS: Limits = Limits { failures: 2, crashes: 2, send_backs: 1 };

/// The number of a dispatch. Only equality counts, so the model takes the smallest that nobody holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(pub u8);

/// What a hint carries: a step and the token it was dispatched under.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    pub position: usize,
    pub token: Token,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Row {
    pub step: Step,
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
    Yes { created_before: bool },
    No,
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
            rows: [Some(Row::due()), None, None],
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

    /// A new run for the same instance.
    pub fn start_again(&mut self) {
        self.run = RunState::Active;
        self.rows = [Some(Row::due()), None, None];
    }

    pub fn may_dispatch(&self, position: usize) -> bool {
        let due = |row: &Row| row.step.state == StepState::Due && !row.waits;
        self.run == RunState::Active && self.rows[position].as_ref().is_some_and(due)
    }

    pub fn dispatch(&mut self, key: Key) {
        if self.may_dispatch(key.position) && self.moved(key.position, Event::Dispatch, &LIMITS).is_some() {
            self.row(key.position).token = Some(key.token);
        }
    }

    pub fn is_dispatched(&self, key: Key) -> bool {
        self.holds(key, StepState::Dispatched)
    }

    pub fn is_running(&self, key: Key) -> bool {
        self.holds(key, StepState::Running)
    }

    fn holds(&self, key: Key, state: StepState) -> bool {
        self.rows[key.position].as_ref().is_some_and(|row| row.step.state == state && row.token == Some(key.token))
    }

    /// A push that failed, or a hint that Redis does not have.
    pub fn put_back(&mut self, key: Key) {
        if self.is_dispatched(key) && self.moved(key.position, Event::PutBack, &LIMITS).is_some() {
            self.row(key.position).token = None;
        }
    }

    /// Redis lost what it held.
    pub fn lose(&mut self) {
        for position in 0..STEPS {
            let dispatched = |row: &Row| row.step.state == StepState::Dispatched;
            if self.rows[position].as_ref().is_some_and(dispatched) {
                self.moved(position, Event::Lose, &LIMITS);
                self.row(position).token = None;
            }
        }
    }

    pub fn claim(&mut self, key: Key, without: Option<Guard>) -> Claimed {
        let held_already = without == Some(Guard::ClaimState) && self.is_running(key);
        if !self.is_dispatched(key) && !held_already {
            return Claimed::No;
        }
        if self.busy.is_some_and(|busy| !busy.over) && !held_already && without != Some(Guard::BusyMark) {
            self.put_back(key);
            return Claimed::No;
        }
        if !held_already {
            self.moved(key.position, Event::Claim, &LIMITS);
        }
        self.row(key.position).lease_over = false;
        let created_before = self.create_claimed;
        if key.position == CREATE {
            self.busy = Some(Busy { token: key.token, over: false });
            self.create_claimed = true;
        }
        Claimed::Yes { created_before }
    }

    /// Moves the lease on, and the quiet time that hangs on it, also where both had run out unnoticed.
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

    /// The lease that was held under `token` ends by the database's clock, and with it the quiet time.
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

    /// A relay's settle of a lease that ran out.
    pub fn rescue(&mut self, key: Key, outcome: Outcome, without: Option<Guard>) -> bool {
        let over = self.rows[key.position].as_ref().is_some_and(|row| row.lease_over);
        (over || without == Some(Guard::RescueExpiry)) && self.settle(key, outcome, Quiet::AsTheLease, without)
    }

    /// How an attempt ended: the step, what follows it, and the resource.
    pub fn settle(&mut self, key: Key, outcome: Outcome, quiet: Quiet, without: Option<Guard>) -> bool {
        let running = |row: &Row| row.step.state == StepState::Running;
        let unfenced = without == Some(Guard::Fencing) && self.rows[key.position].as_ref().is_some_and(running);
        if !self.is_running(key) && !unfenced {
            return false;
        }
        let limits = match without {
            Some(Guard::CrashLimit) => Limits { crashes: u32::MAX, ..LIMITS },
            _ => LIMITS,
        };
        let place = if key.position == VERIFY { Place::Last } else { Place::Inner };
        let event = match outcome {
            Outcome::Success => Event::Succeed(place),
            Outcome::Retry => Event::Fail,
            Outcome::Defer => Event::Defer,
            Outcome::SendBack(_) => Event::SendBack,
            Outcome::Crash => Event::Expire,
        };
        let Some(effects) = self.moved(key.position, event, &limits) else { return false };
        let row = self.row(key.position);
        (row.token, row.lease_over) = (None, false);
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
        if let Outcome::SendBack(to) = outcome {
            self.row(key.position).waits = true;
            self.rerun(to, &limits);
        }
        true
    }

    fn advance(&mut self, next: usize) {
        match &mut self.rows[next] {
            Some(row) => row.waits &= row.step.state != StepState::Due,
            none => *none = Some(Row::due()),
        }
    }

    /// The step `to` is due again, or dies where it was sent back to too often; those after it wait for it.
    fn rerun(&mut self, to: usize, limits: &Limits) {
        let effects = self.moved(to, Event::Rerun, limits).unwrap_or_default();
        for row in self.rows[to + 1..].iter_mut().flatten() {
            if row.step.state == StepState::Succeeded {
                row.step.state = StepState::Due;
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

    /// The one way in which a step moves. Defers in a row only make delays grow: the model has none and forgets them.
    fn moved(&mut self, position: usize, event: Event, limits: &Limits) -> Option<Vec<Effect>> {
        let row = self.rows[position].as_mut()?;
        let (step, effects) = transition(row.step, event, limits).ok()?;
        row.step = Step { spent: Spent { defers: 0, ..step.spent }, ..step };
        Some(effects)
    }
}

impl Row {
    fn due() -> Self {
        let step = Step { state: StepState::Due, spent: Spent::default() };
        Self { step, token: None, lease_over: false, waits: false }
    }
}
