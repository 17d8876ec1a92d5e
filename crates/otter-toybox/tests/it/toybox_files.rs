//! The written toybox as a reader sees it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use base64::Engine;
use otter_toybox::world::held_out::is_pair_held_out;
use otter_toybox::world::{Concept, FamilyCounts, MadeUpWord, ToyboxOptions, write_toybox};
use proptest::prelude::*;
use serde_json::Value;

const TRAIN: [&str; 5] = ["TOYATTR", "TOYCOUNT", "TOYREL", "TOYDIFF", "TOYBIND"];

fn options() -> ToyboxOptions {
    ToyboxOptions {
        seed: 5,
        train: FamilyCounts::each(60),
        eval: FamilyCounts::each(40),
        ..ToyboxOptions::default()
    }
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for sub in [".", "train", "eval", "tokenizer"] {
        for entry in std::fs::read_dir(folder.join(sub)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                let name = path.strip_prefix(folder).unwrap().display().to_string();
                found.insert(name, std::fs::read(&path).unwrap());
            }
        }
    }
    found
}

fn written(options: &ToyboxOptions) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_toybox(folder.path(), options, &mut |_| {}).unwrap();
    folder
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_string()).collect()
}

#[test]
fn the_same_seed_gives_the_same_bytes_whatever_the_number_of_threads() {
    let options = options();
    let several = files(written(&options).path());
    let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let single = one.install(|| files(written(&options).path()));
    assert_eq!(several.keys().collect::<Vec<_>>(), single.keys().collect::<Vec<_>>());
    assert!(several.keys().all(|name| several[name] == single[name]));
    assert!(several.keys().all(|name| !name.contains(".part")));

    let other = files(written(&ToyboxOptions { seed: 6, ..options }).path());
    assert_ne!(several["train/TOYATTR.json"], other["train/TOYATTR.json"]);
    assert_ne!(several["train/TOYBIND_train.json"], other["train/TOYBIND_train.json"]);
}

#[test]
fn every_id_resolves_and_every_picture_opens() {
    let folder = written(&options());
    let manifest = read(&folder.path().join("manifest.json"));
    for set in manifest["summary"]["sets"].as_array().unwrap() {
        let (split, code) = (set["split"].as_str().unwrap(), set["code"].as_str().unwrap());
        let base = folder.path().join(split);
        let instructions = read(&base.join(format!("{code}_instructions.json")));
        let records = instructions["data"].as_object().unwrap();
        let images = read(&base.join(format!("{code}.json")));
        let images = images.as_object().unwrap();
        assert_eq!(records.len() as u64, set["instructions"].as_u64().unwrap());
        assert_eq!(images.len() as u64, set["images"].as_u64().unwrap());
        let mut used = BTreeSet::new();
        for (id, record) in records {
            assert!(id.starts_with(&format!("{code}_")) && id.contains("_INS_"), "{id}");
            let frames = strings(&record["image_ids"]);
            assert_eq!(frames.len(), if code == "TOYDIFF" { 2 } else { 1 });
            for image in frames {
                assert!(images.contains_key(&image) && image.contains("_IMG_"));
                assert!(used.insert(image), "pictures are not shared");
            }
            for related in strings(&record["rel_ins_ids"]) {
                assert!(records.contains_key(&related) && related != *id);
            }
        }
        assert_eq!(used.len(), images.len());
        for (id, text) in images.iter().take(20) {
            let png = base64::engine::general_purpose::STANDARD.decode(text.as_str().unwrap()).unwrap();
            let picture = image::load_from_memory(&png).unwrap();
            assert_eq!((picture.width(), picture.height()), (32, 32), "{id}");
            assert_eq!(picture.color(), image::ColorType::Rgb8);
            assert!(png.len() < 4000, "{}", png.len());
        }
        for entry in std::fs::read_dir(&base).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_string();
            let of_this_set =
                name.strip_prefix(&format!("{code}_")).is_some_and(|rest| !rest.starts_with("SEEN"));
            if of_this_set && name.contains("_train") {
                let contexts = read(&path);
                assert_eq!(contexts.as_object().unwrap().len() as u64, set["queries"].as_u64().unwrap());
                for (query, context) in contexts.as_object().unwrap() {
                    assert!(records.contains_key(query));
                    let context = strings(context);
                    assert!(context.iter().all(|id| records.contains_key(id) && id != query));
                    assert_eq!(context.iter().collect::<BTreeSet<_>>().len(), context.len());
                    if let Some(shots) =
                        name.strip_prefix(&format!("{code}_")).and_then(|n| n.split_once("shot_"))
                    {
                        let shots: usize = shots.0.parse().unwrap();
                        assert_eq!(context.len(), if code.contains("BIND") { 2 * shots } else { shots });
                    }
                    if name.contains("no_context") {
                        assert!(context.is_empty());
                    }
                }
            }
        }
    }
}

#[test]
fn yaml_lists_name_files_that_exist() {
    let folder = written(&options());
    let mut names = vec!["train".to_string(), "train_no_context".into(), "eval".into()];
    names.extend([0, 1, 2, 4].map(|shots| format!("eval_{shots}shot")));
    for name in names {
        let text = std::fs::read_to_string(folder.path().join(format!("{name}.yaml"))).unwrap();
        let sets = text.lines().filter(|line| line.contains("mimicit_path")).count();
        assert_eq!(sets, if name.starts_with("train") { 6 } else { 7 }, "{name}");
        for line in text.lines().filter(|line| line.contains("_path: ")) {
            let (_, path) = line.split_once(": ").unwrap();
            assert!(folder.path().join(path).exists(), "{path}");
        }
        let without = name == "train_no_context" || name == "eval_0shot";
        let group = if without { "IMAGE_TEXT:\n" } else { "IMAGE_TEXT_IN_CONTEXT:\n" };
        assert!(text.contains(group), "{text}");
    }
    let twin = read(&folder.path().join("train/TOYBIND_train_no_context.json"));
    let full = read(&folder.path().join("train/TOYBIND_train.json"));
    assert!(twin.as_object().unwrap().keys().eq(full.as_object().unwrap().keys()));
}

#[test]
fn nothing_held_out_is_in_training() {
    let mut options = options();
    options.train = FamilyCounts { binding: 800, ..FamilyCounts::each(0) };
    let folder = written(&options);
    let held_out: BTreeSet<String> = MadeUpWord::list(true).into_iter().map(MadeUpWord::text).collect();
    let instructions = read(&folder.path().join("train/TOYBIND_instructions.json"));
    let mut words = BTreeSet::new();
    for record in instructions["data"].as_object().unwrap().values() {
        let answer = record["answer"].as_str().unwrap();
        assert!(!held_out.contains(answer), "{answer}");
        words.insert(answer.to_string());
    }
    assert!(words.len() > 150, "{}", words.len());
    assert!(!folder.path().join("train/TOYATTR_train.json").exists());

    // The evaluation with everything held out holds nothing else, the other one nothing of it.
    let concepts: BTreeMap<String, Concept> =
        (0..Concept::COUNT).map(Concept::from_index).map(|concept| (concept.phrase(), concept)).collect();
    for (code, expected) in [("TOYBIND", true), ("TOYBIND_SEEN", false)] {
        let truths = read(&folder.path().join(format!("eval/{code}_truth.json")));
        for truth in truths.as_object().unwrap().values() {
            assert_eq!(truth["held_out"]["words"].as_bool(), Some(expected));
            assert_eq!(truth["held_out"]["concept_pair"].as_bool(), Some(expected));
            assert!(strings(&truth["candidates"]).iter().all(|word| held_out.contains(word) == expected));
            let pair = strings(&truth["concepts"]);
            assert_eq!(is_pair_held_out(concepts[&pair[0]], concepts[&pair[1]]), expected);
        }
    }
}

#[test]
fn two_way_binding_is_balanced() {
    let folder = written(&ToyboxOptions { eval: FamilyCounts::each(200), ..options() });
    for code in ["TOYBIND", "TOYBIND_SEEN"] {
        let base = folder.path().join("eval");
        let truths = read(&base.join(format!("{code}_truth.json")));
        let truths = truths.as_object().unwrap();
        assert_eq!(truths.len(), 200);
        let first = truths.values().filter(|truth| truth["answer_index"] == 0).count();
        assert_eq!(first, 100, "the place of the right candidate");

        // Per pair of candidates each word is right as often as the other.
        let mut words: BTreeMap<String, [usize; 2]> = BTreeMap::new();
        for truth in truths.values() {
            let candidates = strings(&truth["candidates"]);
            assert_eq!(candidates.len(), 2);
            let right = truth["answer_index"].as_u64().unwrap() as usize;
            assert_eq!(candidates[right], truth["answer"].as_str().unwrap());
            words.entry(candidates.join(" ")).or_default()[right] += 1;
        }
        assert!(words.values().all(|[one, other]| one == other));

        let records = read(&base.join(format!("{code}_instructions.json")));
        for shots in [1, 2, 4] {
            let contexts = read(&base.join(format!("{code}_{shots}shot_train.json")));
            let last_is_right = contexts.as_object().unwrap().iter().filter(|(query, context)| {
                let last = context.as_array().unwrap().last().unwrap().as_str().unwrap();
                records["data"][last]["answer"] == truths[*query]["answer"]
            });
            assert_eq!(last_is_right.count(), 100, "repeating the last word is right half of the time");
        }
    }
}

#[test]
fn in_context_examples_are_of_the_same_kind_of_question() {
    let folder = written(&options());
    let truths = read(&folder.path().join("eval/TOYATTR_truth.json"));
    let records = read(&folder.path().join("eval/TOYATTR_instructions.json"));
    let contexts = read(&folder.path().join("eval/TOYATTR_4shot_train.json"));
    let colors: Vec<String> = truths
        .as_object()
        .unwrap()
        .values()
        .find(|truth| truth["kind"] == "color")
        .map(|truth| strings(&truth["candidates"]))
        .unwrap();
    for (query, context) in contexts.as_object().unwrap() {
        for id in strings(context) {
            let answer = records["data"][&id]["answer"].as_str().unwrap().to_string();
            let about_color = ["color", "color_of_shape"].map(Value::from).contains(&truths[query]["kind"]);
            assert_eq!(colors.contains(&answer), about_color, "{query} {id}");
            assert!(truths.get(&id).is_none(), "an example is never a query");
        }
    }
}

#[test]
fn training_shots_vary_from_none_to_the_most() {
    let folder = written(&ToyboxOptions { train: FamilyCounts::each(300), ..options() });
    for code in TRAIN {
        let contexts = read(&folder.path().join(format!("train/{code}_train.json")));
        let lengths: BTreeSet<usize> =
            contexts.as_object().unwrap().values().map(|context| strings(context).len()).collect();
        let expected = if code == "TOYBIND" { 2..=8 } else { 0..=4 };
        assert_eq!(lengths, expected.collect(), "{code}");
    }
}

#[test]
fn bad_options_and_folders_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let bad = ToyboxOptions { image_size: 16, ..options() };
    let error = write_toybox(folder.path(), &bad, &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("image_size") && error.contains("16") && error.contains("32 to 64"), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);

    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = write_toybox(&file, &options(), &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("file"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn any_valid_options_give_complete_files(
        seed in any::<u64>(), image_size in 32u32..=64, train in 0usize..12, eval in 0usize..6,
        train_shots in 0usize..=16, binding_turns in 4usize..=32, binding_queries in 1usize..=5,
        shots in prop::collection::btree_set(0usize..=16, 1..4),
    ) {
        let options = ToyboxOptions {
            seed, image_size, train_shots, binding_turns, binding_queries,
            train: FamilyCounts::each(train), eval: FamilyCounts::each(eval),
            eval_shots: shots.into_iter().collect(), no_context_twin: seed % 2 == 0,
        };
        let folder = tempfile::tempdir().unwrap();
        let mut last = 0;
        let summary = write_toybox(folder.path(), &options, &mut |progress| last = progress.done).unwrap();
        let expected = 6 * train + 5 * eval + 2 * eval.div_ceil(2) * 2;
        prop_assert_eq!(summary.queries, expected);
        prop_assert_eq!(last > 0, expected > 0);
        prop_assert!(folder.path().join("eval.yaml").exists());
    }
}
