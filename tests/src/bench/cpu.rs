//! Who used how much CPU, from `/proc`: every process of a tree, and those that have ended too
//! (their parent has waited for them). A figure is a difference of two readings. Precise to some 10
//! ms per process.

use std::{collections::BTreeMap, fs, ops::Sub};

use serde::Serialize;

/// Linux shows times to programs in hundredths of a second, whatever its own clock.
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU-seconds. None: that server does not run on this machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Cpu {
    pub sluice: f64,
    pub postgres: Option<f64>,
    pub redis: Option<f64>,
    /// The simulated API.
    pub api: f64,
    /// This program: the app that signs users up, or the engine-free loop.
    pub bench: f64,
}

impl Cpu {
    /// Over Sluice, Postgres and Redis.
    pub fn total(&self) -> Option<f64> {
        Some(self.sluice + self.postgres? + self.redis?)
    }

    /// Over the engine-free loop, whose own time is this program's, and Postgres.
    pub fn of_the_loop(&self) -> Option<f64> {
        Some(self.bench + self.postgres?)
    }

    /// CPU-seconds per 1,000 of so many.
    pub fn per_thousand(self, number: usize) -> Self {
        let share = |seconds: f64| seconds * 1000.0 / number as f64;
        self.map(share)
    }

    /// The share of one core over so many seconds, in percent.
    pub fn percent_of_a_core(self, seconds: f64) -> Self {
        self.map(|used| used * 100.0 / seconds)
    }

    fn map(self, change: impl Fn(f64) -> f64) -> Self {
        Self {
            sluice: change(self.sluice),
            postgres: self.postgres.map(&change),
            redis: self.redis.map(&change),
            api: change(self.api),
            bench: change(self.bench),
        }
    }
}

impl Sub for Cpu {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        let less = |now: Option<f64>, before: Option<f64>| Some(now? - before?);
        Self {
            sluice: self.sluice - earlier.sluice,
            postgres: less(self.postgres, earlier.postgres),
            redis: less(self.redis, earlier.redis),
            api: self.api - earlier.api,
            bench: self.bench - earlier.bench,
        }
    }
}

/// Whose time is read. All of these processes live until the last reading.
#[derive(Clone, Debug, Default)]
pub struct Meter {
    pub sluice: Vec<u32>,
    pub postgres: Option<u32>,
    pub redis: Option<u32>,
    pub api: Option<u32>,
    /// Postgres' processes that serve the measuring itself.
    pub excluded: Vec<u32>,
}

impl Meter {
    pub fn read(&self) -> Cpu {
        let processes = Processes::read();
        let trees = |roots: &[u32]| roots.iter().map(|root| processes.tree(*root, &self.excluded)).sum::<f64>();
        Cpu {
            sluice: trees(&self.sluice),
            postgres: self.postgres.map(|pid| trees(&[pid])),
            redis: self.redis.map(|pid| trees(&[pid])),
            api: self.api.map_or(0.0, |pid| trees(&[pid])),
            bench: processes.own(std::process::id()),
        }
    }

    /// Every process of Sluice, Postgres and Redis that lives now.
    pub fn pids(&self) -> Vec<u32> {
        let processes = Processes::read();
        let roots = self.sluice.iter().copied().chain(self.postgres).chain(self.redis);
        let family = roots.flat_map(|root| processes.family(root));
        family.filter(|pid| !self.excluded.contains(pid)).collect()
    }
}

/// One line of `/proc/<pid>/stat`, in ticks.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Stat {
    parent: u32,
    own: u64,
    /// Of children that have ended and been waited for.
    children: u64,
}

struct Processes(BTreeMap<u32, Stat>);

impl Processes {
    fn read() -> Self {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        Self(
            pids.filter_map(|pid| Some((pid, stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?))).collect(),
        )
    }

    fn own(&self, pid: u32) -> f64 {
        self.0.get(&pid).map_or(0.0, |stat| stat.own as f64 / TICKS_PER_SECOND)
    }

    fn family(&self, root: u32) -> Vec<u32> {
        let mut family = vec![root];
        let mut next = 0;
        while let Some(parent) = family.get(next).copied() {
            family.extend(self.0.iter().filter(|(_, stat)| stat.parent == parent).map(|(pid, _)| *pid));
            next += 1;
        }
        family
    }

    fn tree(&self, root: u32, excluded: &[u32]) -> f64 {
        let family = self.family(root);
        let counted = family.iter().filter(|pid| !excluded.contains(pid)).filter_map(|pid| self.0.get(pid));
        counted.map(|stat| (stat.own + stat.children) as f64).sum::<f64>() / TICKS_PER_SECOND
    }
}

/// The name, second field, stands in brackets and may hold anything.
fn stat(line: &str) -> Option<Stat> {
    let (_, fields) = line.rsplit_once(") ")?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some(Stat {
        parent: fields.get(1)?.parse().ok()?,
        own: number(11)? + number(12)?,
        children: number(13)? + number(14)?,
    })
}

/// What a process holds in memory, in MB: at most so far, and now.
pub fn memory(pid: u32) -> Option<(f64, f64)> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<f64>().ok().map(|kilobytes| kilobytes / 1024.0)
    };
    Some((field("VmHWM:")?, field("VmRSS:")?))
}

/// The parent of a process, if the process runs on this machine under this name.
pub fn parent_of(pid: u32, name: &str) -> Option<u32> {
    let line = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    line.contains(&format!("({name})")).then(|| stat(&line))?.map(|stat| stat.parent)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_name_with_brackets_and_spaces_is_passed_over() {
        let line = "42 (a) b (c) S 7 42 42 0 -1 4194560 1 2 3 4 11 22 33 44 20 0 1 0 5 6 7";

        assert_eq!(stat(line), Some(Stat { parent: 7, own: 33, children: 77 }));
    }

    #[test]
    fn the_time_of_a_child_that_has_ended_counts() {
        let busy = "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done";
        let meter = Meter { sluice: vec![std::process::id()], ..Meter::default() };
        let before = meter.read();

        let ended = Command::new("/bin/sh").args(["-c", busy]).status();

        let used = meter.read() - before;
        assert!(ended.is_ok_and(|status| status.success()));
        assert!(used.sluice - used.bench > 0.02, "{used:?}");
    }
}
