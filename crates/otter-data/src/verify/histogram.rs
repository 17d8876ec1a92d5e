//! A histogram of bounded size for counts of any magnitude.
//!
//! Values below 16 have a bin each; above, each power of two has eight bins, so a bin is at most an eighth wide.

use serde::{Deserialize, Serialize};

const EXACT: u64 = 16;
const BINS_PER_OCTAVE: u64 = 8;

/// Counts of whole numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Histogram {
    bins: Vec<u64>,
    count: u64,
    sum: u128,
    min: u64,
    max: u64,
}

impl Histogram {
    pub(crate) fn add(&mut self, value: u64) {
        let bin = bin_of(value);
        if bin >= self.bins.len() {
            self.bins.resize(bin + 1, 0);
        }
        self.bins[bin] += 1;
        self.min = if self.count == 0 { value } else { self.min.min(value) };
        self.max = self.max.max(value);
        self.count += 1;
        self.sum += u128::from(value);
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        if other.count == 0 {
            return;
        }
        if other.bins.len() > self.bins.len() {
            self.bins.resize(other.bins.len(), 0);
        }
        for (own, more) in self.bins.iter_mut().zip(&other.bins) {
            *own += more;
        }
        self.min = if self.count == 0 { other.min } else { self.min.min(other.min) };
        self.max = self.max.max(other.max);
        self.count += other.count;
        self.sum += other.sum;
    }

    /// The lower bound of the bin in which the value of this rank lies, never outside of what occurred.
    fn quantile(&self, part: f64) -> u64 {
        let rank = ((self.count as f64 * part).ceil() as u64).clamp(1, self.count.max(1));
        let mut passed = 0;
        for (bin, count) in self.bins.iter().enumerate() {
            passed += count;
            if passed >= rank {
                return lower_bound(bin).clamp(self.min, self.max);
            }
        }
        self.max
    }

    /// The form for reports; `None` if nothing was counted.
    pub(crate) fn summary(&self, name: &str, unit: &str) -> Option<HistogramSummary> {
        if self.count == 0 {
            return None;
        }
        Some(HistogramSummary {
            name: name.to_owned(),
            unit: unit.to_owned(),
            count: self.count,
            mean: self.sum as f64 / self.count as f64,
            min: self.min,
            median: self.quantile(0.5),
            p90: self.quantile(0.9),
            p99: self.quantile(0.99),
            max: self.max,
            bins: (self.bins.iter().enumerate())
                .filter(|(_, count)| **count > 0)
                .map(|(bin, &count)| Bin { from: lower_bound(bin), to: lower_bound(bin + 1) - 1, count })
                .collect(),
        })
    }
}

fn bin_of(value: u64) -> usize {
    if value < EXACT {
        return value as usize;
    }
    let octave = u64::from(value.ilog2());
    let within = (value >> (octave - 3)) - BINS_PER_OCTAVE;
    (EXACT + (octave - 4) * BINS_PER_OCTAVE + within) as usize
}

fn lower_bound(bin: usize) -> u64 {
    let bin = bin as u64;
    if bin < EXACT {
        return bin;
    }
    let (octave, within) = ((bin - EXACT) / BINS_PER_OCTAVE + 4, (bin - EXACT) % BINS_PER_OCTAVE);
    if octave >= 64 { u64::MAX } else { (BINS_PER_OCTAVE + within) << (octave - 3) }
}

/// A histogram in a report. Quantiles are lower bounds of bins at most an eighth wide; mean, smallest and largest are exact.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HistogramSummary {
    /// What was counted.
    pub name: String,
    /// Unit of the values.
    pub unit: String,
    /// How many values.
    pub count: u64,
    /// Their mean.
    pub mean: f64,
    /// The smallest.
    pub min: u64,
    /// Half of them are at most about this.
    pub median: u64,
    /// Nine tenths are.
    pub p90: u64,
    /// All but a hundredth are.
    pub p99: u64,
    /// The largest.
    pub max: u64,
    /// The bins that hold something, in order.
    pub bins: Vec<Bin>,
}

/// Values from `from` to `to`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bin {
    /// Smallest value of the bin.
    pub from: u64,
    /// Largest value of the bin.
    pub to: u64,
    /// How many values.
    pub count: u64,
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn bins_cover_every_value_once() {
        for value in (0..5000).chain([u64::from(u32::MAX), 1 << 40, u64::MAX / 2, u64::MAX - 1]) {
            let bin = bin_of(value);
            assert!(lower_bound(bin) <= value && value < lower_bound(bin + 1), "{value} in bin {bin}");
        }
        let mut largest = Histogram::default();
        largest.add(u64::MAX);
        assert_eq!(largest.summary("", "").unwrap().max, u64::MAX);
    }

    #[test]
    fn merging_is_adding() {
        let values: Vec<u64> = (0..2000_u64).map(|i| i * i * 7 % 10_007).collect();
        let mut whole = Histogram::default();
        values.iter().for_each(|&value| whole.add(value));
        let mut parts = Histogram::default();
        for chunk in values.chunks(77) {
            let mut part = Histogram::default();
            chunk.iter().for_each(|&value| part.add(value));
            parts.merge(&part);
        }
        assert_eq!(whole, parts);
        let summary = whole.summary("x", "y").unwrap();
        let mut sorted = values.clone();
        sorted.sort_unstable();
        let exact = sorted[999] as f64;
        assert!((summary.median as f64) <= exact && summary.median as f64 > exact * 0.88);
        assert_eq!((summary.min, summary.max), (sorted[0], sorted[1999]));
        assert_eq!(summary.bins.iter().map(|bin| bin.count).sum::<u64>(), 2000);
        assert!(Histogram::default().summary("x", "y").is_none());
    }
}
