//! Writes the figures into the documentation: tables between two marks of a page, plots beside it,
//! all of it as JSON.

use std::{fs, path::Path};

use anyhow::{Context, Result};

use super::{plot::plots, report::Report, sections::sections};

const BEGIN: &str = "<!-- figures: written by `make bench`, not by hand -->\n";
const END: &str = "<!-- end of figures -->\n";

/// `docs` holds performance.md.
pub fn publish(report: &Report, docs: &Path) -> Result<()> {
    let page = docs.join("performance.md");
    let before = fs::read_to_string(&page).with_context(|| format!("read {}", page.display()))?;
    let (head, rest) = before.split_once(BEGIN).context("docs/performance.md has no mark where figures begin")?;
    let (_, tail) = rest.split_once(END).context("docs/performance.md has no mark where figures end")?;
    let tables: String =
        sections(report).iter().map(|section| format!("\n**{}**\n\n{}", section.title, section.markdown())).collect();
    let directory = docs.join("plots");
    fs::create_dir_all(&directory).context("make the directory of plots")?;
    let mut images = String::new();
    for (name, svg) in plots(report) {
        fs::write(directory.join(name), svg).with_context(|| format!("write the plot {name}"))?;
        images.push_str(&format!("\n![{}](plots/{name})\n", name.trim_end_matches(".svg")));
    }
    let place = place(report);
    fs::write(&page, format!("{head}{BEGIN}\n{place}{tables}{images}\n{END}{tail}")).context("write the page")?;
    let json = serde_json::to_string_pretty(report).context("write the figures as JSON")?;
    fs::write(directory.join("performance.json"), json + "\n").context("write the figures")
}

fn place(report: &Report) -> String {
    let machine = &report.machine;
    let void: String = report.void.iter().map(|reason| format!("\n**Void**: {reason}.\n")).collect();
    format!(
        "Measured {} at commit `{}` ({} build) on {} cores ({}, {} GB), Linux {}, Postgres {} with fsync {} and \
         synchronous_commit {}.\n{void}",
        machine.date,
        machine.short_commit(),
        machine.build,
        machine.cores,
        machine.cpu,
        machine.memory_gb,
        machine.kernel,
        machine.postgres,
        machine.fsync,
        machine.synchronous_commit,
    )
}
