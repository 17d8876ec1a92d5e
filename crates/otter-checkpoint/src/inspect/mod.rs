//! What a checkpoint directory or a single weight file holds, as data for a program to print.
//!
//! Nothing here needs the model to be loadable: a configuration that is not supported, missing shards and unexpected
//! tensors are reported. Only a file that is damaged or hostile is an error.

mod scan;
mod source;

use crate::config::checkpoint_config::{CheckpointConfig, ModelFamily};
use crate::config::keys::TRAINING;
use crate::directory::account::{LoadReport, reason_to_ignore};
use crate::directory::open::Checkpoint;
use crate::directory::weights::WeightForm;
use crate::error::Result;
use crate::facts::part::{is_input_table, is_output_table};
use crate::gguf;
use crate::inspect::source::Source;
use crate::published::{Candidate, ReleaseMatch, matching};
use otter_formats::{StoredDType, TensorEntry};
use otter_model::config::OtterConfig;
use otter_model::{FreezeRule, Otter};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use crate::facts::kind::Kind;
pub use crate::facts::model::{Facts, Language};
pub use crate::facts::part::Part;
pub use crate::facts::tokens::{TokenCheck, beginning};
pub use crate::facts::tower::OtherTower;
pub use crate::facts::untrained::TrainingSigns;
pub use crate::inspect::scan::{NonFinite, scan};
pub use crate::inspect::source::FileSummary;
use otter_model::text::families::LLAMA;

/// One tensor.
#[derive(Debug, Clone)]
pub struct TensorSummary {
    /// Its name.
    pub name: String,
    /// Part of the model.
    pub part: Part,
    /// Element type in the file.
    pub dtype: StoredDType,
    /// Length of each axis.
    pub shape: Vec<usize>,
    /// Number of elements.
    pub elements: usize,
    /// Why it is not a parameter, if it is not.
    pub ignored: Option<String>,
}

/// Sums over the parameters of one part.
#[derive(Debug, Clone)]
pub struct PartSummary {
    /// The part.
    pub part: Part,
    /// Number of tensors.
    pub tensors: usize,
    /// Number of parameters.
    pub parameters: usize,
    /// Bytes in the files.
    pub bytes: usize,
    /// Element types and how many tensors have them.
    pub dtypes: Vec<(StoredDType, usize)>,
}

/// Parameters of the whole model by its configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// All; a tied table counts once.
    pub total: u64,
    /// Trained by the original's last rule.
    pub head: u64,
    /// Trained by the rule of the first release.
    pub v01: u64,
}

/// Input and output tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TiedTables {
    /// The top-level `tie_word_embeddings`.
    pub declared: Option<bool>,
    /// Whether both tables are stored.
    pub both_stored: bool,
    /// Whether the stored tables hold the same bits, where it makes a difference.
    pub identical: Option<bool>,
    /// Whether the original's loader would replace the input table by another one.
    pub trap: bool,
}

/// Everything [`inspect`] found.
#[derive(Debug, Clone)]
pub struct Inspection {
    /// The directory or file.
    pub path: PathBuf,
    /// What it is.
    pub kind: Kind,
    /// The class named by the configuration.
    pub family: Option<ModelFamily>,
    /// The sizes, where the configuration describes a supported model.
    pub config: Option<OtterConfig>,
    /// Why it does not.
    pub config_problem: Option<String>,
    /// Sizes by names and shapes.
    pub facts: Facts,
    /// The release that it looks like.
    pub release: Option<ReleaseMatch>,
    /// How the weights are stored.
    pub form: Option<WeightForm>,
    /// The weight files, missing ones included.
    pub files: Vec<FileSummary>,
    /// Every tensor in file order.
    pub tensors: Vec<TensorSummary>,
    /// Sums for every part that occurs.
    pub parts: Vec<PartSummary>,
    /// Ids of the special tokens, or why they are not known.
    pub special_tokens: std::result::Result<TokenCheck, String>,
    /// Comparison with the model, where it is supported and all files are there.
    pub report: Option<LoadReport>,
    /// Input and output tables.
    pub tables: TiedTables,
    /// Gates and the row of `<answer>`.
    pub signs: TrainingSigns,
    /// Parameters of the whole model.
    pub counts: Option<Counts>,
    /// Number of parameters in the files. A tied table counts once.
    pub total_parameters: usize,
    /// How many of these the original's last rule trains.
    pub stored_trainable: usize,
    /// Bytes of the parameters in the files.
    pub total_bytes: usize,
    /// What is odd.
    pub warnings: Vec<String>,
    /// Things to know that are nothing odd.
    pub notes: Vec<String>,
}

impl Inspection {
    /// Files that an index names but that are not there.
    pub fn missing_files(&self) -> Vec<&FileSummary> {
        self.files.iter().filter(|file| file.bytes.is_none()).collect()
    }

    /// Parameters of the whole model, by the configuration or else by the release.
    pub fn whole(&self) -> Option<u64> {
        let release = self.release.as_ref().and_then(|found| found.total);
        self.counts.map(|counts| counts.total).or(release)
    }

    /// What is there of what, and how to complete it, where something is missing: "1.4 B of 8.2 B parameters; …".
    pub fn completion(&self) -> Option<String> {
        let partial = matches!(self.kind, Kind::TrainedPart | Kind::OpenFlamingo(_));
        if !partial {
            return None;
        }
        let of = self.whole().map_or(String::new(), |whole| format!(" of {}", billions(whole)));
        let command = self.completing_command()?;
        let base = self.release.as_ref().map_or("the model it was trained from", |found| found.release.base);
        let tower = if self.kind == Kind::TrainedPart { "" } else { " and openai/clip-vit-large-patch14" };
        let have = billions(self.total_parameters as u64);
        Some(format!("{have}{of} parameters; the rest from {base}{tower}: {command}"))
    }

    /// Of what is no whole model: the command that makes one of it, or why none does.
    pub fn next_step(&self) -> Option<String> {
        let dead_end = self.kind.dead_end(self.family, self.facts.language);
        dead_end.or_else(|| self.completing_command())
    }

    fn completing_command(&self) -> Option<String> {
        // A model of others that sees holds more than its language model.
        let language = self.facts.language.filter(|_| self.facts.vision_width.is_none());
        self.kind.completing_command(&self.path.display().to_string(), self.family, language)
    }

    /// What somebody should know before asking the model anything.
    pub fn warnings_before_chat(&self) -> Vec<String> {
        let mut warnings = self.signs.warnings();
        if let Some(found) = self.release.as_ref().filter(|_| warnings.is_empty() && self.named_untrained()) {
            warnings.push(format!("this is {}, which is made to be tuned first", found.release.name));
        }
        if let Ok(check) = &self.special_tokens {
            warnings.extend(check.warnings.iter().filter(|warning| warning.starts_with("<answer>")).cloned());
        }
        warnings
    }

    /// Whether the checkpoint bears the name of an untrained release.
    fn named_untrained(&self) -> bool {
        let named = |found: &ReleaseMatch| {
            found.release.untrained && found.evidence.iter().any(|text| text == "its name")
        };
        self.release.as_ref().is_some_and(named)
    }
}

/// [`Inspection::warnings_before_chat`] of a directory, with nothing computed that it does not need. What cannot be read
/// gives no warning: loading the model will say so.
pub fn warnings_before_chat(directory: &Path) -> Vec<String> {
    Source::open(directory)
        .map_or_else(|_| Vec::new(), |source| examine(directory, source, false).warnings_before_chat())
}

/// Looks a checkpoint directory or a weight file over.
///
/// # Errors
/// When there is nothing to look at, or a file is damaged or hostile.
pub fn inspect(path: &Path) -> Result<Inspection> {
    let source = Source::open(path)?;
    Ok(examine(path, source, true))
}

fn examine(path: &Path, source: Source, with_model: bool) -> Inspection {
    let facts = Facts::of(source.config.as_ref(), &source.tensors);
    let names: Vec<&str> = source.tensors.iter().map(|(name, _)| name.as_str()).collect();
    let tower = OtherTower::of(source.config.as_ref(), &names);
    let kind = Kind::of(&names, facts.language.as_ref(), tower);
    let family = source.config.as_ref().and_then(family);
    let gguf = gguf::file_of(path).is_some();
    let directory = if path.is_dir() || gguf { path } else { path.parent().unwrap_or(path) };
    let (mut warnings, mut notes) = (Vec::new(), source.notes);

    let missing = source.files.iter().any(|file| file.bytes.is_none());
    let part = matches!(kind, Kind::Configuration | Kind::TrainedPart | Kind::OpenFlamingo(_));
    let whole_directory = with_model && (path.is_dir() || gguf) && !missing && !part;
    let checkpoint = (whole_directory && family.is_some() && source.form.is_some())
        .then(|| Checkpoint::open(path).map_err(|error| error.to_string()));
    let config = match &checkpoint {
        Some(Ok(checkpoint)) => Some(Ok(checkpoint.config.clone())),
        Some(Err(problem)) => Some(Err(problem.clone())),
        _ if family.is_some() && with_model && !gguf => {
            Some(CheckpointConfig::read(&directory.join("config.json")).map_err(|error| error.to_string()))
        }
        _ => None,
    };
    let (config, config_problem) = match config {
        Some(Ok(config)) => (Some(config), None),
        Some(Err(problem)) => (None, Some(problem)),
        None => (None, None),
    };
    let specs = config.as_ref().and_then(|config| Otter::new(&config.model).ok()).map(|(_, specs)| specs);
    let counts = config.as_ref().zip(specs.as_ref()).map(|(config, specs)| Counts {
        total: specs.count(|_| true),
        head: FreezeRule::Head.count(&config.model, specs),
        v01: FreezeRule::V01.count(&config.model, specs),
    });
    let report = match (&checkpoint, &specs) {
        (Some(Ok(checkpoint)), Some(specs)) if kind == Kind::Model => {
            Some(checkpoint.report(specs.iter().map(|spec| (spec.name.as_str(), spec.shape.as_slice()))))
        }
        _ => None,
    };
    if kind != Kind::Adapters && source.tensors.iter().any(|(name, _)| name.contains(".lora_A.")) {
        let path = path.display();
        warnings.push(format!(
            "LoRA adapters are kept apart from the weights; merge them: otter convert {path} --merge-lora --out DIR"
        ));
    }
    if let Some(config) = &config {
        warnings.extend(config.warnings.iter().cloned());
    }

    let tied = config.as_ref().is_some_and(|config| config.model.tie_word_embeddings);
    let tower = matches!(kind, Kind::VisionTower | Kind::OtherTower(_));
    let tensors = summaries(&source.tensors, tied, tower);
    let parts = part_sums(&tensors);
    let tables = tied_tables(source.config.as_ref(), &source.tensors, with_model && family.is_some());
    if tables.trap && !warnings.iter().any(|warning| warning.contains("tie_word_embeddings")) {
        warnings.push(
            "top-level tie_word_embeddings is not false, but different input and output tables are stored: the original's \
             loader would overwrite the input table with the output table"
                .to_owned(),
        );
    }
    let special_tokens = crate::facts::tokens::check(directory, family, &facts);
    let special = special_tokens.as_ref().ok().map(|check| check.special);
    let signs = TrainingSigns::of(
        source.tensors.iter().map(|(name, entry)| (name.as_str(), entry)),
        special.as_ref(),
        source.config.as_ref().is_some_and(|config| config.contains_key(TRAINING)),
    );
    if let Ok(check) = &special_tokens {
        warnings.extend(check.warnings.iter().cloned());
        notes.extend(check.notes.iter().cloned());
    }
    notes.extend(source.config.as_ref().and_then(classes_differ));
    let release = matching(&Candidate {
        facts: &facts,
        kind,
        config: source.config.as_ref(),
        path,
        total: counts.map(|counts| counts.total),
        shards: source.files.len(),
        zero_gates: signs.all_gates_zero(),
    });
    let trains_output = facts.language == Some(Language::Known(&LLAMA));
    let stored_trainable = tensors.iter().filter(|tensor| tensor.ignored.is_none()).filter(|tensor| {
        matches!(tensor.part, Part::Perceiver | Part::CrossAttention)
            || is_input_table(&tensor.name)
            || trains_output && is_output_table(&tensor.name)
    });
    let mut inspection = Inspection {
        path: path.to_path_buf(),
        kind,
        family,
        config: config.map(|config| config.model),
        config_problem,
        facts,
        release,
        form: source.form,
        files: source.files,
        special_tokens,
        report,
        tables,
        counts,
        total_parameters: parts.iter().map(|part| part.parameters).sum(),
        stored_trainable: stored_trainable.map(|tensor| tensor.elements).sum(),
        total_bytes: parts.iter().map(|part| part.bytes).sum(),
        parts,
        tensors,
        signs,
        warnings,
        notes,
    };
    let before_chat = inspection.warnings_before_chat();
    inspection.warnings.extend(before_chat.into_iter().filter(|warning| !warning.starts_with("<answer>")));
    for file in inspection.files.iter().filter(|file| file.bytes.is_none()) {
        let (file, tensors) = (file.path.display(), file.tensors);
        inspection.warnings.push(format!("{file} is missing; by the index it holds {tensors} tensors"));
    }
    inspection
}

/// The class named by `model_type`, or else by `architectures`.
fn family(config: &Map<String, Value>) -> Option<ModelFamily> {
    let by_name = |name: &str| match name {
        "otter" => Some(ModelFamily::Otter),
        "flamingo" => Some(ModelFamily::Flamingo),
        _ if name.starts_with("Otter") => Some(ModelFamily::Otter),
        _ if name.starts_with("Flamingo") => Some(ModelFamily::Flamingo),
        _ => None,
    };
    let named = config.get("model_type").and_then(Value::as_str).and_then(by_name);
    named.or_else(|| architecture(config).and_then(by_name))
}

fn architecture(config: &Map<String, Value>) -> Option<&str> {
    match config.get("architectures")? {
        Value::Array(list) => list.first()?.as_str(),
        other => other.as_str(),
    }
}

/// Writers mix the two: the released OTTER-Image-MPT7B is an Otter under the name of the other class.
fn classes_differ(config: &Map<String, Value>) -> Option<String> {
    let (kind, class) = (config.get("model_type")?.as_str()?, architecture(config)?);
    let differs =
        kind == "otter" && class.starts_with("Flamingo") || kind == "flamingo" && class.starts_with("Otter");
    differs.then(|| format!("model_type is {kind} but architectures says {class}; model_type counts"))
}

fn summaries(tensors: &[(String, TensorEntry)], tied: bool, tower: bool) -> Vec<TensorSummary> {
    let stored_input = tensors.iter().any(|(name, _)| is_input_table(name));
    let summary = |(name, entry): &(String, TensorEntry)| {
        let alias = tied && stored_input && is_output_table(name);
        let reason = if alias { Some("tied to the input table") } else { reason_to_ignore(name) };
        TensorSummary {
            name: name.clone(),
            part: Part::of_checkpoint(name, tower),
            dtype: entry.dtype,
            shape: entry.shape.clone(),
            elements: entry.elements(),
            ignored: reason.map(str::to_owned),
        }
    };
    tensors.iter().map(summary).collect()
}

fn part_sums(tensors: &[TensorSummary]) -> Vec<PartSummary> {
    let sum = |part: Part| {
        let own = || tensors.iter().filter(move |tensor| tensor.ignored.is_none() && tensor.part == part);
        let mut dtypes: BTreeMap<&str, (StoredDType, usize)> = BTreeMap::new();
        for tensor in own() {
            dtypes.entry(tensor.dtype.name()).or_insert((tensor.dtype, 0)).1 += 1;
        }
        PartSummary {
            part,
            tensors: own().count(),
            parameters: own().map(|tensor| tensor.elements).sum(),
            bytes: own().filter_map(|tensor| tensor.dtype.bytes_of(tensor.elements)).sum(),
            dtypes: dtypes.into_values().collect(),
        }
    };
    Part::ALL.into_iter().map(sum).filter(|part| part.tensors > 0).collect()
}

fn tied_tables(
    config: Option<&Map<String, Value>>,
    tensors: &[(String, TensorEntry)],
    otter: bool,
) -> TiedTables {
    let declared = config.and_then(|config| config.get("tie_word_embeddings")).and_then(Value::as_bool);
    let table =
        |test: &dyn Fn(&str) -> bool| tensors.iter().find(|(name, _)| test(name)).map(|(_, entry)| entry);
    let both = table(&|name| is_input_table(name)).zip(table(&|name| is_output_table(name)));
    // Tables that are read apart in any case need no comparison, which can take seconds.
    let matters = otter && declared != Some(false);
    let identical = both.filter(|_| matters).map(|(input, output)| same_elements(input, output));
    TiedTables { declared, both_stored: both.is_some(), identical, trap: identical == Some(false) }
}

/// Whether two tensors hold the same elements. Stops at the first difference.
fn same_elements(left: &TensorEntry, right: &TensorEntry) -> bool {
    if left.shape != right.shape || left.dtype != right.dtype {
        return false;
    }
    // Tables are written row after row; other views count as different only where they really are.
    let (a, b) = (&left.location, &right.location);
    if left.strides == right.strides {
        return a.map.get(a.bytes.clone()) == b.map.get(b.bytes.clone());
    }
    let rows = left.shape.first().copied().unwrap_or(0);
    (0..rows).all(|at| left.row_f32(at) == right.row_f32(at))
}

/// 8.2 B, 57 M, 12 k.
fn billions(number: u64) -> String {
    let number = number as f64;
    for (unit, size) in [(" B", 1e9), (" M", 1e6), (" k", 1e3)] {
        if number >= size {
            let scaled = number / size;
            return if scaled < 10.0 { format!("{scaled:.1}{unit}") } else { format!("{scaled:.0}{unit}") };
        }
    }
    number.to_string()
}

#[cfg(test)]
mod tests {
    use super::billions;

    #[test]
    fn counts_are_short() {
        assert_eq!(billions(8_220_463_120), "8.2 B");
        assert_eq!(billions(14_462_198_794), "14 B");
        assert_eq!(billions(990_276), "990 k");
        assert_eq!(billions(12), "12");
    }
}
