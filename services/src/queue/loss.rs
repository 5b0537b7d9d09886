//! How any relay notices that Redis is not what it was: wiped, restored from an old snapshot, or another server.
//!
//! Three marks stand both in Redis and in the ledger: an *epoch* (random, written whenever a loss was handled), a
//! *beat* (raised once a second) and the *server* (its run id). **Redis is written first, the ledger second**, so that
//! the ledger never claims what Redis never had: without a loss Redis is equal to it or ahead. The epoch is random, so
//! a late write of one relay is never mistaken for another's. This module only judges; `stamp` carries it out.

use std::fmt;

/// A random number that stands in Redis and in the ledger from the handling of one loss to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Epoch(i64);

impl Epoch {
    pub fn new(bits: i64) -> Self {
        Self(bits)
    }

    pub fn bits(self) -> i64 {
        self.0
    }
}

/// What the ledger says of Redis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// None before the very first stamp.
    pub epoch: Option<Epoch>,
    /// The highest beat that was seen written.
    pub beat: i64,
    /// None where Redis does not tell.
    pub server: Option<String>,
    /// Whether the beat is at least a second old, by the database's clock.
    pub beat_is_due: bool,
}

/// What Redis says itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub epoch: Option<Epoch>,
    pub beat: i64,
    pub server: Option<String>,
}

/// Why what Redis holds cannot be trusted to be all that was pushed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loss {
    /// The ledger never stamped a Redis.
    Unstamped,
    /// There is no epoch: it was wiped.
    Wiped,
    /// Its epoch is not the ledger's: an older snapshot, a stamp whose relay died before it told the ledger, or
    /// another Sluice with the same key prefix.
    OtherEpoch,
    /// Its beat is behind the ledger's: a snapshot, or a replica that was behind.
    Older { beats: i64 },
    /// It is another process or another primary: what was not yet saved or replicated is gone.
    OtherServer,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unstamped => f.write_str("this database has not used a Redis yet"),
            Self::Wiped => f.write_str("Redis was wiped"),
            Self::OtherEpoch => {
                f.write_str("Redis carries another epoch: an old snapshot, or another Sluice with the same key prefix")
            }
            Self::Older { beats } => write!(f, "Redis is {beats} beats behind: an old snapshot or a stale replica"),
            Self::OtherServer => f.write_str("Redis was restarted or failed over"),
        }
    }
}

/// Whether Redis still holds what was pushed. `None` means that it does.
pub fn judge(mark: &Mark, seen: &Seen) -> Option<Loss> {
    let Some(epoch) = mark.epoch else {
        return Some(Loss::Unstamped);
    };
    match seen.epoch {
        None => return Some(Loss::Wiped),
        Some(other) if other != epoch => return Some(Loss::OtherEpoch),
        Some(_) => {}
    }
    if seen.beat < mark.beat {
        return Some(Loss::Older { beats: mark.beat - seen.beat });
    }
    match (&mark.server, &seen.server) {
        (Some(known), Some(now)) if known != now => Some(Loss::OtherServer),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(epoch: Option<i64>, beat: i64, server: Option<&str>) -> Mark {
        Mark { epoch: epoch.map(Epoch::new), beat, server: server.map(str::to_owned), beat_is_due: true }
    }

    fn seen(epoch: Option<i64>, beat: i64, server: Option<&str>) -> Seen {
        Seen { epoch: epoch.map(Epoch::new), beat, server: server.map(str::to_owned) }
    }

    #[test]
    fn a_redis_that_is_level_or_ahead_is_intact() {
        assert_eq!(judge(&mark(Some(7), 5, Some("a")), &seen(Some(7), 5, Some("a"))), None);
        assert_eq!(judge(&mark(Some(7), 5, Some("a")), &seen(Some(7), 6, Some("a"))), None);
    }

    #[test]
    fn every_kind_of_loss_is_told_apart() {
        let known = mark(Some(7), 5, Some("a"));

        let of = |seen: Seen| judge(&known, &seen);

        assert_eq!(of(seen(None, 0, Some("a"))), Some(Loss::Wiped));
        assert_eq!(of(seen(Some(8), 9, Some("a"))), Some(Loss::OtherEpoch));
        assert_eq!(of(seen(Some(7), 3, Some("a"))), Some(Loss::Older { beats: 2 }));
        assert_eq!(of(seen(Some(7), 5, Some("b"))), Some(Loss::OtherServer));
        assert_eq!(judge(&mark(None, 0, None), &seen(Some(8), 9, Some("a"))), Some(Loss::Unstamped));
    }

    #[test]
    fn a_redis_that_hides_its_run_id_is_judged_by_its_beat() {
        assert_eq!(judge(&mark(Some(7), 5, Some("a")), &seen(Some(7), 5, None)), None);
        assert_eq!(judge(&mark(Some(7), 5, None), &seen(Some(7), 5, Some("a"))), None);
        assert_eq!(judge(&mark(Some(7), 5, None), &seen(Some(7), 4, None)), Some(Loss::Older { beats: 1 }));
    }
}
