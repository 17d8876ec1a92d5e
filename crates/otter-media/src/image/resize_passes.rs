//! The two passes of the resampling: along the rows, and along the columns.
//!
//! Sums are exact 32-bit integers, so the versions for different processors give the same bytes.

use super::resize_weights::{PRECISION_BITS, Weights};

const HALF: i32 = 1 << (PRECISION_BITS - 1);

#[inline(always)]
fn round_to_u8(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

/// Every row of RGB pixels at the new width.
pub(crate) fn resize_rows(input: &[u8], row_bytes: usize, weights: &Weights) -> Vec<u8> {
    let mut output = vec![0; input.len() / row_bytes * weights.outputs() * 3];
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor was just asked.
        unsafe { avx2::resize_rows(input, row_bytes, weights, &mut output) };
        return output;
    }
    rows_plain(input, row_bytes, weights, &mut output);
    output
}

/// The rows of the new height; `first_row` is the position of the first row of `input` in the whole image.
pub(crate) fn resize_columns(input: &[u8], row_bytes: usize, first_row: usize, weights: &Weights) -> Vec<u8> {
    let mut output = vec![0; row_bytes * weights.outputs()];
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor was just asked.
        unsafe { avx2::resize_columns(input, row_bytes, first_row, weights, &mut output) };
        return output;
    }
    columns_plain(input, row_bytes, first_row, weights, &mut output);
    output
}

fn rows_plain(input: &[u8], row_bytes: usize, weights: &Weights, output: &mut [u8]) {
    let rows = output.chunks_exact_mut(weights.outputs() * 3).zip(input.chunks_exact(row_bytes));
    for (row, source) in rows {
        for (x, pixel) in row.chunks_exact_mut(3).enumerate() {
            let (first, weights) = weights.of(x);
            let mut sums = [HALF; 3];
            let window = &source[first * 3..(first + weights.len()) * 3];
            for (weight, sample) in weights.iter().zip(window.chunks_exact(3)) {
                for channel in 0..3 {
                    sums[channel] += i32::from(sample[channel]) * weight;
                }
            }
            pixel.copy_from_slice(&sums.map(round_to_u8));
        }
    }
}

#[inline(always)]
fn columns_plain(input: &[u8], row_bytes: usize, first_row: usize, weights: &Weights, output: &mut [u8]) {
    for (y, row) in output.chunks_exact_mut(row_bytes).enumerate() {
        let (first, weights) = weights.of(y);
        let source = &input[(first - first_row) * row_bytes..];
        // As many sums at a time as registers hold.
        let (parts, rest) = row.as_chunks_mut::<32>();
        let rest_at = parts.len() * 32;
        for (part, values) in parts.iter_mut().enumerate() {
            *values = column_sums(source, row_bytes, part * 32, weights).map(round_to_u8);
        }
        for (x, value) in rest.iter_mut().enumerate() {
            let [sum] = column_sums(source, row_bytes, rest_at + x, weights);
            *value = round_to_u8(sum);
        }
    }
}

/// Weighted sums of the rows of `source` for the samples from `at` on.
#[inline(always)]
fn column_sums<const SAMPLES: usize>(
    source: &[u8],
    row_bytes: usize,
    at: usize,
    weights: &[i32],
) -> [i32; SAMPLES] {
    let mut sums = [HALF; SAMPLES];
    for (row, weight) in weights.iter().enumerate() {
        let samples = &source[row * row_bytes + at..][..SAMPLES];
        for (sum, sample) in sums.iter_mut().zip(samples) {
            *sum += i32::from(*sample) * weight;
        }
    }
    sums
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;

    use super::{HALF, PRECISION_BITS};
    use crate::image::resize_weights::Weights;

    /// Input pixels that are weighted at once.
    const STEP: usize = 4;
    /// Bytes read for a step, and rows of weights in [`Split`].
    const READ: usize = 16;
    /// A weight is `high << LOW_BITS | low`; both parts fit the 16-bit products.
    const LOW_BITS: i32 = 12;

    #[target_feature(enable = "avx2")]
    pub(super) fn resize_columns(
        input: &[u8],
        row_bytes: usize,
        first_row: usize,
        weights: &Weights,
        output: &mut [u8],
    ) {
        super::columns_plain(input, row_bytes, first_row, weights, output);
    }

    /// Weights in the order in which they are used: four high parts and four low parts a step, zeros at the end.
    struct Split {
        steps: Vec<[i16; 2 * STEP]>,
        /// For each output position: the first byte of the input, and the range of its steps.
        outputs: Vec<(usize, std::ops::Range<usize>)>,
    }

    impl Split {
        fn new(weights: &Weights) -> Self {
            let mut split = Self { steps: Vec::new(), outputs: Vec::with_capacity(weights.outputs()) };
            for x in 0..weights.outputs() {
                let (first, weights) = weights.of(x);
                let start = split.steps.len();
                for step in weights.chunks(STEP) {
                    let mut parts = [0; 2 * STEP];
                    for (tap, weight) in step.iter().enumerate() {
                        parts[tap] = (weight >> LOW_BITS) as i16;
                        parts[STEP + tap] = (weight & ((1 << LOW_BITS) - 1)) as i16;
                    }
                    split.steps.push(parts);
                }
                split.outputs.push((first * 3, start..split.steps.len()));
            }
            split
        }

        /// Bytes of a row that are read, more than it has.
        fn reach(&self) -> usize {
            let end =
                |(first, steps): &(usize, std::ops::Range<usize>)| first + steps.len() * STEP * 3 + READ;
            self.outputs.iter().map(end).max().unwrap_or(0)
        }
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn resize_rows(input: &[u8], row_bytes: usize, weights: &Weights, output: &mut [u8]) {
        let split = Split::new(weights);
        let new_row_bytes = weights.outputs() * 3;
        let rows = input.len() / row_bytes;
        // Rows from which reading on past their end stays inside the input.
        let inner = (input.len().saturating_sub(split.reach()) / row_bytes).min(rows);
        let mut row = 0;
        while row + 4 <= inner {
            let (source, target) = (&input[row * row_bytes..], &mut output[row * new_row_bytes..]);
            some_rows::<4>(source, row_bytes, &split, target, new_row_bytes);
            row += 4;
        }
        let mut padded = vec![0; split.reach().max(row_bytes)];
        for row in row..rows {
            padded[..row_bytes].copy_from_slice(&input[row * row_bytes..(row + 1) * row_bytes]);
            some_rows::<1>(&padded, row_bytes, &split, &mut output[row * new_row_bytes..], new_row_bytes);
        }
    }

    /// `ROWS` rows side by side, so that a weight is prepared once for all.
    #[target_feature(enable = "avx2")]
    fn some_rows<const ROWS: usize>(
        input: &[u8],
        row_bytes: usize,
        split: &Split,
        output: &mut [u8],
        new_row_bytes: usize,
    ) {
        // Bytes of two pixels become 16-bit pairs of the same channel: r0 r1 g0 g1 b0 b1 – –, and r2 r3 … above.
        let pairs = _mm256_setr_epi8(
            0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1, //
            6, -1, 9, -1, 7, -1, 10, -1, 8, -1, 11, -1, -1, -1, -1, -1,
        );
        let first_weights = _mm256_setr_epi8(
            0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, -1, -1, -1, -1, //
            4, 5, 6, 7, 4, 5, 6, 7, 4, 5, 6, 7, -1, -1, -1, -1,
        );
        let second_weights = _mm256_add_epi8(
            first_weights,
            _mm256_setr_epi8(
                8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 0, 0, 0, 0, //
                8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 0, 0, 0, 0,
            ),
        );
        let half = _mm_set1_epi32(HALF);
        assert!(input.len() >= (ROWS - 1) * row_bytes + split.reach(), "room to read past the rows");
        for (x, (first, steps)) in split.outputs.iter().enumerate() {
            let mut high = [_mm256_setzero_si256(); ROWS];
            let mut low = [_mm256_setzero_si256(); ROWS];
            for (step, weights) in split.steps[steps.clone()].iter().enumerate() {
                // SAFETY: the weights of a step are 16 bytes.
                let weights =
                    _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(weights.as_ptr().cast()) });
                let high_weights = _mm256_shuffle_epi8(weights, first_weights);
                let low_weights = _mm256_shuffle_epi8(weights, second_weights);
                for row in 0..ROWS {
                    let at = row * row_bytes + first + step * STEP * 3;
                    // SAFETY: at + READ <= row * row_bytes + split.reach(), checked above.
                    let pixels = unsafe { _mm_loadu_si128(input.as_ptr().add(at).cast()) };
                    let pixels = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(pixels), pairs);
                    high[row] = _mm256_add_epi32(high[row], _mm256_madd_epi16(pixels, high_weights));
                    low[row] = _mm256_add_epi32(low[row], _mm256_madd_epi16(pixels, low_weights));
                }
            }
            for row in 0..ROWS {
                let sums = _mm256_add_epi32(_mm256_slli_epi32::<LOW_BITS>(high[row]), low[row]);
                let both = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums));
                let levels = _mm_srai_epi32::<{ PRECISION_BITS as i32 }>(_mm_add_epi32(both, half));
                let levels = _mm_packs_epi32(levels, levels);
                let pixel = _mm_cvtsi128_si32(_mm_packus_epi16(levels, levels)).to_le_bytes();
                output[row * new_row_bytes + x * 3..][..3].copy_from_slice(&pixel[..3]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::resize_weights::BICUBIC;

    #[test]
    fn the_versions_of_this_processor_equal_the_plain_ones() {
        for (width, new_width) in
            [(1, 1), (1, 9), (2, 5), (5, 2), (64, 224), (90, 31), (640, 224), (301, 300), (2000, 3)]
        {
            for rows in [1, 2, 5, 13] {
                let samples: Vec<u8> = (0..width * rows * 3)
                    .map(|i| (i * i * 31 + i * 7) as u8 & if i % 5 == 0 { 255 } else { 0x80 })
                    .collect();
                let across = Weights::new(BICUBIC, width, new_width, 0..new_width);
                let mut plain = vec![0; new_width * rows * 3];
                rows_plain(&samples, width * 3, &across, &mut plain);
                assert_eq!(resize_rows(&samples, width * 3, &across), plain, "{width} to {new_width}");
                // The same samples as an image of one column.
                let down = Weights::new(BICUBIC, width, new_width, 0..new_width);
                let mut plain = vec![0; new_width * rows * 3];
                columns_plain(&samples, rows * 3, 0, &down, &mut plain);
                assert_eq!(resize_columns(&samples, rows * 3, 0, &down), plain, "{width} to {new_width}");
            }
        }
    }
}
