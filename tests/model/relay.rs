//! What relays do. Each duty is a read and a write, with room between them for everything else, a
//! crash too.

use crate::{
    guard::Guard,
    ledger::{Hint, Key, Outcome, STEPS, Settled},
    world::{Duty, Phase, World},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Relay {
    /// Reads that the step is due.
    Scan(Hint),
    Push,
    FindExpired(Key),
    Rescue,
}

/// All that relay `at` may do now.
pub fn possible(world: &World, at: usize, without: Option<Guard>, found: &mut impl FnMut(Relay)) {
    match world.relays[at] {
        Duty::Push(_) => found(Relay::Push),
        Duty::Rescue(..) => found(Relay::Rescue),
        // Relays are alike: the last one that is free does it.
        Duty::None if world.relays[at + 1..].contains(&Duty::None) => {}
        Duty::None => (0..STEPS).for_each(|position| look_at(world, position, without, found)),
    }
}

fn look_at(world: &World, position: usize, without: Option<Guard>, found: &mut impl FnMut(Relay)) {
    if let Some(hint) = world.ledger.due(position).filter(|_| without != Some(Guard::Scan)) {
        found(Relay::Scan(hint));
    }
    let row = world.ledger.rows[position].as_ref();
    let over = row.filter(|row| row.lease_over && without != Some(Guard::Rescue)).and_then(|row| row.token);
    if let Some(token) = over {
        found(Relay::FindExpired(Key { position, token }));
    }
}

pub fn apply(world: &mut World, at: usize, what: Relay, without: Option<Guard>) {
    let duty = world.relays[at];
    world.relays[at] = match (what, duty) {
        (Relay::Scan(hint), _) => Duty::Push(hint),
        (Relay::FindExpired(key), _) => Duty::Rescue(key, verdict(world, key)),
        (Relay::Push, Duty::Push(hint)) => {
            world.push(hint);
            Duty::None
        }
        (Relay::Rescue, Duty::Rescue(key, outcome)) => match world.ledger.rescue(key, outcome, without) {
            Settled::Done(due) => {
                world.attempt_ended(key);
                due.map_or(Duty::None, Duty::Push)
            }
            Settled::Stale => Duty::None,
        },
        (Relay::Push | Relay::Rescue, other) => other,
    };
}

/// A worker that beats has lost its lease; one that was killed or stands still has crashed.
fn verdict(world: &World, key: Key) -> Outcome {
    let beats = world.workers.iter().flatten().any(|held| held.key == key && held.phase != Phase::Frozen);
    if beats { Outcome::Defer } else { Outcome::Crash }
}
