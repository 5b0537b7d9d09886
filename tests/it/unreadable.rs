//! Rows that this program cannot read, because another version wrote them or somebody's hand did:
//! they harm only themselves, and take no place from those that it can.

use std::{sync::Arc, time::Duration};

use sluice::{
    database::{Database, Pooling},
    ledger::{Claimed, DueKey, Key, Lease, RelayLedger, Worker, WorkerLedger, postgres::Postgres},
    relay::{self, Rescued},
};
use tests::servers;
use uuid::Uuid;
use workflows::{
    definition::{Definition, Registry},
    ids::{RunId, Token},
    policy::Retry,
    whatsapp::provision,
};

use crate::{
    app::{App, Session},
    conformance::bench::ask,
};

const PATIENCE: Duration = Duration::from_secs(60);

async fn ledger_of(app: &App) -> Postgres {
    let database = Database::open(app.options(), Pooling::Session, 2);
    let (timeout, deadline) = (Duration::from_secs(30), Duration::from_secs(86_400));
    // Nobody has signed up here, and nobody is gone.
    let definition =
        Definition { gone: None, ..provision::definition(Retry::default(), timeout, deadline, "api.example") };
    let ledger = Postgres::over(database, Arc::new(Registry::new(vec![definition])));
    ledger.register().await.unwrap();
    ledger
}

/// A run whose first step is this one, as of this moment, the older the smaller `number` is.
async fn insert(session: &mut Session, number: u32, version: u16, name: &str, step: &str) -> DueKey {
    let (run, user) = (Uuid::now_v7(), Uuid::new_v4());
    session
        .run(&format!(
            "insert into sluice.run (id, workflow, version, subject, resource, deadline_at)
             values ('{run}', 'provision-instance', {version}, '{user}', {name}, now() - interval '1 hour');
             insert into sluice.resource (name, subject, workflow, run_id, secret)
             values ({name}, '{user}', 'provision-instance', '{run}', 'a-secret');
             insert into sluice.step (run_id, position, name, state, token, due_at, lease_until, worker, started_at)
             select '{run}', 0, name, state, token, due_at, lease_until, worker, now() - interval '1 hour'
             from (values {step}) as step (name, state, token, due_at, lease_until, worker);
             update sluice.step set lease_until = lease_until + make_interval(secs => {number})
             where lease_until is not null and run_id = '{run}'"
        ))
        .await;
    DueKey { run: RunId::new(run), position: 0, generation: 1 }
}

async fn rescue(ledger: &Postgres) -> (Rescued, Option<anyhow::Error>) {
    relay::rescue_once(ledger, &|| 0.5, &Default::default(), &Default::default()).await.unwrap()
}

const RUNNING: &str =
    "('create-instance', 'running', 7::bigint, null::timestamptz, now() - interval '30 minutes', 'a-dead-worker')";
const RUNNING_MISNAMED: &str =
    "('Create Instance', 'running', 7::bigint, null::timestamptz, now() - interval '30 minutes', 'a-dead-worker')";
const DUE: &str = "('create-instance', 'due', null::bigint, now(), null::timestamptz, null::text)";
const DUE_MISNAMED: &str = "('Create Instance', 'due', null::bigint, now(), null::timestamptz, null::text)";

#[tokio::test(flavor = "multi_thread")]
async fn leases_of_steps_that_cannot_be_read_keep_nobody_from_being_rescued() {
    let app = App::migrated().await;
    let ledger = ledger_of(&app).await;
    let mut session = app.superuser().await;
    insert(&mut session, 1, 99, "'of-a-newer-version'", RUNNING).await;
    insert(&mut session, 2, 1, "'misnamed'", RUNNING_MISNAMED).await;
    let nameless = insert(&mut session, 3, 1, "E'no name\\nat all'", RUNNING).await;
    insert(&mut session, 4, 1, "'good'", RUNNING).await;

    // One at a time: those that cannot be read are older.
    let one = servers::until(PATIENCE, async || ledger.expired(1).await.unwrap().into_iter().next()).await;
    let (rescued, _) = rescue(&ledger).await;

    // A resource is nothing that a rescue reads.
    assert_eq!(one.expect("one is found").key.run, nameless.run);
    assert_eq!(rescued.crashed, 2);
    let running: Vec<String> = session
        .all("select resource from sluice.run join sluice.step on run_id = id where step.state = 'running' order by 1")
        .await;
    assert_eq!(running, ["misnamed", "of-a-newer-version"]);
}

/// Somebody mends a row by hand, and leaves the transaction open.
#[tokio::test(flavor = "multi_thread")]
async fn a_step_whose_row_somebody_has_locked_keeps_nobody_from_being_rescued() {
    let app = App::migrated().await;
    let ledger = ledger_of(&app).await;
    let mut session = app.superuser().await;
    let locked = insert(&mut session, 1, 1, "'locked'", RUNNING).await;
    insert(&mut session, 2, 1, "'good'", RUNNING).await;
    insert(&mut session, 3, 1, "'better'", RUNNING).await;
    let all = servers::until(PATIENCE, async || (ledger.expired(10).await.unwrap().len() == 3).then_some(()));
    assert!(all.await.is_some());
    let mut somebody = app.superuser().await;
    somebody.run("begin").await;
    somebody.run(&format!("update sluice.step set error = 'mended' where run_id = '{}'", locked.run)).await;
    let crashed = async || rescue(&ledger).await.0.crashed;

    assert_eq!(crashed().await, 2);

    somebody.run("commit").await;
    assert_eq!(crashed().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_whose_row_somebody_has_locked_keeps_no_other_from_being_renewed() {
    let app = App::migrated().await;
    let ledger = ledger_of(&app).await;
    let mut session = app.superuser().await;
    let (locked, good) =
        (insert(&mut session, 1, 1, "'locked'", RUNNING).await, insert(&mut session, 2, 1, "'good'", RUNNING).await);
    let lease = |due: DueKey| Lease {
        key: Key { run: due.run, position: due.position, token: Token::new(7) },
        length: Duration::from_secs(4),
    };
    let renewed = async || {
        let leases = [lease(locked), lease(good)];
        ledger.renew(&Worker { name: "a-dead-worker".to_owned() }, &leases).await.unwrap()
    };
    let mut somebody = app.superuser().await;
    somebody.run("begin").await;
    somebody.run(&format!("update sluice.step set error = 'mended' where run_id = '{}'", locked.run)).await;

    assert_eq!(renewed().await, [None, Some(true)]);

    somebody.run("commit").await;
    assert_eq!(renewed().await, [Some(true), Some(true)]);
}

/// Each of its leases waits for its own row: a worker gives such a renewal up before the last.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_of_which_somebody_has_locked_many_rows_gives_its_sign_of_life() {
    let app = App::migrated().await;
    let ledger = ledger_of(&app).await;
    let mut session = app.superuser().await;
    let mut leases = Vec::new();
    for number in 1..=20 {
        let due = insert(&mut session, number, 1, &format!("'locked-{number}'"), RUNNING).await;
        let key = Key { run: due.run, position: due.position, token: Token::new(7) };
        leases.push(Lease { key, length: Duration::from_secs(4) });
    }
    leases.sort_by_key(|lease| lease.key);
    let mut somebody = app.superuser().await;
    somebody.run("begin").await;
    somebody.run("update sluice.step set error = 'mended'").await;

    let worker = Worker { name: "a-worker".to_owned() };
    let given_up = tokio::time::timeout(Duration::from_secs(2), ledger.renew(&worker, &leases)).await;

    assert!(given_up.is_err(), "{given_up:?}");
    let alive: Vec<String> = session.all("select worker from sluice.heartbeat").await;
    assert_eq!(alive, ["a-worker"]);
    somebody.run("rollback").await;
}

/// Somebody has taken one of the upkeep's functions away.
#[tokio::test(flavor = "multi_thread")]
async fn a_part_of_the_upkeep_that_the_database_refuses_keeps_the_others_from_nothing() {
    let app = App::migrated().await;
    let ledger = ledger_of(&app).await;
    let mut session = app.superuser().await;
    insert(&mut session, 1, 1, "'lost'", RUNNING).await;
    insert(&mut session, 2, 1, "'late'", DUE).await;
    let expired = servers::until(PATIENCE, async || ledger.expired(1).await.unwrap().into_iter().next()).await;
    assert!(expired.is_some());
    session.run("alter function sluice.expired(text[], integer) rename to mislaid").await;

    let (rescued, refused) = rescue(&ledger).await;

    let refused = refused.map(|error| format!("{error:#}")).unwrap_or_default();
    assert!(refused.contains("sluice.expired"), "{refused}");
    assert_eq!(rescued.exceeded, 1);
    let dead: Vec<String> =
        session.all("select resource from sluice.dead_letter join sluice.run on run.id = run_id").await;
    assert_eq!(dead, ["late"]);
    session.run("alter function sluice.mislaid(text[], integer) rename to expired").await;
    assert_eq!(rescue(&ledger).await.0.crashed, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_that_cannot_be_read_keep_nobody_from_being_pushed_and_claimed() {
    let app = App::migrated().await;
    let ledger = ledger_of(&app).await;
    let mut session = app.superuser().await;
    let nameless = insert(&mut session, 1, 1, "E'no name\\nat all'", DUE).await;
    let misnamed = insert(&mut session, 2, 1, "'misnamed'", DUE_MISNAMED).await;
    let odd = insert(&mut session, 3, 1, "'of-an-odd-workflow'", DUE).await;
    let good = insert(&mut session, 4, 1, "'good'", DUE).await;
    session.run(&format!("update sluice.run set workflow = 'Provision Instance' where id = '{}'", odd.run)).await;

    let waiting = ledger.waiting(10).await.unwrap();
    let me = Worker { name: "w".to_owned() };
    let claimed = ledger.claim(&me, &[nameless, misnamed, odd, good].map(ask)).await.unwrap();

    let due: Vec<_> = waiting.iter().flat_map(|waiting| &waiting.due).map(|due| due.key).collect();
    assert!(due.contains(&good), "{waiting:?}");
    assert!(matches!(&claimed[3], Claimed::Yes(claim) if claim.key.run == good.run), "{claimed:?}");
    for (number, claimed) in claimed[..3].iter().enumerate() {
        assert!(!matches!(claimed, Claimed::Yes(_)), "{number}: {claimed:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_ends_runs_that_cannot_be_read_as_well_as_those_beside_them() {
    let app = App::migrated().await;
    let ledger = ledger_of(&app).await;
    let mut session = app.superuser().await;
    insert(&mut session, 1, 1, "'misnamed'", DUE_MISNAMED).await;
    insert(&mut session, 2, 99, "'of-a-newer-version'", DUE).await;
    insert(&mut session, 3, 1, "'good'", DUE).await;

    let died = [ledger.exceed(1).await.unwrap().len(), ledger.exceed(10).await.unwrap().len()];

    assert_eq!(died, [1, 2]);
    let letters: Vec<String> = session
        .all(
            "select concat_ws(' ', resource, step, reason)
             from sluice.dead_letter join sluice.run on run.id = run_id order by 1",
        )
        .await;
    assert_eq!(
        letters,
        [
            "good create-instance deadline_exceeded",
            "misnamed Create Instance deadline_exceeded",
            "of-a-newer-version create-instance deadline_exceeded",
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_cannot_be_looked_at_again_keeps_nobody_else_from_it() {
    let app = App::migrated().await;
    let ledger = ledger_of(&app).await;
    let mut session = app.superuser().await;
    let odd = insert(&mut session, 1, 1, "'an-odd-one'", DUE).await;
    insert(&mut session, 2, 1, "'good'", DUE).await;
    session
        .run(&format!(
            "update sluice.step set state = 'succeeded', due_at = null;
             update sluice.run set state = 'succeeded', ended_at = now();
             update sluice.run set workflow = 'Provision Instance' where id = '{}';
             update sluice.resource set run_id = null, doubted_at = now() - interval '1 hour', doubted_workflow = run.workflow
             from sluice.run
             where resource = name",
            odd.run
        ))
        .await;

    // One at a time: the one that cannot be read comes first.
    let looks = [ledger.look_again(1).await.unwrap(), ledger.look_again(1).await.unwrap()];

    assert_eq!(looks, [1, 0]);
    let doubted: Vec<String> = session.all("select name from sluice.resource where doubted_at is not null").await;
    assert_eq!(doubted, ["an-odd-one"]);
}
