//! VIST, visual storytelling (VST): albums of photographs with a sentence for each.
//!
//! The story-in-sequence file: `{"images": […], "albums": [{"id", "title", "description"}], "annotations": [[{"story_id",
//! "album_id", "photo_flickr_id", "worker_arranged_photo_order", "original_text"}]]}`. A story is an item; its photographs,
//! `<photo id>.jpg` (or png, jpeg, gif) in the folder, come in the order of the story. Image ids are `VST_IMG_<photo id>`.
//!
//! Repaired: the original downloaded photographs without looking at the answer's status, so that error pages became
//! images. Nothing is downloaded here; photographs that are not in the folder are counted as `expired`.

use otter_data::{parse_object, read_text_file};
use serde::Deserialize;
use std::collections::HashMap;

use crate::sources::error::ImportError;
use crate::sources::item::{ImageFile, Item, Pair, Reason, Skip, Source, Visual};
use crate::sources::reading::files::Folder;
use crate::sources::reading::pairs::{Name, Replies};
use crate::sources::{Inputs, sentences};

#[derive(Deserialize)]
struct File {
    annotations: Vec<Vec<Annotation>>,
}

#[derive(Deserialize)]
struct Annotation {
    story_id: Name,
    album_id: Name,
    photo_flickr_id: Name,
    worker_arranged_photo_order: Name,
    original_text: Option<String>,
    text: Option<String>,
}

struct Story {
    id: String,
    album: String,
    /// Place in the story, photograph, sentence.
    photographs: Vec<(u64, String, String)>,
}

/// What is asked when no file of pairs is given.
const QUESTION: &str = "Tell the story of these pictures.";

/// VIST.
pub struct VisualStory {
    stories: Vec<Story>,
    images: Folder,
    file: String,
    replies: Option<Replies>,
}

impl VisualStory {
    /// Opens the file.
    pub fn open(inputs: &Inputs) -> Result<Self, ImportError> {
        let path = inputs.annotations()?;
        let text = read_text_file(path)?;
        let file: File = parse_object(text.as_bytes()).map_err(|fault| {
            ImportError::format(path, format!("{fault}; expected VIST's story-in-sequence file"))
        })?;
        let mut stories: Vec<Story> = Vec::new();
        let mut known: HashMap<String, usize> = HashMap::new();
        for annotation in file.annotations.into_iter().flatten() {
            let id = annotation.story_id.into_text();
            let order = annotation.worker_arranged_photo_order.into_text();
            let order = order.trim().parse().map_err(|_| {
                ImportError::format(
                    path,
                    format!("story {id}: the order {order:?} of a photograph is no number"),
                )
            })?;
            let slot = *known.entry(id.clone()).or_insert_with(|| {
                stories.push(Story { id, album: annotation.album_id.into_text(), photographs: Vec::new() });
                stories.len() - 1
            });
            let said = annotation.original_text.or(annotation.text).unwrap_or_default();
            stories[slot].photographs.push((order, annotation.photo_flickr_id.into_text(), said));
        }
        for story in &mut stories {
            story.photographs.sort_by_key(|(order, ..)| *order);
        }
        Ok(Self {
            stories,
            images: Folder::new(inputs.images()?),
            file: path.display().to_string(),
            replies: inputs.replies()?,
        })
    }
}

impl Source for VisualStory {
    fn code(&self) -> &'static str {
        "VST"
    }

    fn len(&self) -> usize {
        self.stories.len()
    }

    fn item(&self, index: usize) -> Result<Item, Skip> {
        let story = &self.stories[index];
        let place = format!("{} (story {} of album {})", self.file, story.id, story.album);
        let said: Vec<String> = story.photographs.iter().map(|(_, _, sentence)| sentence.clone()).collect();
        let pairs = match &self.replies {
            // Syphus asks once an album.
            Some(replies) => replies.of(&story.album, &place)?,
            None => vec![Pair::new(QUESTION, sentences(&said))],
        };
        let mut images = Vec::with_capacity(story.photographs.len());
        for (_, photograph, _) in &story.photographs {
            let names = ["jpg", "png", "jpeg", "gif"].map(|extension| format!("{photograph}.{extension}"));
            let path = self.images.first_file(&names, &place).map_err(|skip| match skip.reason {
                Reason::MissingImage => Skip::new(Reason::Expired, skip.message),
                _ => skip,
            })?;
            images.push(ImageFile { id: format!("VST_IMG_{photograph}"), path });
        }
        Ok(Item { name: place, visual: Visual::Images(images), pairs })
    }
}
