//! A test process that is killed cannot clean up, and nothing it started may outlive it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tests::servers::until;

/// Whether a process of this id is there and no zombie.
pub fn is_running(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, fields)| !fields.starts_with(['Z', 'X']))
}

/// The process that gets killed: the program `start-servers`.
struct Helper {
    process: Child,
    started: Vec<String>,
}

impl Helper {
    /// Runs it with a temporary directory of its own, in which nothing may be left.
    fn start(trouble: &str, temporary: &std::path::Path) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_start-servers"))
            .arg(trouble)
            .env("TMPDIR", temporary)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines().map_while(Result::ok);
        let started =
            lines.find_map(|line| Some(line.strip_prefix("started ")?.split(' ').map(str::to_owned).collect()));
        Self { process, started: started.expect("the helper says what it started") }
    }
}

async fn nothing_survives_a_helper_that_is(trouble: &str) {
    let temporary = std::env::temp_dir().join(format!("sluice-orphans-{:08x}", rand::random::<u32>()));
    fs::create_dir(&temporary).unwrap();
    let mut helper = Helper::start(trouble, &temporary);
    let left = || fs::read_dir(&temporary).unwrap().count();
    assert_eq!(left(), 3, "each server has its directory");
    assert!(trouble == "stopped" || helper.started.iter().all(|pid| is_running(pid)));

    helper.process.kill().unwrap();
    helper.process.wait().unwrap();

    let gone = until(Duration::from_secs(20), async || {
        (left() == 0 && !helper.started.iter().any(|pid| is_running(pid))).then_some(())
    });
    gone.await.unwrap_or_else(|| panic!("left behind: {} directories, processes {:?}", left(), helper.started));
    fs::remove_dir(&temporary).unwrap();
}

#[tokio::test]
async fn nothing_survives_a_killed_test_process() {
    nothing_survives_a_helper_that_is("running").await;
}

#[tokio::test]
async fn nothing_survives_a_test_process_killed_while_its_servers_are_paused() {
    nothing_survives_a_helper_that_is("paused").await;
}

#[tokio::test]
async fn nothing_survives_a_test_process_killed_after_its_servers() {
    nothing_survives_a_helper_that_is("stopped").await;
}
