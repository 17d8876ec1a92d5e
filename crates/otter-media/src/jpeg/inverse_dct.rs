//! The accurate integer inverse DCT (Loeffler, Ligtenberg and Moschytz 1989: 11 products a line) with 13 fraction bits
//! in the constants and two more kept between the passes: the arithmetic of libjpeg's `islow`.
//!
//! Eight columns, then eight rows, are transformed side by side in eight [`Lanes`]. The same code runs on AVX2
//! registers and on plain arrays.

/// One sample of each of eight lines. Sums and products wrap, which no undamaged file brings about.
trait Lanes: Copy {
    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn times(self, factor: i32) -> Self;
    fn shift_left<const BITS: i32>(self) -> Self;
    /// Division by 2^BITS after adding `offset`.
    fn shift_right<const BITS: i32>(self, offset: i32) -> Self;
    /// Lane i of output j is lane j of input i.
    fn transpose(lines: [Self; 8]) -> [Self; 8];
}

/// A block whose only coefficient is the first.
pub(super) fn flat(dc: i16, divisors: &[i16; 64], output: &mut [u8], stride: usize) {
    let level = (i32::from(dc.wrapping_mul(divisors[0])) + 4) >> 3;
    let row = [(level + 128).clamp(0, 255) as u8; 8];
    for line in output.chunks_mut(stride).take(8) {
        line[..8].copy_from_slice(&row);
    }
}

const FRACTION_BITS: i32 = 13;
const KEPT_BITS: i32 = 2;

/// One dimension; `DROPPED` fraction bits are rounded away.
#[inline(always)]
fn lines<L: Lanes, const DROPPED: i32>(input: [L; 8], offset: i32) -> [L; 8] {
    let [x0, x1, x2, x3, x4, x5, x6, x7] = input;
    // Even part: a rotation of 2 and 6, a butterfly of 0 and 4.
    let shared = x2.add(x6).times(4433);
    let low = shared.sub(x6.times(15137));
    let high = shared.add(x2.times(6270));
    let sum = x0.add(x4).shift_left::<FRACTION_BITS>();
    let difference = x0.sub(x4).shift_left::<FRACTION_BITS>();
    let even = [sum.add(high), difference.add(low), difference.sub(low), sum.sub(high)];
    // Odd part.
    let (a, b) = (x7.add(x3), x5.add(x1));
    let all = a.add(b).times(9633);
    let (a, b) = (all.sub(a.times(16069)), all.sub(b.times(3196)));
    let (c, d) = (x7.add(x1).times(7373), x5.add(x3).times(20995));
    let odd = [
        x1.times(12299).add(b.sub(c)),
        x3.times(25172).add(a.sub(d)),
        x5.times(16819).add(b.sub(d)),
        x7.times(2446).add(a.sub(c)),
    ];
    let rounded = |value: L| value.shift_right::<DROPPED>(offset);
    [
        rounded(even[0].add(odd[0])),
        rounded(even[1].add(odd[1])),
        rounded(even[2].add(odd[2])),
        rounded(even[3].add(odd[3])),
        rounded(even[3].sub(odd[3])),
        rounded(even[2].sub(odd[2])),
        rounded(even[1].sub(odd[1])),
        rounded(even[0].sub(odd[0])),
    ]
}

/// Columns, then rows. Lane r of output c is the level, not yet clamped, at row r and column c.
#[inline(always)]
fn both_passes<L: Lanes>(rows: [L; 8]) -> [L; 8] {
    const FIRST: i32 = FRACTION_BITS - KEPT_BITS;
    const SECOND: i32 = FRACTION_BITS + KEPT_BITS + 3;
    let columns = lines::<L, FIRST>(rows, 1 << (FIRST - 1));
    lines::<L, SECOND>(L::transpose(columns), (1 << (SECOND - 1)) + (128 << SECOND))
}

impl Lanes for [i32; 8] {
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        std::array::from_fn(|lane| self[lane].wrapping_add(other[lane]))
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        std::array::from_fn(|lane| self[lane].wrapping_sub(other[lane]))
    }

    #[inline(always)]
    fn times(self, factor: i32) -> Self {
        self.map(|value| value.wrapping_mul(factor))
    }

    #[inline(always)]
    fn shift_left<const BITS: i32>(self) -> Self {
        self.map(|value| value << BITS)
    }

    #[inline(always)]
    fn shift_right<const BITS: i32>(self, offset: i32) -> Self {
        self.map(|value| value.wrapping_add(offset) >> BITS)
    }

    #[inline(always)]
    fn transpose(lines: [Self; 8]) -> [Self; 8] {
        std::array::from_fn(|j| std::array::from_fn(|i| lines[i][j]))
    }
}

/// Writes 8 x 8 samples from coefficients and divisors, both row by row.
pub(super) fn plain(coefficients: &[i16; 64], divisors: &[i16; 64], output: &mut [u8], stride: usize) {
    let rows: [[i32; 8]; 8] = std::array::from_fn(|row| {
        std::array::from_fn(|column| {
            let at = row * 8 + column;
            i32::from(coefficients[at].wrapping_mul(divisors[at]))
        })
    });
    let columns = both_passes(rows);
    for (row, line) in output.chunks_mut(stride).take(8).enumerate() {
        for (sample, column) in line.iter_mut().zip(&columns) {
            *sample = column[row].clamp(0, 255) as u8;
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) mod avx2 {
    use std::arch::x86_64::*;

    use super::{Lanes, both_passes};

    /// Only made in functions compiled for AVX2.
    #[derive(Clone, Copy)]
    struct Register(__m256i);

    // SAFETY of all blocks: a `Register` exists only where AVX2 does.
    impl Lanes for Register {
        #[inline(always)]
        fn add(self, other: Self) -> Self {
            Self(unsafe { _mm256_add_epi32(self.0, other.0) })
        }

        #[inline(always)]
        fn sub(self, other: Self) -> Self {
            Self(unsafe { _mm256_sub_epi32(self.0, other.0) })
        }

        #[inline(always)]
        fn times(self, factor: i32) -> Self {
            Self(unsafe { _mm256_mullo_epi32(self.0, _mm256_set1_epi32(factor)) })
        }

        #[inline(always)]
        fn shift_left<const BITS: i32>(self) -> Self {
            Self(unsafe { _mm256_slli_epi32::<BITS>(self.0) })
        }

        #[inline(always)]
        fn shift_right<const BITS: i32>(self, offset: i32) -> Self {
            Self(unsafe { _mm256_srai_epi32::<BITS>(_mm256_add_epi32(self.0, _mm256_set1_epi32(offset))) })
        }

        #[inline(always)]
        fn transpose(lines: [Self; 8]) -> [Self; 8] {
            let [a, b, c, d, e, f, g, h] = lines.map(|line| line.0);
            unsafe {
                // Pairs of lines, then fours, then halves.
                let (ab0, ab1) = (_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
                let (cd0, cd1) = (_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
                let (ef0, ef1) = (_mm256_unpacklo_epi32(e, f), _mm256_unpackhi_epi32(e, f));
                let (gh0, gh1) = (_mm256_unpacklo_epi32(g, h), _mm256_unpackhi_epi32(g, h));
                let low = [
                    _mm256_unpacklo_epi64(ab0, cd0),
                    _mm256_unpackhi_epi64(ab0, cd0),
                    _mm256_unpacklo_epi64(ab1, cd1),
                    _mm256_unpackhi_epi64(ab1, cd1),
                ];
                let high = [
                    _mm256_unpacklo_epi64(ef0, gh0),
                    _mm256_unpackhi_epi64(ef0, gh0),
                    _mm256_unpacklo_epi64(ef1, gh1),
                    _mm256_unpackhi_epi64(ef1, gh1),
                ];
                std::array::from_fn(|j| {
                    Self(if j < 4 {
                        _mm256_permute2x128_si256::<0x20>(low[j], high[j])
                    } else {
                        _mm256_permute2x128_si256::<0x31>(low[j - 4], high[j - 4])
                    })
                })
            }
        }
    }

    /// As [`super::plain`].
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(in super::super) fn transform(
        coefficients: &[i16; 64],
        divisors: &[i16; 64],
        output: &mut [u8],
        stride: usize,
    ) {
        let mut rows = [Register(_mm256_setzero_si256()); 8];
        for (row, register) in rows.iter_mut().enumerate() {
            let (numbers, factors) = (&coefficients[row * 8..row * 8 + 8], &divisors[row * 8..row * 8 + 8]);
            // SAFETY: both slices hold the 16 bytes that are read.
            let (numbers, factors) = unsafe {
                (_mm_loadu_si128(numbers.as_ptr().cast()), _mm_loadu_si128(factors.as_ptr().cast()))
            };
            *register = Register(_mm256_cvtepi16_epi32(_mm_mullo_epi16(numbers, factors)));
        }
        let [c0, c1, c2, c3, c4, c5, c6, c7] = both_passes(rows).map(|column| column.0);
        // Clamp to bytes. Each half then holds four rows: those of column 0, of column 1, …
        let left = _mm256_packus_epi16(_mm256_packs_epi32(c0, c1), _mm256_packs_epi32(c2, c3));
        let right = _mm256_packus_epi16(_mm256_packs_epi32(c4, c5), _mm256_packs_epi32(c6, c7));
        let by_row = _mm256_setr_epi8(
            0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15, 0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3,
            7, 11, 15,
        );
        let (left, right) = (_mm256_shuffle_epi8(left, by_row), _mm256_shuffle_epi8(right, by_row));
        let (first, second) = (_mm256_unpacklo_epi32(left, right), _mm256_unpackhi_epi32(left, right));
        let rows = [
            _mm256_extract_epi64::<0>(first),
            _mm256_extract_epi64::<1>(first),
            _mm256_extract_epi64::<0>(second),
            _mm256_extract_epi64::<1>(second),
            _mm256_extract_epi64::<2>(first),
            _mm256_extract_epi64::<3>(first),
            _mm256_extract_epi64::<2>(second),
            _mm256_extract_epi64::<3>(second),
        ];
        let output = &mut output[..7 * stride + 8];
        for (row, samples) in rows.into_iter().enumerate() {
            output[row * stride..row * stride + 8].copy_from_slice(&samples.to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn the_avx2_version_equals_the_plain_one() {
        if !is_x86_feature_detected!("avx2") {
            crate::skip::skipped("avx2", "this processor has only the plain version");
            return;
        }
        let mut state = 1_u32;
        let mut random = move || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 16) as i16
        };
        for round in 0..2000 {
            let divisors: [i16; 64] = std::array::from_fn(|_| 1 + (random() & 31));
            // From small coefficients to ones far outside what a file of levels gives.
            let shift = 5 + round % 11;
            let coefficients: [i16; 64] = std::array::from_fn(|_| random() >> shift);
            let [mut a, mut b] = [[7_u8; 100]; 2];
            // SAFETY: the processor was just asked.
            unsafe { avx2::transform(&coefficients, &divisors, &mut a, 11) };
            plain(&coefficients, &divisors, &mut b, 11);
            assert_eq!(a, b, "{coefficients:?}");
        }
    }

    #[test]
    fn a_flat_block_equals_the_transform_of_its_coefficient() {
        for dc in -2048..2048 {
            let mut coefficients = [0; 64];
            coefficients[0] = dc;
            let [mut a, mut b] = [[7_u8; 64]; 2];
            flat(dc, &[3; 64], &mut a, 8);
            plain(&coefficients, &[3; 64], &mut b, 8);
            assert_eq!(a, b, "{dc}");
        }
    }

    /// Against the definition in f64: at most one level of rounding.
    #[test]
    fn it_is_an_inverse_dct() {
        let mut coefficients = [0_i16; 64];
        for (position, value) in [(0, 300), (1, -120), (8, 77), (19, 40), (36, -25), (63, 18)] {
            coefficients[position] = value;
        }
        let mut found = [0; 64];
        plain(&coefficients, &[1; 64], &mut found, 8);
        for (at, level) in found.iter().enumerate() {
            let (y, x) = ((at / 8) as f64, (at % 8) as f64);
            let mut sum = 0.0;
            for (position, &value) in coefficients.iter().enumerate() {
                let basis = |frequency: f64, place: f64| {
                    let scale = if frequency == 0.0 { 0.5_f64.sqrt() } else { 1.0 };
                    scale * 0.5 * ((2.0 * place + 1.0) * frequency * std::f64::consts::PI / 16.0).cos()
                };
                sum += f64::from(value) * basis((position / 8) as f64, y) * basis((position % 8) as f64, x);
            }
            assert!((sum + 128.0 - f64::from(*level)).abs() <= 1.0, "{at}: {level} for {sum}");
        }
    }
}
