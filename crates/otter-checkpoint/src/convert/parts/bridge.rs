//! The trained part of a Flamingo: resampler, gated cross-attention blocks, tables; and the sizes that their shapes tell.

use crate::convert::parts::language::{Language, WrappedTensor};
use crate::convert::report::Dropped;
use crate::convert::source::{Source, SourceKind, require_unique};
use crate::error::{CheckpointError, Result};
use crate::facts::rename::captures;
use crate::facts::tables::OPEN_FLAMINGO;
use otter_model::config::{CrossAttentionConfig, PerceiverConfig};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Heads of every published resampler and block have this width; a file does not tell it.
const HEAD_WIDTH: usize = 64;

/// Trained tensors under their Otter names.
#[derive(Debug)]
pub(in crate::convert) struct Bridge {
    pub path: PathBuf,
    pub tensors: Vec<WrappedTensor>,
}

impl Bridge {
    /// Translates a source that holds a part of a model.
    ///
    /// # Errors
    /// When a tensor has no place in an Otter, or two would be one.
    pub fn from_source(source: &Source, dropped: &mut Vec<Dropped>) -> Result<Self> {
        dropped.extend(source.dropped.iter().cloned());
        let translate = source.kind == SourceKind::OpenFlamingo;
        let mut tensors = Vec::with_capacity(source.tensors.len());
        for (stored_name, entry) in &source.tensors {
            let name = if translate { OPEN_FLAMINGO.forward(stored_name) } else { Some(stored_name.clone()) };
            let known = |name: &String| {
                ["perceiver.", "lang_encoder.", "vision_encoder."].iter().any(|part| name.starts_with(part))
            };
            let Some(name) = name.filter(known) else {
                let problem = format!("tensor `{}` has no place in an Otter", stored_name.escape_debug());
                return Err(CheckpointError::format(&source.path, problem));
            };
            if name.starts_with("vision_encoder.") && !name.starts_with("vision_encoder.vision_model.") {
                let reason = "open_clip names of the frozen tower, which is taken from --base-vision";
                dropped.push(Dropped::new(&source.path, stored_name, reason));
                continue;
            }
            tensors.push(WrappedTensor { name, stored_name: stored_name.clone(), entry: entry.clone() });
        }
        require_unique(&source.path, tensors.iter().map(|tensor| tensor.name.clone()))?;
        Ok(Self { path: source.path.clone(), tensors })
    }

    /// A tensor by its Otter name.
    pub fn get(&self, name: &str) -> Option<&WrappedTensor> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }

    fn shape(&self, name: &str) -> Option<&[usize]> {
        self.get(name).map(|tensor| tensor.entry.shape.as_slice())
    }

    /// Sizes of the resampler; `None` when there is none.
    ///
    /// # Errors
    /// When its shapes fit no resampler.
    pub fn perceiver(&self) -> Result<Option<PerceiverConfig>> {
        let Some(&[num_latents, width]) = self.shape("perceiver.latents") else { return Ok(None) };
        let depth = self.indices("perceiver.layers.#.*").last().map_or(0, |last| last + 1);
        let (heads, dim_head) = self.heads("perceiver.layers.0.to_q.weight")?;
        let ff_mult = self.multiple("perceiver.layers.0.feed_forward.1.weight", width)?;
        let rows = |name: &str| self.shape(name).and_then(|shape| shape.first().copied());
        Ok(Some(PerceiverConfig {
            depth,
            heads,
            dim_head,
            num_latents,
            ff_mult,
            max_num_frames: rows("perceiver.frame_embs"),
            max_num_media: rows("perceiver.media_time_embs"),
        }))
    }

    /// Sizes and places of the gated blocks of this language model; `None` when there are none.
    ///
    /// # Errors
    /// When the blocks are not before every n-th layer, or their shapes fit no block.
    pub fn cross_attention(&self, language: &Language) -> Result<Option<CrossAttentionConfig>> {
        let layers = language.model.wrapped_layers();
        let found = self.indices(&format!("{layers}.#.gated_cross_attn_layer.*"));
        let Some(&first) = found.first() else { return Ok(None) };
        let every_n_layers = first + 1;
        let expected: BTreeSet<usize> = (first..language.layers).step_by(every_n_layers).collect();
        if found != expected {
            let problem = format!(
                "gated blocks before the layers {found:?}; with {} layers and the first block before layer {first}, they \
                 would be before {expected:?}. Does the file belong to this language model?",
                language.layers
            );
            return Err(CheckpointError::format(&self.path, problem));
        }
        let block = format!("{layers}.{first}.gated_cross_attn_layer");
        let (heads, dim_head) = self.heads(&format!("{block}.attn.to_q.weight"))?;
        let ff_mult = self.multiple(&format!("{block}.feed_forward.1.weight"), language.width)?;
        Ok(Some(CrossAttentionConfig { every_n_layers, heads, dim_head, ff_mult }))
    }

    fn indices(&self, pattern: &str) -> BTreeSet<usize> {
        let index = |t: &WrappedTensor| captures(pattern, &t.name).and_then(|found| found[0].parse().ok());
        self.tensors.iter().filter_map(index).collect()
    }

    fn heads(&self, name: &str) -> Result<(usize, usize)> {
        let inner = self.required(name)?[0];
        if inner == 0 || !inner.is_multiple_of(HEAD_WIDTH) {
            return Err(self.wrong(name, format!("{inner} rows are not heads of {HEAD_WIDTH}")));
        }
        Ok((inner / HEAD_WIDTH, HEAD_WIDTH))
    }

    fn multiple(&self, name: &str, width: usize) -> Result<usize> {
        let shape = self.required(name)?;
        if width == 0 || shape[0] == 0 || !shape[0].is_multiple_of(width) || shape[1] != width {
            return Err(
                self.wrong(name, format!("shape {shape:?}; expected a multiple of {width} by {width}"))
            );
        }
        Ok(shape[0] / width)
    }

    fn required(&self, name: &str) -> Result<[usize; 2]> {
        match self.shape(name) {
            Some(&[rows, columns]) => Ok([rows, columns]),
            Some(other) => Err(self.wrong(name, format!("shape {other:?}; expected a matrix"))),
            None => Err(CheckpointError::NoTensor { path: self.path.clone(), name: name.to_owned() }),
        }
    }

    fn wrong(&self, name: &str, problem: String) -> CheckpointError {
        CheckpointError::tensor(&self.path, name, problem)
    }
}

/// An error that names what a part lacks to make a whole.
pub(in crate::convert) fn incomplete(path: &Path, what: &str) -> CheckpointError {
    CheckpointError::format(
        path,
        format!(
            "there are no {what}; give a file that has them, or --inject a language model to start with fresh ones"
        ),
    )
}
