//! Limits: how many steps start in a second, and how many run at once. A claim is a start; the
//! gate's row keeps the count, so that any number of workers share it.

use std::time::{Duration, Instant};

use sluice::ledger::{Claim, Claimed, DueKey, OperatorLedger, Refusal, WorkerLedger};

use super::{
    bench::{
        BRITTLE, Bench, CONFIGURE, CREATE, DEPROVISION, HOST, LEASE, LONG, PROVISION, RECONFIGURE, ask, by, defer,
        due_after, success, user, worker,
    },
    claiming::assert_refused,
    world::{Gate, Scope, World},
};

/// What was claimed; the rest was refused by a gate.
fn taken(claimed: Vec<Claimed>) -> Vec<Claim> {
    let taken = claimed.into_iter().filter_map(|claimed| match claimed {
        Claimed::Yes(claim) => Some(*claim),
        Claimed::Refused(Refusal::GateClosed) => None,
        other => panic!("{other:?}"),
    });
    taken.collect()
}

/// Those of the keys that were not taken.
fn left(keys: &[DueKey], taken: &[Claim]) -> Vec<DueKey> {
    keys.iter().filter(|key| taken.iter().all(|claim| claim.key.run != key.run)).copied().collect()
}

/// Two workers ask for all of it at once.
async fn two_workers_claim(bench: &Bench<impl World>, keys: &[DueKey]) -> Vec<Claim> {
    let (one, other) = (bench.ledger().clone(), bench.ledger().clone());
    let (odd, even): (Vec<_>, Vec<_>) = keys.iter().enumerate().partition(|(at, _)| at % 2 == 1);
    let keys_of = |half: Vec<(usize, &DueKey)>| half.into_iter().map(|(_, key)| ask(*key)).collect::<Vec<_>>();
    let (odd, even) = (keys_of(odd), keys_of(even));
    let workers = [worker("one"), worker("other")];
    let (a, b) = tokio::join!(one.claim(&workers[0], &odd), other.claim(&workers[1], &even));
    let mut claimed = a.unwrap();
    claimed.append(&mut b.unwrap());
    taken(claimed)
}

pub async fn a_rate_bounds_the_starts_per_second(bench: &Bench<impl World>) {
    bench.start_many(PROVISION, 40).await;
    let mut keys = bench.due(CREATE).await;
    bench.world.set(Gate::Rate(Scope::Step, CREATE, 4.0)).await;
    bench.world.advance(Duration::from_secs(60)).await;

    // However long nothing was started, no more than one second's worth is in store.
    let over = |since: Instant| (4.0 * since.elapsed().as_secs_f64()) as usize;
    let (began, mut started) = (Instant::now(), 0);
    for _ in 0..12 {
        let asked = Instant::now();
        let claims = taken(bench.claim_all("w", &keys).await);
        assert!(claims.len() <= 4 + over(asked), "{} at once", claims.len());
        keys = left(&keys, &claims);
        started += claims.len();
        bench.world.advance(Duration::from_millis(500)).await;
    }

    // What was in store, six seconds, and what the test's own calls took.
    let most = 4 + 24 + over(began);
    assert!((22..=most).contains(&started), "{started} in six seconds, and at most {most}");
}

pub async fn two_workers_share_a_rate_to_the_step(bench: &Bench<impl World>) {
    const RATE: f64 = 7.0;
    bench.start_many(PROVISION, 60).await;
    let mut keys = bench.due(CREATE).await;
    bench.world.set(Gate::Rate(Scope::Step, CREATE, RATE)).await;
    bench.world.advance(Duration::from_secs(60)).await;
    let began = Instant::now();

    let mut started = Vec::new();
    for _ in 0..5 {
        let claims = two_workers_claim(bench, &keys).await;
        keys = left(&keys, &claims);
        started.push(claims.len());
        bench.world.advance(Duration::from_secs(1)).await;
    }

    // What the test's own calls took is time too.
    let over = (RATE * began.elapsed().as_secs_f64()).floor() as usize;
    assert!(started.iter().all(|starts| (7..=7 + over).contains(starts)), "{started:?}, and {over} over");
    assert!((35..=35 + over).contains(&started.iter().sum()), "{started:?}, and {over} over");
}

pub async fn a_refused_claim_spends_no_allowance(bench: &Bench<impl World>) {
    bench.start_many(PROVISION, 3).await;
    let due = bench.due(CREATE).await;
    bench.world.set(Gate::Rate(Scope::Step, CREATE, 1.0)).await;
    bench.world.set(Gate::Pause(Scope::Workflow, PROVISION)).await;
    bench.world.advance(LONG).await;

    for key in &due {
        assert_refused(&bench.claim("w", *key).await, Refusal::GateClosed);
    }
    bench.world.set(Gate::Resume(Scope::Workflow, PROVISION)).await;

    assert!(matches!(bench.claim("w", due[0]).await, Claimed::Yes(_)));
}

pub async fn concurrency_bounds_the_running_steps(bench: &Bench<impl World>) {
    bench.start_many(PROVISION, 6).await;
    let keys = bench.due(CREATE).await;
    bench.world.set(Gate::Concurrency(Scope::Step, CREATE, 2)).await;

    let claims = two_workers_claim(bench, &keys).await;
    assert_eq!(claims.len(), 2, "not one more, whoever asks");
    let rest = left(&keys, &claims);
    assert!(taken(bench.claim_all("w", &rest).await).is_empty());
    bench.settle(&claims[0], success()).await;

    assert_eq!(two_workers_claim(bench, &rest).await.len(), 1);
}

pub async fn a_crash_and_a_defer_make_room_behind_a_concurrency(bench: &Bench<impl World>) {
    let runs = bench.start_many(PROVISION, 3).await;
    let due = |run| bench.due_of(run, CREATE);
    let keys = [due(runs[0]).await, due(runs[1]).await, due(runs[2]).await];
    bench.world.set(Gate::Concurrency(Scope::Step, CREATE, 1)).await;

    let first = taken(vec![bench.claim("w", keys[0]).await]);
    bench.settle(&first[0], defer()).await;
    let second = taken(vec![bench.claim("w", keys[1]).await]);
    assert_refused(&bench.claim("w", keys[2]).await, Refusal::GateClosed);
    bench.world.advance(LEASE * 2).await;
    assert_eq!((second.len(), bench.rescue().await), (1, 1));

    assert!(matches!(bench.claim("w", keys[2]).await, Claimed::Yes(_)));
}

pub async fn a_hosts_limit_counts_the_steps_of_all_its_queues(bench: &Bench<impl World>) {
    let create = bench.start(PROVISION, user()).await;
    let configure = bench.start(RECONFIGURE, user()).await;
    let delete = bench.start(DEPROVISION, user()).await;
    let elsewhere = bench.start(BRITTLE, user()).await;
    let steps = [(create, CREATE), (configure, CONFIGURE), (delete, "delete-instance"), (elsewhere, "first")];
    let mut keys = Vec::new();
    for (run, queue) in steps {
        keys.push(bench.due_of(run, queue).await);
    }
    bench.world.set(Gate::Concurrency(Scope::Host, HOST, 2)).await;

    let claims = taken(bench.claim_all("w", &keys).await);

    assert_eq!(claims.len(), 3, "two at the host, and one that calls none");
    assert!(claims.iter().any(|claim| claim.key.run == elsewhere));
}

pub async fn a_limit_says_how_many_hints_may_lie_about(bench: &Bench<impl World>) {
    bench.start_many(PROVISION, 12).await;
    let most = async || bench.waiting(CREATE, 100).await.expect("it is due").most;
    assert_eq!(most().await, None);

    bench.world.set(Gate::Rate(Scope::Host, HOST, 3.0)).await;
    bench.world.advance(Duration::from_secs(60)).await;
    let by_rate = most().await;
    bench.ledger().set_rate(Scope::Host, HOST, None, &by("ana")).await.unwrap();
    bench.world.set(Gate::Concurrency(Scope::Step, CREATE, 2)).await;
    let by_concurrency = most().await;

    // One second's worth, and one that takes the place of whoever is done.
    assert!(by_rate.is_some_and(|most| (3..=4).contains(&most)), "{by_rate:?}");
    assert!(by_concurrency.is_some_and(|most| (2..=4).contains(&most)), "{by_concurrency:?}");
}

pub async fn a_limited_queue_is_named_by_no_settle(bench: &Bench<impl World>) {
    for gate in [
        Gate::Rate(Scope::Step, CONFIGURE, 100.0),
        Gate::Concurrency(Scope::Step, CONFIGURE, 100),
        Gate::Rate(Scope::Host, HOST, 100.0),
    ] {
        let run = bench.start(PROVISION, user()).await;
        let claim = bench.take(run, CREATE).await;
        bench.world.set(gate).await;

        let settled = bench.settle(&claim, success()).await;

        assert_eq!(due_after(&settled), None, "{gate:?}");
        bench.world.advance(Duration::from_secs(1)).await;
        assert!(bench.due(CONFIGURE).await.iter().any(|key| key.run == run), "{gate:?}: the scan finds it");
        let (Gate::Rate(scope, name, _) | Gate::Concurrency(scope, name, _)) = gate else { unreachable!() };
        bench.ledger().set_rate(scope, name, None, &by("ana")).await.unwrap();
        bench.ledger().set_concurrency(scope, name, None, &by("ana")).await.unwrap();
        bench.world.advance(LONG).await;
    }
}
