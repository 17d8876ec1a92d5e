//! ActivityNet Captions, dense captions (DC): videos with timed sentences.
//!
//! `{"v_QOlSCBRmfWY": {"duration": 82.73, "timestamps": [[0.83, 19.86], …], "sentences": ["…"]}}` with
//! `v_QOlSCBRmfWY.mp4` (or another container, a GIF, or a folder of frames) in the folder of videos. Frames are
//! `DC_IMG_<video>_<4 digits>`, one a second unless said otherwise; the number is the second.
//!
//! Repaired: the original wanted more than 100 mp4 files, counted frames by the rounded-down rate of the file, and
//! divided by zero below one frame a second; here time decides, not the count.

use otter_data::Group;
use serde::Deserialize;

use crate::sources::Inputs;
use crate::sources::error::ImportError;
use crate::sources::item::{Item, Pair, Reason, Skip, Source, Visual};
use crate::sources::reading::annotations::Annotations;
use crate::sources::reading::files::{Folder, id_name};
use crate::sources::reading::pairs::Replies;

#[derive(Deserialize)]
struct Entry {
    timestamps: Vec<[f64; 2]>,
    sentences: Vec<String>,
}

/// ActivityNet Captions.
pub struct DenseCaptions {
    annotations: Annotations,
    videos: Folder,
    replies: Option<Replies>,
}

impl DenseCaptions {
    /// Opens the file.
    pub fn open(inputs: &Inputs) -> Result<Self, ImportError> {
        Ok(Self {
            annotations: Annotations::json_object(inputs.annotations()?)?,
            videos: Folder::new(inputs.videos()?),
            replies: inputs.replies()?,
        })
    }
}

/// Without a file of pairs: one question about the whole, one about each described part.
fn questions(entry: &Entry) -> Vec<Pair> {
    let mut parts: Vec<([f64; 2], &str)> = entry
        .timestamps
        .iter()
        .copied()
        .zip(entry.sentences.iter().map(|sentence| sentence.trim()))
        .collect();
    parts.sort_by(|a, b| a.0[0].total_cmp(&b.0[0]));
    let all: Vec<String> = parts.iter().map(|(_, sentence)| (*sentence).to_owned()).collect();
    let mut pairs = vec![Pair::new("What happens in this video, in order?", crate::sources::sentences(&all))];
    if parts.len() > 1 {
        pairs.extend(parts.iter().map(|([from, to], sentence)| {
            Pair::new(
                format!("What happens from second {} to second {}?", from.round(), to.round()),
                *sentence,
            )
        }));
    }
    pairs
}

impl Source for DenseCaptions {
    fn code(&self) -> &'static str {
        "DC"
    }

    fn group(&self) -> Group {
        Group::VideoText
    }

    fn len(&self) -> usize {
        self.annotations.len()
    }

    fn id_digits(&self) -> usize {
        5
    }

    fn item(&self, index: usize) -> Result<Item, Skip> {
        let entry: Entry = self.annotations.parse(index)?;
        let name = self.annotations.key(index);
        let place = format!("{} ({name})", self.annotations.place(index));
        if entry.timestamps.len() != entry.sentences.len() {
            return Err(Skip::new(
                Reason::BadAnnotation,
                format!(
                    "{place}: {} timestamps for {} sentences; there must be one for each",
                    entry.timestamps.len(),
                    entry.sentences.len()
                ),
            ));
        }
        let pairs = match &self.replies {
            Some(replies) => replies.of(name, &place)?,
            None => questions(&entry),
        };
        let path = self.videos.video(name, &place)?;
        let prefix = format!("DC_IMG_{}", id_name(name));
        Ok(Item { name: place, visual: Visual::Video { path, prefix, digits: 4, range: None }, pairs })
    }
}
