//! The element types the kernels are written for: `f32` for work, `f64` for gradient checks.

use std::fmt::{Debug, Display};
use std::iter::Sum;
use std::ops::{Add, AddAssign, Div, Mul, MulAssign, Neg, Sub, SubAssign};

use crate::backend::cpu::gemm::{Finish, Layout};
use crate::backend::{Backend, GpuHandle, Projection};

/// A floating-point element. The transcendental functions of `f32` are branch-free polynomials, so that loops over
/// them vectorize; those of `f64` are the exact library ones.
pub trait Float:
    Copy
    + Default
    + Debug
    + Display
    + PartialOrd
    + Send
    + Sync
    + Sum
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + SubAssign
    + MulAssign
    + 'static
{
    /// Zero.
    const ZERO: Self;
    /// One.
    const ONE: Self;
    /// Negative infinity.
    const NEG_INFINITY: Self;
    /// Not a number.
    const NAN: Self;
    /// Rounds from `f64`.
    fn from_f64(value: f64) -> Self;
    /// Converts from `f32`, exactly.
    fn from_f32(value: f32) -> Self;
    /// Widens to `f64`.
    fn to_f64(self) -> f64;
    /// e to the power of `self`.
    fn exp(self) -> Self;
    /// Natural logarithm.
    fn ln(self) -> Self;
    /// Square root.
    fn sqrt(self) -> Self;
    /// Hyperbolic tangent.
    fn tanh(self) -> Self;
    /// Error function.
    fn erf(self) -> Self;
    /// Absolute value.
    fn abs(self) -> Self;
    /// Neither infinite nor NaN.
    fn is_finite(self) -> bool;

    /// Dot products of the rows of `x` with the rows of `w`, all of `inner` elements: out (rows of w, rows of x).
    fn dot_products(out: &mut [Self], x: &[Self], w: &[Self], inner: usize) {
        crate::backend::cpu::gemm::tile::dot_products(out, x, w, inner);
    }

    /// Several products with the same `x` by matrices in blocks of one format. Gives `false` and does nothing where there is no
    /// kernel for it, or some weight is not in blocks.
    fn matmul_nt_quantized_each(_x: &[Self], _projections: &mut [Projection<'_, Self>]) -> bool {
        false
    }

    /// Matrix product by a kernel of this type's own, with the arguments of [`product`](crate::backend::cpu::gemm::product).
    /// Gives `false` and does nothing where there is none for these sizes, layouts and this processor.
    fn own_product(
        _c: (&mut [Self], Layout),
        _a: (&[Self], Layout),
        _b: (&[Self], Layout),
        _sizes: (usize, usize, usize),
        _alpha: Self,
        _accumulate: bool,
        _parallel: bool,
        _finish: Finish<'_, Self>,
    ) -> bool {
        false
    }

    /// `y (+)= x w^T` with a matrix in blocks. In f32 activations are rounded to bytes, in f64 nothing is rounded.
    fn matmul_nt_quantized(
        y: &mut [Self],
        x: &[Self],
        w: crate::tensor::quantized::QuantizedView<'_>,
        accumulate: bool,
    ) {
        crate::backend::cpu::quantized::matmul_nt_dequantized(y, x, w, accumulate);
    }

    /// The elements as what a GPU keeps, f32.
    ///
    /// # Panics
    /// When they are of another type: GPUs compute in f32 only.
    fn as_singles(_elements: &[Self]) -> &[f32] {
        panic!("a GPU keeps f32 only")
    }

    /// As [`Float::as_singles`], writable.
    ///
    /// # Panics
    /// As [`Float::as_singles`].
    fn as_singles_mut(_elements: &mut [Self]) -> &mut [f32] {
        panic!("a GPU keeps f32 only")
    }

    /// The operations of a GPU for these elements.
    ///
    /// # Panics
    /// When they are not f32.
    fn backend_of(_gpu: GpuHandle) -> &'static dyn Backend<Self> {
        panic!("a GPU computes in f32 only")
    }

    /// Logistic function.
    #[inline(always)]
    fn sigmoid(self) -> Self {
        Self::ONE / (Self::ONE + (-self).exp())
    }

    /// The larger of two numbers (either one when the other is NaN).
    #[inline(always)]
    fn maximum(self, other: Self) -> Self {
        if self > other { self } else { other }
    }
}

/// exp by range reduction to |r| <= ln(2)/2 and a degree-6 polynomial; relative error below 2e-7 on [-87, 88].
#[inline(always)]
fn exp_f32(x: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to an integer held in the low mantissa bits
    let x = x.clamp(-87.3, 88.3);
    let shifted = x * std::f32::consts::LOG2_E + MAGIC;
    let n = shifted - MAGIC;
    let r = x - n * 0.693_359_4 - n * -2.121_944_4e-4;
    let p = 1.388_949_1e-3;
    let p = p * r + 8.333_336e-3;
    let p = p * r + 4.166_664e-2;
    let p = p * r + 1.666_666_6e-1;
    let p = p * r + 0.5;
    let p = p * r * r + r + 1.0;
    let exponent = (shifted.to_bits() as i32).wrapping_sub(0x4B40_0000);
    p * f32::from_bits((exponent.wrapping_add(127) << 23) as u32)
}

/// erf as an odd rational function on [-4, 4]; absolute error below 5e-7.
#[inline(always)]
fn erf_f32(x: f32) -> f32 {
    let x = x.clamp(-4.0, 4.0);
    let s = x * x;
    let p = -2.726_142_4e-10;
    let p = p * s + 2.770_681_3e-8;
    let p = p * s - 2.101_024e-6;
    let p = p * s - 5.692_506_4e-5;
    let p = p * s - 7.349_906e-4;
    let p = p * s - 2.954_598e-3;
    let p = p * s - 1.609_603_4e-2;
    let q = -1.456_607_2e-5;
    let q = q * s - 2.133_740_6e-4;
    let q = q * s - 1.682_827e-3;
    let q = q * s - 7.373_329e-3;
    let q = q * s - 1.426_474e-2;
    x * p / q
}

impl Float for f32 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
    const NEG_INFINITY: Self = f32::NEG_INFINITY;
    const NAN: Self = f32::NAN;
    #[inline(always)]
    fn from_f64(value: f64) -> Self {
        value as f32
    }
    fn matmul_nt_quantized(
        y: &mut [Self],
        x: &[Self],
        w: crate::tensor::quantized::QuantizedView<'_>,
        accumulate: bool,
    ) {
        crate::backend::cpu::quantized::matmul_nt(y, x, w, accumulate);
    }
    fn matmul_nt_quantized_each(x: &[Self], projections: &mut [Projection<'_, Self>]) -> bool {
        crate::backend::cpu::quantized::matmul_nt_each(x, projections)
    }
    fn backend_of(gpu: GpuHandle) -> &'static dyn Backend<Self> {
        gpu.backend()
    }
    fn as_singles(elements: &[Self]) -> &[f32] {
        elements
    }
    fn as_singles_mut(elements: &mut [Self]) -> &mut [f32] {
        elements
    }
    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        value
    }
    #[inline(always)]
    fn to_f64(self) -> f64 {
        f64::from(self)
    }
    #[inline(always)]
    fn exp(self) -> Self {
        exp_f32(self)
    }
    #[inline(always)]
    fn ln(self) -> Self {
        f32::ln(self)
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        f32::sqrt(self)
    }
    #[inline(always)]
    fn tanh(self) -> Self {
        f32::tanh(self)
    }
    #[inline(always)]
    fn erf(self) -> Self {
        erf_f32(self)
    }
    #[inline(always)]
    fn abs(self) -> Self {
        f32::abs(self)
    }
    #[inline(always)]
    fn is_finite(self) -> bool {
        f32::is_finite(self)
    }
    fn dot_products(out: &mut [Self], x: &[Self], w: &[Self], inner: usize) {
        crate::backend::cpu::gemm::tile::dot_products_f32(out, x, w, inner);
    }
    fn own_product(
        c: (&mut [Self], Layout),
        a: (&[Self], Layout),
        b: (&[Self], Layout),
        sizes: (usize, usize, usize),
        alpha: Self,
        accumulate: bool,
        parallel: bool,
        finish: Finish<'_, Self>,
    ) -> bool {
        crate::backend::cpu::gemm::packed::product(c, a, b, sizes, alpha, accumulate, parallel, finish)
    }
}

impl Float for f64 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
    const NEG_INFINITY: Self = f64::NEG_INFINITY;
    const NAN: Self = f64::NAN;
    fn from_f64(value: f64) -> Self {
        value
    }
    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        f64::from(value)
    }
    fn to_f64(self) -> f64 {
        self
    }
    fn exp(self) -> Self {
        f64::exp(self)
    }
    fn ln(self) -> Self {
        f64::ln(self)
    }
    fn sqrt(self) -> Self {
        f64::sqrt(self)
    }
    fn tanh(self) -> Self {
        f64::tanh(self)
    }
    fn erf(self) -> Self {
        libm::erf(self)
    }
    fn abs(self) -> Self {
        f64::abs(self)
    }
    fn is_finite(self) -> bool {
        f64::is_finite(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_accurate_over_its_range() {
        let mut worst = 0.0f64;
        for i in -87_000..88_000 {
            let x = i as f32 * 1e-3 + 0.000_37;
            let exact = f64::from(x).exp();
            worst = worst.max(((f64::from(exp_f32(x)) - exact) / exact).abs());
        }
        assert!(worst < 3e-7, "worst relative error {worst:e}");
        assert!(exp_f32(f32::NAN).is_nan());
        assert!(exp_f32(-1e30) < 1.3e-38);
    }

    #[test]
    fn erf_is_accurate() {
        let mut worst = 0.0f64;
        for i in -6000..6000 {
            let x = i as f32 * 1e-3;
            worst = worst.max((f64::from(erf_f32(x)) - libm::erf(f64::from(x))).abs());
        }
        assert!(worst < 5e-7, "worst absolute error {worst:e}");
        assert!(erf_f32(f32::NAN).is_nan());
    }
}
