//! The tokenizer of a checkpoint directory: `tokenizer.json`, or else sentencepiece's `tokenizer.model`, or else
//! `vocab.json` with `merges.txt`, with the tokens that Otter adds (`<|endofchunk|>`, `<image>`, `<answer>`, `<PAD>`).
//!
//! Which of `<answer>` and `<PAD>` comes first differs between the Otter and the Flamingo class, so ids are
//! always taken from the files and never assumed.

use crate::error::{CheckpointError, Result};
use crate::gguf::{self, GgufFile};
use crate::sentencepiece::SentencePiece;
use crate::tokenizer_bpe::{self, MERGES, VOCABULARY};
use crate::tokenizer_files::{Declared, read_bounded};
use crate::tokenizer_json;
use otter_data::prompt::END_OF_UTTERANCE_TOKEN;
use otter_data::{SpecialTokens, TextTokenizer};
use std::fmt;
use std::path::{Path, PathBuf};
use tokenizers::{AddedToken, Tokenizer};

/// The whole tokenizer in one file.
pub(crate) const TOKENIZER_JSON: &str = "tokenizer.json";
/// Sentencepiece's file.
pub(crate) const TOKENIZER_MODEL: &str = "tokenizer.model";
/// End of a chunk.
pub(crate) const END_OF_CHUNK: &str = "<|endofchunk|>";
/// Placeholder of an image.
pub(crate) const IMAGE: &str = "<image>";
/// Begin of an answer.
pub(crate) const ANSWER: &str = "<answer>";
/// The pad token of every published Otter.
pub(crate) const DEFAULT_PAD: &str = "<PAD>";

/// Which files a tokenizer was built from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenizerForm {
    /// `tokenizer.json`.
    Json,
    /// `tokenizer.model`.
    SentencePiece,
    /// `vocab.json` and `merges.txt`.
    VocabularyAndMerges,
    /// The metadata of a GGUF file.
    Gguf,
}

impl fmt::Display for TokenizerForm {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Json => TOKENIZER_JSON,
            Self::SentencePiece => TOKENIZER_MODEL,
            Self::VocabularyAndMerges => "vocab.json and merges.txt",
            Self::Gguf => "GGUF metadata",
        })
    }
}

/// A tokenizer and how it was come by.
#[derive(Debug, Clone)]
pub struct LoadedTokenizer {
    /// The tokenizer.
    pub tokenizer: TextTokenizer,
    /// The files it was built from.
    pub form: TokenizerForm,
    /// Where the files of the directory disagree, with both values.
    pub warnings: Vec<String>,
}

/// Loads the tokenizer of a checkpoint directory.
///
/// # Errors
/// When there is no tokenizer, a file is damaged, files give a token different ids, or a special token is missing.
pub fn load_tokenizer(directory: &Path) -> Result<TextTokenizer> {
    Ok(read_tokenizer(directory)?.tokenizer)
}

/// As [`load_tokenizer`], with the form and the disagreements between the files.
///
/// # Errors
/// As [`load_tokenizer`].
pub fn read_tokenizer(directory: &Path) -> Result<LoadedTokenizer> {
    if let Some(file) = gguf::file_of(directory) {
        let tokenizer = GgufFile::open(&file)?.tokenizer()?;
        return Ok(LoadedTokenizer { tokenizer, form: TokenizerForm::Gguf, warnings: Vec::new() });
    }
    let declared = Declared::read(directory)?;
    Base::open(directory, &declared)?.finish(declared)
}

/// Loads `tokenizer.model` even where a `tokenizer.json` stands beside it.
///
/// # Errors
/// As [`load_tokenizer`].
pub fn load_sentencepiece_tokenizer(directory: &Path) -> Result<TextTokenizer> {
    let declared = Declared::read(directory)?;
    Ok(Base::sentencepiece(&directory.join(TOKENIZER_MODEL), &declared)?.finish(declared)?.tokenizer)
}

/// Whether a token carries structure in every Otter.
pub(crate) fn is_structural(token: &str) -> bool {
    [END_OF_CHUNK, IMAGE, ANSWER, DEFAULT_PAD].contains(&token)
}

/// The tokenizer as its own files have it, before the tokens of the small files are added.
pub(crate) struct Base {
    /// The file that is named in messages.
    pub path: PathBuf,
    /// Which files it comes from.
    pub form: TokenizerForm,
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    /// The text of an equivalent `tokenizer.json`, where there is no such file.
    pub json: Option<String>,
    /// Begin and end tokens, where the file knows them.
    ends: (Option<String>, Option<String>),
    warnings: Vec<String>,
}

impl Base {
    /// Opens the first of the known forms.
    pub(crate) fn open(directory: &Path, declared: &Declared) -> Result<Self> {
        let json = directory.join(TOKENIZER_JSON);
        let model = directory.join(TOKENIZER_MODEL);
        if json.is_file() {
            Self::json(&json, &model, declared)
        } else if model.is_file() {
            Self::sentencepiece(&model, declared)
        } else if directory.join(VOCABULARY).is_file() && directory.join(MERGES).is_file() {
            Self::vocabulary_and_merges(directory, declared)
        } else {
            Err(CheckpointError::tokenizer(
                directory,
                "no tokenizer; expected tokenizer.json or tokenizer.model or vocab.json with merges.txt \
                 (copy them from the checkpoint's language model)",
            ))
        }
    }

    fn json(path: &Path, model: &Path, declared: &Declared) -> Result<Self> {
        let mut base = Self::build(path, TokenizerForm::Json, &read_bounded(path)?)?;
        base.match_prefix_space(declared);
        if model.is_file() {
            base.compare_with_sentencepiece(model);
        }
        Ok(base)
    }

    fn sentencepiece(path: &Path, declared: &Declared) -> Result<Self> {
        let model = SentencePiece::parse(path, &read_bounded(path)?)?;
        let legacy = declared.legacy != Some(false);
        let json = model.to_tokenizer_json(legacy).to_string();
        let base = Self::build(path, TokenizerForm::SentencePiece, json.as_bytes())?;
        let ends = (model.begin().map(str::to_owned), model.end().map(str::to_owned));
        Ok(Self { json: Some(json), ends, ..base })
    }

    fn vocabulary_and_merges(directory: &Path, declared: &Declared) -> Result<Self> {
        let json = tokenizer_bpe::tokenizer_json(directory, declared)?.to_string();
        let path = directory.join(VOCABULARY);
        let base = Self::build(&path, TokenizerForm::VocabularyAndMerges, json.as_bytes())?;
        Ok(Self { json: Some(json), ..base })
    }

    fn build(path: &Path, form: TokenizerForm, json: &[u8]) -> Result<Self> {
        let tokenizer = tokenizer_json::parse(json)
            .map_err(|error| CheckpointError::tokenizer(path, format!("not a tokenizer: {error}")))?;
        let path = path.to_path_buf();
        Ok(Self { path, form, tokenizer, json: None, ends: (None, None), warnings: Vec::new() })
    }

    /// `add_prefix_space` of the configuration counts over that of a byte-level tokenizer.json, as in transformers.
    fn match_prefix_space(&mut self, declared: &Declared) {
        use tokenizers::PreTokenizerWrapper::ByteLevel;
        let Some(ByteLevel(level)) = self.tokenizer.get_pre_tokenizer() else { return };
        let Some(wanted) = declared.add_prefix_space.filter(|&wanted| wanted != level.add_prefix_space)
        else {
            return;
        };
        let mut level = *level;
        self.warnings.push(format!(
            "`add_prefix_space` is {} in tokenizer.json but {wanted} in tokenizer_config.json; {wanted} is used, as \
             transformers does",
            level.add_prefix_space
        ));
        level.add_prefix_space = wanted;
        self.tokenizer.with_pre_tokenizer(Some(level));
    }

    /// The slow tokenizer of Python would read the other file.
    fn compare_with_sentencepiece(&mut self, path: &Path) {
        let model = read_bounded(path).and_then(|bytes| SentencePiece::parse(path, &bytes));
        let own = self.tokenizer.get_vocab_size(false);
        match model {
            Ok(model) if model.len() != own => self.warnings.push(format!(
                "tokenizer.json has {own} tokens before the added ones but tokenizer.model {}; tokenizer.json is used",
                model.len()
            )),
            Ok(_) => {}
            Err(error) => {
                self.warnings.push(format!("tokenizer.json is used; tokenizer.model cannot be: {error}"))
            }
        }
    }

    /// Adds what the small files declare and checks the ids.
    pub(crate) fn add_declared(&mut self, declared: &Declared) -> Result<()> {
        // In the order of their ids, because each new token gets the next one.
        for (&id, (token, file)) in &declared.added {
            self.add(token.clone())?;
            let found = self.tokenizer.token_to_id(&token.content);
            if found != Some(id) {
                let found = found.map_or("none".to_owned(), |id| id.to_string());
                let (content, own) = (&token.content, self.form);
                return Err(CheckpointError::tokenizer(
                    &self.path,
                    format!(
                        "token `{content}` has id {found} by {own}, but {file} gives {id}; ids of added tokens follow \
                         the vocabulary without gaps, and all files must agree"
                    ),
                ));
            }
        }
        // What only a role names: a token of the vocabulary that becomes special.
        for text in &declared.special {
            if self.tokenizer.token_to_id(text).is_some() {
                self.add(AddedToken::from(text.as_str(), true).normalized(false))?;
            }
        }
        for text in [END_OF_CHUNK, IMAGE, ANSWER, DEFAULT_PAD] {
            if self.added_id(text).is_some() {
                self.add(AddedToken::from(text, true).normalized(false))?;
            }
        }
        Ok(())
    }

    /// Adds a token, or makes it special; a token that is there already keeps its id.
    pub(crate) fn add(&mut self, token: AddedToken) -> Result<()> {
        let known = self.tokenizer.token_to_id(&token.content).and_then(|id| {
            self.tokenizer.get_added_vocabulary().get_added_tokens_decoder().get(&id).cloned()
        });
        let token = match known {
            Some(known) if known.special || !token.special => return Ok(()),
            // As it was, but special.
            Some(known) => AddedToken { special: true, ..known },
            None => token,
        };
        let added = self.tokenizer.add_tokens([token]);
        added.map(|_| ()).map_err(|error| CheckpointError::tokenizer(&self.path, error.to_string()))
    }

    /// The id of an added token.
    pub(crate) fn added_id(&self, text: &str) -> Option<u32> {
        let id = self.tokenizer.token_to_id(text)?;
        self.tokenizer.get_added_vocabulary().get_added_tokens_decoder().contains_key(&id).then_some(id)
    }

    /// Begin and end tokens by the small files, or else by the tokenizer's own file.
    pub(crate) fn ends<'a>(&'a self, declared: &'a Declared) -> (Option<&'a str>, Option<&'a str>) {
        let (begin, end) = &self.ends;
        (declared.begin.as_deref().or(begin.as_deref()), declared.end.as_deref().or(end.as_deref()))
    }

    fn finish(mut self, declared: Declared) -> Result<LoadedTokenizer> {
        self.add_declared(&declared)?;
        let required = |text: &str| {
            self.added_id(text).ok_or_else(|| {
                CheckpointError::tokenizer(
                    &self.path,
                    format!(
                        "the special token `{text}` is missing; expected among `added_tokens` of tokenizer.json, or \
                         in added_tokens.json as \"{text}\": <id>, or in `added_tokens_decoder` of tokenizer_config.json"
                    ),
                )
            })
        };
        let (begin, end) = self.ends(&declared);
        let special = SpecialTokens {
            bos: begin.map(required).transpose()?,
            eos: end.map(required).transpose()?,
            pad: required(declared.pad.as_deref().unwrap_or(DEFAULT_PAD))?,
            // Idefics ends its answers with a token of its own.
            endofchunk: match self.added_id(END_OF_CHUNK).or(self.added_id(END_OF_UTTERANCE_TOKEN)) {
                Some(id) => id,
                None => required(END_OF_CHUNK)?,
            },
            image: required(IMAGE)?,
            answer: required(ANSWER)?,
        };
        let mut tokenizer = TextTokenizer::new(self.tokenizer, special);
        let llama = declared.class.as_deref().is_some_and(|class| class.to_lowercase().contains("llama"));
        // LLaMA's class puts the begin token in front unless told otherwise; other classes do what the file says.
        if let Some(adds) = declared.add_begin.or(llama.then_some(true)) {
            tokenizer =
                tokenizer.with_prompt_prefix(if adds { special.bos.into_iter().collect() } else { vec![] });
        }
        let mut warnings = declared.warnings;
        warnings.extend(self.warnings);
        Ok(LoadedTokenizer { tokenizer, form: self.form, warnings })
    }
}
