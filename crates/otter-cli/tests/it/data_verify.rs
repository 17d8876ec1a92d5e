//! `otter data verify` and `otter data stats`: what is wrong is named, counted and repaired; what is there is counted.

use std::path::PathBuf;

use crate::common::{CheckpointCopy, golden, otter};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A red pixel as PNG in base64.
const RED: &str =
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg==";

/// A set with two sound records and three that are not.
struct Data(TempDir);

impl Data {
    fn new() -> Self {
        let data = Self(tempfile::tempdir().unwrap());
        data.json("images.json", &json!({"red": RED, "same": RED, "broken": "bm8gaW1hZ2U="}));
        data.json(
            "SD_instructions.json",
            &json!({"data": {
                "SD_INS_1": {"instruction": "What is it?", "answer": "A cup.", "image_ids": ["red", "same"], "rel_ins_ids": ["SD_INS_2"]},
                "SD_INS_2": {"instruction": "Was ist das und wo steht es?", "answer": "Eine Tasse.", "image_ids": ["red"], "rel_ins_ids": []},
                "SD_INS_3": {"instruction": "What is it?", "answer": "A mug.", "image_ids": ["broken"], "rel_ins_ids": []},
                "SD_INS_4": {"instruction": "What is it?", "answer": "", "image_ids": ["red"], "rel_ins_ids": []},
                "SD_INS_5": {"instruction": "What is it?", "answer": "A plate.", "image_ids": ["gone"], "rel_ins_ids": []},
            }}),
        );
        data.json(
            "SD_train.json",
            &json!({"SD_INS_1": ["SD_INS_2", "lost"], "SD_INS_2": [], "SD_INS_3": []}),
        );
        data
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn json(&self, name: &str, value: &Value) {
        std::fs::write(self.path(name), value.to_string()).unwrap();
    }

    fn verify(&self, more: &[&str]) -> crate::common::Run {
        let mut arguments = arguments![
            "data",
            "verify",
            self.path("SD_instructions.json"),
            "--images",
            self.path("images.json"),
            "--train",
            self.path("SD_train.json"),
        ]
        .to_vec();
        arguments.extend(more.iter().map(Into::into));
        otter(&arguments)
    }
}

fn counts(report: &Value) -> Vec<(String, u64)> {
    let findings = report["findings"].as_array().unwrap().iter();
    findings.map(|f| (f["reason"].as_str().unwrap().to_owned(), f["count"].as_u64().unwrap())).collect()
}

#[test]
fn golden_data_have_no_error() {
    for list in ["train_json.yaml", "populate_parquet.yaml", "resampled.yaml"] {
        for jobs in ["1", "3"] {
            let list = golden("data").join(list);
            let model = golden("data/tokenizer_llama");
            let run =
                otter(&arguments!["data", "verify", &list, "--model", &model, "--json", "--jobs", jobs]);
            let report = run.json();
            assert_eq!(report["errors"], 0);
            assert_eq!(report["samples"], report["usable_samples"]);
            assert_eq!(report["tokens_checked"], true);
        }
    }
}

#[test]
fn every_fault_is_counted_by_its_name() {
    let data = Data::new();
    let run = data.verify(&["--json"]);
    assert_eq!(run.code, Some(1), "{run:?}");
    let report: Value = serde_json::from_str(&run.stdout).unwrap();
    let expected = [
        ("missing_image", 1),
        ("bad_image", 1),
        ("empty_answer", 1),
        ("missing_context", 1),
        ("undecodable_image", 1),
        ("duplicate_image", 1),
        ("odd_image_size", 2),
        ("transparent_image", 2),
    ];
    assert_eq!(counts(&report), expected.map(|(name, count)| (name.to_owned(), count)));
    assert_eq!((&report["usable_samples"], &report["samples"]), (&json!(1), &json!(3)));
    let text = data.verify(&["--max-examples", "1"]);
    assert_eq!(text.code, Some(1));
    for part in
        ["missing_context", "lost", "1 of 3 samples can be used.", "5 errors, 5 warnings", "no tokenizer"]
    {
        assert!(text.stdout.contains(part), "no '{part}' in {}", text.stdout);
    }
    let ids: Value = serde_json::from_str(&data.verify(&["--ids-only", "--json"]).stdout).unwrap();
    assert_eq!(counts(&ids), [("missing_image".to_owned(), 1), ("missing_context".to_owned(), 1)]);
}

#[test]
fn strict_stops_at_the_first_error() {
    let data = Data::new();
    let run = data.verify(&["--strict", "--json"]);
    assert_eq!(run.code, Some(1));
    let report: Value = serde_json::from_str(&run.stdout).unwrap();
    let expected = [("undecodable_image", 1), ("odd_image_size", 2), ("transparent_image", 2)];
    assert_eq!(counts(&report), expected.map(|(name, count)| (name.to_owned(), count)));
    assert_eq!(report["stopped_early"], true);
    let run = data.verify(&["--strict", "--ids-only"]);
    assert!(run.stdout.contains("missing_image") && run.stdout.contains("SD_INS_5"), "{}", run.stdout);
    assert!(!run.stdout.contains("missing_context"), "{}", run.stdout);
}

#[test]
fn a_repaired_copy_is_sound() {
    let data = Data::new();
    for (form, out) in [("otter-dataset", "a"), ("json", "b"), ("parquet", "c")] {
        let out = data.path(out);
        let run =
            data.verify(&["--fix", "--dedupe", "--form", form, "--out", out.to_str().unwrap(), "--json"]);
        let fixed = run.json()["fixed"].clone();
        assert_eq!(
            (&fixed["records"], &fixed["images"], &fixed["contexts"]),
            (&json!(2), &json!(1), &json!(2))
        );
        let again = otter(&arguments!["data", "verify", out.join("data.yaml"), "--json"]).json();
        assert_eq!(
            (&again["errors"], &again["samples"], &again["usable_samples"]),
            (&json!(0), &json!(2), &json!(2))
        );
    }
    // The directory itself is a source.
    let directory = data.path("a").join("SD_instructions");
    let again = otter(&arguments!["data", "verify", &directory, "--json"]).json();
    assert_eq!((&again["records"], &again["sets"][0]["group"]), (&json!(2), &json!("IMAGE_TEXT_IN_CONTEXT")));
    let stats = otter(&arguments!["data", "stats", &directory, "--json"]).json();
    assert_eq!(stats["total"]["pairs"], 2);
    data.verify(&["--fix", "--out", data.path("a").to_str().unwrap()]).error(&["not empty"]);
    data.verify(&["--fix", "--out", data.path("d").to_str().unwrap(), "--form", "csv"]).usage("parquet");
    data.verify(&["--fix"]).usage("--out");
}

#[test]
fn the_page_stands_alone() {
    let data = Data::new();
    let page = data.path("report.html");
    let run = data.verify(&["--report", page.to_str().unwrap()]);
    assert_eq!(run.code, Some(1));
    let html = std::fs::read_to_string(&page).unwrap();
    assert!(html.starts_with("<!doctype html>") && html.ends_with("</html>\n"));
    assert!(!html.contains("http://") && !html.contains("https://") && !html.contains("<script"));
    for part in ["<svg", "data:image/jpeg;base64,", "undecodable_image", "Equal images", "lost"] {
        assert!(html.contains(part), "no {part}");
    }
}

#[test]
fn what_is_there_is_counted() {
    let data = Data::new();
    let source = data.path("SD_instructions.json");
    let train = data.path("SD_train.json");
    let report = otter(&arguments!["data", "stats", &source, "--train", &train, "--json"]).json();
    let total = &report["total"];
    assert_eq!(
        (&total["pairs"], &total["unique_instructions"], &total["unique_answers"]),
        (&json!(5), &json!(2), &json!(5))
    );
    assert_eq!(
        (&total["images"], &total["clips"], &total["with_context"]),
        (&json!(4), &json!(0), &json!(1))
    );
    assert_eq!(report["datasets"][0]["name"], "SD");
    let languages: Vec<&Value> =
        report["languages"].as_array().unwrap().iter().map(|row| &row["name"]).collect();
    assert_eq!(languages, [&json!("en"), &json!("de")]);
    let text = otter(&arguments!["data", "stats", golden("data/train_json.yaml")]).success().stdout;
    assert!(text.contains("TINY_VD") && text.contains("total") && text.contains("guessed"), "{text}");
}

#[test]
fn wrong_sources_are_named() {
    let data = Data::new();
    let source = data.path("SD_instructions.json");
    otter(&arguments!["data", "verify", &source, "--group", "PICTURES"]).error(&["PICTURES", "IMAGE_TEXT"]);
    otter(&arguments!["data", "verify", &source, "--group", "VIDEO_TEXT"]).error(&["VIDEO_TEXT", "--images"]);
    otter(&arguments!["data", "verify", &source, "--jobs", "0"]).error(&["--jobs"]);
    otter(&arguments!["data", "verify", "/no/such/list.yaml"]).error(&["/no/such/list.yaml"]);
    otter(&arguments!["data", "verify", "/no/such/run.toml"]).error(&["/no/such/run.toml"]);
    otter(&arguments!["data", "stats", "/no/such/file.json"]).error(&["/no/such/file.json"]);
    otter(&arguments!["data", "verify", golden("data/train_json.yaml"), "--train", &source])
        .error(&["--train"]);
    let run = otter(&arguments!["data", "verify", "/no/such/file.json", "--json"]);
    assert_eq!(run.code, Some(1));
    let report: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(counts(&report), [("unreadable_file".to_owned(), 1)]);
}

#[test]
fn empty_sets_are_an_error_and_no_command_leaves_one_behind() {
    let data = Data::new();
    data.json("empty.json", &json!({"data": {}}));
    let empty = data.path("empty.json");
    let run = otter(&arguments!["data", "verify", empty, "--json"]);
    assert_eq!(run.code, Some(1));
    let report: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(counts(&report), [("empty_set".to_owned(), 1)]);
    otter(&arguments!["data", "stats", empty]).error(&["no record"]);
    let out = data.path("out");
    otter(&arguments!["data", "convert", empty, "--to", "json", "--out", out])
        .error(&["empty.json", "no record"]);
    data.json("SD_train.json", &json!({}));
    let report: Value = serde_json::from_str(&data.verify(&["--json"]).stdout).unwrap();
    assert!(counts(&report).contains(&("empty_set".to_owned(), 1)), "{report}");

    // Nothing can be used: no copy, and the reasons.
    data.json("damaged.json", &json!({"data": {"a": {"instruction": "q", "answer": 3}, "b": ["q", "a"]}}));
    let damaged = data.path("damaged.json");
    let message = otter(&arguments!["data", "verify", damaged, "--fix", "--out", out])
        .error(&["2 [bad_record]", "`answer`"]);
    assert!(!out.exists(), "{message}");
    otter(&arguments!["data", "convert", damaged, "--to", "json", "--skip-bad", "--out", out]).error(&[
        "none of its 2 records",
        "2 [bad_record]",
        "sample a",
    ]);
    assert!(!out.join("damaged_instructions.json").exists());
    // Of two sets one is left: the other has no folder in the copy.
    std::fs::write(
        data.path("list.yaml"),
        "TEXT_ONLY:\n  bad: {mimicit_path: damaged.json}\n  good: {mimicit_path: SD_instructions.json}\n",
    )
    .unwrap();
    otter(&arguments!["data", "verify", data.path("list.yaml"), "--fix", "--out", out]).success();
    assert!(out.join("good").is_dir() && !out.join("bad").exists());
    otter(&arguments!["data", "verify", out.join("data.yaml")]).success();
}

/// Training would stop at a media item with more frames than the model has embeddings for.
#[test]
fn more_frames_than_the_model_takes_are_found() {
    let data = Data::new();
    let copy = CheckpointCopy::new("video/checkpoint", |tensors| {
        let (_, shape, rows) =
            tensors.iter_mut().find(|(name, _, _)| name == "perceiver.frame_embs").unwrap();
        rows.truncate(shape[1]);
        shape[0] = 1;
    });
    copy.edit_json("config.json", |config| config["max_num_frames"] = json!(1));
    data.json("SD_train.json", &json!({"SD_INS_1": ["SD_INS_2"], "SD_INS_2": []}));
    let model = copy.path().to_str().unwrap().to_owned();
    let found = || {
        let report: Value =
            serde_json::from_str(&data.verify(&["--json", "--model", &model]).stdout).unwrap();
        let all = report["findings"].as_array().unwrap().clone();
        all.into_iter().find(|finding| finding["reason"] == "too_many_frames")
    };
    let finding = found().unwrap();
    assert_eq!(finding["count"], 1, "{finding}");
    assert!(finding.to_string().contains("has 2 frames; the model takes 1"), "{finding}");
    copy.edit_json("config.json", |config| config["max_num_frames"] = json!(2));
    assert_eq!(found(), None);
}
