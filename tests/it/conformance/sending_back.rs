//! A later step finds that an earlier one's effect is gone: the run goes back, a bounded number of
//! times.

use sluice::ledger::{Changed, OperatorLedger};
use workflows::state::{DeathReason, RunState, Spent, StepState};

use super::{
    bench::{Bench, CONFIGURE, CREATE, LONG, PROVISION, STEPS, VERIFY, by, retry, run_after, send_back, success, user},
    world::{Moment, World},
};

pub async fn a_send_back_runs_the_earlier_step_and_those_between_again(bench: &Bench<impl World>) {
    let run = bench.start(PROVISION, user()).await;
    bench.succeed(run, &STEPS[..2]).await;

    assert_eq!(bench.work(run, VERIFY, send_back(CREATE)).await, RunState::Active);

    let target = bench.step(run, 0).await;
    assert_eq!((target.state, target.moment, target.spent.send_backs), (StepState::Due, Moment::Now, 1));
    for position in [1, 2] {
        let waiting = bench.step(run, position).await;
        assert_eq!((waiting.state, waiting.moment, waiting.spent), (StepState::Due, Moment::Waits, Spent::default()));
    }
    bench.world.advance(LONG).await;
    assert_eq!(bench.due(CONFIGURE).await, []);
    assert_eq!(bench.due(VERIFY).await, []);
    bench.succeed(run, &STEPS[..2]).await;
    let claim = bench.take(run, VERIFY).await;
    assert_eq!(claim.send_backs, [1, 0]);
    assert_eq!(run_after(&bench.settle(&claim, success()).await), RunState::Succeeded);
    let outcomes = ["succeeded", "succeeded", "sent_back", "succeeded", "succeeded", "succeeded"];
    assert_eq!(bench.outcomes(run).await, outcomes);
}

pub async fn a_send_back_keeps_failures(bench: &Bench<impl World>) {
    let run = bench.start(PROVISION, user()).await;
    bench.work(run, CREATE, retry()).await;
    bench.world.advance(LONG).await;
    bench.succeed(run, &[CREATE]).await;
    bench.work(run, CONFIGURE, retry()).await;
    bench.world.advance(LONG).await;

    bench.work(run, CONFIGURE, send_back(CREATE)).await;

    assert_eq!(bench.step(run, 0).await.spent, Spent { failures: 1, send_backs: 1, ..Spent::default() });
    assert_eq!(bench.step(run, 1).await.spent, Spent { failures: 1, ..Spent::default() });
}

pub async fn a_run_that_is_sent_back_too_often_dies_and_can_be_revived_to_its_end(bench: &Bench<impl World>) {
    let run = bench.start(PROVISION, user()).await;
    bench.succeed(run, &STEPS[..2]).await;
    bench.work(run, VERIFY, send_back(CREATE)).await;
    bench.succeed(run, &STEPS[..2]).await;

    assert_eq!(bench.work(run, VERIFY, send_back(CREATE)).await, RunState::Dead);

    let letters = bench.world.dead_letters(run).await;
    assert_eq!((letters[0].position, letters[0].reason), (0, DeathReason::AttemptsExhausted));
    assert_eq!(bench.state(run, 0).await, StepState::Dead);
    assert_eq!(bench.ledger().revive(run, &by("ana")).await.unwrap(), Changed::Yes);
    assert_eq!(bench.step(run, 0).await.spent, Spent::default());
    bench.succeed(run, &STEPS).await;
    assert_eq!(bench.world.run(run).await, RunState::Succeeded);
}
