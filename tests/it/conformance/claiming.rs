//! From `due` to `running`: one worker, the generation that is due, gates that pass, a quiet
//! resource, and a lease.

use std::time::Duration;

use serde_json::json;
use sluice::ledger::{
    Claim, Claimed, DueKey, Key, Lease, Refusal, RelayLedger, Settled, WorkerLedger, settlement::Quiet,
};
use tests::ledger::{Ledger, Started};
use workflows::{
    definition::{Definition, EXCLUSIVE_CALL, Reach, Registry},
    state::{Spent, StepState},
};

use super::{
    bench::{
        Bench, CONFIGURE, CREATE, DEPROVISION, HOST, LEASE, LIMITS, LONG, PROVISION, RECONFIGURE, VERIFY, ask, defer,
        forged_token, refusal, registry, resource_of, retry, success, success_that_keeps, success_with, user, worker,
        workflow,
    },
    world::{Budget, Gate, Moment, Scope, World},
};

pub fn assert_refused(claimed: &Claimed, why: Refusal) {
    assert!(matches!(claimed, Claimed::Refused(seen) if *seen == why), "{claimed:?} and not {why:?}");
}

pub fn assert_one_won(claimed: &[Claimed]) {
    let won = claimed.iter().filter(|claimed| matches!(claimed, Claimed::Yes(_))).count();
    let stale = claimed.iter().filter(|claimed| matches!(claimed, Claimed::Stale)).count();
    assert_eq!((won, stale), (1, claimed.len() - 1), "{claimed:?}");
}

pub async fn a_claim_needs_the_generation_that_is_due(bench: &Bench<impl World>) {
    let user = user();
    let run = bench.start(PROVISION, user).await;
    let key = bench.due_of(run, CREATE).await;

    for wrong in [
        DueKey { generation: key.generation - 1, ..key },
        DueKey { generation: key.generation + 1, ..key },
        DueKey { position: 1, ..key },
    ] {
        assert!(matches!(bench.claim("w", wrong).await, Claimed::Stale), "{wrong:?}");
    }
    assert_eq!(bench.state(run, 0).await, StepState::Due);
    let Claimed::Yes(claim) = bench.claim("w", key).await else { panic!("it was not claimed") };

    assert_eq!((claim.key.run, claim.key.position), (key.run, key.position));
    assert_eq!((claim.attempt, claim.step.as_str()), (1, CREATE));
    assert_eq!((&claim.input.subject, &claim.input.resource), (&user.subject(), &resource_of(user)));
    assert_eq!(bench.state(run, 0).await, StepState::Running);
}

pub async fn a_hint_of_an_earlier_generation_claims_nothing(bench: &Bench<impl World>) {
    let run = bench.start(PROVISION, user()).await;
    let mut hints = vec![bench.due_of(run, CREATE).await];
    for outcome in [retry(), defer()] {
        bench.work(run, CREATE, outcome).await;
        bench.world.advance(LONG).await;
        hints.push(bench.due_of(run, CREATE).await);
    }
    let now = hints.pop().unwrap();
    let before = bench.world.rows().await;

    for hint in &hints {
        assert!(matches!(bench.claim("w", *hint).await, Claimed::Stale), "{hint:?}");
    }

    assert!(hints.iter().all(|hint| hint.generation < now.generation), "{hints:?} before {now:?}");
    assert_eq!(bench.world.rows().await, before);
    assert!(matches!(bench.claim("w", now).await, Claimed::Yes(_)));
}

pub async fn a_claim_before_its_moment_takes_nothing(bench: &Bench<impl World>) {
    let run = bench.start(PROVISION, user()).await;
    bench.work(run, CREATE, retry()).await;
    let step = bench.step(run, 0).await;
    let before = bench.world.rows().await;

    let claimed = bench.claim("w", DueKey { run, position: 0, generation: step.generation }).await;

    assert!(!matches!(claimed, Claimed::Yes(_)), "{claimed:?}");
    assert_eq!((step.state, step.moment), (StepState::Due, Moment::Later));
    assert_eq!(bench.world.rows().await, before);
}

pub async fn a_step_that_waits_for_its_turn_is_not_claimed(bench: &Bench<impl World>) {
    let user = user();
    bench.start(PROVISION, user).await;
    let second = bench.start(DEPROVISION, user).await;
    let step = bench.step(second, 0).await;
    let before = bench.world.rows().await;

    let claimed = bench.claim("w", DueKey { run: second, position: 0, generation: step.generation }).await;

    assert!(!matches!(claimed, Claimed::Yes(_)), "{claimed:?}");
    assert_eq!((step.state, step.moment), (StepState::Due, Moment::Waits));
    assert_eq!(bench.world.rows().await, before);
}

pub async fn of_two_claims_of_one_step_one_wins(bench: &Bench<impl World>) {
    for _ in 0..10 {
        let run = bench.start(PROVISION, user()).await;
        let asked = [ask(bench.due_of(run, CREATE).await)];
        let (one, other) = (bench.ledger().clone(), bench.ledger().clone());

        let (workers, [first, second]) = ([worker("one"), worker("other")], [&asked, &asked]);
        let (a, b) = tokio::join!(one.claim(&workers[0], first), other.claim(&workers[1], second));

        assert_one_won(&[a.unwrap().remove(0), b.unwrap().remove(0)]);
    }
}

pub async fn a_step_asked_for_twice_in_one_batch_is_claimed_once(bench: &Bench<impl World>) {
    // A step that keeps nothing busy, so that only its own state stands between the two.
    let run = bench.start(RECONFIGURE, user()).await;
    let key = bench.due_of(run, CONFIGURE).await;

    assert_one_won(&bench.claim_all("w", &[key, key]).await);
}

pub async fn each_claim_of_a_batch_has_its_own_answer(bench: &Bench<impl World>) {
    let runs = bench.start_many(PROVISION, 3).await;
    let other = bench.start(DEPROVISION, user()).await;
    let [first, gone, last] = [runs[0], runs[1], runs[2]];
    let mut keys = Vec::new();
    for run in [last, gone, first] {
        keys.push(bench.due_of(run, CREATE).await);
    }
    keys.insert(1, bench.due_of(other, "delete-instance").await);
    bench.work(gone, CREATE, success()).await;
    bench.world.set(Gate::Pause(Scope::Workflow, DEPROVISION)).await;

    let claimed = bench.claim_all("w", &keys).await;

    let [Claimed::Yes(one), Claimed::Refused(Refusal::GateClosed), Claimed::Stale, Claimed::Yes(other)] = &claimed[..]
    else {
        panic!("{claimed:?}")
    };
    assert_eq!((one.key.run, other.key.run), (last, first));
    assert_ne!(one.key.token, other.key.token);
}

pub async fn each_claim_draws_another_token(bench: &Bench<impl World>) {
    let run = bench.start(PROVISION, user()).await;

    let first = bench.take(run, CREATE).await;
    bench.settle(&first, defer()).await;
    bench.world.advance(LONG).await;
    let second = bench.take(run, CREATE).await;

    assert_ne!(first.key.token, second.key.token);
    assert_eq!((first.attempt, second.attempt), (1, 2));
}

pub async fn a_claim_is_given_what_the_step_before_put_out(bench: &Bench<impl World>) {
    let user = user();
    let run = bench.start(PROVISION, user).await;
    let first = bench.take(run, CREATE).await;
    assert_eq!(first.input.input, json!({ "for": user }));
    bench.settle(&first, success_with(json!({ "adopted": true }))).await;

    let second = bench.take(run, CONFIGURE).await;

    assert_eq!(second.input.input, json!({ "adopted": true }));
    assert_eq!(second.send_backs, [0]);
}

pub async fn a_claim_is_given_what_is_kept_of_the_resource(bench: &Bench<impl World>) {
    let user = user();
    let run = bench.start(PROVISION, user).await;
    let first = bench.take(run, CREATE).await;
    assert!(first.input.memory.is_empty());
    bench.settle(&first, success_that_keeps("theirs")).await;

    let second = bench.take(run, CONFIGURE).await;

    assert_eq!(second.input.memory.get("token"), Some(&json!("theirs")));
    assert_eq!(second.input.secret.expose(), first.input.secret.expose());
    assert_eq!(second.input.secret.expose(), bench.world.resource(&resource_of(user)).await.secret);
}

pub async fn a_claim_at_a_closed_gate_writes_nothing(bench: &Bench<impl World>) {
    is_refused_uncounted(bench, Gate::Pause).await;
}

pub async fn a_claim_at_a_held_gate_writes_nothing(bench: &Bench<impl World>) {
    is_refused_uncounted(bench, |scope, name| Gate::Hold(scope, name, LONG)).await;
}

async fn is_refused_uncounted(bench: &Bench<impl World>, close: impl Fn(Scope, &'static str) -> Gate<'static>) {
    let run = bench.start(PROVISION, user()).await;
    let key = bench.due_of(run, CREATE).await;
    for (scope, name) in [(Scope::Step, CREATE), (Scope::Workflow, PROVISION), (Scope::Host, HOST)] {
        bench.world.set(close(scope, name)).await;
        let before = bench.world.rows().await;

        let claimed = bench.claim("w", key).await;

        assert_refused(&claimed, Refusal::GateClosed);
        assert_eq!(bench.world.rows().await, before, "behind {scope:?}");
        let step = bench.step(run, 0).await;
        assert_eq!((step.state, step.moment, step.spent), (StepState::Due, Moment::Now, Spent::default()));
        bench.world.set(Gate::Resume(scope, name)).await;
        // Long enough that nothing is left of the slow start.
        bench.world.advance(Duration::from_secs(20)).await;
    }
    assert!(matches!(bench.claim("w", key).await, Claimed::Yes(_)), "the same hint is as good as it was");
}

pub async fn a_claim_of_a_busy_resource_writes_nothing(bench: &Bench<impl World>) {
    let run = bench.start(PROVISION, user()).await;
    let claim = bench.take(run, CREATE).await;
    // It was found made, but the call that made it got no answer.
    bench.write(bench.plan(&claim, success(), Quiet::Unsure)).await;
    let key = DueKey { run, position: 1, generation: bench.step(run, 1).await.generation };
    let before = bench.world.rows().await;

    let claimed = bench.claim("w", key).await;

    assert!(!matches!(claimed, Claimed::Yes(_)), "a shared step waits too: {claimed:?}");
    assert_eq!(bench.world.rows().await, before);
    bench.world.advance(LEASE).await;
    let key = bench.due_of(run, CONFIGURE).await;
    assert!(matches!(bench.claim("w", key).await, Claimed::Yes(_)));
}

pub async fn a_step_that_somebody_makes_due_waits_for_a_busy_resource(bench: &Bench<impl World>) {
    let user = user();
    bench.world.sign_up(user).await;
    bench.ledger().intake(10).await.unwrap();
    let claim = bench.take_any(CREATE).await;
    bench.write(bench.plan(&claim, retry(), Quiet::Unsure)).await;
    bench.world.ask_again(user, Budget::Kept).await;
    bench.ledger().intake(10).await.unwrap();
    let key = bench.due_of(claim.key.run, CREATE).await;
    let before = bench.world.rows().await;

    assert_refused(&bench.claim("w", key).await, Refusal::ResourceBusy);

    assert_eq!(bench.world.rows().await, before);
    bench.world.advance(LEASE).await;
    assert!(matches!(bench.claim("w", key).await, Claimed::Yes(_)), "the same hint is as good as it was");
}

pub async fn an_exclusive_claim_keeps_the_resource_busy_until_its_lease_would_have_ended(bench: &Bench<impl World>) {
    let run = bench.start(PROVISION, user()).await;
    let claim = bench.take(run, CREATE).await;
    assert!(bench.world.is_busy(&claim.input.resource).await);
    bench.write(bench.plan(&claim, retry(), Quiet::Unsure)).await;
    bench.world.advance(Duration::from_secs(2)).await;

    assert!(bench.world.is_busy(&claim.input.resource).await);
    assert_eq!(bench.due(CREATE).await, [], "it is due when the resource is quiet");
    let step = bench.step(run, 0).await;
    assert_eq!((step.state, step.moment, step.spent.failures), (StepState::Due, Moment::Later, 1));
    bench.world.advance(LEASE - Duration::from_secs(2)).await;

    assert!(!bench.world.is_busy(&claim.input.resource).await);
    bench.take(run, CREATE).await;
}

pub async fn a_new_run_waits_until_its_resource_is_quiet(bench: &Bench<impl World>) {
    let user = user();
    let dead = bench.start(PROVISION, user).await;
    let claim = bench.take(dead, CREATE).await;
    bench.write(bench.plan(&claim, refusal(), Quiet::Unsure)).await;

    let run = bench.start(RECONFIGURE, user).await;

    assert_eq!(bench.step(run, 0).await.moment, Moment::Later);
    assert_eq!(bench.due(CONFIGURE).await, []);
    bench.world.advance(LEASE).await;
    bench.take(run, CONFIGURE).await;
}

pub async fn a_run_whose_turn_comes_waits_until_its_resource_is_quiet(bench: &Bench<impl World>) {
    let user = user();
    let dying = bench.start(PROVISION, user).await;
    let run = bench.start(DEPROVISION, user).await;
    let claim = bench.take(dying, CREATE).await;

    bench.write(bench.plan(&claim, refusal(), Quiet::Unsure)).await;

    assert_eq!(bench.step(run, 0).await.moment, Moment::Later);
    bench.world.advance(LEASE).await;
    bench.take(run, "delete-instance").await;
}

pub async fn an_earlier_renewal_that_comes_late_takes_nothing_back(bench: &Bench<impl World>) {
    let claim = renewed_for(bench, &[LEASE * 2, LEASE]).await;
    bench.world.advance(LEASE * 3 / 2).await;

    assert!(bench.ledger().expired(10).await.unwrap().is_empty());
    assert!(bench.world.is_busy(&claim.input.resource).await);
}

/// No renewal makes a lease so long: the clock was set back.
pub async fn a_lease_that_no_renewal_has_made_is_taken_back(bench: &Bench<impl World>) {
    let claim = renewed_for(bench, &[LEASE * 20, LEASE]).await;
    bench.world.advance(LEASE * 2).await;

    assert_eq!(bench.ledger().expired(10).await.unwrap().len(), 1);
    assert!(!bench.world.is_busy(&claim.input.resource).await);
}

/// A claim whose lease was renewed for each of these.
async fn renewed_for(bench: &Bench<impl World>, lengths: &[Duration]) -> Claim {
    let run = bench.start(PROVISION, user()).await;
    let claim = bench.take(run, CREATE).await;
    for length in lengths {
        let lease = Lease { key: claim.key, length: *length };
        assert_eq!(bench.ledger().renew(&worker("w"), &[lease]).await.unwrap(), [Some(true)]);
    }
    claim
}

pub async fn a_renewal_keeps_the_resource_busy_longer(bench: &Bench<impl World>) {
    let run = bench.start(PROVISION, user()).await;
    let claim = bench.take(run, CREATE).await;
    bench.world.advance(LEASE / 2).await;
    bench.ledger().renew(&worker("w"), &[Lease { key: claim.key, length: LEASE }]).await.unwrap();
    bench.write(bench.plan(&claim, defer(), Quiet::Unsure)).await;

    bench.world.advance(LEASE * 7 / 10).await;
    assert!(bench.world.is_busy(&claim.input.resource).await);
    bench.world.advance(LEASE * 3 / 10).await;

    assert!(!bench.world.is_busy(&claim.input.resource).await);
}

pub async fn a_call_without_an_answer_keeps_the_resource_busy_for_as_long_as_a_call_takes(bench: &Bench<impl World>) {
    let run = bench.start(PROVISION, user()).await;
    let claim = bench.take(run, CREATE).await;
    bench.world.advance(LEASE * 2).await;

    bench.write(bench.plan(&claim, defer(), Quiet::Unsure)).await;

    bench.world.advance(EXCLUSIVE_CALL / 2).await;
    assert!(bench.world.is_busy(&claim.input.resource).await);
    bench.world.advance(EXCLUSIVE_CALL / 2).await;
    assert!(!bench.world.is_busy(&claim.input.resource).await);
}

pub async fn a_rescue_keeps_the_resource_busy_no_longer_than_the_lease(bench: &Bench<impl World>) {
    let run = bench.start(PROVISION, user()).await;
    let claim = bench.take(run, CREATE).await;
    bench.world.advance(LEASE * 2).await;

    assert_eq!(bench.rescue().await, 1);

    assert!(!bench.world.is_busy(&claim.input.resource).await);
}

pub async fn a_renewal_keeps_nothing_busy_that_another_attempt_made_busy(bench: &Bench<impl World>) {
    let user = user();
    let run = bench.start(PROVISION, user).await;
    let gone = bench.take(run, CREATE).await;
    bench.write(bench.plan(&gone, refusal(), Quiet::Unsure)).await;
    bench.world.advance(LEASE).await;
    let shared = bench.start(RECONFIGURE, user).await;
    let claim = bench.take(shared, CONFIGURE).await;

    bench.ledger().renew(&worker("w"), &[Lease { key: claim.key, length: LEASE }]).await.unwrap();

    assert!(!bench.world.is_busy(&claim.input.resource).await);
}

pub async fn a_final_answer_frees_the_resource(bench: &Bench<impl World>) {
    let run = bench.start(PROVISION, user()).await;
    let claim = bench.take(run, CREATE).await;

    bench.settle(&claim, retry()).await;

    assert!(!bench.world.is_busy(&claim.input.resource).await);
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

    assert!(bench.world.is_busy(&claim.input.resource).await);
}

pub async fn an_exclusive_step_counts_as_claimed_only_after_an_exclusive_claim(bench: &Bench<impl World>) {
    let user = user();
    let shared = bench.start(RECONFIGURE, user).await;
    let claim = bench.take(shared, CONFIGURE).await;
    bench.settle(&claim, success()).await;
    bench.succeed(shared, &[VERIFY]).await;
    let run = bench.start(PROVISION, user).await;

    let first = bench.take(run, CREATE).await;
    bench.settle(&first, retry()).await;
    bench.world.advance(LONG).await;
    let second = bench.take(run, CREATE).await;

    assert!(!claim.input.exclusive_before);
    assert!(!first.input.exclusive_before);
    assert!(second.input.exclusive_before);
}

pub async fn an_unknown_version_waits_longer_each_time(bench: &Bench<impl World>) {
    let ours = registry();
    let newer = workflow(PROVISION, LIMITS, &[(CREATE, Reach::Exclusive), (CONFIGURE, Reach::Shared)]);
    let newer = Definition { version: 2, ..newer };
    let both = Registry::new(ours.all().cloned().chain([newer]).collect());
    let new = super::bench::new_run(PROVISION, user());
    let started = bench.world.build(both).await.start(std::slice::from_ref(&new)).await.unwrap();
    let Started::New(run) = started[0] else { panic!("{started:?}") };
    let mut generation = None;

    for seconds in [5, 10, 20, 40, 60, 60] {
        let key = bench.due_of(run, CREATE).await;
        assert!(generation < Some(key.generation), "{generation:?} was asked for before {key:?}");
        generation = Some(key.generation);
        assert_refused(&bench.claim("w", key).await, Refusal::UnknownDefinition);
        bench.world.advance(Duration::from_secs(seconds - 2)).await;
        assert_eq!(bench.due(CREATE).await, [], "before {seconds} s have gone by");
        bench.world.advance(Duration::from_secs(3)).await;
    }

    let spent = bench.step(run, 0).await.spent;
    assert_eq!((spent.failures, spent.crashes), (0, 0));
}

pub async fn a_renewal_extends_the_lease_and_reports_a_lost_one(bench: &Bench<impl World>) {
    let user = user();
    let run = bench.start(PROVISION, user).await;
    let claim = bench.take(run, CREATE).await;
    let lease = Lease { key: claim.key, length: LEASE };
    let unknown = Lease { key: Key { token: forged_token(), ..claim.key }, length: LEASE };

    for _ in 0..5 {
        bench.world.advance(LEASE * 7 / 10).await;
        let renewed = bench.ledger().renew(&worker("w"), &[unknown, lease]).await.unwrap();
        assert_eq!(renewed, [Some(false), Some(true)]);
        assert_eq!(bench.rescue().await, 0);
    }
    bench.world.advance(LEASE + Duration::from_secs(1)).await;
    assert_eq!(bench.rescue().await, 1);

    assert_eq!(bench.ledger().renew(&worker("w"), &[lease]).await.unwrap(), [Some(false)]);
    assert_eq!(bench.settle(&claim, success_that_keeps("theirs")).await, Settled::Stale);
    assert_eq!(bench.kept_token(user).await, None);
}

pub async fn only_a_running_step_is_renewed(bench: &Bench<impl World>) {
    let run = bench.start(PROVISION, user()).await;
    let claim = bench.take(run, CREATE).await;
    bench.settle(&claim, defer()).await;
    let lease = Lease { key: claim.key, length: LEASE };

    assert_eq!(bench.ledger().renew(&worker("w"), &[lease]).await.unwrap(), [Some(false)]);

    assert_eq!(bench.state(run, 0).await, StepState::Due);
}

pub async fn a_renewal_without_the_token_extends_nothing(bench: &Bench<impl World>) {
    let run = bench.start(PROVISION, user()).await;
    let claim = bench.take(run, CREATE).await;
    let forged = Lease { key: Key { token: forged_token(), ..claim.key }, length: LEASE };
    bench.world.advance(LEASE * 7 / 10).await;

    assert_eq!(bench.ledger().renew(&worker("other"), &[forged]).await.unwrap(), [Some(false)]);

    bench.world.advance(LEASE / 2).await;
    assert_eq!(bench.rescue().await, 1);
}
