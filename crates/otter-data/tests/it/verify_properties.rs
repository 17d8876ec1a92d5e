//! `verify` on randomly damaged copies of the golden data: never a panic, and it agrees with the loader on what can be used.

use std::path::Path;

use crate::common::{golden, tokenizer};
use otter_data::verify::{Reason, VerifyOptions, report_html, verify};
use otter_data::{DataConfig, Dataset};
use proptest::prelude::*;

const FILES: [&str; 8] = [
    "image_text_instructions.json",
    "image_text_train.json",
    "in_context_instructions.json",
    "in_context_train.json",
    "text_only_instructions.json",
    "video_instructions.json",
    "images_columnar.json",
    "train_json.yaml",
];

/// One change of a file's bytes.
#[derive(Debug, Clone)]
enum Damage {
    Set { place: usize, byte: u8 },
    Remove { place: usize, length: usize },
    Insert { place: usize, text: &'static str },
    Cut { place: usize },
    Repeat { place: usize, length: usize },
}

fn damage() -> impl Strategy<Value = Damage> {
    let place = any::<usize>();
    let text = prop_oneof![
        Just("\""),
        Just("\\"),
        Just("{"),
        Just("]"),
        Just(","),
        Just("null"),
        Just("[[["),
        Just("\0"),
        Just("é"),
        Just("IT_1"),
        Just("  "),
        Just("<image>")
    ];
    prop_oneof![
        4 => (place, any::<u8>()).prop_map(|(place, byte)| Damage::Set { place, byte }),
        2 => (any::<usize>(), 1..60_usize).prop_map(|(place, length)| Damage::Remove { place, length }),
        4 => (any::<usize>(), text).prop_map(|(place, text)| Damage::Insert { place, text }),
        1 => any::<usize>().prop_map(|place| Damage::Cut { place }),
        2 => (any::<usize>(), 1..200_usize).prop_map(|(place, length)| Damage::Repeat { place, length }),
    ]
}

fn apply(bytes: &mut Vec<u8>, damage: &Damage) {
    let at = |place: usize, length: usize| place % length.max(1);
    let length = bytes.len();
    if length == 0 {
        return;
    }
    match *damage {
        Damage::Set { place, byte } => bytes[at(place, length)] = byte,
        Damage::Remove { place, length: count } => {
            let start = at(place, length);
            bytes.drain(start..(start + count).min(length));
        }
        Damage::Insert { place, text } => {
            let start = at(place, length);
            bytes.splice(start..start, text.bytes());
        }
        Damage::Cut { place } => bytes.truncate(at(place, length)),
        Damage::Repeat { place, length: count } => {
            let start = at(place, length);
            let part = bytes[start..(start + count).min(length)].to_vec();
            bytes.splice(start..start, part);
        }
    }
}

fn check(folder: &Path) -> Result<(), TestCaseError> {
    let config = DataConfig {
        mimicit_yaml: Some(folder.join("train_json.yaml")),
        image_size: 8,
        ..DataConfig::default()
    };
    let tokenizer = tokenizer("tokenizer_llama");
    let options = VerifyOptions { thumbnails: true, ..VerifyOptions::default() };
    let report = verify(&config, Some(&tokenizer), &options, &mut |_| {});
    let dataset = Dataset::open(&config, tokenizer.clone());
    let Ok(report) = report else {
        // Only a list that cannot be read.
        prop_assert!(dataset.is_err());
        return Ok(());
    };
    let page = report_html(&report, "damaged <data>");
    prop_assert!(page.ends_with("</html>\n") && !page.contains("<data>") && !page.contains("http"));
    let ids_only = VerifyOptions { ids_only: true, ..VerifyOptions::default() };
    let ids = verify(&config, None, &ids_only, &mut |_| {}).unwrap();
    prop_assert_eq!(ids.count(Reason::MissingImage), report.count(Reason::MissingImage));
    let strict = VerifyOptions { strict: true, ..VerifyOptions::default() };
    let strict = verify(&config, Some(&tokenizer), &strict, &mut |_| {}).unwrap();
    prop_assert_eq!(strict.is_clean(), report.is_clean());
    prop_assert_eq!(report.samples >= report.usable_samples, true);
    match dataset {
        Err(error) => {
            let empty = report.samples == 0;
            prop_assert!(report.count(Reason::UnreadableFile) > 0 || empty, "{error}");
        }
        Ok(dataset) => {
            prop_assert_eq!(report.count(Reason::UnreadableFile), 0);
            let loaded = dataset.check(true).unwrap();
            if report.count(Reason::EmptyAnswer) == 0 {
                prop_assert_eq!(report.usable_samples, loaded.used, "{:?} {:?}", report.findings, loaded);
            } else {
                prop_assert!(report.usable_samples < loaded.used);
            }
            let sound = loaded.skipped_total() == 0 && report.count(Reason::EmptyAnswer) == 0;
            prop_assert!(!sound || report.usable_samples == report.samples);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn damaged_files_never_panic(
        damages in proptest::collection::vec((0..FILES.len(), damage()), 1..4),
    ) {
        let folder = tempfile::tempdir().unwrap();
        for name in FILES {
            std::fs::write(folder.path().join(name), std::fs::read(golden("data").join(name)).unwrap()).unwrap();
        }
        for (file, damage) in &damages {
            let path = folder.path().join(FILES[*file]);
            let mut bytes = std::fs::read(&path).unwrap();
            apply(&mut bytes, damage);
            std::fs::write(&path, bytes).unwrap();
        }
        check(folder.path())?;
    }
}
