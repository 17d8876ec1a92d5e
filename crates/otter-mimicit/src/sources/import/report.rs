//! What an import used, and what it left out and why.

use std::collections::BTreeMap;

use otter_data::{ImageCounts, WrittenSet};
use serde::Serialize;

use crate::sources::item::Skip;

/// Examples kept of every reason.
const EXAMPLES: usize = 5;

/// Things left out for one reason.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct SkipCount {
    /// How many.
    pub count: u64,
    /// `items` or `pairs`: what is counted.
    pub of: &'static str,
    /// The first few, in words.
    pub examples: Vec<String>,
}

/// The account of a finished import.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ImportReport {
    /// Items of the source.
    pub items: u64,
    /// Items of which something is in the data set.
    pub used: u64,
    /// Videos of which the limit left out frames.
    pub thinned: u64,
    /// Images that an earlier item had brought already.
    pub shared_images: u64,
    /// Pairs by language, of those that tell theirs.
    pub languages: BTreeMap<String, u64>,
    /// Pairs that serve others as examples and are no samples.
    pub example_only: u64,
    /// What is odd about the result, in words.
    pub warnings: Vec<String>,
    /// What was left out, by reason.
    pub skipped: BTreeMap<&'static str, SkipCount>,
    /// Images that hold more than the pixels that are shown.
    pub image_notes: ImageCounts,
    /// What was written.
    pub written: WrittenSet,
}

impl ImportReport {
    /// Counts something left out.
    pub fn skip(&mut self, skip: &Skip) {
        let count = self.skipped.entry(skip.reason.name()).or_default();
        count.count += 1;
        count.of = if skip.reason.of_pair() { "pairs" } else { "items" };
        if count.examples.len() < EXAMPLES {
            count.examples.push(skip.message.clone());
        }
    }

    /// What was left out, the most frequent reason first: a line a reason, with an example.
    pub fn left_out(&self) -> Vec<String> {
        let mut reasons: Vec<_> = self.skipped.iter().collect();
        reasons.sort_by_key(|(_, skip)| std::cmp::Reverse(skip.count));
        let in_words = |(reason, skip): (&&str, &SkipCount)| {
            let example =
                skip.examples.first().map(|example| format!(", e.g. {example}")).unwrap_or_default();
            format!("{} {} [{reason}]{example}", skip.count, skip.of)
        };
        reasons.into_iter().map(in_words).collect()
    }
}
