//! Spot-the-Difference: pairs of surveillance pictures (SD).
//!
//! `[{"img_id": "10089", "sentences": ["…"]}]` with `10089.jpg` and `10089_2.jpg` (or png, jpeg) in one folder. Image ids are
//! `SD_IMG_<5 digits>_1` and `_2`.
//!
//! Repaired: the original looked for `.jpeg` in a branch that could not be reached; all three extensions are found here.

use serde::Deserialize;

use crate::sources::error::ImportError;
use crate::sources::item::{ImageFile, Item, Pair, Skip, Source, Visual};
use crate::sources::reading::annotations::Annotations;
use crate::sources::reading::files::Folder;
use crate::sources::reading::pairs::{Name, Replies};
use crate::sources::{Inputs, sentences};

#[derive(Deserialize)]
struct Entry {
    img_id: Name,
    sentences: Vec<String>,
}

/// What is asked when no file of pairs is given.
pub(super) const QUESTION: &str = "What is different between the first and the second image?";

/// Spot-the-Difference.
pub struct SpotTheDifference {
    annotations: Annotations,
    images: Folder,
    replies: Option<Replies>,
}

impl SpotTheDifference {
    /// Opens the file.
    pub fn open(inputs: &Inputs) -> Result<Self, ImportError> {
        Ok(Self {
            annotations: Annotations::json_list(inputs.annotations()?)?,
            images: Folder::new(inputs.images()?),
            replies: inputs.replies()?,
        })
    }
}

impl Source for SpotTheDifference {
    fn code(&self) -> &'static str {
        "SD"
    }

    fn len(&self) -> usize {
        self.annotations.len()
    }

    fn item(&self, index: usize) -> Result<Item, Skip> {
        let entry: Entry = self.annotations.parse(index)?;
        let id = entry.img_id.into_text();
        let place = format!("{} (img_id {id})", self.annotations.place(index));
        let pairs = match &self.replies {
            Some(replies) => replies.of(&id, &place)?,
            None => vec![Pair::new(QUESTION, sentences(&entry.sentences))],
        };
        let image = |suffix: &str, number: usize| {
            let names = ["jpg", "png", "jpeg"].map(|extension| format!("{id}{suffix}.{extension}"));
            let path = self.images.first_file(&names, &place)?;
            Ok(ImageFile { id: format!("SD_IMG_{id:0>5}_{number}"), path })
        };
        let images = vec![image("", 1)?, image("_2", 2)?];
        Ok(Item { name: place, visual: Visual::Images(images), pairs })
    }
}
