//! Writing a whole Otter as one GGUF file, while the elements stream past.

use super::blocks::BlockFormat;
use super::parse::{DEFAULT_ALIGNMENT, MAGIC, MOST_AXES, kind, size, type_number};
use super::quantize::{GgufQuantization, narrow};
use super::{FORMAT_VERSION, LARGEST_BLOCK, OTTER, key};
use crate::atomic;
use crate::config::checkpoint_config::CheckpointConfig;
use crate::directory::account::reason_to_ignore;
use crate::directory::open::Checkpoint;
use crate::error::{CheckpointError, Result};
use crate::narrow::NarrowError;
use crate::tensor::Dtype;
use crate::tokenizer::load::load_tokenizer;
use otter_data::SpecialTokens;
use otter_io::AtomicFile;
use std::collections::HashSet;
use std::io::Write;
use std::path::Path;

/// Tensors with fewer elements stay 32-bit.
const SMALL: usize = 1024;
/// Elements converted at a time: whole blocks of every kind.
const PIECE: usize = 256 * LARGEST_BLOCK;
/// Parts of names of matrices that are not factors of a product: tables of positions, latents, frame embeddings.
const KEPT: [&str; 5] = ["position", "latents", "frame_embs", "media_time_embs", ".wpe."];

/// Parts of names of matrices that get at least eight bits.
const SENSITIVE: [&str; 5] = ["embed", "wte", "lm_head", "vision_encoder.", "perceiver."];

/// How to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GgufOptions<'a> {
    /// Type of the large matrices.
    pub quantization: GgufQuantization,
    /// Ids of the special tokens, where a tokenizer is written.
    pub special: Option<SpecialTokens>,
    /// A name for people.
    pub name: Option<&'a str>,
}

/// One tensor to write.
#[derive(Debug, Clone, Copy)]
pub struct GgufTensor<'a> {
    /// Name in the state dict.
    pub name: &'a str,
    /// Length of each axis, rows last.
    pub shape: &'a [usize],
    /// The format that its elements have already: their blocks are copied bit by bit. `None`: floats are given.
    pub blocks: Option<BlockFormat>,
}

/// Some of a tensor's elements.
#[derive(Debug, Clone, Copy)]
pub enum GgufElements<'e> {
    /// Floats, in any number.
    Floats(&'e [f32]),
    /// Bytes of blocks of the format that [`GgufTensor::blocks`] names.
    Blocks(&'e [u8]),
}

/// What became of a tensor.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct StoredTensor {
    /// Name in the state dict.
    pub name: String,
    /// Type of the elements in the file.
    pub dtype: String,
    /// Bytes of the elements in the file.
    pub bytes: u64,
    /// Root mean square of what quantising changed over that of the elements; of tensors whose blocks were made here.
    pub relative_error: Option<f64>,
}

/// Receives some of a tensor's elements.
pub type PutElements<'p> = dyn FnMut(GgufElements<'_>) -> Result<()> + 'p;

/// Writes a whole Otter to `path`, replacing what stands there only when it is complete. Memory does not grow with the
/// model.
///
/// `elements(i, put)` passes the elements of tensor `i` in row-major order to `put`, in pieces of any length.
/// `tokenizer` is the text of a `tokenizer.json` with all added tokens; it needs `options.special`. Returns the tensors as
/// they were stored.
///
/// # Errors
/// When a tensor does not have the elements its shape says, a value does not fit the type, a name occurs twice, or the
/// disk refuses.
pub fn write_gguf(
    path: &Path,
    config: &CheckpointConfig,
    tokenizer: Option<&str>,
    tensors: &[GgufTensor<'_>],
    options: &GgufOptions<'_>,
    elements: &mut dyn FnMut(usize, &mut PutElements<'_>) -> Result<()>,
) -> Result<Vec<StoredTensor>> {
    let plan = plan(path, tensors, options.quantization)?;
    let metadata = metadata(path, config, tokenizer, options, file_type(&plan))?;
    let header = header(&metadata, &plan);
    let mut stored = Vec::with_capacity(plan.len());
    atomic::write_file_with(path, |file: &mut AtomicFile| {
        let mut out = Output { file, path };
        out.put(&header)?;
        for (index, planned) in plan.iter().enumerate() {
            let mut body = Body {
                planned,
                out: &mut out,
                waiting: Vec::new(),
                bytes: Vec::new(),
                written: 0,
                error: Error::default(),
            };
            elements(index, &mut |elements| body.take(elements))?;
            stored.push(body.finish()?);
        }
        out.file.flush().map_err(CheckpointError::io(path, "write"))
    })?;
    Ok(stored)
}

/// Writes an opened checkpoint directory (or GGUF file) as a GGUF file.
///
/// # Errors
/// As [`write_gguf`]; when the checkpoint's tokenizer is missing or damaged.
pub fn save_gguf(
    path: &Path,
    checkpoint: &Checkpoint,
    options: &GgufOptions<'_>,
) -> Result<Vec<StoredTensor>> {
    let tokenizer = load_tokenizer(&checkpoint.path)?;
    let json = tokenizer
        .to_json()
        .map_err(|error| CheckpointError::tokenizer(&checkpoint.path, error.to_string()))?;
    let model = &checkpoint.config.model;
    let tied = model.tie_word_embeddings.then(|| model.output_table());
    let names: Vec<&str> = checkpoint
        .weights
        .names()
        .filter(|name| reason_to_ignore(name).is_none() && tied.as_deref() != Some(*name))
        .collect();
    let entries: Vec<_> = names.iter().filter_map(|name| checkpoint.weights.get(name)).collect();
    let tensors: Vec<GgufTensor<'_>> = names
        .iter()
        .zip(&entries)
        .map(|(&name, entry)| {
            let blocks = kept_blocks(name, &entry.shape, entry.dtype, Some(options.quantization));
            GgufTensor { name, shape: &entry.shape, blocks }
        })
        .collect();
    let options = GgufOptions { special: Some(*tokenizer.special()), ..*options };
    // The class of a tokenizer, which may add a token, is not in the file.
    let mut config = checkpoint.config.clone();
    config.input.begin_token = tokenizer.begins();
    write_gguf(
        path,
        &config,
        Some(&json),
        &tensors,
        &options,
        &mut |index, put| match tensors[index].blocks {
            Some(_) => {
                entries[index].for_each_blocks(names[index], &mut |bytes| put(GgufElements::Blocks(bytes)))
            }
            None => {
                entries[index].for_each_f32(names[index], &mut |values| put(GgufElements::Floats(values)))
            }
        },
    )
}

struct Planned<'a> {
    name: &'a str,
    shape: &'a [usize],
    dtype: Dtype,
    size: usize,
    /// Whether its blocks are copied.
    blocks: bool,
}

fn refusal(path: &Path, name: &str, problem: String) -> CheckpointError {
    CheckpointError::Tensor { path: path.to_path_buf(), name: name.to_owned(), problem }
}

fn plan<'a>(
    path: &Path,
    tensors: &[GgufTensor<'a>],
    quantization: GgufQuantization,
) -> Result<Vec<Planned<'a>>> {
    let mut seen = HashSet::new();
    tensors
        .iter()
        .map(|&GgufTensor { name, shape, blocks }| {
            let bad = |problem: String| refusal(path, name, problem);
            if !seen.insert(name) {
                return Err(bad("this name was already used; each tensor needs its own".to_owned()));
            }
            if shape.len() > MOST_AXES {
                return Err(bad(format!("{} axes; GGUF has at most {MOST_AXES}", shape.len())));
            }
            let dtype = blocks.map_or_else(|| stored_type(name, shape, quantization), Dtype::Block);
            let size = size(dtype, shape).map_err(bad)?;
            Ok(Planned { name, shape, dtype, size, blocks: blocks.is_some() })
        })
        .collect()
}

/// The format whose blocks are kept as they are. Making fewer bits of them loses what was asked for, making more or as many
/// loses for nothing; floats are what somebody asks for who wants no blocks. `None` asks for nothing.
pub(crate) fn kept_blocks(
    name: &str,
    shape: &[usize],
    stored: Dtype,
    wanted: Option<GgufQuantization>,
) -> Option<BlockFormat> {
    let Dtype::Block(format) = stored else { return None };
    let bits = |format: BlockFormat| {
        let (elements, bytes) = format.shape();
        8.0 * bytes as f64 / elements as f64
    };
    let keeps = match wanted.map(|wanted| stored_type(name, shape, wanted)) {
        None => true,
        Some(Dtype::Block(wanted)) => bits(format) <= bits(wanted),
        Some(_) => false,
    };
    (keeps && shape.len() == 2).then_some(format)
}

/// How a tensor is stored when large matrices are to be of a type. Tables of tokens, the vision tower and the resampler
/// lose most by few bits and are small beside the rest, so that they get at least eight.
pub(crate) fn stored_type(name: &str, shape: &[usize], quantization: GgufQuantization) -> Dtype {
    let &[rows, length] = shape else { return Dtype::F32 };
    if rows.saturating_mul(length) < SMALL || KEPT.iter().any(|part| name.contains(part)) {
        return Dtype::F32;
    }
    let sensitive = SENSITIVE.iter().any(|part| name.contains(part));
    match quantization {
        GgufQuantization::Q4_0 | GgufQuantization::Q4K if sensitive => {
            GgufQuantization::Q8_0.for_rows(length)
        }
        other => other.for_rows(length),
    }
}

fn metadata(
    path: &Path,
    config: &CheckpointConfig,
    tokenizer: Option<&str>,
    options: &GgufOptions<'_>,
    file_type: u32,
) -> Result<Metadata> {
    let mut metadata = Metadata::default();
    metadata.text(key::ARCHITECTURE, OTTER);
    if let Some(name) = options.name {
        metadata.text("general.name", name);
    }
    metadata.number("general.alignment", DEFAULT_ALIGNMENT as u32);
    metadata.number("general.file_type", file_type);
    metadata.number("general.quantization_version", 2);
    metadata.number(key::VERSION, FORMAT_VERSION as u32);
    metadata.text(key::CONFIG, &config.to_json().to_string());
    let Some(tokenizer) = tokenizer else { return Ok(metadata) };
    let Some(special) = options.special else {
        return Err(CheckpointError::tokenizer(
            path,
            "a tokenizer was given without the ids of its special tokens (`GgufOptions::special`)",
        ));
    };
    metadata.text(key::TOKENIZER, tokenizer);
    for (key, id) in [
        (key::IMAGE, Some(special.image)),
        (key::END_OF_CHUNK, Some(special.endofchunk)),
        (key::ANSWER, Some(special.answer)),
        (key::PAD, Some(special.pad)),
        (key::BEGIN, special.bos),
        (key::END, special.eos),
    ] {
        if let Some(id) = id {
            metadata.number(key, id);
        }
    }
    Ok(metadata)
}

/// `general.file_type` as llama.cpp counts: the type of most elements of matrices.
fn file_type(plan: &[Planned<'_>]) -> u32 {
    const NUMBERS: [(Dtype, u32); 13] = [
        (Dtype::F32, 0),
        (Dtype::F16, 1),
        (Dtype::Block(BlockFormat::Q4_0), 2),
        (Dtype::Block(BlockFormat::Q4_1), 3),
        (Dtype::Block(BlockFormat::Q8_0), 7),
        (Dtype::Block(BlockFormat::Q5_0), 8),
        (Dtype::Block(BlockFormat::Q5_1), 9),
        (Dtype::Block(BlockFormat::Q2K), 10),
        (Dtype::Block(BlockFormat::Q3K), 12),
        (Dtype::Block(BlockFormat::Q4K), 14),
        (Dtype::Block(BlockFormat::Q5K), 16),
        (Dtype::Block(BlockFormat::Q6K), 18),
        (Dtype::Bf16, 32),
    ];
    let elements = |dtype: Dtype| -> usize {
        let own = plan.iter().filter(|planned| planned.dtype == dtype && planned.shape.len() == 2);
        own.map(|planned| planned.shape.iter().product::<usize>()).sum()
    };
    let most = NUMBERS.iter().rev().max_by_key(|(dtype, _)| elements(*dtype));
    most.map_or(0, |(_, number)| *number)
}

#[derive(Default)]
struct Metadata {
    bytes: Vec<u8>,
    count: u64,
}

impl Metadata {
    fn text(&mut self, key: &str, value: &str) {
        self.entry(key, kind::TEXT);
        put_text(&mut self.bytes, value);
    }

    fn number(&mut self, key: &str, value: u32) {
        self.entry(key, kind::U32);
        self.bytes.extend(value.to_le_bytes());
    }

    fn entry(&mut self, key: &str, kind: u32) {
        put_text(&mut self.bytes, key);
        self.bytes.extend(kind.to_le_bytes());
        self.count += 1;
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// Everything before the tensors' bytes, padded.
fn header(metadata: &Metadata, plan: &[Planned<'_>]) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.extend(3u32.to_le_bytes());
    out.extend((plan.len() as u64).to_le_bytes());
    out.extend(metadata.count.to_le_bytes());
    out.extend(&metadata.bytes);
    let mut offset = 0u64;
    for planned in plan {
        put_text(&mut out, planned.name);
        out.extend((planned.shape.len() as u32).to_le_bytes());
        for &length in planned.shape.iter().rev() {
            out.extend((length as u64).to_le_bytes());
        }
        out.extend(type_number(planned.dtype).unwrap_or_default().to_le_bytes());
        out.extend(offset.to_le_bytes());
        offset += (planned.size as u64).next_multiple_of(DEFAULT_ALIGNMENT as u64);
    }
    out.resize(out.len().next_multiple_of(DEFAULT_ALIGNMENT), 0);
    out
}

struct Output<'f> {
    file: &'f mut AtomicFile,
    path: &'f Path,
}

impl Output<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|source| CheckpointError::Write {
            path: self.path.to_path_buf(),
            target: self.path.to_path_buf(),
            source,
        })
    }
}

/// The bytes of one tensor; pieces are gathered to whole blocks.
struct Body<'b, 'f> {
    planned: &'b Planned<'b>,
    out: &'b mut Output<'f>,
    waiting: Vec<f32>,
    bytes: Vec<u8>,
    written: usize,
    error: Error,
}

/// Sums of squares of what quantising changed and of the elements.
#[derive(Default)]
struct Error {
    changed: f64,
    elements: f64,
}

impl Error {
    fn add(&mut self, format: BlockFormat, bytes: &[u8], values: &[f32]) {
        let mut back = vec![0.0; values.len()];
        format.widen(bytes, &mut back);
        for (value, back) in values.iter().zip(back) {
            self.changed += f64::from(value - back).powi(2);
            self.elements += f64::from(*value).powi(2);
        }
    }

    fn relative(&self) -> f64 {
        if self.elements > 0.0 { (self.changed / self.elements).sqrt() } else { 0.0 }
    }
}

impl Body<'_, '_> {
    fn take(&mut self, elements: GgufElements<'_>) -> Result<()> {
        match (elements, self.planned.blocks) {
            (GgufElements::Floats(values), false) => self.put(values),
            (GgufElements::Blocks(bytes), true) => {
                self.written += bytes.len();
                self.out.put(bytes)
            }
            _ => {
                let problem = "floats were given for blocks, or blocks for floats".to_owned();
                Err(refusal(self.out.path, self.planned.name, problem))
            }
        }
    }

    fn put(&mut self, mut values: &[f32]) -> Result<()> {
        while !values.is_empty() {
            let taken = values.len().min(PIECE - self.waiting.len());
            self.waiting.extend(&values[..taken]);
            values = &values[taken..];
            if self.waiting.len() == PIECE {
                self.write()?;
            }
        }
        Ok(())
    }

    fn write(&mut self) -> Result<()> {
        self.bytes.clear();
        let dtype = self.planned.dtype;
        narrow(dtype, &self.waiting, &mut self.bytes).map_err(|value| {
            let problem = match value.is_finite() {
                true => format!("the value {value} does not fit {dtype}; choose a wider type"),
                false => NarrowError::NotFinite(value).problem(),
            };
            refusal(self.out.path, self.planned.name, problem)
        })?;
        if let Dtype::Block(format) = dtype {
            self.error.add(format, &self.bytes, &self.waiting);
        }
        self.written += self.bytes.len();
        self.waiting.clear();
        self.out.put(&self.bytes)
    }

    fn finish(mut self) -> Result<StoredTensor> {
        let block = match self.planned.dtype {
            Dtype::Block(format) => BlockFormat::shape(format).0,
            _ => 1,
        };
        let whole = self.waiting.len().is_multiple_of(block);
        if whole && !self.planned.blocks {
            self.write()?;
        }
        let Planned { name, shape, dtype, size, blocks } = self.planned;
        if !whole || self.written != *size {
            let problem = format!(
                "{} bytes were given for shape {shape:?} of {dtype}, which takes {size}",
                self.written
            );
            return Err(refusal(self.out.path, name, problem));
        }
        let padding = size.next_multiple_of(DEFAULT_ALIGNMENT) - size;
        self.out.put(&[0; DEFAULT_ALIGNMENT][..padding])?;
        Ok(StoredTensor {
            name: (*name).to_owned(),
            dtype: dtype.name().to_owned(),
            bytes: *size as u64,
            relative_error: (matches!(dtype, Dtype::Block(_)) && !blocks).then(|| self.error.relative()),
        })
    }
}
