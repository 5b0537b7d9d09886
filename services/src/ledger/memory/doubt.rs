//! Instances at which two calls may have met.

use workflows::{
    definition::LEASE,
    ids::{InstanceName, RunId, Subject},
    state::RunState,
};

use super::{Run, Started, Tx};
use crate::ledger::second_look;

impl Tx<'_> {
    pub(super) fn doubt(&mut self, run: RunId) {
        let Some(name) = self.tables.runs.get(&run).map(|run| run.resource.clone()) else { return };
        if let Some(resource) = self.tables.resources.get_mut(&name) {
            resource.doubted_at = Some(self.now);
        }
    }

    pub(super) fn look_again(&mut self, limit: usize) -> usize {
        let quiet = |at| at + LEASE < self.now;
        let doubted = self.tables.resources.iter().filter(|(_, resource)| resource.doubted_at.is_some_and(quiet));
        let names: Vec<_> = doubted.map(|(name, _)| name.clone()).collect();
        let ended =
            |name: InstanceName| Some((self.last_of(&name).filter(|last| last.state != RunState::Active)?, name));
        let looks = |last: &Run| last.state == RunState::Succeeded && last.workflow == self.setup.on_sign_up;
        let ended: Vec<(Subject, bool, InstanceName)> = names
            .into_iter()
            .filter_map(ended)
            .map(|(last, name)| (last.subject.clone(), looks(last), name))
            .take(limit)
            .collect();
        ended.into_iter().filter(|(subject, looks, name)| self.look_at(subject, *looks, name)).count()
    }

    /// Whether it needs a look, and gets one.
    fn look_at(&mut self, subject: &Subject, looks: bool, name: &InstanceName) -> bool {
        if looks && !matches!(self.start(&second_look(self.setup, subject.clone(), name.clone())), Started::New(_)) {
            return false;
        }
        if let Some(resource) = self.tables.resources.get_mut(name) {
            resource.doubted_at = None;
        }
        looks
    }

    fn last_of(&self, name: &InstanceName) -> Option<&Run> {
        let runs = self.tables.runs.values().filter(|run| run.resource == *name);
        runs.max_by_key(|run| (run.created_at, run.id))
    }
}
