//! A whole Otter from its parts: vision tower, language model, and a trained part or fresh values between them.

use crate::convert::elements::{rows, same_bytes};
use crate::convert::parts::bridge::{Bridge, incomplete};
use crate::convert::parts::language::{Language, WrappedTensor};
use crate::convert::parts::tokens::{RowSource, added_ids, table_rows};
use crate::convert::parts::vision::Vision;
use crate::convert::plan::{Part, PlannedTensor, SHARE_OF_COVARIANCE, widest};
use crate::convert::report::{Created, Dropped};
use crate::error::{CheckpointError, Result};
use crate::tokenizer::write::AddedSpecialTokens;
use otter_formats::TensorEntry;
use otter_model::config::{CrossAttentionConfig, PerceiverConfig};
use otter_model::flamingo::GatedCrossAttention;
use otter_model::flamingo::PerceiverResampler;
use otter_nn::{Init, ParameterSpecs};
use serde::Serialize;
use serde_json::{Map, Value, json};

/// How rows that no source holds begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NewRows {
    /// The mean of the rows of the base, and a little of their covariance: the loss of the first step is that of the base.
    #[default]
    Mean,
    /// Normal with the configuration's `initializer_range` (0.02 where it says nothing), as the original. Beside rows of
    /// another length such tokens take most of the softmax.
    Normal,
}

/// Choices that the parts do not make.
#[derive(Debug, Clone)]
pub(in crate::convert) struct AssembleOptions {
    /// Blocks before every n-th layer; told by the trained part where it has blocks.
    pub cross_attn_every: Option<usize>,
    /// Frame embeddings of a fresh resampler.
    pub max_num_frames: Option<usize>,
    /// Whether a missing resampler or missing blocks are made anew.
    pub fresh: bool,
    pub new_rows: NewRows,
    pub seed: u64,
}

/// A whole model, planned.
#[derive(Debug)]
pub(in crate::convert) struct Assembly {
    pub config: Map<String, Value>,
    pub tensors: Vec<PlannedTensor>,
    pub created: Vec<Created>,
    pub warnings: Vec<String>,
}

/// Plans the model.
///
/// # Errors
/// When the parts do not fit each other.
pub(in crate::convert) fn assemble(
    bridge: Option<&Bridge>,
    language: Language,
    vision: Vision,
    tokens: &AddedSpecialTokens,
    options: &AssembleOptions,
    dropped: &mut Vec<Dropped>,
) -> Result<Assembly> {
    let (perceiver, cross_attention) = sizes(bridge, &language, options)?;
    let mut assembly = Assembly {
        config: Map::new(),
        tensors: vision.tensors,
        created: Vec::new(),
        warnings: vision.warnings,
    };
    assembly.warnings.extend(language.warnings.iter().cloned());
    assembly.between(bridge, &language, vision.width, (&perceiver, &cross_attention), options.seed);

    let tables = assembly.tables(bridge, &language, tokens, options)?;
    let text_rows = tables.first().map_or(0, |table| table.shape[0]);
    assembly.tensors.extend(tables);
    assembly.language(bridge, &language, dropped);
    assembly.config = config_json(&language, vision.config, (&perceiver, &cross_attention), text_rows);
    Ok(assembly)
}

/// Sizes of what is between vision and language: those of the trained part, or the published ones.
fn sizes(
    bridge: Option<&Bridge>,
    language: &Language,
    options: &AssembleOptions,
) -> Result<(PerceiverConfig, CrossAttentionConfig)> {
    let trained = match bridge {
        Some(bridge) => (bridge.perceiver()?, bridge.cross_attention(language)?),
        None => (None, None),
    };
    if let (Some(bridge), false) = (bridge, options.fresh) {
        if trained.0.is_none() {
            return Err(incomplete(&bridge.path, "tensors of a Perceiver resampler (perceiver.latents)"));
        }
        if trained.1.is_none() {
            return Err(incomplete(&bridge.path, "gated cross-attention blocks of this language model"));
        }
    }
    let fresh = PerceiverConfig { max_num_frames: options.max_num_frames, ..PerceiverConfig::default() };
    let perceiver = trained.0.unwrap_or(fresh);
    let mut cross_attention = trained.1.clone().unwrap_or_default();
    if let Some(every) = options.cross_attn_every {
        if let (Some(found), Some(bridge)) = (&trained.1, bridge)
            && found.every_n_layers != every
        {
            let problem = format!(
                "its blocks stand before every {} layers, --cross-attn-every says {every}; leave the option out",
                found.every_n_layers
            );
            return Err(CheckpointError::format(&bridge.path, problem));
        }
        cross_attention.every_n_layers = every;
    }
    if cross_attention.every_n_layers == 0 || cross_attention.every_n_layers > language.layers {
        let problem = format!(
            "--cross-attn-every {} leaves no block among its {} layers; choose 1 to {}",
            cross_attention.every_n_layers, language.layers, language.layers
        );
        return Err(CheckpointError::format(&language.path, problem));
    }
    Ok((perceiver, cross_attention))
}

impl Assembly {
    /// Resampler and gated blocks, trained or fresh.
    fn between(
        &mut self,
        bridge: Option<&Bridge>,
        language: &Language,
        vision_width: usize,
        (perceiver, cross_attention): (&PerceiverConfig, &CrossAttentionConfig),
        seed: u64,
    ) {
        let is_block = |name: &str| name.contains(".gated_cross_attn_layer.");
        let trained = |test: &dyn Fn(&str) -> bool| -> Vec<PlannedTensor> {
            let tensors = bridge.map_or(&[][..], |bridge| &bridge.tensors[..]);
            tensors.iter().filter(|tensor| test(&tensor.name)).map(copy).collect()
        };
        let resampler = trained(&|name| name.starts_with("perceiver."));
        if resampler.is_empty() {
            let mut specs = ParameterSpecs::default();
            PerceiverResampler::new(&mut specs, "perceiver", vision_width, perceiver);
            self.fresh(
                &specs,
                "perceiver.*",
                "latents and frame embeddings N(0, 1), matrices uniform, norms 1",
                seed,
            );
        }
        self.tensors.extend(resampler);
        let blocks = trained(&is_block);
        if blocks.is_empty() {
            let mut specs = ParameterSpecs::default();
            let widths = (language.width, vision_width, perceiver.num_latents);
            for layer in (0..language.layers).filter(|&layer| cross_attention.has_block(layer)) {
                let name = format!("{}.{layer}.gated_cross_attn_layer", language.model.wrapped_layers());
                GatedCrossAttention::new(&mut specs, &name, widths, cross_attention);
            }
            let pattern = format!("{}.*.gated_cross_attn_layer.*", language.model.wrapped_layers());
            self.fresh(
                &specs,
                &pattern,
                "matrices uniform, norms 1, gates 0: the language model answers as before",
                seed,
            );
        }
        self.tensors.extend(blocks);
    }

    fn fresh(&mut self, specs: &ParameterSpecs, pattern: &str, how: &str, seed: u64) {
        self.tensors.extend(specs.iter().map(|spec| PlannedTensor::fresh(spec, seed)));
        let how = format!("{} tensors, untrained: {how}; seed {seed}", specs.len());
        self.created.push(Created { name: pattern.to_owned(), how });
    }

    /// The language model's own tensors, replaced where the trained part has them too.
    fn language(&mut self, bridge: Option<&Bridge>, language: &Language, dropped: &mut Vec<Dropped>) {
        for tensor in &language.tensors {
            match bridge.and_then(|bridge| bridge.get(&tensor.name)) {
                None => self.tensors.push(copy(tensor)),
                Some(trained) => {
                    self.tensors.push(copy(trained));
                    let reason = "the trained part holds this tensor";
                    dropped.push(Dropped::new(&language.path, &tensor.stored_name, reason));
                }
            }
        }
        // What is left of the trained part: nothing, or names that the check of the result will list.
        let written: std::collections::HashSet<String> =
            self.tensors.iter().map(|t| t.name.clone()).collect();
        let Some(bridge) = bridge else { return };
        let output_table = language.model.wrapped_output_table();
        for tensor in bridge.tensors.iter().filter(|tensor| !written.contains(&tensor.name)) {
            let input = bridge.get(&language.input_table.name);
            if Some(&tensor.name) == output_table.as_ref()
                && input.is_some_and(|input| same_bytes(&input.entry, &tensor.entry))
            {
                let reason = format!("tied to {}, with the same content", language.input_table.name);
                dropped.push(Dropped::new(&bridge.path, &tensor.stored_name, reason));
            } else {
                self.tensors.push(copy(tensor));
            }
        }
    }

    /// Input table, and output table where there are two.
    fn tables(
        &mut self,
        bridge: Option<&Bridge>,
        language: &Language,
        tokens: &AddedSpecialTokens,
        options: &AssembleOptions,
    ) -> Result<Vec<PlannedTensor>> {
        let trained = |table: &WrappedTensor| bridge.and_then(|bridge| bridge.get(&table.name));
        let both: Vec<&WrappedTensor> =
            [Some(&language.input_table), language.output_table.as_ref()].into_iter().flatten().collect();
        let height = |table: &WrappedTensor| table.entry.shape.first().copied().unwrap_or(0);
        let heights = both.iter().flat_map(|table| [height(table), trained(table).map_or(0, height)]);
        let total = heights.max().unwrap_or(0).max(tokens.vocab_size);
        both.into_iter()
            .map(|base| self.table(trained(base), base, total, language, tokens, options))
            .collect()
    }

    fn table(
        &mut self,
        trained: Option<&WrappedTensor>,
        base: &WrappedTensor,
        total: usize,
        language: &Language,
        tokens: &AddedSpecialTokens,
        options: &AssembleOptions,
    ) -> Result<PlannedTensor> {
        let width = base.entry.shape.get(1).copied().unwrap_or(0);
        if let Some(trained) = trained
            && (trained.entry.shape.len() != 2 || trained.entry.shape[1] != width)
        {
            let problem = format!(
                "shape {:?}; the base language model has rows of {width}. Does the file belong to it?",
                trained.entry.shape
            );
            return Err(CheckpointError::tensor(&trained.entry.location.path, &trained.stored_name, problem));
        }
        let trained_rows = trained.map_or(0, |table| table.entry.shape[0]);
        let std = language.config.get("initializer_range").and_then(Value::as_f64).unwrap_or(0.02);
        let mut parts = Vec::new();
        let mut types = Vec::new();
        for source in table_rows(total, trained_rows, base.entry.shape[0], tokens) {
            let mut stored = |tensor: &WrappedTensor, range| -> Result<()> {
                let entry: TensorEntry = rows(&tensor.entry, &tensor.stored_name, range)?;
                types.push(entry.dtype);
                parts.push(Part::stored(&tensor.stored_name, &entry));
                Ok(())
            };
            match (source, trained) {
                (RowSource::Trained(range), Some(table)) => stored(table, range)?,
                (RowSource::Base(range) | RowSource::Trained(range), _) => {
                    self.note_padding_rows(base, &range, tokens);
                    stored(base, range)?;
                }
                (RowSource::New(range), _) => {
                    let stream = format!("{}.rows.{}", base.name, range.start);
                    let how = match options.new_rows {
                        NewRows::Normal => {
                            let init = Init::Normal(std);
                            parts.push(Part::drawn_rows(&stream, range.len(), width, init, options.seed));
                            format!("N(0, {std}), seed {}", options.seed)
                        }
                        NewRows::Mean => {
                            let (name, seed) = (base.stored_name.clone(), options.seed);
                            let entry = rows(&base.entry, &name, 0..old_rows(base, tokens))?;
                            let how = format!(
                                "the mean of {} rows of the base, and {SHARE_OF_COVARIANCE:e} of their covariance, seed {seed}",
                                entry.shape[0]
                            );
                            parts.push(Part::MeanRows { name, entry, rows: range.len(), stream, seed });
                            how
                        }
                    };
                    let described = describe_rows(&range, tokens);
                    self.created
                        .push(Created { name: base.name.clone(), how: format!("{described}: {how}") });
                }
            }
        }
        Ok(PlannedTensor { name: base.name.clone(), dtype: widest(types), shape: vec![total, width], parts })
    }

    /// Added tokens whose rows are padding rows of the base have never been trained.
    fn note_padding_rows(
        &mut self,
        base: &WrappedTensor,
        range: &std::ops::Range<usize>,
        tokens: &AddedSpecialTokens,
    ) {
        let mut ids: Vec<(String, u32)> = tokens.added.clone();
        ids.retain(|(_, id)| range.contains(&(*id as usize)));
        let (Some(first), Some(last)) = (ids.first(), ids.last()) else { return };
        let rows = describe_rows(&(first.1 as usize..last.1 as usize + 1), tokens);
        let how = format!("{rows}: padding rows of the base language model, kept as they are, untrained");
        self.created.push(Created { name: base.name.clone(), how });
    }
}

/// Rows of the base that belong to tokens of its own: not the padding rows behind them.
fn old_rows(base: &WrappedTensor, tokens: &AddedSpecialTokens) -> usize {
    let height = base.entry.shape[0];
    match added_ids(tokens).first() {
        Some(&(_, first)) if first > 0 => height.min(first as usize),
        _ => height,
    }
}

fn copy(tensor: &WrappedTensor) -> PlannedTensor {
    PlannedTensor::copy(tensor.name.clone(), &tensor.stored_name, &tensor.entry)
}

/// `rows 384 to 387 (<|endofchunk|>, <image>)`.
fn describe_rows(range: &std::ops::Range<usize>, tokens: &AddedSpecialTokens) -> String {
    let ids = added_ids(tokens);
    let names: Vec<&str> =
        ids.iter().filter(|(_, id)| range.contains(&(*id as usize))).map(|(text, _)| text.as_str()).collect();
    let rows = match range.len() {
        1 => format!("row {}", range.start),
        _ => format!("rows {} to {}", range.start, range.end - 1),
    };
    if names.is_empty() { rows } else { format!("{rows} ({})", names.join(", ")) }
}

/// `config.json` as the original writes it.
fn config_json(
    language: &Language,
    vision: Map<String, Value>,
    (perceiver, cross_attention): (&PerceiverConfig, &CrossAttentionConfig),
    rows: usize,
) -> Map<String, Value> {
    let mut config = Map::new();
    let mut set = |key: &str, value: Value| config.insert(key.to_owned(), value);
    set("_commit_hash", Value::Null);
    set("architectures", json!(["OtterForConditionalGeneration"]));
    let extension = differing(cross_attention, &CrossAttentionConfig::default(), &["every_n_layers"]);
    if let Some(extension) = extension {
        set("cross_attention_config", extension);
    }
    set("cross_attn_every_n_layers", json!(cross_attention.every_n_layers));
    if let Some(frames) = perceiver.max_num_frames {
        set("max_num_frames", json!(frames));
    }
    set("model_type", json!("otter"));
    set("only_attend_previous", json!(true));
    if let Some(extension) = differing(perceiver, &PerceiverConfig::default(), &["max_num_frames"]) {
        set("perceiver_config", extension);
    }
    set("text_config", Value::Object(language.text_config(rows)));
    // Always written: absent means true to the original, which then overwrites one table with the other.
    set("tie_word_embeddings", json!(language.is_tied()));
    set("torch_dtype", Value::Null);
    set("transformers_version", Value::Null);
    set("use_media_placement_augmentation", json!(true));
    set("vision_config", Value::Object(vision));
    config
}

/// The sizes that differ from the published ones, for this project's own section.
fn differing<T: Serialize>(own: &T, published: &T, leave_out: &[&str]) -> Option<Value> {
    let (Ok(Value::Object(own)), Ok(Value::Object(published))) =
        (serde_json::to_value(own), serde_json::to_value(published))
    else {
        return None;
    };
    let changed: Map<String, Value> = own
        .into_iter()
        .filter(|(key, value)| !leave_out.contains(&key.as_str()) && published.get(key) != Some(value))
        .collect();
    (!changed.is_empty()).then_some(Value::Object(changed))
}
