//! What this project saves, opened by Python: plain libraries, and Transformers with the exported module.
//!
//! The tests make a virtual environment of their own from PyPI (`python/make_environment.py`), under the target
//! directory, once for each version of its requirements. Where that cannot be done they are skipped, or fail if the part
//! `python` is required (see `tests/skip.rs`). `OTTER_PYTHON` names an interpreter that has the packages.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::common::{golden, golden_json, otter, strings};
use otter_checkpoint::{
    DType, SaveOptions, load_model, load_tokenizer, save_model, write_transformers_module,
};
use otter_nn::Device;
use serde_json::{Value, json};

/// The making of the environment gives up after this time.
const LIMIT_SECONDS: &str = "900";

const CASES: [&str; 5] = ["llama", "video", "flamingo", "mpt7b-style", "mpt1b-style"];

fn python_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../python").canonicalize().unwrap()
}

/// The interpreter of the environment, or why there is none.
fn make_environment() -> Result<PathBuf, String> {
    if let Some(python) = std::env::var_os("OTTER_PYTHON") {
        return Ok(python.into());
    }
    let maker = python_folder().join("make_environment.py");
    let version = Command::new("python3").arg("--version").output();
    let version = version.map_err(|error| format!("python3 cannot be started: {error}"))?.stdout;
    let mut hasher = DefaultHasher::new();
    for file in [&maker, &python_folder().join("requirements.txt")] {
        std::fs::read(file).unwrap().hash(&mut hasher);
    }
    version.hash(&mut hasher);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("python-{:016x}", hasher.finish()));
    let python = folder.join(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" });
    // A test may be a process of its own: one makes the environment, the others wait.
    let lock = std::fs::File::create(folder.with_extension("lock")).map_err(|error| error.to_string())?;
    lock.lock().map_err(|error| error.to_string())?;
    // Written last: without it, a folder is what an interrupted run left.
    let ready = folder.join("ready");
    if !ready.is_file() {
        let output = Command::new("python3")
            .arg(&maker)
            .arg(&folder)
            .args(["--limit", LIMIT_SECONDS])
            .stdin(Stdio::null())
            .output()
            .map_err(|error| error.to_string())?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr);
            let last = text.lines().rev().find(|line| !line.trim().is_empty());
            return Err(last.unwrap_or("making the environment failed").to_owned());
        }
        std::fs::write(ready, "").unwrap();
    }
    Ok(python)
}

/// The interpreter; `None`, with a line that says so, where the test is to be skipped.
#[track_caller]
fn python() -> Option<&'static Path> {
    static ENVIRONMENT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    match ENVIRONMENT.get_or_init(make_environment) {
        Ok(python) => Some(python),
        Err(reason) => {
            crate::skip::skipped("python", reason);
            None
        }
    }
}

/// Runs one of the checks. `place` takes what Transformers keeps between runs.
fn check(python: &Path, script: &str, place: &Path, arguments: &[PathBuf]) {
    let output = Command::new(python)
        .arg(python_folder().join("checks").join(script))
        .args(arguments)
        .env("HF_HOME", place.join("hub"))
        .env("HF_HUB_OFFLINE", "1")
        .env("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        .env("TRANSFORMERS_VERBOSITY", "error")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{script}: {}{}", text(&output.stdout), text(&output.stderr));
}

/// Loads a golden case and saves it as this project does.
fn save(case: &str, target: &Path, dtype: DType, max_shard_bytes: u64) {
    let source = golden(case).join("checkpoint");
    let model = load_model(&source, Device::Cpu).unwrap();
    let options = SaveOptions { tokenizer_from: Some(&source), max_shard_bytes, dtype, card: None };
    save_model(target, &model.config, &model.parameters, &options).unwrap();
}

#[test]
fn plain_libraries_open_what_is_saved() {
    let Some(python) = python() else { return };
    for case in ["llama", "flamingo", "mpt1b-style"] {
        let place = tempfile::tempdir().unwrap();
        let mut arguments = vec![golden(case)];
        for (name, dtype, shard) in [
            ("whole-f32", DType::F32, u64::MAX),
            ("shards-f32", DType::F32, 200_000),
            ("whole-f16", DType::F16, u64::MAX),
            ("shards-bf16", DType::Bf16, 100_000),
        ] {
            let target = place.path().join(name);
            save(case, &target, dtype, shard);
            arguments.push(target);
        }
        let source = golden(case).join("checkpoint");
        for (name, options) in [
            ("pickle-f32", &["--format", "bin"][..]),
            ("pickles-f16", &["--format", "bin", "--dtype", "f16", "--shard-size", "200KB"]),
            ("trained.pt", &["--to", "openflamingo"]),
        ] {
            let target = place.path().join(name);
            let mut command = arguments!["convert", source, "--out", target].to_vec();
            command.extend(options.iter().map(Into::into));
            otter(&command);
            arguments.push(target);
        }
        check(python, "plain_files.py", place.path(), &arguments);
    }
}

/// One prompt with its pictures.
struct Prompt {
    text: String,
    images: Vec<String>,
    /// Whether the pictures are the frames of one video.
    frames: bool,
}

impl Prompt {
    fn to_json(&self) -> Value {
        json!({ "prompt": self.text, "images": self.images, "frames": self.frames })
    }
}

/// The single prompts that were recorded for a case.
fn prompts(case: &str) -> Vec<Prompt> {
    let recorded = golden_json(&format!("{case}/generate.json"));
    let single = recorded["prompts"].as_array().unwrap().iter().filter_map(|prompt| {
        let texts = strings(&prompt["texts"]);
        let [text] = texts[..] else { return None };
        let names = strings(&prompt["images"][0]);
        let images = names.iter().map(|name| golden("images").join(name).to_str().unwrap().to_owned());
        let frames = case == "video";
        Some(Prompt { text: text.to_owned(), images: images.collect(), frames })
    });
    single.collect()
}

/// What the binary answers to several prompts at once.
fn generate(model: &Path, prompts: &[&Prompt], new_tokens: &str) -> Vec<Value> {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("prompts.jsonl");
    let line = |prompt: &&Prompt| json!({ "prompt": prompt.text, "images": prompt.images }).to_string();
    std::fs::write(&file, prompts.iter().map(line).collect::<Vec<_>>().join("\n")).unwrap();
    let arguments =
        arguments!["generate", "--json", "--model", model, "--batch", file, "--max-new-tokens", new_tokens];
    otter(&arguments).json_lines()
}

fn with_answers(model: &Path, prompts: &[&Prompt]) -> Vec<Value> {
    let answers = generate(model, prompts, "20");
    assert_eq!(answers.len(), prompts.len());
    let joined = prompts.iter().zip(&answers).map(|(prompt, answer)| {
        let mut value = prompt.to_json();
        value["token_ids"] = answer["token_ids"].clone();
        value["text"] = answer["text"].clone();
        value
    });
    joined.collect()
}

/// Log-probabilities of an answer, which stand for the binary's logits.
fn score(model: &Path, prompt: &Prompt, answer: &str) -> Value {
    let mut arguments =
        arguments!["score", "--json", "--model", model, "--prompt", prompt.text, "--answer", answer].to_vec();
    arguments.extend(prompt.images.iter().flat_map(|image| ["--image".into(), image.into()]));
    let scored = otter(&arguments).json();
    let mut value = prompt.to_json();
    value["answer_ids"] = scored["token_ids"].clone();
    value["logprobs"] = scored["token_logprobs"].clone();
    value
}

fn transformers_gives_what_the_binary_gives(case: &str) {
    let Some(python) = python() else { return };
    let place = tempfile::tempdir().unwrap();
    let (model, resaved) = (place.path().join("exported"), place.path().join("resaved"));
    save(case, &model, DType::F32, 300_000);
    write_transformers_module(&model).unwrap();
    let prompts = prompts(case);
    let alone = prompts.iter().flat_map(|prompt| with_answers(&model, &[prompt])).collect::<Vec<_>>();
    // Of different lengths and numbers of images; videos only with videos, which have frames.
    let together: Vec<&Prompt> =
        prompts.iter().filter(|prompt| case != "video" || !prompt.images.is_empty()).collect();
    let scores: Vec<Value> =
        prompts.iter().map(|prompt| score(&model, prompt, " A red boat.<|endofchunk|>")).collect();
    let expected =
        json!({ "prompts": alone, "batches": [with_answers(&model, &together)], "scores": scores });
    let file = place.path().join("expected.json");
    std::fs::write(&file, expected.to_string()).unwrap();
    check(python, "otter_module.py", place.path(), &[golden(case), model.clone(), file, resaved.clone()]);

    // And back: what Transformers saved answers as before.
    let all: Vec<&Prompt> = prompts.iter().collect();
    let (before, after) = (generate(&model, &all, "20"), generate(&resaved, &all, "20"));
    assert_eq!(after, before, "{case}: as Transformers saved it");
}

#[test]
fn llama_in_transformers() {
    transformers_gives_what_the_binary_gives("llama");
}

#[test]
fn video_in_transformers() {
    transformers_gives_what_the_binary_gives("video");
}

#[test]
fn flamingo_in_transformers() {
    transformers_gives_what_the_binary_gives("flamingo");
}

#[test]
fn mpt_7b_in_transformers() {
    transformers_gives_what_the_binary_gives("mpt7b-style");
}

#[test]
fn mpt_1b_in_transformers() {
    transformers_gives_what_the_binary_gives("mpt1b-style");
}

/// Models made and saved by Python, whose answers the binary must repeat.
const READ_BACK: [&str; 10] = [
    "mpt",
    "mpt-six-heads",
    "mpt-clip",
    "mpt-qk-norm",
    "mpt-positions",
    "mpt-biases",
    "mpt-multi-query",
    "mpt-rms-norm",
    "mosaic-gpt",
    "mosaic-gpt-positions",
];

#[test]
fn language_models_of_the_module() {
    let Some(python) = python() else { return };
    let place = tempfile::tempdir().unwrap();
    let image = golden("images/wide.png");
    let arguments = [
        python_folder().join("transformers_module"),
        golden("llama/checkpoint"),
        image.clone(),
        place.path().to_path_buf(),
    ];
    check(python, "language_models.py", place.path(), &arguments);
    for name in READ_BACK {
        let model = place.path().join(name);
        let answer: Value =
            serde_json::from_slice(&std::fs::read(model.join("answer.json")).unwrap()).unwrap();
        let prompt = Prompt {
            text: answer["prompt"].as_str().unwrap().to_owned(),
            images: vec![image.to_str().unwrap().to_owned()],
            frames: false,
        };
        let found = generate(&model, &[&prompt], "12");
        assert_eq!(found[0]["token_ids"], answer["token_ids"], "{name}");
        assert!(
            answer["smallest_gap"].as_f64().unwrap() > 1e-3,
            "{name}: too close to call, choose another seed"
        );
    }
}

/// Exporting adds files and keys, changes nothing else, and doing it again changes nothing at all.
#[test]
fn exporting_keeps_what_was_there() {
    for case in CASES {
        let place = tempfile::tempdir().unwrap();
        let model = place.path().join("model");
        save(case, &model, DType::F32, u64::MAX);
        let read = |name: &str| -> Value {
            serde_json::from_slice(&std::fs::read(model.join(name)).unwrap()).unwrap()
        };
        let before = read("config.json");
        write_transformers_module(&model).unwrap();
        let mut after = read("config.json");
        let special = *load_tokenizer(&model).unwrap().special();
        assert_eq!(after["image_token_id"], special.image);
        assert_eq!(after["endofchunk_token_id"], special.endofchunk);
        assert_eq!(after["pad_token_id"], special.pad);
        let class = after["auto_map"]["AutoModelForImageTextToText"].as_str().unwrap();
        assert_eq!(class.contains("Flamingo"), case == "flamingo");
        for key in ["auto_map", "image_token_id", "endofchunk_token_id", "pad_token_id"] {
            after.as_object_mut().unwrap().shift_remove(key);
        }
        assert_eq!(after, before, "{case}");
        let bytes = |name: &str| std::fs::read(model.join(name)).unwrap();
        let names = ["config.json", "tokenizer_config.json", "processor_config.json", "modeling_otter.py"];
        let once = names.map(bytes);
        write_transformers_module(&model).unwrap();
        assert_eq!(names.map(bytes), once);
        // The binary still reads it, and a copy does not point to files that it does not have.
        let loaded = load_model(&model, Device::Cpu).unwrap();
        let copy = place.path().join("copy");
        let options = SaveOptions { tokenizer_from: Some(&model), ..SaveOptions::default() };
        save_model(&copy, &loaded.config, &loaded.parameters, &options).unwrap();
        let copied: Value =
            serde_json::from_slice(&std::fs::read(copy.join("config.json")).unwrap()).unwrap();
        assert!(copied.get("auto_map").is_none());
        assert_eq!(copied["image_token_id"], special.image);
    }
}

#[test]
fn exporting_needs_a_checkpoint_with_tokenizer() {
    let place = tempfile::tempdir().unwrap();
    let empty = write_transformers_module(place.path()).unwrap_err().to_string();
    assert!(empty.contains("config.json"), "{empty}");
    let model = place.path().join("model");
    save("llama", &model, DType::F32, u64::MAX);
    std::fs::remove_file(model.join("tokenizer.json")).unwrap();
    let text = write_transformers_module(&model).unwrap_err().to_string();
    assert!(text.contains("no tokenizer.json"), "{text}");
    assert!(!model.join("modeling_otter.py").exists(), "nothing was written");
}
