//! What can go wrong, and a schedule of it that a seed alone decides.

use std::{fmt, time::Duration};

use rand::{Rng, SeedableRng, rngs::SmallRng, seq::SliceRandom};
use serde::Serialize;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    WorkerKilled,
    WorkerKilledBeforeClaim,
    WorkerKilledBeforePush,
    WorkerFrozen,
    RelayKilled,
    RelayKilledBeforePush,
    PublisherKilled,
    BrokerKilled,
    BrokerStalled,
    RedisWiped,
    RedisRestarted,
    RedisEmptied,
    RedisRestored,
    RedisStalled,
    PostgresKilled,
    PostgresAway,
    PostgresStalled,
    ApiRefuses,
    ApiHangs,
    ApiFails,
    ApiKilled,
    ApiDatabaseRestarted,
    RowsSetToPending,
}

impl Fault {
    pub const ALL: [Self; 23] = [
        Self::WorkerKilled,
        Self::WorkerKilledBeforeClaim,
        Self::WorkerKilledBeforePush,
        Self::WorkerFrozen,
        Self::RelayKilled,
        Self::RelayKilledBeforePush,
        Self::PublisherKilled,
        Self::BrokerKilled,
        Self::BrokerStalled,
        Self::RedisWiped,
        Self::RedisRestarted,
        Self::RedisEmptied,
        Self::RedisRestored,
        Self::RedisStalled,
        Self::PostgresKilled,
        Self::PostgresAway,
        Self::PostgresStalled,
        Self::ApiRefuses,
        Self::ApiHangs,
        Self::ApiFails,
        Self::ApiKilled,
        Self::ApiDatabaseRestarted,
        Self::RowsSetToPending,
    ];
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::WorkerKilled => "worker killed",
            Self::WorkerKilledBeforeClaim => "worker killed with fetched, unclaimed tasks",
            Self::WorkerKilledBeforePush => "worker killed between commit and push",
            Self::WorkerFrozen => "worker frozen for longer than its lease",
            Self::RelayKilled => "relay killed",
            Self::RelayKilledBeforePush => "relay killed between commit and push",
            Self::PublisherKilled => "publisher of events killed",
            Self::BrokerKilled => "RabbitMQ killed and restarted",
            Self::BrokerStalled => "RabbitMQ frozen",
            Self::RedisWiped => "Redis wiped",
            Self::RedisRestarted => "Redis restarted, all kept",
            Self::RedisEmptied => "Redis killed, nothing kept",
            Self::RedisRestored => "Redis restored from an old snapshot",
            Self::RedisStalled => "Redis frozen",
            Self::PostgresKilled => "Postgres killed and restarted",
            Self::PostgresAway => "Postgres away for a while",
            Self::PostgresStalled => "Postgres frozen",
            Self::ApiRefuses => "API closes every connection",
            Self::ApiHangs => "API answers nothing",
            Self::ApiFails => "API answers 500 to everything",
            Self::ApiKilled => "API killed, its instances loaded anew",
            Self::ApiDatabaseRestarted => "API's database restarted",
            Self::RowsSetToPending => "queue rows set to pending by hand",
        })
    }
}

/// One fault at its time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Planned {
    /// From the schedule's beginning.
    pub at: Duration,
    pub fault: Fault,
    /// Which of several, modulo how many there are.
    pub target: usize,
    /// How long it lasts, where it lasts.
    pub lasts: Duration,
}

/// What is hit when. The five go on side by side.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    pub processes: Vec<Planned>,
    pub redis: Vec<Planned>,
    pub postgres: Vec<Planned>,
    pub api: Vec<Planned>,
    pub broker: Vec<Planned>,
}

/// What one hand draws from, how far apart in milliseconds, and how many milliseconds a fault
/// lasts.
struct Bag {
    faults: &'static [(Fault, usize)],
    apart: (u64, u64),
    lasts: (u64, u64),
}

const PROCESSES: Bag = Bag {
    faults: &[
        (Fault::WorkerKilled, 7),
        (Fault::RelayKilled, 5),
        (Fault::WorkerKilledBeforeClaim, 2),
        (Fault::WorkerKilledBeforePush, 2),
        (Fault::RelayKilledBeforePush, 2),
        (Fault::PublisherKilled, 3),
        (Fault::WorkerFrozen, 1),
    ],
    apart: (150, 700),
    lasts: (4_800, 7_000),
};
const REDIS: Bag = Bag {
    faults: &[
        (Fault::RedisWiped, 1),
        (Fault::RedisRestarted, 1),
        (Fault::RedisEmptied, 1),
        (Fault::RedisRestored, 1),
        (Fault::RedisStalled, 1),
    ],
    apart: (1_500, 4_500),
    lasts: (700, 3_000),
};
const POSTGRES: Bag = Bag {
    faults: &[(Fault::PostgresKilled, 1), (Fault::PostgresAway, 1), (Fault::PostgresStalled, 1)],
    apart: (5_000, 10_000),
    lasts: (1_000, 4_000),
};
const API: Bag = Bag {
    faults: &[(Fault::ApiRefuses, 1), (Fault::ApiHangs, 1), (Fault::ApiFails, 1)],
    apart: (6_000, 11_000),
    lasts: (500, 2_500),
};

/// A killed one takes some seconds to come back.
const BROKER: Bag =
    Bag { faults: &[(Fault::BrokerKilled, 1), (Fault::BrokerStalled, 1)], apart: (5_000, 12_000), lasts: (500, 3_000) };

impl Schedule {
    pub fn draw(seed: u64, over: Duration) -> Self {
        let draw = |bag: &Bag, stream: u64| bag.draw(&mut SmallRng::seed_from_u64(seed.wrapping_add(stream)), over);
        Self {
            processes: draw(&PROCESSES, 1),
            redis: draw(&REDIS, 2),
            postgres: draw(&POSTGRES, 3),
            api: draw(&API, 4),
            broker: draw(&BROKER, 5),
        }
    }
}

impl Bag {
    /// Every fault of a bag comes before any comes again.
    fn draw(&self, rng: &mut SmallRng, over: Duration) -> Vec<Planned> {
        let mut planned = Vec::new();
        let mut left: Vec<Fault> = Vec::new();
        let mut at = Duration::from_millis(rng.random_range(self.apart.0..=self.apart.1));
        while at < over {
            if left.is_empty() {
                left = self.faults.iter().flat_map(|(fault, times)| vec![*fault; *times]).collect();
                left.shuffle(rng);
            }
            let lasts = Duration::from_millis(rng.random_range(self.lasts.0..=self.lasts.1));
            planned.extend(left.pop().map(|fault| Planned { at, fault, target: rng.random_range(0..64), lasts }));
            at += Duration::from_millis(rng.random_range(self.apart.0..=self.apart.1));
        }
        planned
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn a_seed_decides_the_whole_schedule() {
        assert_eq!(Schedule::draw(7, MINUTE), Schedule::draw(7, MINUTE));
        assert_ne!(Schedule::draw(7, MINUTE), Schedule::draw(8, MINUTE));
    }

    #[test]
    fn every_fault_comes_within_a_minute() {
        let Schedule { processes, redis, postgres, api, broker } = Schedule::draw(1, MINUTE);
        let planned: Vec<Fault> =
            [processes, redis, postgres, api, broker].into_iter().flatten().map(|planned| planned.fault).collect();

        let elsewhere = [Fault::ApiKilled, Fault::ApiDatabaseRestarted, Fault::RowsSetToPending];
        let all = Fault::ALL.into_iter().filter(|fault| !elsewhere.contains(fault));
        let missing: Vec<Fault> = all.filter(|fault| !planned.contains(fault)).collect();

        assert_eq!(missing, []);
    }
}
