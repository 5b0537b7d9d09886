//! Gates, the breaker, and what an outage of the API costs: time, and nothing else.

use sluice::ledger::{By, OperatorLedger, Scope};
use tests::evolution::{Fault, Faults, Outage, RetryAfter, Route, Rule, Stage, When};
use workflows::{policy::Retry, state::Limits, whatsapp::provision::CREATE_INSTANCE};

use super::*;

const ALL_READY: &str = "select bool_and(status = 'completed') from evolution_instance_creation_queue";

/// An impatient engine: what takes minutes outside takes a second here.
fn hasty() -> Options {
    let ms = Duration::from_millis;
    Options {
        path: "",
        retry: Retry { base: ms(100), cap: ms(1000), ..Retry::default() },
        timeouts: evolution::Timeouts { connect: ms(1000), create: ms(1500), qr_code: ms(1500), other: ms(1000) },
        timings: provision::Timings {
            quiet: ms(300),
            read_back_limit: ms(1500),
            gone_after: ms(300),
            qr_pause: ms(100),
            ..provision::Timings::default()
        },
        qr_at_signup: provision::QrAtSignup::Fetch,
        rules: Rules {
            first: ms(100),
            longest: ms(500),
            key: ms(300),
            patience: ms(1000),
            look: ms(100),
            ..Rules::default()
        },
    }
}

fn ana() -> By {
    By { actor: "ana".to_owned(), note: None }
}

fn faults(engine: &Engine, faults: Faults) {
    engine.api.with(|world, _| *world.faults_mut() = faults);
}

fn creates_fail(name_prefix: Option<String>) -> Faults {
    let fault = Fault::Error { status: 500, body: None, stage: Stage::BeforeWork };
    let rule = Rule { route: Some(Route::Create), name_prefix, when: When::Always, fault };
    Faults { rules: vec![rule], ..Faults::default() }
}

async fn sign_up(engine: &Engine, count: usize) -> Vec<Uuid> {
    let users: Vec<Uuid> = (0..count).map(|_| Uuid::new_v4()).collect();
    for user in &users {
        engine.app.sign_up(*user).await.unwrap();
    }
    users
}

async fn number(engine: &Engine, sql: &str) -> i64 {
    engine.app.superuser().await.one(sql).await
}

/// No attempt was counted, and nobody has to do anything.
async fn assert_nothing_was_burnt(engine: &Engine) {
    assert_eq!(number(engine, "select count(*) from sluice.dead_letter").await, 0);
    assert_eq!(number(engine, "select coalesce(sum(failures), 0) from sluice.step").await, 0);
    let (duplicates, overlaps) = engine.api.with(|world, _| {
        let journal = world.journal();
        (journal.duplicate_creates, journal.overlaps)
    });
    assert_eq!((duplicates, overlaps), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_step_starts_when_it_is_resumed_and_not_before() {
    let engine = Engine::start_with(hasty()).await;
    engine.ledger.pause(Scope::Step, CREATE_INSTANCE, &ana()).await.unwrap();
    sign_up(&engine, 3).await;
    engine.until("taken in", "select count(*) = 3 from sluice.step where state = 'due'").await;

    engine.ledger.resume(Scope::Step, CREATE_INSTANCE, &ana()).await.unwrap();

    engine.until("all are ready", ALL_READY).await;
    let early = "select count(*) from sluice.attempt, sluice.gate
         where scope = 'step' and name = step and started_at < reopened_at";
    assert_eq!(number(&engine, early).await, 0);
    let audited = "select count(*) from sluice.audit where actor = 'ana' and action in ('gate.pause', 'gate.resume')";
    assert_eq!(number(&engine, audited).await, 2);
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn relays_share_a_hosts_rate_and_a_steps_concurrency() {
    let mut engine = Engine::start_with(hasty()).await;
    engine.start_relay().await;
    engine.ledger.set_rate(Scope::Host, &engine.host(), Some(5.0), &ana()).await.unwrap();
    engine.ledger.set_concurrency(Scope::Step, CREATE_INSTANCE, Some(2), &ana()).await.unwrap();

    sign_up(&engine, 12).await;

    engine.until("all are ready", ALL_READY).await;
    // One second's worth in store, and one that comes in meanwhile.
    let most = "select max(started) from (
           select count(*) over (order by started_at range between interval '1 second' preceding and current row)
             as started
           from sluice.attempt
         ) as windows";
    assert!(number(&engine, most).await <= 10);
    let most_at_once = "select max(at_once) from (
           select (
             select count(*) from sluice.attempt as other
             where other.step = attempt.step and other.started_at <= attempt.started_at
               and other.ended_at > attempt.started_at
           ) as at_once
           from sluice.attempt where step = 'create-instance'
         ) as moments";
    assert!(number(&engine, most_at_once).await <= 2);
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_breaker_opens_for_three_runs_and_closes_by_itself_though_probes_succeed_all_along() {
    let engine = Engine::start_with(hasty()).await;
    faults(&engine, creates_fail(None));
    sign_up(&engine, 6).await;
    engine
        .until("the breaker has been half-open", "select bool_or(probes >= 3) from sluice.gate where scope = 'host'")
        .await;

    faults(&engine, Faults::default());

    engine.until("all are ready", ALL_READY).await;
    engine
        .until("the breaker is closed", "select bool_or(breaker = 'closed') from sluice.gate where scope = 'host'")
        .await;
    assert_eq!(number(&engine, "select count(*) from sluice.dead_letter").await, 0);
    assert!(number(&engine, "select max(failures)::bigint from sluice.step").await <= 3);
    engine.stop().await;
}

async fn an_outage_burns_no_attempts(outage: Outage) {
    let engine = Engine::start_with(hasty()).await;
    faults(&engine, Faults { outage: Some(outage), ..Faults::default() });
    sign_up(&engine, 5).await;
    engine.until("it is probed in vain", "select bool_or(probes >= 5) from sluice.gate where scope = 'host'").await;
    sign_up(&engine, 2).await;
    let explained = "select bool_and(error_message like '%goes on by itself%') from evolution_instance_creation_queue
         where status = 'processing'";
    engine.until("the rows say why they wait", explained).await;

    faults(&engine, Faults::default());

    engine.until("all are ready", ALL_READY).await;
    assert_nothing_was_burnt(&engine).await;
    say_how_soon_work_went_on(&engine).await;
    engine.stop().await;
}

/// What waited is due at the close itself, and not at a moment of its own: claims follow it. How
/// soon is printed, not judged.
async fn say_how_soon_work_went_on(engine: &Engine) {
    let waits = "select count(*) from sluice.step where held_by is not null";
    assert_eq!(number(engine, waits).await, 0);
    let soon =
        "select coalesce(round(extract(epoch from min(attempt.started_at) - max(gate.breaker_at)) * 1000), -1)::bigint
         from sluice.attempt, sluice.gate
         where gate.scope = 'host' and gate.breaker = 'closed' and attempt.started_at >= gate.breaker_at";
    let soon = number(engine, soon).await;
    let line = format!("from the breaker's close to the next claim: {soon} ms\n");
    std::io::Write::write_all(&mut std::io::stdout(), line.as_bytes()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_that_is_down_burns_no_attempts() {
    an_outage_burns_no_attempts(Outage::Refuse).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_that_hangs_burns_no_attempts() {
    an_outage_burns_no_attempts(Outage::Hang).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_that_answers_500_burns_no_attempts() {
    an_outage_burns_no_attempts(Outage::Error(500)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stands_in_place_of_the_api_is_quoted_on_the_gate_and_the_rows_and_taken_back_when_the_api_answers() {
    let engine = Engine::start_with(hasty()).await;
    faults(&engine, Faults { outage: Some(Outage::Page(404)), ..Faults::default() });
    sign_up(&engine, 4).await;
    let quoted = "like '%answered 404 with something that is not the Evolution API: 404 page not found%'";
    let gate = format!("select bool_or(breaker_reason {quoted}) from sluice.gate where scope = 'host'");
    engine.until("the gate quotes the page", &gate).await;
    let rows = format!("select count(*) = 4 from evolution_instance_creation_queue where error_message {quoted}");
    engine.until("the rows quote it", &rows).await;
    // Nothing is tried any more, so that nothing but the gate changes the rows.
    assert!(engine.ledger.pause(Scope::Step, CREATE_INSTANCE, &ana()).await.unwrap());

    faults(&engine, Faults::default());

    let taken_back = "select count(*) = 0 from sluice.step where held_by is not null";
    engine.until("the reason is taken back", taken_back).await;
    assert!(engine.ledger.resume(Scope::Step, CREATE_INSTANCE, &ana()).await.unwrap());
    engine.until("all are ready", ALL_READY).await;
    assert_nothing_was_burnt(&engine).await;
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lone_run_burns_no_attempts_in_an_outage_though_no_breaker_protects_it() {
    let mut options = hasty();
    options.retry.limits = Limits { failures: 2, ..options.retry.limits };
    let engine = Engine::start_with(options).await;
    faults(&engine, Faults { outage: Some(Outage::Error(500)), ..Faults::default() });
    sign_up(&engine, 1).await;
    engine.until("it was tried thrice", "select count(*) >= 3 from sluice.attempt where outcome = 'deferred'").await;

    faults(&engine, Faults::default());

    engine.until("it is ready", ALL_READY).await;
    assert_nothing_was_burnt(&engine).await;
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_poison_name_dies_alone() {
    let mut options = hasty();
    options.retry.limits = Limits { failures: 3, ..options.retry.limits };
    let engine = Engine::start_with(options).await;
    let poison = Uuid::new_v4();
    faults(&engine, creates_fail(Some(format!("user_{poison}"))));

    engine.app.sign_up(poison).await.unwrap();
    sign_up(&engine, 6).await;

    let dead = "select reason = 'attempts_exhausted' from sluice.dead_letter";
    engine.until("it is dead", &format!("select coalesce(({dead}), false)")).await;
    let shown =
        format!("select count(*) from evolution_instances where user_id = '{poison}' and instance_status = 'error'");
    assert_eq!(number(&engine, &shown).await, 1);
    let others = "select count(*) = 6 from evolution_instance_creation_queue where status = 'completed'";
    engine.until("the others are ready", others).await;
    assert_eq!(number(&engine, "select count(*) from sluice.closed_time").await, 0);
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_key_is_named_wherever_one_looks_and_no_command_is_needed_after_the_mend() {
    let mut engine = Engine::idle(App::migrated().await, hasty()).await;
    engine.start_relay().await;
    let wrong = CancellationToken::new();
    engine.start_worker("not-the-key", wrong.clone()).await;
    sign_up(&engine, 2).await;

    let gate = "select bool_or(breaker_cause = 'key' and breaker_reason like '%EVOLUTION_API_KEY%') from sluice.gate
         where scope = 'host'";
    engine.until("the gate names the variable", gate).await;
    // One that comes now is never tried, and says so too.
    sign_up(&engine, 1).await;
    let rows =
        "select count(*) = 3 from evolution_instance_creation_queue where error_message like '%EVOLUTION_API_KEY%'";
    engine.until("the rows name the variable", rows).await;
    engine
        .until(
            "the runs name it",
            "select bool_and(coalesce(held_by, error) like '%EVOLUTION_API_KEY%') from sluice.step",
        )
        .await;
    wrong.cancel();
    let key = engine.api.key().to_owned();
    engine.start_worker(&key, engine.stop.clone()).await;

    engine.until("all are ready", ALL_READY).await;
    assert_nothing_was_burnt(&engine).await;
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_is_not_the_apis_burns_no_attempts_and_is_named() {
    let mut engine = Engine::start_with(Options { path: "/api", ..hasty() }).await;
    sign_up(&engine, 4).await;
    let named =
        "like '%answered 404 with something that is not the Evolution API: Cannot GET /api/%EVOLUTION_API_BASE_URL%'";
    let rows = format!("select count(*) = 4 from evolution_instance_creation_queue where error_message {named}");
    engine.until("the rows name the variable", &rows).await;
    let gate = "select bool_or(breaker = 'open' and probes >= 3) from sluice.gate where scope = 'host'";
    engine.until("the breaker stays open", gate).await;

    engine.options.path = "";
    engine.restart_roles().await;

    engine.until("all are ready", ALL_READY).await;
    assert_nothing_was_burnt(&engine).await;
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_after_holds_the_host() {
    let engine = Engine::start_with(hasty()).await;
    let fault = Fault::Limited { status: 429, retry_after: RetryAfter::Seconds(3) };
    let rule = Rule { route: Some(Route::Create), name_prefix: None, when: When::Next(1), fault };
    faults(&engine, Faults { rules: vec![rule], ..Faults::default() });
    sign_up(&engine, 1).await;
    engine.until("the host is held", "select bool_or(hold_until > now()) from sluice.gate where scope = 'host'").await;

    sign_up(&engine, 1).await;

    engine.until("all are ready", ALL_READY).await;
    let early = "select count(*) from sluice.attempt, sluice.gate
         where scope = 'host' and outcome = 'succeeded' and started_at < hold_until";
    assert_eq!(number(&engine, early).await, 0);
    assert_nothing_was_burnt(&engine).await;
    engine.stop().await;
}
