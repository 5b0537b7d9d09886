//! A call may have outlived its lease: the instance is looked at again.

use sluice::ledger::{Changed, Intake, OperatorLedger, RelayLedger, WorkerLedger};
use workflows::{ids::RunId, state::RunState, whatsapp::names::UserId};

use super::{
    bench::{
        Bench, CONFIGURE, CREATE, DEPROVISION, LEASE, LONG, PROVISION, RECONFIGURE, STEPS, VERIFY, by, refusal,
        success, user,
    },
    world::{Budget, Moment, World},
};

/// Long enough for whatever was under way.
async fn be_quiet(bench: &Bench<impl World>) {
    bench.world.advance(LEASE * 2).await;
}

async fn look(bench: &Bench<impl World>) -> usize {
    let seen = bench.ledger().upkeep().await.unwrap().doubted;
    let looked = bench.ledger().look_again(10).await.unwrap();
    assert!(seen || looked == 0, "upkeep would not have asked");
    looked
}

pub async fn a_doubted_instance_gets_another_run_when_the_first_has_succeeded(bench: &Bench<impl World>) {
    let user = user();
    bench.world.sign_up(user).await;
    bench.ledger().intake(10).await.unwrap();
    let claim = bench.take_any(CREATE).await;
    bench.ledger().doubt(claim.key.run).await.unwrap();
    bench.world.advance(LONG).await;
    assert_eq!(bench.rescue().await, 1);
    bench.world.advance(LONG).await;
    assert_eq!(look(bench).await, 0, "the run is still at work");
    bench.succeed(claim.key.run, &STEPS).await;
    assert_eq!(bench.world.queue_row(user).await.status, "completed");

    assert_eq!(look(bench).await, 1);

    assert_eq!(bench.world.queue_row(user).await.status, "completed", "the user hears nothing of it");
    let again = bench.take_any(CREATE).await;
    assert!(again.input.exclusive_before, "it would create without a look");
    assert_eq!(again.input.secret.expose(), claim.input.secret.expose());
    bench.settle(&again, success()).await;
    bench.succeed(again.key.run, &STEPS[1..]).await;
    assert_eq!(bench.world.queue_row(user).await.status, "completed");
    assert_eq!(bench.world.events(again.key.run).await, [] as [&str; 0], "it announces nothing");
    assert!(!bench.ledger().upkeep().await.unwrap().doubted, "one look is enough");
}

/// A workflow may refuse an input that is not its own.
pub async fn a_second_look_has_the_input_of_the_run_before(bench: &Bench<impl World>) {
    let run = bench.start(RECONFIGURE, user()).await;
    bench.ledger().doubt(run).await.unwrap();
    let first = bench.take(run, CONFIGURE).await;
    bench.settle(&first, success()).await;
    bench.succeed(run, &[VERIFY]).await;
    be_quiet(bench).await;

    assert_eq!(look(bench).await, 1);

    let again = bench.take_any(CONFIGURE).await;
    assert_ne!(again.key.run, run);
    assert_eq!(again.input.input, first.input.input);
}

pub async fn a_second_look_that_needs_a_person_is_shown(bench: &Bench<impl World>) {
    let (user, _) = second_look(bench).await;

    let again = bench.take_any(CREATE).await;
    bench.settle(&again, refusal()).await;

    assert_eq!(bench.world.run(again.key.run).await, RunState::Dead);
    assert_eq!(bench.world.queue_row(user).await.status, "failed");
    assert_eq!(bench.world.events(again.key.run).await, ["provision-instance.dead"]);
}

pub async fn a_second_look_that_a_person_revives_is_shown_to_its_end(bench: &Bench<impl World>) {
    let (user, look) = second_look(bench).await;
    let again = bench.take_any(CREATE).await;
    bench.settle(&again, refusal()).await;

    assert_eq!(bench.ledger().revive(look, &by("ana")).await.unwrap(), Changed::Yes);

    assert_eq!(bench.world.queue_row(user).await.status, "processing");
    bench.succeed(look, &STEPS).await;
    assert_eq!(bench.world.queue_row(user).await.status, "completed");
    assert_eq!(
        bench.world.events(look).await,
        ["dead", "revived", "succeeded"].map(|what| format!("provision-instance.{what}"))
    );
}

pub async fn a_second_look_that_a_user_asks_for_is_shown(bench: &Bench<impl World>) {
    let (user, look) = second_look(bench).await;
    bench.world.ask_again(user, Budget::Kept).await;

    let joined = bench.ledger().intake(10).await.unwrap().joined;

    assert_eq!(joined, 1);
    assert_eq!(bench.world.queue_row(user).await.status, "processing");
    assert_eq!(bench.ledger().intake(10).await.unwrap(), Intake::default(), "it is taken once");
    bench.succeed(look, &STEPS).await;
    assert_eq!(bench.world.queue_row(user).await.status, "completed");
    assert_eq!(bench.world.events(look).await, ["provision-instance.succeeded"]);
}

/// A user whose instance was doubted, and the run that looks at it again.
async fn second_look(bench: &Bench<impl World>) -> (UserId, RunId) {
    let user = user();
    bench.world.sign_up(user).await;
    bench.ledger().intake(10).await.unwrap();
    let first = bench.take_any(CREATE).await;
    bench.ledger().doubt(first.key.run).await.unwrap();
    bench.settle(&first, success()).await;
    bench.succeed(first.key.run, &STEPS[1..]).await;
    be_quiet(bench).await;
    assert_eq!(look(bench).await, 1);
    let due = bench.due(CREATE).await;
    (user, due[0].run)
}

async fn doubted_run(bench: &Bench<impl World>) -> RunId {
    let run = bench.start(PROVISION, user()).await;
    bench.ledger().doubt(run).await.unwrap();
    bench.succeed(run, &STEPS).await;
    run
}

pub async fn an_instance_is_not_looked_at_while_a_call_may_be_under_way_there(bench: &Bench<impl World>) {
    let run = doubted_run(bench).await;
    assert_eq!(look(bench).await, 0);
    bench.world.advance(LEASE / 2).await;
    bench.ledger().doubt(run).await.unwrap();
    bench.world.advance(LEASE * 3 / 4).await;
    assert_eq!(look(bench).await, 0, "it was doubted anew");

    be_quiet(bench).await;

    assert_eq!(look(bench).await, 1);
}

pub async fn whoever_looks_first_starts_the_only_run(bench: &Bench<impl World>) {
    doubted_run(bench).await;
    be_quiet(bench).await;

    let (ledger, another) = (bench.ledger(), bench.ledger().clone());
    let (one, other) = tokio::join!(ledger.look_again(10), another.look_again(10));

    assert_eq!(one.unwrap() + other.unwrap(), 1);
}

pub async fn after_a_cancelled_run_nobody_looks(bench: &Bench<impl World>) {
    let run = bench.start(PROVISION, user()).await;
    assert_eq!(bench.ledger().cancel(run, &by("ana")).await.unwrap(), Changed::Yes);
    bench.ledger().doubt(run).await.unwrap();
    be_quiet(bench).await;

    assert_eq!(look(bench).await, 0);
}

pub async fn after_a_dead_run_nobody_looks_for_its_revival_does(bench: &Bench<impl World>) {
    let run = bench.dead_run(user()).await;
    bench.ledger().doubt(run).await.unwrap();
    be_quiet(bench).await;

    assert_eq!(look(bench).await, 0);

    assert_eq!(bench.world.run(run).await, RunState::Dead);
    bench.ledger().revive(run, &by("ana")).await.unwrap();
    assert_eq!(bench.step(run, 0).await.moment, Moment::Now);
    bench.succeed(run, &STEPS).await;
    assert_eq!(look(bench).await, 0);
}

pub async fn after_a_run_of_another_workflow_nobody_looks(bench: &Bench<impl World>) {
    let user = user();
    let run = bench.start(PROVISION, user).await;
    let deprovision = bench.start(DEPROVISION, user).await;
    bench.ledger().doubt(run).await.unwrap();
    bench.succeed(run, &STEPS).await;
    bench.succeed(deprovision, &["delete-instance"]).await;
    be_quiet(bench).await;

    assert_eq!(look(bench).await, 0, "it would make again what was just deleted");
}
