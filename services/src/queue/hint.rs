//! What travels through Redis: which dispatch of which step of which run. All of it is in the id of apalis' task, so
//! that there is no payload that could fail to decode inside apalis, where it would end the worker.

use workflows::ids::{RunId, Token};

use crate::ledger::Key;

/// A hint that a step is dispatched. Postgres holds the rest; apalis calls it a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hint {
    pub run: RunId,
    /// Where the step stands in its run.
    pub position: i16,
    /// The fencing number of this dispatch.
    pub token: Token,
    /// The `traceparent` of the dispatch.
    pub trace: Option<String>,
}

/// A task that was not pushed by us.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("task id {0:?} is not run:position:token")]
pub(super) struct Garbled(String);

impl Hint {
    /// The step and its token, as the ledger knows them.
    pub fn key(&self) -> Key {
        Key { run: self.run, position: self.position, token: self.token }
    }

    /// `run:position:token`, the token as 16 hexadecimal digits.
    pub(crate) fn id(&self) -> String {
        format!("{}:{}:{}", self.run, self.position, self.token)
    }

    pub(super) fn parse(id: &str, trace: Option<&str>) -> Result<Self, Garbled> {
        let garbled = || Garbled(id.chars().take(120).collect());
        let mut parts = id.split(':');
        let (Some(run), Some(position), Some(token), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(garbled());
        };
        let bits = u64::from_str_radix(token, 16).map_err(|_| garbled())?;
        Ok(Self {
            run: run.parse().map_err(|_| garbled())?,
            position: position.parse().map_err(|_| garbled())?,
            token: Token::new(bits.cast_signed()),
            trace: trace.filter(|text| !text.is_empty()).map(str::to_owned),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn a_hint_survives_its_id() {
        for bits in [0, 1, -1, i64::MIN, i64::MAX] {
            let hint = Hint {
                run: RunId::new(Uuid::now_v7()),
                position: 3,
                token: Token::new(bits),
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
