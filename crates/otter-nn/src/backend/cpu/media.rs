//! Means over all latents of some media items, forward and backward.

use crate::Float;
use crate::backend::MeanRows;

/// Rows of `out`, of `width`, become the mean over all latents of their items in v; an item has `len` elements there.
pub fn mean_latents<T: Float>(out: &mut [T], v: &[T], rows: &mut MeanRows<'_>, len: usize, width: usize) {
    for (row, items) in rows {
        let mean = &mut out[row * width..][..width];
        mean.fill(T::ZERO);
        let count = items.len() * len / width.max(1);
        if count == 0 {
            continue;
        }
        for &item in items {
            for latent in v[item * len..][..len].chunks_exact(width) {
                for (m, &v) in mean.iter_mut().zip(latent) {
                    *m += v;
                }
            }
        }
        let factor = T::from_f64(1.0 / count as f64);
        mean.iter_mut().for_each(|m| *m *= factor);
    }
}

/// Adds to the gradient of v through [`mean_latents`].
pub fn mean_latents_backward<T: Float>(
    dv: &mut [T],
    d_out: &[T],
    rows: &mut MeanRows<'_>,
    len: usize,
    width: usize,
) {
    for (row, items) in rows {
        let factor = T::from_f64(1.0 / (items.len() * len / width.max(1)).max(1) as f64);
        let d_row = &d_out[row * width..][..width];
        for &item in items {
            for latent in dv[item * len..][..len].chunks_exact_mut(width) {
                for (g, &d) in latent.iter_mut().zip(d_row) {
                    *g += factor * d;
                }
            }
        }
    }
}
