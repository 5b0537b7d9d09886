//! One request out, one bounded response in. Tells apart what was never sent from what may have been.

use std::{error::Error as _, time::Duration};

use reqwest::{
    Method,
    header::{DATE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER},
};
use serde_json::Value;
use tracing::{Instrument, Span, field::Empty};
use workflows::evolution::{Call, ErrorKind, answer::Response, redact::Redaction};

use super::Client;

/// The most that is read of a body. The largest recorded answers are lists, of which ours has one row, and QR codes.
pub(super) const BODY_BYTES: usize = 1024 * 1024;

const API_KEY: HeaderName = HeaderName::from_static("apikey");

pub(super) struct Request {
    method: Method,
    /// Path and query, encoded.
    path: String,
    body: Option<Value>,
    /// `None`: the global key.
    key: Option<HeaderValue>,
    timeout: Option<Duration>,
}

impl Request {
    pub(super) fn new(method: Method, path: impl Into<String>) -> Self {
        Self { method, path: path.into(), body: None, key: None, timeout: None }
    }

    pub(super) fn body(self, body: Value) -> Self {
        Self { body: Some(body), ..self }
    }

    pub(super) fn key(self, key: HeaderValue) -> Self {
        Self { key: Some(key), ..self }
    }

    pub(super) fn timeout(self, timeout: Duration) -> Self {
        Self { timeout: Some(timeout), ..self }
    }
}

pub(super) struct Received {
    status: u16,
    retry_after: Option<String>,
    date: Option<String>,
    body: Vec<u8>,
}

impl Received {
    pub(super) fn response(&self) -> Response<'_> {
        Response {
            status: self.status,
            retry_after: self.retry_after.as_deref(),
            date: self.date.as_deref(),
            body: &self.body,
        }
    }
}

impl Client {
    /// Sends once, in a span of its own.
    pub(super) async fn send(
        &self,
        call: Call,
        request: Request,
        redaction: &Redaction<'_>,
    ) -> Result<Received, ErrorKind> {
        let span = tracing::info_span!(
            "evolution",
            otel.name = call.route(),
            otel.kind = "client",
            http.request.method = %request.method,
            url.template = call.route().split_once(' ').map(|(_, path)| path),
            server.address = self.host,
            http.response.status_code = Empty,
            error.type = Empty,
        );
        let result = self.exchange(request, redaction).instrument(span.clone()).await;
        record(&span, &result);
        result
    }

    async fn exchange(&self, request: Request, redaction: &Redaction<'_>) -> Result<Received, ErrorKind> {
        let timeout = request.timeout.unwrap_or(self.timeouts.other);
        let response = self.open(request, timeout, redaction).await?;
        receive(response, |error| error_kind(error, timeout, redaction)).await
    }

    /// Sends once; the body is still to come, within the same timeout.
    pub(super) async fn open(
        &self,
        request: Request,
        timeout: Duration,
        redaction: &Redaction<'_>,
    ) -> Result<reqwest::Response, ErrorKind> {
        let mut builder = self.http.request(request.method, format!("{}{}", self.base, request.path)).timeout(timeout);
        builder = builder.header(API_KEY, request.key.unwrap_or_else(|| self.key_header.clone()));
        if let Some(body) = request.body {
            builder = builder.json(&body);
        }
        builder.send().await.map_err(|error| error_kind(error, timeout, redaction))
    }
}

/// Reads a body, as far as it may go.
pub(super) async fn receive(
    mut response: reqwest::Response,
    fault: impl Fn(reqwest::Error) -> ErrorKind,
) -> Result<Received, ErrorKind> {
    let status = response.status().as_u16();
    let (retry_after, date) = (text(response.headers(), &RETRY_AFTER), text(response.headers(), &DATE));
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(&fault)? {
        if body.len() + chunk.len() > BODY_BYTES {
            let what = format!("a body of more than {BODY_BYTES} bytes");
            return Err(ErrorKind::Unreadable { status, what });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Received { status, retry_after, date, body })
}

fn record(span: &Span, result: &Result<Received, ErrorKind>) {
    match result {
        Ok(received) => {
            span.record("http.response.status_code", received.status);
            if received.status >= 400 {
                span.record("error.type", tracing::field::display(received.status));
            }
        }
        Err(ErrorKind::Unreachable(_)) => drop(span.record("error.type", "unreachable")),
        Err(ErrorKind::NoAnswer(_)) => drop(span.record("error.type", "no_answer")),
        Err(_) => drop(span.record("error.type", "unreadable")),
    }
}

fn text(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

pub(super) fn error_kind(error: reqwest::Error, timeout: Duration, redaction: &Redaction) -> ErrorKind {
    let unsent = error.is_connect() || error.is_builder();
    let timed_out = error.is_timeout();
    let why = redaction.readable(&chain(&error.without_url()));
    match (unsent, timed_out) {
        (true, _) => ErrorKind::Unreachable(why),
        (false, true) => ErrorKind::NoAnswer(format!("none within {timeout:?}")),
        (false, false) => ErrorKind::NoAnswer(why),
    }
}

/// An error with its causes, each said once.
pub(super) fn chain(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}
