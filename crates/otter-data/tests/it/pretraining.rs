//! Pre-training streams: tar shards and JSON lines to samples, what is left out and why, exact resume, hostile files.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::common::{golden, tar, tokenizer};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use otter_data::{
    Batch, CaptionFormat, DataConfig, Dataset, Group, IGNORE_INDEX, ImageRule, ImageRules, ImageTransform,
    Loader, LoaderOptions, OnBadSample, Preset, Rank, Sample, SetConfig, SkipReason, StreamConfig,
    open_image, preprocess,
};
use serde_json::{Value, json};
use tempfile::TempDir;

fn image(name: &str) -> Vec<u8> {
    fs::read(golden("images").join(name)).unwrap()
}

fn file(place: &TempDir, name: &str, content: &[u8]) -> PathBuf {
    let path = place.path().join(name);
    fs::write(&path, content).unwrap();
    path
}

fn stream(group: Group, files: Vec<PathBuf>) -> StreamConfig {
    StreamConfig::new(group, files)
}

fn config(streams: Vec<StreamConfig>) -> DataConfig {
    DataConfig { image_size: 28, streams, ..DataConfig::default() }
}

fn open(config: &DataConfig) -> Arc<Dataset> {
    Arc::new(Dataset::open(config, tokenizer("tokenizer_llama")).unwrap())
}

fn error_of(config: &DataConfig) -> String {
    Dataset::open(config, tokenizer("tokenizer_llama")).err().unwrap().to_string()
}

/// The trained runs of a sample, as text.
fn trained(sample: &Sample) -> Vec<String> {
    let runs = sample.labeled_text(&tokenizer("tokenizer_llama")).unwrap();
    runs.into_iter().filter_map(|(trained, text)| trained.then_some(text)).collect()
}

fn pixels(encoded: &[u8]) -> Vec<f32> {
    preprocess(&open_image(encoded, ImageRules::default(), "test").unwrap(), 28, ImageTransform::Clip)
}

#[test]
fn captions_of_tar_shards() {
    let place = tempfile::tempdir().unwrap();
    let (photo, wide) = (image("photo.jpg"), image("wide.png"));
    let laion = STANDARD.encode(&wide);
    let both = json!({"caption": "not this one"}).to_string();
    let only_json = json!({"caption": "From JSON.", "width": 3}).to_string();
    file(
        &place,
        "cc3m-00.tar",
        &tar(&[
            ("000.jpg", &photo),
            ("000.txt", b" A photo. \n"),
            ("000.json", both.as_bytes()),
            ("__license", b"no sample"),
            (".hidden.txt", b"no sample"),
            ("sub.d/001.PNG", &wide),
            ("sub.d/001.json", only_json.as_bytes()),
        ]),
    );
    file(&place, "cc3m-01.tar", &tar(&[("000.txt", b"Second shard."), ("000.png", laion.as_bytes())]));
    let mut captions = stream(Group::ImageCaption, vec![place.path().join("cc3m-{00..01}.tar")]);
    let dataset = open(&config(vec![captions.clone()]));
    assert_eq!(dataset.set_sizes(), [("cc3m-{00..01}".to_owned(), Group::ImageCaption, 3)]);

    let sample = dataset.sample(0).unwrap();
    let llama = tokenizer("tokenizer_llama");
    let text = "<image>A photo.<|endofchunk|>";
    let special = *llama.special();
    let mut ids = llama.prompt_prefix().to_vec();
    ids.extend(llama.encode(text).unwrap());
    ids.extend(special.eos);
    assert_eq!((&sample.id[..], &sample.text[..]), ("cc3m-00/000", text));
    assert_eq!(sample.input_ids, ids);
    let labels: Vec<i64> = ids
        .iter()
        .enumerate()
        .map(|(at, &id)| if at == 0 || id == special.image { IGNORE_INDEX } else { i64::from(id) })
        .collect();
    assert_eq!(sample.labels, labels);
    assert_eq!(trained(&sample), ["A photo.<|endofchunk|></s>"]);
    assert_eq!(*sample.media[0].frames[0].pixels, pixels(&photo));

    let sample = dataset.sample(1).unwrap();
    assert_eq!((&sample.id[..], &sample.text[..]), ("cc3m-00/sub.d/001", "<image>From JSON.<|endofchunk|>"));
    let sample = dataset.sample(2).unwrap();
    assert_eq!((&sample.id[..], &sample.text[..]), ("cc3m-01/000", "<image>Second shard.<|endofchunk|>"));
    assert_eq!(*sample.media[0].frames[0].pixels, pixels(&wide));
    assert_eq!(dataset.sample_id(2).unwrap(), sample.id);

    captions.caption_format = Some(CaptionFormat::Llama2Inst);
    captions.max_tokens = Some(9);
    let sample = open(&config(vec![captions])).sample(0).unwrap();
    assert_eq!(sample.text, "<image>[INST]please describe this image.[/INST]A photo.<|endofchunk|>");
    assert_eq!(sample.input_ids.len(), 9, "cut on the right");
    assert_eq!(sample.media.len(), 1);
}

#[test]
fn a_repeated_extension_begins_a_new_sample() {
    let place = tempfile::tempdir().unwrap();
    let photo = image("tiny.png");
    let shard = tar(&[
        ("a.png", &photo),
        ("a.txt", b"1"),
        ("a.txt", b"2"),
        ("a.png", &photo),
        ("b.txt", b"3"),
        ("b.png", &photo),
    ]);
    let path = file(&place, "s.tar", &shard);
    let dataset = open(&config(vec![stream(Group::ImageCaption, vec![path])]));
    let texts: Vec<String> = (0..dataset.len()).map(|index| dataset.sample(index).unwrap().text).collect();
    assert_eq!(texts, ["1", "2", "3"].map(|text| format!("<image>{text}<|endofchunk|>")));
}

#[test]
fn what_is_wrong_with_a_caption_is_said() {
    let place = tempfile::tempdir().unwrap();
    let photo = image("tiny.png");
    let path = file(
        &place,
        "s.tar",
        &tar(&[
            ("0.png", &photo),
            ("0.txt", b" \n"),
            ("1.png", &photo),
            ("2.txt", b"no image"),
            ("3.png", b"aGVsbG8="),
            ("3.txt", b"no image inside"),
            ("4.png", &photo[..photo.len() / 2]),
            ("4.txt", b"half an image"),
            ("5.png", &photo),
            ("5.txt", b"\xff\xfe"),
            ("6.png", &photo),
            ("6.json", b"[]"),
            ("7.png", &photo),
            ("7.txt", b"good"),
        ]),
    );
    let mut config = config(vec![stream(Group::ImageCaption, vec![path])]);
    let dataset = open(&config);
    for (index, reason, part) in [
        (0, SkipReason::EmptyCaption, "empty"),
        (1, SkipReason::BadRecord, "no caption"),
        (2, SkipReason::NoImages, "no image"),
        (3, SkipReason::BadImage, ".png"),
        (4, SkipReason::BadImage, "decoded"),
        (5, SkipReason::BadRecord, "UTF-8"),
        (6, SkipReason::BadRecord, "caption"),
    ] {
        let error = dataset.sample(index).unwrap_err();
        let text = error.to_string();
        assert_eq!(error.skip_reason(), Some(reason), "{text}");
        assert!(
            text.contains(part) && text.contains(&format!("s/{index}")) && text.contains("s.tar"),
            "{text}"
        );
    }
    config.on_bad_sample = OnBadSample::Skip;
    let mut loader = Loader::new(open(&config), LoaderOptions::default(), None).unwrap();
    assert_eq!(loader.next_batch().unwrap().unwrap().sample_ids, ["s/7"]);
    assert!(loader.next_batch().unwrap().is_none());
    assert_eq!(loader.report().skipped_total(), 7);
    assert_eq!(loader.report().skipped["empty_caption"], 1);
}

/// A page of four sentences with pictures `wide.png`, `tall.png` and `photo.jpg`, whose sentences are 2, 0 and 1.
fn page(info: impl Fn(&str) -> Value) -> Value {
    let image = |name: &str, similarity: f64, sentence: usize| {
        let mut info = info(name);
        info["matched_sim"] = json!(similarity);
        info["matched_text_index"] = json!(sentence);
        info
    };
    json!({
        "text_list": ["One.", "Two.", "Three.", "Four."],
        "image_info": [image("wide.png", 0.4, 2), image("tall.png", 0.35, 0), image("photo.jpg", 0.3, 1)],
        "similarity_matrix": [[0.1, 0.2, 0.4, 0.1], [0.35, 0.1, 0.3, 0.1], [0.1, 0.3, 0.2, 0.1]],
    })
}

fn embedded(name: &str) -> Value {
    json!({"image_base64": STANDARD.encode(image(name))})
}

fn documents(files: Vec<PathBuf>) -> StreamConfig {
    StreamConfig { min_image_bytes: Some(0), ..stream(Group::Interleaved, files) }
}

#[test]
fn documents_of_every_source_are_the_same() {
    let place = tempfile::tempdir().unwrap();
    let named = page(|name| json!({"image_name": name})).to_string();
    let inside = page(embedded).to_string();
    let sources = [
        StreamConfig {
            images: Some(golden("images")),
            ..documents(vec![file(&place, "named.jsonl", format!("\n{named}\r\n\n").as_bytes())])
        },
        documents(vec![file(&place, "inside.jsonl", inside.as_bytes())]),
        documents(vec![file(&place, "tar.tar", &tar(&[("x.json", inside.as_bytes())]))]),
    ];
    for source in sources {
        let dataset = open(&config(vec![source]));
        assert_eq!(dataset.len(), 1);
        let sample = dataset.sample(0).unwrap();
        assert_eq!(
            sample.text,
            "<image>One.<|endofchunk|><image>Two.<|endofchunk|><image>Three. Four.<|endofchunk|>"
        );
        assert_eq!(
            trained(&sample),
            ["One.<|endofchunk|>", "Two.<|endofchunk|>", "Three. Four.<|endofchunk|>"],
            "{}",
            sample.id
        );
        let eos = tokenizer("tokenizer_llama").special().eos.unwrap();
        assert_eq!((sample.input_ids.last(), sample.labels.last()), (Some(&eos), Some(&IGNORE_INDEX)));
        // Each placeholder gets the picture of its sentence, whatever the order of the pictures in the file.
        let shown: Vec<&[f32]> = sample.media.iter().map(|item| &*item.frames[0].pixels).collect();
        assert_eq!(
            shown,
            [&pixels(&image("tall.png"))[..], &pixels(&image("photo.jpg")), &pixels(&image("wide.png"))]
        );
    }
}

#[test]
fn the_reference_keeps_the_order_of_the_pictures() {
    let place = tempfile::tempdir().unwrap();
    let path = file(&place, "d.jsonl", page(embedded).to_string().as_bytes());
    let reference = DataConfig { preset: Preset::Reference, ..config(vec![documents(vec![path])]) };
    let sample = open(&reference).sample(0).unwrap();
    let shown: Vec<&[f32]> = sample.media.iter().map(|item| &*item.frames[0].pixels).collect();
    assert_eq!(
        shown,
        [&pixels(&image("wide.png"))[..], &pixels(&image("tall.png")), &pixels(&image("photo.jpg"))]
    );
}

#[test]
fn rules_and_limits_of_documents() {
    let place = tempfile::tempdir().unwrap();
    let path = file(&place, "d.jsonl", page(embedded).to_string().as_bytes());
    let base = StreamConfig { reject_single_image: Some(0.0), ..documents(vec![path]) };
    let text = |stream: &StreamConfig| {
        let result = open(&config(vec![stream.clone()])).sample(0);
        result.map(|sample| (sample.text, sample.media.len())).map_err(|error| error.skip_reason().unwrap())
    };
    let shown = |text: &str, images: usize| Ok((text.to_owned(), images));

    let matched = StreamConfig { image_rule: Some(ImageRule::Matched), ..base.clone() };
    // 0.3 is below the threshold of 0.32.
    assert_eq!(text(&matched), shown("<image>One. Two.<|endofchunk|><image>Three. Four.<|endofchunk|>", 2));
    assert_eq!(
        text(&StreamConfig { max_images: Some(1), ..matched.clone() }),
        shown("One. Two.<image>Three. Four.<|endofchunk|>", 1)
    );
    let strict = StreamConfig { similarity_threshold: Some(30.0), ..base.clone() };
    assert_eq!(text(&strict), Err(SkipReason::NoMatchingImage));
    let large = StreamConfig { min_image_bytes: Some(1 << 24), ..base.clone() };
    assert_eq!(text(&large), Err(SkipReason::ImagesTooSmall));
    let many = StreamConfig { min_images: Some(4), ..base.clone() };
    assert_eq!(text(&many), Err(SkipReason::TooFewImages));
    let single = StreamConfig { max_images: Some(1), reject_single_image: Some(1.0), ..base.clone() };
    assert_eq!(text(&single), Err(SkipReason::SingleImage));
    // Cut behind the only image that is left: nothing to train.
    let cut = StreamConfig { max_tokens: Some(2), ..base.clone() };
    assert_eq!(text(&cut), Err(SkipReason::NoLabelTokens));
    // Cut before the third placeholder: its picture goes with it.
    let whole = open(&config(vec![base.clone()])).sample(0).unwrap();
    let image = tokenizer("tokenizer_llama").special().image;
    let placeholders = (0..whole.input_ids.len()).filter(|&at| whole.input_ids[at] == image);
    let third = placeholders.clone().nth(2);
    assert_eq!(placeholders.count(), 3);
    let sample = open(&config(vec![StreamConfig { max_tokens: third, ..base }])).sample(0).unwrap();
    assert_eq!((sample.media.len(), sample.input_ids.len()), (2, third.unwrap()));
    assert_eq!(sample.media[..], whole.media[..2]);
}

#[test]
fn coins_differ_by_document_and_epoch_and_are_repeatable() {
    let place = tempfile::tempdir().unwrap();
    let mut single = page(embedded);
    single["image_info"].as_array_mut().unwrap().truncate(1);
    single["similarity_matrix"].as_array_mut().unwrap().truncate(1);
    let lines = format!("{single}\n").repeat(64);
    let path = file(&place, "d.jsonl", lines.as_bytes());
    let mut stream = documents(vec![path]);
    let kept = |dataset: &Dataset, epoch| {
        let kept = |&index: &usize| dataset.sample_in_epoch(index, epoch, false).is_ok();
        (0..64).filter(kept).collect::<Vec<_>>()
    };
    let dataset = open(&config(vec![stream.clone()]));
    let (first, second) = (kept(&dataset, 0), kept(&dataset, 1));
    assert_eq!(first, kept(&dataset, 0));
    assert_ne!(first, second);
    assert!((20..44).contains(&first.len()) && (20..44).contains(&second.len()), "{first:?} {second:?}");
    let report = dataset.check(false).unwrap();
    assert_eq!((report.used, report.skipped["single_image"]), (first.len() as u64, 64 - first.len() as u64));

    stream.reject_single_image = Some(0.0);
    stream.mirror = true;
    let dataset = open(&config(vec![stream]));
    let plain = pixels(&image("wide.png"));
    let mirrored: Vec<f32> = plain.chunks(28).flat_map(|row| row.iter().rev().copied()).collect();
    let mut times = 0;
    for index in 0..64 {
        let sample = dataset.sample(index).unwrap();
        let frame = &sample.media[0].frames[0];
        let is_mirrored = frame.image_id.ends_with("(mirrored)");
        assert_eq!(*frame.pixels, *if is_mirrored { &mirrored } else { &plain });
        times += usize::from(is_mirrored);
    }
    assert!((20..44).contains(&times), "{times}");
}

#[test]
fn synthetic_documents() {
    let place = tempfile::tempdir().unwrap();
    let document = json!({
        "is_gpt": true,
        "example": "Look: _!_IMAGE2_!_ a tall one, and _!_IMAGE1_!_ a wide one.",
        "image_map": {
            "_!_IMAGE1_!_": {"base64_image": STANDARD.encode(image("wide.png"))},
            "_!_IMAGE2_!_": {"base64_image": STANDARD.encode(image("tall.png"))},
        },
    });
    let mut missing = document.clone();
    missing["image_map"].as_object_mut().unwrap().remove("_!_IMAGE1_!_");
    let path = file(&place, "d.jsonl", format!("{document}\n{missing}").as_bytes());
    let dataset = open(&config(vec![stream(Group::Interleaved, vec![path])]));
    let sample = dataset.sample(0).unwrap();
    assert_eq!(sample.text, "Look:<image>a tall one, and<|endofchunk|><image>a wide one.<|endofchunk|>");
    assert_eq!(trained(&sample), ["a tall one, and<|endofchunk|>", "a wide one.<|endofchunk|>"]);
    let shown: Vec<&[f32]> = sample.media.iter().map(|item| &*item.frames[0].pixels).collect();
    assert_eq!(shown, [&pixels(&image("tall.png"))[..], &pixels(&image("wide.png"))]);
    assert_eq!(dataset.sample(1).unwrap_err().skip_reason(), Some(SkipReason::MissingImage));
}

#[test]
fn special_tokens_inside_documents_are_characters() {
    let place = tempfile::tempdir().unwrap();
    let mut forged = page(embedded);
    forged["text_list"][1] = json!("<image> and <|endofchunk|> are words.");
    let path = file(&place, "d.jsonl", forged.to_string().as_bytes());
    let sample = open(&config(vec![documents(vec![path])])).sample(0).unwrap();
    let special = *tokenizer("tokenizer_llama").special();
    let count = |token| sample.input_ids.iter().filter(|&&id| id == token).count();
    assert_eq!((count(special.image), count(special.endofchunk), sample.media.len()), (3, 3, 3));
}

/// Captions, documents and an instruction set together.
fn mixture(place: &TempDir) -> DataConfig {
    let photo = image("tiny.png");
    let names: Vec<[String; 2]> = (0..7).map(|n| [format!("{n}.png"), format!("{n}.txt")]).collect();
    let texts: Vec<String> = (0..7).map(|n| format!("caption {n}")).collect();
    let mut files: Vec<(&str, &[u8])> = Vec::new();
    for ([image, text], caption) in names.iter().zip(&texts) {
        files.push((image, &photo));
        files.push((text, caption.as_bytes()));
    }
    let captions = file(place, "captions.tar", &tar(&files));
    let lines: Vec<String> = (0..5)
        .map(|number| {
            let mut page = page(|name| json!({"image_name": name}));
            page["text_list"][3] = json!(format!("Page {number}."));
            page.to_string()
        })
        .collect();
    let pages = file(place, "pages.jsonl", lines.join("\n").as_bytes());
    let set = SetConfig {
        name: "SET".into(),
        group: Group::ImageText,
        instructions: golden("data/image_text_instructions.json"),
        images: Some(golden("data/images.json")),
        ..instruction_set()
    };
    DataConfig {
        sets: vec![set],
        ..config(vec![
            StreamConfig { mirror: true, num_samples: 9, ..stream(Group::ImageCaption, vec![captions]) },
            StreamConfig { images: Some(golden("images")), ..documents(vec![pages]) },
        ])
    }
}

fn instruction_set() -> SetConfig {
    toml::from_str("group = \"TEXT_ONLY\"\ninstructions = \"x\"").unwrap()
}

fn drain(loader: &mut Loader, epochs: usize) -> Vec<Option<Batch>> {
    let mut batches: Vec<Option<Batch>> = Vec::new();
    while batches.iter().filter(|batch| batch.is_none()).count() < epochs {
        batches.push(loader.next_batch().unwrap());
    }
    batches
}

#[test]
fn streams_and_sets_mix_and_resume_exactly() {
    let place = tempfile::tempdir().unwrap();
    let dataset = open(&mixture(&place));
    let sizes: Vec<_> = dataset.set_sizes().into_iter().map(|(name, _, samples)| (name, samples)).collect();
    let set = dataset.len() - 14;
    assert_eq!(sizes, [("SET".to_owned(), set), ("captions".to_owned(), 9), ("pages".to_owned(), 5)]);
    let options = |workers| LoaderOptions { batch_size: 4, workers, prefetch: 3, ..LoaderOptions::default() };
    let all = drain(&mut Loader::new(dataset.clone(), options(1), None).unwrap(), 2);
    let groups: BTreeSet<Group> = all.iter().flatten().flat_map(|batch| batch.groups.clone()).collect();
    assert_eq!(groups.len(), 3, "all kinds are in the mixture");
    for taken in 0..all.len() {
        let mut before = Loader::new(dataset.clone(), options(2), None).unwrap();
        for expected in &all[..taken] {
            assert_eq!(&before.next_batch().unwrap(), expected);
        }
        let mut after = Loader::new(open(&mixture(&place)), options(3), Some(before.state())).unwrap();
        for expected in &all[taken..] {
            assert_eq!(&after.next_batch().unwrap(), expected, "after {taken} batches");
        }
    }
}

#[test]
fn ranks_share_the_samples_of_a_weighted_mixture() {
    let place = tempfile::tempdir().unwrap();
    let mut config = mixture(&place);
    config.sets.clear();
    config.streams[0].weight = Some(1.0);
    config.streams[1].weight = Some(3.0);
    config.samples_per_epoch = Some(24);
    let dataset = open(&config);
    let batches = |rank, world| {
        let options = LoaderOptions { batch_size: 3, rank: Rank { rank, world }, ..LoaderOptions::default() };
        drain(&mut Loader::new(dataset.clone(), options, None).unwrap(), 1)
    };
    let ids = |batches: &[Option<Batch>]| {
        batches.iter().flatten().flat_map(|b| b.sample_ids.clone()).collect::<Vec<_>>()
    };
    let whole = ids(&batches(0, 1));
    assert_eq!(whole.iter().filter(|id| id.starts_with("captions/")).count(), 6);
    let parts: Vec<Vec<String>> = (0..4).map(|rank| ids(&batches(rank, 4))).collect();
    // Step by step, the batches of all ranks are the samples that one process alone would get.
    let in_turn: Vec<String> = (0..2)
        .flat_map(|step| parts.iter().flat_map(move |part| part[3 * step..3 * step + 3].to_vec()))
        .collect();
    assert_eq!(in_turn, whole);
}

#[test]
fn a_picture_shown_in_several_documents_is_stored_once() {
    let place = tempfile::tempdir().unwrap();
    let mut config = mixture(&place);
    config.sets.clear();
    config.streams.remove(0);
    let options = LoaderOptions { batch_size: 5, ..LoaderOptions::default() };
    let batch = Loader::new(open(&config), options, None).unwrap().next_batch().unwrap().unwrap();
    assert_eq!((batch.text.batch, batch.frames()), (5, 3));
    config.streams[0].images = None;
    let error = open(&config).sample(0).unwrap_err();
    assert_eq!(error.skip_reason(), Some(SkipReason::NoImages));
}

#[test]
fn configurations_that_make_no_sense_are_refused() {
    let place = tempfile::tempdir().unwrap();
    let tar = file(&place, "s.tar", &tar(&[("a.txt", b"1")]));
    let base = stream(Group::ImageCaption, vec![tar.clone()]);
    let documents = stream(Group::Interleaved, vec![tar.clone()]);
    for (stream, part) in [
        (StreamConfig { max_images: Some(3), ..base.clone() }, "max_images"),
        (StreamConfig { caption_format: Some(CaptionFormat::Plain), ..documents.clone() }, "caption_format"),
        (StreamConfig { reject_single_image: Some(1.5), ..documents.clone() }, "1.5"),
        (StreamConfig { min_images: Some(9), ..documents.clone() }, "min_images"),
        (StreamConfig { group: Group::ImageText, ..base.clone() }, "[[data.sets]]"),
        (StreamConfig { files: Vec::new(), ..base.clone() }, "files"),
        (StreamConfig { max_tokens: Some(0), ..base.clone() }, "max_tokens"),
        (StreamConfig { files: vec!["{0..".into()], ..base.clone() }, "{0.."),
        (StreamConfig { files: vec!["absent.tar".into()], ..base }, "absent.tar"),
    ] {
        let message = error_of(&config(vec![stream]));
        assert!(message.contains(part), "{message}");
    }
    let set = SetConfig { group: Group::Interleaved, instructions: tar, ..instruction_set() };
    let message = error_of(&DataConfig { sets: vec![set], ..config(Vec::new()) });
    assert!(message.contains("[[data.streams]]"), "{message}");

    let text = r#"
        [[streams]]
        group = "INTERLEAVED"
        files = "mmc4/{00..09}.tar"
        image_rule = "matched"
    "#;
    let mut parsed: DataConfig = toml::from_str(text).unwrap();
    parsed.resolve(Path::new("/data"));
    assert_eq!(parsed.streams[0].files, [PathBuf::from("/data/mmc4/{00..09}.tar")]);
    let again: DataConfig = toml::from_str(&toml::to_string(&parsed).unwrap()).unwrap();
    assert_eq!(again, parsed);
    assert!(toml::from_str::<DataConfig>(&text.replace("image_rule", "image_rules")).is_err());
}

#[test]
fn hostile_shards_are_refused_by_name() {
    let place = tempfile::tempdir().unwrap();
    let good = tar(&[("a.png", &image("tiny.png")), ("a.txt", b"1")]);
    let mut absurd = good.clone();
    absurd[124..136].copy_from_slice(b"77777777777\0");
    let mut negative = good.clone();
    negative[124..136].fill(0xff);
    let mut link = good.clone();
    link[156] = b'2';
    for header in [&mut absurd, &mut negative, &mut link] {
        header[148..156].fill(b' ');
        let sum: u32 = header[..512].iter().map(|&byte| u32::from(byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    let many: Vec<String> = (0..70).map(|number| format!("a.{number}")).collect();
    let many: Vec<(&str, &[u8])> = many.iter().map(|name| (&name[..], &b"1"[..])).collect();
    for (name, content) in [
        ("cut_in_content.tar", &good[..700]),
        ("cut_in_header.tar", &good[..good.len() - 1024 - 700]),
        ("absurd.tar", &absurd),
        ("negative.tar", &negative),
        ("link.tar", &link),
        ("many.tar", &tar(&many)),
        ("empty.tar", b""),
        ("noise.tar", b"not a tar archive at all, but long enough to be mistaken for one"),
        ("array.jsonl", b"[{}]"),
        ("packed.jsonl", b"\x1f\x8b\x08\x00"),
        ("blank.jsonl", b" \n\n"),
    ] {
        let path = file(&place, name, content);
        let message = error_of(&config(vec![stream(Group::ImageCaption, vec![path])]));
        assert!(message.contains(name), "{message}");
    }
}

#[test]
fn a_shard_that_changes_while_in_use_is_noticed() {
    let place = tempfile::tempdir().unwrap();
    let photo = image("tiny.png");
    let path = file(
        &place,
        "s.tar",
        &tar(&[("a.png", &photo), ("a.txt", b"1"), ("b.png", &photo), ("b.txt", b"2")]),
    );
    let dataset = open(&config(vec![stream(Group::ImageCaption, vec![path.clone()])]));
    dataset.sample(1).unwrap();
    fs::write(&path, tar(&[("a.png", &photo)])).unwrap();
    let message = dataset.sample(1).unwrap_err().to_string();
    assert!(message.contains("changed") && message.contains("s.tar"), "{message}");
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]

    #[test]
    fn damaged_shards_never_panic(places in proptest::collection::vec((0_usize..6000, 0_u8..), 0..6), cut in 0_usize..6000) {
        let place = tempfile::tempdir().unwrap();
        let inside = page(embedded).to_string();
        let mut content = tar(&[("a.png", &image("tiny.png")), ("a.txt", b"1"), ("b.json", &inside.as_bytes()[..2000])]);
        for (at, byte) in places {
            if let Some(found) = content.get_mut(at) {
                *found = byte;
            }
        }
        content.truncate(content.len().saturating_sub(cut % 3 * cut));
        let path = file(&place, "s.tar", &content);
        for group in [Group::ImageCaption, Group::Interleaved] {
            let config = config(vec![stream(group, vec![path.clone()])]);
            let Ok(dataset) = Dataset::open(&config, tokenizer("tokenizer_llama")) else { continue };
            for index in 0..dataset.len() {
                let _ = dataset.sample(index);
            }
        }
    }

    #[test]
    fn damaged_documents_never_panic(places in proptest::collection::vec((0_usize..400, 0_u8..), 1..6)) {
        let place = tempfile::tempdir().unwrap();
        let mut content = page(|name| json!({"image_name": name})).to_string().into_bytes();
        for (at, byte) in places {
            if let Some(found) = content.get_mut(at) {
                *found = byte;
            }
        }
        content[0] = b'{';
        let path = file(&place, "d.jsonl", &content);
        let config = config(vec![StreamConfig { images: Some(golden("images")), ..documents(vec![path]) }]);
        let dataset = open(&config);
        for index in 0..dataset.len() {
            let _ = dataset.sample(index);
        }
    }
}
