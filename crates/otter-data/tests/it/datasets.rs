//! The repaired behavior: media layout, truncation, forged tokens, bad samples, sources, loader.

use std::path::Path;
use std::sync::Arc;

use crate::common::{golden, tokenizer};
use base64::Engine;
use otter_data::{
    Batch, DataConfig, DataError, Dataset, Group, ImageNote, ImageTable, ImagesOfRecord, InContextImages,
    Loader, LoaderOptions, OnBadSample, Packing, Preset, Rank, Sample, SetConfig, SkipReason,
};

fn set(group: Group, instructions: &str, images: Option<&str>, train: Option<&str>) -> SetConfig {
    SetConfig {
        name: String::new(),
        group,
        dataset: None,
        instructions: golden("data").join(instructions),
        images: images.map(|name| golden("data").join(name)),
        train: train.map(|name| golden("data").join(name)),
        num_samples: 0,
        weight: None,
        task_description: Vec::new(),
        languages: Vec::new(),
    }
}

fn small_config(sets: Vec<SetConfig>) -> DataConfig {
    DataConfig { image_size: 28, resample_frames: 4, sets, ..DataConfig::default() }
}

fn all_groups() -> Vec<SetConfig> {
    vec![
        set(
            Group::ImageText,
            "image_text_instructions.json",
            Some("images.json"),
            Some("image_text_train.json"),
        ),
        set(
            Group::ImageTextInContext,
            "in_context_instructions.json",
            Some("images.parquet"),
            Some("in_context_train.json"),
        ),
        set(Group::TextOnly, "text_only_instructions.json", None, None),
        set(Group::VideoText, "video_instructions.json", Some("images_columnar.json"), None),
    ]
}

fn open(config: &DataConfig) -> Arc<Dataset> {
    Arc::new(Dataset::open(config, tokenizer("tokenizer_llama")).unwrap())
}

fn find(dataset: &Dataset, id: &str) -> Sample {
    let index = (0..dataset.len()).find(|&index| dataset.sample_id(index).unwrap() == id).unwrap();
    dataset.sample(index).unwrap()
}

/// A set in a folder of its own, with one-pixel images `P0` to `P9`.
fn write_set(folder: &Path, records: serde_json::Value) -> SetConfig {
    let instructions = folder.join("made_instructions.json");
    std::fs::write(&instructions, serde_json::json!({"meta": {}, "data": records}).to_string()).unwrap();
    let pixel = std::fs::read(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../otter-media/tests/fixtures/one_pixel.png"),
    )
    .unwrap();
    let pixel = base64::engine::general_purpose::STANDARD.encode(pixel);
    let images: serde_json::Map<_, _> = (0..10).map(|i| (format!("P{i}"), pixel.clone().into())).collect();
    std::fs::write(folder.join("made.json"), serde_json::Value::Object(images).to_string()).unwrap();
    SetConfig {
        instructions,
        images: Some(folder.join("made.json")),
        ..set(Group::ImageText, "", None, None)
    }
}

#[test]
fn in_context_turns_carry_their_own_images() {
    let mut config = small_config(all_groups());
    let sample = find(&open(&config), "IC_0");
    let expected =
        [vec!["IMG_05", "IMG_01"], vec!["IMG_03", "IMG_04", "IMG_02"], vec!["IMG_01", "IMG_02", "IMG_00"]];
    assert_eq!(sample.image_ids(), expected);
    assert_eq!(sample.text.matches("<image>").count(), 3);
    assert_eq!(sample.context_ids, ["IC_1", "IC_2"]);

    config.images_of_record = Some(ImagesOfRecord::Media);
    let sample = find(&open(&config), "IC_0");
    assert_eq!(sample.media.len(), 8);
    assert_eq!(sample.text.matches("<image>").count(), 8);

    config.in_context_images = Some(InContextImages::QueryOnly);
    let sample = find(&open(&config), "IC_0");
    assert_eq!(sample.image_ids(), [["IMG_01"], ["IMG_02"], ["IMG_00"]]);
    assert_eq!(sample.text.matches("<image>").count(), 3);
}

#[test]
fn placeholders_and_media_items_agree_by_default() {
    let dataset = open(&small_config(all_groups()));
    let image = dataset.tokenizer().special().image;
    let samples: Vec<_> = (0..dataset.len()).map(|index| dataset.sample(index).unwrap()).collect();
    for sample in &samples {
        let tokens = sample.input_ids.iter().filter(|&&id| id == image).count();
        assert_eq!(tokens, sample.media.len(), "{}", sample.id);
        assert_eq!(sample.group == Group::TextOnly, sample.media.is_empty());
    }
    let batch = Batch::collate(samples, dataset.tokenizer().special(), 28);
    let frames: usize = batch.media_frames.iter().map(|range| range.len()).sum();
    assert_eq!(batch.pixels.len(), frames * 3 * 28 * 28);
    assert_eq!(frames, batch.frames());
    // IC_1 with its own two images stands in several samples but is stored once.
    let slots: usize = batch.media_slots.iter().map(Vec::len).sum();
    assert!(batch.media_frames.len() < slots);
}

/// Packed or not, a loader gives the same samples in the same batches, whatever the length of a row.
#[test]
fn a_packed_batch_holds_the_samples_of_the_plain_one() {
    let dataset = open(&small_config(all_groups()));
    let batches = |packing, pack_length| {
        let options = LoaderOptions { batch_size: 5, packing, pack_length, ..LoaderOptions::default() };
        let mut loader = Loader::new(dataset.clone(), options, None).unwrap();
        let batches: Vec<Batch> = std::iter::from_fn(|| loader.next_batch().unwrap()).collect();
        (batches, loader.state())
    };
    let (plain, end) = batches(Packing::Off, None);
    assert!(plain.iter().all(|batch| !batch.is_packed() && batch.samples() == batch.text.batch));
    // A row that some samples do not fit in, one that holds a few, one for all.
    for pack_length in [Some(1), Some(400), None] {
        let (packed, packed_end) = batches(Packing::Batch, pack_length);
        assert_eq!((packed.len(), packed_end), (plain.len(), end));
        let rows = |batches: &[Batch]| batches.iter().map(|batch| batch.text.batch).sum::<usize>();
        assert_eq!(rows(&packed) < rows(&plain), pack_length != Some(1));
        for (packed, plain) in packed.iter().zip(&plain) {
            let mut ids = (packed.sample_ids.clone(), plain.sample_ids.clone());
            ids.0.sort();
            ids.1.sort();
            assert_eq!(ids.0, ids.1);
            assert_eq!(packed.text.tokens(), plain.text.tokens());
            assert_eq!(packed.label_tokens, plain.label_tokens);
            assert_eq!(packed.unpacked_cells(), plain.text.ids.len());
            for (sample, id) in packed.sample_ids.iter().enumerate() {
                let other = plain.sample_ids.iter().position(|other| other == id).unwrap();
                let (here, there) = (packed.text.tokens_of(sample), plain.text.tokens_of(other));
                assert_eq!(packed.text.ids[here.clone()], plain.text.ids[there.clone()]);
                assert_eq!(packed.labels[here.clone()], plain.labels[there]);
                assert!(packed.text.attention_mask[here].iter().all(|&real| real));
                let pictures = |batch: &Batch, sample: usize| -> Vec<Vec<f32>> {
                    let plane = 3 * batch.image_size * batch.image_size;
                    let frames =
                        batch.media_slots[sample].iter().flat_map(|&i| batch.media_frames[i].clone());
                    frames.map(|frame| batch.pixels[frame * plane..][..plane].to_vec()).collect()
                };
                assert_eq!(pictures(packed, sample), pictures(plain, other));
            }
            assert_eq!(packed.pixels.len(), plain.pixels.len());
            match pack_length {
                None => assert_eq!((packed.text.batch, packed.text.ids.len()), (1, plain.text.tokens())),
                Some(1) => assert_eq!(packed, plain),
                Some(limit) => assert!(packed.text.length <= limit.max(plain.text.length)),
            }
        }
    }
}

#[test]
fn tables_with_equal_ids_are_not_mixed_up_in_a_batch() {
    let folder = tempfile::tempdir().unwrap();
    let record = serde_json::json!({"A": {"instruction": "q", "answer": "a", "image_ids": ["IMG_00"]}});
    let made = write_set(folder.path(), record);
    let pixel = std::fs::read_to_string(folder.path().join("made.json")).unwrap().replace("P0", "IMG_00");
    std::fs::write(folder.path().join("made.json"), pixel).unwrap();
    let golden_set = set(Group::ImageText, "image_text_instructions.json", Some("images.json"), None);
    let dataset = open(&small_config(vec![golden_set, made]));
    let (a, b) = (find(&dataset, "A"), find(&dataset, "IT_0"));
    assert_eq!(a.media[0].frames[0].original_size, (1, 1));
    assert_eq!(b.media[0].frames[0].original_size, (120, 80));
    assert_eq!(Batch::collate(vec![a, b], dataset.tokenizer().special(), 28).media_frames.len(), 2);
}

#[test]
fn the_three_image_sources_agree() {
    let folder = tempfile::tempdir().unwrap();
    let flat = ImageTable::open(&golden("data/images.json"), 0).unwrap();
    for id in (0..9).map(|i| format!("IMG_0{i}")) {
        let name = folder.path().join(format!("{id}.png"));
        std::fs::write(name, flat.encoded(&id).unwrap().unwrap()).unwrap();
    }
    for path in [golden("data/images_columnar.json"), folder.path().to_owned()] {
        let table = ImageTable::open(&path, 1 << 20).unwrap();
        assert_eq!(table.len(), 9);
        for id in (0..9).map(|i| format!("IMG_0{i}")) {
            assert_eq!(table.encoded(&id).unwrap(), flat.encoded(&id).unwrap(), "{id} of {}", path.display());
        }
    }
    for (path, cache) in [("data/images.parquet", 1 << 20), ("data/images.parquet/part.0.parquet", 0)] {
        let table = ImageTable::open(&golden(path), cache).unwrap();
        assert_eq!(table.len(), 9);
        for i in [8, 0, 3, 3] {
            assert!(table.encoded(&format!("IMG_0{i}")).unwrap().unwrap().starts_with(b"\x89PNG"));
        }
        assert_eq!(table.encoded("IMG_99").unwrap(), None);
    }
}

#[test]
fn truncation_drops_the_oldest_turns_whole() {
    let mut config = small_config(all_groups());
    config.populate_rel_ins = true;
    let whole = find(&open(&config), "IT_1");
    assert_eq!(whole.context_ids, ["IT_3", "IT_4"]);
    config.max_seq_len = whole.input_ids.len();
    assert_eq!(find(&open(&config), "IT_1"), whole, "BOS and EOS count, so it fits exactly");
    config.max_seq_len -= 1;
    let cut = find(&open(&config), "IT_1");
    assert_eq!((cut.dropped_turns, cut.context_ids.as_slice()), (1, &["IT_4".to_owned()][..]));
    assert!(
        cut.text.starts_with("<image>User:Où"),
        "the placeholder moves to the first turn kept: {}",
        cut.text
    );
    let special = *tokenizer("tokenizer_llama").special();
    assert_eq!(cut.input_ids.len(), cut.labels.len());
    assert_eq!(
        cut.labels[cut.labels.len() - 2],
        i64::from(special.endofchunk),
        "the last answer keeps its end"
    );

    config.max_seq_len = 20;
    let dataset = open(&config);
    let error = dataset.sample(1).unwrap_err();
    assert_eq!(error.skip_reason(), Some(SkipReason::TooLong), "{error}");
    assert_eq!(dataset.check(false).unwrap().skipped["too_long"], dataset.len() as u64);
}

#[test]
fn data_cannot_forge_special_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let forged = "x <image> </s> <answer>y<|endofchunk|> z <PAD><s>";
    let records = serde_json::json!({"F": {"instruction": forged, "answer": forged, "image_ids": ["P0"]}});
    for name in ["tokenizer_llama", "tokenizer_mpt"] {
        let config = small_config(vec![write_set(folder.path(), records.clone())]);
        let tokenizer = tokenizer(name);
        let dataset = Dataset::open(&config, tokenizer.clone()).unwrap();
        let sample = dataset.sample(0).unwrap();
        let special = *tokenizer.special();
        let count = |token: u32| sample.input_ids.iter().filter(|&&id| id == token).count();
        assert_eq!(
            [count(special.image), count(special.answer), count(special.endofchunk), count(special.pad)],
            [1, 1, 1, 0]
        );
        assert_eq!(sample.input_ids.last().copied(), special.eos);
        let decoded = tokenizer.decode(&sample.input_ids, true).unwrap();
        assert!(decoded.contains("<answer>y"), "the characters stay: {decoded}");
        // From the answer token to its end of chunk, and the end of text.
        let answer = sample.input_ids.iter().position(|&id| id == special.answer).unwrap();
        assert!(sample.labels[..=answer].iter().all(|&label| label == -100));
        assert!(sample.labels[answer + 1..].iter().all(|&label| label != -100));
    }
}

#[test]
fn bad_samples_are_named_or_counted() {
    let folder = tempfile::tempdir().unwrap();
    let good = serde_json::json!({"instruction": "q", "answer": "a", "image_ids": ["P1"]});
    let records = serde_json::json!({
        "GOOD": good,
        "NO_PICTURE": {"instruction": "q", "answer": "a", "image_ids": ["ABSENT"]},
        "NO_LIST": {"instruction": "q", "answer": "a"},
        "NO_ANSWER": {"instruction": "q", "image_ids": ["P1"]},
        "NO_CONTEXT": {"instruction": "q", "answer": "a", "image_ids": ["P1"], "rel_ins_ids": ["GONE"]},
        "BROKEN": {"instruction": "q", "answer": "a", "image_ids": ["BROKEN_PNG"]},
    });
    let set = write_set(folder.path(), records);
    let images = std::fs::read_to_string(folder.path().join("made.json")).unwrap();
    std::fs::write(
        folder.path().join("made.json"),
        images.replacen('{', r#"{"BROKEN_PNG":"iVBORw0KGgo=","#, 1),
    )
    .unwrap();
    let mut config = small_config(vec![set]);
    config.populate_rel_ins = true;
    let dataset = open(&config);
    let expected = [
        (1, SkipReason::MissingImage, "ABSENT"),
        (2, SkipReason::NoImages, "NO_LIST"),
        (3, SkipReason::BadRecord, "answer"),
        (4, SkipReason::MissingContext, "GONE"),
        (5, SkipReason::BadImage, "BROKEN_PNG"),
    ];
    for (index, reason, named) in expected {
        let error = dataset.sample(index).unwrap_err();
        let text = error.to_string();
        assert_eq!(error.skip_reason(), Some(reason), "{text}");
        assert!(text.contains(named) && text.contains("made_instructions.json"), "{text}");
    }
    let options = LoaderOptions { batch_size: 4, ..LoaderOptions::default() };
    let mut strict = Loader::new(dataset, options.clone(), None).unwrap();
    assert!(matches!(strict.next_batch(), Err(DataError::Sample { .. })));

    config.on_bad_sample = OnBadSample::Skip;
    let mut lenient = Loader::new(open(&config), options, None).unwrap();
    assert_eq!(lenient.next_batch().unwrap().unwrap().sample_ids, ["GOOD"]);
    assert!(lenient.next_batch().unwrap().is_none());
    let report = lenient.report();
    assert_eq!((report.used, report.skipped_total()), (1, 5));
    assert_eq!(report.skipped["missing_image"], 1);
    assert!(report.examples["missing_context"].contains("GONE"));
}

#[test]
fn a_data_set_without_usable_samples_ends() {
    let mut config = small_config(all_groups());
    config.max_seq_len = 5;
    let mut loader = Loader::new(open(&config), LoaderOptions::default(), None).unwrap();
    assert!(loader.next_batch().unwrap_err().to_string().contains("too_long"));
}

/// All batches of some epochs, `None` between epochs.
fn drain(loader: &mut Loader, epochs: usize) -> Vec<Option<Batch>> {
    let mut batches = Vec::new();
    while batches.iter().filter(|batch: &&Option<Batch>| batch.is_none()).count() < epochs {
        batches.push(loader.next_batch().unwrap());
    }
    batches
}

#[test]
fn frames_of_the_cache_are_the_decoded_ones() {
    let folder = tempfile::tempdir().unwrap();
    let record = |image: usize| serde_json::json!({"instruction": "Q?", "answer": "A", "image_ids": [format!("P{image}")], "rel_ins_ids": []});
    let records = (0..12).map(|i| (format!("R{i:02}"), record(i % 3))).collect::<serde_json::Map<_, _>>();
    let mut config = small_config(vec![write_set(folder.path(), records.into())]);
    let mut batches = Vec::new();
    for mib in [0, 1] {
        config.frame_cache_mib = mib;
        let options = LoaderOptions { workers: 1, batch_size: 2, ..LoaderOptions::default() };
        let mut loader = Loader::new(open(&config), options, None).unwrap();
        batches.push(drain(&mut loader, 2));
        let frames = loader.report().frames;
        assert_eq!((frames.decoded, frames.cached), if mib == 0 { (24, 0) } else { (3, 21) });
    }
    assert_eq!(batches[0], batches[1]);
}

#[test]
fn images_that_hold_more_than_is_shown_are_counted_once() {
    let folder = tempfile::tempdir().unwrap();
    let record = |image: &str| serde_json::json!({"instruction": "i", "answer": "a", "image_ids": [image]});
    let set = write_set(
        folder.path(),
        serde_json::json!({"a": record("glass"), "b": record("P1"), "c": record("glass"), "d": record("wide")}),
    );
    let png = |image: image::DynamicImage| {
        let mut bytes = std::io::Cursor::new(Vec::new());
        image.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
        base64::engine::general_purpose::STANDARD.encode(bytes.into_inner())
    };
    let pixel = png(image::RgbImage::from_pixel(3, 3, image::Rgb([9, 9, 9])).into());
    let images = serde_json::json!({
        "P1": pixel,
        "glass": png(image::RgbaImage::from_pixel(3, 3, image::Rgba([9, 9, 9, 0])).into()),
        "wide": png(image::ImageBuffer::from_pixel(3, 3, image::Luma([0x8000_u16])).into()),
    });
    std::fs::write(folder.path().join("made.json"), images.to_string()).unwrap();
    for (preset, notes, shown) in [
        (Preset::Repaired, &[(ImageNote::AlphaBlended, "glass")][..], [255_u8, 0x80]),
        (
            Preset::Reference,
            &[(ImageNote::AlphaDropped, "glass"), (ImageNote::Gray16Clipped, "wide")],
            [9, 255],
        ),
    ] {
        let mut config = small_config(vec![set.clone()]);
        config.preset = preset;
        config.sampling = Some(otter_data::Sampling::Sequential);
        let dataset = open(&config);
        let mut loader = Loader::new(dataset.clone(), LoaderOptions::default(), None).unwrap();
        drain(&mut loader, 2);
        let counts = &loader.report().image_notes;
        assert_eq!(counts.warnings().len(), notes.len(), "{counts:?}");
        for (line, (note, id)) in counts.warnings().iter().zip(notes) {
            assert_eq!(counts.count(*note), 1);
            assert!(line.contains(&format!("(first: {id} of ")) && line.contains("made.json"), "{line}");
        }
        for (id, level) in ["a", "d"].iter().zip(shown) {
            let pixels = find(&dataset, id).media[0].frames[0].pixels.clone();
            let expected = ((f64::from(level) / 255.0) as f32 - 0.481) / 0.269;
            assert_eq!(pixels[0], expected, "{preset:?} {id}");
        }
    }
}

#[test]
fn batches_do_not_depend_on_workers_and_resume_exactly() {
    let mut config = small_config(all_groups());
    config.sets[0].task_description = vec!["One.".into(), "Two.".into(), "Three.".into()];
    config.max_seq_len = 120;
    let dataset = open(&config);
    let options = |workers, drop_last| LoaderOptions {
        batch_size: 4,
        workers,
        prefetch: 3,
        drop_last,
        ..LoaderOptions::default()
    };
    let all = drain(&mut Loader::new(dataset.clone(), options(1, false), None).unwrap(), 2);
    for workers in [2, 3, 7] {
        assert_eq!(drain(&mut Loader::new(dataset.clone(), options(workers, false), None).unwrap(), 2), all);
    }
    let ids = |batches: &[Option<Batch>]| {
        batches.iter().flatten().flat_map(|b| b.sample_ids.clone()).collect::<Vec<_>>()
    };
    let end = all.iter().position(Option::is_none).unwrap();
    let (first, second) = (ids(&all[..end]), ids(&all[end..]));
    assert_ne!(first, second, "each epoch has its own order");
    let sorted = |mut ids: Vec<String>| {
        ids.sort();
        ids
    };
    assert_eq!(sorted(first), sorted(second), "and the same samples");

    for taken in 0..all.len() {
        let mut before = Loader::new(dataset.clone(), options(2, false), None).unwrap();
        for expected in &all[..taken] {
            assert_eq!(&before.next_batch().unwrap(), expected);
        }
        let text = serde_json::to_string(&before.state()).unwrap();
        let mut after =
            Loader::new(dataset.clone(), options(3, false), Some(serde_json::from_str(&text).unwrap()))
                .unwrap();
        for expected in &all[taken..] {
            assert_eq!(&after.next_batch().unwrap(), expected, "after {taken} batches");
        }
    }

    let mut whole_only = Loader::new(dataset.clone(), options(2, true), None).unwrap();
    let batches = drain(&mut whole_only, 1);
    assert!(batches.iter().flatten().all(|batch| batch.text.batch == 4));
    assert_eq!(whole_only.report().used + whole_only.report().skipped_total(), dataset.len() as u64);

    let mut state = whole_only.state();
    state.samples += 1;
    assert!(Loader::new(dataset, options(1, false), Some(state)).is_err());
}

/// Ten records `R0` to `R9`; those in `bad` name a picture that is nowhere.
fn ten_records(folder: &Path, bad: &[usize]) -> SetConfig {
    let record = |number: usize| {
        let image = if bad.contains(&number) { "ABSENT".to_owned() } else { format!("P{number}") };
        (format!("R{number}"), serde_json::json!({"instruction": "q", "answer": "a", "image_ids": [image]}))
    };
    let records: serde_json::Map<_, _> = (0..10).map(record).collect();
    write_set(folder, records.into())
}

fn ids_of(batches: &[Option<Batch>]) -> Vec<Vec<String>> {
    batches.iter().flatten().map(|batch| batch.sample_ids.clone()).collect()
}

#[test]
fn ranks_get_batches_of_the_same_steps_and_resume() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = small_config(vec![ten_records(folder.path(), &[])]);
    let loader = |config: &DataConfig, rank, world, batch_size, state| {
        let rank = Rank { rank, world };
        Loader::new(open(config), LoaderOptions { batch_size, rank, ..LoaderOptions::default() }, state)
    };
    let alone = ids_of(&drain(&mut loader(&config, 0, 1, 4, None).unwrap(), 2));
    let [first, second] =
        [0, 1].map(|rank| ids_of(&drain(&mut loader(&config, rank, 2, 2, None).unwrap(), 2)));
    // Ten samples make two steps of four; the third batch of the one process, of two samples, is for nobody.
    let steps: Vec<_> = first.iter().zip(&second).map(|(a, b)| [a.clone(), b.clone()].concat()).collect();
    assert_eq!(steps, [&alone[..2], &alone[3..5]].concat());
    assert!(loader(&config, 2, 2, 2, None).is_err());
    assert!(loader(&config, 0, 6, 2, None).err().unwrap().to_string().contains("lower the batch size"));

    // One process has samples that cannot be used. It makes up for them, and its epoch has as many batches.
    drop(ten_records(folder.path(), &[1, 4, 5]));
    config.on_bad_sample = OnBadSample::Skip;
    for rank in [0, 1] {
        let all = drain(&mut loader(&config, rank, 2, 2, None).unwrap(), 3);
        assert_eq!(all.iter().map(Option::is_some).collect::<Vec<_>>(), [true, true, false].repeat(3));
        assert!(all.iter().flatten().all(|batch| batch.samples() == 2));
        for taken in 0..all.len() {
            let mut before = loader(&config, rank, 2, 2, None).unwrap();
            (0..taken).for_each(|_| drop(before.next_batch().unwrap()));
            let mut after = loader(&config, rank, 2, 2, Some(before.state())).unwrap();
            for expected in &all[taken..] {
                assert_eq!(&after.next_batch().unwrap(), expected, "rank {rank} after {taken}");
            }
        }
    }
    drop(ten_records(folder.path(), &[0, 1, 2, 3, 4, 5, 6, 7, 8]));
    let ends = |rank| {
        let mut loader = loader(&config, rank, 2, 2, None).unwrap();
        (0..3).find_map(|_| loader.next_batch().err())
    };
    let message = ends(0).or_else(|| ends(1)).unwrap().to_string();
    assert!(message.contains("more than half") && message.contains("missing_image"), "{message}");
}

#[test]
fn sets_are_mixed_by_weight() {
    let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let [small, large] = [0, 1].map(|number| ten_records(folders[number].path(), &[]));
    let weighted = |set: &SetConfig, name: &str, weight| SetConfig {
        weight: Some(weight),
        name: name.into(),
        ..set.clone()
    };
    let mut config = small_config(vec![weighted(&small, "A", 0.25), weighted(&large, "B", 0.75)]);
    config.samples_per_epoch = Some(12);
    let dataset = open(&config);
    assert_eq!((dataset.len(), dataset.mixture().epoch_len()), (20, 12));
    let options = LoaderOptions { batch_size: 5, ..LoaderOptions::default() };
    let batches = drain(&mut Loader::new(dataset, options, None).unwrap(), 2);
    assert_eq!(batches.iter().flatten().map(Batch::samples).collect::<Vec<_>>(), [5, 5, 2, 5, 5, 2]);
    config.sets[1].weight = None;
    let message = Dataset::open(&config, tokenizer("tokenizer_llama")).err().unwrap().to_string();
    assert!(message.contains("set B: no `weight`"), "{message}");
}

#[test]
fn configuration_from_toml() {
    let text = r#"
        image_size = 28
        preset = "reference"
        keep_symbols = true
        on_bad_sample = "skip"
        [[sets]]
        group = "IMAGE_TEXT"
        instructions = "image_text_instructions.json"
        images = "images.json"
        num_samples = 4
        task_description = "One description."
    "#;
    let mut config: DataConfig = toml::from_str(text).unwrap();
    config.resolve(&golden("data"));
    let switches = config.switches();
    assert!(switches.keep_symbols, "explicit switches win over the preset");
    assert_eq!(switches.in_context_images, InContextImages::QueryOnly);
    assert_eq!(config.sets[0].task_description, ["One description."]);
    assert_eq!(open(&config).len(), 4);
    let again: DataConfig = toml::from_str(&toml::to_string(&config).unwrap()).unwrap();
    assert_eq!(again, config);
    assert!(toml::from_str::<DataConfig>("image_sise = 28").is_err());
    assert!(DataConfig::default().resolved_sets().is_err());
}

#[test]
fn data_lists_name_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("list.yaml");
    let cases = [
        ("IMAGES:\n  A: {mimicit_path: x.json}", "IMAGES"),
        ("TEXT_ONLY:\n  A: {mimicit_path: absent.json}", "absent.json"),
        ("TEXT_ONLY:\n  A: {mimicit_path: a.json, num_samples: many}", "num_samples"),
        ("TEXT_ONLY:\n  A: {mimic_path: a.json}", "mimic_path"),
        ("- a list", "mapping"),
    ];
    for (text, named) in cases {
        std::fs::write(&path, text).unwrap();
        let config = DataConfig { mimicit_yaml: Some(path.clone()), ..DataConfig::default() };
        let message = config.resolved_sets().unwrap_err().to_string();
        assert!(message.contains(named) && message.contains("list.yaml"), "{text}: {message}");
    }
}

#[test]
fn samples_are_chosen_by_the_language_their_records_say() {
    let folder = tempfile::tempdir().unwrap();
    let record = |language: serde_json::Value| serde_json::json!({"instruction": "q", "answer": "a", "image_ids": ["P0"], "language": language});
    let records = serde_json::json!({
        "a": record("de".into()), "b": record("pt".into()), "c": record(serde_json::Value::Null), "d": record("DE".into()),
    });
    let mut set = write_set(folder.path(), records);
    let ids = |set: &SetConfig| {
        let dataset = open(&small_config(vec![set.clone()]));
        (0..dataset.len()).map(|index| dataset.sample_id(index).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(ids(&set), ["a", "b", "c", "d"]);
    set.languages = vec!["de".to_owned()];
    assert_eq!(ids(&set), ["a", "d"]);
    set.num_samples = 3;
    assert_eq!(ids(&set).len(), 3);
    set.num_samples = 0;
    // A train file is chosen from, too, by the records of its ids.
    let train = folder.path().join("train.json");
    std::fs::write(&train, r#"{"d": ["b"], "b": [], "c": []}"#).unwrap();
    set.train = Some(train);
    assert_eq!(ids(&set), ["d"]);
    set.languages = vec!["fr".to_owned()];
    let error =
        Dataset::open(&small_config(vec![set]), tokenizer("tokenizer_llama")).err().unwrap().to_string();
    for part in ["fr", "`languages`", "DE, pt"] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn records_marked_as_examples_are_no_samples_unless_a_train_file_lists_them() {
    let folder = tempfile::tempdir().unwrap();
    let record = |mark: bool| serde_json::json!({"instruction": "q", "answer": "a", "image_ids": ["P0"], "example_only": mark});
    let mut set = write_set(
        folder.path(),
        serde_json::json!({"a": record(true), "b": record(false), "c": record(true)}),
    );
    let report = |set: &SetConfig| open(&small_config(vec![set.clone()])).check(true).unwrap();
    let found = report(&set);
    assert_eq!((found.used, &found.skipped), (1, &[("example_only".to_owned(), 2)].into_iter().collect()));
    // Left out by rule, not by damage: also where bad samples are errors.
    let config = small_config(vec![set.clone()]);
    assert_eq!(config.on_bad_sample, OnBadSample::Error);
    let verified = otter_data::verify::verify(&config, None, &Default::default(), &mut |_| {}).unwrap();
    assert_eq!(
        (verified.errors, verified.samples, verified.usable_samples, verified.example_only),
        (0, 1, 1, 2)
    );
    let train = folder.path().join("train.json");
    std::fs::write(&train, r#"{"b": ["a", "c"], "c": []}"#).unwrap();
    set.train = Some(train);
    assert_eq!((report(&set).used, report(&set).skipped_total()), (2, 0));
}
