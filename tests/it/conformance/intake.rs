//! The public queue: a pending row is a command, and the row follows its run.

use std::time::Duration;

use sluice::ledger::{Claimed, Intake, OperatorLedger, RelayLedger};
use tests::ledger::{Ledger, Started};
use workflows::{
    ids::RunId,
    state::{RunState, StepState},
    whatsapp::names::UserId,
};

use super::{
    bench::{
        Bench, CREATE, DEADLINE, DEPROVISION, LONG, PROVISION, STEPS, by, new_run, refusal, resource_of, retry,
        run_after, success, user,
    },
    world::{Budget, Gate, Moment, RowSeen, Scope, World},
};

/// A user who signed up, and the run that intake started.
async fn signed_up(bench: &Bench<impl World>) -> (UserId, RunId) {
    let user = user();
    bench.world.sign_up(user).await;
    assert_eq!(counts(&take(bench).await), Counts { started: 1, ..Counts::default() });
    (user, run_of(bench, user).await)
}

/// How many there were of each.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    started: usize,
    revived: usize,
    joined: usize,
    failed: usize,
}

fn counts(intake: &Intake) -> Counts {
    let Intake { started, revived, joined, failed, .. } = intake;
    Counts { started: started.len(), revived: revived.len(), joined: *joined, failed: *failed }
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

    bench.work(run, CREATE, retry()).await;
    let failed = bench.world.queue_row(user).await;
    bench.world.advance(LONG).await;
    bench.succeed(run, &STEPS).await;

    let error = Some("the server answered 500".to_owned());
    assert_eq!(failed, RowSeen { status: "processing".to_owned(), retry_count: 1, error });
    let done = bench.world.queue_row(user).await;
    assert_eq!((done.status.as_str(), done.error), ("completed", None));
}

pub async fn intake_takes_no_more_than_its_limit(bench: &Bench<impl World>) {
    for _ in 0..5 {
        bench.world.sign_up(user()).await;
    }

    let mut taken = Vec::new();
    for _ in 0..4 {
        taken.push(bench.ledger().intake(2).await.unwrap().started.len());
    }

    assert_eq!(taken, [2, 2, 1, 0]);
    assert_eq!(bench.due(CREATE).await.len(), 5);
}

pub async fn a_pending_row_of_a_dead_run_revives_it(bench: &Bench<impl World>) {
    let (user, run) = signed_up(bench).await;
    assert_eq!(bench.work(run, CREATE, refusal()).await, RunState::Dead);
    let failed = bench.world.queue_row(user).await;
    bench.world.ask_again(user, Budget::Kept).await;

    assert_eq!(counts(&take(bench).await), Counts { revived: 1, ..Counts::default() });

    assert_eq!(failed.status, "failed");
    assert_eq!(failed.error.as_deref(), Some("permanent_error: the server refuses it"));
    assert_eq!(status(bench, user).await, "processing");
    assert_eq!(bench.world.run(run).await, RunState::Active);
    assert_eq!(bench.world.dead_letters(run).await[0].resolution.as_deref(), Some("revived"));
    bench.succeed(run, &STEPS).await;
}

pub async fn a_pending_row_makes_a_delayed_step_due_now(bench: &Bench<impl World>) {
    let (user, run) = signed_up(bench).await;
    bench.work(run, CREATE, retry()).await;
    assert_eq!(bench.step(run, 0).await.moment, Moment::Later);
    bench.world.ask_again(user, Budget::Kept).await;

    assert_eq!(counts(&take(bench).await), Counts { joined: 1, ..Counts::default() });

    let step = bench.step(run, 0).await;
    assert_eq!((step.moment, step.spent.failures), (Moment::Now, 1));
    assert_eq!(status(bench, user).await, "processing");
}

pub async fn retries_set_to_none_reset_the_failures(bench: &Bench<impl World>) {
    let (user, run) = signed_up(bench).await;
    bench.work(run, CREATE, retry()).await;
    bench.world.ask_again(user, Budget::Fresh).await;

    assert_eq!(counts(&take(bench).await), Counts { joined: 1, ..Counts::default() });

    assert_eq!(bench.step(run, 0).await.spent.failures, 0);
    assert_eq!(bench.world.queue_row(user).await.retry_count, 0);
}

pub async fn a_pending_row_of_a_step_in_hand_only_gets_its_status_back(bench: &Bench<impl World>) {
    let (user, run) = signed_up(bench).await;
    let claim = bench.take(run, CREATE).await;
    bench.world.ask_again(user, Budget::Kept).await;

    assert_eq!(counts(&take(bench).await), Counts { joined: 1, ..Counts::default() });

    assert_eq!(bench.state(run, 0).await, StepState::Running);
    assert_eq!(status(bench, user).await, "processing");
    assert_eq!(run_after(&bench.settle(&claim, success()).await), RunState::Active);
}

pub async fn a_hint_that_is_out_survives_a_pending_row(bench: &Bench<impl World>) {
    let (user, run) = signed_up(bench).await;
    let key = bench.due_of(run, CREATE).await;
    bench.world.ask_again(user, Budget::Kept).await;

    assert_eq!(counts(&take(bench).await), Counts { joined: 1, ..Counts::default() });

    let now = bench.due_of(run, CREATE).await;
    let claimed = bench.claim_all("w", &[key, now]).await;
    assert!(claimed.iter().any(|claimed| matches!(claimed, Claimed::Yes(_))), "{claimed:?}");
}

pub async fn what_intake_makes_due_is_named_and_is_what_waits(bench: &Bench<impl World>) {
    let users = [user(), user(), user()];
    for user in users {
        bench.world.sign_up(user).await;
    }
    let taken = take(bench).await;
    let started: Vec<_> = taken.started.iter().map(|taken| taken.run).collect();
    bench.work(started[0], CREATE, refusal()).await;
    bench.work(started[1], CREATE, retry()).await;
    bench.world.ask_again(users[0], Budget::Kept).await;
    bench.world.ask_again(users[1], Budget::Kept).await;

    let again = take(bench).await;

    assert_eq!(taken.due.iter().map(|due| due.key.run).collect::<Vec<_>>(), started);
    assert_eq!(counts(&again), Counts { revived: 1, joined: 1, ..Counts::default() });
    let waiting = bench.waiting(CREATE, 10).await.expect("they wait").due;
    for due in taken.due.iter().filter(|due| due.key.run == started[2]).chain(&again.due) {
        assert!(waiting.contains(due), "{due:?} is not among {waiting:?}");
    }
    let mut named: Vec<_> = again.due.iter().map(|due| due.key.run).collect();
    named.sort();
    let mut expected = started[..2].to_vec();
    expected.sort();
    assert_eq!(named, expected);
}

pub async fn what_a_closed_gate_holds_is_named_by_no_intake(bench: &Bench<impl World>) {
    bench.world.set(Gate::Pause(Scope::Step, CREATE)).await;
    bench.world.sign_up(user()).await;

    let taken = take(bench).await;

    assert_eq!((taken.started.len(), taken.due), (1, vec![]));
}

pub async fn a_limited_queue_is_named_by_no_intake(bench: &Bench<impl World>) {
    bench.world.set(Gate::Rate(Scope::Step, CREATE, 100.0)).await;
    bench.world.sign_up(user()).await;

    let taken = take(bench).await;

    assert_eq!((taken.started.len(), taken.due), (1, vec![]));
    bench.world.advance(Duration::from_secs(1)).await;
    assert_eq!(bench.due(CREATE).await.len(), 1, "the scan finds it");
}

pub async fn a_row_past_its_deadline_says_so(bench: &Bench<impl World>) {
    let (user, _) = signed_up(bench).await;
    bench.world.advance(DEADLINE * 2).await;

    assert_eq!(bench.ledger().exceed(10).await.unwrap().len(), 1);

    let row = bench.world.queue_row(user).await;
    assert_eq!(row.status, "failed");
    assert_eq!(row.error.as_deref(), Some("deadline_exceeded: the run's deadline has passed"));
}

pub async fn a_pending_row_of_an_ended_run_starts_another(bench: &Bench<impl World>) {
    let (user, first) = signed_up(bench).await;
    bench.succeed(first, &STEPS).await;
    bench.world.ask_again(user, Budget::Kept).await;

    assert_eq!(counts(&take(bench).await), Counts { started: 1, ..Counts::default() });
    let second = run_of(bench, user).await;
    bench.ledger().cancel(second, &by("ana")).await.unwrap();
    let cancelled = bench.world.queue_row(user).await;
    assert_eq!(cancelled.status, "failed");
    assert_eq!(cancelled.error.as_deref(), Some("cancelled by ana: because"));
    bench.world.ask_again(user, Budget::Kept).await;
    assert_eq!(counts(&take(bench).await), Counts { started: 1, ..Counts::default() });

    let third = run_of(bench, user).await;
    assert_eq!(status(bench, user).await, "processing");
    assert!(first != second && second != third && third != first);
}

pub async fn a_row_whose_name_is_taken_fails_and_harms_no_neighbour(bench: &Bench<impl World>) {
    let (unlucky, other) = (user(), user());
    let mut thief = new_run(DEPROVISION, user());
    thief.resource = resource_of(unlucky);
    bench.ledger().start(&[thief]).await.unwrap();
    bench.world.sign_up(unlucky).await;
    bench.world.sign_up(other).await;

    let intake = take(bench).await;

    assert_eq!(counts(&intake), Counts { started: 1, failed: 1, ..Counts::default() });
    let row = bench.world.queue_row(unlucky).await;
    assert_eq!(row.status, "failed");
    assert!(row.error.is_some_and(|error| error.contains(resource_of(unlucky).as_str())));
    assert_eq!(status(bench, other).await, "processing");
    assert_eq!(take(bench).await, Intake::default());
}
