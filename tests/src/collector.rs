//! A collector of traces on the wire: it takes OTLP over HTTP (protobuf), with or without TLS, and
//! keeps every span. It can be told to hang, to refuse, to be busy.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use anyhow::{Context, Result};
use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::StatusCode,
    serve::Listener,
};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse},
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{Span as Sent, span::SpanKind, status::StatusCode as SentStatus},
};
use prost::Message;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::servers::Identity;

/// A span as it arrived; ids are hexadecimal.
#[derive(Debug, Clone)]
pub struct Span {
    pub service: String,
    pub name: String,
    pub kind: SpanKind,
    pub trace: String,
    pub id: String,
    /// Empty where there is none.
    pub parent: String,
    pub attributes: BTreeMap<String, String>,
    pub failed: bool,
    /// The spans that it is linked to: trace and id.
    pub links: Vec<(String, String)>,
    pub events: usize,
    /// In nanoseconds of Unix time.
    pub start: u64,
    pub end: u64,
    /// All that is in it, its resource too, as a text: what a secret would be in.
    pub raw: String,
}

impl Span {
    pub fn attribute(&self, key: &str) -> &str {
        self.attributes.get(key).map_or("", String::as_str)
    }
}

/// Runs until it is dropped.
pub struct Collector {
    address: SocketAddr,
    scheme: &'static str,
    store: Arc<Store>,
    _stop: DropGuard,
}

/// Requests are read when they are asked for: taking them costs as little as it can.
#[derive(Default)]
struct Store {
    taken: Mutex<Vec<Bytes>>,
    requests: AtomicUsize,
    hangs: AtomicBool,
    refuses: AtomicBool,
    /// How many requests more are answered 503.
    busy: AtomicUsize,
}

impl Collector {
    pub async fn start() -> Result<Self> {
        let socket = TcpListener::bind("127.0.0.1:0").await.context("bind a collector")?;
        let address = socket.local_addr().context("ask for the collector's address")?;
        Ok(Self::serve(socket, address, "http"))
    }

    pub async fn start_tls(identity: &Identity) -> Result<Self> {
        let socket = TcpListener::bind("127.0.0.1:0").await.context("bind a collector")?;
        let address = socket.local_addr().context("ask for the collector's address")?;
        let acceptor = TlsAcceptor::from(identity.server_config()?);
        Ok(Self::serve(Tls { socket, acceptor }, address, "https"))
    }

    fn serve<L: Listener>(listener: L, address: SocketAddr, scheme: &'static str) -> Self
    where
        L::Addr: std::fmt::Debug,
    {
        let (store, stop) = (Arc::new(Store::default()), CancellationToken::new());
        let routes = Router::new()
            .route("/v1/traces", axum::routing::post(take))
            .layer(DefaultBodyLimit::disable())
            .with_state(store.clone());
        let served = axum::serve(listener, routes);
        tokio::spawn(stop.clone().run_until_cancelled_owned(async move { served.await }));
        Self { address, scheme, store, _stop: stop.drop_guard() }
    }

    /// What `OTEL_EXPORTER_OTLP_ENDPOINT` is set to.
    pub fn url(&self) -> String {
        format!("{}://localhost:{}", self.scheme, self.address.port())
    }

    /// All that has arrived, in that order.
    ///
    /// # Panics
    /// If something arrived that is no OTLP.
    pub fn spans(&self) -> Vec<Span> {
        let taken = self.store.taken.lock().unwrap_or_else(PoisonError::into_inner).clone();
        taken.into_iter().flat_map(spans_of).collect()
    }

    pub fn requests(&self) -> usize {
        self.store.requests.load(Ordering::Relaxed)
    }

    /// From now on requests are taken and never answered.
    pub fn hang(&self) {
        self.store.hangs.store(true, Ordering::Relaxed);
    }

    /// From now on requests are answered well, and say that none of their spans was taken.
    pub fn refuse(&self) {
        self.store.refuses.store(true, Ordering::Relaxed);
    }

    /// The next `requests` are answered 503.
    pub fn be_busy_for(&self, requests: usize) {
        self.store.busy.store(requests, Ordering::Relaxed);
    }
}

async fn take(State(store): State<Arc<Store>>, body: Bytes) -> (StatusCode, Vec<u8>) {
    store.requests.fetch_add(1, Ordering::Relaxed);
    if store.hangs.load(Ordering::Relaxed) {
        std::future::pending::<()>().await;
    }
    let waits = |busy: usize| busy.checked_sub(1);
    if store.busy.fetch_update(Ordering::Relaxed, Ordering::Relaxed, waits).is_ok() {
        return (StatusCode::SERVICE_UNAVAILABLE, Vec::new());
    }
    if store.refuses.load(Ordering::Relaxed) {
        let refused = ExportTracePartialSuccess {
            rejected_spans: spans_of(body).len().try_into().unwrap_or(i64::MAX),
            error_message: "full".to_owned(),
        };
        return (StatusCode::OK, ExportTraceServiceResponse { partial_success: Some(refused) }.encode_to_vec());
    }
    store.taken.lock().unwrap_or_else(PoisonError::into_inner).push(body);
    (StatusCode::OK, ExportTraceServiceResponse::default().encode_to_vec())
}

fn spans_of(body: Bytes) -> Vec<Span> {
    let request = match ExportTraceServiceRequest::decode(body) {
        Ok(request) => request,
        Err(error) => panic!("a request to the collector is no OTLP: {error}"),
    };
    let mut spans = Vec::new();
    for resource in request.resource_spans {
        let known = format!("{:?}", resource.resource);
        let attributes = resource.resource.map(|resource| texts(&resource.attributes)).unwrap_or_default();
        let service = attributes.get("service.name").cloned().unwrap_or_default();
        let sent = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
        spans.extend(sent.map(|span| read(&service, &known, span)));
    }
    spans
}

fn read(service: &str, resource: &str, span: Sent) -> Span {
    Span {
        raw: format!("{resource} {span:?}"),
        service: service.to_owned(),
        kind: span.kind(),
        failed: span.status.as_ref().is_some_and(|status| status.code() == SentStatus::Error),
        trace: hex(&span.trace_id),
        id: hex(&span.span_id),
        parent: hex(&span.parent_span_id),
        attributes: texts(&span.attributes),
        links: span.links.iter().map(|link| (hex(&link.trace_id), hex(&link.span_id))).collect(),
        events: span.events.len(),
        start: span.start_time_unix_nano,
        end: span.end_time_unix_nano,
        name: span.name,
    }
}

fn texts(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |value: &Value| match value {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        Value::BoolValue(value) => value.to_string(),
        other => format!("{other:?}"),
    };
    attributes.iter().filter_map(|pair| Some((pair.key.clone(), text(pair.value.as_ref()?.value.as_ref()?)))).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Who does not finish its handshake is passed over.
struct Tls {
    socket: TcpListener,
    acceptor: TlsAcceptor,
}

impl Listener for Tls {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let Ok((stream, peer)) = self.socket.accept().await else { continue };
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, peer);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.socket.local_addr()
    }
}
