//! Every instance that the API's database holds, loaded or not: the one answer that the API's
//! memory has no part in.

use std::collections::BTreeMap;

use super::Listed;
use crate::whatsapp::names::InstanceName;

/// The whole list, by name. A name is any text: it need not be one of ours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Roster(pub BTreeMap<String, Listed>);

impl Roster {
    pub fn get(&self, name: &InstanceName) -> Option<&Listed> {
        self.0.get(name.as_str())
    }

    /// Up to `most` other instances that can be asked for, spread over the list.
    pub fn others(&self, name: &InstanceName, most: usize) -> Vec<InstanceName> {
        let others: Vec<_> = self.0.keys().filter(|other| *other != name.as_str()).collect();
        let stride = others.len().div_ceil(most.max(1)).max(1);
        others.into_iter().step_by(stride).filter_map(|other| other.parse().ok()).collect()
    }
}

impl FromIterator<(String, Listed)> for Roster {
    fn from_iter<T: IntoIterator<Item = (String, Listed)>>(rows: T) -> Self {
        Self(rows.into_iter().collect())
    }
}
