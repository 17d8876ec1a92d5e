//! A corpus of malformed data: each file ends in a named reason or a clear error, never in a panic or a hang.
//!
//! Every case starts from the same sound data set of two samples and spoils one thing. It goes through the loader
//! (bad samples passed over), through `verify`, and through `verify` with `strict`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use crate::common::{golden, tokenizer};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use otter_data::verify::{Reason, Severity, VerifyOptions, VerifyReport, verify};
use otter_data::{DataConfig, DataReport, Dataset, Loader, LoaderOptions, OnBadSample};
use serde_json::{Value, json};

/// Longer than this is a hang.
const PATIENCE: Duration = Duration::from_secs(120);

/// A data set in a folder of its own.
struct Corpus(tempfile::TempDir);

impl Corpus {
    /// Samples `a` (with context `b`) and `b`, images `red` and `second`.
    fn sound() -> Self {
        let corpus = Self(tempfile::tempdir().unwrap());
        corpus.records(json!({"a": record(&["red"]), "b": record(&["second"])}));
        corpus
            .json("images.json", &json!({"red": image_text("rgb_96x64.png"), "second": image_text("photo")}));
        corpus.json("train.json", &json!({"a": ["b"], "b": []}));
        corpus.list("images.json");
        corpus
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), bytes).unwrap();
    }

    fn json(&self, name: &str, value: &Value) {
        self.write(name, value.to_string());
    }

    fn records(&self, records: Value) {
        self.json("instructions.json", &json!({"meta": {}, "data": records}));
    }

    fn image(&self, bytes: &[u8]) {
        self.json("images.json", &json!({"red": STANDARD.encode(bytes), "second": image_text("photo")}));
    }

    fn list(&self, images: &str) {
        self.write(
            "list.yaml",
            format!(
                "IMAGE_TEXT_IN_CONTEXT:\n  SMALL:\n    mimicit_path: instructions.json\n    images_path: {images}\n    train_config_path: train.json\n"
            ),
        );
    }

    /// Cuts a file after `part` of its length.
    fn cut(&self, name: &str, part: f64) {
        let bytes = std::fs::read(self.path(name)).unwrap();
        self.write(name, &bytes[..(bytes.len() as f64 * part) as usize]);
    }

    fn config(&self) -> DataConfig {
        DataConfig {
            mimicit_yaml: Some(self.path("list.yaml")),
            image_size: 16,
            on_bad_sample: OnBadSample::Skip,
            ..DataConfig::default()
        }
    }
}

fn record(images: &[&str]) -> Value {
    json!({"instruction": format!("What is {}?", images.join(" ")), "answer": "A cup.", "image_ids": images, "rel_ins_ids": []})
}

/// A golden image; `photo` is any JPEG.
fn image_bytes(name: &str) -> Vec<u8> {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(golden("images")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let wanted = if name == "photo" { "jpg" } else { "png" };
    let file =
        files.iter().find(|file| file.extension().is_some_and(|extension| extension == wanted)).unwrap();
    std::fs::read(file).unwrap()
}

fn image_text(name: &str) -> String {
    STANDARD.encode(image_bytes(name))
}

/// What the three ways gave.
struct Outcome {
    /// What became of the samples of an epoch, or why the data cannot be opened.
    loader: Result<DataReport, String>,
    report: Result<VerifyReport, String>,
    strict: Result<VerifyReport, String>,
}

impl Outcome {
    /// Runs all three on a thread of their own; a panic or a hang there fails the test here.
    #[track_caller]
    fn of(corpus: &Corpus) -> Self {
        let config = corpus.config();
        let (sender, receiver) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let outcome =
                Self { loader: load(&config), report: check(&config, false), strict: check(&config, true) };
            let _ = sender.send(outcome);
        });
        match receiver.recv_timeout(PATIENCE) {
            Ok(outcome) => outcome,
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("it hangs"),
            Err(mpsc::RecvTimeoutError::Disconnected) => panic!("it panicked: {:?}", thread.join().err()),
        }
    }

    #[track_caller]
    fn verified(&self) -> &VerifyReport {
        self.report.as_ref().unwrap()
    }

    /// `verify` counts this error, and `strict` stops at an error of that name.
    #[track_caller]
    fn finds(&self, reason: Reason) -> &Self {
        let report = self.verified();
        let found: Vec<_> = report.findings.iter().map(|finding| (&finding.reason, finding.count)).collect();
        assert!(report.count(reason) > 0, "no {reason} among {found:?}");
        let finding = report.finding(reason).unwrap();
        assert!(!finding.examples.is_empty() && !finding.examples[0].message.is_empty());
        assert!(finding.examples.iter().all(|example| example.message.chars().count() <= 201));
        let strict = self.strict.as_ref().unwrap();
        assert_eq!(strict.stopped_early, report.errors > 0);
        if reason.severity() == Severity::Error {
            assert!(report.errors > 0 && strict.errors > 0);
        } else if report.errors == 0 {
            assert_eq!(strict.count(reason), report.count(reason));
        }
        self
    }

    /// As [`Outcome::finds`], and it is the first error.
    #[track_caller]
    fn stops_at(&self, reason: Reason) -> &Self {
        self.finds(reason);
        let strict = self.strict.as_ref().unwrap();
        let errors: Vec<_> = strict
            .findings
            .iter()
            .filter(|finding| finding.severity == Severity::Error)
            .map(|finding| finding.reason.as_str())
            .collect();
        assert_eq!(errors, [reason.name()]);
        self
    }

    /// Nothing is wrong but what is listed.
    #[track_caller]
    fn only(&self, reasons: &[Reason]) -> &Self {
        let found: Vec<_> = self.verified().findings.iter().map(|finding| finding.reason.as_str()).collect();
        let mut reasons = reasons.to_vec();
        reasons.sort_unstable();
        assert_eq!(found, reasons.iter().map(|reason| reason.name()).collect::<Vec<_>>());
        self
    }

    /// The loader counts so many samples under this reason and gives out the others.
    #[track_caller]
    fn skips(&self, reason: &str, count: u64) -> &Self {
        let report = self.loader.as_ref().unwrap();
        assert_eq!(report.skipped.get(reason), Some(&count), "{report:?}");
        assert!(report.examples[reason].len() < 2000, "a message that nobody can read");
        self
    }

    /// The loader refuses with a message of these parts.
    #[track_caller]
    fn refuses(&self, parts: &[&str]) -> &Self {
        let message = self.loader.as_ref().expect_err("the loader takes it");
        for part in parts {
            assert!(message.contains(part), "no '{part}' in: {message}");
        }
        assert!(message.len() < 2000);
        self
    }

    #[track_caller]
    fn loads(&self, samples: u64) -> &Self {
        let report = self.loader.as_ref().unwrap();
        assert_eq!((report.used, report.skipped_total()), (samples, 0), "{report:?}");
        self
    }
}

/// One epoch, every sample with its pixels.
fn load(config: &DataConfig) -> Result<DataReport, String> {
    let dataset = Dataset::open(config, tokenizer("tokenizer_llama")).map_err(|error| error.to_string())?;
    let options = LoaderOptions { batch_size: 1, workers: 2, ..LoaderOptions::default() };
    let mut loader = Loader::new(Arc::new(dataset), options, None).map_err(|error| error.to_string())?;
    while let Some(batch) = loader.next_batch().map_err(|error| error.to_string())? {
        assert_eq!(batch.sample_ids.len(), 1);
    }
    Ok(loader.report().clone())
}

fn check(config: &DataConfig, strict: bool) -> Result<VerifyReport, String> {
    let options = VerifyOptions { strict, thumbnails: true, ..VerifyOptions::default() };
    verify(config, Some(&tokenizer("tokenizer_llama")), &options, &mut |_| {})
        .map_err(|error| error.to_string())
}

#[test]
fn the_sound_one() {
    Outcome::of(&Corpus::sound()).only(&[]).loads(2);
}

#[test]
fn cut_and_empty_files() {
    for name in ["instructions.json", "images.json", "train.json"] {
        let corpus = Corpus::sound();
        corpus.cut(name, 0.6);
        Outcome::of(&corpus).stops_at(Reason::UnreadableFile).refuses(&[name, "byte"]);
        let corpus = Corpus::sound();
        corpus.write(name, "");
        Outcome::of(&corpus).stops_at(Reason::UnreadableFile).refuses(&[name, "empty"]);
        let corpus = Corpus::sound();
        corpus.write(name, "[1, 2]");
        Outcome::of(&corpus).stops_at(Reason::UnreadableFile).refuses(&[name, "object"]);
        let corpus = Corpus::sound();
        corpus.write(name, "{\"data\": {}} trailing");
        Outcome::of(&corpus).stops_at(Reason::UnreadableFile).refuses(&[name]);
    }
}

#[test]
fn folders_in_place_of_files() {
    for name in ["instructions.json", "images.json", "train.json"] {
        let corpus = Corpus::sound();
        std::fs::remove_file(corpus.path(name)).unwrap();
        std::fs::create_dir(corpus.path(name)).unwrap();
        Outcome::of(&corpus).stops_at(Reason::UnreadableFile).refuses(&[name]);
    }
}

#[test]
fn nesting_of_any_depth() {
    const DEPTH: usize = 100_000;
    let deep = format!("{}{}", "[".repeat(DEPTH), "]".repeat(DEPTH));
    let corpus = Corpus::sound();
    let good = record(&["second"]);
    corpus.write("instructions.json", format!("{{\"data\":{{\"a\":{deep},\"b\":{good}}}}}"));
    Outcome::of(&corpus).stops_at(Reason::BadRecord).skips("bad_record", 1);
    for field in ["answer", "image_ids", "rel_ins_ids"] {
        let corpus = Corpus::sound();
        let text = format!(
            "{{\"data\":{{\"a\":{{\"instruction\":\"q\",\"{field}\":{deep},\"answer\":\"a\"}},\"b\":{good}}}}}"
        );
        corpus.write("instructions.json", text);
        Outcome::of(&corpus).stops_at(Reason::BadRecord).skips("bad_record", 1);
    }
    let corpus = Corpus::sound();
    corpus.write("train.json", format!("{{\"a\":{deep},\"b\":[]}}"));
    Outcome::of(&corpus).stops_at(Reason::BadContext).skips("bad_record", 1);
    let corpus = Corpus::sound();
    corpus.write("images.json", format!("{{\"red\":{deep},\"second\":\"{}\"}}", image_text("photo")));
    Outcome::of(&corpus).stops_at(Reason::BadImageEntry).skips("bad_image", 1);
    // Beside the data it does not matter.
    let corpus = Corpus::sound();
    corpus.write("instructions.json", format!("{{\"meta\":{deep},\"data\":{{\"a\":{good},\"b\":{good}}}}}"));
    corpus.json("train.json", &json!({"a": [], "b": []}));
    Outcome::of(&corpus).loads(2);
    let corpus = Corpus::sound();
    corpus.write("list.yaml", format!("IMAGE_TEXT: {deep}"));
    let outcome = Outcome::of(&corpus);
    assert!(outcome.report.is_err());
    outcome.refuses(&["list.yaml"]);
}

#[test]
fn damaged_images() {
    let png = image_bytes("png");
    let jpeg = image_bytes("photo");
    let noise: Vec<u8> = (0..500_u32).map(|i| (i * 7919 % 251) as u8).collect();
    for bytes in [
        noise.clone(),
        b"\0".to_vec(),
        png[..png.len() / 2].to_vec(),
        png[..20].to_vec(),
        jpeg[..300].to_vec(),
        [&jpeg[..2], &noise].concat(),
        [b"GIF89a\x10\0\x10\0", &noise[..]].concat(),
        [b"RIFF\xff\xff\xff\x7fWEBP", &noise[..]].concat(),
        [b"\x89PNG\r\n\x1a\n", &noise[..]].concat(),
    ] {
        let corpus = Corpus::sound();
        corpus.image(&bytes);
        Outcome::of(&corpus).stops_at(Reason::UndecodableImage).finds(Reason::BadImage).skips("bad_image", 1);
    }
    // A JPEG without its end decodes, as in Pillow with truncated files tolerated.
    for end in [jpeg.len() / 10, jpeg.len() * 3 / 4, jpeg.len() - 1] {
        let corpus = Corpus::sound();
        corpus.image(&jpeg[..end]);
        let outcome = Outcome::of(&corpus);
        outcome.finds(Reason::TruncatedImage).loads(2);
        assert!(outcome.verified().is_clean());
    }
}

#[test]
fn images_that_claim_to_be_huge() {
    // The size of a JPEG stands after the start-of-frame marker, that of a PNG in its first chunk.
    let mut jpeg = image_bytes("photo");
    let frame = (0..jpeg.len()).find(|&at| jpeg[at] == 0xFF && matches!(jpeg[at + 1], 0xC0 | 0xC2)).unwrap();
    jpeg[frame + 5..frame + 9].fill(0xFF);
    let mut png = image_bytes("png");
    png[16..24].copy_from_slice(&[0, 0, 0x80, 0, 0, 0, 0x80, 0]);
    let checksum = crc32(&png[12..29]);
    png[29..33].copy_from_slice(&checksum.to_be_bytes());
    for bytes in [jpeg, png] {
        let corpus = Corpus::sound();
        corpus.image(&bytes);
        Outcome::of(&corpus).stops_at(Reason::ImageTooLarge).skips("bad_image", 1);
    }
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(
            crc ^ u32::from(byte),
            |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 },
        )
    })
}

#[test]
fn image_entries_that_are_no_images() {
    for (value, reason) in [
        (json!("***"), Reason::EmptyImage),
        (json!(""), Reason::EmptyImage),
        (json!("iVBORw0KGgo"), Reason::BadImageEntry),
        (json!("A"), Reason::BadImageEntry),
        (json!(null), Reason::BadImageEntry),
        (json!(17), Reason::BadImageEntry),
        (json!({"a": 1}), Reason::BadImageEntry),
        (json!(["x"]), Reason::BadImageEntry),
        (json!("bm8gaW1hZ2U="), Reason::UndecodableImage),
    ] {
        let corpus = Corpus::sound();
        corpus.json("images.json", &json!({"red": value, "second": image_text("photo")}));
        Outcome::of(&corpus).stops_at(reason).finds(Reason::BadImage).skips("bad_image", 1);
    }
}

#[test]
fn ids_that_lead_nowhere() {
    let corpus = Corpus::sound();
    corpus.records(json!({"a": record(&["blue"]), "b": record(&["second"])}));
    let outcome = Outcome::of(&corpus);
    outcome
        .only(&[Reason::MissingImage, Reason::UnusedImage])
        .stops_at(Reason::MissingImage)
        .skips("missing_image", 1);
    assert_eq!(outcome.verified().usable_samples, 1);

    let corpus = Corpus::sound();
    corpus.json("train.json", &json!({"a": ["gone"], "b": []}));
    Outcome::of(&corpus)
        .only(&[Reason::MissingContext])
        .stops_at(Reason::MissingContext)
        .skips("missing_context", 1);

    let corpus = Corpus::sound();
    corpus.json("train.json", &json!({"gone": [], "b": ["a"]}));
    Outcome::of(&corpus).only(&[Reason::MissingInstruction]).skips("missing_instruction", 1);

    let corpus = Corpus::sound();
    corpus.records(json!({"a": record(&[]), "b": record(&["second"])}));
    Outcome::of(&corpus).stops_at(Reason::NoImages).skips("no_images", 1);

    // The context's record is the bad one.
    let corpus = Corpus::sound();
    corpus.records(json!({"a": record(&["red"]), "b": record(&["blue"])}));
    Outcome::of(&corpus)
        .stops_at(Reason::MissingImage)
        .finds(Reason::UnusableContext)
        .refuses(&["no batch", "missing_image        2  100.0 %"]);
}

#[test]
fn circles_and_self_references() {
    let corpus = Corpus::sound();
    corpus.json("train.json", &json!({"a": ["b"], "b": ["a"]}));
    Outcome::of(&corpus).only(&[]).loads(2);
    let corpus = Corpus::sound();
    corpus.json("train.json", &json!({"a": ["a", "b", "b"], "b": []}));
    Outcome::of(&corpus).only(&[Reason::SelfReference, Reason::RepeatedContext]).loads(2);
    let corpus = Corpus::sound();
    let mut related = record(&["red"]);
    related["rel_ins_ids"] = json!(["a", "gone"]);
    corpus.records(json!({"a": related, "b": record(&["second"])}));
    Outcome::of(&corpus).only(&[Reason::SelfReference, Reason::DanglingRelated]).loads(2);
}

#[test]
fn control_characters() {
    let corpus = Corpus::sound();
    corpus.records(json!({"a\0b": record(&["red"]), "": record(&["second"])}));
    corpus.json("train.json", &json!({"a\0b": [""], "": []}));
    let outcome = Outcome::of(&corpus);
    outcome.only(&[Reason::ControlCharacterInId]).loads(2);
    let finding = outcome.verified().finding(Reason::ControlCharacterInId).unwrap();
    assert_eq!((finding.count, finding.examples[0].id.as_str()), (2, "a\\u{0}b"));
    // A raw NUL is no JSON.
    let corpus = Corpus::sound();
    corpus.write("instructions.json", b"{\"data\":{\"a\":{\"instruction\":\"q\0\",\"answer\":\"a\"},\"b\":{\"instruction\":\"q\",\"answer\":\"a\",\"image_ids\":\"second\"}}}");
    Outcome::of(&corpus).stops_at(Reason::BadRecord).skips("bad_record", 1);
}

#[test]
fn bytes_that_are_no_utf8() {
    let corpus = Corpus::sound();
    let text = std::fs::read_to_string(corpus.path("instructions.json")).unwrap();
    let spoil = |from: &str| {
        let mut bytes = text.clone().into_bytes();
        bytes[text.find(from).unwrap() + 1] = 0xFF;
        bytes
    };
    corpus.write("instructions.json", spoil("A cup"));
    Outcome::of(&corpus).stops_at(Reason::BadRecord).skips("bad_record", 1);
    let corpus = Corpus::sound();
    corpus.write("instructions.json", spoil("\"a\""));
    Outcome::of(&corpus).stops_at(Reason::UnreadableFile).refuses(&["instructions.json", "UTF-8"]);
    // UTF-16, as some editors save it.
    let corpus = Corpus::sound();
    let wide: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    corpus.write("instructions.json", [b"\xFF\xFE", &wide[..]].concat());
    Outcome::of(&corpus).stops_at(Reason::UnreadableFile).refuses(&["instructions.json"]);
}

#[test]
fn a_byte_order_mark_is_no_fault() {
    let corpus = Corpus::sound();
    for name in ["instructions.json", "images.json", "train.json", "list.yaml"] {
        let text = std::fs::read(corpus.path(name)).unwrap();
        corpus.write(name, [b"\xEF\xBB\xBF", &text[..]].concat());
    }
    Outcome::of(&corpus).only(&[]).loads(2);
}

#[test]
fn values_of_the_wrong_kind() {
    let good = record(&["second"]);
    for bad in [
        json!({"instruction": 5, "answer": "a", "image_ids": ["red"]}),
        json!({"instruction": "q", "answer": null, "image_ids": ["red"]}),
        json!({"instruction": "q", "image_ids": ["red"]}),
        json!({"instruction": "q", "answer": "a", "image_ids": [1]}),
        json!({"instruction": "q", "answer": "a", "image_ids": {"red": 1}}),
        json!({"instruction": "q", "answer": "a", "image_ids": ["red"], "rel_ins_ids": [{}]}),
        json!([]),
        json!("text"),
        json!(null),
    ] {
        let corpus = Corpus::sound();
        corpus.records(json!({"a": bad, "b": good}));
        Outcome::of(&corpus).stops_at(Reason::BadRecord).skips("bad_record", 1);
    }
    for bad in [json!(7), json!({"b": 1}), json!([["b"]]), json!([null])] {
        let corpus = Corpus::sound();
        corpus.json("train.json", &json!({"a": bad, "b": []}));
        Outcome::of(&corpus).stops_at(Reason::BadContext).skips("bad_record", 1);
    }
}

#[test]
fn repeated_ids() {
    let corpus = Corpus::sound();
    let (first, last) = (json!({"instruction": "first"}), record(&["red"]));
    corpus.write(
        "instructions.json",
        format!("{{\"data\":{{\"a\":{first},\"b\":{},\"a\":{last}}}}}", record(&["second"])),
    );
    let outcome = Outcome::of(&corpus);
    outcome.only(&[Reason::RepeatedId]).loads(2);
    assert_eq!(outcome.verified().count(Reason::RepeatedId), 1);
}

#[test]
fn texts_without_sense() {
    let corpus = Corpus::sound();
    corpus.records(json!({
        "a": {"instruction": " \n", "answer": "see <image> here", "image_ids": ["red"]},
        "b": {"instruction": "q", "answer": " \t", "image_ids": ["second"]},
    }));
    let outcome = Outcome::of(&corpus);
    outcome.only(&[Reason::EmptyAnswer, Reason::EmptyInstruction, Reason::SpecialTokenText]);
    outcome.stops_at(Reason::EmptyAnswer);
    assert_eq!(outcome.verified().usable_samples, 1);
    // Two records of the same content, and two images of the same pixels.
    let corpus = Corpus::sound();
    corpus.records(json!({"a": record(&["red"]), "b": record(&["red"])}));
    corpus.json("images.json", &json!({"red": image_text("png"), "second": image_text("png")}));
    Outcome::of(&corpus)
        .only(&[Reason::DuplicateRecord, Reason::DuplicateImage, Reason::UnusedImage])
        .loads(2);
}

/// Texts of 100 MB are refused by their length, not tokenized; messages stay short.
#[test]
fn texts_of_a_hundred_megabytes() {
    let long = "a giraffe ".repeat(10_000_000);
    let corpus = Corpus::sound();
    let mut huge = record(&["red"]);
    huge["answer"] = json!(long);
    corpus.records(json!({"a": huge, "b": record(&["second"])}));
    corpus.json("train.json", &json!({"a": ["b"], "b": ["a"]}));
    let outcome = Outcome::of(&corpus);
    outcome.only(&[Reason::TooLong, Reason::LongAnswer, Reason::ContextDropped]);
    outcome.stops_at(Reason::TooLong).skips("too_long", 1);
    assert_eq!(outcome.loader.as_ref().unwrap().used, 1);

    let corpus = Corpus::sound();
    corpus.records(
        json!({"a": {"instruction": "q", "answer": "a", "image_ids": long}, "b": record(&["second"])}),
    );
    Outcome::of(&corpus).stops_at(Reason::MissingImage).skips("missing_image", 1);

    let corpus = Corpus::sound();
    corpus.records(json!({&long: record(&["blue"]), "b": record(&["blue"])}));
    corpus.json("train.json", &json!({&long: ["b"], "b": []}));
    Outcome::of(&corpus).stops_at(Reason::MissingImage).refuses(&["no batch"]);
}

#[test]
fn the_reference_cuts_texts_of_any_length() {
    let corpus = Corpus::sound();
    let mut huge = record(&["red"]);
    huge["answer"] = json!("é giraffe ".repeat(1_000_000));
    corpus.records(json!({"a": huge, "b": record(&["second"])}));
    let config = DataConfig { preset: otter_data::Preset::Reference, ..corpus.config() };
    let dataset = Dataset::open(&config, tokenizer("tokenizer_llama")).unwrap();
    assert_eq!(dataset.sample(0).unwrap().input_ids.len(), config.max_seq_len + 2);
}

#[test]
fn lists_that_are_wrong() {
    for (text, parts) in [
        ("NO_SUCH_GROUP:\n  A: {mimicit_path: instructions.json}\n", &["NO_SUCH_GROUP", "IMAGE_TEXT"][..]),
        ("TEXT_ONLY:\n  A: {mimicit_path: missing.json}\n", &["missing.json", "does not exist"]),
        ("TEXT_ONLY:\n  A: {images_path: images.json}\n", &["mimicit_path"]),
        ("TEXT_ONLY:\n  A: {mimicit_path: instructions.json, num_samples: many}\n", &["list.yaml"]),
        ("TEXT_ONLY:\n  A: {mimicit_path: instructions.json, colour: red}\n", &["colour"]),
        ("TEXT_ONLY:\n  A: [instructions.json]\n", &["list.yaml"]),
        ("TEXT_ONLY: 5\n", &["list.yaml"]),
        ("- TEXT_ONLY\n", &["list.yaml"]),
        ("TEXT_ONLY:\n  A: {mimicit_path: [instructions.json]}\n", &["list.yaml"]),
        ("TEXT_ONLY:\n\tA: {\n", &["list.yaml"]),
        ("", &["list.yaml"]),
        ("\0\0\0", &["list.yaml"]),
        ("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n", &["list.yaml"]),
    ] {
        let corpus = Corpus::sound();
        corpus.write("list.yaml", text);
        let outcome = Outcome::of(&corpus);
        outcome.refuses(parts);
        let message = outcome.report.expect_err("verify takes it");
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    }
    let corpus = Corpus::sound();
    corpus.write("list.yaml", b"TEXT_ONLY:\n  \xFF: {}\n");
    Outcome::of(&corpus).refuses(&["list.yaml"]);
}

mod parquet_files {
    use super::*;
    use parquet::data_type::{ByteArrayType, Int64Type};
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;

    enum Column {
        Texts(Vec<Vec<u8>>),
        Numbers(Vec<i64>),
    }

    fn write(path: &Path, message: &str, columns: &[Column]) {
        let schema = Arc::new(parse_message_type(message).unwrap());
        let file = std::fs::File::create(path).unwrap();
        let properties = Arc::new(WriterProperties::builder().build());
        let mut writer = SerializedFileWriter::new(file, schema, properties).unwrap();
        let mut group = writer.next_row_group().unwrap();
        for column in columns {
            let mut writer = group.next_column().unwrap().unwrap();
            match column {
                Column::Texts(texts) => {
                    let values: Vec<_> = texts.iter().map(|text| text.clone().into()).collect();
                    writer.typed::<ByteArrayType>().write_batch(&values, None, None).unwrap();
                }
                Column::Numbers(numbers) => {
                    writer.typed::<Int64Type>().write_batch(numbers, None, None).unwrap();
                }
            }
            writer.close().unwrap();
        }
        group.close().unwrap();
        writer.close().unwrap();
    }

    const SOUND: &str = "message m { required binary base64 (UTF8); required binary id (UTF8); }";

    fn sound_columns() -> [Column; 2] {
        [
            Column::Texts(vec![image_text("png").into_bytes(), image_text("photo").into_bytes()]),
            Column::Texts(vec![b"red".to_vec(), b"second".to_vec()]),
        ]
    }

    fn corpus(message: &str, columns: &[Column]) -> Corpus {
        let corpus = Corpus::sound();
        write(&corpus.path("images.parquet"), message, columns);
        corpus.list("images.parquet");
        corpus
    }

    #[test]
    fn the_sound_one() {
        Outcome::of(&corpus(SOUND, &sound_columns())).only(&[]).loads(2);
    }

    #[test]
    fn other_columns() {
        let numbers = || Column::Numbers(vec![1, 2]);
        let [images, ids] = sound_columns();
        let cases = [
            ("message m { required int64 base64; required binary id (UTF8); }", vec![numbers(), ids]),
            ("message m { required binary base64 (UTF8); required int64 id; }", vec![images, numbers()]),
            ("message m { required int64 a; }", vec![numbers()]),
            (
                "message m { required int64 a; required int64 b; required int64 c; }",
                vec![numbers(), numbers(), numbers()],
            ),
        ];
        for (message, columns) in cases {
            Outcome::of(&corpus(message, &columns))
                .stops_at(Reason::UnreadableFile)
                .refuses(&["images.parquet"]);
        }
    }

    #[test]
    fn ids_that_are_no_text_or_stand_twice() {
        let [images, _] = sound_columns();
        let ids = Column::Texts(vec![b"red\xFF".to_vec(), b"second".to_vec()]);
        Outcome::of(&corpus(SOUND, &[images, ids]))
            .stops_at(Reason::UnreadableFile)
            .refuses(&["images.parquet"]);
        let [Column::Texts(mut images), Column::Texts(mut ids)] = sound_columns() else { unreachable!() };
        images.push(image_text("png").into_bytes());
        ids.push(b"red".to_vec());
        Outcome::of(&corpus(SOUND, &[Column::Texts(images), Column::Texts(ids)]))
            .only(&[Reason::RepeatedId])
            .loads(2);
    }

    #[test]
    fn cut_files() {
        for part in [0.0, 0.001, 0.3, 0.7, 0.95, 0.999] {
            let corpus = corpus(SOUND, &sound_columns());
            corpus.cut("images.parquet", part);
            Outcome::of(&corpus).stops_at(Reason::UnreadableFile).refuses(&["images.parquet"]);
        }
    }

    /// Whatever byte is wrong: a reason or an error.
    #[test]
    fn flipped_bytes() {
        let sound = corpus(SOUND, &sound_columns());
        let bytes = std::fs::read(sound.path("images.parquet")).unwrap();
        let near_the_end = bytes.len() - 600..bytes.len();
        let places = (0..40).map(|i| i * bytes.len() / 40).chain(near_the_end.step_by(13));
        for place in places {
            let mut spoiled = bytes.clone();
            spoiled[place] ^= 0x55;
            sound.write("images.parquet", &spoiled);
            let outcome = Outcome::of(&sound);
            if let (Ok(report), Ok(loaded)) = (&outcome.report, &outcome.loader) {
                assert_eq!(
                    report.usable_samples, loaded.used,
                    "byte {place}: {:?} {loaded:?}",
                    report.findings
                );
            }
        }
    }
}
