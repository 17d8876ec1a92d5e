//! Repaired copies: whatever was wrong, nothing is wrong with the copy, and what could be used is still there.

use std::path::Path;

use crate::common::{golden, tokenizer};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use otter_data::verify::{
    FixOptions, FixReport, Reason, VerifyOptions, VerifyReport, verify, verify_and_fix,
};
use otter_data::{AlphaRule, DataConfig, Dataset, OutputForm};
use serde_json::{Value, json};

fn png(level: u8) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    image::RgbImage::from_pixel(16, 12, image::Rgb([level, 9, 200]))
        .write_to(&mut bytes, image::ImageFormat::Png)
        .unwrap();
    bytes.into_inner()
}

fn record(instruction: &str, images: &[&str], related: &[&str]) -> Value {
    json!({"instruction": instruction, "answer": format!("About {instruction}."), "image_ids": images, "rel_ins_ids": related})
}

/// Two sets of one group that share an image file and name each other's records, and a text set.
fn spoiled(folder: &Path) -> DataConfig {
    let write = |name: &str, value: Value| std::fs::write(folder.join(name), value.to_string()).unwrap();
    let text = |level: u8| json!(STANDARD.encode(png(level)));
    write(
        "images.json",
        json!({"one": text(1), "two": text(2), "two again": text(2), "broken": "bm8gaW1hZ2U=", "cut": "abc", "spare": text(3)}),
    );
    write(
        "first_instructions.json",
        json!({"data": {
            "A1": record("a1", &["one"], &["A2", "gone", "A1"]),
            "A2": record("a2", &["two", "one"], &["A3"]),
            "A3": record("a3", &["broken"], &[]),
            "A4": record("a4", &["missing"], &[]),
            "A5": record("a5", &[], &[]),
            "A6": {"instruction": "a6", "answer": " ", "image_ids": ["one"]},
            "A7": {"instruction": 7},
            "A8": record(&"long ".repeat(3000), &["one"], &[]),
            "A9": record("a9", &["two again"], &["B1"]),
            "A10": record("a1", &["one"], &[]),
        }}),
    );
    write(
        "first_train.json",
        json!({
            "A1": ["A2", "A3", "B1", "gone", "A1", "A2"],
            "A2": ["A10", "A1"],
            "A3": [],
            "A4": [], "A5": [], "A6": [], "A7": [], "A8": ["A1"],
            "A9": ["A6", "B2"],
            "A10": [],
            "gone": ["A1"],
            "B1": 5,
        }),
    );
    write(
        "second_instructions.json",
        json!({"data": {"B1": record("b1", &["one"], &[]), "B2": record("b2", &["cut"], &[])}}),
    );
    write("text_instructions.json", json!({"data": {"T1": {"instruction": "t", "answer": "u"}, "T2": {}}}));
    std::fs::write(
        folder.join("list.yaml"),
        "IMAGE_TEXT_IN_CONTEXT:
  first: {mimicit_path: first_instructions.json, images_path: images.json, train_config_path: first_train.json, num_samples: 40, weight: 0.5}
  'second: #1': {mimicit_path: second_instructions.json, images_path: images.json, weight: 2}
TEXT_ONLY:
  first: {mimicit_path: text_instructions.json, weight: 1, task_description: ['Say \"it\".']}
",
    )
    .unwrap();
    DataConfig { mimicit_yaml: Some(folder.join("list.yaml")), image_size: 8, ..DataConfig::default() }
}

fn fix(
    config: &DataConfig,
    out: &Path,
    form: OutputForm,
    dedupe: bool,
) -> (VerifyReport, FixReport, VerifyReport) {
    let tokenizer = tokenizer("tokenizer_llama");
    let options = VerifyOptions::default();
    let fix = FixOptions { form, dedupe };
    let (before, fixed) = verify_and_fix(config, Some(&tokenizer), &options, &fix, out, &mut |_| {}).unwrap();
    let repaired =
        DataConfig { mimicit_yaml: Some(fixed.list.clone()), image_size: 8, ..DataConfig::default() };
    let after = verify(&repaired, Some(&tokenizer), &options, &mut |_| {}).unwrap();
    // The loader agrees.
    let loaded = Dataset::open(&repaired, tokenizer).unwrap().check(true).unwrap();
    assert_eq!(loaded.skipped_total(), 0, "{loaded:?}");
    (before, fixed, after)
}

#[test]
fn nothing_is_wrong_with_the_copy_in_any_form() {
    let folder = tempfile::tempdir().unwrap();
    let config = spoiled(folder.path());
    for form in OutputForm::ALL {
        let out = folder.path().join(format!("repaired {form}"));
        let (before, fixed, after) = fix(&config, &out, form, false);
        assert!(before.errors > 10);
        assert!(after.is_clean(), "{form}: {:?}", after.findings);
        for reason in
            [Reason::DanglingRelated, Reason::SelfReference, Reason::RepeatedContext, Reason::UnusedImage]
        {
            assert_eq!(after.count(reason), 0, "{form} {reason}");
        }
        let expected = FixReport {
            list: out.join("data.yaml"),
            // A1 A2 A9 A10 B1 T1
            records: 6,
            // A3 to A8, B2, T2
            records_dropped: 8,
            contexts: 4,
            // A3 to A8, gone, and B1, which is no list
            contexts_dropped: 8,
            // of A1: A3, gone, A1, A2; of A9: A6 and B2
            context_ids_removed: 6,
            // of A1: gone and A1; of A2: A3
            related_ids_removed: 3,
            // one, two, two again
            images: 3,
            images_dropped: 2,
            images_unused: 1,
            ..FixReport::default()
        };
        assert_eq!(fixed, expected, "{form}");
        assert_eq!((after.records, after.samples, after.images), (6, 6, 3));
    }
}

#[test]
fn copies_are_merged_on_request() {
    let folder = tempfile::tempdir().unwrap();
    let config = spoiled(folder.path());
    let (before, fixed, after) = fix(&config, &folder.path().join("out"), OutputForm::Json, true);
    assert_eq!((before.count(Reason::DuplicateImage), before.count(Reason::DuplicateRecord)), (1, 1));
    assert_eq!((fixed.images_merged, fixed.records_merged, fixed.images, fixed.records), (1, 1, 2, 5));
    assert!(after.is_clean());
    assert_eq!((after.count(Reason::DuplicateImage), after.count(Reason::DuplicateRecord)), (0, 0));
    let read = |name: &str| -> Value {
        serde_json::from_str(&std::fs::read_to_string(folder.path().join("out").join(name)).unwrap()).unwrap()
    };
    // The text set of the same name comes first in the order of the groups.
    let records = read("first_2/first_2_instructions.json");
    assert_eq!(records["data"]["A9"]["image_ids"], json!(["two"]));
    let train = read("first_2/first_2_train.json");
    // A10 is A1 now, once.
    assert_eq!(train, json!({"A1": ["A2", "B1"], "A2": ["A1"], "A9": []}));
    let list = std::fs::read_to_string(&fixed.list).unwrap();
    assert!(
        list.contains("num_samples: 40") && list.contains("weight: 0.5") && list.contains("Say \\\"it\\\"."),
        "{list}"
    );
}

#[test]
fn a_sound_set_is_copied_whole() {
    let folder = tempfile::tempdir().unwrap();
    let config = DataConfig {
        mimicit_yaml: Some(golden("data/train_json.yaml")),
        image_size: 8,
        ..DataConfig::default()
    };
    let (before, fixed, after) = fix(&config, &folder.path().join("out"), OutputForm::OtterDataset, false);
    assert_eq!((fixed.records, fixed.images), (before.records, before.images));
    assert_eq!((after.records, after.samples, after.images), (before.records, before.samples, before.images));
    assert_eq!(after.histograms, before.histograms);
}

#[test]
fn a_file_that_cannot_be_read_is_not_repaired_away() {
    let folder = tempfile::tempdir().unwrap();
    let config = spoiled(folder.path());
    std::fs::write(folder.path().join("text_instructions.json"), "{").unwrap();
    let out = folder.path().join("out");
    let fix = |out: &Path| {
        let options = FixOptions { form: OutputForm::Json, dedupe: false };
        verify_and_fix(&config, None, &VerifyOptions::default(), &options, out, &mut |_| {})
            .err()
            .unwrap()
            .to_string()
    };
    assert!(fix(&out).contains("text_instructions.json"));
    assert!(!out.exists());
    assert!(fix(folder.path()).contains("not empty"));
}

/// A digit-like picture in black on a transparent black ground: one bar at a place of its own.
fn bar(place: u32) -> Vec<u8> {
    let mut image = image::RgbaImage::new(20, 20);
    (0..20).for_each(|y| image.put_pixel(place, y, image::Rgba([0, 0, 0, 255])));
    let mut bytes = std::io::Cursor::new(Vec::new());
    image.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

#[test]
fn images_that_differ_only_in_transparency_are_not_merged() {
    let place = tempfile::tempdir().unwrap();
    let mut images: Vec<(String, Value)> =
        (0..10).map(|number| (number.to_string(), json!(STANDARD.encode(bar(number))))).collect();
    images.push(("again".to_owned(), json!(STANDARD.encode(bar(3)))));
    let records: serde_json::Map<String, Value> =
        images.iter().map(|(id, _)| (format!("R{id}"), record(&format!("read {id}"), &[id], &[]))).collect();
    let write =
        |name: &str, value: Value| std::fs::write(place.path().join(name), value.to_string()).unwrap();
    write("images.json", Value::Object(images.into_iter().collect()));
    write("records.json", json!({"data": records}));
    std::fs::write(
        place.path().join("list.yaml"),
        "IMAGE_TEXT:\n  bars: {mimicit_path: records.json, images_path: images.json}\n",
    )
    .unwrap();
    let config = |alpha| DataConfig {
        mimicit_yaml: Some(place.path().join("list.yaml")),
        image_size: 8,
        alpha: Some(alpha),
        ..DataConfig::default()
    };
    let found = |report: &VerifyReport, reason: Reason| {
        report
            .findings
            .iter()
            .find(|finding| finding.reason == reason.name())
            .map_or(0, |finding| finding.count)
    };
    let dropped = config(AlphaRule::Drop);
    let fix = FixOptions { form: OutputForm::OtterDataset, dedupe: true };
    let out = place.path().join("copy");
    let (report, fixed) =
        verify_and_fix(&dropped, None, &VerifyOptions::default(), &fix, &out, &mut |_| {}).unwrap();
    assert_eq!((fixed.images, fixed.images_merged, fixed.records), (10, 1, 11));
    // With the hidden colors all are black squares, and that is said; over white they are what a person sees.
    assert_eq!(found(&report, Reason::TransparentImage), 11);
    let example = report.findings.iter().find(|finding| finding.reason == "transparent_image").unwrap();
    assert!(example.examples[0].message.contains("nothing of it is seen"), "{:?}", example.examples[0]);
    let white = verify(&config(AlphaRule::White), None, &VerifyOptions::default(), &mut |_| {}).unwrap();
    assert_eq!((found(&white, Reason::TransparentImage), found(&white, Reason::DuplicateImage)), (11, 1));
    let example = white.findings.iter().find(|finding| finding.reason == "transparent_image").unwrap();
    assert!(example.examples[0].message.contains("levels on average"), "{:?}", example.examples[0]);
}

#[test]
fn images_of_a_set_that_is_left_out_stay_with_another_set() {
    let place = tempfile::tempdir().unwrap();
    let write =
        |name: &str, value: Value| std::fs::write(place.path().join(name), value.to_string()).unwrap();
    write("a.json", json!({"data": {"A1": {"instruction": "a", "answer": "", "image_ids": ["one"]}}}));
    write("b.json", json!({"data": {"B1": record("b", &["one"], &[]), "B2": record("c", &["two"], &[])}}));
    write("ta.json", json!({"one": STANDARD.encode(png(1)), "spare": STANDARD.encode(png(2))}));
    write("tb.json", json!({"two": STANDARD.encode(png(3))}));
    std::fs::write(
        place.path().join("list.yaml"),
        "IMAGE_TEXT:
  A: {mimicit_path: a.json, images_path: ta.json}
  B: {mimicit_path: b.json, images_path: tb.json}
",
    )
    .unwrap();
    let config = DataConfig {
        mimicit_yaml: Some(place.path().join("list.yaml")),
        image_size: 8,
        ..DataConfig::default()
    };
    for form in OutputForm::ALL {
        let (_, fixed, after) = fix(&config, &place.path().join(form.name()), form, false);
        assert!(after.is_clean(), "{form}: {:?}", after.findings);
        assert_eq!((fixed.records, fixed.images, fixed.images_unused), (2, 2, 1), "{form}");
        assert_eq!((after.records, after.images), (2, 2), "{form}");
    }
    // Where ids meet, no record may silently get another image.
    write("b.json", json!({"data": {"B1": record("b", &["one", "two"], &[])}}));
    write("tb.json", json!({"two": STANDARD.encode(png(3)), "one": STANDARD.encode(png(4))}));
    write("c.json", json!({"data": {"C1": record("c", &["one", "three"], &[])}}));
    write("tc.json", json!({"three": STANDARD.encode(png(5))}));
    std::fs::write(
        place.path().join("list.yaml"),
        "IMAGE_TEXT:
  A: {mimicit_path: a.json, images_path: ta.json}
  B: {mimicit_path: b.json, images_path: tb.json}
  C: {mimicit_path: c.json, images_path: tc.json}
",
    )
    .unwrap();
    let fix = FixOptions { form: OutputForm::Json, dedupe: false };
    let out = place.path().join("out");
    let error = verify_and_fix(&config, None, &VerifyOptions::default(), &fix, &out, &mut |_| {});
    let message = error.unwrap_err().to_string();
    assert!(message.contains("ta.json") && message.contains("image one") && !out.exists(), "{message}");
}
