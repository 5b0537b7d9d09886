//! One request out, one bounded response in. Tells apart what was never sent from what may have
//! been.

use std::time::{Duration, Instant};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{
    Method,
    header::{DATE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER},
};
use serde_json::Value;
use tracing::{Instrument, Span};
use workflows::{
    secret::Secret,
    whatsapp::{
        evolution::{ApiError, Call, ErrorKind, answer::Response, redact::Redaction},
        names::InstanceName,
    },
};

use super::{Client, options};
use crate::telemetry::{chain, spans, trace};

/// The most that is read of a body. The largest recorded answers are lists, of which ours has one
/// row, and QR codes.
pub(super) const BODY_BYTES: usize = 1024 * 1024;

const API_KEY: HeaderName = HeaderName::from_static("apikey");

/// What stays as it is in a path segment and in a query value.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What stands in a call's route for the instance.
const INSTANCE: &str = "{instance}";

pub(super) struct Request<'a> {
    pub(super) call: Call,
    method: Method,
    /// Path and query, encoded.
    path: String,
    body: Option<Value>,
    key: HeaderValue,
    timeout: Duration,
    pub(super) redaction: Redaction<'a>,
}

impl Request<'_> {
    pub(super) fn query(self, name: &str, value: &str) -> Self {
        let path = format!("{}?{name}={}", self.path, utf8_percent_encode(value, ENCODED));
        Self { path, ..self }
    }

    pub(super) fn body(self, body: Value) -> Self {
        Self { body: Some(body), ..self }
    }

    pub(super) fn timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// With the instance's own token in place of the global key.
    pub(super) fn key(self, token: &Secret) -> Result<Self, ApiError> {
        let why = "the instance's own token holds characters that no header can carry";
        let key = options::key_header(token).map_err(|_| unsent(self.call, why.to_owned()))?;
        Ok(Self { key, ..self })
    }
}

fn unsent(call: Call, why: String) -> ApiError {
    ApiError { call, kind: ErrorKind::NoAnswer(why) }
}

/// How a call that was answered went.
pub(super) struct Went {
    pub status: u16,
    /// The answer is one to what was asked, whatever its status says.
    pub expected: bool,
}

pub(super) struct Received {
    pub(super) status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Received {
    pub(super) fn response(&self) -> Response<'_> {
        let text = |name| self.headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        Response { status: self.status, retry_after: text(RETRY_AFTER), date: text(DATE), body: &self.body }
    }
}

impl Client {
    /// A request by the call's own method and route, with the global key. `secrets` are what its
    /// answer may repeat beside that key.
    pub(super) fn request<'a>(
        &'a self,
        call: Call,
        name: Option<&'a InstanceName>,
        secrets: impl IntoIterator<Item = &'a Secret>,
    ) -> Result<Request<'a>, ApiError> {
        let (method, route) = call.route().split_once(' ').expect("a route is a method and a path");
        let path = match name {
            Some(name) if route.contains(INSTANCE) => route.replace(INSTANCE, &segment(call, name)?),
            _ => route.to_owned(),
        };
        Ok(Request {
            call,
            method: method.parse().expect("a route begins with its method"),
            path,
            body: None,
            key: self.key_header.clone(),
            timeout: self.timeouts.other,
            redaction: Redaction::new(name, std::iter::once(&self.key).chain(secrets)),
        })
    }

    /// Asks in a span of its own, and measures it.
    pub(super) async fn observed<T>(
        &self,
        Request { call, path, .. }: &Request<'_>,
        asking: impl Future<Output = Result<(Went, T), ErrorKind>>,
    ) -> Result<T, ErrorKind> {
        let base = &self.base;
        // Without the credentials that may be in the address.
        let url = format!("{}://{}{}{path}", base.scheme(), self.host, base.path().trim_end_matches('/'));
        let host = base.host_str().unwrap_or_default();
        let span = spans::call(call.route(), host, base.port_or_known_default(), &url);
        let sent = Instant::now();
        let result = asking.instrument(span.clone()).await;
        let (status, error) = said(result.as_ref().map(|(went, _)| went));
        spans::answered(&span, status, error.as_deref());
        if let Some(metrics) = &self.metrics {
            metrics.called(call.route(), status, error.as_deref().unwrap_or_default(), sent.elapsed());
        }
        result.map(|(_, answer)| answer)
    }

    /// Sends once; the body is still to come, within the same timeout.
    pub(super) async fn open(&self, request: &Request<'_>) -> Result<reqwest::Response, ErrorKind> {
        let url = format!("{}{}", self.base.as_str().trim_end_matches('/'), request.path);
        let mut builder = self.http.request(request.method.clone(), url).timeout(request.timeout);
        builder = builder.header(API_KEY, request.key.clone());
        if let Some(context) = trace::traceparent(&Span::current()) {
            builder = builder.header(trace::TRACEPARENT, context);
        }
        if let Some(body) = &request.body {
            builder = builder.json(body);
        }
        builder.send().await.map_err(|error| self.error_kind(error, request))
    }

    /// Reads a body, as far as it may go.
    pub(super) async fn receive(
        &self,
        mut response: reqwest::Response,
        request: &Request<'_>,
    ) -> Result<Received, ErrorKind> {
        let (status, headers) = (response.status().as_u16(), std::mem::take(response.headers_mut()));
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.error_kind(error, request))? {
            if body.len() + chunk.len() > BODY_BYTES {
                let what = format!("a body of more than {BODY_BYTES} bytes");
                return Err(ErrorKind::Unreadable { status, what });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Received { status, headers, body })
    }

    fn error_kind(&self, error: reqwest::Error, request: &Request) -> ErrorKind {
        let unsent = error.is_connect() || error.is_builder();
        let timed_out = error.is_timeout();
        let why = request.redaction.readable(&chain(&error.without_url()));
        // Users read this: the proxy's address is for the log.
        let through = match &self.proxy {
            Some(proxy) => {
                tracing::debug!(proxy, why, "a call through the proxy failed");
                " (through the proxy that HTTP_PROXY, HTTPS_PROXY or ALL_PROXY names; NO_PROXY makes an exception)"
            }
            None => "",
        };
        match (unsent, timed_out) {
            (true, _) => ErrorKind::Unreachable(format!("{why}{through}")),
            (false, true) => ErrorKind::NoAnswer(format!("none within {:?}{through}", request.timeout)),
            (false, false) => ErrorKind::NoAnswer(format!("{why}{through}")),
        }
    }
}

/// The name as the last segment of a route. One of dots alone would climb to another route, even
/// percent-encoded.
fn segment(call: Call, name: &InstanceName) -> Result<String, ApiError> {
    if matches!(name.as_str(), "." | "..") {
        let why = format!("the name \"{name}\" cannot be the last part of a URL: rename the instance");
        return Err(unsent(call, why));
    }
    Ok(utf8_percent_encode(name.as_str(), ENCODED).to_string())
}

/// The status and the error of a call, for spans and metrics: closed lists, and never a text of the
/// API.
fn said(answer: Result<&Went, &ErrorKind>) -> (Option<u16>, Option<String>) {
    let (status, error) = match answer {
        Ok(Went { status, expected }) => {
            return (Some(*status), (*status >= 400 && !expected).then(|| status.to_string()));
        }
        Err(ErrorKind::Unreachable(_)) => (None, "unreachable"),
        Err(ErrorKind::NoAnswer(_)) => (None, "no_answer"),
        Err(ErrorKind::Foreign { status, .. }) => (Some(*status), "foreign"),
        Err(ErrorKind::Unreadable { status, .. }) => (Some(*status), "unreadable"),
        Err(ErrorKind::Answer(_) | ErrorKind::Withheld) => (None, "unreadable"),
    };
    (status, Some(error.to_owned()))
}
