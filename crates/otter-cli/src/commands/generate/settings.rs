//! How answers are made: what the command line says, and where it is silent, the checkpoint's `generation_config.json`.

use std::path::Path;

use anyhow::{Context, Result, bail};
use otter_checkpoint::{GenerationDefaults, LoadedModel};
use otter_model::generate::{BeamOptions, Decoding, EarlyStopping, GenerationOptions, Processors, Sampling};

use crate::arguments::{BeamArguments, DecodingChoice, EarlyStoppingChoice, SamplingArguments};
use crate::commands::checkpoint::hub::resolve_model;

/// Most new tokens of an answer; room for all of them is set aside at the start.
const MOST_NEW_TOKENS: usize = 1 << 16;
/// New tokens of an answer, where nobody says how many.
const NEW_TOKENS: usize = 64;
/// Most beams, and most answers to a prompt: each has keys and values of its own.
const MOST_SEQUENCES: usize = 256;

/// What was asked for, with the defaults of the checkpoint.
pub struct Settings {
    options: GenerationOptions,
    beams: Option<BeamOptions>,
    /// Texts that end an answer.
    pub stop: Vec<String>,
    /// Where the limit of the whole length comes from, and what to do when it leaves nothing.
    length_from: (&'static str, &'static str),
}

impl Settings {
    /// Reads the checkpoint's file, says in one line what of it is used, and checks everything. Without `beams` there is
    /// one answer, which is chosen token by token.
    pub fn new(
        model: &LoadedModel,
        path: &Path,
        sampling: &SamplingArguments,
        beams: Option<&BeamArguments>,
    ) -> Result<Self> {
        let vocabulary = model.config.model.text.vocab_size();
        let file = match sampling.no_generation_config {
            true => None,
            false => GenerationDefaults::of_checkpoint(&resolve_model(path)?, vocabulary)?,
        };
        let mut used = Used { words: Vec::new() };
        let reference = !matches!(sampling.decoding, DecodingChoice::Keep);
        let silent = GenerationDefaults::default();
        let defaults = match &file {
            // Made from config.json, it says nothing of its own.
            Some(file) if file.derived => &silent,
            Some(file) if reference => {
                eprintln!(
                    "warning: {} is passed over, as the original does; without --decoding it is read",
                    file.path.display()
                );
                &silent
            }
            Some(file) => file,
            None => &silent,
        };
        if !defaults.unknown.is_empty() {
            let keys = defaults.unknown.join(", ");
            eprintln!("warning: {}: unknown keys, which are not used: {keys}", defaults.path.display());
        }
        let stop_tokens = stop_tokens(model, sampling.stop_at_eos, defaults, file.as_ref(), &mut used)?;
        let mut settings = Self {
            options: GenerationOptions {
                max_new_tokens: 0,
                max_length: None,
                sampling: chosen(sampling, defaults, &mut used)?,
                processors: processors(model, sampling, defaults, &mut used)?,
                stop_tokens,
                decoding: match sampling.decoding {
                    DecodingChoice::Keep => Decoding::Keep,
                    DecodingChoice::Reference if !model.config.use_cache => Decoding::Keep,
                    DecodingChoice::Reference | DecodingChoice::ReferenceUseCache => Decoding::Reference,
                },
                count_padding: reference,
                return_sequences: 1,
            },
            beams: None,
            stop: sampling.stop.clone(),
            length_from: ("--max-length", "raise it"),
        };
        settings.set_lengths(sampling, defaults, &mut used);
        if let (None, Some(new)) = (sampling.max_new_tokens, defaults.max_new_tokens)
            && new > MOST_NEW_TOKENS
        {
            let file = defaults.path.display();
            bail!(
                "{file}: `max_new_tokens` is {new}; the limit is {MOST_NEW_TOKENS}; give --max-new-tokens instead"
            );
        }
        if settings.stop.is_empty() && !defaults.stop_strings.is_empty() {
            settings.stop = used.take("stop_strings", defaults.stop_strings.clone());
        }
        match beams {
            Some(beams) => settings.set_beams(beams, defaults, &mut used).with_context(|| {
                let (file, words) = (defaults.path.display(), used.words.join(", "));
                if words.is_empty() {
                    "options".to_owned()
                } else {
                    format!("options, with {words} of {file}")
                }
            })?,
            None => {
                let ignored = [
                    ("num_beams", defaults.num_beams.is_some_and(|beams| beams > 1)),
                    ("num_return_sequences", defaults.num_return_sequences.is_some_and(|count| count > 1)),
                ];
                for (key, _) in ignored.into_iter().filter(|(_, set)| *set) {
                    let file = defaults.path.display();
                    eprintln!("warning: {file}: `{key}` is not used: one answer is given as it comes");
                }
            }
        }
        for (key, _) in defaults.unsupported_search.iter().filter(|_| settings.beams.is_none()) {
            let file = defaults.path.display();
            eprintln!("warning: {file}: `{key}` without beams changes nothing");
        }
        if !used.words.is_empty() {
            eprintln!("{} sets what no option does: {}", defaults.path.display(), used.words.join(", "));
        }
        Ok(settings)
    }

    /// The options for these prompts, and how to search when there are beams.
    pub fn for_prompts(
        &self,
        model: &LoadedModel,
        prompts: &[Vec<u32>],
    ) -> Result<(GenerationOptions, Option<BeamOptions>)> {
        let mut options = self.options.clone();
        if let Some(limit) = options.max_length {
            let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
            let shortest = prompts.iter().map(Vec::len).min().unwrap_or(0);
            if let Some(at) = prompts.iter().position(|prompt| prompt.len() >= limit) {
                let which = if prompts.len() == 1 { String::new() } else { format!("prompt {}: ", at + 1) };
                let tokens = prompts[at].len();
                let (from, advice) = self.length_from;
                bail!("{which}{from} {limit} leaves nothing after a prompt of {tokens} tokens; {advice}");
            }
            let counted = if options.count_padding { longest } else { shortest };
            options.max_new_tokens = options.max_new_tokens.min(limit - counted);
        }
        if options.max_new_tokens > MOST_NEW_TOKENS {
            bail!("{} new tokens are asked for; the limit is {MOST_NEW_TOKENS}", options.max_new_tokens);
        }
        for (row, prompt) in prompts.iter().enumerate() {
            let which =
                if prompts.len() == 1 { "the prompt".to_owned() } else { format!("prompt {}", row + 1) };
            let left = options.max_length.map_or(usize::MAX, |length| length - prompt.len());
            warn_beyond_context(model, &which, prompt.len(), options.max_new_tokens.min(left));
        }
        Ok((options, self.beams.clone()))
    }

    fn set_lengths(&mut self, arguments: &SamplingArguments, defaults: &GenerationDefaults, used: &mut Used) {
        let options = &mut self.options;
        (options.max_new_tokens, options.max_length) = match (arguments.max_new_tokens, arguments.max_length)
        {
            (Some(new), _) => (new, None),
            (None, Some(length)) => (usize::MAX, Some(length)),
            (None, None) => match (defaults.max_new_tokens, defaults.max_length) {
                (Some(new), _) => (used.take("max_new_tokens", new), None),
                (None, Some(length)) => {
                    self.length_from =
                        ("`max_length` of generation_config.json:", "give --max-new-tokens instead");
                    (NEW_TOKENS, Some(used.take("max_length", length)))
                }
                (None, None) => (NEW_TOKENS, None),
            },
        };
    }

    fn set_beams(
        &mut self,
        arguments: &BeamArguments,
        defaults: &GenerationDefaults,
        used: &mut Used,
    ) -> Result<()> {
        let beams = used.or("num_beams", arguments.num_beams, defaults.num_beams, 1);
        let answers =
            used.or("num_return_sequences", arguments.num_return_sequences, defaults.num_return_sequences, 1);
        for (option, value) in [("--num-beams", beams), ("--num-return-sequences", answers)] {
            if !(1..=MOST_SEQUENCES).contains(&value) {
                bail!("{option} is {value}; it must be from 1 to {MOST_SEQUENCES}");
            }
        }
        if let Some(power) = arguments.length_penalty.filter(|power| !power.is_finite()) {
            bail!("--length-penalty is {power}; it must be a number");
        }
        self.options.return_sequences = answers;
        if beams == 1 {
            if answers > 1 && !self.options.sampling.is_random() {
                bail!(
                    "--num-return-sequences is {answers}, but greedy answers to one prompt are all the same; sample with \
                     --temperature, or search with --num-beams {answers}"
                );
            }
            for (option, given) in [
                ("--length-penalty", arguments.length_penalty.is_some()),
                ("--early-stopping", arguments.early_stopping.is_some()),
            ] {
                if given {
                    eprintln!("warning: {option} changes nothing without --num-beams 2 or more");
                }
            }
            return Ok(());
        }
        if answers > beams {
            bail!(
                "--num-return-sequences is {answers}, but --num-beams {beams} gives at most {beams} answers; raise \
                 --num-beams or ask for fewer"
            );
        }
        if let Some((_, refusal)) = defaults.unsupported_search.first() {
            bail!("{refusal}, or pass the file over with --no-generation-config");
        }
        let asked = arguments.early_stopping.map(|choice| match choice {
            EarlyStoppingChoice::False => EarlyStopping::Heuristic,
            EarlyStoppingChoice::True => EarlyStopping::AtOnce,
            EarlyStoppingChoice::Never => EarlyStopping::Never,
        });
        let early_stopping =
            used.or("early_stopping", asked, defaults.early_stopping, EarlyStopping::Heuristic);
        let length_penalty =
            used.or("length_penalty", arguments.length_penalty, defaults.length_penalty, 1.0);
        self.beams = Some(BeamOptions { num_beams: beams, length_penalty, early_stopping });
        Ok(())
    }
}

/// What was taken from the file, in words.
struct Used {
    words: Vec<String>,
}

impl Used {
    fn take<T: std::fmt::Debug>(&mut self, key: &str, value: T) -> T {
        self.words.push(format!("{key} {value:?}"));
        value
    }

    /// What the option says, or else the file, or else `otherwise`.
    fn or<T: std::fmt::Debug + PartialEq>(
        &mut self,
        key: &str,
        option: Option<T>,
        file: Option<T>,
        otherwise: T,
    ) -> T {
        match (option, file) {
            (Some(value), _) => value,
            (None, Some(value)) if value != otherwise => self.take(key, value),
            (None, _) => otherwise,
        }
    }
}

/// Greedy, or how tokens are drawn.
fn chosen(arguments: &SamplingArguments, defaults: &GenerationDefaults, used: &mut Used) -> Result<Sampling> {
    if let Some(temperature) = arguments.temperature.filter(|t| !(t.is_finite() && *t >= 0.0)) {
        bail!("--temperature is {temperature}; it must be 0 (greedy) or a positive number");
    }
    if let Some(top_p) = arguments.top_p.filter(|p| !(*p > 0.0 && *p <= 1.0)) {
        bail!("--top-p is {top_p}; it must be above 0 and at most 1");
    }
    if arguments.greedy {
        return Ok(Sampling::Greedy);
    }
    let asked = arguments.temperature.is_some() || arguments.top_k.is_some() || arguments.top_p.is_some();
    if !asked && defaults.do_sample != Some(true) {
        let set = [
            ("temperature", defaults.temperature.is_some_and(|value| value != 1.0)),
            ("top_p", defaults.top_p.is_some_and(|value| value != 1.0)),
        ];
        let set = set.into_iter().filter(|(_, set)| *set).map(|(key, _)| key);
        let set: Vec<&str> = set.chain(defaults.unsupported_draws.iter().map(|(key, _)| *key)).collect();
        if !set.is_empty() {
            let (file, keys) = (defaults.path.display(), set.join(" and "));
            eprintln!(
                "warning: {file}: {keys} without `do_sample` change nothing: the most probable token is taken"
            );
        }
        return Ok(Sampling::Greedy);
    }
    if let Some((_, refusal)) = defaults.unsupported_draws.first() {
        bail!("{refusal}, or pass the file over with --no-generation-config");
    }
    if !asked {
        used.words.push("do_sample true".to_owned());
    }
    Ok(Sampling::Random {
        temperature: used.or("temperature", arguments.temperature, defaults.temperature, 1.0),
        top_k: used.or("top_k", arguments.top_k, defaults.top_k, 0),
        top_p: used.or("top_p", arguments.top_p, defaults.top_p, 1.0),
        seed: arguments.seed,
    })
}

fn processors(
    model: &LoadedModel,
    arguments: &SamplingArguments,
    defaults: &GenerationDefaults,
    used: &mut Used,
) -> Result<Processors> {
    let penalty = arguments.repetition_penalty;
    if let Some(penalty) = penalty.filter(|penalty| !(penalty.is_finite() && *penalty > 0.0)) {
        bail!("--repetition-penalty is {penalty}; it must be a positive number");
    }
    let ids = |word: &String| {
        let ids = model.tokenizer.encode(word)?;
        if ids.is_empty() {
            bail!("--bad-words '{word}' has no token; give some text");
        }
        Ok(ids)
    };
    let mut bad_words = arguments.bad_words.iter().map(ids).collect::<Result<Vec<_>>>()?;
    if bad_words.is_empty() && !defaults.bad_words.is_empty() {
        bad_words = used.take("bad_words_ids", defaults.bad_words.clone());
    }
    let ngram = arguments.no_repeat_ngram_size;
    Ok(Processors {
        repetition_penalty: used.or("repetition_penalty", penalty, defaults.repetition_penalty, 1.0),
        no_repeat_ngram_size: used.or("no_repeat_ngram_size", ngram, defaults.no_repeat_ngram_size, 0),
        bad_words,
        min_length: used.or("min_length", arguments.min_length, defaults.min_length, 0),
        min_new_tokens: used.or("min_new_tokens", arguments.min_new_tokens, defaults.min_new_tokens, 0),
    })
}

/// The end of a chunk; the end tokens of a file that somebody wrote; when asked for, every end that any file knows.
fn stop_tokens(
    model: &LoadedModel,
    at_eos: bool,
    defaults: &GenerationDefaults,
    file: Option<&GenerationDefaults>,
    used: &mut Used,
) -> Result<Vec<u32>> {
    let special = model.tokenizer.special();
    let mut stop_tokens = vec![special.endofchunk];
    let mut add = |ids: &[u32]| {
        for &id in ids {
            if !stop_tokens.contains(&id) {
                stop_tokens.push(id);
            }
        }
    };
    if at_eos {
        let known = [&model.config.end_tokens[..], file.map_or(&[], |file| &file.end_tokens)].concat();
        if special.eos.is_none() && known.is_empty() {
            bail!("--stop-at-eos: neither tokenizer nor configuration names an end-of-sequence token");
        }
        add(special.eos.as_slice());
        add(&known);
    } else if !defaults.derived && !defaults.end_tokens.is_empty() {
        add(&used.take("eos_token_id", defaults.end_tokens.clone()));
    }
    Ok(stop_tokens)
}

/// Says that a prompt, or a prompt with its new tokens, is longer than what the model was trained with. Where positions are
/// learned it is refused instead.
pub fn warn_beyond_context(model: &LoadedModel, which: &str, tokens: usize, new: usize) {
    let text = &model.config.model.text;
    let trained = text.max_positions();
    if text.learned_positions().is_some() || tokens + new <= trained {
        return;
    }
    let found = match tokens > trained {
        true => format!("{which} has {tokens} tokens"),
        false => format!("{which} has {tokens} tokens and may get {new} more"),
    };
    eprintln!("warning: {found}, but this model was trained with at most {trained}; expect worse beyond");
}

/// `text` up to the first of the stop strings, and whether there was one.
pub fn cut_at_stop<'a>(text: &'a str, stop: &[String]) -> (&'a str, bool) {
    let first = stop.iter().filter(|s| !s.is_empty()).filter_map(|s| text.find(s.as_str())).min();
    first.map_or((text, false), |at| (&text[..at], true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_stop_string_cuts() {
        let stop = ["User".to_string(), "\n".to_string(), String::new()];
        assert_eq!(cut_at_stop("a cup\nUser:", &stop), ("a cup", true));
        assert_eq!(cut_at_stop("a cup", &stop), ("a cup", false));
    }
}
