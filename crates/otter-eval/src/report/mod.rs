//! The report of a quickstart run: one HTML file that needs nothing else (no network, no script).
//!
//! [`QuickstartReport`] is plain data; [`render`] turns it into the page. Everything in it is text and is escaped.

mod html;
mod samples;
mod svg;

use serde::{Deserialize, Serialize};

use crate::evaluate::EvaluationRecord;
use crate::evaluate::table::ShotTable;

pub use samples::sample_card;

/// Everything the page shows. Empty lists leave their section out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct QuickstartReport {
    /// Heading, for example `Otter quickstart`.
    pub title: String,
    /// The result in one or two sentences, shown large under the heading.
    pub headline: String,
    /// What was done, in a few sentences.
    pub summary: String,
    /// Machine, version and date, in small print.
    pub environment: Vec<String>,
    /// Wall-clock time of the whole run.
    pub seconds: f64,
    /// Training samples used.
    pub samples: u64,
    /// Parameters that were trained.
    pub parameters_trained: u64,
    /// All parameters.
    pub parameters_total: u64,
    /// Largest memory in use, in bytes, if it could be measured.
    pub peak_memory_bytes: Option<u64>,
    /// What the plan had expected.
    pub planned_memory_bytes: Option<u64>,
    /// Further numbers, shown like the ones above.
    pub cards: Vec<Card>,
    /// Stages of the run in order; drawn as one bar.
    pub stages: Vec<Stage>,
    /// Models that are compared, in the order of their colors.
    pub models: Vec<ModelResult>,
    /// Losses over optimizer steps.
    pub loss: Vec<Curve>,
    /// Learning rates over optimizer steps.
    pub learning_rate: Vec<Curve>,
    /// Queries with what the model said.
    pub samples_shown: Vec<SampleCard>,
    /// Limits of what was measured, as a list.
    pub caveats: Vec<String>,
    /// Commands that repeat the run and that could come next.
    pub commands: Vec<CommandGroup>,
}

/// One number.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Card {
    /// What it is.
    pub label: String,
    /// The number with its unit.
    pub value: String,
    /// A remark, or empty.
    pub note: String,
}

/// A stage of the run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    /// Name.
    pub name: String,
    /// Wall-clock time.
    pub seconds: f64,
}

/// A model and its shot table.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelResult {
    /// Short name for legends, for example `tuned with examples`.
    pub name: String,
    /// What it is.
    pub description: String,
    /// Its results.
    pub table: ShotTable,
}

/// A curve over optimizer steps.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Curve {
    /// Name for the legend.
    pub name: String,
    /// Position of its model in [`QuickstartReport::models`], which gives the color; `None` for gray.
    pub model: Option<usize>,
    /// Drawn as a line with dots (few evaluation points) instead of a thin line.
    pub evaluation: bool,
    /// (step, value); values that are no numbers leave a gap.
    pub points: Vec<(f64, f64)>,
}

/// A query with its in-context examples and what the model answered.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SampleCard {
    /// Above the card, for example `binding, held out · 2 shots`.
    pub caption: String,
    /// In-context examples.
    pub examples: Vec<Turn>,
    /// The query; its `answer` is not shown.
    pub query: Turn,
    /// What the model answered.
    pub model_answer: String,
    /// The right answer.
    pub truth: String,
    /// Whether the model's answer is right.
    pub right: bool,
    /// Candidates with their probability among the candidates, 0 to 1; may be empty.
    pub candidates: Vec<(String, f64)>,
}

/// One turn of a conversation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Turn {
    /// Image files (PNG, JPEG, GIF or WebP) as they are.
    pub images: Vec<Vec<u8>>,
    /// What the user asks.
    pub question: String,
    /// What was answered.
    pub answer: String,
}

/// Commands under one heading.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CommandGroup {
    /// Heading, for example `Repeat this run`.
    pub title: String,
    /// Command lines with a remark each (may be empty).
    pub commands: Vec<(String, String)>,
}

impl SampleCard {
    /// A card of an evaluated query: turns and images come from the caller, the rest from the record.
    pub fn from_record(record: &EvaluationRecord, examples: Vec<Turn>, query: Turn) -> Self {
        let most = record.candidates.iter().map(|c| c.log_probability).fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = record.candidates.iter().map(|c| (c.log_probability - most).exp()).collect();
        let total: f64 = weights.iter().sum();
        let candidates = std::iter::zip(&record.candidates, &weights)
            .map(|(candidate, weight)| (candidate.text.clone(), weight / total))
            .collect();
        let chosen = record.choice.and_then(|choice| record.candidates.get(choice)).map(|c| c.text.clone());
        let held_out = if record.held_out { ", held out" } else { "" };
        let shots = if record.shots == 1 { "1 shot".to_owned() } else { format!("{} shots", record.shots) };
        Self {
            caption: format!("{}{held_out} · {shots}", record.family),
            examples,
            query,
            model_answer: record.generated.clone().or(chosen).unwrap_or_default(),
            truth: record.answer.clone(),
            right: if record.generated.is_some() { record.exact_match } else { record.correct },
            candidates,
        }
    }
}

/// The page.
pub fn render(report: &QuickstartReport) -> String {
    html::page(report)
}
