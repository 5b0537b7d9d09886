//! A run's deadline: judged on due steps, and not while a gate holds them or a limit lets them
//! wait.

use std::time::Duration;

use sluice::ledger::{OperatorLedger, RelayLedger};
use workflows::{
    breaker::Signal,
    outcome::{Class, Failure, HostSignal, Outcome},
    state::{DeathReason, RunState, StepState},
};

use super::{
    bench::{
        BRITTLE, Bench, CREATE, DEADLINE, DEPROVISION, HOST, LONG, PROVISION, RECONFIGURE, by, retry, run_after, user,
    },
    gates,
    world::{Gate, Scope, World},
};

const PAST: Duration = Duration::from_secs(DEADLINE.as_secs() + 60);

pub async fn a_due_run_past_its_deadline_dies(bench: &Bench<impl World>) {
    let user = user();
    let late = bench.start(PROVISION, user).await;
    let waiting = bench.start(DEPROVISION, user).await;
    assert_eq!(bench.ledger().exceed(10).await.unwrap().len(), 0);
    bench.world.advance(PAST).await;
    let young = bench.start(PROVISION, super::bench::user()).await;

    assert_eq!(bench.ledger().exceed(10).await.unwrap().len(), 1);

    let letters = bench.world.dead_letters(late).await;
    assert_eq!((bench.world.run(late).await, bench.state(late, 0).await), (RunState::Dead, StepState::Dead));
    assert_eq!((letters.len(), letters[0].reason), (1, DeathReason::DeadlineExceeded));
    assert_eq!(bench.world.events(late).await, ["provision-instance.started", "provision-instance.dead"]);
    // The one that waited for its turn had no moment, and so was not judged.
    for run in [waiting, young] {
        assert_eq!(bench.world.run(run).await, RunState::Active);
    }
}

pub async fn a_run_that_dies_by_its_deadline_says_what_its_step_last_failed_with(bench: &Bench<impl World>) {
    let failed = bench.start(PROVISION, user()).await;
    for (class, text) in [(Class::ServerError, "first"), (Class::NoAnswer, "last")] {
        bench.work(failed, CREATE, Outcome::Retry(Failure::new(class, text))).await;
        bench.world.advance(LONG).await;
    }
    // It is late in another step than the one that failed.
    let advanced = bench.start(PROVISION, user()).await;
    bench.work(advanced, CREATE, retry()).await;
    bench.world.advance(LONG).await;
    bench.succeed(advanced, &[CREATE]).await;
    let untried = bench.start(PROVISION, user()).await;
    bench.world.advance(PAST).await;

    assert_eq!(bench.ledger().exceed(10).await.unwrap().len(), 3);

    let mut said = Vec::new();
    for run in [failed, advanced, untried] {
        let letter = bench.world.dead_letters(run).await.remove(0);
        assert_eq!(letter.reason, DeathReason::DeadlineExceeded);
        said.push((letter.position, letter.class, letter.error.unwrap()));
    }
    let late = "the run's deadline has passed".to_owned();
    assert_eq!(said, [(0, Some(Class::NoAnswer), "last".to_owned()), (1, None, late.clone()), (0, None, late)]);
}

pub async fn a_step_in_hand_is_not_judged_by_the_deadline(bench: &Bench<impl World>) {
    let run = bench.start(PROVISION, user()).await;
    let claim = bench.take(run, CREATE).await;
    bench.world.advance(PAST).await;

    assert_eq!(bench.ledger().exceed(10).await.unwrap().len(), 0);

    assert_eq!(bench.state(run, 0).await, StepState::Running);
    assert_eq!(run_after(&bench.settle(&claim, retry()).await), RunState::Active);
    assert_eq!(bench.ledger().exceed(10).await.unwrap().len(), 1);
    assert_eq!(bench.world.run(run).await, RunState::Dead);
}

pub async fn a_revived_run_has_a_fresh_deadline(bench: &Bench<impl World>) {
    let run = bench.start(PROVISION, user()).await;
    bench.world.advance(PAST).await;
    assert_eq!(bench.ledger().exceed(10).await.unwrap().len(), 1);
    bench.world.advance(PAST).await;

    bench.ledger().revive(run, &by("ana")).await.unwrap();

    assert_eq!(bench.ledger().exceed(10).await.unwrap().len(), 0);
    bench.world.advance(PAST).await;
    assert_eq!(bench.ledger().exceed(10).await.unwrap().len(), 1);
}

pub async fn a_step_behind_a_closed_gate_does_not_exceed(bench: &Bench<impl World>) {
    let by_step = bench.start(PROVISION, user()).await;
    let by_workflow = bench.start(DEPROVISION, user()).await;
    bench.world.set(Gate::Pause(Scope::Step, CREATE)).await;
    bench.world.set(Gate::Pause(Scope::Workflow, DEPROVISION)).await;
    bench.world.advance(PAST).await;

    assert_eq!(bench.ledger().exceed(10).await.unwrap().len(), 0);

    for run in [by_step, by_workflow] {
        assert_eq!(bench.world.run(run).await, RunState::Active);
    }
}

pub async fn time_that_a_gate_held_does_not_count(bench: &Bench<impl World>) {
    let run = bench.start(PROVISION, user()).await;
    bench.world.set(Gate::Pause(Scope::Step, CREATE)).await;
    // Both at once: the time counts once.
    bench.world.set(Gate::Hold(Scope::Step, CREATE, PAST)).await;
    bench.world.advance(PAST).await;
    bench.world.set(Gate::Resume(Scope::Step, CREATE)).await;

    assert_eq!(bench.ledger().exceed(10).await.unwrap().len(), 0);
    bench.world.advance(DEADLINE - Duration::from_secs(60)).await;
    assert_eq!(bench.ledger().exceed(10).await.unwrap().len(), 0);
    bench.world.advance(PAST).await;
    assert_eq!(bench.ledger().exceed(10).await.unwrap().len(), 1);

    assert_eq!(bench.world.run(run).await, RunState::Dead);
}

pub async fn time_that_a_breaker_held_does_not_count(bench: &Bench<impl World>) {
    let run = bench.start(PROVISION, user()).await;
    gates::trip(bench).await;
    bench.world.advance(PAST).await;
    assert_eq!(bench.ledger().exceed(10).await.unwrap().len(), 0);
    bench.start(PROVISION, user()).await;
    bench.world.advance(PAST).await;
    let let_through = gates::half_open(bench).await;
    assert_eq!(bench.ledger().exceed(10).await.unwrap().len(), 0, "who waits to be let through is not late");
    gates::report(bench, &[Signal::of(let_through.key.run, HostSignal::Healthy)]).await;
    bench.settle(&let_through, retry()).await;
    bench.world.advance(Duration::from_secs(20)).await;

    // What was given back once is not given back again, and was enough.
    for _ in 0..2 {
        assert_eq!(bench.ledger().exceed(10).await.unwrap().len(), 0);
    }

    assert_eq!(bench.world.run(run).await, RunState::Active);
}

pub async fn a_step_that_waits_for_its_turn_behind_a_limit_does_not_exceed(bench: &Bench<impl World>) {
    let by_step = bench.start(BRITTLE, user()).await;
    let by_host = bench.start(DEPROVISION, user()).await;
    bench.world.set(Gate::Rate(Scope::Step, "first", 0.5)).await;
    bench.world.set(Gate::Concurrency(Scope::Host, HOST, 1)).await;
    bench.world.advance(PAST).await;

    assert_eq!(bench.ledger().exceed(10).await.unwrap().len(), 0);

    for run in [by_step, by_host] {
        assert_eq!(bench.world.run(run).await, RunState::Active);
    }
}

pub async fn a_hosts_limit_holds_no_step_that_does_not_call_it(bench: &Bench<impl World>) {
    let elsewhere = bench.start(BRITTLE, user()).await;
    let by_host = bench.start(RECONFIGURE, user()).await;
    bench.world.set(Gate::Concurrency(Scope::Host, HOST, 1)).await;
    bench.world.advance(PAST).await;

    assert_eq!(bench.ledger().exceed(10).await.unwrap().len(), 1);

    assert_eq!(bench.world.run(elsewhere).await, RunState::Dead);
    assert_eq!(bench.world.run(by_host).await, RunState::Active);
}

pub async fn a_hosts_limit_that_was_taken_away_excuses_no_step_that_does_not_call_it(bench: &Bench<impl World>) {
    let elsewhere = bench.start(BRITTLE, user()).await;
    let by_host = bench.start(RECONFIGURE, user()).await;
    bench.world.set(Gate::Rate(Scope::Host, HOST, 0.5)).await;
    bench.world.advance(PAST).await;
    bench.ledger().set_rate(Scope::Host, HOST, None, &by("ana")).await.unwrap();

    assert_eq!(bench.ledger().exceed(10).await.unwrap().len(), 1);

    assert_eq!(bench.world.run(elsewhere).await, RunState::Dead);
    assert_eq!(bench.world.run(by_host).await, RunState::Active);
}

pub async fn time_that_a_limit_held_does_not_count(bench: &Bench<impl World>) {
    let run = bench.start(PROVISION, user()).await;
    bench.world.set(Gate::Rate(Scope::Step, CREATE, 0.5)).await;
    bench.world.advance(PAST).await;
    let claim = bench.take(run, CREATE).await;
    let failure = Failure::new(Class::Loading, "not yet");
    bench.settle(&claim, Outcome::Defer { failure, after: Some(DEADLINE * 3) }).await;

    assert_eq!(bench.ledger().exceed(10).await.unwrap().len(), 0);
    bench.world.advance(DEADLINE - Duration::from_secs(60)).await;
    assert_eq!(bench.ledger().exceed(10).await.unwrap().len(), 0);
    bench.world.advance(Duration::from_secs(120)).await;
    assert_eq!(bench.ledger().exceed(10).await.unwrap().len(), 1);

    assert_eq!(bench.world.run(run).await, RunState::Dead);
}

pub async fn time_behind_a_limit_that_was_taken_away_does_not_count(bench: &Bench<impl World>) {
    let run = bench.start(PROVISION, user()).await;
    bench.world.set(Gate::Rate(Scope::Step, CREATE, 0.5)).await;
    bench.world.advance(PAST).await;
    bench.ledger().set_rate(Scope::Step, CREATE, None, &by("ana")).await.unwrap();

    // What was given back once is not given back again, and was enough.
    for _ in 0..2 {
        assert_eq!(bench.ledger().exceed(10).await.unwrap().len(), 0);
    }
    bench.world.advance(PAST).await;
    assert_eq!(bench.ledger().exceed(10).await.unwrap().len(), 1);

    assert_eq!(bench.world.run(run).await, RunState::Dead);
}
