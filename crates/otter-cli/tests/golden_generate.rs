//! `otter generate` and `otter score` give the ids and log-probabilities of the original.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use std::ffi::OsString;

use common::{golden, golden_floats, golden_integers, golden_json, integers, otter, strings};
use serde_json::{Value, json};

const END_OF_CHUNK: i64 = 384;

/// The recorded runs and the options that ask for the same. The original's cached decoding sees no media after the
/// prompt, which `reference` reproduces; without a cache it sees them, as `keep` does.
const RUNS: [(&str, &[&str]); 7] = [
    ("greedy_no_cache", &["--decoding", "keep", "--greedy"]),
    ("greedy_default", &["--decoding", "reference"]),
    ("greedy_use_cache", &["--decoding", "reference"]),
    ("greedy_repetition_penalty_1.3", &["--decoding", "reference", "--repetition-penalty", "1.3"]),
    ("greedy_ngram3", &["--decoding", "reference", "--no-repeat-ngram-size", "3"]),
    ("greedy_min_new_tokens_8", &["--decoding", "reference", "--min-new-tokens", "8"]),
    ("greedy_max_length", &["--decoding", "reference"]),
];

fn images(names: &Value) -> Vec<OsString> {
    strings(names).iter().map(|name| golden("images").join(name).into_os_string()).collect()
}

fn length_options(run: &str, prompt: usize) -> [String; 2] {
    match run {
        "greedy_max_length" => ["--max-length".to_owned(), (prompt + 6).to_string()],
        _ => ["--max-new-tokens".to_owned(), "20".to_owned()],
    }
}

/// New ids of a recorded row, without the padding after its end.
fn new_ids(row: &Value, prompt: usize) -> Vec<i64> {
    let mut ids = integers(row).split_off(prompt);
    if let Some(end) = ids.iter().position(|&id| id == END_OF_CHUNK) {
        ids.truncate(end + 1);
    }
    ids
}

fn assert_answer(answer: &Value, expected: &[i64], what: &str) {
    assert_eq!(integers(&answer["token_ids"]), expected, "{what}");
    let reason = if expected.last() == Some(&END_OF_CHUNK) { "stop" } else { "length" };
    assert_eq!(answer["finish_reason"], reason, "{what}");
}

/// Compares every recorded run of every single prompt; returns how many there were.
fn single_prompts(case: &str) -> usize {
    let model = golden(&format!("{case}/checkpoint"));
    let tokenizer = otter_checkpoint::load_tokenizer(&model).unwrap();
    let recorded = golden_json(&format!("{case}/generate.json"));
    let mut compared = 0;
    for prompt in recorded["prompts"].as_array().unwrap() {
        let texts = strings(&prompt["texts"]);
        let [text] = texts[..] else { continue };
        let input = integers(&prompt["input_ids"][0]);
        let own = tokenizer.special().bos.into_iter().chain(tokenizer.encode(text).unwrap());
        assert_eq!(own.map(i64::from).collect::<Vec<_>>(), input);
        for (run, options) in RUNS {
            let mut arguments = arguments!["generate", "--json", "--model", model, "--prompt", text].to_vec();
            for image in images(&prompt["images"][0]) {
                arguments.extend(["--image".into(), image]);
            }
            arguments.extend(options.iter().map(Into::into));
            arguments.extend(length_options(run, input.len()).map(Into::into));
            let expected = new_ids(&prompt[run][0], input.len());
            let answer = otter(&arguments).json();
            let what = format!("{case} {} {run}", prompt["key"]);
            assert_answer(&answer, &expected, &what);
            let ids: Vec<u32> = expected.iter().map(|&id| u32::try_from(id).unwrap()).collect();
            assert_eq!(answer["text"], tokenizer.decode(&ids, true).unwrap().trim(), "{what}");
            compared += 1;
        }
    }
    compared
}

#[test]
fn every_llama_prompt() {
    assert_eq!(single_prompts("llama"), 4 * RUNS.len());
}

/// Several images under one placeholder are the frames of a video.
#[test]
fn every_video_prompt() {
    assert_eq!(single_prompts("video"), 3 * RUNS.len());
}

#[test]
fn a_batch_is_padded_on_the_left() {
    let recorded = golden_json("llama/generate.json");
    let all = recorded["prompts"].as_array().unwrap();
    let batch = all.iter().find(|prompt| prompt["key"] == "batch").unwrap();
    let length = integers(&batch["input_ids"][0]).len();
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("prompts.jsonl");
    let lines: Vec<String> = strings(&batch["texts"])
        .iter()
        .zip(batch["images"].as_array().unwrap())
        .map(|(text, names)| {
            let paths: Vec<_> = images(names).into_iter().map(|image| image.into_string().unwrap()).collect();
            json!({"prompt": text, "images": paths}).to_string()
        })
        .collect();
    std::fs::write(&file, lines.join("\n\n")).unwrap();
    for (run, options) in RUNS {
        let model = golden("llama/checkpoint");
        let mut arguments = arguments!["generate", "--json", "--model", model, "--batch", file].to_vec();
        arguments.extend(options.iter().map(Into::into));
        arguments.extend(length_options(run, length).map(Into::into));
        let answers = otter(&arguments).json_lines();
        assert_eq!(answers.len(), 2);
        for (row, answer) in answers.iter().enumerate() {
            assert_answer(answer, &new_ids(&batch[run][row], length), &format!("row {row} {run}"));
        }
    }
}

/// A batch gives each prompt what it gets alone, also where some have no image and others several.
#[test]
fn a_mixed_batch_equals_its_prompts_alone() {
    let recorded = golden_json("llama/generate.json");
    let prompts: Vec<&Value> =
        recorded["prompts"].as_array().unwrap().iter().filter(|p| p["key"] != "batch").collect();
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("prompts.jsonl");
    // p2, without image, comes first and again last.
    let order = [2, 1, 0, 3, 2];
    let lines: Vec<String> = order
        .iter()
        .map(|&index| {
            let paths: Vec<_> = images(&prompts[index]["images"][0])
                .into_iter()
                .map(|image| image.into_string().unwrap())
                .collect();
            json!({"prompt": prompts[index]["texts"][0], "images": paths}).to_string()
        })
        .collect();
    std::fs::write(&file, lines.join("\n")).unwrap();
    let model = golden("llama/checkpoint");
    let arguments =
        arguments!["generate", "--json", "--model", model, "--batch", file, "--max-new-tokens", "20"];
    let answers = otter(&arguments).json_lines();
    assert_eq!(answers.len(), order.len());
    for (answer, index) in answers.iter().zip(order) {
        let prompt = prompts[index];
        let length = integers(&prompt["input_ids"][0]).len();
        assert_answer(answer, &new_ids(&prompt["greedy_no_cache"][0], length), &prompt["key"].to_string());
    }
}

fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f32::MIN, f32::max);
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit - largest).exp()).sum();
    logits.iter().map(|&logit| f64::from(logit - largest) - sum.ln()).collect()
}

fn floats(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

/// The first token of any answer has the log-probability that the recorded logits after the prompt give it.
#[test]
fn scores_of_first_tokens() {
    for (case, prompts) in [("llama", 4), ("video", 3)] {
        let recorded = golden_json(&format!("{case}/generate.json"));
        let mut compared = 0;
        for prompt in recorded["prompts"].as_array().unwrap() {
            let texts = strings(&prompt["texts"]);
            let [text] = texts[..] else { continue };
            let key = prompt["key"].as_str().unwrap();
            let (_, logits) =
                golden_floats(&format!("{case}/generate.safetensors"), &format!("{key}.first_logits"));
            let expected = log_softmax(&logits);
            for answer in ["the cat", "A red boat.<|endofchunk|>", "<|endofchunk|>"] {
                let model = golden(&format!("{case}/checkpoint"));
                let mut arguments =
                    arguments!["score", "--json", "--model", model, "--prompt", text, "--answer", answer]
                        .to_vec();
                for image in images(&prompt["images"][0]) {
                    arguments.extend(["--image".into(), image]);
                }
                let result = otter(&arguments).json();
                let scores = floats(&result["token_logprobs"]);
                let id = integers(&result["token_ids"])[0] as usize;
                assert!(
                    (scores[0] - expected[id]).abs() < 1e-4,
                    "{case} {key} {answer}: {} {}",
                    scores[0],
                    expected[id]
                );
                let sum: f64 = scores.iter().sum();
                assert!((result["sum"].as_f64().unwrap() - sum).abs() < 1e-9);
                assert_eq!(scores.len(), integers(&result["token_ids"]).len());
            }
            compared += 1;
        }
        assert_eq!(compared, prompts);
    }
}

/// Every token of an answer of several, after a prompt without image.
#[test]
fn scores_of_a_whole_answer() {
    for case in ["llama", "video"] {
        let file = format!("{case}/forward.safetensors");
        let ids = golden_integers(&file, "text_only.lang_x");
        let (shape, logits) = golden_floats(&file, "text_only.logits");
        let (prompt, answer) = ("User: Is the street wet? GPT:<answer>", " it is wet.<|endofchunk|></s>");
        let model = golden(&format!("{case}/checkpoint"));
        let arguments =
            arguments!["score", "--json", "--model", model, "--prompt", prompt, "--answer", answer];
        let result = otter(&arguments).json();
        let scored = integers(&result["token_ids"]);
        let start = ids.len() - scored.len();
        assert_eq!(scored, ids[start..], "the answer is the end of the recorded text");
        for (index, score) in floats(&result["token_logprobs"]).into_iter().enumerate() {
            let row = start + index - 1;
            let expected = log_softmax(&logits[row * shape[2]..][..shape[2]])[scored[index] as usize];
            assert!((score - expected).abs() < 1e-4, "{case} token {index}: {score} {expected}");
        }
    }
}

/// Sampling depends on its seed only.
#[test]
fn sampling_repeats_itself() {
    let sample = |seed: &str| {
        let arguments = arguments![
            "generate",
            "--json",
            "--model",
            golden("llama/checkpoint"),
            "--prompt",
            "User: hi GPT:<answer>",
            "--temperature",
            "1.5",
            "--top-k",
            "50",
            "--top-p",
            "0.95",
            "--seed",
            seed,
            "--max-new-tokens",
            "12",
        ];
        integers(&otter(&arguments).json()["token_ids"])
    };
    assert_eq!(sample("3"), sample("3"));
    assert!((4..10).any(|seed| sample("3") != sample(&seed.to_string())));
}

/// Stop strings end the answer and are not part of its text.
#[test]
fn stop_strings_end_the_answer() {
    let run = |stop: &[&str]| {
        let mut arguments = arguments![
            "generate",
            "--json",
            "--model",
            golden("llama/checkpoint"),
            "--image",
            golden("images/wide.png"),
            "--prompt",
            "<image>User: What is the color of the boat? GPT:<answer>",
            "--max-new-tokens",
            "20",
        ]
        .to_vec();
        arguments.extend(stop.iter().flat_map(|text| ["--stop".into(), text.into()]));
        otter(&arguments).json()
    };
    let whole = run(&[]);
    assert!(whole["text"].as_str().unwrap().starts_with("3 pictureal"));
    let cut = run(&["never", "pictureal"]);
    assert_eq!(cut["text"], "3");
    assert_eq!(cut["finish_reason"], "stop_string");
    assert_eq!(integers(&cut["token_ids"]), [54, 323, 324]);
}
