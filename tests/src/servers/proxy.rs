//! A network between a program and a server that a test can break: it stands still without a word,
//! it is cut, or it leads to another server, as a name or a load balancer does.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU16, AtomicU64, Ordering},
    },
};

use anyhow::{Context, Result};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

/// Forwards connections from a free port of 127.0.0.1 to a port there. Ends with this value, and
/// every connection with it.
pub struct Proxy {
    port: u16,
    leads_to: Arc<AtomicU16>,
    /// Counts what clients have sent, read by read.
    sent: Arc<AtomicU64>,
    network: watch::Sender<Network>,
    /// Counts how often all connections were closed.
    closed: watch::Sender<u64>,
    accepting: JoinHandle<()>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Network {
    Whole,
    /// Nothing comes through, nothing is closed; what was sent arrives later.
    Stalled,
    /// Every connection is closed, and every new one too.
    Cut,
}

impl Proxy {
    pub async fn to(port: u16) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("bind a proxy")?;
        let own = listener.local_addr().context("read the proxy's port")?.port();
        let (network, watched) = watch::channel(Network::Whole);
        let (closed, closing) = watch::channel(0);
        let leads_to = Arc::new(AtomicU16::new(port));
        let sent = Arc::new(AtomicU64::new(0));
        let (target, counted) = (leads_to.clone(), sent.clone());
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = SocketAddr::from((Ipv4Addr::LOCALHOST, target.load(Ordering::SeqCst)));
                tokio::spawn(forward(client, server, counted.clone(), watched.clone(), closing.clone()));
            }
        });
        Ok(Self { port: own, leads_to, sent, network, closed, accepting })
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// How often clients have sent something. Who sends, and waits for the answer, is counted once.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
    }

    /// New connections go to another port of 127.0.0.1; those that stand stay where they are.
    pub fn lead_to(&self, port: u16) {
        self.leads_to.store(port, Ordering::SeqCst);
    }

    /// Closes every connection; new ones are let through.
    pub fn close_all(&self) {
        self.closed.send_modify(|closed| *closed += 1);
    }

    pub fn stall(&self) {
        self.network.send_replace(Network::Stalled);
    }

    pub fn cut(&self) {
        self.network.send_replace(Network::Cut);
    }

    pub fn mend(&self) {
        self.network.send_replace(Network::Whole);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn forward(
    client: TcpStream,
    server: SocketAddr,
    sent: Arc<AtomicU64>,
    mut network: watch::Receiver<Network>,
    mut closing: watch::Receiver<u64>,
) {
    closing.mark_unchanged();
    if *network.borrow() == Network::Cut {
        return;
    }
    let Ok(server) = TcpStream::connect(server).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        _ = pump(from_client, to_server, network.clone(), || { sent.fetch_add(1, Ordering::SeqCst); }) => {}
        _ = pump(from_server, to_client, network.clone(), || {}) => {}
        // Also when the proxy is gone.
        _ = network.wait_for(|network| *network == Network::Cut) => {}
        _ = closing.changed() => {}
    }
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut network: watch::Receiver<Network>,
    count: impl Fn(),
) -> Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        count();
        network.wait_for(|network| *network == Network::Whole).await?;
        to.write_all(&buffer[..length]).await?;
    }
}
