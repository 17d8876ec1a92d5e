//! What a prompt is made of, for every command alike: how it begins, that its structural tokens are whole, and that
//! files saved by other programs are read.

use std::path::{Path, PathBuf};

use crate::common::{CheckpointCopy, otter};
use serde_json::{Value, json};
use tempfile::TempDir;

const QUESTION: &str = "User:What is it? GPT:<answer>";
const LLAMA: &str = "llama/checkpoint";
/// Its tokenizer has a begin token and puts none in front.
const MPT: &str = "mpt7b-style/checkpoint";

/// A checkpoint that may be changed, and a data set of one record for it.
struct Place {
    checkpoint: CheckpointCopy,
    directory: TempDir,
}

impl Place {
    fn new(checkpoint: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let records = json!({ "meta": {}, "data": { "T_INS_1": {
            "instruction": "What is it?", "answer": "a red cup", "image_ids": [], "rel_ins_ids": []
        } } });
        std::fs::write(directory.path().join("T_instructions.json"), records.to_string()).unwrap();
        Self { checkpoint: CheckpointCopy::new(checkpoint, |_| {}), directory }
    }

    fn model(&self) -> &Path {
        self.checkpoint.path()
    }

    fn edit(&self, file: &str, change: impl FnOnce(&mut Value)) {
        let path = self.model().join(file);
        let mut value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        change(&mut value);
        std::fs::write(path, value.to_string()).unwrap();
    }

    /// The configuration of a run that changes nothing.
    fn config(&self, base: &Path, run: &str) -> PathBuf {
        let path = self.directory.path().join(format!("{run}.toml"));
        let text = format!(
            "[model]\ninit_from = {base:?}\n[data]\nimage_size = 28\n[[data.sets]]\ngroup = \"TEXT_ONLY\"\n\
             instructions = \"T_instructions.json\"\n[optimizer]\nlearning_rate = 0.0\n\
             [train]\nrun_dir = {:?}\nsteps = 1\nrequire_gradients = false\n",
            self.directory.path().join(run)
        );
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Trains; gives the loss and the tuned model.
    fn train(&self, base: &Path, run: &str, more: &[&str]) -> (f64, PathBuf) {
        let config = self.config(base, run);
        let mut arguments: Vec<&str> = vec!["train", "--config", config.to_str().unwrap()];
        arguments.extend(more);
        otter(&arguments).success();
        let run = self.directory.path().join(run);
        let metrics = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
        let first: Value = serde_json::from_str(metrics.lines().next().unwrap()).unwrap();
        (first["loss"].as_f64().unwrap(), run.join("checkpoints/step-000001/model"))
    }

    /// Ids of the sample of the data set.
    fn shown(&self, model: &Path) -> Vec<u64> {
        let config = self.config(model, "shown");
        let sample = otter(&arguments!["data", "show", "--config", &config, "--index", "0", "--json"]).json();
        serde_json::from_value(sample["input_ids"].clone()).unwrap()
    }
}

/// Mean loss of the answer, scored as a prompt of a user.
fn scored(model: &Path, prompt: &str, end: &str) -> f64 {
    let answer = format!("a red cup<|endofchunk|>{end}");
    let scores =
        otter(&arguments!["score", "--model", model, "--prompt", prompt, "--answer", &answer, "--json"])
            .json();
    -scores["sum"].as_f64().unwrap() / scores["token_ids"].as_array().unwrap().len() as f64
}

fn generated(model: &Path, prompt: &str) -> Value {
    let answer = otter(&arguments![
        "generate",
        "--model",
        model,
        "--prompt",
        prompt,
        "--max-new-tokens",
        "8",
        "--json"
    ]);
    answer.json()
}

#[test]
fn a_tuned_model_is_asked_as_it_was_tuned() {
    for (checkpoint, end) in [(LLAMA, "</s>"), (MPT, "<|endoftext|>")] {
        for rule in [None, Some(true), Some(false)] {
            let place = Place::new(checkpoint);
            if let Some(rule) = rule {
                place.edit("config.json", |config| config["otter_input"] = json!({ "begin_token": rule }));
            }
            for (run, more) in [("whole", &[][..]), ("part", &["train.save=trainable"])] {
                let (loss, tuned) = place.train(place.model(), run, more);
                let difference = (loss - scored(&tuned, QUESTION, end)).abs();
                assert!(difference < 1e-4, "{checkpoint} {rule:?} {run}: {difference}");
                assert_eq!(place.shown(&tuned), place.shown(place.model()), "{checkpoint} {rule:?} {run}");
            }
            // Without the rule the original's MPT is tuned with the token and asked without it; the tuned model is not.
            let before =
                (place.train(place.model(), "again", &[]).0 - scored(place.model(), QUESTION, end)).abs();
            assert_eq!(
                before < 1e-4,
                checkpoint == LLAMA || rule.is_some(),
                "{checkpoint} {rule:?}: {before}"
            );
        }
    }
}

#[test]
fn every_command_puts_the_same_in_front() {
    let begin = "<|endoftext|>";
    let place = Place::new(MPT);
    let rule = |rule: bool| {
        place.edit("config.json", |config| config["otter_input"] = json!({ "begin_token": rule }))
    };
    let typed = format!("{begin}{QUESTION}");
    rule(false);
    let (ids, without) = (place.shown(place.model()), scored(place.model(), QUESTION, begin));
    assert_ne!(ids[0], 0);
    let (score, answer) = (scored(place.model(), &typed, begin), generated(place.model(), &typed));
    assert!((score - without).abs() > 1e-4, "the model sees the difference");
    rule(true);
    assert_eq!(place.shown(place.model()), [&[0], &ids[..]].concat());
    assert_eq!(scored(place.model(), QUESTION, begin), score);
    assert_eq!(generated(place.model(), QUESTION), answer);
    let inspected = otter(&arguments!["inspect", place.model()]).success();
    assert!(inspected.stdout.contains("in training and in use every sequence begins with [0]"));
    // A whole Otter in one file keeps the rule.
    let file = place.directory.path().join("otter.gguf");
    otter(&arguments!["convert", place.model(), "--out", &file, "--quantize", "f32"]).success();
    assert_eq!(generated(&file, QUESTION), answer);
}

#[test]
fn a_run_is_not_resumed_with_another_beginning() {
    let place = Place::new(MPT);
    let (_, tuned) = place.train(place.model(), "run", &[]);
    let config: Value = serde_json::from_slice(&std::fs::read(tuned.join("config.json")).unwrap()).unwrap();
    assert_eq!(config["otter_input"]["begin_token"], true);
    let file = place.config(place.model(), "run");
    let resume = arguments!["train", "--config", &file, "--resume"];
    otter(&resume).success();
    place.edit("config.json", |config| config["otter_input"] = json!({ "begin_token": false }));
    let run = otter(&resume);
    assert_eq!(run.code, Some(1), "{run:#?}");
    assert!(
        run.stderr.contains("was made with the begin token") && run.stderr.contains("otter_input"),
        "{run:#?}"
    );
}

/// Changes a setting of the structural tokens in all files that have it.
fn set(place: &Place, setting: &str) {
    let is_mark = |token: &Value| {
        ["<image>", "<answer>", "<|endofchunk|>"].iter().any(|mark| token["content"] == *mark)
    };
    place.edit("tokenizer.json", |whole| {
        let tokens = whole["added_tokens"].as_array_mut().unwrap();
        tokens.iter_mut().filter(|token| is_mark(token)).for_each(|token| token[setting] = json!(true));
    });
    place.edit("tokenizer_config.json", |config| {
        if let Some(tokens) = config["added_tokens_decoder"].as_object_mut() {
            tokens.values_mut().filter(|token| is_mark(token)).for_each(|token| token[setting] = json!(true));
        }
    });
}

#[test]
fn a_tokenizer_that_loses_structural_tokens_is_refused_by_every_command() {
    for (checkpoint, setting) in
        [(LLAMA, "normalized"), (MPT, "single_word"), (MPT, "lstrip"), (LLAMA, "rstrip")]
    {
        let place = Place::new(checkpoint);
        set(&place, setting);
        let (model, config) = (place.model(), place.config(place.model(), "run"));
        let advice = format!("\"{setting}\": false");
        for arguments in [
            arguments!["data", "show", "--config", &config, "--index", "0"].to_vec(),
            arguments!["data", "verify", &config].to_vec(),
            arguments!["train", "--config", &config].to_vec(),
            arguments!["generate", "--model", model, "--prompt", "a"].to_vec(),
            arguments!["score", "--model", model, "--prompt", "a", "--answer", "b"].to_vec(),
        ] {
            let run = otter(&arguments);
            assert_eq!(run.code, Some(1), "{arguments:?} {run:#?}");
            for part in ["<answer>", "<image>", &advice, "tokenizer.json"] {
                assert!(run.stderr.contains(part), "{setting}, {arguments:?}: no {part} in {}", run.stderr);
            }
        }
        let inspected = otter(&arguments!["inspect", model]).success().stdout;
        let odd =
            |line: &str| line.starts_with("odd") && line.contains("`<answer>`") && line.contains(&advice);
        assert!(inspected.lines().any(odd), "{inspected}");
    }
}

#[test]
fn byte_order_marks_are_passed_over() {
    let place = Place::new(LLAMA);
    let answer = generated(place.model(), QUESTION);
    for name in [
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "added_tokens.json",
        "special_tokens_map.json",
    ] {
        let path = place.model().join(name);
        let text = std::fs::read(&path).unwrap();
        std::fs::write(&path, [b"\xEF\xBB\xBF", &text[..]].concat()).unwrap();
        assert_eq!(generated(place.model(), QUESTION), answer, "{name}");
    }
    // A copy is for readers that know no such mark.
    let (_, tuned) = place.train(place.model(), "run", &[]);
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        assert_eq!(std::fs::read(tuned.join(name)).unwrap()[0], b'{', "{name}");
    }
    let write = |name: &str, bytes: &[u8]| {
        let path = place.directory.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let prompts = write("prompts.jsonl", format!("\u{FEFF}{}\n", json!({ "prompt": QUESTION })).as_bytes());
    let batch = ["--max-new-tokens", "8", "--json"].map(std::ffi::OsString::from);
    let batch = [&arguments!["generate", "--model", place.model(), "--batch", &prompts][..], &batch].concat();
    assert_eq!(otter(&batch).json()["token_ids"], answer["token_ids"]);
    let config = std::fs::read(place.config(place.model(), "marked")).unwrap();
    let marked = write("marked.toml", &[b"\xEF\xBB\xBF", &config[..]].concat());
    otter(&arguments!["data", "show", "--config", &marked, "--index", "0"]).success();

    let wide: Vec<u8> = "\u{FEFF}[model]".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let wide = write("wide.toml", &wide);
    otter(&arguments!["train", "--config", &wide]).error(&["wide.toml", "UTF-16", "save it as UTF-8"]);
    let wide: Vec<u8> = "{\"a\": 1}".encode_utf16().flat_map(u16::to_le_bytes).collect();
    std::fs::write(place.model().join("config.json"), wide).unwrap();
    otter(&arguments!["generate", "--model", place.model(), "--prompt", "a"])
        .error(&["config.json", "UTF-16"]);
}

/// Where samples begin otherwise than prompts, as with the original's MPT, it is told before a run and with a sample.
#[test]
fn two_ways_of_beginning_are_told() {
    let place = Place::new(MPT);
    let run = |tells: bool| {
        let config = place.config(place.model(), "told");
        let _ = std::fs::remove_dir_all(place.directory.path().join("told"));
        let trained = otter(&arguments!["train", "--config", &config]).success();
        let said = format!("{}{}", trained.stdout, trained.stderr);
        let told = "begin with the begin token, as in the original, though its tokenizer files let a prompt begin without";
        assert_eq!(said.contains(told), tells, "{said}");
        let shown = otter(&arguments!["data", "show", "--config", &config, "--index", "0"]).success();
        assert_eq!(
            shown.stdout.contains("a sample begins with [0] in training, a prompt with nothing"),
            tells
        );
    };
    run(true);
    place.edit("config.json", |config| config["otter_input"] = json!({ "begin_token": false }));
    run(false);
}
