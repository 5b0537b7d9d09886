//! From `running` to wherever the attempt led: written once, as a whole, by whoever holds the token.

use serde_json::json;
use sluice::ledger::{Ledger, Settled, settlement::Quiet};
use workflows::{
    outcome::{Facts, InstanceStatus, Outcome},
    secret::Secret,
    state::{DeathReason, RunState, StepState},
};

use super::{
    bench::{Bench, LEASE, LONG, PROVISION, defer, refusal, retry, success, success_with, user},
    world::{Moment, World},
};

const CREATE: &str = "create-instance";

pub async fn a_success_makes_the_next_step_due_with_its_output_and_facts(bench: &Bench<impl World>) {
    let user = user();
    let run = bench.start(PROVISION, user).await;
    let claim = bench.take(run, CREATE).await;
    let facts = Facts {
        token: Some(Secret::new("theirs")),
        status: Some(InstanceStatus::Connecting),
        qr_code: None,
        webhook_url: Some("https://app.example/hook".to_owned()),
    };
    let outcome = Outcome::Success { output: json!({ "made": 1 }), facts, note: Some("adopted".to_owned()) };

    assert_eq!(bench.settle(&claim, outcome).await, Settled::Done(RunState::Active));

    let (done, next) = (bench.step(run, 0).await, bench.step(run, 1).await);
    assert_eq!((done.state, done.output), (StepState::Succeeded, Some(json!({ "made": 1 }))));
    assert_eq!((next.state, next.moment), (StepState::Due, Moment::Now));
    let instance = bench.world.instance(&user.subject()).await;
    assert_eq!((instance.token.as_str(), instance.status.as_str()), ("theirs", "connecting"));
    assert_eq!(instance.webhook_url.as_deref(), Some("https://app.example/hook"));
    assert_eq!(bench.outcomes(run).await, ["succeeded"]);
    assert!(bench.world.events(run).await.is_empty());
}

pub async fn the_last_success_ends_the_run(bench: &Bench<impl World>) {
    let run = bench.start(PROVISION, user()).await;
    bench.succeed(run, &[CREATE, "configure-webhooks"]).await;

    assert_eq!(bench.work(run, "verify", success()).await, Settled::Done(RunState::Succeeded));

    assert_eq!(bench.world.run(run).await, RunState::Succeeded);
    assert_eq!(bench.world.events(run).await, ["provision-instance.succeeded"]);
    assert_eq!(bench.outcomes(run).await, ["succeeded"; 3]);
    assert_eq!(bench.world.step(run, 3).await, None);
}

pub async fn a_late_settle_changes_nothing(bench: &Bench<impl World>) {
    let run = bench.start(PROVISION, user()).await;
    let late = bench.take(run, CREATE).await;
    bench.settle(&late, retry()).await;
    bench.world.advance(LONG).await;
    bench.take(run, CREATE).await;
    let before = bench.step(run, 0).await;

    for outcome in [success(), retry(), refusal()] {
        assert_eq!(bench.settle(&late, outcome).await, Settled::Stale);
    }

    assert_eq!(bench.step(run, 0).await, before);
    assert_eq!(bench.world.step(run, 1).await, None);
    assert_eq!(bench.world.run(run).await, RunState::Active);
    assert_eq!(bench.outcomes(run).await, ["failed"]);
}

pub async fn a_settle_twice_in_one_batch_is_written_once(bench: &Bench<impl World>) {
    let run = bench.start(PROVISION, user()).await;
    let claim = bench.take(run, CREATE).await;
    let settlement = bench.plan(&claim, retry(), Quiet::Yes);

    let settled = bench.ledger().settle(&[settlement.clone(), settlement]).await.unwrap();

    assert_eq!(settled[0], Settled::Done(RunState::Active));
    assert_eq!(bench.outcomes(run).await, ["failed"]);
    assert_eq!(bench.step(run, 0).await.spent.failures, 1);
}

pub async fn a_late_settle_beside_the_right_one_changes_nothing(bench: &Bench<impl World>) {
    let user = user();
    let run = bench.start(PROVISION, user).await;
    let late = bench.take(run, CREATE).await;
    bench.settle(&late, retry()).await;
    bench.world.advance(LONG).await;
    let claim = bench.take(run, CREATE).await;
    let facts = Facts { token: Some(Secret::new("late")), ..Facts::default() };
    let late = bench.plan(&late, Outcome::Success { output: json!("late"), facts, note: None }, Quiet::Yes);
    let right = bench.plan(&claim, defer(), Quiet::Yes);

    let settled = bench.ledger().settle(&[late.clone(), right, late]).await.unwrap();

    assert_eq!(settled, [Settled::Stale, Settled::Done(RunState::Active), Settled::Stale]);
    let step = bench.step(run, 0).await;
    assert_eq!((step.state, step.spent.defers, step.output), (StepState::Due, 1, None));
    assert_eq!(bench.outcomes(run).await, ["failed", "deferred"]);
    assert_ne!(bench.subject_token(&user.subject()).await, "late");
    assert_eq!(bench.world.step(run, 1).await, None);
}

pub async fn a_permanent_failure_ends_the_run_at_once(bench: &Bench<impl World>) {
    let run = bench.dead_run(user()).await;

    let letters = bench.world.dead_letters(run).await;
    assert_eq!(bench.state(run, 0).await, StepState::Dead);
    assert_eq!((letters.len(), letters[0].position, letters[0].reason), (1, 0, DeathReason::PermanentError));
    assert_eq!(letters[0].resolution, None);
    assert_eq!(bench.world.events(run).await, ["provision-instance.dead"]);
    assert_eq!(bench.outcomes(run).await, ["refused"]);
}

pub async fn a_bad_settlement_harms_only_itself(bench: &Bench<impl World>) {
    let (good, bad) = (bench.start(PROVISION, user()).await, bench.start(PROVISION, user()).await);
    let keys = bench.dispatch(CREATE, 10).await;
    let claims = bench.ledger().claim(&super::bench::worker("w"), &keys).await.unwrap();
    let settlements: Vec<_> = claims
        .into_iter()
        .map(|claimed| match claimed {
            sluice::ledger::Claimed::Yes(claim) if claim.key.run == bad => {
                bench.plan(&claim, success_with(json!({ "text": "a\u{0}b" })), Quiet::Yes)
            }
            sluice::ledger::Claimed::Yes(claim) => bench.plan(&claim, success(), Quiet::Yes),
            other => panic!("{other:?}"),
        })
        .collect();

    let settled = bench.ledger().settle(&settlements).await.unwrap();

    for (settlement, settled) in settlements.iter().zip(settled) {
        match settlement.key.run == good {
            true => assert_eq!(settled, Settled::Done(RunState::Active)),
            false => assert!(matches!(settled, Settled::Refused(_)), "{settled:?}"),
        }
    }
    assert_eq!(bench.state(good, 1).await, StepState::Due);
    assert_eq!(bench.state(bad, 0).await, StepState::Running);
    assert!(bench.outcomes(bad).await.is_empty());
    // Its lease runs out, and a rescue says so.
    bench.world.advance(LEASE + LONG).await;
    assert_eq!(bench.rescue().await, 1);
    assert_eq!(bench.outcomes(bad).await, ["crashed"]);
}
