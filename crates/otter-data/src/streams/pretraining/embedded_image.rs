//! Encoded images inside samples: real bytes, or base64 text in their place as in LAION's tars.

use otter_media::{NO_IMAGE, is_image};

use crate::tables::base64_image::decode_base64_image;

/// The bytes of an image, decoded from base64 text where they are such.
pub(crate) fn image_bytes(part: &[u8]) -> Result<Vec<u8>, String> {
    match decode_base64_image(part) {
        Ok(bytes) if is_image(&bytes) => Ok(bytes),
        Ok(_) => Err(NO_IMAGE.to_owned()),
        Err(message) => Err(format!("{NO_IMAGE}: {message}")),
    }
}

/// Mirrors planes of (size, size) from left to right.
pub(super) fn mirror(pixels: &mut [f32], size: usize) {
    for row in pixels.chunks_exact_mut(size.max(1)) {
        row.reverse();
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    #[test]
    fn bytes_and_base64_text_are_told_apart() {
        let png = b"\x89PNG\r\n\x1a\nrest".to_vec();
        assert_eq!(image_bytes(&png), Ok(png.clone()));
        assert_eq!(image_bytes(STANDARD.encode(&png).as_bytes()), Ok(png));
        assert!(image_bytes(b"").is_err());
        assert!(image_bytes(b"bm8gaW1hZ2U=").is_err());
    }

    #[test]
    fn rows_are_mirrored() {
        let mut pixels = [1.0, 2.0, 3.0, 4.0];
        mirror(&mut pixels, 2);
        assert_eq!(pixels, [2.0, 1.0, 4.0, 3.0]);
    }
}
