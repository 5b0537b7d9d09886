//! What may go wrong, each once per unit of the budget.

use crate::{
    api,
    guard::Guard,
    ledger::{CREATE, Hint, Outcome},
    worker::{self, Push},
    world::{Attempt, Duty, Instance, Phase, Stage, World},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    WorkerDies(usize),
    RelayDies(usize),
    /// Wiped, or replaced by a replica that knows nothing of late.
    RedisLosesAll,
    /// Fetched by a worker that died before its claim.
    HintLost(Hint),
    /// Delivered twice, or restored from an old snapshot.
    HintTwice(Hint),
    /// The ledger wrote the claim, and its answer did not arrive.
    ClaimAnswerLost(Hint),
    /// The ledger wrote the settle, and its answer did not arrive: it is sent again.
    SettleAnswerLost(usize),
    /// The ledger wrote the settle and gave the worker the next step. The answer did not arrive.
    CarriedOnAnswerLost(usize),
    /// The settle was written, and what it made due was not pushed.
    PushLost(usize),
    /// The create is given up as unanswered; the server goes on with it.
    CreateTimesOut(usize),
    /// The create ends with an error, wherever it stood.
    CreateFails(usize),
    /// The create fails before its row is in, and leaves the name in the API's memory.
    CreateLeavesPhantom(usize),
    /// The API forgets what it had in memory, and what it was doing.
    ApiRestarts,
    /// Setting or reading the webhook fails.
    OtherCallFails(usize),
    /// The process stands still between its lease check and the end of its call.
    Freezes(usize),
}

pub fn possible(world: &World, found: &mut impl FnMut(Fault)) {
    if world.faults_left == 0 {
        return;
    }
    for (at, held) in world.workers.iter().enumerate() {
        let Some(held) = held else { continue };
        found(Fault::WorkerDies(at));
        match held.phase {
            Phase::Known(outcome) if world.ledger.is_running(held.key) => {
                found(Fault::SettleAnswerLost(at));
                if held.may_go_on() {
                    found(Fault::CarriedOnAnswerLost(at));
                }
                if matches!(outcome, Outcome::Success | Outcome::SendBack(_)) {
                    found(Fault::PushLost(at));
                }
            }
            Phase::Waiting => found(Fault::CreateTimesOut(at)),
            Phase::Claimed if held.key.position != CREATE => found(Fault::OtherCallFails(at)),
            Phase::Claimed | Phase::ReadBack if !world.frozen && may_create(held) => found(Fault::Freezes(at)),
            _ => {}
        }
    }
    for (at, duty) in world.relays.iter().enumerate() {
        if *duty != Duty::None {
            found(Fault::RelayDies(at));
        }
    }
    for (at, call) in world.calls.iter().enumerate() {
        found(Fault::CreateFails(at));
        if call.stage == Stage::Checked && world.instance == Instance::Absent {
            found(Fault::CreateLeavesPhantom(at));
        }
    }
    if world.seems_there() || !world.calls.is_empty() {
        found(Fault::ApiRestarts);
    }
    // Of one hint that is the same as its loss.
    if world.hints.len() > 1 {
        found(Fault::RedisLosesAll);
    }
    let mut hints = world.hints.clone();
    hints.dedup();
    for hint in hints {
        found(Fault::HintLost(hint));
        found(Fault::ClaimAnswerLost(hint));
        found(Fault::HintTwice(hint));
    }
}

fn may_create(held: &Attempt) -> bool {
    !held.lease_over && (held.phase == Phase::ReadBack || !held.created_before)
}

pub fn apply(world: &mut World, what: Fault, without: Option<Guard>) {
    world.faults_left -= 1;
    match what {
        Fault::WorkerDies(at) => world.mute |= world.workers[at].take().is_some_and(|held| held.froze),
        Fault::RelayDies(at) => world.relays[at] = Duty::None,
        Fault::RedisLosesAll => world.hints.clear(),
        Fault::HintLost(hint) => world.take_hint(hint),
        Fault::HintTwice(hint) => world.hints.push(hint),
        Fault::ClaimAnswerLost(hint) => {
            world.take_hint(hint);
            worker::claim(world, hint, without);
        }
        // What became due is not known either: nobody pushes it.
        Fault::SettleAnswerLost(at) => drop(worker::write_end(world, at, without)),
        Fault::CarriedOnAnswerLost(at) => {
            if let Some(hint) = worker::write_end(world, at, without) {
                worker::claim(world, hint, without);
            }
        }
        Fault::PushLost(at) => worker::settle(world, at, Push::IsLost, without),
        Fault::CreateTimesOut(at) => becomes(world, at, Phase::Unknown),
        Fault::CreateFails(at) => api::answer(world, at, Phase::Unknown),
        Fault::CreateLeavesPhantom(at) => {
            world.phantom = true;
            api::answer(world, at, Phase::Unknown);
        }
        Fault::ApiRestarts => {
            world.calls.clear();
            world.phantom = false;
            world.hidden = world.instance != Instance::Absent;
            for held in world.workers.iter_mut().flatten().filter(|held| held.phase == Phase::Waiting) {
                held.phase = Phase::Unknown;
            }
        }
        Fault::OtherCallFails(at) => becomes(world, at, Phase::Known(Outcome::Retry)),
        Fault::Freezes(at) => {
            becomes(world, at, Phase::Frozen);
            world.workers[at].iter_mut().for_each(|held| held.froze = true);
            world.frozen = true;
        }
    }
}

fn becomes(world: &mut World, at: usize, phase: Phase) {
    if let Some(held) = &mut world.workers[at] {
        held.phase = phase;
        held.created_before = false;
    }
}
