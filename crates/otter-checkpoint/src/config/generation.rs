//! `generation_config.json`: how a checkpoint's makers want answers to be made, in the words of Hugging Face's
//! `GenerationConfig`. Every key is used, refused because it would change answers in a way that is not supported, known to
//! change none, or named in a warning.

use std::path::{Path, PathBuf};

use otter_model::generate::EarlyStopping;
use serde_json::{Map, Value};

use crate::config::section::Section;
use crate::directory::text_file::{LONGEST_CONFIG, read_object};
use crate::directory::trained_part::TrainedPart;
use crate::error::Result;
use crate::gguf;

/// Name of the file.
pub(crate) const GENERATION_CONFIG: &str = "generation_config.json";

/// What the file sets; `None` where it is silent.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GenerationDefaults {
    /// The file.
    pub path: PathBuf,
    /// Whether the library made the file from `config.json`, so that it is nobody's choice (`_from_model_config`).
    pub derived: bool,
    /// `eos_token_id`: tokens that end an answer.
    pub end_tokens: Vec<u32>,
    /// `stop_strings`: texts that end an answer.
    pub stop_strings: Vec<String>,
    /// `bad_words_ids`: phrases that are never completed.
    pub bad_words: Vec<Vec<u32>>,
    /// Whether tokens are drawn.
    pub do_sample: Option<bool>,
    /// Divisor of the logits, when tokens are drawn.
    pub temperature: Option<f32>,
    /// Tokens that are drawn from.
    pub top_k: Option<usize>,
    /// Probability of the tokens that are drawn from.
    pub top_p: Option<f32>,
    /// Penalty on tokens that occurred.
    pub repetition_penalty: Option<f32>,
    /// Length of sequences that never repeat.
    pub no_repeat_ngram_size: Option<usize>,
    /// Most new tokens.
    pub max_new_tokens: Option<usize>,
    /// Most tokens, prompt included.
    pub max_length: Option<usize>,
    /// Fewest new tokens.
    pub min_new_tokens: Option<usize>,
    /// Fewest tokens, prompt included.
    pub min_length: Option<usize>,
    /// Beams of the search.
    pub num_beams: Option<usize>,
    /// Power of the length by which beams are ranked.
    pub length_penalty: Option<f64>,
    /// When a search ends.
    pub early_stopping: Option<EarlyStopping>,
    /// Answers to each prompt.
    pub num_return_sequences: Option<usize>,
    /// Keys that change answers in a way that is not supported when tokens are drawn, each with the message that refuses it.
    pub unsupported_draws: Vec<(&'static str, String)>,
    /// The same of keys that only change a search with beams.
    pub unsupported_search: Vec<(&'static str, String)>,
    /// Keys that no writer is known to produce.
    pub unknown: Vec<String>,
}

/// Keys that change no answer.
const PASSIVE: &[&str] = &[
    "_commit_hash",
    "assistant_confidence_threshold",
    "assistant_early_exit",
    "assistant_lookbehind",
    "bos_token_id",
    "cache_config",
    "cache_implementation",
    "compile_config",
    "continuous_batching_config",
    "decoder_start_token_id",
    "disable_compile",
    "is_assistant",
    "low_memory",
    "max_matching_ngram_size",
    "num_assistant_tokens",
    "num_assistant_tokens_schedule",
    "output_attentions",
    "output_hidden_states",
    "output_logits",
    "output_scores",
    "pad_token_id",
    "prefill_chunk_size",
    "prompt_lookup_num_tokens",
    "remove_invalid_values",
    "return_dict_in_generate",
    "return_legacy_cache",
    "target_lookbehind",
    "transformers_version",
    "use_cache",
];

/// A key that changes answers in a way that is not supported, with the number at which it does nothing.
const UNSUPPORTED: &[(&str, Option<f64>)] = &[
    ("begin_suppress_tokens", None),
    ("constraints", None),
    ("diversity_penalty", Some(0.0)),
    ("dola_layers", None),
    ("encoder_no_repeat_ngram_size", Some(0.0)),
    ("encoder_repetition_penalty", Some(1.0)),
    ("epsilon_cutoff", Some(0.0)),
    ("eta_cutoff", Some(0.0)),
    ("exponential_decay_length_penalty", None),
    ("force_words_ids", None),
    ("forced_bos_token_id", None),
    ("forced_decoder_ids", None),
    ("forced_eos_token_id", None),
    ("generation_kwargs", None),
    ("guidance_scale", Some(1.0)),
    ("max_time", None),
    ("min_p", Some(0.0)),
    ("num_beam_groups", Some(1.0)),
    ("penalty_alpha", Some(0.0)),
    ("renormalize_logits", None),
    ("sequence_bias", None),
    ("suppress_tokens", None),
    ("token_healing", None),
    ("top_h", None),
    ("typical_p", Some(1.0)),
    ("watermarking_config", None),
];

/// Those of [`UNSUPPORTED`] that change nothing unless tokens are drawn.
const WHEN_DRAWN: &[&str] = &["epsilon_cutoff", "eta_cutoff", "min_p", "top_h", "typical_p"];
/// The same unless there are beams: neither the most probable token nor the share of any changes.
const WHEN_SEARCHED: &[&str] = &["renormalize_logits"];

/// Keys that are used.
const USED: &[&str] = &[
    "_from_model_config",
    "bad_words_ids",
    "do_sample",
    "early_stopping",
    "eos_token_id",
    "length_penalty",
    "max_length",
    "max_new_tokens",
    "min_length",
    "min_new_tokens",
    "no_repeat_ngram_size",
    "num_beams",
    "num_return_sequences",
    "repetition_penalty",
    "stop_strings",
    "temperature",
    "top_k",
    "top_p",
];

impl GenerationDefaults {
    /// Reads the file of a checkpoint, or of the base of a trained part; `None` where there is none.
    ///
    /// # Errors
    /// When the file is not JSON, a value is of no use, an id is outside the vocabulary, or a key is active that would
    /// change answers in a way that is not supported.
    pub fn of_checkpoint(directory: &Path, vocab_size: usize) -> Result<Option<Self>> {
        if gguf::file_of(directory).is_some() {
            return Ok(None);
        }
        let (base, _) = TrainedPart::chain(directory)?;
        let places = [directory, &base].map(|place| place.join(GENERATION_CONFIG));
        let Some(path) = places.into_iter().find(|path| path.is_file()) else { return Ok(None) };
        Self::read(&path, vocab_size).map(Some)
    }

    /// Reads a file, of a model with so many tokens.
    ///
    /// # Errors
    /// As [`GenerationDefaults::of_checkpoint`].
    pub fn read(path: &Path, vocab_size: usize) -> Result<Self> {
        Self::parse(path, &read_object(path, LONGEST_CONFIG)?, vocab_size)
    }

    fn parse(path: &Path, map: &Map<String, Value>, vocab_size: usize) -> Result<Self> {
        let file = Section { path, name: "", map };
        let (unsupported_draws, unsupported_search) = refuse_unsupported(&file)?;
        for key in ["bos_token_id", "pad_token_id"] {
            if let Some(id) = file.token(key)? {
                check_id(&file, key, id, vocab_size)?;
            }
        }
        let end_tokens = file.tokens("eos_token_id")?;
        for &id in &end_tokens {
            check_id(&file, "eos_token_id", id, vocab_size)?;
        }
        let bad_words = bad_words(&file)?;
        for &id in bad_words.iter().flatten() {
            check_id(&file, "bad_words_ids", id, vocab_size)?;
        }
        let known = |key: &&String| {
            let key = key.as_str();
            USED.contains(&key) || PASSIVE.contains(&key) || UNSUPPORTED.iter().any(|(name, _)| *name == key)
        };
        Ok(Self {
            path: path.to_path_buf(),
            derived: file.flag("_from_model_config")?.unwrap_or(false),
            end_tokens,
            stop_strings: stop_strings(&file)?,
            bad_words,
            do_sample: file.flag("do_sample")?,
            temperature: number(
                &file,
                "temperature",
                |t| t >= 0.0,
                "expected 0 (greedy) or a positive number",
            )?,
            top_k: file.size("top_k")?,
            top_p: number(
                &file,
                "top_p",
                |p| p > 0.0 && p <= 1.0,
                "expected a number above 0 and at most 1",
            )?,
            repetition_penalty: number(
                &file,
                "repetition_penalty",
                |p| p > 0.0,
                "expected a positive number",
            )?,
            no_repeat_ngram_size: file.size("no_repeat_ngram_size")?,
            max_new_tokens: at_least_one(&file, "max_new_tokens")?,
            max_length: at_least_one(&file, "max_length")?,
            min_new_tokens: file.size("min_new_tokens")?,
            min_length: file.size("min_length")?,
            num_beams: at_least_one(&file, "num_beams")?,
            length_penalty: file.real("length_penalty")?,
            early_stopping: early_stopping(&file)?,
            num_return_sequences: at_least_one(&file, "num_return_sequences")?,
            unsupported_draws,
            unsupported_search,
            unknown: map.keys().filter(|key| !known(key)).map(|key| file.full_key(key)).collect(),
        })
    }
}

/// Whether a file was made from `config.json` and says nothing of its own.
pub(crate) fn is_derived(path: &Path) -> bool {
    read_object(path, LONGEST_CONFIG)
        .is_ok_and(|map| map.get("_from_model_config") == Some(&Value::Bool(true)))
}

/// Whether a value does something, given the number that does nothing. Null, false and what is empty do nothing either.
fn is_active(value: &Value, neutral: Option<f64>) -> bool {
    match value {
        Value::Bool(on) => *on,
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
        value => value.as_f64().is_none_or(|number| Some(number) != neutral),
    }
}

/// Keys that older files carry in `config.json` itself, with the numbers that the library writes when nobody chose.
const IN_CONFIG: &[(&str, Option<f64>)] = &[
    ("bad_words_ids", None),
    ("do_sample", None),
    ("early_stopping", None),
    ("length_penalty", Some(1.0)),
    ("max_length", Some(20.0)),
    ("min_length", Some(0.0)),
    ("no_repeat_ngram_size", Some(0.0)),
    ("num_beams", Some(1.0)),
    ("num_return_sequences", Some(1.0)),
    ("repetition_penalty", Some(1.0)),
    ("temperature", Some(1.0)),
    ("top_k", Some(50.0)),
    ("top_p", Some(1.0)),
];

/// Names the settings of answers in an object of `config.json`, which are not used there.
pub(crate) fn warn_of_settings(section: &Section<'_>, warnings: &mut Vec<String>) {
    for (key, neutral) in IN_CONFIG.iter().chain(UNSUPPORTED) {
        if let Some(value) = section.value(key).filter(|value| is_active(value, *neutral)) {
            warnings.push(format!(
                "{} is {value}, which is not used: options and generation_config.json say how answers are made",
                section.full_key(key)
            ));
        }
    }
}

/// Keys and messages that refuse them.
type Refused = Vec<(&'static str, String)>;

/// What is refused when tokens are drawn, and what when beams are searched.
///
/// # Errors
/// When a key is active that changes answers whatever way they are made.
fn refuse_unsupported(file: &Section<'_>) -> Result<(Refused, Refused)> {
    let (mut draws, mut search) = (Vec::new(), Vec::new());
    for &(key, neutral) in UNSUPPORTED {
        let Some(value) = file.value(key).filter(|value| is_active(value, neutral)) else { continue };
        let neutral = neutral.map_or("null".to_owned(), |neutral| neutral.to_string());
        let expected =
            format!("it would change answers and is not supported; remove it or set it to {neutral}");
        let refusal = file.wrong(key, value, &expected);
        match key {
            key if WHEN_DRAWN.contains(&key) => draws.push((key, refusal.to_string())),
            key if WHEN_SEARCHED.contains(&key) => search.push((key, refusal.to_string())),
            _ => return Err(refusal.into()),
        }
    }
    Ok((draws, search))
}

/// A token id must be one of the model's.
pub(crate) fn check_id(file: &Section<'_>, key: &str, id: u32, vocab_size: usize) -> Result<()> {
    if (id as usize) < vocab_size {
        return Ok(());
    }
    Err(file.wrong(key, &id, &format!("the model has {vocab_size} tokens; expected an id below that")).into())
}

fn number(file: &Section<'_>, key: &str, fits: impl Fn(f64) -> bool, expected: &str) -> Result<Option<f32>> {
    match file.real(key)? {
        Some(value) if !((value as f32).is_finite() && fits(value)) => {
            Err(file.wrong(key, &value, expected).into())
        }
        value => Ok(value.map(|value| value as f32)),
    }
}

fn at_least_one(file: &Section<'_>, key: &str) -> Result<Option<usize>> {
    match file.size(key)? {
        Some(0) => Err(file.wrong(key, &0, "expected a whole number of at least 1").into()),
        size => Ok(size),
    }
}

fn early_stopping(file: &Section<'_>) -> Result<Option<EarlyStopping>> {
    match file.value("early_stopping") {
        None => Ok(None),
        Some(Value::Bool(false)) => Ok(Some(EarlyStopping::Heuristic)),
        Some(Value::Bool(true)) => Ok(Some(EarlyStopping::AtOnce)),
        Some(Value::String(text)) if text == "never" => Ok(Some(EarlyStopping::Never)),
        Some(other) => Err(file.wrong("early_stopping", other, "expected true, false or \"never\"").into()),
    }
}

fn stop_strings(file: &Section<'_>) -> Result<Vec<String>> {
    let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let Some(value) = file.value("stop_strings") else { return Ok(Vec::new()) };
    let texts = match value {
        Value::Array(texts) => texts.iter().map(text).collect(),
        single => text(single).map(|text| vec![text]),
    };
    texts.ok_or_else(|| file.wrong("stop_strings", value, "expected a text or a list of texts").into())
}

fn bad_words(file: &Section<'_>) -> Result<Vec<Vec<u32>>> {
    let Some(value) = file.value("bad_words_ids") else { return Ok(Vec::new()) };
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    let word = |value: &Value| {
        let ids = value.as_array()?.iter().map(id).collect::<Option<Vec<u32>>>()?;
        (!ids.is_empty()).then_some(ids)
    };
    let words = value.as_array().and_then(|words| words.iter().map(word).collect());
    words.ok_or_else(|| file.wrong("bad_words_ids", value, "expected a list of lists of token ids").into())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(value: Value) -> Result<GenerationDefaults> {
        let Value::Object(map) = value else { panic!("no object") };
        GenerationDefaults::parse(Path::new("generation_config.json"), &map, 100)
    }

    #[test]
    fn every_key_that_is_used_is_read() {
        let found = parse(json!({
            "bos_token_id": 1, "eos_token_id": [2, 9, 2], "pad_token_id": [0], "do_sample": true,
            "temperature": 0.6, "top_p": 0.9, "top_k": 40, "repetition_penalty": 1.1, "no_repeat_ngram_size": 3,
            "max_new_tokens": 7, "max_length": 50, "min_new_tokens": 2, "min_length": 4, "num_beams": 3,
            "length_penalty": -2, "early_stopping": "never", "num_return_sequences": 2,
            "stop_strings": ["User:"], "bad_words_ids": [[5, 6], [7]], "transformers_version": "4.44.0",
        }))
        .unwrap();
        let expected = GenerationDefaults {
            path: "generation_config.json".into(),
            derived: false,
            end_tokens: vec![2, 9],
            stop_strings: vec!["User:".to_owned()],
            bad_words: vec![vec![5, 6], vec![7]],
            do_sample: Some(true),
            temperature: Some(0.6),
            top_k: Some(40),
            top_p: Some(0.9),
            repetition_penalty: Some(1.1),
            no_repeat_ngram_size: Some(3),
            max_new_tokens: Some(7),
            max_length: Some(50),
            min_new_tokens: Some(2),
            min_length: Some(4),
            num_beams: Some(3),
            length_penalty: Some(-2.0),
            early_stopping: Some(EarlyStopping::Never),
            num_return_sequences: Some(2),
            unsupported_draws: Vec::new(),
            unsupported_search: Vec::new(),
            unknown: Vec::new(),
        };
        assert_eq!(found, expected);
        assert_eq!(parse(json!({"eos_token_id": 4})).unwrap().end_tokens, [4]);
        assert!(parse(json!({"_from_model_config": true})).unwrap().derived);
        // Older files write -1 for "none".
        for (ids, expected) in [(json!(-1), vec![]), (json!([-1]), vec![]), (json!([2, -1]), vec![2])] {
            let found =
                parse(json!({"eos_token_id": ids, "bos_token_id": -1, "pad_token_id": [-1]})).unwrap();
            assert_eq!(found.end_tokens, expected, "{ids}");
        }
    }

    #[test]
    fn unknown_keys_are_told_and_unsupported_ones_refused_only_when_active() {
        let found = parse(json!({"chat_format": "raw", "top_n": 3, "temperature": null})).unwrap();
        assert_eq!(found.unknown, ["chat_format", "top_n"]);
        for (key, neutral, active) in [
            ("penalty_alpha", json!(0.0), json!(0.6)),
            ("typical_p", json!(1.0), json!(0.95)),
            ("guidance_scale", json!(1), json!(1.5)),
            ("num_beam_groups", json!(1), json!(2)),
            ("min_p", json!(0), json!(0.1)),
            ("suppress_tokens", json!([]), json!([1])),
            ("renormalize_logits", json!(false), json!(true)),
            ("sequence_bias", json!({}), json!([[[1], 2.0]])),
            ("forced_eos_token_id", Value::Null, json!(0)),
            ("max_time", Value::Null, json!(1.5)),
        ] {
            for value in [neutral, Value::Null] {
                assert!(parse(json!({key: value})).unwrap().unknown.is_empty(), "{key}");
            }
            let error = match parse(json!({key: active})) {
                Err(error) => error.to_string(),
                Ok(found) if key == "renormalize_logits" => found.unsupported_search[0].1.clone(),
                Ok(found) => {
                    assert!(["typical_p", "min_p"].contains(&key), "{key}");
                    found.unsupported_draws[0].1.clone()
                }
            };
            assert!(error.starts_with("generation_config.json: ") && error.contains(key), "{error}");
        }
    }

    #[test]
    fn values_of_no_use_name_file_and_key() {
        for (key, value, expected) in [
            ("eos_token_id", json!([2, 100]), "`eos_token_id` is 100; the model has 100 tokens"),
            ("pad_token_id", json!(100), "`pad_token_id` is 100"),
            ("bos_token_id", json!([1, 2]), "`bos_token_id` is [1,2]; expected a token id"),
            ("eos_token_id", json!([]), "`eos_token_id` is []"),
            ("eos_token_id", json!("</s>"), "expected a token id or a list of them"),
            ("bad_words_ids", json!([[1], [100]]), "`bad_words_ids` is 100"),
            ("bad_words_ids", json!([1]), "list of lists"),
            ("temperature", json!(-1), "`temperature` is -1"),
            ("top_p", json!(1.5), "at most 1"),
            ("top_k", json!(-1), "whole number"),
            ("repetition_penalty", json!(0), "positive"),
            ("num_beams", json!(0), "at least 1"),
            ("early_stopping", json!("soon"), "never"),
            ("stop_strings", json!([""]), "list of texts"),
            ("do_sample", json!("yes"), "true or false"),
        ] {
            let error = parse(json!({key: value})).unwrap_err().to_string();
            assert!(error.starts_with("generation_config.json: ") && error.contains(expected), "{error}");
        }
    }
}
