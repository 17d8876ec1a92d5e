//! What a training sample and its media look like.

pub(crate) mod builder;
pub(crate) mod dataset;
pub(crate) mod frame_cache;
pub(crate) mod python_random;
pub(crate) mod record;
pub(crate) mod set;

use otter_media::ImageNotes;
use std::sync::Arc;

use crate::config::Group;
use crate::error::Result;
use crate::text::tokenizer::TextTokenizer;
use otter_input::IGNORE_INDEX;

/// One preprocessed picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Frame {
    /// Image id in its table.
    pub image_id: String,
    /// Which image table of the dataset holds it.
    pub table: usize,
    /// Normalized pixels (3, size, size); empty if the sample was built without pixels.
    pub pixels: Arc<[f32]>,
    /// Width and height before resizing; zeros if the sample was built without pixels.
    pub original_size: (usize, usize),
    /// What the file held that the pixels do not show.
    pub notes: ImageNotes,
}

/// What one image placeholder refers to: one picture, or the frames of one video.
#[derive(Debug, Clone, PartialEq)]
pub struct MediaItem {
    /// Frames in temporal order.
    pub frames: Vec<Frame>,
}

impl MediaItem {
    /// Whether both items are the same pictures of the same tables.
    pub fn same_pictures(&self, other: &Self) -> bool {
        let pairs = self.frames.iter().zip(&other.frames);
        self.frames.len() == other.frames.len()
            && pairs.into_iter().all(|(a, b)| a.table == b.table && a.image_id == b.image_id)
    }
}

/// One training sample.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Instruction id of the query turn.
    pub id: String,
    /// Name of its set.
    pub set: String,
    /// Task group.
    pub group: Group,
    /// The whole prompt as text, without BOS and EOS.
    pub text: String,
    /// Token ids with BOS and EOS.
    pub input_ids: Vec<u32>,
    /// Targets, -100 where nothing is trained; same length as `input_ids`.
    pub labels: Vec<i64>,
    /// Media items in the order of the image placeholders. With the reference's in-context
    /// images there are fewer items than placeholders.
    pub media: Vec<MediaItem>,
    /// Instruction ids of the context turns in use, in order.
    pub context_ids: Vec<String>,
    /// How many in-context turns were dropped to respect `max_seq_len`.
    pub dropped_turns: usize,
}

impl Sample {
    /// Image ids per media item.
    pub fn image_ids(&self) -> Vec<Vec<String>> {
        self.media.iter().map(|item| item.frames.iter().map(|f| f.image_id.clone()).collect()).collect()
    }

    /// Number of trained positions.
    pub fn label_tokens(&self) -> usize {
        self.labels.iter().filter(|&&label| label != IGNORE_INDEX).count()
    }

    /// The sample as runs of decoded text; the flag says whether the run is trained.
    pub fn labeled_text(&self, tokenizer: &TextTokenizer) -> Result<Vec<(bool, String)>> {
        let mut runs: Vec<(bool, Vec<u32>)> = Vec::new();
        for (&id, &label) in self.input_ids.iter().zip(&self.labels) {
            let trained = label != IGNORE_INDEX;
            match runs.last_mut() {
                Some((state, ids)) if *state == trained => ids.push(id),
                _ => runs.push((trained, vec![id])),
            }
        }
        runs.into_iter().map(|(trained, ids)| Ok((trained, tokenizer.decode(&ids, false)?))).collect()
    }
}
