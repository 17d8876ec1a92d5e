//! An opened stream and how its samples are built.

use otter_media::{ImageNotes, ImageTransform, open_image, preprocess};
use std::path::Path;
use std::sync::Arc;

use super::captions::{CaptionJson, caption_pieces};
use super::config::{CaptionFormat, DocumentRules, Rules, StreamConfig};
use super::document::{Document, SyntheticDocument, WebDocument};
use super::embedded_image::{image_bytes, mirror};
use super::interleaved::{document_pieces, order_by_sentence, place_images, synthetic_pieces};
use super::labels::{caption_label_mask, interleaved_label_mask};
use crate::config::{DataConfig, Group, Preset, SpecialTokensInText, Switches};
use crate::error::{DataError, Result, SkipReason};
use crate::files::json_text::parse_object;
use crate::sample::builder::{BuildError, encode_pieces};
use crate::sample::python_random::PythonRandom;
use crate::sample::{Frame, MediaItem, Sample};
use crate::streams::webdataset::{Item, Shards, expand_paths};
use crate::tables::base64_image::decode_base64_image;
use crate::tables::image_table::ImageTable;
use crate::text::prompt::{Piece, pieces_text};
use crate::text::tokenizer::TextTokenizer;
use otter_input::IGNORE_INDEX;

const IMAGE_EXTENSIONS: [&str; 5] = ["jpg", "jpeg", "png", "webp", "gif"];
const CAPTION_EXTENSIONS: [&str; 7] = ["jpg", "jpeg", "png", "webp", "gif", "txt", "json"];

/// One opened stream.
pub(crate) struct Stream {
    pub(crate) name: String,
    pub(crate) group: Group,
    rules: Rules,
    max_tokens: usize,
    mirror: bool,
    shards: Shards,
    images: Option<ImageTable>,
    /// Number of `images` among the tables of the dataset; each sample's own images count as a table behind it.
    first_table: usize,
}

/// What a sample depends on besides its stream.
pub(crate) struct StreamContext<'a> {
    pub(crate) config: &'a DataConfig,
    pub(crate) switches: &'a Switches,
    pub(crate) tokenizer: &'a TextTokenizer,
    /// Position in the dataset, and epoch: they decide the coins.
    pub(crate) index: u64,
    pub(crate) epoch: u64,
    pub(crate) with_pixels: bool,
}

/// An encoded image and its identity.
struct EncodedImage {
    id: String,
    table: usize,
    bytes: Vec<u8>,
}

/// Text and images of a sample before tokens and pixels.
struct Parts {
    pieces: Vec<Piece>,
    images: Vec<EncodedImage>,
    /// Probability with which the sample is passed over if it shows a single image.
    reject_single_image: f64,
}

impl Stream {
    /// Opens a stream. `first_table` is a number that no image table of the dataset has.
    pub(crate) fn open(
        config: &StreamConfig,
        first_table: usize,
        parquet_cache_bytes: usize,
    ) -> Result<Self> {
        let rules = config.rules()?;
        let images = config.images.as_deref();
        Ok(Self {
            name: config.display_name(),
            group: config.group,
            rules,
            max_tokens: config.token_limit(),
            mirror: config.mirror,
            images: images.map(|path| ImageTable::open(path, parquet_cache_bytes)).transpose()?,
            shards: Shards::open(expand_paths(&config.files)?)?,
            first_table,
        })
    }

    /// Number of samples.
    pub(crate) fn len(&self) -> usize {
        self.shards.len()
    }

    /// The first number behind those of its tables.
    pub(crate) fn end_table(&self) -> usize {
        self.first_table + 1 + self.len()
    }

    /// Id of a sample.
    pub(crate) fn id(&self, entry: usize) -> Result<String> {
        self.shards.id(entry)
    }

    /// The file that holds a sample.
    pub(crate) fn path(&self, entry: usize) -> &Path {
        self.shards.path(entry)
    }

    /// Builds a sample. Without pixels, images are read where their size decides about the text, but not decoded.
    pub(crate) fn sample(&self, entry: usize, context: &StreamContext<'_>) -> Result<Sample, BuildError> {
        let id = self.id(entry)?;
        let Parts { pieces, mut images, reject_single_image } = match &self.rules {
            Rules::Captions(format) => self.caption(entry, &id, *format)?,
            Rules::Documents(rules) => self.document(entry, &id, rules, context)?,
        };
        let mut coins = coins(context);
        let mirrored = self.mirror && coins.random() < 0.5;

        let text = pieces_text(&pieces);
        let tokenizer = context.tokenizer;
        let special = tokenizer.special();
        // As the original: what the tokenizer itself puts in front, the text, end of text; then the cut.
        let mut input_ids = tokenizer.prompt_prefix().to_vec();
        input_ids.extend(match context.switches.special_tokens_in_text {
            SpecialTokensInText::Special => tokenizer.encode(&text)?,
            SpecialTokensInText::Plain => encode_pieces(tokenizer, &pieces, &text)?,
        });
        input_ids.extend(special.eos);
        input_ids.truncate(self.max_tokens);

        let shown = input_ids.iter().filter(|&&id| id == special.image).count();
        images.truncate(shown);
        let labels = match &self.rules {
            Rules::Captions(_) => caption_label_mask(&input_ids, special),
            Rules::Documents(rules) => {
                if shown < rules.min_images {
                    return skip(
                        SkipReason::TooFewImages,
                        format!(
                            "its first {} tokens show {shown} images, fewer than min_images = {}",
                            self.max_tokens, rules.min_images
                        ),
                    );
                }
                interleaved_label_mask(&input_ids, special)
            }
        };
        if labels.iter().all(|&label| label == IGNORE_INDEX) {
            let message = format!("no position among its first {} tokens would be trained", self.max_tokens);
            return skip(SkipReason::NoLabelTokens, message);
        }
        if shown == 1 && coins.random() < reject_single_image {
            let message = format!(
                "it shows a single image; such are passed over with probability {reject_single_image}"
            );
            return skip(SkipReason::SingleImage, message);
        }
        let media = images.into_iter().map(|image| self.media_item(image, mirrored, context));
        Ok(Sample {
            id,
            set: self.name.clone(),
            group: self.group,
            text,
            media: media.collect::<Result<_, BuildError>>()?,
            input_ids,
            labels,
            context_ids: Vec::new(),
            dropped_turns: 0,
        })
    }

    fn item(&self, entry: usize, extensions: &[&str]) -> Result<Item, BuildError> {
        self.shards
            .item(entry, extensions)?
            .map_err(|message| BuildError::Skip(SkipReason::BadRecord, message))
    }

    fn caption(&self, entry: usize, id: &str, format: CaptionFormat) -> Result<Parts, BuildError> {
        let bad_record = |message: String| BuildError::Skip(SkipReason::BadRecord, message);
        let item = self.item(entry, &CAPTION_EXTENSIONS)?;
        let json = match item.part(&["json"]) {
            None => CaptionJson::default(),
            Some((_, bytes)) => parse_object(bytes)
                .map_err(|error| bad_record(format!("its .json does not hold a caption: {error}")))?,
        };
        let caption = match item.part(&["txt"]) {
            Some((_, bytes)) => std::str::from_utf8(bytes)
                .map_err(|error| bad_record(format!("its caption is not UTF-8 ({error})")))?
                .to_owned(),
            None => json.caption.ok_or_else(|| {
                let files = item.listing();
                bad_record(format!("it has no caption: neither a .txt nor a .json with `caption`{files}"))
            })?,
        };
        let pieces = caption_pieces(&caption, format)
            .ok_or_else(|| BuildError::Skip(SkipReason::EmptyCaption, "its caption is empty".into()))?;
        let image = match item.part(&IMAGE_EXTENSIONS) {
            Some((extension, bytes)) => EncodedImage {
                id: format!("{id}.{extension}"),
                table: self.own_table(entry),
                bytes: image_bytes(bytes).map_err(|message| bad_image(format!("its .{extension} is {message}")))?,
            },
            None => self
                .image_of_json(entry, id, 0, json.image_base64.as_deref(), json.image_name.as_deref())?
                .ok_or_else(|| {
                    let message = format!(
                        "it has no image: neither a file such as .jpg, nor `image_base64`, nor an `image_name` that `images` has{}",
                        item.listing()
                    );
                    BuildError::Skip(SkipReason::NoImages, message)
                })?,
        };
        Ok(Parts { pieces, images: vec![image], reject_single_image: 0.0 })
    }

    fn document(
        &self,
        entry: usize,
        id: &str,
        rules: &DocumentRules,
        context: &StreamContext<'_>,
    ) -> Result<Parts, BuildError> {
        let item = self.item(entry, &["json"])?;
        let Some((_, json)) = item.part(&["json"]) else {
            let message = format!("it has no .json file with a document{}", item.listing());
            return skip(SkipReason::BadRecord, message);
        };
        match Document::parse(json).map_err(|message| BuildError::Skip(SkipReason::BadRecord, message))? {
            Document::Web(document) => self.web_document(entry, id, document, rules, context),
            Document::Synthetic(document) => self.synthetic_document(entry, id, &document, rules),
        }
    }

    fn web_document(
        &self,
        entry: usize,
        id: &str,
        document: WebDocument,
        rules: &DocumentRules,
        context: &StreamContext<'_>,
    ) -> Result<Parts, BuildError> {
        let mut found: Vec<(usize, EncodedImage)> = Vec::new();
        let mut too_small = 0;
        for (number, info) in document.image_info.iter().enumerate() {
            let (base64, name) = (info.image_base64.as_deref(), info.image_name.as_deref());
            match self.image_of_json(entry, id, number, base64, name)? {
                Some(image) if image.bytes.len() >= rules.min_image_bytes => found.push((number, image)),
                Some(_) => too_small += 1,
                None => {}
            }
        }
        if found.is_empty() && too_small > 0 {
            return skip(
                SkipReason::ImagesTooSmall,
                format!(
                    "all {too_small} images have fewer than min_image_bytes = {} bytes",
                    rules.min_image_bytes
                ),
            );
        }
        if found.is_empty() {
            let message = format!(
                "none of the {} images it lists is there: no `image_base64`, and no `image_name` that `images` has",
                document.image_info.len()
            );
            return skip(SkipReason::NoImages, message);
        }
        let usable: Vec<usize> = found.iter().map(|(number, _)| *number).collect();
        let mut placements = place_images(&document, &usable, rules)
            .map_err(|(reason, message)| BuildError::Skip(reason, message))?;
        // The original keeps the order of `image_info`, so that a placeholder may get another sentence's image.
        if context.config.preset == Preset::Repaired {
            order_by_sentence(&mut placements);
        }
        let images = placements.iter().filter_map(|placement| {
            let at = found.iter().position(|(number, _)| *number == placement.image)?;
            Some(found.swap_remove(at).1)
        });
        let images = images.collect();
        let pieces = document_pieces(document.text_list, &placements);
        Ok(Parts { pieces, images, reject_single_image: rules.reject_single_image })
    }

    fn synthetic_document(
        &self,
        entry: usize,
        id: &str,
        document: &SyntheticDocument,
        rules: &DocumentRules,
    ) -> Result<Parts, BuildError> {
        let (pieces, markers) = synthetic_pieces(&document.example, rules.max_images);
        let mut images = Vec::with_capacity(markers.len());
        for marker in markers {
            let Some(image) = document.image_map.get(marker) else {
                return skip(
                    SkipReason::MissingImage,
                    format!("its text has {marker}, but image_map has no such image"),
                );
            };
            let bytes = decode_base64_image(image.base64_image.as_bytes())
                .map_err(|message| bad_image(format!("{marker}: {message}")))?;
            images.push(EncodedImage { id: format!("{id}#{marker}"), table: self.own_table(entry), bytes });
        }
        Ok(Parts { pieces, images, reject_single_image: 0.0 })
    }

    /// An image that a JSON holds or names; `None` if it does neither, or names one that is not there.
    fn image_of_json(
        &self,
        entry: usize,
        id: &str,
        number: usize,
        base64: Option<&str>,
        name: Option<&str>,
    ) -> Result<Option<EncodedImage>, BuildError> {
        if let Some(text) = base64 {
            let bytes = decode_base64_image(text.as_bytes())
                .map_err(|message| bad_image(format!("image {number}: {message}")))?;
            let id = format!("{id}#{number}");
            return Ok(Some(EncodedImage { id, table: self.own_table(entry), bytes }));
        }
        let (Some(name), Some(images)) = (name, &self.images) else { return Ok(None) };
        match images.encoded(name) {
            Ok(None) => Ok(None),
            Ok(Some(bytes)) => Ok(Some(EncodedImage { id: name.to_owned(), table: self.first_table, bytes })),
            Err(error) => Err(sample_error(error)),
        }
    }

    /// The number that stands for the images inside one sample.
    fn own_table(&self, entry: usize) -> usize {
        self.first_table + 1 + entry
    }

    fn media_item(
        &self,
        image: EncodedImage,
        mirrored: bool,
        context: &StreamContext<'_>,
    ) -> Result<MediaItem, BuildError> {
        let EncodedImage { mut id, table, bytes } = image;
        let (pixels, original_size, notes) = if context.with_pixels {
            let opened = open_image(&bytes, context.switches.image_rules, &id).map_err(sample_error)?;
            // Pre-training uses the transform of inference unless another one is asked for.
            let transform = context.config.image_transform.unwrap_or(ImageTransform::Clip);
            let size = context.config.image_size;
            let mut pixels = preprocess(&opened, size, transform);
            if mirrored {
                mirror(&mut pixels, size);
            }
            (Arc::from(pixels), (opened.width(), opened.height()), opened.notes())
        } else {
            (Arc::from([]), (0, 0), ImageNotes::default())
        };
        if mirrored {
            // Not the same picture: a batch stores each picture once.
            id.push_str(" (mirrored)");
        }
        Ok(MediaItem { frames: vec![Frame { image_id: id, table, pixels, original_size, notes }] })
    }
}

fn coins(context: &StreamContext<'_>) -> PythonRandom {
    let words =
        [context.config.seed, context.epoch, context.index].map(|word| [word as u32, (word >> 32) as u32]);
    PythonRandom::from_key(words.as_flattened())
}

fn skip<T>(reason: SkipReason, message: String) -> Result<T, BuildError> {
    Err(BuildError::Skip(reason, message))
}

fn bad_image(message: String) -> BuildError {
    BuildError::Skip(SkipReason::BadImage, message)
}

fn sample_error(error: impl Into<DataError>) -> BuildError {
    let error = error.into();
    match error {
        DataError::Image { .. } | DataError::Format { .. } => bad_image(error.to_string()),
        other => BuildError::Data(other),
    }
}
