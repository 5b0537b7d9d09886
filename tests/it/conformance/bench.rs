//! A ledger to try things on: definitions with small budgets, and the few moves that every behaviour is made of.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use sluice::ledger::{
    By, Claim, Claimed, Dispatched, Expired, Key, Ledger, NewRun, Settled, Settlement, Setup, Started, Worker,
    settlement::Quiet,
};
use uuid::Uuid;
use workflows::{
    definition::{Reach, Registry, Step, Workflow},
    ids::{InstanceName, RunId, StepName, Subject, Token, UserId, WorkflowName},
    outcome::{Class, Facts, Failure, Outcome},
    policy::Retry,
    secret::Secret,
    state::{Limits, RunState, StepState},
};

use super::world::{StepSeen, World};

pub const PROVISION: &str = "provision-instance";
pub const RECONFIGURE: &str = "reconfigure-webhooks";
pub const DEPROVISION: &str = "deprovision-instance";
/// Three steps that bear no failure, no crash and no send-back.
pub const BRITTLE: &str = "brittle";

/// Long beside the time that a slow machine takes for a test's own calls, short beside what the tests let go by.
pub const LEASE: Duration = Duration::from_secs(10);
pub const DEADLINE: Duration = Duration::from_secs(3600);
/// Longer than any delay of the policies.
pub const LONG: Duration = Duration::from_secs(90);

pub const LIMITS: Limits = Limits { failures: 3, crashes: 2, send_backs: 1 };
pub const NO_BUDGET: Limits = Limits { failures: 1, crashes: 1, send_backs: 0 };

pub fn registry() -> Registry {
    use Reach::{Exclusive, Shared};
    let provision = [("create-instance", Exclusive), ("configure-webhooks", Shared), ("verify", Shared)];
    let reconfigure = [("configure-webhooks", Shared), ("verify", Shared)];
    let brittle = [("first", Exclusive), ("second", Exclusive), ("third", Exclusive)];
    Registry::new(vec![
        workflow(PROVISION, 1, 0, LIMITS, &provision),
        workflow(RECONFIGURE, 1, -5, LIMITS, &reconfigure),
        workflow(DEPROVISION, 1, 0, LIMITS, &[("delete-instance", Exclusive)]),
        workflow(BRITTLE, 1, 0, NO_BUDGET, &brittle),
    ])
}

pub fn workflow(name: &str, version: i16, priority: i16, limits: Limits, steps: &[(&str, Reach)]) -> Workflow {
    let step = |(name, reach): &(&str, Reach)| Step {
        name: name.parse().unwrap(),
        timeout: Duration::from_secs(30),
        lease: LEASE,
        retry: Retry { limits, ..Retry::default() },
        reach: *reach,
    };
    let steps = steps.iter().map(step).collect();
    Workflow { name: name.parse().unwrap(), version, steps, deadline: DEADLINE, priority }
}

static DRAWN: AtomicU64 = AtomicU64::new(1);

fn draw() -> u64 {
    DRAWN.fetch_add(1, Ordering::Relaxed)
}

pub fn setup(registry: Registry) -> Setup {
    Setup {
        registry: Arc::new(registry),
        draw_run: Arc::new(|| RunId::new(Uuid::from_u128(draw().into()))),
        draw_token: Arc::new(|| Secret::new(format!("token-{}", draw()))),
        on_sign_up: PROVISION.parse().unwrap(),
    }
}

pub fn name(text: &str) -> StepName {
    text.parse().unwrap()
}

pub fn worker(name: &str) -> Worker {
    Worker { name: name.to_owned(), host: None }
}

pub fn by(actor: &str) -> By {
    By { actor: actor.to_owned(), note: Some("because".to_owned()) }
}

pub fn user() -> UserId {
    UserId::new(Uuid::from_u128(0xaaaa_0000_0000_0000_0000_0000_0000_0000 + u128::from(draw())))
}

pub fn token() -> Token {
    Token::new(draw().try_into().unwrap())
}

pub fn new_run(workflow: &str, user: UserId) -> NewRun {
    NewRun {
        id: RunId::new(Uuid::from_u128(draw().into())),
        workflow: workflow.parse::<WorkflowName>().unwrap(),
        subject: user.subject(),
        resource: InstanceName::of_user(user),
        instance_token: Secret::new(format!("token-{}", draw())),
        input: json!({ "for": user }),
        traceparent: None,
        age: Duration::ZERO,
    }
}

pub fn success() -> Outcome {
    success_with(json!({ "done": true }))
}

pub fn success_with(output: Value) -> Outcome {
    Outcome::Success { output, facts: Facts::default(), note: None }
}

pub fn failure() -> Failure {
    Failure::new(Class::ServerError, "the server answered 500").with_status(Some(500))
}

pub fn retry() -> Outcome {
    Outcome::Retry(failure())
}

pub fn refusal() -> Outcome {
    Outcome::Permanent(Failure::new(Class::Rejected, "the server refuses it"))
}

pub fn send_back(to: &str) -> Outcome {
    Outcome::SendBack { to: name(to), failure: Failure::new(Class::EffectGone, "the effect is gone") }
}

pub fn defer() -> Outcome {
    Outcome::Defer { failure: Failure::new(Class::Loading, "it is loading"), after: None }
}

/// A ledger at work, and what is needed to move it.
pub struct Bench<W> {
    pub world: W,
    registry: Registry,
}

impl<W: World> Bench<W> {
    pub fn new(world: W) -> Self {
        Self { world, registry: registry() }
    }

    pub fn ledger(&self) -> &W::Ledger {
        self.world.ledger()
    }

    pub async fn assert_sound(&self) {
        let violations = self.world.violations().await;
        assert!(violations.is_empty(), "{violations:#?}");
    }

    pub async fn start(&self, workflow: &str, user: UserId) -> RunId {
        let started = self.ledger().start(&[new_run(workflow, user)]).await.unwrap();
        let Started::New(run) = started[0] else { panic!("{workflow} was not started: {started:?}") };
        run
    }

    pub async fn step(&self, run: RunId, position: i16) -> StepSeen {
        self.world.step(run, position).await.unwrap_or_else(|| panic!("{run} has no step {position}"))
    }

    pub async fn state(&self, run: RunId, position: i16) -> StepState {
        self.step(run, position).await.state
    }

    pub async fn dispatch(&self, queue: &str, most: usize) -> Vec<Key> {
        self.dispatch_for(queue, None, most).await
    }

    pub async fn dispatch_for(&self, queue: &str, host: Option<&str>, most: usize) -> Vec<Key> {
        let tokens: Vec<Token> = (0..most).map(|_| token()).collect();
        let dispatched: Vec<Dispatched> = self.ledger().dispatch(&name(queue), host, &tokens).await.unwrap();
        dispatched.into_iter().map(|dispatched| dispatched.key).collect()
    }

    /// Dispatch the run's step of that queue. Steps of other runs that are due there are dispatched with it.
    pub async fn dispatch_of(&self, run: RunId, queue: &str) -> Key {
        let keys = self.dispatch(queue, 50).await;
        *keys.iter().find(|key| key.run == run).unwrap_or_else(|| panic!("{queue} of {run} is not due"))
    }

    pub async fn claim(&self, worker_name: &str, key: Key) -> Claimed {
        self.ledger().claim(&worker(worker_name), &[key]).await.unwrap().remove(0)
    }

    /// Dispatch and claim the run's step of that queue, as the worker `w`.
    pub async fn take(&self, run: RunId, queue: &str) -> Claim {
        self.take_as("w", run, queue).await
    }

    pub async fn take_as(&self, worker_name: &str, run: RunId, queue: &str) -> Claim {
        let key = self.dispatch_of(run, queue).await;
        self.hold(worker_name, key).await
    }

    async fn hold(&self, worker_name: &str, key: Key) -> Claim {
        match self.claim(worker_name, key).await {
            Claimed::Yes(claim) => *claim,
            other => panic!("{key:?} was not claimed: {other:?}"),
        }
    }

    /// Dispatch and claim whichever step of that queue is due, as the worker `w`.
    pub async fn take_any(&self, queue: &str) -> Claim {
        let keys = self.dispatch(queue, 1).await;
        let key = *keys.first().unwrap_or_else(|| panic!("nothing of {queue} is due"));
        self.hold("w", key).await
    }

    pub fn plan(&self, claim: &Claim, outcome: Outcome, quiet: Quiet) -> Settlement {
        let workflow = self.registry.find(&claim.workflow, claim.version).unwrap();
        Settlement::plan(claim, workflow, outcome, quiet, 1.0).unwrap()
    }

    pub fn plan_rescue(&self, expired: &Expired) -> Settlement {
        let workflow = self.registry.find(&expired.claim.workflow, expired.claim.version).unwrap();
        Settlement::rescue(expired, workflow, 1.0).unwrap()
    }

    pub async fn settle(&self, claim: &Claim, outcome: Outcome) -> Settled {
        self.write(self.plan(claim, outcome, Quiet::Yes)).await
    }

    pub async fn write(&self, settlement: Settlement) -> Settled {
        self.ledger().settle(&[settlement]).await.unwrap().remove(0)
    }

    /// Dispatch, claim and settle the run's step of that queue.
    pub async fn work(&self, run: RunId, queue: &str, outcome: Outcome) -> Settled {
        let claim = self.take(run, queue).await;
        let settled = self.settle(&claim, outcome).await;
        assert!(matches!(settled, Settled::Done(_)), "{queue} of {run}: {settled:?}");
        settled
    }

    /// Let these steps succeed, one after the other.
    pub async fn succeed(&self, run: RunId, queues: &[&str]) {
        for queue in queues {
            self.work(run, queue, success()).await;
        }
    }

    /// Rescue every lease that has run out. How many there were.
    pub async fn rescue(&self) -> usize {
        let expired = self.ledger().expired(50).await.unwrap();
        for one in &expired {
            self.write(self.plan_rescue(one)).await;
        }
        expired.len()
    }

    /// Start a run of `provision-instance` whose first step is refused.
    pub async fn dead_run(&self, user: UserId) -> RunId {
        let run = self.start(PROVISION, user).await;
        assert_eq!(self.work(run, "create-instance", refusal()).await, Settled::Done(RunState::Dead));
        run
    }

    pub async fn outcomes(&self, run: RunId) -> Vec<String> {
        self.world.attempts(run).await.into_iter().map(|attempt| attempt.outcome).collect()
    }

    pub async fn subject_token(&self, subject: &Subject) -> String {
        self.world.instance(subject).await.token
    }
}
