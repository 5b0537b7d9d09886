//! Drawings of the figures, as SVG: bars, stacked bars and lines, no more than the figures need.

use std::fmt::Write;

use super::{report::Report, stage::Roles, steady::Steady};

const WIDTH: f64 = 760.0;
const LEFT: f64 = 260.0;
const RIGHT: f64 = 90.0;
const BAR: f64 = 22.0;
const GAP: f64 = 12.0;
/// Distinct for most people who see colours otherwise, on white and on black.
const COLOURS: [&str; 4] = ["#0072b2", "#e69f00", "#009e73", "#cc79a7"];

/// File name and SVG of all that was measured.
pub fn plots(report: &Report) -> Vec<(&'static str, String)> {
    let mut all = Vec::new();
    if !report.burst.is_empty() {
        let rows =
            report.burst.iter().map(|burst| (format!("{}, {}", burst.name, burst.users), vec![burst.per_second]));
        all.push(("burst.svg", bars("Burst: users ready per second", &["users per second"], rows.collect())));
    }
    if !report.workers.is_empty() {
        let rows = report.workers.iter().map(|burst| (burst.name.clone(), vec![burst.per_second]));
        all.push(("settings.svg", bars("Settings: users ready per second", &["users per second"], rows.collect())));
    }
    let costs = costs(report);
    if !costs.is_empty() {
        all.push(("cpu.svg", bars("CPU-seconds per 1,000 sign-ups", &["Sluice", "Postgres", "Redis"], costs)));
    }
    if !report.steady.is_empty() {
        all.push(("latency.svg", latency(report)));
    }
    if !report.doorbell.is_empty() {
        all.push(("doorbell.svg", doorbell(report)));
    }
    if let Some(drain) = &report.drain {
        let rates = drain.by_second.iter().enumerate().map(|(second, ready)| (second as f64, *ready as f64)).collect();
        let title = format!("{} users at once: ready in each second", drain.users);
        all.push(("crowd.svg", lines(&title, "seconds", &[("ready".to_owned(), rates)])));
    }
    if let Some(profile) = &report.profile {
        all.push(("flame.svg", profile.flame.clone()));
    }
    all
}

fn costs(report: &Report) -> Vec<(String, Vec<f64>)> {
    let shares = |cpu: &super::cpu::Cpu| Some(vec![cpu.sluice, cpu.postgres?, cpu.redis?]);
    let bursts = report.burst.iter().filter(|burst| burst.ratio.is_some());
    let bursts = bursts
        .filter_map(|burst| Some((format!("burst of {}, {}", burst.users, short(&burst.name)), shares(&burst.cpu)?)));
    let name = |stream: &Steady| format!("{:.0} a second, {}", stream.rate, stream.roles.name());
    let steady = report.steady.iter().filter_map(|stream| Some((name(stream), shares(&stream.cpu)?)));
    bursts.chain(steady).collect()
}

fn short(name: &str) -> &str {
    name.split(", ").last().unwrap_or(name)
}

fn latency(report: &Report) -> String {
    let line = |roles: Roles, figure: fn(&super::stats::Latency) -> f64| {
        let streams = report.steady.iter().filter(|stream| stream.roles == roles);
        streams.map(|stream| (stream.rate, figure(&stream.latency))).collect::<Vec<_>>()
    };
    let of = |roles: Roles| {
        let named = |figure: &str| format!("{}, {figure}", roles.name().trim_start_matches("a "));
        [(named("median"), line(roles, |one| one.median)), (named("p99"), line(roles, |one| one.p99))]
    };
    let series: Vec<_> = report.roles.and_beside().into_iter().flat_map(of).collect();
    lines("Steady stream: milliseconds from sign-up to ready", "sign-ups per second", &series)
}

fn doorbell(report: &Report) -> String {
    let rows = report.doorbell.iter().flat_map(|bell| {
        let who = if bell.relay { "a relay" } else { "nobody" };
        let rates = [
            ("no trigger", bell.without_trigger),
            ("no notification", bell.without_notification),
            ("both", bell.with_both),
        ];
        rates.map(|(what, rate)| (format!("{who} to wake, {what}"), vec![rate]))
    });
    bars("Sign-ups per second that 20 clients commit", &["rows per second"], rows.collect())
}

/// A row per name; several values are stacked.
fn bars(title: &str, parts: &[&str], rows: Vec<(String, Vec<f64>)>) -> String {
    let top = if parts.len() > 1 { 64.0 } else { 44.0 };
    let height = top + rows.len() as f64 * (BAR + GAP) + 8.0;
    let most = rows.iter().map(|(_, values)| values.iter().sum::<f64>()).fold(f64::MIN_POSITIVE, f64::max);
    let scale = (WIDTH - LEFT - RIGHT) / most;
    let mut svg = begin(title, height);
    if parts.len() > 1 {
        legend(&mut svg, parts);
    }
    for (index, (name, values)) in rows.iter().enumerate() {
        let y = top + index as f64 * (BAR + GAP);
        text(&mut svg, LEFT - 8.0, y + BAR * 0.7, "end", name);
        let mut x = LEFT;
        for (value, colour) in values.iter().zip(COLOURS) {
            let width = value * scale;
            let _ = writeln!(svg, r#"<rect x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{BAR}" fill="{colour}"/>"#);
            x += width;
        }
        text(&mut svg, x + 6.0, y + BAR * 0.7, "start", &number(values.iter().sum()));
    }
    svg + "</svg>\n"
}

/// Both axes begin at nought.
fn lines(title: &str, below: &str, series: &[(String, Vec<(f64, f64)>)]) -> String {
    const HEIGHT: f64 = 320.0;
    const TOP: f64 = 64.0;
    const BOTTOM: f64 = 46.0;
    const SIDE: f64 = 60.0;
    let points = || series.iter().flat_map(|(_, points)| points);
    let most_x = round_up(points().map(|point| point.0).fold(f64::MIN_POSITIVE, f64::max));
    let most_y = round_up(points().map(|point| point.1).fold(f64::MIN_POSITIVE, f64::max));
    let place = |(x, y): (f64, f64)| {
        let right = SIDE + x / most_x * (WIDTH - SIDE - 30.0);
        (right, HEIGHT - BOTTOM - y / most_y * (HEIGHT - TOP - BOTTOM))
    };
    let mut svg = begin(title, HEIGHT);
    legend(&mut svg, &series.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>());
    for share in [0.0, 0.25, 0.5, 0.75, 1.0] {
        let (left, y) = place((0.0, most_y * share));
        let right = WIDTH - 30.0;
        let _ = writeln!(svg, r##"<path d="M{left:.1} {y:.1}H{right:.1}" stroke="#8888" stroke-width="0.7"/>"##);
        text(&mut svg, left - 8.0, y + 4.0, "end", &number(most_y * share));
        let (x, _) = place((most_x * share, 0.0));
        text(&mut svg, x, HEIGHT - BOTTOM + 18.0, "middle", &number(most_x * share));
    }
    text(&mut svg, WIDTH / 2.0, HEIGHT - 8.0, "middle", below);
    for ((_, points), colour) in series.iter().zip(COLOURS) {
        let path: Vec<String> =
            points.iter().map(|point| place(*point)).map(|(x, y)| format!("{x:.1} {y:.1}")).collect();
        let path = path.join("L");
        let _ = writeln!(svg, r#"<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2.5"/>"#);
        if points.len() <= 20 {
            for (x, y) in points.iter().map(|point| place(*point)) {
                let _ = writeln!(svg, r#"<circle cx="{x:.1}" cy="{y:.1}" r="4" fill="{colour}"/>"#);
            }
        }
    }
    svg + "</svg>\n"
}

fn begin(title: &str, height: f64) -> String {
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    let title = escaped(title);
    let _ = writeln!(svg, r#"<text x="12" y="24" font-size="16" font-weight="bold">{title}</text>"#);
    svg
}

fn legend(svg: &mut String, names: &[&str]) {
    let mut x = 12.0;
    for (name, colour) in names.iter().zip(COLOURS) {
        let _ = writeln!(svg, r#"<rect x="{x}" y="36" width="12" height="12" fill="{colour}"/>"#);
        text(svg, x + 17.0, 47.0, "start", name);
        x += 30.0 + name.len() as f64 * 6.6;
    }
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, words: &str) {
    let words = escaped(words);
    let _ = writeln!(svg, r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{words}</text>"#);
}

pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn number(value: f64) -> String {
    let text = if value >= 50.0 { format!("{value:.0}") } else { format!("{value:.2}") };
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// To a number whose quarters are short.
fn round_up(value: f64) -> f64 {
    let power = 10_f64.powf(value.log10().floor());
    let steps = [1.0, 1.2, 1.6, 2.0, 2.4, 2.8, 3.2, 4.0, 6.0, 8.0, 10.0];
    steps.into_iter().map(|step| step * power).find(|step| *step >= value * 0.999).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_ends_at_a_round_number() {
        assert_eq!([3.0, 10.0, 11.0, 400.0, 480.0].map(round_up), [3.2, 10.0, 12.0, 400.0, 600.0]);
        assert_eq!([0.25, 12.5, 100.0, 0.0, 7.0].map(number), ["0.25", "12.5", "100", "0", "7"]);
    }

    #[test]
    fn names_cannot_break_the_drawing() {
        let svg = bars("a < b & c", &["x"], vec![("\"quoted\"".to_owned(), vec![1.0])]);

        assert!(svg.contains("a &lt; b &amp; c") && svg.contains("&quot;quoted&quot;"), "{svg}");
    }
}
