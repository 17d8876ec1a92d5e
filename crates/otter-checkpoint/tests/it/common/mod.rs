//! Golden folders, the parameter list of a configuration, and writers of small (also hostile) files.

pub mod convert;
pub mod gguf;

use otter_model::config::OtterConfig;
use std::path::PathBuf;

/// A folder or file of the golden data.
pub fn golden(path: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden")).join(path)
}

/// Names and shapes of all parameters of a model with these sizes, as the original names them.
pub fn parameters(config: &OtterConfig) -> Vec<(String, Vec<usize>)> {
    let mut list: Vec<(String, Vec<usize>)> = Vec::new();
    let mut add = |name: String, shape: &[usize]| list.push((name, shape.to_vec()));
    let v = config.vision.hidden_size;
    let vi = config.vision.intermediate_size;
    let patch = config.vision.patch_size;
    let vision = "vision_encoder.vision_model";
    add(format!("{vision}.embeddings.class_embedding"), &[v]);
    add(format!("{vision}.embeddings.patch_embedding.weight"), &[v, 3, patch, patch]);
    add(format!("{vision}.embeddings.position_embedding.weight"), &[config.vision.num_positions(), v]);
    for name in ["pre_layrnorm", "post_layernorm"] {
        add(format!("{vision}.{name}.weight"), &[v]);
        add(format!("{vision}.{name}.bias"), &[v]);
    }
    for layer in 0..config.vision.num_hidden_layers {
        let prefix = format!("{vision}.encoder.layers.{layer}");
        for name in ["q", "k", "v", "out"] {
            add(format!("{prefix}.self_attn.{name}_proj.weight"), &[v, v]);
            add(format!("{prefix}.self_attn.{name}_proj.bias"), &[v]);
        }
        for name in ["layer_norm1", "layer_norm2"] {
            add(format!("{prefix}.{name}.weight"), &[v]);
            add(format!("{prefix}.{name}.bias"), &[v]);
        }
        add(format!("{prefix}.mlp.fc1.weight"), &[vi, v]);
        add(format!("{prefix}.mlp.fc1.bias"), &[vi]);
        add(format!("{prefix}.mlp.fc2.weight"), &[v, vi]);
        add(format!("{prefix}.mlp.fc2.bias"), &[v]);
    }
    let perceiver = &config.perceiver;
    add("perceiver.latents".to_owned(), &[perceiver.num_latents, v]);
    if let Some(frames) = perceiver.max_num_frames {
        add("perceiver.frame_embs".to_owned(), &[frames, v]);
    }
    for layer in 0..perceiver.depth {
        let prefix = format!("perceiver.layers.{layer}");
        for name in ["norm_media", "norm_latents", "feed_forward.0"] {
            add(format!("{prefix}.{name}.weight"), &[v]);
            add(format!("{prefix}.{name}.bias"), &[v]);
        }
        add(format!("{prefix}.to_q.weight"), &[perceiver.inner_dim(), v]);
        add(format!("{prefix}.to_kv.weight"), &[2 * perceiver.inner_dim(), v]);
        add(format!("{prefix}.to_out.weight"), &[v, perceiver.inner_dim()]);
        add(format!("{prefix}.feed_forward.1.weight"), &[perceiver.ff_mult * v, v]);
        add(format!("{prefix}.feed_forward.3.weight"), &[v, perceiver.ff_mult * v]);
    }
    add("perceiver.norm.weight".to_owned(), &[v]);
    add("perceiver.norm.bias".to_owned(), &[v]);
    let (d, di) = (config.text.hidden_size(), config.text.feed_forward_width());
    let kv = config.text.key_width();
    add("lang_encoder.model.embed_tokens.weight".to_owned(), &[config.text.vocab_size(), d]);
    for layer in 0..config.text.num_hidden_layers() {
        let prefix = format!("lang_encoder.model.layers.{layer}");
        if config.cross_attention.has_block(layer) {
            let prefix = format!("{prefix}.gated_cross_attn_layer");
            let cross = &config.cross_attention;
            add(format!("{prefix}.attn_gate"), &[1]);
            add(format!("{prefix}.ff_gate"), &[1]);
            for name in ["attn.norm", "feed_forward.0"] {
                add(format!("{prefix}.{name}.weight"), &[d]);
                add(format!("{prefix}.{name}.bias"), &[d]);
            }
            add(format!("{prefix}.attn.to_q.weight"), &[cross.inner_dim(), d]);
            add(format!("{prefix}.attn.to_kv.weight"), &[2 * cross.inner_dim(), v]);
            add(format!("{prefix}.attn.to_out.weight"), &[d, cross.inner_dim()]);
            add(format!("{prefix}.feed_forward.1.weight"), &[cross.ff_mult * d, d]);
            add(format!("{prefix}.feed_forward.3.weight"), &[d, cross.ff_mult * d]);
        }
        let prefix = format!("{prefix}.decoder_layer");
        for (name, rows) in [("q", d), ("k", kv), ("v", kv), ("o", d)] {
            add(format!("{prefix}.self_attn.{name}_proj.weight"), &[rows, d]);
        }
        add(format!("{prefix}.mlp.gate_proj.weight"), &[di, d]);
        add(format!("{prefix}.mlp.up_proj.weight"), &[di, d]);
        add(format!("{prefix}.mlp.down_proj.weight"), &[d, di]);
        add(format!("{prefix}.input_layernorm.weight"), &[d]);
        add(format!("{prefix}.post_attention_layernorm.weight"), &[d]);
    }
    add("lang_encoder.model.norm.weight".to_owned(), &[d]);
    if !config.tie_word_embeddings {
        add("lang_encoder.lm_head.weight".to_owned(), &[config.text.vocab_size(), d]);
    }
    list
}

/// The list in the form that the accounting takes.
pub fn borrowed(list: &[(String, Vec<usize>)]) -> impl Iterator<Item = (&str, &[usize])> {
    list.iter().map(|(name, shape)| (name.as_str(), shape.as_slice()))
}

/// A member of a hand-made ZIP archive; every field of its records can be falsified.
pub struct Member {
    pub name: String,
    pub data: Vec<u8>,
    pub method: u16,
    pub flags: u16,
    pub claimed_size: Option<u32>,
    pub local_offset: Option<u32>,
}

impl Member {
    pub fn stored(name: &str, data: &[u8]) -> Self {
        let (name, data) = (name.to_owned(), data.to_vec());
        Self { name, data, method: 0, flags: 0, claimed_size: None, local_offset: None }
    }
}

/// A ZIP archive of stored members.
pub fn zip_bytes(members: &[Member]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut directory = Vec::new();
    for member in members {
        let offset = member.local_offset.unwrap_or(bytes.len() as u32);
        let size = member.claimed_size.unwrap_or(member.data.len() as u32);
        // version, flags, method, time, date, crc, sizes, name length, extra length
        let mut common = Vec::new();
        for number in [20u16, member.flags, member.method, 0, 0] {
            common.extend(number.to_le_bytes());
        }
        for number in [0u32, size, size] {
            common.extend(number.to_le_bytes());
        }
        common.extend((member.name.len() as u16).to_le_bytes());
        common.extend(0u16.to_le_bytes());
        bytes.extend(b"PK\x03\x04");
        bytes.extend(&common);
        bytes.extend(member.name.as_bytes());
        bytes.extend(&member.data);
        directory.extend(b"PK\x01\x02\x14\x00");
        directory.extend(&common);
        directory.extend([0; 10]);
        directory.extend(offset.to_le_bytes());
        directory.extend(member.name.as_bytes());
    }
    let start = bytes.len() as u32;
    bytes.extend(&directory);
    bytes.extend(b"PK\x05\x06\0\0\0\0");
    for _ in 0..2 {
        bytes.extend((members.len() as u16).to_le_bytes());
    }
    bytes.extend((directory.len() as u32).to_le_bytes());
    bytes.extend(start.to_le_bytes());
    bytes.extend(0u16.to_le_bytes());
    bytes
}

/// Appends pickled values, as PyTorch's pickler would.
#[derive(Default)]
pub struct Pickler(pub Vec<u8>);

impl Pickler {
    pub fn new() -> Self {
        Self(vec![0x80, 2])
    }

    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    pub fn text(mut self, text: &str) -> Self {
        self.0.push(b'X');
        self.0.extend((text.len() as u32).to_le_bytes());
        self.0.extend(text.as_bytes());
        self
    }

    pub fn int(mut self, number: i64) -> Self {
        self.0.extend([0x8a, 8]);
        self.0.extend(number.to_le_bytes());
        self
    }

    pub fn ints(self, numbers: &[i64]) -> Self {
        numbers.iter().fold(self.raw(b"("), |pickler, &number| pickler.int(number)).raw(b"t")
    }

    /// `legacy` adds the sixth element of the persistent id.
    pub fn tensor(
        self,
        storage: (&str, &str, i64),
        offset: i64,
        shape: &[i64],
        strides: &[i64],
        legacy: bool,
    ) -> Self {
        let (kind, key, elements) = storage;
        self.raw(b"ctorch._utils\n_rebuild_tensor_v2\n((")
            .text("storage")
            .raw(format!("ctorch\n{kind}\n").as_bytes())
            .text(key)
            .text("cpu")
            .int(elements)
            .raw(if legacy { b"NtQ" } else { b"tQ" })
            .int(offset)
            .ints(shape)
            .ints(strides)
            .raw(b"\x89ccollections\nOrderedDict\n)RtR")
    }

    pub fn end(self) -> Vec<u8> {
        self.raw(b".").0
    }
}

/// A PyTorch file with one storage "0" and this pickle.
pub fn torch_bytes(pickle: &[u8], storage: &[u8]) -> Vec<u8> {
    zip_bytes(&[
        Member::stored("archive/data.pkl", pickle),
        Member::stored("archive/data/0", storage),
        Member::stored("archive/version", b"3\n"),
    ])
}

/// A safetensors file from a header text and its buffer.
pub fn safetensors_bytes(header: &str, buffer: &[u8]) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(buffer);
    bytes
}
