//! The real binary with the host in place of a GPU (device `emulated`): parity with the original, tuning, answers.

use std::path::{Path, PathBuf};

use crate::common::{golden, otter};
use serde_json::Value;
use tempfile::TempDir;

/// The largest relative difference of a golden case, which must agree.
fn parity(case: &str, dtype: &str) -> f64 {
    let of = |file: &str| golden(case).join(file);
    let (model, forward) = (of("checkpoint"), of("forward.safetensors"));
    let mut arguments = arguments!["parity", "--model", model, "--golden", forward, "--json"].to_vec();
    arguments.extend(arguments!["--device", "emulated", "--dtype", dtype]);
    if of("grads.safetensors").is_file() {
        arguments.extend(arguments!["--gradients", of("grads.safetensors")]);
    }
    let json = otter(&arguments).json();
    assert_eq!(json["passed"], true, "{case} in {dtype}");
    let comparisons = json["report"]["comparisons"].as_array().unwrap();
    assert!(comparisons.len() > 30, "{case}: {} comparisons", comparisons.len());
    comparisons.iter().map(|c| c["max_relative"].as_f64().unwrap()).fold(0.0, f64::max)
}

const CASES: [&str; 5] = ["llama", "video", "flamingo", "mpt7b-style", "mpt1b-style"];

#[test]
fn golden_cases_agree_in_f32() {
    for case in CASES {
        let worst = parity(case, "f32");
        assert!(worst < 1e-4, "{case}: {worst}");
    }
}

/// With their own tolerances, and not by f32: the products were of rounded factors.
#[test]
fn golden_cases_agree_in_bf16() {
    for case in CASES {
        let worst = parity(case, "bf16");
        assert!(worst > 1e-3, "{case}: {worst}");
    }
}

/// A sliver of the toybox with runs on it.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        otter(&arguments!["toybox", "--scale", "0.003", "--out", place.path("data")]).success();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn arguments(&self, run: &str, more: &[&str]) -> Vec<String> {
        let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes/toybox.toml");
        let mut all = ["train", "--json", "--config"].map(str::to_owned).to_vec();
        all.push(recipe.to_str().unwrap().to_owned());
        all.push(format!("data.mimicit_yaml={}", self.path("data/train.yaml").display()));
        all.push(format!("eval.data.mimicit_yaml={}", self.path("data/eval_2shot.yaml").display()));
        all.push(format!("train.run_dir={}", self.path(run).display()));
        let small = ["train.steps=3", "train.batch_size=2", "train.log_every=1", "train.eval_every=0"];
        all.extend(small.map(str::to_owned));
        all.extend(
            ["train.checkpoint_every=0", "schedule.warmup_steps=1", "eval.max_batches=1"].map(str::to_owned),
        );
        all.extend(more.iter().map(|&argument| argument.to_owned()));
        all
    }

    fn train(&self, run: &str, more: &[&str]) -> Value {
        otter(&self.arguments(run, more)).json()
    }

    fn losses(&self, run: &str) -> Vec<f64> {
        let text = std::fs::read_to_string(self.path(run).join("metrics.jsonl")).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.filter(|line| line["kind"] == "step").map(|line| line["loss"].as_f64().unwrap()).collect()
    }

    fn files(&self, run: &str, model: &str) -> [Vec<u8>; 2] {
        let checkpoint = self.path(run).join("checkpoints/step-000003");
        [model, "trainer.safetensors"].map(|file| std::fs::read(checkpoint.join(file)).unwrap())
    }
}

/// The same losses as on the host, a plan that holds, and a resumed run that ends with the same bits.
#[test]
fn a_run_on_a_gpu_is_one_on_the_host() {
    let place = Place::new();
    place.train("host", &[]);
    let whole = place.train("gpu", &["--device", "emulated"]);
    let (host, gpu) = (place.losses("host"), place.losses("gpu"));
    assert_eq!(gpu.len(), 3);
    for (gpu, host) in gpu.iter().zip(&host) {
        assert!((gpu - host).abs() < 1e-4 * host, "{gpu} {host}");
    }
    let (planned, peak) = (whole["planned_bytes"].as_f64().unwrap(), whole["peak_bytes"].as_f64().unwrap());
    assert!((0.6 * planned..=planned).contains(&peak), "planned {planned}, peak {peak}");

    place.train("parts", &["--device", "emulated", "train.stop_after=2"]);
    let resumed = place.train("parts", &["--device", "emulated", "--resume"]);
    assert_eq!(resumed["step"], 3);
    let model = "model/model.safetensors";
    assert!(place.files("parts", model) == place.files("gpu", model), "weights or moments differ");

    // Rounded products and another device are other runs.
    let refused = otter(&place.arguments("parts", &["--device", "emulated", "--dtype", "bf16", "--resume"]));
    assert!(refused.code == Some(1) && refused.stderr.contains("train.dtype"), "{refused:#?}");
}

/// 8-bit moments, frozen matrices in blocks, rounded products, and only what is trained saved.
#[test]
fn small_runs_on_a_gpu_resume_too() {
    let place = Place::new();
    let small = [
        "--device",
        "emulated",
        "--dtype",
        "bf16",
        "train.moments=8bit",
        "model.quantize=q8_0",
        "train.save=trainable",
    ];
    let with = |more: &[&'static str]| [&small[..], more].concat();
    place.train("gpu", &small);
    place.train("parts", &with(&["train.stop_after=1"]));
    place.train("parts", &with(&["--resume"]));
    let trained = "model/trained.safetensors";
    assert!(place.files("parts", trained) == place.files("gpu", trained), "weights or moments differ");
}

#[test]
fn a_limit_of_memory_holds() {
    let place = Place::new();
    let limited = place.train("limited", &["--device", "emulated", "--memory", "40MiB", "train.steps=1"]);
    assert!(limited["peak_bytes"].as_f64().unwrap() <= f64::from(40 << 20), "{limited}");
    let refused = otter(&place.arguments("too-small", &["--device", "emulated", "--memory", "2MiB"]));
    assert!(refused.code == Some(1) && refused.stderr.contains("train.memory"), "{refused:#?}");
}

/// A GPU that only counts has the peak of one that computes; so plans are checked at sizes that would take too long.
#[test]
fn plans_hold_at_every_size() {
    let place = Place::new();
    let small = ["train.steps=1", "train.require_gradients=false"];
    let peak = |run: &str, more: &[&str]| {
        let summary = place.train(run, &[&small[..], more].concat());
        let [planned, peak] = ["planned_bytes", "peak_bytes"].map(|key| summary[key].as_f64().unwrap());
        assert!((0.7 * planned..=planned).contains(&peak), "{run}: planned {planned}, peak {peak}");
        peak
    };
    assert_eq!(peak("counted", &["--device", "counted"]), peak("emulated", &["--device", "emulated"]));
    for (run, more) in [
        ("many", &["train.batch_size=32"][..]),
        ("many again", &["train.batch_size=32", "model.recompute=true"]),
        ("padded", &["train.batch_size=8", "train.packing=off", "train.moments=8bit"]),
        ("tower", &["train.batch_size=4", "model.freeze=patterns", "model.trainable=['vision_encoder']"]),
        ("blocks", &["train.batch_size=16", "model.quantize=q8_0"]),
    ] {
        peak(run, &[more, &["--device", "counted"]].concat());
    }
}

/// Greedy answers, beams and samples have the tokens that they have on the host; so has an evaluation its answers.
#[test]
fn answers_are_those_of_the_host() {
    let model = golden("llama/checkpoint");
    let image = golden("images/photo.jpg");
    let prompt = "<image>User:What is this? GPT:<answer>";
    for how in [&[][..], &["--num-beams", "3"], &["--temperature", "0.8", "--seed", "3"]] {
        let on = |device: &str| {
            let mut all =
                arguments!["generate", "--model", model, "--image", image, "--prompt", prompt].to_vec();
            all.extend(arguments!["--json", "--device", device, "--max-new-tokens", "6"]);
            all.extend(how.iter().map(Into::into));
            otter(&all).json()["token_ids"].clone()
        };
        assert_eq!(on("emulated"), on("cpu"), "{how:?}");
    }
}
