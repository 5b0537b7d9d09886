//! The app works beside us on its own tables: no transaction of its own fails, or waits for more
//! than 200 ms, because of us.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use sluice::ledger::RelayLedger;

use super::*;
use crate::app::Session;

/// What the app bears.
const BEARABLE: Duration = Duration::from_millis(200);

const QUEUE: &str = "evolution_instance_creation_queue";

/// Nothing waits for WhatsApp.
fn without_codes() -> Options {
    Options { qr_at_signup: provision::QrAtSignup::Skip, ..Options::default() }
}

/// Sign-ups by the auth service, in one statement.
async fn sign_up(app: &App, count: usize) -> Vec<Uuid> {
    let users: Vec<Uuid> = (0..count).map(|_| Uuid::new_v4()).collect();
    let rows: Vec<_> = users.iter().map(|user| format!("('{user}', '{user}@example.org')")).collect();
    app.login("supabase_auth_admin")
        .await
        .run(&format!("insert into auth.users (id, email) values {}", rows.join(", ")))
        .await;
    users
}

fn ready(users: &[Uuid]) -> String {
    format!(
        "select count(*) = {} from {QUEUE} where status = 'completed' and user_id in ({})",
        users.len(),
        list(users)
    )
}

fn list(users: &[Uuid]) -> String {
    users.iter().map(|user| format!("'{user}'")).collect::<Vec<_>>().join(", ")
}

/// Transactions of the app's, one after another, until it is told to stop; nobody of the app's own
/// waits for another one. Each must succeed. How long the longest took.
async fn work(mut session: Session, transaction: impl Fn(usize) -> String, stop: &AtomicBool) -> Duration {
    let mut longest = Duration::ZERO;
    let mut pace = tokio::time::interval(Duration::from_millis(5));
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for round in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let began = Instant::now();
        session.run(&transaction(round)).await;
        longest = longest.max(began.elapsed());
        pace.tick().await;
    }
    longest
}

/// The app works while `meanwhile` happens: on these users' rows, an instance's before its queue
/// row's, which is the other way round than Sluice's, and two users' in falling order. Beside it
/// the same on tables that nobody else knows: so long takes what is nobody's fault.
async fn work_meanwhile(app: &App, users: &[Uuid], meanwhile: impl Future<Output = ()>) {
    let mut owner = app.owner().await;
    owner
        .run(&format!("create table own_queue (like {QUEUE}); create table own_instances (like evolution_instances)"))
        .await;
    owner
        .run(&format!(
            "insert into own_queue select * from {QUEUE} where user_id in ({users});
             insert into own_instances (id, user_id, instance_name, instance_status, webhook_url, created_at, updated_at)
             select gen_random_uuid(), user_id, user_id, 'x', 'x', now(), now() from own_queue;
             create index on own_queue (user_id); create index on own_instances (user_id)",
            users = list(users),
        ))
        .await;
    let change = |queue: &str, instances: &str, round: usize| {
        let (one, other) = (users[round % users.len()], users[(round + 1) % users.len()]);
        let (low, high) = if one < other { (one, other) } else { (other, one) };
        format!(
            "begin;
             update {instances} set phone_number = '{round}' where user_id = '{high}';
             select pg_sleep(0.01);
             update {queue} set updated_at = now() where user_id = '{high}';
             update {instances} set phone_number = '{round}' where user_id = '{low}';
             update {queue} set updated_at = now() where user_id = '{low}';
             commit"
        )
    };
    let stop = AtomicBool::new(false);
    let at_work = work(app.owner().await, |round| change(QUEUE, "evolution_instances", round), &stop);
    let alone = work(app.owner().await, |round| change("own_queue", "own_instances", round), &stop);
    let until_done = async {
        meanwhile.await;
        stop.store(true, Ordering::Relaxed);
    };

    let (took, took_alone, ()) = tokio::join!(at_work, alone, until_done);

    assert!(took < BEARABLE + took_alone, "a transaction of the app's took {took:?}, one beside us {took_alone:?}");
}

/// As an app does that checks its own rows.
const RAISES_ON_US: &str = "
    create function mine() returns trigger language plpgsql as $$
    begin
      if current_setting('sluice.projecting', true) = 'on' then
        raise exception 'not this one';
      end if;
      return new;
    end $$;
    create trigger mine before update on evolution_instances for each row execute function mine()";

#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_of_the_apps_that_raises_on_our_update_hurts_nobody_and_the_rows_catch_up() {
    let mut engine = Engine::idle(App::migrated().await, without_codes()).await;
    let users = sign_up(&engine.app, 30).await;
    engine.ledger.intake(100).await.unwrap();
    engine.app.owner().await.run(RAISES_ON_US).await;

    engine.start_roles().await;
    work_meanwhile(&engine.app, &users, async {
        engine.until("all are ready", "select count(*) = 30 from sluice.run where state = 'succeeded'").await;
    })
    .await;
    let waits: i64 = engine.app.superuser().await.one("select count(*) from sluice.projection_pending").await;
    engine.app.owner().await.run("drop trigger mine on evolution_instances").await;
    engine.until("the rows say so", &ready(&users)).await;
    engine.until("nothing waits", "select count(*) = 0 from sluice.projection_pending").await;

    assert!(waits > 0, "the trigger raised on nothing");
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operators_open_transaction_on_a_hundred_queue_rows_holds_up_nobody_else() {
    let mut engine = Engine::idle(App::migrated().await, without_codes()).await;
    let held = sign_up(&engine.app, 100).await;
    engine.ledger.intake(200).await.unwrap();
    let others = sign_up(&engine.app, 30).await;
    engine.ledger.intake(200).await.unwrap();
    let mut operator = engine.app.owner().await;
    operator.run(&format!("begin; update {QUEUE} set updated_at = now() where user_id in ({})", list(&held))).await;

    engine.start_roles().await;
    work_meanwhile(&engine.app, &others, async {
        engine.until("the others are ready", &ready(&others)).await;
        let young = sign_up(&engine.app, 1).await;
        engine.until("who signs up now is ready", &ready(&young)).await;
        engine.until("all runs have ended", "select count(*) = 131 from sluice.run where state = 'succeeded'").await;
    })
    .await;
    operator.run("commit").await;

    engine.until("the rows catch up", &ready(&held)).await;
    engine.stop().await;
}

/// The app locks in the other order, again and again, while the same users' runs start, end and
/// start anew.
#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_locks_in_another_order_than_we_do_meets_no_deadlock() {
    let engine = Engine::start_with(without_codes()).await;
    let users = sign_up(&engine.app, 20).await;
    engine.until("all are ready", &ready(&users)).await;

    work_meanwhile(&engine.app, &users, async {
        let mut person = engine.app.owner().await;
        for _ in 0..8 {
            // As a person's SQL does it: what is locked is passed over.
            person
                .run(&format!(
                    "update {QUEUE} set status = 'pending' where user_id in
                       (select user_id from {QUEUE} where status = 'completed' for update skip locked)"
                ))
                .await;
            engine.until("all are ready again", &ready(&users)).await;
        }
    })
    .await;

    let deadlocks: i64 = engine
        .app
        .superuser()
        .await
        .one("select deadlocks from pg_stat_database where datname = current_database()")
        .await;
    assert_eq!(deadlocks, 0);
    engine.stop().await;
}
