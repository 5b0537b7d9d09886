use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use tests::servers::{Process, Program, binary};

const SOON: Duration = Duration::from_secs(10);

fn shell(script: &str) -> Process {
    Program::new("/bin/sh").args(["-c", script]).env("GREETING", "good morning").start().unwrap()
}

#[tokio::test]
async fn what_a_program_writes_is_in_its_log() {
    let mut program = shell("echo \"$GREETING\"; echo trouble >&2; exit 3");

    let status = program.wait_for_exit(SOON).await.unwrap();

    assert_eq!(status.code(), Some(3));
    assert_eq!(program.log(), "good morning\ntrouble\n");
}

#[tokio::test]
async fn a_program_does_not_inherit_our_environment() {
    let mut program = shell("env");

    program.wait_for_exit(SOON).await.unwrap();

    assert!(program.log().contains("GREETING="), "{}", program.log());
    assert!(!program.log().contains("CARGO_"), "{}", program.log());
}

#[tokio::test]
async fn a_terminated_program_ends_in_its_own_way() {
    let mut program = shell("trap 'exit 7' TERM; echo ready; while :; do sleep 0.01; done");
    program.wait_for_log("ready", SOON).await.unwrap();

    program.terminate().unwrap();

    assert_eq!(program.wait_for_exit(SOON).await.unwrap().code(), Some(7));
}

#[tokio::test]
async fn a_killed_program_ends_at_once_with_its_children() {
    let mut program = shell("sleep 1000 & echo child $!; wait");
    program.wait_for_log("child", SOON).await.unwrap();
    let child = program.log().trim().rsplit_once(' ').unwrap().1.to_owned();

    program.kill().await.unwrap();

    assert_eq!(program.exited().unwrap().unwrap().signal(), Some(9));
    assert!(!super::orphans::is_running(&child));
}

#[tokio::test]
async fn a_paused_program_writes_nothing_until_it_is_resumed() {
    let mut program = shell("echo ready; while [ ! -e go ]; do sleep 0.01; done; echo gone");
    program.wait_for_log("ready", SOON).await.unwrap();

    program.pause().unwrap();
    std::fs::write(program.directory().join("go"), "").unwrap();
    program.wait_for_log("gone", Duration::from_millis(200)).await.unwrap_err();
    program.resume().unwrap();

    program.wait_for_log("gone", SOON).await.unwrap();
}

#[tokio::test]
async fn a_program_that_ends_before_it_logs_is_not_waited_for() {
    let mut program = shell("echo something else");

    let error = program.wait_for_log("ready", Duration::from_secs(1000)).await.unwrap_err();

    assert!(error.to_string().contains("something else"), "{error}");
}

#[tokio::test]
async fn a_dropped_program_and_its_directory_are_gone() {
    let mut program = shell("echo ready; exec sleep 1000");
    program.wait_for_log("ready", SOON).await.unwrap();
    let (pid, directory) = (program.pid().to_string(), program.directory().to_owned());

    drop(program);

    assert!(!super::orphans::is_running(&pid));
    assert!(!directory.exists());
}

#[test]
fn a_program_that_is_not_built_is_asked_for() {
    let error = binary("no-such-program").unwrap_err();

    assert!(error.to_string().contains("cargo build --workspace --bins"), "{error}");
}
