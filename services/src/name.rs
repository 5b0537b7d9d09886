//! What a process calls itself before others.

/// A name that is new at every start: of `what`, on this host.
pub(crate) fn unique(what: &str) -> String {
    let told = std::env::var("HOSTNAME").ok().filter(|name| !name.trim().is_empty());
    let host = told.unwrap_or_else(|| rustix::system::uname().nodename().to_string_lossy().into_owned());
    format!("{what}-{}-{}-{:08x}", host.trim(), std::process::id(), rand::random::<u32>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_the_host_and_is_new_each_time() {
        let host = std::env::var("HOSTNAME").or_else(|_| std::fs::read_to_string("/proc/sys/kernel/hostname")).unwrap();

        let (one, other) = (unique("worker"), unique("worker"));

        assert!(one.starts_with(&format!("worker-{}-{}-", host.trim(), std::process::id())), "{one}");
        assert_ne!(one, other);
    }
}
