//! General differences between two pictures (CGD): pairs of COCO pictures, and sets such as CLEVR-Change.
//!
//! Two forms of annotations:
//! - `[{"id": "…", "images": ["a.jpg", "b.jpg"], "sentences": ["…"]}]`; `id` is optional and names the entry in --pairs;
//! - CLEVR-Change's `{"CLEVR_default_000001.png": ["…"]}`: the picture in `images/`, its counterpart, with `semantic` in
//!   the place of `default`, in `sc_images/`.
//!
//! Image ids are `CGD_IMG_<name of the file without extension>`, of the whole path where several pictures share that.

use otter_data::read_text_file;
use serde::Deserialize;

use super::spot_the_difference::QUESTION;
use crate::sources::error::ImportError;
use crate::sources::item::{ImageFile, Item, Pair, Skip, Source, Visual};
use crate::sources::reading::annotations::Annotations;
use crate::sources::reading::files::{Folder, PictureIds, id_name};
use crate::sources::reading::pairs::{Name, Replies};
use crate::sources::{Inputs, sentences};

#[derive(Deserialize)]
struct Entry {
    id: Option<Name>,
    images: [String; 2],
    #[serde(default)]
    sentences: Vec<String>,
}

/// Pairs of pictures that differ.
pub struct GeneralDifference {
    annotations: Annotations,
    images: Folder,
    replies: Option<Replies>,
    /// Whether the file is an object, as CLEVR-Change's.
    by_name: bool,
    ids: PictureIds,
}

impl GeneralDifference {
    /// Opens the file.
    pub fn open(inputs: &Inputs) -> Result<Self, ImportError> {
        let file = inputs.annotations()?;
        let by_name = read_text_file(file)?.trim_start().starts_with('{');
        let annotations =
            if by_name { Annotations::json_object(file)? } else { Annotations::json_list(file)? };
        let listed = (0..annotations.len()).filter(|_| !by_name);
        // One that cannot be parsed is left out when it is asked for.
        let entries = listed.filter_map(|index| annotations.parse::<Entry>(index).ok());
        let ids = PictureIds::new(entries.flat_map(|entry| entry.images), |path| id_name(path).to_owned());
        let (images, replies) = (Folder::new(inputs.images()?), inputs.replies()?);
        Ok(Self { annotations, images, replies, by_name, ids })
    }
}

impl Source for GeneralDifference {
    fn code(&self) -> &'static str {
        "CGD"
    }

    fn len(&self) -> usize {
        self.annotations.len()
    }

    fn item(&self, index: usize) -> Result<Item, Skip> {
        let place = self.annotations.place(index);
        let (name, images, said) = if self.by_name {
            let image = self.annotations.key(index);
            let said: Vec<String> = self.annotations.parse_list(index)?;
            let other = image.replace("default", "semantic");
            (image.to_owned(), [format!("images/{image}"), format!("sc_images/{other}")], said)
        } else {
            let entry: Entry = self.annotations.parse(index)?;
            let name = match entry.id {
                Some(id) => id.into_text(),
                None => format!("{}_{}", id_name(&entry.images[0]), id_name(&entry.images[1])),
            };
            (name, entry.images, entry.sentences)
        };
        let place = format!("{place} ({name})");
        let pairs = match &self.replies {
            Some(replies) => replies.of(&name, &place)?,
            None => vec![Pair::new(QUESTION, sentences(&said))],
        };
        let mut files = Vec::with_capacity(2);
        for image in images {
            let path = self.images.first_file(std::slice::from_ref(&image), &place)?;
            files.push(ImageFile { id: format!("CGD_IMG_{}", self.ids.id(&image)), path });
        }
        Ok(Item { name: place, visual: Visual::Images(files), pairs })
    }
}
