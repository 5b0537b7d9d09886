//! Samples that are read at the moment of a scrape: gauges of the system and of pools, counts that others keep.

use std::{collections::BTreeMap, fmt};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, NoLabelSet},
    metrics::MetricType,
};

use super::names::{Described, Kind, Labels, Metric};

/// The value of one series.
#[derive(Debug, Clone)]
pub struct Sample {
    metric: Described,
    labels: Labels,
    value: f64,
}

impl Sample {
    /// Of a gauge or a counter, with the labels' values in their order.
    pub fn of<const N: usize>(metric: &'static Metric<N>, labels: [&str; N], value: f64) -> Self {
        Self { metric: metric.described(), labels: metric.labels(labels), value }
    }
}

/// Where samples come from.
pub struct Source {
    read: Box<dyn Fn() -> Vec<Sample> + Send + Sync>,
}

impl Source {
    pub(super) fn new(read: impl Fn() -> Vec<Sample> + Send + Sync + 'static) -> Self {
        Self { read: Box::new(read) }
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Source")
    }
}

impl Collector for Source {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        // A family's series stand together, whatever the order in which they were read.
        let mut families: BTreeMap<&str, Vec<Sample>> = BTreeMap::new();
        for sample in (self.read)() {
            families.entry(sample.metric.family()).or_default().push(sample);
        }
        for (family, samples) in families {
            let Some(Sample { metric, .. }) = samples.first() else { continue };
            let kind = match metric.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge | Kind::Histogram => MetricType::Gauge,
            };
            // A registered metric's help gets its full stop from the registry, a collector's does not.
            let help = format!("{}.", metric.help);
            let mut family = encoder.encode_descriptor(family, &help, None, kind)?;
            for Sample { metric, labels, value } in &samples {
                let mut series = family.encode_family(labels)?;
                match metric.kind {
                    Kind::Counter => series.encode_counter::<NoLabelSet, _, u64>(value, None)?,
                    Kind::Gauge | Kind::Histogram => series.encode_gauge(value)?,
                }
            }
        }
        Ok(())
    }
}
