//! Activations, gated products and sums of whole tensors, on whichever device they are.

use crate::backend::card::ActivationKind;
use crate::backend::cpu::elementwise as kernel;
use crate::{Device, Real, Tensor};

/// `$call` with the activation type of a kind.
macro_rules! with_kind {
    ($kind:expr, $activation:ident => $call:expr) => {
        match $kind {
            ActivationKind::Gelu => {
                type $activation = crate::backend::cpu::elementwise::Gelu;
                $call
            }
            ActivationKind::GeluTanh => {
                type $activation = crate::backend::cpu::elementwise::GeluTanh;
                $call
            }
            ActivationKind::QuickGelu => {
                type $activation = crate::backend::cpu::elementwise::QuickGelu;
                $call
            }
            ActivationKind::Relu => {
                type $activation = crate::backend::cpu::elementwise::Relu;
                $call
            }
        }
    };
}
pub(crate) use with_kind;

/// `y += x`.
pub fn add_assign<T: Real>(y: &mut Tensor<T>, x: &Tensor<T>) {
    match y.device() {
        Device::Cpu => kernel::add_assign(y.data_mut(), x.data()),
        Device::Card(card) => card.add_scaled(y.on_card_mut(), x.on_card(), 1.0),
    }
}

/// `x *= factor`.
pub fn scale<T: Real>(x: &mut Tensor<T>, factor: f64) {
    match x.device() {
        Device::Cpu => kernel::scale(x.data_mut(), T::from_f64(factor)),
        Device::Card(card) => card.scale(x.on_card_mut(), factor as f32),
    }
}

/// Limits all elements to plus or minus `limit`; NaN stays.
pub fn clamp<T: Real>(x: &mut Tensor<T>, limit: f64) {
    match x.device() {
        Device::Cpu => kernel::clamp(x.data_mut(), T::from_f64(limit)),
        Device::Card(card) => card.clamp(x.on_card_mut(), limit as f32),
    }
}

/// Turns the gradient of [`clamp`]'s output `clamped` into that of its input, in place: nothing passes at a limit.
pub fn clamp_backward<T: Real>(d: &mut Tensor<T>, clamped: &Tensor<T>, limit: f64) {
    match d.device() {
        Device::Cpu => kernel::clamp_backward(d.data_mut(), clamped.data(), T::from_f64(limit)),
        Device::Card(card) => card.clamp_back(d.on_card_mut(), clamped.on_card(), limit as f32),
    }
}

/// `activation(x)`.
pub fn activated<T: Real>(x: &Tensor<T>, kind: ActivationKind) -> Tensor<T> {
    match x.device() {
        Device::Cpu => {
            let y = with_kind!(kind, A => kernel::activate::<A, T>(x.data()));
            Tensor::from_vec(y, x.shape(), Device::Cpu)
        }
        Device::Card(card) => Tensor::from_card(card.activate(x.on_card(), kind), x.shape(), card),
    }
}

/// `x = activation(x)`.
pub fn activate<T: Real>(x: &mut Tensor<T>, kind: ActivationKind) {
    match x.device() {
        Device::Cpu => with_kind!(kind, A => kernel::activate_in_place::<A, T>(x.data_mut())),
        Device::Card(_) => *x = activated(x, kind),
    }
}

/// Turns the gradient of `activation(x)` into that of x, in place.
pub fn activate_backward<T: Real>(d: &mut Tensor<T>, x: &Tensor<T>, kind: ActivationKind) {
    match d.device() {
        Device::Cpu => with_kind!(kind, A => kernel::activate_backward::<A, T>(d.data_mut(), x.data())),
        Device::Card(card) => card.activate_back(d.on_card_mut(), x.on_card(), kind),
    }
}

/// `silu(gate) up`.
pub fn silu_product<T: Real>(gate: &Tensor<T>, up: &Tensor<T>) -> Tensor<T> {
    match gate.device() {
        Device::Cpu => {
            Tensor::from_vec(kernel::silu_product(gate.data(), up.data()), gate.shape(), Device::Cpu)
        }
        Device::Card(card) => {
            Tensor::from_card(card.silu_product(gate.on_card(), up.on_card()), gate.shape(), card)
        }
    }
}

/// `gate = silu(gate) up`.
pub fn silu_product_in_place<T: Real>(gate: &mut Tensor<T>, up: &Tensor<T>) {
    match gate.device() {
        Device::Cpu => kernel::silu_product_in_place(gate.data_mut(), up.data()),
        Device::Card(_) => *gate = silu_product(gate, up),
    }
}

/// Gradient of `gate` through [`silu_product`]; `d_up` holds the product's gradient before and that of `up` afterwards.
pub fn silu_product_backward<T: Real>(gate: &Tensor<T>, up: &Tensor<T>, d_up: &mut Tensor<T>) -> Tensor<T> {
    match gate.device() {
        Device::Cpu => {
            let d_gate = kernel::silu_product_backward(gate.data(), up.data(), d_up.data_mut());
            Tensor::from_vec(d_gate, gate.shape(), Device::Cpu)
        }
        Device::Card(card) => {
            let d_gate = card.silu_product_back(gate.on_card(), up.on_card(), d_up.on_card_mut());
            Tensor::from_card(d_gate, gate.shape(), card)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
