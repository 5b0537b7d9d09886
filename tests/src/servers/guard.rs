//! Owns a server's temporary directory and the small shell that outlives us. The shell reads a pipe
//! whose other end we hold: when that closes, because we are done or because we were killed, it
//! stops the server and removes the directory. A server is told to go only after the shell knows
//! it, so no moment is left in which it could be orphaned.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use anyhow::{Context, Result};

use super::directory::{self, User};

/// Reads process ids, the newest of which counts, until the pipe closes. `$1`: directory, `$2`:
/// stopping signal.
const WATCH: &str = r#"
server=
while read -r line; do server=$line; done

stat() { # state and parent of process $1; its name, in brackets, may hold anything
    read -r stat 2>/dev/null <"/proc/$1/stat" || return 1
    stat=${stat##*) } state=${stat%% *} stat=${stat#* } parent=${stat%% *}
}
alive() { [ -n "$server" ] && stat "$server" && [ "$state" != Z ] && [ "$state" != X ]; }
family() {
    echo "$server"
    for process in /proc/[0-9]*; do
        stat "${process#/proc/}" && [ "$parent" = "$server" ] && echo "${process#/proc/}"
    done
}
stopped_within() { # $1 rounds of 0.05 s
    rounds=$1
    while alive; do
        [ "$rounds" -gt 0 ] || return 1
        rounds=$((rounds - 1))
        sleep 0.05
    done
}

if alive; then
    family=$(family)
    for pid in $family; do kill -s CONT "$pid"; done # it may be paused
    kill -s "$2" "$server"
    stopped_within 100
    # What it left behind, or it itself: its process group, and its children that have groups of their own.
    for pid in "-$server" $family; do kill -s KILL -- "$pid"; done
    stopped_within 100
fi 2>/dev/null
rounds=100
until rm -rf -- "$1" 2>/dev/null || [ "$rounds" -eq 0 ]; do
    rounds=$((rounds - 1))
    sleep 0.05
done
"#;

/// Waits for the word to go, then becomes the program, under the process id that the guard knows.
const START: &str = r#"read -r go && exec "$@" </dev/null"#;

pub(super) struct Guard {
    directory: PathBuf,
    user: Option<User>,
    shell: Child,
    pipe: Option<ChildStdin>,
}

impl Guard {
    /// `stop` names the signal (without `SIG`) that ends the server when the guard goes.
    pub fn new(name: &str, user: Option<User>, stop: &str) -> Result<Self> {
        let directory = directory::create(name, user)?;
        let mut shell = Command::new("/bin/sh")
            .args(["-c", WATCH, "sluice-guard"])
            .arg(&directory)
            .arg(stop)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Out of reach of the Ctrl-C and the kill that are meant for our process group.
            .process_group(0)
            .spawn()
            .context("start /bin/sh to guard a server")?;
        let pipe = shell.stdin.take();
        Ok(Self { directory, user, shell, pipe })
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub fn log_path(&self) -> PathBuf {
        self.directory.join("log")
    }

    /// A command that will run `program` as the guard's user in the guard's directory, its output
    /// in the log, with an environment that holds nothing of ours but what a program needs to be
    /// found and debugged.
    pub fn command(&self, program: &Path) -> Result<Command> {
        let log = self.open_log()?;
        let mut command = Command::new("/bin/sh");
        command.args(["-c", START, "sluice-start"]).arg(program).current_dir(&self.directory).env_clear();
        for kept in ["PATH", "HOME", "RUST_BACKTRACE", "LLVM_PROFILE_FILE"] {
            if let Some(value) = std::env::var_os(kept) {
                command.env(kept, value);
            }
        }
        if let Some(user) = self.user {
            command.uid(user.uid).gid(user.gid);
        }
        command.stdin(Stdio::piped()).stderr(log.try_clone().context("share the log")?).stdout(log).process_group(0);
        Ok(command)
    }

    /// Starts what `command` made, known to the guard before its first instruction.
    pub fn spawn(&mut self, command: &mut Command) -> Result<Child> {
        let mut child = command.spawn().context("start /bin/sh to run a server")?;
        let go = child.stdin.take();
        self.tell(&child.id().to_string())?;
        if let Some(mut go) = go {
            go.write_all(b"go\n").context("tell the server to start")?;
        }
        Ok(child)
    }

    /// The server has ended and its process id may go to somebody else.
    pub fn forget_server(&mut self) {
        // A guard that is gone has nothing to forget.
        let _ = self.tell("");
    }

    /// Ends the server and removes the directory; returns once both are gone.
    pub fn close(&mut self) {
        self.pipe = None;
        let _ = self.shell.wait();
    }

    /// The last lines of the log, for people.
    pub fn log_tail(&self) -> String {
        let text = std::fs::read(self.log_path()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    fn open_log(&self) -> Result<File> {
        let path = self.log_path();
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("open the log {}", path.display()))
    }

    fn tell(&mut self, line: &str) -> Result<()> {
        let pipe = self.pipe.as_mut().context("the guard was closed")?;
        writeln!(pipe, "{line}").context("write to the guard: somebody killed its shell")
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.close();
    }
}
