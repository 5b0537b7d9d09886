//! The workflow as data: which steps it has, in which order, and how each is tried, timed and
//! leased.

use std::time::Duration;

use super::{CONFIGURE_WEBHOOKS, CREATE_INSTANCE, VERIFY};
use crate::{
    definition::{Definition, LEASE, Reach, Step},
    policy::Retry,
};

/// The workflow's name.
pub const PROVISION_INSTANCE: &str = "provision-instance";

/// `timeout` is that of one attempt of any step, `deadline` that of the whole run; `host` is the
/// API's.
pub fn definition(retry: Retry, timeout: Duration, deadline: Duration, host: &str) -> Definition {
    let step = |name: &str, reach| Step {
        name: name.parse().expect("the step names of this module are valid"),
        timeout,
        lease: LEASE,
        retry,
        reach,
        host: Some(host.to_owned()),
    };
    Definition {
        name: PROVISION_INSTANCE.parse().expect("the workflow's name is valid"),
        version: 1,
        steps: vec![
            step(CREATE_INSTANCE, Reach::Exclusive),
            step(CONFIGURE_WEBHOOKS, Reach::Shared),
            step(VERIFY, Reach::Shared),
        ],
        deadline,
        priority: 0,
        projection: Some("sluice.project_instances"),
        source: Some("sluice.take_sign_ups"),
        gone: Some("sluice.gone_users"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_step_that_creates_keeps_others_away_from_the_name() {
        let workflow =
            definition(Retry::default(), Duration::from_secs(30), Duration::from_secs(86_400), "api.example");
        let exclusive =
            workflow.steps.iter().filter(|step| step.reach == Reach::Exclusive).map(|step| step.name.as_str());

        assert_eq!(exclusive.collect::<Vec<_>>(), [CREATE_INSTANCE]);
    }
}
