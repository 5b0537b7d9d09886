//! Sessions that meet in the middle of each other's statements. The test holds a row that they need, waits until they stand
//! before it, and lets go: the worst moment, each time.

use std::time::Duration;

use sluice::{
    ledger::{Changed, Claimed, HostGate, Key, Ledger, PutBack},
    queue::{Marks, loss::Epoch},
};
use sqlx::{PgPool, Postgres as Driver, Transaction};
use tests::servers::until;
use workflows::{
    breaker::{Rules, Signal, State},
    ids::RunId,
    state::{RunState, StepState},
};

use super::{
    bench::{Bench, PROVISION, RECONFIGURE, by, token, user},
    gates::HOST,
    postgres::InPostgres,
    world::{Gate, Scope, World},
};

const CREATE: &str = "create-instance";
const CONFIGURE: &str = "configure-webhooks";

/// Rows in the test's own hands, until it lets go of them.
struct Held {
    rows: Transaction<'static, Driver>,
    /// Who looks is not the one who holds: a transaction sees `pg_stat_activity` as it was when it first looked.
    pool: PgPool,
}

impl Held {
    async fn by(bench: &Bench<InPostgres>, select_for_update: &'static str) -> Self {
        let pool = bench.world.pool().clone();
        let mut rows = pool.begin().await.unwrap();
        sqlx::query(select_for_update).execute(&mut *rows).await.unwrap();
        Self { rows, pool }
    }

    /// Waits until so many sessions of this test's database wait for a lock.
    async fn until_waited_for(&self, by: i64) {
        let select = "select count(*) = $1
             from pg_stat_activity
             where datname = current_database()
               and wait_event_type = 'Lock'";
        let enough =
            async || sqlx::query_scalar(select).bind(by).fetch_one(&self.pool).await.unwrap_or(false).then_some(());
        until(Duration::from_secs(4), enough).await.unwrap_or_else(|| panic!("{by} sessions do not wait for a lock"));
    }

    async fn let_go(self) {
        self.rows.commit().await.unwrap();
    }
}

async fn two_claims_at_once(bench: &Bench<InPostgres>, key: Key) -> [Claimed; 2] {
    let held = Held::by(bench, "select from sluice.resource for update").await;
    let let_go = async {
        held.until_waited_for(2).await;
        held.let_go().await;
    };

    let (one, other, ()) = tokio::join!(bench.claim("one", key), bench.claim("other", key), let_go);

    [one, other]
}

fn assert_one_won(claimed: &[Claimed; 2]) {
    let won = claimed.iter().filter(|claimed| matches!(claimed, Claimed::Yes(_))).count();
    let stale = claimed.iter().filter(|claimed| matches!(claimed, Claimed::Stale)).count();
    assert_eq!((won, stale), (1, 1), "{claimed:?}");
}

pub async fn of_two_claims_at_once_one_wins(bench: &Bench<InPostgres>) {
    // A step that keeps nothing busy, so that only its own state stands between the two.
    let run = bench.start(RECONFIGURE, user()).await;
    let key = bench.dispatch_of(run, CONFIGURE).await;

    let claimed = two_claims_at_once(bench, key).await;

    assert_one_won(&claimed);
    assert_eq!(bench.state(run, 0).await, StepState::Running);
}

pub async fn of_two_claims_at_once_the_loser_puts_nothing_back(bench: &Bench<InPostgres>) {
    // The winner keeps the resource busy: the other one is refused, and would put back.
    let run = bench.start(PROVISION, user()).await;
    let key = bench.dispatch_of(run, CREATE).await;

    let claimed = two_claims_at_once(bench, key).await;

    assert_one_won(&claimed);
    assert_eq!(bench.state(run, 0).await, StepState::Running);
}

/// The step is lost and dispatched again while a claim stands before its row. The claim's answer, and the new key.
async fn overtake(bench: &Bench<InPostgres>, key: Key) -> (Claimed, Key) {
    let new = Key { token: token(), ..key };
    let mut held = Held::by(bench, "select from sluice.step for update").await;
    let dispatched_again = async {
        held.until_waited_for(1).await;
        let update = "update sluice.step set token = $2, dispatched_at = now() where run_id = $1";
        sqlx::query(update).bind(key.run.uuid()).bind(new.token.bits()).execute(&mut *held.rows).await.unwrap();
        held.let_go().await;
    };

    let (claimed, ()) = tokio::join!(bench.claim("slow", key), dispatched_again);

    (claimed, new)
}

pub async fn a_claim_that_is_overtaken_takes_nothing(bench: &Bench<InPostgres>) {
    let run = bench.start(PROVISION, user()).await;
    let key = bench.dispatch_of(run, CREATE).await;

    let (claimed, new) = overtake(bench, key).await;

    assert!(matches!(claimed, Claimed::Stale), "{claimed:?}");
    assert_eq!(bench.state(run, 0).await, StepState::Dispatched);
    assert!(matches!(bench.claim("w", new).await, Claimed::Yes(_)));
}

pub async fn a_claim_that_is_overtaken_puts_nothing_back(bench: &Bench<InPostgres>) {
    let run = bench.start(PROVISION, user()).await;
    let key = bench.dispatch_of(run, CREATE).await;
    bench.world.set(Gate::Pause(Scope::Step, CREATE)).await;

    let (claimed, new) = overtake(bench, key).await;

    assert!(matches!(claimed, Claimed::Stale), "{claimed:?}");
    assert_eq!(bench.state(run, 0).await, StepState::Dispatched);
    assert!(matches!(bench.claim("w", new).await, Claimed::PutBack(PutBack::GateClosed)));
}

pub async fn failures_reported_at_once_are_all_heard(bench: &Bench<InPostgres>) {
    bench.world.set(Gate::Rate(Scope::Host, HOST, 100.0)).await;
    let held = Held::by(bench, "select from sluice.gate for update").await;
    let report = async |number| -> HostGate {
        let failing = [Signal::Failing(RunId::new(uuid::Uuid::from_u128(number)))];
        bench.ledger().report(HOST, &failing, &Rules::default(), 1.0).await.unwrap()
    };
    let let_go = async {
        held.until_waited_for(3).await;
        held.let_go().await;
    };

    tokio::join!(report(1), report(2), report(3), let_go);

    assert_eq!(bench.ledger().host_gate(HOST).await.unwrap().breaker, State::Open);
}

pub async fn of_a_revival_and_a_discard_at_once_one_is_done(bench: &Bench<InPostgres>) {
    let run = bench.dead_run(user()).await;
    let (ana, bob) = (by("ana"), by("bob"));
    let held = Held::by(bench, "select from sluice.run for update").await;
    let let_go = async {
        held.until_waited_for(2).await;
        held.let_go().await;
    };

    let (revived, discarded, ()) =
        tokio::join!(bench.ledger().revive(run, &ana), bench.ledger().discard(run, &bob), let_go);

    let changed = (revived.unwrap(), discarded.unwrap());
    match bench.world.run(run).await {
        RunState::Active => assert_eq!(changed, (Changed::Yes, Changed::No(RunState::Active))),
        state => assert_eq!((state, changed), (RunState::Cancelled, (Changed::No(RunState::Cancelled), Changed::Yes))),
    }
}

pub async fn a_row_in_its_users_hands_is_passed_over(bench: &Bench<InPostgres>) {
    let (busy, other) = (user(), user());
    bench.world.sign_up(busy).await;
    let held = Held::by(bench, "select from evolution_instance_creation_queue for update").await;
    bench.world.sign_up(other).await;

    let started = bench.ledger().intake(10).await.unwrap().started;
    held.let_go().await;

    assert_eq!(started, 1);
    assert_eq!(bench.world.queue_row(busy).await.status, "pending");
    assert_eq!(bench.ledger().intake(10).await.unwrap().started, 1);
}

pub async fn a_queue_in_another_relays_hands_is_passed_over(bench: &Bench<InPostgres>) {
    bench.start(PROVISION, user()).await;
    let held = Held::by(bench, "select from sluice.gate where scope = 'step' for update").await;

    let meanwhile = bench.dispatch(CREATE, 10).await;
    held.let_go().await;

    assert_eq!(meanwhile, []);
    assert_eq!(bench.dispatch(CREATE, 10).await.len(), 1);
}

pub async fn a_step_in_other_hands_is_not_dispatched(bench: &Bench<InPostgres>) {
    bench.start(PROVISION, user()).await;
    let held = Held::by(bench, "select from sluice.step for update").await;
    let other = bench.start(PROVISION, user()).await;

    let dispatched = bench.dispatch(CREATE, 10).await;
    held.let_go().await;

    assert_eq!(dispatched.iter().map(|key| key.run).collect::<Vec<_>>(), [other]);
}

pub async fn a_step_that_is_being_claimed_is_not_lost(bench: &Bench<InPostgres>) {
    let claimed = bench.start(PROVISION, user()).await;
    bench.dispatch(CREATE, 10).await;
    let held = Held::by(bench, "select from sluice.step for update").await;
    let other = bench.start(PROVISION, user()).await;
    bench.dispatch(CREATE, 10).await;

    let lost = bench.ledger().lose().await.unwrap();
    held.let_go().await;

    assert_eq!(lost, 1);
    assert_eq!(bench.state(claimed, 0).await, StepState::Dispatched);
    assert_eq!(bench.state(other, 0).await, StepState::Due);
}

pub async fn of_two_relays_that_see_a_loss_one_handles_it(bench: &Bench<InPostgres>) {
    let run = bench.start(PROVISION, user()).await;
    bench.dispatch_of(run, CREATE).await;
    let [one, other] = [1, 2].map(Epoch::new);
    assert!(bench.ledger().take_epoch(None, one, None).await.unwrap());
    assert_eq!(bench.state(run, 0).await, StepState::Due);
    bench.dispatch_of(run, CREATE).await;

    assert!(!bench.ledger().take_epoch(None, other, None).await.unwrap());

    assert_eq!(bench.state(run, 0).await, StepState::Dispatched);
    assert_eq!(bench.ledger().read().await.unwrap().epoch, Some(one));
}
