//! The connection that all questions share. `ConnectionManager` connects again where a connection
//! breaks; this one also drops a connection that stands and leads to the wrong server, or to one
//! that has stopped answering.

use parking_lot::Mutex;
use redis::{
    Client, ErrorKind, RedisError, RedisResult,
    aio::{ConnectionManager, ConnectionManagerConfig},
};
use tokio::sync::watch;

use super::config::{CONNECT_TIMEOUT, RESPONSE_TIMEOUT};

/// Answers of a server that takes no hints now: a replica, one that still loads, a cluster's node.
const ELSEWHERE: [&str; 6] = ["READONLY", "LOADING", "MASTERDOWN", "NOREPLICAS", "CLUSTERDOWN", "MOVED"];

pub(super) struct Link {
    pub(super) client: Client,
    current: Mutex<ConnectionManager>,
    renewals: watch::Sender<u64>,
}

impl Link {
    /// Opens no connection yet.
    pub(super) fn new(client: Client) -> Result<Self, RedisError> {
        Ok(Self { current: Mutex::new(connect(&client)?), client, renewals: watch::Sender::new(0) })
    }

    /// The connection of now. Held for one question only.
    pub(super) fn connection(&self) -> ConnectionManager {
        self.current.lock().clone()
    }

    /// Tells of each renewal.
    pub(super) fn watch(&self) -> watch::Receiver<u64> {
        self.renewals.subscribe()
    }

    /// Drops the connection where a question is not answered in time (`None`), or an error says
    /// that it leads to the wrong server.
    pub(super) async fn judged<T>(
        &self,
        question: impl Future<Output = Option<RedisResult<T>>>,
    ) -> Option<RedisResult<T>> {
        let seen = *self.renewals.borrow();
        let answer = question.await;
        match &answer {
            Some(Ok(_)) => {}
            Some(Err(error)) if !is_elsewhere(error) => {}
            _ => self.renew(seen),
        }
        answer
    }

    /// Drops the connection; the next question connects anew, and looks the address up again.
    /// `seen` are the renewals before the question, so that one fault renews once.
    fn renew(&self, seen: u64) {
        let mut current = self.current.lock();
        if *self.renewals.borrow() != seen {
            return;
        }
        if let Ok(fresh) = connect(&self.client) {
            *current = fresh;
            self.renewals.send_modify(|renewals| *renewals += 1);
        }
    }
}

/// One attempt to connect per call, since each caller has a backoff of its own.
fn connect(client: &Client) -> RedisResult<ConnectionManager> {
    let patience = ConnectionManagerConfig::new()
        .set_number_of_retries(0)
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(Some(RESPONSE_TIMEOUT));
    ConnectionManager::new_lazy_with_config(client.clone(), patience)
}

fn is_elsewhere(error: &RedisError) -> bool {
    // The manager keeps a connection that failed so, and never tries again.
    if error.kind() == ErrorKind::AuthenticationFailed {
        return true;
    }
    // One for each command that failed. Redis 6 wraps what a script was answered.
    let answers = error.clone().into_server_errors();
    answers.iter().flat_map(|answers| answers.iter()).any(|(_, answer)| {
        let wrapped = |code: &&str| answer.details().is_some_and(|details| details.contains(&format!("-{code} ")));
        ELSEWHERE.contains(&answer.code()) || ELSEWHERE.iter().any(wrapped)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(line: &str) -> RedisError {
        let answer = redis::parse_redis_value(format!("-{line}\r\n").as_bytes()).unwrap();
        answer.extract_error().expect_err("it is an error")
    }

    #[test]
    fn a_server_that_takes_no_hints_is_told_from_one_that_refuses_a_question() {
        for line in [
            "READONLY You can't write against a read only replica.",
            "READONLY You can't write against a read only replica. script: 2f1, on @user_script:6.",
            // Redis 6.
            "ERR Error running script (call to f_2f1): @user_script:6: @user_script: 6: -READONLY You can't write against a \
             read only replica.",
            "LOADING Redis is loading the dataset in memory",
            "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
            "NOREPLICAS Not enough good replicas to write.",
            "CLUSTERDOWN The cluster is down",
            "MOVED 3999 127.0.0.1:6381",
        ] {
            assert!(is_elsewhere(&answered(line)), "{line}");
        }
        for line in [
            "ERR unknown command 'BLPOP'",
            "NOSCRIPT No matching script. Please use EVAL.",
            "NOPERM this user has no permissions to run the 'set' command",
            "OOM command not allowed when used memory > 'maxmemory'.",
            "WRONGTYPE Operation against a key holding the wrong kind of value",
        ] {
            assert!(!is_elsewhere(&answered(line)), "{line}");
        }
    }
}
