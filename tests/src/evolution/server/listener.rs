//! Connections that can be cut from inside a handler, with or without TLS: how an answer comes to
//! be missing.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::extract::connect_info::Connected;
use axum::serve::IncomingStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tokio_util::task::TaskTracker;

const BACKLOG: usize = 256;

trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

/// A connection as its handlers see it.
#[derive(Clone)]
pub(super) struct Connection(CancellationToken);

impl Connection {
    /// Closes it under the feet of whatever is being answered.
    pub fn close(&self) {
        self.0.cancel();
    }
}

impl Connected<IncomingStream<'_, Listener>> for Connection {
    fn connect_info(stream: IncomingStream<'_, Listener>) -> Self {
        Self(stream.io().cut.clone())
    }
}

/// Hands over connections once their handshake is done, so that a slow one holds up nobody.
pub(super) struct Listener {
    ready: mpsc::Receiver<(Stream, SocketAddr)>,
    local: io::Result<SocketAddr>,
}

impl Listener {
    pub fn new(
        socket: TcpListener,
        tls: Option<Arc<rustls::ServerConfig>>,
        tasks: &TaskTracker,
        shutdown: CancellationToken,
    ) -> Self {
        let (sender, ready) = mpsc::channel(BACKLOG);
        let local = socket.local_addr();
        let tls = tls.map(TlsAcceptor::from);
        let spawner = tasks.clone();
        tasks.spawn(async move {
            loop {
                let accepted = tokio::select! {
                    () = shutdown.cancelled() => return,
                    accepted = socket.accept() => accepted,
                };
                if let Ok((stream, peer)) = accepted {
                    let shake = shake_hands(stream, peer, tls.clone(), sender.clone());
                    spawner.spawn(shutdown.clone().run_until_cancelled_owned(shake));
                }
            }
        });
        Self { ready, local }
    }
}

async fn shake_hands(
    stream: TcpStream,
    peer: SocketAddr,
    tls: Option<TlsAcceptor>,
    sender: mpsc::Sender<(Stream, SocketAddr)>,
) {
    let transport: Box<dyn Transport> = match tls {
        None => Box::new(stream),
        Some(acceptor) => match acceptor.accept(stream).await {
            Ok(stream) => Box::new(stream),
            // The client did not want our certificate: its affair.
            Err(_) => return,
        },
    };
    let cut = CancellationToken::new();
    let stream = Stream { transport, cancelled: Box::pin(cut.clone().cancelled_owned()), cut };
    // Sending fails only when the server has stopped.
    drop(sender.send((stream, peer)).await);
}

impl axum::serve::Listener for Listener {
    type Io = Stream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Stream, SocketAddr) {
        match self.ready.recv().await {
            Some(ready) => ready,
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        match &self.local {
            Ok(address) => Ok(*address),
            Err(error) => Err(error.kind().into()),
        }
    }
}

/// A connection that fails as soon as it is cut.
pub(super) struct Stream {
    transport: Box<dyn Transport>,
    cancelled: Pin<Box<WaitForCancellationFutureOwned>>,
    cut: CancellationToken,
}

impl Stream {
    fn poll_cut(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.cancelled.as_mut().poll(context) {
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionReset.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_cut(context)?;
        Pin::new(&mut self.transport).poll_read(context, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_cut(context)?;
        Pin::new(&mut self.transport).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_shutdown(context)
    }
}
