//! Connections that rest here between two statements. The pool asks each connection that comes back
//! for a sign of life, which is a second round trip for each statement. It gets a connection back
//! after a minute, when somebody waits for one, when nobody needs it, and when another one has
//! failed.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use parking_lot::Mutex;
use sqlx::{PgPool, Postgres, pool::PoolConnection};
use tokio::time::Instant;

use super::pool::{Noticed, takes_writes};

/// How long the pool does not see a connection whose age it limits.
const ROUND: Duration = Duration::from_secs(60);

/// A connection, and since when the pool has not seen it.
pub(super) struct Lent {
    pub(super) connection: PoolConnection<Postgres>,
    since: Instant,
}

/// The last one that came is the first one to be used, so that the others rest.
#[derive(Clone)]
pub(super) struct Resting {
    pool: PgPool,
    noticed: Noticed,
    state: Arc<Mutex<State>>,
    /// How many may rest: the pool has one more, for those who ask the pool itself.
    most: usize,
}

#[derive(Default)]
struct State {
    /// Each with the moment from which it rests.
    rest: VecDeque<(Lent, Instant)>,
    /// How many wait for a connection of the pool.
    waiting: usize,
}

impl Resting {
    pub(super) fn of(pool: &PgPool, noticed: &Noticed) -> Self {
        let most = pool.options().get_max_connections().saturating_sub(1) as usize;
        Self { most, ..Self::nothing_of(pool, noticed) }
    }

    /// Of a pool that judges each connection before each use, as somebody else has set it up.
    pub(super) fn nothing_of(pool: &PgPool, noticed: &Noticed) -> Self {
        Self { pool: pool.clone(), noticed: noticed.clone(), state: Arc::default(), most: 0 }
    }

    /// A connection whose server takes writes, as far as anybody knows.
    pub(super) async fn lend(&self) -> sqlx::Result<Lent> {
        loop {
            let (rests, waiting) = self.last();
            let Some((mut lent, from)) = rests else {
                let connection = self.pool.acquire().await?;
                drop(waiting);
                return Ok(Lent { connection, since: Instant::now() });
            };
            if lent.since.elapsed() > ROUND {
                continue;
            }
            if !self.noticed.doubts(from.elapsed()) || takes_writes(&mut lent.connection).await.unwrap_or(false) {
                return Ok(lent);
            }
            lent.connection.close_on_drop();
        }
    }

    /// The last one that came, or a place among those who wait for the pool: one or the other, so
    /// that none comes to rest in between.
    fn last(&self) -> (Option<(Lent, Instant)>, Option<Waiting<'_>>) {
        let mut state = self.state.lock();
        let rests = state.rest.pop_back();
        let waiting = rests.is_none().then(|| self.wait(&mut state));
        (rests, waiting)
    }

    fn wait(&self, state: &mut State) -> Waiting<'_> {
        state.waiting += 1;
        Waiting(self)
    }

    /// For somebody who asks the pool itself: lets the pool have the one that rests longest, and
    /// keeps none as long as the answer lives.
    pub(super) fn make_room(&self) -> Waiting<'_> {
        let mut state = self.state.lock();
        state.rest.pop_front();
        self.wait(&mut state)
    }

    /// Keeps one whose statement was answered, unless somebody waits for one.
    pub(super) fn keep(&self, lent: Lent) {
        let mut state = self.state.lock();
        if state.waiting == 0 && state.rest.len() < self.most {
            state.rest.push_back((lent, Instant::now()));
        }
    }

    /// Lets the pool have those that nobody has used for so long.
    pub(super) fn let_go(&self, unused: Duration) {
        self.state.lock().rest.retain(|(_, from)| from.elapsed() < unused);
    }

    /// How many rest.
    pub(super) fn len(&self) -> usize {
        self.state.lock().rest.len()
    }
}

/// Somebody waits for a connection of the pool.
pub(super) struct Waiting<'a>(&'a Resting);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.state.lock().waiting -= 1;
    }
}

/// Closed here and now: the pool would do it in a task, and there may be nothing left to run it.
impl Drop for State {
    fn drop(&mut self) {
        for (lent, _) in self.rest.drain(..) {
            drop(lent.connection.detach());
        }
    }
}
