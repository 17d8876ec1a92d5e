//! Conversions of small checkpoints: OpenFlamingo's recorded ones against what the original made of them, and round trips
//! that must not change a bit.

use crate::common::convert::{
    Tensors, V1, V2, content, error, floats, json, open_flamingo, run, save, write,
};
use crate::common::golden;
use otter_checkpoint::convert::{
    ConvertOptions, ConvertReport, ConvertTarget, KeepF32, OutputFormat, convert,
};
use otter_checkpoint::{
    DType, Kind, NewTensor, StoredDType, TokenOrder, Weights, inspect, load_model, load_tokenizer,
    write_torch,
};
use otter_nn::Device;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Rows of a 32-bit table.
fn table(path: &Path, name: &str) -> Vec<Vec<f32>> {
    let weights = Weights::open(path).unwrap();
    let width = weights.get(name).unwrap().shape[1];
    weights.read_f32(name).unwrap().chunks(width).map(<[f32]>::to_vec).collect()
}

const LLAMA_TABLES: [&str; 2] = ["lang_encoder.model.embed_tokens.weight", "lang_encoder.lm_head.weight"];

#[test]
fn open_flamingo_v1_becomes_what_the_original_made() {
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("otter");
    let report = run(&open_flamingo(V1, "final_weights.pt", &out));
    let (ours, theirs) = (content(&out), content(&golden(&format!("{V1}/converted"))));
    assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>());
    for (name, tensor) in &theirs {
        if !LLAMA_TABLES.contains(&name.as_str()) {
            assert_eq!(&ours[name], tensor, "{name}");
        }
    }
    // Row 387 of both tables is new, and so are rows 384 to 386 of the output table, which v1 does not store.
    for (name, known) in LLAMA_TABLES.into_iter().zip([387, 384]) {
        let (ours, theirs) = (table(&out, name), table(&golden(&format!("{V1}/converted")), name));
        assert_eq!((ours.len(), theirs.len()), (388, 388));
        assert_eq!(ours[..known], theirs[..known], "{name}");
        assert!(ours[known..].iter().flatten().all(|value| value.abs() < 0.2));
        assert!(ours[known..].iter().flatten().any(|value| *value != 0.0));
    }
    assert_eq!(report.token_order.as_deref(), Some("flamingo"));
    let created: Vec<&str> = report.created.iter().map(|created| created.how.as_str()).collect();
    assert_eq!(created.len(), 2);
    assert!(
        created[0].contains(
            "row 387 (<answer>): the mean of 384 rows of the base, and 1e-9 of their covariance, seed 0"
        ),
        "{created:?}"
    );
    assert!(created[1].contains("rows 384 to 387"), "{created:?}");
    let tokenizer = load_tokenizer(&out).unwrap();
    let special = tokenizer.special();
    assert_eq!((special.endofchunk, special.image, special.pad, special.answer), (384, 385, 386, 387));
    // Every tensor of every source is accounted for: 11 aliases, and nothing else is left out.
    assert_eq!(report.dropped.len(), 11);
    assert!(
        report.dropped.iter().all(|dropped| dropped.reason.contains("alias of lang_encoder.model.layers.1."))
    );

    let config = json(&out.join("config.json"));
    assert_eq!(config["model_type"], "otter");
    assert_eq!(config["cross_attn_every_n_layers"], 2);
    assert_eq!(config["tie_word_embeddings"], false);
    assert_eq!(config["torch_dtype"], "float32");
    assert_eq!(config["text_config"]["vocab_size"], 388);
    assert_eq!(config["text_config"]["architectures"], json!(["LlamaForCausalLM"]));
    assert_eq!(config["text_config"]["_name_or_path"], "base_lm");
    assert_eq!(config["vision_config"]["model_type"], "clip_vision_model");
    assert!(config.get("perceiver_config").is_none() && config.get("cross_attention_config").is_none());
    assert_eq!(
        json(&out.join("generation_config.json")),
        json(&golden(&format!("{V1}/base_lm/generation_config.json")))
    );
    assert_eq!(json(&out.join("conversion.json"))["special_tokens"]["<answer>"], 387);
    assert_eq!(json(&out.join("preprocessor_config.json"))["crop_size"]["height"], 28);
    assert!(fs::read_to_string(out.join("README.md")).unwrap().contains("base_lm"));
}

#[test]
fn open_flamingo_names_are_renamed_as_the_original_does() {
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("otter");
    run(&open_flamingo(V1, "final_weights.pt", &out));
    let ours = content(&out);
    for (name, shape) in json(&golden(&format!("{V1}/renamed_keys.json"))).as_object().unwrap() {
        let expected: Vec<usize> = serde_json::from_value(shape.clone()).unwrap();
        let found = &ours[name].1;
        if name == LLAMA_TABLES[0] {
            assert_eq!((expected, found), (vec![387, 16], &vec![388, 16]));
        } else {
            assert_eq!(found, &expected, "{name}");
        }
    }
}

#[test]
fn open_flamingo_v2_becomes_what_the_original_made() {
    let place = tempfile::tempdir().unwrap();
    let theirs = content(&golden(&format!("{V2}/converted")));
    let table_name = "lang_encoder.transformer.wte.weight";
    for file in ["checkpoint.pt", "checkpoint_0.pt"] {
        let out = place.path().join(file).with_extension("");
        let report = run(&open_flamingo(V2, file, &out));
        let ours = content(&out);
        assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>());
        for (name, tensor) in &theirs {
            if name != table_name {
                assert_eq!(&ours[name], tensor, "{name}");
            }
        }
        // The original draws the padding rows anew; here they are the base's.
        let rows = table(&out, table_name);
        assert_eq!(rows.len(), 384);
        assert_eq!(rows[..366], table(&golden(&format!("{V2}/converted")), table_name)[..366]);
        let base = table(&golden(&format!("{V2}/base_lm")), "transformer.wte.weight");
        assert_eq!(rows[366..], base[366..]);
        assert!(report.created[0].how.contains("row 366 (<answer>): padding rows of the base"), "{report:?}");
        let special = *load_tokenizer(&out).unwrap().special();
        assert_eq!((special.endofchunk, special.image, special.pad, special.answer), (363, 364, 365, 366));
        let config = json(&out.join("config.json"));
        assert_eq!(config["tie_word_embeddings"], true);
        assert_eq!(config["text_config"]["vocab_size"], 384);
        let optimizer = report.dropped.iter().any(|dropped| dropped.reason.contains("optimizer_state_dict"));
        assert_eq!(optimizer, file == "checkpoint_0.pt");
        assert_eq!(report.warnings, [""; 0]);
    }
}

#[test]
fn rows_move_with_their_tokens() {
    let place = tempfile::tempdir().unwrap();
    let (flamingo, otter) = (place.path().join("flamingo"), place.path().join("otter"));
    run(&open_flamingo(V1, "final_weights.pt", &flamingo));
    let options = open_flamingo(V1, "final_weights.pt", &otter);
    let report = run(&ConvertOptions { token_order: Some(TokenOrder::Otter), ..options });
    assert_eq!(report.token_order.as_deref(), Some("otter"));
    let (before, after) = (table(&flamingo, LLAMA_TABLES[0]), table(&otter, LLAMA_TABLES[0]));
    assert_eq!(before[..386], after[..386]);
    assert_eq!(before[386], after[387], "<PAD>");
    let special = *load_tokenizer(&otter).unwrap().special();
    assert_eq!((special.answer, special.pad), (386, 387));
}

/// Otter → OpenFlamingo → Otter, with the original bases and with the Otter itself as base.
#[test]
fn open_flamingo_and_back_changes_no_bit() {
    let place = tempfile::tempdir().unwrap();
    for (case, file) in [(V1, "final_weights.pt"), (V2, "checkpoint.pt")] {
        for order in [None, Some(TokenOrder::Otter)] {
            let first = place.path().join("first");
            let options = open_flamingo(case, file, &first);
            run(&ConvertOptions { token_order: order, seed: 5, ..options });
            for module_prefix in [false, true] {
                let trained = place.path().join("trained.pt");
                let target = ConvertTarget::OpenFlamingo;
                run(&ConvertOptions { target, module_prefix, ..ConvertOptions::new(&first, &trained) });
                let names: BTreeSet<String> = content(&trained).into_keys().collect();
                assert_eq!(Weights::open(&trained).unwrap().unwrapped().is_some(), module_prefix);
                assert!(
                    !names
                        .iter()
                        .any(|name| name.contains("feed_forward") || name.contains("vision_encoder"))
                );

                let second = place.path().join("second");
                let options =
                    ConvertOptions { base: Some(first.clone()), ..ConvertOptions::new(&trained, &second) };
                run(&options);
                assert_eq!(content(&first), content(&second));
                assert_eq!(
                    load_tokenizer(&first).unwrap().special(),
                    load_tokenizer(&second).unwrap().special()
                );
                let bases = open_flamingo(case, file, &second);
                run(&ConvertOptions { source: trained, token_order: order, seed: 9, ..bases });
                assert_eq!(content(&first), content(&second));
            }
        }
    }
}

/// What is written is what OpenFlamingo itself wrote, down to the last bit, when its number of rows is asked for.
#[test]
fn the_trained_part_is_open_flamingos_own() {
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("checkpoint.pt");
    let converted = golden(&format!("{V2}/converted"));
    let options = ConvertOptions::new(&converted, &out);
    run(&ConvertOptions { target: ConvertTarget::OpenFlamingo, embedding_rows: Some(366), ..options });
    assert_eq!(content(&out), content(&golden(&format!("{V2}/checkpoint.pt"))));
}

fn llama(edit: impl FnOnce(&mut ConvertOptions), out: &Path) -> ConvertReport {
    let mut options = ConvertOptions::new(golden("llama/checkpoint"), out);
    edit(&mut options);
    run(&options)
}

#[test]
fn forms_and_shards_change_no_bit() {
    let place = tempfile::tempdir().unwrap();
    let path = |name: &str| place.path().join(name);
    for case in ["llama", "video", "flamingo", "mpt7b-style", "mpt1b-style"] {
        let source = golden(&format!("{case}/checkpoint"));
        let original = content(&source);
        let step = |from: &Path, to: &str, format, max_shard_bytes| {
            let options = ConvertOptions { format, max_shard_bytes, ..ConvertOptions::new(from, path(to)) };
            let report = run(&options);
            assert_eq!(content(&path(to)), original, "{case}: {to}");
            assert_eq!(report.renamed, 0);
            report
        };
        let (safetensors, torch) = (OutputFormat::Safetensors, OutputFormat::Torch);
        step(&source, "whole", safetensors, u64::MAX);
        step(&path("whole"), "bin", torch, u64::MAX);
        step(&path("bin"), "again", safetensors, u64::MAX);
        let (first, again) =
            (fs::read(path("whole/model.safetensors")), fs::read(path("again/model.safetensors")));
        assert_eq!(first.unwrap(), again.unwrap(), "even the files are equal");
        let sharded = step(&path("whole"), "shards", safetensors, 200_000);
        assert!(sharded.weight_files.len() > 3 && path("shards/model.safetensors.index.json").is_file());
        step(&path("shards"), "merged", safetensors, u64::MAX);
        step(&path("merged"), "bin-shards", torch, 300_000);
        assert!(path("bin-shards/pytorch_model.bin.index.json").is_file());
        step(&path("bin-shards"), "shards-again", safetensors, 200_000);
        for name in sharded.weight_files {
            let (one, two) =
                (fs::read(path("shards").join(&name)), fs::read(path("shards-again").join(&name)));
            assert_eq!(one.unwrap(), two.unwrap(), "{name}");
        }
        for name in ["tokenizer.json", "special_tokens_map.json"] {
            assert_eq!(
                fs::read(source.join(name)).unwrap(),
                fs::read(path("shards-again").join(name)).unwrap()
            );
        }
        assert_eq!(json(&source.join("config.json")), json(&path("shards-again/config.json")), "{case}");
    }
}

#[test]
fn types_change_as_asked() {
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("half");
    let keep_f32 = vec![KeepF32::Norms, KeepF32::Gates];
    llama(|options| (options.dtype, options.keep_f32) = (Some(DType::Bf16), keep_f32), &out);
    assert_eq!(json(&out.join("config.json"))["torch_dtype"], "bfloat16");
    let original = content(&golden("llama/checkpoint"));
    let halves = Weights::open(&out).unwrap();
    for (name, (_, shape, bytes)) in &original {
        let entry = halves.get(name).unwrap();
        assert_eq!(&entry.shape, shape);
        let kept = ["norm", "_gate", "feed_forward.0."].iter().any(|part| name.contains(part))
            && !name.contains("gate_proj");
        assert_eq!(entry.dtype, if kept { StoredDType::F32 } else { StoredDType::Bf16 }, "{name}");
        let floats: Vec<f32> =
            bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        let expected: Vec<f32> = match kept {
            true => floats,
            false => floats.iter().map(|&value| half::bf16::from_f32(value).to_f32()).collect(),
        };
        assert_eq!(halves.read_f32(name).unwrap(), expected, "{name}");
        // Aligned, so that it can be used in the mapped file.
        assert!(entry.dtype != StoredDType::F32 || entry.mapped_f32().is_some(), "{name}");
    }
    // Widening back gives the rounded values exactly; integers would stay.
    let wide = place.path().join("wide");
    run(&ConvertOptions { dtype: Some(DType::F32), ..ConvertOptions::new(&out, &wide) });
    let wide = Weights::open(&wide).unwrap();
    for name in original.keys() {
        assert_eq!(wide.read_f32(name).unwrap(), halves.read_f32(name).unwrap());
    }
}

#[test]
fn a_value_too_large_for_f16_is_named() {
    let place = tempfile::tempdir().unwrap();
    let (source, out) = (place.path().join("large.safetensors"), place.path().join("half.safetensors"));
    let tensors = [("perceiver.norm.weight", vec![2], vec![1.0, 7e4])];
    write(&source, &tensors);
    let options = ConvertOptions::new(&source, &out);
    error(
        &ConvertOptions { dtype: Some(DType::F16), ..options.clone() },
        &["half.safetensors", "`perceiver.norm.weight`", "70000", "bf16"],
    );
    run(&ConvertOptions { dtype: Some(DType::Bf16), ..options.clone() });
    // What stands there stays until there is something better, and nothing stands beside it.
    let before = fs::read(&out).unwrap();
    let half = ConvertOptions { dtype: Some(DType::F16), ..options.clone() };
    convert(&half, &mut |_| {}).unwrap_err();
    assert_eq!(fs::read(&out).unwrap(), before);
    run(&options);
    assert_ne!(fs::read(&out).unwrap(), before);
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 2);
}

/// A file of 32-bit tensors.
/// Adapters under the names of both ages of PEFT give `W + alpha / r * B A`.
#[test]
fn lora_is_merged_under_old_and_new_names() {
    let place = tempfile::tempdir().unwrap();
    let original = floats(&golden("llama/checkpoint"));
    let (rank, alpha) = (3, 6.0);
    let target = "lang_encoder.model.layers.1.decoder_layer.self_attn.v_proj";
    let a: Vec<f32> = (0..rank * 64).map(|i| (i % 7) as f32 * 0.01 - 0.02).collect();
    let b: Vec<f32> = (0..64 * rank).map(|i| (i % 5) as f32 * 0.1 - 0.2).collect();
    for (newer, adapter) in [(false, "default."), (true, "default."), (true, "")] {
        let mut tensors = Vec::new();
        for (name, shape, values) in &original {
            let inside = name
                .strip_prefix("lang_encoder.")
                .map(|rest| format!("lang_encoder.base_model.model.{rest}"));
            let mut wrapped = inside.unwrap_or_else(|| name.clone());
            if newer && *name == format!("{target}.weight") {
                wrapped = wrapped.replace("v_proj.weight", "v_proj.base_layer.weight");
            }
            tensors.push((wrapped, shape.clone(), values.clone()));
        }
        let module = target.replace("lang_encoder.", "lang_encoder.base_model.model.");
        tensors.push((format!("{module}.lora_A.{adapter}weight"), vec![rank, 64], a.clone()));
        tensors.push((format!("{module}.lora_B.{adapter}weight"), vec![64, rank], b.clone()));
        let mut config = json(&golden("llama/checkpoint/config.json"));
        config["lora_config"] = json!({ "r": rank, "lora_alpha": alpha, "lora_dropout": 0.05 });
        let (source, out) = (place.path().join("lora"), place.path().join("merged"));
        save(&source, &tensors, &config);
        let report = run(&ConvertOptions { merge_lora: true, ..ConvertOptions::new(&source, &out) });
        assert!(json(&out.join("config.json")).get("lora_config").is_none());
        assert!(report.created[0].how.contains("1 matrices: W + 2 * B A, rank 3"), "{:?}", report.created);
        let merged = Weights::open(&out).unwrap();
        for (name, _, values) in &original {
            let found = merged.read_f32(name).unwrap();
            if *name != format!("{target}.weight") {
                assert_eq!(&found, values, "{name}");
                continue;
            }
            for (at, (&found, &start)) in found.iter().zip(values).enumerate() {
                let (row, column) = (at / 64, at % 64);
                let delta: f64 =
                    (0..rank).map(|k| f64::from(b[row * rank + k]) * f64::from(a[k * 64 + column])).sum();
                let expected = f64::from(start) + alpha / rank as f64 * delta;
                assert!((f64::from(found) - expected).abs() < 1e-6, "{found} {expected}");
            }
        }
        // Settings of PEFT that change the scale, and a module that was trained as a whole.
        let mut strong = config.clone();
        strong["lora_config"]["use_rslora"] = json!(true);
        strong["lora_config"]["alpha_pattern"] = json!({ "v_proj": 12.0 });
        strong["lora_config"]["of_tomorrow"] = json!(1);
        let norm = "lang_encoder.base_model.model.model.norm";
        let mut more = tensors.clone();
        for (name, ..) in &mut more {
            *name = name.replace(&format!("{norm}.weight"), &format!("{norm}.original_module.weight"));
        }
        more.push((format!("{norm}.modules_to_save.default.weight"), vec![64], vec![0.5; 64]));
        save(&source, &more, &strong);
        let report = run(&ConvertOptions { merge_lora: true, ..ConvertOptions::new(&source, &out) });
        assert!(
            report.warnings.iter().any(|warning| warning.contains("of_tomorrow")),
            "{:?}",
            report.warnings
        );
        let scale = (12.0 / (rank as f64).sqrt()) as f32;
        assert!(report.created[0].how.contains(&format!("W + {scale} * B A")), "{:?}", report.created);
        assert_eq!(
            Weights::open(&out).unwrap().read_f32("lang_encoder.model.norm.weight").unwrap(),
            [0.5; 64]
        );
        error(&ConvertOptions::new(&source, place.path().join("kept")), &["--merge-lora"]);
        // Half an adapter, a wrong rank and a missing matrix are errors.
        let refused = |edit: &dyn Fn(&mut Tensors, &mut Value), part: &str| {
            let (mut tensors, mut config) = (tensors.clone(), config.clone());
            edit(&mut tensors, &mut config);
            let (source, out) = (place.path().join("damaged"), place.path().join("refused"));
            save(&source, &tensors, &config);
            error(&ConvertOptions { merge_lora: true, ..ConvertOptions::new(&source, &out) }, &[part]);
        };
        refused(&|tensors, _| drop(tensors.pop()), "only one of lora_A and lora_B");
        refused(&|_, config| config["lora_config"]["r"] = json!(4), "do not fit the matrix");
        refused(&|_, config| config["lora_config"]["use_dora"] = json!(true), "lora_config.use_dora");
        refused(
            &|tensors, _| {
                let second = tensors[tensors.len() - 1]
                    .0
                    .replace(".lora_B.", ".lora_B.second.")
                    .replace("second.default", "second");
                tensors.push((second, vec![64, rank], b.clone()));
            },
            "several adapters",
        );
        refused(
            &|tensors, _| tensors.push((format!("{module}.lora_B.default.bias"), vec![64], vec![0.0; 64])),
            "lora_B.default.bias",
        );
        refused(&|_, config| config["lora_config"] = Value::Null, "no `lora_config`");
        refused(
            &|tensors, _| {
                tensors.retain(|(name, _, _)| {
                    !name.contains("1.decoder_layer.self_attn.v_proj") || name.contains("lora")
                })
            },
            "is missing",
        );
    }
}

#[test]
fn a_partial_checkpoint_goes_over_its_base() {
    let place = tempfile::tempdir().unwrap();
    let original = floats(&golden("llama/checkpoint"));
    let trained: Tensors = original
        .iter()
        .filter(|(name, _, _)| {
            name.starts_with("perceiver.") || name.contains("gated_cross") || name.contains("embed_tokens")
        })
        .map(|(name, shape, values)| {
            (format!("module.{name}"), shape.clone(), values.iter().map(|v| v + 1.0).collect())
        })
        .collect();
    let borrowed: Vec<(&str, Vec<usize>, Vec<f32>)> =
        trained.iter().map(|(name, shape, values)| (name.as_str(), shape.clone(), values.clone())).collect();
    let (part, out) = (place.path().join("final_weights.safetensors"), place.path().join("out"));
    write(&part, &borrowed);
    let base = golden("llama/checkpoint");
    let ways = [
        ConvertOptions { overlay: Some(part.clone()), ..ConvertOptions::new(&base, &out) },
        ConvertOptions { base: Some(base.clone()), ..ConvertOptions::new(&part, &out) },
    ];
    for options in ways {
        let report = run(&options);
        let result = Weights::open(&out).unwrap();
        for (name, _, values) in &original {
            let over = trained.iter().find(|(over, _, _)| over[7..] == *name);
            assert_eq!(
                &result.read_f32(name).unwrap(),
                over.map_or(values, |(_, _, values)| values),
                "{name}"
            );
        }
        assert_eq!(report.dropped.len(), trained.len());
    }
    // Frame embeddings and a larger vocabulary change the configuration too; fewer rows leave the base's.
    let table =
        |rows: usize| ("lang_encoder.model.embed_tokens.weight", vec![rows, 64], vec![0.5; rows * 64]);
    let head = |rows: usize| ("lang_encoder.lm_head.weight", vec![rows, 64], vec![0.25; rows * 64]);
    write(&part, &[("perceiver.frame_embs", vec![3, 32], vec![0.0; 96]), table(390), head(390)]);
    run(&ConvertOptions { overlay: Some(part.clone()), ..ConvertOptions::new(&base, &out) });
    let config = json(&out.join("config.json"));
    assert_eq!((&config["max_num_frames"], &config["text_config"]["vocab_size"]), (&json!(3), &json!(390)));
    write(&part, &[table(10)]);
    run(&ConvertOptions { overlay: Some(part.clone()), ..ConvertOptions::new(&base, &out) });
    let kept = Weights::open(&out).unwrap().read_f32("lang_encoder.model.embed_tokens.weight").unwrap();
    let before = Weights::open(&base).unwrap().read_f32("lang_encoder.model.embed_tokens.weight").unwrap();
    assert!(kept[..640].iter().all(|value| *value == 0.5) && kept[640..] == before[640..]);
    fs::remove_dir_all(&out).unwrap();
    write(&part, &[("perceiver.latent", vec![64, 32], vec![0.0; 2048])]);
    error(
        &ConvertOptions { overlay: Some(part.clone()), ..ConvertOptions::new(&base, &out) },
        &["perceiver.latent", "does not have"],
    );
    write(&part, &[("perceiver.latents", vec![32, 32], vec![0.0; 1024])]);
    error(
        &ConvertOptions { overlay: Some(part.clone()), ..ConvertOptions::new(&base, &out) },
        &["[32, 32]", "[64, 32]"],
    );
    error(&ConvertOptions::new(&part, &out), &["--base", "part of an Otter"]);
}

#[test]
fn a_delta_is_added() {
    let place = tempfile::tempdir().unwrap();
    let base = golden(&format!("{V1}/base_lm"));
    let mut delta = floats(&base);
    for (name, shape, values) in &mut delta {
        values.iter_mut().enumerate().for_each(|(at, value)| *value = (at % 3) as f32);
        if name.contains("embed_tokens") || name.contains("lm_head") {
            shape[0] += 1;
            values.extend([9.0; 16]);
        }
    }
    delta.push(("model.mm_projector.weight".to_owned(), vec![2], vec![3.0, 4.0]));
    let (changes, out) = (place.path().join("delta"), place.path().join("sum"));
    let mut config = json(&base.join("config.json"));
    config["vocab_size"] = json!(385);
    save(&changes, &delta, &config);
    let report = run(&ConvertOptions { delta: Some(changes.clone()), ..ConvertOptions::new(&base, &out) });
    assert!(report.warnings[0].contains("mm_projector"));
    assert_eq!(json(&out.join("config.json"))["vocab_size"], 385);
    let (start, sum) = (Weights::open(&base).unwrap(), Weights::open(&out).unwrap());
    for (name, _, change) in &delta {
        let mut expected = change.clone();
        if start.get(name).is_some() {
            expected.iter_mut().zip(start.read_f32(name).unwrap()).for_each(|(sum, value)| *sum += value);
        }
        assert_eq!(sum.read_f32(name).unwrap(), expected, "{name}");
    }
    delta.retain(|(name, _, _)| name != "model.norm.weight");
    save(&changes, &delta, &config);
    fs::remove_dir_all(&out).unwrap();
    error(
        &ConvertOptions { delta: Some(changes), ..ConvertOptions::new(&base, &out) },
        &["model.norm.weight", "lacks"],
    );
}

/// The same tower from open_clip's names, with query, key and value fused.
#[test]
fn open_clip_gives_the_same_tower() {
    let place = tempfile::tempdir().unwrap();
    let clip = golden(&format!("{V1}/base_clip"));
    let source: BTreeMap<String, (Vec<usize>, Vec<f32>)> =
        floats(&clip).into_iter().map(|(name, shape, values)| (name, (shape, values))).collect();
    let mut theirs: Tensors = Vec::new();
    for (name, (shape, values)) in &source {
        if !["q_proj", "k_proj", "v_proj"].iter().any(|part| name.contains(part)) {
            let renamed = otter_checkpoint::convert::tables::OPEN_CLIP.backward(name).unwrap();
            theirs.push((renamed, shape.clone(), values.clone()));
        }
    }
    for layer in 0..2 {
        for (leaf, fused) in [("weight", "in_proj_weight"), ("bias", "in_proj_bias")] {
            let mut all = Vec::new();
            let mut shape = Vec::new();
            for part in ["q_proj", "k_proj", "v_proj"] {
                let name = format!("vision_model.encoder.layers.{layer}.self_attn.{part}.{leaf}");
                shape.clone_from(&source[&name].0);
                all.extend_from_slice(&source[&name].1);
            }
            shape[0] *= 3;
            theirs.push((format!("visual.transformer.resblocks.{layer}.attn.{fused}"), shape, all));
        }
    }
    theirs.push(("visual.proj".to_owned(), vec![4, 2], vec![0.0; 8]));
    theirs.push(("token_embedding.weight".to_owned(), vec![2, 2], vec![0.0; 4]));
    theirs.push(("logit_scale".to_owned(), vec![1], vec![0.0]));
    let borrowed: Vec<(&str, Vec<usize>, Vec<f32>)> =
        theirs.iter().map(|(name, shape, values)| (name.as_str(), shape.clone(), values.clone())).collect();
    let directory = place.path().join("clip");
    fs::create_dir(&directory).unwrap();
    write(&directory.join("open_clip_model.safetensors"), &borrowed);
    let config = json!({ "model_cfg": { "quick_gelu": true, "vision_cfg": { "head_width": 2 } } });
    fs::write(directory.join("open_clip_config.json"), config.to_string()).unwrap();

    let (plain, out) = (place.path().join("plain"), place.path().join("out"));
    run(&open_flamingo(V1, "final_weights.pt", &plain));
    let options = open_flamingo(V1, "final_weights.pt", &out);
    let report = run(&ConvertOptions { base_vision: Some(directory.clone()), ..options });
    assert_eq!(content(&out), content(&plain));
    assert_eq!(report.dropped.iter().filter(|dropped| dropped.reason.contains("vision tower")).count(), 3);
    let (ours, theirs) = (json(&out.join("config.json")), json(&plain.join("config.json")));
    for key in [
        "hidden_size",
        "image_size",
        "intermediate_size",
        "num_attention_heads",
        "num_hidden_layers",
        "patch_size",
    ] {
        assert_eq!(ours["vision_config"][key], theirs["vision_config"][key], "{key}");
    }
    // Without the configuration beside it, the assumption is said.
    let options = open_flamingo(V1, "final_weights.pt", &out);
    let file = Some(directory.join("open_clip_model.safetensors"));
    let message = convert(&ConvertOptions { base_vision: file, ..options }, &mut |_| {});
    assert!(message.is_err() || message.unwrap().warnings[0].contains("quick_gelu"));
}

#[test]
fn what_does_not_fit_is_refused() {
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("out");
    let trained = golden(&format!("{V1}/final_weights.pt"));
    error(&ConvertOptions::new(&trained, &out), &["OpenFlamingo", "--base-lm DIR --base-vision DIR"]);
    let options = open_flamingo(V1, "final_weights.pt", &out);
    // Trained on another language model.
    let other = Some(golden(&format!("{V2}/base_lm")));
    error(
        &ConvertOptions { base_lm: other, ..options.clone() },
        &["gated cross-attention blocks of this language model"],
    );
    let swapped = ConvertOptions {
        base_lm: options.base_vision.clone(),
        base_vision: options.base_lm.clone(),
        ..options.clone()
    };
    error(&swapped, &["CLIP", "--base-lm"]);
    error(
        &ConvertOptions { cross_attn_every: Some(1), ..options.clone() },
        &["every 2 layers", "leave the option out"],
    );
    error(&ConvertOptions { merge_lora: true, ..options.clone() }, &["--merge-lora"]);
    error(
        &ConvertOptions { out: place.path().join("x.pt"), ..options },
        &["a whole model is written to a directory"],
    );
    let plain = ConvertOptions::new(golden("llama/checkpoint"), &out);
    error(&ConvertOptions { token_order: Some(TokenOrder::Otter), ..plain.clone() }, &["--token-order"]);
    error(&ConvertOptions { keep_f32: vec![KeepF32::Norms], ..plain }, &["--keep-f32"]);
    // What stands at the target and is no checkpoint stays.
    fs::create_dir_all(out.join("photos")).unwrap();
    let options = open_flamingo(V1, "final_weights.pt", &out);
    assert!(convert(&options, &mut |_| {}).unwrap_err().to_string().contains("`photos`"));
    assert!(out.join("photos").is_dir());
}

/// A trained part that lacks a tensor, holds one too many, or whose alias differs.
#[test]
fn every_tensor_is_accounted_for() {
    let place = tempfile::tempdir().unwrap();
    let all = floats(&golden(&format!("{V1}/final_weights.pt")));
    let (file, out) = (place.path().join("part.safetensors"), place.path().join("out"));
    let attempt = |edit: &dyn Fn(&mut Tensors), parts: &[&str]| {
        let mut tensors = all.clone();
        edit(&mut tensors);
        let borrowed: Vec<(&str, Vec<usize>, Vec<f32>)> = tensors
            .iter()
            .map(|(name, shape, values)| (name.as_str(), shape.clone(), values.clone()))
            .collect();
        write(&file, &borrowed);
        let options = open_flamingo(V1, "final_weights.pt", &out);
        error(&ConvertOptions { source: file.clone(), ..options }, parts);
    };
    attempt(
        &|tensors| tensors.retain(|(name, _, _)| !name.ends_with("layers.3.0.to_q.weight")),
        &["perceiver.layers.3.to_q.weight", "missing"],
    );
    attempt(
        &|tensors| tensors.push(("module.perceiver.extra".to_owned(), vec![1], vec![0.0])),
        &["perceiver.extra", "unexpected"],
    );
    attempt(
        &|tensors| tensors.push(("module.optimizer.extra".to_owned(), vec![1], vec![0.0])),
        &["optimizer.extra", "no place in an Otter"],
    );
    attempt(
        &|tensors| {
            let alias = tensors
                .iter_mut()
                .find(|(name, _, _)| name.ends_with("gated_cross_attn_layers.1.ff_gate"))
                .unwrap();
            alias.2[0] += 1.0;
        },
        &["lang_encoder.gated_cross_attn_layers.1.ff_gate", "differs"],
    );
    attempt(
        &|tensors| tensors.push(("_orig_mod.perceiver.latents".to_owned(), vec![64, 4], vec![0.0; 256])),
        &["perceiver.latents", "wrapper prefixes"],
    );
}

/// Wrappers of parallel training, in every place, change nothing.
#[test]
fn wrapped_names_are_the_same_model() {
    let place = tempfile::tempdir().unwrap();
    let (plain, out) = (place.path().join("plain"), place.path().join("out"));
    run(&open_flamingo(V1, "final_weights.pt", &plain));
    let wrapped: Tensors = floats(&golden(&format!("{V1}/final_weights.pt")))
        .into_iter()
        .map(|(name, shape, values)| {
            let name = name
                .replace("module.", "")
                .replace("perceiver.", "_fsdp_wrapped_module.perceiver._fsdp_wrapped_module.")
                .replace("layers.1.", "layers.1._checkpoint_wrapped_module._fsdp_wrapped_module.");
            (name, shape, values)
        })
        .collect();
    let borrowed: Vec<(&str, Vec<usize>, Vec<f32>)> =
        wrapped.iter().map(|(name, shape, values)| (name.as_str(), shape.clone(), values.clone())).collect();
    let file = place.path().join("fsdp.safetensors");
    write(&file, &borrowed);
    let options = open_flamingo(V1, "final_weights.pt", &out);
    run(&ConvertOptions { source: file, ..options });
    assert_eq!(content(&out), content(&plain));
}

/// A checkpoint whose names have wrappers in front or inside loads as it is, and a conversion of it is the model.
#[test]
fn wrapped_checkpoints_load_in_every_form() {
    let place = tempfile::tempdir().unwrap();
    let source = golden("llama/checkpoint");
    let original = content(&source);
    let tensors = floats(&source);
    for (at, wrap) in [
        (|name: &str| format!("_orig_mod.{name}")) as fn(&str) -> String,
        |name| format!("module.{name}"),
        |name| format!("_forward_module.model.{name}"),
        |name| format!("student.{name}"),
        |name| name.replace("lang_encoder.", "lang_encoder._fsdp_wrapped_module."),
        |name| name.replace("decoder_layer.", "decoder_layer._checkpoint_wrapped_module."),
        |name| name.replace("lang_encoder.", "lang_encoder.base_model.model."),
    ]
    .into_iter()
    .enumerate()
    {
        let wrapped: Tensors =
            tensors.iter().map(|(name, shape, values)| (wrap(name), shape.clone(), values.clone())).collect();
        let directory = place.path().join(format!("wrapped{at}"));
        save(&directory, &wrapped, &json(&source.join("config.json")));
        for file in
            ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"]
        {
            if source.join(file).is_file() {
                fs::copy(source.join(file), directory.join(file)).unwrap();
            }
        }
        let check = |directory: &Path| {
            let model = load_model(directory, Device::Cpu).unwrap();
            let notes = model.report.warnings.iter().filter(|w| w.contains("without the wrappers")).count();
            assert_eq!(notes, 1, "{:?}", model.report.warnings);
            assert_eq!(content(directory), original);
            assert_eq!(inspect(directory).unwrap().kind, Kind::Model);
        };
        check(&directory);
        let out = place.path().join(format!("out{at}"));
        run(&ConvertOptions::new(&directory, &out));
        assert_eq!(content(&out), original);
        // As a PyTorch file, and as shards.
        fs::remove_file(directory.join("model.safetensors")).unwrap();
        let entries: Vec<NewTensor<'_>> = wrapped
            .iter()
            .map(|(name, shape, _)| NewTensor { name, dtype: StoredDType::F32, shape })
            .collect();
        write_torch(&directory.join("pytorch_model.bin"), &entries, None, &mut |at, out| {
            wrapped[at].2.iter().for_each(|value| out.write_all(&value.to_le_bytes()).unwrap());
            Ok(())
        })
        .unwrap();
        check(&directory);
        fs::remove_file(directory.join("pytorch_model.bin")).unwrap();
        let mut map = serde_json::Map::new();
        for (part, tensors) in wrapped.chunks(wrapped.len() / 2 + 1).enumerate() {
            let shard = format!("model-0000{}-of-00002.safetensors", part + 1);
            let borrowed: Vec<(&str, Vec<usize>, Vec<f32>)> = tensors
                .iter()
                .map(|(name, shape, values)| (name.as_str(), shape.clone(), values.clone()))
                .collect();
            write(&directory.join(&shard), &borrowed);
            tensors.iter().for_each(|(name, ..)| drop(map.insert(name.clone(), json!(shard))));
        }
        let index = json!({ "metadata": {}, "weight_map": map }).to_string();
        fs::write(directory.join("model.safetensors.index.json"), index).unwrap();
        check(&directory);
    }
    // Both of one name.
    let mut both = tensors.clone();
    both.push((format!("module.{}", tensors[0].0), tensors[0].1.clone(), tensors[0].2.clone()));
    let directory = place.path().join("both");
    save(&directory, &both, &json(&source.join("config.json")));
    let text = load_model(&directory, Device::Cpu).err().unwrap().to_string();
    assert!(text.contains(&tensors[0].0) && text.contains("module."), "{text}");
}

/// Success is said only of what loads: a result that would not is an error, and nothing is left behind.
#[test]
fn success_means_that_the_result_loads() {
    let place = tempfile::tempdir().unwrap();
    let source = golden("llama/checkpoint");
    let (directory, out) = (place.path().join("source"), place.path().join("out"));
    let attempt = |edit: &dyn Fn(&Path), parts: &[&str]| {
        let _ = fs::remove_dir_all(&directory);
        run(&ConvertOptions::new(&source, &directory));
        edit(&directory);
        for format in [OutputFormat::Safetensors, OutputFormat::Torch] {
            error(&ConvertOptions { format, ..ConvertOptions::new(&directory, &out) }, parts);
        }
    };
    let config = |directory: &Path, change: &dyn Fn(&mut Value)| {
        let mut value = json(&directory.join("config.json"));
        change(&mut value);
        fs::write(directory.join("config.json"), value.to_string()).unwrap();
    };
    attempt(
        &|directory| {
            config(directory, &|value| {
                value["text_config"]["rope_scaling"] = json!({ "rope_type": "yarn", "factor": 4.0 });
            });
        },
        &["does not load", "rope_type", "yarn"],
    );
    attempt(
        &|directory| config(directory, &|value| value["text_config"]["intermediate_size"] = json!(7)),
        &["does not load", "gate_proj"],
    );
    attempt(
        &|directory| fs::write(directory.join("tokenizer.json"), "{}").unwrap(),
        &["does not load", &directory.join("tokenizer.json").display().to_string()],
    );
    attempt(
        &|directory| {
            fs::write(directory.join("preprocessor_config.json"), r#"{"image_mean": [0.5, 0.5, 0.5]}"#)
                .unwrap();
        },
        &["does not load", "image_mean", &directory.join("preprocessor_config.json").display().to_string()],
    );
    // What is nothing that this program knows is no success either; adapters need their option.
    save(&directory, &[("a.weight".to_owned(), vec![2], vec![1.0, 2.0])], &json!({ "model_type": "bert" }));
    error(&ConvertOptions::new(&directory, &out), &["no known kind", "otter inspect"]);
    // A whole model without a tokenizer is one that somebody must complete.
    let _ = fs::remove_dir_all(&directory);
    run(&ConvertOptions::new(&source, &directory));
    for file in fs::read_dir(&directory).unwrap() {
        let path = file.unwrap().path();
        if path.to_string_lossy().contains("token") {
            fs::remove_file(path).unwrap();
        }
    }
    let report = run(&ConvertOptions::new(&directory, &out));
    assert!(report.warnings.iter().any(|warning| warning.contains("--tokenizer")), "{:?}", report.warnings);
}

/// Blocks that are in the wanted type already are copied bit by bit, and by default all are.
#[test]
fn blocks_of_a_gguf_file_are_copied() {
    let place = tempfile::tempdir().unwrap();
    let path = |name: &str| place.path().join(name);
    let raw = |path: &Path| -> BTreeMap<String, (StoredDType, Vec<u8>)> {
        let weights = Weights::open(path).unwrap();
        let names: Vec<&str> = weights.names().collect();
        let bytes = |name: &str| {
            let entry = weights.get(name).unwrap();
            (entry.dtype, entry.location.map[entry.location.bytes.clone()].to_vec())
        };
        names.into_iter().map(|name| (name.to_owned(), bytes(name))).collect()
    };
    for quantization in [DType::Q4_0, DType::Q8_0] {
        let first = path("first.gguf");
        let options = ConvertOptions::new(golden("llama/checkpoint"), &first);
        run(&ConvertOptions { quantization: Some(quantization), ..options });
        let blocks = raw(&first).values().filter(|(dtype, _)| dtype.is_block()).count();
        assert!(blocks > 10, "{blocks}");
        for again in [None, Some(quantization)] {
            let second = path("second.gguf");
            let report = run(&ConvertOptions { quantization: again, ..ConvertOptions::new(&first, &second) });
            assert!(raw(&second) == raw(&first), "{quantization:?} {again:?}");
            assert!(report.quantized.is_empty());
        }
    }
    // Fewer bits are made where they are asked for, and floats too.
    let wide = path("wide.gguf");
    let options = ConvertOptions::new(path("first.gguf"), &wide);
    let report = run(&ConvertOptions { quantization: Some(DType::Q4_0), ..options.clone() });
    assert!(!report.quantized.is_empty());
    convert(&ConvertOptions { quantization: Some(DType::F32), ..options }, &mut |_| {}).unwrap();
    assert!(raw(&wide).values().all(|(dtype, _)| *dtype == StoredDType::F32));
}

/// Optimizer state goes, weights stay; the wrapper prefix too.
#[test]
fn optimizer_state_is_pruned() {
    let place = tempfile::tempdir().unwrap();
    for name in ["pruned.pt", "pruned.safetensors"] {
        let out = place.path().join(name);
        let report = run(&ConvertOptions::new(golden(&format!("{V2}/checkpoint_0.pt")), &out));
        assert_eq!(content(&out), content(&golden(&format!("{V2}/checkpoint.pt"))));
        assert!(report.dropped.iter().any(|dropped| dropped.reason.contains("optimizer_state_dict")));
    }
}

/// A GGUF file holds everything: back to a directory it is the same model, exactly or to the precision asked for.
#[test]
fn gguf_and_back() {
    let place = tempfile::tempdir().unwrap();
    let path = |name: &str| place.path().join(name);
    for case in ["llama", "mpt7b-style"] {
        let source = golden(&format!("{case}/checkpoint"));
        let original = content(&source);
        let special = *load_tokenizer(&source).unwrap().special();
        for out in ["model.gguf", "directory"] {
            let gguf = OutputFormat::Gguf;
            let options = ConvertOptions::new(&source, path(out));
            let report = run(&ConvertOptions { format: gguf, quantization: Some(DType::F32), ..options });
            assert_eq!(report.weight_files, ["model.gguf"]);
            assert_eq!(path(out).is_dir(), out == "directory");
            run(&ConvertOptions::new(path(out), path("back")));
            assert_eq!(content(&path("back")), original, "{case} {out}");
            assert_eq!(*load_tokenizer(&path("back")).unwrap().special(), special);
            // In the file the tie is said, which the original leaves to a default.
            let mut config = json(&source.join("config.json"));
            if out == "model.gguf" {
                config["tie_word_embeddings"] = json!(case == "mpt7b-style");
            }
            let mut back = json(&path("back/config.json"));
            // How sequences begin is written down where the class of the tokenizer is not.
            back.as_object_mut().unwrap().shift_remove("otter_input");
            assert_eq!(back, config);
        }
        run(&ConvertOptions {
            quantization: Some(DType::Q8_0),
            ..ConvertOptions::new(&source, path("small.gguf"))
        });
        run(&ConvertOptions::new(path("small.gguf"), path("wide")));
        let (small, whole) = (path("small.gguf").metadata().unwrap(), path("model.gguf").metadata().unwrap());
        assert!(small.len() < whole.len());
        for (name, _, values) in floats(&path("wide")) {
            let exact = Weights::open(&source).unwrap().read_f32(&name).unwrap();
            let largest = exact.iter().fold(0f32, |most, value| most.max(value.abs()));
            let wrong = exact.iter().zip(&values).fold(0f32, |most, (a, b)| most.max((a - b).abs()));
            assert!(wrong <= largest / 127.0, "{name}: {wrong} of {largest}");
        }
    }
    let options =
        ConvertOptions { format: OutputFormat::Gguf, ..open_flamingo(V1, "final_weights.pt", &path("of")) };
    run(&options);
    let (of, plain) = (path("of"), path("plain"));
    run(&open_flamingo(V1, "final_weights.pt", &plain));
    let halves = Weights::open(&of).unwrap();
    assert_eq!(content(&plain).len(), halves.names().count());
    error(
        &ConvertOptions {
            dtype: Some(DType::F16),
            format: OutputFormat::Gguf,
            ..ConvertOptions::new(&plain, path("x"))
        },
        &["--quantize"],
    );
}

#[test]
fn the_transformers_module_is_added() {
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("python");
    llama(|options| options.transformers = true, &out);
    assert!(json(&out.join("config.json")).get("auto_map").is_some());
    assert!(out.join("modeling_otter.py").is_file());
    let again = place.path().join("again");
    run(&ConvertOptions::new(&out, &again));
    assert_eq!(content(&again), content(&golden("llama/checkpoint")));
}
