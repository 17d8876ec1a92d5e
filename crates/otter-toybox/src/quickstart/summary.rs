//! What a quickstart tells: the table, the JSON summary, the content of the report.

use std::path::PathBuf;

use otter_checkpoint::LoadedModel;
use otter_data::{DataReport, Dataset};
use otter_eval::report::{Card, CommandGroup, Curve, ModelResult, QuickstartReport, SampleCard, Stage};
use otter_eval::table::{Cell, compare};
use otter_eval::{ShotTable, sample_card};
use otter_model::FreezeRule;
use otter_train::{StepReport, TokenCounts, TrainSummary};
use serde_json::{Value, json};

use super::error::QuickstartError;
use super::options::{MEASURE, Measured, QuickstartOptions};

/// Parameters of a model.
#[derive(Clone, Copy, Debug)]
pub struct Counts {
    /// All.
    pub total: u64,
    /// Trained.
    pub trained: u64,
}

impl Counts {
    /// Counts under a rule.
    pub fn new(model: &LoadedModel, rule: &FreezeRule) -> Self {
        let trained = model.parameters.iter().filter(|p| rule.is_trainable(model.otter.config(), &p.name));
        Self { total: model.parameters.total_count(), trained: trained.map(|p| p.tensor.len() as u64).sum() }
    }
}

/// Loss and learning rate of a run.
#[derive(Clone, Debug, Default)]
pub struct Curves {
    /// (step, mean loss of the steps since the last point).
    pub loss: Vec<(f64, f64)>,
    /// (step, learning rate).
    pub learning_rate: Vec<(f64, f64)>,
    /// Samples of the run.
    pub samples: u64,
    /// Their tokens, with and without padding.
    pub tokens: TokenCounts,
    /// Samples used and left out in the phases that ended.
    pub data: DataReport,
    sum: f64,
    count: u64,
    /// Steps and samples of the phases before.
    before: (u64, u64),
    last: (u64, u64),
}

/// Steps averaged into one point of a curve.
const STEPS_A_POINT: u64 = 5;

impl Curves {
    /// Adds a step.
    pub fn add(&mut self, report: &StepReport) {
        self.sum += report.loss;
        self.count += 1;
        self.last = (report.step, report.samples_seen);
        self.samples = self.before.1 + report.samples_seen;
        self.tokens.add(report.tokens);
        if self.count == STEPS_A_POINT || report.step == report.total_steps {
            let step = (self.before.0 + report.step) as f64;
            self.loss.push((step, self.sum / self.count as f64));
            self.learning_rate.push((step, report.learning_rate));
            (self.sum, self.count) = (0.0, 0);
        }
    }

    /// Ends a phase: the next one's steps follow this one's.
    pub fn end_phase(&mut self, summary: &TrainSummary) {
        self.data.merge(DataReport {
            used: summary.samples_seen,
            skipped: summary.skipped.clone(),
            examples: summary.skipped_examples.clone(),
            ..DataReport::default()
        });
        self.before = (self.before.0 + self.last.0, self.before.1 + self.last.1);
        self.last = (0, 0);
    }
}

/// Everything a quickstart found.
pub struct Results<'a> {
    /// What was asked for.
    pub options: &'a QuickstartOptions,
    /// Wall-clock time of everything before the report.
    pub seconds: f64,
    /// Stages with their seconds.
    pub stages: Vec<(String, f64)>,
    /// Parameters.
    pub counts: Counts,
    /// The base before tuning.
    pub base: Measured,
    /// Tuned with in-context examples.
    pub tuned: Measured,
    /// Tuned without.
    pub twin: Measured,
    /// Curves of both tunings.
    pub curves: [Curves; 2],
    /// Summary of the tuning with examples.
    pub summary: TrainSummary,
    /// Where the model lies.
    pub model: PathBuf,
}

const NAMES: [&str; 3] = ["tuned", "twin", "base"];
const DESCRIPTIONS: [&str; 3] = [
    "tuned with in-context examples",
    "tuned on the same questions without in-context examples",
    "before tuning: gates closed, pictures not seen",
];

impl Results<'_> {
    fn measured(&self) -> [&Measured; 3] {
        [&self.tuned, &self.twin, &self.base]
    }
}

/// The shot table of the three models.
pub fn table(results: &Results<'_>) -> String {
    let tables: Vec<(&str, &ShotTable)> =
        NAMES.into_iter().zip(results.measured().map(|m| &m.table)).collect();
    compare(&tables, MEASURE)
}

fn tokens(curves: &Curves) -> Value {
    let TokenCounts { real, computed, unpacked } = curves.tokens;
    json!({"real": real, "computed": computed, "unpacked": unpacked})
}

/// The summary for machines.
pub fn json(results: &Results<'_>) -> Value {
    let models: Vec<Value> = NAMES
        .iter()
        .zip(results.measured())
        .map(|(name, m)| json!({"name": name, "table": m.table.to_json(), "evaluation_seconds": m.evaluation.seconds}))
        .collect();
    let stages: Vec<Value> = results.stages.iter().map(|(n, s)| json!({"name": n, "seconds": s})).collect();
    json!({
        "seconds": results.seconds,
        "stages": stages,
        "parameters": {"total": results.counts.total, "trained": results.counts.trained},
        "samples": {"tuned": results.curves[0].samples, "twin": results.curves[1].samples},
        "skipped": {"tuned": results.curves[0].data.skipped, "twin": results.curves[1].data.skipped},
        "tokens": {"tuned": tokens(&results.curves[0]), "twin": tokens(&results.curves[1])},
        "memory": {"planned_bytes": results.summary.planned_bytes, "peak_bytes": results.summary.peak_bytes},
        "final_loss": results.summary.loss,
        "seed": results.options.seed,
        "scale": results.options.scale,
        "models": models,
        "model": results.model,
    })
}

/// The cell of a family, held out where the family has such a row.
fn cell<'t>(table: &'t ShotTable, family: &str, shots: usize) -> Option<&'t Cell> {
    let rows = table.rows.iter().filter(|row| row.family == family && row.kind.is_none());
    rows.max_by_key(|row| row.held_out == Some(true)).and_then(|row| row.cells.get(&shots))
}

fn percent(cell: Option<&Cell>) -> String {
    cell.and_then(|c| c.accuracy(MEASURE)).map_or("–".to_string(), |a| format!("{:.1} %", 100.0 * a))
}

/// The content of the report.
///
/// # Errors
/// Samples or pictures that cannot be read.
pub fn report(
    results: &Results<'_>,
    datasets: &[(usize, Dataset)],
) -> Result<QuickstartReport, QuickstartError> {
    let out = results.options.out.display();
    let binding = |m: &Measured, shots| percent(cell(&m.table, "binding", shots));
    let card = |label: &str, value: String, note: &str| Card {
        label: label.to_string(),
        value,
        note: note.to_string(),
    };
    let models = NAMES.iter().zip(DESCRIPTIONS).zip(results.measured());
    let curve = |name: &str, model, points: &Vec<(f64, f64)>| Curve {
        name: name.to_string(),
        model: Some(model),
        evaluation: false,
        points: points.clone(),
    };
    let [tuned, twin] = &results.curves;
    Ok(QuickstartReport {
        title: "Otter quickstart".to_string(),
        headline: "A small Otter learned new words from the pictures in its prompt".to_string(),
        summary: format!(
            "Made-up words were bound to pictures only inside each prompt, with words and pairs of concepts that never \
             occurred in tuning. With one example of each, the tuned model names a fresh picture right {} of the time \
             (chance is 50 %); without examples {}. Its twin, tuned on the same questions without examples, reaches {}.",
            binding(&results.tuned, 1),
            binding(&results.tuned, 0),
            binding(&results.twin, 1),
        ),
        environment: vec![
            format!("otter {}", env!("CARGO_PKG_VERSION")),
            format!("{} threads", rayon::current_num_threads()),
            format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            format!("seed {}", results.options.seed),
            format!("tuning {}", tuned.tokens),
            format!("tuned: {}", tuned.data),
            format!("twin: {}", twin.data),
        ],
        seconds: results.seconds,
        samples: tuned.samples,
        parameters_trained: results.counts.trained,
        parameters_total: results.counts.total,
        peak_memory_bytes: results.summary.peak_bytes,
        planned_memory_bytes: Some(results.summary.planned_bytes),
        cards: vec![
            card("Attribute questions", percent(cell(&results.tuned.table, "attribute", 0)), "0 examples"),
            card("New words, 1 example each", binding(&results.tuned, 1), "two-way, chance 50 %"),
            card("New words, no example", binding(&results.tuned, 0), "nothing to go by"),
            card("Twin, 1 example each", binding(&results.twin, 1), "tuned without examples"),
        ],
        stages: results.stages.iter().map(|(name, seconds)| Stage { name: name.clone(), seconds: *seconds }).collect(),
        models: models
            .map(|((name, description), m)| ModelResult {
                name: (*name).to_string(),
                description: description.to_string(),
                table: m.table.clone(),
            })
            .collect(),
        loss: vec![curve("tuned", 0, &tuned.loss), curve("twin", 1, &twin.loss)],
        learning_rate: vec![curve("tuned", 0, &tuned.learning_rate), curve("twin", 1, &twin.learning_rate)],
        samples_shown: sample_cards(results, datasets)?,
        caveats: vec![
            "The pictures and the language are synthetic and small; the architecture, the data format, the tuning and \
             the code are those of a full-size Otter."
                .to_string(),
            "Choices are scored by log-probability among the candidates of each question; intervals are 95 % Wilson \
             intervals."
                .to_string(),
        ],
        commands: vec![
            CommandGroup {
                title: "Talk to it".to_string(),
                commands: vec![(format!("otter chat --model {out}/model"), String::new())],
            },
            CommandGroup {
                title: "Repeat and vary".to_string(),
                commands: vec![
                    (
                        format!("otter quickstart --out {out} --seed {}", results.options.seed),
                        "this run".to_string(),
                    ),
                    (
                        format!("otter train --config {out}/tuned/config.toml train.run_dir=runs/longer train.steps=3000"),
                        "tune longer".to_string(),
                    ),
                    (
                        format!("otter eval --model {out}/model --data {out}/data"),
                        "the table again".to_string(),
                    ),
                ],
            },
        ],
    })
}

/// Cards for a few queries: binding with held-out words first, wrong answers included as they come.
fn sample_cards(
    results: &Results<'_>,
    datasets: &[(usize, Dataset)],
) -> Result<Vec<SampleCard>, QuickstartError> {
    let wanted = [
        ("binding", 1, 3),
        ("attribute", 0, 1),
        ("attribute", 2, 1),
        ("counting", 1, 1),
        ("relation", 1, 1),
        ("difference", 1, 1),
        ("referring", 1, 1),
    ];
    let mut cards = Vec::new();
    for (family, shots, count) in wanted {
        let Some((_, dataset)) = datasets.iter().find(|(s, _)| *s == shots) else { continue };
        let records = results.tuned.evaluation.records.iter();
        let of_family = records.filter(|r| r.family == family && r.shots == shots);
        let held_out_first: Vec<_> = match family {
            "binding" => of_family.filter(|r| r.held_out).collect(),
            _ => of_family.collect(),
        };
        // Evenly over the list, so that the choice does not depend on the outcome.
        let stride = (held_out_first.len() / count).max(1);
        for record in held_out_first.into_iter().step_by(stride).take(count) {
            cards.push(sample_card(dataset, record)?);
        }
    }
    Ok(cards)
}
