//! One call from its arrival to its answer: injected faults, guards (body, existence, key), and the way to its route.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::answers;
use super::create::Progress;
use super::faults::{Fault, Outage, Plan, RetryAfter, Stage};
use super::journal::{Hit, LogEntry, Outcome};
use super::message::{Answer, Body, Key, Method, Request, Response, Ticket};
use super::route::{self, Parsed, Route};
use super::schema;
use super::world::{Event, World, driver_error};

#[derive(Clone, Debug)]
pub(super) enum Phase {
    Arrive,
    Handle,
    Create(Box<Progress>),
    /// `connect` has waited for its QR code.
    Connected,
    /// The work is done; an injected delay holds the answer back.
    Deliver(Response),
    /// Nothing will happen any more, or something else will answer.
    Parked,
}

/// What a phase leads to.
pub(super) enum Next {
    After(Duration, Phase),
    Answer(Response),
    Park,
}

#[derive(Clone, Debug)]
pub(super) struct Call {
    pub ticket: Ticket,
    pub method: Method,
    pub target: String,
    pub parsed: Parsed,
    pub key: Option<Key>,
    pub body: Map<String, Value>,
    pub phase: Phase,
    refusal: Option<Response>,
    plan: Plan,
    client_gone: bool,
    /// The name on which this call counts as creating or deleting.
    flying: Option<String>,
}

impl Call {
    /// The name that the handler works on: the query wins over the path.
    pub fn name(&self) -> &str {
        let query = self.parsed.query.instance_name.as_deref();
        query.or(self.parsed.name.as_deref()).unwrap_or_default()
    }
}

impl World {
    /// A request arrives. Its answer comes out of `advance` under the ticket.
    pub fn begin(&mut self, now: Duration, request: Request) -> Ticket {
        self.run_until(now);
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        let mut call = self.receive(ticket, request);
        let subject = match call.parsed.route {
            Route::Create => call.body.get("instanceName").and_then(Value::as_str),
            _ => Some(call.name()).filter(|name| !name.is_empty()),
        };
        let subject = subject.map(str::to_owned);
        self.journal.begun(LogEntry {
            ticket,
            route: call.parsed.route,
            name: subject.clone(),
            began: self.now,
            ended: None,
            outcome: None,
        });
        if self.is_away(&mut call) {
            return ticket;
        }
        let journal = &mut self.journal;
        call.plan =
            self.config.faults.plan(call.parsed.route, subject.as_deref(), &mut self.rng, |hit| journal.hit(hit));
        let works = !call.plan.fault.as_ref().is_some_and(|fault| fault.at(Stage::BeforeWork));
        if works && matches!(call.parsed.route, Route::Create | Route::Delete) {
            if let Some(name) = &subject {
                let exists = self.store.rows.contains_key(name);
                self.journal.took_off(call.parsed.route, name, exists);
            }
            call.flying = subject;
        }
        let delay = Duration::from_millis(call.plan.delay_before_ms) + self.draw(self.config.timings.receive);
        self.calls.insert(ticket, call);
        self.after(delay, Event::Step(ticket));
        ticket
    }

    fn receive(&mut self, ticket: Ticket, request: Request) -> Call {
        let length = match &request.body {
            Body::Text(text) => text.len(),
            Body::Empty | Body::Json(_) => 0,
        };
        let (body, refusal) = if length > self.config.body_limit {
            let refusal = answers::error(413, "Internal Server Error", json!("request entity too large"));
            (Map::new(), Some(refusal))
        } else {
            match schema::read_body(request.body, request.content_type.as_deref()) {
                Ok(body) => (body, None),
                Err(message) => (Map::new(), Some(answers::error(400, "Internal Server Error", json!(message)))),
            }
        };
        Call {
            ticket,
            method: request.method,
            parsed: route::parse(request.method, &request.target),
            target: request.target,
            key: request.key,
            body,
            phase: Phase::Arrive,
            refusal,
            plan: Plan::default(),
            client_gone: false,
            flying: None,
        }
    }

    /// Whether the whole API is away, in which case this call has had all it gets.
    fn is_away(&mut self, call: &mut Call) -> bool {
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
        }
        true
    }

    /// The client went away. The server still finishes what it does.
    pub fn cancel(&mut self, ticket: Ticket) {
        self.outbox.retain(|(answered, _)| *answered != ticket);
        let Some(call) = self.calls.get_mut(&ticket) else {
            return;
        };
        call.client_gone = true;
        let over = matches!(call.phase, Phase::Parked) && call.flying.is_none();
        self.journal.hit(Hit::ClientGone);
        if over && let Some(call) = self.calls.remove(&ticket) {
            let outcome = Outcome::ClientGone(None);
            self.journal.ended(ticket, call.parsed.route, self.now, outcome);
        }
    }

    pub(super) fn step(&mut self, ticket: Ticket) {
        let Some(mut call) = self.calls.remove(&ticket) else {
            return;
        };
        let phase = std::mem::replace(&mut call.phase, Phase::Parked);
        if matches!(phase, Phase::Arrive) && self.strikes_before_work(&mut call) {
            return;
        }
        let next = match phase {
            Phase::Arrive => self.arrive(&mut call),
            Phase::Handle => self.handle(&mut call),
            Phase::Create(progress) => self.create_step(&mut call, progress),
            Phase::Connected => Next::Answer(self.qr_answer(call.name())),
            Phase::Deliver(response) => {
                self.deliver(&call, response);
                return;
            }
            Phase::Parked => Next::Park,
        };
        match next {
            Next::After(delay, phase) => {
                call.phase = phase;
                self.calls.insert(ticket, call);
                self.after(delay, Event::Step(ticket));
            }
            Next::Answer(response) => self.finish(call, response),
            Next::Park => {
                self.calls.insert(ticket, call);
            }
        }
    }

    /// The work is done: what remains is the way back.
    pub(super) fn finish(&mut self, mut call: Call, response: Response) {
        if let Some(name) = call.flying.take() {
            self.journal.landed(call.parsed.route, &name);
            if call.parsed.route == Route::Create && response.status == 201 {
                self.journal.answered_201(&name);
            }
        }
        let delay = Duration::from_millis(call.plan.delay_after_ms);
        if delay.is_zero() {
            self.strike_after_work(call, response);
        } else {
            call.phase = Phase::Deliver(response);
            let ticket = call.ticket;
            self.calls.insert(ticket, call);
            self.after(delay, Event::Step(ticket));
        }
    }

    fn strikes_before_work(&mut self, call: &mut Call) -> bool {
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
            Some(Fault::Hang { .. } | Fault::Latency { .. }) => self.hang(call.clone()),
        }
        true
    }

    fn strike_after_work(&mut self, mut call: Call, response: Response) {
        match call.plan.fault.take() {
            Some(Fault::Drop { .. }) => self.drop_call(call.ticket, &call),
            Some(Fault::Hang { .. }) => self.hang(call),
            Some(Fault::Error { status, body, .. }) => self.deliver(&call, injected_error(status, body)),
            Some(Fault::Latency { .. } | Fault::Limited { .. }) | None => self.deliver(&call, response),
        }
    }

    fn hang(&mut self, mut call: Call) {
        if call.client_gone {
            let outcome = Outcome::ClientGone(None);
            self.journal.ended(call.ticket, call.parsed.route, self.now, outcome);
            return;
        }
        call.phase = Phase::Parked;
        self.calls.insert(call.ticket, call);
    }

    fn deliver(&mut self, call: &Call, mut response: Response) {
        let route = call.parsed.route;
        if call.client_gone {
            let outcome = Outcome::ClientGone(Some(response.status));
            self.journal.ended(call.ticket, route, self.now, outcome);
            return;
        }
        if call.method == Method::Head {
            response.body = Body::Empty;
        }
        response.headers.push(("date", self.clock().http(self.now)));
        self.journal.ended(call.ticket, route, self.now, Outcome::Status(response.status));
        self.outbox.push((call.ticket, Answer::Response(response)));
    }

    pub(super) fn drop_call(&mut self, ticket: Ticket, call: &Call) {
        let outcome = if call.client_gone {
            Outcome::ClientGone(None)
        } else {
            self.outbox.push((ticket, Answer::Dropped));
            Outcome::Dropped
        };
        self.journal.ended(ticket, call.parsed.route, self.now, outcome);
    }

    fn arrive(&mut self, call: &mut Call) -> Next {
        if let Some(refusal) = call.refusal.take() {
            return Next::Answer(refusal);
        }
        match call.parsed.route {
            Route::Unknown => {
                let verb = call.method.as_str();
                Next::Answer(answers::not_found(format!("Cannot {verb} {}", call.target)))
            }
            Route::Root => Next::Answer(self.welcome()),
            Route::VerifyCreds if self.is_global(call.key.as_ref()) => {
                Next::Answer(Response::json(200, json!({"status": 200, "message": "Credentials are valid"})))
            }
            Route::VerifyCreds => Next::Answer(answers::unauthorized()),
            Route::Create if !call.parsed.literal => Next::Answer(answers::refused("\"instanceName\" not provided.")),
            Route::Create => self.check_name(call),
            Route::FetchInstances => match self.fetch_key(call.key.as_ref()) {
                Err(refusal) => Next::Answer(refusal),
                Ok(()) => self.on_to(Phase::Handle),
            },
            _ => match self.guard(call) {
                Err(refusal) => Next::Answer(refusal),
                Ok(()) => self.on_to(Phase::Handle),
            },
        }
    }

    fn on_to(&mut self, phase: Phase) -> Next {
        Next::After(self.draw(self.config.timings.query), phase)
    }

    pub(super) fn is_global(&self, key: Option<&Key>) -> bool {
        key.is_some_and(|key| *key == self.config.key)
    }

    /// Existence first, then the key: that is the server's order.
    fn guard(&mut self, call: &Call) -> Result<(), Response> {
        let name = call.parsed.name.as_deref().unwrap_or_default();
        if !self.config.quirks.name_before_key {
            self.check_key(call.key.as_ref(), name)?;
        }
        if !self.exists(name)? {
            if !self.is_global(call.key.as_ref()) {
                self.journal.hit(Hit::NameBeforeKey);
            }
            return Err(answers::unknown_instance(name));
        }
        self.check_key(call.key.as_ref(), name)
    }

    /// Whether memory or the database has this name.
    pub(super) fn exists(&mut self, name: &str) -> Result<bool, Response> {
        if self.store.in_memory(name) {
            return Ok(true);
        }
        if name.contains('\0') {
            return Err(driver_error("invalid byte sequence for encoding \"UTF8\": 0x00"));
        }
        match self.database() {
            Ok(()) => Ok(self.store.rows.contains_key(name)),
            Err(message) => {
                self.journal.hit(Hit::DatabaseCheckFailed);
                Err(driver_error(message))
            }
        }
    }

    fn check_key(&mut self, key: Option<&Key>, name: &str) -> Result<(), Response> {
        if self.is_global(key) {
            return Ok(());
        }
        let row_key = self.store.rows.get(name).map(|row| row.token.clone());
        if key.is_none() || row_key.as_ref() != key {
            return Err(answers::unauthorized());
        }
        if self.database().is_err() {
            self.journal.hit(Hit::DatabaseTokenRefused);
            return Err(answers::unauthorized());
        }
        Ok(())
    }

    fn handle(&mut self, call: &mut Call) -> Next {
        if call.parsed.name.is_some() && call.parsed.name.as_deref() != Some(call.name()) {
            self.journal.hit(Hit::QueryOverride);
        }
        match call.parsed.route {
            Route::FetchInstances => Next::Answer(self.fetch_instances(call)),
            Route::ConnectionState => Next::Answer(self.connection_state(call.name())),
            Route::Connect => self.connect(call),
            Route::Restart => Next::Answer(self.restart_instance(call.name())),
            Route::Logout => Next::Answer(self.logout(call.name())),
            Route::Delete => self.delete(call),
            Route::WebhookSet => Next::Answer(self.webhook_set(call)),
            Route::WebhookFind => Next::Answer(self.webhook_find(call.name())),
            Route::SettingsFind => Next::Answer(self.settings_find(call.name())),
            Route::Root | Route::VerifyCreds | Route::Create | Route::Unknown => Next::Park,
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
        Some(body) => Response::json(status, body),
        None => answers::error(status, name, json!("injected fault")),
    }
}
