//! From `dispatched` to `running`: one worker, an open gate, a quiet resource, and a lease.

use std::time::Duration;

use serde_json::json;
use sluice::ledger::{Claimed, Key, Lease, Ledger, PutBack, Settled, settlement::Quiet};
use workflows::{
    definition::{EXCLUSIVE_CALL, Reach, Registry},
    ids::InstanceName,
    outcome::{Facts, Outcome},
    secret::Secret,
    state::StepState,
};

use super::{
    bench::{
        Bench, LEASE, LIMITS, LONG, PROVISION, defer, refusal, registry, retry, success, success_with, token, user,
        worker, workflow,
    },
    world::{Gate, Moment, Scope, World},
};

const CREATE: &str = "create-instance";

fn assert_put_back(claimed: &Claimed, why: PutBack) {
    assert!(matches!(claimed, Claimed::PutBack(seen) if *seen == why), "{claimed:?} and not {why:?}");
}

pub async fn a_claim_needs_the_token_of_its_dispatch(bench: &Bench<impl World>) {
    let run = bench.start(PROVISION, user()).await;
    let lost = bench.dispatch_of(run, CREATE).await;
    bench.ledger().lose().await.unwrap();
    let key = bench.dispatch_of(run, CREATE).await;

    assert!(matches!(bench.claim("w", lost).await, Claimed::Stale));
    assert!(matches!(bench.claim("w", Key { position: 1, ..key }).await, Claimed::Stale));
    assert_eq!(bench.state(run, 0).await, StepState::Dispatched);
    let Claimed::Yes(claim) = bench.claim("w", key).await else { panic!("it was not claimed") };

    assert_eq!((claim.key, claim.attempt, claim.step.as_str()), (key, 1, CREATE));
    assert_eq!(claim.given.instance, InstanceName::of_user(claim.given.subject.user().unwrap()));
    assert_eq!(bench.state(run, 0).await, StepState::Running);
}

pub async fn of_two_claims_of_one_step_one_wins(bench: &Bench<impl World>) {
    for _ in 0..10 {
        let run = bench.start(PROVISION, user()).await;
        let keys = [bench.dispatch_of(run, CREATE).await];
        let (one, other) = (bench.ledger().clone(), bench.ledger().clone());

        let (workers, [first, second]) = ([worker("one"), worker("other")], [&keys, &keys]);
        let (a, b) = tokio::join!(one.claim(&workers[0], first), other.claim(&workers[1], second));

        let claimed = [a.unwrap().remove(0), b.unwrap().remove(0)];
        let won = claimed.iter().filter(|claimed| matches!(claimed, Claimed::Yes(_))).count();
        let stale = claimed.iter().filter(|claimed| matches!(claimed, Claimed::Stale)).count();
        assert_eq!((won, stale), (1, 1), "{claimed:?}");
    }
}

pub async fn a_step_asked_for_twice_in_one_batch_is_claimed_once(bench: &Bench<impl World>) {
    let run = bench.start(PROVISION, user()).await;
    let key = bench.dispatch_of(run, CREATE).await;

    let claimed = bench.ledger().claim(&worker("w"), &[key, key]).await.unwrap();

    assert!(matches!(claimed[..], [Claimed::Yes(_), Claimed::Stale]), "{claimed:?}");
}

pub async fn a_claim_is_given_what_the_step_before_put_out(bench: &Bench<impl World>) {
    let user = user();
    let run = bench.start(PROVISION, user).await;
    let first = bench.take(run, CREATE).await;
    assert_eq!(first.given.input, json!({ "for": user }));
    bench.settle(&first, success_with(json!({ "adopted": true }))).await;

    let second = bench.take(run, "configure-webhooks").await;

    assert_eq!(second.given.input, json!({ "adopted": true }));
    assert_eq!(second.send_backs, [0]);
}

pub async fn a_claim_at_a_closed_gate_goes_back_uncounted(bench: &Bench<impl World>) {
    goes_back_uncounted(bench, Gate::Pause).await;
}

pub async fn a_claim_at_a_held_gate_goes_back_uncounted(bench: &Bench<impl World>) {
    goes_back_uncounted(bench, |scope, name| Gate::Hold(scope, name, LONG)).await;
}

async fn goes_back_uncounted(bench: &Bench<impl World>, close: impl Fn(Scope, &'static str) -> Gate<'static>) {
    let run = bench.start(PROVISION, user()).await;
    let gates = [(Scope::Step, CREATE), (Scope::Workflow, PROVISION), (Scope::Host, "api.example")];
    for (scope, name) in gates {
        let key = bench.dispatch_of(run, CREATE).await;
        bench.world.set(close(scope, name)).await;
        let mut asking = worker("w");
        asking.host = Some("api.example".to_owned());

        let claimed = bench.ledger().claim(&asking, &[key]).await.unwrap().remove(0);

        assert_put_back(&claimed, PutBack::GateClosed);
        let step = bench.step(run, 0).await;
        assert_eq!((step.state, step.spent), (StepState::Due, Default::default()));
        bench.world.set(Gate::Resume(scope, name)).await;
        bench.world.advance(Duration::from_secs(2)).await;
    }
    bench.take(run, CREATE).await;
}

pub async fn an_exclusive_claim_keeps_the_resource_busy_until_its_lease_would_have_ended(bench: &Bench<impl World>) {
    let run = bench.start(PROVISION, user()).await;
    let claim = bench.take(run, CREATE).await;
    assert!(bench.world.is_busy(&claim.given.instance).await);
    bench.write(bench.plan(&claim, retry(), Quiet::Unsure)).await;
    bench.world.advance(Duration::from_secs(2)).await;

    let key = bench.dispatch_of(run, CREATE).await;
    assert_put_back(&bench.claim("w", key).await, PutBack::ResourceBusy);
    let step = bench.step(run, 0).await;
    assert_eq!((step.state, step.moment, step.spent.failures), (StepState::Due, Moment::Later, 1));
    bench.world.advance(LEASE - Duration::from_secs(2)).await;

    assert!(!bench.world.is_busy(&claim.given.instance).await);
    bench.take(run, CREATE).await;
}

pub async fn a_renewal_keeps_the_resource_busy_longer(bench: &Bench<impl World>) {
    let run = bench.start(PROVISION, user()).await;
    let claim = bench.take(run, CREATE).await;
    bench.world.advance(LEASE / 2).await;
    bench.ledger().renew(&worker("w"), &[Lease { key: claim.key, length: LEASE }]).await.unwrap();
    bench.write(bench.plan(&claim, defer(), Quiet::Unsure)).await;

    bench.world.advance(LEASE * 7 / 10).await;
    assert!(bench.world.is_busy(&claim.given.instance).await);
    bench.world.advance(LEASE * 3 / 10).await;

    assert!(!bench.world.is_busy(&claim.given.instance).await);
}

pub async fn a_call_without_an_answer_keeps_the_resource_busy_for_as_long_as_a_call_takes(bench: &Bench<impl World>) {
    let run = bench.start(PROVISION, user()).await;
    let claim = bench.take(run, CREATE).await;
    bench.world.advance(LEASE * 2).await;

    bench.write(bench.plan(&claim, defer(), Quiet::Unsure)).await;

    bench.world.advance(EXCLUSIVE_CALL / 2).await;
    assert!(bench.world.is_busy(&claim.given.instance).await);
    bench.world.advance(EXCLUSIVE_CALL / 2).await;
    assert!(!bench.world.is_busy(&claim.given.instance).await);
}

pub async fn a_rescue_keeps_the_resource_busy_no_longer_than_the_lease(bench: &Bench<impl World>) {
    let run = bench.start(PROVISION, user()).await;
    let claim = bench.take(run, CREATE).await;
    bench.world.advance(LEASE * 2).await;

    assert_eq!(bench.rescue().await, 1);

    assert!(!bench.world.is_busy(&claim.given.instance).await);
}

pub async fn a_renewal_keeps_nothing_busy_that_another_attempt_made_busy(bench: &Bench<impl World>) {
    let user = user();
    let run = bench.start(PROVISION, user).await;
    let gone = bench.take(run, CREATE).await;
    bench.write(bench.plan(&gone, refusal(), Quiet::Unsure)).await;
    bench.world.advance(LEASE).await;
    let shared = bench.start("reconfigure-webhooks", user).await;
    let claim = bench.take(shared, "configure-webhooks").await;

    bench.ledger().renew(&worker("w"), &[Lease { key: claim.key, length: LEASE }]).await.unwrap();

    assert!(!bench.world.is_busy(&claim.given.instance).await);
}

pub async fn a_final_answer_frees_the_resource(bench: &Bench<impl World>) {
    let run = bench.start(PROVISION, user()).await;
    let claim = bench.take(run, CREATE).await;

    bench.settle(&claim, retry()).await;

    assert!(!bench.world.is_busy(&claim.given.instance).await);
    bench.world.advance(Duration::from_secs(2)).await;
    bench.take(run, CREATE).await;
}

pub async fn a_late_final_answer_does_not_free_what_another_attempt_keeps_busy(bench: &Bench<impl World>) {
    let run = bench.start(PROVISION, user()).await;
    let late = bench.take_as("late", run, CREATE).await;
    bench.world.advance(LEASE + Duration::from_secs(1)).await;
    assert_eq!(bench.rescue().await, 1);
    let claim = bench.take_as("next", run, CREATE).await;

    assert_eq!(bench.settle(&late, success()).await, Settled::Stale);

    assert!(bench.world.is_busy(&claim.given.instance).await);
}

pub async fn a_create_counts_as_claimed_only_after_an_exclusive_claim(bench: &Bench<impl World>) {
    let user = user();
    let shared = bench.start("reconfigure-webhooks", user).await;
    let claim = bench.take(shared, "configure-webhooks").await;
    bench.settle(&claim, success()).await;
    bench.succeed(shared, &["verify"]).await;
    let run = bench.start(PROVISION, user).await;

    let first = bench.take(run, CREATE).await;
    bench.settle(&first, retry()).await;
    bench.world.advance(LONG).await;
    let second = bench.take(run, CREATE).await;

    assert!(!claim.given.created_before);
    assert!(!first.given.created_before);
    assert!(second.given.created_before);
}

pub async fn an_unknown_version_waits_longer_each_time(bench: &Bench<impl World>) {
    let ours = registry();
    let newer = workflow(PROVISION, 2, 0, LIMITS, &[(CREATE, Reach::Exclusive), ("configure-webhooks", Reach::Shared)]);
    let both = Registry::new(ours.all().cloned().chain([newer]).collect());
    let new = super::bench::new_run(PROVISION, user());
    bench.world.build(both).start(std::slice::from_ref(&new)).await.unwrap();

    for seconds in [5, 10, 20, 40, 60, 60] {
        let key = bench.dispatch_of(new.id, CREATE).await;
        assert_put_back(&bench.claim("w", key).await, PutBack::UnknownDefinition);
        bench.world.advance(Duration::from_secs(seconds - 2)).await;
        assert!(bench.dispatch(CREATE, 10).await.is_empty(), "before {seconds} s have gone by");
        bench.world.advance(Duration::from_secs(3)).await;
    }

    let spent = bench.step(new.id, 0).await.spent;
    assert_eq!((spent.failures, spent.crashes), (0, 0));
}

pub async fn a_renewal_extends_the_lease_and_reports_a_lost_one(bench: &Bench<impl World>) {
    let run = bench.start(PROVISION, user()).await;
    let claim = bench.take(run, CREATE).await;
    let lease = Lease { key: claim.key, length: LEASE };
    let unknown = Lease { key: Key { token: token(), ..claim.key }, length: LEASE };

    for _ in 0..5 {
        bench.world.advance(LEASE * 7 / 10).await;
        let renewed = bench.ledger().renew(&worker("w"), &[unknown, lease]).await.unwrap();
        assert_eq!(renewed, [false, true]);
        assert_eq!(bench.rescue().await, 0);
    }
    bench.world.advance(LEASE + Duration::from_secs(1)).await;
    assert_eq!(bench.rescue().await, 1);

    assert_eq!(bench.ledger().renew(&worker("w"), &[lease]).await.unwrap(), [false]);
    let adopted = Facts { token: Some(Secret::new("theirs")), ..Facts::default() };
    let late = Outcome::Success { output: json!({}), facts: adopted, note: None };
    assert_eq!(bench.settle(&claim, late).await, Settled::Stale);
    assert_ne!(bench.subject_token(&claim.given.subject).await, "theirs");
}

pub async fn only_a_running_step_is_renewed(bench: &Bench<impl World>) {
    let run = bench.start(PROVISION, user()).await;
    let lease = Lease { key: bench.dispatch_of(run, CREATE).await, length: LEASE };

    assert_eq!(bench.ledger().renew(&worker("w"), &[lease]).await.unwrap(), [false]);

    assert_eq!(bench.state(run, 0).await, StepState::Dispatched);
}

pub async fn a_renewal_without_the_token_extends_nothing(bench: &Bench<impl World>) {
    let run = bench.start(PROVISION, user()).await;
    let claim = bench.take(run, CREATE).await;
    let forged = Lease { key: Key { token: token(), ..claim.key }, length: LEASE };
    bench.world.advance(LEASE * 7 / 10).await;

    assert_eq!(bench.ledger().renew(&worker("other"), &[forged]).await.unwrap(), [false]);

    bench.world.advance(LEASE / 2).await;
    assert_eq!(bench.rescue().await, 1);
}
