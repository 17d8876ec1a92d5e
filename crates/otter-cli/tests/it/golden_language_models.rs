//! GPT-NeoX, OPT, Falcon and the variants of LLaMA, through the real binary, against what PyTorch and Transformers
//! compute for them (`tests/fixtures/make_language_models.py`).

use std::path::{Path, PathBuf};

use crate::common::{golden, golden_json, integers, otter, strings};
use safetensors::SafeTensors;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A fixture put together: its configuration, the weights (which cases may share) and the tokenizer (which all share).
struct Case {
    name: &'static str,
    /// The case whose weights and gradients these are.
    owner: String,
    directory: TempDir,
}

impl Case {
    fn new(name: &'static str) -> Self {
        let owner = golden_json("language_models/cases.json")[name].as_str().unwrap().to_owned();
        let directory = tempfile::tempdir().unwrap();
        for file in [
            format!("{name}/checkpoint/config.json"),
            format!("{owner}/checkpoint/model.safetensors"),
            "tokenizer/tokenizer.json".to_owned(),
            "tokenizer/tokenizer_config.json".to_owned(),
        ] {
            let from = golden(&format!("language_models/{file}"));
            let to = directory.path().join(from.file_name().unwrap());
            std::fs::write(to, std::fs::read(from).unwrap()).unwrap();
        }
        Self { name, owner, directory }
    }

    fn model(&self) -> &Path {
        self.directory.path()
    }

    fn file(&self, name: &str) -> PathBuf {
        golden(&format!("language_models/{}/{name}", self.name))
    }

    /// Every recorded tensor and gradient agrees, with layers kept and recomputed.
    fn agrees(&self) {
        let tensor_names = |file: &Path| {
            let bytes = std::fs::read(file).unwrap();
            let file = SafeTensors::deserialize(&bytes).unwrap();
            file.names().into_iter().map(str::to_owned).collect::<Vec<_>>()
        };
        let forward = self.file("forward.safetensors");
        let mut expected = tensor_names(&forward);
        expected.retain(|key| {
            !["vision_x", "lang_x", "attention_mask", "labels"].iter().any(|input| key.ends_with(input))
        });
        let mut arguments =
            arguments!["parity", "--json", "--model", self.model(), "--golden", forward].to_vec();
        if self.owner == self.name {
            let gradients = self.file("grads.safetensors");
            let trained = tensor_names(&gradients);
            arguments.extend(arguments!["--gradients", gradients, "--trainable", trained.join(",")]);
            assert!(trained.len() > 20, "{}", trained.len());
            expected.extend(trained.into_iter().map(|name| format!("gradients.{name}")));
        }
        expected.sort();
        for recompute in [false, true] {
            let mut arguments = arguments.clone();
            arguments.extend(recompute.then(|| "--recompute".into()));
            let result = otter(&arguments).json();
            assert_eq!(result["passed"], true);
            let comparisons = result["report"]["comparisons"].as_array().unwrap();
            let mut compared: Vec<String> = comparisons
                .iter()
                .map(|c| format!("{}.{}", c["scenario"].as_str().unwrap(), c["name"].as_str().unwrap()))
                .collect();
            compared.sort();
            assert_eq!(compared, expected, "{}", self.name);
        }
    }

    /// Every recorded continuation, prompt by prompt and padded on the left.
    fn continues(&self) {
        let recorded: Value =
            serde_json::from_slice(&std::fs::read(self.file("generate.json")).unwrap()).unwrap();
        let new_tokens = recorded["max_new_tokens"].to_string();
        for prompt in recorded["prompts"].as_array().unwrap() {
            let lines: Vec<String> = strings(&prompt["texts"])
                .iter()
                .zip(prompt["images"].as_array().unwrap())
                .map(|(text, images)| {
                    let images: Vec<PathBuf> =
                        strings(images).iter().map(|image| golden("images").join(image)).collect();
                    json!({ "prompt": text, "images": images }).to_string()
                })
                .collect();
            let batch = self.directory.path().join("prompts.jsonl");
            std::fs::write(&batch, lines.join("\n")).unwrap();
            let arguments = arguments![
                "generate",
                "--json",
                "--model",
                self.model(),
                "--batch",
                batch,
                "--max-new-tokens",
                new_tokens,
            ];
            let answers = otter(&arguments).json_lines();
            assert_eq!(answers.len(), lines.len());
            for (row, answer) in answers.iter().enumerate() {
                let length = integers(&prompt["input_ids"][row]).len();
                let expected = integers(&prompt["greedy_use_cache"][row]).split_off(length);
                assert_eq!(
                    integers(&answer["token_ids"]),
                    expected,
                    "{} {} row {row}",
                    self.name,
                    prompt["key"]
                );
            }
        }
    }
}

fn check(name: &'static str) {
    let case = Case::new(name);
    case.agrees();
    case.continues();
}

#[test]
fn gpt_neox_side_by_side() {
    check("neox");
}

#[test]
fn gpt_neox_in_turn() {
    check("neox-sequential");
}

#[test]
fn opt() {
    check("opt");
}

#[test]
fn opt_350m() {
    check("opt-350m");
}

#[test]
fn falcon_7b() {
    check("falcon");
}

#[test]
fn falcon_rw() {
    check("falcon-alibi");
}

#[test]
fn falcon_40b() {
    check("falcon-gqa");
}

#[test]
fn llama_with_linear_scaling_biases_and_wide_heads() {
    check("llama-linear");
}

/// Cached keys keep the angles of their own step, as in Transformers: without a cache one of these continuations differs.
#[test]
fn llama_with_dynamic_scaling() {
    check("llama-dynamic");
}

#[test]
fn llama_3() {
    check("llama-3");
}

/// A change of the configuration that leaves every shape alone must be noticed.
#[test]
fn another_order_of_the_parts_is_noticed() {
    let case = Case::new("neox");
    let config = case.model().join("config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    let changed = text.replace("\"use_parallel_residual\": true", "\"use_parallel_residual\": false");
    assert_ne!(changed, text);
    std::fs::write(&config, changed).unwrap();
    let run =
        otter(&arguments!["parity", "--model", case.model(), "--golden", case.file("forward.safetensors")]);
    assert_eq!(run.code, Some(1), "{run:#?}");
    assert!(run.stdout.lines().last().unwrap().starts_with("DIFFERS: "));
}

/// A sequence beyond the table of learned positions is refused, not read past its end.
#[test]
fn learned_positions_end_somewhere() {
    let case = Case::new("opt");
    let run = otter(&arguments![
        "generate",
        "--model",
        case.model(),
        "--prompt",
        "User: What is it ? GPT: <answer>",
        "--max-new-tokens",
        "100",
    ]);
    run.error(&["positions for 48"]);
}
