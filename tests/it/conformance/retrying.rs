//! What counts towards a step's budget, and what does not.

use std::time::Duration;

use sluice::ledger::RelayLedger;
use workflows::{
    state::{DeathReason, RunState, Spent, StepState},
    whatsapp::names::UserId,
};

use super::{
    bench::{Bench, CONFIGURE, CREATE, LIMITS, LONG, PROVISION, VERIFY, defer, retry, success, user},
    world::{Moment, World},
};

pub async fn failures_count_and_end_the_run_at_the_limit(bench: &Bench<impl World>) {
    let run = bench.start(PROVISION, user()).await;

    for failures in 1..LIMITS.failures {
        assert_eq!(bench.work(run, CREATE, retry()).await, RunState::Active);
        let step = bench.step(run, 0).await;
        assert_eq!((step.state, step.spent), (StepState::Due, Spent { failures, ..Spent::default() }));
        bench.world.advance(LONG).await;
    }
    assert_eq!(bench.work(run, CREATE, retry()).await, RunState::Dead);

    let letters = bench.world.dead_letters(run).await;
    assert_eq!((letters.len(), letters[0].reason), (1, DeathReason::AttemptsExhausted));
    assert_eq!(bench.outcomes(run).await, ["failed"; 3]);
}

pub async fn a_success_forgets_no_failures(bench: &Bench<impl World>) {
    let run = bench.start(PROVISION, user()).await;
    bench.work(run, CREATE, retry()).await;
    bench.world.advance(LONG).await;

    bench.work(run, CREATE, success()).await;

    assert_eq!(bench.step(run, 0).await.spent.failures, 1);
    assert_eq!(bench.step(run, 1).await.spent, Spent::default());
}

pub async fn defers_never_count(bench: &Bench<impl World>) {
    let run = bench.start(PROVISION, user()).await;

    for defers in 1..=20 {
        bench.work(run, CREATE, defer()).await;
        assert_eq!(bench.step(run, 0).await.spent, Spent { defers, ..Spent::default() });
        bench.world.advance(LONG).await;
    }
    bench.work(run, CREATE, success()).await;

    assert_eq!(bench.step(run, 0).await.spent, Spent::default());
    assert_eq!(bench.world.run(run).await, RunState::Active);
}

pub async fn a_failed_step_waits_out_its_delay(bench: &Bench<impl World>) {
    let run = bench.start(PROVISION, user()).await;
    for _ in 1..LIMITS.failures {
        bench.world.advance(LONG).await;
        bench.work(run, CREATE, retry()).await;
    }

    // The second failure's delay is 2 s. Its neighbours wait for nobody.
    let neighbour = bench.start(PROVISION, user()).await;
    assert_eq!(bench.step(run, 0).await.moment, Moment::Later);
    assert_eq!(bench.due(CREATE).await, [bench.due_of(neighbour, CREATE).await]);
    bench.world.advance(Duration::from_secs(2)).await;

    assert_eq!(bench.due(CREATE).await.len(), 2);
}

pub async fn a_row_counts_its_retries_alike_while_its_run_is_under_way_and_after(bench: &Bench<impl World>) {
    let (lives, dies) = (user(), user());
    for user in [lives, dies] {
        bench.world.sign_up(user).await;
    }
    let taken = bench.ledger().intake(10).await.unwrap().started;
    let run_of = |user: UserId| taken.iter().find(|taken| taken.subject == user.subject()).unwrap().run;
    let runs = [lives, dies].map(run_of);
    for run in runs {
        bench.succeed(run, &[CREATE, CONFIGURE]).await;
        bench.work(run, VERIFY, retry()).await;
        bench.world.advance(LONG).await;
        bench.work(run, VERIFY, retry()).await;
        bench.world.advance(LONG).await;
    }
    let under_way = [bench.world.queue_row(lives).await, bench.world.queue_row(dies).await];
    bench.work(runs[0], VERIFY, success()).await;
    bench.work(runs[1], VERIFY, retry()).await;

    let after = [bench.world.queue_row(lives).await, bench.world.queue_row(dies).await];
    assert_eq!(under_way.map(|row| row.retry_count), [2, 2]);
    assert_eq!([after[0].status.as_str(), after[1].status.as_str()], ["completed", "failed"]);
    assert_eq!(after.map(|row| row.retry_count), [2, LIMITS.failures]);
}
