//! A server that answers each connection with the next bytes of a script and keeps what it was
//! sent. It speaks so little HTTP that it can also break off, hang, and answer nonsense.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

/// What the server does with one request.
#[derive(Clone)]
pub enum Act {
    /// Answers and closes.
    Answer(String),
    /// Closes without a byte.
    BreakOff,
    /// Answers these bytes, then closes before the rest that they promise.
    BreakOffAfter(String),
    Hang,
}

pub struct Server {
    pub address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    pub async fn start(acts: impl IntoIterator<Item = Act>) -> Self {
        Self::serve(acts, None).await
    }

    pub async fn start_tls(acts: impl IntoIterator<Item = Act>, tls: TlsAcceptor) -> Self {
        Self::serve(acts, Some(tls)).await
    }

    async fn serve(acts: impl IntoIterator<Item = Act>, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (requests, acts) = (Arc::<Mutex<Vec<_>>>::default(), Arc::new(Mutex::new(VecDeque::from_iter(acts))));
        let kept = requests.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (kept, acts, tls) = (kept.clone(), acts.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => converse(stream, &kept, &acts).await,
                        // A client that does not trust us leaves in the handshake.
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => converse(stream, &kept, &acts).await,
                            Err(_) => None,
                        },
                    }
                });
            }
        });
        Self { address, requests }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Every request so far, head and body.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

async fn converse(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    kept: &Mutex<Vec<String>>,
    acts: &Mutex<VecDeque<Act>>,
) -> Option<()> {
    let request = read_request(&mut stream).await?;
    kept.lock().unwrap().push(request);
    let act = acts.lock().unwrap().pop_front();
    match act? {
        Act::Answer(bytes) | Act::BreakOffAfter(bytes) => {
            stream.write_all(bytes.as_bytes()).await.ok()?;
            stream.shutdown().await.ok()
        }
        Act::BreakOff => None,
        Act::Hang => std::future::pending().await,
    }
}

async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| {
            line.to_ascii_lowercase().strip_prefix("content-length:").and_then(|text| text.trim().parse().ok())
        });
        if body.len() >= length.unwrap_or(0) {
            return Some(text);
        }
    }
}

/// A whole answer with a JSON body.
pub fn json(status: u16, body: &str) -> Act {
    with_headers(status, "content-type: application/json\r\n", body)
}

pub fn with_headers(status: u16, headers: &str, body: &str) -> Act {
    let length = body.len();
    Act::Answer(format!("HTTP/1.1 {status} X\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n{body}"))
}
