//! Image files as people have them: every format and pixel type is read, and what cannot be read is a clear error.
//!
//! The log-probability of an answer tells images apart: equal pixels give equal numbers, other pixels other ones.

use std::io::Cursor;
use std::path::{Path, PathBuf};

use crate::common::{golden, otter};
use image::codecs::gif::GifEncoder;
use image::codecs::jpeg::JpegEncoder;
use image::{DynamicImage, Frame, ImageBuffer, ImageFormat, Luma, Rgb, RgbImage, Rgba, RgbaImage};
use safetensors::SafeTensors;
use tempfile::TempDir;

const PROMPT: &str = "<image>User: What is the color of the boat? GPT:<answer>";

fn run(image: &Path) -> crate::common::Run {
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

/// A picture without symmetry, in few colors.
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
fn pixel_types_become_colors() {
    let place = Place::new();
    let color = picture(50, 37);
    let expected = score(&place.save("color.png", color.clone()));
    let to = |name: &str, image: DynamicImage| score(&place.save(name, image));

    // Alpha is dropped, not blended.
    let alpha = ImageBuffer::from_fn(50, 37, |x, y| {
        let Rgb([r, g, b]) = *color.get_pixel(x, y);
        Rgba([r, g, b, (5 * x) as u8])
    });
    assert_eq!(to("alpha.png", DynamicImage::ImageRgba8(alpha.clone())), expected);
    assert_eq!(to("alpha.webp", DynamicImage::ImageRgba8(alpha)), expected);

    // Of 16 bits the high byte counts.
    let deep =
        ImageBuffer::from_fn(50, 37, |x, y| Rgb(color.get_pixel(x, y).0.map(|v| u16::from(v) * 256 + 77)));
    assert_eq!(to("deep.png", DynamicImage::ImageRgb16(deep)), expected);
    let deep_gray = ImageBuffer::from_fn(50, 37, |x, _| Luma([x as u16 * 1000]));
    to("deep_gray.png", DynamicImage::ImageLuma16(deep_gray));

    // Gray is repeated in all three channels.
    let gray = DynamicImage::from(color).to_luma8();
    let repeated = RgbImage::from_fn(50, 37, |x, y| Rgb([gray.get_pixel(x, y).0[0]; 3]));
    assert_eq!(to("grey.png", gray.into()), to("repeated.png", repeated.into()));
}

/// The decoded pixels of the original's reader, saved as plain colors, give the same as the file itself.
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

/// A moon whose shape is in its transparency alone.
fn moon() -> RgbaImage {
    RgbaImage::from_fn(40, 40, |x, y| {
        let inside = |cx: i64| (i64::from(x) - cx).pow(2) + (i64::from(y) - 20).pow(2) < 225;
        Rgba([200, 180, 40, if inside(20) && !inside(28) { 255 } else { 0 }])
    })
}

#[test]
fn what_is_transparent_is_shown_as_asked_and_told() {
    let place = Place::new();
    let moon_file = place.save("moon.png", moon());
    let model = golden("llama/checkpoint");
    let scored = |image: &Path, options: &[&str]| {
        let mut arguments = arguments![
            "score", "--json", "--model", &model, "--image", image, "--prompt", PROMPT, "--answer",
            "the boat"
        ]
        .to_vec();
        arguments.extend(options.iter().map(std::ffi::OsString::from));
        let run = otter(&arguments).success();
        let json: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
        (json["sum"].as_f64().unwrap(), json["image_notes"].clone(), run.stderr)
    };
    let over = |ground: [u8; 3]| {
        let flat = RgbImage::from_fn(40, 40, |x, y| {
            let Rgba([r, g, b, a]) = *moon().get_pixel(x, y);
            Rgb(if a == 255 { [r, g, b] } else { ground })
        });
        place.save("flat.png", flat)
    };
    for (options, ground, note) in [
        (&[][..], [200, 180, 40], "alpha_dropped"),
        (&["--alpha", "drop"], [200, 180, 40], "alpha_dropped"),
        (&["--alpha", "white"], [255; 3], "alpha_blended"),
        (&["--alpha", "black"], [0; 3], "alpha_blended"),
    ] {
        let (sum, notes, stderr) = scored(&moon_file, options);
        let (expected, nothing, quiet) = scored(&over(ground), &[]);
        assert_eq!(sum, expected, "{options:?}");
        assert_eq!(notes[note]["count"], 1, "{notes}");
        assert!(notes[note]["first"].as_str().unwrap().ends_with("moon.png"), "{notes}");
        assert_eq!(stderr.matches("warning: ").count(), 1, "{stderr}");
        assert!(stderr.contains("moon.png") && stderr.contains("transparent"), "{stderr}");
        assert!(nothing.is_null() && !quiet.contains("transparent"), "{quiet}");
    }
    // What the checkpoint records counts, unless an option is given.
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(&model).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
    }
    let config = copy.path().join("config.json");
    let mut recorded: serde_json::Value = serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
    recorded["otter_input"] = serde_json::json!({"alpha": "white"});
    std::fs::write(&config, recorded.to_string()).unwrap();
    let arguments = arguments![
        "score",
        "--json",
        "--model",
        copy.path(),
        "--image",
        &moon_file,
        "--prompt",
        PROMPT,
        "--answer",
        "the boat"
    ];
    let own = otter(&arguments).json();
    assert_eq!(own["sum"].as_f64().unwrap(), scored(&moon_file, &["--alpha", "white"]).0);
    assert_eq!(own["image_notes"]["alpha_blended"]["count"], 1);
    let wide: ImageBuffer<Luma<u16>, Vec<u16>> =
        ImageBuffer::from_fn(30, 30, |x, y| Luma([(x * 2000 + y * 100) as u16]));
    let narrow = ImageBuffer::from_fn(30, 30, |x, y| Luma([((x * 2000 + y * 100) >> 8) as u8]));
    let wide = place.save("wide.png", wide);
    let (clipped, notes, _) = scored(&wide, &[]);
    assert_eq!(notes["gray16_clipped"]["count"], 1);
    let (scaled, notes, _) = scored(&wide, &["--gray16", "scale"]);
    assert!(notes.is_null());
    assert_eq!(scaled, score(&place.save("narrow.png", narrow)));
    assert_ne!(clipped, scaled);
    // Generation tells the same, once for all prompts and once with each answer.
    let batch = place.write(
        "batch.jsonl",
        format!(
            "{}\n{}\n",
            serde_json::json!({"prompt": PROMPT, "images": [&moon_file]}),
            serde_json::json!({"prompt": "User: Hi GPT:<answer>"})
        )
        .as_bytes(),
    );
    let run = otter(&arguments![
        "generate",
        "--json",
        "--model",
        &model,
        "--batch",
        &batch,
        "--max-new-tokens",
        "2"
    ])
    .success();
    assert_eq!(run.stderr.matches("transparent in part").count(), 1, "{}", run.stderr);
    let answers = run.json_lines();
    assert_eq!(answers[0]["image_notes"]["alpha_dropped"]["count"], 1);
    assert!(answers[1]["image_notes"].is_null());
    let said = crate::common::otter_with_input(
        &arguments!["chat", "--model", &model, "--image", &moon_file],
        b"/quit\n",
    );
    assert_eq!(said.success().stderr.matches("transparent in part").count(), 1);
}
