//! What the bytes of an image file say about it without being decoded.

/// What is wrong with bytes that are no [`is_image`], in base64 or not.
pub const NO_IMAGE: &str = "neither a PNG, JPEG, WebP or GIF image nor base64 text of one";

/// Whether the bytes begin like PNG, JPEG, GIF or WebP.
pub fn is_image(bytes: &[u8]) -> bool {
    let webp = bytes.len() >= 12 && bytes.starts_with(b"RIFF") && &bytes[8..12] == b"WEBP";
    webp || [&b"\x89PNG"[..], b"\xff\xd8\xff", b"GIF8"].iter().any(|magic| bytes.starts_with(magic))
}

/// Whether a file lacks the mark that ends it. Decoders fill up what is missing.
pub fn is_cut(bytes: &[u8]) -> bool {
    let last = |mark: &[u8]| memchr::memmem::rfind(bytes, mark);
    match bytes {
        // The end mark after the last start of a scan: thumbnails in the head have marks of their own.
        [0xFF, 0xD8, ..] => !bytes.ends_with(&[0xFF, 0xD9]) && last(&[0xFF, 0xD9]) < last(&[0xFF, 0xDA]),
        [0x89, b'P', b'N', b'G', ..] => last(b"IEND").is_none(),
        [b'R', b'I', b'F', b'F', a, b, c, d, ..] => {
            (bytes.len() as u64) < 8 + u64::from(u32::from_le_bytes([*a, *b, *c, *d]))
        }
        [b'G', b'I', b'F', b'8', ..] => gif_end(bytes).is_none(),
        _ => false,
    }
}

/// Where the end mark of a GIF stands, found block by block: the data of a block may hold the same byte.
fn gif_end(bytes: &[u8]) -> Option<usize> {
    let colors = |flags: u8| if flags & 0x80 == 0 { 0 } else { 3 << ((flags & 7) + 1) };
    let mut at = 13 + colors(*bytes.get(10)?);
    loop {
        match *bytes.get(at)? {
            b';' => return Some(at),
            // Extension and its kind.
            b'!' => at += 2,
            // Place and size of a frame, its colors, and the width of its codes.
            b',' => at += 11 + colors(*bytes.get(at + 9)?),
            // Padding between blocks.
            0 => {
                at += 1;
                continue;
            }
            _ => return None,
        }
        loop {
            let length = usize::from(*bytes.get(at)?);
            at += 1 + length;
            if length == 0 {
                break;
            }
        }
    }
}

/// Whether it is an animation of more than one frame.
pub(crate) fn has_several_frames(bytes: &[u8]) -> bool {
    match bytes {
        [b'G', b'I', b'F', b'8', ..] => {
            let mut options = gif::DecodeOptions::new();
            options.skip_frame_decoding(true);
            let Ok(mut decoder) = options.read_info(bytes) else { return false };
            (0..2).all(|_| matches!(decoder.next_frame_info(), Ok(Some(_))))
        }
        [0x89, b'P', b'N', b'G', ..] => png_frames(bytes).is_some_and(|frames| frames > 1),
        // A flag of the extended header.
        [b'R', b'I', b'F', b'F', ..] => {
            bytes.get(12..16) == Some(b"VP8X") && bytes.get(20).is_some_and(|f| f & 2 != 0)
        }
        _ => false,
    }
}

/// The number of frames that a PNG says before its pixels begin.
fn png_frames(bytes: &[u8]) -> Option<u32> {
    let mut at = 8_usize;
    loop {
        let length = u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?);
        match bytes.get(at + 4..at + 8)? {
            b"IDAT" => return None,
            b"acTL" => return bytes.get(at + 8..)?.first_chunk().map(|count| u32::from_be_bytes(*count)),
            // Length, name and check sum.
            _ => at = at.checked_add(12)?.checked_add(usize::try_from(length).ok()?)?,
        }
    }
}

/// Whether a JPEG has four components.
pub(crate) fn is_cmyk(bytes: &[u8]) -> bool {
    fn components(bytes: &[u8]) -> Option<u8> {
        let mut at = 2_usize;
        loop {
            let marker = *bytes.get(at + 1)?;
            if marker == 0xFF {
                at += 1; // A fill byte.
                continue;
            }
            let length = usize::from(u16::from_be_bytes([*bytes.get(at + 2)?, *bytes.get(at + 3)?]));
            match marker {
                // Tables of codes and of arithmetic coding stand among the starts of frames.
                0xC4 | 0xC8 | 0xCC => {}
                0xC0..=0xCF => return bytes.get(at + 9).copied(),
                0xD9 | 0xDA => return None,
                _ => {}
            }
            at += 2 + length;
        }
    }
    bytes.starts_with(&[0xFF, 0xD8]) && components(bytes) == Some(4)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use image::codecs::gif::GifEncoder;
    use image::{ExtendedColorType, ImageEncoder, RgbaImage};

    use super::*;

    fn jpeg() -> Vec<u8> {
        let mut jpeg = Vec::new();
        let pixels: Vec<u8> = (0..3600).map(|i| (i * 7 % 251) as u8).collect();
        let encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut jpeg, 80);
        encoder.write_image(&pixels, 40, 30, ExtendedColorType::Rgb8).unwrap();
        jpeg
    }

    #[test]
    fn cut_files_are_noticed() {
        let jpeg = jpeg();
        assert!(!is_cut(&jpeg));
        assert!(is_cut(&jpeg[..jpeg.len() - 2]));
        assert!(is_cut(&jpeg[..jpeg.len() * 3 / 4]));
        // Something appended does not make it cut.
        assert!(!is_cut(&[jpeg.as_slice(), b"tail"].concat()));
        assert!(is_cut(b"RIFF\x40\0\0\0WEBP"));
        assert!(!is_cut(b""));
    }

    #[test]
    fn animations_are_told_from_still_images() {
        for frames in 1..4 {
            let mut gif = Vec::new();
            let mut encoder = GifEncoder::new(&mut gif);
            for frame in 0..frames {
                let image = RgbaImage::from_pixel(4, 3, image::Rgba([frame * 80, 9, 9, 255]));
                encoder.encode_frame(image::Frame::new(image)).unwrap();
            }
            drop(encoder);
            assert_eq!(has_several_frames(&gif), frames > 1);
            assert!(!is_cut(&gif));
            // Something appended does not make it cut; the end of a file that ends early does, whatever it is.
            assert!(!is_cut(&[gif.as_slice(), b"tail"].concat()));
            assert!((0..gif.len()).skip(4).all(|length| is_cut(&gif[..length])));
        }
        let chunk =
            |name: &[u8], data: &[u8]| [&(data.len() as u32).to_be_bytes(), name, data, &[0; 4]].concat();
        let header = [&b"\x89PNG\r\n\x1a\n"[..], &chunk(b"IHDR", &[0; 13])].concat();
        let control = |frames: u32| chunk(b"acTL", &[frames.to_be_bytes(), [0; 4]].concat());
        let end = chunk(b"IDAT", b"x");
        for (parts, expected) in [
            ([header.clone(), control(2), end.clone()], true),
            ([header.clone(), control(1), end.clone()], false),
            ([header.clone(), end.clone(), control(2)], false),
            ([header, Vec::new(), Vec::new()], false),
        ] {
            assert_eq!(has_several_frames(&parts.concat()), expected);
        }
        assert!(!has_several_frames(&jpeg()));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_looked_at_without_panic(kind in 0_usize..4, rest in proptest::collection::vec(0_u8.., 0..80)) {
            let magic = [&b"GIF89a"[..], b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF"][kind];
            let bytes = [magic, &rest].concat();
            let _ = (is_cut(&bytes), has_several_frames(&bytes), is_cmyk(&bytes), is_image(&bytes));
        }
    }
}
