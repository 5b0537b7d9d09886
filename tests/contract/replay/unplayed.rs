//! The records that are not played one by one, each with its reason.

const SERIES: &str = "a measured series, not an exchange: its behaviour is tested in series.rs";
const DELIVERIES: &str = "deliveries to a webhook target, which the simulated server does not make";
const BROKER: &str = "the state of a RabbitMQ broker, which is not part of the simulated server";
const METRICS: &str = "the Prometheus page is off by default and not simulated";
const HTTP: &str = "CORS, compression and caching are left to the HTTP library; our client asks for none";
const SIZE: &str = "a body of 140 MB: the limit itself is tested with a small one in series.rs";

/// An id, or the beginning of ids with a `*`.
pub const LIST: &[(&str, &str)] = &[
    ("race.create20.*", SERIES),
    ("race.create2.*", SERIES),
    ("race.during.others", SERIES),
    ("race.tight.sequence", SERIES),
    ("race.webhookset20.*", SERIES),
    ("limit.rate.*", SERIES),
    ("restart.after.window", SERIES),
    ("restart.burst", SERIES),
    ("db.flap", SERIES),
    ("delete.deadhook.gone", SERIES),
    ("delete.deadhook.short.gone", SERIES),
    ("offline.states", SERIES),
    ("offline.zombie", "sockets to WhatsApp as the server's log tells of them: none are opened here"),
    ("qr.rotation", SERIES),
    ("webhook.retry.*", DELIVERIES),
    ("rabbit.topology.*", BROKER),
    ("metrics", METRICS),
    ("metrics.noauth", METRICS),
    ("http.gzip", HTTP),
    ("http.options", HTTP),
    ("http.etag", HTTP),
    ("limit.body.140mb", SIZE),
    ("limit.body.143mb", SIZE),
];

pub fn reason(id: &str) -> Option<&'static str> {
    LIST.iter().find(|(pattern, _)| matches(pattern, id)).map(|(_, reason)| *reason)
}

pub fn matches(pattern: &str, id: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(beginning) => id.starts_with(beginning),
        None => pattern == id,
    }
}
