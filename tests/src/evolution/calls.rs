//! One call from its arrival to its answer: injected faults, guards (body, existence, key), and the
//! way to its route.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::answers;
use super::create::Progress;
use super::faults::{Plan, Stage};
use super::hit::Hit;
use super::journal::{LogEntry, Outcome};
use super::message::{Answer, Body, Key, Method, Request, Response, Ticket};
use super::route::{self, Parsed, Route};
use super::schema;
use super::world::{Event, World};

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
    pub refusal: Option<Response>,
    pub plan: Plan,
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

    /// Whether it is a create that has found its name free.
    pub fn has_checked(&self) -> bool {
        matches!(self.phase, Phase::Create(_))
    }

    /// Whether it creates or deletes the instance of this name.
    pub fn is_at_work_on(&self, name: &str) -> bool {
        self.flying.as_deref() == Some(name)
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
                self.journal.took_off(self.now, call.parsed.route, name, exists);
            }
            call.flying = subject;
        }
        let mut delay = Duration::from_millis(call.plan.delay_before_ms) + self.draw(self.config.timings.receive);
        if call.parsed.route == Route::Create {
            let turn = self.last_create.max(self.now) + self.draw(self.config.timings.create_line);
            self.last_create = turn;
            delay += turn - self.now;
        }
        self.calls.insert(ticket, call);
        self.after(delay, Event::Step(ticket));
        ticket
    }

    fn receive(&mut self, ticket: Ticket, request: Request) -> Call {
        let length = match &request.body {
            Body::Text(text) => text.len(),
            Body::Empty | Body::Undefined | Body::Json(_) => 0,
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
            if self.store.creating.get(&name) == Some(&call.ticket) {
                self.store.creating.remove(&name);
            }
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

    pub(super) fn hang(&mut self, mut call: Call) {
        if call.client_gone {
            let outcome = Outcome::ClientGone(None);
            self.journal.ended(call.ticket, call.parsed.route, self.now, outcome);
            return;
        }
        call.phase = Phase::Parked;
        self.calls.insert(call.ticket, call);
    }

    pub(super) fn deliver(&mut self, call: &Call, mut response: Response) {
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
}
