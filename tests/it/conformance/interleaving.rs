//! Sessions that meet in the middle of each other's statements. The test holds a row that they
//! need, waits until they stand before it, and lets go: the worst moment, each time.

use std::time::Duration;

use sluice::ledger::{Changed, Claimed, DueKey, HostGate, OperatorLedger, Refusal, RelayLedger, Settled, WorkerLedger};
use sqlx::{PgPool, Postgres as Driver, Transaction};
use tests::{
    ledger::{Ledger, Started},
    servers::until,
};
use workflows::{
    breaker::{Probed, Rules, Signal, State},
    ids::RunId,
    outcome::HostSignal,
    state::{RunState, StepState},
};

use super::{
    bench::{
        Bench, CONFIGURE, CREATE, DEPROVISION, HOST, LONG, PROVISION, RECONFIGURE, STEPS, VERIFY, by, new_run,
        run_after, success, user,
    },
    claiming::{assert_one_won, assert_refused},
    gates,
    postgres::InPostgres,
    world::{Budget, Gate, Moment, Scope, World},
};

/// Rows in the test's own hands, until it lets go of them.
struct Held {
    rows: Transaction<'static, Driver>,
    /// Who looks is not the one who holds: a transaction sees `pg_stat_activity` as it was when it
    /// first looked.
    pool: PgPool,
}

impl Held {
    async fn by(bench: &Bench<InPostgres>, select_for_update: &'static str) -> Self {
        let pool = bench.world.pool().clone();
        let mut rows = pool.begin().await.unwrap();
        sqlx::query(select_for_update).execute(&mut *rows).await.unwrap();
        Self { rows, pool }
    }

    async fn until_waited_for(&self, by: i64) {
        until_waited_for(&self.pool, by).await;
    }

    async fn let_go(self) {
        self.rows.commit().await.unwrap();
    }

    async fn let_go_when_waited_for(self, by: i64) {
        self.until_waited_for(by).await;
        self.let_go().await;
    }
}

/// Waits until so many sessions of this test's database wait for a lock.
async fn until_waited_for(pool: &PgPool, by: i64) {
    let select = "select count(*) = $1
         from pg_stat_activity
         where datname = current_database()
           and wait_event_type = 'Lock'";
    let enough = async || sqlx::query_scalar(select).bind(by).fetch_one(pool).await.unwrap_or(false).then_some(());
    until(Duration::from_secs(4), enough).await.unwrap_or_else(|| panic!("{by} sessions do not wait for a lock"));
}

const STEP_ROWS: &str = "select from sluice.step for update";
const RESOURCE_ROWS: &str = "select from sluice.resource for update";
const GATE_ROWS: &str = "select from sluice.gate for update";

async fn two_claims_at_once(bench: &Bench<InPostgres>, keys: [DueKey; 2], rows: &'static str) -> [Claimed; 2] {
    let held = Held::by(bench, rows).await;

    let (one, other, ()) =
        tokio::join!(bench.claim("one", keys[0]), bench.claim("other", keys[1]), held.let_go_when_waited_for(2));

    [one, other]
}

pub async fn of_two_claims_at_once_one_wins(bench: &Bench<InPostgres>) {
    // A step that keeps nothing busy, so that only its own state stands between the two.
    let run = bench.start(RECONFIGURE, user()).await;
    let key = bench.due_of(run, CONFIGURE).await;

    let claimed = two_claims_at_once(bench, [key; 2], STEP_ROWS).await;

    assert_one_won(&claimed);
    assert_eq!(bench.state(run, 0).await, StepState::Running);
}

pub async fn of_two_claims_at_once_the_loser_writes_nothing(bench: &Bench<InPostgres>) {
    // The winner keeps the resource busy, and the other one finds it so.
    let run = bench.start(PROVISION, user()).await;
    let key = bench.due_of(run, CREATE).await;

    let claimed = two_claims_at_once(bench, [key; 2], STEP_ROWS).await;

    assert_one_won(&claimed);
    let step = bench.step(run, 0).await;
    assert_eq!((step.state, step.generation, step.spent), (StepState::Running, key.generation, Default::default()));
}

pub async fn of_two_claims_at_once_one_spends_the_allowance(bench: &Bench<InPostgres>) {
    let run = bench.start(PROVISION, user()).await;
    let other = bench.start(PROVISION, user()).await;
    let (key, next) = (bench.due_of(run, CREATE).await, bench.due_of(other, CREATE).await);
    // Two starts are in store, and no third comes while this test lasts.
    bench.world.set(Gate::Rate(Scope::Step, CREATE, 2.0)).await;
    bench.world.advance(LONG).await;

    let claimed = two_claims_at_once(bench, [key; 2], STEP_ROWS).await;

    assert_one_won(&claimed);
    assert!(matches!(bench.claim("w", next).await, Claimed::Yes(_)), "one start was left");
}

pub async fn of_two_claims_at_a_gate_with_one_place_one_wins(bench: &Bench<InPostgres>) {
    bench.start_many(PROVISION, 2).await;
    let keys = bench.due(CREATE).await;
    bench.world.set(Gate::Concurrency(Scope::Step, CREATE, 1)).await;

    let claimed = two_claims_at_once(bench, [keys[0], keys[1]], GATE_ROWS).await;

    let won = claimed.iter().filter(|claimed| matches!(claimed, Claimed::Yes(_))).count();
    let refused = claimed.iter().filter(|claimed| matches!(claimed, Claimed::Refused(Refusal::GateClosed))).count();
    assert_eq!((won, refused), (1, 1), "{claimed:?}");
}

pub async fn of_two_claims_at_a_half_open_breaker_one_wins(bench: &Bench<InPostgres>) {
    bench.start_many(PROVISION, 2).await;
    let keys = bench.due(CREATE).await;
    gates::trip(bench).await;
    bench.world.advance(LONG).await;
    let probe = bench.ledger().probe(HOST, Duration::from_secs(7)).await.unwrap().expect("a probe is due");
    bench.ledger().probed(HOST, probe, &Probed::Answered.into(), &Rules::default(), 1.0).await.unwrap();

    let claimed = two_claims_at_once(bench, [keys[0], keys[1]], GATE_ROWS).await;

    let won = claimed.iter().filter(|claimed| matches!(claimed, Claimed::Yes(_))).count();
    assert_eq!(won, 1, "{claimed:?}");
}

/// The step becomes due anew while a claim stands before its row. The claim's answer, and the new
/// key.
async fn overtake(bench: &Bench<InPostgres>, key: DueKey) -> (Claimed, DueKey) {
    let new = DueKey { generation: key.generation + 1, ..key };
    let mut held = Held::by(bench, STEP_ROWS).await;
    let due_again = async {
        held.until_waited_for(1).await;
        let update = "update sluice.step set generation = $2 where run_id = $1";
        sqlx::query(update).bind(key.run.uuid()).bind(new.generation).execute(&mut *held.rows).await.unwrap();
        held.let_go().await;
    };

    let (claimed, ()) = tokio::join!(bench.claim("slow", key), due_again);

    (claimed, new)
}

pub async fn a_claim_that_is_overtaken_takes_nothing(bench: &Bench<InPostgres>) {
    let run = bench.start(PROVISION, user()).await;
    let key = bench.due_of(run, CREATE).await;

    let (claimed, new) = overtake(bench, key).await;

    assert!(matches!(claimed, Claimed::Stale), "{claimed:?}");
    assert_eq!(bench.state(run, 0).await, StepState::Due);
    assert!(matches!(bench.claim("w", new).await, Claimed::Yes(_)));
}

pub async fn a_claim_that_is_overtaken_behind_a_limit_spends_nothing(bench: &Bench<InPostgres>) {
    let run = bench.start(PROVISION, user()).await;
    let key = bench.due_of(run, CREATE).await;
    bench.world.set(Gate::Rate(Scope::Step, CREATE, 1.0)).await;
    bench.world.advance(LONG).await;

    let (claimed, new) = overtake(bench, key).await;

    assert!(matches!(claimed, Claimed::Stale), "{claimed:?}");
    assert!(matches!(bench.claim("w", new).await, Claimed::Yes(_)), "the one start was spent on nothing");
}

pub async fn a_claim_that_is_overtaken_at_a_closed_gate_writes_nothing(bench: &Bench<InPostgres>) {
    let run = bench.start(PROVISION, user()).await;
    let key = bench.due_of(run, CREATE).await;
    bench.world.set(Gate::Pause(Scope::Step, CREATE)).await;

    let (claimed, new) = overtake(bench, key).await;

    assert!(matches!(claimed, Claimed::Stale), "{claimed:?}");
    assert_eq!(bench.state(run, 0).await, StepState::Due);
    assert_refused(&bench.claim("w", new).await, Refusal::GateClosed);
}

pub async fn a_cancellation_and_a_settle_at_once_end_the_run(bench: &Bench<InPostgres>) {
    for settle_first in [false, true] {
        let run = bench.start(PROVISION, user()).await;
        let claim = bench.take(run, CREATE).await;
        let held = Held::by(bench, STEP_ROWS).await;
        let (pool, ana) = (bench.world.pool().clone(), by("ana"));
        // Who waits first is served first.
        let cancel = async {
            until_waited_for(&pool, i64::from(settle_first)).await;
            bench.ledger().cancel(run, &ana).await.unwrap()
        };
        let settle = async {
            until_waited_for(&pool, i64::from(!settle_first)).await;
            bench.settle(&claim, success()).await
        };

        let (cancelled, settled, ()) = tokio::join!(cancel, settle, held.let_go_when_waited_for(2));

        let expected = if settle_first { Changed::Yes } else { Changed::AtSettle };
        assert_eq!((cancelled, bench.world.run(run).await), (expected, RunState::Cancelled));
        assert!(matches!(settled, Settled::Done { .. }), "{settled:?}");
    }
}

pub async fn a_cancellation_that_meets_a_claim_waits_for_its_settle(bench: &Bench<InPostgres>) {
    let run = bench.start(PROVISION, user()).await;
    let key = bench.due_of(run, CREATE).await;
    let held = Held::by(bench, RESOURCE_ROWS).await;
    let (pool, ana) = (bench.world.pool().clone(), by("ana"));
    // The claim has the step, and waits for the resource.
    let cancel = async {
        until_waited_for(&pool, 1).await;
        bench.ledger().cancel(run, &ana).await.unwrap()
    };

    let (claimed, cancelled, ()) = tokio::join!(bench.claim("w", key), cancel, held.let_go_when_waited_for(2));

    let Claimed::Yes(claim) = claimed else { panic!("{claimed:?}") };
    assert_eq!((cancelled, bench.world.run(run).await), (Changed::AtSettle, RunState::Active));
    assert_eq!(run_after(&bench.settle(&claim, success()).await), RunState::Cancelled);
}

pub async fn failures_reported_at_once_are_all_heard(bench: &Bench<InPostgres>) {
    bench.world.set(Gate::Rate(Scope::Host, HOST, 100.0)).await;
    let held = Held::by(bench, GATE_ROWS).await;
    let report = async |number| -> HostGate {
        let failing = [Signal::of(RunId::new(uuid::Uuid::from_u128(number)), HostSignal::Failing)];
        bench.ledger().report(HOST, &failing, None, &Rules::default(), 1.0).await.unwrap()
    };

    tokio::join!(report(1), report(2), report(3), held.let_go_when_waited_for(3));

    assert_eq!(bench.ledger().host_gate(HOST).await.unwrap().breaker, State::Open);
}

pub async fn of_a_revival_and_a_discard_at_once_one_settles_the_dead_letter(bench: &Bench<InPostgres>) {
    for discard_first in [true, false] {
        let run = bench.dead_run(user()).await;
        let held = Held::by(bench, STEP_ROWS).await;
        let (pool, ledger) = (held.pool.clone(), bench.ledger());
        let (ana, bob) = (by("ana"), by("bob"));
        let revive = async {
            until_waited_for(&pool, i64::from(discard_first)).await;
            ledger.revive(run, &ana).await.unwrap()
        };
        let discard = async {
            until_waited_for(&pool, i64::from(!discard_first)).await;
            ledger.cancel(run, &bob).await.unwrap()
        };

        let (revived, discarded, ()) = tokio::join!(revive, discard, held.let_go_when_waited_for(2));

        let (wanted, resolution) = match discard_first {
            true => (Changed::No(RunState::Cancelled), "discarded"),
            false => (Changed::Yes, "revived"),
        };
        assert_eq!((revived, discarded), (wanted, Changed::Yes));
        assert_eq!(bench.world.run(run).await, RunState::Cancelled);
        let letters = bench.world.dead_letters(run).await;
        assert_eq!((letters.len(), letters[0].resolution.as_deref()), (1, Some(resolution)));
    }
}

pub async fn of_two_starts_at_once_one_is_new(bench: &Bench<InPostgres>) {
    for _ in 0..10 {
        let runs = [new_run(PROVISION, user())];
        let (one, other) = (bench.ledger().clone(), bench.ledger().clone());

        let (a, b) = tokio::join!(one.start(&runs), other.start(&runs));

        match [a.unwrap().remove(0), b.unwrap().remove(0)] {
            [Started::New(run), Started::Joined(same, RunState::Active)]
            | [Started::Joined(same, RunState::Active), Started::New(run)] => assert_eq!(run, same),
            other => panic!("{other:?}"),
        }
    }
}

pub async fn a_run_that_starts_while_the_one_before_it_ends_has_its_turn(bench: &Bench<InPostgres>) {
    let user = user();
    let run = bench.start(PROVISION, user).await;
    bench.succeed(run, &STEPS[..2]).await;
    let claim = bench.take(run, VERIFY).await;
    let held = Held::by(bench, RESOURCE_ROWS).await;

    let (settled, second, ()) =
        tokio::join!(bench.settle(&claim, success()), bench.start(DEPROVISION, user), held.let_go_when_waited_for(2));

    assert_eq!(run_after(&settled), RunState::Succeeded);
    assert_eq!(bench.step(second, 0).await.moment, Moment::Now);
}

pub async fn a_row_in_its_users_hands_is_passed_over(bench: &Bench<InPostgres>) {
    let (busy, other) = (user(), user());
    bench.world.sign_up(busy).await;
    let held = Held::by(bench, "select from evolution_instance_creation_queue for update").await;
    bench.world.sign_up(other).await;

    let started = bench.ledger().intake(10).await.unwrap().started;
    held.let_go().await;

    assert_eq!(started.len(), 1);
    assert_eq!(bench.world.queue_row(busy).await.status, "pending");
    assert_eq!(bench.ledger().intake(10).await.unwrap().started.len(), 1);
}

pub async fn a_row_that_is_set_to_pending_while_its_run_ends_says_how_it_ended(bench: &Bench<InPostgres>) {
    let user = user();
    bench.world.sign_up(user).await;
    let run = bench.ledger().intake(10).await.unwrap().started[0].run;
    bench.succeed(run, &STEPS[..2]).await;
    let claim = bench.take(run, VERIFY).await;
    bench.world.ask_again(user, Budget::Kept).await;
    // A relay has found the run under way, and not yet written so.
    let held = Held::by(bench, "select sluice.take_sign_ups(10)").await;

    let (settled, ()) = tokio::join!(bench.settle(&claim, success()), held.let_go_when_waited_for(1));

    assert_eq!(run_after(&settled), RunState::Succeeded);
    assert_eq!(bench.world.queue_row(user).await.status, "completed");
}

pub async fn what_waits_is_seen_past_locks(bench: &Bench<InPostgres>) {
    bench.start(PROVISION, user()).await;
    bench.world.set(Gate::Rate(Scope::Step, CREATE, 10.0)).await;
    bench.world.advance(LONG).await;
    let steps = Held::by(bench, STEP_ROWS).await;
    let gates = Held::by(bench, GATE_ROWS).await;

    let due = bench.due(CREATE).await;

    steps.let_go().await;
    gates.let_go().await;
    assert_eq!(due.len(), 1);
}

pub async fn a_turn_is_not_given_to_a_run_that_is_cancelled_meanwhile(bench: &Bench<InPostgres>) {
    let user = user();
    let first = bench.start(PROVISION, user).await;
    let second = bench.start(RECONFIGURE, user).await;
    let third = bench.start(DEPROVISION, user).await;
    bench.succeed(first, &STEPS[..2]).await;
    let last = bench.take(first, VERIFY).await;
    let mut held = Held::by(bench, "select").await;
    let cancel = "select sluice.cancel($1, 'ana', null)";
    sqlx::query(cancel).bind(second.uuid()).execute(&mut *held.rows).await.unwrap();

    let (settled, ()) = tokio::join!(bench.settle(&last, success()), held.let_go_when_waited_for(1));

    assert_eq!(run_after(&settled), RunState::Succeeded);
    assert_eq!(bench.world.run(second).await, RunState::Cancelled);
    assert_eq!(bench.step(third, 0).await.moment, Moment::Now);
}
