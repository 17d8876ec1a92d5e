//! Clipping by the global norm, as `torch.nn.utils.clip_grad_norm_` does.

use otter_nn::kernels::elementwise::sum_of_squares;
use otter_nn::{Device, Gradients};
use rayon::prelude::*;

/// Elements whose squares are summed by one task. Fixed, so that the sum does not depend on the threads.
const BLOCK: usize = 1 << 16;

/// Euclidean norm of all gradients, given in parts, summed in f64 in a fixed order. NaN or infinite exactly when some gradient is:
/// squares of finite f32 cannot overflow f64.
pub fn global_norm<'a>(gradients: impl IntoIterator<Item = &'a [f32]>) -> f64 {
    let blocks: Vec<&[f32]> = gradients.into_iter().flat_map(|part| part.chunks(BLOCK)).collect();
    let sums: Vec<f64> = blocks.into_par_iter().map(sum_of_squares).collect();
    sums.iter().sum::<f64>().sqrt()
}

/// [`global_norm`] of gradients on whichever device. A card adds squares in f32: those of gradients from 1e19 on are infinite.
pub fn gradient_norm(gradients: &Gradients) -> f64 {
    match gradients.device() {
        Device::Cpu => global_norm(gradients.parts()),
        Device::Card(card) => {
            let parts: Vec<_> = gradients.tensors().map(|part| part.on_card()).collect();
            card.sums_of_squares(&parts).iter().sum::<f64>().sqrt()
        }
    }
}

/// Factor that brings gradients of this norm down to `max_norm`; 1 when they are smaller.
pub fn clip_factor(norm: f64, max_norm: f64) -> f64 {
    (max_norm / (norm + 1e-6)).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_norm_is_euclidean_and_sees_every_element() {
        assert_eq!(global_norm([&[3.0, -4.0][..]]), 5.0);
        assert_eq!(global_norm([]), 0.0);
        let mut many = vec![0f32; 3 * BLOCK + 5];
        let last = many.len() - 1;
        many[0] = 1.0;
        many[BLOCK] = 2.0;
        many[last] = 2.0;
        assert_eq!(global_norm([&many[..]]), 3.0);
        many[last] = f32::NAN;
        assert!(global_norm([&many[..]]).is_nan());
        assert!(global_norm([&[f32::MAX; 9][..]]).is_finite());
    }

    #[test]
    fn the_order_of_the_sum_does_not_depend_on_the_threads() {
        let values: Vec<f32> = (0..200_000).map(|i| ((i * 7919) % 1013) as f32 * 1e-3).collect();
        let with = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a thread pool");
            pool.install(|| global_norm([&values[..1000], &values[1000..]])).to_bits()
        };
        assert_eq!(with(1), with(3));
    }

    #[test]
    fn the_factor_is_that_of_torch() {
        assert_eq!(clip_factor(0.5, 1.0), 1.0);
        assert_eq!(clip_factor(4.0, 1.0), 1.0 / 4.000001);
    }
}
