//! `otter generate --video`: the frames of a folder or GIF give the answer that the same frames give as images.

use crate::common::{golden, otter};
use image::{Rgb, RgbImage};

#[test]
fn a_folder_of_frames_answers_as_its_images_do() {
    let place = tempfile::tempdir().unwrap();
    let model = golden("video/checkpoint");
    let common = |more: Vec<std::ffi::OsString>| {
        let mut all = arguments!["generate", "--model", model, "--json", "--max-new-tokens", "6"].to_vec();
        all.extend(more);
        otter(&all)
    };
    let mut images = arguments!["--prompt", "<image>User:What happens? GPT:<answer>"].to_vec();
    for number in 0..3_u8 {
        let path = place.path().join(format!("{number}.png"));
        RgbImage::from_fn(30, 40, |x, y| Rgb([number * 90, x as u8 * 8, y as u8 * 6])).save(&path).unwrap();
        images.extend(arguments!["--image", path]);
    }
    let expected = common(images).json();
    let prompt = "<image>User:What happens? GPT:<answer>";
    let video = common(arguments!["--prompt", prompt, "--video", place.path()].to_vec()).json();
    assert_eq!(video, expected);
    let chat =
        common(arguments!["--prompt", "What happens?", "--chat", "--video", place.path()].to_vec()).json();
    assert!(!chat["token_ids"].as_array().unwrap().is_empty());
    common(arguments!["--prompt", "no placeholder", "--video", place.path()].to_vec())
        .error(&["0 <image>", "--chat"]);
    common(arguments!["--prompt", prompt, "--video", place.path(), "--frames", "500"].to_vec())
        .error(&["--frames is 500", "128"]);
    common(arguments!["--prompt", prompt, "--video", "/no/such"].to_vec()).error(&["/no/such"]);
    otter(&arguments![
        "generate",
        "--model",
        golden("llama/checkpoint"),
        "--prompt",
        prompt,
        "--video",
        place.path()
    ])
    .error(&["no frame embeddings"]);
}
