//! A decoded image with all that its file holds, and how it becomes 8-bit RGB.

use std::hash::{DefaultHasher, Hash, Hasher};

use image::DynamicImage;
use image::metadata::Orientation as StoredOrientation;

use super::notes::{ImageNote, ImageNotes};
use super::rgb::RgbImage;
use super::rules::{AlphaRule, Gray16Rule, ImageRules, Orientation};

/// Largest value of gray of 16 bits that is called dark: scaled, it is below 16 of 255.
const DARK: u16 = 0x0fff;

/// Samples as they were decoded, of whatever kind.
#[derive(Debug, Clone)]
pub struct DecodedImage {
    pixels: DynamicImage,
    /// The file has one 16-bit sample a pixel; an alpha channel of `pixels` comes from its transparent value.
    gray16: bool,
    /// A stored turn that was not applied.
    stored_turn: Option<StoredOrientation>,
    /// What the pixels do not show.
    pub notes: ImageNotes,
}

impl DecodedImage {
    /// Wraps decoded samples; `gray16`: the file has one sample of 16 bits a pixel.
    pub fn new(pixels: DynamicImage, gray16: bool) -> Self {
        Self { pixels, gray16, stored_turn: None, notes: ImageNotes::default() }
    }

    /// Applies the stored orientation, or notes that it was not.
    pub(crate) fn turn(&mut self, turn: Option<StoredOrientation>, rule: Orientation) {
        let Some(turn) = turn.filter(|turn| *turn != StoredOrientation::NoTransforms) else { return };
        match rule {
            Orientation::Apply => self.pixels.apply_orientation(turn),
            Orientation::Ignore => {
                self.stored_turn = Some(turn);
                self.notes.insert(ImageNote::Turned);
            }
        }
    }

    /// Whether any pixel is transparent, in part or in full.
    pub fn is_transparent(&self) -> bool {
        match &self.pixels {
            DynamicImage::ImageRgba8(image) => {
                image.as_raw().as_chunks::<4>().0.iter().any(|p| p[3] < u8::MAX)
            }
            DynamicImage::ImageLumaA8(image) => {
                image.as_raw().as_chunks::<2>().0.iter().any(|p| p[1] < u8::MAX)
            }
            DynamicImage::ImageRgba16(image) => {
                image.as_raw().as_chunks::<4>().0.iter().any(|p| p[3] < u16::MAX)
            }
            DynamicImage::ImageLumaA16(image) => {
                image.as_raw().as_chunks::<2>().0.iter().any(|p| p[1] < u16::MAX)
            }
            _ => false,
        }
    }

    /// The image as 8-bit RGB.
    pub fn into_rgb(mut self, rules: ImageRules) -> Result<RgbImage, &'static str> {
        let (width, height) = (self.pixels.width() as usize, self.pixels.height() as usize);
        if self.is_transparent() {
            self.notes.insert(match rules.alpha {
                AlphaRule::Drop => ImageNote::AlphaDropped,
                AlphaRule::White | AlphaRule::Black => ImageNote::AlphaBlended,
            });
        }
        if let Some(largest) = self.largest_gray16() {
            match rules.gray16 {
                Gray16Rule::Clip if largest > 255 => self.notes.insert(ImageNote::Gray16Clipped),
                Gray16Rule::Scale if (1..=DARK).contains(&largest) => {
                    self.notes.insert(ImageNote::Gray16Dark)
                }
                Gray16Rule::Clip | Gray16Rule::Scale => {}
            }
        } else if self.largest_scaled16().is_some_and(|largest| (1..=DARK).contains(&largest)) {
            self.notes.insert(ImageNote::Gray16Dark);
        }
        let notes = self.notes;
        let image = RgbImage::new(width, height, self.samples(rules)?);
        Ok(image.ok_or("the decoder returned a wrong number of pixels")?.with_notes(notes))
    }

    fn largest_gray16(&self) -> Option<u16> {
        match &self.pixels {
            DynamicImage::ImageLuma16(image) => image.as_raw().iter().copied().max(),
            DynamicImage::ImageLumaA16(image) if self.gray16 => {
                image.as_raw().as_chunks::<2>().0.iter().map(|pixel| pixel[0]).max()
            }
            _ => None,
        }
    }

    /// The largest of 16-bit samples that are scaled whatever the rule for gray is.
    fn largest_scaled16(&self) -> Option<u16> {
        match &self.pixels {
            DynamicImage::ImageRgb16(image) => image.as_raw().iter().copied().max(),
            DynamicImage::ImageRgba16(image) => {
                image.as_raw().as_chunks::<4>().0.iter().flat_map(|pixel| &pixel[..3]).copied().max()
            }
            DynamicImage::ImageLumaA16(image) => {
                image.as_raw().as_chunks::<2>().0.iter().map(|pixel| pixel[0]).max()
            }
            _ => None,
        }
    }

    fn samples(self, rules: ImageRules) -> Result<Vec<u8>, &'static str> {
        let gray16 = match rules.gray16 {
            Gray16Rule::Scale => high_byte,
            Gray16Rule::Clip => |value: u16| value.min(255) as u8,
        };
        let gray16_beside_alpha = if self.gray16 { gray16 } else { high_byte };
        let blend = blending(rules.alpha);
        Ok(match self.pixels {
            DynamicImage::ImageRgb8(image) => image.into_raw(),
            DynamicImage::ImageLuma8(image) => gray(image.as_raw(), |v| v),
            DynamicImage::ImageRgba8(image) => color_alpha(image.as_raw(), |v| v, blend),
            DynamicImage::ImageLumaA8(image) => gray_alpha(image.as_raw(), |v| v, |v| v, blend),
            DynamicImage::ImageRgb16(image) => image.as_raw().iter().copied().map(high_byte).collect(),
            DynamicImage::ImageRgba16(image) => color_alpha(image.as_raw(), high_byte, blend),
            DynamicImage::ImageLuma16(image) => gray(image.as_raw(), gray16),
            DynamicImage::ImageLumaA16(image) => {
                gray_alpha(image.as_raw(), gray16_beside_alpha, high_byte, blend)
            }
            _ => return Err("floating-point pixels are not supported; convert it to 8 bits"),
        })
    }

    /// Equal for images that a person sees alike on any ground: every sample counts but the colors of pixels that are
    /// transparent in full. `whole` are the bytes of a file of which this is only a part.
    pub fn shown_hash(&self, whole: Option<&[u8]>) -> u64 {
        let mut hasher = DefaultHasher::new();
        whole.hash(&mut hasher);
        self.pixels.width().hash(&mut hasher);
        self.pixels.height().hash(&mut hasher);
        self.stored_turn.map(StoredOrientation::to_exif).hash(&mut hasher);
        match &self.pixels {
            DynamicImage::ImageRgb8(image) => hasher.write(image.as_raw()),
            // Samples of 16 bits that differ below the high byte are told apart.
            DynamicImage::ImageLuma16(_)
            | DynamicImage::ImageLumaA16(_)
            | DynamicImage::ImageRgb16(_)
            | DynamicImage::ImageRgba16(_) => {
                let visible = self.pixels.to_rgba16().into_raw();
                hasher.write_u8(16);
                for [red, green, blue, alpha] in visible.as_chunks::<4>().0 {
                    let shown = if *alpha == 0 { [0; 4] } else { [*red, *green, *blue, *alpha] };
                    shown.hash(&mut hasher);
                }
            }
            _ if self.is_transparent() => {
                let mut visible = self.pixels.to_rgba8().into_raw();
                visible.as_chunks_mut::<4>().0.iter_mut().filter(|p| p[3] == 0).for_each(|p| *p = [0; 4]);
                hasher.write_u8(8);
                hasher.write(&visible);
            }
            // Nothing is transparent: as the same pixels without an alpha channel.
            _ => hasher.write(self.pixels.to_rgb8().as_raw()),
        }
        hasher.finish()
    }
}

fn high_byte(value: u16) -> u8 {
    (value >> 8) as u8
}

/// A sample of the given alpha over the ground of the rule, rounded as Pillow rounds.
fn blending(rule: AlphaRule) -> fn(u8, u8) -> u8 {
    fn over(value: u8, alpha: u8, ground: u32) -> u8 {
        let sum = u32::from(value) * u32::from(alpha) + ground * (255 - u32::from(alpha)) + 128;
        (((sum >> 8) + sum) >> 8) as u8
    }
    match rule {
        AlphaRule::Drop => |value, _| value,
        AlphaRule::White => |value, alpha| over(value, alpha, 255),
        AlphaRule::Black => |value, alpha| over(value, alpha, 0),
    }
}

fn gray<T: Copy>(samples: &[T], to_u8: impl Fn(T) -> u8) -> Vec<u8> {
    samples.iter().flat_map(|&sample| [to_u8(sample); 3]).collect()
}

fn gray_alpha<T: Copy>(
    samples: &[T],
    to_u8: impl Fn(T) -> u8,
    alpha_to_u8: impl Fn(T) -> u8,
    blend: fn(u8, u8) -> u8,
) -> Vec<u8> {
    let (pixels, _) = samples.as_chunks::<2>();
    pixels.iter().flat_map(|&[value, alpha]| [blend(to_u8(value), alpha_to_u8(alpha)); 3]).collect()
}

fn color_alpha<T: Copy>(samples: &[T], to_u8: impl Fn(T) -> u8, blend: fn(u8, u8) -> u8) -> Vec<u8> {
    let (pixels, _) = samples.as_chunks::<4>();
    pixels
        .iter()
        .flat_map(|&[red, green, blue, alpha]| {
            let alpha = to_u8(alpha);
            [red, green, blue].map(|value| blend(to_u8(value), alpha))
        })
        .collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use image::codecs::png::PngEncoder;
    use image::{ExtendedColorType, ImageEncoder};

    use super::*;
    use crate::{decode_image, open_image};

    fn png(pixels: &[u8], width: u32, color: ExtendedColorType) -> Vec<u8> {
        let mut bytes = Vec::new();
        let height = pixels.len() as u32 / width / u32::from(color.bits_per_pixel() / 8);
        PngEncoder::new(&mut bytes).write_image(pixels, width, height, color).unwrap();
        bytes
    }

    fn samples16(samples: &[u16]) -> Vec<u8> {
        samples.iter().flat_map(|sample| sample.to_ne_bytes()).collect()
    }

    fn rules(alpha: AlphaRule, gray16: Gray16Rule) -> ImageRules {
        ImageRules { alpha, gray16, ..ImageRules::default() }
    }

    fn shown(bytes: &[u8], rules: ImageRules) -> (Vec<u8>, Vec<ImageNote>) {
        let image = open_image(bytes, rules, "x").unwrap();
        (image.pixels().to_vec(), image.notes().iter().collect())
    }

    fn hash(bytes: &[u8]) -> u64 {
        decode_image(bytes, Orientation::Apply, "x").unwrap().shown_hash(None)
    }

    #[test]
    fn transparency_is_shown_as_the_rule_says() {
        use AlphaRule::{Black, Drop, White};
        let scale = Gray16Rule::Scale;
        // In full, half and not transparent. Pillow's paste gives these values.
        let image = png(&[9, 90, 200, 0, 9, 90, 200, 128, 9, 90, 200, 255], 3, ExtendedColorType::Rgba8);
        for (rule, expected, note) in [
            (Drop, [9, 90, 200, 9, 90, 200, 9, 90, 200], ImageNote::AlphaDropped),
            (White, [255, 255, 255, 132, 172, 227, 9, 90, 200], ImageNote::AlphaBlended),
            (Black, [0, 0, 0, 5, 45, 100, 9, 90, 200], ImageNote::AlphaBlended),
        ] {
            assert_eq!(shown(&image, rules(rule, scale)), (expected.to_vec(), vec![note]), "{rule:?}");
        }
        let gray = png(&[7, 0, 7, 255], 2, ExtendedColorType::La8);
        assert_eq!(shown(&gray, rules(White, scale)).0, [255, 255, 255, 7, 7, 7]);
        let wide = png(&samples16(&[0x0907, 0x5a01, 0xc8ff, 0x8000]), 1, ExtendedColorType::Rgba16);
        assert_eq!(shown(&wide, rules(White, scale)).0, [132, 172, 227]);
        // An alpha channel that hides nothing changes nothing, and nothing is said.
        let opaque = png(&[9, 90, 200, 255], 1, ExtendedColorType::Rgba8);
        for rule in [Drop, White, Black] {
            assert_eq!(shown(&opaque, rules(rule, scale)), (vec![9, 90, 200], Vec::new()));
        }
    }

    #[test]
    fn gray_of_16_bits_is_scaled_or_cut() {
        let image = png(&samples16(&[0, 200, 0x1234, 0xffff]), 4, ExtendedColorType::L16);
        let gray = |levels: [u8; 4]| levels.iter().flat_map(|level| [*level; 3]).collect::<Vec<u8>>();
        let of = |image: &[u8], rule| shown(image, rules(AlphaRule::White, rule));
        assert_eq!(of(&image, Gray16Rule::Scale), (gray([0, 0, 0x12, 0xff]), Vec::new()));
        assert_eq!(of(&image, Gray16Rule::Clip), (gray([0, 200, 255, 255]), vec![ImageNote::Gray16Clipped]));
        // Values of 8 or 12 bits in 16.
        let dark = png(&samples16(&[0, 200, 17, 255]), 4, ExtendedColorType::L16);
        assert_eq!(of(&dark, Gray16Rule::Scale), (gray([0; 4]), vec![ImageNote::Gray16Dark]));
        assert_eq!(of(&dark, Gray16Rule::Clip), (gray([0, 200, 17, 255]), Vec::new()));
        let black = png(&samples16(&[0; 4]), 4, ExtendedColorType::L16);
        assert_eq!(of(&black, Gray16Rule::Scale).1, Vec::new());
        // Colors are scaled whatever the rule is; the alpha channel counts for nothing here.
        for (values, color) in
            [(&[1, 2, 255][..], ExtendedColorType::Rgb16), (&[1, 2, 255, 0xffff], ExtendedColorType::Rgba16)]
        {
            let dark = png(&samples16(values), 1, color);
            for rule in [Gray16Rule::Scale, Gray16Rule::Clip] {
                assert_eq!(of(&dark, rule), (vec![0; 3], vec![ImageNote::Gray16Dark]), "{color:?}");
            }
        }
        let plain = png(&samples16(&[1, 2, 0x1000]), 1, ExtendedColorType::Rgb16);
        assert_eq!(of(&plain, Gray16Rule::Scale).1, Vec::new());
    }

    #[test]
    fn only_images_that_look_the_same_have_the_same_hash() {
        let rgb = png(&[1, 2, 3, 4, 5, 6], 2, ExtendedColorType::Rgb8);
        let opaque = png(&[1, 2, 3, 255, 4, 5, 6, 255], 2, ExtendedColorType::Rgba8);
        assert_eq!(hash(&rgb), hash(&opaque));
        let hidden = |color: u8| png(&[color, color, color, 0, 4, 5, 6, 255], 2, ExtendedColorType::Rgba8);
        assert_eq!(hash(&hidden(0)), hash(&hidden(200)), "what is hidden is not seen");
        assert_ne!(hash(&hidden(4)), hash(&opaque));
        // Ten digits in black on a transparent black ground.
        let digit = |number: u8| {
            let pixels: Vec<u8> =
                (0..10).flat_map(|at| [0, 0, 0, if at == number { 255 } else { 0 }]).collect();
            png(&pixels, 5, ExtendedColorType::Rgba8)
        };
        let hashes: std::collections::HashSet<u64> = (0..10).map(|number| hash(&digit(number))).collect();
        assert_eq!(hashes.len(), 10);
        let half = |alpha: u8| png(&[0, 0, 0, alpha], 1, ExtendedColorType::Rgba8);
        assert_ne!(hash(&half(100)), hash(&half(101)));
        let gray16 = |value: u16| png(&samples16(&[value]), 1, ExtendedColorType::L16);
        assert_ne!(hash(&gray16(0x1234)), hash(&gray16(0x1235)));
        let decoded = || decode_image(&rgb, Orientation::Apply, "x").unwrap();
        assert_ne!(decoded().shown_hash(Some(b"a")), decoded().shown_hash(Some(b"b")));
    }

    #[test]
    fn a_stored_turn_that_is_ignored_is_told() {
        let turned = include_bytes!("../../tests/fixtures/turned.jpg");
        let notes = |rules| open_image(turned, rules, "x").unwrap().notes();
        assert!(notes(ImageRules::REFERENCE).contains(ImageNote::Turned));
        assert!(notes(ImageRules::default()).is_empty());
    }

    #[test]
    fn animations_and_cmyk_are_told() {
        for (bytes, note) in [
            (&include_bytes!("../../tests/fixtures/animated.gif")[..], ImageNote::OneFrame),
            (include_bytes!("../../tests/fixtures/cmyk.jpg"), ImageNote::Cmyk),
        ] {
            let image = open_image(bytes, ImageRules::default(), "x").unwrap();
            assert!(image.notes().contains(note), "{:?}", image.notes());
        }
        let still = include_bytes!("../../tests/fixtures/subsampled.jpg");
        assert!(open_image(still, ImageRules::default(), "x").unwrap().notes().is_empty());
    }
}
