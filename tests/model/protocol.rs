//! The protocol as a model: what may happen next in a state, and what must hold in all of them.
//!
//! Time is what the protocol assumes of it and no more: a lease may end at any moment, but not
//! while the server is at work on a create that was sent right after its check (enough lease was
//! left). Everything else may take for ever.

use stateright::{Model, Property};
use workflows::state::{RunState, StepState};

use crate::{
    api::{self, Api},
    fault::{self, Fault},
    guard::Guard,
    ledger::{CREATE, Generation, Hint, Key, LIMITS, Ledger, Outcome, Quiet, STEPS, Token},
    relay::{self, Relay},
    worker::{self, Worker},
    world::{Attempt, Instance, Phase, World},
};

/// The program with `faults` faults at most, and perhaps without one of its guards.
#[derive(Debug, Clone, Copy)]
pub struct Protocol {
    pub faults: u8,
    pub without: Option<Guard>,
    /// Whether late attempts and duties are left out once they can change nothing: fewer states,
    /// the same truth.
    pub forgets: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    Relay(usize, Relay),
    Worker(usize, Worker),
    Api(usize, Api),
    LeaseEnds(Token),
    /// The API has loaded what its database has.
    ApiLoads,
    /// A run has ended on a doubted instance.
    LookAgain,
    /// A succeeded run's instance is missing: a new run. Assumed: no duty of the program does this
    /// yet.
    Reconcile,
    Fault(Fault),
}

impl Model for Protocol {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::start(self.faults)]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        for at in 0..world.relays.len() {
            relay::possible(world, at, self.without, &mut |what| actions.push(Action::Relay(at, what)));
        }
        for at in 0..world.workers.len() {
            worker::possible(world, at, self.without, &mut |what| actions.push(Action::Worker(at, what)));
        }
        for at in 0..world.calls.len() {
            api::possible(world, at, &mut |what| actions.push(Action::Api(at, what)));
        }
        actions.extend(world.tokens().into_iter().filter(|token| may_end(world, *token)).map(Action::LeaseEnds));
        if world.hidden {
            actions.push(Action::ApiLoads);
        }
        // A lease after the doubt the server has finished what was sent before it.
        let quiet = world.ledger.run != RunState::Active && world.calls.is_empty();
        if quiet && world.ledger.doubted && self.without != Some(Guard::SecondLook) {
            actions.push(Action::LookAgain);
        }
        let lost = world.ledger.run == RunState::Succeeded && world.instance == Instance::Absent;
        if quiet && lost && !matches!(self.without, Some(Guard::SecondLook | Guard::Reconcile)) {
            actions.push(Action::Reconcile);
        }
        fault::possible(world, &mut |what| actions.push(Action::Fault(what)));
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut next = world.clone();
        match action {
            Action::Relay(at, what) => relay::apply(&mut next, at, what, self.without),
            Action::Worker(at, what) => worker::apply(&mut next, at, what, self.without),
            Action::Api(at, what) => api::apply(&mut next, at, what),
            Action::LeaseEnds(token) => next.lease_ends(token),
            Action::ApiLoads => next.hidden = false,
            Action::LookAgain => next.ledger.look_again(),
            Action::Reconcile => next.ledger.start_again(),
            Action::Fault(what) => fault::apply(&mut next, what, self.without),
        }
        next.forget_what_is_over();
        if self.forgets {
            next.forget_what_is_stale();
        }
        let next = next.canonical();
        (next != *world).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties: Vec<_> = PROPERTIES.iter().map(|(name, holds)| Property::always(name, *holds)).collect();
        properties.extend(REACHED.iter().map(|(name, holds)| Property::sometimes(name, *holds)));
        properties
    }
}

/// A lease ends at any moment, but for the one case that the protocol's timing excludes.
fn may_end(world: &World, token: Token) -> bool {
    let held = world.workers.iter().flatten().any(|held| held.key.token == token && !held.lease_over);
    (held || world.ledger.is_leased(token)) && !world.holds_lease(token)
}

type Holds = fn(&Protocol, &World) -> bool;

pub const I2_ONE_STEP: &str = "I2: of an active run one step is under way, of an ended one none";
pub const I2_ONE_HOLDER: &str = "I2: one worker at most holds a token that is good";
pub const I2_ONE_CLAIM: &str = "I2: a claim is won once per generation";
pub const I2_LEASE: &str = "I2: nobody loses a step while its lease holds";
pub const I3_ONE_CREATE: &str = "I3: one create at most is in flight, but for frozen processes";
pub const I3_NEEDED: &str = "I3: no create is sent for an instance that is there, but for frozen processes";
pub const I4_KEPT: &str = "I4: nothing of ours takes an instance away, but for frozen processes";
pub const I5_LIMITS: &str = "I5: failures, crashes and send-backs stay within their limits";
pub const I9_STALE: &str = "I9: a stale settle changes nothing";
pub const I9_STALE_CLAIM: &str = "I9: a hint of an earlier generation claims nothing";
pub const I9_NOTHING_STALE: &str = "I9: nothing that carries another token or generation changes the ledger";
pub const GOOD_END: &str = "a run that succeeded has its one good instance, but for frozen processes";

/// What holds in every state.
pub const PROPERTIES: [(&str, Holds); 12] = [
    (I2_ONE_STEP, |_, world| steps_under_way(world) == usize::from(world.ledger.run == RunState::Active)),
    (I2_ONE_HOLDER, |_, world| good_holders(world) <= 1),
    (I2_ONE_CLAIM, |_, world| !world.seen.claimed_twice),
    (I2_LEASE, |_, world| world.workers.iter().flatten().all(|held| holds_what_it_leased(world, held))),
    (I3_ONE_CREATE, |_, world| world.calls.len() <= 1 || world.frozen),
    (I3_NEEDED, |_, world| !world.seen.needless_create || world.frozen),
    (I4_KEPT, |_, world| !world.seen.destroyed),
    (I5_LIMITS, |_, world| within_limits(world)),
    (I9_STALE, |_, world| !world.seen.stale_write),
    (I9_STALE_CLAIM, |_, world| !world.seen.stale_claim),
    (I9_NOTHING_STALE, |protocol, world| nothing_stale_counts(&world.ledger, protocol.without)),
    (GOOD_END, |_, world| world.ledger.run != RunState::Succeeded || world.instance == Instance::Good || world.frozen),
];

pub const HOLE: &str = "a frozen process overlaps with another's create";
pub const LOST_AFTER_SUCCESS: &str = "a frozen process takes the instance after the run has succeeded";

/// What some state shows: without these the model would be too tame.
pub const REACHED: [(&str, Holds); 7] = [
    ("the run succeeds", |_, world| world.ledger.run == RunState::Succeeded),
    ("the run dies", |_, world| world.ledger.run == RunState::Dead),
    ("a failed create leaves a name without a row", |_, world| world.phantom),
    ("the API has not loaded an instance that is good", |_, world| world.hidden && world.instance == Instance::Good),
    ("a name without a row is about to be deleted", |_, world| {
        world.workers.iter().flatten().any(|held| held.phase == Phase::Phantom)
    }),
    (HOLE, |_, world| world.calls.len() > 1),
    (LOST_AFTER_SUCCESS, |_, world| world.ledger.run == RunState::Succeeded && world.instance == Instance::Absent),
];

fn steps_under_way(world: &World) -> usize {
    let under_way = |state| matches!(state, StepState::Due | StepState::Running);
    world.ledger.rows.iter().flatten().filter(|row| under_way(row.step.state) && !row.waits).count()
}

fn good_holders(world: &World) -> usize {
    world.workers.iter().flatten().filter(|held| world.ledger.is_running(held.key)).count()
}

/// A worker that has its end in hand may have written it already, without having heard so.
fn holds_what_it_leased(world: &World, held: &Attempt) -> bool {
    held.lease_over || matches!(held.phase, Phase::Known(_)) || world.ledger.is_running(held.key)
}

fn within_limits(world: &World) -> bool {
    world.ledger.rows.iter().take(STEPS).flatten().all(|row| {
        let spent = row.step.spent;
        spent.failures <= LIMITS.failures && spent.crashes <= LIMITS.crashes && spent.send_backs <= LIMITS.send_backs
    })
}

/// Every verb of the ledger, under a token and a generation that are nobody's.
fn nothing_stale_counts(ledger: &Ledger, without: Option<Guard>) -> bool {
    (0..STEPS).all(|position| {
        let key = Key { position, token: Token(u8::MAX) };
        let mut tried = ledger.clone();
        tried.claim(Hint { position, generation: Generation::PAST }, key.token, without);
        tried.renew(key);
        for outcome in [Outcome::Success, Outcome::Retry, Outcome::Defer, Outcome::SendBack(CREATE), Outcome::Crash] {
            tried.settle(key, outcome, Quiet::Yes, without);
            tried.rescue(key, outcome, without);
        }
        tried == *ledger
    })
}

impl World {
    fn lease_ends(&mut self, token: Token) {
        self.ledger.lease_ends(token);
        for held in self.workers.iter_mut().flatten() {
            held.lease_over |= held.key.token == token;
        }
    }

    /// Whoever still has the attempt in hand is late from now on.
    pub fn attempt_ended(&mut self, key: Key) {
        for held in self.workers.iter_mut().flatten() {
            held.ended |= held.key == key;
        }
    }
}
