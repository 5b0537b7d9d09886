//! What an attempt makes of a workflow, over a ledger that hands one step out and keeps what is
//! settled.

use std::sync::Mutex;

use serde_json::{Value, json};
use tokio::{sync::Semaphore, time::sleep};
use workflows::{
    breaker::{Answer, Signal, Word},
    definition::LEASE,
    ids::{RunId, StepName, Token},
    outcome::{Memory, StepInput},
    state::{Spent, StepState},
    workflow::{Boxed, Probe},
};

use super::*;
use crate::ledger::{
    DueKey, HostGate, Key,
    settlement::{Then, tests},
};

const HOST: &str = "api.example";

#[tokio::test(start_paused = true)]
async fn an_input_that_the_workflow_refuses_is_a_permanent_failure_and_no_step_runs() {
    let (_, settlement) = attempt(json!({"greeting": 7}), Answers::Panic).await;

    assert_eq!(settlement.to, StepState::Dead);
    assert_eq!(settlement.attempt.error.as_deref(), Some("the run's input is refused: a greeting is a text"));
    assert!(matches!(settlement.then, Then::Die { .. }));
}

#[tokio::test(start_paused = true)]
async fn what_became_due_is_handed_out_with_the_runs_state() {
    let (attempted, settlement) = attempt(json!({"greeting": "hello"}), Answers::Success).await;

    let Attempted::Settled { run: RunState::Active, due: Some(due) } = &attempted else { panic!("{attempted:?}") };
    assert_eq!((due.key.position, due.step.as_str()), (1, "second"));
    assert_eq!(settlement.output, Some(json!("done")));
}

#[tokio::test(start_paused = true)]
async fn a_process_with_a_place_for_the_next_step_goes_on_with_it() {
    let ledger = Stub { places: Arc::new(Semaphore::new(1)), ..Stub::default() };
    let runner = runner(&ledger, catalog(Answers::Success));

    let Attempted::CarriedOn(next) = runner.attempt(ask(), || {}).await.unwrap() else { panic!("it does not go on") };

    assert_eq!(ledger.places.available_permits(), 0);
    assert_eq!((next.claim.step.as_str(), next.claim.key.token), ("second", Token::new(2)));
    assert_eq!(next.claim.input.input, json!("done"));
    assert_eq!(next.claim.input.memory.as_json()["token"], "theirs");
    let Attempted::Settled { due: None, .. } = runner.go_on(*next).await.unwrap() else { panic!("the run goes on") };
    assert_eq!((ledger.settled().step.as_str(), ledger.settled().carry_on), ("second", None));
    assert_eq!(ledger.places.available_permits(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_does_not_succeed_asks_for_no_next_step_and_keeps_no_place() {
    let ledger = Stub { places: Arc::new(Semaphore::new(1)), ..Stub::default() };

    runner(&ledger, catalog(Answers::Panic)).attempt(ask(), || {}).await.unwrap();

    assert_eq!(ledger.settled().carry_on, None);
    assert_eq!(ledger.places.available_permits(), 1);
}

#[tokio::test(start_paused = true)]
async fn code_that_panics_is_tried_again_and_code_that_is_missing_is_not_counted() {
    let (_, panicked) = attempt(json!({}), Answers::Panic).await;
    let (_, missing) = attempt(json!({}), Answers::Nothing).await;

    assert_eq!((panicked.attempt.outcome, panicked.attempt.class), ("failed", Some(Class::Panicked)));
    assert_eq!((missing.attempt.outcome, missing.attempt.class), ("deferred", Some(Class::Unknown)));
    assert_eq!(missing.spent.failures, 0);
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_not_counted_where_the_host_fails_its_probe() {
    let (_, settlement) = attempt(json!({}), Answers::Failing).await;

    assert_eq!(settlement.attempt.outcome, "deferred");
    assert!(settlement.attempt.error.unwrap().contains("the API as a whole does not work"));
}

#[tokio::test(start_paused = true)]
async fn a_host_without_a_probe_has_no_watch_and_its_failures_count() {
    let ledger = Stub::default();
    let runner = runner(&ledger, Catalog::default().with(Greeting(Answers::Failing)));

    runner.attempt(ask(), || {}).await.unwrap();

    assert!(runner.watches().is_empty());
    assert_eq!(ledger.settled().attempt.outcome, "failed");
}

#[tokio::test]
async fn a_watch_takes_its_advice_from_the_probe() {
    let ledger = Stub::default();

    let watches = runner(&ledger, catalog(Answers::Success)).watches();

    let advice: Vec<_> = watches.iter().map(|watch| (watch.host.as_str(), watch.rules.key_advice)).collect();
    assert_eq!(advice, [(HOST, "ask the neighbours")]);
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_hangs_is_given_up_while_another_can_still_save_the_leases() {
    let (ledger, began) = (Stub { slow: LEASE * 10, ..Stub::default() }, Instant::now());

    let renewed = runner(&ledger, catalog(Answers::Success)).renew_once().await;

    assert!(matches!(renewed, Err(Error::Late(_))), "{renewed:?}");
    assert_eq!(began.elapsed(), LEASE / 2);
}

/// The second claim waits a while for the batch of the first one.
#[tokio::test(start_paused = true)]
async fn a_lease_counts_from_when_its_claim_was_sent() {
    let ledger = Stub { slow: LEASE * 3 / 4, ..Stub::default() };
    let runner = runner(&ledger, catalog(Answers::Success));
    let later = async {
        sleep(LEASE / 4).await;
        runner.attempt(ask(), || {}).await
    };

    let (one, other) = tokio::join!(runner.attempt(ask(), || {}), later);

    assert!(one.is_ok() && other.is_ok());
    let outcomes: Vec<_> = ledger.settled.lock().unwrap().iter().map(|settled| settled.attempt.outcome).collect();
    assert_eq!(outcomes, ["succeeded", "succeeded"]);
}

async fn attempt(input: Value, answers: Answers) -> (Attempted, Settlement) {
    let ledger = Stub { input: input.clone(), ..Stub::default() };
    let attempted = runner(&ledger, catalog(answers)).attempt(ask(), || {}).await.unwrap();
    (attempted, ledger.settled())
}

fn catalog(answers: Answers) -> Catalog {
    Catalog::default().with(Greeting(answers)).probing(Dead)
}

fn runner(ledger: &Stub, catalog: Catalog) -> AttemptRunner<Stub> {
    let (leases, vitals) = (ledger.clone(), Default::default());
    let deps = Deps { ledger: ledger.clone(), leases, queue: (), catalog, vitals };
    let me = Worker { name: "worker".to_owned() };
    let places = ledger.places.clone();
    let places: Places = Arc::new(move |_| places.clone().try_acquire_owned().ok());
    AttemptRunner::new(deps, me, Rules::default(), Arc::new(|| 0.5), places)
}

fn ask() -> Ask {
    Ask { key: DueKey { run: RunId::new(uuid::Uuid::nil()), position: 0, generation: 1 }, span: None }
}

/// What the steps of a workflow do.
#[derive(Clone, Copy)]
enum Answers {
    Success,
    Failing,
    Panic,
    Nothing,
}

struct Greeting(Answers);

impl Workflow for Greeting {
    fn definitions(&self) -> Vec<Definition> {
        let workflow = tests::workflow();
        let shared = workflow.step(1).unwrap();
        let step = |name: &str| Step { name: name.parse().unwrap(), host: Some(HOST.to_owned()), ..shared.clone() };
        let steps = vec![step("first"), step("second")];
        vec![Definition { name: "greeting".parse().unwrap(), steps, ..workflow }]
    }

    fn validate(&self, input: &Value) -> std::result::Result<(), String> {
        match input.get("greeting") {
            Some(greeting) if !greeting.is_string() => Err("a greeting is a text".to_owned()),
            _ => Ok(()),
        }
    }

    fn run<'a>(&'a self, _: &'a StepName, _: &'a StepInput, _: &'a ExclusiveCalls<'a>) -> Boxed<'a, Option<Outcome>> {
        Box::pin(async {
            match self.0 {
                Answers::Success => {
                    Some(Outcome::Success { output: json!("done"), memory: Memory::default(), note: None })
                }
                Answers::Failing => {
                    let failure = Failure::new(Class::NoAnswer, "none").with_host(HostSignal::Failing);
                    Some(Outcome::Retry(failure))
                }
                Answers::Panic => panic!("a step that panics"),
                Answers::Nothing => None,
            }
        })
    }
}

/// A host that does not answer.
struct Dead;

impl Probe for Dead {
    fn host(&self) -> &str {
        HOST
    }

    fn ask(&self) -> Boxed<'_, Answer> {
        Box::pin(std::future::pending())
    }

    fn key_advice(&self) -> &'static str {
        "ask the neighbours"
    }
}

/// A ledger with one step to hand out, and the one after it to whoever would go on.
#[derive(Clone)]
struct Stub {
    input: Value,
    settled: Arc<Mutex<Vec<Settlement>>>,
    /// For attempts that go on.
    places: Arc<Semaphore>,
    /// How long a claim and a renewal take.
    slow: Duration,
}

impl Default for Stub {
    fn default() -> Self {
        let places = Arc::new(Semaphore::new(0));
        Self { input: json!({}), settled: Arc::default(), places, slow: Duration::ZERO }
    }
}

impl Stub {
    fn settled(&self) -> Settlement {
        self.settled.lock().unwrap().last().unwrap().clone()
    }
}

impl WorkerLedger for Stub {
    async fn claim(&self, _: &Worker, asked: &[Ask]) -> Result<Vec<Claimed>> {
        sleep(self.slow).await;
        let claim = |key: DueKey| {
            let claim = tests::claim(0);
            Claim {
                key: Key { run: key.run, position: key.position, token: Token::new(1) },
                workflow: "greeting".parse().unwrap(),
                spent: Spent::default(),
                input: StepInput { input: self.input.clone(), ..claim.input.clone() },
                ..claim
            }
        };
        Ok(asked.iter().map(|ask| Claimed::Yes(Box::new(claim(ask.key)))).collect())
    }

    async fn renew(&self, _: &Worker, leases: &[Lease]) -> Result<Vec<Option<bool>>> {
        sleep(self.slow).await;
        Ok(vec![Some(true); leases.len()])
    }

    async fn settle(&self, settlements: &[Settlement]) -> Result<Vec<Settled>> {
        self.settled.lock().unwrap().extend(settlements.iter().cloned());
        let settled = settlements.iter().map(|settlement| {
            let carried_on = settlement
                .carry_on
                .as_ref()
                .map(|_| CarriedOn { token: Token::new(2), memory: Memory::default().with("token", "theirs") });
            let advances = matches!(settlement.then, Then::Advance { .. }) && carried_on.is_none();
            let due = advances.then(|| Due {
                key: DueKey { run: settlement.key.run, position: 1, generation: 1 },
                step: "second".parse().unwrap(),
                workflow: settlement.workflow.clone(),
                traceparent: None,
                linked: None,
            });
            Settled::Done { run: RunState::Active, due, carried_on, whole: None }
        });
        Ok(settled.collect())
    }

    async fn doubt(&self, _: RunId) -> Result<()> {
        Ok(())
    }

    async fn report(&self, _: &str, _: &[Signal], _: Option<&Word>, _: &Rules, _: f64) -> Result<HostGate> {
        Ok(HostGate::default())
    }

    async fn host_gate(&self, _: &str) -> Result<HostGate> {
        Ok(HostGate::default())
    }

    async fn probe(&self, _: &str, _: Duration) -> Result<Option<crate::ledger::Probe>> {
        Ok(None)
    }

    async fn probed(&self, _: &str, _: crate::ledger::Probe, _: &Answer, _: &Rules, _: f64) -> Result<HostGate> {
        Ok(HostGate::default())
    }
}
