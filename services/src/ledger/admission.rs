//! Whether a claim is let through. Pure, and the same for both ledgers: they bring the facts, read under the lock of the
//! resource, and write the answer under the guard of state and token.

use workflows::{
    definition::{Registry, Step, Workflow},
    ids::{RunId, StepName, WorkflowName},
};

use super::PutBack;

/// What a ledger read about a step that is asked for, and whose token matches.
#[derive(Debug, Clone)]
pub struct Asked {
    pub run: RunId,
    pub workflow: WorkflowName,
    pub version: i16,
    pub step: StepName,
    pub position: i16,
    /// A pause, a hold or an open breaker stands before it.
    pub gate_closed: bool,
    /// The run whose turn it is on the resource.
    pub turn: Option<RunId>,
    /// A call that creates or deletes may still be under way.
    pub resource_busy: bool,
}

/// The definition to run by, or why the step goes back.
pub fn admit<'r>(asked: &Asked, registry: &'r Registry) -> Result<(&'r Workflow, &'r Step), PutBack> {
    if asked.gate_closed {
        return Err(PutBack::GateClosed);
    }
    if asked.resource_busy || asked.turn != Some(asked.run) {
        return Err(PutBack::ResourceBusy);
    }
    let workflow = registry.find(&asked.workflow, asked.version).ok_or(PutBack::UnknownDefinition)?;
    match workflow.step(asked.position) {
        Some(step) if step.name == asked.step => Ok((workflow, step)),
        _ => Err(PutBack::UnknownDefinition),
    }
}
