//! What workers do. Between any two of these moves a worker may be as slow as it likes: only the
//! moment between the lease check and the call is short, and a process that stands still there is a
//! fault.

use crate::{
    guard::Guard,
    ledger::{CONFIGURE, CREATE, Claimed, Hint, Key, Outcome, Quiet, Settled},
    world::{Attempt, Call, Instance, Phase, Stage, World},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Worker {
    Claim(Hint),
    /// Asks the API whether the instance is there.
    Look,
    /// Checks the lease and sends the create.
    Create,
    /// The lease is over. Too little of it for a create is no state of its own: it allows less.
    StopsForItsLease,
    /// Wakes up, and sends what it was about to send.
    Thaws,
    /// Deletes the name at the API, where no row has it.
    Discards,
    /// Sets the webhook, or reads everything back.
    Finishes,
    Renew,
    /// Says that a create of its may have met another.
    Doubts,
    Settle,
    /// Settles, and has the next step in hand by the same.
    SettlesAndGoesOn,
}

/// All that the worker `at` may do now.
pub fn possible(world: &World, at: usize, without: Option<Guard>, found: &mut impl FnMut(Worker)) {
    let Some(held) = &world.workers[at] else {
        // Workers are alike: the last one that is free takes the hint.
        if world.workers[at + 1..].iter().all(Option::is_some) {
            let mut hints = world.hints.clone();
            hints.dedup();
            hints.into_iter().for_each(|hint| found(Worker::Claim(hint)));
        }
        return;
    };
    let may_send = !held.lease_over || without == Some(Guard::LeaseCheck);
    let reads_back = held.created_before && without != Some(Guard::ReadBack);
    match held.phase {
        Phase::Claimed if held.key.position != CREATE => found(Worker::Finishes),
        Phase::Claimed if reads_back => found(Worker::Look),
        Phase::Claimed | Phase::ReadBack if may_send => found(Worker::Create),
        Phase::Phantom if may_send => found(Worker::Discards),
        Phase::Taken | Phase::Unknown => found(Worker::Look),
        Phase::Frozen => found(Worker::Thaws),
        Phase::Known(_) if held.owes_doubt => found(Worker::Doubts),
        Phase::Known(_) => {
            found(Worker::Settle);
            if held.may_go_on() {
                found(Worker::SettlesAndGoesOn);
            }
        }
        Phase::Claimed | Phase::ReadBack | Phase::Phantom | Phase::Waiting => {}
    }
    if held.lease_over && !matches!(held.phase, Phase::Known(_) | Phase::Frozen) {
        found(Worker::StopsForItsLease);
    }
    if held.phase != Phase::Frozen && (held.lease_over == world.ledger.is_running(held.key)) {
        found(Worker::Renew);
    }
}

pub fn apply(world: &mut World, at: usize, what: Worker, without: Option<Guard>) {
    let Some(held) = world.workers[at] else {
        if let Worker::Claim(hint) = what {
            world.take_hint(hint);
            world.workers[at] = claim(world, hint, without);
        }
        return;
    };
    let phase = match what {
        Worker::Create => return send(world, at, !held.lease_over && without != Some(Guard::LeaseCheck)),
        Worker::Thaws => return send(world, at, false),
        Worker::Settle => return settle(world, at, Push::Arrives, without),
        Worker::SettlesAndGoesOn => return go_on(world, at, without),
        Worker::Doubts => {
            world.ledger.doubted = true;
            world.workers[at] = None;
            return;
        }
        Worker::Renew => return renew(world, at),
        Worker::Look => look(world, held.phase, without),
        Worker::Discards => {
            world.take_away();
            Phase::ReadBack
        }
        Worker::Finishes => Phase::Known(finish(world, held.key.position, without)),
        Worker::StopsForItsLease => Phase::Known(Outcome::Defer),
        Worker::Claim(_) => held.phase,
    };
    world.workers[at] = Some(Attempt { phase, created_before: false, ..held });
}

/// The attempt that a claim won.
pub fn claim(world: &mut World, hint: Hint, without: Option<Guard>) -> Option<Attempt> {
    let key = Key { position: hint.position, token: world.draw(without) };
    let claimed = world.ledger.claim(hint, key.token, without);
    let Claimed::Yes { created_before, again, too_late } = claimed else { return None };
    world.seen.claimed_twice |= again;
    world.seen.stale_claim |= too_late;
    // Only the step that creates asks for it: in the others it would tell states apart that are the
    // same.
    let created_before = created_before && key.position == CREATE;
    Some(Attempt {
        key,
        phase: Phase::Claimed,
        created_before,
        unsure: false,
        sent: false,
        lease_over: false,
        owes_doubt: false,
        froze: false,
        ended: false,
    })
}

fn send(world: &mut World, at: usize, prompt: bool) {
    let Some(held) = &mut world.workers[at] else { return };
    held.created_before = false;
    (held.phase, held.unsure, held.sent) = (Phase::Waiting, true, true);
    world.calls.push(Call { token: held.key.token, stage: Stage::Sent, prompt });
    world.seen.needless_create |= world.instance != Instance::Absent && !world.frozen;
}

/// What a look says, by what the worker wants to know. An instance that the API does not list may
/// only be late where the name is taken; after an unknown end the failure is counted, and the
/// resource stays busy. What an attempt left is cleared away by the next one.
fn look(world: &World, phase: Phase, without: Option<Guard>) -> Phase {
    let hidden = world.hidden && without != Some(Guard::DatabasesWord);
    match (seen(world), phase) {
        (Instance::Bare | Instance::Good, _) => Phase::Known(Outcome::Success),
        (Instance::Absent, _) if hidden => Phase::Known(Outcome::Defer),
        (Instance::Absent, Phase::Claimed) if world.phantom => match without {
            Some(Guard::Discard) => Phase::Known(Outcome::Defer),
            _ => Phase::Phantom,
        },
        (Instance::Absent, _) if world.phantom => Phase::Known(Outcome::Defer),
        (Instance::Absent, Phase::Taken) => Phase::Known(Outcome::Defer),
        (Instance::Absent, Phase::Unknown) => Phase::Known(Outcome::Retry),
        (Instance::Absent, _) => Phase::ReadBack,
    }
}

/// `configure-webhooks` and `verify`, which any number may do at once.
fn finish(world: &mut World, position: usize, without: Option<Guard>) -> Outcome {
    if world.hidden && without != Some(Guard::DatabasesWord) {
        return Outcome::Defer;
    }
    match (position, seen(world)) {
        (_, Instance::Absent) => Outcome::SendBack(CREATE),
        (CONFIGURE, Instance::Bare | Instance::Good) => {
            world.instance = Instance::Good;
            Outcome::Success
        }
        (_, Instance::Bare) => Outcome::SendBack(CONFIGURE),
        (_, Instance::Good) => Outcome::Success,
    }
}

/// The instance as the API's memory has it.
fn seen(world: &World) -> Instance {
    if world.hidden { Instance::Absent } else { world.instance }
}

fn renew(world: &mut World, at: usize) {
    let Some(held) = &mut world.workers[at] else { return };
    held.lease_over = !world.ledger.renew(held.key);
}

/// What becomes of the push of what a settle made due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Push {
    Arrives,
    IsLost,
}

pub fn settle(world: &mut World, at: usize, push: Push, without: Option<Guard>) {
    let Some(held) = world.workers[at] else { return };
    let stale = !world.ledger.is_running(held.key);
    let due = write_end(world, at, without);
    if let Some(hint) = due.filter(|_| push == Push::Arrives) {
        world.push(hint);
    }
    world.workers[at] = (stale && held.sent).then_some(Attempt { owes_doubt: true, ..held });
}

/// As a settle and a claim in one: nothing comes between the two. A stale settle is one as ever.
fn go_on(world: &mut World, at: usize, without: Option<Guard>) {
    let next = write_end(world, at, without);
    match next {
        Some(hint) => world.workers[at] = claim(world, hint, without),
        None => settle(world, at, Push::IsLost, without),
    }
}

/// The settle itself, and what became due by it. What the worker then learns of it is another
/// matter.
pub fn write_end(world: &mut World, at: usize, without: Option<Guard>) -> Option<Hint> {
    let held = world.workers[at]?;
    let Phase::Known(outcome) = held.phase else { return None };
    let Settled::Done(due) = world.ledger.settle(held.key, outcome, held.quiet(), without) else { return None };
    world.seen.stale_write |= held.ended;
    if held.quiet() == Quiet::Unsure {
        // The quiet time begins anew with the settle.
        world.calls.iter_mut().filter(|call| call.token == held.key.token).for_each(|call| call.prompt = true);
    }
    world.attempt_ended(held.key);
    due
}
