//! Planes to RGB rows: chroma interpolated to full size, then converted.
//!
//! Interpolation is the triangle filter of libjpeg ("fancy upsampling"): a sample is three parts of the nearer and one
//! part of the farther chroma sample, along each subsampled axis, with the rounding alternating between up and down.
//! A plane of at most two columns that is subsampled along the rows is repeated instead, as there.

use super::Plane;
use super::headers::Headers;

/// The size of the chroma planes and how they lie under the luma plane.
#[derive(Clone, Copy)]
pub(super) struct Chroma {
    width: usize,
    height: usize,
    half_width: bool,
    half_height: bool,
}

impl Chroma {
    pub(super) fn of(headers: &Headers<'_>) -> Self {
        let (across, down) = (headers.components[0].across, headers.components[0].down);
        Self {
            width: headers.width.div_ceil(across),
            height: headers.height.div_ceil(down),
            half_width: across == 2,
            half_height: down == 2,
        }
    }
}

/// Converts rows of luma, blue and red difference to RGB.
type ConvertRow = fn(&[u8], &[u8], &[u8], &mut [u8]);

/// The RGB image (height, width, 3); without chroma every level is repeated.
pub(super) fn to_rgb(
    luma: &Plane,
    chroma: Option<(&Plane, &Plane, Chroma)>,
    width: usize,
    height: usize,
) -> Vec<u8> {
    let mut pixels = vec![0; width * height * 3];
    let rows = pixels.chunks_exact_mut(width * 3).zip(luma.samples.chunks_exact(luma.stride));
    let Some((cb, cr, chroma)) = chroma else {
        for (row, levels) in rows {
            for (pixel, level) in row.chunks_exact_mut(3).zip(levels) {
                pixel.fill(*level);
            }
        }
        return pixels;
    };
    let (upsample, convert) = best();
    let mut buffers = RowBuffers { sums: vec![0; chroma.width], cb: Vec::new(), cr: Vec::new() };
    for wide in [&mut buffers.cb, &mut buffers.cr] {
        wide.resize(chroma.width * 2, 0);
    }
    for (y, (row, levels)) in rows.enumerate() {
        let cb = upsample(cb, chroma, y, &mut buffers.sums, &mut buffers.cb);
        let cr = upsample(cr, chroma, y, &mut buffers.sums, &mut buffers.cr);
        convert(&levels[..width], &cb[..width], &cr[..width], row);
    }
    pixels
}

/// Rows in the making.
struct RowBuffers {
    sums: Vec<u16>,
    cb: Vec<u8>,
    cr: Vec<u8>,
}

/// Row `y` of a chroma plane at full size; the buffers are as wide as the plane, and twice as wide.
type UpsampleRow = for<'a> fn(&'a Plane, Chroma, usize, &mut [u16], &'a mut [u8]) -> &'a [u8];

/// The fastest versions for this processor; all give the same pixels.
fn best() -> (UpsampleRow, ConvertRow) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor was just asked.
        return (
            |plane, chroma, y, sums, output| unsafe { avx2::upsample_row(plane, chroma, y, sums, output) },
            |y, cb, cr, output| unsafe { avx2::convert_row(y, cb, cr, output) },
        );
    }
    (upsample_row, convert_row)
}

#[inline(always)]
fn upsample_row<'a>(
    plane: &'a Plane,
    chroma: Chroma,
    y: usize,
    sums: &mut [u16],
    output: &'a mut [u8],
) -> &'a [u8] {
    let row = |at: usize| &plane.samples[at * plane.stride..][..chroma.width];
    let near_at = if chroma.half_height { y / 2 } else { y };
    let near = row(near_at);
    if chroma.half_width && chroma.width <= 2 {
        for (pair, sample) in output.chunks_exact_mut(2).zip(near) {
            pair.fill(*sample);
        }
        return output;
    }
    let upper_half = y.is_multiple_of(2);
    // The neighbor of the outermost rows is the row itself.
    let far =
        || row(if upper_half { near_at.saturating_sub(1) } else { (near_at + 1).min(chroma.height - 1) });
    match (chroma.half_width, chroma.half_height) {
        (false, false) => return near,
        (false, true) => {
            let rounding = if upper_half { 1 } else { 2 };
            for ((level, near), far) in output.iter_mut().zip(near).zip(far()) {
                *level = ((u16::from(*near) * 3 + u16::from(*far) + rounding) >> 2) as u8;
            }
        }
        (true, false) => {
            for (sum, sample) in sums.iter_mut().zip(near) {
                *sum = u16::from(*sample);
            }
            widen::<2>(sums, [1, 2], output);
        }
        (true, true) => {
            for ((sum, near), far) in sums.iter_mut().zip(near).zip(far()) {
                *sum = u16::from(*near) * 3 + u16::from(*far);
            }
            widen::<4>(sums, [8, 7], output);
        }
    }
    output
}

/// Twice as many samples, divided by 2^BITS; `rounding` of the left and of the right one of a pair.
#[inline(always)]
fn widen<const BITS: u32>(sums: &[u16], rounding: [u16; 2], output: &mut [u8]) {
    let last = sums.len() - 1;
    let (pairs, _) = output.as_chunks_mut::<2>();
    for (pair, window) in pairs[1..].iter_mut().zip(sums.windows(3)) {
        let near = window[1] * 3;
        *pair = [
            ((near + window[0] + rounding[0]) >> BITS) as u8,
            ((near + window[2] + rounding[1]) >> BITS) as u8,
        ];
    }
    // The outermost samples have no neighbor on one side.
    for (end, neighbor, side) in [(0, 1, 1), (last, last - 1, 0)] {
        let near = sums[end];
        pairs[end][side] = ((near * 3 + sums[neighbor] + rounding[side]) >> BITS) as u8;
        pairs[end][1 - side] = ((near * 4 + rounding[1 - side]) >> BITS) as u8;
    }
}

/// 16 fraction bits, rounded.
fn convert_row(luma: &[u8], cb: &[u8], cr: &[u8], output: &mut [u8]) {
    const HALF: i32 = 1 << 15;
    let (pixels, _) = output.as_chunks_mut::<3>();
    for (((pixel, luma), cb), cr) in pixels.iter_mut().zip(luma).zip(cb).zip(cr) {
        let (luma, cb, cr) = (i32::from(*luma), i32::from(*cb) - 128, i32::from(*cr) - 128);
        let red = luma + ((91_881 * cr + HALF) >> 16);
        let green = luma + ((-22_554 * cb - 46_802 * cr + HALF) >> 16);
        let blue = luma + ((116_130 * cb + HALF) >> 16);
        *pixel = [red, green, blue].map(|level| level.clamp(0, 255) as u8);
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;

    use super::{Chroma, Plane};

    #[target_feature(enable = "avx2")]
    pub(super) fn upsample_row<'a>(
        plane: &'a Plane,
        chroma: Chroma,
        y: usize,
        sums: &mut [u16],
        output: &'a mut [u8],
    ) -> &'a [u8] {
        super::upsample_row(plane, chroma, y, sums, output)
    }

    /// Sixteen pixels at a time. Factors above one are split into whole and fraction, so that 16 bits are enough:
    /// 1.402 = 1 + 26345/65536, 1.772 = 2 - 14942/65536, -0.714 = -1 + 18734/65536.
    #[target_feature(enable = "avx2")]
    pub(super) fn convert_row(luma: &[u8], cb: &[u8], cr: &[u8], output: &mut [u8]) {
        const PIXELS: usize = 16;
        let whole = luma.len() / PIXELS * PIXELS;
        let load = |row: &[u8], at: usize| {
            let row = &row[at..at + PIXELS];
            // SAFETY: the slice holds the 16 bytes that are read.
            _mm256_cvtepu8_epi16(unsafe { _mm_loadu_si128(row.as_ptr().cast()) })
        };
        let middle = _mm256_set1_epi16(128);
        let one = _mm256_set1_epi16(1);
        let half = _mm256_set1_epi32(1 << 15);
        let green_factors = _mm256_set1_epi32((18_734 << 16) | (-22_554_i32 & 0xFFFF));
        // Twice the product loses no bit of a sum that is rounded: floor((floor(2x) + 1) / 2) = floor(x + 1/2).
        let fraction = |doubled: __m256i, factor: i16| {
            let product = _mm256_mulhi_epi16(doubled, _mm256_set1_epi16(factor));
            _mm256_srai_epi16::<1>(_mm256_add_epi16(product, one))
        };
        let bytes = |levels: __m256i| {
            let packed = _mm256_packus_epi16(levels, levels);
            _mm256_castsi256_si128(_mm256_permute4x64_epi64::<0b1000>(packed))
        };
        for at in (0..whole).step_by(PIXELS) {
            let y = load(luma, at);
            let cb = _mm256_sub_epi16(load(cb, at), middle);
            let cr = _mm256_sub_epi16(load(cr, at), middle);
            let (cb2, cr2) = (_mm256_add_epi16(cb, cb), _mm256_add_epi16(cr, cr));
            let red = _mm256_add_epi16(_mm256_add_epi16(y, cr), fraction(cr2, 26_345));
            let blue = _mm256_add_epi16(_mm256_add_epi16(y, cb2), fraction(cb2, -14_942));
            let green_part = |pairs: __m256i| {
                _mm256_srai_epi32::<16>(_mm256_add_epi32(_mm256_madd_epi16(pairs, green_factors), half))
            };
            let green = _mm256_packs_epi32(
                green_part(_mm256_unpacklo_epi16(cb, cr)),
                green_part(_mm256_unpackhi_epi16(cb, cr)),
            );
            let green = _mm256_add_epi16(_mm256_sub_epi16(y, cr), green);
            let pixels = &mut output[at * 3..(at + PIXELS) * 3];
            let [first, second, third] = interleave(bytes(red), bytes(green), bytes(blue));
            let pointer: *mut __m128i = pixels.as_mut_ptr().cast();
            // SAFETY: `pixels` holds the three times 16 bytes that are written.
            unsafe {
                _mm_storeu_si128(pointer, first);
                _mm_storeu_si128(pointer.add(1), second);
                _mm_storeu_si128(pointer.add(2), third);
            }
        }
        super::convert_row(&luma[whole..], &cb[whole..], &cr[whole..], &mut output[whole * 3..]);
    }

    /// Where byte `position` of 48 comes from: index within its channel if it belongs to `channel`, else nothing.
    const fn spread(channel: usize, part: usize) -> [i8; 16] {
        let mut mask = [-1; 16];
        let mut byte = 0;
        while byte < 16 {
            let position = part * 16 + byte;
            if position % 3 == channel {
                mask[byte] = (position / 3) as i8;
            }
            byte += 1;
        }
        mask
    }

    const MASKS: [[[i8; 16]; 3]; 3] = {
        let mut masks = [[[0; 16]; 3]; 3];
        let mut part = 0;
        while part < 3 {
            masks[part] = [spread(0, part), spread(1, part), spread(2, part)];
            part += 1;
        }
        masks
    };

    #[target_feature(enable = "avx2")]
    fn interleave(red: __m128i, green: __m128i, blue: __m128i) -> [__m128i; 3] {
        let part = |masks: &[[i8; 16]; 3]| {
            // SAFETY: a mask is 16 bytes.
            let mask = |channel: usize| unsafe { _mm_loadu_si128(masks[channel].as_ptr().cast()) };
            let two = _mm_or_si128(_mm_shuffle_epi8(red, mask(0)), _mm_shuffle_epi8(green, mask(1)));
            _mm_or_si128(two, _mm_shuffle_epi8(blue, mask(2)))
        };
        [part(&MASKS[0]), part(&MASKS[1]), part(&MASKS[2])]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterned(length: usize, step: usize) -> Vec<u8> {
        (0..length).map(|i| (i * step % 257) as u8).collect()
    }

    #[test]
    fn the_versions_of_this_processor_equal_the_plain_ones() {
        let (upsample, _) = best();
        for width in [1, 2, 3, 5, 16, 17, 31, 32, 33, 100] {
            let plane = Plane { samples: patterned(width * 5, 83), stride: width };
            for (half_width, half_height) in [(false, false), (false, true), (true, false), (true, true)] {
                let chroma = Chroma { width, height: 5, half_width, half_height };
                for y in 0..if half_height { 10 } else { 5 } {
                    let (mut a, mut b) = (vec![0; width * 2], vec![0; width * 2]);
                    let a = upsample(&plane, chroma, y, &mut vec![0; width], &mut a);
                    let b = upsample_row(&plane, chroma, y, &mut vec![0; width], &mut b);
                    assert_eq!(a, b);
                }
            }
        }
    }

    #[test]
    fn every_color_converts_alike() {
        let (_, convert) = best();
        let levels: Vec<u8> = (0..=255).collect();
        for cb in 0..=255 {
            for cr in 0..=255 {
                let (cb, cr) = (vec![cb; 256], vec![cr; 256]);
                let (mut a, mut b) = (vec![0; 768], vec![0; 768]);
                convert(&levels, &cb, &cr, &mut a);
                convert_row(&levels, &cb, &cr, &mut b);
                assert_eq!(a, b);
            }
        }
    }
}
