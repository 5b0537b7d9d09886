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

#[derive(Clone, Copy)]
pub(super) enum Encoding {
    /// As it is, for a header.
    None,
    /// Percent-encoded.
    Url,
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
            pieces.push(Piece::named(word).ok_or_else(|| {
                let problem = format!("{{{word}}} is no placeholder: expected {{user_id}}, {{instance}} or {{token}}");
                Fault::new(setting, problem)
            })?);
            rest = &rest[at + word.len() + 2..];
        }
        literal.push_str(rest);
        pieces.push(Piece::Literal(literal));
        Ok(Self(pieces))
    }

    pub(super) fn expand(&self, setting: &str, values: &Values, encoding: Encoding) -> Result<String, Fault> {
        let encoded = |value: &str| match encoding {
            Encoding::None => value.to_owned(),
            Encoding::Url => utf8_percent_encode(value, ENCODED).to_string(),
        };
        let mut text = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Literal(literal) => text.push_str(literal),
                Piece::Instance => text.push_str(&encoded(values.instance)),
                Piece::Token => text.push_str(&encoded(values.token)),
                Piece::UserId => match &values.user_id {
                    Some(user) => text.push_str(&encoded(user)),
                    None => return Err(Fault::new(setting, "asks for {user_id}, but the run's subject is no user")),
                },
            }
        }
        Ok(text)
    }
}

fn is_word(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

impl Piece {
    fn named(word: &str) -> Option<Self> {
        match word {
            "user_id" => Some(Self::UserId),
            "instance" => Some(Self::Instance),
            "token" => Some(Self::Token),
            _ => None,
        }
    }
}
