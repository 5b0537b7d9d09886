//! Which route a request line names, and what its path and query carry.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};

use super::message::Method;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Route {
    Root,
    VerifyCreds,
    Create,
    FetchInstances,
    ConnectionState,
    Connect,
    Restart,
    Logout,
    Delete,
    WebhookSet,
    WebhookFind,
    SettingsFind,
    SettingsSet,
    RabbitmqSet,
    RabbitmqFind,
    /// Anything else: 404 `Cannot GET /path`.
    Unknown,
}

impl Route {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::VerifyCreds => "verify_creds",
            Self::Create => "create",
            Self::FetchInstances => "fetch_instances",
            Self::ConnectionState => "connection_state",
            Self::Connect => "connect",
            Self::Restart => "restart",
            Self::Logout => "logout",
            Self::Delete => "delete",
            Self::WebhookSet => "webhook_set",
            Self::WebhookFind => "webhook_find",
            Self::SettingsFind => "settings_find",
            Self::SettingsSet => "settings_set",
            Self::RabbitmqSet => "rabbitmq_set",
            Self::RabbitmqFind => "rabbitmq_find",
            Self::Unknown => "unknown",
        }
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Query {
    pub instance_name: Option<String>,
    pub instance_id: Option<String>,
    pub number: Option<String>,
}

#[derive(Clone, Debug)]
pub(super) struct Parsed {
    pub route: Route,
    /// The name in the path.
    pub name: Option<String>,
    pub query: Query,
    /// The guards look for `/instance/create` letter by letter while the router ignores case.
    pub literal: bool,
}

pub(super) fn parse(method: Method, target: &str) -> Parsed {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut segments = path.trim_matches('/').splitn(3, '/');
    let first = segments.next().unwrap_or_default();
    let second = segments.next().unwrap_or_default();
    let third = segments.next().unwrap_or_default();
    let route = match_route(method, first, second, third);
    let name = (!third.is_empty() && route != Route::Unknown).then(|| decode(third).into_owned());
    Parsed {
        route,
        name,
        query: parse_query(query),
        literal: target.contains("/instance/create") || route != Route::Create,
    }
}

fn match_route(method: Method, first: &str, second: &str, third: &str) -> Route {
    let is = |have: &str, want: &str| have.eq_ignore_ascii_case(want);
    // An encoded slash belongs to the name; a bare one begins another path.
    let named = !third.is_empty() && !third.contains('/');
    let bare = third.is_empty();
    if is(first, "instance") {
        let by_name = [
            (Method::Get, "connectionState", Route::ConnectionState),
            (Method::Get, "connect", Route::Connect),
            (Method::Post, "restart", Route::Restart),
            (Method::Delete, "logout", Route::Logout),
            (Method::Delete, "delete", Route::Delete),
        ];
        if bare && method == Method::Post && is(second, "create") {
            return Route::Create;
        }
        if bare && method == Method::Get && is(second, "fetchInstances") {
            return Route::FetchInstances;
        }
        return by_name
            .into_iter()
            .find(|(verb, word, _)| named && method == *verb && is(second, word))
            .map_or(Route::Unknown, |(_, _, route)| route);
    }
    match method {
        Method::Get | Method::Head if first.is_empty() => Route::Root,
        Method::Post if bare && second.is_empty() && is(first, "verify-creds") => Route::VerifyCreds,
        Method::Post if named && is(first, "webhook") && is(second, "set") => Route::WebhookSet,
        Method::Get if named && is(first, "webhook") && is(second, "find") => Route::WebhookFind,
        Method::Get if named && is(first, "settings") && is(second, "find") => Route::SettingsFind,
        Method::Post if named && is(first, "settings") && is(second, "set") => Route::SettingsSet,
        Method::Post if named && is(first, "rabbitmq") && is(second, "set") => Route::RabbitmqSet,
        Method::Get if named && is(first, "rabbitmq") && is(second, "find") => Route::RabbitmqFind,
        _ => Route::Unknown,
    }
}

fn parse_query(query: &str) -> Query {
    let mut parsed = Query::default();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = decode(&value.replace('+', " ")).into_owned();
        match key {
            "instanceName" => parsed.instance_name = Some(value),
            "instanceId" => parsed.instance_id = Some(value),
            "number" => parsed.number = Some(value),
            _ => {}
        }
    }
    parsed
}

fn decode(text: &str) -> Cow<'_, str> {
    if text.contains('%') {
        Cow::Owned(percent_decode_str(text).decode_utf8_lossy().into_owned())
    } else {
        Cow::Owned(text.to_owned())
    }
}
