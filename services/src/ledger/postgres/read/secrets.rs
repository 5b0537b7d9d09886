//! What must not be seen in a text about a resource: the secret that we drew for it, and what its
//! workflow keeps of it.

use serde_json::Value;
use sqlx::FromRow;
use workflows::secret;

/// A word of small letters that is no longer is a status, and no secret.
const LONGEST_WORD: usize = 15;

/// A row of somebody's resource.
#[derive(FromRow)]
pub(in crate::ledger::postgres) struct Held<T> {
    #[sqlx(flatten)]
    pub of: T,
    #[sqlx(flatten)]
    pub secrets: Secrets,
}

#[derive(FromRow)]
pub(in crate::ledger::postgres) struct Secrets {
    secret: Option<String>,
    memory: Option<Value>,
}

impl Secrets {
    /// The text without them. They were cut before it was written; this is for texts that another
    /// program wrote. The names of the resource and the subject are none, also where a secret is
    /// part of them.
    pub(super) fn cut(&self, names: [&str; 2], text: &str) -> String {
        let mut secrets: Vec<&str> = self.secret.as_deref().into_iter().collect();
        if let Some(memory) = &self.memory {
            collect(memory, &mut secrets);
        }
        secrets.retain(|text| !is_status(text));
        secret::cut(text, &names, &secrets)
    }

    /// Takes them out of an event's texts, which name the resource and the subject beside them.
    pub fn cut_from(&self, mut payload: Value) -> Value {
        for key in ["error", "reason", "note"] {
            let Some(Value::String(given)) = payload.get(key) else { continue };
            let name = |key: &str| payload.get(key).and_then(Value::as_str).unwrap_or_default();
            payload[key] = self.cut([name("resource"), name("subject")], given).into();
        }
        payload
    }
}

fn is_status(text: &str) -> bool {
    text.len() <= LONGEST_WORD && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

fn collect<'a>(value: &'a Value, texts: &mut Vec<&'a str>) {
    match value {
        Value::String(text) => texts.push(text),
        Value::Array(values) => values.iter().for_each(|value| collect(value, texts)),
        Value::Object(map) => map.values().for_each(|value| collect(value, texts)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn cut(memory: Value, names: [&str; 2], text: &str) -> String {
        let secrets = Secrets { secret: Some("drawn-by-us".to_owned()), memory: Some(memory) };
        secrets.cut(names, text)
    }

    #[test]
    fn what_the_memory_holds_is_cut_and_a_status_is_not() {
        let memory = json!({ "key": "abc1", "at": { "url": "https://x.test/abc1" }, "status": "connecting", "n": 7 });

        let text = cut(memory, ["r", "s"], "drawn-by-us: connecting to https://x.test/abc1 with abc1");

        assert_eq!(text, "***: connecting to *** with ***");
    }

    #[test]
    fn a_secret_that_is_part_of_the_name_leaves_the_name_readable() {
        let text = cut(json!({ "key": "7051bc96" }), ["user_7051bc96", "s"], "user_7051bc96 is taken (7051bc96)");

        assert_eq!(text, "user_7051bc96 is taken (***)");
    }

    #[test]
    fn a_secret_that_begins_with_a_name_is_cut_as_a_whole() {
        let text = cut(json!({ "token": "user_1-hunter2" }), ["user_1", "s"], "user_1 was refused with user_1-hunter2");

        assert_eq!(text, "user_1 was refused with ***");
    }
}
