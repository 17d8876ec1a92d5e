//! `otter data retrieve`: in-context examples through the command line.

use std::path::Path;

use crate::common::{golden, golden_json, otter};
use serde_json::Value;

fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn sets() -> Vec<String> {
    let names = golden_json("data/image_text_instructions.json");
    names["data"].as_object().unwrap().keys().cloned().collect()
}

#[test]
fn every_heuristic_writes_a_train_file_that_the_stream_reads() {
    let place = tempfile::tempdir().unwrap();
    let set = golden("data/image_text_instructions.json");
    for (by, more) in [
        ("text", vec![]),
        ("scene", vec![]),
        ("random", vec!["--seed".into(), "5".into()]),
        (
            "image",
            arguments![
                "--model",
                golden("llama/checkpoint"),
                "--images",
                golden("data/images.json"),
                "--pooling",
                "mean"
            ]
            .to_vec(),
        ),
    ] {
        let out = place.path().join(format!("{by}_train.json"));
        let mut line =
            arguments!["data", "retrieve", &set, "--by", by, "--k", "2", "--out", &out, "--json"].to_vec();
        line.extend(more);
        let printed = otter(&line).json();
        let written = read(&out);
        let written = written.as_object().unwrap();
        assert_eq!(printed["report"]["written"], written.len());
        let ids = sets();
        for (query, examples) in written {
            assert!(ids.contains(query));
            for example in examples.as_array().unwrap() {
                assert!(ids.iter().any(|id| example == id) && example != query, "{by}: {query} {example}");
            }
        }
        if by == "text" || by == "random" {
            assert!(written.values().filter(|examples| examples.as_array().unwrap().len() == 2).count() >= 8);
        }
        // The same command gives the same file.
        let before = std::fs::read(&out).unwrap();
        otter(&line).success();
        assert_eq!(std::fs::read(&out).unwrap(), before);
        // The stream reads it.
        let config = place.path().join("data.yaml");
        let yaml = format!(
            "IMAGE_TEXT:\n  SET:\n    mimicit_path: {}\n    images_path: {}\n    train_config_path: {}\n",
            set.display(),
            golden("data/images.json").display(),
            out.display()
        );
        std::fs::write(&config, yaml).unwrap();
        let model = golden("llama/checkpoint");
        let shown = otter(&arguments![
            "data", "show", "--config", &config, "--index", "0", "--model", &model, "--json"
        ])
        .json();
        assert_eq!(shown["context_ids"], written[shown["id"].as_str().unwrap()]);
    }
}

#[test]
fn the_plan_and_the_counts_are_printed() {
    let place = tempfile::tempdir().unwrap();
    let set = golden("data/image_text_instructions.json");
    let out = place.path().join("t.json");
    for index in ["exact", "approximate"] {
        let run =
            otter(&arguments!["data", "retrieve", &set, "--by", "text", "--index", index, "--out", &out])
                .success();
        for part in ["-> ", index, "MiB", "chosen by --index", "left out: ", "empty_instruction"] {
            assert!(run.stderr.contains(part), "no '{part}' in {}", run.stderr);
        }
        for part in ["with 10 examples", "with fewer", "turned away", "mean similarity"] {
            assert!(run.stdout.contains(part), "no '{part}' in {}", run.stdout);
        }
    }
}

#[test]
fn what_cannot_be_done_is_said() {
    let place = tempfile::tempdir().unwrap();
    let set = golden("data/image_text_instructions.json");
    let out = place.path().join("t.json");
    let retrieve = |more: &[&str]| {
        let mut line = arguments!["data", "retrieve", &set, "--out", &out].to_vec();
        line.extend(more.iter().map(Into::into));
        otter(&line)
    };
    retrieve(&["--by", "text", "--k", "0"]).error(&["between 1 and 1024"]);
    retrieve(&["--by", "image"]).error(&["--model DIR", "--embeddings"]);
    retrieve(&["--by", "image", "--model", golden("llama/checkpoint").to_str().unwrap()])
        .error(&["--images PATH"]);
    retrieve(&["--by", "text", "--text-encoder", golden("llama/checkpoint").to_str().unwrap()])
        .error(&["config.json"]);
    retrieve(&["--by", "text", "--embeddings", "x.npy", "--embedding-ids", "x.txt"]).error(&["x.npy"]);
    retrieve(&["--by", "text", "--embeddings", "x.npy"]).usage("--embedding-ids");
    retrieve(&["--by", "sound"]).usage("sound");
    retrieve(&["--by", "random", "--train-json", "absent.json"]).error(&["absent.json"]);
    let damaged = place.path().join("damaged.json");
    std::fs::write(&damaged, r#"{"data": {"a": {"instruction": "q", "ans"#).unwrap();
    otter(&arguments!["data", "retrieve", &damaged, "--by", "text", "--out", &out]).error(&["damaged.json"]);
    assert!(!out.exists());
    assert!(otter(&["data", "retrieve", "--help"]).success().stdout.contains("LACR_T2T_train.json"));
}

#[test]
fn contexts_without_examples_are_no_success() {
    let place = tempfile::tempdir().unwrap();
    let (set, out) = (place.path().join("one.json"), place.path().join("train.json"));
    std::fs::write(
        &set,
        r#"{"data": {"a": {"instruction": "q", "answer": "a"}, "b": {"instruction": "", "answer": "c"}}}"#,
    )
    .unwrap();
    let run = otter(&arguments!["data", "retrieve", set, "--by", "text", "--out", out]);
    let message = run.stderr.clone();
    assert_eq!(run.code, Some(1), "{message}");
    for part in ["got an example", "1 [empty_instruction], e.g. b"] {
        assert!(message.contains(part), "no '{part}' in {message}");
    }
    assert!(!out.exists());
}
