//! What travels through Redis: which step of which run is due, and which time that is. All of it is
//! in the hint's id, so that there is no payload that could fail to decode.

use crate::ledger::DueKey;

/// A hint that a step is due. Postgres holds the rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hint {
    pub key: DueKey,
    /// The `traceparent` of whoever pushed it. None where nobody traces.
    pub trace: Option<String>,
}

/// An id that was not pushed by us.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not run:position:generation")]
pub(super) struct Garbled(String);

impl Hint {
    /// `run:position:generation`.
    pub fn id(&self) -> String {
        self.key.to_string()
    }

    pub(super) fn parse(id: &str, trace: Option<&str>) -> Result<Self, Garbled> {
        let key = || {
            let (run, rest) = id.split_once(':')?;
            let (position, generation) = rest.split_once(':')?;
            let (run, position) = (run.parse().ok()?, position.parse().ok()?);
            Some(DueKey { run, position, generation: generation.parse().ok()? })
        };
        let key = key().ok_or_else(|| Garbled(id.chars().take(120).collect()))?;
        Ok(Self { key, trace: trace.filter(|text| !text.is_empty()).map(str::to_owned) })
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;
    use workflows::ids::RunId;

    use super::*;

    #[test]
    fn a_hint_survives_its_id() {
        for generation in [0, 1, i32::MAX] {
            let hint = Hint {
                key: DueKey { run: RunId::new(Uuid::now_v7()), position: 3, generation },
                trace: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned()),
            };

            assert_eq!(Hint::parse(&hint.id(), hint.trace.as_deref()), Ok(hint));
        }
    }

    #[test]
    fn a_foreign_id_is_no_hint() {
        for id in ["", "a:b:c", "01J0000000000000000000000", "::", "1:2:3:4"] {
            assert_eq!(Hint::parse(id, None), Err(Garbled(id.to_owned())));
        }
    }
}
