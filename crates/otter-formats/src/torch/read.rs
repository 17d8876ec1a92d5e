//! PyTorch files (`.bin`, `.pt`): the ZIP form of every current writer and the legacy form before
//! PyTorch 1.6. Both hold a pickle that describes tensors as views of storages.

use super::pickle::{
    self, LONGEST_PICKLE, Node, Pickle, StorageReference, TensorReference, Value, printable,
};
use super::zip;
use crate::Content;
use crate::error::{FormatError, Result};
use crate::mapped::Location;
use crate::stored_tensor::{RowOrder, TensorEntry, checked_elements};
use memmap2::Mmap;
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// First object of the legacy form.
const LEGACY_MAGIC: i128 = 0x1950_a86a_20f9_469c_fc6c;
const LEGACY_PROTOCOL: i128 = 1001;
/// Dicts nested deeper than this hold no weights.
const DEEPEST: usize = 4;
/// Most remarks kept about things that are not tensors.
const MOST_NOTES: usize = 100;
/// Where trainers keep the weights beside optimizer state and counters.
const MODEL_KEYS: [&str; 4] = ["model_state_dict", "model", "state_dict", "module"];

/// Tensor entries of a mapped PyTorch file, in the order of the state dict.
///
/// # Errors
/// When the file is truncated, damaged, or asks for anything but tensors.
pub fn read(path: &Path, map: &Arc<Mmap>) -> Result<Content> {
    if is_zip(map) { read_zip(path, map) } else { read_legacy(path, map) }
}

/// Whether a file begins like a ZIP archive, also like an empty one.
pub fn is_zip(bytes: &[u8]) -> bool {
    bytes.starts_with(b"PK\x03\x04") || bytes.starts_with(b"PK\x05\x06")
}

fn read_zip(path: &Path, map: &Arc<Mmap>) -> Result<Content> {
    let bad = |problem: String| FormatError::damaged(path, problem);
    let members = zip::members(path, map)?;
    let mut stems = members.keys().filter_map(|name| name.strip_suffix("/data.pkl"));
    let (Some(stem), None) = (stems.next(), stems.next()) else {
        return Err(
            bad("expected exactly one member <name>/data.pkl; this is not a PyTorch file".to_owned()),
        );
    };
    let member = |name: &str| members.get(&format!("{stem}/{name}")).cloned();
    if let Some(order) = member("byteorder")
        && map[order.clone()] != *b"little"
    {
        return Err(bad("the file was written on a big-endian machine, which is not supported".to_owned()));
    }
    let range = member("data.pkl").unwrap_or_default();
    if range.len() > LONGEST_PICKLE {
        let length = range.len();
        return Err(bad(format!("data.pkl has {length} bytes; at most {LONGEST_PICKLE} are accepted")));
    }
    let pickle = pickle::read(&map[range]).map_err(bad)?;
    let storages = |storage: &StorageReference<'_>| {
        if storage.key.is_empty() || !storage.key.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(format!("storage key `{}` is not a number", printable(storage.key)));
        }
        let found = member(&format!("data/{}", storage.key));
        found.ok_or_else(|| format!("storage {} is missing from the archive", storage.key))
    };
    Collector { path: Arc::from(path), map, pickle: &pickle, storages: &storages }.collect()
}

fn read_legacy(path: &Path, map: &Arc<Mmap>) -> Result<Content> {
    let bad = |problem: String| FormatError::damaged(path, problem);
    let mut at = 0;
    let mut next = || -> Result<Pickle<'_>> {
        let pickle = pickle::read(&map[at..]).map_err(bad)?;
        at += pickle.consumed;
        Ok(pickle)
    };
    if next()?.root != Value::Int(LEGACY_MAGIC) {
        return Err(bad("neither a ZIP archive nor the legacy form: this is not a PyTorch file".to_owned()));
    }
    if next()?.root != Value::Int(LEGACY_PROTOCOL) {
        return Err(bad(format!("legacy form of an unknown version; expected {LEGACY_PROTOCOL}")));
    }
    let system = next()?;
    let little = |(key, value): &(Value<'_>, Value<'_>)| {
        *key == Value::Str("little_endian") && *value == Value::Bool(false)
    };
    if dict(&system, system.root).is_some_and(|items| items.iter().any(little)) {
        return Err(bad("the file was written on a big-endian machine, which is not supported".to_owned()));
    }
    let object = next()?;
    let keys = next()?;
    let Value::Node(list) = keys.root else { return Err(bad("the list of storages is missing".to_owned())) };
    let Node::List(list) = &keys.nodes[list] else {
        return Err(bad("the list of storages is missing".to_owned()));
    };
    let known: HashMap<&str, StorageReference<'_>> = object
        .nodes
        .iter()
        .filter_map(
            |node| if let Node::Storage(storage) = node { Some((storage.key, *storage)) } else { None },
        )
        .collect();
    let mut ranges = HashMap::new();
    for key in list {
        let Value::Str(key) = *key else { return Err(bad("a storage key is not a text".to_owned())) };
        let storage = known
            .get(key)
            .ok_or_else(|| bad(format!("storage `{}` belongs to no tensor", printable(key))))?;
        let truncated = || bad(format!("storage `{}`: the file is truncated", printable(key)));
        let count = map[at..].first_chunk::<8>().copied().map(u64::from_le_bytes).ok_or_else(truncated)?;
        let count = usize::try_from(count).map_err(|_| truncated())?;
        let end = count.checked_mul(storage.dtype.size()).and_then(|size| size.checked_add(at + 8));
        let end = end.filter(|&end| end <= map.len()).ok_or_else(truncated)?;
        if ranges.insert(key.to_owned(), at + 8..end).is_some() {
            return Err(bad(format!("storage `{}` is listed twice", printable(key))));
        }
        at = end;
    }
    let storages = |storage: &StorageReference<'_>| {
        let found = ranges.get(storage.key).cloned();
        found.ok_or_else(|| format!("storage `{}` is missing from the file", printable(storage.key)))
    };
    Collector { path: Arc::from(path), map, pickle: &object, storages: &storages }.collect()
}

fn dict<'p, 'a>(pickle: &'p Pickle<'a>, value: Value<'a>) -> Option<&'p [(Value<'a>, Value<'a>)]> {
    match value {
        Value::Node(index) => match &pickle.nodes[index] {
            Node::Dict(items) => Some(items),
            _ => None,
        },
        _ => None,
    }
}

/// Byte range of a storage in the file.
type FindStorage<'f> = &'f dyn Fn(&StorageReference<'_>) -> std::result::Result<Range<usize>, String>;

struct Collector<'c, 'a> {
    path: Arc<Path>,
    map: &'c Arc<Mmap>,
    pickle: &'c Pickle<'a>,
    storages: FindStorage<'c>,
}

impl Collector<'_, '_> {
    fn collect(&self) -> Result<Content> {
        let mut notes = Vec::new();
        let mut root = self.pickle.root;
        for _ in 0..DEEPEST {
            let items = dict(self.pickle, root)
                .ok_or_else(|| FormatError::damaged(&self.path, "the pickle holds no dict of tensors"))?;
            let is_model = |key: &Value<'_>| matches!(key, Value::Str(key) if MODEL_KEYS.contains(key));
            let wrapped =
                items.iter().find(|(key, value)| is_model(key) && dict(self.pickle, *value).is_some());
            let Some(&(name, inner)) = wrapped else { break };
            for (key, value) in items.iter().filter(|(key, _)| *key != name).take(MOST_NOTES) {
                if let Value::Str(key) = key {
                    notes.push(format!(
                        "`{}` of the trainer checkpoint{}",
                        printable(key),
                        self.beside(*value)
                    ));
                }
            }
            root = inner;
        }
        let items = dict(self.pickle, root).unwrap_or_default();
        let mut entries = Vec::with_capacity(items.len());
        let mut seen = HashSet::new();
        for (key, value) in items {
            let bad = |problem: String| FormatError::damaged(&self.path, problem);
            let Value::Str(name) = key else {
                return Err(bad("a tensor name is not a text".to_owned()));
            };
            let name = pickle::checked_name(name).map_err(bad)?;
            if !seen.insert(name) {
                return Err(bad(format!("the name `{}` occurs twice", printable(name))));
            }
            let tensor = match value {
                Value::Node(index) => match &self.pickle.nodes[*index] {
                    Node::Tensor(tensor) => Some(tensor),
                    _ => None,
                },
                _ => None,
            };
            match tensor {
                Some(tensor) => {
                    let entry = self
                        .entry(tensor)
                        .map_err(|problem| bad(format!("tensor `{}`: {problem}", printable(name))))?;
                    entries.push((name.to_owned(), entry));
                }
                None if notes.len() >= MOST_NOTES => {}
                None => notes.push(format!("`{}` is not a tensor", printable(name))),
            }
        }
        Ok((entries, notes))
    }

    /// What a value beside the model holds, as the end of a sentence.
    fn beside(&self, value: Value<'_>) -> String {
        let (mut tensors, mut bytes) = (0usize, 0usize);
        let mut seen = HashSet::new();
        let mut open = vec![value];
        while let Some(value) = open.pop() {
            let Value::Node(index) = value else { continue };
            if !seen.insert(index) {
                continue;
            }
            match &self.pickle.nodes[index] {
                Node::Tuple(items) | Node::List(items) => open.extend(items),
                Node::Dict(items) => open.extend(items.iter().map(|(_, value)| *value)),
                Node::Tensor(tensor) => {
                    tensors += 1;
                    let elements = checked_elements(&tensor.shape).unwrap_or(usize::MAX);
                    bytes = bytes.saturating_add(elements.saturating_mul(tensor.storage.dtype.size()));
                }
                Node::Storage(_) => {}
            }
        }
        match (value, tensors) {
            (_, 1..) => format!(" holds {tensors} tensors ({bytes} bytes), which are not model weights"),
            (Value::Int(number), _) => format!(" is {number}"),
            _ => " is not model weights".to_owned(),
        }
    }

    fn entry(&self, tensor: &TensorReference<'_>) -> std::result::Result<TensorEntry, String> {
        let storage = &tensor.storage;
        let range = (self.storages)(storage)?;
        let width = storage.dtype.size();
        if storage.elements.checked_mul(width) != Some(range.len()) {
            return Err(format!(
                "storage {} claims {} elements of {}, but the file holds {} bytes for it",
                storage.key,
                storage.elements,
                storage.dtype,
                range.len()
            ));
        }
        // The legacy form can name a part of a storage as if it were one.
        let (view_start, available) = match storage.view {
            None => (0, storage.elements),
            Some(view) if view.end <= storage.elements => (view.start, view.end - view.start),
            Some(view) => {
                let (start, end) = (view.start, view.end);
                return Err(format!(
                    "elements {start}..{end} are outside its storage of {} elements",
                    storage.elements
                ));
            }
        };
        let too_large = || format!("shape {:?} does not fit its storage of {available}", tensor.shape);
        let elements = checked_elements(&tensor.shape).ok_or_else(too_large)?;
        // An expanded view repeats elements; one that repeats more than the storage holds would let a small
        // file ask for any amount of memory.
        if elements > available {
            return Err(too_large());
        }
        let reach = tensor.shape.iter().zip(&tensor.strides).try_fold(0usize, |reach, (&length, &stride)| {
            reach.checked_add(length.saturating_sub(1).checked_mul(stride)?)
        });
        let span = if elements == 0 { Some(0) } else { reach.and_then(|reach| reach.checked_add(1)) };
        let end = span.and_then(|span| span.checked_add(tensor.offset));
        let (Some(span), Some(_)) = (span, end.filter(|&end| end <= available)) else {
            return Err(format!(
                "offset {}, shape {:?} and strides {:?} reach beyond the {} elements of its storage",
                tensor.offset, tensor.shape, tensor.strides, available
            ));
        };
        let start = range.start + (view_start + tensor.offset) * width;
        let location = Location {
            path: Arc::clone(&self.path),
            map: Arc::clone(self.map),
            bytes: start..start + span * width,
        };
        Ok(TensorEntry {
            dtype: storage.dtype,
            shape: tensor.shape.clone(),
            strides: tensor.strides.clone(),
            rows: RowOrder::Stored,
            location,
        })
    }
}
