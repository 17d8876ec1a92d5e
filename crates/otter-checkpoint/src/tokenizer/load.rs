//! The tokenizer of a checkpoint directory: `tokenizer.json`, or else sentencepiece's `tokenizer.model`, or else
//! `vocab.json` with `merges.txt`, with the tokens that Otter adds (`<|endofchunk|>`, `<image>`, `<answer>`, `<PAD>`).
//!
//! Which of `<answer>` and `<PAD>` comes first differs between the Otter and the Flamingo class, so ids are
//! always taken from the files and never assumed.

use crate::config::input_rules::InputRules;
use crate::directory::text_file::{LONGEST_TOKENIZER, into_text, read_bounded, read_object, read_text};
use crate::directory::trained_part::TrainedPart;
use crate::error::{CheckpointError, Result};
use crate::gguf::{self, GgufFile};
use crate::tokenizer::files::{
    ANSWER, DEFAULT_PAD, Declared, END_OF_CHUNK, IMAGE, TOKENIZER_CONFIG, is_structural,
};
use otter_data::prompt::END_OF_UTTERANCE_TOKEN;
use otter_data::{BrokenToken, DataError, SpecialTokens, TextTokenizer};
use otter_formats::tokenizer::SentencePiece;
use otter_formats::tokenizer::bpe::{self, MERGES, VOCABULARY};
use otter_formats::tokenizer::json;
use std::fmt;
use std::path::{Path, PathBuf};
use tokenizers::models::ModelWrapper;
use tokenizers::{AddedToken, Tokenizer};

/// The whole tokenizer in one file.
pub(crate) const TOKENIZER_JSON: &str = "tokenizer.json";
/// Sentencepiece's file.
pub(crate) const TOKENIZER_MODEL: &str = "tokenizer.model";
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
    /// Structural tokens that are lost where prompts have them, each with what happens and what to change.
    pub broken: Vec<String>,
}

/// Loads the tokenizer of a checkpoint directory, with the prompt's beginning that the checkpoint records.
///
/// # Errors
/// When there is no tokenizer, a file is damaged, files give a token different ids, or a special token is missing or
/// does not come out whole.
pub fn load_tokenizer(directory: &Path) -> Result<TextTokenizer> {
    let LoadedTokenizer { tokenizer, broken, .. } = read_tokenizer(directory)?;
    match broken.is_empty() {
        true => Ok(tokenizer),
        false => Err(CheckpointError::format(directory, broken.join("\n  "))),
    }
}

/// As [`load_tokenizer`], with the form and the disagreements between the files; tokens that do not come out whole are
/// no error.
///
/// # Errors
/// As [`load_tokenizer`].
pub fn read_tokenizer(directory: &Path) -> Result<LoadedTokenizer> {
    let (base, _) = TrainedPart::chain(directory)?;
    let mut loaded = match gguf::file_of(&base) {
        Some(file) => {
            let tokenizer = GgufFile::open(&file)?.tokenizer()?;
            let (form, warnings) = (TokenizerForm::Gguf, Vec::new());
            LoadedTokenizer { tokenizer, form, warnings, broken: Vec::new() }
        }
        None => {
            let declared = Declared::read(&base)?;
            Base::open(&base, &declared)?.finish(declared)?
        }
    };
    let refused = |error: DataError| CheckpointError::format(directory, error.to_string());
    if let Some(begins) = InputRules::of(directory)?.begin_token {
        loaded.tokenizer = loaded.tokenizer.with_begin_token(begins).map_err(refused)?;
    }
    let broken = loaded.tokenizer.broken_tokens().map_err(refused)?;
    loaded.broken = broken.iter().map(|broken| with_advice(broken, loaded.form)).collect();
    Ok(loaded)
}

/// What is wrong with a token, and what to change in which file.
fn with_advice(broken: &BrokenToken, form: TokenizerForm) -> String {
    let BrokenToken { token, problem, settings, .. } = broken;
    let change: Vec<String> = settings.iter().map(|setting| format!("\"{setting}\": false")).collect();
    let advice = match (&change[..], form) {
        ([], TokenizerForm::Gguf) => "make the file anew from a sound tokenizer".to_owned(),
        ([], form) => {
            format!("remove what is in its way from the tokenizer ({form}), such as another added token")
        }
        (_, TokenizerForm::Gguf) => {
            format!("make the file anew from a tokenizer.json with {} for `{token}`", change.join(" and "))
        }
        (_, TokenizerForm::Json) => format!(
            "set {} for `{token}` in `added_tokens` of tokenizer.json and in `added_tokens_decoder` of \
             tokenizer_config.json",
            change.join(" and ")
        ),
        (_, _) => format!(
            "set {} for `{token}` in `added_tokens_decoder` of tokenizer_config.json",
            change.join(" and ")
        ),
    };
    format!("{problem}; {advice}")
}

/// Loads `tokenizer.model` even where a `tokenizer.json` stands beside it.
///
/// # Errors
/// As [`load_tokenizer`].
pub fn load_sentencepiece_tokenizer(directory: &Path) -> Result<TextTokenizer> {
    let declared = Declared::read(directory)?;
    Ok(Base::sentencepiece(&directory.join(TOKENIZER_MODEL), &declared)?.finish(declared)?.tokenizer)
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
            Err(CheckpointError::format(
                directory,
                "no tokenizer; expected tokenizer.json or tokenizer.model or vocab.json with merges.txt \
                 (copy them from the checkpoint's language model)",
            ))
        }
    }

    fn json(path: &Path, model: &Path, declared: &Declared) -> Result<Self> {
        let text = read_text(path, LONGEST_TOKENIZER)?;
        let mut base = Self::build(path, TokenizerForm::Json, &text)?;
        for (content, listed) in json::added_tokens(&text) {
            let found = base.tokenizer.token_to_id(&content);
            if is_structural(&content) && found != Some(listed) {
                let found = found.map_or("none".to_owned(), |id| id.to_string());
                let problem = format!(
                    "`added_tokens` gives `{content}` the id {listed}, but reading the file gives it {found}: it is listed \
                     twice, or ids before it are missing. Keep one entry, with the id that the weights were trained with"
                );
                return Err(CheckpointError::format(path, problem));
            }
        }
        base.without_dropout();
        base.match_prefix_space(declared);
        if model.is_file() {
            base.compare_with_sentencepiece(model);
        }
        Ok(base)
    }

    fn sentencepiece(path: &Path, declared: &Declared) -> Result<Self> {
        let model = SentencePiece::parse(path, &read_bounded(path, LONGEST_TOKENIZER)?)?;
        let legacy = declared.legacy != Some(false);
        let json = model.to_tokenizer_json(legacy).to_string();
        let base = Self::build(path, TokenizerForm::SentencePiece, json.as_bytes())?;
        let ends = (model.begin().map(str::to_owned), model.end().map(str::to_owned));
        Ok(Self { json: Some(json), ends, ..base })
    }

    fn vocabulary_and_merges(directory: &Path, declared: &Declared) -> Result<Self> {
        let (path, merges) = (directory.join(VOCABULARY), directory.join(MERGES));
        let vocabulary = read_object(&path, LONGEST_TOKENIZER)?;
        let text = into_text(&merges, read_text(&merges, LONGEST_TOKENIZER)?)?;
        let options = bpe::Options {
            add_prefix_space: declared.add_prefix_space.unwrap_or(false),
            normalize: declared.class.as_deref().is_some_and(|class| class.starts_with("GPTNeoX")),
            begin: declared.begin.as_deref().filter(|_| declared.add_begin == Some(true)),
        };
        let json = bpe::tokenizer_json([&path, &merges], vocabulary, &text, &options)?.to_string();
        let base = Self::build(&path, TokenizerForm::VocabularyAndMerges, json.as_bytes())?;
        Ok(Self { json: Some(json), ..base })
    }

    fn build(path: &Path, form: TokenizerForm, json: &[u8]) -> Result<Self> {
        let tokenizer = json::parse(json)
            .map_err(|error| CheckpointError::format(path, format!("not a tokenizer: {error}")))?;
        let path = path.to_path_buf();
        Ok(Self { path, form, tokenizer, json: None, ends: (None, None), warnings: Vec::new() })
    }

    /// A tokenizer whose merges are left out by chance gives a text other tokens each time; only training one needs that.
    fn without_dropout(&mut self) {
        let ModelWrapper::BPE(model) = self.tokenizer.get_model() else { return };
        let Some(dropout) = model.dropout.filter(|share| *share > 0.0) else { return };
        let mut model = model.clone();
        model.dropout = None;
        self.tokenizer.with_model(model);
        self.warnings.push(format!(
            "`model.dropout` of tokenizer.json is {dropout}: merges would be left out by chance; it is switched off"
        ));
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
        let model =
            read_bounded(path, LONGEST_TOKENIZER).and_then(|bytes| Ok(SentencePiece::parse(path, &bytes)?));
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
            match self.form {
                // Settings of `added_tokens_decoder` count over those of tokenizer.json, as in transformers.
                TokenizerForm::Json if *file == TOKENIZER_CONFIG => self.put(token.clone())?,
                _ => self.add(token.clone())?,
            }
            let found = self.tokenizer.token_to_id(&token.content);
            if found != Some(id) {
                let found = found.map_or("none".to_owned(), |id| id.to_string());
                let (content, own) = (&token.content, self.form);
                return Err(CheckpointError::format(
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
        self.put(token)
    }

    /// Adds a token, or gives one that is there already these settings.
    fn put(&mut self, token: AddedToken) -> Result<()> {
        let added = self.tokenizer.add_tokens([token]);
        added.map(|_| ()).map_err(|error| CheckpointError::format(&self.path, error.to_string()))
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
                CheckpointError::format(
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
        Ok(LoadedTokenizer { tokenizer, form: self.form, warnings, broken: Vec::new() })
    }
}
