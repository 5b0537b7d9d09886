//! A network between a program and a server that a test can break: it stands still without a word, or it is cut.

use std::net::{Ipv4Addr, SocketAddr};

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

/// Forwards connections from a free port of 127.0.0.1 to a port there. Ends with this value, and every connection with it.
pub struct Proxy {
    port: u16,
    network: watch::Sender<Network>,
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
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(forward(client, SocketAddr::from((Ipv4Addr::LOCALHOST, port)), watched.clone()));
            }
        });
        Ok(Self { port: own, network, accepting })
    }

    pub fn port(&self) -> u16 {
        self.port
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

async fn forward(client: TcpStream, server: SocketAddr, mut network: watch::Receiver<Network>) {
    if *network.borrow() == Network::Cut {
        return;
    }
    let Ok(server) = TcpStream::connect(server).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        _ = pump(from_client, to_server, network.clone()) => {}
        _ = pump(from_server, to_client, network.clone()) => {}
        // Also when the proxy is gone.
        _ = network.wait_for(|network| *network == Network::Cut) => {}
    }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut network: watch::Receiver<Network>) -> Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        network.wait_for(|network| *network == Network::Whole).await?;
        to.write_all(&buffer[..length]).await?;
    }
}
