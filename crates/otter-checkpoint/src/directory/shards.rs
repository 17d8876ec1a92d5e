//! How tensors are spread over files: consecutive tensors up to a size, numbered names, and the index.

use serde_json::{Map, Value, json};
use std::ops::Range;

/// Runs of consecutive tensors of these sizes in bytes that fit a shard together; a tensor larger than a shard stands
/// alone. There is always at least one shard.
pub(crate) fn plan(sizes: &[u64], max_shard_bytes: u64) -> Vec<Range<usize>> {
    let mut shards = Vec::new();
    let (mut start, mut total) = (0, 0u64);
    for (at, &size) in sizes.iter().enumerate() {
        if at > start && total.saturating_add(size) > max_shard_bytes {
            shards.push(start..at);
            (start, total) = (at, 0);
        }
        total += size;
    }
    shards.push(start..sizes.len());
    shards
}

/// Names of the files: `<stem>.<extension>`, or numbered from 1 when there are several.
pub(crate) fn file_names(stem: &str, extension: &str, count: usize) -> Vec<String> {
    match count {
        1 => vec![format!("{stem}.{extension}")],
        _ => (1..=count).map(|number| format!("{stem}-{number:05}-of-{count:05}.{extension}")).collect(),
    }
}

/// The index: which tensor is in which file.
pub(crate) fn index<'n>(entries: impl Iterator<Item = (&'n str, &'n str)>, total_bytes: u64) -> Value {
    let weight_map: Map<String, Value> = entries.map(|(name, file)| (name.to_owned(), json!(file))).collect();
    json!({ "metadata": { "total_size": total_bytes }, "weight_map": weight_map })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_fill_up_in_order() {
        assert_eq!(plan(&[4, 4, 4], 8), [0..2, 2..3]);
        assert_eq!(plan(&[9, 1, 9, 1], 8), [0..1, 1..2, 2..3, 3..4]);
        assert_eq!(plan(&[], 8), std::iter::once(0..0).collect::<Vec<_>>());
        assert_eq!(plan(&[1, u64::MAX], 8), [0..1, 1..2]);
        assert_eq!(file_names("model", "safetensors", 1), ["model.safetensors"]);
        assert_eq!(file_names("a", "bin", 2), ["a-00001-of-00002.bin", "a-00002-of-00002.bin"]);
    }
}
