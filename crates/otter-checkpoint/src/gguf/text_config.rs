//! `text_config` of a language model, from the metadata of a llama.cpp file and the shapes of its tensors.

use otter_formats::StoredDType;
use otter_formats::gguf::{Header, Meta};
use otter_formats::torch::printable;
use otter_model::text::Family;
use otter_model::text::gguf::{GgufArchitecture, GgufMetadata};
use serde_json::{Map, Value, json};

/// Rotary settings of published LLaMA-3 models: factor, and context before the scaling.
const LLAMA3_SCALINGS: [(f64, f64); 2] = [(8.0, 8192.0), (32.0, 8192.0)];

/// Settings of other models, each with the value at which it changes no number.
const FOREIGN: [(&str, f64); 12] = [
    ("attention.clamp_kqv", 0.0),
    ("attention.max_alibi_bias", 0.0),
    ("attention.scale", 0.0),
    ("attention.sliding_window", 0.0),
    ("attn_logit_softcapping", 0.0),
    ("embedding_scale", 1.0),
    ("expert_count", 0.0),
    ("final_logit_softcapping", 0.0),
    ("logit_scale", 1.0),
    ("residual_scale", 1.0),
    ("rope.scale_linear", 1.0),
    ("rope.scaling.attn_factor", 1.0),
];

/// Keys that an architecture's configuration is read from, or that change no number.
const KNOWN: [&str; 22] = [
    "attention.causal",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.layer_norm_epsilon",
    "attention.layer_norm_rms_epsilon",
    "attention.value_length",
    "block_count",
    "context_length",
    "embedding_length",
    "expert_used_count",
    "feed_forward_length",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scaling.factor",
    "rope.scaling.finetuned",
    "rope.scaling.original_context_length",
    "rope.scaling.type",
    "tensor_data_layout",
    "tie_word_embeddings",
    "use_parallel_residual",
    "vocab_size",
];

/// Numbers of one architecture.
pub(super) struct Sizes<'h, 'a> {
    pub header: &'h Header<'a>,
    pub family: &'static Family,
    pub architecture: &'static GgufArchitecture,
}

impl Sizes<'_, '_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture.name)
    }

    /// Rows of the embedding table.
    fn vocabulary(&self) -> Result<usize, String> {
        let table = self.header.tensors.iter().find(|claim| claim.name == "token_embd.weight");
        let rows = table.and_then(|claim| claim.shape.first().copied());
        rows.ok_or_else(|| "there is no tensor token_embd.weight".to_owned())
    }

    /// The configuration in the words of Hugging Face.
    ///
    /// # Errors
    /// When a size is missing or the model has a part that this project does not know.
    pub(super) fn text_config(&self) -> Result<Value, String> {
        self.refuse_foreign()?;
        let (class, model_type) = self.family.classes[0];
        let mut map = Map::new();
        map.insert("architectures".to_owned(), json!([class]));
        map.insert("model_type".to_owned(), json!(model_type));
        map.insert("vocab_size".to_owned(), json!(self.vocabulary()?));
        for (key, from) in [("bos_token_id", "bos"), ("eos_token_id", "eos"), ("pad_token_id", "padding")] {
            if let Some(Meta::Int(id)) = self.header.get(&format!("tokenizer.ggml.{from}_token_id")) {
                let id =
                    u32::try_from(id).map_err(|_| format!("`tokenizer.ggml.{from}_token_id` is {id}"))?;
                map.insert(key.to_owned(), json!(id));
            }
        }
        let own = (self.architecture.config)(self)?;
        let Value::Object(own) = own else { return Err("no configuration".to_owned()) };
        map.extend(own.into_iter().filter(|(_, value)| !value.is_null()));
        Ok(Value::Object(map))
    }

    /// What changes numbers in a way that is not computed is refused by its key.
    fn refuse_foreign(&self) -> Result<(), String> {
        let own = self.architecture.computed;
        for (name, neutral) in FOREIGN.iter().filter(|(name, _)| !own.contains(name)) {
            if let Some(value) = self.real(name)?
                && value != *neutral
            {
                let key = self.key(name);
                return Err(format!(
                    "`{key}` is {value}; it changes numbers and is not computed here, only {neutral} is supported"
                ));
            }
        }
        if self.header.get(&self.key("attention.causal")) == Some(Meta::Bool(false)) {
            return Err(format!(
                "`{}` is false; only causal attention is supported",
                self.key("attention.causal")
            ));
        }
        let (width, heads) = (self.size("embedding_length")?, self.size("attention.head_count")?);
        let head = self.optional_size("attention.key_length")?.unwrap_or(width / heads);
        let mut whole = vec!["attention.value_length"];
        if self.architecture.turns_whole_heads {
            whole.push("rope.dimension_count");
        }
        for name in whole {
            if let Some(length) = self.optional_size(name)?.filter(|&length| length != head) {
                return Err(format!(
                    "`{}` is {length}; only the {head} of a head are supported",
                    self.key(name)
                ));
            }
        }
        Ok(())
    }

    /// One remark that lists the keys of the architecture that nothing here knows.
    pub(super) fn unknown_keys(&self) -> Option<String> {
        let prefix = format!("{}.", self.architecture.name);
        let own = self.header.metadata.iter().filter_map(|(key, _)| key.strip_prefix(&prefix));
        let known = |name: &&str| KNOWN.contains(name) || FOREIGN.iter().any(|(known, _)| known == name);
        let unknown: Vec<String> = own
            .filter(|name| !known(name))
            .take(20)
            .map(|name| format!("`{}`", printable(&self.key(name))))
            .collect();
        (!unknown.is_empty()).then(|| {
            format!(
                "metadata that is not known here and passed over, check that it changes no numbers: {}",
                unknown.join(", ")
            )
        })
    }

    fn rope_factors(&self) -> Option<Result<Vec<f32>, String>> {
        let claim = self.header.tensors.iter().find(|claim| claim.name == "rope_freqs.weight")?;
        if claim.dtype != StoredDType::F32 {
            return Some(Err(format!("rope_freqs.weight has type {}; expected F32", claim.dtype)));
        }
        let bytes = &self.header.bytes[claim.bytes.clone()];
        Some(Ok(bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()))
    }
}

impl GgufMetadata for Sizes<'_, '_> {
    fn optional_size(&self, name: &str) -> Result<Option<usize>, String> {
        let key = self.key(name);
        match self.header.get(&key) {
            None => Ok(None),
            Some(Meta::Int(found)) => {
                usize::try_from(found).map(Some).map_err(|_| format!("`{key}` is {found}"))
            }
            Some(_) => Err(format!(
                "`{key}` is not a whole number for the whole model; other forms are not supported"
            )),
        }
    }

    fn size(&self, name: &str) -> Result<usize, String> {
        match self.optional_size(name)? {
            None => Err(format!("`{}` is missing from the metadata", self.key(name))),
            Some(0) => Err(format!("`{}` is 0", self.key(name))),
            Some(size) => Ok(size),
        }
    }

    fn real(&self, name: &str) -> Result<Option<f64>, String> {
        let key = self.key(name);
        match self.header.get(&key) {
            None => Ok(None),
            Some(Meta::Float(value)) if value.is_finite() => Ok(Some(value)),
            Some(Meta::Int(value)) => Ok(Some(value as f64)),
            Some(_) => Err(format!("`{key}` is not a number")),
        }
    }

    fn flag(&self, name: &str) -> Result<Option<bool>, String> {
        let key = self.key(name);
        match self.header.get(&key) {
            None => Ok(None),
            Some(Meta::Bool(flag)) => Ok(Some(flag)),
            Some(_) => Err(format!("`{key}` is not true or false")),
        }
    }

    fn has(&self, tensor: &str) -> bool {
        self.header.tensors.iter().any(|claim| claim.name == tensor)
    }

    fn key_heads(&self) -> Result<usize, String> {
        Ok(match self.optional_size("attention.head_count_kv")? {
            None | Some(0) => self.size("attention.head_count")?,
            Some(heads) => heads,
        })
    }

    /// Linear scaling stands in the metadata; that of LLaMA 3 only as a tensor of factors, which is compared with those of
    /// the published models.
    fn rope_scaling(&self, head_dim: usize) -> Result<Option<Value>, String> {
        let kind = self.header.get(&self.key("rope.scaling.type"));
        let factor = self.real("rope.scaling.factor")?;
        match kind {
            None | Some(Meta::Text("none")) => {}
            Some(Meta::Text("linear")) if self.rope_factors().is_none() => {
                let factor =
                    factor.ok_or_else(|| format!("`{}` is missing", self.key("rope.scaling.factor")))?;
                return Ok(Some(json!({ "type": "linear", "factor": factor })));
            }
            Some(other) => {
                return Err(format!("rotary scaling {other:?}; supported are none, linear and llama3"));
            }
        }
        let Some(found) = self.rope_factors() else { return Ok(None) };
        let found = found?;
        let theta = self.real("rope.freq_base")?.unwrap_or(10_000.0);
        for (factor, context) in LLAMA3_SCALINGS {
            let expected = llama3_factors(head_dim, theta, factor, context);
            let close = |(a, b): (&f32, &f64)| (f64::from(*a) - b).abs() <= 1e-3 * b;
            if found.len() == expected.len() && found.iter().zip(&expected).all(close) {
                return Ok(Some(json!({
                    "rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                    "original_max_position_embeddings": context as usize,
                })));
            }
        }
        Err("rope_freqs.weight holds factors that belong to no published LLaMA 3; \
             give the configuration of the original model instead"
            .to_owned())
    }
}

/// By what each rotary frequency of a LLaMA 3 is divided: long waves by `factor`, short ones by 1, and those between
/// a quarter and the whole of the old context by something in between.
fn llama3_factors(head_dim: usize, theta: f64, factor: f64, context: f64) -> Vec<f64> {
    let (low, high) = (1.0, 4.0);
    (0..head_dim / 2)
        .map(|pair| {
            let wavelength = std::f64::consts::TAU * theta.powf(2.0 * pair as f64 / head_dim as f64);
            if wavelength < context / high {
                1.0
            } else if wavelength > context / low {
                factor
            } else {
                let smooth = (context / wavelength - low) / (high - low);
                1.0 / ((1.0 - smooth) / factor + smooth)
            }
        })
        .collect()
}
