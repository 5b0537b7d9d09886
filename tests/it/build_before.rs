//! Two builds at once: what the roles of the build before ask of the database, kept in
//! `build_before.json`, is answered by the schema of this one. Pods of both run side by side in
//! every upgrade, and those of the one before alone after a downgrade.

use std::{collections::BTreeMap, fs, path::Path};

use serde::{Deserialize, Serialize};
use sqlx::{AssertSqlSafe, Column, Either, Executor, SqlSafeStr, Statement, TypeInfo};

use crate::app::{App, Session};

/// Where the statements of the roles are.
const SOURCES: [&str; 2] = ["services/src/ledger/postgres", "services/src/supabase"];
const FILE: &str = "tests/it/build_before.json";

/// The types of a statement's parameters, and its columns with theirs, in their order.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Shape {
    takes: Vec<String>,
    gives: Vec<(String, String)>,
}

fn path(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().join(name)
}

fn kept() -> BTreeMap<String, Shape> {
    serde_json::from_str(&fs::read_to_string(path(FILE)).unwrap()).unwrap()
}

/// Every statement of this build's roles.
fn statements() -> Vec<String> {
    let mut found = Vec::new();
    let mut folders: Vec<_> = SOURCES.map(path).into();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            match entry.is_dir() {
                true => folders.push(entry),
                // A person asks these, as the owner.
                false if entry.ends_with("adoption.rs") => {}
                false => found.extend(
                    literals(&fs::read_to_string(entry).unwrap()).into_iter().filter(|text| is_statement(text)),
                ),
            }
        }
    }
    found.sort();
    found.dedup();
    found
}

/// The texts of Rust source that has no raw strings: without what continues a line and without
/// SQL's comments, and each run of spaces as one.
fn literals(source: &str) -> Vec<String> {
    let code: Vec<&str> = source.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let code = code.join("\n").replace(r"\\", "\u{1}").replace("\\\"", "\u{2}").replace("'\"'", "");
    let plain = |text: &str| {
        let text = text.replace("\\\n", " ").replace('\u{2}', "\"");
        let words = text.lines().filter_map(|line| line.split("--").next()).flat_map(str::split_whitespace);
        words.collect::<Vec<_>>().join(" ")
    };
    code.split('"').skip(1).step_by(2).map(plain).collect()
}

fn is_statement(text: &str) -> bool {
    ["select ", "with ", "insert ", "update ", "delete "].iter().any(|verb| text.starts_with(verb))
}

/// What Postgres says of a statement that a service sends: its shape, once it may be executed.
async fn shape(services: &mut Session, statement: &str) -> Result<Shape, sqlx::Error> {
    let sql = || AssertSqlSafe(statement.to_owned()).into_sql_str();
    let prepared = (&mut services.0).prepare(sql()).await?;
    let takes = match prepared.parameters() {
        Some(Either::Left(types)) => types.iter().map(|one| one.name().to_owned()).collect(),
        _ => Vec::new(),
    };
    let columns = prepared.columns().iter();
    let gives = columns.map(|one| (one.name().to_owned(), one.type_info().name().to_owned())).collect();
    let shape = Shape { takes, gives };
    // Whether it may be executed is looked at only where it is about to be.
    let nulls = vec!["null"; shape.takes.len()].join(", ");
    let arguments = if nulls.is_empty() { nulls } else { format!("({nulls})") };
    services.attempt(&format!("prepare before as {statement}")).await?;
    let explained = services.attempt(&format!("explain execute before{arguments}")).await;
    services.attempt("deallocate before").await?;
    explained.map(|_| shape)
}

/// What the build before would meet: nothing where the schema answers all of it as it did.
async fn unanswered(services: &mut Session) -> Vec<String> {
    let mut unanswered = Vec::new();
    for (statement, before) in kept() {
        match shape(services, &statement).await {
            Ok(now) if now == before => {}
            Ok(now) => unanswered.push(format!("{statement}\n  was {before:?}\n  is {now:?}")),
            Err(error) => unanswered.push(format!("{statement}\n  {error}")),
        }
    }
    unanswered
}

#[tokio::test]
async fn the_schema_answers_every_statement_of_the_build_before() {
    let app = App::migrated().await;

    let unanswered = unanswered(&mut app.login("sluice_runtime").await).await;

    assert!(kept().len() > 50, "{}", kept().len());
    assert!(unanswered.is_empty(), "pods of the build before would fail:\n{}", unanswered.join("\n"));
}

#[tokio::test]
async fn what_the_build_before_would_miss_is_named() {
    let app = App::migrated().await;
    let mut owner = app.owner().await;
    owner.run("alter function sluice.look_again rename to look_once_more").await;
    owner.run("alter table sluice.attempt rename column note to remark").await;
    owner.run("alter table sluice.audit alter column action type varchar(40)").await;
    owner.run("revoke execute on function sluice.doubt from sluice_runtime").await;
    owner.run("alter table sluice.event alter column sequence type bigint").await;

    let unanswered = unanswered(&mut app.login("sluice_runtime").await).await.join("\n");

    for missed in
        ["function sluice.look_again(", "column \"note\" does not exist", "function doubt", r#""sequence", "INT8""#]
    {
        assert!(unanswered.contains(missed), "{missed} is not missed:\n{unanswered}");
    }
}

/// Every statement of this build, too. `BUILD_BEFORE=write` keeps them as those of the build
/// before: at a release, and until the first one whenever they change.
#[tokio::test]
async fn the_schema_answers_every_statement_of_this_build() {
    let app = App::migrated().await;
    let mut services = app.login("sluice_runtime").await;
    let (mut shapes, mut untold) = (BTreeMap::new(), 0);

    for statement in statements() {
        match shape(&mut services, &statement).await {
            Ok(shape) => drop(shapes.insert(statement, shape)),
            // Only the client says what it binds there.
            Err(error) if error.to_string().contains("could not determine polymorphic type") => untold += 1,
            Err(error) => panic!("{statement}\n{error}"),
        }
    }

    assert!(shapes.len() > 50 && untold <= 1, "{}, {untold}", shapes.len());
    if std::env::var("BUILD_BEFORE").is_ok_and(|wish| wish == "write") {
        fs::write(path(FILE), serde_json::to_string_pretty(&shapes).unwrap() + "\n").unwrap();
    }
}
