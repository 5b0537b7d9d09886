//! The protocol, model-checked: one run of three steps, two relays, two workers, the ledger, Redis
//! and the API, with every fault at every point, up to a budget (`SLUICE_MODEL_FAULTS`, 2 unless
//! told). The ledger moves by the program's own `transition`. What it finds is printed: `cargo test
//! -p tests --test model -- --nocapture`.

mod api;
mod fault;
mod graph;
mod guard;
mod ledger;
mod protocol;
mod relay;
mod worker;
mod world;

use std::time::Instant;

use stateright::{Checker, Model};
use workflows::state::RunState;

use crate::{
    graph::{Graph, shortest},
    guard::Guard,
    protocol::*,
    world::{Instance, World},
};

fn faults() -> u8 {
    std::env::var("SLUICE_MODEL_FAULTS").map_or(2, |text| text.parse().expect("SLUICE_MODEL_FAULTS is a small number"))
}

fn protocol() -> Protocol {
    Protocol { faults: faults(), without: None, forgets: true }
}

#[test]
fn the_protocol_keeps_its_invariants_and_only_a_frozen_process_makes_two_creates() {
    let started = Instant::now();

    let checker = protocol().checker().spawn_bfs().join();

    let (states, depth) = (checker.unique_state_count(), checker.max_depth());
    eprintln!("{} faults: {states} states, depth {depth}, {:.1?}", faults(), started.elapsed());
    for (name, _) in PROPERTIES {
        eprintln!("  holds in all of them: {name}");
        checker.assert_no_discovery(name);
    }
    for (name, _) in REACHED {
        checker.assert_any_discovery(name);
        eprintln!("  reached: {name}");
    }
}

#[test]
fn from_every_state_an_end_can_be_reached_without_another_fault() {
    let started = Instant::now();

    let graph = Graph::explore(&protocol(), &[|_| true, ended_well]);

    let (states, moves, depth, ends) = (graph.states(), graph.moves(), graph.depth, graph.count(1));
    let stuck = graph.stuck(0, 1);
    eprintln!(
        "{} faults: {states} states, {moves} moves without a fault, depth {depth}, {:.1?}",
        faults(),
        started.elapsed()
    );
    eprintln!("  {ends} are ends: the run is dead, or succeeded and has its one good instance");
    eprintln!("  from {stuck} no end can be reached, where a reconcile is assumed");
    assert_eq!(stuck, 0);
    let protocol = Protocol { without: Some(Guard::Reconcile), ..protocol() };
    let without = Graph::explore(&protocol, &[|_| true, ended_well, |world| !world.mute]);
    eprintln!(
        "  assumed, because the program has no such duty yet; without it from {} states no end can be reached, all by a process \
         frozen in its call and then killed before it could say so (a server slower than its quiet time is not modelled)",
        without.stuck(0, 1)
    );
    assert_eq!(without.stuck(2, 1), 0);
}

/// Nothing is under way at the API any more that could change it.
fn ended_well(world: &World) -> bool {
    world.ledger.run == RunState::Dead || (succeeded(world) && world.calls.is_empty())
}

fn succeeded(world: &World) -> bool {
    world.ledger.run == RunState::Succeeded && world.instance == Instance::Good
}

/// Which property falls without which guard, and how many faults that takes.
const NEEDED: [(Guard, u8, &str); 11] = [
    (Guard::Fencing, 0, I9_STALE),
    (Guard::FreshTokens, 0, I9_STALE),
    (Guard::LeaseCheck, 0, I3_ONE_CREATE),
    (Guard::RescueExpiry, 0, I2_LEASE),
    (Guard::ClaimState, 0, I2_ONE_CLAIM),
    (Guard::Generation, 0, I9_STALE_CLAIM),
    (Guard::BusyMark, 1, I3_ONE_CREATE),
    (Guard::ReadBack, 1, I3_NEEDED),
    (Guard::DatabasesWord, 1, I3_NEEDED),
    (Guard::DatabasesWord, 1, I4_KEPT),
    (Guard::CrashLimit, 3, I5_LIMITS),
];

#[test]
fn without_any_one_of_its_guards_the_protocol_breaks() {
    for (guard, faults, name) in NEEDED {
        // What is late counts where these are missing: nothing may be left out then.
        let needs_all = [Guard::Fencing, Guard::FreshTokens, Guard::ClaimState, Guard::Generation, Guard::LeaseCheck];
        let forgets = !needs_all.contains(&guard);
        let protocol = Protocol { faults, without: Some(guard), forgets };
        let holds = protocol.property(name).condition;

        let path = shortest(&protocol, |world| !holds(&protocol, world));

        let path = path.unwrap_or_else(|| panic!("{guard:?} is needed for nothing that the model sees"));

        eprintln!("without {guard:?}, {faults} faults, after {} moves, not: {name}", path.len());
        if std::env::var_os("SLUICE_MODEL_PATHS").is_some() {
            path.iter().for_each(|action| eprintln!("    {action:?}"));
        }
    }
}

#[test]
fn without_somebody_who_looks_for_what_is_lost_a_run_stands_still() {
    for guard in [Guard::Rescue, Guard::Scan, Guard::SecondLook, Guard::Discard] {
        let protocol = Protocol { faults: 1, without: Some(guard), forgets: true };

        let graph = Graph::explore(&protocol, &[|_| true, ended_well]);

        eprintln!("without {guard:?}, 1 fault: {} of {} states never end", graph.stuck(0, 1), graph.states());
        assert!(graph.stuck(0, 1) > 0, "{guard:?}");
    }
}

#[test]
fn what_the_model_forgets_makes_no_difference() {
    let small = Graph::explore(&Protocol { faults: 0, without: None, forgets: true }, &[]);
    let whole = Graph::explore_through(&Protocol { faults: 0, without: None, forgets: false }, &[], &mut |world| {
        let mut world = world.clone();
        world.forget_what_is_stale();
        assert!(small.knows(&world.canonical()), "a state that only the whole model has");
    });

    eprintln!(
        "without faults: {} states, {} of them different where what is stale is forgotten",
        whole.states(),
        small.states()
    );
    assert!(small.states() < whole.states());
}
