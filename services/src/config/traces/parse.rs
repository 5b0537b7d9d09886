//! The texts of OpenTelemetry's variables: addresses, and lists of pairs.

use std::str::FromStr;

use percent_encoding::percent_decode_str;
use reqwest::{
    Url,
    header::{HeaderName, HeaderValue},
};

use crate::config::Faults;

pub(super) fn endpoint(setting: &str, text: &str, faults: &mut Faults) -> Option<Url> {
    let url = Url::parse(text.trim()).ok();
    let url = url.filter(|url| matches!(url.scheme(), "http" | "https") && url.host_str().is_some());
    if url.is_none() {
        faults.add_url(setting, text, "is no address of a collector: expected http(s)://host:4318");
    }
    url
}

pub(super) fn with_route(mut base: Url) -> Url {
    let path = format!("{}/v1/traces", base.path().trim_end_matches('/'));
    base.set_path(&path);
    base
}

/// `key=value,key=value`, the values percent-encoded.
pub(super) fn pairs(list: &str) -> Option<Vec<(String, String)>> {
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

pub(super) fn header((key, value): (String, String)) -> Option<(HeaderName, HeaderValue)> {
    let mut value = HeaderValue::from_str(&value).ok()?;
    value.set_sensitive(true);
    Some((HeaderName::from_str(&key).ok()?, value))
}
