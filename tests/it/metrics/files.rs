//! The files in deploy/ against what is really shown.

use std::process::Command;

use super::*;

/// Runs promtool; its output where it is content.
async fn promtool(arguments: &[&str]) -> String {
    let mut command = Command::new("promtool");
    command.args(arguments).current_dir(file("deploy/prometheus"));
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap();
    let output = output.expect("promtool is on the PATH: tests/setup installs it");
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(output.status.success(), "promtool {arguments:?}: {said}");
    said
}

/// The metrics that a query names: its words outside of texts, braces and label lists that are no
/// function, no keyword.
pub fn names_in(expr: &str) -> BTreeSet<String> {
    const KEYWORDS: [&str; 15] = [
        "by",
        "without",
        "on",
        "ignoring",
        "group_left",
        "group_right",
        "and",
        "or",
        "unless",
        "bool",
        "offset",
        "inf",
        "nan",
        "start",
        "end",
    ];
    let mut names = BTreeSet::new();
    let mut rest = expr;
    let mut lists_labels = false;
    while let Some(first) = rest.chars().next() {
        let word: String = rest.chars().take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | ':')).collect();
        let skipped = match first {
            '"' => 2 + rest[1..].find('"').unwrap(),
            '{' => 1 + rest.find('}').unwrap(),
            '[' => 1 + rest.find(']').unwrap(),
            '(' if lists_labels => 1 + rest.find(')').unwrap(),
            _ => word.len().max(first.len_utf8()),
        };
        if !first.is_whitespace() {
            lists_labels = ["by", "without", "on", "ignoring"].contains(&word.as_str());
        }
        rest = &rest[skipped..];
        // `sum(…)`, `sum by (…) (…)`
        let next = rest.trim_start();
        let is_function = !lists_labels && ["(", "by (", "without ("].iter().any(|mark| next.starts_with(mark));
        if first.is_ascii_alphabetic() && !is_function && !KEYWORDS.contains(&word.as_str()) {
            names.insert(word);
        }
    }
    names
}

/// Every query of the dashboard, by its panel.
pub fn dashboard_queries() -> Vec<(String, String)> {
    let dashboard: Value =
        serde_json::from_str(&std::fs::read_to_string(file("deploy/grafana/sluice.json")).unwrap()).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let queries = panels.iter().flat_map(|panel| {
        let title = panel["title"].as_str().unwrap().to_owned();
        let targets = panel["targets"].as_array().cloned().unwrap_or_default();
        targets.into_iter().map(move |target| (title.clone(), target["expr"].as_str().unwrap().to_owned()))
    });
    queries.collect()
}

#[test]
fn the_names_of_a_query_are_found_wherever_they_stand() {
    let query = r#"sum by (step, le) (rate(sluice_nope_total{step="sluice_text", le=~"x"}[5m])) / on (step)
        group_left histogram_quantile(0.95, b_metric) > 3 or vector(0) unless ignoring(a) (c_metric offset 5m)"#;

    let names = names_in(query);

    assert_eq!(names.iter().map(String::as_str).collect::<Vec<_>>(), ["b_metric", "c_metric", "sluice_nope_total"]);
}

#[test]
fn the_dashboards_queries_name_only_metrics_that_exist() {
    let (queries, known) = (dashboard_queries(), known());

    assert!(queries.len() > 20, "{queries:?}");
    for (panel, query) in queries {
        let names = names_in(&query);
        assert!(!names.is_empty(), "{panel}: {query}");
        assert!(names.is_subset(&known), "{panel}: {query} names {:?}", names.difference(&known));
    }
}

#[test]
fn every_panel_has_a_unit_a_description_and_the_chosen_datasource() {
    let dashboard: Value =
        serde_json::from_str(&std::fs::read_to_string(file("deploy/grafana/sluice.json")).unwrap()).unwrap();

    assert_eq!(dashboard["templating"]["list"][0]["type"], "datasource");
    let panels = dashboard["panels"].as_array().unwrap().iter().filter(|panel| panel["type"] != "row");
    for panel in panels {
        let title = &panel["title"];
        assert!(panel["description"].as_str().is_some_and(|text| text.len() > 10), "{title}");
        assert!(panel["fieldConfig"]["defaults"]["unit"].is_string(), "{title}");
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
    }
}

#[tokio::test]
async fn promtool_accepts_the_alerts_their_tests_and_the_example() {
    let rules = promtool(&["check", "rules", "alerts.yaml"]).await;
    let example = promtool(&["check", "config", "prometheus.yaml"]).await;
    let tests = promtool(&["test", "rules", "alerts_test.yaml"]).await;

    assert!(rules.contains("rules found") && example.contains("SUCCESS") && tests.contains("SUCCESS"));
}

#[test]
fn every_alert_has_a_test_in_which_it_fires_and_one_in_which_it_does_not() {
    let alerts = std::fs::read_to_string(file("deploy/prometheus/alerts.yaml")).unwrap();
    let tests = std::fs::read_to_string(file("deploy/prometheus/alerts_test.yaml")).unwrap();

    let names: Vec<&str> = alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();

    assert!(names.len() >= 7, "{names:?}");
    for name in names {
        let expected: Vec<&str> = tests
            .split(&format!("alertname: {name}\n"))
            .skip(1)
            .map(|rest| rest.lines().next().unwrap_or_default().trim())
            .collect();
        assert!(expected.contains(&"exp_alerts: []"), "{name} has no test in which it stays silent");
        assert!(expected.contains(&"exp_alerts:"), "{name} has no test in which it fires");
    }
}
