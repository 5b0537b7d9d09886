//! Every SQL statement of the guide, read out of the guide and run as it stands, on a database that
//! Sluice manages and that has a history, with the real pg_cron. What each must answer is in
//! `steps`, in the guide's order: a statement that is added to the guide or changed there fails
//! here first.

mod statements;

use sqlx::{AssertSqlSafe, Row};
use tests::servers::{Postgres, postgres};
use uuid::Uuid;

use crate::app::{App, Session, existing_user};

const GUIDE: &str = include_str!("../guide.fr.md");
/// pg_cron lives in one database of a server, chosen at its start.
const DATABASE: &str = "managed";
const TRIGGER: &str = "on_profile_created_create_evolution_instance";

/// What a statement must do; each sees what the ones before it did.
enum Step {
    /// Answers with these rows: the named columns, users by the last two digits of their id.
    Shows(&'static [&'static str], &'static [&'static str]),
    /// Makes a job of this name and schedule.
    Schedules(&'static str, &'static str),
    /// Needs a table of the app's own ("si configurée"), and is refused without it.
    ReadsLogs,
    EnablesTheTrigger,
    /// Makes this user's row, and no other, pending.
    Unsticks(u8),
    /// Names no user yet; gives the one that is put in a fresh budget.
    Resets(u8),
    /// Answers, with whatever pg_cron has run so far.
    ShowsRuns,
}

/// By the words that the statement is known by.
fn steps() -> Vec<(&'static str, Step)> {
    use Step::*;
    let by_status: &[&str] = &["completed 6", "failed 2", "pending 2", "processing 2"];
    vec![
        ("'process-evolution-queue',", Schedules("process-evolution-queue", "*/5 * * * *")),
        (
            "SELECT * FROM evolution_instance_creation_queue\nORDER BY created_at DESC",
            Shows(&["user_id", "status"], &["07 pending", "06 completed", "05 completed", "04 failed", "03 completed"]),
        ),
        (
            "JOIN profiles p ON ei.user_id = p.id",
            Shows(
                &["instance_name", "status", "full_name"],
                &[
                    "user_06 disconnected User 6",
                    "user_05 disconnected User 5",
                    "user_03 disconnected User 3",
                    "user_02 disconnected User 2",
                    "user_01 connected User 1",
                ],
            ),
        ),
        ("AVG(retry_count) as avg_retries", Shows(&["status", "count"], by_status)),
        ("WHERE status = 'pending'\nORDER BY created_at", Shows(&["user_id"], &["12", "07"])),
        (
            "WHERE status = 'failed'\nORDER BY created_at DESC",
            Shows(
                &["user_id", "retry_count", "error_message"],
                &["04 3 Evolution API error: 401", "11 3 Evolution API error: 500"],
            ),
        ),
        ("SELECT * FROM logs", ReadsLogs),
        (
            "instance_token IS NOT NULL as has_token",
            Shows(
                &["instance_name", "status", "has_token"],
                &[
                    "user_06 disconnected t",
                    "user_05 disconnected t",
                    "user_03 disconnected f",
                    "user_02 disconnected t",
                    "user_01 connected t",
                    "user_10 disconnected t",
                ],
            ),
        ),
        (
            "FROM pg_trigger",
            Shows(
                &["trigger_name", "is_enabled", "table_name"],
                &["on_profile_created_create_evolution_instance O profiles"],
            ),
        ),
        ("SELECT COUNT(*), status", Shows(&["status", "count"], by_status)),
        ("ENABLE TRIGGER", EnablesTheTrigger),
        ("INTERVAL '10 minutes'", Unsticks(8)),
        ("USER_ID_HERE", Resets(11)),
        ("'cleanup-evolution-queue',", Schedules("cleanup-evolution-queue", "0 2 * * *")),
        (
            "SELECT * FROM cron.job",
            Shows(&["jobname", "active"], &["cleanup-evolution-queue t", "process-evolution-queue t"]),
        ),
        ("SELECT * FROM cron.job_run_details", ShowsRuns),
        (
            // The newest day first: the sign-up of this test, then the days of the history.
            "as success_rate",
            Shows(
                &["total_requests", "completed", "failed", "success_rate"],
                &["1 0 0 0.00", "3 2 0 66.67", "4 3 1 75.00", "2 0 0 0.00", "2 0 0 0.00"],
            ),
        ),
    ]
}

#[tokio::test]
async fn every_statement_of_the_guide_does_what_the_guide_says() {
    let server = Postgres::start(postgres::Options::default().cron(DATABASE)).await.unwrap();
    let app = managed(&server).await;
    let mut editor = app.owner().await;
    let statements = statements::of(GUIDE);
    let steps = steps();
    assert_eq!(statements.len(), steps.len(), "every statement of the guide has a step here: {statements:#?}");

    for (statement, (known_by, step)) in statements.iter().zip(steps) {
        assert!(statement.contains(known_by), "the guide's order: expected '{known_by}', found {statement}");
        step.check(&app, &mut editor, statement).await;
    }
    the_cleanup_removes_old_rows_and_nothing_else(&mut editor).await;
}

impl Step {
    async fn check(self, app: &App, editor: &mut Session, statement: &str) {
        match self {
            Step::Shows(columns, expected) => {
                let mut shown = show(editor, statement, columns).await;
                if !statement.contains("ORDER BY") {
                    shown.sort();
                }
                assert_eq!(shown, expected, "{statement}");
            }
            Step::Schedules(name, schedule) => {
                let job = show(editor, statement, &["schedule"]).await;
                let made = format!("select concat_ws(' ', jobid, schedule) from cron.job where jobname = '{name}'");
                assert_eq!(editor.one::<String>(&made).await, format!("{} {schedule}", job[0]));
            }
            Step::ReadsLogs => reads_logs(editor, statement).await,
            Step::EnablesTheTrigger => enables_the_trigger(app, editor, statement).await,
            Step::Unsticks(number) => {
                assert_eq!(editor.run(statement).await, 1);
                assert_eq!(queue_row(editor, number).await, "pending 1");
                assert_eq!(queue_row(editor, 9).await, "processing 0");
                assert_eq!(kept(editor, number).await, "app_postgres queue.update processing pending");
            }
            Step::Resets(number) => {
                assert_eq!(editor.refusal(statement).await, "22P02", "USER_ID_HERE is no user id");
                let user = existing_user(number).to_string();
                assert_eq!(editor.run(&statement.replace("USER_ID_HERE", &user)).await, 1);
                assert_eq!(queue_row(editor, number).await, "pending 0");
                assert_eq!(kept(editor, number).await, "app_postgres queue.update failed pending");
                let reset: Vec<Uuid> = editor.all("select subject from sluice.budget_reset").await;
                assert_eq!(reset, [existing_user(number)]);
            }
            Step::ShowsRuns => {
                show(editor, statement, &["jobid", "status", "return_message", "start_time"]).await;
            }
        }
    }
}

/// An existing database, adopted, on a server with pg_cron, whose schema the editor may use as on
/// Supabase.
async fn managed(server: &Postgres) -> App {
    let url = server.create_named_database(DATABASE).await.unwrap();
    let app = App::at(url.parse().unwrap());
    app.become_supabase().await;
    app.superuser().await.run("create extension pg_cron; grant usage on schema cron to app_postgres").await;
    app.become_existing().await;
    app.migrate().await;
    app
}

async fn reads_logs(editor: &mut Session, statement: &str) {
    assert_eq!(editor.refusal(statement).await, "42P01", "there is no such table yet");
    editor
        .run(
            "create table public.logs (message text, created_at timestamptz default now());
            insert into public.logs (message) values ('evolution: created'), ('something else')",
        )
        .await;
    assert_eq!(show(editor, statement, &["message"]).await, ["evolution: created"]);
}

async fn enables_the_trigger(app: &App, editor: &mut Session, statement: &str) {
    let (missed, seen) = (Uuid::new_v4(), Uuid::new_v4());
    editor.run(&format!("alter table profiles disable trigger {TRIGGER}")).await;
    app.sign_up(missed).await.unwrap();

    editor.run(statement).await;
    app.sign_up(seen).await.unwrap();

    let queued =
        format!("select user_id from evolution_instance_creation_queue where user_id in ('{missed}', '{seen}')");
    assert_eq!(editor.all::<Uuid>(&queued).await, [seen]);
}

/// What the second job does at night, done now.
async fn the_cleanup_removes_old_rows_and_nothing_else(editor: &mut Session) {
    let rows: i64 = editor.one("select count(*) from evolution_instance_creation_queue").await;
    let instances: i64 = editor.one("select count(*) from evolution_instances").await;
    let command: String = editor.one("select command from cron.job where jobname = 'cleanup-evolution-queue'").await;

    editor.run(&command).await;

    assert_eq!(editor.one::<i64>("select count(*) from evolution_instance_creation_queue").await, rows - 1);
    assert_eq!(editor.one::<i64>("select count(*) from evolution_instances").await, instances);
    assert_eq!(kept(editor, 10).await, "app_postgres queue.delete completed");
}

async fn queue_row(editor: &mut Session, number: u8) -> String {
    let user = existing_user(number);
    let row = format!(
        "select concat_ws(' ', status, retry_count) from evolution_instance_creation_queue where user_id = '{user}'"
    );
    editor.one(&row).await
}

/// Who did what to the user's row last.
async fn kept(editor: &mut Session, number: u8) -> String {
    let user = existing_user(number);
    let last = format!(
        "select concat_ws(' ', actor, action, detail #>> '{{before,status}}', detail #>> '{{after,status}}')
        from sluice.audit
        where subject = '{user}'
        order by id desc
        limit 1"
    );
    editor.one(&last).await
}

/// The named columns of the rows that a statement answers with, as psql would print them.
async fn show(editor: &mut Session, statement: &str, columns: &[&str]) -> Vec<String> {
    let rows = sqlx::raw_sql(AssertSqlSafe(statement.to_owned())).fetch_all(&mut editor.0).await;
    let rows = rows.unwrap_or_else(|error| panic!("{error}\nin: {statement}"));
    let prefix = existing_user(0).to_string().split_at(34).0.to_owned();
    rows.iter()
        .map(|row| {
            let values =
                columns.iter().map(|column| row.try_get_raw(*column).unwrap().as_str().unwrap_or("").to_owned());
            values.collect::<Vec<_>>().join(" ").replace(&prefix, "")
        })
        .collect()
}
