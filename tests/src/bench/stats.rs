//! Medians and percentiles.

use serde::Serialize;

/// The value below which this share of them lies (nearest rank); 0 of none.
pub fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

pub fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// Milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Latency {
    pub median: f64,
    pub p99: f64,
    pub longest: f64,
}

impl Latency {
    pub fn of(milliseconds: &[f64]) -> Self {
        let at = |share| quantile(milliseconds, share);
        Self { median: at(0.5), p99: at(0.99), longest: at(1.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_there() {
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();

        assert_eq!(median(&hundred), 50.0);
        assert_eq!(Latency::of(&hundred), Latency { median: 50.0, p99: 99.0, longest: 100.0 });
        assert_eq!(Latency::of(&[7.0]), Latency { median: 7.0, p99: 7.0, longest: 7.0 });
        assert_eq!(median(&[]), 0.0);
    }
}
