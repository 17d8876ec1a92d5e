//! Activations, gated products and sums of whole tensors, by name.

use crate::{ActivationKind, Float, Tensor};

/// `y += x`.
pub fn add_assign<T: Float>(y: &mut Tensor<T>, x: &Tensor<T>) {
    y.backend().add_assign(y, x);
}

/// `x *= factor`.
pub fn scale<T: Float>(x: &mut Tensor<T>, factor: f64) {
    x.backend().scale(x, factor);
}

/// Limits all elements to plus or minus `limit`; NaN stays.
pub fn clamp<T: Float>(x: &mut Tensor<T>, limit: f64) {
    x.backend().clamp(x, limit);
}

/// Turns the gradient of [`clamp`]'s output `clamped` into that of its input, in place: nothing passes at a limit.
pub fn clamp_backward<T: Float>(d: &mut Tensor<T>, clamped: &Tensor<T>, limit: f64) {
    d.backend().clamp_backward(d, clamped, limit);
}

/// `activation(x)`.
pub fn activated<T: Float>(x: &Tensor<T>, kind: ActivationKind) -> Tensor<T> {
    x.backend().activated(x, kind)
}

/// `x = activation(x)`.
pub fn activate<T: Float>(x: &mut Tensor<T>, kind: ActivationKind) {
    x.backend().activate(x, kind);
}

/// Turns the gradient of `activation(x)` into that of x, in place.
pub fn activate_backward<T: Float>(d: &mut Tensor<T>, x: &Tensor<T>, kind: ActivationKind) {
    d.backend().activate_backward(d, x, kind);
}

/// `silu(gate) up`.
pub fn silu_product<T: Float>(gate: &Tensor<T>, up: &Tensor<T>) -> Tensor<T> {
    gate.backend().silu_product(gate, up)
}

/// `gate = silu(gate) up`.
pub fn silu_product_in_place<T: Float>(gate: &mut Tensor<T>, up: &Tensor<T>) {
    gate.backend().silu_product_in_place(gate, up);
}

/// Gradient of `gate` through [`silu_product`]; `d_up` holds the product's gradient before and that of `up` afterwards.
pub fn silu_product_backward<T: Float>(gate: &Tensor<T>, up: &Tensor<T>, d_up: &mut Tensor<T>) -> Tensor<T> {
    gate.backend().silu_product_backward(gate, up, d_up)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Device;

    #[test]
    fn kinds_are_the_functions_of_their_names() {
        let x = Tensor::from_vec(vec![-1.5f64, 0.25, 2.0], &[3], Device::Cpu);
        let expected = [
            (ActivationKind::Gelu, [-0.1002108, 0.1496766, 1.9544997]),
            (ActivationKind::GeluTanh, [-0.1004284, 0.1496754, 1.9545977]),
            (ActivationKind::QuickGelu, [-0.1083378, 0.1511996, 1.9356586]),
            (ActivationKind::Relu, [0.0, 0.25, 2.0]),
        ];
        for (kind, values) in expected {
            let mut in_place = x.clone();
            activate(&mut in_place, kind);
            for (found, expected) in activated(&x, kind).data().iter().zip(values) {
                assert!((found - expected).abs() < 1e-6, "{kind:?}: {found}, not {expected}");
            }
            assert_eq!(in_place.data(), activated(&x, kind).data());
        }
    }
}
