//! The public queue: a pending row is a command, and the row follows its run.

use sluice::ledger::{Intake, Ledger, Settled, Started};
use workflows::{
    ids::{InstanceName, RunId, UserId},
    state::{RunState, StepState},
};

use super::{
    bench::{Bench, DEPROVISION, LONG, PROVISION, by, new_run, refusal, retry, success, user},
    world::{Budget, Moment, RowSeen, World},
};

const STEPS: [&str; 3] = ["create-instance", "configure-webhooks", "verify"];

/// A user who signed up, and the run that intake started.
async fn signed_up(bench: &Bench<impl World>) -> (UserId, RunId) {
    let user = user();
    bench.world.sign_up(user).await;
    assert_eq!(take(bench).await, Intake { started: 1, ..Intake::default() });
    (user, run_of(bench, user).await)
}

async fn take(bench: &Bench<impl World>) -> Intake {
    bench.ledger().intake(10).await.unwrap()
}

/// The unfinished run of the user, which a start joins.
async fn run_of(bench: &Bench<impl World>, user: UserId) -> RunId {
    let started = bench.ledger().start(&[new_run(PROVISION, user)]).await.unwrap();
    let Started::Joined(run, _) = started[0] else { panic!("{user} has no unfinished run: {started:?}") };
    run
}

async fn status(bench: &Bench<impl World>, user: UserId) -> String {
    bench.world.queue_row(user).await.status
}

pub async fn a_pending_row_starts_a_run_and_follows_it(bench: &Bench<impl World>) {
    let (user, run) = signed_up(bench).await;
    assert_eq!(take(bench).await, Intake::default());

    bench.work(run, STEPS[0], retry()).await;
    let failed = bench.world.queue_row(user).await;
    bench.world.advance(LONG).await;
    bench.succeed(run, &STEPS).await;

    assert_eq!(failed, RowSeen { status: "processing".to_owned(), retry_count: 1, has_error: true });
    let done = bench.world.queue_row(user).await;
    assert_eq!((done.status.as_str(), done.has_error), ("completed", false));
}

pub async fn intake_takes_no_more_than_its_limit(bench: &Bench<impl World>) {
    for _ in 0..5 {
        bench.world.sign_up(user()).await;
    }

    let mut taken = Vec::new();
    for _ in 0..4 {
        taken.push(bench.ledger().intake(2).await.unwrap().started);
    }

    assert_eq!(taken, [2, 2, 1, 0]);
    assert_eq!(bench.dispatch(STEPS[0], 10).await.len(), 5);
}

pub async fn a_pending_row_of_a_dead_run_revives_it(bench: &Bench<impl World>) {
    let (user, run) = signed_up(bench).await;
    assert_eq!(bench.work(run, STEPS[0], refusal()).await, Settled::Done(RunState::Dead));
    let failed = bench.world.queue_row(user).await;
    bench.world.ask_again(user, Budget::Kept).await;

    assert_eq!(take(bench).await, Intake { revived: 1, ..Intake::default() });

    assert_eq!((failed.status.as_str(), failed.has_error), ("failed", true));
    assert_eq!(status(bench, user).await, "processing");
    assert_eq!(bench.world.run(run).await, RunState::Active);
    assert_eq!(bench.world.dead_letters(run).await[0].resolution.as_deref(), Some("revived"));
    bench.succeed(run, &STEPS).await;
}

pub async fn a_pending_row_makes_a_delayed_step_due_now(bench: &Bench<impl World>) {
    let (user, run) = signed_up(bench).await;
    bench.work(run, STEPS[0], retry()).await;
    assert_eq!(bench.step(run, 0).await.moment, Moment::Later);
    bench.world.ask_again(user, Budget::Kept).await;

    assert_eq!(take(bench).await, Intake { joined: 1, ..Intake::default() });

    let step = bench.step(run, 0).await;
    assert_eq!((step.moment, step.spent.failures), (Moment::Now, 1));
    assert_eq!(status(bench, user).await, "processing");
}

pub async fn retries_set_to_none_reset_the_failures(bench: &Bench<impl World>) {
    let (user, run) = signed_up(bench).await;
    bench.work(run, STEPS[0], retry()).await;
    bench.world.ask_again(user, Budget::Fresh).await;

    assert_eq!(take(bench).await, Intake { joined: 1, ..Intake::default() });

    assert_eq!(bench.step(run, 0).await.spent.failures, 0);
    assert_eq!(bench.world.queue_row(user).await.retry_count, 0);
}

pub async fn a_pending_row_of_a_step_in_hand_only_gets_its_status_back(bench: &Bench<impl World>) {
    let (user, run) = signed_up(bench).await;
    let key = bench.dispatch_of(run, STEPS[0]).await;
    bench.world.ask_again(user, Budget::Kept).await;
    assert_eq!(take(bench).await, Intake { joined: 1, ..Intake::default() });
    assert_eq!(bench.state(run, 0).await, StepState::Dispatched);

    let sluice::ledger::Claimed::Yes(claim) = bench.claim("w", key).await else { panic!("it was not claimed") };
    bench.world.ask_again(user, Budget::Kept).await;
    assert_eq!(take(bench).await, Intake { joined: 1, ..Intake::default() });

    assert_eq!(bench.state(run, 0).await, StepState::Running);
    assert_eq!(status(bench, user).await, "processing");
    assert_eq!(bench.settle(&claim, success()).await, Settled::Done(RunState::Active));
}

pub async fn a_pending_row_of_an_ended_run_starts_another(bench: &Bench<impl World>) {
    let (user, first) = signed_up(bench).await;
    bench.succeed(first, &STEPS).await;
    bench.world.ask_again(user, Budget::Kept).await;

    assert_eq!(take(bench).await, Intake { started: 1, ..Intake::default() });
    let second = run_of(bench, user).await;
    bench.ledger().cancel(second, &by("ana")).await.unwrap();
    assert_eq!(status(bench, user).await, "failed");
    bench.world.ask_again(user, Budget::Kept).await;
    assert_eq!(take(bench).await, Intake { started: 1, ..Intake::default() });

    let third = run_of(bench, user).await;
    assert_eq!(status(bench, user).await, "processing");
    assert!(first != second && second != third && third != first);
}

pub async fn a_row_whose_name_is_taken_fails_and_harms_no_neighbour(bench: &Bench<impl World>) {
    let (unlucky, other) = (user(), user());
    let mut thief = new_run(DEPROVISION, user());
    thief.resource = InstanceName::of_user(unlucky);
    bench.ledger().start(&[thief]).await.unwrap();
    bench.world.sign_up(unlucky).await;
    bench.world.sign_up(other).await;

    let intake = take(bench).await;

    assert_eq!(intake, Intake { started: 1, failed: 1, ..Intake::default() });
    let row = bench.world.queue_row(unlucky).await;
    assert_eq!((row.status.as_str(), row.has_error), ("failed", true));
    assert_eq!(status(bench, other).await, "processing");
    assert_eq!(take(bench).await, Intake::default());
}
