//! Signals to a process and all that it started. Only for processes that we started ourselves.

use std::fs;

use rustix::process::{Pid, Signal, kill_process};

/// Stops the whole tree where it stands; parents first, so that none starts another child
/// meanwhile.
pub(super) fn pause(root: Pid) {
    send(Signal::STOP, &[root]);
    let mut paused = vec![root];
    let mut next = 0;
    while let Some(parent) = paused.get(next).copied() {
        let children = children(parent);
        send(Signal::STOP, &children);
        paused.extend(children);
        next += 1;
    }
}

pub(super) fn resume(root: Pid) {
    send(Signal::CONT, &family(root));
}

/// Kills the whole tree at one stroke and returns who was killed.
pub(super) fn kill(root: Pid) -> Vec<Pid> {
    pause(root);
    let family = family(root);
    send(Signal::KILL, &family);
    family
}

pub(super) fn send(signal: Signal, to: &[Pid]) {
    for pid in to {
        // Gone already is as good as signalled.
        let _ = kill_process(*pid, signal);
    }
}

/// Whether the process still does anything: a zombie does not.
pub(super) fn is_alive(pid: Pid) -> bool {
    stat(pid).is_some_and(|(state, _)| state != "Z" && state != "X")
}

fn family(root: Pid) -> Vec<Pid> {
    let mut family = vec![root];
    let mut next = 0;
    while let Some(parent) = family.get(next).copied() {
        family.extend(children(parent));
        next += 1;
    }
    family
}

fn children(parent: Pid) -> Vec<Pid> {
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    processes
        .flatten()
        .filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?))
        .filter(|pid| stat(*pid).is_some_and(|(_, its_parent)| its_parent == parent.as_raw_nonzero().get()))
        .collect()
}

/// State and parent from `/proc/<pid>/stat`, whose second field is a name in brackets that may hold
/// anything.
fn stat(pid: Pid) -> Option<(String, i32)> {
    let line = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    let (_, fields) = line.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    Some((fields.next()?.to_owned(), fields.next()?.parse().ok()?))
}
