//! `otter generate` and `otter score` give the ids and log-probabilities of the original.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::common::{golden, golden_floats, golden_integers, golden_json, integers, otter, strings};
use serde_json::{Value, json};

/// A recorded run and the options that ask for the same.
struct Recorded {
    run: &'static str,
    options: &'static [&'static str],
}

const fn recorded(run: &'static str, options: &'static [&'static str]) -> Recorded {
    Recorded { run, options }
}

/// `default` runs of the original use its cache where the text configuration says so, and its cached steps see no media.
/// Runs without a cache see them, as `keep` does. The runs named after one option use the cache.
const RUNS: [Recorded; 12] = [
    recorded("greedy_no_cache", &["--decoding", "keep", "--greedy"]),
    recorded("greedy_default", &["--decoding", "reference"]),
    recorded("greedy_use_cache", &["--decoding", "reference-use-cache"]),
    recorded(
        "greedy_repetition_penalty_1.3",
        &["--decoding", "reference-use-cache", "--repetition-penalty", "1.3"],
    ),
    recorded("greedy_ngram3", &["--decoding", "reference-use-cache", "--no-repeat-ngram-size", "3"]),
    recorded("greedy_min_new_tokens_8", &["--decoding", "reference-use-cache", "--min-new-tokens", "8"]),
    recorded("greedy_max_length", &["--decoding", "reference-use-cache"]),
    recorded("beam3_no_cache", &["--decoding", "keep", "--num-beams", "3", "--no-repeat-ngram-size", "3"]),
    recorded(
        "beam3_default",
        &["--decoding", "reference", "--num-beams", "3", "--no-repeat-ngram-size", "3"],
    ),
    recorded(
        "beam3_use_cache",
        &["--decoding", "reference-use-cache", "--num-beams", "3", "--no-repeat-ngram-size", "3"],
    ),
    recorded(
        "beam3_length_penalty_-2",
        &["--decoding", "reference-use-cache", "--num-beams", "3", "--length-penalty", "-2"],
    ),
    recorded(
        "beam2_early_stopping",
        &[
            "--decoding",
            "reference-use-cache",
            "--num-beams",
            "2",
            "--length-penalty",
            "0",
            "--early-stopping",
        ],
    ),
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
fn new_ids(row: &Value, prompt: usize, end_of_chunk: &Value) -> Vec<i64> {
    let mut ids = integers(row).split_off(prompt);
    if let Some(end) = ids.iter().position(|&id| end_of_chunk == id) {
        ids.truncate(end + 1);
    }
    ids
}

/// Checks one answer against row `row` of a recorded run.
fn assert_answer(answer: &Value, prompt: &Value, run: &str, row: usize, end_of_chunk: &Value) {
    let length = integers(&prompt["input_ids"][row]).len();
    let expected = new_ids(&prompt[run][row], length, end_of_chunk);
    let what = format!("{} row {row} {run}", prompt["key"]);
    assert_eq!(integers(&answer["token_ids"]), expected, "{what}");
    let stopped = expected.last().is_some_and(|&id| end_of_chunk == id);
    assert_eq!(answer["finish_reason"], if stopped { "stop" } else { "length" }, "{what}");
    assert_eq!(answer["score"].is_number(), run.starts_with("beam"), "{what}: {answer}");
    if let Some(score) = prompt[format!("{run}_sequences_scores")][row].as_f64() {
        let difference = (answer["score"].as_f64().unwrap() - score).abs();
        assert!(difference < 1e-5, "{what}: {} {score}", answer["score"]);
    }
}

/// Compares every recorded run of every single prompt; returns how many there were.
fn single_prompts(case: &str) -> usize {
    let model = golden(&format!("{case}/checkpoint"));
    let tokenizer = otter_checkpoint::load_tokenizer(&model).unwrap();
    let all = golden_json(&format!("{case}/generate.json"));
    let mut compared = 0;
    for prompt in all["prompts"].as_array().unwrap() {
        let texts = strings(&prompt["texts"]);
        let [text] = texts[..] else { continue };
        let input = integers(&prompt["input_ids"][0]);
        let own = [tokenizer.prompt_prefix(), &tokenizer.encode(text).unwrap()].concat();
        assert_eq!(own.into_iter().map(i64::from).collect::<Vec<_>>(), input);
        for Recorded { run, options } in RUNS {
            let mut arguments = arguments!["generate", "--json", "--model", model, "--prompt", text].to_vec();
            for image in images(&prompt["images"][0]) {
                arguments.extend(["--image".into(), image]);
            }
            arguments.extend(options.iter().map(Into::into));
            arguments.extend(length_options(run, input.len()).map(Into::into));
            let answer = otter(&arguments).json();
            assert_answer(&answer, prompt, run, 0, &all["eos_token_id"]);
            let ids = integers(&answer["token_ids"]);
            let ids: Vec<u32> = ids.into_iter().map(|id| u32::try_from(id).unwrap()).collect();
            assert_eq!(answer["text"], tokenizer.decode(&ids, true).unwrap().trim());
            compared += 1;
        }
    }
    compared
}

#[test]
fn every_llama_prompt() {
    assert_eq!(single_prompts("llama"), 4 * RUNS.len());
}

#[test]
fn every_flamingo_prompt() {
    assert_eq!(single_prompts("flamingo"), 4 * RUNS.len());
}

/// Configurations without a cache: there the original's default sees the media at every step.
#[test]
fn every_mpt_prompt() {
    assert_eq!(single_prompts("mpt7b-style"), 4 * RUNS.len());
    assert_eq!(single_prompts("mpt1b-style"), 4 * RUNS.len());
}

/// Several images under one placeholder are the frames of a video.
#[test]
fn every_video_prompt() {
    assert_eq!(single_prompts("video"), 3 * RUNS.len());
}

/// Prompts and images as lines of a `--batch` file.
fn batch_file(directory: &Path, prompts: &[(&str, &Value)]) -> PathBuf {
    let file = directory.join("prompts.jsonl");
    let line = |(text, names): &(&str, &Value)| {
        let paths: Vec<_> = images(names).into_iter().map(|image| image.into_string().unwrap()).collect();
        json!({"prompt": text, "images": paths}).to_string()
    };
    let lines: Vec<String> = prompts.iter().map(line).collect();
    std::fs::write(&file, lines.join("\n\n")).unwrap();
    file
}

#[test]
fn a_batch_is_padded_on_the_left() {
    for case in ["llama", "flamingo", "mpt7b-style", "mpt1b-style"] {
        let all = golden_json(&format!("{case}/generate.json"));
        let prompts = all["prompts"].as_array().unwrap();
        let batch = prompts.iter().find(|prompt| prompt["key"] == "batch").unwrap();
        let length = integers(&batch["input_ids"][0]).len();
        let place = tempfile::tempdir().unwrap();
        let texts = strings(&batch["texts"]);
        let lines: Vec<_> = texts.into_iter().zip(batch["images"].as_array().unwrap()).collect();
        let file = batch_file(place.path(), &lines);
        for Recorded { run, options } in RUNS {
            // The original counts the padding of a batch, which only `reference` does; without a cache beams then rank
            // otherwise, and it reaches no such run where the configuration has one.
            let cached = !case.starts_with("mpt");
            if run == "beam3_no_cache" && cached {
                continue;
            }
            let keep = if cached { "keep" } else { "reference" };
            let options = options.iter().map(|&option| if option == "keep" { keep } else { option });
            let model = golden(&format!("{case}/checkpoint"));
            let mut arguments = arguments!["generate", "--json", "--model", model, "--batch", file].to_vec();
            arguments.extend(options.map(Into::into));
            arguments.extend(length_options(run, length).map(Into::into));
            let answers = otter(&arguments).json_lines();
            assert_eq!(answers.len(), 2);
            for (row, answer) in answers.iter().enumerate() {
                assert_answer(answer, batch, run, row, &all["eos_token_id"]);
            }
        }
    }
}

/// A batch gives each prompt what it gets alone, also where some have no image and others several.
#[test]
fn a_mixed_batch_equals_its_prompts_alone() {
    let all = golden_json("llama/generate.json");
    let prompts: Vec<&Value> =
        all["prompts"].as_array().unwrap().iter().filter(|p| p["key"] != "batch").collect();
    let place = tempfile::tempdir().unwrap();
    // p2, without image, comes first and again last.
    let order = [2, 1, 0, 3, 2];
    let lines: Vec<_> = order
        .iter()
        .map(|&index| (prompts[index]["texts"][0].as_str().unwrap(), &prompts[index]["images"][0]))
        .collect();
    let file = batch_file(place.path(), &lines);
    let model = golden("llama/checkpoint");
    let arguments =
        arguments!["generate", "--json", "--model", model, "--batch", file, "--max-new-tokens", "20"];
    let answers = otter(&arguments).json_lines();
    assert_eq!(answers.len(), order.len());
    for (answer, index) in answers.iter().zip(order) {
        assert_answer(answer, prompts[index], "greedy_no_cache", 0, &all["eos_token_id"]);
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
    for (case, prompts) in
        [("llama", 4), ("video", 3), ("flamingo", 4), ("mpt7b-style", 4), ("mpt1b-style", 4)]
    {
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

/// A prompt with an image and one without, several answers to each by sampling and by beams: one line an answer, and a
/// batch gives what the prompts give alone.
#[test]
fn several_answers_to_each_prompt_of_a_batch() {
    let place = tempfile::tempdir().unwrap();
    let (one, none) = (json!(["wide.png"]), json!([]));
    let lines = [("<image>User: What is it? GPT:<answer>", &one), ("User: hi GPT:<answer>", &none)];
    let file = batch_file(place.path(), &lines);
    let run = |input: &[OsString], options: &[&str]| {
        let mut arguments = arguments!["generate", "--json", "--model", golden("llama/checkpoint")].to_vec();
        arguments.extend_from_slice(input);
        arguments.extend(options.iter().map(Into::into));
        arguments.extend(["--max-new-tokens", "9", "--num-return-sequences", "3"].map(Into::into));
        otter(&arguments).json_lines()
    };
    let beams = ["--num-beams", "4"];
    for options in
        [&beams[..], &["--temperature", "1.2", "--seed", "5"], &["--top-p", "0.9", "--num-beams", "3"]]
    {
        let answers = run(&arguments!["--batch", file], options);
        assert_eq!(answers.len(), 6);
        for (index, answer) in answers.iter().enumerate() {
            assert_eq!(answer["prompt"], index / 3, "{answer}");
            assert_eq!(answer["sequence"], index % 3, "{answer}");
            assert!((1..=9).contains(&integers(&answer["token_ids"]).len()));
        }
        for answers in answers.chunks(3) {
            let distinct = |a: usize, b: usize| answers[a]["token_ids"] != answers[b]["token_ids"];
            assert!(distinct(0, 1) && distinct(1, 2) && distinct(0, 2), "{options:?} {answers:?}");
            if options.contains(&"--num-beams") {
                let scores: Vec<f64> =
                    answers.iter().map(|answer| answer["score"].as_f64().unwrap()).collect();
                assert!(scores.is_sorted_by(|a, b| a >= b), "{scores:?}");
            }
        }
        let again = run(&arguments!["--batch", file], options);
        assert_eq!(again, answers, "{options:?}");
    }
    let answers = run(&arguments!["--batch", file], &beams);
    for ((text, names), answers) in lines.iter().zip(answers.chunks(3)) {
        let mut input = arguments!["--prompt", text].to_vec();
        input.extend(images(names).into_iter().flat_map(|image| ["--image".into(), image]));
        for (alone, answer) in run(&input, &beams).iter().zip(answers) {
            assert_eq!(alone["token_ids"], answer["token_ids"]);
            let difference = alone["score"].as_f64().unwrap() - answer["score"].as_f64().unwrap();
            assert!(difference.abs() < 1e-4);
            assert_eq!(alone["sequence"], answer["sequence"]);
            assert!(alone["prompt"].is_null());
        }
    }
}

/// Banned words do not come, with and without beams; an answer may end at the language model's own end.
#[test]
fn banned_words_and_the_end_of_sequence() {
    let run = |options: &[&str]| {
        let mut arguments = arguments![
            "generate",
            "--json",
            "--model",
            golden("llama/checkpoint"),
            "--prompt",
            "User: hi GPT:<answer>",
            "--max-new-tokens",
            "12",
        ]
        .to_vec();
        arguments.extend(options.iter().map(Into::into));
        otter(&arguments).json()
    };
    let tokenizer = otter_checkpoint::load_tokenizer(&golden("llama/checkpoint")).unwrap();
    let ids = |value: &Value| integers(&value["token_ids"]);
    for search in [&[][..], &["--num-beams", "3"]] {
        let whole = ids(&run(search));
        let word: Vec<i64> = tokenizer.encode("picture").unwrap().into_iter().map(i64::from).collect();
        let came = |ids: &[i64]| ids.windows(word.len()).any(|window| window == word);
        let options = [search, &["--bad-words", "never said", "--bad-words", "picture"]].concat();
        let without = ids(&run(&options));
        assert!(came(&whole) && !came(&without), "{word:?} {whole:?} {without:?}");
    }
    // Hot sampling draws every token alike, so that the end of sequence soon comes in some stream.
    let eos = i64::from(tokenizer.special().eos.unwrap());
    for search in [&["--temperature", "50"][..], &["--temperature", "50", "--num-beams", "2"]] {
        let seeds: Vec<String> = (0..40).map(|seed| seed.to_string()).collect();
        let ended = seeds.iter().find_map(|seed| {
            let options = ["--max-new-tokens", "200", "--stop-at-eos", "--seed", seed];
            let mut arguments =
                arguments!["generate", "--json", "--model", golden("llama/checkpoint")].to_vec();
            arguments.extend(["--prompt", "a"].iter().chain(search).chain(&options).map(Into::into));
            Some(otter(&arguments).json()).filter(|answer| ids(answer).last() == Some(&eos))
        });
        let ended = ended.unwrap();
        assert_eq!(ended["finish_reason"], "stop", "{search:?}");
        assert_eq!(ids(&ended).iter().filter(|&&id| id == eos).count(), 1);
    }
}
