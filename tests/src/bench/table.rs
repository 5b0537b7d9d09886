//! The figures as tables, for a terminal and for a page.

use super::{report::Report, sections::sections};

/// A table with what it says above it.
pub struct Section {
    pub title: String,
    pub header: Vec<&'static str>,
    pub rows: Vec<Vec<String>>,
}

/// For a terminal.
pub fn text(report: &Report) -> String {
    let machine = &report.machine;
    let mut text = format!(
        "{} at commit {}, {} build, {} cores ({}), Postgres {} with fsync {} and synchronous_commit {}\n",
        machine.date,
        machine.short_commit(),
        machine.build,
        machine.cores,
        machine.cpu,
        machine.postgres,
        machine.fsync,
        machine.synchronous_commit,
    );
    for section in sections(report) {
        text.push_str(&format!("\n{}\n{}", section.title, section.aligned()));
    }
    for reason in &report.void {
        text.push_str(&format!("\nVOID: {reason}"));
    }
    text
}

impl Section {
    pub fn new(title: impl Into<String>, header: &[&'static str]) -> Self {
        Self { title: title.into(), header: header.to_vec(), rows: Vec::new() }
    }

    pub fn row(mut self, cells: Vec<String>) -> Self {
        self.rows.push(cells);
        self
    }

    fn aligned(&self) -> String {
        let header = self.header.iter().map(|name| (*name).to_owned()).collect();
        let lines: Vec<&Vec<String>> = std::iter::once(&header).chain(&self.rows).collect();
        let width = |column: usize| lines.iter().filter_map(|line| Some(line.get(column)?.chars().count())).max();
        let widths: Vec<usize> = (0..self.header.len()).map(|column| width(column).unwrap_or_default()).collect();
        let mut text = String::new();
        for line in lines {
            for (column, (cell, width)) in line.iter().zip(&widths).enumerate() {
                let space = " ".repeat(width - cell.chars().count());
                // The first column is words, the rest is numbers.
                text.push_str(&if column == 0 { format!("  {cell}{space}") } else { format!("  {space}{cell}") });
            }
            text = text.trim_end().to_owned() + "\n";
        }
        text
    }

    pub fn markdown(&self) -> String {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let header: Vec<String> = self.header.iter().map(|name| (*name).to_owned()).collect();
        let rule = format!("|---|{}\n", "---:|".repeat(self.header.len() - 1));
        let rows: String = self.rows.iter().map(|row| line(row)).collect();
        format!("{}{rule}{rows}", line(&header))
    }
}
