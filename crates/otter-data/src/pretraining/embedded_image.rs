//! Encoded images inside samples: real bytes, or base64 text in their place as in LAION's tars.

use crate::base64_text::decode_base64;

/// Whether the bytes begin like PNG, JPEG, GIF or WebP.
fn is_image(bytes: &[u8]) -> bool {
    let webp = bytes.len() >= 12 && bytes.starts_with(b"RIFF") && &bytes[8..12] == b"WEBP";
    webp || [&b"\x89PNG"[..], b"\xff\xd8\xff", b"GIF8"].iter().any(|magic| bytes.starts_with(magic))
}

/// The bytes of an image, decoded from base64 text where they are such.
pub(super) fn image_bytes(part: &[u8]) -> Result<Vec<u8>, String> {
    if is_image(part) {
        return Ok(part.to_vec());
    }
    let decoded = decode_base64(part).ok().filter(|bytes| is_image(bytes));
    decoded.ok_or_else(|| "neither a PNG, JPEG, WebP or GIF image nor base64 text of one".to_owned())
}

/// Decodes base64 text given as a string of JSON.
pub(super) fn base64_image(text: &str) -> Result<Vec<u8>, String> {
    decode_base64(text.as_bytes()).map_err(str::to_owned)
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
