//! Networks that are cut, and networks that stand still without a word, between a role and its
//! servers. They cost time: no attempt, no crash, no instance made twice.

use sluice::ledger::RelayLedger;
use tests::{
    evolution::{Fault, Faults, Route, Rule, Stage, When},
    servers::Proxy,
};

use super::*;

const USERS: i64 = 6;
const ALL_READY: &str = "select bool_and(status = 'completed') from evolution_instance_creation_queue";
/// Two seconds ago, of every step that was running; or it was rescued already.
const LEASES_ARE_OVER: &str = "select bool_or(crashes > 0)
       or bool_and(lease_until < now() - interval '2 seconds') filter (where state = 'running')
     from sluice.step";

#[derive(Clone, Copy)]
enum Fails {
    Cut,
    Stalls,
}

/// Who is behind the network that fails.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Behind {
    Everybody,
    Relay,
    Worker,
}

async fn proxy_to_postgres(engine: &Engine) -> Proxy {
    Proxy::to(engine.app.options().get_port()).await.unwrap()
}

/// Calls that set a webhook take their time, so that steps are under way for as long as a test
/// needs them to be.
fn slow_webhooks(engine: &Engine) {
    let fault = Fault::Latency { ms: 9_000, stage: Stage::BeforeWork };
    let rule = Rule { route: Some(Route::WebhookSet), name_prefix: None, when: When::Always, fault };
    engine.api.with(|world, _| *world.faults_mut() = Faults { rules: vec![rule], ..Faults::default() });
}

async fn number(engine: &Engine, sql: &str) -> i64 {
    engine.app.superuser().await.one(sql).await
}

async fn start_behind(engine: &mut Engine, wires: Wires, behind: Behind) {
    let wired = |role: Behind| if [Behind::Everybody, role].contains(&behind) { wires } else { Wires::default() };
    engine.wires = wired(Behind::Relay);
    engine.start_relay().await;
    engine.wires = wired(Behind::Worker);
    let key = engine.api.key().to_owned();
    engine.start_worker(&key, engine.stop.clone()).await;
}

async fn sign_up(engine: &Engine) {
    for _ in 0..USERS {
        engine.app.sign_up(Uuid::new_v4()).await.unwrap();
    }
}

/// The network to Postgres fails while steps run, until their leases are long over.
async fn postgres_is_out_of_reach(fails: Fails, behind: Behind) -> Engine {
    let mut engine = Engine::idle(App::migrated().await, Options::default()).await;
    let proxy = proxy_to_postgres(&engine).await;
    slow_webhooks(&engine);
    start_behind(&mut engine, Wires { postgres: Some(proxy.port()), redis: None }, behind).await;
    sign_up(&engine).await;
    let running = "select count(*) >= 3 from sluice.step where state = 'running' and name = 'configure-webhooks'";
    engine.until("steps are running", running).await;

    match fails {
        Fails::Cut => proxy.cut(),
        Fails::Stalls => proxy.stall(),
    }
    match behind {
        // The worker goes on renewing.
        Behind::Relay => engine.until("the call ends", "select count(*) > 3 from sluice.attempt").await,
        _ => engine.until("the leases are over, or rescued", LEASES_ARE_OVER).await,
    }
    engine.api.with(|world, _| *world.faults_mut() = Faults::default());
    proxy.mend();

    engine.until("all are ready", ALL_READY).await;
    let (duplicates, overlaps) = engine.api.with(|world, _| {
        let journal = world.journal();
        (journal.duplicate_creates, journal.overlaps)
    });
    assert_eq!((duplicates, overlaps), (0, 0));
    assert_eq!(number(&engine, "select count(*) from sluice.dead_letter").await, 0);
    assert_eq!(number(&engine, "select coalesce(sum(failures), 0) from sluice.step").await, 0);
    engine
}

async fn assert_no_crash_was_counted(engine: Engine) {
    let crashed = "select (select count(*) from sluice.attempt where outcome = 'crashed')
         + (select sum(crashes) from sluice.step)";
    assert_eq!(number(&engine, crashed).await, 0);
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_that_everybody_is_cut_off_from_for_longer_than_a_lease_counts_no_crash() {
    assert_no_crash_was_counted(postgres_is_out_of_reach(Fails::Cut, Behind::Everybody).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_to_postgres_that_stands_still_for_longer_than_a_lease_counts_no_crash() {
    assert_no_crash_was_counted(postgres_is_out_of_reach(Fails::Stalls, Behind::Everybody).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_whose_network_to_postgres_stands_still_takes_no_worker_for_dead() {
    assert_no_crash_was_counted(postgres_is_out_of_reach(Fails::Stalls, Behind::Relay).await).await;
}

/// From outside, such a worker is dead: its steps are rescued, and its late settles change nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_alone_is_cut_off_from_postgres_is_rescued_and_does_no_harm_when_it_is_back() {
    let engine = postgres_is_out_of_reach(Fails::Stalls, Behind::Worker).await;

    let most = number(&engine, "select max(crashes)::bigint from sluice.step").await;
    assert!(most <= 2, "{most} crashes of one step for one cut");
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_between_worker_and_redis_that_stands_still_loses_nothing_and_counts_nothing() {
    let mut engine = Engine::idle(App::migrated().await, Options::default()).await;
    let proxy = Proxy::to(servers::shared().await.redis.port()).await.unwrap();
    start_behind(&mut engine, Wires { postgres: None, redis: Some(proxy.port()) }, Behind::Worker).await;
    sign_up(&engine).await;
    engine.until("some are ready", "select bool_or(status = 'completed') from evolution_instance_creation_queue").await;

    proxy.stall();
    sign_up(&engine).await;
    // Longer than a worker may be silent before what it fetched is handed back.
    let waited = "select bool_or(due_at < now() - interval '7 seconds') from sluice.step where state = 'due'";
    engine.until("hints wait for a worker", waited).await;
    proxy.mend();

    engine.until("all are ready", ALL_READY).await;
    assert_eq!(number(&engine, "select count(*) from sluice.attempt where outcome <> 'succeeded'").await, 0);
    assert_no_crash_was_counted(engine).await;
}

/// Longer than the server's own limit on a statement: only a network that says nothing any more
/// takes so long.
#[tokio::test]
async fn a_question_to_a_postgres_that_says_nothing_any_more_is_given_up() {
    let engine = Engine::idle(App::migrated().await, Options::default()).await;
    let proxy = proxy_to_postgres(&engine).await;
    let through = engine.app.options().host("127.0.0.1").port(proxy.port());
    let ledger = Postgres::over(Database::open(through, Pooling::Session, 1), engine.registry());
    ledger.waiting(1).await.unwrap();

    proxy.stall();
    tokio::time::pause();
    let began = tokio::time::Instant::now();
    let answers = [ledger.waiting(1).await.map(drop), ledger.project_pending(10).await.map(drop)];

    assert!(matches!(answers[0], Err(ledger::Error::Late(_))), "{answers:?}");
    assert!(answers[1].is_err(), "{answers:?}");
    assert!(began.elapsed() < Duration::from_secs(41), "given up only after {:?}", began.elapsed());
}

/// The question was on its way while the network stood still, and so were the renewals that would
/// have answered it.
#[tokio::test(flavor = "multi_thread")]
async fn expired_leases_that_were_long_in_coming_are_looked_for_again_before_anybody_is_taken_for_dead() {
    let engine = Engine::idle(App::migrated().await, Options::default()).await;
    let proxy = proxy_to_postgres(&engine).await;
    let through = engine.app.options().host("127.0.0.1").port(proxy.port());
    let behind = Postgres::over(Database::open(through, Pooling::Session, 1), engine.registry());
    engine.app.sign_up(Uuid::new_v4()).await.unwrap();
    engine.ledger.intake(10).await.unwrap();
    let mut session = engine.app.superuser().await;
    session
        .run(
            "update sluice.step
             set state = 'running', token = 7, due_at = null, worker = 'w', started_at = now(),
               lease_until = now() + interval '1 second'
             where position = 0",
        )
        .await;

    proxy.stall();
    let asked = tokio::spawn(async move {
        let first = relay::rescue_once(&behind, &|| 0.5, &Default::default(), &Default::default()).await;
        (behind, first)
    });
    let over = "select lease_until < now() - interval '2 seconds' from sluice.step where position = 0";
    engine.until("the lease is over", over).await;
    proxy.mend();
    let (behind, first) = asked.await.unwrap();
    let crashed = async || {
        relay::rescue_once(&behind, &|| 0.5, &Default::default(), &Default::default()).await.unwrap().0.crashed
    };
    let later = servers::until(PATIENCE, async || Some(crashed().await).filter(|crashed| *crashed > 0)).await;

    assert_eq!((first.unwrap().0.crashed, later), (0, Some(1)));
}
