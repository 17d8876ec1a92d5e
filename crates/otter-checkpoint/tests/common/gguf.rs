//! Hand-made GGUF files, in which every number can be falsified.

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
