//! What relays do. Each duty is a read and a guarded write, with room between them for everything else, a crash too.

use crate::{
    guard::Guard,
    ledger::{Key, Outcome, STEPS, Token},
    world::{Duty, Phase, World},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Relay {
    Dispatch { position: usize },
    Push,
    PushFails,
    FindExpired(Key),
    Rescue,
    FindStray(Key),
    PutBack,
}

/// All that relay `at` may do now.
pub fn possible(world: &World, at: usize, without: Option<Guard>, found: &mut impl FnMut(Relay)) {
    match world.relays[at] {
        Duty::Push(_) => {
            found(Relay::Push);
            found(Relay::PushFails);
        }
        Duty::Rescue(..) => found(Relay::Rescue),
        Duty::PutBack(_) => found(Relay::PutBack),
        // Relays are alike: the last one that is free does it.
        Duty::None if world.relays[at + 1..].contains(&Duty::None) => {}
        Duty::None => {
            for position in 0..STEPS {
                if world.ledger.may_dispatch(position) {
                    found(Relay::Dispatch { position });
                }
                look_at(world, position, without, found);
            }
        }
    }
}

fn look_at(world: &World, position: usize, without: Option<Guard>, found: &mut impl FnMut(Relay)) {
    let Some((row, token)) = world.ledger.rows[position].as_ref().and_then(|row| Some((row, row.token?))) else {
        return;
    };
    let key = Key { position, token };
    if row.lease_over && without != Some(Guard::Rescue) {
        found(Relay::FindExpired(key));
    }
    // Asked some seconds after the dispatch; that a relay may still push then is what the token is for.
    if world.ledger.is_dispatched(key) && !world.hints.contains(&key) && without != Some(Guard::StrayRecovery) {
        found(Relay::FindStray(key));
    }
}

pub fn apply(world: &mut World, at: usize, what: Relay, without: Option<Guard>) {
    let duty = world.relays[at];
    world.relays[at] = match (what, duty) {
        (Relay::Dispatch { position }, _) => {
            let key = Key { position, token: draw(world, without) };
            world.ledger.dispatch(key);
            Duty::Push(key)
        }
        (Relay::FindExpired(key), _) => Duty::Rescue(key, verdict(world, key)),
        (Relay::FindStray(key), _) => Duty::PutBack(key),
        (Relay::Push, Duty::Push(key)) => {
            world.hints.push(key);
            Duty::None
        }
        (Relay::PushFails, Duty::Push(key)) | (Relay::PutBack, Duty::PutBack(key)) => {
            world.ledger.put_back(key);
            Duty::None
        }
        (Relay::Rescue, Duty::Rescue(key, outcome)) => {
            if world.ledger.rescue(key, outcome, without) {
                world.attempt_ended(key);
            }
            Duty::None
        }
        (Relay::Push | Relay::PushFails | Relay::PutBack | Relay::Rescue, other) => other,
    };
}

/// A token that nobody holds.
fn draw(world: &World, without: Option<Guard>) -> Token {
    let held = world.tokens();
    if without == Some(Guard::FreshTokens) {
        return held.first().copied().unwrap_or(Token(1));
    }
    let fresh = (1..).map(Token).find(|token| !held.contains(token));
    fresh.expect("fewer than 255 tokens are held")
}

/// A worker that beats has lost its lease; one that was killed or stands still has crashed.
fn verdict(world: &World, key: Key) -> Outcome {
    let beats = world.workers.iter().flatten().any(|held| held.key == key && held.phase != Phase::Frozen);
    if beats { Outcome::Defer } else { Outcome::Crash }
}
