//! The quickstart: make toybox data, measure the base, tune it in context, tune a twin without in-context examples,
//! measure both, write a report and leave a model to chat with.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::world::language::Family;
use crate::world::{FamilyCounts, ToyboxOptions, write_toybox};
use otter_checkpoint::{LoadedModel, atomic, load_model};
use otter_data::{DataConfig, Dataset};
use otter_eval::{Detail, EvaluationOptions, ShotTable, Truth, evaluate};
use otter_model::FreezeRule;
use otter_train::memory::MemoryPlan;
use otter_train::{Observer, Resume, StepReport, TrainConfig, TrainSummary};

use super::error::QuickstartError;
use super::options::{Measured, QuickstartOptions};
use super::summary::{self, Curves, Results};
use super::{base, embedded};

/// How the toybox Otter is tuned: first on attribute questions alone, then on everything. The mixture from the start
/// keeps the gates nearly shut, because the first naming of a new word cannot be predicted and drowns the rest
/// (`docs/log.md`).
#[derive(Clone, Copy, Debug)]
struct Tuning {
    /// Steps on attribute questions.
    attribute_steps: u64,
    /// Steps on all families.
    all_steps: u64,
    batch_size: usize,
    learning_rate: f64,
}

/// Tuning with in-context examples.
const WITH_EXAMPLES: Tuning =
    Tuning { attribute_steps: 200, all_steps: 900, batch_size: 16, learning_rate: 3e-3 };
/// The twin sees about as many trained answers, one a sequence.
const WITHOUT_EXAMPLES: Tuning =
    Tuning { attribute_steps: 150, all_steps: 650, batch_size: 64, learning_rate: 3e-3 };
/// Training queries at scale 1.
const TRAINING_QUERIES: usize = 16_000;
/// Evaluation queries a family and number of shots.
const EVALUATION_QUERIES: usize = 300;
/// Shots of the evaluation.
pub const SHOTS: [usize; 4] = [0, 1, 2, 4];

/// What a quickstart leaves.
pub struct QuickstartResult {
    /// Base, tuned model and twin in one text table.
    pub table: String,
    /// The same and more as JSON.
    pub json: serde_json::Value,
    /// Where the model to chat with lies.
    pub model: PathBuf,
    /// The report.
    pub report: PathBuf,
}

/// Runs everything. `say` receives a line for each stage; `observer` follows the tuning. Setting `interrupt` ends the
/// run at the next safe point.
///
/// # Errors
/// Options out of bounds, files that cannot be written, an interrupt.
pub fn run(
    options: &QuickstartOptions,
    interrupt: &AtomicBool,
    observer: &mut dyn Observer,
    say: &mut dyn FnMut(&str),
) -> Result<QuickstartResult, QuickstartError> {
    if !(options.scale > 0.0 && options.scale <= 10.0) {
        return Err(QuickstartError::Scale { found: options.scale });
    }
    let device = options.open()?;
    let start = Instant::now();
    let mut stages = Stages { list: Vec::new(), interrupt };
    let out = &options.out;
    let data = out.join("data");
    claim(out)?;

    let base_dir = match &options.base {
        Some(directory) => directory.clone(),
        None => embedded::unpack(&out.join("base"))?,
    };
    say("1/6 rendering a toybox world as MIMIC-IT data");
    stages.time("render data", || write_data(&data, options))?;

    let truth = Truth::read_folder(&data.join("eval"))?;
    let base_model = load_model(&base_dir, device)?;
    let datasets = evaluation_sets(&data, &base_model)?;
    say("2/6 measuring the base model, which has never seen a picture together with text");
    let base = stages.time("evaluate base", || measure(&base_model, &datasets, &truth))?;
    let counts = summary::Counts::new(&base_model, &FreezeRule::Head);
    drop(base_model);

    say("3/6 tuning Perceiver, gated cross-attention and embeddings with in-context examples");
    let main = Run { name: "tuned", context: "train", tuning: WITH_EXAMPLES };
    let (tuned_summary, curves) =
        stages.time("tune with examples", || main.train(options, &base_dir, interrupt, observer))?;
    say("4/6 tuning a twin on the same questions without in-context examples");
    let twin = Run { name: "twin", context: "train_no_context", tuning: WITHOUT_EXAMPLES };
    let (twin_summary, twin_curves) =
        stages.time("tune twin", || twin.train(options, &base_dir, interrupt, observer))?;

    say("5/6 evaluating both on held-out data with 0, 1, 2 and 4 examples");
    let model = out.join("model");
    let tuned_model = load_model(&checkpoint_model(&tuned_summary)?, device)?;
    let tuned = stages.time("evaluate tuned", || measure(&tuned_model, &datasets, &truth))?;
    drop(tuned_model);
    let twin_model = load_model(&checkpoint_model(&twin_summary)?, device)?;
    let twin = stages.time("evaluate twin", || measure(&twin_model, &datasets, &truth))?;
    drop(twin_model);
    copy_directory(&checkpoint_model(&tuned_summary)?, &model)?;

    say("6/6 writing the report");
    let results = Results {
        options,
        seconds: start.elapsed().as_secs_f64(),
        stages: stages.list,
        counts,
        base,
        tuned,
        twin,
        curves: [curves, twin_curves],
        summary: tuned_summary,
        model: model.clone(),
    };
    let report = out.join("report.html");
    let html = otter_eval::render(&summary::report(&results, &datasets)?);
    atomic::write_file(&report, html.as_bytes())?;
    let json = summary::json(&results);
    atomic::write_file(&out.join("summary.json"), serde_json::to_string_pretty(&json)?.as_bytes())?;
    Ok(QuickstartResult { table: summary::table(&results), json, model, report })
}

/// Marks the directory as a quickstart's, so that only a quickstart's own results are ever replaced.
fn claim(out: &Path) -> Result<(), QuickstartError> {
    const MARK: &str = "quickstart.txt";
    let mark = out.join(MARK);
    if mark.is_file() {
        return Ok(());
    }
    let own = ["base", "data", "model", "tuned", "tuned-attributes", "twin", "twin-attributes"];
    if let Some(name) = own.into_iter().find(|name| out.join(name).exists()) {
        return Err(QuickstartError::Occupied { path: out.join(name) });
    }
    std::fs::create_dir_all(out).map_err(|source| QuickstartError::Io { path: out.to_path_buf(), source })?;
    Ok(atomic::write_file(&mark, b"Made by `otter quickstart`; a further one here replaces its results.\n")?)
}

/// Times stages and stops between them on an interrupt.
struct Stages<'a> {
    list: Vec<(String, f64)>,
    interrupt: &'a AtomicBool,
}

impl Stages<'_> {
    fn time<R>(
        &mut self,
        name: &str,
        body: impl FnOnce() -> Result<R, QuickstartError>,
    ) -> Result<R, QuickstartError> {
        let start = Instant::now();
        let result = body()?;
        self.list.push((name.to_string(), start.elapsed().as_secs_f64()));
        if self.interrupt.load(Ordering::Relaxed) {
            return Err(QuickstartError::Interrupted { stage: name.to_string() });
        }
        Ok(result)
    }
}

/// The toybox options of a quickstart.
fn toybox_options(options: &QuickstartOptions) -> ToyboxOptions {
    let scaled = |count: usize, least: usize| ((count as f64 * options.scale) as usize).max(least);
    ToyboxOptions {
        seed: options.seed,
        train: FamilyCounts::from_total(scaled(TRAINING_QUERIES, 200)),
        eval: FamilyCounts::each(scaled(EVALUATION_QUERIES, 8)),
        eval_shots: SHOTS.to_vec(),
        ..ToyboxOptions::default()
    }
}

fn write_data(data: &Path, options: &QuickstartOptions) -> Result<(), QuickstartError> {
    write_toybox(data, &toybox_options(options), &mut |_| {})?;
    Ok(())
}

/// One data set for each number of shots.
fn evaluation_sets(data: &Path, model: &LoadedModel) -> Result<Vec<(usize, Dataset)>, QuickstartError> {
    let tokenizer = Arc::new(model.tokenizer.clone());
    SHOTS
        .into_iter()
        .map(|shots| {
            let config = DataConfig {
                mimicit_yaml: Some(data.join(format!("eval_{shots}shot.yaml"))),
                image_size: model.otter.config().vision.image_size,
                max_seq_len: model.otter.config().text.max_positions(),
                ..DataConfig::default()
            };
            Ok((shots, Dataset::open(&config, Arc::clone(&tokenizer))?))
        })
        .collect()
}

fn measure(
    model: &LoadedModel,
    datasets: &[(usize, Dataset)],
    truth: &Truth,
) -> Result<Measured, QuickstartError> {
    let sets: Vec<(usize, &Dataset)> = datasets.iter().map(|(shots, dataset)| (*shots, dataset)).collect();
    let settings = EvaluationOptions { batch_size: 64, limit: None, max_new_tokens: 8 };
    let evaluation = evaluate(&model.otter, &model.parameters, &sets, truth, &settings, &mut |_| {})?;
    let table = ShotTable::new(&evaluation.records, Detail::Families);
    Ok(Measured { table, evaluation })
}

/// One of the two tunings.
struct Run {
    name: &'static str,
    /// Which in-context lists are used: `train` or `train_no_context`.
    context: &'static str,
    tuning: Tuning,
}

/// A stretch of a tuning with its own data and schedule.
struct Phase {
    /// Run directory inside the quickstart's.
    name: String,
    /// Lines of the `[data]` section that name the data.
    data: String,
    steps: u64,
}

impl Run {
    fn train(
        &self,
        options: &QuickstartOptions,
        base: &Path,
        interrupt: &AtomicBool,
        observer: &mut dyn Observer,
    ) -> Result<(TrainSummary, Curves), QuickstartError> {
        let [attributes, all] = self.phases(options)?;
        let mut recorder = Recorder { observer, curves: Curves::default() };
        let mut phase = |phase: &Phase, start: &Path| {
            let config = self.config(options, phase, start)?;
            remove_earlier_run(&options.out.join(&phase.name))?;
            let summary = otter_train::train(&config, Resume::No, interrupt, &mut recorder)?;
            recorder.curves.end_phase(&summary);
            if interrupt.load(Ordering::Relaxed) {
                return Err(QuickstartError::Interrupted { stage: format!("tuning '{}'", phase.name) });
            }
            Ok(summary)
        };
        let first = phase(&attributes, base)?;
        let summary = phase(&all, &checkpoint_model(&first)?)?;
        Ok((summary, recorder.curves))
    }

    fn phases(&self, options: &QuickstartOptions) -> Result<[Phase; 2], QuickstartError> {
        let data = absolute(&options.out.join("data"))?;
        let text = |name: String| toml_string(&data.join(name).display().to_string());
        let attribute = Family::Attribute.code();
        let set = format!(
            "[[data.sets]]\nname = \"{attribute}\"\ngroup = \"IMAGE_TEXT_IN_CONTEXT\"\ninstructions = {}\nimages = {}\ntrain = {}\n",
            text(format!("train/{attribute}_instructions.json")),
            text(format!("train/{attribute}.json")),
            text(format!("train/{attribute}_{}.json", self.context)),
        );
        let list = format!("mimicit_yaml = {}\n", text(format!("{}.yaml", self.context)));
        let steps = |steps: u64| ((steps as f64 * options.scale) as u64).max(4);
        Ok([
            Phase {
                name: format!("{}-attributes", self.name),
                data: set,
                steps: steps(self.tuning.attribute_steps),
            },
            Phase { name: self.name.to_string(), data: list, steps: steps(self.tuning.all_steps) },
        ])
    }

    /// A phase as a training configuration, the same that `otter train` reads.
    fn config(
        &self,
        options: &QuickstartOptions,
        phase: &Phase,
        start: &Path,
    ) -> Result<TrainConfig, QuickstartError> {
        let text = |path: &Path| toml_string(&path.display().to_string());
        let limit = base::config().text.max_positions();
        let toml = format!(
            "[model]\ninit_from = {start}\nfreeze = \"head\"\n\n\
             [optimizer]\nlearning_rate = {rate:e}\nbetas = [0.9, 0.98]\nweight_decay = 0.05\n\n\
             [schedule]\nname = \"cosine\"\nwarmup_steps = {warmup}\n\n\
             [train]\nrun_dir = {run_dir}\nsteps = {steps}\nbatch_size = {batch}\nseed = {seed}\n\
             checkpoint_every = {steps}\nkeep_checkpoints = 1\nlog_every = 25\n\
             device = {device}\ndtype = \"{dtype}\"\n\n\
             [data]\nimage_size = {side}\nmax_seq_len = {limit}\n{data}",
            start = text(&absolute(start)?),
            side = base::config().vision.image_size,
            rate = self.tuning.learning_rate,
            warmup = (phase.steps / 18).max(1),
            run_dir = text(&options.out.join(&phase.name)),
            steps = phase.steps,
            batch = self.tuning.batch_size,
            seed = options.seed,
            device = toml_string(&options.device),
            dtype = if options.rounded { "bf16" } else { "f32" },
            data = phase.data,
        );
        let folder = absolute(&options.out)?;
        Ok(TrainConfig::parse(&toml, "quickstart", &folder, &[])?)
    }
}

/// Removes the run directory of an earlier quickstart in the same place, and nothing else.
fn remove_earlier_run(directory: &Path) -> Result<(), QuickstartError> {
    if !directory.join("config.toml").is_file() {
        return Ok(());
    }
    std::fs::remove_dir_all(directory)
        .map_err(|source| QuickstartError::Io { path: directory.to_path_buf(), source })
}

/// A basic TOML string.
fn toml_string(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

fn absolute(path: &Path) -> Result<PathBuf, QuickstartError> {
    std::path::absolute(path).map_err(|source| QuickstartError::Io { path: path.to_path_buf(), source })
}

/// Keeps the curves of a run and passes everything on.
struct Recorder<'a> {
    observer: &'a mut dyn Observer,
    curves: Curves,
}

impl Observer for Recorder<'_> {
    fn message(&mut self, text: &str) {
        self.observer.message(text);
    }
    fn memory_plan(&mut self, plan: &MemoryPlan) {
        self.observer.memory_plan(plan);
    }
    fn step(&mut self, report: &StepReport) {
        self.curves.add(report);
        self.observer.step(report);
    }
    fn evaluation(&mut self, step: u64, values: &[(String, f64)]) {
        self.observer.evaluation(step, values);
    }
    fn checkpoint(&mut self, step: u64, path: &Path) {
        self.observer.checkpoint(step, path);
    }
    fn finished(&mut self, summary: &TrainSummary) {
        self.observer.finished(summary);
    }
}

/// The model directory of a finished run.
fn checkpoint_model(summary: &TrainSummary) -> Result<PathBuf, QuickstartError> {
    let checkpoint = summary.checkpoint.as_ref().ok_or(QuickstartError::NoCheckpoint)?;
    Ok(checkpoint.join("model"))
}

/// Copies the files of a directory to a new place, which appears only when complete.
fn copy_directory(from: &Path, to: &Path) -> Result<(), QuickstartError> {
    let temporary = atomic::temporary_dir(to)?;
    let io = |path: &Path| {
        let path = path.to_path_buf();
        move |source| QuickstartError::Io { path, source }
    };
    for entry in std::fs::read_dir(from).map_err(io(from))? {
        let entry = entry.map_err(io(from))?;
        std::fs::copy(entry.path(), temporary.join(entry.file_name())).map_err(io(&entry.path()))?;
    }
    atomic::replace_dir(&temporary, to)?;
    Ok(())
}
