//! Few-shot evaluation on a MIMIC-IT evaluation set with known truth.
//!
//! Each query is shown with its in-context examples and without its answer. Two things are measured: which candidate
//! answer is most probable (sum of the log-probabilities of its tokens and of the end of chunk), and whether greedy
//! generation gives the right answer exactly. Queries are sorted by length and handled in batches; the prompt of a query
//! is computed once for all candidates and for generation, a media item once for all queries that show it.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use otter_data::prompt::{ANSWER_TOKEN, END_OF_CHUNK_TOKEN};
use otter_data::{Dataset, ImageCounts, Sample, TextTokenizer, clean_answer};
use otter_io::Progress;
use otter_model::Otter;
use otter_nn::Parameters;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

mod media_latents;
mod prompt_pass;
pub mod table;
pub mod tasks;

use self::media_latents::MediaLatents;
use self::prompt_pass::{PromptPass, StructuralIds, spare_tokens};
use self::tasks::{Task, Truth};
use crate::error::EvaluationError;

/// How to evaluate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvaluationOptions {
    /// Queries handled together.
    pub batch_size: usize,
    /// Most queries over all families and numbers of shots, taken evenly from each; `None` for all.
    pub limit: Option<usize>,
    /// Most tokens of a generated answer; 0 leaves generation out.
    pub max_new_tokens: usize,
}

impl Default for EvaluationOptions {
    fn default() -> Self {
        Self { batch_size: 64, limit: None, max_new_tokens: 8 }
    }
}

/// One candidate answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScoredCandidate {
    /// Its text.
    pub text: String,
    /// Sum of the log-probabilities of its tokens and of the end of chunk.
    pub log_probability: f64,
}

/// What a model did with one query.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvaluationRecord {
    /// Query id.
    pub id: String,
    /// Position of the sample in its data set.
    pub index: usize,
    /// Task family.
    pub family: String,
    /// Kind of question.
    pub kind: String,
    /// In-context examples (of each concept, for binding).
    pub shots: usize,
    /// Whether something of it never occurs in training.
    pub held_out: bool,
    /// The right answer.
    pub answer: String,
    /// The candidates in the order of the truth file.
    pub candidates: Vec<ScoredCandidate>,
    /// The most probable candidate; `None` when no score is a number.
    pub choice: Option<usize>,
    /// Whether that is the answer.
    pub correct: bool,
    /// The greedily generated answer; `None` when generation was left out.
    pub generated: Option<String>,
    /// Whether the generated answer ended within the limit and is the right one, token by token or as text.
    pub exact_match: bool,
}

/// The result of an evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// One entry a query, in the order of the data sets.
    pub records: Vec<EvaluationRecord>,
    /// Queries that there are; more than the records where a limit was given.
    pub queries: usize,
    /// Wall-clock time.
    pub seconds: f64,
    /// Media items that were encoded.
    pub media_encoded: usize,
    /// Images that hold more than their pixels show.
    #[serde(default)]
    pub image_notes: ImageCounts,
    /// What a reader of the numbers should know.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// A query ready to be batched.
struct Prepared<'a> {
    dataset: usize,
    task: Task<'a>,
    /// Without pixels.
    sample: Sample,
    /// Length of the prompt, up to and including `<answer>`.
    prompt: usize,
    /// Tokens of each candidate.
    answers: Vec<Vec<u32>>,
}

/// Evaluates a model on the data sets of one evaluation set, each with its number of in-context examples.
///
/// # Errors
/// Samples and truth that do not match, data that does not fit the model, scores that are not finite, and all errors of data
/// and model.
pub fn evaluate(
    otter: &Otter,
    parameters: &Parameters<f32>,
    datasets: &[(usize, &Dataset)],
    truth: &Truth,
    options: &EvaluationOptions,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Evaluation, EvaluationError> {
    let start = Instant::now();
    check_options(otter, datasets, options)?;
    let mut tasks = Vec::new();
    for (number, &(shots, dataset)) in datasets.iter().enumerate() {
        tasks.extend(truth.tasks(dataset, shots)?.into_iter().map(|task| (number, task)));
    }
    let queries = tasks.len();
    if let Some(limit) = options.limit {
        tasks = spread(tasks, limit);
    }
    if tasks.is_empty() {
        return Err(EvaluationError::Options(format!(
            "nothing to evaluate: there are {queries} queries; add records to the sets and their truth files, or raise the limit"
        )));
    }
    let total = tasks.len();
    // Cheap without pixels; lengths are needed before the batches are made.
    let queue = tasks.into_par_iter().enumerate().map(|(order, (number, task))| {
        let prepared = prepared(number, datasets[number].1, task)?;
        Ok((order, prepared))
    });
    let mut queue = queue.collect::<Result<Vec<_>, EvaluationError>>()?;
    queue.sort_by_key(|(order, p)| (p.prompt, p.answers.len(), *order));

    let warnings = check_lengths(otter, &queue, options)?;
    let mut media = MediaLatents::new(otter, parameters, datasets)?;
    let mut records: Vec<(usize, EvaluationRecord)> = Vec::with_capacity(total);
    progress(Progress::of_items("queries", 0, total));
    for batch in queue.chunks(options.batch_size) {
        evaluate_batch(otter, parameters, datasets, batch, &mut media, options, &mut records)?;
        progress(Progress::of_items("queries", records.len(), total));
    }
    records.sort_by_key(|(order, _)| *order);
    let records = records.into_iter().map(|(_, record)| record).collect();
    Ok(Evaluation {
        records,
        queries,
        seconds: start.elapsed().as_secs_f64(),
        media_encoded: media.encoded,
        image_notes: media.image_notes,
        warnings,
    })
}

fn evaluate_batch(
    otter: &Otter,
    parameters: &Parameters<f32>,
    datasets: &[(usize, &Dataset)],
    batch: &[(usize, Prepared<'_>)],
    media: &mut MediaLatents<'_>,
    options: &EvaluationOptions,
    records: &mut Vec<(usize, EvaluationRecord)>,
) -> Result<(), EvaluationError> {
    let samples: Vec<_> = batch.iter().map(|(_, p)| (p.dataset, p.task.index, &p.sample)).collect();
    let media = media.media(&samples)?;
    let prompts: Vec<&[u32]> = batch.iter().map(|(_, p)| &p.sample.input_ids[..p.prompt]).collect();
    let answers: Vec<Vec<Vec<u32>>> = batch.iter().map(|(_, p)| p.answers.clone()).collect();
    let tokenizer = datasets[batch[0].1.dataset].1.tokenizer();
    let special = tokenizer.special();
    let ids = StructuralIds { pad: special.pad, media: special.image, end: special.endofchunk };
    let spare = spare_tokens(&answers, options.max_new_tokens);
    let mut pass = PromptPass::new((otter, parameters), ids, &prompts, media, spare)?;
    let scores = pass.score(&answers)?;
    for ((_, prepared), scores) in batch.iter().zip(&scores) {
        if let Some(number) = scores.iter().position(|score| !score.is_finite()) {
            let Task { id, truth, .. } = &prepared.task;
            let what =
                format!("the scores of sample '{id}', from candidate '{}' on,", truth.candidates[number]);
            return Err(otter.not_finite(parameters, None, None, what).into());
        }
    }
    let generated =
        if options.max_new_tokens > 0 { pass.generate(options.max_new_tokens)? } else { Vec::new() };
    let mut generated = generated.into_iter();
    for ((order, prepared), scores) in batch.iter().zip(scores) {
        records.push((*order, prepared.record(&scores, generated.next(), tokenizer)?));
    }
    Ok(())
}

impl Prepared<'_> {
    fn record(
        &self,
        scores: &[f64],
        generated: Option<(Vec<u32>, bool)>,
        tokenizer: &TextTokenizer,
    ) -> Result<EvaluationRecord, EvaluationError> {
        let truth = self.task.truth;
        let choice = most_probable(scores);
        let (generated, exact_match) = match generated {
            None => (None, false),
            Some((tokens, ended)) => {
                let text = tokenizer.decode(&tokens, true)?.trim().to_owned();
                let right = tokens == self.answers[truth.answer_index] || text == truth.answer;
                (Some(text), ended && right)
            }
        };
        Ok(EvaluationRecord {
            id: self.task.id.clone(),
            index: self.task.index,
            family: truth.family.clone(),
            kind: truth.kind.clone(),
            shots: self.task.shots,
            held_out: truth.held_out.any(),
            answer: truth.answer.clone(),
            candidates: std::iter::zip(&truth.candidates, scores)
                .map(|(text, &log_probability)| ScoredCandidate { text: text.clone(), log_probability })
                .collect(),
            choice,
            correct: choice == Some(truth.answer_index),
            generated,
            exact_match,
        })
    }
}

/// First of the largest scores; a score that is no number never wins.
fn most_probable(scores: &[f64]) -> Option<usize> {
    let numbers = scores.iter().enumerate().filter(|(_, score)| !score.is_nan());
    numbers.fold(None, |best: Option<usize>, (i, score)| match best {
        Some(b) if scores[b] >= *score => Some(b),
        _ => Some(i),
    })
}

fn check_options(
    otter: &Otter,
    datasets: &[(usize, &Dataset)],
    options: &EvaluationOptions,
) -> Result<(), EvaluationError> {
    if options.batch_size == 0 {
        return Err(EvaluationError::Options("batch_size is 0; it must be at least 1".into()));
    }
    let Some(((_, first), rest)) = datasets.split_first() else {
        return Err(EvaluationError::Options("no data set is given; give one per number of shots".into()));
    };
    if rest.iter().any(|(_, other)| other.tokenizer().special() != first.tokenizer().special()) {
        return Err(EvaluationError::Options(
            "the data sets were opened with different tokenizers; use that of the model for all".into(),
        ));
    }
    for (shots, dataset) in datasets {
        if datasets.iter().filter(|(other, _)| other == shots).count() > 1 {
            return Err(EvaluationError::Options(format!(
                "two data sets are given for {shots} shots; put their sets into one data configuration"
            )));
        }
        let (found, expected) = (dataset.config().image_size, otter.config().vision.image_size);
        if found != expected {
            return Err(EvaluationError::Options(format!(
                "the data set for {shots} shots gives images of {found} pixels, the model takes {expected}; set image_size = {expected}"
            )));
        }
    }
    Ok(())
}

/// Queries that with an answer are longer than what the model was trained with are told; where positions are learned, they
/// are refused.
fn check_lengths(
    otter: &Otter,
    queue: &[(usize, Prepared<'_>)],
    options: &EvaluationOptions,
) -> Result<Vec<String>, EvaluationError> {
    let text = &otter.config().text;
    let trained = text.max_positions();
    let with_answer = |query: &Prepared<'_>| {
        let longest = query.answers.iter().map(|answer| answer.len() + 1).max().unwrap_or(0);
        query.prompt + longest.max(options.max_new_tokens)
    };
    // The last token is never an input.
    let beyond = |query: &Prepared<'_>| match text.learned_positions() {
        Some(positions) => with_answer(query) > positions + 1,
        None => with_answer(query) > trained,
    };
    let long: Vec<&Prepared<'_>> =
        queue.iter().map(|(_, query)| query).filter(|query| beyond(query)).collect();
    let Some(longest) = long.iter().max_by_key(|query| with_answer(query)) else { return Ok(Vec::new()) };
    let (id, prompt, whole) = (&longest.task.id, longest.prompt, with_answer(longest));
    if let Some(positions) = text.learned_positions() {
        let message = format!(
            "it has {prompt} tokens, {whole} with an answer, but the model has positions for {positions}; evaluate with \
             fewer in-context examples"
        );
        return Err(EvaluationError::Sample { id: id.clone(), message });
    }
    Ok(vec![format!(
        "{} of {} queries are with an answer longer than the {trained} tokens that this model was trained with: '{id}' has \
         {prompt}, {whole} with an answer; expect worse beyond",
        long.len(),
        queue.len()
    )])
}

/// Takes `limit` tasks evenly from every family, held out or not, with every number of shots: the first ones of each,
/// so that the same queries stay for all numbers of shots.
fn spread(tasks: Vec<(usize, Task<'_>)>, limit: usize) -> Vec<(usize, Task<'_>)> {
    let mut taken: BTreeMap<(String, bool, usize), usize> = BTreeMap::new();
    let mut ranked: Vec<(usize, usize)> = Vec::with_capacity(tasks.len());
    for (order, (_, task)) in tasks.iter().enumerate() {
        let group = (task.truth.family.clone(), task.truth.held_out.any(), task.shots);
        let rank = taken.entry(group).or_default();
        ranked.push((*rank, order));
        *rank += 1;
    }
    ranked.sort_unstable();
    let mut keep = vec![false; tasks.len()];
    ranked.iter().take(limit).for_each(|&(_, order)| keep[order] = true);
    tasks.into_iter().zip(keep).filter_map(|(task, keep)| keep.then_some(task)).collect()
}

fn prepared<'a>(number: usize, dataset: &Dataset, task: Task<'a>) -> Result<Prepared<'a>, EvaluationError> {
    let sample = dataset.sample_in_epoch(task.index, 0, false)?;
    let wrong = |message: String| EvaluationError::Sample { id: task.id.clone(), message };
    if sample.dropped_turns > 0 {
        let dropped = sample.dropped_turns;
        return Err(wrong(format!(
            "{dropped} of its in-context examples do not fit into max_seq_len = {}; raise the limit",
            dataset.config().max_seq_len
        )));
    }
    let tokenizer = dataset.tokenizer();
    let special = tokenizer.special();
    let query = sample.input_ids.iter().rposition(|&id| id == special.answer);
    let prompt = query.map(|place| place + 1).ok_or_else(|| {
        wrong(format!("its query turn has no {ANSWER_TOKEN}; check the tokenizer and max_seq_len"))
    })?;
    let behind = &sample.input_ids[prompt..];
    let end = behind.iter().position(|&id| id == special.endofchunk).ok_or_else(|| {
        wrong(format!("its answer has no {END_OF_CHUNK_TOKEN}; raise max_seq_len, which may have cut it"))
    })?;
    let mut known: HashMap<&str, Vec<u32>> = HashMap::new();
    for candidate in &task.truth.candidates {
        let tokens = answer_tokens(tokenizer, candidate, dataset.switches().keep_symbols)
            .map_err(|message| wrong(format!("candidate '{candidate}': {message}")))?;
        known.insert(candidate, tokens);
    }
    let answers: Vec<Vec<u32>> =
        task.truth.candidates.iter().map(|text| known[text.as_str()].clone()).collect();
    if answers[task.truth.answer_index] != behind[..end] {
        let found = tokenizer.decode(&behind[..end], false)?;
        return Err(wrong(format!(
            "its answer is '{found}', but the truth says '{}'; data and truth are of different runs, make both again",
            task.truth.answer
        )));
    }
    Ok(Prepared { dataset: number, task, sample, prompt, answers })
}

/// Tokens of an answer as they stand between `<answer>` and the end of chunk.
fn answer_tokens(tokenizer: &TextTokenizer, answer: &str, keep_symbols: bool) -> Result<Vec<u32>, String> {
    let answer = clean_answer(answer, keep_symbols);
    if tokenizer.contains_special(&answer) {
        return Err("it contains the text of a special token; remove it".into());
    }
    let ids = tokenizer
        .encode(&format!("{ANSWER_TOKEN}{answer}{END_OF_CHUNK_TOKEN}"))
        .map_err(|error| error.to_string())?;
    match ids.as_slice() {
        [first, answer @ .., last]
            if *first == tokenizer.special().answer && *last == tokenizer.special().endofchunk =>
        {
            Ok(answer.to_vec())
        }
        _ => Err(format!("the tokenizer reads it as {ids:?}, without its enclosing special tokens")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::tasks::{HeldOut, TruthRecord};

    #[test]
    fn a_score_that_is_no_number_never_wins() {
        assert_eq!(most_probable(&[-2.0, -1.0, -1.0]), Some(1));
        assert_eq!(most_probable(&[f64::NAN, -9.0]), Some(1));
        assert_eq!(most_probable(&[f64::NAN, f64::NEG_INFINITY]), Some(1));
        assert_eq!(most_probable(&[f64::NAN, f64::NAN]), None);
    }

    #[test]
    fn a_limit_takes_the_same_queries_of_every_group() {
        let truth = |family: &str| TruthRecord {
            family: family.into(),
            kind: "k".into(),
            answer: "a".into(),
            candidates: vec!["a".into(), "b".into()],
            answer_index: 0,
            shots: vec![0, 1],
            concepts: Vec::new(),
            held_out: HeldOut::default(),
        };
        let (x, y) = (truth("x"), truth("y"));
        let mut tasks = Vec::new();
        for shots in [0, 1] {
            for index in 0..10 {
                let truth = if index < 7 { &x } else { &y };
                tasks.push((shots, Task { id: format!("q{index}"), index, shots, truth }));
            }
        }
        let kept: Vec<_> = spread(tasks.clone(), 8).into_iter().map(|(s, t)| (s, t.index)).collect();
        assert_eq!(kept, [(0, 0), (0, 1), (0, 7), (0, 8), (1, 0), (1, 1), (1, 7), (1, 8)]);
        assert_eq!(spread(tasks.clone(), 1000).len(), 20);
        assert!(spread(tasks, 0).is_empty());
    }
}
