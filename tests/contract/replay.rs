//! Plays every recorded exchange, in the order of the record, against the simulated server and
//! compares the answers. What cannot be played is on the list in `unplayed.rs`; the two must add up
//! to the whole record.

mod compare;
mod scenes;
mod stage;
mod unplayed;

use serde::Deserialize;
use serde_json::{Map, Value};
use tests::evolution::Answer;

use stage::Stage;

const RECORD: &str = include_str!("contract.jsonl");

/// All that was recorded, and how much of it must stay on the list.
const RECORDS: usize = 450;
const UNPLAYED: usize = 61;

#[derive(Deserialize)]
struct Recorded {
    id: String,
    kind: String,
    request: RecordedRequest,
    response: Option<RecordedResponse>,
    client_error: Option<String>,
    elapsed_ms: Option<u64>,
}

#[derive(Deserialize)]
struct RecordedRequest {
    method: String,
    path: String,
    #[serde(default)]
    headers: Map<String, Value>,
    #[serde(default)]
    body: Value,
}

#[derive(Deserialize)]
struct RecordedResponse {
    #[serde(default)]
    status: Option<u16>,
    #[serde(default)]
    headers: Map<String, Value>,
    #[serde(default)]
    body: Value,
}

fn records() -> Vec<Recorded> {
    RECORD.lines().map(|line| serde_json::from_str(line).expect("a line of contract.jsonl is a record")).collect()
}

#[test]
#[allow(clippy::print_stdout, reason = "how much is played is worth reading")]
fn the_simulated_server_answers_as_the_real_one_was_recorded_to() {
    let records = records();
    assert_eq!(records.len(), RECORDS);
    let mut stage = Stage::new();
    let mut faults = Vec::new();
    let (mut played, mut unplayed) = (0, 0);

    for record in &records {
        if unplayed::reason(&record.id).is_some() {
            unplayed += 1;
            stage.skip(record);
            continue;
        }
        played += 1;
        assert_eq!(record.kind, "exchange", "{} is a series: it cannot be played", record.id);
        stage.prepare(record);
        let answer = stage.play(record);
        if let Err(fault) = judge(&stage, record, answer.as_ref()) {
            faults.push(format!("{}: {fault}", record.id));
        }
        stage.note(record, answer.as_ref());
    }

    println!("{played} exchanges played, {unplayed} records on the list of what cannot be");
    assert!(faults.is_empty(), "{} of {played} differ:\n{}", faults.len(), faults.join("\n"));
    assert_eq!(unplayed, UNPLAYED, "the list of what is not played changed its length");
    assert_eq!(played + unplayed, RECORDS);
}

fn judge(stage: &Stage, record: &Recorded, answer: Option<&Answer>) -> Result<(), String> {
    if let Some(error) = &record.client_error {
        let timed_out = error.starts_with("TimeoutError");
        return match answer {
            None if timed_out => Ok(()),
            Some(Answer::Dropped) if !timed_out => Ok(()),
            other => Err(format!("expected {error}, got {other:?}")),
        };
    }
    let expected = record.response.as_ref().ok_or("no response in the record")?;
    let status = expected.status.ok_or("no status in the record")?;
    let Some(Answer::Response(response)) = answer else {
        return Err(format!("expected {status}, got {answer:?}"));
    };
    if response.status != status {
        return Err(format!("expected {status}, got {} {:?}", response.status, response.body));
    }
    let content_type = expected.headers.get("content-type").and_then(Value::as_str);
    if record.request.method != "HEAD" && response.content_type() != content_type {
        return Err(format!("content type {content_type:?} expected, got {:?}", response.content_type()));
    }
    compare::body(record, &stage.own_ids(&expected.body), &response.body)
}

#[test]
fn every_entry_of_the_unplayed_list_is_in_the_record() {
    let records = records();

    for (pattern, _) in unplayed::LIST {
        let used = records.iter().any(|record| unplayed::matches(pattern, &record.id));
        assert!(used, "{pattern} matches no record: take it off the list");
    }
}
