//! Why a call gave no usable answer. No text here holds a secret: they were cut before the error
//! was made (`redact`).

use super::{Call, RetryAfter};

/// The most that an error keeps of what the API said, in characters: room for the longest name and
/// a sentence.
pub const MESSAGE_CHARS: usize = 600;

/// A call that gave no usable answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{call} {kind}")]
pub struct ApiError {
    pub call: Call,
    pub kind: ErrorKind,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ErrorKind {
    /// The API, or a proxy before it, answered that it will not.
    #[error("answered {}", said(.0))]
    Answer(Answer),
    /// The request was not sent: no route, no name, refused, TLS.
    #[error("could not be sent: {0}")]
    Unreachable(String),
    /// The request was, or may have been, sent; no answer came in time, or the connection broke
    /// before its end.
    #[error("got no answer: {0}")]
    NoAnswer(String),
    /// A success came that the Evolution API cannot have given: a page, an empty body, anything
    /// that is no JSON.
    #[error("answered {status} with something that is not the Evolution API: {what}")]
    Foreign { status: u16, what: String },
    /// A success came in JSON whose shape nobody recorded.
    #[error("answered {status} unreadably: {what}")]
    Unreadable { status: u16, what: String },
    /// Not sent: the lease is too short for a call that creates or deletes.
    #[error("was not sent: too little of the lease was left")]
    Withheld,
}

/// An answer that is an error; with status 200 where the body says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub shape: Shape,
    /// The first text of the body, readable, cut to `MESSAGE_CHARS`.
    pub message: String,
    pub retry_after: Option<RetryAfter>,
}

/// How the body held its message: the API tells kinds of failures apart by nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// `[["…"]]`: the schema refused the body.
    Schema,
    /// `["…"]`: an exception that the API raised or caught.
    Listed,
    /// `"…"`.
    Plain,
    /// A success whose body says `{"error":true}`.
    Swallowed,
    /// None of the recorded shapes: a proxy's page, an empty body, another server.
    Foreign,
}

impl Answer {
    /// Whether the server knows no such path, in the words of the API's own framework.
    pub fn has_no_such_path(&self) -> bool {
        let route = self.message.strip_prefix("Cannot ").and_then(|route| route.split_once(' '));
        let is_route = |(method, path): (&str, &str)| {
            method.bytes().all(|byte| byte.is_ascii_uppercase()) && path.starts_with('/')
        };
        self.status == 404 && route.is_some_and(is_route)
    }
}

fn said(Answer { status, shape, message, .. }: &Answer) -> String {
    match (shape, message.as_str()) {
        (Shape::Foreign, "") => format!("{status} with something that is not the Evolution API: an empty body"),
        (Shape::Foreign, said) => format!("{status} with something that is not the Evolution API: {said}"),
        (_, "") => status.to_string(),
        (_, said) => format!("{status}: {said}"),
    }
}

impl ApiError {
    /// The status, where an answer came.
    pub fn status(&self) -> Option<u16> {
        match &self.kind {
            ErrorKind::Answer(answer) => Some(answer.status),
            ErrorKind::Foreign { status, .. } | ErrorKind::Unreadable { status, .. } => Some(*status),
            ErrorKind::Unreachable(_) | ErrorKind::NoAnswer(_) | ErrorKind::Withheld => None,
        }
    }
}
