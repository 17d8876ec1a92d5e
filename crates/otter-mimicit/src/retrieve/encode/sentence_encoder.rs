//! A sentence-transformers checkpoint: texts to unit vectors (Reimers and Gurevych, arXiv 1908.10084).

use std::path::Path;

use otter_checkpoint::parse_tokenizer_json;
use otter_io::text::hex;
use rayon::prelude::*;
use sha2::{Digest, Sha256};
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::processors::bert::BertProcessing;
use tokenizers::{Tokenizer, TruncationParams};

use super::bert::Bert;
use super::bert_config::{BertConfig, SentenceConfig, TextPooling, read_json};
use crate::retrieve::error::{Result, RetrieveError};
use crate::retrieve::vectors::normalize_rows;

/// Tokens of a batch: bounds the activations.
const BATCH_TOKENS: usize = 8192;
/// Tokens of a text where nothing says how many.
const DEFAULT_TOKENS: usize = 512;
/// Bytes of a text that the tokenizer is given: enough for any limit on tokens, and no 100 MB.
const LONGEST_TEXT: usize = 1 << 16;

/// Tokenizer, encoder and pooling.
pub struct SentenceEncoder {
    bert: Bert,
    tokenizer: Tokenizer,
    config: SentenceConfig,
    fingerprint: String,
}

impl SentenceEncoder {
    /// Loads a directory: `config.json`, weights, `tokenizer.json` or `vocab.txt`, and where there are any
    /// `modules.json`, the pooling's `config.json`, `sentence_bert_config.json`.
    ///
    /// # Errors
    /// When a file is missing, damaged or not supported.
    pub fn load(directory: &Path) -> Result<Self> {
        let config = SentenceConfig::read(directory)?;
        let bert = Bert::load(directory, BertConfig::read(directory)?)?;
        let mut tokenizer = load_tokenizer(directory)?;
        let limit = config.max_tokens.unwrap_or(DEFAULT_TOKENS).min(bert.max_tokens());
        tokenizer.with_padding(None);
        let _ = tokenizer.with_truncation(None);
        let around = tokenizer.encode_fast("", true).map_or(0, |encoding| encoding.len());
        if limit <= around {
            let problem =
                format!("texts are cut to {limit} tokens, {around} of them special: nothing is left");
            return Err(RetrieveError::format(directory, problem));
        }
        let truncation = TruncationParams { max_length: limit, ..TruncationParams::default() };
        tokenizer.with_truncation(Some(truncation)).map_err(|error| {
            RetrieveError::format(directory, format!("texts cannot be cut to {limit} tokens ({error})"))
        })?;
        let fingerprint = fingerprint(directory)?;
        Ok(Self { bert, tokenizer, config, fingerprint })
    }

    /// Length of a vector.
    pub fn width(&self) -> usize {
        self.bert.width()
    }

    /// Changes when any file that the vectors depend on does.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Unit vectors (texts, width). Texts of the same length are encoded together, so there is no padding.
    ///
    /// # Errors
    /// When the tokenizer refuses a text or gives an id that the model does not have.
    pub fn encode(&self, texts: &[&str]) -> Result<Vec<f32>> {
        let ids: Vec<Vec<u32>> = texts.par_iter().map(|text| self.ids(text)).collect::<Result<_>>()?;
        let width = self.width();
        let mut order: Vec<usize> = (0..texts.len()).collect();
        order.sort_by_key(|&text| ids[text].len());
        let mut rows = vec![0.0; texts.len() * width];
        for same in order.chunk_by(|&a, &b| ids[a].len() == ids[b].len()) {
            let length = ids[same[0]].len();
            if length == 0 {
                continue;
            }
            for batch in same.chunks((BATCH_TOKENS / length).max(1)) {
                let batch_ids: Vec<u32> = batch.iter().flat_map(|&text| ids[text].iter().copied()).collect();
                let hidden = self.bert.forward(&batch_ids, length);
                for (&text, hidden) in batch.iter().zip(hidden.data().chunks_exact(length * width)) {
                    pool(&mut rows[text * width..][..width], hidden, self.config.pooling);
                }
            }
        }
        normalize_rows(&mut rows, width);
        Ok(rows)
    }

    fn ids(&self, text: &str) -> Result<Vec<u32>> {
        let end = (0..=text.len().min(LONGEST_TEXT)).rev().find(|&at| text.is_char_boundary(at));
        let text = &text[..end.unwrap_or(0)];
        let lowered = if self.config.lower_case { text.to_lowercase() } else { text.to_owned() };
        let encoding = self
            .tokenizer
            .encode_fast(lowered, true)
            .map_err(|error| RetrieveError::Options(format!("the tokenizer refused a text ({error})")))?;
        let ids = encoding.get_ids();
        match ids.iter().find(|&&id| id as usize >= self.bert.vocab_size()) {
            None => Ok(ids.to_vec()),
            Some(id) => Err(RetrieveError::Options(format!(
                "the tokenizer gives id {id}, but the text encoder knows {} tokens; the files do not belong together",
                self.bert.vocab_size()
            ))),
        }
    }
}

fn pool(out: &mut [f32], hidden: &[f32], pooling: TextPooling) {
    let width = out.len();
    match pooling {
        TextPooling::First => out.copy_from_slice(&hidden[..width]),
        TextPooling::Mean => {
            for row in hidden.chunks_exact(width) {
                out.iter_mut().zip(row).for_each(|(out, &value)| *out += value);
            }
        }
        TextPooling::Max => {
            out.copy_from_slice(&hidden[..width]);
            for row in hidden.chunks_exact(width) {
                out.iter_mut().zip(row).for_each(|(out, &value)| *out = out.max(value));
            }
        }
    }
}

/// `tokenizer.json`, or WordPiece over `vocab.txt` with BERT's rules.
fn load_tokenizer(directory: &Path) -> Result<Tokenizer> {
    let path = directory.join("tokenizer.json");
    if path.exists() {
        let json = std::fs::read(&path).map_err(RetrieveError::io(&path, "read"))?;
        return parse_tokenizer_json(&json).map_err(|error| {
            RetrieveError::format(&path, format!("no tokenizer that can be read ({error})"))
        });
    }
    let path = directory.join("vocab.txt");
    let text = std::fs::read_to_string(&path)
        .map_err(RetrieveError::io(&path, "read (nor is there a tokenizer.json)"))?;
    let id = |token: &str| {
        (0..)
            .zip(text.lines())
            .find(|(_, line)| line.trim() == token)
            .map(|(id, _): (u32, _)| (token.to_owned(), id))
            .ok_or_else(|| {
                RetrieveError::format(
                    &path,
                    format!("no token `{token}`; the vocabulary of a BERT model is expected"),
                )
            })
    };
    let (separator, first) = (id("[SEP]")?, id("[CLS]")?);
    id("[UNK]")?;
    let options = directory.join("tokenizer_config.json");
    let lower_case = if options.exists() {
        let options: serde_json::Map<String, serde_json::Value> = read_json(&options)?;
        options.get("do_lower_case").and_then(serde_json::Value::as_bool).unwrap_or(true)
    } else {
        true
    };
    let model = WordPiece::from_file(&path.to_string_lossy())
        .unk_token("[UNK]".into())
        .build()
        .map_err(|error| RetrieveError::format(&path, error.to_string()))?;
    let mut tokenizer = Tokenizer::new(model);
    let normalizer = BertNormalizer::new(true, true, None, lower_case);
    tokenizer
        .with_normalizer(Some(normalizer))
        .map_err(|error| RetrieveError::format(&path, error.to_string()))?;
    tokenizer.with_pre_tokenizer(Some(BertPreTokenizer));
    tokenizer.with_post_processor(Some(BertProcessing::new(separator, first)));
    Ok(tokenizer)
}

/// A hash of the contents of all files of the directory and of its direct subfolders that can matter.
fn fingerprint(directory: &Path) -> Result<String> {
    let mut files = Vec::new();
    for folder in [Some(directory.to_path_buf())].into_iter().chain(
        std::fs::read_dir(directory)
            .map_err(RetrieveError::io(directory, "list"))?
            .map(|entry| entry.ok().map(|entry| entry.path()).filter(|path| path.is_dir())),
    ) {
        let Some(folder) = folder else { continue };
        for entry in std::fs::read_dir(&folder).map_err(RetrieveError::io(&folder, "list"))? {
            let path = entry.map_err(RetrieveError::io(&folder, "list"))?.path();
            let known = ["json", "txt", "safetensors", "bin"];
            if path.is_file() && path.extension().is_some_and(|e| known.iter().any(|known| e == *known)) {
                files.push(path);
            }
        }
    }
    files.sort();
    let mut hasher = Sha256::new();
    for path in files {
        let name = path.strip_prefix(directory).unwrap_or(&path);
        hasher.update(name.to_string_lossy().as_bytes());
        let mut file = std::fs::File::open(&path).map_err(RetrieveError::io(&path, "open"))?;
        let mut content = Sha256::new();
        let mut buffer = vec![0; 1 << 20];
        loop {
            let read =
                std::io::Read::read(&mut file, &mut buffer).map_err(RetrieveError::io(&path, "read"))?;
            if read == 0 {
                break;
            }
            content.update(&buffer[..read]);
        }
        hasher.update(content.finalize());
    }
    Ok(format!("sentence-1 {}", hex(&hasher.finalize())))
}
