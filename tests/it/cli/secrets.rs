//! What no command prints.

use serde_json::json;
use workflows::outcome::{Class, Failure, Outcome};

use super::Cli;
use crate::conformance::bench::{PROVISION, success_with, user};

const DRAWN: &str = "planted-secret-of-ours";
const TOKEN: &str = "planted-instance-token";
const CODE: &str = "planted-qr-code";
const HOOK: &str = "https://hook.test/planted?key=1";

#[tokio::test]
async fn no_command_prints_a_token_a_qr_code_or_a_webhooks_address() {
    let cli = Cli::new().await;
    let run = cli.bench.start(PROVISION, user()).await;
    let memory = json!({ "token": TOKEN, "qr_code": CODE, "webhook_url": HOOK, "status": "connecting" });
    cli.superuser().await.run(&format!("update sluice.resource set secret = '{DRAWN}', memory = '{memory}'")).await;
    cli.superuser().await.run(&format!(r#"update sluice.run set input = '{{"key":"{TOKEN}"}}'"#)).await;
    cli.bench.work(run, "create-instance", success_with(json!({ "token": TOKEN, "code": CODE }))).await;
    let failure = Failure::new(Class::Rejected, format!("it refuses {TOKEN} and {DRAWN} for {HOOK}, {CODE}"));
    cli.bench.work(run, "configure-webhooks", Outcome::Permanent(failure)).await;
    let run = run.to_string();

    let mut printed = String::new();
    for arguments in [
        &["dead-letters", "list"][..],
        &["dead-letters", "show", "1"],
        &["dead-letters", "retry", "1", "--dry-run"],
        &["runs", "list"],
        &["runs", "show", &run],
        &["runs", "export", &run],
        &["queue", "stats"],
        &["dead-letters", "retry", "--all"],
        &["runs", "cancel", &run],
    ] {
        let as_json = [arguments, &["--json"]].concat();
        for arguments in [arguments, &as_json] {
            let ran = cli.run_with(arguments, &[("RUST_LOG", "trace")]).await;
            printed.push_str(&ran.out);
            printed.push_str(&ran.err);
        }
    }

    assert!(printed.contains("it refuses *** and *** for ***, ***"), "the error is not shown:\n{printed}");
    let told: Vec<_> = printed.lines().filter(|line| line.contains("planted")).collect();
    assert!(told.is_empty(), "{told:#?}");
}
