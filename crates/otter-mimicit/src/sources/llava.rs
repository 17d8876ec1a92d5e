//! LLaVA's instruction files over COCO images: LACONV, LADD, LACR.
//!
//! `[{"id": "000000033471", "image": "000000033471.jpg", "conversations": [{"from": "human"|"gpt", "value": "…"}]}]`.
//! Every question with the answer after it is a pair. Ids of images are `LA_IMG_` and the 12 digits of COCO's number,
//! whatever the name of the set, because the sets share their images.

use std::path::PathBuf;

use serde::Deserialize;

use super::annotations::Annotations;
use super::error::ImportError;
use super::files::{first_file, id_name};
use super::item::{ImageFile, Item, Pair, Reason, Skip, Source, Visual};
use super::pairs::Name;
use super::{Inputs, LlavaKind};

#[derive(Deserialize)]
struct Entry {
    id: Name,
    image: Option<String>,
    conversations: Vec<Turn>,
}

#[derive(Deserialize)]
struct Turn {
    from: String,
    value: String,
}

/// LLaVA's instruction file.
pub struct Llava {
    annotations: Annotations,
    images: PathBuf,
    code: String,
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
        Ok(Self {
            annotations: Annotations::json_list(file)?,
            images: inputs.images()?.to_owned(),
            code: code.to_owned(),
        })
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

impl Source for Llava {
    fn code(&self) -> &str {
        &self.code
    }

    fn len(&self) -> usize {
        self.annotations.len()
    }

    fn item(&self, index: usize) -> Result<Item, Skip> {
        let entry: Entry = self.annotations.parse(index)?;
        let place = format!("{} (id {})", self.annotations.place(index), entry.id.into_text());
        let image = entry.image.ok_or_else(|| {
            Skip::new(Reason::NoImage, format!("{place}: no `image`; it is a text-only entry"))
        })?;
        let mut pairs = Vec::new();
        let mut turns = entry.conversations.into_iter();
        while let Some(question) = turns.next() {
            let answer = turns.next();
            match answer {
                Some(answer) if question.from == "human" && answer.from == "gpt" => {
                    // The placeholder is the template's business, not the data's.
                    pairs.push(Pair::new(question.value.replace("<image>", "").trim(), answer.value.trim()));
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
        let id = coco_id(&image);
        let file = image.rsplit('/').next().unwrap_or(&image).to_owned();
        let names = [image.clone(), file, format!("{id}.jpg"), format!("COCO_train2014_{id}.jpg")];
        let path = first_file(&self.images, &names, &place)?;
        Ok(Item {
            name: place,
            visual: Visual::Images(vec![ImageFile { id: format!("LA_IMG_{id}"), path }]),
            pairs,
        })
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
}
