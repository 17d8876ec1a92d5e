//! What became of the samples of a run.

use std::collections::BTreeMap;
use std::fmt;

use otter_media::ImageCounts;
use serde::{Deserialize, Serialize};

use crate::error::{DataError, SkipReason};
use crate::sample::frame_cache::FrameCounts;

/// What became of the samples.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataReport {
    /// Samples in the batches given out.
    pub used: u64,
    /// Samples left out, by reason.
    pub skipped: BTreeMap<String, u64>,
    /// The first message of each reason, which names the sample.
    pub examples: BTreeMap<String, String>,
    /// Frames decoded and found in the data set's cache, those of samples made in advance included.
    #[serde(default)]
    pub frames: FrameCounts,
    /// Images of the used samples that hold more than their pixels show, each counted once.
    #[serde(default, skip_serializing_if = "ImageCounts::is_empty")]
    pub image_notes: ImageCounts,
}

impl DataReport {
    pub(crate) fn skip(&mut self, reason: SkipReason, error: &DataError) {
        self.leave_out(reason.name(), 1, || error.to_string());
    }

    /// Adds what became of further samples.
    pub fn merge(&mut self, other: Self) {
        self.used += other.used;
        self.frames.add(other.frames);
        self.image_notes.merge(other.image_notes);
        for (reason, count) in other.skipped {
            *self.skipped.entry(reason).or_default() += count;
        }
        for (reason, message) in other.examples {
            self.examples.entry(reason).or_insert(message);
        }
    }

    /// Number of samples left out.
    pub fn skipped_total(&self) -> u64 {
        self.skipped.values().sum()
    }

    /// Counts samples as left out; `example` tells of one of them.
    pub fn leave_out(&mut self, reason: &str, samples: u64, example: impl FnOnce() -> String) {
        *self.skipped.entry(reason.to_owned()).or_default() += samples;
        if !self.examples.contains_key(reason) {
            self.examples.insert(reason.to_owned(), example());
        }
    }

    /// `2 of 4 samples (50.0 %) are left out: too_long, for example sample …`
    pub fn line(&self, reason: &str) -> String {
        let (count, all) = (self.skipped.get(reason).copied().unwrap_or_default(), self.all());
        let share = percent(count, all);
        let example = match self.examples.get(reason) {
            Some(example) => format!(", for example {example}"),
            None => String::new(),
        };
        format!("{count} of {all} samples ({share}) are left out: {reason}{example}")
    }

    /// Samples used and left out.
    fn all(&self) -> u64 {
        self.used + self.skipped_total()
    }
}

impl fmt::Display for DataReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let skipped = self.skipped_total();
        if skipped == 0 {
            return write!(f, "samples: {} used, none left out", self.used);
        }
        write!(f, "samples: {} used, {skipped} left out ({})", self.used, percent(skipped, self.all()))?;
        let width = self.skipped.keys().map(String::len).max().unwrap_or_default();
        for (reason, count) in &self.skipped {
            write!(f, "\n  {reason:<width$} {count:>8}  {:>7}", percent(*count, self.all()))?;
            if let Some(example) = self.examples.get(reason) {
                write!(f, "  for example {example}")?;
            }
        }
        Ok(())
    }
}

/// A table: what was used, and a line for every reason for which samples were left out. A sample counts each time it is met.
fn percent(part: u64, all: u64) -> String {
    format!("{:.1} %", 100.0 * part as f64 / all.max(1) as f64)
}
