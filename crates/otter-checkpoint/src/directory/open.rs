//! A checkpoint directory: configuration and weights that belong together, with the traps between the two
//! resolved and reported.

use crate::atomic;
use crate::config::checkpoint_config::CheckpointConfig;
use crate::config::preprocessor::check_preprocessor;
use crate::directory::account::LoadReport;
use crate::directory::weights::Weights;
use crate::error::{CheckpointError, Result};
use crate::gguf::{self, GgufFile};
use otter_formats::FormatError;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// What to do when both tables are stored although `tie_word_embeddings` is absent or true.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TiePolicy {
    /// Use the tables as stored. This is what the weights were trained with.
    #[default]
    KeepStored,
    /// As the original's loader: one table, holding the values of the output table.
    Reference,
}

/// Whether an error says that there are no weights, or not all of their shards.
fn is_missing(error: &CheckpointError) -> bool {
    match error {
        CheckpointError::NoWeights { .. } => true,
        CheckpointError::File(FormatError::Io { source, .. }) => source.kind() == ErrorKind::NotFound,
        _ => false,
    }
}

/// An opened checkpoint directory.
#[derive(Debug)]
pub struct Checkpoint {
    /// The directory.
    pub path: PathBuf,
    /// The configuration, with `vocab_size` and `tie_word_embeddings` as the weights have them.
    pub config: CheckpointConfig,
    /// The tensors.
    pub weights: Weights,
}

impl Checkpoint {
    /// Opens a directory, or a GGUF file that holds a whole Otter, and keeps its tables as stored.
    ///
    /// # Errors
    /// When a file is missing, damaged, hostile or describes an unsupported model.
    pub fn open(directory: &Path) -> Result<Self> {
        Self::open_with(directory, TiePolicy::KeepStored)
    }

    /// Opens a directory.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn open_with(directory: &Path, tie: TiePolicy) -> Result<Self> {
        if !directory.exists() {
            // An interrupted save may have left the checkpoint under its temporary name.
            atomic::recover(directory)?;
        }
        let config = match gguf::file_of(directory) {
            Some(file) => CheckpointConfig::parse(&file, GgufFile::open(&file)?.config()?)?,
            None => CheckpointConfig::read(&directory.join("config.json"))?,
        };
        let weights = Weights::open(directory)?;
        let mut checkpoint = Self { path: directory.to_path_buf(), config, weights };
        checkpoint.resolve_tie(tie);
        checkpoint.resolve_vocabulary();
        let pixels = check_preprocessor(directory, checkpoint.config.model.vision.image_size)?;
        checkpoint.config.warnings.extend(pixels);
        Ok(checkpoint)
    }

    /// The configuration of a model of the same shape: that of the weights where they are there (one table or two is told by
    /// them), and else what `config.json` declares.
    ///
    /// # Errors
    /// As [`Checkpoint::open`], except that weights may be missing.
    pub fn config_like(directory: &Path) -> Result<CheckpointConfig> {
        let file = directory.join("config.json");
        match Self::open(directory) {
            Ok(checkpoint) => Ok(checkpoint.config),
            Err(error) if file.is_file() && is_missing(&error) => {
                let mut config = CheckpointConfig::read(&file)?;
                let declared = config.declared_tie.unwrap_or(config.text_ties);
                config.model.tie_word_embeddings |= declared;
                let pixels = check_preprocessor(directory, config.model.vision.image_size)?;
                config.warnings.extend(pixels);
                Ok(config)
            }
            Err(error) => Err(error),
        }
    }

    /// Accounts for every tensor: compares the file with the parameters of a model.
    ///
    /// # Errors
    /// When a parameter is missing, a tensor is unexpected or a shape differs; all are listed.
    pub fn account<'n>(
        &self,
        expected: impl IntoIterator<Item = (&'n str, &'n [usize])>,
    ) -> Result<LoadReport> {
        self.report(expected).strict()
    }

    /// As [`Checkpoint::account`], but a report in every case.
    pub fn report<'n>(&self, expected: impl IntoIterator<Item = (&'n str, &'n [usize])>) -> LoadReport {
        let mut report = LoadReport::compare(&self.weights, expected);
        let model = &self.config.model;
        let output = model.output_table();
        if model.tie_word_embeddings
            && let Some(at) = report.unexpected.iter().position(|name| *name == output)
        {
            let name = report.unexpected.remove(at);
            report.ignored.push((name, format!("tied to {}", model.input_table())));
        }
        let own = self.config.warnings.iter().filter(|warning| !report.warnings.contains(warning));
        let own: Vec<String> = own.cloned().collect();
        report.warnings.extend(own);
        report
    }

    /// The original ties both tables whenever the top-level key is absent or true, even over tables that
    /// were trained apart.
    fn resolve_tie(&mut self, policy: TiePolicy) {
        if self.config.model.text.must_be_tied() {
            return;
        }
        let declared = self.config.declared_tie;
        let Self { config, weights, .. } = self;
        let (input, output) = (config.model.input_table(), config.model.output_table());
        let stored = (weights.get(&input).is_some(), weights.get(&output).is_some());
        if config.text_ties && stored == (true, true) && weights.holds_same(&input, &output) {
            // One table under two names.
            config.model.tie_word_embeddings = true;
            return;
        }
        let one_table = config.text_ties && stored.0 != stored.1;
        if declared == Some(false) && !one_table {
            config.model.tie_word_embeddings = false;
            return;
        }
        match (stored, policy) {
            ((true, true), TiePolicy::KeepStored) => {
                let state = if declared.is_some() { "true" } else { "absent" };
                config.model.tie_word_embeddings = false;
                config.warnings.push(format!(
                    "top-level tie_word_embeddings is {state}, but input and output tables are stored apart; both \
                     are kept as stored (the original's loader would overwrite the input table with the output table)"
                ));
            }
            ((true, true), TiePolicy::Reference) => {
                weights.alias(&input, &output);
                config.model.tie_word_embeddings = true;
                config.warnings.push(
                    "input and output tables are tied as in the original's loader, with the output table's values"
                        .to_owned(),
                );
            }
            ((true, false), _) => {
                weights.alias(&output, &input);
                config.model.tie_word_embeddings = true;
            }
            ((false, true), _) => {
                weights.alias(&input, &output);
                config.model.tie_word_embeddings = true;
            }
            ((false, false), _) => {}
        }
    }

    /// Early releases resized the tables to the tokenizer when loading and left the old number in the file.
    fn resolve_vocabulary(&mut self) {
        let rows = |name: &str| self.weights.get(name).and_then(|entry| entry.shape.first().copied());
        let model = &self.config.model;
        let Some(input) = rows(&model.input_table()) else { return };
        let alone = model.text.must_be_tied();
        let declared = model.text.vocab_size();
        if (alone || rows(&model.output_table()) == Some(input)) && input > declared {
            self.config.model.text.set_vocab_size(input);
            self.config.warnings.push(format!(
                "text_config.vocab_size is {declared}, but the tables have {input} rows; {input} is used"
            ));
        }
    }
}
