//! Integer products 512 bits wide: `vpdpbusd` multiplies unsigned bytes (weights) with signed ones (activations) and adds
//! four neighbours to 32 bits. A panel lies as [group of 32 elements][four elements][16 weight rows][4], so that each
//! lane sums for a weight row of its own, and four activations are one broadcast.

use std::arch::x86_64::*;
use std::ops::Range;

use super::activations::Activations;
use super::{FEW_ROWS, PANEL};
use crate::quantised::{QuantisedFormat, QuantisedView, q4_k, q8_0};

/// Weight rows of a vector.
const LANES: usize = 16;
/// Groups of 32 elements laid out at a time.
const GROUPS: usize = 8;
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
    format: QuantisedFormat,
    row: &[u8],
    x: &Activations,
    first: usize,
    count: usize,
) -> [f32; FEW_ROWS] {
    match (format, count) {
        (QuantisedFormat::Q4K, 1) => dot_q4_k::<1>(row, x, first),
        (QuantisedFormat::Q4K, 2) => dot_q4_k::<2>(row, x, first),
        (QuantisedFormat::Q4K, 3) => dot_q4_k::<3>(row, x, first),
        (QuantisedFormat::Q4K, _) => dot_q4_k::<4>(row, x, first),
        (QuantisedFormat::Q8_0, 1) => dot_q8_0::<1>(row, x, first),
        (QuantisedFormat::Q8_0, 2) => dot_q8_0::<2>(row, x, first),
        (QuantisedFormat::Q8_0, 3) => dot_q8_0::<3>(row, x, first),
        (QuantisedFormat::Q8_0, _) => dot_q8_0::<4>(row, x, first),
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn dot_q4_k<const C: usize>(row: &[u8], x: &Activations, first: usize) -> [f32; FEW_ROWS] {
    let blocks = row.len() / q4_k::BYTES;
    let columns: [_; C] =
        std::array::from_fn(|c| (x.quants(first + c), x.scales(first + c), x.sums(first + c)));
    for (quants, scales, sums) in columns {
        assert!(quants.len() >= blocks * q4_k::ELEMENTS && scales.len() >= blocks);
        assert!(sums.len() >= blocks * q4_k::GROUPS);
    }
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
                    _mm512_loadu_si512(columns[c].0.as_ptr().add(at * q4_k::ELEMENTS + pair * 64).cast())
                };
                sums[c] = _mm512_dpwssd_epi32(sums[c], _mm512_maddubs_epi16(codes, quants), scales);
            }
        }
        for c in 0..C {
            // SAFETY: as above.
            let (of_x, sums_of_x) = unsafe {
                (
                    *columns[c].1.get_unchecked(at),
                    _mm_loadu_si128(columns[c].2.as_ptr().add(at * q4_k::GROUPS).cast()),
                )
            };
            let units = _mm_mul_ps(units, _mm_set1_ps(of_x));
            let scale = _mm512_broadcastss_ps(units);
            products[c] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[c]), scale, products[c]);
            let minimum = _mm_permute_ps::<0b01_01_01_01>(units);
            let of_minima = _mm_cvtepi32_ps(_mm_madd_epi16(minima, sums_of_x));
            corrections[c] = _mm_fmadd_ps(of_minima, minimum, corrections[c]);
        }
    }
    let mut out = [0.0; FEW_ROWS];
    for c in 0..C {
        let correction = _mm_hadd_ps(corrections[c], corrections[c]);
        let correction = _mm_cvtss_f32(_mm_hadd_ps(correction, correction));
        out[c] = _mm512_reduce_add_ps(products[c]) - correction;
    }
    out
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn dot_q8_0<const C: usize>(row: &[u8], x: &Activations, first: usize) -> [f32; FEW_ROWS] {
    let blocks = row.len() / q8_0::BYTES;
    let columns: [_; C] = std::array::from_fn(|c| (x.quants(first + c), x.scales(first + c)));
    for (quants, scales) in columns {
        assert!(quants.len() >= blocks * q8_0::ELEMENTS && scales.len() >= blocks);
    }
    let mut products = [_mm256_setzero_ps(); C];
    let all = row.as_chunks::<{ q8_0::BYTES }>().0;
    let (whole, rest) = all.as_chunks::<8>();
    for (eight, blocks) in whole.iter().enumerate() {
        // Eight scales become floats at once and meet those of the activations, which stand side by side.
        let unit = |at: usize| i16::from_le_bytes([blocks[at][0], blocks[at][1]]);
        let units = _mm_setr_epi16(unit(0), unit(1), unit(2), unit(3), unit(4), unit(5), unit(6), unit(7));
        let units = _mm256_cvtph_ps(units);
        let mut scales = [_mm256_setzero_ps(); C];
        for c in 0..C {
            // SAFETY: the row of activations has as many blocks as the weight row (checked above).
            scales[c] =
                _mm256_mul_ps(units, unsafe { _mm256_loadu_ps(columns[c].1.as_ptr().add(8 * eight)) });
        }
        for (at, block) in blocks.iter().enumerate() {
            let lane = _mm256_set1_epi32(at as i32);
            // SAFETY: a block has `BYTES` bytes: two of the scale, then 32.
            let codes = unsafe { _mm256_loadu_si256(block.as_ptr().add(q8_0::QUANTS).cast()) };
            let magnitudes = _mm256_abs_epi8(codes);
            for c in 0..C {
                // SAFETY: as above.
                let quants = unsafe {
                    _mm256_loadu_si256(columns[c].0.as_ptr().add((8 * eight + at) * q8_0::ELEMENTS).cast())
                };
                let signed = _mm256_sign_epi8(quants, codes);
                let sums = _mm256_dpbusd_epi32(_mm256_setzero_si256(), magnitudes, signed);
                let scale = _mm256_permutevar8x32_ps(scales[c], lane);
                products[c] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums), scale, products[c]);
            }
        }
    }
    for (at, block) in rest.iter().enumerate() {
        let at = 8 * whole.len() + at;
        // SAFETY: a block has `BYTES` bytes: two of the scale, then 32.
        let codes = unsafe { _mm256_loadu_si256(block.as_ptr().add(q8_0::QUANTS).cast()) };
        let magnitudes = _mm256_abs_epi8(codes);
        for c in 0..C {
            // SAFETY: the row of activations has as many blocks as the weight row (checked above).
            let (quants, of_x) = unsafe {
                let quants = _mm256_loadu_si256(columns[c].0.as_ptr().add(at * q8_0::ELEMENTS).cast());
                (quants, *columns[c].1.get_unchecked(at))
            };
            let signed = _mm256_sign_epi8(quants, codes);
            let sums = _mm256_dpbusd_epi32(_mm256_setzero_si256(), magnitudes, signed);
            let scale = _mm256_set1_ps(crate::quantised::scale(block, 0) * of_x);
            products[c] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums), scale, products[c]);
        }
    }
    let mut out = [0.0; FEW_ROWS];
    for c in 0..C {
        let half = _mm_add_ps(_mm256_castps256_ps128(products[c]), _mm256_extractf128_ps::<1>(products[c]));
        let half = _mm_hadd_ps(half, half);
        out[c] = _mm_cvtss_f32(_mm_hadd_ps(half, half));
    }
    out
}

/// Part of a panel, laid out: up to `GROUPS` groups of 32 elements of `PANEL` weight rows.
#[repr(align(64))]
struct Tile {
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

/// Adds the products of up to `PANEL` weight rows with rows of activations to `sums`, (activation rows, `PANEL`).
///
/// # Safety
/// The processor must have the instructions named here.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn panel(w: QuantisedView<'_>, x: &Activations, columns: Range<usize>, sums: &mut [f32]) {
    assert_eq!(sums.len(), columns.len() * PANEL);
    let mut tile = Tile::new();
    let groups = w.width() / 32;
    for first in (0..groups).step_by(GROUPS) {
        let count = GROUPS.min(groups - first);
        match w.format() {
            QuantisedFormat::Q4K => lay_out_q4_k(&mut tile, w, first / GROUPS),
            QuantisedFormat::Q8_0 => lay_out_q8_0(&mut tile, w, first, count),
        }
        let parts = sums.chunks_mut(COLUMNS * PANEL).zip(columns.clone().step_by(COLUMNS));
        for (sums, row) in parts {
            macro_rules! with {
                ($($n:literal),*) => {
                    match (w.format(), sums.len() / PANEL) {
                        $((QuantisedFormat::Q4K, $n) => add_q4_k::<$n>(&tile, x, row, first, sums),
                          (QuantisedFormat::Q8_0, $n) => add_q8_0::<$n>(&tile, x, row, first, count, sums),)*
                        _ => unreachable!("at most {COLUMNS} columns"),
                    }
                };
            }
            with!(1, 2, 3, 4, 5, 6);
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn add_q4_k<const C: usize>(tile: &Tile, x: &Activations, row: usize, group: usize, sums: &mut [f32]) {
    let block = group / GROUPS;
    let columns: [_; C] = std::array::from_fn(|c| {
        let quants = &x.quants(row + c)[group * 32..][..GROUPS * 32];
        let sums = &x.sums(row + c)[group..][..GROUPS];
        (quants.as_ptr(), sums.as_ptr(), x.scales(row + c)[block])
    });
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
                // SAFETY: `GROUPS` * 32 bytes, checked above.
                let quants = unsafe { columns[c].0.add(at * 32 + four * 4).cast::<i32>().read_unaligned() };
                let quants = _mm512_set1_epi32(quants);
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
    for half in 0..2 {
        let mut dots = [_mm512_setzero_si512(); C];
        for pair in 0..GROUPS / 2 {
            // SAFETY: `PANEL` minima a pair of groups.
            let minima = unsafe { _mm512_load_si512(tile.minima[pair].as_ptr().add(half * LANES).cast()) };
            for c in 0..C {
                // SAFETY: `GROUPS` sums, checked above.
                let sums = unsafe { columns[c].1.add(pair * 2).cast::<i32>().read_unaligned() };
                dots[c] = _mm512_dpwssd_epi32(dots[c], minima, _mm512_set1_epi32(sums));
            }
        }
        // SAFETY: `PANEL` units.
        let unit = unsafe { _mm512_load_ps(tile.unit.as_ptr().add(half * LANES)) };
        for c in 0..C {
            let product = _mm512_fnmadd_ps(_mm512_cvtepi32_ps(dots[c]), unit, products[c][half]);
            let to = sums[c * PANEL + half * LANES..][..LANES].as_mut_ptr();
            // SAFETY: sixteen numbers.
            unsafe {
                let sum = _mm512_fmadd_ps(product, _mm512_set1_ps(columns[c].2), _mm512_loadu_ps(to));
                _mm512_storeu_ps(to, sum);
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn add_q8_0<const C: usize>(
    tile: &Tile,
    x: &Activations,
    row: usize,
    group: usize,
    count: usize,
    sums: &mut [f32],
) {
    let columns: [_; C] = std::array::from_fn(|c| {
        let quants = &x.quants(row + c)[group * 32..][..count * 32];
        (quants.as_ptr(), &x.sums(row + c)[group..][..count], &x.scales(row + c)[group..][..count])
    });
    let mut products = [[_mm512_setzero_ps(); 2]; C];
    for at in 0..count {
        // Codes are laid out plus 128, which the sums of activations take away again.
        let mut dots = [[_mm512_setzero_si512(); 2]; C];
        for c in 0..C {
            dots[c] = [_mm512_set1_epi32(-128 * i32::from(columns[c].1[at])); 2];
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
                // SAFETY: `count` * 32 bytes, checked above.
                let quants = unsafe { columns[c].0.add(at * 32 + four * 4).cast::<i32>().read_unaligned() };
                let quants = _mm512_set1_epi32(quants);
                dots[c][0] = _mm512_dpbusd_epi32(dots[c][0], codes[0], quants);
                dots[c][1] = _mm512_dpbusd_epi32(dots[c][1], codes[1], quants);
            }
        }
        for half in 0..2 {
            // SAFETY: `PANEL` scales a group.
            let scale = unsafe { _mm512_load_ps(tile.scales[at].as_ptr().add(half * LANES)) };
            for c in 0..C {
                let scale = _mm512_mul_ps(scale, _mm512_set1_ps(columns[c].2[at]));
                products[c][half] =
                    _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[c][half]), scale, products[c][half]);
            }
        }
    }
    for (products, sums) in products.into_iter().zip(sums.chunks_exact_mut(PANEL)) {
        for (half, product) in products.into_iter().enumerate() {
            let to = sums[half * LANES..][..LANES].as_mut_ptr();
            // SAFETY: sixteen numbers.
            unsafe { _mm512_storeu_ps(to, _mm512_add_ps(product, _mm512_loadu_ps(to))) };
        }
    }
}

/// Bytes of weight row `row`, or of the last one where the panel has fewer.
#[inline]
fn row_of(w: QuantisedView<'_>, row: usize) -> &[u8] {
    &w.bytes()[row.min(w.rows() - 1) * w.row_bytes()..][..w.row_bytes()]
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn lay_out_q4_k(tile: &mut Tile, w: QuantisedView<'_>, block: usize) {
    let nibble = _mm512_set1_epi8(15);
    for half in 0..2 {
        let blocks: [&[u8]; LANES] =
            std::array::from_fn(|lane| &row_of(w, half * LANES + lane)[block * q4_k::BYTES..][..q4_k::BYTES]);
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
fn lay_out_q8_0(tile: &mut Tile, w: QuantisedView<'_>, first: usize, count: usize) {
    let offset = _mm512_set1_epi8(-128);
    for half in 0..2 {
        let rows: [&[u8]; LANES] = std::array::from_fn(|lane| {
            &row_of(w, half * LANES + lane)[first * q8_0::BYTES..][..count * q8_0::BYTES]
        });
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
            let units: [i16; LANES] = std::array::from_fn(|lane| {
                let bytes = &rows[lane][group * q8_0::BYTES..][..2];
                i16::from_le_bytes([bytes[0], bytes[1]])
            });
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
