//! Inspecting: every golden directory and file, releases by their sizes, and what is wrong with checkpoints that are.

use crate::common::golden;
use otter_checkpoint::convert::{ConvertOptions, convert};
use otter_checkpoint::{
    Checkpoint, CheckpointConfig, DType, Inspection, Kind, Language, ModelCard, NamedTensor, Part,
    SaveOptions, TokenOrder, TrainingFacts, Weights, inspect, save_checkpoint, scan, warnings_before_chat,
};
use otter_model::Otter;
use otter_model::config::OtterConfig;
use otter_model::text::families;
use serde_json::{Map, Value, json};
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use tempfile::TempDir;

type Tensors = Vec<(String, Vec<usize>, Vec<f32>)>;

/// A copy of a golden checkpoint as one safetensors file, with changed tensors.
fn copy(case: &str, change: impl FnOnce(&mut Tensors)) -> TempDir {
    let source = golden(case);
    let place = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(&source).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if !name.contains(".bin") && !name.ends_with("safetensors") {
            fs::write(place.path().join(&name), fs::read(source.join(&name)).unwrap()).unwrap();
        }
    }
    let weights = Weights::open(&source).unwrap();
    let mut tensors: Tensors = weights
        .names()
        .map(|name| {
            let shape = weights.get(name).unwrap().shape.clone();
            (name.to_owned(), shape, weights.read_f32(name).unwrap())
        })
        .collect();
    change(&mut tensors);
    write_safetensors(&place.path().join("model.safetensors"), &tensors);
    place
}

fn write_safetensors(path: &Path, tensors: &Tensors) {
    let (mut header, mut buffer) = (Map::new(), Vec::new());
    for (name, shape, data) in tensors {
        let start = buffer.len();
        data.iter().for_each(|value| buffer.extend(value.to_le_bytes()));
        let entry = json!({ "dtype": "F32", "shape": shape, "data_offsets": [start, buffer.len()] });
        header.insert(name.clone(), entry);
    }
    fs::write(path, crate::common::safetensors_bytes(&Value::Object(header).to_string(), &buffer)).unwrap();
}

fn edit(directory: &TempDir, name: &str, change: impl FnOnce(&mut Value)) {
    let path = directory.path().join(name);
    let mut value: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut value);
    fs::write(&path, value.to_string()).unwrap();
}

/// A row of the embedding table.
fn row(tensors: &mut Tensors, id: usize) -> &mut [f32] {
    let table = tensors.iter_mut().find(|(name, ..)| name.ends_with("embed_tokens.weight")).unwrap();
    let width = table.1[1];
    &mut table.2[id * width..(id + 1) * width]
}

fn part(inspection: &Inspection, part: Part) -> usize {
    inspection.parts.iter().find(|sum| sum.part == part).map_or(0, |sum| sum.parameters)
}

#[test]
fn every_golden_directory_and_file_says_what_it_is() {
    for (path, kind, language) in [
        ("llama/checkpoint", Kind::Model, Some(Language::Known(&families::LLAMA))),
        ("video/checkpoint", Kind::Model, Some(Language::Known(&families::LLAMA))),
        ("flamingo/checkpoint", Kind::Model, Some(Language::Known(&families::LLAMA))),
        ("mpt7b-style/checkpoint", Kind::Model, Some(Language::Known(&families::MPT))),
        ("mpt1b-style/checkpoint", Kind::Model, Some(Language::Known(&families::MOSAIC_GPT))),
        (
            "openflamingo/v1-llama/final_weights.pt",
            Kind::OpenFlamingo(1),
            Some(Language::Known(&families::LLAMA)),
        ),
        ("openflamingo/v1-llama", Kind::OpenFlamingo(1), Some(Language::Known(&families::LLAMA))),
        ("openflamingo/v1-llama/base_lm", Kind::LanguageModel, Some(Language::Known(&families::LLAMA))),
        ("openflamingo/v1-llama/base_clip", Kind::VisionTower, None),
        ("openflamingo/v1-llama/converted", Kind::Model, Some(Language::Known(&families::LLAMA))),
        ("openflamingo/v2-mpt/checkpoint.pt", Kind::OpenFlamingo(2), Some(Language::Known(&families::MPT))),
        ("openflamingo/v2-mpt/checkpoint_0.pt", Kind::OpenFlamingo(2), Some(Language::Known(&families::MPT))),
        ("openflamingo/v2-mpt/base_lm", Kind::LanguageModel, Some(Language::Known(&families::MPT))),
        ("openflamingo/v2-mpt/base_clip", Kind::VisionTower, None),
        ("openflamingo/v2-mpt/converted", Kind::Model, Some(Language::Known(&families::MPT))),
    ] {
        let inspection = inspect(&golden(path)).unwrap();
        assert_eq!((inspection.kind, inspection.facts.language), (kind, language), "{path}");
        assert_eq!(part(&inspection, Part::Other), 0, "{path}");
        assert!(inspection.total_parameters > 0 && inspection.release.is_none(), "{path}");
        let named = inspection.files.iter().all(|file| file.bytes.is_some() && file.tensors > 0);
        assert!(named && !inspection.files.is_empty(), "{path}");
        let (perceiver, whole) = (part(&inspection, Part::Perceiver), inspection.completion());
        match kind {
            Kind::Model => assert!(perceiver > 0 && whole.is_none(), "{path}"),
            Kind::OpenFlamingo(_) => {
                assert!(
                    perceiver > 0 && whole.unwrap().contains("--base-lm LM_DIR --base-vision CLIP_DIR"),
                    "{path}"
                );
            }
            _ => assert!(perceiver == 0 && whole.is_none(), "{path}"),
        }
        assert_eq!(scan(&golden(path), &mut |done, total| assert!(done <= total)).unwrap(), [], "{path}");
    }
}

/// The trained parameters, as the original counted them.
#[test]
fn trainable_parameters_are_told_by_names() {
    for case in ["llama", "video", "flamingo", "mpt7b-style", "mpt1b-style"] {
        let list = fs::read_to_string(golden(&format!("{case}/trainable.txt"))).unwrap();
        let count: usize = list
            .lines()
            .map(|line| {
                let sizes = line.split_once('\t').unwrap().1.split(|c: char| !c.is_ascii_digit());
                sizes
                    .filter(|digits| !digits.is_empty())
                    .map(|digits| digits.parse::<usize>().unwrap())
                    .product::<usize>()
            })
            .sum();
        assert_eq!(
            inspect(&golden(&format!("{case}/checkpoint"))).unwrap().stored_trainable,
            count,
            "{case}"
        );
    }
}

#[test]
fn token_orders_are_compared_with_the_class() {
    for (case, order, answer, pad) in [
        ("llama/checkpoint", TokenOrder::Otter, 386, 387),
        ("flamingo/checkpoint", TokenOrder::Flamingo, 387, 386),
        ("mpt7b-style/checkpoint", TokenOrder::Otter, 365, 366),
    ] {
        let inspection = inspect(&golden(case)).unwrap();
        let check = inspection.special_tokens.as_ref().unwrap();
        assert_eq!((check.special.answer, check.special.pad), (answer, pad));
        assert_eq!((check.order, check.matches_class()), (Some(order), Some(true)), "{case}");
        assert!(
            check
                .notes
                .iter()
                .any(|note| note.contains(&format!("would use <answer> {pad} and <PAD> {answer}"))),
            "{:?}",
            check.notes
        );
        assert_eq!(inspection.warnings_before_chat(), [""; 0], "{case}");
    }
    // The table of MPT is padded to 384 rows.
    let mpt = inspect(&golden("mpt7b-style/checkpoint")).unwrap();
    assert_eq!(mpt.special_tokens.as_ref().unwrap().rows_without_token, 17);
    assert!(mpt.notes.iter().any(|note| note.contains("rows 367 to 383")), "{:?}", mpt.notes);
    // A Flamingo's tokenizer under an Otter's name.
    let swapped = copy("flamingo/checkpoint", |_| {});
    edit(&swapped, "config.json", |config| config["model_type"] = json!("otter"));
    let inspection = inspect(swapped.path()).unwrap();
    assert_eq!(inspection.special_tokens.as_ref().unwrap().matches_class(), Some(false));
    let warnings = warnings_before_chat(swapped.path());
    assert!(warnings[0].contains("<answer> is 387 and <PAD> is 386"), "{warnings:?}");
    assert!(warnings[0].contains("gives <answer> 386 and <PAD> 387"), "{warnings:?}");
    assert!(inspection.warnings.contains(&warnings[0]));
    assert!(
        inspection
            .notes
            .iter()
            .any(|note| note.contains("model_type is otter but architectures says Flamingo"))
    );
    // Releases come without a tokenizer.
    fs::remove_file(swapped.path().join("tokenizer.json")).unwrap();
    fs::remove_file(swapped.path().join("tokenizer.model")).unwrap();
    let unknown = inspect(swapped.path()).unwrap().special_tokens.unwrap_err();
    assert!(unknown.contains("luodian/llama-7b-hf") && unknown.contains("<answer> 32002"), "{unknown}");
}

#[test]
fn rows_and_tokens_must_fit() {
    let place = copy("llama/checkpoint", |tensors| {
        for (name, shape, data) in tensors.iter_mut() {
            if name.ends_with("embed_tokens.weight") || name.ends_with("lm_head.weight") {
                shape[0] = 386;
                data.truncate(386 * 64);
            }
        }
    });
    let inspection = inspect(place.path()).unwrap();
    let odd = inspection.warnings.join("\n");
    assert!(odd.contains("388 tokens, but the embedding table only 386 rows"), "{odd}");
}

#[test]
fn untrained_checkpoints_warn_before_chat() {
    let is_gate = |name: &str| name.ends_with("attn_gate") || name.ends_with("ff_gate");
    let zero = copy("llama/checkpoint", |tensors| {
        for (_, _, data) in tensors.iter_mut().filter(|(name, ..)| is_gate(name)) {
            data.fill(0.0);
        }
    });
    let inspection = inspect(zero.path()).unwrap();
    assert_eq!((inspection.signs.gates, inspection.signs.zero_gates), (4, 4));
    assert!(warnings_before_chat(zero.path())[0].contains("all 4 gates"));
    // One gate that moved is a tuned model.
    let one = copy("llama/checkpoint", |tensors| {
        for (_, _, data) in tensors.iter_mut().filter(|(name, ..)| is_gate(name)).skip(1) {
            data.fill(0.0);
        }
    });
    assert_eq!(warnings_before_chat(one.path()), [""; 0]);

    let answer = |change: &dyn Fn(&mut Tensors)| {
        let place = copy("llama/checkpoint", |tensors| change(tensors));
        let warnings = warnings_before_chat(place.path());
        assert_eq!(warnings, inspect(place.path()).unwrap().warnings_before_chat());
        warnings.first().cloned().unwrap_or_default()
    };
    assert_eq!(answer(&|_| {}), "");
    assert!(answer(&|tensors| row(tensors, 386).fill(0.0)).contains("all zero"));
    for source in [0, 2, 384, 387] {
        let copied = answer(&|tensors| {
            let other = row(tensors, source).to_vec();
            row(tensors, 386).copy_from_slice(&other);
        });
        assert!(copied.contains(&format!("equal to row {source}")), "{copied}");
    }
    let mean = answer(&|tensors| {
        let mut sum = vec![0.0; 64];
        for id in 0..384 {
            row(tensors, id).iter().zip(&mut sum).for_each(|(value, sum)| *sum += value / 384.0);
        }
        row(tensors, 386).copy_from_slice(&sum);
    });
    assert!(mean.contains("its length is"), "{mean}");
    // As a fresh row of unit normals beside a table of small ones.
    let long = answer(&|tensors| row(tensors, 386).iter_mut().for_each(|value| *value *= 50.0));
    assert!(long.contains("its length is"), "{long}");
}

#[test]
fn the_tie_trap_is_told_with_any_language_model() {
    let tables = |place: &TempDir| inspect(place.path()).unwrap().tables;
    let apart = copy("llama/checkpoint", |_| {});
    assert!(!tables(&apart).trap);
    edit(&apart, "config.json", |config| {
        config.as_object_mut().unwrap().shift_remove("tie_word_embeddings");
    });
    let found = tables(&apart);
    assert_eq!((found.declared, found.identical, found.trap), (None, Some(false), true));
    assert!(
        inspect(apart.path())
            .unwrap()
            .warnings
            .iter()
            .any(|text| text.contains("tie_word_embeddings is absent"))
    );
    // The same for a language model that cannot be loaded.
    edit(&apart, "config.json", |config| config["text_config"]["model_type"] = json!("bloom"));
    edit(&apart, "config.json", |config| {
        config["text_config"]["architectures"] = json!(["BloomForCausalLM"])
    });
    let inspection = inspect(apart.path()).unwrap();
    assert!(inspection.tables.trap && inspection.config.is_none());
    assert!(inspection.config_problem.as_ref().unwrap().contains("BloomForCausalLM"));
    assert!(inspection.warnings.iter().any(|text| text.contains("would overwrite the input table")));
    assert_eq!(inspection.facts.model_type.as_deref(), Some("bloom"));
    let same = copy("llama/checkpoint", |tensors| {
        let table =
            tensors.iter().find(|(name, ..)| name.ends_with("embed_tokens.weight")).unwrap().2.clone();
        tensors.iter_mut().find(|(name, ..)| name.ends_with("lm_head.weight")).unwrap().2 = table;
    });
    edit(&same, "config.json", |config| config["tie_word_embeddings"] = json!(true));
    assert_eq!((tables(&same).identical, tables(&same).trap), (Some(true), false));
}

#[test]
fn missing_shards_and_lone_files_are_told() {
    let place = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(golden("video/checkpoint")).unwrap() {
        let entry = entry.unwrap();
        fs::write(place.path().join(entry.file_name()), fs::read(entry.path()).unwrap()).unwrap();
    }
    let whole = inspect(place.path()).unwrap();
    let shard = place.path().join("pytorch_model-00002-of-00003.bin");
    fs::remove_file(&shard).unwrap();
    let inspection = inspect(place.path()).unwrap();
    let [missing] = &inspection.missing_files()[..] else { panic!("{:?}", inspection.files) };
    assert_eq!((missing.path.as_path(), missing.tensors > 0), (shard.as_path(), true));
    assert!(inspection.total_parameters < whole.total_parameters);
    let told = format!("{} tensors", missing.tensors);
    assert!(
        inspection
            .warnings
            .iter()
            .any(|text| text.contains("00002-of-00003.bin is missing") && text.contains(&told))
    );
    // An index may not lead out of the folder here either.
    edit(&place, "pytorch_model.bin.index.json", |index| {
        index["weight_map"]["perceiver.latents"] = json!("../secret.bin");
    });
    assert!(inspect(place.path()).unwrap_err().to_string().contains("same folder"));

    // A trainer's directory: the configuration, and of several files the newest.
    let run = copy("llama/checkpoint", |_| {});
    let kept = |name: &str| {
        name.starts_with("perceiver.")
            || name.contains("gated_cross_attn_layer")
            || name.ends_with("embed_tokens.weight")
    };
    let trained: Tensors = Weights::open(&golden("llama/checkpoint"))
        .map(|weights| {
            let names = weights.names().filter(|name| kept(name));
            names
                .map(|name| {
                    (
                        name.to_owned(),
                        weights.get(name).unwrap().shape.clone(),
                        weights.read_f32(name).unwrap(),
                    )
                })
                .collect()
        })
        .unwrap();
    fs::remove_file(run.path().join("model.safetensors")).unwrap();
    assert_eq!(inspect(run.path()).unwrap().kind, Kind::Configuration);
    for name in ["checkpoint_steps_900.pt", "checkpoint_steps_1000.pt"] {
        write_safetensors(&run.path().join(name), &trained);
    }
    let inspection = inspect(run.path()).unwrap();
    assert_eq!(inspection.kind, Kind::TrainedPart);
    assert!(inspection.files[0].path.ends_with("checkpoint_steps_1000.pt"));
    assert!(inspection.notes.iter().any(|note| note.contains("also holds checkpoint_steps_900.pt")));
    let completion = inspection.completion().unwrap();
    assert!(
        completion.starts_with("733 k of 990 k parameters") && completion.contains("--overlay"),
        "{completion}"
    );

    // The directory of a run names the checkpoint inside it.
    let outer = tempfile::tempdir().unwrap();
    let inner = outer.path().join("checkpoints/step-000003/model");
    fs::create_dir_all(&inner).unwrap();
    fs::write(inner.join("config.json"), "{}").unwrap();
    let error = inspect(outer.path()).unwrap_err().to_string();
    assert!(error.contains(inner.to_str().unwrap()), "{error}");
    let empty = tempfile::tempdir().unwrap();
    assert!(inspect(empty.path()).unwrap_err().to_string().contains("no weights"));
}

#[test]
fn a_scan_finds_what_is_not_finite() {
    let place = copy("llama/checkpoint", |tensors| {
        let latents = tensors.iter_mut().find(|(name, ..)| name == "perceiver.latents").unwrap();
        latents.2[5] = f32::NAN;
        latents.2[7] = f32::NEG_INFINITY;
        latents.2[8] = f32::INFINITY;
    });
    let mut calls = 0;
    let found = scan(place.path(), &mut |_, _| calls += 1).unwrap();
    let [tensor] = &found[..] else { panic!("{found:?}") };
    assert_eq!(
        (tensor.name.as_str(), tensor.nan, tensor.infinite, tensor.first),
        ("perceiver.latents", 1, 2, 5)
    );
    assert!(calls >= 185);
}

/// A release at its full size: the header of a real file, with a body of zeros that takes no space on the disk.
fn sparse_release(directory: &Path, config: &CheckpointConfig, dtype: &str) {
    fs::create_dir_all(directory).unwrap();
    fs::write(directory.join("config.json"), config.to_json().to_string()).unwrap();
    let (_, specs) = Otter::new(&config.model).unwrap();
    let (mut header, mut end) = (Map::new(), 0);
    for spec in specs.iter() {
        let start = end;
        end += 2 * spec.shape.iter().product::<usize>();
        let entry = json!({ "dtype": dtype, "shape": spec.shape, "data_offsets": [start, end] });
        header.insert(spec.name.clone(), entry);
    }
    let header = Value::Object(header).to_string();
    let mut file = File::create(directory.join("model.safetensors")).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    file.set_len((8 + header.len() + end) as u64).unwrap();
}

#[test]
fn releases_are_told_by_their_sizes() {
    let place = tempfile::tempdir().unwrap();
    let mut config = CheckpointConfig::new(OtterConfig::otter_9b());
    let nine = place.path().join("some-model");
    sparse_release(&nine, &config, "F16");
    let inspection = inspect(&nine).unwrap();
    let counts = inspection.counts.unwrap();
    assert_eq!((counts.total, counts.head, counts.v01), (8_220_463_120, 1_441_011_728, 1_309_923_344));
    let found = inspection.release.as_ref().unwrap();
    // All gates are zero in such a file, as in the Init release.
    assert_eq!(found.release.name, "OTTER-9B-INIT");
    assert_eq!(found.others, ["otter-9b-hf"]);
    let sentence = found.sentence();
    for part in ["8220463120 parameters", "32004 rows", "model_type otter", "all gates are zero"] {
        assert!(sentence.contains(part), "{sentence}");
    }
    assert!(inspection.warnings_before_chat()[0].contains("gates"));
    // A name decides, also that of the hub's cache.
    let cached = place.path().join("models--luodian--otter-9b-hf/snapshots");
    fs::create_dir_all(cached.parent().unwrap()).unwrap();
    fs::rename(&nine, &cached).unwrap();
    assert_eq!(inspect(&cached).unwrap().release.unwrap().release.name, "otter-9b-hf");

    config.model.perceiver.max_num_frames = Some(128);
    let video = place.path().join("video");
    sparse_release(&video, &config, "BF16");
    let inspection = inspect(&video).unwrap();
    let found = inspection.release.as_ref().unwrap();
    assert_eq!((found.release.name, found.others.len()), ("OTTER-Video-LLaMA7B-DenseCaption", 0));
    assert_eq!(inspection.parts[0].dtypes[0].0.name(), "BF16");

    for (config, name, others, total, head) in [
        (OtterConfig::otter_mpt7b(), "OTTER-Image-MPT7B", 2, 8_131_301_392, 1_385_404_432),
        (OtterConfig::otter_mpt1b(), "OTTER-MPT1B-RPJama-Init", 1, 2_558_642_224, 1_047_304_240),
    ] {
        let directory = place.path().join(name);
        sparse_release(&directory, &CheckpointConfig::new(config), "F16");
        let inspection = inspect(&directory).unwrap();
        let counts = inspection.counts.unwrap();
        assert_eq!((counts.total, counts.head), (total, head));
        assert_eq!((inspection.total_parameters as u64, inspection.stored_trainable as u64), (total, head));
        let found = inspection.release.unwrap();
        assert_eq!((found.release.name, found.others.len()), (name, others), "{:?}", found.evidence);
    }

    // The trained weights alone: "1.4 B of 8.2 B".
    let (_, specs) = Otter::new(&config.model).unwrap();
    let rule = otter_model::FreezeRule::Head;
    let (mut header, mut end) = (Map::new(), 0usize);
    for spec in specs.iter().filter(|spec| rule.is_trainable(&config.model, &spec.name)) {
        let start = end;
        end += 4 * spec.shape.iter().product::<usize>();
        header.insert(
            spec.name.clone(),
            json!({ "dtype": "F32", "shape": spec.shape, "data_offsets": [start, end] }),
        );
    }
    let header = Value::Object(header).to_string();
    let path = place.path().join("final_weights.pt");
    let mut file = File::create(&path).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    file.set_len((8 + header.len() + end) as u64).unwrap();
    let inspection = inspect(&path).unwrap();
    // 5.76 GB, as published.
    assert_eq!(inspection.total_bytes, 4 * (1_441_011_728 + 131_072));
    let completion = inspection.completion().unwrap();
    assert!(
        completion.starts_with("1.4 B of 8.2 B parameters; the rest from luodian/OTTER-9B-INIT"),
        "{completion}"
    );
    assert!(completion.contains(&format!("--overlay {}", path.display())), "{completion}");
}

fn card() -> ModelCard {
    ModelCard {
        license: Some("mit".to_owned()),
        base_model: Some("luodian/OTTER-9B-INIT".to_owned()),
        training: Some(TrainingFacts {
            steps: 120,
            total_steps: 200,
            samples: 480,
            batch_size: 4,
            learning_rate: 1e-5,
            trained: 757_956,
            loss: Some(0.123_456),
            data: vec!["train|1.yaml".to_owned()],
            date: "2026-03-01".to_owned(),
            command: "otter train recipe.toml".to_owned(),
            ..TrainingFacts::default()
        }),
    }
}

#[test]
fn saved_checkpoints_carry_a_card_and_a_preprocessor() {
    let source = golden("llama/checkpoint");
    let config = CheckpointConfig::read(&source.join("config.json")).unwrap();
    let weights = Weights::open(&source).unwrap();
    let values: Tensors = weights
        .names()
        .map(|name| {
            (name.to_owned(), weights.get(name).unwrap().shape.clone(), weights.read_f32(name).unwrap())
        })
        .collect();
    let place = tempfile::tempdir().unwrap();
    let target = place.path().join("my-otter");
    let save = |options: &SaveOptions<'_>| {
        let tensors = values.iter().map(|(name, shape, data)| NamedTensor {
            name: name.clone(),
            shape: shape.clone(),
            data: otter_nn::WeightView::Full(data),
        });
        save_checkpoint(&target, &config, tensors, options).unwrap();
    };
    let without = SaveOptions { tokenizer_from: Some(&source), dtype: DType::Bf16, ..SaveOptions::default() };
    save(&without);
    assert!(!target.join("README.md").exists());
    let read =
        |name: &str| -> Value { serde_json::from_slice(&fs::read(target.join(name)).unwrap()).unwrap() };
    let processor = read("preprocessor_config.json");
    assert_eq!(processor["size"], json!({ "shortest_edge": 28 }));
    assert_eq!(processor["crop_size"], json!({ "height": 28, "width": 28 }));
    assert_eq!(processor["image_processor_type"], "CLIPImageProcessor");
    assert_eq!(read("generation_config.json")["pad_token_id"], 0);

    save(&SaveOptions { card: Some(card()), ..without.clone() });
    let text = fs::read_to_string(target.join("README.md")).unwrap();
    for part in [
        "---\nlicense: \"mit\"\npipeline_tag: image-text-to-text\nbase_model: \"luodian/OTTER-9B-INIT\"\n",
        "# my-otter\n",
        "990,276 parameters, stored as bfloat16",
        "| Perceiver resampler | 445,632 |",
        "image side 28 px",
        "<image>User:What is in the image? GPT:<answer>",
        "| `<answer>` | 386 |",
        "| steps | 120 of 200 |",
        "| peak learning rate | 1e-5 |",
        "| loss of the last step | 0.1235 |",
        "| data | train\\|1.yaml |",
        "otter train recipe.toml",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    // Somebody's own text stays.
    fs::write(target.join("README.md"), "mine").unwrap();
    save(&SaveOptions { card: Some(card()), ..without.clone() });
    assert_eq!(fs::read_to_string(target.join("README.md")).unwrap(), "mine");
    save(&without);
    assert_eq!(fs::read_to_string(target.join("README.md")).unwrap(), "mine");
}

/// Towers that no Otter has are called by their name, never a language model, and nothing pretends that they can be used.
#[test]
fn other_towers_are_no_language_models() {
    let place = tempfile::tempdir().unwrap();
    let tensor = |name: &str| (name.to_owned(), vec![2], vec![1.0, 2.0]);
    for (name, config, tensors) in [
        (
            "SigLIP",
            json!({ "model_type": "siglip_vision_model", "hidden_size": 2 }),
            vec!["vision_model.embeddings.patch_embedding.bias", "vision_model.head.probe"],
        ),
        (
            "SigLIP",
            json!({ "model_type": "siglip", "text_config": { "model_type": "siglip_text_model" }, "vision_config": {} }),
            vec![
                "vision_model.embeddings.patch_embedding.bias",
                "text_model.embeddings.token_embedding.weight",
            ],
        ),
        ("SigLIP", json!({}), vec!["embeddings.patch_embedding.bias", "encoder.layers.0.mlp.fc1.bias"]),
        (
            "ViT",
            json!({ "model_type": "vit" }),
            vec!["vit.embeddings.cls_token", "vit.encoder.layer.0.output.dense.bias"],
        ),
        ("ViT", json!({}), vec!["embeddings.cls_token", "encoder.layer.0.output.dense.bias"]),
        (
            "DINOv2",
            json!({ "model_type": "dinov2" }),
            vec!["embeddings.cls_token", "encoder.layer.0.layer_scale1.lambda1"],
        ),
        ("DINOv2", json!({}), vec!["embeddings.cls_token", "embeddings.mask_token"]),
    ] {
        write_safetensors(
            &place.path().join("model.safetensors"),
            &tensors.iter().map(|n| tensor(n)).collect(),
        );
        fs::write(place.path().join("config.json"), config.to_string()).unwrap();
        let found = inspect(place.path()).unwrap();
        assert!(matches!(found.kind, Kind::OtherTower(_)), "{name} {config}: {:?}", found.kind);
        assert!(found.kind.to_string().starts_with(name), "{}", found.kind);
        assert_eq!(found.facts.language, None, "{name} {config}");
        let step = found.next_step().unwrap();
        assert!(step.contains("no command") && step.contains(name) && step.contains("CLIP"), "{step}");
        let options = ConvertOptions {
            inject: true,
            base_vision: Some(place.path().to_owned()),
            ..ConvertOptions::new(golden("openflamingo/v1-llama/base_lm"), place.path().join("out"))
        };
        let refused = convert(&options, &mut |_| {}).unwrap_err().to_string();
        assert!(refused.contains(name), "{refused}");
    }
}

/// What is no whole model names the command that makes one of it, or says that none does.
#[test]
fn every_kind_has_a_next_step() {
    for (path, part) in [
        ("openflamingo/v1-llama/final_weights.pt", "--base-lm LM_DIR"),
        ("openflamingo/v1-llama/base_lm", "otter convert --inject"),
        ("openflamingo/v1-llama/base_clip", "--base-vision"),
    ] {
        let step = inspect(&golden(path)).unwrap().next_step().unwrap();
        assert!(step.contains(part), "{step}");
    }
    assert_eq!(inspect(&golden("llama/checkpoint")).unwrap().next_step(), None);
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("model.safetensors");
    for (config, names, part) in [
        (
            json!({ "model_type": "mistral" }),
            vec!["model.layers.0.mlp.up_proj.weight"],
            "supported language models are LLaMA",
        ),
        (
            json!({ "model_type": "bert" }),
            vec!["encoder.layer.0.output.dense.bias", "embeddings.word_embeddings.weight"],
            "no command",
        ),
        (json!({}), vec!["base_model.model.model.layers.0.q_proj.lora_A.weight"], "merge_and_unload"),
    ] {
        write_safetensors(
            &file,
            &names.iter().map(|name| ((*name).to_owned(), vec![1], vec![1.0])).collect(),
        );
        fs::write(place.path().join("config.json"), config.to_string()).unwrap();
        let step = inspect(place.path()).unwrap().next_step().unwrap();
        assert!(step.contains(part) && step.contains("no command"), "{config}: {step}");
    }
    fs::remove_file(file).unwrap();
    // A configuration alone: only an Otter's can be begun from.
    for (config, part) in [
        (json!({ "model_type": "otter" }), "otter init --like"),
        (json!({ "model_type": "llama" }), "fetch its weights, then otter convert --inject"),
        (json!({ "model_type": "mistral" }), "supported language models are LLaMA"),
        (json!({}), "fetch its weights, then ask again: otter inspect"),
        (
            json!({
                "model_type": "llava", "text_config": { "model_type": "llama" }, "vision_config": { "hidden_size": 8 },
            }),
            "fetch its weights, then ask again",
        ),
    ] {
        fs::write(place.path().join("config.json"), config.to_string()).unwrap();
        let step = inspect(place.path()).unwrap().next_step().unwrap();
        assert!(step.contains(part), "{config}: {step}");
    }
}

/// A model that sees and writes is no tower, and a type that begins as another's is another.
#[test]
fn whole_models_of_others_are_no_towers() {
    let place = tempfile::tempdir().unwrap();
    let patches = "embeddings.patch_embedding.bias";
    for (config, names) in [
        (
            json!({ "model_type": "paligemma", "text_config": { "model_type": "gemma" } }),
            vec![
                format!("vision_tower.vision_model.{patches}"),
                "language_model.model.norm.weight".to_owned(),
            ],
        ),
        (json!({}), vec![format!("vision_model.{patches}"), "language_model.model.norm.weight".to_owned()]),
        (
            json!({ "model_type": "smolvlm", "text_config": { "model_type": "llama" } }),
            vec![
                format!("model.vision_model.{patches}"),
                "model.text_model.layers.0.mlp.up_proj.weight".to_owned(),
            ],
        ),
        (
            json!({ "model_type": "llava", "text_config": { "model_type": "llama" } }),
            vec![
                "vision_tower.vision_model.embeddings.class_embedding".to_owned(),
                "language_model.model.norm.weight".to_owned(),
            ],
        ),
        (json!({ "model_type": "vits" }), vec!["text_encoder.embed_tokens.weight".to_owned()]),
    ] {
        let tensors = names.into_iter().map(|name| (name, vec![1], vec![1.0])).collect();
        write_safetensors(&place.path().join("model.safetensors"), &tensors);
        fs::write(place.path().join("config.json"), config.to_string()).unwrap();
        let found = inspect(place.path()).unwrap();
        assert_eq!(found.kind, Kind::Unknown, "{config}");
        assert!(found.next_step().unwrap().contains("no command"), "{config}");
    }
}

/// Layers of an encoder are those of an image tower only in one.
#[test]
fn encoders_of_other_models_are_no_vision() {
    let place = tempfile::tempdir().unwrap();
    let layer = "encoder.layers.0.fc1.weight";
    for (first, expected) in
        [("embeddings.class_embedding", Part::Vision), ("encoder.norm.weight", Part::Other)]
    {
        let tensors = [first, layer].map(|name| (name.to_owned(), vec![1], vec![1.0])).to_vec();
        write_safetensors(&place.path().join("model.safetensors"), &tensors);
        let found = inspect(place.path()).unwrap();
        let tensor = found.tensors.iter().find(|tensor| tensor.name == layer).unwrap();
        assert_eq!(tensor.part, expected, "{first}");
    }
}

/// After tuning with this program the hint about the row of `<answer>` is silent; a row that cannot have been touched is not.
#[test]
fn a_tuned_model_is_not_called_untouched() {
    let tuned = |change: fn(&mut Tensors)| {
        let place = copy("llama/checkpoint", change);
        edit(&place, "config.json", |config| config["training"] = json!({ "steps": 20, "samples": 80 }));
        let checkpoint = Checkpoint::open(place.path()).unwrap();
        assert!(checkpoint.config.warnings.is_empty(), "{:?}", checkpoint.config.warnings);
        inspect(place.path()).unwrap().signs.answer_row
    };
    let short = |tensors: &mut Tensors| row(tensors, 386).iter_mut().for_each(|value| *value *= 1e-3);
    let untouched = copy("llama/checkpoint", short);
    assert!(inspect(untouched.path()).unwrap().signs.answer_row.is_some());
    assert_eq!(tuned(short), None);
    assert_eq!(tuned(|tensors| row(tensors, 386).fill(0.0)).as_deref(), Some("all zero"));
}
