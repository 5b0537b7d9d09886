//! Every metric that a process of Sluice exposes: its name, what it is, its labels, and what it
//! says. docs/metrics.md's table is held to this one, and this one to what `/metrics` answers. No
//! other module writes a metric's name or a label's.

/// What kind of metric it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A metric with `N` labels.
#[derive(Debug)]
pub struct Metric<const N: usize>(Described);

/// The labels of one series.
pub type Labels = Vec<(&'static str, String)>;

impl<const N: usize> Metric<N> {
    const fn counter(name: &'static str, labels: &'static [&'static str; N], help: &'static str) -> Self {
        Self(Described { name, kind: Kind::Counter, labels, help })
    }

    const fn gauge(name: &'static str, labels: &'static [&'static str; N], help: &'static str) -> Self {
        Self(Described { name, kind: Kind::Gauge, labels, help })
    }

    const fn histogram(name: &'static str, labels: &'static [&'static str; N], help: &'static str) -> Self {
        Self(Described { name, kind: Kind::Histogram, labels, help })
    }

    /// One series of it.
    pub fn labels(&self, values: [&str; N]) -> Labels {
        self.0.labels.iter().copied().zip(values.map(str::to_owned)).collect()
    }

    /// As it is described, whatever its labels.
    pub fn described(&self) -> Described {
        self.0
    }
}

/// A metric of any number of labels.
#[derive(Debug, Clone, Copy)]
pub struct Described {
    pub name: &'static str,
    pub kind: Kind,
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

impl Described {
    /// The name that the exposition's HELP and TYPE lines bear.
    pub fn family(&self) -> &'static str {
        self.name.strip_suffix("_total").unwrap_or(self.name)
    }
}

// The whole system's, from relays.

pub static UNFINISHED_STEPS: Metric<2> = Metric::gauge(
    "sluice_unfinished_steps",
    &["workflow", "step"],
    "Work that is not finished and not held by a gate, wherever it waits: steps due now and running; scale by it",
);
pub static OLDEST_UNFINISHED_AGE: Metric<2> = Metric::gauge(
    "sluice_oldest_unfinished_age_seconds",
    &["workflow", "step"],
    "How long ago the oldest step among the unfinished became due; 0 where there is none",
);
pub static QUEUE_DEPTH: Metric<2> = Metric::gauge(
    "sluice_queue_depth",
    &["step", "state"],
    "Steps by state: due, held (due behind a closed gate), scheduled (due later), running; a queue is counted up to 20001",
);
pub static DEAD_LETTERS: Metric<1> =
    Metric::gauge("sluice_dead_letters", &["reason"], "Dead letters that wait for a person, by why the run died");
pub static BREAKER_STATE: Metric<1> =
    Metric::gauge("sluice_breaker_state", &["host"], "The breaker of an API host: 0 closed, 1 half open, 2 open");
pub static GATE_CLOSED: Metric<3> = Metric::gauge(
    "sluice_gate_closed",
    &["scope", "name", "cause"],
    "1 where a gate is closed: by a pause, a hold (Retry-After, or by SQL) or an open breaker",
);
pub static REDIS_OUTSTANDING: Metric<1> =
    Metric::gauge("sluice_redis_outstanding", &["step"], "Hints in Redis that no worker has acknowledged");
pub static EVENT_LAG: Metric<0> = Metric::gauge(
    "sluice_event_lag_seconds",
    &[],
    "How old the oldest unpublished event is; it only grows where no process publishes events",
);
pub static PROJECTIONS_PENDING: Metric<0> = Metric::gauge(
    "sluice_projections_pending",
    &[],
    "Subjects whose rows in the app could not be written yet, refused or locked by the app's schema",
);

// Relays.

pub static RESCUED: Metric<1> = Metric::counter(
    "sluice_rescued_total",
    &["kind"],
    "What a relay took back: crashed (the lease ran out), exceeded (past the run's deadline: dead), doubted (a call outlived \
     its lease: looked at again)",
);
pub static LOST_SIGN_UPS_FOUND: Metric<0> =
    Metric::counter("sluice_lost_sign_ups_found_total", &[], "Sign-ups without a queue row that the finder gave one");

pub static EVENTS_DROPPED: Metric<0> =
    Metric::counter("sluice_events_dropped_total", &[], "Events that nobody had published when their retention ended");

// Publishers of events.

pub static BROKER_CONNECTED: Metric<0> =
    Metric::gauge("sluice_broker_connected", &[], "1 where the publisher of events is connected to RabbitMQ");
pub static EVENTS_PUBLISHED: Metric<1> = Metric::counter(
    "sluice_events_published_total",
    &["result"],
    "Events that RabbitMQ has confirmed: routed, or unroutable (no queue wants them)",
);
pub static EVENTS_UNCONFIRMED: Metric<0> = Metric::counter(
    "sluice_events_unconfirmed_total",
    &[],
    "Events that were sent and not confirmed: they go out again, under the same ids",
);

// Who follows a feed.

pub static FEED_CONNECTED: Metric<0> =
    Metric::gauge("sluice_feed_connected", &[], "1 where the role follow is connected to the other program's RabbitMQ");
pub static FEED_MESSAGES: Metric<1> = Metric::counter(
    "sluice_feed_messages_total",
    &["result"],
    "Another program's events that were read: taken, put_off (written later), unreadable (kept in a queue of their own)",
);

// Workers, and relays where they settle a crash.

pub static ATTEMPTS: Metric<4> = Metric::counter(
    "sluice_attempts_total",
    &["workflow", "step", "outcome", "class"],
    "Attempts that ended, as the ledger's attempts say; class is none for a success",
);
pub static STEP_DURATION: Metric<1> =
    Metric::histogram("sluice_step_duration_seconds", &["step"], "From an attempt's claim to its outcome");
pub static RUN_DURATION: Metric<2> = Metric::histogram(
    "sluice_run_duration_seconds",
    &["workflow", "outcome"],
    "From the request (of a sign-up: its own moment) to the run's end in an attempt; a repeated request counts from its intake",
);
pub static RUNS: Metric<2> = Metric::counter(
    "sluice_runs_total",
    &["workflow", "outcome"],
    "Runs that an attempt ended: succeeded, dead, cancelled; what a deadline ended is among the rescued, as exceeded",
);
pub static LEASES_LOST: Metric<0> = Metric::counter(
    "sluice_leases_lost_total",
    &[],
    "Attempts whose lease ran out: counted once, by the worker that hands the step back or the relay that rescues it",
);
pub static STALE_SETTLES: Metric<0> =
    Metric::counter("sluice_stale_settles_total", &[], "Settles that came after the step had passed to somebody else");
pub static CLAIMS_REFUSED: Metric<2> = Metric::counter(
    "sluice_claims_refused_total",
    &["step", "reason"],
    "Claims that left the step due, uncounted: gate_closed, resource_busy, unknown_definition (another build's step)",
);
pub static HTTP_CLIENT: Metric<4> = Metric::histogram(
    "http_client_request_duration_seconds",
    &["http_request_method", "url_template", "http_response_status_code", "error_type"],
    "Calls to the APIs of workflows, answer included; no status where none came; a read-back that hears 404 is no error",
);
pub static CONSUMER_UP: Metric<1> =
    Metric::gauge("sluice_consumer_up", &["step"], "1 where the worker's consumer of this step is connected to Redis");
pub static CONSUMER_REBUILDS: Metric<1> =
    Metric::counter("sluice_consumer_rebuilds_total", &["step"], "Consumers rebuilt after Redis ended them");
pub static CONSUMER_PANICS: Metric<1> =
    Metric::counter("sluice_consumer_panics_total", &["step"], "Handlers of hints that panicked, which is a bug");
pub static CONSUMER_ABANDONED: Metric<1> = Metric::counter(
    "sluice_consumer_abandoned_total",
    &["step"],
    "Attempts left to their leases at the end of a drain",
);
pub static CONSUMER_GARBLED: Metric<1> =
    Metric::counter("sluice_consumer_garbled_total", &["step"], "Hints in the queue that no relay or worker pushed");
pub static HINTS_HANDED_BACK: Metric<1> = Metric::counter(
    "sluice_hints_handed_back_total",
    &["step"],
    "Hints taken from silent workers: of apalis-redis only",
);

// Every process.

pub static SPANS: Metric<1> =
    Metric::counter("sluice_spans_total", &["result"], "Spans by what became of them: exported, dropped, failed");
pub static POOL_CONNECTIONS: Metric<2> =
    Metric::gauge("sluice_pool_connections", &["pool", "state"], "Connections to Postgres: busy, idle");
pub static POOL_CONNECTIONS_MAX: Metric<1> =
    Metric::gauge("sluice_pool_connections_max", &["pool"], "How many connections to Postgres a pool may open");
pub static BUILD_INFO: Metric<2> =
    Metric::gauge("sluice_build_info", &["version", "role"], "1, with the program's version and its role");
pub static PROCESS_START: Metric<0> =
    Metric::gauge("process_start_time_seconds", &[], "When the process started, in seconds since 1970");

/// All of them, in the order of docs/metrics.md's table.
pub fn all() -> Vec<Described> {
    vec![
        UNFINISHED_STEPS.described(),
        OLDEST_UNFINISHED_AGE.described(),
        QUEUE_DEPTH.described(),
        DEAD_LETTERS.described(),
        BREAKER_STATE.described(),
        GATE_CLOSED.described(),
        REDIS_OUTSTANDING.described(),
        EVENT_LAG.described(),
        PROJECTIONS_PENDING.described(),
        RESCUED.described(),
        LOST_SIGN_UPS_FOUND.described(),
        EVENTS_DROPPED.described(),
        BROKER_CONNECTED.described(),
        EVENTS_PUBLISHED.described(),
        EVENTS_UNCONFIRMED.described(),
        FEED_CONNECTED.described(),
        FEED_MESSAGES.described(),
        ATTEMPTS.described(),
        STEP_DURATION.described(),
        RUN_DURATION.described(),
        RUNS.described(),
        LEASES_LOST.described(),
        STALE_SETTLES.described(),
        CLAIMS_REFUSED.described(),
        HTTP_CLIENT.described(),
        CONSUMER_UP.described(),
        CONSUMER_REBUILDS.described(),
        CONSUMER_PANICS.described(),
        CONSUMER_ABANDONED.described(),
        CONSUMER_GARBLED.described(),
        HINTS_HANDED_BACK.described(),
        SPANS.described(),
        POOL_CONNECTIONS.described(),
        POOL_CONNECTIONS_MAX.described(),
        BUILD_INFO.described(),
        PROCESS_START.described(),
    ]
}
