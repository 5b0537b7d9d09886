//! Texts with places for what differs between users: `{user_id}`, `{instance}`, `{token}`.

use std::fmt;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::settings::Fault;

/// What stays as it is inside a path segment or a query value. The star, so that a hidden value
/// still reads as `***`.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'*');

/// What stands for the placeholders.
#[derive(Clone)]
pub(super) struct Values<'a> {
    pub user_id: Option<String>,
    pub instance: &'a str,
    pub token: &'a str,
}

/// Percent-encoded, for a URL.
pub(super) fn encoded(value: &str) -> String {
    utf8_percent_encode(value, ENCODED).to_string()
}

/// A text with placeholders.
#[derive(Clone)]
pub(super) struct Text(Vec<Piece>);

#[derive(Clone)]
enum Piece {
    Literal(String),
    UserId,
    Instance,
    Token,
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Text {
    /// A `{word}` is a placeholder; any other brace is a brace.
    pub(super) fn parse(setting: &str, text: &str) -> Result<Self, Fault> {
        let mut pieces = Vec::new();
        let (mut literal, mut rest) = (String::new(), text);
        while let Some(at) = rest.find('{') {
            literal.push_str(&rest[..at]);
            let word = rest[at + 1..].split_once('}').map(|(word, _)| word).filter(|word| is_word(word));
            let Some(word) = word else {
                literal.push('{');
                rest = &rest[at + 1..];
                continue;
            };
            pieces.push(Piece::Literal(std::mem::take(&mut literal)));
            pieces.push(match word {
                "user_id" => Piece::UserId,
                "instance" => Piece::Instance,
                "token" => Piece::Token,
                _ => {
                    let expected = "expected {user_id}, {instance} or {token}";
                    return Err(Fault::new(setting, format!("{{{word}}} is no placeholder: {expected}")));
                }
            });
            rest = &rest[at + word.len() + 2..];
        }
        literal.push_str(rest);
        pieces.push(Piece::Literal(literal));
        Ok(Self(pieces))
    }

    /// With these values, each as `encode` writes it.
    pub(super) fn expand(&self, setting: &str, values: &Values, encode: fn(&str) -> String) -> Result<String, Fault> {
        let pieces = self.0.iter().map(|piece| match piece {
            Piece::Literal(literal) => Ok(literal.clone()),
            Piece::Instance => Ok(encode(values.instance)),
            Piece::Token => Ok(encode(values.token)),
            Piece::UserId => match &values.user_id {
                Some(user) => Ok(encode(user)),
                None => Err(Fault::new(setting, "asks for {user_id}, but the run's subject is no user")),
            },
        });
        pieces.collect()
    }
}

fn is_word(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}
