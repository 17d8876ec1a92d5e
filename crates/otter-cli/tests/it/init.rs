//! `otter init`: what it writes can be inspected and run, and wrong input is explained.

use crate::common::{golden, otter};

#[test]
fn the_published_models_are_listed_with_their_sizes() {
    let models = otter(&["init", "--list", "--json"]).json();
    let models = models.as_array().unwrap();
    let of = |name: &str| models.iter().find(|model| model["name"] == name).unwrap()["parameters"].as_u64();
    assert_eq!(of("otter-mpt7b"), Some(8_131_301_392));
    assert_eq!(of("otter-9b"), Some(8_220_463_120));
}

#[test]
fn a_new_checkpoint_generates_and_depends_on_the_seed() {
    let place = tempfile::tempdir().unwrap();
    let source = golden("llama/checkpoint");
    let mut files = Vec::new();
    for (name, seed, dtype) in [("a", "1", "f16"), ("b", "1", "f16"), ("c", "2", "f16"), ("d", "1", "bf16")] {
        let out = place.path().join(name);
        let made = otter(&arguments![
            "init",
            "--like",
            &source,
            "--out",
            &out,
            "--tokenizer",
            &source,
            "--seed",
            seed,
            "--dtype",
            dtype,
            "--shard-size",
            "500kB",
            "--json"
        ])
        .json();
        assert_eq!(made["parameters"], 990_276);
        assert_eq!(made["bytes"], 2 * 990_276);
        assert!(out.join("model.safetensors.index.json").is_file());
        let found = otter(&arguments!["inspect", &out, "--json"]).json();
        assert_eq!(found["parameters"]["total"], 990_276);
        let answer = otter(&arguments![
            "generate",
            "--model",
            &out,
            "--prompt",
            "a b c",
            "--max-new-tokens",
            "4",
            "--json"
        ])
        .json();
        assert!(!answer["token_ids"].as_array().unwrap().is_empty());
        files.push(std::fs::read(out.join("model-00001-of-00005.safetensors")).unwrap());
    }
    assert!(files[0] == files[1] && files[0] != files[2] && files[0] != files[3]);
}

#[test]
fn wrong_input_is_explained() {
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("x");
    let source = golden("llama/checkpoint");
    otter(&arguments!["init", "--like", "otter-10b", "--out", &out]).error(&["otter-10b", "otter-mpt7b"]);
    otter(&arguments![
        "init",
        "--like",
        &source,
        "--out",
        &out,
        "--tokenizer",
        &source,
        "--vocab-size",
        "300"
    ])
    .error(&["388", "300", "--vocab-size"]);
    otter(&arguments!["init", "--like", "otter-9b", "--out", &out, "--shard-size", "many"])
        .usage("shard-size");
    otter(&arguments!["init", "--out", &out]).usage("--like");
    assert!(!out.exists());
}
