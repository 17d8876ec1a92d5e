//! Integer products 256 bits wide: `vpmaddubsw` multiplies unsigned bytes (weights) with signed ones (activations) and adds
//! two neighbors to 16 bits. Codes of four bits leave room for the 16 products of a group, so that 16-bit sums are
//! widened once a group; codes of eight bits are taken as two of four. A panel lies as [group of 32 elements][four
//! elements][8 weight rows][4]: each lane sums for a weight row of its own, and four activations are one broadcast.

use std::arch::x86_64::*;

use super::SKINNY_ROWS;
use super::activations::{Activations, CELL, Cells, SUMS};
use super::panel::{Ahead, GROUPS, PANEL, PanelKernel};
use super::prefetch::prefetch_after;
use crate::tensor::quantized::{QuantizedFormat, QuantizedView, q4_k, q8_0};

/// Weight rows of a vector.
const LANES: usize = 8;
/// Vectors of weight rows in a panel.
const PARTS: usize = PANEL / LANES;
/// Rows of activations multiplied at once: their sums stay in registers.
const COLUMNS: usize = 4;
/// Bytes of a laid-out group of `LANES` weight rows.
const GROUP_BYTES: usize = 32 * LANES;

/// Products of one weight row with `count` rows of activations; see [`super::plain::dot`].
///
/// # Safety
/// The processor must have the instructions named here.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn dot(
    format: QuantizedFormat,
    row: &[u8],
    x: &Activations,
    first: usize,
    count: usize,
) -> [f32; SKINNY_ROWS] {
    match (format, count) {
        (QuantizedFormat::Q4K, 1) => dot_q4_k::<1>(row, x, first),
        (QuantizedFormat::Q4K, 2) => dot_q4_k::<2>(row, x, first),
        (QuantizedFormat::Q4K, 3) => dot_q4_k::<3>(row, x, first),
        (QuantizedFormat::Q4K, _) => dot_q4_k::<4>(row, x, first),
        (QuantizedFormat::Q8_0, 1) => dot_q8_0::<1>(row, x, first),
        (QuantizedFormat::Q8_0, 2) => dot_q8_0::<2>(row, x, first),
        (QuantizedFormat::Q8_0, 3) => dot_q8_0::<3>(row, x, first),
        (QuantizedFormat::Q8_0, _) => dot_q8_0::<4>(row, x, first),
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn sum_of(x: __m256) -> f32 {
    let half = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
    let half = _mm_hadd_ps(half, half);
    _mm_cvtss_f32(_mm_hadd_ps(half, half))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn dot_q4_k<const C: usize>(row: &[u8], x: &Activations, first: usize) -> [f32; SKINNY_ROWS] {
    let blocks = row.len() / q4_k::BYTES;
    let (cells, rows) = (x.cells(), x.rows());
    assert!(first + C <= rows && blocks * rows <= cells.scales.len());
    assert!(cells.quants.len() >= blocks * rows * CELL && cells.sums.len() >= blocks * rows * SUMS);
    let nibble = _mm256_set1_epi8(15);
    // which of the eight scales all lanes of a group take
    let mut pick = [_mm256_setzero_si256(); q4_k::GROUPS];
    for (group, pick) in (0i16..).zip(&mut pick) {
        *pick = _mm256_set1_epi16((2 * group) | ((2 * group + 1) << 8));
    }
    let mut products = [_mm256_setzero_ps(); C];
    let mut corrections = [_mm_setzero_ps(); C];
    for (at, block) in row.as_chunks::<{ q4_k::BYTES }>().0.iter().enumerate() {
        prefetch_after(block);
        let (scales, minima) = q4_k::scales_and_minima(block);
        let scales = _mm_cvtepu8_epi16(_mm_cvtsi64_si128(i64::from_le_bytes(scales)));
        let minima = _mm_cvtepu8_epi16(_mm_cvtsi64_si128(i64::from_le_bytes(minima)));
        let scales = _mm256_broadcastsi128_si256(scales);
        // SAFETY: a block has `BYTES` bytes; the units are its first four.
        let units = unsafe { _mm_cvtph_ps(_mm_cvtsi32_si128(block.as_ptr().cast::<i32>().read_unaligned())) };
        let mut sums = [_mm256_setzero_si256(); C];
        for pair in 0..q4_k::GROUPS / 2 {
            // SAFETY: a block has 4 * 32 bytes of codes from `QUANTS` on.
            let codes =
                unsafe { _mm256_loadu_si256(block.as_ptr().add(q4_k::QUANTS + pair * q4_k::GROUP).cast()) };
            let low = _mm256_and_si256(codes, nibble);
            let high = _mm256_and_si256(_mm256_srli_epi16::<4>(codes), nibble);
            let low_scale = _mm256_shuffle_epi8(scales, pick[2 * pair]);
            let high_scale = _mm256_shuffle_epi8(scales, pick[2 * pair + 1]);
            for c in 0..C {
                // SAFETY: the row of activations has as many blocks as the weight row (checked above).
                let (of_low, of_high) = unsafe {
                    let quants = cells.quants.as_ptr().add((at * rows + first + c) * CELL + pair * 64);
                    (_mm256_loadu_si256(quants.cast()), _mm256_loadu_si256(quants.add(32).cast()))
                };
                let low = _mm256_madd_epi16(_mm256_maddubs_epi16(low, of_low), low_scale);
                let high = _mm256_madd_epi16(_mm256_maddubs_epi16(high, of_high), high_scale);
                sums[c] = _mm256_add_epi32(sums[c], _mm256_add_epi32(low, high));
            }
        }
        for c in 0..C {
            // SAFETY: as above.
            let (of_x, sums_of_x) = unsafe {
                let cell = at * rows + first + c;
                let sums = _mm_loadu_si128(cells.sums.as_ptr().add(cell * SUMS).cast());
                (*cells.scales.get_unchecked(cell), sums)
            };
            let units = _mm_mul_ps(units, _mm_set1_ps(of_x));
            products[c] =
                _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums[c]), _mm256_broadcastss_ps(units), products[c]);
            let minimum = _mm_permute_ps::<0b01_01_01_01>(units);
            let of_minima = _mm_cvtepi32_ps(_mm_madd_epi16(minima, sums_of_x));
            corrections[c] = _mm_fmadd_ps(of_minima, minimum, corrections[c]);
        }
    }
    let mut out = [0.0; SKINNY_ROWS];
    for c in 0..C {
        let correction = _mm_hadd_ps(corrections[c], corrections[c]);
        out[c] = sum_of(products[c]) - _mm_cvtss_f32(_mm_hadd_ps(correction, correction));
    }
    out
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn dot_q8_0<const C: usize>(row: &[u8], x: &Activations, first: usize) -> [f32; SKINNY_ROWS] {
    let blocks = row.len() / q8_0::BYTES;
    let (cells, rows) = (x.cells(), x.rows());
    assert!(first + C <= rows && blocks.div_ceil(8) * rows * 8 <= cells.scales.len());
    assert!(cells.quants.len() >= blocks.div_ceil(8) * rows * CELL);
    let ones = _mm256_set1_epi16(1);
    let mut products = [_mm256_setzero_ps(); C];
    let all = row.as_chunks::<{ q8_0::BYTES }>().0;
    let (whole, rest) = all.as_chunks::<8>();
    for (eight, blocks) in whole.iter().enumerate() {
        prefetch_after(std::ptr::from_ref(blocks).cast::<[u8; 8 * q8_0::BYTES]>());
        // Eight scales become floats at once and meet those of the activations, which stand side by side.
        let unit = |at: usize| i16::from_le_bytes([blocks[at][0], blocks[at][1]]);
        let units = _mm_setr_epi16(unit(0), unit(1), unit(2), unit(3), unit(4), unit(5), unit(6), unit(7));
        let units = _mm256_cvtph_ps(units);
        let mut scales = [_mm256_setzero_ps(); C];
        for c in 0..C {
            // SAFETY: the row of activations has as many blocks as the weight row (checked above).
            let of_x = unsafe { _mm256_loadu_ps(cells.scales.as_ptr().add((eight * rows + first + c) * 8)) };
            scales[c] = _mm256_mul_ps(units, of_x);
        }
        for (at, block) in blocks.iter().enumerate() {
            let lane = _mm256_set1_epi32(at as i32);
            // SAFETY: a block has `BYTES` bytes: two of the scale, then 32.
            let codes = unsafe { _mm256_loadu_si256(block.as_ptr().add(q8_0::QUANTS).cast()) };
            let magnitudes = _mm256_abs_epi8(codes);
            for c in 0..C {
                // SAFETY: as above.
                let quants = unsafe {
                    let cell = cells.quants.as_ptr().add((eight * rows + first + c) * CELL);
                    _mm256_loadu_si256(cell.add(at * q8_0::ELEMENTS).cast())
                };
                // two products of at most 128 · 127 fit 16 bits
                let signed = _mm256_sign_epi8(quants, codes);
                let sums = _mm256_madd_epi16(_mm256_maddubs_epi16(magnitudes, signed), ones);
                let scale = _mm256_permutevar8x32_ps(scales[c], lane);
                products[c] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums), scale, products[c]);
            }
        }
    }
    for (at, block) in rest.iter().enumerate() {
        // SAFETY: a block has `BYTES` bytes: two of the scale, then 32.
        let codes = unsafe { _mm256_loadu_si256(block.as_ptr().add(q8_0::QUANTS).cast()) };
        let magnitudes = _mm256_abs_epi8(codes);
        for c in 0..C {
            // SAFETY: the row of activations has as many blocks as the weight row (checked above).
            let (quants, of_x) = unsafe {
                let cell = whole.len() * rows + first + c;
                let quants = cells.quants.as_ptr().add(cell * CELL + at * q8_0::ELEMENTS);
                (_mm256_loadu_si256(quants.cast()), *cells.scales.get_unchecked(cell * 8 + at))
            };
            let signed = _mm256_sign_epi8(quants, codes);
            let sums = _mm256_madd_epi16(_mm256_maddubs_epi16(magnitudes, signed), ones);
            let scale = _mm256_set1_ps(crate::tensor::quantized::scale(block, 0) * of_x);
            products[c] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums), scale, products[c]);
        }
    }
    let mut out = [0.0; SKINNY_ROWS];
    for c in 0..C {
        out[c] = sum_of(products[c]);
    }
    out
}

/// Part of a panel, laid out: up to `GROUPS` groups of 32 elements of `PANEL` weight rows.
#[repr(align(32))]
pub(super) struct Tile {
    /// [8 weight rows][group][four elements][row][4]: codes of four bits, or the low halves of (code + 128).
    low: [[[u8; GROUP_BYTES]; GROUPS]; PARTS],
    /// The high halves (Q8_0).
    high: [[[u8; GROUP_BYTES]; GROUPS]; PARTS],
    /// Scale of each row in each group, twice as 16-bit numbers (Q4_K).
    codes_of_scales: [[i32; PANEL]; GROUPS],
    /// Scale of each row in each group (Q8_0).
    scales: [[f32; PANEL]; GROUPS],
    /// Minima of each row in two groups, as 16-bit numbers side by side (Q4_K).
    minima: [[i32; PANEL]; GROUPS / 2],
    /// Units of scales and of minima of each row (Q4_K).
    units: [[f32; PANEL]; 2],
}

impl Tile {
    fn new() -> Self {
        Self {
            low: [[[0; GROUP_BYTES]; GROUPS]; PARTS],
            high: [[[0; GROUP_BYTES]; GROUPS]; PARTS],
            codes_of_scales: [[0; PANEL]; GROUPS],
            scales: [[0.0; PANEL]; GROUPS],
            minima: [[0; PANEL]; GROUPS / 2],
            units: [[0.0; PANEL]; 2],
        }
    }
}

/// Panels by these instructions.
pub(super) struct Avx2;

impl PanelKernel for Avx2 {
    const COLUMNS: usize = COLUMNS;
    type Tile = Tile;

    fn tile() -> Tile {
        Tile::new()
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn lay_out(tile: &mut Tile, w: QuantizedView<'_>, at: usize, count: usize) {
        match w.format() {
            QuantizedFormat::Q4K => lay_out_q4_k(tile, w, at),
            QuantizedFormat::Q8_0 => lay_out_q8_0(tile, w, at * GROUPS, count),
        }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn add(
        tile: &Tile,
        format: QuantizedFormat,
        columns: usize,
        cells: Cells<'_>,
        sums: &mut [f32],
        ahead: &mut Ahead<'_>,
    ) {
        macro_rules! with {
            ($($n:literal),*) => {
                match (format, columns) {
                    $((QuantizedFormat::Q4K, $n) => add_q4_k::<$n>(tile, cells, sums, ahead),
                      (QuantizedFormat::Q8_0, $n) => add_q8_0::<$n>(tile, cells, sums, ahead),)*
                    _ => unreachable!("at most {COLUMNS} columns"),
                }
            };
        }
        with!(1, 2, 3, 4);
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn add_q4_k<const C: usize>(tile: &Tile, cells: Cells<'_>, sums: &mut [f32], ahead: &mut Ahead<'_>) {
    let count = cells.scales.len();
    assert!(cells.quants.len() == count * CELL && cells.sums.len() == count * SUMS);
    assert!(sums.len() == count * PANEL && count.is_multiple_of(C));
    for (part, sums) in sums.as_chunks_mut::<PANEL>().0.as_chunks_mut::<C>().0.iter_mut().enumerate() {
        ahead.ask();
        let quants = &cells.quants[part * C * CELL..][..C * CELL];
        let sums_of_x = &cells.sums[part * C * SUMS..][..C * SUMS];
        let of_x = &cells.scales[part * C..][..C];
        for lanes in 0..PARTS {
            let first = lanes * LANES;
            let mut dots = [_mm256_setzero_si256(); C];
            for at in 0..GROUPS {
                let mut narrow = [_mm256_setzero_si256(); C];
                for four in 0..8 {
                    // SAFETY: eight vectors a group.
                    let codes =
                        unsafe { _mm256_load_si256(tile.low[lanes][at].as_ptr().add(four * 32).cast()) };
                    for c in 0..C {
                        let quants = four_of(quants, c * CELL + at * 32 + four * 4);
                        // eight sums of two products of at most 15 · 127 fit 16 bits
                        let product = _mm256_maddubs_epi16(codes, quants);
                        narrow[c] = _mm256_add_epi16(narrow[c], product);
                    }
                }
                // SAFETY: `PANEL` numbers a group.
                let scale = unsafe { _mm256_load_si256(tile.codes_of_scales[at].as_ptr().add(first).cast()) };
                for c in 0..C {
                    dots[c] = _mm256_add_epi32(dots[c], _mm256_madd_epi16(narrow[c], scale));
                }
            }
            let mut minima = [_mm256_setzero_si256(); C];
            for pair in 0..GROUPS / 2 {
                // SAFETY: `PANEL` numbers a pair of groups.
                let minimum = unsafe { _mm256_load_si256(tile.minima[pair].as_ptr().add(first).cast()) };
                for c in 0..C {
                    let sums = two_of(sums_of_x, c * SUMS + pair * 2);
                    let product = _mm256_madd_epi16(minimum, sums);
                    minima[c] = _mm256_add_epi32(minima[c], product);
                }
            }
            // SAFETY: `PANEL` units of each.
            let (unit, minimum) = unsafe {
                (
                    _mm256_load_ps(tile.units[0].as_ptr().add(first)),
                    _mm256_load_ps(tile.units[1].as_ptr().add(first)),
                )
            };
            for c in 0..C {
                let product = _mm256_mul_ps(_mm256_cvtepi32_ps(dots[c]), unit);
                let product = _mm256_fnmadd_ps(_mm256_cvtepi32_ps(minima[c]), minimum, product);
                let to = sums[c][first..][..LANES].as_mut_ptr();
                // SAFETY: eight numbers.
                unsafe {
                    let sum = _mm256_fmadd_ps(product, _mm256_set1_ps(of_x[c]), _mm256_loadu_ps(to));
                    _mm256_storeu_ps(to, sum);
                }
            }
        }
    }
}

/// Four activations from `at` on in every lane.
#[inline]
#[target_feature(enable = "avx2")]
fn four_of(quants: &[i8], at: usize) -> __m256i {
    let four = &quants[at..at + 4];
    // SAFETY: four bytes.
    _mm256_set1_epi32(unsafe { four.as_ptr().cast::<i32>().read_unaligned() })
}

/// Two sums of activations from `at` on in every lane.
#[inline]
#[target_feature(enable = "avx2")]
fn two_of(sums: &[i16], at: usize) -> __m256i {
    let two = &sums[at..at + 2];
    // SAFETY: four bytes.
    _mm256_set1_epi32(unsafe { two.as_ptr().cast::<i32>().read_unaligned() })
}

#[target_feature(enable = "avx2,fma,f16c")]
fn add_q8_0<const C: usize>(tile: &Tile, cells: Cells<'_>, sums: &mut [f32], ahead: &mut Ahead<'_>) {
    let count = cells.scales.len() / GROUPS;
    assert!(cells.quants.len() == count * CELL && cells.sums.len() == count * SUMS);
    assert!(sums.len() == count * PANEL && count.is_multiple_of(C));
    let (ones, sixteens) = (_mm256_set1_epi16(1), _mm256_set1_epi16(16));
    for (part, sums) in sums.as_chunks_mut::<PANEL>().0.as_chunks_mut::<C>().0.iter_mut().enumerate() {
        ahead.ask();
        let quants = &cells.quants[part * C * CELL..][..C * CELL];
        let sums_of_x = &cells.sums[part * C * SUMS..][..C * SUMS];
        let of_x = &cells.scales[part * C * GROUPS..][..C * GROUPS];
        for lanes in 0..PARTS {
            let first = lanes * LANES;
            let mut products = [_mm256_setzero_ps(); C];
            for at in 0..GROUPS {
                let mut low = [_mm256_setzero_si256(); C];
                let mut high = [_mm256_setzero_si256(); C];
                for four in 0..8 {
                    // SAFETY: eight vectors a group.
                    let (low_codes, high_codes) = unsafe {
                        let low = tile.low[lanes][at].as_ptr().add(four * 32);
                        let high = tile.high[lanes][at].as_ptr().add(four * 32);
                        (_mm256_load_si256(low.cast()), _mm256_load_si256(high.cast()))
                    };
                    for c in 0..C {
                        let quants = four_of(quants, c * CELL + at * 32 + four * 4);
                        low[c] = _mm256_add_epi16(low[c], _mm256_maddubs_epi16(low_codes, quants));
                        high[c] = _mm256_add_epi16(high[c], _mm256_maddubs_epi16(high_codes, quants));
                    }
                }
                // SAFETY: `PANEL` scales a group.
                let scale = unsafe { _mm256_load_ps(tile.scales[at].as_ptr().add(first)) };
                for c in 0..C {
                    // Codes are laid out plus 128, which the sums of activations take away again.
                    let offset = _mm256_set1_epi32(-128 * i32::from(sums_of_x[c * SUMS + at]));
                    let high = _mm256_add_epi32(_mm256_madd_epi16(high[c], sixteens), offset);
                    let dot = _mm256_add_epi32(_mm256_madd_epi16(low[c], ones), high);
                    let scale = _mm256_mul_ps(scale, _mm256_set1_ps(of_x[c * GROUPS + at]));
                    products[c] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), scale, products[c]);
                }
            }
            for (product, sums) in products.into_iter().zip(sums.iter_mut()) {
                let to = sums[first..][..LANES].as_mut_ptr();
                // SAFETY: eight numbers.
                unsafe { _mm256_storeu_ps(to, _mm256_add_ps(product, _mm256_loadu_ps(to))) };
            }
        }
    }
}

/// Bytes of weight row `row`, or of the last one where the panel has fewer.
#[inline]
fn row_of(w: QuantizedView<'_>, row: usize) -> &[u8] {
    &w.bytes()[row.min(w.rows() - 1) * w.row_bytes()..][..w.row_bytes()]
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn lay_out_q4_k(tile: &mut Tile, w: QuantizedView<'_>, block: usize) {
    let nibble = _mm256_set1_epi8(15);
    for part in 0..PARTS {
        let mut blocks: [&[u8]; LANES] = [&[]; LANES];
        for (lane, of_row) in blocks.iter_mut().enumerate() {
            *of_row = &row_of(w, part * LANES + lane)[block * q4_k::BYTES..][..q4_k::BYTES];
        }
        for pair in 0..GROUPS / 2 {
            let mut rows = [_mm256_setzero_si256(); LANES];
            for (row, block) in rows.iter_mut().zip(blocks) {
                // SAFETY: 128 bytes of codes, of which these are 32.
                *row = unsafe { _mm256_loadu_si256(block.as_ptr().add(q4_k::QUANTS + pair * 32).cast()) };
            }
            for (four, codes) in transposed(rows).into_iter().enumerate() {
                let low = _mm256_and_si256(codes, nibble);
                let high = _mm256_and_si256(_mm256_srli_epi16::<4>(codes), nibble);
                // SAFETY: eight vectors a group.
                unsafe {
                    _mm256_store_si256(tile.low[part][2 * pair].as_mut_ptr().add(four * 32).cast(), low);
                    _mm256_store_si256(tile.low[part][2 * pair + 1].as_mut_ptr().add(four * 32).cast(), high);
                }
            }
        }
        for (lane, block) in blocks.into_iter().enumerate() {
            let row = part * LANES + lane;
            let Some(block) = block.first_chunk() else { unreachable!("a whole block") };
            let (scales, minima) = q4_k::scales_and_minima(block);
            tile.units[0][row] = crate::tensor::quantized::scale(block, 0);
            tile.units[1][row] = crate::tensor::quantized::scale(block, 2);
            for (to, scale) in tile.codes_of_scales.iter_mut().zip(scales) {
                to[row] = i32::from(scale) * 0x1_0001;
            }
            for (to, two) in tile.minima.iter_mut().zip(minima.chunks_exact(2)) {
                to[row] = i32::from(two[0]) | i32::from(two[1]) << 16;
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn lay_out_q8_0(tile: &mut Tile, w: QuantizedView<'_>, first: usize, count: usize) {
    let (nibble, offset) = (_mm256_set1_epi8(15), _mm256_set1_epi8(-128));
    // groups that are not there meet zeros, and must not be infinite
    tile.scales[count..].fill([0.0; PANEL]);
    for part in 0..PARTS {
        let mut rows: [&[u8]; LANES] = [&[]; LANES];
        for (lane, row) in rows.iter_mut().enumerate() {
            *row = &row_of(w, part * LANES + lane)[first * q8_0::BYTES..][..count * q8_0::BYTES];
        }
        for group in 0..count {
            let mut blocks: [&[u8]; LANES] = [&[]; LANES];
            for (block, row) in blocks.iter_mut().zip(rows) {
                *block = &row[group * q8_0::BYTES..][..q8_0::BYTES];
            }
            let mut codes = [_mm256_setzero_si256(); LANES];
            for (codes, block) in codes.iter_mut().zip(blocks) {
                // SAFETY: a block is `QUANTS` and 32 bytes.
                *codes = unsafe { _mm256_loadu_si256(block.as_ptr().add(q8_0::QUANTS).cast()) };
            }
            for (four, codes) in transposed(codes).into_iter().enumerate() {
                let codes = _mm256_xor_si256(codes, offset);
                let low = _mm256_and_si256(codes, nibble);
                let high = _mm256_and_si256(_mm256_srli_epi16::<4>(codes), nibble);
                // SAFETY: eight vectors a group.
                unsafe {
                    _mm256_store_si256(tile.low[part][group].as_mut_ptr().add(four * 32).cast(), low);
                    _mm256_store_si256(tile.high[part][group].as_mut_ptr().add(four * 32).cast(), high);
                }
            }
            for (lane, block) in blocks.into_iter().enumerate() {
                tile.scales[group][part * LANES + lane] = crate::tensor::quantized::scale(block, 0);
            }
        }
    }
}

/// Columns of a square of 32-bit elements.
#[inline]
#[target_feature(enable = "avx2")]
fn transposed(rows: [__m256i; LANES]) -> [__m256i; LANES] {
    let mut a = [_mm256_setzero_si256(); LANES];
    for i in 0..4 {
        a[2 * i] = _mm256_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
        a[2 * i + 1] = _mm256_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
    }
    let mut out = [_mm256_setzero_si256(); LANES];
    for j in 0..4 {
        // element j of each half, of rows 0 to 3 and 4 to 7
        let from = j / 2;
        let (upper, lower) = if j % 2 == 0 {
            (_mm256_unpacklo_epi64(a[from], a[2 + from]), _mm256_unpacklo_epi64(a[4 + from], a[6 + from]))
        } else {
            (_mm256_unpackhi_epi64(a[from], a[2 + from]), _mm256_unpackhi_epi64(a[4 + from], a[6 + from]))
        };
        out[j] = _mm256_permute2x128_si256::<0x20>(upper, lower);
        out[4 + j] = _mm256_permute2x128_si256::<0x31>(upper, lower);
    }
    out
}
