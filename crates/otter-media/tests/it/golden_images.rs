//! Decoding and preprocessing equal Pillow and the two image processors of the original, JPEG files included.

use crate::common::golden;
use otter_media::{ImageRules, ImageTransform, open_image, preprocess};
use safetensors::SafeTensors;

#[test]
fn every_file_matches() {
    let bytes = std::fs::read(golden("images/preprocessed.safetensors")).unwrap();
    let expected = SafeTensors::deserialize(&bytes).unwrap();
    let mut compared = 0;
    for (key, tensor) in expected.tensors() {
        let (kind, file) = key.split_once('.').unwrap();
        let encoded = std::fs::read(golden("images").join(file)).unwrap();
        let image = open_image(&encoded, ImageRules::REFERENCE, file).unwrap();
        if kind == "rgb_u8" {
            assert_eq!(tensor.shape(), [image.height(), image.width(), 3], "{file}");
            let levels = image.pixels().iter().zip(tensor.data()).map(|(a, b)| a.abs_diff(*b));
            let worst = levels.clone().max().unwrap();
            let different = levels.filter(|&difference| difference > 0).count();
            println!(
                "{file}: largest level difference {worst}, {different} of {} samples",
                image.pixels().len()
            );
            assert_eq!(worst, 0, "{file}: levels differ");
        } else {
            let (transform, size) = match kind.split_at(kind.find(|c: char| c.is_ascii_digit()).unwrap()) {
                ("clip", size) => (ImageTransform::Clip, size),
                ("train", size) => (ImageTransform::Train, size),
                (other, _) => panic!("unknown kind {other}"),
            };
            let ours = preprocess(&image, size.parse().unwrap(), transform);
            let floats = tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
            assert_eq!(ours.len() * 4, tensor.data().len(), "{key}");
            let worst = ours.iter().zip(floats).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            println!("{key}: {worst:e}");
            assert!(worst <= 1e-5, "{key}: differs by {worst}");
        }
        compared += 1;
    }
    assert!(compared >= 30, "only {compared} tensors");
}
