//! Runs on one resource run one at a time, in the order in which they were started.

use sluice::ledger::{Changed, OperatorLedger};
use workflows::{ids::RunId, state::RunState};

use super::{
    bench::{Bench, CONFIGURE, CREATE, DEPROVISION, PROVISION, RECONFIGURE, STEPS, VERIFY, by, refusal, success, user},
    world::{Moment, World},
};

async fn three_runs(bench: &Bench<impl World>) -> [RunId; 3] {
    let user = user();
    let first = bench.start(PROVISION, user).await;
    let second = bench.start(RECONFIGURE, user).await;
    let third = bench.start(DEPROVISION, user).await;
    [first, second, third]
}

async fn moments(bench: &Bench<impl World>, runs: [RunId; 3]) -> Vec<Moment> {
    let mut moments = Vec::new();
    for run in runs {
        moments.push(bench.step(run, 0).await.moment);
    }
    moments
}

pub async fn runs_on_one_resource_take_turns_in_order(bench: &Bench<impl World>) {
    let runs = three_runs(bench).await;
    let [first, second, third] = runs;
    assert_eq!(moments(bench, runs).await, [Moment::Now, Moment::Waits, Moment::Waits]);
    assert_eq!(bench.due("delete-instance").await, []);

    bench.succeed(first, &STEPS).await;
    assert_eq!(bench.step(second, 0).await.moment, Moment::Now);
    assert_eq!(bench.step(third, 0).await.moment, Moment::Waits);
    bench.succeed(second, &[CONFIGURE, VERIFY]).await;

    assert_eq!(bench.work(third, "delete-instance", success()).await, RunState::Succeeded);
}

pub async fn a_dead_run_gives_up_its_turn(bench: &Bench<impl World>) {
    let runs = three_runs(bench).await;

    bench.work(runs[0], CREATE, refusal()).await;

    assert_eq!(moments(bench, runs).await, [Moment::Waits, Moment::Now, Moment::Waits]);
}

pub async fn a_cancelled_run_gives_up_its_turn(bench: &Bench<impl World>) {
    let runs = three_runs(bench).await;

    assert_eq!(bench.ledger().cancel(runs[0], &by("deprovision")).await.unwrap(), Changed::Yes);

    assert_eq!(moments(bench, runs).await, [Moment::Waits, Moment::Now, Moment::Waits]);
}

pub async fn a_run_that_is_cancelled_while_it_waits_disturbs_nobody(bench: &Bench<impl World>) {
    let runs = three_runs(bench).await;
    let [first, second, third] = runs;

    bench.ledger().cancel(second, &by("deprovision")).await.unwrap();
    assert_eq!(moments(bench, runs).await, [Moment::Now, Moment::Waits, Moment::Waits]);
    bench.ledger().cancel(first, &by("deprovision")).await.unwrap();

    assert_eq!(bench.step(third, 0).await.moment, Moment::Now);
}
