//! LLaVA's instruction files over COCO (LACONV, LADD, LACR), and those of the same form with several images.
//!
//! `[{"id": "000000033471", "image": "000000033471.jpg", "conversations": [{"from": "human"|"gpt", "value": "…"}]}]`.
//! Every question with the answer after it is a pair. `image` (or `images`) may be a list of files, as in
//! LLaVA-NeXT-Interleave and M4-Instruct: then each has its `<image>` in the questions, in order, and a pair shows the images
//! up to those of its own question. Ids of images are `LA_IMG_` and the 12 digits of COCO's number, whatever the name of the
//! set, because the sets share their images; where several files have one number, their whole path.

use otter_data::{Group, one_or_many};
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::sources::error::ImportError;
use crate::sources::item::{ImageFile, Item, Pair, Reason, Skip, Source, Visual};
use crate::sources::reading::annotations::Annotations;
use crate::sources::reading::files::{Folder, PictureIds, id_name};
use crate::sources::reading::pairs::Name;
use crate::sources::{Inputs, LlavaKind};

/// What stands for an image in a question.
const MARK: &str = "<image>";

#[derive(Deserialize)]
struct Entry {
    #[serde(alias = "sample_id")]
    id: Option<Name>,
    #[serde(default, deserialize_with = "one_or_many")]
    image: Vec<String>,
    #[serde(default, deserialize_with = "one_or_many")]
    images: Vec<String>,
    video: Option<IgnoredAny>,
    conversations: Vec<Turn>,
}

/// The files of an [`Entry`] alone.
#[derive(Deserialize)]
struct Files {
    #[serde(default, deserialize_with = "one_or_many")]
    image: Vec<String>,
    #[serde(default, deserialize_with = "one_or_many")]
    images: Vec<String>,
}

#[derive(Deserialize)]
struct Turn {
    from: String,
    value: String,
}

/// LLaVA's instruction file.
pub struct Llava {
    annotations: Annotations,
    images: Option<Folder>,
    code: String,
    ids: PictureIds,
    text_only: bool,
}

impl Llava {
    /// Opens the file; what kind of instructions it holds is told by its name unless said.
    pub fn open(inputs: &Inputs, kind: Option<LlavaKind>) -> Result<Self, ImportError> {
        let file = inputs.annotations()?;
        let name = file.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        let guessed = [
            ("conversation", LlavaKind::Conversation),
            ("detail", LlavaKind::Detail),
            ("complex", LlavaKind::Complex),
        ];
        let kind =
            kind.or_else(|| guessed.iter().find(|(part, _)| name.contains(part)).map(|(_, kind)| *kind));
        let code = inputs.name.as_deref().or(kind.map(LlavaKind::code)).ok_or_else(|| {
            ImportError::Option(format!(
                "{name}: its name says neither conversation, detail nor complex; say what it holds with --kind, or give \
                 the prefix of ids with --name"
            ))
        })?;
        let annotations = Annotations::json_list(file)?;
        // An entry that cannot be parsed is left out when it is asked for.
        let files = (0..annotations.len()).filter_map(|index| annotations.parse::<Files>(index).ok());
        let ids =
            PictureIds::new(files.flat_map(|entry| entry.image.into_iter().chain(entry.images)), coco_id);
        let images = if inputs.text_only { None } else { Some(Folder::new(inputs.images()?)) };
        Ok(Self { annotations, images, code: code.to_owned(), ids, text_only: inputs.text_only })
    }

    fn files(&self, folder: &Folder, names: &[String], place: &str) -> Result<Visual, Skip> {
        let mut files = Vec::with_capacity(names.len());
        for image in names {
            let id = self.ids.id(image);
            let file = image.rsplit('/').next().unwrap_or(image).to_owned();
            let names = [image.clone(), file, format!("{id}.jpg"), format!("COCO_train2014_{id}.jpg")];
            let path = folder.first_file(&names, place)?;
            files.push(ImageFile { id: format!("LA_IMG_{id}"), path });
        }
        Ok(Visual::Images(files))
    }
}

/// COCO's number with 12 digits; other names stay.
fn coco_id(image: &str) -> String {
    let name = id_name(image);
    let number = name.rsplit('_').next().unwrap_or(name);
    if !number.is_empty() && number.len() <= 12 && number.bytes().all(|byte| byte.is_ascii_digit()) {
        format!("{number:0>12}")
    } else {
        name.to_owned()
    }
}

/// A question without the marks of its images: the placeholder is the template's business, not the data's. Marks at the
/// start and end of a line go; in a line with a mark between words they become the names of the images, so that the sentence
/// stays one. `seen` images came before.
fn without_marks(question: &str, mut seen: usize) -> String {
    let mut lines = Vec::new();
    for line in question.split('\n') {
        let mut rest = line;
        while let Some(after) = rest.trim_start().strip_prefix(MARK) {
            (rest, seen) = (after, seen + 1);
        }
        let mut core = rest;
        while let Some(before) = core.trim_end().strip_suffix(MARK) {
            core = before;
        }
        let marks = rest.matches(MARK).count();
        let text = if core.contains(MARK) {
            let mut parts = rest.split(MARK);
            let first = parts.next().unwrap_or_default().to_owned();
            parts.zip(seen + 1..).fold(first, |text, (part, number)| format!("{text}image {number}{part}"))
        } else {
            core.to_owned()
        };
        seen += marks;
        // What held only marks leaves no empty line.
        if line.is_empty() || !text.trim().is_empty() {
            lines.push(text);
        }
    }
    lines.join("\n").trim().to_owned()
}

/// The pairs of a conversation about so many images, and the number of marks in its questions.
fn pairs(conversation: Vec<Turn>, images: usize, place: &str) -> Result<(Vec<Pair>, usize), Skip> {
    let mut pairs = Vec::new();
    let mut seen = 0;
    let mut turns = conversation.into_iter();
    while let Some(question) = turns.next() {
        match turns.next() {
            Some(answer) if question.from == "human" && answer.from == "gpt" => {
                let text = without_marks(&question.value, seen);
                seen += question.value.matches(MARK).count();
                // A question before the first mark shows the first image, as LLaVA itself puts it in front.
                let shown = (images > 1).then(|| seen.max(1));
                pairs.push(Pair { images: shown, ..Pair::new(text, answer.value.trim()) });
            }
            answer => {
                return Err(Skip::new(
                    Reason::BadAnnotation,
                    format!(
                        "{place}: a turn of `{}` is followed by {}; expected `human`, then `gpt`",
                        question.from,
                        answer.map_or("nothing".to_owned(), |turn| format!("one of `{}`", turn.from))
                    ),
                ));
            }
        }
    }
    Ok((pairs, seen))
}

impl Source for Llava {
    fn code(&self) -> &str {
        &self.code
    }

    fn group(&self) -> Group {
        if self.text_only { Group::TextOnly } else { Group::ImageText }
    }

    fn len(&self) -> usize {
        self.annotations.len()
    }

    fn item(&self, index: usize) -> Result<Item, Skip> {
        let entry: Entry = self.annotations.parse(index)?;
        let id = entry.id.map(|id| format!(" (id {})", id.into_text())).unwrap_or_default();
        let place = format!("{}{id}", self.annotations.place(index));
        if entry.video.is_some() {
            let message =
                format!("{place}: the key `video`; this source reads images only, import videos with `own`");
            return Err(Skip::new(Reason::BadAnnotation, message));
        }
        let images: Vec<String> = entry.image.into_iter().chain(entry.images).collect();
        let (pairs, marks) = pairs(entry.conversations, images.len(), &place)?;
        let visual = match &self.images {
            None if images.is_empty() => Visual::Nothing,
            None => {
                let message = format!("{place}: it has images, and --text-only asks for entries without");
                return Err(Skip::new(Reason::OtherKind, message));
            }
            Some(_) if images.is_empty() => {
                let message = format!(
                    "{place}: no `image`; it is a text-only entry: import those as a set of their own with --text-only"
                );
                return Err(Skip::new(Reason::NoImage, message));
            }
            Some(folder) => self.files(folder, &images, &place)?,
        };
        // A single image needs no mark.
        let expected = if images.len() == 1 && marks == 0 { 0 } else { images.len() };
        if marks != expected {
            return Err(Skip::new(
                Reason::BadAnnotation,
                format!(
                    "{place}: {marks} {MARK} in the questions, but `image` lists {} files; each file needs its {MARK}",
                    images.len()
                ),
            ));
        }
        Ok(Item { name: place, visual, pairs })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_coco_numbers() {
        assert_eq!(coco_id("000000033471.jpg"), "000000033471");
        assert_eq!(coco_id("coco/COCO_train2014_000000033471.jpg"), "000000033471");
        assert_eq!(coco_id("9.png"), "000000000009");
        assert_eq!(coco_id("gqa/n161313.jpg"), "n161313");
    }

    #[test]
    fn marks_leave_sentences_whole() {
        assert_eq!(without_marks("<image>\n<image>\nWhat differs?", 0), "What differs?");
        assert_eq!(without_marks("<image> <image> What?", 0), "What?");
        assert_eq!(without_marks("Left: <image>\nRight: <image>\n\nWhat?", 0), "Left: \nRight: \n\nWhat?");
        assert_eq!(without_marks("<image>\nIs <image> like <image>", 2), "Is image 4 like image 5");
        assert_eq!(without_marks("What?\n<image>", 0), "What?");
    }
}
