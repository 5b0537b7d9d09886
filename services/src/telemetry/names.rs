//! Every name that a span or an attribute has, once. OpenTelemetry's semantic conventions 1.37
//! (HTTP and database: stable; messaging: in development), and `sluice.…` for what is ours.

/// The first words of the spans that a relay makes. All others but `PUBLISH` are workers', and so
/// is what is `IN_ATTEMPT`.
pub(super) const OF_RELAYS: [&str; 6] = [INTAKE, START, REVIVE, SEND, RESCUE, WHOLE];

pub(super) const INTAKE: &str = "intake";
pub(super) const START: &str = "start";
pub(super) const REVIVE: &str = "revive";
pub(super) const SEND: &str = "send";
pub(super) const RESCUE: &str = "rescue";
/// From the request to the end.
pub(super) const WHOLE: &str = "run";
/// The publisher of events makes these.
pub(super) const PUBLISH: &str = "publish";
pub(super) const PROCESS: &str = "process";
pub(super) const CLAIM: &str = "claim";
pub(super) const SETTLE: &str = "settle";

pub const WORKFLOW: &str = "sluice.workflow";
pub const RUN: &str = "sluice.run";
pub const SUBJECT: &str = "sluice.subject";
pub const STEP: &str = "sluice.step";
/// Which attempt of the step, from 1.
pub const ATTEMPT: &str = "sluice.attempt";
/// How many attempts the run took.
pub const ATTEMPTS: &str = "sluice.attempts";
/// The fencing number of the claim, in hexadecimal. Not a secret.
pub const TOKEN: &str = "sluice.token";
/// Of an attempt as in the table `sluice.attempt`, or what came of a hint that was none: stale,
/// claim_refused, overtaken. Of a whole run its state.
pub const OUTCOME: &str = "sluice.outcome";
pub const CLASS: &str = "sluice.class";
/// Which worker had an attempt that a relay rescued.
pub const WORKER: &str = "sluice.worker";
/// How long a request waited for a relay.
pub const WAITED: &str = "sluice.waited_ms";
/// What a step waited for before its claim, one after another: `ledger::Waited`.
pub const BACKOFF: &str = "sluice.waited.backoff_ms";
pub const RETRY_AFTER: &str = "sluice.waited.retry_after_ms";
pub const TURN: &str = "sluice.waited.turn_ms";
pub const GATE: &str = "sluice.waited.gate_ms";
pub const GATED_BY: &str = "sluice.waited.gate";
pub const QUEUED: &str = "sluice.waited.queue_ms";

pub const DATABASE: &str = "db.system.name";
pub const ERROR: &str = "error.type";
pub const METHOD: &str = "http.request.method";
pub const STATUS: &str = "http.response.status_code";
pub const MESSAGE: &str = "messaging.message.id";
pub const OPERATION: &str = "messaging.operation.name";
pub const OPERATION_TYPE: &str = "messaging.operation.type";
pub const QUEUE: &str = "messaging.destination.name";
pub const ROUTING_KEY: &str = "messaging.rabbitmq.destination.routing_key";
pub const QUEUE_SYSTEM: &str = "messaging.system";
pub const SERVER: &str = "server.address";
pub const PORT: &str = "server.port";
pub const URL: &str = "url.full";
pub const ROUTE: &str = "url.template";

pub const HOST_NAME: &str = "host.name";
pub const SERVICE: &str = "service.name";
pub const SERVICE_INSTANCE: &str = "service.instance.id";
pub const SERVICE_VERSION: &str = "service.version";

/// On spans of what may turn out not to have happened: they are exported only once they are `KEPT`.
pub(super) const TENTATIVE: &str = "sluice.tentative";
pub(super) const KEPT: &str = "sluice.kept";
/// On spans of attempts that the ledger has: one that is never `KEPT` is a rescue's to export.
pub(super) const HELD: &str = "sluice.held";
/// A worker's own, within an attempt.
pub(super) const IN_ATTEMPT: &str = "sluice.in_attempt";
/// The id of the span, and of the one above it (empty for none), where they are not as they were
/// made.
pub(super) const ID: &str = "sluice.span";
pub(super) const ABOVE: &str = "sluice.above";
/// How long it lasted, and how long ago that ended, in nanoseconds, where that is not as it was
/// made.
pub(super) const LASTED: &str = "sluice.lasted_ns";
pub(super) const ENDED_AGO: &str = "sluice.ended_ago_ns";
/// What says how a span is exported is not exported itself.
pub(super) const NOT_SENT: [&str; 8] = [TENTATIVE, KEPT, HELD, IN_ATTEMPT, ID, ABOVE, LASTED, ENDED_AGO];
