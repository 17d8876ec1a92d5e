//! Runs the real binary on the golden files, and makes small variants of those files.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use otter_checkpoint::Weights;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use tempfile::TempDir;

/// A file or folder of the golden data.
pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(name).canonicalize().unwrap()
}

/// A golden JSON file.
pub fn golden_json(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(golden(name)).unwrap()).unwrap()
}

/// What one run of the binary gave.
#[derive(Debug)]
pub struct Run {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Run {
    /// The run, which must have succeeded.
    #[track_caller]
    pub fn success(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:#?}");
        assert!(!self.stderr.contains("panicked"), "{self:#?}");
        self
    }

    /// The JSON documents of a successful run, one a line.
    #[track_caller]
    pub fn json_lines(self) -> Vec<Value> {
        let run = self.success();
        run.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The one JSON document of a successful run.
    #[track_caller]
    pub fn json(self) -> Value {
        let mut lines = self.json_lines();
        assert_eq!(lines.len(), 1);
        lines.remove(0)
    }

    /// Checks that the arguments were refused with a message that contains `part`.
    #[track_caller]
    pub fn usage(self, part: &str) {
        assert_eq!(self.code, Some(2), "{self:#?}");
        assert!(self.stderr.starts_with("error: "), "{self:#?}");
        assert!(self.stderr.contains(part), "no '{part}' in: {}", self.stderr);
    }

    /// The message of a run that must have failed in an orderly way and must contain all of `parts`.
    #[track_caller]
    pub fn error(self, parts: &[&str]) -> String {
        assert_eq!(self.code, Some(1), "{self:#?}");
        assert!(self.stderr.starts_with("error: "), "{self:#?}");
        assert!(!self.stderr.contains("panicked"), "{self:#?}");
        assert_eq!(self.stdout, "", "an error leaves standard output empty");
        for part in parts {
            assert!(self.stderr.contains(part), "no '{part}' in: {}", self.stderr);
        }
        self.stderr
    }
}

/// Runs the binary.
pub fn otter<S: AsRef<OsStr>>(arguments: &[S]) -> Run {
    otter_with_input(arguments, b"")
}

/// Runs the binary with something on its standard input.
pub fn otter_with_input<S: AsRef<OsStr>>(arguments: &[S], input: &[u8]) -> Run {
    let mut child = Command::new(env!("CARGO_BIN_EXE_otter"))
        .args(arguments)
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A child that ends early closes the pipe.
    let _ = child.stdin.take().unwrap().write_all(input);
    let output = child.wait_with_output().unwrap();
    Run {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Builds an argument list from strings and paths.
#[macro_export]
macro_rules! arguments {
    ($($argument:expr),* $(,)?) => {
        [$(std::ffi::OsString::from(&$argument)),*]
    };
}

/// A writable copy of a golden checkpoint with its weights as one safetensors file.
pub struct CheckpointCopy {
    directory: TempDir,
}

/// A tensor of 32-bit floats with its name.
pub type NamedFloats = (String, Vec<usize>, Vec<f32>);

impl CheckpointCopy {
    /// Copies a checkpoint; `edit` may change its tensors.
    pub fn new(checkpoint: &str, edit: impl FnOnce(&mut Vec<NamedFloats>)) -> Self {
        let source = golden(checkpoint);
        let directory = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(&source).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if !name.starts_with("pytorch_model") {
                // Copied as bytes: the golden files may be read-only, and the copy must not be.
                std::fs::write(directory.path().join(name), std::fs::read(&path).unwrap()).unwrap();
            }
        }
        let weights = Weights::open(&source).unwrap();
        let mut tensors: Vec<NamedFloats> = weights
            .names()
            .map(|name| {
                let shape = weights.get(name).unwrap().shape.clone();
                (name.to_owned(), shape, weights.read_f32(name).unwrap())
            })
            .collect();
        edit(&mut tensors);
        write_safetensors(&directory.path().join("model.safetensors"), &tensors);
        Self { directory }
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// One of its files.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Rewrites one of its JSON files.
    pub fn edit_json(&self, name: &str, edit: impl FnOnce(&mut Value)) {
        let file = self.file(name);
        let mut value: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        edit(&mut value);
        std::fs::write(&file, serde_json::to_vec(&value).unwrap()).unwrap();
    }
}

/// Writes tensors of 32-bit floats.
pub fn write_safetensors(file: &Path, tensors: &[NamedFloats]) {
    let bytes: Vec<Vec<u8>> = tensors
        .iter()
        .map(|(_, _, data)| data.iter().flat_map(|value| value.to_le_bytes()).collect())
        .collect();
    let views = tensors.iter().zip(&bytes).map(|((name, shape, _), bytes)| {
        let view = safetensors::tensor::TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap();
        (name.as_str(), view)
    });
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    std::fs::write(file, safetensors::serialize(views, Some(metadata)).unwrap()).unwrap();
}

/// Shape and elements of one tensor of a golden file of 32-bit floats.
pub fn golden_floats(file: &str, key: &str) -> (Vec<usize>, Vec<f32>) {
    let bytes = std::fs::read(golden(file)).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let view = tensors.tensor(key).unwrap();
    assert_eq!(view.dtype(), Dtype::F32);
    let elements = view.data().chunks_exact(4).map(|chunk| f32::from_le_bytes(chunk.try_into().unwrap()));
    (view.shape().to_vec(), elements.collect())
}

/// Elements of one tensor of a golden file of 64-bit integers.
pub fn golden_integers(file: &str, key: &str) -> Vec<i64> {
    let bytes = std::fs::read(golden(file)).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let view = tensors.tensor(key).unwrap();
    assert_eq!(view.dtype(), Dtype::I64);
    view.data().chunks_exact(8).map(|chunk| i64::from_le_bytes(chunk.try_into().unwrap())).collect()
}

/// The integers of a JSON array.
pub fn integers(value: &Value) -> Vec<i64> {
    value.as_array().unwrap().iter().map(|number| number.as_i64().unwrap()).collect()
}

/// The strings of a JSON array.
pub fn strings(value: &Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect()
}
