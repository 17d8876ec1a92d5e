//! Samples: MIMIC-IT formats, images, prompts, label masks, batches.
