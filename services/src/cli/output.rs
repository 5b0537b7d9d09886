//! Everything that a command prints: tables and lines for people, one JSON document for machines.

use std::{
    fmt::Display,
    io::{self, ErrorKind, Write},
    process::ExitCode,
};

use anyhow::Context;
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;
use serde_json::json;

use super::row_limit;

/// For `--help` of the commands that look something up or change something.
pub const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed, or not all that was named could be done
  2  arguments or settings are not right, or the database is not migrated
  4  nothing matched";

pub const FAILED: u8 = 1;
pub const NOTHING_MATCHED: u8 = 4;

/// A column of a table: its header, and what stands there of a row.
pub type Column<T> = (&'static str, fn(&T) -> String);

/// The form of what is printed.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Form {
    /// One JSON document instead of a table; times as RFC 3339
    #[arg(long)]
    json: bool,
}

/// How much of a list is shown, and in which form.
#[derive(clap::Args)]
pub struct Page {
    /// The most to show
    #[arg(long, value_name = "NUMBER", default_value_t = 50, value_parser = row_limit)]
    limit: usize,

    #[command(flatten)]
    form: Form,
}

impl Form {
    /// The document as JSON, or the text that `people` makes of it.
    pub fn print<T: Serialize>(self, document: &T, people: impl FnOnce(&T) -> String) -> anyhow::Result<ExitCode> {
        let text = match self.json {
            true => serde_json::to_string(document).context("write JSON")?,
            false => people(document),
        };
        done(text.trim_end())
    }
}

impl Page {
    /// How many rows to ask for: the last one only tells that there are more.
    pub fn asks(&self) -> usize {
        self.limit + 1
    }

    /// The rows that are to be shown of these: as a table, or under this name in a document that
    /// says whether there are more. `nothing` is the remark where there are none.
    pub fn list<T: Serialize>(
        &self,
        (name, nothing): (&str, &str),
        mut rows: Vec<T>,
        columns: &[Column<T>],
    ) -> anyhow::Result<ExitCode> {
        let limit = self.limit;
        let more = rows.len() > limit;
        rows.truncate(limit);
        if rows.is_empty() {
            remark(nothing);
        }
        match self.form.json {
            true => line(json!({ name: rows, "more": more }))?,
            false if rows.is_empty() => {}
            false => line(table(&rows, columns))?,
        }
        if more {
            remark(format!("there are more than {limit}: --limit shows more of them"));
        }
        Ok(ExitCode::from(if rows.is_empty() { NOTHING_MATCHED } else { 0 }))
    }
}

/// A line, or several. A reader that went away is no failure.
pub fn line(text: impl Display) -> anyhow::Result<()> {
    match writeln!(io::stdout(), "{text}") {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context("write the result"),
        _ => Ok(()),
    }
}

/// A result that is all that was asked for.
pub fn done(text: impl Display) -> anyhow::Result<ExitCode> {
    line(text)?;
    Ok(ExitCode::SUCCESS)
}

/// A remark that says why there is no such result.
pub fn refuse(code: u8, text: impl Display) -> anyhow::Result<ExitCode> {
    remark(text);
    Ok(ExitCode::from(code))
}

/// A remark beside the result.
pub fn remark(text: impl Display) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Rows under a header, without lines: what scripts cut by columns too. Nothing in a cell can move
/// the terminal's cursor.
pub fn table<T>(rows: &[T], columns: &[Column<T>]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(columns.iter().map(|(header, _)| header));
    for row in rows {
        table.add_row(columns.iter().map(|(_, cell)| clean(&cell(row))));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n")
}

/// A name and its value a line; those without a value are left out.
pub fn properties<'a>(properties: impl IntoIterator<Item = (&'a str, Option<String>)>) -> String {
    let lines = properties.into_iter().filter_map(|(name, value)| Some(format!("{name:<12}{}", clean(&value?))));
    lines.collect::<Vec<_>>().join("\n")
}

/// What stands in a cell that has nothing to say.
pub fn or_dash(text: Option<impl Display>) -> String {
    text.map_or_else(|| "-".to_owned(), |text| text.to_string())
}

/// The beginning of a text that a column has no room for.
pub fn shortened(text: Option<&str>) -> String {
    const ROOM: usize = 60;
    let Some(text) = text else { return "-".to_owned() };
    match text.char_indices().nth(ROOM) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Without what could move the terminal's cursor.
pub fn clean(text: &str) -> String {
    text.replace(|c: char| c.is_control(), " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_columns_and_nothing_else() {
        let rows = [("1", "a b"), ("22", "\u{1b}[31mred\n")];

        let table = table(&rows, &[("ID", |row| row.0.to_owned()), ("NAME", |row| row.1.to_owned())]);

        assert_eq!(table, "ID  NAME\n1   a b\n22   [31mred");
    }

    #[test]
    fn a_long_text_is_cut_at_a_character() {
        assert_eq!(shortened(Some(&"é".repeat(61))), format!("{}…", "é".repeat(60)));
        assert_eq!(shortened(Some("short")), "short");
        assert_eq!(shortened(None), "-");
    }
}
