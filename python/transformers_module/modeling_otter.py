# SPDX-License-Identifier: MIT OR Apache-2.0
"""Otter for Transformers: CLIP tower, Perceiver resampler, and gated cross-attention inside a language model.

    vision_x (B, T, F, 3, H, W)  T media items a sequence, F frames an item
      -> CLIP, last hidden state without its norm and without CLS     (B*T*F, patches, vision width)
      -> Perceiver resampler                                         (B, T, 64, vision width)
    input_ids (B, L)
      -> [gated cross-attention over the latents -> decoder layer] x n -> logits (B, L, vocabulary)

Every text position attends to one media item, that of the latest `<image>` at or before it; generated tokens keep
attending to the last one. Tensor names are those of the original's checkpoints.
"""

from contextvars import ContextVar

import torch
from torch import nn
from transformers import AutoModel, CLIPVisionModel, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from .configuration_otter import FlamingoConfig, OtterConfig
from .modeling_otter_mpt import MptDecoder

# What the cross-attention of the forward pass under way attends to: latents (B, T, N, width) or None, and for each
# text position the number of `<image>` tokens up to it (B, L).
MEDIA = ContextVar("otter_media")


def feed_forward(width, multiple):
    return nn.Sequential(
        nn.LayerNorm(width),
        nn.Linear(width, multiple * width, bias=False),
        nn.GELU(),
        nn.Linear(multiple * width, width, bias=False),
    )


def split_heads(x, heads):
    return x.unflatten(-1, (heads, -1)).transpose(-2, -3)  # (..., heads, rows, head width)


def merge_heads(x):
    return x.transpose(-2, -3).flatten(-2)


class PerceiverLayer(nn.Module):
    def __init__(self, width, heads, head_width, multiple):
        super().__init__()
        self.heads, inner = heads, heads * head_width
        self.norm_media = nn.LayerNorm(width)
        self.norm_latents = nn.LayerNorm(width)
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_kv = nn.Linear(width, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, width, bias=False)
        self.feed_forward = feed_forward(width, multiple)

    def forward(self, media, latents):
        normed = self.norm_latents(latents)
        q = split_heads(self.to_q(normed), self.heads)
        k, v = self.to_kv(torch.cat([self.norm_media(media), normed], dim=-2)).chunk(2, dim=-1)
        k, v = split_heads(k, self.heads), split_heads(v, self.heads)
        latents = latents + self.to_out(merge_heads(nn.functional.scaled_dot_product_attention(q, k, v)))
        return latents + self.feed_forward(latents)


class Perceiver(nn.Module):
    """A fixed number of latents for each media item, whatever its number of frames."""

    def __init__(self, width, depth=6, heads=8, dim_head=64, num_latents=64, ff_mult=4, max_num_frames=None,
                 max_num_media=None):
        super().__init__()
        self.latents = nn.Parameter(torch.randn(num_latents, width))
        if max_num_frames:
            self.frame_embs = nn.Parameter(torch.randn(max_num_frames, width))
        if max_num_media:
            self.media_time_embs = nn.Parameter(torch.randn(max_num_media, 1, width))
        self.layers = nn.ModuleList(PerceiverLayer(width, heads, dim_head, ff_mult) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, features):  # (B, T, F, patches, width)
        items, frames = features.shape[1:3]
        if hasattr(self, "frame_embs"):
            if frames > len(self.frame_embs):
                raise ValueError(f"{frames} frames, but the checkpoint has embeddings for {len(self.frame_embs)}")
            features = features + self.frame_embs[:frames, None]
        media = features.flatten(2, 3)
        if hasattr(self, "media_time_embs"):
            if items > len(self.media_time_embs):
                raise ValueError(f"{items} media, but the checkpoint has embeddings for {len(self.media_time_embs)}")
            media = media + self.media_time_embs[:items]
        latents = self.latents.expand(*media.shape[:2], -1, -1)
        for layer in self.layers:
            latents = layer(media, latents)
        return self.norm(latents)


class MaskedCrossAttention(nn.Module):
    def __init__(self, width, media_width, heads, head_width):
        super().__init__()
        self.heads, inner = heads, heads * head_width
        self.norm = nn.LayerNorm(width)
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_kv = nn.Linear(media_width, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, width, bias=False)

    def forward(self, x, latents, text_time):  # (B, L, width), (B, T, N, media width), (B, L)
        items, each = latents.shape[1:3]
        q = split_heads(self.to_q(self.norm(x)), self.heads)
        k, v = (split_heads(part, self.heads) for part in self.to_kv(latents.flatten(1, 2)).chunk(2, dim=-1))
        media_time = torch.arange(1, items + 1, device=x.device).repeat_interleave(each)
        scores = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
        # A position past the last item has no allowed key; equal scores then make it attend to all latents evenly.
        allowed = text_time[:, None, :, None] == media_time
        weights = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min).softmax(-1)
        weights = weights.masked_fill(text_time[:, None, :, None] == 0, 0.0)
        return self.to_out(merge_heads(weights @ v))


class GatedCrossAttentionBlock(nn.Module):
    def __init__(self, width, media_width, heads=8, dim_head=64, ff_mult=4):
        super().__init__()
        self.attn = MaskedCrossAttention(width, media_width, heads, dim_head)
        self.attn_gate = nn.Parameter(torch.zeros(1))
        self.feed_forward = feed_forward(width, ff_mult)
        self.ff_gate = nn.Parameter(torch.zeros(1))

    def forward(self, x, latents, text_time):
        if latents is not None:
            x = x + self.attn(x, latents, text_time) * self.attn_gate.tanh()
        return x + self.feed_forward(x) * self.ff_gate.tanh()


class OtterLayer(nn.Module):
    """A decoder layer of the language model with what Otter puts in front of some of them."""

    def __init__(self, gated_cross_attn_layer, decoder_layer):
        super().__init__()
        self.gated_cross_attn_layer = gated_cross_attn_layer
        self.decoder_layer = decoder_layer

    def forward(self, hidden_states, *args, **kwargs):
        if self.gated_cross_attn_layer is not None:
            hidden_states = self.gated_cross_attn_layer(hidden_states, *MEDIA.get())
        return self.decoder_layer(hidden_states, *args, **kwargs)


class LanguageModel(nn.Module):
    """Backbone and output matrix under the names of the original, with every decoder layer wrapped."""

    # type -> attribute of the backbone, path to its layers, attribute of the output matrix (None: the input table)
    NAMES = {
        "llama": ("model", "layers", "lm_head"),
        "opt": ("model", "decoder.layers", "lm_head"),
        "gpt_neox": ("gpt_neox", "layers", "embed_out"),
        "falcon": ("transformer", "h", "lm_head"),
        "mpt": ("transformer", "blocks", None),
        "mosaic_gpt": ("transformer", "blocks", None),
    }

    def __init__(self, config, every_n_layers, make_block):
        super().__init__()
        self.backbone_name, layers, self.head_name = self.NAMES[config.model_type]
        backbone = AutoModel.from_config(config) if self.head_name else MptDecoder(config)
        self.add_module(self.backbone_name, backbone)
        layers = backbone.get_submodule(layers)
        for index, layer in enumerate(layers):
            layers[index] = OtterLayer(make_block() if (index + 1) % every_n_layers == 0 else None, layer)
        if self.head_name:
            width = getattr(config, "word_embed_proj_dim", None) or config.hidden_size
            self.add_module(self.head_name, nn.Linear(width, config.vocab_size, bias=False))

    @property
    def backbone(self):
        return getattr(self, self.backbone_name)

    def logits(self, hidden):
        return getattr(self, self.head_name)(hidden) if self.head_name else self.backbone.logits(hidden)


class OtterForConditionalGeneration(PreTrainedModel, GenerationMixin):
    config_class = OtterConfig
    base_model_prefix = "otter"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _no_split_modules = ["Perceiver", "CLIPEncoderLayer", "OtterLayer"]
    _skip_keys_device_placement = ["past_key_values"]
    # Buffers of older releases, and second names that OpenFlamingo stores.
    _keys_to_ignore_on_load_unexpected = [
        r"position_ids$",
        r"rotary_emb\.inv_freq$",
        r"attention\.(masked_)?bias$",
        r"attn_bias$",
        r"^lang_encoder\.(gated_cross_attn_layers|old_decoder_blocks)\.",
    ]

    def __init__(self, config):
        super().__init__(config)
        if config.image_token_id is None:
            raise ValueError(
                "config.json has no image_token_id; let `otter convert --transformers` write this checkpoint"
            )
        tower = CLIPVisionModel(config.vision_config)
        self.vision_encoder = nn.Module()
        # Transformers up to 5.0 keeps the tower one level deeper, where the checkpoints have it.
        self.vision_encoder.vision_model = getattr(tower, "vision_model", tower)
        width = config.vision_config.hidden_size
        perceiver = {"max_num_frames": config.max_num_frames, **(config.perceiver_config or {})}
        self.perceiver = Perceiver(width, **perceiver)
        text = config.text_config
        self.lang_encoder = LanguageModel(
            text,
            config.cross_attn_every_n_layers,
            lambda: GatedCrossAttentionBlock(text.hidden_size, width, **(config.cross_attention_config or {})),
        )
        names = self.lang_encoder
        if names.head_name:
            table = next(name for name, module in names.named_modules() if module is self.get_input_embeddings())
            self._tied_weights_keys = {
                f"lang_encoder.{names.head_name}.weight": f"lang_encoder.{table}.weight",
            }
        self.post_init()

    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, Perceiver):
            for parameter in module.parameters(recurse=False):
                nn.init.normal_(parameter)
        elif isinstance(module, GatedCrossAttentionBlock):
            nn.init.zeros_(module.attn_gate)
            nn.init.zeros_(module.ff_gate)

    def get_input_embeddings(self):
        return self.lang_encoder.backbone.get_input_embeddings()

    def set_input_embeddings(self, table):
        self.lang_encoder.backbone.set_input_embeddings(table)

    def get_output_embeddings(self):
        head = self.lang_encoder.head_name
        return getattr(self.lang_encoder, head) if head else None

    def set_output_embeddings(self, head):
        setattr(self.lang_encoder, self.lang_encoder.head_name, head)

    def encode_media(self, vision_x):
        """Latents (B, T, N, vision width) of pixels (B, T, F, 3, H, W)."""
        if vision_x.ndim != 6:
            raise ValueError(f"vision_x has shape {tuple(vision_x.shape)}; expected (B, T, F, 3, H, W)")
        frames = vision_x.flatten(0, 2).to(self.dtype)
        features = self.vision_encoder.vision_model(pixel_values=frames).last_hidden_state[:, 1:]
        return self.perceiver(features.unflatten(0, vision_x.shape[:3]))

    def forward(
        self,
        input_ids,
        attention_mask=None,
        vision_x=None,
        media_latents=None,
        text_time=None,
        position_ids=None,
        past_key_values=None,
        labels=None,
        use_cache=None,
        logits_to_keep=0,
        **kwargs,
    ):
        """Logits (B, L, vocabulary), and the mean loss over labels that are not -100 (shifted here).

        Media come as pixels `vision_x` or as `media_latents` from `encode_media`. `text_time` (B, L) is the number of
        `<image>` tokens up to each position; with a filled cache it must be given, because it counts cached ones too.
        """
        if vision_x is not None:
            media_latents = self.encode_media(vision_x)
        if text_time is None:
            if media_latents is not None and past_key_values is not None and past_key_values.get_seq_length():
                raise ValueError("with a filled cache, text_time must say how many <image> tokens came before")
            text_time = (input_ids == self.config.image_token_id).cumsum(-1)
        if media_latents is None and text_time.any():
            raise ValueError("input_ids hold <image>, but neither vision_x nor media_latents was given")
        token = MEDIA.set((media_latents, text_time))
        try:
            output = self.lang_encoder.backbone(
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=position_ids,
                past_key_values=past_key_values,
                use_cache=use_cache,
                **kwargs,
            )
        finally:
            MEDIA.reset(token)
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lang_encoder.logits(output.last_hidden_state[:, keep]).float()
        loss = None
        if labels is not None:
            loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=output.past_key_values,
            hidden_states=output.hidden_states,
            attentions=output.attentions,
        )

    def prepare_inputs_for_generation(self, input_ids, next_sequence_length=None, **kwargs):
        inputs = super().prepare_inputs_for_generation(input_ids, next_sequence_length=next_sequence_length, **kwargs)
        # The whole sequence is at hand here: a cached step keeps attending to the last item.
        text_time = (input_ids == self.config.image_token_id).cumsum(-1)
        inputs["text_time"] = text_time[:, -inputs["input_ids"].shape[1] :]
        return inputs

    @torch.no_grad()
    def generate(self, input_ids=None, vision_x=None, media_latents=None, **kwargs):
        """As `GenerationMixin.generate`; media are encoded once, and `<|endofchunk|>` ends an answer."""
        if vision_x is not None:
            media_latents = self.encode_media(vision_x)
        if kwargs.get("generation_config") is None:
            kwargs.setdefault("eos_token_id", self.config.endofchunk_token_id)
            kwargs.setdefault("pad_token_id", self.config.pad_token_id)
        return super().generate(input_ids, media_latents=media_latents, **kwargs)


class FlamingoForConditionalGeneration(OtterForConditionalGeneration):
    config_class = FlamingoConfig
