//! Baseline JPEG files give Pillow's pixels to the last bit. The files in `fixtures/baseline_jpeg.json` are our own
//! patterns, written and decoded with Pillow 13.0.0 and libjpeg-turbo 3.2.0; damaged ones never panic.

use std::path::PathBuf;

use otter_media::{ImageRules, open_image};
use proptest::prelude::*;
use serde_json::Value;

fn hex(value: &Value) -> Vec<u8> {
    let text = value.as_str().unwrap().as_bytes();
    text.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn cases() -> Vec<(String, Value)> {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/baseline_jpeg.json");
    let cases: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    cases.as_object().unwrap().clone().into_iter().collect()
}

#[test]
fn every_kind_equals_pillow() {
    let cases = cases();
    assert_eq!(cases.len(), 22);
    for (name, case) in cases {
        let image = open_image(&hex(&case["jpeg"]), ImageRules::REFERENCE, &name).unwrap();
        let size = (case["width"].as_u64().unwrap(), case["height"].as_u64().unwrap());
        assert_eq!((image.width() as u64, image.height() as u64), size, "{name}");
        assert_eq!(image.pixels(), hex(&case["rgb"]), "{name}");
    }
}

/// A frame header may claim 65535 x 65535 pixels; a file of some hundred bytes gets no memory for them.
#[test]
fn a_short_file_cannot_claim_a_large_image() {
    let (name, case) = cases().swap_remove(0);
    let mut bytes = hex(&case["jpeg"]);
    let frame = bytes.windows(2).position(|pair| pair == [0xFF, 0xC0]).unwrap();
    bytes[frame + 5..frame + 9].copy_from_slice(&[0x27, 0x10, 0x27, 0x10]);
    let start = std::time::Instant::now();
    // 10000 x 10000 pixels are below the limit of pixels; the missing ones are the general decoder's to judge.
    let _ = open_image(&bytes, ImageRules::REFERENCE, &name);
    assert!(start.elapsed().as_secs() < 30);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn damaged_files_do_not_panic(
        case in 0_usize..22,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        length in any::<prop::sample::Index>(),
        cut in any::<bool>(),
    ) {
        let (name, case) = cases().swap_remove(case);
        let mut bytes = hex(&case["jpeg"]);
        // Sizes are left alone: a large claim costs the general decoder memory and the test its time.
        let frame = bytes.windows(2).position(|pair| pair == [0xFF, 0xC0]).unwrap();
        for (index, value) in changes {
            let at = index.index(bytes.len());
            if !(frame + 2..frame + 9).contains(&at) {
                bytes[at] = value;
            }
        }
        if cut {
            let length = length.index(bytes.len());
            bytes.truncate(length);
        }
        let _ = open_image(&bytes, ImageRules::default(), &name);
    }
}
