//! A whole run of a small Otter on MIMIC-IT files: configuration, loader threads, checkpoints, exact resume, evaluation.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use otter_checkpoint::{DType, SaveOptions, load_model, save_model};
use otter_nn::Device;
use otter_train::{Observer, Outcome, Resume, StepReport, TrainConfig, TrainSummary, train};

fn golden(part: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(part)
}

fn config(run_dir: &Path, overrides: &[&str]) -> TrainConfig {
    let data = golden("data/train_json.yaml");
    let text = format!(
        "[model]\ninit_from = {:?}\n[optimizer]\nlearning_rate = 1e-3\n[schedule]\nwarmup_steps = 1\n[train]\nsteps = 6\n\
         batch_size = 2\ngradient_accumulation = 2\nrun_dir = {:?}\n[data]\nmimicit_yaml = {data:?}\nimage_size = 28\n\
         max_seq_len = 256\nresample_frames = 3\nrecords_without_images = \"empty\"\non_bad_sample = \"skip\"\n\
         [eval]\nbatch_size = 2\nmax_batches = 2\n[eval.data]\nmimicit_yaml = {data:?}\nimage_size = 28\n\
         on_bad_sample = \"skip\"\nmax_seq_len = 256\nresample_frames = 3\n",
        golden("llama/checkpoint"),
        run_dir,
    );
    let overrides: Vec<String> = overrides.iter().map(|text| (*text).to_owned()).collect();
    TrainConfig::parse(&text, "test", Path::new("/"), &overrides).unwrap()
}

#[derive(Default)]
struct Watch {
    steps: Vec<StepReport>,
    messages: Vec<String>,
    plan: String,
}

impl Observer for Watch {
    fn message(&mut self, text: &str) {
        self.messages.push(text.to_owned());
    }
    fn memory_plan(&mut self, plan: &otter_train::memory::MemoryPlan) {
        self.plan = plan.to_string();
    }
    fn step(&mut self, report: &StepReport) {
        self.steps.push(report.clone());
    }
}

fn go(config: &TrainConfig, resume: bool) -> (TrainSummary, Watch) {
    let mut watch = Watch::default();
    let resume = if resume { Resume::Exactly } else { Resume::No };
    let summary = train(config, resume, &AtomicBool::new(false), &mut watch).unwrap();
    (summary, watch)
}

fn bits(checkpoint: &Path) -> Vec<(String, Vec<u32>)> {
    let loaded = load_model(&checkpoint.join("model"), Device::Cpu).unwrap();
    let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect();
    loaded.parameters.iter().map(|p| (p.name.clone(), bits(&p.tensor.values()))).collect()
}

#[test]
fn a_run_resumes_bit_for_bit() {
    let place = tempfile::tempdir().unwrap();
    let (whole, seen) = go(&config(&place.path().join("whole"), &["train.threads=2"]), false);
    assert_eq!((whole.outcome, whole.step), (Outcome::Completed, 6));
    let parts = place.path().join("parts");
    let (part, _) = go(&config(&parts, &["train.stop_after=3", "train.threads=2"]), false);
    assert_eq!((part.outcome, part.step), (Outcome::StoppedEarly, 3));
    // Neither the number of loader threads nor that of computing threads must matter.
    let (rest, again) = go(&config(&parts, &["train.threads=1", "train.workers=3"]), true);
    assert_eq!(rest.samples_seen, whole.samples_seen);
    for (a, b) in again.steps.iter().zip(&seen.steps[3..]) {
        assert_eq!((a.step, a.loss, a.gradient_norm, a.epoch), (b.step, b.loss, b.gradient_norm, b.epoch));
    }
    let (expected, found) = (bits(&whole.checkpoint.unwrap()), bits(&rest.checkpoint.unwrap()));
    assert!(expected == found, "final weights differ");
    assert_eq!(whole.evaluation, rest.evaluation);
    assert!(whole.evaluation[0].1.is_finite());
    // Frozen weights are those of the start, trained ones are not.
    let start = load_model(&golden("llama/checkpoint"), Device::Cpu).unwrap().parameters;
    for (name, bits) in &found {
        let before: Vec<u32> =
            start.by_name(name).unwrap().tensor.values().iter().map(|v| v.to_bits()).collect();
        let trained = ["perceiver", "gated_cross_attn_layer", "embed_tokens", "lm_head"];
        assert_eq!(before != *bits, trained.iter().any(|part| name.contains(part)), "{name}");
    }
    assert!(seen.plan.contains("language activations"), "{}", seen.plan);
    assert!(seen.messages.iter().any(|text| text.starts_with("memory: planned")), "{:?}", seen.messages);
    println!("{}\n{}", seen.plan, seen.messages.join("\n"));
    println!("{:?} {:?}", whole.skipped, seen.steps.iter().map(|step| step.loss).collect::<Vec<_>>());
}

/// Whole runs with and without packing: the same samples in every step, the same losses, the same evaluation and, but for
/// rounding, the same weights; fewer tokens are computed. A packed run resumes bit for bit as well.
#[test]
fn packing_changes_the_cost_and_nothing_else() {
    let place = tempfile::tempdir().unwrap();
    let run = |name: &str, more: &[&str], resume: bool| {
        let overrides = [&["train.batch_size=4", "train.gradient_accumulation=1"], more].concat();
        go(&config(&place.path().join(name), &overrides), resume)
    };
    let (off, off_seen) = run("off", &["train.packing=off"], false);
    assert_eq!(off.tokens.computed, off.tokens.unpacked);
    for (name, more) in [
        ("one row", &["train.packing=batch"][..]),
        ("rows of 300", &["train.packing=batch", "train.pack_length=300"]),
        ("recompute", &["model.recompute=true"]),
    ] {
        let (on, seen) = run(name, more, false);
        println!("{name}: {}", on.tokens);
        assert_eq!((on.samples_seen, on.tokens.real), (off.samples_seen, off.tokens.real));
        assert_eq!(on.tokens.unpacked, off.tokens.computed);
        assert!(on.tokens.computed < off.tokens.computed);
        assert!(on.tokens.computed == on.tokens.real || name == "rows of 300");
        for (a, b) in off_seen.steps.iter().zip(&seen.steps) {
            assert_eq!((a.samples, a.target_tokens, a.epoch), (b.samples, b.target_tokens, b.epoch));
            assert!((a.loss - b.loss).abs() < 1e-5 * a.loss, "step {}: {} and {}", a.step, a.loss, b.loss);
            let norms = (a.gradient_norm, b.gradient_norm);
            assert!((norms.0 - norms.1).abs() < 1e-4 * norms.0, "step {}: {norms:?}", a.step);
        }
        for ((name, a), (_, b)) in off.evaluation.iter().zip(&on.evaluation) {
            assert!((a - b).abs() < 1e-5 * a.abs(), "{name}: {a} and {b}");
        }
        assert!(seen.messages.iter().any(|text| text.contains("without packing")), "{:?}", seen.messages);
        assert!(seen.plan.contains(if name == "rows of 300" { " x " } else { "1 x " }), "{}", seen.plan);
    }
    let (whole, _) = run("whole", &[], false);
    run("parts", &["train.stop_after=2"], false);
    let (rest, _) = run("parts", &["train.workers=3"], true);
    assert_eq!(whole.loss, rest.loss);
    assert!(bits(&whole.checkpoint.unwrap()) == bits(&rest.checkpoint.unwrap()), "final weights differ");
}

#[test]
fn masked_rows_and_patterns_reach_the_model() {
    let place = tempfile::tempdir().unwrap();
    let overrides = [
        "train.steps=2",
        "train.train_embedding_rows=[\"<answer>\"]",
        "model.freeze=patterns",
        "model.trainable=[\"embed_tokens\", \"gated_cross_attn_layer\"]",
        "model.recompute=true",
    ];
    let (summary, _) = go(&config(&place.path().join("run"), &overrides), false);
    let after = load_model(&summary.checkpoint.unwrap().join("model"), Device::Cpu).unwrap();
    let before = load_model(&golden("llama/checkpoint"), Device::Cpu).unwrap();
    let answer = after.tokenizer.special().answer as usize;
    for (old, new) in before.parameters.iter().zip(after.parameters.iter()) {
        let width = old.tensor.width();
        let (old_values, new_values) = (old.tensor.values(), new.tensor.values());
        let rows = old_values.chunks(width).zip(new_values.chunks(width));
        let moved: Vec<usize> = rows.enumerate().filter(|(_, (a, b))| a != b).map(|(row, _)| row).collect();
        if old.name.contains("embed_tokens") {
            assert_eq!(moved, [answer]);
        } else {
            assert_eq!(!moved.is_empty(), old.name.contains("gated_cross_attn_layer"), "{}", old.name);
        }
    }
}

#[test]
fn wrong_settings_are_explained() {
    let place = tempfile::tempdir().unwrap();
    for (number, (key, expected)) in [
        ("data.image_size=32", "the model takes images of 28"),
        ("train.train_embedding_rows=[\"<nothing>\"]", "no token `<nothing>`"),
        ("model.init_from=/nowhere", "/nowhere"),
    ]
    .into_iter()
    .enumerate()
    {
        let config = config(&place.path().join(number.to_string()), &[key]);
        let error = train(&config, Resume::No, &AtomicBool::new(false), &mut ()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

/// Frozen parts of a half-precision checkpoint stay so, trained ones are widened, and a resumed run keeps both.
#[test]
fn a_half_precision_base_is_trained() {
    let place = tempfile::tempdir().unwrap();
    let base = place.path().join("base");
    let source = golden("llama/checkpoint");
    let model = load_model(&source, Device::Cpu).unwrap();
    let options = SaveOptions { tokenizer_from: Some(&source), dtype: DType::F16, ..SaveOptions::default() };
    save_model(&base, &model.config, &model.parameters, &options).unwrap();
    let mut expected = load_model(&base, Device::Cpu).unwrap();
    let rule = otter_model::FreezeRule::Head;
    let widened = expected.parameters.set_trainable(|name| rule.is_trainable(&expected.config.model, name));
    let (total, half) = (expected.parameters.total_count(), expected.parameters.half_count());
    assert!(widened > 0 && half > 0);

    let init = format!("model.init_from={:?}", base.to_str().unwrap());
    let run = |name: &str, more: &[&str], resume: bool| {
        let overrides = [&[init.as_str(), "train.steps=4"], more].concat();
        go(&config(&place.path().join(name), &overrides), resume)
    };
    let (whole, seen) = run("whole", &[], false);
    let trained = expected.parameters.trainable_count();
    let weights = format!("{half} parameters x 2 bytes");
    let rest = format!("{} parameters x 4 bytes", total - half - trained);
    assert!(seen.plan.contains(&rest), "{}", seen.plan);
    assert!(seen.plan.contains(&weights), "{}", seen.plan);
    let message = format!("{widened} trained parameters are widened to 32 bits");
    assert!(seen.messages.contains(&message), "{:?}", seen.messages);
    assert!(seen.steps.iter().all(|step| step.loss.is_finite()));
    run("parts", &["train.stop_after=2"], false);
    let (rest, resumed) = run("parts", &[], true);
    assert!(resumed.plan.contains(&weights), "{}", resumed.plan);
    let (a, b) = (bits(&whole.checkpoint.unwrap()), bits(&rest.checkpoint.unwrap()));
    assert!(a == b, "final weights differ");
    for ((name, bits), before) in a.iter().zip(expected.parameters.iter()) {
        let same = before.tensor.values().iter().map(|v| v.to_bits()).eq(bits.iter().copied());
        assert_eq!(same, !before.trainable, "{name}");
    }
}

/// A cache of the tower's features changes a run by their rounding only; a filled one, or one that lost its end, gives the
/// same run to the bit, and the second run encodes nothing.
#[test]
fn features_of_the_frozen_tower_are_kept() {
    let place = tempfile::tempdir().unwrap();
    let cache = place.path().join("features");
    let setting = format!("train.vision_cache={}", cache.display());
    let counts = |seen: &Watch| {
        let line = seen.messages.iter().rfind(|line| line.starts_with("vision features:")).unwrap();
        let numbers: Vec<u64> = line.split(' ').filter_map(|word| word.parse().ok()).collect();
        (numbers[0], numbers[1])
    };
    let run = |name: &str, more: &[&str]| {
        let overrides = [&[setting.as_str()], more].concat();
        go(&config(&place.path().join(name), &overrides), false)
    };
    let (_, without) = go(&config(&place.path().join("without"), &[]), false);
    let (first, seen) = run("first", &[]);
    let (_, encoded) = counts(&seen);
    assert!(encoded > 0);
    for (a, b) in seen.steps.iter().zip(&without.steps) {
        assert!((a.loss - b.loss).abs() < 1e-3 * b.loss, "{} {}", a.loss, b.loss);
    }
    let expected = bits(&first.checkpoint.unwrap());
    let (second, seen) = run("second", &[]);
    assert_eq!(counts(&seen).1, 0);
    assert!(bits(&second.checkpoint.unwrap()) == expected);

    // The last record is cut, another one damaged: both are encoded anew.
    let tower = std::fs::read_dir(&cache).unwrap().next().unwrap().unwrap().path();
    let file = tower.join("features.f16");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes.truncate(bytes.len() - 7);
    bytes[3] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let (third, seen) = run("third", &[]);
    assert_eq!(counts(&seen).1, 2);
    assert!(bits(&third.checkpoint.unwrap()) == expected);

    // A full cache is not an error.
    let (fourth, seen) = run("fourth", &["train.vision_cache_gib=0"]);
    assert_eq!(counts(&seen).1, 0, "what is there is used");
    assert!(bits(&fourth.checkpoint.unwrap()) == expected);
    let elsewhere = format!("train.vision_cache={}", place.path().join("none").display());
    let (_, seen) = run("fifth", &[&elsewhere, "train.vision_cache_gib=0"]);
    assert!(seen.messages.last().unwrap().contains("not kept"), "{:?}", seen.messages.last());

    // Another tower has features of its own; a trained one cannot have any.
    let overrides = [setting.as_str(), "model.freeze=patterns", "model.trainable=[\"vision_encoder\"]"];
    let error = train(
        &config(&place.path().join("trained"), &overrides),
        Resume::No,
        &AtomicBool::new(false),
        &mut Watch::default(),
    );
    assert!(error.unwrap_err().to_string().contains("train.vision_cache"));
}

/// A checkpoint of the trained part alone opens together with its base, resumes bit for bit with 8-bit moments, is itself a base,
/// and says what is missing when its base is gone.
#[test]
fn a_trained_part_opens_with_its_base() {
    let place = tempfile::tempdir().unwrap();
    let base = place.path().join("base");
    let source = golden("llama/checkpoint");
    let model = load_model(&source, Device::Cpu).unwrap();
    let options = SaveOptions { tokenizer_from: Some(&source), ..SaveOptions::default() };
    save_model(&base, &model.config, &model.parameters, &options).unwrap();
    let init = format!("model.init_from={:?}", base.to_str().unwrap());
    let run = |name: &str, more: &[&str], resume: bool| {
        let overrides = [&[init.as_str(), "train.moments=8bit"], more].concat();
        go(&config(&place.path().join(name), &overrides), resume).0
    };
    let whole = bits(&run("whole", &[], false).checkpoint.unwrap());
    for save in ["train.save=trained", "train.save=whole"] {
        let name = save.replace('.', "_");
        run(&name, &[save, "train.stop_after=3"], false);
        let resumed = run(&name, &[save, "train.threads=1"], true).checkpoint.unwrap();
        assert!(bits(&resumed) == whole, "{save}: final weights differ");
    }
    let part = place.path().join("train_save=trained/checkpoints/step-000006/model");
    assert!(!part.join("config.json").exists() && part.join("trained.safetensors").exists());

    let next = format!("model.init_from={:?}", part.to_str().unwrap());
    let over = run("over", &[&next, "train.steps=2", "train.save=trainable"], false).checkpoint.unwrap();
    assert!(bits(&over).len() == whole.len() && bits(&over) != whole);
    let copy = run("copy", &[&next, "train.steps=2"], false).checkpoint.unwrap();
    assert!(bits(&copy) == bits(&over));

    std::fs::rename(&base, place.path().join("moved")).unwrap();
    let error = load_model(&part, Device::Cpu).err().unwrap().to_string();
    assert!(error.contains("trained.json") && error.contains(base.to_str().unwrap()), "{error}");
}

/// A limit makes the run smaller with the cheapest change that fits; a resumed run keeps it; one that is too small is explained.
#[test]
fn a_memory_limit_is_kept_to() {
    let place = tempfile::tempdir().unwrap();
    let chosen = |name: &str, limit: &str, more: &[&str], resume: bool| {
        let memory = format!("train.memory={limit}");
        let overrides = [&[memory.as_str(), "train.steps=2"], more].concat();
        let config = config(&place.path().join(name), &overrides);
        let mut watch = Watch::default();
        let resume = if resume { Resume::Exactly } else { Resume::No };
        let result = train(&config, resume, &AtomicBool::new(false), &mut watch);
        let saved = std::fs::read_to_string(config.train.run_dir.join("config.toml")).unwrap();
        (result, watch, saved)
    };
    let (result, watch, saved) = chosen("enough", "8GiB", &[], false);
    result.unwrap();
    assert!(
        watch.messages.iter().any(|line| line.contains("nothing has to be made smaller")),
        "{:?}",
        watch.messages
    );
    assert!(saved.contains("moments = \"f32\"") && saved.contains("recompute = false"), "{saved}");

    let error = chosen("none", "1MiB", &[], false).0.unwrap_err().to_string();
    assert!(error.contains("train.memory") && error.contains("more than the 1.00 MiB given"), "{error}");

    let (result, watch, saved) =
        chosen("given", "8GiB", &["train.moments=8bit", "model.recompute=true"], false);
    result.unwrap();
    assert!(saved.contains("moments = \"8bit\"") && saved.contains("recompute = true"), "{saved}");
    assert!(
        watch.plan.contains("two of 1 byte") && watch.plan.contains("one layer run again"),
        "{}",
        watch.plan
    );
    // Resumed without a word about what was chosen.
    let (result, _, saved) = chosen("given", "7GiB", &["train.stop_after=2"], true);
    result.unwrap();
    assert!(saved.contains("moments = \"8bit\"") && saved.contains("recompute = true"), "{saved}");
}

/// A quantized frozen part: trained parameters stay in 32 bits, the trained part alone is saved, opens quantized as it was
/// trained, resumes bit for bit, and goes on in a run over it.
#[test]
fn a_quantized_base_is_trained() {
    let place = tempfile::tempdir().unwrap();
    let run = |name: &str, more: &[&str], resume: bool| {
        let overrides = [&["model.quantize=q8_0", "train.steps=4"], more].concat();
        go(&config(&place.path().join(name), &overrides), resume)
    };
    let (whole, seen) = run("whole", &[], false);
    assert!(seen.plan.contains("frozen weights, q8_0"), "{}", seen.plan);
    let (_, plain) = go(&config(&place.path().join("plain"), &["train.steps=4"]), false);
    for (a, b) in seen.steps.iter().zip(&plain.steps) {
        assert!((a.loss - b.loss).abs() < 1e-2 * b.loss, "{} {}", a.loss, b.loss);
    }
    let part = whole.checkpoint.unwrap().join("model");
    let loaded = load_model(&part, Device::Cpu).unwrap();
    let rule = otter_model::FreezeRule::Head;
    let is_trained = |name: &str| rule.is_trainable(&loaded.config.model, name);
    assert!(loaded.parameters.quantized_count() > 0);
    assert!(loaded.parameters.iter().all(|p| !is_trained(&p.name) || p.tensor.is_full()));

    run("parts", &["train.stop_after=2"], false);
    let resumed = run("parts", &["train.threads=1"], true).0.checkpoint.unwrap();
    assert!(bits(&resumed) == bits(part.parent().unwrap()), "final weights differ");

    // Over the part, without a word about blocks: as it was trained.
    let init = format!("model.init_from={:?}", part.to_str().unwrap());
    let over = config(&place.path().join("over"), &[&init, "train.steps=2"]);
    let (over, seen) = go(&over, false);
    assert!(seen.plan.contains("frozen weights, q8_0"), "{}", seen.plan);
    let over = load_model(&over.checkpoint.unwrap().join("model"), Device::Cpu).unwrap();
    assert_eq!(over.parameters.quantized_count(), loaded.parameters.quantized_count());

    let full = config(&place.path().join("full"), &["model.quantize=q8_0", "train.save=full"]);
    let error = train(&full, Resume::No, &AtomicBool::new(false), &mut ()).unwrap_err().to_string();
    assert!(error.contains("train.save") && error.contains("trainable"), "{error}");
}

/// Transparent images: told, counted, shown as the run began, also where it began before that could be chosen.
#[test]
fn a_run_goes_on_with_the_images_it_began_with() {
    let place = tempfile::tempdir().unwrap();
    let images = place.path().join("images");
    std::fs::create_dir(&images).unwrap();
    for number in 0..4_u8 {
        let mut image = image::RgbaImage::from_pixel(28, 28, image::Rgba([number * 60, 9, 9, 0]));
        image.put_pixel(3, 3, image::Rgba([1, 2, 3, 255]));
        image.save(images.join(format!("I{number}.png"))).unwrap();
    }
    let records: serde_json::Map<String, serde_json::Value> = (0..4)
        .map(|number| {
            let record = serde_json::json!({
                "instruction": "What is it?", "answer": format!("Number {number}."), "image_ids": [format!("I{number}")]
            });
            (format!("R{number}"), record)
        })
        .collect();
    let file = place.path().join("records.json");
    std::fs::write(&file, serde_json::json!({"data": records}).to_string()).unwrap();
    let run_dir = place.path().join("run");
    let config = |overrides: &[&str]| {
        let text = format!(
            "[model]\ninit_from = {:?}\n[train]\nsteps = 4\nbatch_size = 2\nrun_dir = {run_dir:?}\n[data]\nimage_size = 28\n\
             [[data.sets]]\ngroup = \"IMAGE_TEXT\"\ninstructions = {file:?}\nimages = {images:?}\n",
            golden("llama/checkpoint"),
        );
        let overrides: Vec<String> = overrides.iter().map(|text| (*text).to_owned()).collect();
        TrainConfig::parse(&text, "test", Path::new("/"), &overrides).unwrap()
    };
    let (first, seen) = go(&config(&["train.stop_after=2"]), false);
    assert_eq!(first.image_notes.count(otter_data::ImageNote::AlphaBlended), 4);
    let told = |seen: &Watch, part: &str| seen.messages.iter().filter(|text| text.contains(part)).count();
    assert_eq!(told(&seen, "warning: so far 2 images are transparent in part"), 1, "{:?}", seen.messages);
    assert_eq!(told(&seen, "warning: 4 images are transparent in part"), 1, "{:?}", seen.messages);
    let saved = |name: &str| std::fs::read_to_string(run_dir.join(name)).unwrap();
    assert!(
        saved("config.toml").contains("alpha = \"white\"")
            && saved("config.toml").contains("gray16 = \"scale\"")
    );

    let recorded = |summary: &TrainSummary| {
        let rules =
            otter_checkpoint::InputRules::of(&summary.checkpoint.clone().unwrap().join("model")).unwrap();
        (rules.alpha.unwrap().name(), rules.gray16.unwrap().name())
    };
    assert_eq!(recorded(&first), ("white", "scale"));
    let rules = otter_checkpoint::InputRules::of(&first.checkpoint.clone().unwrap().join("model")).unwrap();
    assert_eq!(rules.images_of_record, Some(otter_data::ImagesOfRecord::Frames));

    // Another choice is refused; without one, the run's own is kept.
    let refused =
        train(&config(&["data.alpha=drop"]), Resume::Exactly, &AtomicBool::new(false), &mut ()).unwrap_err();
    assert!(refused.to_string().contains("data.alpha: \"white\" -> \"drop\""), "{refused}");
    let state = "checkpoints/step-000002/trainer.json";
    let newer = saved(state);
    // As a version wrote it that did not know the keys.
    let older = newer.replace("alpha = \\\"white\\\"\\n", "").replace("gray16 = \\\"scale\\\"\\n", "");
    assert!(older.len() < newer.len() && !older.contains("alpha"), "{older}");
    std::fs::write(run_dir.join(state), older).unwrap();
    let refused =
        train(&config(&["data.alpha=white"]), Resume::Exactly, &AtomicBool::new(false), &mut ()).unwrap_err();
    assert!(refused.to_string().contains("data.alpha: \"drop\" -> \"white\""), "{refused}");
    let (rest, seen) = go(&config(&[]), true);
    assert_eq!(told(&seen, "it goes on as it began, with transparency dropped"), 1, "{:?}", seen.messages);
    assert_eq!(rest.image_notes.count(otter_data::ImageNote::AlphaDropped), 4);
    assert_eq!(recorded(&rest), ("drop", "clip"));
    assert!(
        saved("config.toml").contains("alpha = \"drop\"")
            && saved("config.toml").contains("gray16 = \"clip\"")
    );
}
