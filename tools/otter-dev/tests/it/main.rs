//! The real `otter-dev`.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use clap::Parser;
use otter_data::{DataConfig, Dataset, Sample};
use serde_json::{Value, json};

fn otter_dev(arguments: &[OsString]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_otter-dev")).args(arguments).output().unwrap()
}

/// A sample of a data list.
fn sample(list: &Path, index: usize) -> Sample {
    let tokenizer = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/data/tokenizer_llama");
    let mut config = DataConfig { mimicit_yaml: Some(list.to_path_buf()), ..DataConfig::default() };
    config.resolve(Path::new(""));
    let tokenizer = Arc::new(otter_checkpoint::load_tokenizer(&tokenizer).unwrap());
    Dataset::open(&config, tokenizer).unwrap().sample(index).unwrap()
}

#[test]
fn a_synthetic_set_is_made_converted_and_shown() {
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("synthetic");
    let mut arguments: Vec<OsString> =
        "synthesize --pairs 5000 --images 200 --json --seed 9 --out".split(' ').map(Into::into).collect();
    arguments.push(out.clone().into());
    let made = otter_dev(&arguments);
    assert!(made.status.success(), "{made:?}");
    let made: Value = serde_json::from_slice(&made.stdout).unwrap();
    assert_eq!((&made["records"], &made["images"]), (&json!(5000), &json!(200)));
    let again = otter_dev(&arguments);
    assert_eq!((again.status.code(), again.stdout.as_slice()), (Some(1), &b""[..]));
    let said = String::from_utf8(again.stderr).unwrap();
    assert!(
        said.starts_with("error: ") && said.contains("manifest.json") && said.contains("already"),
        "{said}"
    );

    let list = place.path().join("list.yaml");
    std::fs::write(&list, "IMAGE_TEXT_IN_CONTEXT:\n  SYN:\n    mimicit_path: synthetic\n").unwrap();
    let shown = sample(&list, 17);
    assert!(shown.id.starts_with("SYN_INS_"));
    let tar = place.path().join("tar");
    let convert = [
        "otter".into(),
        "data".into(),
        "convert".into(),
        out.into_os_string(),
        "--to".into(),
        "tar".into(),
        "--group".into(),
        "IMAGE_TEXT_IN_CONTEXT".into(),
        "--out".into(),
        tar.clone().into_os_string(),
    ];
    otter_cli::commands::run(otter_cli::arguments::Arguments::parse_from(convert)).unwrap();
    let converted = sample(&tar.join("data.yaml"), 17);
    assert_eq!((&converted.id, &converted.context_ids), (&shown.id, &shown.context_ids));
    assert_eq!((&converted.input_ids, &converted.labels), (&shown.input_ids, &shown.labels));
    assert_eq!(converted.media, shown.media);
}

#[test]
fn the_rows_of_the_benchmark_have_floors() {
    let rows = otter_dev(
        &"bench --preset toybox --only prefill,decode --tokens 8 --new-tokens 3 --repeats 1 --json"
            .split(' ')
            .map(Into::into)
            .collect::<Vec<_>>(),
    );
    assert!(rows.status.success(), "{rows:?}");
    let rows: Value = serde_json::from_slice(&rows.stdout).unwrap();
    let rows = rows["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 2);
}
