//! The model card: `README.md` of a checkpoint directory, with the front matter that model hubs read.
//!
//! The card says what is known from the files themselves, and from the run that made them when there was one. A
//! `README.md` that stands in the directory already is kept as it is: somebody may have written it.

use crate::error::{CheckpointError, Result};
use crate::facts::part::Part;
use crate::tokenizer::load::load_tokenizer;
use otter_data::prompt::{InstructionFormat, inference_prompt};
use otter_io::text::count;
use serde_json::{Value, json};
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// Name of the file.
const README: &str = "README.md";
const SECONDS_OF_A_DAY: u64 = 24 * 3600;

/// What the card says beyond what the files show.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ModelCard {
    /// License identifier of the front matter; `unknown` when not given.
    pub license: Option<String>,
    /// What the model was made from: a hub id, or the name of a directory.
    pub base_model: Option<String>,
    /// The training run.
    pub training: Option<TrainingFacts>,
}

/// Facts about a training run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TrainingFacts {
    /// Optimizer steps made.
    pub steps: u64,
    /// Optimizer steps of the whole run.
    pub total_steps: u64,
    /// Samples seen.
    pub samples: u64,
    /// Sequences of one optimizer step.
    pub batch_size: usize,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Number of trained parameters.
    pub trained: u64,
    /// Loss of the last step.
    pub loss: Option<f64>,
    /// Data files.
    pub data: Vec<String>,
    /// Prompt template of the data.
    pub format: InstructionFormat,
    /// Day of the save, e.g. `2026-03-01`.
    pub date: String,
    /// The command line.
    pub command: String,
}

/// Today's date (UTC).
pub fn today() -> String {
    date(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs()))
}

/// The date of a number of seconds after 1970-01-01, by the proleptic Gregorian calendar.
fn date(seconds: u64) -> String {
    let leap = |year: u64| year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    let (mut days, mut year) = (seconds / SECONDS_OF_A_DAY, 1970);
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let february = 28 + u64::from(leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    format!("{year:04}-{month:02}-{:02}", days + 1)
}

/// The files of a checkpoint that the card describes.
pub(crate) struct Described<'a> {
    /// `config.json`.
    pub config: &'a Value,
    /// Name and number of elements of every tensor.
    pub tensors: Vec<(&'a str, usize)>,
    /// Element type, e.g. `float32`.
    pub dtype: &'a str,
}

/// Puts `README.md` into `written`, the directory that will replace `target`: the file of `target` where there is one,
/// else the card.
///
/// # Errors
/// When a file cannot be read or written.
pub(crate) fn write(
    written: &Path,
    target: &Path,
    card: Option<&ModelCard>,
    described: &Described<'_>,
) -> Result<()> {
    let (old, new) = (target.join(README), written.join(README));
    let text = match card {
        _ if old.is_file() => fs::read(&old).map_err(CheckpointError::io(&old, "read"))?,
        Some(card) => {
            let name = target.file_name().map_or("model".into(), |name| name.to_string_lossy());
            card.render(&name, written, described).into_bytes()
        }
        None => return Ok(()),
    };
    fs::write(&new, text).map_err(CheckpointError::write(&new, target))
}

impl ModelCard {
    /// The whole text. `directory` holds the tokenizer.
    fn render(&self, name: &str, directory: &Path, described: &Described<'_>) -> String {
        let mut text = self.front_matter();
        let _ = write!(text, "\n# {}\n\n", one_line(name));
        text.push_str(
            "A multi-modal model that follows instructions about images and videos, with examples in its context: a \
             frozen CLIP image tower, a Perceiver resampler, and gated cross-attention between the layers of a language \
             model (Otter).\n",
        );
        if let Some(base) = &self.base_model {
            let _ = write!(text, "\nMade from `{}`.\n", one_line(base));
        }
        sizes(&mut text, described);
        let format = self.training.as_ref().map_or(InstructionFormat::Simple, |training| training.format);
        prompts(&mut text, directory, format);
        if let Some(training) = &self.training {
            training.render(&mut text);
        }
        running(&mut text);
        text
    }

    fn front_matter(&self) -> String {
        // JSON texts are YAML texts.
        let quoted = |value: &str| json!(value).to_string();
        let mut text = "---\n".to_owned();
        let _ = writeln!(text, "license: {}", quoted(self.license.as_deref().unwrap_or("unknown")));
        text.push_str("pipeline_tag: image-text-to-text\n");
        // A hub refuses a base that is not one of its ids.
        if let Some(base) = self.base_model.as_deref().filter(|base| is_hub_id(base)) {
            let _ = writeln!(text, "base_model: {}", quoted(base));
        }
        text.push_str("tags:\n- otter\n- flamingo\n- in-context-learning\n---\n");
        text
    }
}

impl TrainingFacts {
    fn render(&self, text: &mut String) {
        text.push_str("\n## Training\n\n| | |\n|---|---|\n");
        let mut row = |name: &str, value: String| {
            let _ = writeln!(text, "| {name} | {} |", one_line(&value).replace('|', "\\|"));
        };
        row("steps", format!("{} of {}", self.steps, self.total_steps));
        row("sequences a step", self.batch_size.to_string());
        row("samples seen", self.samples.to_string());
        row("peak learning rate", format!("{:e}", self.learning_rate));
        row("trained parameters", count(self.trained));
        if let Some(loss) = self.loss {
            row("loss of the last step", format!("{loss:.4}"));
        }
        row("data", self.data.join(", "));
        row("date", self.date.clone());
        let _ =
            write!(text, "\nMade by:\n\n```sh\n{}\n```\n", one_line(&self.command).replace("```", "` ` `"));
    }
}

fn sizes(text: &mut String, described: &Described<'_>) {
    let total: usize = described.tensors.iter().map(|(_, elements)| elements).sum();
    let _ =
        write!(text, "\n## Sizes\n\n{} parameters, stored as {}.\n\n", count(total as u64), described.dtype);
    text.push_str("| part | parameters |\n|---|---:|\n");
    for part in Part::ALL {
        let own = described.tensors.iter().filter(|(name, _)| Part::of(name) == part);
        let own: usize = own.map(|(_, elements)| elements).sum();
        if own > 0 {
            let _ = writeln!(text, "| {part} | {} |", count(own as u64));
        }
    }
    let number = |place: &Value| place.as_u64().map(|number| number.to_string());
    let config = described.config;
    let (vision, language) = (&config["vision_config"], &config["text_config"]);
    let mut facts = Vec::new();
    let mut fact = |name: &str, value: Option<String>| {
        facts.extend(value.map(|value| format!("{name} {value}")));
    };
    fact("language model", language["model_type"].as_str().map(str::to_owned));
    fact("vocabulary", number(&language["vocab_size"]));
    fact("image side", number(&vision["image_size"]).map(|side| format!("{side} px")));
    fact(
        "cross-attention every",
        number(&config["cross_attn_every_n_layers"]).map(|n| format!("{n} layers")),
    );
    fact("frames of a video at most", number(&config["max_num_frames"]));
    let _ = write!(text, "\n{}.\n", facts.join(" · "));
}

fn prompts(text: &mut String, directory: &Path, format: InstructionFormat) {
    text.push_str("\n## Prompt\n\n");
    let question = "What is in the image?";
    let _ = write!(text, "```text\n{}\n```\n\n", inference_prompt(format, 1, question));
    text.push_str(
        "One `<image>` for each image or video; an answer ends with `<|endofchunk|>`. Examples come before the question \
         in the same form, each with its answer and end mark.\n",
    );
    if let Ok(tokenizer) = load_tokenizer(directory) {
        let special = tokenizer.special();
        let _ = write!(
            text,
            "\n| token | id |\n|---|---:|\n| `<\\|endofchunk\\|>` | {} |\n| `<image>` | {} |\n| `<answer>` | {} |\n| padding | \
             {} |\n",
            special.endofchunk, special.image, special.answer, special.pad
        );
    }
}

fn running(text: &mut String) {
    text.push_str(
        "\n## Running\n\n```sh\notter inspect DIR\notter chat --model DIR\notter generate --model DIR --image IMAGE --chat \
         --prompt \"What is in the image?\"\n```\n\nIn Python the files open with their own libraries:\n\n\
         ```python\nfrom safetensors import safe_open\nfrom transformers import AutoTokenizer, CLIPImageProcessor\n\n\
         tokenizer = AutoTokenizer.from_pretrained(\"DIR\")\nprocessor = CLIPImageProcessor.from_pretrained(\"DIR\")\n\
         weights = safe_open(\"DIR/model.safetensors\", framework=\"pt\")\n```\n",
    );
}

/// `owner/name`, as a hub writes it.
fn is_hub_id(text: &str) -> bool {
    let plain = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    };
    text.split_once('/').is_some_and(|(owner, name)| plain(owner) && plain(name))
}

/// No line break and no control character may leave its place in the text.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_follow_the_calendar() {
        for (seconds, expected) in [
            (0, "1970-01-01"),
            (951_782_399, "2000-02-28"),
            (951_782_400, "2000-02-29"),
            (951_868_800, "2000-03-01"),
            (1_709_164_800, "2024-02-29"),
            (1_735_689_599, "2024-12-31"),
            (4_107_542_400, "2100-03-01"),
        ] {
            assert_eq!(date(seconds), expected);
        }
    }

    #[test]
    fn front_matter_survives_any_text() {
        let card = |license: &str, base: &str| ModelCard {
            license: Some(license.to_owned()),
            base_model: Some(base.to_owned()),
            training: None,
        };
        let text = card("a: \"b\"\n---", "luodian/OTTER-9B-INIT").front_matter();
        assert!(text.contains("license: \"a: \\\"b\\\"\\n---\"\n"), "{text}");
        assert!(text.contains("base_model: \"luodian/OTTER-9B-INIT\"\n"), "{text}");
        for no_id in ["/home/me/model", "model", "../x", "a/b/c", "a/b c"] {
            assert!(!card("mit", no_id).front_matter().contains("base_model"), "{no_id}");
        }
        assert!(ModelCard::default().front_matter().contains("license: \"unknown\"\n"));
        assert_eq!(
            (count(12), count(1_000), count(8_220_463_120)),
            ("12".into(), "1,000".into(), "8,220,463,120".into())
        );
    }
}
