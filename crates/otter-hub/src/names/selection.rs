//! Which files of a repository a model needs.
//!
//! With `--include` patterns, what they match. Without, everything but: states of a training run, copies of the weights
//! in formats of other frameworks, a second copy of the weights (safetensors are preferred to pickles, shards with an
//! index to the one-file form), pictures and films, git's own files. `--exclude` removes from either; what it removes
//! does not count as a copy.

use std::collections::BTreeSet;
use std::fmt;

use crate::error::{HubError, Result};
use crate::names::glob::Glob;
use crate::names::remote_path::RemotePath;
use crate::names::repository::RepositoryId;
use crate::transport::source::RemoteFile;

/// What the user asks for.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Patterns of files to take; none: the usual ones.
    pub include: Vec<Glob>,
    /// Patterns of files to leave.
    pub exclude: Vec<Glob>,
}

/// Why a file is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Skipped {
    /// A pattern of `--exclude` matches.
    Excluded,
    /// No pattern of `--include` matches.
    NotIncluded,
    /// Optimizer, scheduler, logs and the like.
    TrainingState,
    /// Weights for another framework.
    OtherFramework,
    /// The same weights are there in a better form.
    SecondCopy,
    /// Pictures and films.
    Media,
    /// Git's own files.
    GitFile,
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Excluded => "excluded",
            Self::NotIncluded => "not included",
            Self::TrainingState => "state of a training run",
            Self::OtherFramework => "weights for another framework",
            Self::SecondCopy => "second copy of the weights",
            Self::Media => "pictures and films",
            Self::GitFile => "git's own",
        })
    }
}

/// Files to take, and files to leave with the reason.
pub type Division = (Vec<RemoteFile>, Vec<(RemoteFile, Skipped)>);

impl Selection {
    /// Divides files into those to take and those to leave.
    ///
    /// # Errors
    /// When nothing is left to take, or one of several quantized forms must be chosen.
    pub fn divide(&self, id: &RepositoryId, files: Vec<RemoteFile>) -> Result<Division> {
        let total = files.len();
        let mut skipped = Vec::new();
        let mut kept = Vec::new();
        let matches =
            |patterns: &[Glob], path: &RemotePath| patterns.iter().any(|p| p.matches(path.as_str()));
        for file in files {
            let reason = if matches(&self.exclude, &file.path) {
                Some(Skipped::Excluded)
            } else if !self.include.is_empty() {
                (!matches(&self.include, &file.path)).then_some(Skipped::NotIncluded)
            } else {
                not_of_a_model(&file.path)
            };
            match reason {
                Some(reason) => skipped.push((file, reason)),
                None => kept.push(file),
            }
        }
        if self.include.is_empty() {
            let names: BTreeSet<String> = kept.iter().map(|file| file.path.to_string()).collect();
            let (first, second) = kept.into_iter().partition(|file| !is_second_copy(&file.path, &names));
            kept = first;
            skipped.extend(Vec::into_iter(second).map(|file| (file, Skipped::SecondCopy)));
            one_quantized_form(id, &kept)?;
        }
        if kept.is_empty() {
            let shown: Vec<&str> = skipped.iter().take(5).map(|(file, _)| file.path.as_str()).collect();
            let problem = match total {
                0 => "the repository holds no files".to_string(),
                _ => format!(
                    "none of its {total} files is chosen ({}{}); change --include and --exclude",
                    shown.join(", "),
                    if total > shown.len() { ", …" } else { "" }
                ),
            };
            return Err(HubError::Selection { what: id.to_string(), problem });
        }
        Ok((kept, skipped))
    }
}

/// What no model needs, by name alone.
fn not_of_a_model(path: &RemotePath) -> Option<Skipped> {
    let full = path.as_str().to_ascii_lowercase();
    let name = path.file_name().to_ascii_lowercase();
    let folders = || full.split('/').rev().skip(1);
    let in_folder = |names: &[&str]| folders().any(|part| names.contains(&part));
    let in_numbered_folder = |prefix: &str| folders().any(|part| number_behind(part, prefix));
    let ends = |ends: &[&str]| ends.iter().any(|end| name.ends_with(end));
    if matches!(name.as_str(), ".gitattributes" | ".gitignore" | ".gitmodules") {
        return Some(Skipped::GitFile);
    }
    let state_files = [
        "optimizer.pt",
        "optimizer.bin",
        "optimizer.pth",
        "optimizer.safetensors",
        "scheduler.pt",
        "scheduler.bin",
        "scaler.pt",
        "training_args.bin",
        "training_state.pt",
        "trainer_state.json",
    ];
    if state_files.contains(&name.as_str())
        || (name.starts_with("rng_state") && name.ends_with(".pth"))
        || name.contains("optim_states")
        || name.starts_with("events.out.tfevents")
        || in_folder(&["runs", "wandb", "logs"])
        || in_numbered_folder("checkpoint-")
        || in_numbered_folder("global_step")
    {
        return Some(Skipped::TrainingState);
    }
    if ends(&[
        ".onnx",
        ".onnx_data",
        ".msgpack",
        ".h5",
        ".ot",
        ".tflite",
        ".mlmodel",
        ".mlpackage",
        ".pdparams",
        ".nemo",
        ".xml",
        ".engine",
        ".llamafile",
    ]) || in_folder(&["onnx", "openvino", "coreml", "flax", "tf", "tensorrt"])
        || name.starts_with("openvino_")
        || name == "model.ckpt.index"
    {
        return Some(Skipped::OtherFramework);
    }
    if ends(&[".png", ".jpg", ".jpeg", ".gif", ".webp", ".svg", ".mp4", ".mov", ".webm", ".avi", ".pdf"]) {
        return Some(Skipped::Media);
    }
    None
}

/// `checkpoint-500` for the prefix `checkpoint-`.
fn number_behind(text: &str, prefix: &str) -> bool {
    text.strip_prefix(prefix).is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()))
}

/// Whether a better form of these weights is among `names`.
fn is_second_copy(path: &RemotePath, names: &BTreeSet<String>) -> bool {
    let beside = |name: &str| match path.folder() {
        "" => name.to_string(),
        folder => format!("{folder}/{name}"),
    };
    let has = |name: &str| names.contains(&beside(name));
    let has_form = |stem: &str, end: &str| {
        let first = beside(&format!("{stem}-"));
        has(&format!("{stem}{end}"))
            || has(&format!("{stem}{end}.index.json"))
            || names.range(first.clone()..).take_while(|n| n.starts_with(&first)).any(|n| n.ends_with(end))
    };
    let name = path.file_name();
    let safetensors = has_form("model", ".safetensors");
    let pickle = has_form("pytorch_model", ".bin");

    // One file although there are shards with an index.
    if (name == "model.safetensors" && has("model.safetensors.index.json"))
        || (name == "pytorch_model.bin" && has("pytorch_model.bin.index.json"))
    {
        return true;
    }
    // The weights in the names of another library.
    if name.starts_with("consolidated.") && (safetensors || pickle) {
        return true;
    }
    if path.folder() == "original" && names.iter().any(|n| !n.contains('/') && is_weights(n)) {
        return true;
    }
    if name.starts_with("pytorch_model") && (name.ends_with(".bin") || name.ends_with(".bin.index.json")) {
        return safetensors;
    }
    let stem = name.strip_suffix(".bin").or_else(|| name.strip_suffix(".pt"));
    if stem.is_some_and(|stem| has(&format!("{stem}.safetensors"))) {
        return true;
    }
    if [".pt", ".pth", ".ckpt"].iter().any(|end| name.ends_with(end)) {
        return safetensors || pickle;
    }
    name.ends_with(".gguf") && (safetensors || pickle)
}

fn is_weights(name: &str) -> bool {
    name.ends_with(".safetensors") || name.ends_with(".bin")
}

/// A repository of quantized forms holds many models in one; taking all of them is never meant.
fn one_quantized_form(id: &RepositoryId, kept: &[RemoteFile]) -> Result<()> {
    let forms: Vec<&str> =
        kept.iter().map(|f| f.path.as_str()).filter(|name| name.ends_with(".gguf")).collect();
    let is_one = forms.len() < 2 || forms.iter().all(|name| name.contains("-of-"));
    if is_one {
        return Ok(());
    }
    let shown = forms.iter().take(6).copied().collect::<Vec<_>>().join(", ");
    let more = if forms.len() > 6 { ", …" } else { "" };
    Err(HubError::Selection {
        what: id.to_string(),
        problem: format!(
            "it holds {} GGUF files ({shown}{more}); choose with --include '{}' --include '*.json'",
            forms.len(),
            forms[0]
        ),
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::local::checksum::Checksum;

    fn files(names: &[&str]) -> Vec<RemoteFile> {
        let file = |name: &&str| RemoteFile {
            path: RemotePath::parse(name).unwrap(),
            size: 1,
            checksum: Checksum::GitBlob(String::new()),
        };
        names.iter().map(file).collect()
    }

    fn chosen(selection: &Selection, names: &[&str]) -> Vec<String> {
        let id = "org/name".parse().unwrap();
        let (kept, skipped) = selection.divide(&id, files(names)).unwrap();
        assert_eq!(kept.len() + skipped.len(), names.len());
        kept.iter().map(|file| file.path.to_string()).collect()
    }

    fn glob(text: &str) -> Glob {
        Glob::parse(text).unwrap()
    }

    #[test]
    fn one_copy_of_the_weights_and_what_belongs_to_it() {
        let usual = Selection::default();
        for (names, expected) in [
            // A released Otter: pickled shards only.
            (
                &[
                    "config.json",
                    "pytorch_model-00001-of-00002.bin",
                    "pytorch_model-00002-of-00002.bin",
                    "pytorch_model.bin.index.json",
                    "tokenizer.json",
                    ".gitattributes",
                    "demo.png",
                ][..],
                &[
                    "config.json",
                    "pytorch_model-00001-of-00002.bin",
                    "pytorch_model-00002-of-00002.bin",
                    "pytorch_model.bin.index.json",
                    "tokenizer.json",
                ][..],
            ),
            // OpenFlamingo: one training file.
            (&["README.md", "checkpoint.pt"], &["README.md", "checkpoint.pt"]),
            // Both forms, and the states of the run.
            (
                &[
                    "model.safetensors",
                    "pytorch_model.bin",
                    "optimizer.pt",
                    "rng_state_0.pth",
                    "training_args.bin",
                    "checkpoint-500/model.safetensors",
                    "global_step12/x_optim_states.pt",
                    "final_weights.pt",
                ],
                &["model.safetensors"],
            ),
            // Both forms in shards.
            (
                &[
                    "model-00001-of-00001.safetensors",
                    "model.safetensors.index.json",
                    "model.safetensors",
                    "pytorch_model-00001-of-00001.bin",
                    "pytorch_model.bin.index.json",
                ],
                &["model-00001-of-00001.safetensors", "model.safetensors.index.json"],
            ),
            // An adapter beside a pickled model does not stand for it.
            (
                &["adapter_model.safetensors", "adapter_model.bin", "pytorch_model.bin"],
                &["adapter_model.safetensors", "pytorch_model.bin"],
            ),
            // Weights in a folder do not stand for those above.
            (
                &["vision/model.safetensors", "vision/pytorch_model.bin", "pytorch_model.bin"],
                &["vision/model.safetensors", "pytorch_model.bin"],
            ),
            // CLIP: every framework there is.
            (
                &[
                    "flax_model.msgpack",
                    "tf_model.h5",
                    "onnx/model.onnx",
                    "onnx/config.json",
                    "rust_model.ot",
                    "pytorch_model.bin",
                    "model.safetensors",
                    "vocab.json",
                    "merges.txt",
                ],
                &["model.safetensors", "vocab.json", "merges.txt"],
            ),
            // LLaMA: the original names beside the converted ones.
            (
                &[
                    "original/consolidated.00.pth",
                    "original/params.json",
                    "consolidated.safetensors",
                    "model.safetensors",
                    "tokenizer.model",
                ],
                &["model.safetensors", "tokenizer.model"],
            ),
        ] {
            assert_eq!(chosen(&usual, names), expected);
        }
    }

    #[test]
    fn patterns_replace_and_narrow_the_usual_choice() {
        let names = ["model.safetensors", "pytorch_model.bin", "optimizer.pt", "config.json"];
        let no_safetensors = Selection { include: Vec::new(), exclude: vec![glob("*.safetensors")] };
        assert_eq!(chosen(&no_safetensors, &names), ["pytorch_model.bin", "config.json"]);
        let states = Selection { include: vec![glob("*.pt"), glob("config.*")], exclude: Vec::new() };
        assert_eq!(chosen(&states, &names), ["optimizer.pt", "config.json"]);
        let nothing = Selection { include: vec![glob("nope")], exclude: Vec::new() };
        let error = nothing.divide(&"a/b".parse().unwrap(), files(&names)).unwrap_err().to_string();
        assert!(error.contains("none of its 4 files") && error.contains("--include"), "{error}");
    }

    #[test]
    fn one_of_several_quantized_forms_must_be_chosen() {
        let id = "a/b".parse().unwrap();
        let many = files(&["m.Q4_0.gguf", "m.Q8_0.gguf"]);
        let error = Selection::default().divide(&id, many).unwrap_err().to_string();
        assert!(error.contains("m.Q4_0.gguf, m.Q8_0.gguf") && error.contains("--include"), "{error}");
        assert_eq!(chosen(&Selection::default(), &["m.Q4_0.gguf"]).len(), 1);
        let shards = ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"];
        assert_eq!(chosen(&Selection::default(), &shards).len(), 2);
    }
}
