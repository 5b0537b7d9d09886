//! Everybody at once, on few rows: workers that claim and settle batches in any order, renewals of
//! the same steps, people who cancel, revive and close gates, relays that start, rescue and take
//! in. Whatever meets, nobody waits in a circle.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::future::join_all;
use rand::{Rng, RngCore, SeedableRng, rngs::StdRng, seq::SliceRandom};
use serde_json::json;
use sluice::ledger::{
    Ask, Claim, Claimed, Error, Key, Lease, OperatorLedger, RelayLedger, Result, WorkerLedger, postgres::Postgres,
    settlement::Quiet,
};
use tests::{ledger::Ledger, servers::until};
use workflows::{
    breaker::{Rules, Signal},
    outcome::{HostSignal, Memory, Outcome},
    whatsapp::names::UserId,
};

use super::{
    bench::{
        BRITTLE, Bench, CONFIGURE, CREATE, DEPROVISION, HOST, LEASE, PROVISION, RECONFIGURE, ask, by, new_run, refusal,
        retry, send_back, user, worker,
    },
    postgres::InPostgres,
    world::{Budget, Scope, World},
};

const PATIENCE: Duration = Duration::from_secs(60);
const WORKERS: usize = 4;
const ROUNDS: usize = 60;
/// Few, so that they meet.
const USERS: usize = 24;

/// What all of them share.
struct Crowd<'a> {
    bench: &'a Bench<InPostgres>,
    ledger: Postgres,
    users: Vec<UserId>,
    held: Mutex<BTreeMap<Key, Claim>>,
    settled: AtomicUsize,
    /// The workers are done.
    over: AtomicBool,
}

impl Crowd<'_> {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    fn held(&self, random: &mut StdRng) -> Vec<Claim> {
        let mut held: Vec<Claim> = self.held.lock().unwrap().values().cloned().collect();
        held.shuffle(random);
        held
    }

    fn anybody(&self, random: &mut StdRng) -> UserId {
        self.users[random.random_range(0..self.users.len())]
    }
}

/// Who waited too long for a lock asks again. Anything else is a fault, a deadlock above all.
fn unless_it_waited<T>(result: Result<T>) -> Option<T> {
    match result {
        Ok(done) => Some(done),
        Err(Error::Database(error)) if error.as_database_error().and_then(|e| e.code()).as_deref() == Some("55P03") => {
            None
        }
        Err(error) => panic!("{error}"),
    }
}

pub async fn settles_renewals_cancellations_and_claims_at_once_never_deadlock(bench: &Bench<InPostgres>) {
    let ledger = bench.world.widely(12);
    let users: Vec<UserId> = (0..USERS).map(|_| user()).collect();
    for user in &users {
        bench.world.sign_up(*user).await;
    }
    let crowd = Crowd {
        bench,
        ledger,
        users,
        held: Mutex::default(),
        settled: AtomicUsize::new(0),
        over: AtomicBool::new(false),
    };
    let workers = async {
        join_all((0..WORKERS).map(|number| work(&crowd, number))).await;
        crowd.over.store(true, Ordering::Relaxed);
    };

    tokio::join!(workers, renew(&crowd, 1), renew(&crowd, 2), relay(&crowd), command(&crowd), close_gates(&crowd));

    // What a session counted is certain once it has ended.
    let settled = crowd.settled.load(Ordering::Relaxed);
    drop(crowd);
    let crowded = "select count(*) > 4 from pg_stat_activity
        where datname = current_database() and application_name = 'services'";
    let ended = until(PATIENCE, async || {
        let crowded: bool = sqlx::query_scalar(crowded).fetch_one(bench.world.pool()).await.unwrap();
        (!crowded).then_some(())
    });
    assert!(ended.await.is_some(), "the crowd's sessions go on");
    let deadlocks = "select deadlocks from pg_stat_database where datname = current_database()";
    let deadlocks: i64 = sqlx::query_scalar(deadlocks).fetch_one(bench.world.pool()).await.unwrap();
    assert_eq!(deadlocks, 0);
    assert!(settled > WORKERS * ROUNDS / 2, "{settled} settles are no crowd");
}

/// Hints come twice, and in any order.
async fn work(crowd: &Crowd<'_>, number: usize) {
    let mut random = StdRng::seed_from_u64(number as u64);
    let me = worker(&format!("worker-{number}"));
    for _ in 0..ROUNDS {
        let waiting = crowd.ledger.waiting(20).await.unwrap();
        let mut asked: Vec<Ask> = waiting.iter().flat_map(|waiting| &waiting.due).map(|due| ask(due.key)).collect();
        asked.shuffle(&mut random);
        asked.truncate(10);
        if let Some(claimed) = unless_it_waited(crowd.ledger.claim(&me, &asked).await) {
            let mut held = crowd.held.lock().unwrap();
            held.extend(claimed.into_iter().filter_map(|claimed| match claimed {
                Claimed::Yes(claim) => Some((claim.key, *claim)),
                _ => None,
            }));
        }
        let mut some = crowd.held(&mut random);
        some.truncate(10);
        let settlements: Vec<_> = some
            .iter()
            .map(|claim| {
                let quiet = if random.random_bool(0.9) { Quiet::Yes } else { Quiet::Unsure };
                crowd.bench.plan(claim, outcome(&mut random, claim), quiet)
            })
            .collect();
        if let Some(settled) = unless_it_waited(WorkerLedger::settle(&crowd.ledger, &settlements).await) {
            crowd.settled.fetch_add(settled.len(), Ordering::Relaxed);
            let mut held = crowd.held.lock().unwrap();
            some.iter().for_each(|claim| drop(held.remove(&claim.key)));
        }
    }
}

fn outcome(random: &mut StdRng, claim: &Claim) -> Outcome {
    match random.random_range(0..20) {
        0 => retry(),
        1 => refusal(),
        2 if claim.step.as_str() == CONFIGURE && claim.workflow.as_str() == PROVISION => send_back(CREATE),
        _ => {
            let memory = Memory::default().with("token", random.random::<u32>());
            Outcome::Success { output: json!({}), memory, note: None }
        }
    }
}

async fn renew(crowd: &Crowd<'_>, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    while !crowd.is_over() {
        let leases: Vec<_> =
            crowd.held(&mut random).iter().map(|claim| Lease { key: claim.key, length: LEASE }).collect();
        unless_it_waited(crowd.ledger.renew(&worker(&format!("worker-{seed}")), &leases).await);
    }
}

async fn relay(crowd: &Crowd<'_>) {
    let mut random = StdRng::seed_from_u64(3);
    while !crowd.is_over() {
        unless_it_waited(crowd.ledger.intake(10).await);
        let workflows = [PROVISION, RECONFIGURE, DEPROVISION, BRITTLE];
        let runs: Vec<_> = workflows.iter().map(|workflow| new_run(workflow, crowd.anybody(&mut random))).collect();
        unless_it_waited(crowd.ledger.start(&runs).await);
        unless_it_waited(crowd.ledger.exceed(10).await);
        unless_it_waited(crowd.ledger.explain(10).await);
        unless_it_waited(crowd.ledger.look_again(10).await);
        unless_it_waited(crowd.ledger.project_pending(10).await);
        for expired in crowd.ledger.expired(10).await.unwrap() {
            unless_it_waited(RelayLedger::settle(&crowd.ledger, &[crowd.bench.plan_rescue(&expired)]).await);
        }
    }
}

async fn command(crowd: &Crowd<'_>) {
    let mut random = StdRng::seed_from_u64(4);
    let ana = by("ana");
    while !crowd.is_over() {
        let runs: Vec<(uuid::Uuid,)> = sqlx::query_as("select id from sluice.run where state in ('active', 'dead')")
            .fetch_all(crowd.bench.world.pool())
            .await
            .unwrap();
        let mut runs: Vec<_> = runs.into_iter().map(|(id,)| workflows::ids::RunId::new(id)).collect();
        runs.shuffle(&mut random);
        for run in runs.into_iter().take(3) {
            if random.random_bool(0.5) {
                unless_it_waited(crowd.ledger.revive(run, &ana).await);
            } else {
                unless_it_waited(crowd.ledger.cancel(run, &ana).await);
            }
            unless_it_waited(crowd.ledger.doubt(run).await);
        }
        let budget = if random.random_bool(0.5) { Budget::Kept } else { Budget::Fresh };
        crowd.bench.world.ask_again(crowd.anybody(&mut random), budget).await;
    }
}

async fn close_gates(crowd: &Crowd<'_>) {
    let mut random = StdRng::seed_from_u64(5);
    let ana = by("ana");
    let limits = |random: &mut StdRng| random.random_bool(0.5).then(|| random.random_range(1..8));
    while !crowd.is_over() {
        for (scope, name) in [(Scope::Step, CREATE), (Scope::Host, HOST), (Scope::Workflow, DEPROVISION)] {
            unless_it_waited(crowd.ledger.pause(scope, name, &ana).await);
            unless_it_waited(crowd.ledger.resume(scope, name, &ana).await);
            let (places, rate) = (limits(&mut random), limits(&mut random).map(|rate| f64::from(rate) * 50.0));
            unless_it_waited(crowd.ledger.set_concurrency(scope, name, places, &ana).await);
            unless_it_waited(crowd.ledger.set_rate(scope, name, rate, &ana).await);
        }
        let nobody = workflows::ids::RunId::new(uuid::Uuid::from_u128(random.next_u64().into()));
        let heard = [Signal::of(nobody, HostSignal::Failing), Signal::of(nobody, HostSignal::Healthy)];
        unless_it_waited(crowd.ledger.report(HOST, &heard, None, &Rules::default(), 0.5).await);
    }
}
