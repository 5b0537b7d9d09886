//! The simulated API behind a real socket: a listener, a driver that lets the world's time follow
//! the clock, and the control routes under `/_sim/`. All behaviour is the world's; nothing here may
//! decide what an answer says.

mod control;
mod listener;
mod shared;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use axum::Router;
use axum::body::{Body as HttpBody, to_bytes};
use axum::extract::{ConnectInfo, Request as HttpRequest, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response as HttpResponse};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Answer, Body, Config, Key, Method, Request, Response, World};
use listener::{Connection, Listener};
use shared::{Presence, Shared, drive};

/// How to start a server. The default listens on a random loopback port, without TLS.
pub struct Options {
    pub config: Config,
    pub seed: u64,
    pub listen: SocketAddr,
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// How far the server's clock (`Date`, `createdAt`) is ahead of ours, in milliseconds.
    pub clock_skew_ms: i64,
}

impl Options {
    pub fn new(config: Config) -> Self {
        Self { config, seed: 0, listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), tls: None, clock_skew_ms: 0 }
    }
}

/// A running server. Dropping it stops it; `stop` also waits until it has.
pub struct Server {
    base_url: String,
    key: Key,
    shared: Arc<Shared>,
    shutdown: CancellationToken,
    tasks: TaskTracker,
}

impl Server {
    /// # Errors
    /// When no loopback port can be bound.
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        Self::start_with(Options::new(config)).await
    }

    /// # Errors
    /// When `options.listen` cannot be bound.
    pub async fn start_with(options: Options) -> anyhow::Result<Self> {
        let socket = TcpListener::bind(options.listen)
            .await
            .with_context(|| format!("bind the simulated Evolution API to {}", options.listen))?;
        let scheme = if options.tls.is_some() { "https" } else { "http" };
        let base_url = format!("{scheme}://{}", socket.local_addr().context("read the bound address")?);
        let mut config = options.config;
        config.public_url.clone_from(&base_url);
        config.epoch_ms = unix_ms().saturating_add(options.clock_skew_ms);
        let key = config.key.clone();
        let shutdown = CancellationToken::new();
        let tasks = TaskTracker::new();
        let shared = Arc::new(Shared::new(config, options.seed));
        tasks.spawn(drive(shared.clone(), shutdown.clone()));
        let listener = Listener::new(socket, options.tls, &tasks, shutdown.clone());
        let app = Router::new()
            .nest("/_sim", control::routes())
            .fallback(call)
            .with_state(shared.clone())
            .into_make_service_with_connect_info::<Connection>();
        let stop = shutdown.clone();
        tasks.spawn(async move {
            let served = axum::serve(listener, app).with_graceful_shutdown(stop.cancelled_owned());
            if let Err(error) = served.await {
                tracing::error!(%error, "the simulated Evolution API stopped serving");
            }
        });
        tasks.close();
        Ok(Self { base_url, key, shared, shutdown, tasks })
    }

    /// `http://127.0.0.1:<port>`, without a slash at the end.
    pub fn base_url(&self) -> &str {
        &self.base_url
    }

    /// The global key.
    pub fn key(&self) -> &str {
        self.key.reveal()
    }

    /// Looks at the world or turns its controls; `now` is what these take. Never call the server
    /// from inside.
    pub fn with<T>(&self, work: impl FnOnce(&mut World, Duration) -> T) -> T {
        self.shared.with(work)
    }

    /// Stops serving and waits for it: calls under way are dropped.
    pub async fn stop(self) {
        self.shutdown.cancel();
        self.tasks.wait().await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

fn unix_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

async fn call(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(connection): ConnectInfo<Connection>,
    request: HttpRequest,
) -> HttpResponse {
    let limit = shared.initial.body_limit;
    let (parts, body) = request.into_parts();
    let Some(method) = Method::parse(parts.method.as_str()) else {
        return StatusCode::METHOD_NOT_ALLOWED.into_response();
    };
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
    let mut request = Request::new(method, target);
    request.key = text(&parts.headers, "apikey").map(Key::new);
    request.content_type = text(&parts.headers, header::CONTENT_TYPE.as_str());
    request.body = match read(body, limit).await {
        Ok(body) => body,
        Err(refusal) => return refusal,
    };
    let (ticket, receiver) = shared.begin(request);
    let mut presence = Presence { shared, ticket, answered: false };
    let answer = receiver.await;
    presence.answered = true;
    match answer {
        Ok(Answer::Response(response)) => http_response(response),
        // Dropped, or the server stops.
        Ok(Answer::Dropped) | Err(_) => {
            connection.close();
            std::future::pending().await
        }
    }
}

async fn read(body: HttpBody, limit: usize) -> Result<Body, HttpResponse> {
    // One byte more than allowed is enough for the world to see that it is too much.
    match to_bytes(body, limit.saturating_add(1)).await {
        Ok(bytes) if bytes.is_empty() => Ok(Body::Empty),
        Ok(bytes) => Ok(Body::Text(String::from_utf8_lossy(&bytes).into_owned())),
        Err(_) => {
            let body = super::answers::error(413, "Internal Server Error", "request entity too large".into());
            Err(http_response(body))
        }
    }
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    let value = headers.get(name)?;
    Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
}

fn http_response(response: Response) -> HttpResponse {
    let content_type = response.content_type();
    let body = match &response.body {
        Body::Empty | Body::Undefined => HttpBody::empty(),
        Body::Json(value) => HttpBody::from(value.to_string()),
        Body::Text(text) => HttpBody::from(text.clone()),
    };
    let mut built = HttpResponse::new(body);
    *built.status_mut() = StatusCode::from_u16(response.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = built.headers_mut();
    if let Some(content_type) = content_type {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    }
    for (name, value) in response.headers {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    built
}
