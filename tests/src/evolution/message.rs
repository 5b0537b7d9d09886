//! What goes into the world and comes out of it: requests, answers and the tickets that pair them.

use std::fmt;

use serde_json::Value;

/// Names one call from `World::begin` to its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Patch,
    Delete,
    Options,
}

impl Method {
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "GET" => Self::Get,
            "HEAD" => Self::Head,
            "POST" => Self::Post,
            "PUT" => Self::Put,
            "PATCH" => Self::Patch,
            "DELETE" => Self::Delete,
            "OPTIONS" => Self::Options,
            _ => return None,
        })
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
            Self::Options => "OPTIONS",
        }
    }
}

/// An API key or instance token, kept out of every debug print.
#[derive(Clone, PartialEq, Eq)]
pub struct Key(String);

impl Key {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("***")
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    Empty,
    /// What the server's `json(undefined)` sends: no byte, said to be JSON.
    Undefined,
    /// Already parsed: a simulator that has a value at hand need not print and parse it again.
    Json(Value),
    Text(String),
}

/// One request. `target` is the path with its raw query, as on the request line.
#[derive(Clone)]
pub struct Request {
    pub method: Method,
    pub target: String,
    pub key: Option<Key>,
    pub content_type: Option<String>,
    pub body: Body,
}

impl Request {
    pub fn new(method: Method, target: impl Into<String>) -> Self {
        Self { method, target: target.into(), key: None, content_type: None, body: Body::Empty }
    }

    pub fn get(target: impl Into<String>) -> Self {
        Self::new(Method::Get, target)
    }

    pub fn post(target: impl Into<String>) -> Self {
        Self::new(Method::Post, target)
    }

    pub fn delete(target: impl Into<String>) -> Self {
        Self::new(Method::Delete, target)
    }

    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(Key::new(key));
        self
    }

    pub fn json(mut self, body: Value) -> Self {
        self.content_type = Some("application/json".to_owned());
        self.body = Body::Json(body);
        self
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Bodies carry tokens: the request line is enough to know which call this was.
        write!(formatter, "{} {}", self.method.as_str(), self.target)
    }
}

/// What the client sees of one call.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    Response(Response),
    /// The connection was closed without an answer.
    Dropped,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Response {
    pub status: u16,
    /// Only the headers that mean something to a client of this API, in lower case.
    pub headers: Vec<(&'static str, String)>,
    pub body: Body,
}

impl Response {
    pub fn json(status: u16, body: Value) -> Self {
        Self { status, headers: Vec::new(), body: Body::Json(body) }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| *key == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON; `null` where it is none.
    pub fn value(&self) -> &Value {
        match &self.body {
            Body::Json(value) => value,
            Body::Empty | Body::Undefined | Body::Text(_) => &Value::Null,
        }
    }

    pub fn content_type(&self) -> Option<&'static str> {
        match self.body {
            Body::Json(_) | Body::Undefined => Some("application/json; charset=utf-8"),
            Body::Text(_) => Some("text/plain; charset=utf-8"),
            Body::Empty => None,
        }
    }
}
