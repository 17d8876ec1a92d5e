//! Samples and batches equal those of the original, token by token.

use crate::common::{golden, json, tokenizer};
use otter_data::{
    Batch, ConvertOptions, DataConfig, Dataset, Group, ImageTransform, InstructionFormat, OutputForm, Preset,
    Sampling, clean_answer, clean_question, convert_set, output_paths, resample_frames, resample_positions,
};
use safetensors::SafeTensors;
use serde_json::Value;

fn strings(value: &Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(|item| item.as_str().unwrap()).collect()
}

fn rows<T>(value: &Value, convert: impl Fn(&Value) -> T) -> Vec<Vec<T>> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row.as_array().unwrap().iter().map(&convert).collect())
        .collect()
}

fn assert_rows(batch: &Batch, expected: &Value, what: &str) {
    let ids = rows(&expected["input_ids"], |id| id.as_u64().unwrap() as u32);
    // Runs for Fuyu have none: its own processor made them.
    let labels = expected.get("labels").filter(|labels| !labels.is_null());
    let labels = labels.map(|labels| rows(labels, |id| id.as_i64().unwrap()));
    let mask = rows(&expected["attention_masks"], |id| id.as_u64().unwrap() == 1);
    for (row, expected) in ids.iter().enumerate() {
        assert_eq!(batch.text.ids[batch.text.row(row)], *expected, "{what}: ids of row {row}");
        if let Some(labels) = &labels {
            assert_eq!(batch.labels[batch.text.row(row)], labels[row], "{what}: labels of row {row}");
        }
        assert_eq!(batch.text.attention_mask[batch.text.row(row)], mask[row], "{what}: mask of row {row}");
    }
    assert_eq!(batch.text.batch, ids.len());
}

fn reference_config(args: &Value, yaml: &str) -> DataConfig {
    DataConfig {
        mimicit_yaml: Some(golden("data").join(yaml)),
        preset: Preset::Reference,
        sampling: Some(Sampling::Sequential),
        image_size: args["patch_image_size"].as_u64().unwrap() as usize,
        max_seq_len: args["max_seq_len"].as_u64().unwrap() as usize,
        resample_frames: args["resample_frames"].as_u64().unwrap() as usize,
        populate_rel_ins: args["populate_rel_ins"].as_bool().unwrap(),
        keep_symbols: Some(args["keep_symbols"].as_bool().unwrap()),
        with_task_description: Some(args["with_task_description"].as_bool().unwrap()),
        instruction_format: serde_json::from_value(args["instruction_format"].clone()).unwrap(),
        image_transform: (args["model_name"] == "idefics").then_some(ImageTransform::Idefics),
        ..DataConfig::default()
    }
}

/// Compares one run; returns how many batches had their pixels compared.
fn compare(run: &str) -> usize {
    let expected = json(&format!("data/expected/{run}.json"));
    compare_with(run, reference_config(&expected["args"], expected["yaml"].as_str().unwrap()))
}

/// Compares one run after its data sets were converted to another form.
fn compare_converted(run: &str, form: OutputForm) {
    let expected = json(&format!("data/expected/{run}.json"));
    let mut config = reference_config(&expected["args"], expected["yaml"].as_str().unwrap());
    let place = tempfile::tempdir().unwrap();
    config.sets = config.resolved_sets().unwrap();
    config.mimicit_yaml = None;
    for (number, set) in config.sets.iter_mut().enumerate() {
        let directory = place.path().join(number.to_string());
        let options = ConvertOptions { only_referenced: number == 0, ..ConvertOptions::default() };
        let converted = convert_set(set, form, &directory, "SET", &options, &mut |_| {}).unwrap();
        assert!(converted.written.records > 0);
        if form == OutputForm::OtterDataset {
            set.dataset = Some(directory);
            (set.instructions, set.images, set.train) = Default::default();
        } else {
            let [instructions, images, train] = output_paths(form, &directory, "SET").try_into().unwrap();
            assert_eq!(images.exists(), set.images.is_some());
            set.instructions = instructions;
            set.images = set.images.as_ref().map(|_| images);
            set.train = set.train.as_ref().map(|_| train);
        }
    }
    compare_with(run, config);
}

fn compare_with(run: &str, config: DataConfig) -> usize {
    let expected = json(&format!("data/expected/{run}.json"));
    let tokenizer = tokenizer(expected["tokenizer"].as_str().unwrap());
    let dataset = Dataset::open(&config, tokenizer.clone()).unwrap();
    let pixel_file = std::fs::read(golden(&format!("data/expected/{run}.safetensors"))).ok();
    let pixel_file = pixel_file.as_deref().map(|bytes| SafeTensors::deserialize(bytes).unwrap());
    let special = tokenizer.special();
    let mut pixels_compared = 0;
    let mut groups_compared = 0;
    for group in Group::ALL {
        let Some(expected) = expected["groups"].get(group.name()) else { continue };
        groups_compared += 1;
        let samples: Vec<_> = (0..dataset.len())
            .map(|index| dataset.sample(index).unwrap())
            .filter(|sample| sample.group == group)
            .collect();
        let ids: Vec<_> = samples.iter().map(|sample| sample.id.as_str()).collect();
        assert_eq!(ids, strings(&expected["train_data_list"]), "{run} {}", group.name());
        for (sample, item) in samples.iter().zip(expected["items"].as_array().unwrap()) {
            assert_eq!(sample.text, item["full_text"].as_str().unwrap());
            assert_eq!(sample.input_ids.len() as u64, item["num_tokens"].as_u64().unwrap());
            let frames: usize = sample.media.iter().map(|item| item.frames.len()).sum();
            let expected_frames = item["patch_images_shape"][1].as_u64().unwrap() as usize;
            assert_eq!(frames, if group == Group::TextOnly { 0 } else { expected_frames }, "{}", sample.id);
        }
        for (number, expected) in expected["batches"].as_array().unwrap().iter().enumerate() {
            let what = format!("{run} {} batch {number}", group.name());
            let indices = expected["indices"].as_array().unwrap();
            let chosen: Vec<_> =
                indices.iter().map(|i| samples[i.as_u64().unwrap() as usize].clone()).collect();
            let batch = Batch::collate(chosen.clone(), special, config.image_size);
            assert_rows(&batch, expected, &what);
            if let Some(key) = expected.get("patch_images_key") {
                let tensor = pixel_file.as_ref().unwrap().tensor(key.as_str().unwrap()).unwrap();
                let expected: Vec<f32> = tensor
                    .data()
                    .chunks_exact(4)
                    .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
                    .collect();
                let ours: Vec<f32> = chosen
                    .iter()
                    .flat_map(|sample| &sample.media)
                    .flat_map(|item| &item.frames)
                    .flat_map(|frame| frame.pixels.iter().copied())
                    .collect();
                assert_eq!(ours.len(), expected.len(), "{what}");
                let worst = ours.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                // The two JPEG files of the set: decoders differ by a level or two.
                let lossy = |sample: &otter_data::Sample| {
                    sample.image_ids().concat().iter().any(|id| id == "IMG_07" || id == "IMG_08")
                };
                let allowed = if chosen.iter().any(lossy) { 0.05 } else { 1e-5 };
                assert!(worst <= allowed, "{what}: pixels differ by {worst}");
                // The batch holds the same pictures, each once.
                let plane = 3 * config.image_size * config.image_size;
                let from_batch: Vec<f32> = batch
                    .media_slots
                    .iter()
                    .flatten()
                    .flat_map(|&slot| batch.media_frames[slot].clone())
                    .flat_map(|frame| batch.pixels[frame * plane..(frame + 1) * plane].iter().copied())
                    .collect();
                assert_eq!(from_batch, ours);
                pixels_compared += 1;
            }
        }
    }
    assert!(groups_compared > 0);
    pixels_compared
}

#[test]
fn simple_llama() {
    assert!(compare("simple_llama") > 0);
}

#[test]
fn simple_llama_keep_symbols() {
    compare("simple_llama_keep_symbols");
}

#[test]
fn simple_llama_resampled() {
    compare("simple_llama_resampled");
}

#[test]
fn simple_llama_truncated() {
    compare("simple_llama_truncated");
}

#[test]
fn llama2_llama() {
    compare("llama2_llama");
}

#[test]
fn idefics_with_its_own_processor() {
    assert!(compare("idefics_idefics") > 0);
}

/// The run with Otter's own pixels (`idefics_format_otter_norm`) has the tokens of the one before and the pixels of
/// `simple_llama`.
#[test]
fn idefics_with_the_pixels_of_otter() {
    let open = |run: &str| {
        let expected = json(&format!("data/expected/{run}.json"));
        let mut config = reference_config(&expected["args"], expected["yaml"].as_str().unwrap());
        config.image_transform = None;
        Dataset::open(&config, tokenizer(expected["tokenizer"].as_str().unwrap())).unwrap()
    };
    let (idefics, simple) = (open("idefics_idefics"), open("simple_llama"));
    let own = |dataset: &Dataset, index| dataset.sample(index).unwrap();
    assert_eq!(idefics.len(), simple.len());
    for index in 0..simple.len() {
        assert_eq!(own(&idefics, index).media, own(&simple, index).media);
    }
}

#[test]
fn fuyu_llama() {
    compare("fuyu_llama");
    // Trained are the answers, in context or not, and the end of text.
    let expected = json("data/expected/fuyu_llama.json");
    let config = reference_config(&expected["args"], expected["yaml"].as_str().unwrap());
    let tokenizer = tokenizer("tokenizer_llama");
    let dataset = Dataset::open(&config, tokenizer.clone()).unwrap();
    let sample =
        (0..dataset.len()).map(|index| dataset.sample(index).unwrap()).find(|s| s.id == "IT_0").unwrap();
    let trained = |state| {
        let runs = sample.labeled_text(&tokenizer).unwrap().into_iter();
        runs.filter(|run| run.0 == state).map(|run| run.1).collect::<Vec<_>>()
    };
    assert_eq!(trained(true), ["two cats and one dog", "The boat is red.</s>"]);
    assert!(trained(false)[1].contains("What is the color of the boat? Assistant:"));
}

#[test]
fn simple_mpt() {
    compare("simple_mpt");
}

#[test]
fn simple_mpt_two_sets() {
    compare("simple_mpt_two_sets");
}

#[test]
fn simple_mpt_populate_parquet_task_description() {
    assert!(compare("simple_mpt_populate_parquet_taskdesc") > 0);
}

#[test]
fn samples_stay_the_same_in_every_form() {
    for form in OutputForm::ALL {
        for run in ["simple_llama", "simple_mpt_two_sets", "simple_mpt_populate_parquet_taskdesc"] {
            compare_converted(run, form);
        }
    }
}

#[test]
fn text_functions_and_draws() {
    let expected = json("data/expected/functions.json");
    for case in expected["clean_text"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        assert_eq!(clean_question(text, true), case["question_keep"], "{text:?}");
        assert_eq!(clean_question(text, false), case["question_strip"], "{text:?}");
        assert_eq!(clean_answer(text, true), case["answer_keep"], "{text:?}");
        assert_eq!(clean_answer(text, false), case["answer_strip"], "{text:?}");
    }
    let pair = |key: &str| {
        let (a, b) = key.split_once(',').unwrap();
        (a.parse::<usize>().unwrap(), b.parse::<i64>().unwrap())
    };
    for (key, list) in expected["resample_data"].as_object().unwrap() {
        let (length, wanted) = pair(key);
        let ours: Vec<_> = resample_positions(length, wanted).iter().map(|i| format!("k{i}")).collect();
        assert_eq!(ours, strings(list), "{key}");
    }
    for (key, list) in expected["resample_frames"].as_object().unwrap() {
        let (length, wanted) = pair(key);
        let list: Vec<_> = list.as_array().unwrap().iter().map(|i| i.as_u64().unwrap() as usize).collect();
        assert_eq!(resample_frames(length, wanted as usize), list, "{key}");
    }
}

#[test]
fn templates() {
    use otter_data::prompt::{Placeholder, pieces_text, turn_pieces};
    let expected = json("data/expected/functions.json");
    let mut compared = 0;
    for case in expected["format_text"].as_array().unwrap() {
        let format: InstructionFormat = serde_json::from_value(case["format"].clone()).unwrap();
        let placeholder =
            match (case["insert_image"].as_bool().unwrap(), case["is_text_only"].as_bool().unwrap()) {
                (true, false) => Placeholder::Images(1),
                (true, true) => Placeholder::Images(0),
                (false, _) => Placeholder::Absent,
            };
        let pieces = turn_pieces(format, placeholder, "INS".into(), "ANS".into());
        assert_eq!(pieces_text(&pieces), case["out"].as_str().unwrap());
        compared += 1;
    }
    assert_eq!(compared, 16);
}
