//! Every name that a span or an attribute has, once. OpenTelemetry's semantic conventions 1.37 (HTTP and database: stable;
//! messaging: in development), and `sluice.…` for what is ours.

/// The first words of the spans that a relay makes. All others are workers', and so is a `SEND` that is `IN_ATTEMPT`.
pub(super) const OF_RELAYS: [&str; 6] = [INTAKE, START, REVIVE, SEND, RESCUE, EXCEED];

pub(super) const INTAKE: &str = "intake";
pub(super) const START: &str = "start";
pub(super) const REVIVE: &str = "revive";
pub(super) const SEND: &str = "send";
pub(super) const RESCUE: &str = "rescue";
pub(super) const EXCEED: &str = "exceed";
pub(super) const PROCESS: &str = "process";
pub(super) const CLAIM: &str = "claim";
pub(super) const SETTLE: &str = "settle";

pub const WORKFLOW: &str = "sluice.workflow";
pub const RUN: &str = "sluice.run";
pub const SUBJECT: &str = "sluice.subject";
pub const STEP: &str = "sluice.step";
/// Which attempt of the step, from 1.
pub const ATTEMPT: &str = "sluice.attempt";
/// The fencing number of the claim, in hexadecimal. Not a secret.
pub const TOKEN: &str = "sluice.token";
/// As in `sluice.attempt`, or what came of a hint that was no attempt: stale, claim_refused, overtaken.
pub const OUTCOME: &str = "sluice.outcome";
pub const CLASS: &str = "sluice.class";
/// How long a request waited for a relay.
pub const WAITED: &str = "sluice.waited_ms";

pub const DATABASE: &str = "db.system.name";
pub const ERROR: &str = "error.type";
pub const METHOD: &str = "http.request.method";
pub const STATUS: &str = "http.response.status_code";
pub const MESSAGE: &str = "messaging.message.id";
pub const OPERATION: &str = "messaging.operation.name";
pub const OPERATION_TYPE: &str = "messaging.operation.type";
pub const QUEUE: &str = "messaging.destination.name";
pub const QUEUE_SYSTEM: &str = "messaging.system";
pub const SERVER: &str = "server.address";
pub const PORT: &str = "server.port";
pub const URL: &str = "url.full";
pub const ROUTE: &str = "url.template";

pub const SERVICE: &str = "service.name";
pub const SERVICE_INSTANCE: &str = "service.instance.id";
pub const SERVICE_VERSION: &str = "service.version";

/// On spans of what may turn out not to have happened: they are exported only once they are `KEPT`.
pub(super) const TENTATIVE: &str = "sluice.tentative";
pub(super) const KEPT: &str = "sluice.kept";
/// A worker's own, within an attempt.
pub(super) const IN_ATTEMPT: &str = "sluice.in_attempt";
/// What says how a span is exported is not exported itself.
pub(super) const NOT_SENT: [&str; 3] = [TENTATIVE, KEPT, IN_ATTEMPT];
