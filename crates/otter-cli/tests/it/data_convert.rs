//! `otter data convert` with the real binary.

use std::collections::BTreeMap;
use std::path::Path;

use crate::common::{Run, golden, otter};
use otter_data::ImageTable;
use serde_json::{Value, json};

const FORMS: [&str; 5] = ["otter-dataset", "json", "parquet", "folder", "tar"];

fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn convert(source: &Path, form: &str, out: &Path, more: &[&str]) -> Run {
    let mut arguments = arguments!["data", "convert", source, "--to", form, "--out", out, "--json"].to_vec();
    arguments.extend(more.iter().map(Into::into));
    otter(&arguments)
}

/// Samples of a data list, as `data show` gives them.
fn samples(list: &Path, indices: &[usize]) -> Vec<Value> {
    let model = golden("data/tokenizer_llama");
    let show = |index: &usize| {
        otter(&arguments![
            "data",
            "show",
            "--json",
            "--config",
            list,
            "--model",
            &model,
            "--index",
            index.to_string()
        ])
        .json()
    };
    indices.iter().map(show).collect()
}

#[test]
fn a_list_gives_the_same_samples_in_every_form() {
    let list = golden("data/train_json.yaml");
    let indices = [0, 4, 9, 13];
    let expected = samples(&list, &indices);
    let place = tempfile::tempdir().unwrap();
    for form in FORMS {
        let out = place.path().join(form);
        let summary = convert(&list, form, &out, &["--only-referenced"]).json();
        assert_eq!(summary["form"], form);
        assert!(summary["sets"].as_array().unwrap().len() > 1);
        assert!(summary["sets"].as_array().unwrap().iter().all(|set| set["skipped"] == json!({})));
        assert_eq!(samples(&out.join("data.yaml"), &indices), expected, "{form}");
    }
}

#[test]
fn json_to_any_form_and_back_is_the_same() {
    let place = tempfile::tempdir().unwrap();
    let source = golden("data/in_context_instructions.json");
    let images = golden("data/images.json");
    let train = golden("data/in_context_train.json");
    let given = ["--images", images.to_str().unwrap(), "--train", train.to_str().unwrap(), "--name", "SET"];
    for form in FORMS {
        let there = place.path().join(form);
        convert(&source, form, &there, &given).success();
        let back = place.path().join(format!("{form} back"));
        if form == "otter-dataset" {
            convert(&there, "json", &back, &[]).success();
        } else {
            let image_name = match form {
                "json" => "SET.json".to_owned(),
                "folder" => "SET".to_owned(),
                other => format!("SET.{other}"),
            };
            let images = there.join(image_name);
            let train = there.join("SET_train.json");
            let given = ["--images", images.to_str().unwrap(), "--train", train.to_str().unwrap()];
            convert(&there.join("SET_instructions.json"), "json", &back, &given).success();
        }
        let records = |value: Value| value["data"].as_object().unwrap().clone();
        let (expected, found) = (records(read(&source)), records(read(&back.join("SET_instructions.json"))));
        assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{form}");
        assert_eq!(found, expected, "{form}");
        let found = read(&back.join("SET_train.json"));
        assert_eq!(found, read(&train), "{form}");
        assert_eq!(
            found.as_object().unwrap().keys().collect::<Vec<_>>(),
            read(&train).as_object().unwrap().keys().collect::<Vec<_>>()
        );
        // The source has both alphabets of base64; what counts are the bytes.
        let decoded = |path: &Path| {
            let table = ImageTable::open(path, 0).unwrap();
            let image = |entry| (table.id(entry).unwrap().into_owned(), table.encoded_entry(entry).unwrap());
            (0..table.len()).map(image).collect::<BTreeMap<_, _>>()
        };
        assert!(decoded(&back.join("SET.json")) == decoded(&images), "{form}");
    }
}

#[test]
fn what_cannot_be_converted_is_named() {
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("out");
    let source = place.path().join("A_instructions.json");
    let images = place.path().join("A.json");
    let record = json!({"instruction": "q", "answer": "a", "image_ids": ["x"], "rel_ins_ids": []});
    std::fs::write(&source, json!({"data": {"good": record, "wrong": {"instruction": 1}}}).to_string())
        .unwrap();
    std::fs::write(
        &images,
        json!({"x": "iVBORw0KGgo=", "y": "iVBORw0KGgo=", "../z": "iVBORw0KGgo=", "bad": "*"}).to_string(),
    )
    .unwrap();
    let given = ["--images", images.to_str().unwrap()];
    convert(&source, "otter-dataset", &out, &[]).error(&["wrong", "A_instructions.json", "bad_record"]);
    convert(&source, "tar", &out, &given).error(&["../z"]);
    assert!(std::fs::read_dir(&out).unwrap().next().is_none(), "nothing half-written stays");

    let run = convert(&source, "otter-dataset", &out, &[given[0], given[1], "--skip-bad"]).json();
    assert_eq!(run["sets"][0]["records"], 1);
    assert_eq!(run["sets"][0]["skipped"]["bad_record"], 1);
    assert!(run["sets"][0]["examples"][0].as_str().unwrap().contains("wrong"));
    convert(&source, "otter-dataset", &out, &["--skip-bad"]).error(&["manifest.json", "already"]);
    convert(&out, "otter-dataset", &out, &["--overwrite"]).error(&["out"]);
    let more = [given[0], given[1], "--skip-bad", "--overwrite", "--only-referenced"];
    let run = convert(&source, "otter-dataset", &out, &more).json();
    assert_eq!((&run["sets"][0]["images"], &run["sets"][0]["unreferenced_images"]), (&json!(1), &json!(3)));

    convert(&source, "zip", &out, &[]).usage("otter-dataset, json, parquet, folder, tar");
    convert(&source, "json", &out, &["--shard-size", "5GB"]).error(&["5000000000", "2 GiB"]);
    convert(&golden("data/train_json.yaml"), "json", &out, &["--set", "NONE"])
        .error(&["NONE", "train_json.yaml"]);
    convert(&golden("data/train_json.yaml"), "json", &out, &["--name", "X"]).error(&["--name", "--set"]);
    convert(&golden("data/train_json.yaml"), "json", &out, &given).error(&["--images"]);
    convert(Path::new("/no/such.json"), "json", &out, &[]).error(&["/no/such.json"]);
}

/// Inside a group a set may use the images of another; weights and the like stay in the list.
#[test]
fn images_that_another_set_of_the_group_names_stay() {
    let place = tempfile::tempdir().unwrap();
    let record =
        |image: &str| json!({"instruction": "q", "answer": "a", "image_ids": [image], "rel_ins_ids": []});
    for (name, image) in [("a", "x"), ("b", "y")] {
        std::fs::write(
            place.path().join(format!("{name}.json")),
            json!({"data": {name: record(image)}}).to_string(),
        )
        .unwrap();
    }
    let images = json!({"x": "aGk=", "y": "aGk=", "z": "aGk="});
    std::fs::write(place.path().join("images.json"), images.to_string()).unwrap();
    let list = place.path().join("list.yaml");
    let entry = |name: &str| {
        format!("  {name}:\n    mimicit_path: {name}.json\n    images_path: images.json\n    weight: 2.5\n")
    };
    std::fs::write(&list, format!("IMAGE_TEXT:\n{}{}", entry("a"), entry("b"))).unwrap();
    for more in [&["--only-referenced"][..], &["--only-referenced", "--set", "a"]] {
        let out = place.path().join(format!("out {}", more.len()));
        let summary = convert(&list, "json", &out, more).json();
        assert_eq!(
            (&summary["sets"][0]["images"], &summary["sets"][0]["unreferenced_images"]),
            (&json!(2), &json!(1))
        );
        let written = std::fs::read_to_string(out.join("data.yaml")).unwrap();
        assert!(written.contains("weight: 2.5"), "{written}");
    }
}

#[test]
fn a_set_whose_own_images_no_record_names_is_converted() {
    let place = tempfile::tempdir().unwrap();
    let write = |name: &str, text: String| std::fs::write(place.path().join(name), text).unwrap();
    let images: Value =
        serde_json::from_str(&std::fs::read_to_string(golden("data/images.json")).unwrap()).unwrap();
    let encoded = images.as_object().unwrap().values().next().unwrap();
    for name in ["a", "b"] {
        let record = json!({"instruction": "q", "answer": "a", "image_ids": ["x"], "rel_ins_ids": []});
        write(&format!("{name}.json"), json!({"data": {name: record}}).to_string());
    }
    write("ia.json", json!({"spare": encoded}).to_string());
    write("ib.json", json!({"x": encoded}).to_string());
    let entry = |name: &str| format!("  {name}: {{mimicit_path: {name}.json, images_path: i{name}.json}}\n");
    let list = place.path().join("list.yaml");
    write("list.yaml", format!("IMAGE_TEXT:\n{}{}", entry("a"), entry("b")));
    for form in FORMS {
        let out = place.path().join(form);
        let summary = convert(&list, form, &out, &["--only-referenced"]).json();
        assert_eq!(summary["sets"][0]["unreferenced_images"], json!(1), "{form}");
        let config = otter_data::DataConfig {
            mimicit_yaml: Some(out.join("data.yaml")),
            ..otter_data::DataConfig::default()
        };
        let report = otter_data::verify::verify(
            &config,
            None,
            &otter_data::verify::VerifyOptions::default(),
            &mut |_| {},
        );
        let report = report.unwrap();
        assert!(report.is_clean(), "{form}: {:?}", report.findings);
        assert_eq!((report.records, report.images), (2, 1), "{form}");
    }
    // Bytes that are no image get no file.
    write("ib.json", json!({"x": "bm8gaW1hZ2U="}).to_string());
    let (records, images) = (place.path().join("b.json"), place.path().join("ib.json"));
    for form in ["folder", "tar"] {
        let out = place.path().join(format!("no image {form}"));
        convert(&records, form, &out, &["--images", images.to_str().unwrap()])
            .error(&["x of ", "neither a PNG"]);
        convert(&records, form, &out, &["--images", images.to_str().unwrap(), "--skip-bad"]).error(&[
            "ib.json",
            "none of its 1 images",
            "[bad_image]",
        ]);
    }
}
