//! FunQA, counter-intuitive videos.
//!
//! `[{"instruction": "…", "visual_input": "H_A_1_1111.mp4", "output": "…", "ID": "…", "task": "H2"}]`. Entries about one video, wherever
//! they stand, are one item, in the order of their first mention. Ids are `FunQA_INS_…`; frames are `FunQA_IMG_<video>_<4 digits>`.
//! Entries whose answer is no text (scores, time spans given as numbers) are written as that text.

use otter_data::Group;
use serde::Deserialize;
use std::collections::HashMap;

use crate::sources::Inputs;
use crate::sources::error::ImportError;
use crate::sources::item::{Item, Pair, Skip, Source, Visual};
use crate::sources::reading::annotations::Annotations;
use crate::sources::reading::files::{Folder, id_name};
use crate::sources::reading::pairs::Replies;

#[derive(Deserialize)]
struct Entry {
    instruction: String,
    visual_input: String,
    output: serde_json::Value,
}

#[derive(Deserialize)]
struct VideoOnly {
    visual_input: String,
}

/// FunQA.
pub struct FunQa {
    annotations: Annotations,
    videos: Folder,
    /// Entries of every item. One that cannot be parsed is an item of its own.
    items: Vec<Vec<usize>>,
    replies: Option<Replies>,
}

impl FunQa {
    /// Opens the file.
    pub fn open(inputs: &Inputs) -> Result<Self, ImportError> {
        let annotations = Annotations::list_or_lines(inputs.annotations()?)?;
        let mut items: Vec<Vec<usize>> = Vec::new();
        let mut known: HashMap<String, usize> = HashMap::new();
        for index in 0..annotations.len() {
            match annotations.parse::<VideoOnly>(index) {
                Ok(entry) => {
                    let item = *known.entry(entry.visual_input).or_insert_with(|| {
                        items.push(Vec::new());
                        items.len() - 1
                    });
                    items[item].push(index);
                }
                Err(_) => items.push(vec![index]),
            }
        }
        Ok(Self { annotations, videos: Folder::new(inputs.videos()?), items, replies: inputs.replies()? })
    }
}

impl Source for FunQa {
    fn code(&self) -> &'static str {
        "FunQA"
    }

    fn group(&self) -> Group {
        Group::VideoText
    }

    fn len(&self) -> usize {
        self.items.len()
    }

    fn item(&self, index: usize) -> Result<Item, Skip> {
        let mut pairs = Vec::new();
        let mut name = String::new();
        for &entry in &self.items[index] {
            let entry: Entry = self.annotations.parse(entry)?;
            let answer = match entry.output {
                serde_json::Value::String(text) => text,
                other => other.to_string(),
            };
            pairs.push(Pair::new(entry.instruction.trim(), answer.trim()));
            name = entry.visual_input;
        }
        let place = format!("{} ({name})", self.annotations.place(self.items[index][0]));
        if let Some(replies) = &self.replies {
            pairs = replies.of(id_name(&name), &place)?;
        }
        let path = self.videos.video(&name, &place)?;
        let prefix = format!("FunQA_IMG_{}", id_name(&name));
        Ok(Item { name: place, visual: Visual::Video { path, prefix, digits: 4, range: None }, pairs })
    }
}
