//! The language model with gated cross-attention wrapped around its decoder layers: the
//! block of layer i, present when `(i + 1) % every_n_layers == 0`, runs before the layer itself.

use otter_nn::layers::elementwise;
use otter_nn::{
    AttentionMask, CrossEntropy, Embedding, Float, Gradients, Linear, MediaRows, ParameterSpecs, Parameters,
    Tensor,
};

use crate::config::OtterConfig;
use crate::flamingo::gated_cross_attention::{CrossAttentionSaved, GatedCrossAttention, KeysAndValues};
use crate::otter::Trace;
use crate::text::block::{BlockSaved, Rows, TransformerBlock};
use crate::text::cache::LayerCache;
use crate::text::embedding::{INIT, TextEmbedding};
use crate::text::head::{TextOutput, TextOutputSaved};
use crate::workspace::Workspace;

/// Embedding, wrapped decoder layers, final norm, output table.
#[derive(Clone, Debug)]
pub struct LanguageModel {
    embedding: TextEmbedding,
    layers: Vec<WrappedLayer>,
    /// Name of the layers, without their index.
    layer_names: String,
    output: TextOutput,
    /// The output table: its own, or that of the embeddings.
    head: Linear,
    /// Factor on the logits, applied to the normalized hidden states.
    logit_scale: f64,
    /// Features of the residual stream.
    width: usize,
    /// Features that the output table reads.
    table_width: usize,
}

#[derive(Clone, Debug)]
struct WrappedLayer {
    gated_cross_attn_layer: Option<GatedCrossAttention>,
    decoder_layer: TransformerBlock,
}

/// What text rows attend: masks and positions for the decoder, media for the cross-attention.
pub struct Context<'a> {
    /// Sequences, positions and causal mask.
    pub rows: Rows<'a>,
    /// Media item of every row.
    pub media_rows: &'a MediaRows,
}

enum LayerSaved<T> {
    /// Layer input only: run again in the backward pass.
    Input(Tensor<T>),
    /// Everything the backward pass needs.
    Whole(Option<Box<CrossAttentionSaved<T>>>, Box<BlockSaved<T>>),
}

/// Kept for the backward pass of the whole stack.
pub struct LanguageSaved<T> {
    first: usize,
    layers: Vec<LayerSaved<T>>,
    output: TextOutputSaved<T>,
}

/// Keys and values of all decoder layers, and the projected media of all cross-attention blocks.
pub struct LanguageCache<T = f32> {
    layers: Vec<LayerCache<T>>,
    media: Vec<Option<KeysAndValues<T>>>,
    batch: usize,
    len: usize,
    workspace: Workspace<T>,
}

impl LanguageModel {
    /// Registers the language model under `<name>.` (`lang_encoder`).
    pub fn new(specs: &mut ParameterSpecs, name: &str, config: &OtterConfig) -> Self {
        let text = &config.text;
        let names = text.names();
        let sizes = (text.hidden_size(), config.vision.hidden_size, config.perceiver.num_latents);
        let embedding = TextEmbedding::new(specs, name, text);
        let layer_names = format!("{name}.{}", names.layers);
        let layers = (0..text.num_hidden_layers())
            .map(|i| {
                let layer = format!("{layer_names}.{i}");
                let gated_cross_attn_layer = config.cross_attention.has_block(i).then(|| {
                    let name = format!("{layer}.gated_cross_attn_layer");
                    GatedCrossAttention::new(specs, &name, sizes, &config.cross_attention)
                });
                let decoder_layer = text.block(specs, &format!("{layer}.decoder_layer"));
                WrappedLayer { gated_cross_attn_layer, decoder_layer }
            })
            .collect();
        let output = TextOutput::new(specs, name, text);
        let head = if config.tie_word_embeddings {
            Linear::over(embedding.tokens().weight(), text.embedding_width(), text.vocab_size())
        } else {
            let name = format!("{name}.{}", names.output);
            Linear::new(specs, &name, text.embedding_width(), text.vocab_size(), false, INIT)
        };
        let logit_scale = text.sizes().logit_scale;
        let (width, table_width) = (text.hidden_size(), text.embedding_width());
        Self { embedding, layers, layer_names, output, head, logit_scale, width, table_width }
    }

    /// The output projection with its loss.
    pub fn cross_entropy(&self) -> CrossEntropy {
        CrossEntropy::new(self.head.weight())
    }

    /// Logits (rows, vocabulary) of normalized hidden states (rows, width).
    pub fn logits<T: Float>(&self, parameters: &Parameters<T>, hidden: &Tensor<T>) -> Tensor<T> {
        self.head.forward(parameters, hidden)
    }

    /// Writes logits (rows, vocabulary) of normalized hidden states (rows, width).
    pub fn logits_into<T: Float>(
        &self,
        parameters: &Parameters<T>,
        hidden: &Tensor<T>,
        logits: &mut Tensor<T>,
    ) {
        self.head.forward_into(parameters, hidden, logits, false);
    }

    /// Embedded tokens (rows, width).
    fn embed<T: Float>(&self, parameters: &Parameters<T>, ids: &[u32], rows: &Rows<'_>) -> Tensor<T> {
        self.embedding.forward(parameters, ids, rows.positions)
    }

    /// Normalized hidden states times the factor on the logits.
    fn scaled<T: Float>(&self, mut hidden: Tensor<T>) -> Tensor<T> {
        if self.logit_scale != 1.0 {
            elementwise::scale(&mut hidden, self.logit_scale);
        }
        hidden
    }

    /// Normalized hidden states (rows, width) of `ids`, reporting every intermediate result to `trace`.
    pub fn forward<T: Float>(
        &self,
        parameters: &Parameters<T>,
        ids: &[u32],
        latents: Option<&Tensor<T>>,
        context: &Context<'_>,
        trace: &mut Trace<'_, T>,
    ) -> Tensor<T> {
        let mut x = self.embed(parameters, ids, &context.rows);
        let mut workspace = Workspace::new(x.device());
        for (i, layer) in self.layers.iter().enumerate() {
            if let Some(block) = &layer.gated_cross_attn_layer {
                let media = latents.map(|latents| block.project_media(parameters, latents));
                let rows = context.media_rows;
                block.forward_projected(parameters, &mut x, media.as_ref(), rows, &mut workspace);
                trace(&format!("xattn.{i}"), &x);
            }
            x = layer.decoder_layer.forward_saved(parameters, x, &context.rows).0;
            trace(&format!("hidden.{i}"), &x);
        }
        let hidden = self.output.forward(parameters, x);
        trace("final_norm", &hidden);
        self.scaled(hidden)
    }

    /// As [`LanguageModel::forward`], keeping what the backward pass needs: everything, or with `recompute` one input a
    /// layer. Layers below the first that leads to a trained parameter keep nothing.
    pub fn forward_saved<T: Float>(
        &self,
        parameters: &Parameters<T>,
        ids: &[u32],
        latents: Option<&Tensor<T>>,
        context: &Context<'_>,
        recompute: bool,
        first: usize,
    ) -> (Tensor<T>, LanguageSaved<T>) {
        let x = self.embed(parameters, ids, &context.rows);
        self.forward_embedded(parameters, x, latents, context, recompute, first)
    }

    /// The table of token embeddings.
    pub fn embedding(&self) -> &Embedding {
        self.embedding.tokens()
    }

    /// As [`LanguageModel::forward_saved`], from embedded tokens x (rows, width).
    pub fn forward_embedded<T: Float>(
        &self,
        parameters: &Parameters<T>,
        mut x: Tensor<T>,
        latents: Option<&Tensor<T>>,
        context: &Context<'_>,
        recompute: bool,
        first: usize,
    ) -> (Tensor<T>, LanguageSaved<T>) {
        let mut layers = Vec::with_capacity(self.layers.len());
        for (i, layer) in self.layers.iter().enumerate() {
            if i >= first && recompute {
                layers.push(LayerSaved::Input(x.clone()));
            }
            let (y, saved) = layer.forward_saved(parameters, x, latents, context);
            if i >= first && !recompute {
                layers.push(saved);
            }
            x = y;
        }
        let (hidden, output) = self.output.forward_saved(parameters, x);
        (self.scaled(hidden), LanguageSaved { first, layers, output })
    }

    /// Adds parameter gradients, given the gradient of the normalized hidden states, and the gradient of the latents to
    /// `d_latents`.
    pub fn backward<T: Float>(
        &self,
        parameters: &Parameters<T>,
        saved: LanguageSaved<T>,
        (ids, latents): (&[u32], Option<&Tensor<T>>),
        context: &Context<'_>,
        d_hidden: &Tensor<T>,
        d_latents: Option<&mut Tensor<T>>,
        gradients: &mut Gradients<T>,
    ) {
        let first = saved.first;
        let dx = self.backward_embedded(parameters, saved, latents, context, d_hidden, d_latents, gradients);
        if first == 0 {
            self.embedding.backward(parameters, ids, context.rows.positions, dx, gradients);
        }
    }

    /// As [`LanguageModel::backward`], ending at the input of the first layer that kept something: returns its gradient.
    pub fn backward_embedded<T: Float>(
        &self,
        parameters: &Parameters<T>,
        saved: LanguageSaved<T>,
        latents: Option<&Tensor<T>>,
        context: &Context<'_>,
        d_hidden: &Tensor<T>,
        mut d_latents: Option<&mut Tensor<T>>,
        gradients: &mut Gradients<T>,
    ) -> Tensor<T> {
        let LanguageSaved { first, layers, output } = saved;
        let d_hidden = if self.logit_scale == 1.0 { d_hidden } else { &self.scaled(d_hidden.clone()) };
        let mut dx = self.output.backward(parameters, &output, d_hidden, gradients);
        for (layer, saved) in self.layers[first..].iter().zip(layers).rev() {
            let (cross_attention, decoder) = match saved {
                LayerSaved::Whole(cross_attention, decoder) => (cross_attention, decoder),
                LayerSaved::Input(x) => match layer.forward_saved(parameters, x, latents, context).1 {
                    LayerSaved::Whole(cross_attention, decoder) => (cross_attention, decoder),
                    LayerSaved::Input(_) => unreachable!("a layer's forward_saved keeps everything"),
                },
            };
            dx = layer.decoder_layer.backward(parameters, *decoder, &context.rows, dx, gradients);
            if let (Some(block), Some(saved)) = (&layer.gated_cross_attn_layer, cross_attention) {
                let d_latents = d_latents.as_deref_mut();
                dx =
                    block.backward(parameters, *saved, latents, context.media_rows, dx, d_latents, gradients);
            }
        }
        dx
    }

    /// The first layer whose backward pass can reach a trained parameter; 0 also when the embedding is trained.
    /// `media_trained` says whether something behind the latents is trained.
    pub fn first_trained_layer<T: Float>(&self, parameters: &Parameters<T>, media_trained: bool) -> usize {
        if self.embedding.parameters().any(|id| parameters.is_trainable(id)) {
            return 0;
        }
        let reaches = |i: usize| {
            let layer = format!("{}.{i}.", self.layer_names);
            self.layers[i].gated_cross_attn_layer.is_some() && media_trained
                || parameters.iter().any(|p| p.trainable && p.name.starts_with(&layer))
        };
        (0..self.layers.len()).find(|&i| reaches(i)).unwrap_or(self.layers.len())
    }

    /// An empty cache with the media of a prompt projected once for every block.
    pub fn new_cache<T: Float>(
        &self,
        parameters: &Parameters<T>,
        latents: Option<&Tensor<T>>,
        batch: usize,
        capacity: usize,
    ) -> LanguageCache<T> {
        let device = parameters.device();
        let layer_cache = |layer: &WrappedLayer| layer.decoder_layer.new_cache(batch, capacity, device);
        let layers = self.layers.iter().map(layer_cache).collect();
        let media = self
            .layers
            .iter()
            .map(|layer| {
                let block = layer.gated_cross_attn_layer.as_ref()?;
                Some(block.project_media(parameters, latents?))
            })
            .collect();
        LanguageCache { layers, media, batch, len: 0, workspace: Workspace::new(device) }
    }

    /// Normalized hidden states of new rows that follow the cached ones.
    pub fn forward_cached<T: Float>(
        &self,
        parameters: &Parameters<T>,
        ids: &[u32],
        context: &Context<'_>,
        cache: &mut LanguageCache<T>,
    ) -> Tensor<T> {
        let mut hidden = Tensor::zeros(&[ids.len(), self.table_width], parameters.device());
        self.forward_cached_into(parameters, ids, context, cache, &mut hidden);
        // Buffers of the many rows of a prompt would be of no use to the single ones that follow.
        cache.workspace.clear();
        hidden
    }

    /// As [`LanguageModel::forward_cached`], written to `hidden` (rows, width). After a first call of the same number of
    /// rows nothing is allocated.
    pub fn forward_cached_into<T: Float>(
        &self,
        parameters: &Parameters<T>,
        ids: &[u32],
        context: &Context<'_>,
        cache: &mut LanguageCache<T>,
        hidden: &mut Tensor<T>,
    ) {
        let LanguageCache { layers, media, len, workspace, .. } = cache;
        let mut x = workspace.take(&[ids.len(), self.width]);
        self.embedding.forward_into(parameters, ids, context.rows.positions, &mut x, workspace);
        for ((layer, layer_cache), media) in self.layers.iter().zip(layers).zip(media) {
            if let Some(block) = &layer.gated_cross_attn_layer {
                let (x, rows) = (&mut x, context.media_rows);
                block.forward_projected(parameters, x, media.as_ref(), rows, workspace);
            }
            let cached = Some((layer_cache, *len));
            layer.decoder_layer.forward(parameters, &mut x, &context.rows, cached, workspace);
        }
        *len += ids.len() / context.rows.batch;
        self.output.forward_into(parameters, &x, hidden, workspace);
        if self.logit_scale != 1.0 {
            elementwise::scale(hidden, self.logit_scale);
        }
        workspace.give(x);
    }
}

impl<T: Float> LanguageCache<T> {
    /// Tokens of each sequence seen so far.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing was seen yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Makes sequence i what sequence `rows[i]` was; there may be more or fewer sequences afterwards. The media stay as
    /// they are: they belong to no sequence. `shared` says how many leading tokens sequence i and `rows[i]` have in
    /// common; they stay where they are unless the number of sequences grows.
    pub fn reorder(&mut self, rows: &[usize], shared: usize) {
        for layer in &mut self.layers {
            layer.reorder(rows, self.batch, shared..self.len);
        }
        self.batch = rows.len();
    }
}

impl WrappedLayer {
    fn forward_saved<T: Float>(
        &self,
        parameters: &Parameters<T>,
        x: Tensor<T>,
        latents: Option<&Tensor<T>>,
        context: &Context<'_>,
    ) -> (Tensor<T>, LayerSaved<T>) {
        let (x, cross_attention) = match &self.gated_cross_attn_layer {
            Some(block) => {
                let (y, saved) = block.forward_saved(parameters, x, latents, context.media_rows);
                (y, Some(Box::new(saved)))
            }
            None => (x, None),
        };
        let (y, decoder) = self.decoder_layer.forward_saved(parameters, x, &context.rows);
        (y, LayerSaved::Whole(cross_attention, Box::new(decoder)))
    }
}

/// Causal mask of right- or left-padded rows (batch * length), without padding data when nothing is padded.
pub fn causal_mask(attention_mask: &[bool], offset: usize) -> AttentionMask {
    let padded = attention_mask.iter().any(|&m| !m);
    AttentionMask::Causal { offset, visible: padded.then(|| attention_mask.to_vec()) }
}
