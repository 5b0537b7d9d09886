//! Calls that create or delete: what may happen between the check of the lease and their end, and
//! who meets whom at a name.

use std::time::Duration;

use tests::evolution::{Instance, Request};
use tokio::{sync::oneshot, time};
use workflows::whatsapp::{
    evolution::{ApiError, Call, ErrorKind, answer::Response},
    names::InstanceName,
};

use super::Client;
use crate::{
    api::{Meeting, Sent},
    stage::Stage,
    weather::Trouble,
};

impl Client {
    /// A call that creates or deletes. Between the check of the lease, which was just made, and the
    /// call, the process may freeze: then the call leaves when it thaws, whatever became of the
    /// lease.
    pub(super) async fn ask_exclusive<T>(
        &self,
        call: Call,
        request: Request,
        name: &InstanceName,
        timeout: Duration,
        read: impl FnOnce(&Response<'_>) -> Result<T, ErrorKind>,
    ) -> Result<T, ApiError> {
        if self.stage.plan.is_poison(name) {
            self.stage.log.hit("process.poisoned");
            self.process.kill();
        }
        let frozen = self.freeze_in_the_call();
        let result = match frozen {
            Some(how_long) => self.exchange_late(request, name, how_long, timeout).await,
            None => match self.set_out(call).await {
                Ok(()) => {
                    let (pending, meeting) = self.stage.api.begin_exclusive(request, name, &self.process, Sent::InTime);
                    self.stage.met(name, meeting);
                    self.cut(name);
                    self.lose();
                    self.exchange(pending, timeout).await
                }
                Err(kind) => Err(kind),
            },
        };
        self.finish(call, result, read).await
    }

    fn freeze_in_the_call(&self) -> Option<Duration> {
        if !self.stage.weather.freezes_call() {
            return None;
        }
        let how_long = self.chance.millis(500, 60_000);
        self.process.freeze(how_long).then(|| {
            self.stage.log.hit("process.frozen_in_call");
            how_long
        })
    }

    /// The call was about to be sent: it is, once the process thaws, even though nobody may be left
    /// to wait for its answer.
    async fn exchange_late(
        &self,
        request: Request,
        name: &InstanceName,
        how_long: Duration,
        timeout: Duration,
    ) -> Result<tests::evolution::Response, ErrorKind> {
        let (sender, sent) = oneshot::channel();
        let (stage, process, name) = (self.stage.clone(), self.process.clone(), name.clone());
        self.stage.spawn("a call that was frozen", async move {
            time::sleep(how_long).await;
            process.pass().await;
            // From here on nobody can keep others away from this name.
            stage.facts().unprotected.insert(name.clone(), "overlap.frozen");
            let (pending, meeting) = stage.api.begin_exclusive(request, &name, &process, Sent::AfterAFreeze);
            stage.met(&name, meeting);
            // Where the attempt is over, the connection is closed right after the request.
            let _ = sender.send(pending);
        });
        match sent.await {
            Ok(pending) => self.exchange(pending, timeout).await,
            Err(_) => Err(ErrorKind::NoAnswer("the process is gone".to_owned())),
        }
    }

    /// The API dies while it works on this create.
    fn cut(&self, name: &InstanceName) {
        if !self.stage.weather.cuts_create() {
            return;
        }
        let (stage, name) = (self.stage.clone(), name.clone());
        let (after, down_for) = (self.chance.millis(8, 40), self.chance.millis(500, 6_000));
        self.stage.spawn("an API that dies", async move {
            time::sleep(after).await;
            stage.log.note(|| format!("the API dies in the create of {name}"));
            stage.log.hit("api.restarted_in_create");
            stage.api.world(|world, now| world.restart(now, down_for));
        });
    }

    /// The network breaks while the API works on this create: it goes on, and nobody hears of it.
    fn lose(&self) {
        if !self.stage.weather.loses_create() {
            return;
        }
        let stage = self.stage.clone();
        let (after, how_long) = (self.chance.millis(5, 900), self.chance.millis(1, 1_500));
        self.stage.spawn("a network that breaks", async move {
            time::sleep(after).await;
            stage.log.note(|| "the network breaks".to_owned());
            stage.log.hit("network.broken_in_create");
            stage.weather.begin(Trouble::NetworkBroken, stage.log.now());
            stage.api.broken.notify_waiters();
            time::sleep(how_long).await;
            stage.weather.end(Trouble::NetworkBroken, stage.log.now());
        });
    }
}

impl Stage {
    /// A create is about to be sent.
    pub(super) fn creates(&self, name: &InstanceName) {
        let instance = self.api.world(|world, _| world.instance(name.as_str()));
        let slow = self.api.had_a_slow_call(name);
        let mut facts = self.facts();
        // A stored row that is not loaded cannot be deleted: a create that fails clears it away.
        let clears = |it: &Instance| it.state.is_none() && facts.discarded.contains(name);
        let there = instance.is_some_and(|it| !clears(&it));
        let claimed_before = facts.exclusive_claims.get(name).copied().unwrap_or_default() > 1;
        let unprotected = facts.unprotected.contains_key(name);
        if there && claimed_before && !unprotected && slow {
            // It was made after the look, by a call of which nobody knew any more that it was under
            // way.
            facts.unprotected.insert(name.clone(), "overlap.slow_server");
            drop(facts);
            self.log.hit("overlap.slow_server");
        } else if there && claimed_before && !unprotected {
            drop(facts);
            self.log.broken(format!("I3: a create is sent for {name}, which is there, without looking first"));
        } else if there {
            facts.unprotected.entry(name.clone()).or_insert("it was there before its sign-up");
            drop(facts);
            self.log.hit("create.of_one_that_is_there");
        }
    }

    /// What a call that creates or deletes met when it was sent.
    fn met(&self, name: &InstanceName, meeting: Meeting) {
        let excuse = match meeting {
            Meeting::Nobody => return,
            Meeting::AfterAFreeze => "overlap.frozen",
            Meeting::SlowServer => "overlap.slow_server",
            Meeting::Collision => {
                self.log.broken(format!("I3: two calls that create or delete {name} at once"));
                return;
            }
        };
        self.log.note(|| format!("{excuse} at {name}"));
        self.log.hit(excuse);
        self.facts().unprotected.insert(name.clone(), excuse);
    }
}
