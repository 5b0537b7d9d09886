//! An hour without the API, in each of five ways, while users sign up all along; and runs that fail
//! whatever the API does.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use sluice::ledger::Scope;
use tests::{
    evolution::{Database, Fault, Outage, RetryAfter, Route, Rule, Stage as At, When},
    ledger::slow_start,
};
use tokio::{runtime::Builder, time};
use workflows::{
    state::{RunState, StepState},
    whatsapp::names::{InstanceName, UserId},
};

use crate::{
    log::{Keep, Log},
    mishaps,
    plan::Plan,
    simulate::{raise, settle_down, simulate, wait_for_the_end},
    stage::{HOST, Stage},
    weather::Trouble,
};

pub const HOUR: Duration = Duration::from_secs(3600);
/// The API works for so long before it goes away.
const BEFORE: Duration = Duration::from_secs(60);
/// One sign-up every half minute.
const USERS: u64 = 120;
/// Failures that are counted before anybody can know that it is not the run's own.
const FIRST_FEW: usize = 3;
/// The longest pause between two probes, one run let through, and a backlog of an hour.
pub const RECOVERED_WITHIN: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy)]
pub enum Away {
    Refuses,
    Hangs,
    Answers500,
    Answers503WithRetryAfter,
    /// It takes the key, and fails where it needs its database.
    WithoutDatabase,
}

/// What an hour's outage came to.
struct Aftermath {
    failures: usize,
    recovered: Duration,
    calls: BTreeMap<u64, u32>,
    ended: u64,
    /// When each attempt since the last opening of the gate started, counted from there.
    starts: Vec<Duration>,
}

#[test]
fn an_hour_without_an_api_that_refuses_connections_ends_with_every_run_ready() {
    an_hour_of(Away::Refuses);
}

#[test]
fn an_hour_without_an_api_that_hangs_ends_with_every_run_ready() {
    an_hour_of(Away::Hangs);
}

#[test]
fn an_hour_of_an_api_that_answers_500_ends_with_every_run_ready() {
    an_hour_of(Away::Answers500);
}

#[test]
fn an_hour_of_an_api_that_answers_503_with_retry_after_ends_with_every_run_ready() {
    an_hour_of(Away::Answers503WithRetryAfter);
}

#[test]
fn an_hour_of_an_api_without_its_database_ends_with_every_run_ready() {
    an_hour_of(Away::WithoutDatabase);
}

/// Their creates answer 500, whatever becomes of others.
pub fn fail_creates_of(stage: &Stage, users: &[UserId]) {
    let rules = users.iter().map(|user| Rule {
        route: Some(Route::Create),
        name_prefix: Some(InstanceName::of_user(*user).as_str().to_owned()),
        when: When::Always,
        fault: Fault::Error { status: 500, body: None, stage: At::BeforeWork },
    });
    let rules: Vec<Rule> = rules.collect();
    stage.api.world(|world, _| world.faults_mut().rules = rules);
}

fn an_hour_of(away: Away) {
    let aftermath = in_virtual_time(outage(away));

    let Aftermath { failures, recovered, calls, ended, starts } = aftermath;
    let after = |second: u64| calls.get(&(ended + second)).copied().unwrap_or_default();
    let peak = calls.range(ended..).map(|(_, count)| *count).max().unwrap_or_default();
    let during: u32 = calls.range(BEFORE.as_secs()..ended).map(|(_, count)| *count).sum();
    let first: Vec<u32> = (0..40).map(after).collect();
    let line = format!(
        "an hour in which the API {away:?}, {USERS} sign-ups: all ready {:.1} s after its end, {failures} failures counted, \
         {during} calls while it lasted, at most {peak} a second after it: {first:?}\n",
        recovered.as_secs_f64()
    );
    crate::say(&line);
    assert!(failures <= FIRST_FEW, "{away:?}: {failures} failures counted");
    assert!(recovered < RECOVERED_WITHIN, "{away:?}: recovered after {recovered:?}");
    for second in 1..=SLOWLY {
        let started = starts.iter().filter(|start| start.as_secs() < second).count();
        let allowed = let_through(second);
        assert!(started <= allowed, "{away:?}: {started} starts in the first {second} s, and {allowed} were allowed");
    }
    let all: usize = starts.len();
    assert!(all > let_through(1), "{away:?}: {all} starts are no backlog");
}

/// For so many seconds an opened host is sent less than all. Without that the whole backlog would
/// come at once, as fast as workers can send.
const SLOWLY: u64 = 6;

/// The starts of so many seconds, with what was in store: a second's worth of the first.
fn let_through(seconds: u64) -> usize {
    let first = slow_start(Duration::ZERO).expect("it begins slowly");
    (first * ((seconds as f64).exp2() - 1.0) / std::f64::consts::LN_2 + first).ceil() as usize
}

async fn outage(away: Away) -> Aftermath {
    let stage = Stage::new(plan(USERS), Log::new(Keep::Counts));
    raise(&stage).await;
    time::sleep(BEFORE).await;
    away.begin(&stage);
    time::sleep(HOUR).await;
    mishaps::end(&stage);
    let ended = stage.log.now();
    wait_for_the_end(&stage).await;
    let recovered = stage.log.now() - ended;

    let tables = stage.ledger.tables();
    assert_eq!(tables.dead_letters.len(), 0, "{away:?}: {:?}", tables.dead_letters.first());
    assert!(tables.runs.values().all(|run| run.state == RunState::Succeeded), "{away:?}: not every run is ready");
    assert_eq!(tables.queue.len() as u64, USERS);
    let failures = tables.attempts.iter().filter(|attempt| attempt.ended.outcome == "failed").count();
    let gate = &tables.gates[&(Scope::Host, HOST.to_owned())];
    let opened = gate.reopened_at.max(gate.hold_until).expect("the gate was closed");
    let starts = tables.attempts.iter().filter_map(|attempt| attempt.started_at.checked_sub(opened)).collect();
    settle_down(&stage).await;
    let (_, broken, _) = stage.log.take();
    assert_eq!(broken, Vec::<String>::new(), "{away:?}");
    Aftermath { failures, recovered, calls: stage.api.calls_per_second(), ended: ended.as_secs(), starts }
}

impl Away {
    pub fn begin(self, stage: &Stage) {
        let everything = |fault| Rule { route: None, name_prefix: None, when: When::Always, fault };
        let outage = |outage| stage.api.world(|world, _| world.faults_mut().outage = Some(outage));
        match self {
            Self::Refuses => stage.weather.begin(Trouble::NetworkBroken, stage.log.now()),
            Self::Hangs => outage(Outage::Hang),
            Self::WithoutDatabase => {
                stage.api.world(|world, _| world.faults_mut().database = Database::Down);
            }
            Self::Answers500 => outage(Outage::Error(500)),
            Self::Answers503WithRetryAfter => {
                let fault = Fault::Limited { status: 503, retry_after: RetryAfter::Seconds(10) };
                stage.api.world(|world, _| world.faults_mut().rules = vec![everything(fault)]);
            }
        }
    }
}

/// Nothing happens but what a test does.
pub fn plan(users: u64) -> Plan {
    Plan {
        users: (0..users).map(|number| crate::plan::user(0, number)).collect(),
        workers: 2,
        relays: 2,
        slots: 20,
        batch: 200,
        high_water: 1_000,
        // Users sign up in the first two thirds of it.
        bad_times: (BEFORE + HOUR).mul_f64(1.5),
        save_instances: false,
        mishaps: Vec::new(),
        poison: Vec::new(),
        ..Plan::of(0)
    }
}

pub fn in_virtual_time<T>(test: impl Future<Output = T>) -> T {
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime without I/O can be built").block_on(test)
}

/// In the middle of a burst: a lease that nobody could renew is no crash of its worker, who lives.
#[test]
fn two_minutes_without_a_ledger_count_no_crash_and_end_with_every_run_ready() {
    in_virtual_time(async {
        let stage = Stage::new(Plan { bad_times: Duration::from_secs(180), ..plan(60) }, Log::new(Keep::Counts));
        raise(&stage).await;
        time::sleep(Duration::from_secs(20)).await;
        (1_000..1_030).for_each(|number| stage.ledger.sign_up(crate::plan::user(0, number)));
        let running = || stage.ledger.tables().steps.values().filter(|step| step.state == StepState::Running).count();
        while running() < 10 {
            time::sleep(Duration::from_millis(1)).await;
        }
        stage.weather.begin(Trouble::LedgerAway, stage.log.now());
        time::sleep(Duration::from_secs(120)).await;
        mishaps::end(&stage);
        let ended = stage.log.now();
        wait_for_the_end(&stage).await;
        let recovered = stage.log.now() - ended;

        let tables = stage.ledger.tables();
        let outcomes = |outcome| tables.attempts.iter().filter(|attempt| attempt.ended.outcome == outcome).count();
        let (crashed, failed) = (outcomes("crashed"), outcomes("failed"));
        let ready = tables.runs.values().filter(|run| run.state == RunState::Succeeded).count();
        settle_down(&stage).await;
        let (hits, broken, _) = stage.log.take();
        crate::say(&format!(
            "two minutes without a ledger: {ready} ready {recovered:?} after its end, {crashed} crashes\n"
        ));
        assert_eq!(broken, Vec::<String>::new());
        assert!(hits.get("ledger.away").is_some_and(|times| *times > 100), "{hits:?}");
        assert_eq!((crashed, failed, ready, tables.runs.len()), (0, 0, 90, 90));
        assert!(recovered < RECOVERED_WITHIN, "recovered after {recovered:?}");
    });
}

/// The outage is over before the calls that it swallowed time out: by then the API answers whoever
/// asks it.
#[test]
fn calls_that_an_outage_swallowed_are_not_counted_though_they_time_out_after_it() {
    let failures = in_virtual_time(async {
        let stage = Stage::new(Plan { bad_times: Duration::from_secs(20), ..plan(60) }, Log::new(Keep::Counts));
        raise(&stage).await;
        time::sleep(Duration::from_secs(2)).await;
        Away::Hangs.begin(&stage);
        time::sleep(Duration::from_secs(12)).await;
        mishaps::end(&stage);
        wait_for_the_end(&stage).await;

        let tables = stage.ledger.tables();
        assert!(tables.runs.values().all(|run| run.state == RunState::Succeeded));
        let swallowed = tables.attempts.iter().filter(|attempt| attempt.ended.outcome == "deferred").count();
        assert!(swallowed > 10, "the outage swallowed only {swallowed} calls");
        tables.attempts.iter().filter(|attempt| attempt.ended.outcome == "failed").count()
    });

    assert!(failures <= FIRST_FEW, "{failures} failures counted");
}

/// A crash says nothing about the API: the breaker would make them wait uncounted, for ever.
#[test]
fn three_runs_that_kill_their_workers_end_as_worker_lost_and_open_no_breaker() {
    let plan = Plan { bad_times: Duration::from_secs(60), ..plan(3) };

    let report = simulate(Plan { poison: plan.users.clone(), ..plan }, Keep::Counts);

    assert_eq!(report.broken, Vec::<String>::new());
    assert_eq!(report.states, [RunState::Dead; 3]);
    assert_eq!(report.hits.get("breaker.opened"), None);
    let outcomes: Vec<_> = report.attempts.iter().map(|(_, outcome)| outcome.as_str()).collect();
    assert_eq!(outcomes, vec!["crashed"; outcomes.len()]);
}

/// Three runs that fail, and nobody else who succeeds, are an outage for all that anybody can know:
/// they wait, uncounted. It is the next sign-up that shows the difference, and it must not be held
/// up by them.
#[test]
fn a_sign_up_passes_three_runs_that_look_like_an_outage_and_then_they_die() {
    in_virtual_time(async {
        let stage = Stage::new(Plan { users: Vec::new(), ..plan(0) }, Log::new(Keep::Counts));
        raise(&stage).await;
        let poison: Vec<UserId> = (1..=3).map(|number| crate::plan::user(0, number)).collect();
        fail_creates_of(&stage, &poison);
        poison.iter().for_each(|user| stage.ledger.sign_up(*user));
        time::sleep(HOUR).await;
        assert_eq!(run_states(&stage, &poison), [RunState::Active; 3]);

        let mut passed = Vec::new();
        for number in 10..100 {
            passed.push(ready_after(&stage, crate::plan::user(0, number)).await);
            time::sleep(Duration::from_secs(60)).await;
        }

        let slowest = passed.iter().max().unwrap();
        assert!(*slowest < Duration::from_secs(45), "a sign-up was held up for {slowest:?}: {passed:?}");
        assert_eq!(run_states(&stage, &poison), [RunState::Dead; 3]);
    });
}

async fn ready_after(stage: &Arc<Stage>, user: UserId) -> Duration {
    let began = stage.log.now();
    stage.ledger.sign_up(user);
    while run_states(stage, &[user]) != [RunState::Succeeded] {
        assert!(stage.log.now() - began < HOUR, "a healthy sign-up never became ready");
        time::sleep(Duration::from_millis(100)).await;
    }
    stage.log.now() - began
}

pub fn run_states(stage: &Stage, users: &[UserId]) -> Vec<RunState> {
    let tables = stage.ledger.tables();
    let of = |user: &UserId| tables.runs.values().find(|run| run.subject == user.subject()).map(|run| run.state);
    users.iter().filter_map(of).collect()
}
