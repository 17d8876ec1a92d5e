//! Hand-made GGUF files, in which every number can be falsified.

use serde_json::Value;

/// A metadata value.
pub enum Meta<'a> {
    U32(u32),
    F32(f32),
    Bool(bool),
    Text(&'a str),
    Texts(&'a [String]),
    Floats(&'a [f32]),
    Ints(&'a [i32]),
    /// Type number and the bytes that follow it.
    Raw(u32, Vec<u8>),
}

/// A tensor: name, shape with the row length last, GGML type, bytes.
pub struct Tensor {
    pub name: String,
    pub shape: Vec<u64>,
    pub kind: u32,
    pub bytes: Vec<u8>,
    pub claimed_offset: Option<u64>,
}

impl Tensor {
    pub fn f32(name: &str, shape: &[usize], values: &[f32]) -> Self {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Self::new(name, shape, 0, bytes)
    }

    pub fn new(name: &str, shape: &[usize], kind: u32, bytes: Vec<u8>) -> Self {
        let shape = shape.iter().map(|&length| length as u64).collect();
        Self { name: name.to_owned(), shape, kind, bytes, claimed_offset: None }
    }
}

pub fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// A file of version 3 (or another).
pub fn gguf_bytes(version: u32, metadata: &[(&str, Meta<'_>)], tensors: &[Tensor]) -> Vec<u8> {
    let mut out = b"GGUF".to_vec();
    out.extend(version.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        text(&mut out, key);
        let mut list = |kind: u32, count: usize| {
            out.extend(9u32.to_le_bytes());
            out.extend(kind.to_le_bytes());
            out.extend((count as u64).to_le_bytes());
        };
        match value {
            Meta::Texts(items) => list(8, items.len()),
            Meta::Floats(items) => list(6, items.len()),
            Meta::Ints(items) => list(5, items.len()),
            Meta::U32(_) => out.extend(4u32.to_le_bytes()),
            Meta::F32(_) => out.extend(6u32.to_le_bytes()),
            Meta::Bool(_) => out.extend(7u32.to_le_bytes()),
            Meta::Text(_) => out.extend(8u32.to_le_bytes()),
            Meta::Raw(kind, _) => out.extend(kind.to_le_bytes()),
        }
        match value {
            Meta::U32(number) => out.extend(number.to_le_bytes()),
            Meta::F32(number) => out.extend(number.to_le_bytes()),
            Meta::Bool(flag) => out.push((*flag).into()),
            Meta::Text(value) => text(&mut out, value),
            Meta::Texts(items) => items.iter().for_each(|item| text(&mut out, item)),
            Meta::Floats(items) => items.iter().for_each(|item| out.extend(item.to_le_bytes())),
            Meta::Ints(items) => items.iter().for_each(|item| out.extend(item.to_le_bytes())),
            Meta::Raw(_, bytes) => out.extend(bytes),
        }
    }
    let mut offset = 0;
    for tensor in tensors {
        text(&mut out, &tensor.name);
        out.extend((tensor.shape.len() as u32).to_le_bytes());
        tensor.shape.iter().rev().for_each(|length| out.extend(length.to_le_bytes()));
        out.extend(tensor.kind.to_le_bytes());
        out.extend(tensor.claimed_offset.unwrap_or(offset).to_le_bytes());
        offset += (tensor.bytes.len() as u64).next_multiple_of(32);
    }
    out.resize(out.len().next_multiple_of(32), 0);
    for tensor in tensors {
        out.extend(&tensor.bytes);
        out.resize(out.len().next_multiple_of(32), 0);
    }
    out
}

/// Rows as llama.cpp's converter moves them.
pub fn moved(values: &[f32], order: &str, heads: usize, key_heads: usize, rows: usize) -> Vec<f32> {
    let width = values.len() / rows;
    let mut out = Vec::new();
    let mut take = |row: usize| out.extend(&values[row * width..(row + 1) * width]);
    match order {
        "query" | "key" => {
            let heads = if order == "query" { heads } else { key_heads };
            let head = rows / heads;
            for start in (0..rows).step_by(head) {
                (0..head).for_each(|at| take(start + at % 2 * (head / 2) + at / 2));
            }
        }
        "fused" => {
            let queries = heads / key_heads;
            let head = rows / (heads + 2 * key_heads);
            for parts in [0..queries, queries..queries + 1, queries + 1..queries + 2] {
                for group in 0..key_heads {
                    for part in parts.clone() {
                        (0..head).for_each(|at| take((group * (queries + 2) + part) * head + at));
                    }
                }
            }
        }
        _ => (0..rows).for_each(take),
    }
    out
}

/// The vocabulary of a `tokenizer.json` as the metadata of llama.cpp has it.
pub fn vocabulary(json: &Value) -> (Vec<String>, Vec<i32>, Vec<String>) {
    let mut tokens: Vec<(u64, String, i32)> = json["model"]["vocab"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(text, id)| (id.as_u64().unwrap(), text.clone(), if text.starts_with("<0x") { 6 } else { 1 }))
        .collect();
    for token in json["added_tokens"].as_array().unwrap() {
        let (id, text) = (token["id"].as_u64().unwrap(), token["content"].as_str().unwrap().to_owned());
        let kind = match (&*text, token["special"].as_bool().unwrap()) {
            ("<unk>", _) => 2,
            (_, true) => 3,
            (_, false) => 4,
        };
        tokens.retain(|known| known.0 != id);
        tokens.push((id, text, kind));
    }
    tokens.sort();
    let merges = json["model"]["merges"].as_array().unwrap().iter().map(|merge| match merge {
        Value::String(merge) => merge.clone(),
        pair => format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()),
    });
    let merges = merges.collect();
    (
        tokens.iter().map(|token| token.1.clone()).collect(),
        tokens.iter().map(|token| token.2).collect(),
        merges,
    )
}

/// A score for each piece that puts the merges in the order of the list.
pub fn scores(tokens: &[String], merges: &[String]) -> Vec<f32> {
    let place = |token: &String| merges.iter().position(|merge| merge.replacen(' ', "", 1) == *token);
    tokens.iter().map(|token| place(token).map_or(-1e6, |place| -(place as f32))).collect()
}
