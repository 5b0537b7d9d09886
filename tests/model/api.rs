//! What the Evolution API does with a create: neither atomic nor idempotent. It checks the name,
//! inserts the row, and goes on; of two that passed the check the slower one fails, and may take
//! with it whatever has the name. It finishes also what nobody waits for any more. After a restart
//! its guard sees a row only once it has loaded it.

use crate::{
    ledger::Outcome,
    world::{Instance, Phase, Stage, World},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Api {
    /// Goes on with the create: the check, the row, the answer.
    Proceeds,
    /// Fails, and deletes what has the name.
    Destroys,
}

pub fn possible(world: &World, at: usize, found: &mut impl FnMut(Api)) {
    found(Api::Proceeds);
    if world.calls[at].stage == Stage::Beaten {
        found(Api::Destroys);
    }
}

pub fn apply(world: &mut World, at: usize, what: Api) {
    let (there, seems_there) = (world.instance != Instance::Absent, world.seems_there());
    let call = &mut world.calls[at];
    match (call.stage, what) {
        (Stage::Sent, _) if seems_there => answer(world, at, Phase::Taken),
        (Stage::Sent, _) => call.stage = Stage::Checked,
        (Stage::Checked, _) if there => call.stage = Stage::Beaten,
        (Stage::Checked, _) => {
            call.stage = Stage::Inserted;
            world.instance = Instance::Bare;
        }
        (Stage::Inserted, _) => answer(world, at, Phase::Known(Outcome::Success)),
        (Stage::Beaten, Api::Proceeds) => answer(world, at, Phase::Unknown),
        (Stage::Beaten, Api::Destroys) => {
            world.take_away();
            answer(world, at, Phase::Unknown);
        }
    }
}

/// The call has ended, and its worker hears of it, if it still listens.
pub fn answer(world: &mut World, at: usize, phase: Phase) {
    let token = world.calls.remove(at).token;
    let mut held = world.workers.iter_mut().flatten();
    if let Some(held) = held.find(|held| held.key.token == token && held.phase == Phase::Waiting) {
        (held.phase, held.unsure) = (phase, false);
    }
}
