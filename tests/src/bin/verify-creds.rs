//! Asks one Evolution API whether it takes a key, over the client that ships: `verify-creds URL`.
//! For tests whose question is what the environment does to the client.

use anyhow::Context;
use sluice::evolution::{Client, Options, Timeouts};
use workflows::{secret::Secret, whatsapp::evolution::Evolution};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let base_url = std::env::args().nth(1).context("usage: verify-creds URL")?;
    let client = Client::new(Options { base_url, key: Secret::new("a-key"), timeouts: Timeouts::default() })?;
    Ok(client.verify_creds().await?)
}
