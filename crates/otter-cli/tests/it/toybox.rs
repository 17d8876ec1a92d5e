//! `otter toybox` and `otter eval`: the synthetic data set on disk, and accuracy measured on it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::common::{golden, otter};
use serde_json::Value;

const SCALE: &str = "0.005";

fn base() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/toybox-base").canonicalize().unwrap()
}

fn make(folder: &Path, more: &[&str]) -> Value {
    let mut arguments = arguments!["toybox", "--out", folder, "--json"].to_vec();
    arguments.extend(more.iter().map(Into::into));
    otter(&arguments).json()
}

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Content of every file below a folder, by path.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().to_path_buf();
                found.insert(name, std::fs::read(path).unwrap());
            }
        }
    }
    found
}

#[test]
fn the_summary_counts_what_the_files_hold() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("data");
    let printed = make(&folder, &["--scale", SCALE]);
    let summary = &printed["summary"];
    assert_eq!(printed["folder"], folder.to_str().unwrap());
    assert_eq!(printed["options"]["seed"], 1);

    let entries = |value: &Value| value.as_object().unwrap().len() as u64;
    let mut totals = [0; 3];
    let sets = summary["sets"].as_array().unwrap();
    assert_eq!(sets.len(), 13, "six families to train, the same and seen words to evaluate");
    for set in sets {
        let (split, code) = (set["split"].as_str().unwrap(), set["code"].as_str().unwrap());
        let file = |suffix: &str| folder.join(split).join(format!("{code}{suffix}.json"));
        let instructions = read_json(&file("_instructions"));
        let queries = match split {
            "train" => read_json(&file("_train")),
            _ => read_json(&file("_0shot_train")),
        };
        let counts = [entries(&read_json(&file(""))), entries(&instructions["data"]), entries(&queries)];
        for ((total, count), name) in totals.iter_mut().zip(counts).zip(["images", "instructions", "queries"])
        {
            assert_eq!(set[name], count, "{name} of {split} {code}");
            *total += count;
        }
        // Every query and every picture that is asked for exists.
        let images = read_json(&file(""));
        for query in queries.as_object().unwrap().keys() {
            for image in instructions["data"][query]["image_ids"].as_array().unwrap() {
                assert!(images[image.as_str().unwrap()].is_string(), "{image} of {query}");
            }
        }
    }
    assert_eq!(
        [&summary["images"], &summary["instructions"], &summary["queries"]].map(|v| v.as_u64().unwrap()),
        totals
    );
    let manifest = read_json(&folder.join("manifest.json"));
    assert_eq!((&manifest["options"], &manifest["summary"]), (&printed["options"], summary));
    let lists = [
        "train.yaml",
        "train_no_context.yaml",
        "eval.yaml",
        "eval_0shot.yaml",
        "eval_4shot.yaml",
        "README.md",
    ];
    for name in lists {
        assert!(folder.join(name).is_file(), "{name}");
    }
}

#[test]
fn the_seed_decides_every_byte() {
    let place = tempfile::tempdir().unwrap();
    let folder = |name: &str| place.path().join(name);
    make(&folder("one"), &["--scale", "0.002", "--seed", "5"]);
    make(&folder("again"), &["--scale", "0.002", "--seed", "5"]);
    make(&folder("other"), &["--scale", "0.002", "--seed", "6"]);
    let [one, again, other] = ["one", "again", "other"].map(|name| files(&folder(name)));
    assert!(one.len() > 50, "{:?}", one.keys());
    assert!(one == again, "the same seed gave other files");
    assert_eq!(one.keys().collect::<Vec<_>>(), other.keys().collect::<Vec<_>>());
    let changed = one.iter().filter(|(name, bytes)| other[*name] != **bytes).map(|(name, _)| name.clone());
    let changed: Vec<PathBuf> = changed.collect();
    for name in ["train/TOYATTR.json", "train/TOYBIND_instructions.json", "eval/TOYREL.json"] {
        assert!(changed.contains(&PathBuf::from(name)), "{name} does not depend on the seed");
    }
    // The vocabulary is the base model's and must not follow the seed.
    assert!(changed.iter().all(|name| !name.starts_with("tokenizer")), "{changed:?}");
    assert_eq!(
        one[Path::new("tokenizer/tokenizer.json")],
        std::fs::read(base().join("tokenizer.json")).unwrap()
    );
    // The same folder again with another seed leaves exactly the other files.
    make(&folder("one"), &["--scale", "0.002", "--seed", "6"]);
    assert!(files(&folder("one")) == other, "files of the run before remain");
}

#[test]
fn options_out_of_their_bounds_are_errors_and_write_nothing() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("data");
    let run = |option: &str| otter(&arguments!["toybox", "--out", folder, option]);
    for size in ["16", "65", "100000000000"] {
        run(&format!("--image-size={size}")).error(&["image_size", "32 to 64"]);
    }
    for scale in ["0", "-1", "nan", "inf", "1e9"] {
        run(&format!("--scale={scale}")).error(&["--scale is", "above 0"]);
    }
    run("--scale=much").usage("much");
    run("--image-size=-3").usage("-3");
    otter(&["toybox"]).usage("--out");
    assert!(!folder.exists());
    std::fs::write(&folder, "a file").unwrap();
    run("--scale=0.002").error(&[folder.to_str().unwrap()]);
}

#[test]
fn evaluation_counts_what_it_records() {
    let place = tempfile::tempdir().unwrap();
    let data = place.path().join("data");
    make(&data, &["--scale", "0.01"]);
    let run = |more: &[&str]| {
        let mut arguments = arguments!["eval", "--model", base(), "--data", data].to_vec();
        arguments.extend(more.iter().map(Into::into));
        otter(&arguments)
    };
    let value = run(&["--limit", "60", "--json"]).json();
    assert!(value["seconds"].as_f64().unwrap() > 0.0);
    let records = value["records"].as_array().unwrap();
    assert_eq!(records.len(), 60);
    for record in records {
        let candidates = record["candidates"].as_array().unwrap();
        let score = |candidate: &Value| candidate["log_probability"].as_f64().unwrap();
        assert!(
            candidates.len() >= 2 && candidates.iter().all(|candidate| score(candidate) <= 0.0),
            "{record}"
        );
        let choice = record["choice"].as_u64().unwrap() as usize;
        assert!(
            candidates.iter().all(|candidate| score(candidate) <= score(&candidates[choice])),
            "{record}"
        );
        assert_eq!(record["correct"], record["answer"] == candidates[choice]["text"], "{record}");
        assert_eq!(record["exact_match"], record["answer"] == record["generated"], "{record}");
    }
    assert_eq!(value["table"]["shots"], serde_json::json!([0, 1, 2, 4]));
    let rows = value["table"]["rows"].as_array().unwrap();
    let mut all = 0;
    for row in rows.iter().filter(|row| row["kind"].is_null()) {
        for cell in row["cells"].as_array().unwrap() {
            let of_cell = records.iter().filter(|record| {
                record["family"] == row["family"]
                    && record["shots"] == cell["shots"]
                    && (row["held_out"].is_null() || row["held_out"] == record["held_out"])
            });
            let of_cell: Vec<&Value> = of_cell.collect();
            let count = |key: &str| of_cell.iter().filter(|record| record[key] == true).count();
            assert_eq!(cell["n"], of_cell.len(), "{row}");
            assert_eq!(cell["correct"], count("correct"), "{row}");
            assert_eq!(cell["exact"], count("exact_match"), "{row}");
            let choice = &cell["choice"];
            let accuracy = count("correct") as f64 / of_cell.len() as f64;
            assert_eq!(choice["accuracy"], accuracy);
            assert!(
                choice["low"].as_f64().unwrap() <= accuracy && accuracy <= choice["high"].as_f64().unwrap()
            );
            all += of_cell.len();
        }
    }
    assert_eq!(all, 60, "every record stands in one row of its family");
    let text = run(&["--limit", "8"]).success().stdout;
    assert!(text.contains("attribute") && text.contains("95 %"), "{text}");
    let queries = value["queries"].as_u64().unwrap();
    assert!(queries > 60 && text.contains(&format!("8 of {queries} queries, because of --limit")), "{text}");
    run(&["--limit", "0"]).error(&["--limit is 0"]);
}

#[test]
fn a_folder_that_is_no_toybox_is_named() {
    let place = tempfile::tempdir().unwrap();
    let empty = place.path().to_str().unwrap().to_owned();
    let run = |model: &Path, data: &str| otter(&arguments!["eval", "--model", model, "--data", data]);
    run(&base(), &empty).error(&[&empty, "eval_<shots>shot.yaml", "otter toybox"]);
    run(&base(), "/nonexistent/toybox").error(&["/nonexistent/toybox"]);
    // Lists without the right answers.
    std::fs::write(place.path().join("eval_0shot.yaml"), "IMAGE_TEXT_IN_CONTEXT: {}\n").unwrap();
    run(&base(), &empty).error(&[&empty, "eval"]);
    // Nothing to evaluate is no result.
    std::fs::create_dir(place.path().join("eval")).unwrap();
    std::fs::write(place.path().join("eval/X_truth.json"), "{}").unwrap();
    run(&base(), &empty).error(&[]);
    // The model is not a checkpoint.
    run(&golden("images"), &empty).error(&["images", "config.json"]);
}
