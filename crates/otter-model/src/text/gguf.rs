//! Language models in files of llama.cpp: what it calls their tensors, and in which order its converter put the rows. Each
//! family has its tables and reads its sizes from the metadata; `{}` stands for the number of the layer. The names end in
//! `.weight` or `.bias` in both worlds.

use serde_json::Value;

use super::family::{FAMILIES, Family};

/// How rows were moved when the file was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moved {
    /// Not at all.
    No,
    /// The halves of each query head were interleaved, for rotary positions on neighboring elements.
    QueryHeads,
    /// As above, of each key head.
    KeyHeads,
    /// Groups of queries, key and value were taken apart into all queries, all keys, all values.
    Fused,
}

/// Numbers of one language model in the metadata of a file, by their keys without the name of the architecture in front.
/// Errors are messages that name the key.
pub trait GgufMetadata {
    /// A number that is not negative, if the key is there.
    ///
    /// # Errors
    /// Another value.
    fn optional_size(&self, key: &str) -> Result<Option<usize>, String>;
    /// A number that is at least 1.
    ///
    /// # Errors
    /// No such key, or another value.
    fn size(&self, key: &str) -> Result<usize, String>;
    /// A number.
    ///
    /// # Errors
    /// Another value.
    fn real(&self, key: &str) -> Result<Option<f64>, String>;
    /// True or false.
    ///
    /// # Errors
    /// Another value.
    fn flag(&self, key: &str) -> Result<Option<bool>, String>;
    /// Whether there is such a tensor.
    fn has(&self, tensor: &str) -> bool;
    /// Key and value heads; as many as query heads when the file does not say.
    ///
    /// # Errors
    /// As [`GgufMetadata::size`].
    fn key_heads(&self) -> Result<usize, String>;
    /// `rope_scaling` of a configuration, for heads of `head_dim` features.
    ///
    /// # Errors
    /// Another kind of scaling.
    fn rope_scaling(&self, head_dim: usize) -> Result<Option<Value>, String>;
}

/// A language model that llama.cpp and this project both know.
#[derive(Debug)]
pub struct GgufArchitecture {
    /// `general.architecture`.
    pub name: &'static str,
    /// Names of tensors: theirs, Hugging Face's, and how the rows were moved.
    pub tensors: &'static [(&'static str, &'static str, Moved)],
    /// Not parameters: what they are instead.
    pub dropped: &'static [(&'static str, &'static str)],
    /// Settings that other models do not compute and this one does.
    pub computed: &'static [&'static str],
    /// Whether rotary positions turn whole heads.
    pub turns_whole_heads: bool,
    /// The sizes, in the keys of a `text_config`.
    pub config: fn(&dyn GgufMetadata) -> Result<Value, String>,
}

/// What becomes of a tensor of a llama.cpp file.
#[derive(Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is this parameter.
    Parameter(String, Moved),
    /// It is no parameter, for this reason.
    Dropped(&'static str),
}

fn all() -> impl Iterator<Item = (&'static Family, &'static GgufArchitecture)> {
    FAMILIES.into_iter().flat_map(|family| family.gguf.iter().map(move |known| (family, known)))
}

impl GgufArchitecture {
    /// The architecture of this name; files with a second norm in a layer are of its newer kind, where there are two.
    pub fn find(name: &str, has_second_norm: bool) -> Option<(&'static Family, &'static Self)> {
        let mut kinds = all().filter(|(_, known)| known.name == name);
        let first = kinds.next();
        if has_second_norm { kinds.next().or(first) } else { first }
    }

    /// Names of all architectures.
    pub fn names() -> String {
        let mut names: Vec<&str> = all().map(|(_, known)| known.name).collect();
        names.dedup();
        names.join(", ")
    }

    /// The Hugging Face name of a tensor, or why it has none; `None` when the name is unknown.
    pub fn fate(&self, name: &str) -> Option<Fate> {
        let (stem, ending) = name.rsplit_once('.')?;
        if !matches!(ending, "weight" | "bias") {
            return None;
        }
        if let Some((_, reason)) = self.dropped.iter().find(|(pattern, _)| layer_of(pattern, stem).is_some())
        {
            return Some(Fate::Dropped(reason));
        }
        self.tensors.iter().find_map(|(own, other, moved)| {
            let layer = layer_of(own, stem)?;
            Some(Fate::Parameter(format!("{}.{ending}", other.replace("{}", layer)), *moved))
        })
    }
}

/// The number that stands for `{}`; empty where the pattern has none.
fn layer_of<'n>(pattern: &str, name: &'n str) -> Option<&'n str> {
    let Some((before, after)) = pattern.split_once("{}") else {
        return (pattern == name).then_some("");
    };
    let number = name.strip_prefix(before)?.strip_suffix(after)?;
    let plain = !number.is_empty() && number.len() <= 4 && number.bytes().all(|byte| byte.is_ascii_digit());
    (plain && (number == "0" || !number.starts_with('0'))).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::families::{LLAMA, MPT};
    use std::collections::HashSet;

    #[test]
    fn names_are_told_apart() {
        let parameter = |name: &str, moved| Some(Fate::Parameter(name.to_owned(), moved));
        assert_eq!(
            LLAMA.gguf[0].fate("blk.31.attn_q.weight"),
            parameter("model.layers.31.self_attn.q_proj.weight", Moved::QueryHeads)
        );
        assert_eq!(LLAMA.gguf[0].fate("output.weight"), parameter("lm_head.weight", Moved::No));
        assert_eq!(LLAMA.gguf[0].fate("output_norm.weight"), parameter("model.norm.weight", Moved::No));
        assert!(matches!(LLAMA.gguf[0].fate("rope_freqs.weight"), Some(Fate::Dropped(_))));
        assert!(matches!(MPT.gguf[0].fate("output.weight"), Some(Fate::Dropped(_))));
        for unknown in
            ["blk.1.ffn_gate_exps.weight", "blk.01.attn_q.weight", "blk..attn_q.weight", "output", "x"]
        {
            assert_eq!(LLAMA.gguf[0].fate(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn falcon_has_two_kinds() {
        let fate = |second| {
            GgufArchitecture::find("falcon", second).and_then(|(_, known)| known.fate("blk.0.attn_norm.bias"))
        };
        assert_eq!(
            fate(false),
            Some(Fate::Parameter("transformer.h.0.input_layernorm.bias".to_owned(), Moved::No))
        );
        assert_eq!(fate(true), Some(Fate::Parameter("transformer.h.0.ln_mlp.bias".to_owned(), Moved::No)));
        assert!(
            GgufArchitecture::find("llama", true).is_some() && GgufArchitecture::find("opt", false).is_none()
        );
    }

    /// No two names of a table meet in one, in either direction.
    #[test]
    fn tables_are_one_to_one() {
        for (_, known) in all() {
            let own: HashSet<&str> = known.tensors.iter().map(|entry| entry.0).collect();
            let other: HashSet<&str> = known.tensors.iter().map(|entry| entry.1).collect();
            assert_eq!(
                (own.len(), other.len()),
                (known.tensors.len(), known.tensors.len()),
                "{}",
                known.name
            );
            for (own, other, _) in known.tensors {
                assert_eq!(own.contains("{}"), other.contains("{}"));
                let name = format!("{}.weight", own.replace("{}", "7"));
                let expected = format!("{}.weight", other.replace("{}", "7"));
                let found = known.fate(&name);
                assert!(matches!(found, Some(Fate::Parameter(found, _)) if found == expected), "{name}");
            }
        }
    }
}
