//! Faults that a test injects, and the decision which of them a call meets.

use rand::Rng;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::hit::Hit;
use super::route::Route;

/// Everything that is wrong with the server just now. As JSON: the body of `PUT /_sim/faults`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// Looked at in order: delays add up, the first fault of another kind wins.
    pub rules: Vec<Rule>,
    /// The whole API is away.
    pub outage: Option<Outage>,
    pub database: Database,
    pub whatsapp: Whatsapp,
    /// Webhook targets (prefixes of their URL) that answer nothing: see
    /// `Quirks::dead_hook_delays_delete`.
    pub dead_hooks: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outage {
    /// Every connection is closed without an answer.
    Refuse,
    /// Nothing is ever answered.
    Hang,
    /// Everything is answered with this status, in the server's own shape.
    Error(u16),
    /// Everything is answered with this status and a proxy's page: the API is away, and something
    /// else stands in its place.
    Page(u16),
    /// Everything but the welcome is answered 503, as a successor without an activated licence
    /// does.
    Unlicensed,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Database {
    #[default]
    Up,
    Down,
    /// Each statement fails with this probability.
    Flapping(f64),
    /// It restarts: connections are cut, and new ones are not taken yet.
    Restarting,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Whatsapp {
    #[default]
    Reachable,
    /// No QR codes; sockets flip between `connecting` and `close`.
    Unreachable,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Only this route; every route when absent.
    #[serde(default)]
    pub route: Option<Route>,
    /// Only instance names that begin so; every call when absent.
    #[serde(default)]
    pub name_prefix: Option<String>,
    #[serde(default)]
    pub when: When,
    pub fault: Fault,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum When {
    #[default]
    Always,
    Probability(f64),
    /// This many calls more.
    Next(u32),
}

/// Whether the server has done its work when the fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    BeforeWork,
    AfterWork,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    Latency {
        ms: u64,
        stage: Stage,
    },
    /// Between a create's look at the name and its row: the moment in which a second create
    /// destroys the first.
    LateRow {
        ms: u64,
    },
    Error {
        status: u16,
        /// The server's own shape of an error when absent.
        #[serde(default)]
        body: Option<Value>,
        stage: Stage,
    },
    Drop {
        stage: Stage,
    },
    Hang {
        stage: Stage,
    },
    /// 429 or 503 with a `Retry-After`, before any work.
    Limited {
        status: u16,
        retry_after: RetryAfter,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RetryAfter {
    Seconds(u64),
    /// As an HTTP date, this many seconds after the server's own `Date`.
    DateIn(u64),
}

/// What one call will meet: delays around its work, and at most one other fault.
#[derive(Clone, Debug, Default)]
pub(super) struct Plan {
    pub delay_before_ms: u64,
    pub delay_row_ms: u64,
    pub delay_after_ms: u64,
    pub fault: Option<Fault>,
}

impl Faults {
    pub(super) fn plan(
        &mut self,
        route: Route,
        name: Option<&str>,
        rng: &mut impl Rng,
        mut hit: impl FnMut(Hit),
    ) -> Plan {
        let mut plan = Plan::default();
        for rule in &mut self.rules {
            let terminal = !matches!(rule.fault, Fault::Latency { .. } | Fault::LateRow { .. });
            if (terminal && plan.fault.is_some()) || !rule.matches(route, name) || !rule.when.strikes(rng) {
                continue;
            }
            hit(rule.fault.hit());
            match &rule.fault {
                Fault::Latency { ms, stage: Stage::BeforeWork } => plan.delay_before_ms += ms,
                Fault::Latency { ms, stage: Stage::AfterWork } => plan.delay_after_ms += ms,
                Fault::LateRow { ms } => plan.delay_row_ms += ms,
                other => plan.fault = Some(other.clone()),
            }
        }
        plan
    }
}

impl Rule {
    fn matches(&self, route: Route, name: Option<&str>) -> bool {
        self.route.is_none_or(|wanted| wanted == route)
            && self.name_prefix.as_deref().is_none_or(|prefix| name.is_some_and(|name| name.starts_with(prefix)))
    }
}

impl When {
    fn strikes(&mut self, rng: &mut impl Rng) -> bool {
        match self {
            Self::Always => true,
            Self::Probability(probability) => rng.random_bool(probability.clamp(0.0, 1.0)),
            Self::Next(0) => false,
            Self::Next(left) => {
                *left -= 1;
                true
            }
        }
    }
}

impl Fault {
    fn hit(&self) -> Hit {
        match self {
            Self::Latency { .. } | Self::LateRow { .. } => Hit::FaultLatency,
            Self::Error { .. } => Hit::FaultError,
            Self::Drop { stage: Stage::BeforeWork } => Hit::FaultDropBeforeWork,
            Self::Drop { stage: Stage::AfterWork } => Hit::FaultDropAfterWork,
            Self::Hang { .. } => Hit::FaultHang,
            Self::Limited { retry_after: RetryAfter::Seconds(_), .. } => Hit::FaultRetryAfterSeconds,
            Self::Limited { retry_after: RetryAfter::DateIn(_), .. } => Hit::FaultRetryAfterDate,
        }
    }

    /// The fault if it strikes at this stage.
    pub(super) fn at(&self, stage: Stage) -> bool {
        match self {
            Self::Latency { .. } | Self::LateRow { .. } => false,
            Self::Error { stage: own, .. } | Self::Drop { stage: own } | Self::Hang { stage: own } => *own == stage,
            Self::Limited { .. } => stage == Stage::BeforeWork,
        }
    }
}
