//! Cross-entropy over logits, which become their own gradient: twin of [`otter_nn::CrossEntropy`]'s inner part.

use crate::{Buffer, Launch, Result};

/// Losses of rows of logits (targets, vocabulary), `-log softmax(logits)[target]`. With a `scale` logits become the gradient of
/// `scale` times the sum of the losses.
///
/// # Errors
/// What the driver says.
///
/// # Panics
/// When there is not a row for each target, or a target is outside the vocabulary.
pub fn losses(
    logits: &mut Buffer<f32>,
    targets: &[u32],
    vocabulary: usize,
    scale: Option<f32>,
) -> Result<Buffer<f32>> {
    assert_eq!(logits.len(), targets.len() * vocabulary, "a row of logits for each target");
    assert!(
        targets.iter().all(|&target| (target as usize) < vocabulary),
        "a target is outside the vocabulary"
    );
    let gpu = logits.gpu().clone();
    let losses = gpu.allocate(targets.len())?;
    if !targets.is_empty() {
        let on_gpu = gpu.upload(targets)?;
        let arguments = vec![
            (&losses).into(),
            (&*logits).into(),
            (&on_gpu).into(),
            (vocabulary as u32).into(),
            scale.unwrap_or(0.0).into(),
            u32::from(scale.is_some()).into(),
        ];
        // SAFETY: a block a row; targets were checked.
        unsafe { gpu.launch(&Launch::blocks("cross_entropy", targets.len() as u32, arguments)) }?;
    }
    Ok(losses)
}
