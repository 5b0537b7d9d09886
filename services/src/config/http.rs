//! Where a role answers for its health and shows its metrics.

use std::net::SocketAddr;

use clap::Args;

use super::Faults;

#[derive(Args)]
#[command(next_help_heading = "Health and metrics")]
pub struct HttpOptions {
    /// The address and port of /livez, /readyz and /metrics, e.g. 0.0.0.0:9464; not set, there are
    /// none. They say nothing secret and ask for no password: for the network of whoever scrapes
    /// and probes, not for the internet. With port 0 the system chooses one, which is logged
    #[arg(long, env = "HTTP_LISTEN", value_name = "ADDRESS")]
    http_listen: Option<String>,
}

impl HttpOptions {
    /// None: nowhere, or a fault was left.
    pub(super) fn read(&self, faults: &mut Faults) -> Option<SocketAddr> {
        let text = self.http_listen.as_deref()?;
        let problem = "expected an IP address and a port, e.g. 0.0.0.0:9464, 127.0.0.1:9464 or [::]:9464";
        text.trim().parse().map_err(|_| faults.add("HTTP_LISTEN", text, problem)).ok()
    }
}
