//! Every metric that a process of Sluice exposes: its name, what it is, its labels, and what it
//! says. docs/metrics.md's table is held to what `/metrics` answers. No other module writes a
//! metric's name or a label's.

use self::Kind::{Counter, Gauge, Histogram};
use super::samples::Labels;

/// A call or an attempt: from what the API answers in to its longest timeout.
const ATTEMPT_BUCKETS: [f64; 13] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0, 90.0];
/// Fine where a short run should end, and up to an hour, for those that waited out an outage.
const RUN_BUCKETS: [f64; 20] = [
    0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0, 1800.0,
    3600.0,
];

/// What kind of metric it is; of a histogram, its buckets.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram(&'static [f64]),
}

/// A metric with `N` labels.
pub struct Metric<const N: usize> {
    pub(super) family: Family,
    labels: [&'static str; N],
}

/// What all series of a metric have in common.
#[derive(Debug, Clone, Copy)]
pub(super) struct Family {
    pub name: &'static str,
    pub kind: Kind,
    pub help: &'static str,
}

const fn metric<const N: usize>(kind: Kind, name: &'static str, labels: [&'static str; N]) -> Metric<N> {
    Metric { family: Family { name, kind, help: "" }, labels }
}

impl<const N: usize> Metric<N> {
    const fn says(mut self, help: &'static str) -> Self {
        self.family.help = help;
        self
    }

    /// The labels of one series, by their values in their order.
    pub(super) fn labels(&self, values: [&str; N]) -> Labels {
        self.labels.into_iter().zip(values.map(str::to_owned)).collect()
    }
}

// The whole system's, from relays.

pub static UNFINISHED_STEPS: Metric<2> = metric(Gauge, "sluice_unfinished_steps", ["workflow", "step"]).says(
    "Work that is not finished and not held by a gate, wherever it waits: steps due now and running; scale by it",
);
pub static OLDEST_UNFINISHED_AGE: Metric<2> =
    metric(Gauge, "sluice_oldest_unfinished_age_seconds", ["workflow", "step"])
        .says("How long ago the oldest step among the unfinished became due; 0 where there is none");
pub static QUEUE_DEPTH: Metric<2> = metric(Gauge, "sluice_queue_depth", ["step", "state"])
    .says("Steps by state: due, held (due behind a closed gate), scheduled (due later), running; a queue is counted up to 20001");
pub static DEAD_LETTERS: Metric<1> =
    metric(Gauge, "sluice_dead_letters", ["reason"]).says("Dead letters that wait for a person, by why the run died");
pub static BREAKER_STATE: Metric<1> =
    metric(Gauge, "sluice_breaker_state", ["host"]).says("The breaker of an API host: 0 closed, 1 half open, 2 open");
pub static GATE_CLOSED: Metric<3> = metric(Gauge, "sluice_gate_closed", ["scope", "name", "cause"])
    .says("1 where a gate is closed: by a pause, a hold (Retry-After, or by SQL) or an open breaker");
pub static REDIS_OUTSTANDING: Metric<1> =
    metric(Gauge, "sluice_redis_outstanding", ["step"]).says("Hints in Redis that no worker has acknowledged");
pub static EVENT_LAG: Metric<0> = metric(Gauge, "sluice_event_lag_seconds", [])
    .says("How old the oldest unpublished event is; it only grows where no process publishes events");
pub static PROJECTIONS_PENDING: Metric<0> = metric(Gauge, "sluice_projections_pending", [])
    .says("Subjects whose rows in the app could not be written yet, refused or locked by the app's schema");

// Relays.

pub static RESCUED: Metric<1> = metric(Counter, "sluice_rescued_total", ["kind"])
    .says("What a relay took back: crashed (the lease ran out), exceeded (past the run's deadline: dead), doubted (a call outlived \
         its lease: looked at again)");
pub static LOST_SIGN_UPS_FOUND: Metric<0> = metric(Counter, "sluice_lost_sign_ups_found_total", [])
    .says("Sign-ups without a queue row that the finder gave one");

pub static EVENTS_DROPPED: Metric<0> = metric(Counter, "sluice_events_dropped_total", [])
    .says("Events that nobody had published when their retention ended");

// Publishers of events.

pub static BROKER_CONNECTED: Metric<0> =
    metric(Gauge, "sluice_broker_connected", []).says("1 where the publisher of events is connected to RabbitMQ");
pub static EVENTS_PUBLISHED: Metric<1> = metric(Counter, "sluice_events_published_total", ["result"])
    .says("Events that RabbitMQ has confirmed: routed, or unroutable (no queue wants them)");
pub static EVENTS_UNCONFIRMED: Metric<0> = metric(Counter, "sluice_events_unconfirmed_total", [])
    .says("Events that were sent and not confirmed: they go out again, under the same ids");

// Who follows a feed.

pub static FEED_CONNECTED: Metric<0> = metric(Gauge, "sluice_feed_connected", [])
    .says("1 where the role follow is connected to the other program's RabbitMQ");
pub static FEED_MESSAGES: Metric<1> = metric(Counter, "sluice_feed_messages_total", ["result"])
    .says("Another program's events that were read: taken, put_off (written later), unreadable (kept in a queue of their own)");

// Workers, and relays where they settle a crash.

pub static ATTEMPTS: Metric<4> = metric(Counter, "sluice_attempts_total", ["workflow", "step", "outcome", "class"])
    .says("Attempts that ended, as the ledger's attempts say; class is none for a success");
pub static STEP_DURATION: Metric<1> = metric(Histogram(&ATTEMPT_BUCKETS), "sluice_step_duration_seconds", ["step"])
    .says("From an attempt's claim to its outcome");
pub static RUN_DURATION: Metric<2> = metric(Histogram(&RUN_BUCKETS), "sluice_run_duration_seconds", ["workflow", "outcome"])
    .says("From the request (of a sign-up: its own moment) to the run's end in an attempt; a repeated request counts from its intake");
pub static RUNS: Metric<2> = metric(Counter, "sluice_runs_total", ["workflow", "outcome"]).says(
    "Runs that an attempt ended: succeeded, dead, cancelled; what a deadline ended is among the rescued, as exceeded",
);
pub static LEASES_LOST: Metric<0> = metric(Counter, "sluice_leases_lost_total", []).says(
    "Attempts whose lease ran out: counted once, by the worker that hands the step back or the relay that rescues it",
);
pub static STALE_SETTLES: Metric<0> = metric(Counter, "sluice_stale_settles_total", [])
    .says("Settles that came after the step had passed to somebody else");
pub static CLAIMS_REFUSED: Metric<2> = metric(Counter, "sluice_claims_refused_total", ["step", "reason"]).says(
    "Claims that left the step due, uncounted: gate_closed, resource_busy, unknown_definition (another build's step)",
);
pub static HTTP_CLIENT: Metric<4> = metric(
    Histogram(&ATTEMPT_BUCKETS),
    "http_client_request_duration_seconds",
    ["http_request_method", "url_template", "http_response_status_code", "error_type"],
)
.says("Calls to the APIs of workflows, answer included; no status where none came; a read-back that hears 404 is no error");
pub static CONSUMER_UP: Metric<1> = metric(Gauge, "sluice_consumer_up", ["step"])
    .says("1 where the worker's consumer of this step is connected to Redis");
pub static CONSUMER_REBUILDS: Metric<1> =
    metric(Counter, "sluice_consumer_rebuilds_total", ["step"]).says("Consumers rebuilt after Redis ended them");
pub static CONSUMER_PANICS: Metric<1> =
    metric(Counter, "sluice_consumer_panics_total", ["step"]).says("Handlers of hints that panicked, which is a bug");
pub static CONSUMER_ABANDONED: Metric<1> = metric(Counter, "sluice_consumer_abandoned_total", ["step"])
    .says("Attempts left to their leases at the end of a drain");
pub static CONSUMER_GARBLED: Metric<1> = metric(Counter, "sluice_consumer_garbled_total", ["step"])
    .says("Hints in the queue that no relay or worker pushed");
pub static HINTS_HANDED_BACK: Metric<1> = metric(Counter, "sluice_hints_handed_back_total", ["step"])
    .says("Hints taken from silent workers: of apalis-redis only");

// Every process.

pub static SPANS: Metric<1> =
    metric(Counter, "sluice_spans_total", ["result"]).says("Spans by what became of them: exported, dropped, failed");
pub static POOL_CONNECTIONS: Metric<2> =
    metric(Gauge, "sluice_pool_connections", ["pool", "state"]).says("Connections to Postgres: busy, idle");
pub static POOL_CONNECTIONS_MAX: Metric<1> =
    metric(Gauge, "sluice_pool_connections_max", ["pool"]).says("How many connections to Postgres a pool may open");
pub static BUILD_INFO: Metric<2> =
    metric(Gauge, "sluice_build_info", ["version", "role"]).says("1, with the program's version and its role");
pub static PROCESS_START: Metric<0> =
    metric(Gauge, "process_start_time_seconds", []).says("When the process started, in seconds since 1970");
