//! Finds a free port of the loopback address.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, Result};
use rand::Rng;
use tokio::net::TcpSocket;

/// A port that was free a moment ago. It lies below the range from which the system gives ports to
/// outgoing connections: otherwise a client that keeps dialling a killed server may be given the
/// server's own port, connect to itself, and keep the server from coming back.
pub fn free_port() -> Result<u16> {
    let end = first_outgoing_port();
    for _ in 0..64 {
        if let Ok(port) = bind(rand::rng().random_range(10_000..end)) {
            return Ok(port);
        }
    }

    bind(0).context("bind a free port on 127.0.0.1")
}

/// Binds without listening. A child that is forked meanwhile holds the socket until it becomes its
/// program, and would for that long keep the port from us if the socket listened.
fn bind(port: u16) -> io::Result<u16> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
    Ok(socket.local_addr()?.port())
}

fn first_outgoing_port() -> u16 {
    fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|range| range.split_whitespace().next()?.parse().ok())
        .filter(|first| *first > 12_000)
        .unwrap_or(32_768)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_port_that_somebody_listens_on_is_not_free() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();

        assert!(bind(listener.local_addr().unwrap().port()).is_err());
    }
}
