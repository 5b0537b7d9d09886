//! What somebody implements to give the engine a workflow: its definition, its steps' code, and,
//! per API host, a probe. The engine runs every workflow through these traits; none has a
//! privilege.

use std::{future::Future, pin::Pin, sync::Arc};

use serde_json::Value;

use super::{
    breaker::Answer,
    calls::ExclusiveCalls,
    definition::{Definition, Registry},
    ids::{StepName, WorkflowName},
    outcome::{Outcome, StepInput},
};

/// A future that a trait object gives out.
pub type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A workflow: data and code.
pub trait Workflow: Send + Sync {
    /// Every version that this build runs, the one that new runs get among them.
    fn definitions(&self) -> Vec<Definition>;

    /// Whether a run can be worked on with this input. It is asked before the first step runs: a
    /// run that is refused has been started and announced, and is a dead letter then. The error is
    /// for the person who wrote the input.
    fn validate(&self, _input: &Value) -> Result<(), String> {
        Ok(())
    }

    /// Runs one step. `None`: this build has no code for it. A call that creates or deletes goes
    /// through `calls`. It is dropped where the lease is lost or the step's timeout is over.
    fn run<'a>(
        &'a self,
        step: &'a StepName,
        input: &'a StepInput,
        calls: &'a ExclusiveCalls<'a>,
    ) -> Boxed<'a, Option<Outcome>>;
}

/// How to ask an API host whether it works again.
pub trait Probe: Send + Sync {
    /// As the steps' definitions name it.
    fn host(&self) -> &str;

    /// Whether the host works. The caller bounds the time.
    fn ask(&self) -> Boxed<'_, Answer>;

    /// What a person does where the host refuses our key.
    fn key_advice(&self) -> &'static str {
        "give the workers the key that the API takes and restart them"
    }
}

/// The workflows and probes that a process runs.
#[derive(Clone, Default)]
pub struct Catalog {
    workflows: Vec<Arc<dyn Workflow>>,
    probes: Vec<Arc<dyn Probe>>,
}

impl Catalog {
    /// Adds a workflow.
    pub fn with(mut self, workflow: impl Workflow + 'static) -> Self {
        self.workflows.push(Arc::new(workflow));
        self
    }

    /// Adds the probe of an API host.
    pub fn probing(mut self, probe: impl Probe + 'static) -> Self {
        self.probes.push(Arc::new(probe));
        self
    }

    /// The definitions of all of them.
    pub fn registry(&self) -> Registry {
        Registry::new(self.workflows.iter().flat_map(|workflow| workflow.definitions()).collect())
    }

    /// The code behind a definition. Versions of one workflow may have code of their own.
    pub fn workflow(&self, name: &WorkflowName, version: i16) -> Option<&Arc<dyn Workflow>> {
        let has = |known: &Definition| &known.name == name && known.version == version;
        self.workflows.iter().find(|workflow| workflow.definitions().iter().any(has))
    }

    /// The probe of a host, where it has one.
    pub fn probe(&self, host: &str) -> Option<&Arc<dyn Probe>> {
        self.probes.iter().find(|probe| probe.host() == host)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A version of the workflow `greet`, which says in `validate` which one it is.
    struct Greet(i16);

    impl Workflow for Greet {
        fn definitions(&self) -> Vec<Definition> {
            vec![Definition {
                name: "greet".parse().unwrap(),
                version: self.0,
                steps: Vec::new(),
                deadline: Duration::ZERO,
                priority: 0,
                projection: None,
                source: None,
                gone: None,
            }]
        }

        fn validate(&self, _: &Value) -> Result<(), String> {
            Err(self.0.to_string())
        }

        fn run<'a>(
            &'a self,
            _: &'a StepName,
            _: &'a StepInput,
            _: &'a ExclusiveCalls<'a>,
        ) -> Boxed<'a, Option<Outcome>> {
            Box::pin(async { None })
        }
    }

    #[test]
    fn each_version_has_the_code_that_defines_it() {
        let (catalog, greet) = (Catalog::default().with(Greet(1)).with(Greet(2)), "greet".parse().unwrap());
        let said = |version| Some(catalog.workflow(&greet, version)?.validate(&Value::Null).unwrap_err());

        assert_eq!([1, 2, 3].map(said), [Some("1".to_owned()), Some("2".to_owned()), None]);
    }
}
