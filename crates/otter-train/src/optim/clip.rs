//! Clipping by the global norm, as `torch.nn.utils.clip_grad_norm_` does.

use otter_nn::Gradients;

/// Euclidean norm of all gradients, summed in a fixed order: NaN or infinite exactly when some gradient is, since squares of
/// finite f32 cannot overflow the host's f64. A GPU adds squares in f32: those of gradients from 1e19 on are infinite.
pub fn gradient_norm(gradients: &Gradients) -> f64 {
    let parts: Vec<_> = gradients.tensors().collect();
    gradients.device().backend().sum_of_squares(&parts).sqrt()
}

/// Factor that brings gradients of this norm down to `max_norm`; 1 when they are smaller.
pub fn clip_factor(norm: f64, max_norm: f64) -> f64 {
    (max_norm / (norm + 1e-6)).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_factor_is_that_of_torch() {
        assert_eq!(clip_factor(0.5, 1.0), 1.0);
        assert_eq!(clip_factor(4.0, 1.0), 1.0 / 4.000001);
    }
}
