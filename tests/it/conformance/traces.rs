//! What the ledger keeps and tells for traces: the span of an attempt that a rescue must export,
//! the whole of a run for whoever ends it, and what a claimed step has waited for.

use std::time::Duration;

use sluice::ledger::{
    Ask, AttemptSpan, Changed, Claim, Claimed, OperatorLedger, RelayLedger, Settled, SpanIds, Waited, WholeRun,
    WorkerLedger,
};
use tests::ledger::{Ledger, NewRun, Started};
use workflows::{
    ids::RunId,
    outcome::{Class, Failure, Outcome},
    state::{DeathReason, RunState},
};

use super::{
    bench::{
        Bench, CONFIGURE, CREATE, DEADLINE, DEPROVISION, HOST, LEASE, LONG, PROVISION, STEPS, VERIFY, by, new_run,
        retry, success, user, worker,
    },
    world::{Scope, World},
};

const ASKED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn span() -> AttemptSpan {
    let ids = SpanIds { trace: "0af7651916cd43dd8448eb211c80319c".to_owned(), span: "00f067aa0ba902b7".to_owned() };
    AttemptSpan { ids, parent: Some("53995c3f42cd8ad8".to_owned()) }
}

/// Claims the run's step of that queue, in a trace.
async fn take(bench: &Bench<impl World>, run: RunId, queue: &str) -> Claim {
    let ask = Ask { key: bench.due_of(run, queue).await, span: Some(span()) };
    match bench.ledger().claim(&worker("w"), &[ask]).await.unwrap().remove(0) {
        Claimed::Yes(claim) => *claim,
        other => panic!("{queue} of {run} was not claimed: {other:?}"),
    }
}

async fn start(bench: &Bench<impl World>) -> RunId {
    let new = NewRun { traceparent: Some(ASKED.to_owned()), ..new_run(PROVISION, user()) };
    let started = bench.ledger().start(&[new]).await.unwrap().remove(0);
    match started {
        Started::New(run) => run,
        other => panic!("it was not started: {other:?}"),
    }
}

fn whole(settled: &Settled) -> Option<&WholeRun> {
    match settled {
        Settled::Done { whole, .. } => whole.as_deref(),
        other => panic!("nothing was written: {other:?}"),
    }
}

fn lasted(whole: &WholeRun, seconds: u64) -> bool {
    (seconds..seconds + 60).contains(&whole.lasted.as_secs())
}

pub async fn what_ran_out_says_which_span_it_was(bench: &Bench<impl World>) {
    let run = bench.start(PROVISION, user()).await;
    let key = bench.due_of(run, CREATE).await;
    take(bench, run, CREATE).await;
    bench.world.advance(LEASE + Duration::from_secs(1)).await;

    let expired = bench.ledger().expired(10).await.unwrap();

    let [one] = &expired[..] else { panic!("{expired:?}") };
    assert_eq!((&one.span, one.generation), (&Some(span()), key.generation));
    assert!((LEASE..LEASE * 4).contains(&one.age), "{:?}", one.age);

    bench.rescue().await;
    bench.world.advance(LONG).await;
    bench.take(run, CREATE).await;
    bench.world.advance(LEASE + Duration::from_secs(1)).await;
    let expired = bench.ledger().expired(10).await.unwrap();
    assert_eq!(expired.iter().map(|one| &one.span).collect::<Vec<_>>(), [&None], "an attempt in no trace has none");
}

pub async fn whoever_ends_a_run_is_told_of_the_whole(bench: &Bench<impl World>) {
    let run = start(bench).await;
    bench.world.advance(Duration::from_secs(100)).await;
    bench.work(run, CREATE, retry()).await;
    bench.world.advance(Duration::from_secs(100)).await;
    let claim = bench.take(run, CREATE).await;
    let on_the_way = bench.settle(&claim, success()).await;
    bench.work(run, CONFIGURE, success()).await;
    let claim = bench.take(run, VERIFY).await;

    let settled = bench.settle(&claim, success()).await;

    assert_eq!(whole(&on_the_way), None);
    let whole = whole(&settled).unwrap();
    assert_eq!(
        (whole.run, whole.workflow.as_str(), &whole.subject),
        (run, PROVISION, &claim.input.subject.to_string())
    );
    assert_eq!((whole.state, whole.reason, whole.attempts), (RunState::Succeeded, None, 4));
    assert_eq!((whole.traceparent.as_deref(), whole.asked_traceparent.as_deref()), (Some(ASKED), Some(ASKED)));
    assert!(lasted(whole, 200), "{whole:?}");
}

pub async fn a_revived_run_begins_anew_and_below_nothing(bench: &Bench<impl World>) {
    let run = start(bench).await;
    let claim = bench.take(run, CREATE).await;
    let dies = Outcome::Permanent(Failure::new(Class::Rejected, "the server refuses it"));
    let died = bench.settle(&claim, dies).await;
    bench.world.advance(Duration::from_secs(1000)).await;
    bench.ledger().revive(run, &by("ana")).await.unwrap();
    bench.world.advance(Duration::from_secs(100)).await;
    bench.succeed(run, &STEPS[..2]).await;
    let claim = bench.take(run, VERIFY).await;

    let settled = bench.settle(&claim, success()).await;

    let (died, ended) = (whole(&died).unwrap(), whole(&settled).unwrap());
    assert_eq!((died.state, died.reason, died.attempts), (RunState::Dead, Some(DeathReason::PermanentError), 1));
    assert_eq!((ended.state, ended.attempts, &ended.asked_traceparent), (RunState::Succeeded, 4, &None));
    assert!(lasted(died, 0) && lasted(ended, 100), "{died:?} {ended:?}");
}

pub async fn a_deadline_tells_of_the_whole_run(bench: &Bench<impl World>) {
    let run = start(bench).await;
    bench.world.advance(DEADLINE + Duration::from_secs(60)).await;

    let ended = bench.ledger().exceed(10).await.unwrap();

    let [one] = &ended[..] else { panic!("{ended:?}") };
    assert_eq!((one.run, one.state, one.reason), (run, RunState::Dead, Some(DeathReason::DeadlineExceeded)));
    assert_eq!((one.attempts, one.asked_traceparent.as_deref()), (0, Some(ASKED)));
    assert!(lasted(one, DEADLINE.as_secs() + 60), "{one:?}");
}

pub async fn a_run_that_a_person_ended_is_told_of_once(bench: &Bench<impl World>) {
    let (due, in_hand, old) = (start(bench).await, start(bench).await, start(bench).await);
    let claim = bench.take(in_hand, CREATE).await;
    let dead = bench.dead_run(user()).await;
    let cancel = async |run| bench.ledger().cancel(run, &by("ana")).await.unwrap();
    cancel(old).await;
    bench.world.advance(LONG).await;

    assert_eq!(cancel(due).await, Changed::Yes);
    assert_eq!(cancel(dead).await, Changed::Yes);
    assert_eq!(cancel(in_hand).await, Changed::AtSettle);
    let settled = bench.settle(&claim, success()).await;
    let (first, second) =
        (bench.ledger().spans_that_wait(10).await.unwrap(), bench.ledger().spans_that_wait(10).await.unwrap());

    let [one] = &first[..] else { panic!("what has just ended, and was not dead: {first:?}") };
    assert_eq!((one.run, one.state, one.reason), (due, RunState::Cancelled, None));
    assert!(lasted(one, LONG.as_secs()) && one.ended_ago < Duration::from_secs(60), "{one:?}");
    assert_eq!(second, []);
    assert_eq!(whole(&settled).map(|whole| whole.state), Some(RunState::Cancelled), "its settle tells of it");
}

pub async fn a_claim_in_a_trace_says_what_the_step_waited_for(bench: &Bench<impl World>) {
    let run = bench.start(PROVISION, user()).await;
    let at_once = take(bench, run, CREATE).await;
    bench.settle(&at_once, retry()).await;
    bench.world.advance(LONG).await;
    let after_a_failure = take(bench, run, CREATE).await;
    let asked = Failure::new(Class::RateLimited, "the server asks for rest");
    bench.settle(&after_a_failure, Outcome::Defer { failure: asked, after: Some(Duration::from_secs(30)) }).await;
    bench.world.advance(LONG).await;
    let after_rest = take(bench, run, CREATE).await;
    bench.settle(&after_rest, success()).await;
    bench.ledger().hold(Scope::Host, HOST, Duration::from_secs(40)).await.unwrap();
    bench.world.advance(LONG).await;
    let behind_a_gate = take(bench, run, CONFIGURE).await;
    bench.settle(&behind_a_gate, retry()).await;
    bench.world.advance(LONG).await;
    let untraced = bench.take(run, CONFIGURE).await;

    assert_eq!(untraced.waited, None);
    let queue = at_once.waited.clone().unwrap_or_default().queue;
    assert_eq!(at_once.waited.unwrap_or_default(), Waited { queue, ..Waited::default() });
    let waited = after_a_failure.waited.unwrap();
    assert!((100..LONG.as_millis() as i64).contains(&waited.backoff.unwrap()), "{waited:?}");
    assert_adds_up(&waited, LONG);
    assert_eq!((waited.retry_after, waited.turn, waited.gate, &waited.gated_by), (None, None, None, &None));
    let waited = after_rest.waited.unwrap();
    assert!((30_000..60_000).contains(&waited.retry_after.unwrap()) && waited.backoff.is_none(), "{waited:?}");
    assert_adds_up(&waited, LONG);
    let waited = behind_a_gate.waited.unwrap();
    assert!((39_000..41_000).contains(&waited.gate.unwrap()) && waited.backoff.is_none(), "{waited:?}");
    assert_eq!(waited.gated_by.as_deref(), Some("host api.example: hold"));
    assert_adds_up(&waited, LONG);
}

pub async fn a_claim_in_a_trace_says_how_long_its_runs_turn_took(bench: &Bench<impl World>) {
    let user = user();
    let first = bench.start(PROVISION, user).await;
    let second = bench.start(DEPROVISION, user).await;
    bench.world.advance(LONG).await;
    bench.ledger().cancel(first, &by("ana")).await.unwrap();

    let waited = take(bench, second, "delete-instance").await.waited.unwrap();

    assert!((90_000..120_000).contains(&waited.turn.unwrap()), "{waited:?}");
    assert_eq!((waited.backoff, waited.gate), (None, None));
}

/// The parts are all that it waited for, but for what the test's own calls took.
fn assert_adds_up(waited: &Waited, whole: Duration) {
    let parts = [waited.backoff, waited.retry_after, waited.turn, waited.gate, waited.queue];
    let sum: i64 = parts.into_iter().flatten().sum();
    let whole = whole.as_millis() as i64;
    assert!((whole - 10..whole + 30_000).contains(&sum), "{waited:?}");
}
