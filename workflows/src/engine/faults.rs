//! The faults in a program's definitions. A role says all of them before it starts, and refuses:
//! the ledger and the workers take a definition as it is.

use super::definition::{BETWEEN_RENEWALS, Definition, EXCLUSIVE_CALL, LEASE, Reach, Registry, Step};

/// One thing that forbids to run a definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Its name and version.
    pub workflow: String,
    /// The step and the value, and what to do.
    pub problem: String,
}

impl Registry {
    /// Every fault of every definition, in their order.
    pub fn faults(&self) -> Vec<Fault> {
        let all: Vec<_> = self.all().collect();
        let faults = |(at, workflow): (usize, &&Definition)| {
            let fault = |problem| Fault { workflow: label(workflow), problem };
            problems(workflow, &all[..at]).into_iter().map(fault).collect::<Vec<_>>()
        };
        all.iter().enumerate().flat_map(faults).collect()
    }
}

fn problems(workflow: &Definition, before: &[&Definition]) -> Vec<String> {
    let mut problems = Vec::new();
    if before.iter().any(|other| label(other) == label(workflow)) {
        problems.push("is defined twice: give one of the two another name or version".to_owned());
    }
    if workflow.steps.is_empty() {
        problems.push("has no step: give it one, or leave the workflow out".to_owned());
    }
    for (at, step) in workflow.steps.iter().enumerate() {
        if workflow.steps[..at].iter().any(|other| other.name == step.name) {
            problems.push(format!("has the step {} twice: give one of the two another name", step.name));
        }
        problems.extend(short_lease(step));
        problems.extend(other_host(step, before));
    }
    problems
}

/// Of a lease that ends although its worker renews it, or that never leaves a call enough time.
fn short_lease(step: &Step) -> Option<String> {
    let renewals = BETWEEN_RENEWALS.saturating_mul(3);
    let (needed, what) = match step.reach {
        Reach::Shared => (renewals, "three renewals"),
        Reach::Exclusive => {
            (renewals.max(BETWEEN_RENEWALS + EXCLUSIVE_CALL), "a renewal, and a call that creates or deletes,")
        }
    };
    let Step { name, lease, .. } = step;
    (*lease < needed).then(|| {
        format!("the step {name} has a lease of {lease:?}: {what} need {needed:?}; give it LEASE, which is {LEASE:?}")
    })
}

/// Steps of one name share a queue, which stands behind the gate of one host.
fn other_host(step: &Step, before: &[&Definition]) -> Option<String> {
    let mut others = before.iter().flat_map(|workflow| workflow.steps.iter().map(move |other| (workflow, other)));
    let (workflow, other) = others.find(|(_, other)| other.name == step.name && other.host != step.host)?;
    Some(format!(
        "the step {} calls {}, and in {} it calls {}: they share a queue, so give both the same host, or one of them \
         another name",
        step.name,
        host(step),
        label(workflow),
        host(other)
    ))
}

fn host(step: &Step) -> &str {
    step.host.as_deref().unwrap_or("no host")
}

fn label(workflow: &Definition) -> String {
    format!("{} {}", workflow.name, workflow.version)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::policy::Retry;

    fn step(name: &str) -> Step {
        Step {
            name: name.parse().unwrap(),
            timeout: Duration::from_secs(30),
            lease: LEASE,
            retry: Retry::default(),
            reach: Reach::Shared,
            host: Some("api:8080".to_owned()),
        }
    }

    fn workflow(name: &str, steps: Vec<Step>) -> Definition {
        Definition {
            name: name.parse().unwrap(),
            version: 1,
            steps,
            deadline: Duration::from_secs(86_400),
            priority: 0,
            projection: None,
            source: None,
            gone: None,
        }
    }

    fn said(workflows: Vec<Definition>) -> Vec<String> {
        let faults = Registry::new(workflows).faults().into_iter();
        faults.map(|fault| format!("{}: {}", fault.workflow, fault.problem)).collect()
    }

    fn leased(reach: Reach, millis: u64) -> Vec<Definition> {
        vec![workflow("a", vec![Step { reach, lease: Duration::from_millis(millis), ..step("one") }])]
    }

    #[test]
    fn versions_and_workflows_may_share_steps() {
        let newer = Definition { version: 2, ..workflow("a", vec![step("one"), step("two")]) };

        assert_eq!(said(vec![workflow("a", vec![step("one")]), newer, workflow("b", vec![step("one")])]), [""; 0]);
    }

    #[test]
    fn every_fault_is_said_at_once() {
        let short = Step { lease: Duration::from_secs(1), ..step("one") };

        let said = said(vec![workflow("a", vec![]), workflow("a", vec![short, step("two"), step("two")])]);

        assert_eq!(
            said,
            [
                "a 1: has no step: give it one, or leave the workflow out",
                "a 1: is defined twice: give one of the two another name or version",
                "a 1: the step one has a lease of 1s: three renewals need 3.3s; give it LEASE, which is 4s",
                "a 1: has the step two twice: give one of the two another name",
            ]
        );
    }

    #[test]
    fn a_lease_lasts_for_three_renewals_and_leaves_enough_for_a_call_that_creates_right_before_one() {
        for (reach, millis, needs) in [
            (Reach::Shared, 3_300, "three renewals need 3.3s"),
            (Reach::Exclusive, 3_600, "a renewal, and a call that creates or deletes, need 3.6s"),
        ] {
            let short = Duration::from_millis(millis - 1);
            let problem = format!("the step one has a lease of {short:?}: {needs}; give it LEASE, which is 4s");

            assert_eq!(said(leased(reach, millis)), [""; 0], "{reach:?}");
            assert_eq!(said(leased(reach, millis - 1)), [format!("a 1: {problem}")], "{reach:?}");
        }
    }

    #[test]
    fn steps_of_one_name_call_one_host() {
        let elsewhere = Step { host: Some("other".to_owned()), ..step("one") };
        let nowhere = Step { host: None, ..step("one") };
        let others = [workflow("b", vec![elsewhere]), workflow("c", vec![nowhere])];

        let said = said([vec![workflow("a", vec![step("one")])], others.to_vec()].concat());

        let mend = "they share a queue, so give both the same host, or one of them another name";
        assert_eq!(
            said,
            [
                format!("b 1: the step one calls other, and in a 1 it calls api:8080: {mend}"),
                format!("c 1: the step one calls no host, and in a 1 it calls api:8080: {mend}"),
            ]
        );
    }
}
