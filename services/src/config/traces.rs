//! Whether and where traces are exported: OpenTelemetry's own variables. Without an endpoint
//! nothing is, and nothing of the rest is read: these variables may be meant for others.

use std::{str::FromStr, sync::Arc, time::Duration};

use clap::Args;
use percent_encoding::percent_decode_str;
use reqwest::{
    Url,
    header::{HeaderMap, HeaderName, HeaderValue},
};

use super::Faults;
use crate::telemetry::{
    Role, chain,
    export::{Batches, Traces},
    names,
    otlp::Collector,
    sampling::Root,
};

#[derive(Args)]
#[command(next_help_heading = "Traces (OTLP; off without an endpoint)")]
pub struct TraceOptions {
    /// Where an OpenTelemetry collector or Jaeger takes OTLP over HTTP, e.g. http://127.0.0.1:4318;
    /// /v1/traces is added
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL")]
    otel_exporter_otlp_endpoint: Option<String>,

    /// The same, used as it is
    #[arg(long, env = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", value_name = "URL")]
    otel_exporter_otlp_traces_endpoint: Option<String>,

    /// http/protobuf; gRPC is not built in
    #[arg(long, env = "OTEL_EXPORTER_OTLP_PROTOCOL", value_name = "NAME", default_value = "http/protobuf")]
    otel_exporter_otlp_protocol: String,

    /// The same for traces alone
    #[arg(long, env = "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", value_name = "NAME")]
    otel_exporter_otlp_traces_protocol: Option<String>,

    /// Headers for the collector, key=value,key=value, percent-encoded; e.g. its key
    #[arg(long, env = "OTEL_EXPORTER_OTLP_HEADERS", value_name = "LIST")]
    otel_exporter_otlp_headers: Option<String>,

    /// The same for traces alone
    #[arg(long, env = "OTEL_EXPORTER_OTLP_TRACES_HEADERS", value_name = "LIST")]
    otel_exporter_otlp_traces_headers: Option<String>,

    /// How long one request to the collector may take, in milliseconds
    #[arg(long, env = "OTEL_EXPORTER_OTLP_TIMEOUT", value_name = "MS", default_value = "10000")]
    otel_exporter_otlp_timeout: String,

    /// The same for traces alone
    #[arg(long, env = "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", value_name = "MS")]
    otel_exporter_otlp_traces_timeout: Option<String>,

    /// otlp, or none to export nothing
    #[arg(long, env = "OTEL_TRACES_EXPORTER", value_name = "NAME", default_value = "otlp")]
    otel_traces_exporter: String,

    /// true exports nothing; any other value exports
    #[arg(long, env = "OTEL_SDK_DISABLED", value_name = "BOOLEAN", default_value = "false")]
    otel_sdk_disabled: String,

    /// What this process is called in traces: sluice-relay, sluice-worker-STEP, sluice-worker or
    /// sluice-events where it is not set
    #[arg(long, env = "OTEL_SERVICE_NAME", value_name = "NAME")]
    otel_service_name: Option<String>,

    /// What else is known of it, e.g. deployment.environment.name=production,k8s.pod.name=relay-1
    #[arg(long, env = "OTEL_RESOURCE_ATTRIBUTES", value_name = "LIST")]
    otel_resource_attributes: Option<String>,

    /// Which traces are recorded: always_on, always_off, traceidratio, or parentbased_ and one of
    /// these. A sign-up's own context can keep its trace out, never bring it in
    #[arg(long, env = "OTEL_TRACES_SAMPLER", value_name = "NAME", default_value = "parentbased_always_on")]
    otel_traces_sampler: String,

    /// The share of traces that a traceidratio records, from 0 to 1
    #[arg(long, env = "OTEL_TRACES_SAMPLER_ARG", value_name = "NUMBER", default_value = "1")]
    otel_traces_sampler_arg: String,

    /// How long spans wait for a batch to fill, in milliseconds
    #[arg(long, env = "OTEL_BSP_SCHEDULE_DELAY", value_name = "MS", default_value = "1000")]
    otel_bsp_schedule_delay: String,

    /// Spans that wait for the collector at most; what comes on top is dropped and counted
    #[arg(long, env = "OTEL_BSP_MAX_QUEUE_SIZE", value_name = "NUMBER", default_value = "2048")]
    otel_bsp_max_queue_size: String,

    /// Spans of one request at most
    #[arg(long, env = "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", value_name = "NUMBER", default_value = "512")]
    otel_bsp_max_export_batch_size: String,

    /// How long a batch that the collector did not take is tried again, in milliseconds
    #[arg(long, env = "OTEL_BSP_EXPORT_TIMEOUT", value_name = "MS", default_value = "30000")]
    otel_bsp_export_timeout: String,
}

/// What a process is called where nobody says otherwise; and its other roles, where each is a
/// service of its own.
pub(super) type Services = (String, Vec<(Role, String)>);

impl TraceOptions {
    /// None: nothing is exported, or a fault was left.
    pub(super) fn read(&self, services: Services, faults: &mut Faults) -> Option<Traces> {
        let (setting, address) = self.address()?;
        // As the standard has it: "true" in any case, and nothing else.
        let disabled = self.otel_sdk_disabled.trim().eq_ignore_ascii_case("true");
        let exporters = [("otlp", true), ("none", false)];
        let exporter = faults.choice("OTEL_TRACES_EXPORTER", self.otel_traces_exporter.trim(), &exporters);
        if disabled || exporter == Some(false) {
            return None;
        }
        self.check_protocol(faults);
        let endpoint = endpoint(setting, address, faults);
        let headers = self.headers(faults);
        let timeout = self.timeout(faults);
        let root = self.root(faults);
        let batches = self.batches(faults);
        let attributes = self.attributes(faults);
        let collector = Collector::new(endpoint?, headers?, timeout?).map_err(|error| {
            let cause = chain(&error.without_url());
            let mend = "install CA certificates, or name a file of them in SSL_CERT_FILE";
            faults.add_url(setting, address, format!("no TLS client can be made ({cause}): {mend}"));
        });
        let mut attributes = attributes?;
        let named = attributes.iter().position(|(key, _)| key == names::SERVICE).map(|at| attributes.remove(at).1);
        // One name that was given stands for all roles of the process.
        let named = self.otel_service_name.clone().or(named);
        let (service, others) = named.map_or(services, |name| (name, Vec::new()));
        let (root, batches, exported) = (root?, batches?, Arc::default());
        Some(Traces { service, others, attributes, collector: collector.ok()?, root, batches, exported })
    }

    fn address(&self) -> Option<(&'static str, &str)> {
        let own = self.otel_exporter_otlp_traces_endpoint.as_deref().map(|url| (TRACES_ENDPOINT, url));
        own.or(self.otel_exporter_otlp_endpoint.as_deref().map(|url| (ENDPOINT, url)))
    }

    fn check_protocol(&self, faults: &mut Faults) {
        let (setting, protocol) = match &self.otel_exporter_otlp_traces_protocol {
            Some(own) => ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", own),
            None => ("OTEL_EXPORTER_OTLP_PROTOCOL", &self.otel_exporter_otlp_protocol),
        };
        if protocol.trim() != "http/protobuf" {
            let problem = "is not built in: set http/protobuf, and an endpoint that takes it (port 4318, not 4317)";
            faults.add(setting, protocol, problem);
        }
    }

    fn headers(&self, faults: &mut Faults) -> Option<HeaderMap> {
        let (setting, list) = match &self.otel_exporter_otlp_traces_headers {
            Some(own) => ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", own.as_str()),
            None => ("OTEL_EXPORTER_OTLP_HEADERS", self.otel_exporter_otlp_headers.as_deref().unwrap_or_default()),
        };
        let headers: Option<HeaderMap> = pairs(list).and_then(|pairs| pairs.into_iter().map(header).collect());
        if headers.is_none() {
            faults.add_secret(setting, "is no list of headers: expected name=value,name=value, values percent-encoded");
        }
        headers
    }

    fn timeout(&self, faults: &mut Faults) -> Option<Duration> {
        let (setting, text) = match &self.otel_exporter_otlp_traces_timeout {
            Some(own) => ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", own),
            None => ("OTEL_EXPORTER_OTLP_TIMEOUT", &self.otel_exporter_otlp_timeout),
        };
        faults.number(setting, text, 1..=600_000).map(Duration::from_millis)
    }

    fn root(&self, faults: &mut Faults) -> Option<Root> {
        let name = self.otel_traces_sampler.trim();
        let (absolute, own) = match name.strip_prefix("parentbased_") {
            Some(root) => (false, root),
            None => (true, name),
        };
        match own {
            "always_on" => Some(Root::On),
            "always_off" => Some(Root::Off { absolute }),
            "traceidratio" => {
                faults.number("OTEL_TRACES_SAMPLER_ARG", &self.otel_traces_sampler_arg, 0.0..=1.0).map(Root::Ratio)
            }
            _ => {
                let known = "expected always_on, always_off, traceidratio, or parentbased_ and one of these";
                faults.refuse("OTEL_TRACES_SAMPLER", name, known)
            }
        }
    }

    fn batches(&self, faults: &mut Faults) -> Option<Batches> {
        let delay = faults.number("OTEL_BSP_SCHEDULE_DELAY", &self.otel_bsp_schedule_delay, 1..=600_000);
        let queue = faults.number("OTEL_BSP_MAX_QUEUE_SIZE", &self.otel_bsp_max_queue_size, 1..=1_000_000);
        let most = faults.number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", &self.otel_bsp_max_export_batch_size, 1..=100_000);
        let patience = faults.number("OTEL_BSP_EXPORT_TIMEOUT", &self.otel_bsp_export_timeout, 1..=600_000);
        let (delay, patience) = (Duration::from_millis(delay?), Duration::from_millis(patience?));
        let (queue, most) = (queue?, most?);
        Some(Batches { queue, most: most.min(queue), delay, patience })
    }

    fn attributes(&self, faults: &mut Faults) -> Option<Vec<(String, String)>> {
        let list = self.otel_resource_attributes.as_deref().unwrap_or_default();
        let problem = "is no list of attributes: expected key=value,key=value, values percent-encoded";
        pairs(list).or_else(|| faults.refuse("OTEL_RESOURCE_ATTRIBUTES", list, problem))
    }
}

const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const TRACES_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";

fn endpoint(setting: &str, text: &str, faults: &mut Faults) -> Option<Url> {
    let url = Url::parse(text.trim()).ok();
    let Some(mut url) = url.filter(|url| matches!(url.scheme(), "http" | "https") && url.host_str().is_some()) else {
        faults.add_url(setting, text, "is no address of a collector: expected http(s)://host:4318");
        return None;
    };
    if setting == ENDPOINT {
        url.set_path(&format!("{}/v1/traces", url.path().trim_end_matches('/')));
    }
    Some(url)
}

/// `key=value,key=value`, the values percent-encoded.
fn pairs(list: &str) -> Option<Vec<(String, String)>> {
    list.split(',')
        .map(str::trim)
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (key, value) = pair.split_once('=')?;
            let value = percent_decode_str(value.trim()).decode_utf8().ok()?;
            (!key.trim().is_empty()).then(|| (key.trim().to_owned(), value.into_owned()))
        })
        .collect()
}

fn header((key, value): (String, String)) -> Option<(HeaderName, HeaderValue)> {
    let mut value = HeaderValue::from_str(&value).ok()?;
    value.set_sensitive(true);
    Some((HeaderName::from_str(&key).ok()?, value))
}
