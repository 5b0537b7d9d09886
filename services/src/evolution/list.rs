//! The list of every instance, row by row: on a large server it is longer than a worker has memory
//! for. A list that breaks off, or that is none, ends in an error: only then does a row that did
//! not come mean an instance that is not there.

use std::{
    cell::Cell,
    fmt,
    io::{self, BufReader, Read},
    time::Duration,
};

use futures::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};
use serde::de::{Deserializer, Error as _, SeqAccess, Visitor};
use serde_json::{Value, error::Category};
use tokio::sync::mpsc;
use tokio_util::io::{StreamReader, SyncIoBridge};
use workflows::whatsapp::evolution::{ApiError, Call, ErrorKind, Listed, Roster, answer};

use super::{
    Client,
    transport::{BODY_BYTES, Went},
};
use crate::telemetry::chain;

/// How long the whole list may take: tens of thousands of rows, from a slow server.
const TIMEOUT: Duration = Duration::from_secs(300);
/// The same where a run waits for it: an attempt has 30 s.
const WHOLE: Duration = Duration::from_secs(20);
/// How many rows are read ahead of who takes them.
const AHEAD: usize = 64;

type Row = Result<(String, Listed), ApiError>;

impl Client {
    /// Every instance that the API knows, with its name, as they arrive. Nothing after an error.
    pub async fn instances(&self) -> Result<BoxStream<'static, Row>, ApiError> {
        let request = self.request(Call::Fetch, None, [])?.timeout(TIMEOUT);
        let opening = async {
            let response = self.open(&request).await?;
            Ok((Went { status: response.status().as_u16(), expected: false }, response))
        };
        let response = self.observed(&request, opening).await.map_err(fault)?;
        let status = response.status().as_u16();
        if status != 200 {
            let received = self.receive(response, &request).await.map_err(fault)?;
            let refused = answer::roster(&received.response(), &request.redaction).err();
            return Err(fault(refused.unwrap_or(unreadable(status, "no list"))));
        }
        let (rows, taken) = mpsc::channel(AHEAD);
        let body = response.bytes_stream().map_err(|error| io::Error::other(chain(&error.without_url())));
        let body = SyncIoBridge::new(StreamReader::new(body));
        tokio::task::spawn_blocking(move || read(body, status, rows));
        Ok(stream::unfold(taken, async |mut taken| Some((taken.recv().await?, taken))).boxed())
    }

    /// The whole list at once, where it has to be whole to be of use.
    pub(super) async fn whole_list(&self) -> Result<Roster, ApiError> {
        let rows = async { self.instances().await?.try_collect::<Vec<_>>().await };
        let late = |_| Err(fault(ErrorKind::NoAnswer(format!("the list had not ended after {WHOLE:?}"))));
        let rows = tokio::time::timeout(WHOLE, rows).await.unwrap_or_else(late);
        Ok(rows.map_err(|error| ApiError { call: Call::Roster, ..error })?.into_iter().collect())
    }
}

/// serde's own parser, which reads from something that blocks: nothing else sees that a list ended
/// where it should.
fn read(body: impl Read, status: u16, rows: mpsc::Sender<Row>) {
    let left = Cell::new(BODY_BYTES);
    let mut json = serde_json::Deserializer::from_reader(Portions { body: BufReader::new(body), left: &left });
    let read = json.deserialize_seq(Rows { rows: &rows, left: &left }).and_then(|()| json.end());
    let Err(error) = read else { return };
    let place = format!("at line {} column {}", error.line(), error.column());
    // The parser's own words may quote the body, and the body holds tokens: only what the
    // connection said is repeated.
    let kind = match error.classify() {
        Category::Io => ErrorKind::NoAnswer(format!("the list broke off {place}: {error}")),
        Category::Eof => ErrorKind::NoAnswer(format!("the list broke off {place}")),
        Category::Syntax => ErrorKind::Foreign { status, what: format!("no JSON {place}") },
        Category::Data => unreadable(status, format!("no list of instances {place}")),
    };
    // Nobody listens any more where that was the reason.
    let _ = rows.blocking_send(Err(fault(kind)));
}

/// A body of any length, but of bounded rows.
struct Portions<'a, R> {
    body: R,
    /// Bytes that may still come before the next row begins.
    left: &'a Cell<usize>,
}

impl<R: Read> Read for Portions<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(self.left.get());
        if most == 0 && !buffer.is_empty() {
            return Err(io::Error::other(format!("a row of more than {BODY_BYTES} bytes")));
        }
        let count = self.body.read(&mut buffer[..most])?;
        self.left.set(self.left.get() - count);
        Ok(count)
    }
}

struct Rows<'a> {
    rows: &'a mpsc::Sender<Row>,
    left: &'a Cell<usize>,
}

impl<'de> Visitor<'de> for Rows<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a list of instances")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while let Some(row) = list.next_element::<Value>()? {
            let row = answer::row(&row).ok_or_else(|| A::Error::custom(answer::NAMELESS))?;
            self.rows.blocking_send(Ok(row)).map_err(A::Error::custom)?;
            self.left.set(BODY_BYTES);
        }
        Ok(())
    }
}

fn fault(kind: ErrorKind) -> ApiError {
    ApiError { call: Call::Fetch, kind }
}

fn unreadable(status: u16, what: impl Into<String>) -> ErrorKind {
    ErrorKind::Unreadable { status, what: what.into() }
}
