//! What a run found, for a terminal, a program or a page.

use serde::{Deserialize, Serialize};

use super::finding::{FindingSummary, Reason, Severity};
use super::histogram::HistogramSummary;
use super::{Thumbnail, Verifier};

/// Pictures for the page.
#[derive(Debug, Clone, Default)]
pub(crate) struct Thumbnails {
    pub(crate) samples: Vec<Thumbnail>,
    /// The first image with its content, and a copy.
    pub(crate) duplicates: Vec<(Thumbnail, Thumbnail)>,
}

/// The result of [`super::verify`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VerifyReport {
    /// Sum of the counts of all errors.
    pub errors: u64,
    /// Sum of the counts of all warnings.
    pub warnings: u64,
    /// The run stopped at the first error (`strict`); counts are those up to there.
    pub stopped_early: bool,
    /// Only ids were looked at.
    pub ids_only: bool,
    /// A tokenizer was given, so lengths and labels were looked at.
    pub tokens_checked: bool,
    /// Records there are.
    pub records: u64,
    /// Samples there are, and how many of them can be used.
    pub samples: u64,
    /// Samples without an error.
    pub usable_samples: u64,
    /// Records that are only examples in the context of others, and no samples.
    #[serde(default)]
    pub example_only: u64,
    /// Images there are.
    pub images: u64,
    /// The sets that could be opened.
    pub sets: Vec<SetSummary>,
    /// The image tables that could be opened.
    pub tables: Vec<TableSummary>,
    /// What was found, errors first.
    pub findings: Vec<FindingSummary>,
    /// What was measured.
    pub histograms: Vec<HistogramSummary>,
    /// Seconds the run took.
    pub seconds: f64,
    #[serde(skip)]
    pub(crate) thumbnails: Thumbnails,
}

/// One set of a report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetSummary {
    /// Its name.
    pub name: String,
    /// Its task group.
    pub group: String,
    /// Its instruction file.
    pub instructions: String,
    /// Records in it.
    pub records: u64,
    /// Samples made of them.
    pub samples: u64,
    /// Samples without an error.
    pub usable_samples: u64,
}

/// One image table of a report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableSummary {
    /// Its file or folder.
    pub path: String,
    /// Images in it.
    pub images: u64,
}

impl VerifyReport {
    /// The count of a reason.
    pub fn count(&self, reason: Reason) -> u64 {
        self.finding(reason).map_or(0, |finding| finding.count)
    }

    /// What was found under a reason.
    pub fn finding(&self, reason: Reason) -> Option<&FindingSummary> {
        self.findings.iter().find(|finding| finding.reason == reason.name())
    }

    /// Whether there is no error.
    pub fn is_clean(&self) -> bool {
        self.errors == 0
    }
}

pub(super) fn build(verifier: Verifier<'_>) -> VerifyReport {
    let stopped_early = verifier.stops();
    let sources = &verifier.sources;
    let sets: Vec<SetSummary> = (sources.sets.iter().zip(&verifier.usable_samples))
        .map(|(opened, &usable_samples)| SetSummary {
            name: opened.set.name.clone(),
            group: opened.set.group.name().to_owned(),
            instructions: opened.set.instructions.path().display().to_string(),
            records: opened.set.instructions.len() as u64,
            samples: opened.samples(),
            usable_samples,
        })
        .collect();
    let tables: Vec<TableSummary> = (sources.tables.iter())
        .map(|opened| TableSummary {
            path: opened.table.path().display().to_string(),
            images: opened.table.len() as u64,
        })
        .collect();
    let histograms = &verifier.histograms;
    let measured = [
        (&histograms.tokens, "tokens of a sample", "tokens"),
        (&histograms.trained_tokens, "trained tokens of a sample", "tokens"),
        (&histograms.instruction_characters, "length of an instruction", "characters"),
        (&histograms.answer_characters, "length of an answer", "characters"),
        (&histograms.images_per_record, "images of a record", "images"),
        (&histograms.context, "context of a sample", "records"),
        (&histograms.width, "image width", "pixels"),
        (&histograms.height, "image height", "pixels"),
        (&histograms.image_bytes, "encoded image", "bytes"),
    ];
    let histograms =
        measured.iter().filter_map(|(histogram, name, unit)| histogram.summary(name, unit)).collect();
    let findings = verifier.findings.into_summaries(&sources.files);
    let sum = |severity| {
        findings.iter().filter(|finding| finding.severity == severity).map(|finding| finding.count).sum()
    };
    VerifyReport {
        errors: sum(Severity::Error),
        warnings: sum(Severity::Warning),
        stopped_early,
        ids_only: verifier.options.ids_only,
        tokens_checked: verifier.tokenizer.is_some(),
        records: sets.iter().map(|set| set.records).sum(),
        samples: sets.iter().map(|set| set.samples).sum(),
        usable_samples: sets.iter().map(|set| set.usable_samples).sum(),
        example_only: sources.sets.iter().map(|opened| opened.example_only).sum(),
        images: tables.iter().map(|table| table.images).sum(),
        sets,
        tables,
        findings,
        histograms,
        seconds: verifier.begin.elapsed().as_secs_f64(),
        thumbnails: verifier.thumbnails,
    }
}
