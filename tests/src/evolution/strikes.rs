//! How injected faults strike a call: in place of its work, or of its answer.

use std::time::Duration;

use serde_json::{Value, json};

use super::answers;
use super::calls::{Call, Phase};
use super::faults::{Fault, Outage, RetryAfter, Stage};
use super::hit::Hit;
use super::message::{Body, Response};
use super::route::Route;
use super::world::World;

impl World {
    /// Whether the whole API is away, in which case this call has had all it gets.
    pub(super) fn is_away(&mut self, call: &mut Call) -> bool {
        let outage = if self.up {
            self.config.faults.outage
        } else {
            self.journal.hit(Hit::Down);
            self.drop_call(call.ticket, call);
            return true;
        };
        match outage {
            None => return false,
            Some(Outage::Refuse) => {
                self.journal.hit(Hit::OutageRefuse);
                self.drop_call(call.ticket, call);
            }
            Some(Outage::Hang) => {
                self.journal.hit(Hit::OutageHang);
                call.phase = Phase::Parked;
                self.calls.insert(call.ticket, call.clone());
            }
            Some(Outage::Error(status)) => {
                self.journal.hit(Hit::OutageError);
                let response = injected_error(status, None);
                self.deliver(call, response);
            }
            Some(Outage::Page(status)) => {
                self.journal.hit(Hit::OutagePage);
                let page = injected_error(status, Some(json!(format!("{status} page not found"))));
                self.deliver(call, page);
            }
            Some(Outage::Unlicensed) if call.parsed.route == Route::Root => return false,
            Some(Outage::Unlicensed) => {
                self.journal.hit(Hit::OutageUnlicensed);
                let manager = format!("{}/manager/login", self.config.public_url);
                let body = json!({
                    "error": "service not activated",
                    "code": "LICENSE_REQUIRED",
                    "register_url": manager,
                    "message": format!("This Evolution API instance is not activated. Open {manager} to activate."),
                });
                self.deliver(call, Response::json(503, body));
            }
        }
        true
    }

    pub(super) fn strikes_before_work(&mut self, call: &mut Call) -> bool {
        match call.plan.fault.take_if(|fault| fault.at(Stage::BeforeWork)) {
            None => return false,
            Some(Fault::Drop { .. }) => self.drop_call(call.ticket, call),
            Some(Fault::Error { status, body, .. }) => self.deliver(call, injected_error(status, body)),
            Some(Fault::Limited { status, retry_after }) => {
                let value = match retry_after {
                    RetryAfter::Seconds(seconds) => seconds.to_string(),
                    RetryAfter::DateIn(seconds) => self.clock().http(self.now + Duration::from_secs(seconds)),
                };
                let mut response = injected_error(status, None);
                response.headers.push(("retry-after", value));
                self.deliver(call, response);
            }
            Some(Fault::Hang { .. } | Fault::Latency { .. } | Fault::LateRow { .. }) => self.hang(call.clone()),
        }
        true
    }

    pub(super) fn strike_after_work(&mut self, mut call: Call, response: Response) {
        match call.plan.fault.take() {
            Some(Fault::Drop { .. }) => self.drop_call(call.ticket, &call),
            Some(Fault::Hang { .. }) => self.hang(call),
            Some(Fault::Error { status, body, .. }) => self.deliver(&call, injected_error(status, body)),
            Some(Fault::Latency { .. } | Fault::LateRow { .. } | Fault::Limited { .. }) | None => {
                self.deliver(&call, response)
            }
        }
    }
}

fn injected_error(status: u16, body: Option<Value>) -> Response {
    let name = match status {
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        429 => "Too Many Requests",
        503 => "Service Unavailable",
        _ => "Internal Server Error",
    };
    match body {
        // A text stands for a page that is not the API's.
        Some(Value::String(page)) => Response { status, headers: Vec::new(), body: Body::Text(page) },
        Some(body) => Response::json(status, body),
        None => answers::error(status, name, json!("injected fault")),
    }
}
