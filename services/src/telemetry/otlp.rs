//! Spans to a collector by OTLP over HTTP (protobuf): one batch, one POST, its answer. It never
//! tries again by itself. The headers may hold a key and are shown by nothing here.

use std::time::Duration;

use opentelemetry_proto::{
    tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse},
    transform::{common::tonic::ResourceAttributesWithSchema, trace::tonic::group_spans_by_resource_and_scope},
};
use opentelemetry_sdk::trace::SpanData;
use prost::Message;
use reqwest::{
    Url,
    header::{CONTENT_TYPE, HeaderMap, HeaderValue},
    redirect, retry,
};

/// The most that is read of an answer.
const ANSWER_BYTES: usize = 64 * 1024;

/// A batch as it goes over the wire.
pub(super) fn request(batch: Vec<SpanData>, resource: &ResourceAttributesWithSchema) -> Vec<u8> {
    let resource_spans = group_spans_by_resource_and_scope(batch, resource);
    ExportTraceServiceRequest { resource_spans }.encode_to_vec()
}

/// A collector's traces endpoint.
#[derive(Debug, Clone)]
pub struct Collector {
    http: reqwest::Client,
    endpoint: Url,
}

/// Why a batch did not arrive. Holds no address and no header.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the collector cannot be reached: {0}")]
    Unreachable(String),
    #[error("the collector answered {0}")]
    Answered(u16),
}

impl Error {
    /// Whether the same batch may be taken later, as OTLP has it.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable(_) => true,
            Self::Answered(status) => matches!(status, 429 | 502 | 503 | 504),
        }
    }
}

impl Collector {
    /// Opens no connection. For https the system's CA certificates are trusted, or those of
    /// SSL_CERT_FILE.
    pub fn new(endpoint: Url, mut headers: HeaderMap, timeout: Duration) -> Result<Self, reqwest::Error> {
        // A second installation is refused, which is fine: then there is one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("sluice/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers)
            .redirect(redirect::Policy::none())
            .retry(retry::never())
            .http1_only()
            .connect_timeout(timeout)
            .timeout(timeout);
        if endpoint.scheme() == "http" {
            builder = builder.tls_certs_only([]);
        }
        Ok(Self { http: builder.build()?, endpoint })
    }

    /// Where it is, without the credentials and the query that may be in its address.
    pub(super) fn address(&self) -> String {
        let mut shown = self.endpoint.clone();
        // An address of http always takes these.
        let _ = shown.set_username("");
        let _ = shown.set_password(None);
        shown.set_query(None);
        shown.to_string()
    }

    /// Sends a request. How many of its spans the collector refused.
    pub(super) async fn send(&self, request: Vec<u8>) -> Result<u64, Error> {
        let unreachable = |error: reqwest::Error| Error::Unreachable(super::chain(&error.without_url()));
        let sent = self.http.post(self.endpoint.clone()).body(request).send().await;
        let mut response = sent.map_err(unreachable)?;
        if !response.status().is_success() {
            return Err(Error::Answered(response.status().as_u16()));
        }
        let mut answer = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
            if answer.len() + chunk.len() > ANSWER_BYTES {
                return Ok(0);
            }
            answer.extend_from_slice(&chunk);
        }
        // One that answers in another form has taken the batch all the same.
        let refused = ExportTraceServiceResponse::decode(answer.as_slice()).ok().and_then(|read| read.partial_success);
        Ok(refused.map_or(0, |refused| refused.rejected_spans.unsigned_abs()))
    }
}
