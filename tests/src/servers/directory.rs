//! Makes the temporary directory of a server, and knows as whom a server runs: Postgres refuses
//! root.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, chown};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Whom to become when we are root.
#[derive(Clone, Copy)]
pub(super) struct User {
    pub uid: u32,
    pub gid: u32,
}

/// `None` where we need not change: we are an ordinary user.
pub(super) fn unprivileged() -> Result<Option<User>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }

    let accounts = fs::read_to_string("/etc/passwd").context("read /etc/passwd")?;
    match ["postgres", "nobody"].iter().find_map(|name| account(&accounts, name)) {
        Some(user) => Ok(Some(user)),
        None => bail!(
            "Postgres refuses to run as root, and this machine has neither a user postgres nor nobody: run as another user"
        ),
    }
}

fn account(accounts: &str, name: &str) -> Option<User> {
    let line = accounts.lines().find(|line| line.split(':').next() == Some(name))?;
    let mut fields = line.split(':').skip(2);
    Some(User { uid: fields.next()?.parse().ok()?, gid: fields.next()?.parse().ok()? })
}

/// A new directory that only `user` (and root) can enter.
pub(super) fn create(name: &str, user: Option<User>) -> Result<PathBuf> {
    let unique = format!("sluice-{name}-{}-{:08x}", std::process::id(), rand::random::<u32>());
    let directory = parent(user).join(unique);
    DirBuilder::new()
        .mode(0o700)
        .create(&directory)
        .with_context(|| format!("create the temporary directory {}", directory.display()))?;
    give(&directory, user)?;
    Ok(directory)
}

pub(super) fn give(path: &Path, user: Option<User>) -> Result<()> {
    let Some(user) = user else { return Ok(()) };
    chown(path, Some(user.uid), Some(user.gid)).with_context(|| format!("give {} to user {}", path.display(), user.uid))
}

/// `$TMPDIR` or `/tmp`; root's own temporary directory may be closed to the user that runs the
/// server.
fn parent(user: Option<User>) -> PathBuf {
    let wanted = std::env::temp_dir();
    let open_to_others = |path: &Path| fs::metadata(path).is_ok_and(|found| found.mode() & 0o001 != 0);
    if user.is_some() && !wanted.ancestors().all(open_to_others) { PathBuf::from("/tmp") } else { wanted }
}
