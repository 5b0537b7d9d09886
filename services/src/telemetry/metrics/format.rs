//! How metrics are written: in OpenMetrics' text for who asks for it, as Prometheus does, else in
//! Prometheus' older one.

/// A text format that a scraper may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    OpenMetrics,
    Prometheus,
}

impl Format {
    /// The one that suits a request with this `Accept`.
    pub fn accepted(accept: &str) -> Self {
        if accept.contains("application/openmetrics-text") { Self::OpenMetrics } else { Self::Prometheus }
    }

    pub fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// What is written in OpenMetrics' text, in this one.
    pub(super) fn of(self, open_metrics: String) -> String {
        match self {
            Self::OpenMetrics => open_metrics,
            Self::Prometheus => {
                let lines = open_metrics.lines().filter(|line| *line != "# EOF");
                lines.map(|line| described(line, &open_metrics) + "\n").collect()
            }
        }
    }
}

/// The older format describes a counter under its samples' name, with `_total`.
fn described(line: &str, all: &str) -> String {
    let words: Vec<&str> = line.splitn(4, ' ').collect();
    let ["#", what, family, rest] = words[..] else { return line.to_owned() };
    let total = if all.contains(&format!("# TYPE {family} counter\n")) { "_total" } else { "" };
    format!("# {what} {family}{total} {rest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_older_format_describes_a_counter_under_its_samples_name() {
        let text =
            "# HELP sluice_spans Spans.\n# TYPE sluice_spans counter\nsluice_spans_total{result=\"a b\"} 1.0\n# EOF\n";

        assert_eq!(
            Format::Prometheus.of(text.to_owned()),
            "# HELP sluice_spans_total Spans.\n# TYPE sluice_spans_total counter\nsluice_spans_total{result=\"a b\"} 1.0\n"
        );
    }
}
