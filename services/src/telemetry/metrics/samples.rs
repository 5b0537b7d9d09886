//! What a scrape shows, by family: a family may stand in an exposition once, whoever has samples of
//! it.

use std::{collections::BTreeMap, fmt};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet},
    metrics::{MetricType, histogram::Histogram},
};

use super::names::{Family, Kind, Metric};

/// The value of one series, of a gauge or a counter, as it was read when somebody asked.
#[derive(Debug, Clone)]
pub struct Sample {
    family: Family,
    labels: Labels,
    value: f64,
}

impl Sample {
    /// With the labels' values in their order.
    pub fn of<const N: usize>(metric: &Metric<N>, labels: [&str; N], value: impl Into<f64>) -> Self {
        Self { family: metric.family, labels: metric.labels(labels), value: value.into() }
    }
}

/// The labels of one series.
pub(super) type Labels = Vec<(&'static str, String)>;

/// What one series shows.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Count(u64),
    Number(f64),
    Durations(Histogram),
}

/// Each series once.
#[derive(Debug, Clone, Default)]
pub(super) struct Samples(BTreeMap<&'static str, (Family, BTreeMap<Labels, Value>)>);

impl Samples {
    /// A series, which is shown from now on.
    pub(super) fn series(&mut self, family: Family, labels: Labels) -> &mut Value {
        let (_, series) = self.0.entry(family.name).or_insert_with(|| (family, BTreeMap::new()));
        series.entry(labels).or_insert_with(|| match family.kind {
            Kind::Counter => Value::Count(0),
            Kind::Gauge => Value::Number(0.0),
            Kind::Histogram(buckets) => Value::Durations(Histogram::new(buckets.iter().copied())),
        })
    }

    /// The last one of a series is shown.
    pub(super) fn put(&mut self, Sample { family, labels, value }: Sample) {
        *self.series(family, labels) = Value::Number(value);
    }

    /// None where the series is not shown.
    pub(super) fn get(&self, family: Family, labels: &Labels) -> Option<&Value> {
        self.0.get(family.name)?.1.get(labels)
    }
}

impl Collector for Samples {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        for (name, (Family { kind, help, .. }, series)) in &self.0 {
            let shown_kind = match kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
                Kind::Histogram(_) => MetricType::Histogram,
            };
            let name = name.strip_suffix("_total").unwrap_or(name);
            let mut family = encoder.encode_descriptor(name, &format!("{help}."), None, shown_kind)?;
            for (labels, value) in series {
                let mut series = family.encode_family(labels)?;
                match (value, kind) {
                    (Value::Count(count), _) => series.encode_counter::<NoLabelSet, _, u64>(count, None)?,
                    (Value::Number(count), Kind::Counter) => {
                        series.encode_counter::<NoLabelSet, _, u64>(count, None)?
                    }
                    (Value::Number(number), _) => series.encode_gauge(number)?,
                    (Value::Durations(durations), _) => durations.encode(series)?,
                }
            }
        }
        Ok(())
    }
}
