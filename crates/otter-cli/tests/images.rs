//! Image files as people have them: every format and pixel type is read, and what cannot be read is a clear error.
//!
//! The log-probability of an answer tells images apart: equal pixels give equal numbers, other pixels other ones.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use std::io::Cursor;
use std::path::{Path, PathBuf};

use common::{golden, otter};
use image::codecs::gif::GifEncoder;
use image::codecs::jpeg::JpegEncoder;
use image::{DynamicImage, Frame, ImageBuffer, ImageFormat, Luma, Rgb, RgbImage, Rgba};
use safetensors::SafeTensors;
use tempfile::TempDir;

const PROMPT: &str = "<image>User: What is the color of the boat? GPT:<answer>";

fn run(image: &Path) -> common::Run {
    let model = golden("llama/checkpoint");
    otter(&arguments![
        "score", "--json", "--model", model, "--image", image, "--prompt", PROMPT, "--answer", "the boat"
    ])
}

/// A number that depends on every pixel the model sees.
#[track_caller]
fn score(image: &Path) -> f64 {
    let sum = run(image).json()["sum"].as_f64().unwrap();
    assert!(sum.is_finite() && sum < 0.0);
    sum
}

/// Writes files into a folder of its own.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn save(&self, name: &str, image: impl Into<DynamicImage>) -> PathBuf {
        let path = self.0.path().join(name);
        image.into().save(&path).unwrap();
        path
    }
}

/// A picture without symmetry, in few colours.
fn picture(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let (right, low) = (3 * x >= 2 * width, 4 * y >= height);
        Rgb([if right { 250 } else { 20 }, if low { 200 } else { 40 }, if right != low { 90 } else { 160 }])
    })
}

fn encoded(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

#[test]
fn lossless_formats_are_equal() {
    let place = Place::new();
    let picture = picture(60, 44);
    let expected = score(&place.save("picture.png", picture.clone()));
    assert_eq!(score(&place.save("picture.webp", picture.clone())), expected);
    assert_eq!(score(&place.save("picture.gif", picture.clone())), expected);
    // The content decides, not the name.
    let bytes = encoded(&picture.clone().into(), ImageFormat::WebP);
    assert_eq!(score(&place.write("picture.jpg", &bytes)), expected);
    assert_eq!(
        score(&place.write("Ein Bild (größer) 图.PNG", &encoded(&picture.into(), ImageFormat::Png))),
        expected
    );
    assert_ne!(score(&golden("images/wide.png")), expected);
}

#[test]
fn an_animation_is_its_first_frame() {
    let place = Place::new();
    let first = picture(40, 40);
    let second = RgbImage::from_pixel(40, 40, Rgb([0, 0, 255]));
    let mut bytes = Vec::new();
    let mut encoder = GifEncoder::new(&mut bytes);
    for frame in [&first, &second] {
        encoder.encode_frame(Frame::new(DynamicImage::from(frame.clone()).into_rgba8())).unwrap();
    }
    drop(encoder);
    assert_eq!(score(&place.write("moving.gif", &bytes)), score(&place.save("still.png", first)));
}

#[test]
fn pixel_types_become_colours() {
    let place = Place::new();
    let colour = picture(50, 37);
    let expected = score(&place.save("colour.png", colour.clone()));
    let to = |name: &str, image: DynamicImage| score(&place.save(name, image));

    // Alpha is dropped, not blended.
    let alpha = ImageBuffer::from_fn(50, 37, |x, y| {
        let Rgb([r, g, b]) = *colour.get_pixel(x, y);
        Rgba([r, g, b, (5 * x) as u8])
    });
    assert_eq!(to("alpha.png", DynamicImage::ImageRgba8(alpha.clone())), expected);
    assert_eq!(to("alpha.webp", DynamicImage::ImageRgba8(alpha)), expected);

    // Of 16 bits the high byte counts.
    let deep =
        ImageBuffer::from_fn(50, 37, |x, y| Rgb(colour.get_pixel(x, y).0.map(|v| u16::from(v) * 256 + 77)));
    assert_eq!(to("deep.png", DynamicImage::ImageRgb16(deep)), expected);
    let deep_grey = ImageBuffer::from_fn(50, 37, |x, _| Luma([x as u16 * 1000]));
    to("deep_grey.png", DynamicImage::ImageLuma16(deep_grey));

    // Grey is repeated in all three channels.
    let grey = DynamicImage::from(colour).to_luma8();
    let repeated = RgbImage::from_fn(50, 37, |x, y| Rgb([grey.get_pixel(x, y).0[0]; 3]));
    assert_eq!(to("grey.png", grey.into()), to("repeated.png", repeated.into()));
}

/// The decoded pixels of the original's reader, saved as plain colours, give the same as the file itself.
#[test]
fn golden_files_equal_their_recorded_pixels() {
    let place = Place::new();
    let bytes = std::fs::read(golden("images/preprocessed.safetensors")).unwrap();
    let recorded = SafeTensors::deserialize(&bytes).unwrap();
    let names = ["grey.png", "grey_alpha.png", "palette.png", "rgba.png", "grey.jpg", "photo.jpg"];
    for name in names {
        let view = recorded.tensor(&format!("rgb_u8.{name}")).unwrap();
        let (height, width) = (view.shape()[0] as u32, view.shape()[1] as u32);
        let plain = RgbImage::from_raw(width, height, view.data().to_vec()).unwrap();
        let (own, plain) = (score(&golden("images").join(name)), score(&place.save("plain.png", plain)));
        // Decoders of JPEG may differ by a level or two.
        let allowed = if name.ends_with(".jpg") { 0.05 } else { 0.0 };
        assert!((own - plain).abs() <= allowed, "{name}: {own} {plain}");
    }
}

/// A JPEG segment that says how the stored rows are turned.
fn exif(orientation: u8) -> Vec<u8> {
    let mut segment = vec![0xff, 0xe1, 0, 34];
    segment.extend(b"Exif\0\0");
    segment.extend(b"II*\0\x08\0\0\0"); // little endian, first directory at 8
    segment.extend(b"\x01\0"); // one entry:
    segment.extend(b"\x12\x01\x03\0\x01\0\0\0"); // orientation, one short
    segment.extend([orientation, 0, 0, 0]);
    segment.extend([0; 4]); // no further directory
    segment
}

fn jpeg(image: &RgbImage, exif: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, 95).encode_image(image).unwrap();
    [&bytes[..2], exif, &bytes[2..]].concat()
}

#[test]
fn a_turned_photograph_is_set_upright() {
    let place = Place::new();
    let picture = picture(64, 40);
    let stored = jpeg(&picture, &[]);
    let decoded = image::load_from_memory(&stored).unwrap();
    let plain = score(&place.write("plain.jpg", &stored));
    assert_eq!(score(&place.write("upright.jpg", &jpeg(&picture, &exif(1)))), plain);
    let turned: [(u8, DynamicImage); 4] =
        [(2, decoded.fliph()), (3, decoded.rotate180()), (6, decoded.rotate90()), (8, decoded.rotate270())];
    for (orientation, twin) in turned {
        let name = format!("turned{orientation}");
        let own = score(&place.write(&format!("{name}.jpg"), &jpeg(&picture, &exif(orientation))));
        let twin = score(&place.save(&format!("{name}.png"), twin));
        assert!((own - twin).abs() < 1e-3, "orientation {orientation}: {own} {twin}");
        assert!((own - plain).abs() > 1e-2, "orientation {orientation} changes what is seen");
    }
    // A damaged note about the orientation says nothing about the pixels.
    let mut damaged = exif(6);
    damaged[10..].fill(0xee);
    assert_eq!(score(&place.write("damaged_exif.jpg", &jpeg(&picture, &damaged))), plain);
}

#[test]
fn sizes_from_one_pixel_to_twelve_million() {
    let place = Place::new();
    let pixel = RgbImage::from_pixel(1, 1, Rgb([200, 30, 40]));
    let uniform = RgbImage::from_pixel(90, 60, Rgb([200, 30, 40]));
    let expected = score(&place.save("uniform.png", uniform));
    assert!((score(&place.save("pixel.png", pixel)) - expected).abs() < 1e-4);
    let line = RgbImage::from_pixel(2000, 1, Rgb([200, 30, 40]));
    assert!((score(&place.save("line.png", line)) - expected).abs() < 1e-4);

    let small = score(&place.write("small.jpg", &jpeg(&picture(400, 300), &[])));
    let large = score(&place.write("large.jpg", &jpeg(&picture(4000, 3000), &[])));
    assert!((small - large).abs() < 0.05, "{small} {large}");
}

#[test]
fn what_is_no_image_is_an_error_with_its_name() {
    let place = Place::new();
    let png = encoded(&picture(60, 44).into(), ImageFormat::Png);
    let jpg = jpeg(&picture(60, 44), &[]);
    let webp = encoded(&picture(60, 44).into(), ImageFormat::WebP);
    let gif = encoded(&picture(60, 44).into(), ImageFormat::Gif);
    let refused = |name: &str, bytes: &[u8]| {
        let path = place.write(name, bytes);
        run(&path).error(&[path.to_str().unwrap()]);
    };
    refused("empty.png", b"");
    refused("text.jpg", b"This is not an image.\n");
    refused("page.png", b"<!DOCTYPE html><html><body>404</body></html>");
    for (name, bytes) in [("t.png", &png), ("t.jpg", &jpg), ("t.webp", &webp), ("t.gif", &gif)] {
        for length in [2, 12, bytes.len() / 2] {
            refused(name, &bytes[..length]);
        }
    }
    // A damaged byte in the compressed pixels.
    let at = png.windows(4).position(|w| w == b"IDAT").unwrap();
    let mut damaged = png.clone();
    damaged[at + 8] ^= 0xff;
    refused("damaged.png", &damaged);
    // A header that claims 60,000 x 60,000 pixels.
    let mut bomb = png.clone();
    bomb[16..20].copy_from_slice(&60_000_u32.to_be_bytes());
    bomb[20..24].copy_from_slice(&60_000_u32.to_be_bytes());
    refused("bomb.png", &bomb);

    run(&golden("images").join("../llama")).error(&["llama", "directory"]);
    run(Path::new("no such folder/cat.jpg")).error(&["no such folder/cat.jpg"]);
}

/// The second of several images is the one that is named.
#[test]
fn the_damaged_one_of_several_is_named() {
    let place = Place::new();
    let bad = place.write("second.png", b"nothing");
    let arguments = arguments![
        "generate",
        "--model",
        golden("llama/checkpoint"),
        "--image",
        golden("images/wide.png"),
        "--image",
        bad,
        "--prompt",
        "<image>a<image>b",
        "--max-new-tokens",
        "1",
    ];
    let message = otter(&arguments).error(&["second.png"]);
    assert!(!message.contains("wide.png"));
}
