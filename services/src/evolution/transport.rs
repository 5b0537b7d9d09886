//! One request out, one bounded response in. Tells apart what was never sent from what may have
//! been.

use std::time::{Duration, Instant};

use reqwest::{
    Method,
    header::{DATE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER},
};
use serde_json::Value;
use tracing::{Instrument, Span};
use workflows::whatsapp::evolution::{Call, ErrorKind, answer::Response, redact::Redaction};

use super::{Address, Client};
use crate::telemetry::{chain, spans, trace};

/// The most that is read of a body. The largest recorded answers are lists, of which ours has one
/// row, and QR codes.
pub(super) const BODY_BYTES: usize = 1024 * 1024;

const API_KEY: HeaderName = HeaderName::from_static("apikey");

pub(super) struct Request {
    method: Method,
    /// Path and query, encoded.
    pub(super) path: String,
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

/// How a call that was answered went.
pub(super) struct Went {
    pub status: u16,
    /// The answer is one to what was asked, whatever its status says.
    pub expected: bool,
}

pub(super) struct Received {
    pub(super) status: u16,
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
    /// Asks in a span of its own, and measures it.
    pub(super) async fn observed<T>(
        &self,
        call: Call,
        path: &str,
        asking: impl Future<Output = Result<T, ErrorKind>>,
        went: impl Fn(&T) -> Went,
    ) -> Result<T, ErrorKind> {
        let Address { host, port, base } = &self.address;
        let span = spans::call(call.route(), host, *port, &format!("{base}{path}"));
        let sent = Instant::now();
        let result = asking.instrument(span.clone()).await;
        let (status, error) = said(result.as_ref().map(went));
        spans::answered(&span, status, error.as_deref());
        if let Some(metrics) = &self.metrics {
            metrics.called(call.route(), status, error.as_deref().unwrap_or_default(), sent.elapsed());
        }
        result
    }

    /// Sends once and reads the whole answer.
    pub(super) async fn exchange(&self, request: Request, redaction: &Redaction<'_>) -> Result<Received, ErrorKind> {
        let timeout = request.timeout.unwrap_or(self.timeouts.other);
        let response = self.open(request, timeout, redaction).await?;
        receive(response, |error| self.error_kind(error, timeout, redaction)).await
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
        if let Some(context) = trace::traceparent(&Span::current()) {
            builder = builder.header(trace::TRACEPARENT, context);
        }
        if let Some(body) = request.body {
            builder = builder.json(&body);
        }
        builder.send().await.map_err(|error| self.error_kind(error, timeout, redaction))
    }

    pub(super) fn error_kind(&self, error: reqwest::Error, timeout: Duration, redaction: &Redaction) -> ErrorKind {
        let unsent = error.is_connect() || error.is_builder();
        let timed_out = error.is_timeout();
        let why = redaction.readable(&chain(&error.without_url()));
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
            (false, true) => ErrorKind::NoAnswer(format!("none within {timeout:?}{through}")),
            (false, false) => ErrorKind::NoAnswer(format!("{why}{through}")),
        }
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

/// The status and the error of a call, for spans and metrics: closed lists, and never a text of the
/// API.
fn said(answer: Result<Went, &ErrorKind>) -> (Option<u16>, Option<String>) {
    let error = match answer {
        Ok(Went { status, expected }) => {
            return (Some(status), (status >= 400 && !expected).then(|| status.to_string()));
        }
        Err(ErrorKind::Unreachable(_)) => "unreachable",
        Err(ErrorKind::NoAnswer(_)) => "no_answer",
        Err(ErrorKind::Foreign { .. }) => "foreign",
        Err(ErrorKind::Answer(_) | ErrorKind::Unreadable { .. } | ErrorKind::Withheld) => "unreadable",
    };
    let status = answer.err().and_then(|kind| match kind {
        ErrorKind::Foreign { status, .. } | ErrorKind::Unreadable { status, .. } => Some(*status),
        _ => None,
    });
    (status, Some(error.to_owned()))
}

fn text(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}
