//! Integer products 512 bits wide: `vpdpbusd` multiplies unsigned bytes (weights) with signed ones (activations) and adds
//! four neighbors to 32 bits. A panel lies as [group of 32 elements][four elements][16 weight rows][4], so that each
//! lane sums for a weight row of its own, and four activations are one broadcast.

use std::arch::x86_64::*;

use super::SKINNY_ROWS;
use super::activations::{Activations, CELL, Cells, SUMS};
use super::panel::{Ahead, GROUPS, PANEL, PanelKernel};
use super::prefetch::prefetch_after;
use crate::tensor::quantized::{QuantizedFormat, QuantizedView, q4_k, q8_0};

/// Weight rows of a vector.
const LANES: usize = 16;
/// Rows of activations multiplied at once: their sums stay in registers.
const COLUMNS: usize = 6;
/// Bytes of a laid-out group of `LANES` weight rows.
const GROUP_BYTES: usize = 32 * LANES;

/// Products of one weight row with `count` rows of activations; see [`super::plain::dot`].
///
/// # Safety
/// The processor must have the instructions named here.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
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
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn dot_q4_k<const C: usize>(row: &[u8], x: &Activations, first: usize) -> [f32; SKINNY_ROWS] {
    let blocks = row.len() / q4_k::BYTES;
    let (cells, rows) = (x.cells(), x.rows());
    assert!(first + C <= rows && blocks * rows <= cells.scales.len());
    assert!(cells.quants.len() >= blocks * rows * CELL && cells.sums.len() >= blocks * rows * SUMS);
    let nibble = _mm512_set1_epi8(15);
    // the upper half of a vector takes the high halves of bytes
    let shift = _mm512_set_epi64(4, 4, 4, 4, 0, 0, 0, 0);
    // which of the eight scales the lanes of a pair of groups take
    let mut pick = [_mm512_setzero_si512(); 4];
    for (pair, pick) in (0i16..).zip(&mut pick) {
        *pick = _mm512_inserti64x4::<1>(_mm512_set1_epi16(2 * pair), _mm256_set1_epi16(2 * pair + 1));
    }
    let mut products = [_mm512_setzero_ps(); C];
    let mut corrections = [_mm_setzero_ps(); C];
    for (at, block) in row.as_chunks::<{ q4_k::BYTES }>().0.iter().enumerate() {
        prefetch_after(block);
        let (scales, minima) = q4_k::scales_and_minima(block);
        let scales = _mm_cvtepu8_epi16(_mm_cvtsi64_si128(i64::from_le_bytes(scales)));
        let minima = _mm_cvtepu8_epi16(_mm_cvtsi64_si128(i64::from_le_bytes(minima)));
        let scales = _mm512_castsi128_si512(scales);
        // SAFETY: a block has `BYTES` bytes; the units are its first four.
        let units = unsafe { _mm_cvtph_ps(_mm_cvtsi32_si128(block.as_ptr().cast::<i32>().read_unaligned())) };
        let mut sums = [_mm512_setzero_si512(); C];
        for (pair, &pick) in pick.iter().enumerate() {
            // SAFETY: a block has 4 * 32 bytes of codes from `QUANTS` on.
            let codes =
                unsafe { _mm256_loadu_si256(block.as_ptr().add(q4_k::QUANTS + pair * q4_k::GROUP).cast()) };
            let codes = _mm512_broadcast_i64x4(codes);
            let codes = _mm512_and_si512(_mm512_srlv_epi64(codes, shift), nibble);
            let scales = _mm512_permutexvar_epi16(pick, scales);
            for c in 0..C {
                // SAFETY: the row of activations has as many blocks as the weight row (checked above).
                let quants = unsafe {
                    _mm512_loadu_si512(
                        cells.quants.as_ptr().add((at * rows + first + c) * CELL + pair * 64).cast(),
                    )
                };
                sums[c] = _mm512_dpwssd_epi32(sums[c], _mm512_maddubs_epi16(codes, quants), scales);
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
            let scale = _mm512_broadcastss_ps(units);
            products[c] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[c]), scale, products[c]);
            let minimum = _mm_permute_ps::<0b01_01_01_01>(units);
            let of_minima = _mm_cvtepi32_ps(_mm_madd_epi16(minima, sums_of_x));
            corrections[c] = _mm_fmadd_ps(of_minima, minimum, corrections[c]);
        }
    }
    let mut out = [0.0; SKINNY_ROWS];
    for c in 0..C {
        let correction = _mm_hadd_ps(corrections[c], corrections[c]);
        let correction = _mm_cvtss_f32(_mm_hadd_ps(correction, correction));
        out[c] = _mm512_reduce_add_ps(products[c]) - correction;
    }
    out
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn dot_q8_0<const C: usize>(row: &[u8], x: &Activations, first: usize) -> [f32; SKINNY_ROWS] {
    let blocks = row.len() / q8_0::BYTES;
    let (cells, rows) = (x.cells(), x.rows());
    assert!(first + C <= rows && blocks.div_ceil(8) * rows * 8 <= cells.scales.len());
    assert!(cells.quants.len() >= blocks.div_ceil(8) * rows * CELL);
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
                let signed = _mm256_sign_epi8(quants, codes);
                let sums = _mm256_dpbusd_epi32(_mm256_setzero_si256(), magnitudes, signed);
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
            let sums = _mm256_dpbusd_epi32(_mm256_setzero_si256(), magnitudes, signed);
            let scale = _mm256_set1_ps(crate::tensor::quantized::scale(block, 0) * of_x);
            products[c] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums), scale, products[c]);
        }
    }
    let mut out = [0.0; SKINNY_ROWS];
    for c in 0..C {
        let half = _mm_add_ps(_mm256_castps256_ps128(products[c]), _mm256_extractf128_ps::<1>(products[c]));
        let half = _mm_hadd_ps(half, half);
        out[c] = _mm_cvtss_f32(_mm_hadd_ps(half, half));
    }
    out
}

/// Part of a panel, laid out: up to `GROUPS` groups of 32 elements of `PANEL` weight rows.
#[repr(align(64))]
pub(super) struct Tile {
    /// [16 weight rows or the next 16][group][four elements][row][4]
    codes: [[[u8; GROUP_BYTES]; GROUPS]; 2],
    /// Scale of each row in each group.
    scales: [[f32; PANEL]; GROUPS],
    /// Minima of each row in two groups, as 16-bit numbers side by side (Q4_K).
    minima: [[i32; PANEL]; GROUPS / 2],
    /// Unit of the minima of each row (Q4_K).
    unit: [f32; PANEL],
}

impl Tile {
    fn new() -> Self {
        Self {
            codes: [[[0; GROUP_BYTES]; GROUPS]; 2],
            scales: [[0.0; PANEL]; GROUPS],
            minima: [[0; PANEL]; GROUPS / 2],
            unit: [0.0; PANEL],
        }
    }
}

/// Panels by these instructions.
pub(super) struct Avx512;

impl PanelKernel for Avx512 {
    const COLUMNS: usize = COLUMNS;
    type Tile = Tile;

    fn tile() -> Tile {
        Tile::new()
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
    unsafe fn lay_out(tile: &mut Tile, w: QuantizedView<'_>, at: usize, count: usize) {
        match w.format() {
            QuantizedFormat::Q4K => lay_out_q4_k(tile, w, at),
            QuantizedFormat::Q8_0 => lay_out_q8_0(tile, w, at * GROUPS, count),
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
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
        with!(1, 2, 3, 4, 5, 6);
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn add_q4_k<const C: usize>(tile: &Tile, cells: Cells<'_>, sums: &mut [f32], ahead: &mut Ahead<'_>) {
    let count = cells.scales.len();
    assert!(cells.quants.len() == count * CELL && cells.sums.len() == count * SUMS);
    assert!(sums.len() == count * PANEL && count.is_multiple_of(C));
    for (part, sums) in sums.as_chunks_mut::<PANEL>().0.as_chunks_mut::<C>().0.iter_mut().enumerate() {
        ahead.ask();
        let quants = &cells.quants[part * C * CELL..][..C * CELL];
        let sums_of_x = &cells.sums[part * C * SUMS..][..C * SUMS];
        let of_x = &cells.scales[part * C..][..C];
        let mut products = [[_mm512_setzero_ps(); 2]; C];
        for at in 0..GROUPS {
            let mut dots = [[_mm512_setzero_si512(); 2]; C];
            for four in 0..8 {
                // SAFETY: eight vectors a group.
                let codes = unsafe {
                    [
                        _mm512_load_si512(tile.codes[0][at].as_ptr().add(four * 64).cast()),
                        _mm512_load_si512(tile.codes[1][at].as_ptr().add(four * 64).cast()),
                    ]
                };
                for c in 0..C {
                    let quants = four_of(quants, c * CELL + at * 32 + four * 4);
                    dots[c][0] = _mm512_dpbusd_epi32(dots[c][0], codes[0], quants);
                    dots[c][1] = _mm512_dpbusd_epi32(dots[c][1], codes[1], quants);
                }
            }
            for half in 0..2 {
                // SAFETY: `PANEL` scales a group.
                let scale = unsafe { _mm512_load_ps(tile.scales[at].as_ptr().add(half * LANES)) };
                for c in 0..C {
                    products[c][half] =
                        _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[c][half]), scale, products[c][half]);
                }
            }
        }
        let mut dots = [[_mm512_setzero_si512(); 2]; C];
        for pair in 0..GROUPS / 2 {
            // SAFETY: `PANEL` minima a pair of groups.
            let minima = unsafe {
                [
                    _mm512_load_si512(tile.minima[pair].as_ptr().cast()),
                    _mm512_load_si512(tile.minima[pair].as_ptr().add(LANES).cast()),
                ]
            };
            for c in 0..C {
                let sums = two_of(sums_of_x, c * SUMS + pair * 2);
                dots[c][0] = _mm512_dpwssd_epi32(dots[c][0], minima[0], sums);
                dots[c][1] = _mm512_dpwssd_epi32(dots[c][1], minima[1], sums);
            }
        }
        for half in 0..2 {
            // SAFETY: `PANEL` units.
            let unit = unsafe { _mm512_load_ps(tile.unit.as_ptr().add(half * LANES)) };
            for c in 0..C {
                let product = _mm512_fnmadd_ps(_mm512_cvtepi32_ps(dots[c][half]), unit, products[c][half]);
                let to = sums[c][half * LANES..][..LANES].as_mut_ptr();
                // SAFETY: sixteen numbers.
                unsafe {
                    let sum = _mm512_fmadd_ps(product, _mm512_set1_ps(of_x[c]), _mm512_loadu_ps(to));
                    _mm512_storeu_ps(to, sum);
                }
            }
        }
    }
}

/// Four activations from `at` on in every lane.
#[inline]
#[target_feature(enable = "avx512f")]
fn four_of(quants: &[i8], at: usize) -> __m512i {
    let four = &quants[at..at + 4];
    // SAFETY: four bytes.
    _mm512_set1_epi32(unsafe { four.as_ptr().cast::<i32>().read_unaligned() })
}

/// Two sums of activations from `at` on in every lane.
#[inline]
#[target_feature(enable = "avx512f")]
fn two_of(sums: &[i16], at: usize) -> __m512i {
    let two = &sums[at..at + 2];
    // SAFETY: four bytes.
    _mm512_set1_epi32(unsafe { two.as_ptr().cast::<i32>().read_unaligned() })
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn add_q8_0<const C: usize>(tile: &Tile, cells: Cells<'_>, sums: &mut [f32], ahead: &mut Ahead<'_>) {
    let count = cells.scales.len() / GROUPS;
    assert!(cells.quants.len() == count * CELL && cells.sums.len() == count * SUMS);
    assert!(sums.len() == count * PANEL && count.is_multiple_of(C));
    // Codes are laid out plus 128, which the sums of activations take away again: those of even groups are the lower
    // ones of a pair.
    let offset = [_mm512_set1_epi32(0xff80), _mm512_set1_epi32(-128 << 16)];
    for (part, sums) in sums.as_chunks_mut::<PANEL>().0.as_chunks_mut::<C>().0.iter_mut().enumerate() {
        ahead.ask();
        let quants = &cells.quants[part * C * CELL..][..C * CELL];
        let sums_of_x = &cells.sums[part * C * SUMS..][..C * SUMS];
        let of_x = &cells.scales[part * C * GROUPS..][..C * GROUPS];
        let mut products = [[_mm512_setzero_ps(); 2]; C];
        for at in 0..GROUPS {
            let mut dots = [[_mm512_setzero_si512(); 2]; C];
            for c in 0..C {
                let sums = two_of(sums_of_x, c * SUMS + at / 2 * 2);
                dots[c] = [_mm512_dpwssd_epi32(_mm512_setzero_si512(), offset[at % 2], sums); 2];
            }
            for four in 0..8 {
                // SAFETY: eight vectors a group.
                let codes = unsafe {
                    [
                        _mm512_load_si512(tile.codes[0][at].as_ptr().add(four * 64).cast()),
                        _mm512_load_si512(tile.codes[1][at].as_ptr().add(four * 64).cast()),
                    ]
                };
                for c in 0..C {
                    let quants = four_of(quants, c * CELL + at * 32 + four * 4);
                    dots[c][0] = _mm512_dpbusd_epi32(dots[c][0], codes[0], quants);
                    dots[c][1] = _mm512_dpbusd_epi32(dots[c][1], codes[1], quants);
                }
            }
            for half in 0..2 {
                // SAFETY: `PANEL` scales a group.
                let scale = unsafe { _mm512_load_ps(tile.scales[at].as_ptr().add(half * LANES)) };
                for c in 0..C {
                    let scale = _mm512_mul_ps(scale, _mm512_set1_ps(of_x[c * GROUPS + at]));
                    products[c][half] =
                        _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[c][half]), scale, products[c][half]);
                }
            }
        }
        for (products, sums) in products.into_iter().zip(sums) {
            for (product, sums) in products.into_iter().zip(sums.chunks_exact_mut(LANES)) {
                let to = sums.as_mut_ptr();
                // SAFETY: sixteen numbers.
                unsafe { _mm512_storeu_ps(to, _mm512_add_ps(product, _mm512_loadu_ps(to))) };
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
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn lay_out_q4_k(tile: &mut Tile, w: QuantizedView<'_>, block: usize) {
    let nibble = _mm512_set1_epi8(15);
    for half in 0..2 {
        let mut blocks: [&[u8]; LANES] = [&[]; LANES];
        for (lane, of_row) in blocks.iter_mut().enumerate() {
            *of_row = &row_of(w, half * LANES + lane)[block * q4_k::BYTES..][..q4_k::BYTES];
        }
        for part in 0..2 {
            let mut rows = [_mm512_setzero_si512(); LANES];
            for (row, block) in rows.iter_mut().zip(blocks) {
                // SAFETY: 128 bytes of codes, of which these are 64.
                *row = unsafe { _mm512_loadu_si512(block.as_ptr().add(q4_k::QUANTS + part * 64).cast()) };
            }
            for (four, codes) in transposed(rows).into_iter().enumerate() {
                let pair = part * 2 + four / 8;
                let low = _mm512_and_si512(codes, nibble);
                let high = _mm512_and_si512(_mm512_srli_epi16::<4>(codes), nibble);
                // SAFETY: eight vectors a group.
                unsafe {
                    let at = four % 8 * 64;
                    _mm512_store_si512(tile.codes[half][2 * pair].as_mut_ptr().add(at).cast(), low);
                    _mm512_store_si512(tile.codes[half][2 * pair + 1].as_mut_ptr().add(at).cast(), high);
                }
            }
        }
        // the sixteen bytes before the codes, as four words of every row
        let mut words = [[0i32; LANES]; 4];
        for (lane, block) in blocks.into_iter().enumerate() {
            for (at, words) in words.iter_mut().enumerate() {
                let bytes = &block[4 * at..][..4];
                words[lane] = i32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            }
        }
        let mut vectors = [_mm512_setzero_si512(); 4];
        for (vector, words) in vectors.iter_mut().zip(&words) {
            // SAFETY: sixteen numbers.
            *vector = unsafe { _mm512_loadu_si512(words.as_ptr().cast()) };
        }
        let [units, a, b, c] = vectors;
        let unit = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(units));
        let minimum = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(units)));
        let (six, four, two) =
            (_mm512_set1_epi32(0x3f3f_3f3f), _mm512_set1_epi32(0x0f0f_0f0f), _mm512_set1_epi32(0x0303_0303));
        let high_of_a = _mm512_slli_epi32::<4>(_mm512_and_si512(_mm512_srli_epi32::<6>(a), two));
        let high_of_b = _mm512_slli_epi32::<4>(_mm512_and_si512(_mm512_srli_epi32::<6>(b), two));
        let low_of_minima = _mm512_and_si512(_mm512_srli_epi32::<4>(c), four);
        let scales = [_mm512_and_si512(a, six), _mm512_or_si512(_mm512_and_si512(c, four), high_of_a)];
        let minima = [_mm512_and_si512(b, six), _mm512_or_si512(low_of_minima, high_of_b)];
        let byte = _mm512_set1_epi32(255);
        // SAFETY: stores of sixteen numbers into rows of `PANEL`.
        unsafe {
            let at = half * LANES;
            _mm512_store_ps(tile.unit.as_mut_ptr().add(at), minimum);
            for group in 0..GROUPS {
                let shift = _mm_cvtsi32_si128(8 * (group % 4) as i32);
                let scale = _mm512_and_si512(_mm512_srl_epi32(scales[group / 4], shift), byte);
                let scale = _mm512_mul_ps(_mm512_cvtepi32_ps(scale), unit);
                _mm512_store_ps(tile.scales[group].as_mut_ptr().add(at), scale);
            }
            for pair in 0..GROUPS / 2 {
                let shift = _mm_cvtsi32_si128(16 * (pair % 2) as i32);
                let two = _mm512_srl_epi32(minima[pair / 2], shift);
                let second = _mm512_and_si512(_mm512_srli_epi32::<8>(two), byte);
                let joined = _mm512_or_si512(_mm512_and_si512(two, byte), _mm512_slli_epi32::<16>(second));
                _mm512_store_si512(tile.minima[pair].as_mut_ptr().add(at).cast(), joined);
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn lay_out_q8_0(tile: &mut Tile, w: QuantizedView<'_>, first: usize, count: usize) {
    let offset = _mm512_set1_epi8(-128);
    // groups that are not there meet zeros, and must not be infinite
    tile.scales[count..].fill([0.0; PANEL]);
    for half in 0..2 {
        let mut rows: [&[u8]; LANES] = [&[]; LANES];
        for (lane, row) in rows.iter_mut().enumerate() {
            *row = &row_of(w, half * LANES + lane)[first * q8_0::BYTES..][..count * q8_0::BYTES];
        }
        for pair in 0..count.div_ceil(2) {
            let both = 2 * pair + 1 < count;
            let mut codes = [_mm512_setzero_si512(); LANES];
            for (codes, row) in codes.iter_mut().zip(rows) {
                let blocks = &row[2 * pair * q8_0::BYTES..];
                // SAFETY: a block is `QUANTS` and 32 bytes; the second one is there when `both` says so.
                *codes = unsafe {
                    let one = _mm256_loadu_si256(blocks.as_ptr().add(q8_0::QUANTS).cast());
                    let next = if both { q8_0::BYTES } else { 0 };
                    let other = _mm256_loadu_si256(blocks.as_ptr().add(next + q8_0::QUANTS).cast());
                    _mm512_inserti64x4::<1>(_mm512_castsi256_si512(one), other)
                };
            }
            for (four, codes) in transposed(codes).into_iter().enumerate() {
                let group = 2 * pair + four / 8;
                if group < count {
                    let to = tile.codes[half][group].as_mut_ptr();
                    // SAFETY: eight vectors a group.
                    unsafe {
                        _mm512_store_si512(to.add(four % 8 * 64).cast(), _mm512_xor_si512(codes, offset))
                    };
                }
            }
        }
        for group in 0..count {
            let mut units = [0i16; LANES];
            for (unit, row) in units.iter_mut().zip(rows) {
                let bytes = &row[group * q8_0::BYTES..][..2];
                *unit = i16::from_le_bytes([bytes[0], bytes[1]]);
            }
            // SAFETY: sixteen numbers, read and written.
            unsafe {
                let units = _mm512_cvtph_ps(_mm256_loadu_si256(units.as_ptr().cast()));
                _mm512_store_ps(tile.scales[group].as_mut_ptr().add(half * LANES), units);
            }
        }
    }
}

/// Columns of a square of 32-bit elements.
#[inline]
#[target_feature(enable = "avx512f")]
fn transposed(rows: [__m512i; LANES]) -> [__m512i; LANES] {
    let mut a = [_mm512_setzero_si512(); LANES];
    for i in 0..8 {
        a[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
        a[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
    }
    // b[4 i + j]: element j of each quarter, of rows 4 i to 4 i + 3
    let mut b = [_mm512_setzero_si512(); LANES];
    for i in 0..4 {
        b[4 * i] = _mm512_unpacklo_epi64(a[4 * i], a[4 * i + 2]);
        b[4 * i + 1] = _mm512_unpackhi_epi64(a[4 * i], a[4 * i + 2]);
        b[4 * i + 2] = _mm512_unpacklo_epi64(a[4 * i + 1], a[4 * i + 3]);
        b[4 * i + 3] = _mm512_unpackhi_epi64(a[4 * i + 1], a[4 * i + 3]);
    }
    let mut out = [_mm512_setzero_si512(); LANES];
    for j in 0..4 {
        // quarters 0 and 2, and 1 and 3, of rows 0 to 7 and 8 to 15
        let even = _mm512_shuffle_i32x4::<0b10_00_10_00>(b[j], b[4 + j]);
        let odd = _mm512_shuffle_i32x4::<0b11_01_11_01>(b[j], b[4 + j]);
        let even_below = _mm512_shuffle_i32x4::<0b10_00_10_00>(b[8 + j], b[12 + j]);
        let odd_below = _mm512_shuffle_i32x4::<0b11_01_11_01>(b[8 + j], b[12 + j]);
        out[j] = _mm512_shuffle_i32x4::<0b10_00_10_00>(even, even_below);
        out[8 + j] = _mm512_shuffle_i32x4::<0b11_01_11_01>(even, even_below);
        out[4 + j] = _mm512_shuffle_i32x4::<0b10_00_10_00>(odd, odd_below);
        out[12 + j] = _mm512_shuffle_i32x4::<0b11_01_11_01>(odd, odd_below);
    }
    out
}
