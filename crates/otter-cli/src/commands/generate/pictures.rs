//! The pictures of a prompt: shown as the model was trained, with an account of what their pixels do not show.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::Result;
use otter_checkpoint::LoadedModel;
use otter_data::{ImageCounts, ImageNotes, ImageRules, Orientation, RgbImage, load_image_file};

use crate::arguments::ImageRuleArguments;

/// How images are shown to a model: as asked, or else as it was trained.
pub fn rules(model: &LoadedModel, arguments: ImageRuleArguments) -> ImageRules {
    let recorded = model.config.input;
    // A checkpoint that does not tell comes from the original, or from before this could be chosen.
    let ImageRules { alpha, gray16, .. } = ImageRules::REFERENCE;
    arguments.or(ImageRules {
        orientation: Orientation::Apply,
        alpha: recorded.alpha.unwrap_or(alpha),
        gray16: recorded.gray16.unwrap_or(gray16),
    })
}

/// Reads pictures and counts, once each, those of which something is to be said.
pub struct Pictures {
    rules: ImageRules,
    counts: ImageCounts,
    counted: BTreeSet<PathBuf>,
}

impl Pictures {
    /// No picture yet.
    pub fn new(model: &LoadedModel, arguments: ImageRuleArguments) -> Self {
        Self { rules: rules(model, arguments), counts: ImageCounts::default(), counted: BTreeSet::new() }
    }

    /// How they are shown.
    pub fn rules(&self) -> ImageRules {
        self.rules
    }

    /// Reads an image file.
    pub fn load(&mut self, file: &Path) -> Result<RgbImage> {
        let image = load_image_file(file, self.rules)?;
        if self.counted.insert(file.to_path_buf()) {
            self.count(image.notes(), file);
        }
        Ok(image)
    }

    /// Counts the notes of a frame of `file`.
    pub fn count(&mut self, notes: ImageNotes, file: &Path) {
        self.counts.add(notes, || file.display().to_string());
    }

    /// What was counted since the last call.
    pub fn take_counts(&mut self) -> ImageCounts {
        std::mem::take(&mut self.counts)
    }
}

/// Says on standard error what pixels do not show.
pub fn warn(counts: &ImageCounts) {
    for line in counts.warnings() {
        eprintln!("warning: {line}");
    }
}

/// Adds what was counted to JSON output, where there is something.
pub fn add_to_json(value: &mut serde_json::Value, counts: &ImageCounts) -> Result<()> {
    if !counts.is_empty() {
        value["image_notes"] = serde_json::to_value(counts)?;
    }
    Ok(())
}
