//! What the server does besides answering calls: removing instances by name, and loading them after
//! a restart.

use std::time::Duration;

use super::answers;
use super::hit::Hit;
use super::journal::Destroyer;
use super::message::Ticket;
use super::store::{Link, LinkState, Loaded};
use super::world::{Event, World};

/// What the server does besides answering calls.
#[derive(Clone, Debug)]
pub(super) enum Task {
    /// First half of a teardown: the instance leaves memory.
    Forget(Teardown),
    /// Second half: its row goes.
    Erase(Teardown),
    Boot,
    Load {
        name: String,
    },
    Expire {
        name: String,
        id: String,
    },
}

/// The removal of an instance. It knows only a name, so it hits whatever has that name when it is
/// carried out.
#[derive(Clone, Debug)]
pub(super) struct Teardown {
    pub name: String,
    /// The id that it was meant for.
    pub meant: String,
    pub by: Destroyer,
    pub erase_after: Duration,
    /// The delete call that waits for it.
    pub answers: Option<Ticket>,
}

impl World {
    pub(super) fn perform(&mut self, task: Task) {
        match task {
            Task::Forget(teardown) => self.forget(teardown),
            Task::Erase(teardown) => self.erase_torn_down(teardown),
            Task::Boot => self.boot(),
            Task::Load { name } => self.load(&name),
            Task::Expire { name, id } => {
                let is_open = self.state(&name) == Some(LinkState::Open);
                if !is_open && self.store.rows.get(&name).is_some_and(|row| row.id == id) {
                    self.store.memory.remove(&name);
                    self.erase(&name, Destroyer::NeverConnected);
                }
            }
        }
    }

    pub(super) fn tear_down(&mut self, forget_after: Duration, teardown: Teardown) {
        *self.store.leaving.entry(teardown.name.clone()).or_default() += 1;
        self.after(forget_after, Event::Task(Task::Forget(teardown)));
    }

    fn forget(&mut self, teardown: Teardown) {
        if self.database().is_err() {
            // The teardown gives up before its first deed, in silence.
            let has_row = self.store.rows.contains_key(&teardown.name);
            let phantom = !has_row && self.store.memory.contains_key(&teardown.name);
            self.journal.hit(if phantom { Hit::PhantomLeft } else { Hit::DatabaseLeftRow });
            self.torn_down(teardown);
            return;
        }
        self.store.memory.remove(&teardown.name);
        self.after(teardown.erase_after, Event::Task(Task::Erase(teardown)));
    }

    fn erase_torn_down(&mut self, teardown: Teardown) {
        if self.store.rows.contains_key(&teardown.name) && self.database().is_err() {
            // Nobody waits for this half: the row stays, and memory has let go of it.
            self.journal.hit(Hit::DatabaseLeftRowUnloaded);
            self.torn_down(teardown);
            return;
        }
        if let Some(row) = self.store.rows.get(&teardown.name) {
            let other = row.id != teardown.meant;
            let answered = row.answered_201;
            let mut by = teardown.by;
            if by == Destroyer::FailedCreate && other {
                self.journal.hit(Hit::CreateDestroyedOther);
                if answered {
                    self.journal.hit(Hit::CreateDestroyedAnswered);
                }
            } else if by == Destroyer::Delete && other {
                by = Destroyer::StaleDelete;
                self.journal.hit(Hit::DeleteDestroyedNewer);
            }
            self.erase(&teardown.name, by);
        }
        self.torn_down(teardown);
    }

    fn torn_down(&mut self, teardown: Teardown) {
        if let Some(count) = self.store.leaving.get_mut(&teardown.name) {
            *count -= 1;
            if *count == 0 {
                self.store.leaving.remove(&teardown.name);
            }
        }
        if let Some(call) = teardown.answers.and_then(|ticket| self.calls.remove(&ticket)) {
            self.finish(call, answers::done("Instance deleted"));
        }
    }

    fn boot(&mut self) {
        self.up = true;
        let names: Vec<String> = self.store.rows.keys().cloned().collect();
        for name in names {
            if self.config.quirks.restart_window {
                let delay = self.draw(self.config.timings.load);
                self.after(delay, Event::Task(Task::Load { name }));
            } else {
                self.load(&name);
            }
        }
    }

    /// A stored instance is loaded and connected, whether it ever was before or not; from 2.3.7 on,
    /// only one that is not stored as closed is connected.
    fn load(&mut self, name: &str) {
        let Some(row) = self.store.rows.get(name) else { return };
        if self.store.memory.contains_key(name) {
            return;
        }
        let paired = row.paired;
        let stays_closed = row.status == LinkState::Close && self.config.connects_only_open();
        let loaded = Loaded::new(row.id.clone(), row.integration.clone());
        self.store.memory.insert(name.to_owned(), loaded);
        if paired {
            let at = self.now + self.draw(self.config.timings.reopen);
            if let Some(loaded) = self.store.memory.get_mut(name) {
                loaded.link = Link::Reopening { at };
            }
        } else if !stays_closed {
            self.open_socket(name, None);
        }
    }
}
