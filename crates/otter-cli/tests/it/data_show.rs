//! `otter data show`: samples equal those of the original, and what is wrong with data is named.

use std::path::{Path, PathBuf};

use crate::common::{Run, golden, golden_json, integers, otter, strings};
use serde_json::{Value, json};
use tempfile::TempDir;

const GROUPS: [&str; 4] = ["IMAGE_TEXT", "TEXT_ONLY", "VIDEO_TEXT", "IMAGE_TEXT_IN_CONTEXT"];

/// A training configuration whose data section asks for what the original did in a recorded run.
fn reference_configuration(place: &TempDir, run: &Value) -> PathBuf {
    let arguments = &run["args"];
    let text = format!(
        "[model]\ninit_from = {tokenizer:?}\n[train]\nrun_dir = \"unused\"\nsteps = 1\n\
         [data]\npreset = \"reference\"\nsampling = \"sequential\"\nmimicit_yaml = {yaml:?}\nimage_size = {size}\n\
         max_seq_len = {length}\nresample_frames = {frames}\npopulate_rel_ins = {populate}\nkeep_symbols = {symbols}\n\
         with_task_description = {described}\ninstruction_format = {format}\n",
        tokenizer = golden("data").join(run["tokenizer"].as_str().unwrap()),
        yaml = golden("data").join(run["yaml"].as_str().unwrap()),
        size = arguments["patch_image_size"],
        length = arguments["max_seq_len"],
        frames = arguments["resample_frames"],
        populate = arguments["populate_rel_ins"],
        symbols = arguments["keep_symbols"],
        described = arguments["with_task_description"],
        format = arguments["instruction_format"],
    );
    let file = place.path().join("run.toml");
    std::fs::write(&file, text).unwrap();
    file
}

fn show(config: &Path, index: usize, more: &[&str]) -> Run {
    let mut arguments =
        arguments!["data", "show", "--json", "--config", config, "--index", index.to_string()].to_vec();
    arguments.extend(more.iter().map(Into::into));
    otter(&arguments)
}

/// Compares every sample of a recorded run.
fn compare(name: &str) {
    let run = golden_json(&format!("data/expected/{name}.json"));
    let place = tempfile::tempdir().unwrap();
    let config = reference_configuration(&place, &run);
    let mut index = 0;
    for group in GROUPS {
        let expected = &run["groups"][group];
        let mut of_group: Vec<Value> = Vec::new();
        for (id, item) in
            strings(&expected["train_data_list"]).iter().zip(expected["items"].as_array().unwrap())
        {
            let sample = show(&config, index, &[]).json();
            assert_eq!(sample["group"], group);
            assert_eq!(sample["id"], *id);
            assert_eq!(sample["text"], item["full_text"], "{id}");
            assert_eq!(sample["context_ids"], expected["train_config"][id], "{id}");
            assert_eq!(integers(&sample["input_ids"]).len() as u64, item["num_tokens"].as_u64().unwrap());
            of_group.push(sample);
            index += 1;
        }
        let mut compared = 0;
        for batch in expected["batches"].as_array().unwrap() {
            for (row, position) in integers(&batch["indices"]).into_iter().enumerate() {
                let sample = &of_group[position as usize];
                let ids = integers(&sample["input_ids"]);
                // Rows of a batch are padded on the right.
                let cut = |key: &str| integers(&batch[key][row])[..ids.len()].to_vec();
                assert_eq!(ids, cut("input_ids"), "{name} {}", sample["id"]);
                // Runs for Fuyu have no labels.
                if !batch["labels"].is_null() {
                    assert_eq!(integers(&sample["labels"]), cut("labels"), "{name} {}", sample["id"]);
                }
                let mask = integers(&batch["attention_masks"][row]);
                assert_eq!(mask.iter().sum::<i64>() as usize, ids.len());
                compared += 1;
            }
        }
        assert!(compared > 0, "{name} {group}");
    }
    let beyond = format!("the data has {index} ");
    show(&config, index, &[]).error(&[&format!("--index {index}"), &beyond]);
}

#[test]
fn reference_samples_equal_the_original() {
    compare("simple_llama");
}

#[test]
fn reference_samples_equal_the_original_when_truncated() {
    compare("simple_llama_truncated");
}

#[test]
fn reference_samples_equal_the_original_in_the_llama2_format() {
    compare("llama2_llama");
}

#[test]
fn reference_samples_equal_the_original_in_the_formats_of_idefics_and_fuyu() {
    compare("idefics_idefics");
    compare("fuyu_llama");
}

#[test]
fn a_yaml_list_needs_a_model_and_takes_no_overrides() {
    let list = golden("data/train_json.yaml");
    let tokenizer = golden("data/tokenizer_llama");
    let model = ["--model", tokenizer.to_str().unwrap()];
    let sample = show(&list, 0, &model).json();
    assert_eq!(sample["id"], "IT_0");
    assert_eq!(sample["images"][0][0], json!({"id": "IMG_00", "width": 120, "height": 80}));
    show(&list, 0, &[]).error(&["no tokenizer", "--model"]);
    show(&list, 0, &[model[0], model[1], "data.max_seq_len=9"]).error(&["data.max_seq_len=9", "TOML"]);
    show(Path::new("/no/such/list.yaml"), 0, &model).error(&["/no/such/list.yaml"]);
    show(Path::new("/no/such/run.toml"), 0, &model).error(&["/no/such/run.toml"]);
    show(&list, 0, &["--model", golden("images").to_str().unwrap()]).error(&["images", "no tokenizer"]);
}

/// The trained part of the text is what a person reads in double brackets.
#[test]
fn the_text_form_marks_what_is_trained() {
    let arguments = arguments![
        "data",
        "show",
        "--config",
        golden("data/train_json.yaml"),
        "--index",
        "0",
        "--model",
        golden("data/tokenizer_llama"),
    ];
    let text = otter(&arguments).success().stdout;
    assert!(text.contains("[[The boat is red.<|endofchunk|></s>]]"), "{text}");
    assert!(text.contains("IMG_00 (120 x 80)"), "{text}");
    let line = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    let list = |name: &str| integers(&serde_json::from_str(&line(name)).unwrap());
    let (ids, labels) = (list("ids"), list("labels"));
    assert_eq!(ids.len(), labels.len());
    let trained = labels.iter().filter(|&&label| label != -100).count();
    assert_eq!(line("tokens"), format!("{}, {trained} of them trained", ids.len()));
    assert!(ids.iter().zip(&labels).all(|(id, label)| label == id || *label == -100));
}

/// A small data set of the test's own.
struct Data(TempDir);

impl Data {
    /// One set with these instruction records and, if given, a train file.
    fn new(group: &str, records: &Value, train: Option<&Value>) -> Self {
        let data = Self(tempfile::tempdir().unwrap());
        data.write("instructions.json", &json!({"meta": {}, "data": records}).to_string());
        // A red pixel as PNG in base64.
        let red = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg==";
        data.write(
            "images.json",
            &json!({"red": red, "broken": "bm8gaW1hZ2U=", "no base64": "***"}).to_string(),
        );
        let mut list = format!(
            "{group}:\n  SMALL:\n    mimicit_path: instructions.json\n    images_path: images.json\n    num_samples: -1\n"
        );
        if let Some(train) = train {
            data.write("train.json", &train.to_string());
            list.push_str("    train_config_path: train.json\n");
        }
        data.write("list.yaml", &list);
        data
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn show(&self, index: usize) -> Run {
        show(&self.path("list.yaml"), index, &["--model", golden("data/tokenizer_llama").to_str().unwrap()])
    }
}

fn record(images: &[&str]) -> Value {
    json!({"instruction": "What is it?", "answer": "A cup.", "image_ids": images, "rel_ins_ids": []})
}

#[test]
fn a_sound_data_set_of_ones_own() {
    let records = json!({"a": record(&["red"]), "b": record(&["red"])});
    let data = Data::new("IMAGE_TEXT_IN_CONTEXT", &records, Some(&json!({"a": ["b"], "b": []})));
    let sample = data.show(0).json();
    assert_eq!(sample["text"], "<image>User:What is it? GPT:<answer>A cup.<|endofchunk|>".repeat(2));
    assert_eq!(strings(&sample["context_ids"]), ["b"]);
    // Each turn shows the image of its own record.
    assert_eq!(sample["images"].as_array().unwrap().len(), 2);
    let images = integers(&sample["input_ids"]).iter().filter(|&&id| id == 385).count();
    assert_eq!(images, 2);
}

#[test]
fn ids_that_lead_nowhere_are_named() {
    let data = Data::new("IMAGE_TEXT", &json!({"a": record(&["blue"])}), None);
    data.show(0).error(&["blue", "sample a", "instructions.json", "missing_image"]);
    let data = Data::new("IMAGE_TEXT", &json!({"a": record(&[])}), None);
    data.show(0).error(&["sample a", "instructions.json", "no_images"]);

    let train = json!({"a": ["gone"]});
    let data = Data::new("IMAGE_TEXT_IN_CONTEXT", &json!({"a": record(&["red"])}), Some(&train));
    data.show(0).error(&["gone", "sample a", "missing_context"]);
    let train = json!({"gone": []});
    let data = Data::new("IMAGE_TEXT_IN_CONTEXT", &json!({"a": record(&["red"])}), Some(&train));
    data.show(0).error(&["gone", "missing_instruction"]);

    for id in ["broken", "no base64"] {
        let data = Data::new("IMAGE_TEXT", &json!({"a": record(&[id])}), None);
        data.show(0).error(&[id, "sample a", "bad_image"]);
    }
}

#[test]
fn records_and_files_of_another_form_are_named() {
    let mut wrong = record(&["red"]);
    wrong["answer"] = json!(7);
    let data = Data::new("IMAGE_TEXT", &json!({"a": wrong}), None);
    data.show(0).error(&["sample a", "answer", "bad_record"]);

    let data = Data::new("IMAGE_TEXT", &json!({"a": record(&["red"])}), None);
    for text in ["", "{\"data\": {\"a\": ", "[]", "{\"dat\": {}}"] {
        data.write("instructions.json", text);
        data.show(0).error(&["instructions.json"]);
    }
    let data = Data::new("IMAGE_TXT", &json!({"a": record(&["red"])}), None);
    data.show(0).error(&["list.yaml", "IMAGE_TXT", "IMAGE_TEXT"]);
    let data = Data::new("IMAGE_TEXT", &json!({"a": record(&["red"])}), None);
    std::fs::remove_file(data.path("images.json")).unwrap();
    data.show(0).error(&["images.json"]);
    data.write("list.yaml", "IMAGE_TEXT: [1, 2\n");
    data.show(0).error(&["list.yaml"]);
    let data = Data::new("IMAGE_TEXT", &json!({}), None);
    assert_eq!(data.show(0).code, Some(1));
}

#[test]
fn overrides_and_unknown_keys() {
    let run = golden_json("data/expected/simple_llama.json");
    let place = tempfile::tempdir().unwrap();
    let config = reference_configuration(&place, &run);
    let length = |more: &[&str]| integers(&show(&config, 0, more).json()["input_ids"]).len();
    assert_eq!(length(&["data.max_seq_len=24"]), 26);
    assert!(length(&[]) > 26);
    show(&config, 0, &["data.max_seq_length=24"]).error(&["data.max_seq_length", "data.max_seq_len"]);
    show(&config, 0, &["data.max_seq_len=many"]).error(&["max_seq_len"]);
    show(&config, 0, &["data.preset=original"]).error(&["preset", "reference"]);
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("keep_symbols", "keep_symbol")).unwrap();
    show(&config, 0, &[]).error(&["run.toml", "keep_symbol", "data.keep_symbols"]);
}
