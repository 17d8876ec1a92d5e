//! A whole training run from its configuration: model, data, evaluation, run directory, loop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use otter_checkpoint::{InputRules, LoadOptions, LoadedModel, TrainedPart, load_model_with};
use otter_data::{DataConfig, Dataset, Loader, LoaderOptions, Rank, Sampling, TextTokenizer};
use otter_nn::{Device, Parameters};

use crate::config::{EmbeddingRows, EvalSection, SaveWeights, TrainConfig};
use crate::error::{Result, TrainError};
use crate::feature_cache::{CacheCounts, FeatureCache};
use crate::memory::choice::{Choice, Fitted};
use crate::memory::forecast::{Base, Expected, picture_cache_limit};
use crate::memory::{self, show_bytes};
use crate::metrics::RunLog;
use crate::metrics::json_lines::Evaluated;
use crate::metrics::{Observer, TrainSummary};
use crate::model::{LossSum, TrainableModel};
use crate::otter::{TrainableOtter, freeze_rule};
use crate::run::device;
use crate::run::directory::{Resumable, RunDirectory};
use crate::run::image_rules;
use crate::run::schedule_change;
use crate::run::trainer::{self, PictureCache, Setup};

/// Whether a run goes on from the newest checkpoint in `train.run_dir`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resume {
    /// It begins anew.
    No,
    /// It goes on exactly; another schedule of the learning rate is refused.
    Exactly,
    /// It goes on over another number of steps, with the learning rates that belong to that.
    ExtendSchedule,
}

/// Trains as the configuration says. Setting `interrupt` stops the run with a checkpoint of the last complete step.
///
/// # Errors
/// What [`TrainError`] lists.
pub fn train(
    config: &TrainConfig,
    resume: Resume,
    interrupt: &AtomicBool,
    observer: &mut dyn Observer,
) -> Result<TrainSummary> {
    if config.train.threads == 0 {
        return train_here(config, resume, interrupt, observer);
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(config.train.threads).build();
    let pool = pool.map_err(|error| TrainError::config("train.threads", error.to_string()))?;
    pool.install(|| train_here(config, resume, interrupt, observer))
}

/// What a run will take, from the headers of its files: nothing is loaded, and no run directory is made.
///
/// # Errors
/// What [`TrainError`] lists.
pub fn plan(config: &TrainConfig) -> Result<Fitted> {
    let Opened { base, dataset, options, config, .. } = Opened::new(config, &mut ())?;
    let limit = config.memory_limit()?.unwrap_or(u64::MAX);
    base.fit(&config, limit, &Expected::of(&config, &dataset, &options)?)
}

/// What a run begins with: headers of the model, data, and the configuration with what they decide.
struct Opened<'a> {
    base: Base,
    embedding_rows: Option<Vec<u32>>,
    dataset: Arc<Dataset>,
    held_out: Option<(&'a EvalSection, Arc<Dataset>)>,
    options: LoaderOptions,
    config: TrainConfig,
}

impl<'a> Opened<'a> {
    fn new(config: &'a TrainConfig, observer: &mut dyn Observer) -> Result<Self> {
        let base = Base::open(&config.model.init_from)?;
        let image_size = base.checkpoint.config.model.vision.image_size;
        let tokenizer = Arc::clone(&base.tokenizer);
        let embedding_rows = embedding_rows(&config.train.train_embedding_rows, &tokenizer)?;
        let dataset = Arc::new(open_data("data", &config.data, image_size, &tokenizer)?);
        observer.message(&format!("{} training samples", dataset.len()));
        let held_out = match &config.eval {
            Some(section) => {
                let sequential = DataConfig { sampling: Some(Sampling::Sequential), ..section.data.clone() };
                let dataset = open_data("eval.data", &sequential, image_size, &tokenizer)?;
                observer.message(&format!("{} evaluation samples", dataset.len()));
                Some((section, Arc::new(dataset)))
            }
            None => None,
        };
        let options = LoaderOptions {
            batch_size: config.train.batch_size,
            workers: config.train.workers.max(1),
            prefetch: config.train.prefetch,
            drop_last: false,
            packing: config.packing(),
            pack_length: config.train.pack_length,
            rank: Rank::default(),
        };
        let mut config = config.clone();
        // A trained part goes on as it was trained, unless the configuration says otherwise.
        config.model.quantize = config.model.quantize.or(base.quantized);
        Ok(Self { base, embedding_rows, dataset, held_out, options, config })
    }
}

fn train_here(
    config: &TrainConfig,
    resume: Resume,
    interrupt: &AtomicBool,
    observer: &mut dyn Observer,
) -> Result<TrainSummary> {
    let device = device::open(config)?;
    // Opened first: a changed configuration is refused before anything large is read.
    let (run, found) = RunDirectory::open(config, resume != Resume::No)?;
    let mut log = RunLog::open(&run.log(), found.as_ref().map_or(0, |found| found.state.step), observer)?;
    let result = train_in(config, device, &run, found, resume, interrupt, &mut log);
    if let Err(error) = &result {
        log.write(&format!("stopped: {error}"));
    }
    result
}

/// Trains in a run directory, from a checkpoint of it where one was found.
fn train_in(
    config: &TrainConfig,
    device: Device,
    run: &RunDirectory,
    found: Option<Resumable>,
    resume: Resume,
    interrupt: &AtomicBool,
    observer: &mut dyn Observer,
) -> Result<TrainSummary> {
    if let Some(gpu) = device.gpu() {
        observer.message(&format!("device: {}", gpu.name()));
    }
    let interrupted = |observer: &mut dyn Observer| {
        interrupt.load(Ordering::Relaxed).then(|| {
            let summary = TrainSummary::interrupted_at(found.as_ref());
            observer.finished(&summary);
            summary
        })
    };
    match &found {
        Some(found) => observer.message(&format!("goes on from {}", found.path.display())),
        None if resume != Resume::No => observer.message(&format!(
            "warning: {} has no checkpoint to go on from, so the run begins with its first step",
            run.path().display()
        )),
        None => {}
    }
    let mut filled = config.clone();
    let saved = found.as_ref().map(|found| found.state.config.as_str());
    if let Some(said) = image_rules::fill_in(&mut filled, saved)? {
        observer.message(&said);
    }
    let Opened { base, embedding_rows, dataset, held_out, options, mut config } =
        Opened::new(&filled, observer)?;
    let begins = begins(&base.tokenizer, &config.data, observer);
    if let Some(found) = &found {
        check_beginning(found, &config, &base.tokenizer, begins)?;
    }
    let total_steps = config.total_steps(dataset.mixture().epoch_len());
    if let Some(found) = &found {
        check_schedule(&config, found, &dataset, total_steps, resume, observer)?;
    }
    // Not before: what is refused leaves the saved configuration as it was.
    run.write_config(&config)?;
    match (config.memory_limit()?, &found) {
        (Some(_), Some(found)) => Choice::saved(&found.state.config)?.apply(&mut config),
        (Some(limit), None) => {
            let fitted = base.fit(&config, limit, &Expected::of(&config, &dataset, &options)?)?;
            observer.message(&fitted.to_string());
            fitted.choice.apply(&mut config);
        }
        (None, _) => {
            if let Some(gpu) = device.gpu() {
                let expected = Expected::of(&config, &dataset, &options)?;
                let plan = base.fit(&config, u64::MAX, &expected)?.plan.total();
                let room = gpu.memory().limit;
                if plan > room {
                    let (plan, room) = (show_bytes(plan), show_bytes(room));
                    observer.message(&format!(
                        "warning: the longest batches may need {plan}, and the GPU has {room}; with --memory {} the run \
                         is made to fit",
                        room.replace(' ', "")
                    ));
                }
            }
        }
    }
    let sizes = base.checkpoint.config.model.clone();
    drop(base);
    if let Some(summary) = interrupted(observer) {
        return Ok(summary);
    }

    // What earlier work of this process has freed is there for the run.
    memory::give_back_freed();
    let process_bytes = memory::resident_bytes().unwrap_or(0);
    let rule = freeze_rule(&config.model);
    let is_trained = |name: &str| rule.is_trainable(&sizes, name);
    let quantize = config.model.quantize;
    let options_to_load = LoadOptions { quantize, keep: Some(&is_trained) };
    let LoadedModel { otter, mut parameters, config: mut file, report, .. } =
        load_model_with(&config.model.init_from, Device::Cpu, options_to_load)?;
    for warning in &report.warnings {
        observer.message(warning);
    }
    if let Some(summary) = interrupted(observer) {
        return Ok(summary);
    }
    observer.message(&parameters.memory().to_string());
    let widened = mark_trained(&rule, &otter, &mut parameters)?;
    if widened > 0 {
        observer.message(&format!("{widened} trained parameters are widened to 32 bits"));
    }
    let save = config.train.save.unwrap_or_else(|| default_save(&parameters));
    if save == SaveWeights::Full && parameters.quantized_count() > 0 {
        return Err(TrainError::config(
            "train.save",
            "`full` would write the quantized frozen matrices instead of the base's own; use `trainable`, and \
             `otter convert BASE --overlay …/trained.safetensors` for a whole model",
        ));
    }
    config.train.save = Some(save);
    run.write_config(&config)?;
    let cache = feature_cache(&config, &otter, &parameters, observer)?;
    // So that prompts begin as the samples of this run did.
    file.input.begin_token = Some(begins);
    (file.input.alpha, file.input.gray16) = (config.data.alpha, config.data.gray16);
    if has_sets(&config.data) {
        let rule = config.data.switches().images_of_record;
        if let Some(before) = file.input.images_of_record.filter(|before| *before != rule) {
            observer.message(&format!(
                "warning: several images of one record are shown as {} here, while {} was trained with {} (`otter_input`); \
                 data.images_of_record chooses",
                rule.name(),
                config.model.init_from.display(),
                before.name()
            ));
        }
        file.input.images_of_record = Some(rule);
    }
    let mut model = TrainableOtter::new(otter, file, &config.model.init_from)?.with_quantized_base(quantize);
    if let Some(cache) = cache {
        model = model.with_features(cache);
    }
    let model = model;

    let caches: Vec<Arc<Dataset>> =
        std::iter::once(&dataset).chain(held_out.iter().map(|(_, dataset)| dataset)).cloned().collect();
    let cached = || caches.iter().map(|dataset| dataset.frame_cache_bytes()).sum();
    let mut source = Loader::new(dataset, options.clone(), found.as_ref().map(|found| found.state.loader))?;
    let mut evaluation = held_out.map(|(section, dataset)| {
        let options = LoaderOptions { batch_size: section.batch_size, drop_last: false, ..options.clone() };
        let model = &model;
        move |parameters: &Parameters| evaluate(model, parameters, &dataset, section, &options, interrupt)
    });
    let setup = Setup {
        config: &config,
        model: &model,
        parameters: &mut parameters,
        device,
        source: &mut source,
        total_steps,
        embedding_rows,
        run,
        resume: found.as_ref(),
        evaluation: evaluation.as_mut().map(|evaluation| evaluation as &mut trainer::Evaluation<'_>),
        interrupt,
        process_bytes,
        picture_cache: PictureCache { limit: picture_cache_limit(&config), held: &cached },
    };
    let summary = trainer::run(setup, observer)?;
    if let Some(CacheCounts { hits, encoded, not_added }) = model.feature_counts() {
        let left_out = if not_added > 0 { format!(", {not_added} of them not kept") } else { String::new() };
        observer.message(&format!("vision features: {hits} from the cache, {encoded} encoded{left_out}"));
    }
    Ok(summary)
}

/// Whether there are sets of instructions, not only streams.
fn has_sets(data: &DataConfig) -> bool {
    !data.sets.is_empty() || data.mimicit_yaml.is_some()
}

/// Whether the samples of a run begin with the begin token. Only a base of the original has two ways, one for samples of
/// sets and one for streams and prompts.
fn begins(tokenizer: &TextTokenizer, data: &DataConfig, observer: &mut dyn Observer) -> bool {
    let sets = has_sets(data);
    let begins = !if sets { tokenizer.sample_prefix() } else { tokenizer.prompt_prefix() }.is_empty();
    if sets && tokenizer.begins().is_none() {
        let way = |begins: bool| if begins { "with the begin token" } else { "without the begin token" };
        let streams = if data.streams.is_empty() { "" } else { ", and so samples of streams," };
        observer.message(&format!(
            "{}samples of sets begin {}, as in the original, though its tokenizer files let a prompt{streams} begin {}; the \
             model is saved for prompts that begin {1}. Write \"otter_input\": {{\"begin_token\": true}} (or false) into \
             config.json of model.init_from to have one way",
            if data.streams.is_empty() { "" } else { "warning: " },
            way(begins),
            way(!tokenizer.prompt_prefix().is_empty()),
        ));
    }
    begins
}

/// A run goes on as it began, whatever the base says by now.
fn check_beginning(
    found: &Resumable,
    config: &TrainConfig,
    tokenizer: &TextTokenizer,
    begins: bool,
) -> Result<()> {
    let folder = found.path.join("model");
    let saved = match TrainedPart::read(&folder)? {
        Some(part) => part.input(),
        None => InputRules::of(&folder)?,
    };
    // A run of a version without the rule put the token in front, if there is one, and its base had no rule.
    let base = InputRules::of(&config.model.init_from)?.begin_token;
    let was = saved.begin_token.or(base.map(|_| tokenizer.special().bos.is_some()));
    if was.is_none_or(|was| was == begins) {
        return Ok(());
    }
    let (with, without) = if begins { ("without", "with") } else { ("with", "without") };
    let problem = format!(
        "the run was made {with} the begin token in front of every sample, {without} it now; restore `otter_input` in \
         config.json of {}",
        config.model.init_from.display()
    );
    Err(TrainError::checkpoint(&found.path, problem))
}

/// A base of this size is not written again with every checkpoint.
const LARGE_BASE: u64 = 4 << 30;

/// What a checkpoint holds when the configuration does not say it.
fn default_save(parameters: &Parameters) -> SaveWeights {
    let frozen: u64 = parameters.iter().filter(|p| !p.trainable).map(|p| p.tensor.bytes()).sum();
    if frozen > LARGE_BASE || parameters.quantized_count() > 0 {
        SaveWeights::Trainable
    } else {
        SaveWeights::Full
    }
}

fn feature_cache(
    config: &TrainConfig,
    otter: &otter_model::Otter,
    parameters: &Parameters,
    observer: &mut dyn Observer,
) -> Result<Option<FeatureCache>> {
    let Some(folder) = &config.train.vision_cache else { return Ok(None) };
    if let Some(trained) = parameters.iter().find(|p| p.trainable && p.name.starts_with("vision_encoder.")) {
        return Err(TrainError::config(
            "train.vision_cache",
            format!(
                "the vision tower is trained ({}), so its features change with every step; remove the key",
                trained.name
            ),
        ));
    }
    let max_bytes = (config.train.vision_cache_gib * (1u64 << 30) as f64) as u64;
    let cache = FeatureCache::open(folder, otter, parameters, max_bytes)?;
    observer.message(&cache.describe());
    Ok(Some(cache))
}

/// Marks what the rule trains and gives it memory of its own in 32 bits; returns how many elements were widened.
fn mark_trained(
    rule: &otter_model::FreezeRule,
    otter: &otter_model::Otter,
    parameters: &mut Parameters,
) -> Result<u64> {
    if let otter_model::FreezeRule::Patterns(_) = rule {
        let (_, specs) =
            otter_model::Otter::new(otter.config()).map_err(|error| TrainError::Model(error.to_string()))?;
        rule.check(&specs).map_err(|error| TrainError::config("model.trainable", error.to_string()))?;
    }
    let widened = parameters.set_trainable(|name| rule.is_trainable(otter.config(), name));
    // Now and not at the first step, when the file's pages and the copies would stand beside everything else.
    parameters.iter_mut().filter(|p| p.trainable).for_each(|p| p.tensor.make_full().make_owned());
    Ok(widened)
}

fn embedding_rows(rows: &EmbeddingRows, tokenizer: &TextTokenizer) -> Result<Option<Vec<u32>>> {
    let EmbeddingRows::Tokens(tokens) = rows else { return Ok(None) };
    let id = |token: &String| {
        tokenizer.token_to_id(token).ok_or_else(|| {
            TrainError::config(
                "train.train_embedding_rows",
                format!("the tokenizer has no token `{token}`; use a token like \"<answer>\""),
            )
        })
    };
    tokens.iter().map(id).collect::<Result<Vec<u32>>>().map(Some)
}

fn open_data(
    key: &str,
    config: &DataConfig,
    image_size: usize,
    tokenizer: &Arc<TextTokenizer>,
) -> Result<Dataset> {
    if config.image_size != image_size {
        return Err(TrainError::config(
            format!("{key}.image_size"),
            format!(
                "it is {}, but the model takes images of {image_size}; set it to that",
                config.image_size
            ),
        ));
    }
    Ok(Dataset::open(config, Arc::clone(tokenizer))?)
}

/// Refuses, or with [`Resume::ExtendSchedule`] tells, what would give the steps to come other learning rates than they had.
fn check_schedule(
    config: &TrainConfig,
    found: &Resumable,
    dataset: &Dataset,
    total_steps: u64,
    resume: Resume,
    observer: &mut dyn Observer,
) -> Result<()> {
    // Before the number of steps, which may follow from it.
    let (before, now) = (found.state.loader.samples, dataset.mixture().epoch_len() as u64);
    if before != now {
        let problem = format!(
            "the run was begun with {before} samples an epoch, and the data has {now} now, so its order and its schedule would be \
             others; resume with the same data, or begin a new run from the model of this checkpoint (model.init_from)"
        );
        return Err(TrainError::checkpoint(&found.path, problem));
    }
    match schedule_change::change(config, found, total_steps)? {
        None => Ok(()),
        Some(change) if resume == Resume::ExtendSchedule => {
            observer.message(&format!("warning: {change}"));
            Ok(())
        }
        Some(change) => Err(TrainError::ChangedSchedule { checkpoint: found.path.clone(), change }),
    }
}

/// Mean loss of the target tokens of held-out data; nothing when interrupted meanwhile.
fn evaluate(
    model: &TrainableOtter,
    parameters: &Parameters,
    dataset: &Arc<Dataset>,
    section: &EvalSection,
    options: &LoaderOptions,
    interrupt: &AtomicBool,
) -> Result<Option<Evaluated>> {
    let mut loader = Loader::new(Arc::clone(dataset), options.clone(), None)?;
    let mut total = LossSum::default();
    let mut batches = 0;
    while section.max_batches.is_none_or(|most| batches < most) {
        if interrupt.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let Some(batch) = loader.next_batch()? else { break };
        let loss = model.loss(parameters, &batch)?;
        if !loss.sum.is_finite() {
            return Err(TrainError::Model(format!(
                "the held-out loss of sample(s) {} is {}; look at the samples and resume without them in eval.data, or begin a \
                 new run with a smaller optimizer.learning_rate",
                batch.sample_ids.join(", "),
                loss.sum
            )));
        }
        total.sum += loss.sum;
        total.targets += loss.targets;
        batches += 1;
    }
    if total.targets == 0 {
        let problem = format!("no target token was evaluated; {}", loader.report());
        return Err(TrainError::config("eval.data", problem));
    }
    let values = vec![("loss".to_owned(), total.mean()), ("perplexity".to_owned(), total.mean().exp())];
    Ok(Some(Evaluated { values, samples: loader.report().clone() }))
}
