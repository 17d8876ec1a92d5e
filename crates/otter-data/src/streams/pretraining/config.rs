//! `[[data.streams]]`: one pre-training stream each.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize};

use crate::config::Group;
use crate::error::{DataError, Result};
use crate::files::json_text::one_or_many;

/// The text around a caption.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CaptionFormat {
    /// `<image>{caption}<|endofchunk|>`
    #[default]
    Plain,
    /// `<image>[INST]please describe this image.[/INST]{caption}<|endofchunk|>`
    Llama2Inst,
}

/// How the images of a document find their sentences.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImageRule {
    /// By `similarity_matrix`: the one-to-one assignment with the largest sum, as OpenFlamingo v2.
    #[default]
    Assignment,
    /// By `matched_text_index` and `matched_sim` of each image, as Otter; several images may share a sentence.
    Matched,
}

/// Image–caption pairs or interleaved documents.
///
/// Captions are WebDataset tars (`jpg`, `jpeg`, `png` or `webp` with `txt` or `json`) or JSON lines (`caption`, and
/// `image_base64` or `image_name`). Documents are JSON lines or tars of `json` files in the form of MMC4 (`text_list`,
/// `image_info`, `similarity_matrix`), or synthetic ones (`is_gpt`, `example`, `image_map`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamConfig {
    /// Name shown in messages.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// [`Group::ImageCaption`] or [`Group::Interleaved`].
    pub group: Group,
    /// Tar shards, JSON lines, folders of them; with patterns such as `{00000..00041}.tar`.
    #[serde(deserialize_with = "paths")]
    pub files: Vec<PathBuf>,
    /// Where images named by `image_name` lie: anything that [`crate::ImageTable`] opens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images: Option<PathBuf>,
    /// Number of samples; 0 and -1 mean all.
    #[serde(default)]
    pub num_samples: i64,
    /// Share of an epoch, in any unit; all sets and streams have one, or none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<f64>,
    /// Longest row in tokens, all marks included; longer ones are cut on the right. Default 32 for captions, 256 for documents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<usize>,
    /// Mirror all images of a sample if a fair coin says so (that also mirrors text in images). Default off.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub mirror: bool,
    /// Captions: the text around them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caption_format: Option<CaptionFormat>,
    /// Documents: see [`ImageRule`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_rule: Option<ImageRule>,
    /// Documents: least similarity of an image and its sentence, on the scale of the files. Default 0.24 for
    /// [`ImageRule::Assignment`], 0.32 for [`ImageRule::Matched`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub similarity_threshold: Option<f64>,
    /// Documents: least number of images left after cutting. Default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_images: Option<usize>,
    /// Documents: further images are left out. Default 6 for [`ImageRule::Assignment`], 5 for [`ImageRule::Matched`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_images: Option<usize>,
    /// Documents: smaller encoded images, mostly icons, are left out. Default 11000 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_image_bytes: Option<usize>,
    /// Documents: probability with which one that shows a single image is passed over. Default 0.5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reject_single_image: Option<f64>,
}

fn paths<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Vec<PathBuf>, D::Error> {
    Ok(one_or_many(deserializer)?.into_iter().map(PathBuf::from).collect())
}

/// What a stream does with a sample, resolved.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Rules {
    Captions(CaptionFormat),
    Documents(DocumentRules),
}

/// How images of a document are chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct DocumentRules {
    pub(crate) image_rule: ImageRule,
    pub(crate) similarity_threshold: f64,
    pub(crate) min_images: usize,
    pub(crate) max_images: usize,
    pub(crate) min_image_bytes: usize,
    pub(crate) reject_single_image: f64,
}

impl StreamConfig {
    /// A stream of these files with all defaults.
    pub fn new(group: Group, files: Vec<PathBuf>) -> Self {
        Self {
            name: String::new(),
            group,
            files,
            images: None,
            num_samples: 0,
            weight: None,
            max_tokens: None,
            mirror: false,
            caption_format: None,
            image_rule: None,
            similarity_threshold: None,
            min_images: None,
            max_images: None,
            min_image_bytes: None,
            reject_single_image: None,
        }
    }

    /// Makes relative paths absolute against a folder.
    pub(crate) fn resolve(&mut self, base_dir: &Path) {
        for path in self.files.iter_mut().chain(&mut self.images) {
            *path = base_dir.join(&*path);
        }
    }

    /// The name, or one made from the first file.
    pub(crate) fn display_name(&self) -> String {
        if !self.name.is_empty() {
            return self.name.clone();
        }
        self.files
            .first()
            .and_then(|path| path.file_stem())
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    }

    /// Longest row in tokens.
    pub(crate) fn token_limit(&self) -> usize {
        self.max_tokens.unwrap_or(if self.group == Group::ImageCaption { 32 } else { 256 })
    }

    /// Checks the values and fills in the defaults of the group.
    pub(crate) fn rules(&self) -> Result<Rules> {
        let name = self.display_name();
        let wrong = |message: String| Err(DataError::Config(format!("stream {name}: {message}")));
        if self.files.is_empty() {
            return wrong("`files` is empty; list tar shards or JSON lines".into());
        }
        if !(2..=1 << 24).contains(&self.token_limit()) {
            return wrong(format!("max_tokens is {}; give at least 2", self.token_limit()));
        }
        match self.group {
            Group::ImageCaption => {
                let of_documents = [
                    ("image_rule", self.image_rule.is_some()),
                    ("similarity_threshold", self.similarity_threshold.is_some()),
                    ("min_images", self.min_images.is_some()),
                    ("max_images", self.max_images.is_some()),
                    ("min_image_bytes", self.min_image_bytes.is_some()),
                    ("reject_single_image", self.reject_single_image.is_some()),
                ];
                match of_documents.iter().find(|(_, given)| *given) {
                    Some((key, _)) => wrong(format!("`{key}` belongs to group INTERLEAVED; remove it")),
                    None => Ok(Rules::Captions(self.caption_format.unwrap_or_default())),
                }
            }
            Group::Interleaved => {
                if self.caption_format.is_some() {
                    return wrong("`caption_format` belongs to group IMAGE_CAPTION; remove it".into());
                }
                let image_rule = self.image_rule.unwrap_or_default();
                let (threshold, images) = match image_rule {
                    ImageRule::Assignment => (0.24, 6),
                    ImageRule::Matched => (0.32, 5),
                };
                let rules = DocumentRules {
                    image_rule,
                    similarity_threshold: self.similarity_threshold.unwrap_or(threshold),
                    min_images: self.min_images.unwrap_or(1).max(1),
                    max_images: self.max_images.unwrap_or(images),
                    min_image_bytes: self.min_image_bytes.unwrap_or(11_000),
                    reject_single_image: self.reject_single_image.unwrap_or(0.5),
                };
                if !(0.0..=1.0).contains(&rules.reject_single_image) {
                    return wrong(format!(
                        "reject_single_image is {}; give a probability from 0 to 1",
                        rules.reject_single_image
                    ));
                }
                if rules.max_images < rules.min_images {
                    return wrong(format!(
                        "max_images is {} and min_images {}; no document has so many",
                        rules.max_images, rules.min_images
                    ));
                }
                Ok(Rules::Documents(rules))
            }
            group => wrong(format!(
                "group {} has instructions and belongs under [[data.sets]]; streams are IMAGE_CAPTION or INTERLEAVED",
                group.name()
            )),
        }
    }
}
