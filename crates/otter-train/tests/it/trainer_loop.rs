//! The training loop on a model small enough to run hundreds of steps: exact resume, guards, accumulation, files.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use otter_data::{Batch, DataReport, Group, LoaderState};
use otter_model::TextInput;
use otter_nn::{
    CrossEntropy, Device, Embedding, Gradients, IGNORE_INDEX, Init, ParameterSpecs, Parameters, Tensor,
};
use otter_train::memory::{BatchShape, PlanItem};
use otter_train::metrics::RunLog;
use otter_train::metrics::json_lines::Evaluated;
use otter_train::model::{BatchSource, LossSum, TrainableModel};
use otter_train::run::directory::{Resumable, RunDirectory};
use otter_train::run::trainer::{self, PictureCache, Setup};
use otter_train::run::trainer_state::TrainerState;
use otter_train::{Observer, Outcome, Result, StepReport, TrainConfig, TrainError, TrainSummary};

const VOCABULARY: usize = 11;

/// Predicts the next token from the present one.
struct Bigram {
    embedding: Embedding,
    head: CrossEntropy,
    /// Gives no gradient to the embedding.
    cut: bool,
    /// Gives one element of the head an infinite gradient.
    infinite: bool,
    /// Sample whose loss is NaN.
    poisoned: Option<&'static str>,
}

impl Bigram {
    fn new() -> (Self, Parameters) {
        let mut specs = ParameterSpecs::default();
        let embedding = Embedding::new(&mut specs, "embed", VOCABULARY, 6, Init::Normal(0.5));
        let head = specs.add("head.weight", &[VOCABULARY, 6], Init::Normal(0.5));
        let mut parameters = Parameters::initialize(&specs, 3, Device::Cpu);
        parameters.set_trainable(|_| true);
        (
            Self { embedding, head: CrossEntropy::new(head), cut: false, infinite: false, poisoned: None },
            parameters,
        )
    }

    fn targets(batch: &Batch) -> Vec<i64> {
        let mut targets = vec![IGNORE_INDEX; batch.labels.len()];
        for (row, labels) in batch.labels.chunks(batch.text.length).enumerate() {
            targets[row * batch.text.length..][..batch.text.length - 1].copy_from_slice(&labels[1..]);
        }
        targets
    }

    fn poison(&self, batch: &Batch, mut loss: LossSum) -> LossSum {
        if batch.sample_ids.iter().any(|id| Some(id.as_str()) == self.poisoned) {
            loss.sum = f64::NAN;
        }
        loss
    }
}

impl TrainableModel for Bigram {
    fn forward_backward(
        &self,
        parameters: &Parameters,
        batch: &Batch,
        factor: f64,
        _recompute: bool,
        gradients: &mut Gradients,
    ) -> Result<LossSum> {
        let hidden = self.embedding.forward(parameters, &batch.text.ids);
        let targets = Self::targets(batch);
        let (loss, d) = self.head.forward_backward(parameters, &hidden, &targets, factor, gradients);
        if !self.cut {
            self.embedding.backward(&batch.text.ids, &d, gradients);
        }
        if self.infinite {
            gradients.iter_mut().skip(VOCABULARY * 6 + 4).take(1).for_each(|g| *g = f32::INFINITY);
        }
        Ok(self.poison(batch, loss))
    }

    fn loss(&self, parameters: &Parameters, batch: &Batch) -> Result<LossSum> {
        let hidden = self.embedding.forward(parameters, &batch.text.ids);
        Ok(self.poison(batch, self.head.forward(parameters, &hidden, &Self::targets(batch))))
    }

    fn token_tables(&self) -> Vec<String> {
        vec!["embed.weight".into(), "head.weight".into()]
    }

    fn activation_plan(
        &self,
        _parameters: &Parameters,
        shape: &BatchShape,
        _recompute: bool,
    ) -> Vec<PlanItem> {
        vec![PlanItem::new("activations", 4 * (shape.batch * shape.length * 6) as u64, "rows x width")]
    }

    fn save(&self, parameters: &Parameters, directory: &Path, _: &TrainerState) -> Result<()> {
        std::fs::create_dir(directory).unwrap();
        for parameter in parameters.iter() {
            let bytes: Vec<u8> = parameter.tensor.values().iter().flat_map(|v| v.to_le_bytes()).collect();
            std::fs::write(directory.join(&parameter.name), bytes).unwrap();
        }
        Ok(())
    }

    fn restore(&self, parameters: &mut Parameters, directory: &Path) -> Result<()> {
        for parameter in parameters.iter_mut() {
            let bytes = std::fs::read(directory.join(&parameter.name)).unwrap();
            let values: Vec<f32> =
                bytes.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
            parameter.tensor = Tensor::from_vec(values, parameter.tensor.shape(), Device::Cpu).into();
        }
        Ok(())
    }
}

/// Ten samples in an order that depends on epoch and seed.
struct Samples<'a> {
    state: LoaderState,
    batch: usize,
    report: DataReport,
    /// No sample has a target.
    unlabeled: bool,
    /// Set after so many more batches.
    stop_after: Option<(u64, &'a AtomicBool)>,
}

const SAMPLES: u64 = 10;

impl Samples<'_> {
    fn new(batch: usize, state: Option<LoaderState>) -> Self {
        let start = LoaderState { epoch: 0, position: 0, seed: 5, samples: SAMPLES, batches: 0 };
        Self {
            state: state.unwrap_or(start),
            batch,
            report: DataReport::default(),
            unlabeled: false,
            stop_after: None,
        }
    }

    fn row(&self, position: u64) -> (String, Vec<u32>, Vec<i64>) {
        let id = (position * 3 + self.state.epoch + self.state.seed) % SAMPLES;
        let length = 4 + id as usize % 4;
        let ids: Vec<u32> =
            (0..length as u64).map(|t| ((id * 7 + t * t * 3) % VOCABULARY as u64) as u32).collect();
        let mut labels: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
        labels[..2].fill(IGNORE_INDEX);
        if self.unlabeled || id == 4 {
            labels.fill(IGNORE_INDEX);
        }
        (format!("sample_{id}"), ids, labels)
    }
}

impl BatchSource for Samples<'_> {
    fn next_batch(&mut self) -> Result<Option<Batch>> {
        if self.state.position >= SAMPLES {
            self.state = LoaderState { epoch: self.state.epoch + 1, position: 0, ..self.state };
            return Ok(None);
        }
        if let Some((left, flag)) = &mut self.stop_after {
            *left = left.saturating_sub(1);
            flag.store(*left == 0, Ordering::Relaxed);
        }
        let end = (self.state.position + self.batch as u64).min(SAMPLES);
        let rows: Vec<_> = (self.state.position..end).map(|position| self.row(position)).collect();
        self.state.position = end;
        let length = rows.iter().map(|row| row.1.len()).max().unwrap();
        let pad = |row: usize| length - rows[row].1.len();
        let count = rows.len();
        Ok(Some(Batch {
            sample_ids: rows.iter().map(|row| row.0.clone()).collect(),
            groups: vec![Group::TextOnly; count],
            texts: vec![String::new(); count],
            text: TextInput {
                ids: (0..count).flat_map(|r| [rows[r].1.clone(), vec![0; pad(r)]].concat()).collect(),
                attention_mask: (0..count)
                    .flat_map(|r| [vec![true; rows[r].1.len()], vec![false; pad(r)]].concat())
                    .collect(),
                batch: count,
                length,
                segments: None,
                media_token_id: VOCABULARY as u32,
            },
            labels: (0..count)
                .flat_map(|r| [rows[r].2.clone(), vec![IGNORE_INDEX; pad(r)]].concat())
                .collect(),
            pixels: Arc::default(),
            image_size: 1,
            media_frames: Vec::new(),
            media_slots: vec![Vec::new(); count],
            label_tokens: 0,
        }))
    }

    fn state(&self) -> LoaderState {
        self.state
    }

    fn report(&self) -> DataReport {
        self.report.clone()
    }
}

/// Collects reports; sets a flag after a step.
struct Watch<'a> {
    messages: Vec<String>,
    steps: Vec<StepReport>,
    plan: String,
    evaluations: Vec<u64>,
    interrupt_after: Option<(u64, &'a AtomicBool)>,
}

impl Watch<'_> {
    fn new() -> Self {
        Self {
            messages: Vec::new(),
            steps: Vec::new(),
            plan: String::new(),
            evaluations: Vec::new(),
            interrupt_after: None,
        }
    }
}

impl Observer for Watch<'_> {
    fn message(&mut self, text: &str) {
        self.messages.push(text.to_owned());
    }

    fn memory_plan(&mut self, plan: &otter_train::memory::MemoryPlan) {
        self.plan = plan.to_string();
    }

    fn step(&mut self, report: &StepReport) {
        self.steps.push(report.clone());
        if let Some((step, flag)) = self.interrupt_after
            && report.step == step
        {
            flag.store(true, Ordering::Relaxed);
        }
    }

    fn evaluation(&mut self, step: u64, _values: &[(String, f64)]) {
        self.evaluations.push(step);
    }
}

fn config(run_dir: &Path, overrides: &[&str]) -> TrainConfig {
    let text = format!(
        "[model]\ninit_from = \"/none\"\n[optimizer]\nlearning_rate = 0.05\n[schedule]\nwarmup_steps = 2\n\
         [train]\nsteps = 20\nbatch_size = 3\ngradient_accumulation = 2\nrun_dir = {:?}\n",
        run_dir.display().to_string()
    );
    let overrides: Vec<String> = overrides.iter().map(|text| (*text).to_owned()).collect();
    TrainConfig::parse(&text, "test", Path::new("/"), &overrides).unwrap()
}

/// What a run needs besides its configuration.
struct Run<'a> {
    model: Bigram,
    parameters: Parameters,
    watch: Watch<'a>,
    embedding_rows: Option<Vec<u32>>,
    unlabeled: bool,
    /// Samples of every evaluation.
    evaluated: DataReport,
    /// Every evaluation ends the run.
    refuses_evaluation: bool,
    /// After this step, the flag is set when the next micro-batches are being fetched.
    stop_while_fetching: Option<(u64, &'a AtomicBool)>,
}

impl<'a> Run<'a> {
    fn new() -> Self {
        let (model, parameters) = Bigram::new();
        Self {
            model,
            parameters,
            watch: Watch::new(),
            embedding_rows: None,
            unlabeled: false,
            evaluated: DataReport::default(),
            refuses_evaluation: false,
            stop_while_fetching: None,
        }
    }

    fn go(
        &mut self,
        config: &'a TrainConfig,
        resume: bool,
        interrupt: &'a AtomicBool,
    ) -> Result<TrainSummary> {
        let (run, found): (RunDirectory, Option<Resumable>) = RunDirectory::open(config, resume)?;
        run.write_config(config)?;
        let mut source =
            Samples::new(config.train.batch_size, found.as_ref().map(|found| found.state.loader));
        source.unlabeled = self.unlabeled;
        let made = found.as_ref().map_or(0, |found| found.state.step);
        source.stop_after = self.stop_while_fetching.map(|(step, flag)| (10 * (step - made) + 8, flag));
        let (samples, refuses) = (self.evaluated.clone(), self.refuses_evaluation);
        let mut evaluation = |_: &Parameters| {
            if refuses {
                return Err(TrainError::Model("the held-out loss is NaN".to_owned()));
            }
            Ok(Some(Evaluated { values: vec![("loss".to_owned(), 1.0)], samples: samples.clone() }))
        };
        let mut log = RunLog::open(&run.log(), made, &mut self.watch)?;
        let setup = Setup {
            config,
            model: &self.model,
            parameters: &mut self.parameters,
            device: Device::Cpu,
            source: &mut source,
            total_steps: config.total_steps(SAMPLES as usize),
            embedding_rows: self.embedding_rows.clone(),
            run: &run,
            resume: found.as_ref(),
            evaluation: Some(&mut evaluation),
            interrupt,
            process_bytes: 0,
            picture_cache: PictureCache { limit: 0, held: &|| 0 },
        };
        trainer::run(setup, &mut log)
    }

    fn bits(&self) -> Vec<u32> {
        self.parameters
            .iter()
            .flat_map(|p| p.tensor.values().iter().map(|v| v.to_bits()).collect::<Vec<_>>())
            .collect()
    }
}

static NEVER: AtomicBool = AtomicBool::new(false);

#[test]
fn twenty_steps_equal_ten_resume_ten() {
    let place = tempfile::tempdir().unwrap();
    let whole_config = config(&place.path().join("whole"), &[]);
    let mut whole = Run::new();
    let summary = whole.go(&whole_config, false, &NEVER).unwrap();
    assert_eq!((summary.outcome, summary.step), (Outcome::Completed, 20));
    let first = whole.watch.steps[0].clone();
    assert_eq!(first.learning_rate, 0.0);
    assert!(whole.watch.steps[19].loss < 0.9 * first.loss, "nothing was learned");
    for save in ["full", "trainable"] {
        let save = format!("train.save={save}");
        let parts = place.path().join(save.replace('.', "_"));
        let early = config(&parts, &["train.stop_after=10", &save]);
        let mut part = Run::new();
        assert_eq!(part.go(&early, false, &NEVER).unwrap().outcome, Outcome::StoppedEarly);
        assert_ne!(part.bits(), whole.bits());
        // A new process: fresh parameters, everything else from the checkpoint.
        let late = config(&parts, &[&save]);
        let mut rest = Run::new();
        let resumed = rest.go(&late, true, &NEVER).unwrap();
        assert_eq!(rest.bits(), whole.bits(), "{save}");
        assert_eq!((resumed.samples_seen, &resumed.skipped), (summary.samples_seen, &summary.skipped));
        for (a, b) in rest.watch.steps.iter().zip(&whole.watch.steps[10..]) {
            assert_eq!((a.step, a.loss, a.gradient_norm), (b.step, b.loss, b.gradient_norm));
            assert_eq!((a.learning_rate, a.epoch), (b.learning_rate, b.epoch));
        }
    }
}

#[test]
fn an_interrupt_leaves_a_checkpoint_of_the_last_whole_step() {
    let place = tempfile::tempdir().unwrap();
    let whole_config = config(&place.path().join("whole"), &[]);
    let mut whole = Run::new();
    whole.go(&whole_config, false, &NEVER).unwrap();

    let part_config = config(&place.path().join("part"), &[]);
    let flag = AtomicBool::new(false);
    let mut part = Run::new();
    part.watch.interrupt_after = Some((7, &flag));
    let summary = part.go(&part_config, false, &flag).unwrap();
    assert_eq!((summary.outcome, summary.step), (Outcome::Interrupted, 7));
    assert!(summary.checkpoint.unwrap().ends_with("checkpoints/step-000007"));
    let mut rest = Run::new();
    rest.go(&part_config, true, &NEVER).unwrap();
    assert_eq!(rest.bits(), whole.bits());
}

#[test]
fn the_files_of_a_run_are_there() {
    let place = tempfile::tempdir().unwrap();
    let run_dir = place.path().join("run");
    let config = config(
        &run_dir,
        &["train.steps=8", "train.checkpoint_every=2", "train.eval_every=3", "train.keep_checkpoints=2"],
    );
    let mut run = Run::new();
    run.go(&config, false, &NEVER).unwrap();
    assert_eq!(run.watch.evaluations, [3, 6, 8]);
    assert!(run.watch.plan.contains("optimizer moments"));
    let mut kept: Vec<String> = std::fs::read_dir(run_dir.join("checkpoints"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    kept.sort();
    assert_eq!(kept, ["step-000006", "step-000008"]);
    let lines = std::fs::read_to_string(run_dir.join("metrics.jsonl")).unwrap();
    let lines: Vec<serde_json::Value> =
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.iter().filter(|line| line["kind"] == "step").count(), 8);
    assert_eq!(lines.iter().filter(|line| line["kind"] == "evaluation").count(), 3);
    let names: Vec<String> = std::fs::read_dir(&run_dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(names.iter().any(|name| name.starts_with("events.out.tfevents")), "{names:?}");
    assert!(std::fs::read_to_string(run_dir.join("log.txt")).unwrap().contains("memory plan"));
    // The saved configuration is the same run.
    let saved = TrainConfig::load(&run_dir.join("config.toml"), &[]).unwrap();
    assert_eq!(saved, config);
    let error = Run::new().go(&config, false, &NEVER).unwrap_err().to_string();
    assert!(error.contains("already holds a run"), "{error}");
}

#[test]
fn a_changed_configuration_is_refused_by_key() {
    let place = tempfile::tempdir().unwrap();
    let early = config(place.path(), &["train.stop_after=2"]);
    Run::new().go(&early, false, &NEVER).unwrap();
    let changed = config(place.path(), &["optimizer.learning_rate=0.1", "train.log_every=2"]);
    let error = Run::new().go(&changed, true, &NEVER).unwrap_err().to_string();
    assert!(error.contains("optimizer.learning_rate: 0.05 -> 0.1"), "{error}");
    assert!(!error.contains("log_every"), "{error}");
}

#[test]
fn a_crash_while_saving_leaves_the_checkpoint_before() {
    let place = tempfile::tempdir().unwrap();
    let early = config(place.path(), &["train.stop_after=2"]);
    Run::new().go(&early, false, &NEVER).unwrap();
    let checkpoints = place.path().join("checkpoints");
    // What a killed process leaves: a half-written temporary directory, and a directory without its state.
    std::fs::create_dir_all(checkpoints.join(".step-000004.tmp-4294967295-0/model")).unwrap();
    std::fs::create_dir_all(checkpoints.join("step-000003")).unwrap();
    let late = config(place.path(), &["train.stop_after=4"]);
    let mut rest = Run::new();
    assert_eq!(rest.go(&late, true, &NEVER).unwrap().step, 4);
    assert_eq!(rest.watch.steps[0].step, 3);
    assert!(!checkpoints.join(".step-000004.tmp-4294967295-0").exists());
}

#[test]
fn a_run_that_died_before_its_first_checkpoint_begins_anew() {
    let place = tempfile::tempdir().unwrap();
    let config = config(place.path(), &["train.steps=3"]);
    let mut run = Run::new();
    run.go(&config, false, &NEVER).unwrap();
    std::fs::remove_dir_all(place.path().join("checkpoints")).unwrap();
    let mut again = Run::new();
    again.go(&config, true, &NEVER).unwrap();
    assert_eq!(again.bits(), run.bits());
    let lines = std::fs::read_to_string(place.path().join("metrics.jsonl")).unwrap();
    assert_eq!(lines.lines().filter(|line| line.contains("\"kind\":\"step\"")).count(), 3);
}

#[test]
fn a_damaged_checkpoint_is_refused() {
    let place = tempfile::tempdir().unwrap();
    let early = config(place.path(), &["train.stop_after=2"]);
    Run::new().go(&early, false, &NEVER).unwrap();
    let moments = place.path().join("checkpoints/step-000002/trainer.safetensors");
    let bytes = std::fs::read(&moments).unwrap();
    std::fs::write(&moments, &bytes[..bytes.len() / 2]).unwrap();
    let error = Run::new().go(&early, true, &NEVER).unwrap_err().to_string();
    assert!(error.contains("trainer.safetensors") && error.contains("damaged"), "{error}");
}

#[test]
fn a_loss_that_is_not_finite_names_the_sample() {
    let place = tempfile::tempdir().unwrap();
    let config = config(place.path(), &[]);
    let mut run = Run::new();
    run.model.poisoned = Some("sample_1");
    let before = run.bits();
    let error = run.go(&config, false, &NEVER).unwrap_err();
    // sample_1 comes with others in one micro-batch; only it is named.
    let TrainError::NonFiniteLoss { samples, .. } = &error else { panic!("{error}") };
    assert_eq!(samples, "sample_1");
    assert!(run.bits() == before || !run.watch.steps.is_empty());
}

#[test]
fn a_parameter_that_is_not_finite_is_named_and_never_saved() {
    let place = tempfile::tempdir().unwrap();
    // So long a step leaves the range of numbers at once.
    let long = ["optimizer.learning_rate=3e38", "optimizer.weight_decay=1.0", "schedule.warmup_steps=0"];
    let overrides = [&long[..], &["train.checkpoint_every=1", "train.save='trainable'"]].concat();
    let saved = config(&place.path().join("a"), &overrides);
    let error = Run::new().go(&saved, false, &NEVER).unwrap_err().to_string();
    assert!(error.contains("embed.weight") && error.contains("not written"), "{error}");
    assert_eq!(std::fs::read_dir(place.path().join("a/checkpoints")).unwrap().count(), 0);
    // Without a checkpoint the next step says it.
    let overrides = [&long[..], &["train.checkpoint_every=0"]].concat();
    let unsaved = config(&place.path().join("b"), &overrides);
    let error = Run::new().go(&unsaved, false, &NEVER).unwrap_err();
    let TrainError::NonFiniteParameter { parameter, step: 2, .. } = &error else { panic!("{error}") };
    assert!(parameter.starts_with("embed.weight ("), "{error}");
}

#[test]
fn a_gradient_that_is_not_finite_names_the_parameter() {
    let place = tempfile::tempdir().unwrap();
    let config = config(place.path(), &[]);
    let mut run = Run::new();
    run.model.infinite = true;
    let before = run.bits();
    let error = run.go(&config, false, &NEVER).unwrap_err().to_string();
    assert!(
        error.contains("step 1") && error.contains("head.weight") && error.contains("element 4 (inf)"),
        "{error}"
    );
    assert!(error.contains("sample_5"), "{error}");
    assert_eq!(run.bits(), before);
}

#[test]
fn a_parameter_without_gradient_stops_the_run_and_is_named() {
    let place = tempfile::tempdir().unwrap();
    let strict = config(&place.path().join("a"), &[]);
    let mut run = Run::new();
    run.model.cut = true;
    let error = run.go(&strict, false, &NEVER).unwrap_err().to_string();
    assert!(error.contains("step 1") && error.contains("embed.weight"), "{error}");
    let lenient = config(&place.path().join("b"), &["train.require_gradients=false"]);
    assert_eq!(run.go(&lenient, false, &NEVER).unwrap().outcome, Outcome::Completed);
}

#[test]
fn data_without_targets_ends_instead_of_looping() {
    let place = tempfile::tempdir().unwrap();
    let config = config(place.path(), &[]);
    let mut run = Run::new();
    run.unlabeled = true;
    let error = run.go(&config, false, &NEVER).unwrap_err().to_string();
    assert!(error.contains("no batch with a target") && error.contains("batch_without_targets"), "{error}");
}

#[test]
fn batches_without_targets_are_counted_and_left_out() {
    let place = tempfile::tempdir().unwrap();
    // One sample a batch: sample_4 has no target.
    let config =
        config(place.path(), &["train.batch_size=1", "train.gradient_accumulation=1", "train.steps=18"]);
    let mut run = Run::new();
    let summary = run.go(&config, false, &NEVER).unwrap();
    assert_eq!(summary.samples_seen, 18);
    assert_eq!(summary.skipped["batch_without_targets"], 2);
    assert_eq!(summary.skipped_examples["batch_without_targets"], "sample sample_4");
    let warnings: Vec<&String> =
        run.watch.messages.iter().filter(|text| text.starts_with("warning:")).collect();
    assert_eq!(warnings.len(), 1, "once a reason: {warnings:?}");
    assert!(
        warnings[0].contains("sample_4") && warnings[0].contains("batch_without_targets"),
        "{warnings:?}"
    );
    let log = std::fs::read_to_string(place.path().join("log.txt")).unwrap();
    for text in [
        warnings[0].as_str(),
        "samples: 18 used, 2 left out (10.0 %)",
        "finished after step 18 (18 samples, 2 left out)",
    ] {
        assert!(log.contains(text), "no '{text}': {log}");
    }
    assert!(run.watch.steps.iter().all(|step| step.loss.is_finite()));
}

/// The samples of a step that is abandoned are met again, and count once.
#[test]
fn an_abandoned_step_counts_nothing() {
    let place = tempfile::tempdir().unwrap();
    let one = ["train.batch_size=1", "train.gradient_accumulation=9", "train.steps=4"];
    let whole_config = config(&place.path().join("whole"), &one);
    let mut whole_run = Run::new();
    let whole = whole_run.go(&whole_config, false, &NEVER).unwrap();
    let counted: Vec<u64> = whole_run.watch.steps.iter().map(|step| step.samples_skipped).collect();
    assert_eq!(counted, [1, 2, 2, 4], "sample_4 once in each pass of ten");
    let part_config = config(&place.path().join("part"), &one);
    for last in 1..4 {
        // Set while the micro-batches of the next step are fetched, after the one without targets where it comes early.
        let flag = AtomicBool::new(false);
        let mut part = Run::new();
        part.stop_while_fetching = Some((last, &flag));
        let summary = part.go(&part_config, last > 1, &flag).unwrap();
        assert_eq!((summary.outcome, summary.step), (Outcome::Interrupted, last));
        assert_eq!(summary.skipped["batch_without_targets"], counted[last as usize - 1]);
    }
    let rest = Run::new().go(&part_config, true, &NEVER).unwrap();
    assert_eq!(
        (rest.samples_seen, rest.skipped, rest.skipped_examples),
        (whole.samples_seen, whole.skipped, whole.skipped_examples)
    );
}

#[test]
fn an_evaluation_tells_what_it_left_out() {
    let place = tempfile::tempdir().unwrap();
    let config = config(place.path(), &["train.steps=6", "train.eval_every=2"]);
    let mut run = Run::new();
    run.evaluated.used = 5;
    run.evaluated.leave_out("too_long", 3, || "sample long_one".to_owned());
    let summary = run.go(&config, false, &NEVER).unwrap();
    assert_eq!(summary.evaluation_skipped["too_long"], 3);
    let told: Vec<&String> = run.watch.messages.iter().filter(|text| text.contains("long_one")).collect();
    assert_eq!(told.len(), 1, "the same is told once: {told:?}");
    assert!(told[0].contains("evaluation samples: 5 used, 3 left out (37.5 %)"), "{told:?}");
    let lines = std::fs::read_to_string(place.path().join("metrics.jsonl")).unwrap();
    assert_eq!(lines.matches("\"samples_skipped\":3").count(), 3, "{lines}");
}

#[test]
fn an_evaluation_that_ends_the_run_leaves_the_checkpoint_of_its_step() {
    let place = tempfile::tempdir().unwrap();
    let overrides = ["train.steps=6", "train.eval_every=2", "train.checkpoint_every=2"];
    let kinds = |run_dir: &Path| -> Vec<(String, u64)> {
        let lines = std::fs::read_to_string(run_dir.join("metrics.jsonl")).unwrap();
        let lines = lines.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        lines
            .map(|line| (line["kind"].as_str().unwrap().to_owned(), line["step"].as_u64().unwrap()))
            .collect()
    };
    let (whole_dir, part_dir) = (place.path().join("whole"), place.path().join("part"));
    let (whole_config, part_config) = (config(&whole_dir, &overrides), config(&part_dir, &overrides));
    let mut whole = Run::new();
    whole.go(&whole_config, false, &NEVER).unwrap();

    let mut part = Run::new();
    part.refuses_evaluation = true;
    let error = part.go(&part_config, false, &NEVER).unwrap_err().to_string();
    assert!(error.contains("held-out loss"), "{error}");
    assert!(part_dir.join("checkpoints/step-000002").is_dir());
    // The evaluation that is missing is made up for, and nothing else differs.
    let mut rest = Run::new();
    rest.go(&part_config, true, &NEVER).unwrap();
    assert_eq!((rest.watch.steps[0].step, &rest.watch.evaluations[..]), (3, &[2, 4, 6][..]));
    assert_eq!(rest.bits(), whole.bits());
    assert_eq!(kinds(&part_dir), kinds(&whole_dir));
}

/// A mean over all tokens of the step does not depend on how the step is cut into micro-batches.
#[test]
fn accumulation_equals_one_large_batch() {
    let place = tempfile::tempdir().unwrap();
    let mut results = Vec::new();
    for (name, batch, accumulation, loss) in
        [("one", 10, 1, "tokens"), ("five", 2, 5, "tokens"), ("means", 2, 5, "micro_batches")]
    {
        let config = config(
            &place.path().join(name),
            &[
                &format!("train.batch_size={batch}"),
                &format!("train.gradient_accumulation={accumulation}"),
                &format!("train.accumulation_loss={loss}"),
                "train.steps=3",
            ],
        );
        let mut run = Run::new();
        run.go(&config, false, &NEVER).unwrap();
        let values: Vec<f32> = run.parameters.iter().flat_map(|p| p.tensor.values().into_owned()).collect();
        results.push((run.watch.steps[0].clone(), values));
    }
    let largest = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
    assert!((results[0].0.loss - results[1].0.loss).abs() < 1e-6);
    assert!((results[0].0.gradient_norm - results[1].0.gradient_norm).abs() < 1e-5);
    assert!(largest(&results[0].1, &results[1].1) < 1e-4);
    // The original's mean of means weights short samples more.
    assert!((results[0].0.loss - results[2].0.loss).abs() > 1e-4);
}

#[test]
fn only_the_chosen_embedding_rows_move() {
    let place = tempfile::tempdir().unwrap();
    let config = config(place.path(), &[]);
    let mut run = Run::new();
    run.embedding_rows = Some(vec![3]);
    let before = run.parameters.clone();
    run.go(&config, false, &NEVER).unwrap();
    for (old, new) in before.iter().zip(run.parameters.iter()) {
        for (row, (old, new)) in old.tensor.values().chunks(6).zip(new.tensor.values().chunks(6)).enumerate()
        {
            assert_eq!(old != new, row == 3, "{row}");
        }
    }
}
