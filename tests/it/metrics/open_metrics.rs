//! A strict reader of OpenMetrics' text: what it takes, every scraper takes. It knows the kinds
//! that we show, and wants a type and a help of every family.

use std::collections::{BTreeMap, BTreeSet};

/// One line of an exposition.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

#[derive(Debug, Default)]
struct Family {
    name: String,
    kind: Option<String>,
    help: Option<String>,
    samples: Vec<Series>,
}

type Read<T> = Result<T, String>;

/// All series of an exposition, or what is wrong with it.
pub fn read(text: &str) -> Read<Vec<Series>> {
    let body = text.strip_suffix("# EOF\n").ok_or("it does not end with `# EOF` and a line feed")?;
    let mut families: Vec<Family> = Vec::new();
    for line in body.split_terminator('\n') {
        let in_line = |wrong: String| format!("{wrong}: {line}");
        match line.strip_prefix("# ") {
            Some(described) => describe(described, &mut families).map_err(in_line)?,
            None => {
                let series = series(line).map_err(in_line)?;
                families.last_mut().ok_or("a sample before any family")?.take(series).map_err(in_line)?;
            }
        }
    }
    families.iter().try_for_each(|family| family.check().map_err(|wrong| format!("{}: {wrong}", family.name)))?;
    let mut seen = BTreeSet::new();
    for name in families.iter().flat_map(Family::reserved) {
        if !seen.insert(name.clone()) {
            return Err(format!("{name} belongs to two families"));
        }
    }
    Ok(families.into_iter().flat_map(|family| family.samples).collect())
}

/// `HELP name text` or `TYPE name kind`.
fn describe(described: &str, families: &mut Vec<Family>) -> Read<()> {
    let (what, rest) = described.split_once(' ').ok_or("a comment")?;
    let (name, text) = rest.split_once(' ').ok_or("no text")?;
    if !is_name(name, true) {
        return Err("no name of a family".to_owned());
    }
    if families.last().is_none_or(|family| family.name != name) {
        if families.iter().any(|family| family.name == name) {
            return Err("the family stands there twice".to_owned());
        }
        families.push(Family { name: name.to_owned(), ..Family::default() });
    }
    let family = families.last_mut().ok_or("no family")?;
    if !family.samples.is_empty() {
        return Err("a description after the family's samples".to_owned());
    }
    let place = match what {
        "HELP" => &mut family.help,
        "TYPE" if ["counter", "gauge", "histogram"].contains(&text) => &mut family.kind,
        _ => return Err("neither HELP nor a TYPE that we show".to_owned()),
    };
    match place.replace(text.to_owned()) {
        Some(_) => Err("described twice".to_owned()),
        None => Ok(()),
    }
}

impl Family {
    fn endings(&self) -> &'static [&'static str] {
        match self.kind.as_deref() {
            Some("counter") => &["_total"],
            Some("histogram") => &["_bucket", "_sum", "_count"],
            _ => &[""],
        }
    }

    /// The names that no other family may have.
    fn reserved(&self) -> BTreeSet<String> {
        let samples = self.endings().iter().map(|end| format!("{}{end}", self.name));
        samples.chain([self.name.clone()]).collect()
    }

    fn take(&mut self, series: Series) -> Read<()> {
        if !self.endings().iter().any(|end| series.name == format!("{}{end}", self.name)) {
            return Err(format!("no sample of {}", self.name));
        }
        if self.samples.iter().any(|there| there.name == series.name && there.labels == series.labels) {
            return Err("the series stands there twice".to_owned());
        }
        // The samples of one metric (of a histogram: of one set of labels) stand together.
        let last = self.samples.last().map(metric);
        if last.as_ref() != Some(&metric(&series)) && self.samples.iter().any(|there| metric(there) == metric(&series))
        {
            return Err("the samples of the metric do not stand together".to_owned());
        }
        self.samples.push(series);
        Ok(())
    }

    fn check(&self) -> Read<()> {
        let kind = self.kind.as_deref().ok_or("it has no type")?;
        self.help.as_deref().filter(|help| !help.is_empty()).ok_or("it has no help")?;
        match kind {
            "counter" if self.samples.iter().any(|counter| counter.value.is_nan() || counter.value < 0.0) => {
                Err("a counter below zero".to_owned())
            }
            "histogram" => {
                let metrics: BTreeSet<_> = self.samples.iter().map(metric).collect();
                metrics.into_iter().try_for_each(|labels| self.check_histogram(&labels))
            }
            _ => Ok(()),
        }
    }

    fn check_histogram(&self, labels: &BTreeMap<String, String>) -> Read<()> {
        let of = |end: &str| {
            let name = format!("{}{end}", self.name);
            self.samples.iter().filter(move |series| series.name == name && &metric(series) == labels)
        };
        let bounds: Vec<f64> = of("_bucket")
            .map(|bucket| bucket.labels.get("le").ok_or("a bucket without le".to_owned()).and_then(|le| number(le)))
            .collect::<Read<_>>()?;
        let counts: Vec<f64> = of("_bucket").map(|bucket| bucket.value).collect();
        let ascend = |values: &[f64]| values.windows(2).all(|pair| pair[0] <= pair[1]);
        if !bounds.windows(2).all(|pair| pair[0] < pair[1]) || !ascend(&counts) {
            return Err("buckets that do not ascend".to_owned());
        }
        if bounds.last() != Some(&f64::INFINITY) {
            return Err("no bucket +Inf".to_owned());
        }
        match (of("_count").next(), of("_sum").next(), of("_count").count(), of("_sum").count()) {
            (Some(count), Some(_), 1, 1) if Some(&count.value) == counts.last() => Ok(()),
            _ => Err("no sum, or no count that is the last bucket's".to_owned()),
        }
    }
}

/// The labels by which a metric of a family differs from the next.
fn metric(series: &Series) -> BTreeMap<String, String> {
    let labels = series.labels.iter().filter(|(name, _)| name.as_str() != "le");
    labels.map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// `name{label="value",…} 1.0`, without a moment or an exemplar.
fn series(line: &str) -> Read<Series> {
    let end = line.find(['{', ' ']).ok_or("no value")?;
    let (name, rest) = line.split_at(end);
    if !is_name(name, true) {
        return Err("no name of a sample".to_owned());
    }
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (BTreeMap::new(), rest),
    };
    let value = rest.strip_prefix(' ').ok_or("no space before the value")?;
    Ok(Series { name: name.to_owned(), labels, value: number(value)? })
}

/// The labels up to their brace, and what follows it.
fn labels(mut rest: &str) -> Read<(BTreeMap<String, String>, &str)> {
    let mut labels = BTreeMap::new();
    if let Some(rest) = rest.strip_prefix('}') {
        return Ok((labels, rest));
    }
    loop {
        let (name, after) = rest.split_once("=\"").ok_or("a label without a value")?;
        if !is_name(name, false) || name.starts_with("__") {
            return Err(format!("{name} is no label"));
        }
        let (value, after) = quoted(after)?;
        if labels.insert(name.to_owned(), value).is_some() {
            return Err(format!("the label {name} twice"));
        }
        match (after.strip_prefix('}'), after.strip_prefix(',')) {
            (Some(after), _) => return Ok((labels, after)),
            (None, Some(after)) => rest = after,
            (None, None) => return Err("no end of the labels".to_owned()),
        }
    }
}

/// A label's value up to its closing quote, and what follows it.
fn quoted(text: &str) -> Read<(String, &str)> {
    let (mut value, mut chars) = (String::new(), text.char_indices());
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return Ok((value, &text[at + 1..])),
            '\\' => value.push(match chars.next() {
                Some((_, '\\')) => '\\',
                Some((_, '"')) => '"',
                Some((_, 'n')) => '\n',
                _ => return Err("an escape that is none".to_owned()),
            }),
            char => value.push(char),
        }
    }
    Err("a value without its closing quote".to_owned())
}

fn number(text: &str) -> Read<f64> {
    let is_real = text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
    let is_other = ["+Inf", "-Inf", "NaN"].contains(&text);
    text.parse().ok().filter(|_| is_real || is_other).ok_or_else(|| format!("{text} is no number"))
}

fn is_name(text: &str, colons: bool) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || (colons && byte == b':');
    !text.is_empty() && text.bytes().all(fits) && !text.starts_with(|first: char| first.is_ascii_digit())
}

const RIGHT: &str = r#"# HELP a_seconds How long.
# TYPE a_seconds histogram
a_seconds_sum{x="1"} 3.5
a_seconds_count{x="1"} 2
a_seconds_bucket{le="1.0",x="1"} 1
a_seconds_bucket{le="+Inf",x="1"} 2
# HELP b How many.
# TYPE b counter
b_total{} 1
b_total{x="a \"b\", c"} 2.0
# HELP c Now.
# TYPE c gauge
c -1.5
# EOF
"#;

#[test]
fn what_is_right_is_read() {
    let series = read(RIGHT).unwrap();

    assert_eq!(series.len(), 7);
    assert_eq!(series[5].labels["x"], r#"a "b", c"#);
    assert_eq!((series[6].name.as_str(), series[6].value), ("c", -1.5));
}

#[test]
fn what_is_wrong_is_refused() {
    for (right, wrong) in [
        ("# EOF\n", "# EOF"),
        ("# EOF\n", ""),
        ("# HELP c Now.\n# TYPE c gauge\n", "# HELP b How many.\n# TYPE b counter\n"),
        ("# HELP c Now.\n", ""),
        ("# TYPE c gauge\n", ""),
        ("# TYPE c gauge\n", "# TYPE c gauge\n# TYPE c gauge\n"),
        ("c -1.5\n", "c -1.5\n\n"),
        ("c -1.5\n", "c -1.5\nc -1.5\n"),
        ("c -1.5\n", "c -1.5\n# HELP c Now.\n"),
        ("c -1.5\n", "d -1.5\n"),
        ("c -1.5\n", "c -1.5 1700000000\n"),
        ("c -1.5\n", "c infinity\n"),
        ("c -1.5\n", "c{x=\"1\",} 1\n"),
        ("c -1.5\n", "c{x=\"1\",x=\"2\"} 1\n"),
        ("c -1.5\n", "c{x=\"\\t\"} 1\n"),
        ("c gauge", "b_total gauge"),
        ("b_total{} 1", "b{} 1"),
        ("b_total{} 1", "b_total{} -1"),
        ("le=\"+Inf\"", "le=\"2.0\""),
        ("a_seconds_count{x=\"1\"} 2", "a_seconds_count{x=\"1\"} 3"),
        ("a_seconds_bucket{le=\"1.0\",x=\"1\"} 1", "a_seconds_bucket{le=\"1.0\",x=\"1\"} 3"),
        ("a_seconds_sum{x=\"1\"} 3.5\n", ""),
    ] {
        let text = RIGHT.replacen(right, wrong, 1);
        assert_ne!(text, RIGHT);
        assert!(read(&text).is_err(), "{wrong:?} is taken in place of {right:?}");
    }
}
