//! The simulated Evolution API as a program: prints its URL and serves until it is told to stop.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::Context;
use clap::Parser;
use serde_json::json;
use tests::evolution::server::{Options, Server};
use tests::evolution::{Config, Faults, Key};
use tokio::signal::unix::{SignalKind, signal};

/// A stand-in for an Evolution API 2.3.6 server, with its quirks and with faults on demand.
///
/// It answers the instance and webhook routes as the real server was recorded to: creates of one
/// name that run at the same time destroy each other, a delete answers before it is done, a create
/// with "qrcode": true takes 5 s. WhatsApp is never contacted and no webhook is ever delivered.
/// Everything is kept in memory.
#[derive(Parser)]
#[command(
    name = "evolution-sim",
    after_help = "\
Control it while it runs:
  curl $URL/_sim/stats                                        counters, instances, faults met
  curl -X POST $URL/_sim/pair/user_1                          the phone scans the QR code
  curl -X POST '$URL/_sim/restart?down_ms=2000'               kill it, back after 2 s
  curl -X POST $URL/_sim/reset                                forget everything
  curl -X PUT -H 'content-type: application/json' $URL/_sim/faults -d '{\"outage\": \"refuse\"}'

Faults, as JSON (all keys optional):
  {\"outage\": \"refuse\" | \"hang\" | {\"error\": 502},
   \"database\": \"up\" | \"down\" | {\"flapping\": 0.2},
   \"whatsapp\": \"reachable\" | \"unreachable\",
   \"dead_hooks\": [\"http://127.0.0.1:9/\"],
   \"rules\": [{\"route\": \"create\", \"name_prefix\": \"user_\", \"when\": {\"probability\": 0.1},
              \"fault\": {\"drop\": {\"stage\": \"after_work\"}}}]}
  when:  \"always\" (default), {\"probability\": 0.1}, {\"next\": 3}
  fault: {\"latency\": {\"ms\": 800, \"stage\": \"before_work\"}}, {\"error\": {\"status\": 502, \"stage\": \"before_work\"}},
         {\"drop\": {\"stage\": ...}}, {\"hang\": {\"stage\": ...}},
         {\"limited\": {\"status\": 429, \"retry_after\": {\"seconds\": 3}}} (or {\"date_in\": 3})
  route: root verify_creds create fetch_instances connection_state connect restart logout delete
         webhook_set webhook_find settings_find

Example:
  evolution-sim --listen 127.0.0.1:8080 --faults '{\"rules\": [{\"fault\": {\"error\": {\"status\": 500, \"stage\": \"before_work\"}}, \"when\": {\"probability\": 0.05}}]}'"
)]
struct Arguments {
    /// Where to listen; port 0 takes a free one. It has no protection but its key: keep it on
    /// loopback
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// The global API key that callers must send in the header `apikey`
    #[arg(long, env = "EVOLUTION_API_KEY", hide_env_values = true, default_value = "simulated-global-key")]
    api_key: String,
    /// Seed of everything that happens by chance: the same calls at the same times then go the same
    /// way
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Faults to begin with: JSON, or the path of a file that holds it
    #[arg(long)]
    faults: Option<String>,
    /// Stretch the recorded working times; 0 answers at once (the fixed waits stay)
    #[arg(long, default_value_t = 1.0)]
    time_scale: f64,
    /// Print one JSON line about the running server instead of a sentence
    #[arg(long)]
    json: bool,
}

// One thread serves thousands of calls a second, and costs less than several that wake each other.
#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let mut config = Config { key: Key::new(arguments.api_key), ..Config::default() };
    config.timings.scale = arguments.time_scale.max(0.0);
    if let Some(text) = &arguments.faults {
        config.faults = read_faults(text)?;
    }
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let server =
        Server::start_with(Options { seed: arguments.seed, listen: arguments.listen, ..Options::new(config) }).await?;
    announce(server.base_url(), arguments.json);
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted.context("listen for ctrl-c")?,
        _ = terminate.recv() => {}
    }
    server.stop().await;
    Ok(())
}

fn read_faults(text: &str) -> anyhow::Result<Faults> {
    let json = if text.trim_start().starts_with('{') {
        text.to_owned()
    } else {
        std::fs::read_to_string(Path::new(text)).with_context(|| format!("read the file of --faults, {text}"))?
    };
    serde_json::from_str(&json).context("--faults is not understood: `evolution-sim --help` shows what it may hold")
}

#[allow(clippy::print_stdout, reason = "standard output is how a caller learns the URL")]
fn announce(url: &str, as_json: bool) {
    if as_json {
        println!("{}", json!({"url": url, "pid": std::process::id()}));
    } else {
        println!("simulated Evolution API at {url} (stop with ctrl-c)");
    }
}
