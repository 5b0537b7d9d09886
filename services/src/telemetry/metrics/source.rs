//! Samples that are read at the moment of a scrape: gauges of the system and of pools, counts that
//! others keep.

use std::{collections::BTreeMap, fmt, sync::Arc};

use parking_lot::Mutex;
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
type Source = Box<dyn Fn() -> Vec<Sample> + Send + Sync>;

/// All sources of a process. They are written together: a family may stand in an exposition once,
/// whoever has samples of it.
#[derive(Clone, Default)]
pub(super) struct Sources(Arc<Mutex<Vec<Source>>>);

impl Sources {
    pub(super) fn add(&self, source: Source) {
        self.0.lock().push(source);
    }

    /// By family, each series once: the last that was read.
    fn families(&self) -> BTreeMap<&'static str, BTreeMap<Labels, Sample>> {
        let mut families: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
        for sample in self.0.lock().iter().flat_map(|source| source()) {
            families.entry(sample.metric.family()).or_default().insert(sample.labels.clone(), sample);
        }
        families
    }
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sources")
    }
}

impl Collector for Sources {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        for (family, samples) in self.families() {
            let Some(Sample { metric, .. }) = samples.values().next() else { continue };
            let kind = match metric.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge | Kind::Histogram => MetricType::Gauge,
            };
            // A registered metric's help gets its full stop from the registry, a collector's does
            // not.
            let help = format!("{}.", metric.help);
            let mut family = encoder.encode_descriptor(family, &help, None, kind)?;
            for Sample { metric, labels, value } in samples.values() {
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
