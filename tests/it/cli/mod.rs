//! The command line as a person and a script use it: the real program, as the services' own role,
//! on a database with runs that the ledger made.

mod dead_letters;
mod queue;
mod runs;
mod secrets;

use serde_json::Value;
use url::Url;
use workflows::ids::RunId;

use crate::{
    app::{App, Session},
    conformance::{
        bench::{Bench, PROVISION, user},
        postgres::{self, InPostgres},
    },
    program,
};

struct Cli {
    bench: Bench<InPostgres>,
    url: String,
}

/// What a command printed, and its exit code.
struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl Cli {
    async fn new() -> Self {
        let bench = postgres::bench().await;
        let mut url: Url = bench.world.url().parse().unwrap();
        url.query_pairs_mut().append_pair("options", "-c role=sluice_runtime");
        Self { bench, url: url.into() }
    }

    async fn run(&self, arguments: &[&str]) -> Ran {
        self.run_with(arguments, &[]).await
    }

    async fn run_with(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Ran {
        let common = [("DATABASE_URL", self.url.as_str()), ("USER", "ana")];
        let variables: Vec<_> = common.into_iter().chain(variables.iter().copied()).collect();
        let output = program::run(arguments, &variables).await;
        Ran {
            code: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    async fn superuser(&self) -> Session {
        App::at(self.bench.world.url().parse().unwrap()).superuser().await
    }

    /// Who did what to which run, and why, in order.
    async fn audited(&self) -> Vec<String> {
        let select =
            "select concat_ws(' ', actor, action, coalesce(detail ->> 'run', detail ->> 'name'), detail ->> 'note')
             from sluice.audit
             where actor in ('ana', 'bob')
             order by id";
        self.superuser().await.all(select).await
    }

    /// Everything that a command could change, in one text.
    async fn state(&self) -> String {
        let select = "select concat_ws(' ',
               (select json_agg(t order by t.id) from sluice.run as t),
               (select json_agg(t order by t.run_id, t.position) from sluice.step as t),
               (select json_agg(t order by t.id) from sluice.dead_letter as t),
               (select json_agg(t order by t.id) from sluice.audit as t),
               (select json_agg(t order by t.scope, t.name) from sluice.gate as t))";
        self.superuser().await.one(select).await
    }

    /// A run in each state: succeeded, dead, cancelled, running, due.
    async fn one_of_each(&self) -> [RunId; 5] {
        let bench = &self.bench;
        let succeeded = bench.start(PROVISION, user()).await;
        bench.succeed(succeeded, &["create-instance", "configure-webhooks", "verify"]).await;
        let dead = bench.dead_run(user()).await;
        let cancelled = bench.start(PROVISION, user()).await;
        self.run(&["runs", "cancel", &cancelled.to_string(), "--by", "setup"]).await.expect(0);
        let running = bench.start(PROVISION, user()).await;
        bench.take(running, "create-instance").await;
        let due = bench.start(PROVISION, user()).await;
        [succeeded, dead, cancelled, running, due]
    }
}

impl Ran {
    /// Itself, if it ended with this code.
    fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "out:\n{}\nerr:\n{}", self.out, self.err);
        self
    }

    /// The one document that it printed.
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}:\n{}{}", self.out, self.err))
    }

    /// The table with one space between columns, and with names for what differs from run to run.
    fn table(&self) -> String {
        let line =
            |line: &str| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).map(named).collect::<Vec<_>>();
        self.out.lines().map(|text| line(text).join(" | ")).collect::<Vec<_>>().join("\n")
    }
}

fn named(cell: &str) -> String {
    let is_uuid = |text: &str| text.len() == 36 && text.bytes().filter(|byte| *byte == b'-').count() == 4;
    match cell {
        user if is_uuid(user) && user.starts_with("aaaa") => "<user>".to_owned(),
        run if is_uuid(run) => "<run>".to_owned(),
        moment if moment.ends_with(" ago") && !moment.contains(" by ") => "<ago>".to_owned(),
        cell => cell.to_owned(),
    }
}
