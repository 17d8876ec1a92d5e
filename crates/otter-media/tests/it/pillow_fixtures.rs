//! Every kind of image file gives the pixels that Pillow 13 gives. The files and expected values
//! in `fixtures/` are our own patterns, written and decoded with Pillow 13.0.0.

use std::path::PathBuf;
use std::time::Instant;

use otter_media::{
    ImageError, ImageRules, ImageTransform, RgbImage, load_image_file, open_image, preprocess, resize_bicubic,
};
use serde_json::Value;

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn expected() -> Value {
    serde_json::from_slice(&std::fs::read(fixture("pillow.json")).unwrap()).unwrap()
}

fn hex(value: &Value) -> Vec<u8> {
    let text = value.as_str().unwrap().as_bytes();
    text.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn size(value: &Value) -> (usize, usize) {
    (value["width"].as_u64().unwrap() as usize, value["height"].as_u64().unwrap() as usize)
}

#[test]
fn every_mode_decodes_as_in_pillow() {
    let expected = expected();
    let mut worst_of = Vec::new();
    for (file, case) in expected["images"].as_object().unwrap() {
        let bytes = std::fs::read(fixture(file)).unwrap();
        let image = open_image(&bytes, ImageRules::REFERENCE, file).unwrap();
        assert_eq!((image.width(), image.height()), size(case), "{file}");
        let pixels = hex(&case["rgb"]);
        let levels: Vec<u8> = image.pixels().iter().zip(&pixels).map(|(a, b)| a.abs_diff(*b)).collect();
        let different = levels.iter().filter(|&&level| level > 0).count();
        let worst = *levels.iter().max().unwrap();
        println!("{file}: largest level difference {worst}, {different} of {}", levels.len());
        // These lossy files are decoded with another rounding; everything else is exact.
        let allowed =
            if ["progressive.jpg", "cmyk.jpg", "lossy.webp"].contains(&file.as_str()) { 8 } else { 0 };
        if worst > allowed {
            worst_of.push((file.clone(), worst));
        }
    }
    assert!(worst_of.is_empty(), "{worst_of:?}");
}

#[test]
fn resizing_equals_pillow_in_both_pass_orders() {
    let expected = &expected()["resize"];
    let (width, height) = size(expected);
    let image = RgbImage::new(width, height, hex(&expected["rgb"])).unwrap();
    for case in expected["to"].as_array().unwrap() {
        let (width, height) = size(case);
        assert_eq!(resize_bicubic(&image, width, height).pixels(), hex(&case["rgb"]), "{width} x {height}");
    }
}

#[test]
fn the_stored_orientation_is_applied_on_request() {
    let upright = load_image_file(&fixture("turned.jpg"), ImageRules::default()).unwrap();
    let bytes = std::fs::read(fixture("turned.jpg")).unwrap();
    let stored = open_image(&bytes, ImageRules::REFERENCE, "turned.jpg").unwrap();
    assert_eq!((stored.width(), stored.height()), (32, 20));
    assert_eq!((upright.width(), upright.height()), (20, 32));
    // Orientation 6: the first stored row is the right edge.
    assert_eq!(upright.pixels()[19 * 3..20 * 3], stored.pixels()[..3]);
}

#[test]
fn cut_files_are_errors_that_name_the_image() {
    for file in ["grey16.png", "turned.jpg", "animated.gif", "lossless.webp"] {
        let bytes = std::fs::read(fixture(file)).unwrap();
        for length in [0, 4, 20, bytes.len() / 2] {
            match open_image(&bytes[..length], ImageRules::default(), "IMG_7 of a.json") {
                Err(ImageError::Decode { name, .. }) => assert_eq!(name, "IMG_7 of a.json"),
                other => panic!("{file} cut to {length} bytes: {other:?}"),
            }
        }
    }
}

#[test]
fn claimed_sizes_are_checked_before_decoding() {
    // A PNG header that claims 60000 x 60000 pixels, without the data.
    let mut bytes = std::fs::read(fixture("one_pixel.png")).unwrap();
    bytes[16..20].copy_from_slice(&60_000_u32.to_be_bytes());
    bytes[20..24].copy_from_slice(&60_000_u32.to_be_bytes());
    let crc = crc32(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&crc.to_be_bytes());
    let message = open_image(&bytes, ImageRules::REFERENCE, "bomb.png").unwrap_err().to_string();
    assert!(message.contains("bomb.png") && message.contains("60000 x 60000"), "{message}");
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, &byte| {
        (0..8).fold(
            crc ^ u32::from(byte),
            |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 },
        )
    })
}

#[test]
fn twelve_megapixels() {
    let (width, height) = (4000, 3000);
    let pixels = (0..width * height * 3).map(|i| (i / 7 % 256) as u8).collect();
    let image = RgbImage::new(width, height, pixels).unwrap();
    for transform in [ImageTransform::Train, ImageTransform::Clip] {
        let start = Instant::now();
        assert_eq!(preprocess(&image, 224, transform).len(), 3 * 224 * 224);
        println!("{transform:?}: {:?}", start.elapsed());
    }
}
