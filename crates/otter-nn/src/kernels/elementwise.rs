//! Activations and additions.

use super::for_row_blocks;
use crate::Real;

/// `a += b`.
pub fn add_assign<T: Real>(a: &mut [T], b: &[T]) {
    assert_eq!(a.len(), b.len(), "lengths differ");
    for_row_blocks(a, 1, 1, |start, block| {
        for (x, &y) in block.iter_mut().zip(&b[start..]) {
            *x += y;
        }
    });
}

/// `a += factor * b`.
pub fn add_scaled<T: Real>(a: &mut [T], b: &[T], factor: T) {
    assert_eq!(a.len(), b.len(), "lengths differ");
    for_row_blocks(a, 1, 1, |start, block| {
        for (x, &y) in block.iter_mut().zip(&b[start..]) {
            *x += factor * y;
        }
    });
}

/// `out = a + factor * b`.
pub fn sum_scaled<T: Real>(a: &[T], b: &[T], factor: T) -> Vec<T> {
    assert_eq!(a.len(), b.len(), "lengths differ");
    let mut out = a.to_vec();
    add_scaled(&mut out, b, factor);
    out
}

/// Sum of products, in blocks of fixed size so that the result does not depend on the number of threads.
pub fn dot<T: Real>(a: &[T], b: &[T]) -> T {
    assert_eq!(a.len(), b.len(), "lengths differ");
    a.chunks(1 << 14)
        .zip(b.chunks(1 << 14))
        .map(|(x, y)| super::simd(|| super::sum_pairs(x, y, |p, q| p * q)))
        .sum()
}

/// `values *= factor`.
pub fn scale<T: Real>(values: &mut [T], factor: T) {
    for_row_blocks(values, 1, 1, |_, block| block.iter_mut().for_each(|v| *v *= factor));
}

/// Work of an activation relative to an addition, for the decision to go parallel.
const ACTIVATION_WORK: usize = 8;

/// A pointwise activation with its derivative.
pub trait Activation: Sync {
    /// Value at `x`.
    fn value<T: Real>(x: T) -> T;
    /// Derivative at `x`.
    fn slope<T: Real>(x: T) -> T;
}

/// Exact GELU: x times the standard normal distribution function.
pub struct Gelu;

impl Activation for Gelu {
    #[inline(always)]
    fn value<T: Real>(x: T) -> T {
        let half = T::from_f64(0.5);
        half * x * (T::ONE + (x * T::from_f64(std::f64::consts::FRAC_1_SQRT_2)).erf())
    }
    #[inline(always)]
    fn slope<T: Real>(x: T) -> T {
        let half = T::from_f64(0.5);
        let distribution = half * (T::ONE + (x * T::from_f64(std::f64::consts::FRAC_1_SQRT_2)).erf());
        let density = (-half * x * x).exp() * T::from_f64(0.398_942_280_401_432_7);
        distribution + x * density
    }
}

/// CLIP's GELU: x * sigmoid(1.702 x).
pub struct QuickGelu;

impl Activation for QuickGelu {
    #[inline(always)]
    fn value<T: Real>(x: T) -> T {
        x * (x * T::from_f64(1.702)).sigmoid()
    }
    #[inline(always)]
    fn slope<T: Real>(x: T) -> T {
        let factor = T::from_f64(1.702);
        let s = (x * factor).sigmoid();
        s + x * factor * s * (T::ONE - s)
    }
}

/// `out = activation(x)`.
pub fn activate<A: Activation, T: Real>(x: &[T]) -> Vec<T> {
    let mut out = vec![T::ZERO; x.len()];
    for_row_blocks(&mut out, 1, ACTIVATION_WORK, |start, block| {
        for (y, &v) in block.iter_mut().zip(&x[start..]) {
            *y = A::value(v);
        }
    });
    out
}

/// Turns the gradient `dy` of `activation(x)` into the gradient of `x`, in place.
pub fn activate_backward<A: Activation, T: Real>(dy: &mut [T], x: &[T]) {
    assert_eq!(dy.len(), x.len(), "lengths differ");
    for_row_blocks(dy, 1, ACTIVATION_WORK, |start, block| {
        for (d, &v) in block.iter_mut().zip(&x[start..]) {
            *d *= A::slope(v);
        }
    });
}

/// `out = silu(gate) * up`, the product inside LLaMA's feed-forward.
pub fn silu_product<T: Real>(gate: &[T], up: &[T]) -> Vec<T> {
    assert_eq!(gate.len(), up.len(), "lengths differ");
    let mut out = vec![T::ZERO; gate.len()];
    for_row_blocks(&mut out, 1, ACTIVATION_WORK, |start, block| {
        for ((y, &g), &u) in block.iter_mut().zip(&gate[start..]).zip(&up[start..]) {
            *y = g * g.sigmoid() * u;
        }
    });
    out
}

/// Gradients of [`silu_product`]: `d_up` holds the product's gradient on entry and that of `up` on return; returned
/// is the gradient of `gate`.
pub fn silu_product_backward<T: Real>(gate: &[T], up: &[T], d_up: &mut [T]) -> Vec<T> {
    assert_eq!(gate.len(), d_up.len(), "lengths differ");
    let mut d_gate = d_up.to_vec();
    for_row_blocks(&mut d_gate, 1, ACTIVATION_WORK, |start, block| {
        for ((d, &g), &u) in block.iter_mut().zip(&gate[start..]).zip(&up[start..]) {
            let s = g.sigmoid();
            *d = *d * u * s * (T::ONE + g * (T::ONE - s));
        }
    });
    for_row_blocks(d_up, 1, ACTIVATION_WORK, |start, block| {
        for (d, &g) in block.iter_mut().zip(&gate[start..]) {
            *d *= g * g.sigmoid();
        }
    });
    d_gate
}
