//! A ledger to try things on: definitions with small budgets, and the few moves that every
//! behaviour is made of.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use serde_json::{Value, json};
use sluice::ledger::{
    Ask, By, Claim, Claimed, Due, DueKey, Expired, RelayLedger, Settled, Settlement, Waiting, Worker, WorkerLedger,
    settlement::Quiet,
};
use tests::ledger::{Ledger, NewRun, Started};
use uuid::Uuid;
use workflows::{
    definition::{Definition, Reach, Registry, Step},
    ids::{ResourceName, RunId, StepName, Token, WorkflowName},
    outcome::{Class, Failure, Memory, Outcome},
    policy::Retry,
    state::{Limits, RunState, StepState},
    whatsapp::{
        names::{InstanceName, UserId},
        provision,
    },
};

use super::world::{StepSeen, World};

pub const PROVISION: &str = "provision-instance";
pub const RECONFIGURE: &str = "reconfigure-webhooks";
pub const DEPROVISION: &str = "deprovision-instance";
/// Three steps that bear no failure, no crash and no send-back, and call no host.
pub const BRITTLE: &str = "brittle";

/// What the other workflows call.
pub const HOST: &str = "api.example";

pub const CREATE: &str = "create-instance";
pub const CONFIGURE: &str = "configure-webhooks";
pub const VERIFY: &str = "verify";
/// The steps of `provision-instance`.
pub const STEPS: [&str; 3] = [CREATE, CONFIGURE, VERIFY];

/// Long beside the time that a slow machine takes for a test's own calls, short beside what the
/// tests let go by.
pub const LEASE: Duration = Duration::from_secs(10);
pub const DEADLINE: Duration = Duration::from_secs(3600);
/// Longer than any delay of the policies.
pub const LONG: Duration = Duration::from_secs(90);

pub const LIMITS: Limits = Limits { failures: 3, crashes: 2, send_backs: 1 };
pub const NO_BUDGET: Limits = Limits { failures: 1, crashes: 1, send_backs: 0 };

pub fn registry() -> Registry {
    use Reach::{Exclusive, Shared};
    let product = provision::definition(Retry::default(), DEADLINE, DEADLINE, HOST);
    let provision = workflow(PROVISION, LIMITS, &[(CREATE, Exclusive), (CONFIGURE, Shared), (VERIFY, Shared)]);
    let reconfigure = workflow(RECONFIGURE, LIMITS, &[(CONFIGURE, Shared), (VERIFY, Shared)]);
    let brittle = workflow(BRITTLE, NO_BUDGET, &[("first", Exclusive), ("second", Exclusive), ("third", Exclusive)]);
    Registry::new(vec![
        Definition { projection: product.projection, source: product.source, ..provision },
        Definition { priority: -5, ..reconfigure },
        workflow(DEPROVISION, LIMITS, &[("delete-instance", Exclusive)]),
        without_host(brittle),
    ])
}

pub fn workflow(name: &str, limits: Limits, steps: &[(&str, Reach)]) -> Definition {
    let step = |(name, reach): &(&str, Reach)| Step {
        name: name.parse().unwrap(),
        timeout: Duration::from_secs(30),
        lease: LEASE,
        retry: Retry { limits, ..Retry::default() },
        reach: *reach,
        host: Some(HOST.to_owned()),
    };
    Definition {
        name: name.parse().unwrap(),
        version: 1,
        steps: steps.iter().map(step).collect(),
        deadline: DEADLINE,
        priority: 0,
        projection: None,
        source: None,
        gone: None,
    }
}

fn without_host(mut workflow: Definition) -> Definition {
    workflow.steps.iter_mut().for_each(|step| step.host = None);
    workflow
}

static DRAWN: AtomicU64 = AtomicU64::new(1);

fn draw() -> u64 {
    DRAWN.fetch_add(1, Ordering::Relaxed)
}

pub fn worker(name: &str) -> Worker {
    Worker { name: name.to_owned() }
}

pub fn by(actor: &str) -> By {
    By { actor: actor.to_owned(), note: Some("because".to_owned()) }
}

pub fn name(text: &str) -> StepName {
    text.parse().unwrap()
}

pub fn user() -> UserId {
    UserId::new(Uuid::from_u128(0xaaaa_0000_0000_0000_0000_0000_0000_0000 + u128::from(draw())))
}

/// What a user's runs work on.
pub fn resource_of(user: UserId) -> ResourceName {
    InstanceName::of_user(user).resource()
}

/// For a step, by an attempt that no trace records.
pub fn ask(key: DueKey) -> Ask {
    Ask { key, span: None }
}

/// A token that no claim draws.
pub fn forged_token() -> Token {
    Token::new(draw().try_into().unwrap())
}

pub fn new_run(workflow: &str, user: UserId) -> NewRun {
    NewRun {
        workflow: workflow.parse::<WorkflowName>().unwrap(),
        subject: user.subject(),
        resource: resource_of(user),
        input: json!({ "for": user }),
        traceparent: None,
        age: Duration::ZERO,
    }
}

pub fn success() -> Outcome {
    success_with(json!({ "done": true }))
}

pub fn success_with(output: Value) -> Outcome {
    Outcome::Success { output, memory: Memory::default(), note: None }
}

/// A success that leaves the resource a text under `token`.
pub fn success_that_keeps(token: &str) -> Outcome {
    Outcome::Success { output: json!({}), memory: Memory::default().with("token", token), note: None }
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

/// The run's state after a settle that was written.
pub fn run_after(settled: &Settled) -> RunState {
    match settled {
        Settled::Done { run, .. } => *run,
        other => panic!("nothing was written: {other:?}"),
    }
}

/// What a settle that was written made due, and named.
pub fn due_after(settled: &Settled) -> Option<&Due> {
    match settled {
        Settled::Done { due, .. } => due.as_ref(),
        other => panic!("nothing was written: {other:?}"),
    }
}

/// The lease of this claim, as somebody says who finds that it has run out.
pub fn expired(claim: &Claim) -> Expired {
    Expired {
        key: claim.key,
        workflow: claim.workflow.clone(),
        version: claim.version,
        step: claim.step.clone(),
        spent: claim.spent,
        attempt: claim.attempt,
        worker: "w".to_owned(),
        generation: 1,
        age: Duration::ZERO,
        span: None,
        traceparent: None,
        worker_lives: false,
    }
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

    pub async fn start_many(&self, workflow: &str, count: usize) -> Vec<RunId> {
        let runs: Vec<NewRun> = (0..count).map(|_| new_run(workflow, user())).collect();
        let started = self.ledger().start(&runs).await.unwrap();
        let new = |started| match started {
            Started::New(run) => run,
            other => panic!("{workflow} was not started: {other:?}"),
        };
        started.into_iter().map(new).collect()
    }

    pub async fn step(&self, run: RunId, position: i16) -> StepSeen {
        self.world.step(run, position).await.unwrap_or_else(|| panic!("{run} has no step {position}"))
    }

    pub async fn state(&self, run: RunId, position: i16) -> StepState {
        self.step(run, position).await.state
    }

    /// What waits in that queue, up to `most`.
    pub async fn waiting(&self, queue: &str, most: usize) -> Option<Waiting> {
        self.ledger().waiting(most).await.unwrap().into_iter().find(|waiting| waiting.queue.as_str() == queue)
    }

    /// What is due in that queue and may be pushed.
    pub async fn due(&self, queue: &str) -> Vec<DueKey> {
        let waiting = self.waiting(queue, 1000).await;
        waiting.map(|waiting| waiting.due.into_iter().map(|due| due.key).collect()).unwrap_or_default()
    }

    /// The run's step of that queue, as it is due now.
    pub async fn due_of(&self, run: RunId, queue: &str) -> DueKey {
        let due = self.due(queue).await;
        *due.iter().find(|key| key.run == run).unwrap_or_else(|| panic!("{queue} of {run} is not due"))
    }

    pub async fn claim(&self, worker_name: &str, key: DueKey) -> Claimed {
        self.claim_all(worker_name, &[key]).await.remove(0)
    }

    pub async fn claim_all(&self, worker_name: &str, keys: &[DueKey]) -> Vec<Claimed> {
        let asked: Vec<Ask> = keys.iter().copied().map(ask).collect();
        self.ledger().claim(&worker(worker_name), &asked).await.unwrap()
    }

    /// Claim the run's step of that queue, as the worker `w`.
    pub async fn take(&self, run: RunId, queue: &str) -> Claim {
        self.take_as("w", run, queue).await
    }

    pub async fn take_as(&self, worker_name: &str, run: RunId, queue: &str) -> Claim {
        let key = self.due_of(run, queue).await;
        self.hold(worker_name, key).await
    }

    async fn hold(&self, worker_name: &str, key: DueKey) -> Claim {
        match self.claim(worker_name, key).await {
            Claimed::Yes(claim) => *claim,
            other => panic!("{key:?} was not claimed: {other:?}"),
        }
    }

    /// Claim whichever step of that queue is due first, as the worker `w`.
    pub async fn take_any(&self, queue: &str) -> Claim {
        let keys = self.due(queue).await;
        let key = *keys.first().unwrap_or_else(|| panic!("nothing of {queue} is due"));
        self.hold("w", key).await
    }

    pub fn plan(&self, claim: &Claim, outcome: Outcome, quiet: Quiet) -> Settlement {
        let workflow = self.registry.find(&claim.workflow, claim.version).unwrap();
        Settlement::plan(claim, workflow, outcome, quiet, 1.0).unwrap()
    }

    pub fn plan_rescue(&self, expired: &Expired) -> Settlement {
        let workflow = self.registry.find(&expired.workflow, expired.version).unwrap();
        Settlement::rescue(expired, workflow, 1.0).unwrap()
    }

    pub async fn settle(&self, claim: &Claim, outcome: Outcome) -> Settled {
        self.write(self.plan(claim, outcome, Quiet::Yes)).await
    }

    pub async fn write(&self, settlement: Settlement) -> Settled {
        self.write_all(&[settlement]).await.remove(0)
    }

    pub async fn write_all(&self, settlements: &[Settlement]) -> Vec<Settled> {
        WorkerLedger::settle(self.ledger(), settlements).await.unwrap()
    }

    /// Claim and settle the run's step of that queue. The run's state after it.
    pub async fn work(&self, run: RunId, queue: &str, outcome: Outcome) -> RunState {
        let claim = self.take(run, queue).await;
        run_after(&self.settle(&claim, outcome).await)
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
            let settled = RelayLedger::settle(self.ledger(), &[self.plan_rescue(one)]).await.unwrap();
            assert_eq!(settled.len(), 1);
        }
        expired.len()
    }

    /// Start a run of `provision-instance` whose first step is refused.
    pub async fn dead_run(&self, user: UserId) -> RunId {
        let run = self.start(PROVISION, user).await;
        assert_eq!(self.work(run, CREATE, refusal()).await, RunState::Dead);
        run
    }

    pub async fn outcomes(&self, run: RunId) -> Vec<String> {
        self.world.attempts(run).await.into_iter().map(|attempt| attempt.outcome).collect()
    }

    /// What the resource's memory holds under `token`.
    pub async fn kept_token(&self, user: UserId) -> Option<String> {
        let memory = self.world.resource(&resource_of(user)).await.memory;
        memory.get("token").map(|token| token.as_str().unwrap().to_owned())
    }
}
