//! What happened on the recorded server between two exchanges, by the id of the second: how long it
//! was, what the server was, and who paired a phone, killed it or stopped its database.

use std::time::Duration;

use serde_json::{Value, json};
use tests::evolution::{Config, Database, LinkState, Planted, Request, Span, Whatsapp, World};

use super::stage::{KEY, PATIENCE, PAUSE, Stage, config};

impl Stage {
    /// What the server is, or how it is started.
    pub(super) fn change_server(&mut self, id: &str) {
        match id {
            "fetch.empty" => *self = Self::new(),
            "http.head" => self.plant(Planted::new("big2", "t")),
            "rabbit.create.inline" => *self = Self::with(Config { rabbitmq: true, ..config() }),
            // One server from here to `global.*`; DEL_INSTANCE=1 was read as a boolean and did
            // nothing.
            "global.create" => *self = Self::with(Config { rabbitmq: true, qr_limit: 1, ..config() }),
            "offline.root" => {
                let two_minutes = Some(Duration::from_secs(120));
                *self = Self::with(Config { remove_unconnected_after: two_minutes, ..config() });
                self.world.faults_mut().whatsapp = Whatsapp::Unreachable;
            }
            "restart.sigterm.during" => *self = Self::new(),
            // On the recording machine the first QR code took longer than the call waits.
            "restart.setup.qr" => {
                let mut config = config();
                config.timings.first_qr = Span::ms(5_700, 6_000);
                *self = Self::with(config);
            }
            "restart.window.fetch" => self.boot_slowly(),
            "delete.deadhook.setup" | "delete.deadhook.short.setup" => {
                self.world.faults_mut().dead_hooks = vec!["http://127.0.0.1:8098/s500/".to_owned()];
            }
            "db.down.create" => self.world.faults_mut().database = Database::Down,
            "db.up.create" => self.world.faults_mut().database = Database::Up,
            _ => {}
        }
    }

    /// A server with a half-made instance, just restarted, that takes ten seconds to load it.
    fn boot_slowly(&mut self) {
        let mut config = config();
        config.timings.load = Span::ms(10_000, 10_000);
        *self = Self::with(config);
        let half = Planted { settings: false, ..Planted::new("burst_3_4_2", "tok-burst_3_4_2") };
        self.plant(half);
        self.world.restart(self.now, Duration::ZERO);
    }

    fn plant(&mut self, planted: Planted) {
        self.world.plant(self.now, planted);
    }

    /// What happened on the server between two exchanges.
    pub(super) fn change_scene(&mut self, id: &str) {
        match id {
            "open.a.state" | "open.repaired.state" => self.scan("flow_a", "5511999990101"),
            "open.repaired2.state" => {
                self.connect_and_scan("flow_a", "5511999990777");
            }
            "open.unlinked.state" => {
                // The record's third phone is the one that removes the device.
                self.rescan("flow_a", "5511999990777");
                assert!(self.world.unlink(self.now, "flow_a"));
            }
            "open.nohook.state" => self.scan("flow_nohook", "5511999990103"),
            "global.state" => self.scan("glob_a", "5511999990301"),
            "restart.after.killed.fetch" | "restart.sigterm.after" => self.restart(),
            "restart.after.killed.webhook" => self.set_webhook("r_killed", json!(["CALL"])),
            "offline.logout" => self.wait_for("off_qr", LinkState::Close),
            "offline.state.afterlogout" => self.wait_for("off_qr", LinkState::Connecting),
            "db.flap.left" => {
                let half = Planted { settings: false, ..Planted::new("flap_1_1", "t-flap_1_1") };
                self.plant(half);
            }
            "delete.queryoverride" => {
                self.plant(Planted::new("iso_a", "token-a"));
                self.plant(Planted::new("iso_b", "token-b"));
            }
            _ => {}
        }
    }

    fn scan(&mut self, name: &str, number: &str) {
        assert!(self.world.pair(self.now, name, number), "no QR code of {name} to scan");
    }

    fn connect_and_scan(&mut self, name: &str, number: &str) {
        let request = Request::get(format!("/instance/connect/{name}")).key(KEY);
        let answer = self.ask(request, PATIENCE);
        assert!(answer.is_some());
        self.scan(name, number);
    }

    fn rescan(&mut self, name: &str, number: &str) {
        let request = Request::delete(format!("/instance/logout/{name}")).key(KEY);
        let answer = self.ask(request, PATIENCE);
        assert!(answer.is_some());
        self.connect_and_scan(name, number);
    }

    fn restart(&mut self) {
        self.world.restart(self.now, Duration::from_secs(7));
        self.pass(Duration::from_secs(20));
    }

    fn set_webhook(&mut self, name: &str, events: Value) {
        let hook = json!({"webhook": {"enabled": true, "url": "http://127.0.0.1:8098/restart", "events": events}});
        let request = Request::post(format!("/webhook/set/{name}")).key(KEY).json(hook);
        assert!(self.ask(request, PATIENCE).is_some());
    }

    fn wait_for(&mut self, name: &str, state: LinkState) {
        for _ in 0..1_000 {
            // The call itself takes some milliseconds, in which the state must stay.
            let state_at = |world: &World| world.instance(name).and_then(|instance| instance.state);
            let before = state_at(&self.world);
            self.pass(Duration::from_millis(1));
            if before != Some(state) && state_at(&self.world) == Some(state) {
                return;
            }
        }
        panic!("{name} never became {state:?}");
    }
}

/// How long the recording waited before an exchange, as its ids and texts say.
pub fn pause(id: &str) -> Duration {
    let last = id.rsplit('.').next().unwrap_or_default();
    let millis = match (id, last) {
        ("delete.again" | "delete.then.create", _) => 0,
        (_, "state0" | "after0") => 20,
        (_, "recreate0") => 0,
        (_, "recreate1") => 400,
        (_, "state4") => 4_000,
        (_, "state3") | ("delete.deadhook.state", _) => 3_000,
        ("idem.timeout.state" | "idem.timeout.create2" | "idem.timeout.create3", _) => 0,
        ("idem.timeout.fetch" | "idem.timeout.webhook" | "idem.timeout.owntoken" | "idem.timeout.connect", _) => 0,
        ("idem.timeout.gen.fetch", _) => 0,
        ("restart.window.webhook" | "restart.window.set" | "restart.window.settings", _) => 50,
        ("restart.half.fetch", _) => 12_000,
        ("global.limit.state" | "global.del.state", _) => 63_000,
        ("offline.del2.state", _) => 124_000,
        _ => return PAUSE,
    };
    Duration::from_millis(millis)
}
