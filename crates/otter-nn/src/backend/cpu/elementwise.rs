//! Activations and additions.

use rayon::prelude::*;

use super::{LANES, fold_lanes, for_row_blocks, zeros};
use crate::{Float, vectorized};

vectorized! {
    /// `a += b` on one thread; b may be longer.
    pub fn add_part<T: Float>(a: &mut [T], b: &[T]) {
        for (x, &y) in a.iter_mut().zip(b) {
            *x += y;
        }
    }
}

vectorized! {
    fn add_scaled_block<T: Float>(a: &mut [T], b: &[T], factor: T) {
        for (x, &y) in a.iter_mut().zip(b) {
            *x += factor * y;
        }
    }
}

vectorized! {
    fn scale_block<T: Float>(values: &mut [T], factor: T) {
        values.iter_mut().for_each(|v| *v *= factor);
    }
}

vectorized! {
    fn clamp_block<T: Float>(values: &mut [T], limit: T) {
        for v in values.iter_mut() {
            *v = if *v > limit { limit } else if *v < -limit { -limit } else { *v };
        }
    }
}

vectorized! {
    fn clamp_backward_block<T: Float>(dy: &mut [T], clamped: &[T], limit: T) {
        for (d, &v) in dy.iter_mut().zip(clamped) {
            if v >= limit || v <= -limit {
                *d = T::ZERO;
            }
        }
    }
}

vectorized! {
    fn dot_block<T: Float>(a: &[T], b: &[T]) -> T {
        super::sum_pairs(a, b, |p, q| p * q)
    }
}

vectorized! {
    fn activate_block<A: Activation, T: Float>(out: &mut [T], x: &[T]) {
        for (y, &v) in out.iter_mut().zip(x) {
            *y = A::value(v);
        }
    }
}

vectorized! {
    /// `x = activation(x)` on one thread.
    pub fn activate_part<A: Activation, T: Float>(x: &mut [T]) {
        for v in x.iter_mut() {
            *v = A::value(*v);
        }
    }
}

vectorized! {
    fn activate_backward_block<A: Activation, T: Float>(dy: &mut [T], x: &[T]) {
        for (d, &v) in dy.iter_mut().zip(x) {
            *d *= A::slope(v);
        }
    }
}

vectorized! {
    fn silu_product_block<T: Float>(out: &mut [T], gate: &[T], up: &[T]) {
        for ((y, &g), &u) in out.iter_mut().zip(gate).zip(up) {
            *y = g * g.sigmoid() * u;
        }
    }
}

vectorized! {
    /// `gate = silu(gate) * up`.
    fn silu_product_part<T: Float>(gate: &mut [T], up: &[T]) {
        for (g, &u) in gate.iter_mut().zip(up) {
            *g = *g * g.sigmoid() * u;
        }
    }
}

vectorized! {
    /// `d_gate` holds the product's gradient on entry.
    fn silu_gate_gradient<T: Float>(d_gate: &mut [T], gate: &[T], up: &[T]) {
        for ((d, &g), &u) in d_gate.iter_mut().zip(gate).zip(up) {
            let s = g.sigmoid();
            *d = *d * u * s * (T::ONE + g * (T::ONE - s));
        }
    }
}

vectorized! {
    /// `d_up` holds the product's gradient on entry.
    fn silu_up_gradient<T: Float>(d_up: &mut [T], gate: &[T]) {
        for (d, &g) in d_up.iter_mut().zip(gate) {
            *d *= g * g.sigmoid();
        }
    }
}

/// `a += b`.
pub fn add_assign<T: Float>(a: &mut [T], b: &[T]) {
    assert_eq!(a.len(), b.len(), "lengths differ");
    for_row_blocks(a, 1, 1, |start, block| {
        add_part(block, &b[start..]);
    });
}

/// `a += factor * b`.
pub fn add_scaled<T: Float>(a: &mut [T], b: &[T], factor: T) {
    assert_eq!(a.len(), b.len(), "lengths differ");
    for_row_blocks(a, 1, 1, |start, block| {
        add_scaled_block(block, &b[start..], factor);
    });
}

/// `out = a + factor * b`.
pub fn sum_scaled<T: Float>(a: &[T], b: &[T], factor: T) -> Vec<T> {
    assert_eq!(a.len(), b.len(), "lengths differ");
    let mut out = a.to_vec();
    add_scaled(&mut out, b, factor);
    out
}

/// Sum of products, in blocks of fixed size so that the result does not depend on the number of threads.
pub fn dot<T: Float>(a: &[T], b: &[T]) -> T {
    assert_eq!(a.len(), b.len(), "lengths differ");
    a.chunks(1 << 14).zip(b.chunks(1 << 14)).map(|(x, y)| dot_block(x, y)).sum()
}

/// `values *= factor`.
pub fn scale<T: Float>(values: &mut [T], factor: T) {
    for_row_blocks(values, 1, 1, |_, block| scale_block(block, factor));
}

/// Limits all values to plus or minus `limit`; NaN stays.
pub fn clamp<T: Float>(values: &mut [T], limit: T) {
    for_row_blocks(values, 1, 1, |_, block| clamp_block(block, limit));
}

/// Turns the gradient of [`clamp`]'s output `clamped` into that of its input, in place: nothing passes at a limit.
pub fn clamp_backward<T: Float>(dy: &mut [T], clamped: &[T], limit: T) {
    assert_eq!(dy.len(), clamped.len(), "lengths differ");
    for_row_blocks(dy, 1, 1, |start, block| clamp_backward_block(block, &clamped[start..], limit));
}

vectorized! {
    /// Sum of the squares in f64, in a fixed order that depends on the length only.
    pub fn sum_of_squares<T: Float>(values: &[T]) -> f64 {
        let mut lanes = [0f64; LANES];
        let (whole, rest) = values.as_chunks::<LANES>();
        for chunk in whole {
            for lane in 0..LANES {
                let value = chunk[lane].to_f64();
                lanes[lane] += value * value;
            }
        }
        for (lane, value) in lanes.iter_mut().zip(rest) {
            *lane += value.to_f64() * value.to_f64();
        }
        fold_lanes(lanes)
    }
}

/// Elements whose squares are summed by one task. Fixed, so that the sum does not depend on the threads.
const SQUARES: usize = 1 << 16;

/// Sum of the squares of all elements of some slices, in f64 and a fixed order.
pub fn sum_of_all_squares<'a, T: Float>(slices: impl IntoIterator<Item = &'a [T]>) -> f64 {
    let blocks: Vec<&[T]> = slices.into_iter().flat_map(|slice| slice.chunks(SQUARES)).collect();
    let sums: Vec<f64> = blocks.into_par_iter().map(sum_of_squares).collect();
    sums.iter().sum()
}

/// Work of an activation relative to an addition, for the decision to go parallel.
const ACTIVATION_WORK: usize = 8;

/// A pointwise activation with its derivative.
pub trait Activation: Sync {
    /// Value at `x`.
    fn value<T: Float>(x: T) -> T;
    /// Derivative at `x`.
    fn slope<T: Float>(x: T) -> T;
}

/// Exact GELU: x times the standard normal distribution function.
pub struct Gelu;

impl Activation for Gelu {
    #[inline(always)]
    fn value<T: Float>(x: T) -> T {
        let half = T::from_f64(0.5);
        half * x * (T::ONE + (x * T::from_f64(std::f64::consts::FRAC_1_SQRT_2)).erf())
    }
    #[inline(always)]
    fn slope<T: Float>(x: T) -> T {
        let half = T::from_f64(0.5);
        let distribution = half * (T::ONE + (x * T::from_f64(std::f64::consts::FRAC_1_SQRT_2)).erf());
        let density = (-half * x * x).exp() * T::from_f64(0.398_942_280_401_432_7);
        distribution + x * density
    }
}

/// GELU approximated with tanh: x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))).
pub struct GeluTanh;

/// The argument of the approximation's tanh, and its derivative.
#[inline(always)]
fn tanh_argument<T: Float>(x: T) -> (T, T) {
    let factor = T::from_f64((2.0 / std::f64::consts::PI).sqrt());
    let cubic = T::from_f64(0.044_715);
    let square = x * x;
    (factor * x * (T::ONE + cubic * square), factor * (T::ONE + T::from_f64(3.0) * cubic * square))
}

impl Activation for GeluTanh {
    #[inline(always)]
    fn value<T: Float>(x: T) -> T {
        T::from_f64(0.5) * x * (T::ONE + tanh_argument(x).0.tanh())
    }
    #[inline(always)]
    fn slope<T: Float>(x: T) -> T {
        let (argument, slope) = tanh_argument(x);
        let tanh = argument.tanh();
        let half = T::from_f64(0.5);
        half * (T::ONE + tanh) + half * x * (T::ONE - tanh * tanh) * slope
    }
}

/// Rectifier: x where it is positive. The derivative at 0 is 0.
pub struct Relu;

impl Activation for Relu {
    #[inline(always)]
    fn value<T: Float>(x: T) -> T {
        // NaN stays NaN.
        if x < T::ZERO { T::ZERO } else { x }
    }
    #[inline(always)]
    fn slope<T: Float>(x: T) -> T {
        if x > T::ZERO { T::ONE } else { T::ZERO }
    }
}

/// CLIP's GELU: x * sigmoid(1.702 x).
pub struct QuickGelu;

impl Activation for QuickGelu {
    #[inline(always)]
    fn value<T: Float>(x: T) -> T {
        x * (x * T::from_f64(1.702)).sigmoid()
    }
    #[inline(always)]
    fn slope<T: Float>(x: T) -> T {
        let factor = T::from_f64(1.702);
        let s = (x * factor).sigmoid();
        s + x * factor * s * (T::ONE - s)
    }
}

/// `out = activation(x)`.
pub fn activate<A: Activation, T: Float>(x: &[T]) -> Vec<T> {
    let mut out = zeros(x.len());
    for_row_blocks(&mut out, 1, ACTIVATION_WORK, |start, block| {
        activate_block::<A, T>(block, &x[start..]);
    });
    out
}

/// `x = activation(x)`.
pub fn activate_in_place<A: Activation, T: Float>(x: &mut [T]) {
    for_row_blocks(x, 1, ACTIVATION_WORK, |_, block| activate_part::<A, T>(block));
}

/// Turns the gradient `dy` of `activation(x)` into the gradient of `x`, in place.
pub fn activate_backward<A: Activation, T: Float>(dy: &mut [T], x: &[T]) {
    assert_eq!(dy.len(), x.len(), "lengths differ");
    for_row_blocks(dy, 1, ACTIVATION_WORK, |start, block| {
        activate_backward_block::<A, T>(block, &x[start..]);
    });
}

/// `out = silu(gate) * up`, the product inside LLaMA's feed-forward.
pub fn silu_product<T: Float>(gate: &[T], up: &[T]) -> Vec<T> {
    assert_eq!(gate.len(), up.len(), "lengths differ");
    let mut out = zeros(gate.len());
    for_row_blocks(&mut out, 1, ACTIVATION_WORK, |start, block| {
        silu_product_block(block, &gate[start..], &up[start..]);
    });
    out
}

/// [`silu_product`] in the place of `gate`.
pub fn silu_product_in_place<T: Float>(gate: &mut [T], up: &[T]) {
    assert_eq!(gate.len(), up.len(), "lengths differ");
    for_row_blocks(gate, 1, ACTIVATION_WORK, |start, block| silu_product_part(block, &up[start..]));
}

/// Gradients of [`silu_product`]: `d_up` holds the product's gradient on entry and that of `up` on return; returned
/// is the gradient of `gate`.
pub fn silu_product_backward<T: Float>(gate: &[T], up: &[T], d_up: &mut [T]) -> Vec<T> {
    assert_eq!(gate.len(), d_up.len(), "lengths differ");
    let mut d_gate = d_up.to_vec();
    for_row_blocks(&mut d_gate, 1, ACTIVATION_WORK, |start, block| {
        silu_gate_gradient(block, &gate[start..], &up[start..]);
    });
    for_row_blocks(d_up, 1, ACTIVATION_WORK, |start, block| {
        silu_up_gradient(block, &gate[start..]);
    });
    d_gate
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn squares_are_summed_in_double_precision() {
        let values: Vec<f32> = (0..1003).map(|i| i as f32 * 0.37 - 100.0).collect();
        let plain: f64 = values.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
        assert!((sum_of_squares(&values) - plain).abs() < 1e-12 * plain);
        assert!(sum_of_squares(&[f32::MAX; 40]).is_finite());
        assert!(sum_of_squares(&[1.0, f32::NAN]).is_nan());
    }

    fn slopes_are_derivatives<A: Activation>() {
        for i in -40..=40 {
            let x = f64::from(i) * 0.13 + 0.01;
            let numeric = (A::value(x + 1e-6) - A::value(x - 1e-6)) / 2e-6;
            assert!((A::slope(x) - numeric).abs() < 1e-8, "{x}");
        }
    }

    #[test]
    fn activations_have_their_slopes_and_values() {
        slopes_are_derivatives::<Gelu>();
        slopes_are_derivatives::<GeluTanh>();
        slopes_are_derivatives::<QuickGelu>();
        slopes_are_derivatives::<Relu>();
        // Values of PyTorch.
        assert!((GeluTanh::value(1.5f64) - 1.399_571_576_980_232_8).abs() < 1e-14);
        assert!((GeluTanh::value(-0.7f64) + 0.169_429_865_294_883_2).abs() < 1e-14);
        assert_eq!((Relu::value(-2.0f32), Relu::value(2.0f32)), (0.0, 2.0));
        assert!(Relu::value(f32::NAN).is_nan());
    }

    #[test]
    fn buffers_of_zeros_hold_zeros() {
        for len in [0, 7, 1 << 18, (1 << 19) + 5] {
            // Memory that held something else before.
            drop(std::hint::black_box(vec![1f32; len]));
            let buffer: Vec<f32> = zeros(len);
            assert!(buffer.len() == len && buffer.iter().all(|&v| v == 0.0));
        }
    }

    #[test]
    fn squares_of_every_element_are_summed() {
        assert_eq!(sum_of_all_squares([&[3.0, -4.0][..]]), 25.0);
        assert_eq!(sum_of_all_squares::<f32>([]), 0.0);
        let mut many = vec![0f32; 3 * SQUARES + 5];
        let last = many.len() - 1;
        many[0] = 1.0;
        many[SQUARES] = 2.0;
        many[last] = 2.0;
        assert_eq!(sum_of_all_squares([&many[..]]), 9.0);
        many[last] = f32::NAN;
        assert!(sum_of_all_squares([&many[..]]).is_nan());
        assert!(sum_of_all_squares([&[f32::MAX; 9][..]]).is_finite());
    }

    #[test]
    fn the_order_of_the_sum_does_not_depend_on_the_threads() {
        let values: Vec<f32> = (0..200_000).map(|i| ((i * 7919) % 1013) as f32 * 1e-3).collect();
        let with = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a thread pool");
            pool.install(|| sum_of_all_squares([&values[..1000], &values[1000..]])).to_bits()
        };
        assert_eq!(with(1), with(3));
    }
}
