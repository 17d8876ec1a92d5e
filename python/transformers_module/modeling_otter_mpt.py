# SPDX-License-Identifier: MIT OR Apache-2.0
"""MPT and MosaicGPT (MPT-1B) decoders with the original's tensor names.

Transformers' own MPT knows neither query/key norms nor learned positions, biases or other expansion ratios, and it has
no MosaicGPT; this decoder covers all of them.
"""

import math
from types import SimpleNamespace

import torch
from torch import nn
from transformers import DynamicCache
from transformers.modeling_outputs import BaseModelOutputWithPast


def settings_of(config):
    """One view of the two families' configuration keys, with the original's defaults."""
    mosaic = config.model_type == "mosaic_gpt"
    # The class of Transformers writes no keys that have its defaults, which are not MosaicML's.
    short = (config.architectures or [None])[0] == "MptForCausalLM"
    own = config.to_dict()
    attention = own if mosaic else own.get("attn_config") or {}
    prefix = "attn_" if mosaic else ""
    settings = SimpleNamespace(
        width=config.d_model,
        heads=config.n_heads,
        layers=config.n_layers,
        max_length=config.max_seq_len,
        vocabulary=config.vocab_size,
        bias=not own.get("no_bias", short),
        ratio=own.get("mlp_ratio" if mosaic else "expansion_ratio") or 4,
        alibi=attention.get("alibi", short),
        alibi_bias_max=attention.get("alibi_bias_max", 8),
        clip=attention.get(prefix + "clip_qkv"),
        qk_norm=bool(attention.get(prefix + "qk_ln")),
        scale=attention.get("softmax_scale"),
        attention_dropout=attention.get("attn_pdrop", 0.0),
        residual_dropout=own.get("resid_pdrop", 0.0),
        embedding_dropout=own.get("emb_pdrop", 0.0),
        logit_scale=own.get("logit_scale"),
        rms_norm=not mosaic and str(own.get("norm_type", "")).endswith("rmsnorm"),
        norm_names=("ln_1", "ln_2", "ln_f") if mosaic else ("norm_1", "norm_2", "norm_f"),
        mlp_names=("mlp", "mlp_up", "mlp_down") if mosaic else ("ffn", "up_proj", "down_proj"),
    )
    if attention.get("prefix_lm"):
        raise ValueError("text_config asks for prefix_lm, which no Otter has and this module does not compute")
    kind = attention.get("attn_type", "multihead_attention")
    key_heads = {"multihead_attention": settings.heads, "multiquery_attention": 1}
    settings.key_heads = key_heads.get(kind) or attention["kv_n_heads"]
    settings.head_width = settings.width // settings.heads
    settings.scale = settings.scale or 1 / math.sqrt(settings.head_width)
    if settings.logit_scale == "inv_sqrt_d_model":
        settings.logit_scale = 1 / math.sqrt(settings.width)
    # MosaicGPT spreads its slopes over the heads it has, MPT over the next power of two.
    settings.slope_heads = settings.heads if mosaic else 2 ** math.ceil(math.log2(settings.heads))
    return settings


def norm(s, width):
    if s.rms_norm:
        return nn.RMSNorm(width, eps=1e-5)
    return nn.LayerNorm(width, eps=1e-5, bias=s.bias)


def alibi_slopes(s, device):
    """One slope a head: 2^(-8k/n); where n was rounded up, every second one comes first."""
    slopes = 2.0 ** -(torch.arange(1, s.slope_heads + 1, device=device) * (s.alibi_bias_max / s.slope_heads))
    if s.slope_heads != s.heads:
        slopes = torch.cat([slopes[1::2], slopes[::2]])[: s.heads]
    return slopes


class Attention(nn.Module):
    def __init__(self, s, index):
        super().__init__()
        self.s, self.index = s, index
        self.key_width = s.key_heads * s.head_width
        self.Wqkv = nn.Linear(s.width, s.width + 2 * self.key_width, bias=s.bias)
        self.out_proj = nn.Linear(s.width, s.width, bias=s.bias)
        if s.qk_norm:
            self.q_ln = norm(s, s.width)
            self.k_ln = norm(s, self.key_width)

    def forward(self, x, bias, cache):
        s, (batch, length, _) = self.s, x.shape
        qkv = self.Wqkv(x)
        if s.clip:
            qkv = qkv.clamp(-s.clip, s.clip)
        q, k, v = qkv.split([s.width, self.key_width, self.key_width], dim=-1)
        if s.qk_norm:
            q, k = self.q_ln(q), self.k_ln(k)
        q = q.view(batch, length, s.heads, s.head_width).transpose(1, 2)
        k = k.view(batch, length, s.key_heads, s.head_width).transpose(1, 2)
        v = v.view(batch, length, s.key_heads, s.head_width).transpose(1, 2)
        if cache is not None:
            k, v = cache.update(k, v, self.index)
        if s.key_heads != s.heads:
            k, v = (part.repeat_interleave(s.heads // s.key_heads, dim=1) for part in (k, v))
        scores = (q @ k.transpose(-1, -2)).float() * s.scale + bias  # (batch, heads, length, keys)
        weights = scores.softmax(-1).to(v.dtype)
        weights = nn.functional.dropout(weights, s.attention_dropout, self.training)
        return self.out_proj((weights @ v).transpose(1, 2).reshape(batch, length, s.width))


class Block(nn.Module):
    def __init__(self, s, index):
        super().__init__()
        self.names = (s.norm_names, s.mlp_names)
        first, second, _ = s.norm_names
        mlp, up, down = s.mlp_names
        self.add_module(first, norm(s, s.width))
        self.attn = Attention(s, index)
        self.add_module(second, norm(s, s.width))
        self.add_module(mlp, nn.Module())
        getattr(self, mlp).add_module(up, nn.Linear(s.width, s.ratio * s.width, bias=s.bias))
        getattr(self, mlp).add_module(down, nn.Linear(s.ratio * s.width, s.width, bias=s.bias))
        self.dropout = nn.Dropout(s.residual_dropout)

    def forward(self, x, bias, cache):
        (first, second, _), (mlp, up, down) = self.names
        x = x + self.dropout(self.attn(getattr(self, first)(x), bias, cache))
        mlp = getattr(self, mlp)
        hidden = nn.functional.gelu(getattr(mlp, up)(getattr(self, second)(x)))
        return x + self.dropout(getattr(mlp, down)(hidden))


class MptDecoder(nn.Module):
    """The `transformer` of an MPT or MosaicGPT; its input table is also the output matrix."""

    def __init__(self, config):
        super().__init__()
        s = self.s = settings_of(config)
        self.config = config
        self.wte = nn.Embedding(s.vocabulary, s.width)
        if not s.alibi:
            self.wpe = nn.Embedding(s.max_length, s.width)
        self.blocks = nn.ModuleList(Block(s, index) for index in range(s.layers))
        self.add_module(s.norm_names[2], norm(s, s.width))
        self.dropout = nn.Dropout(s.embedding_dropout)

    def get_input_embeddings(self):
        return self.wte

    def set_input_embeddings(self, table):
        self.wte = table

    def forward(self, input_ids, attention_mask=None, past_key_values=None, use_cache=None, **_):
        s, (batch, length) = self.s, input_ids.shape
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache()
        past = past_key_values.get_seq_length() if past_key_values is not None else 0
        total = past + length
        if attention_mask is None:
            attention_mask = input_ids.new_ones(batch, total)
        attention_mask = attention_mask.bool()
        x = self.wte(input_ids)
        if hasattr(self, "wpe"):
            if total > s.max_length:
                raise ValueError(f"{total} tokens, but the model has {s.max_length} positions")
            # Positions count real tokens only.
            x = x + self.wpe((attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, past:])
        keys = torch.arange(total, device=x.device)
        allowed = (keys <= keys[past:, None]) & attention_mask[:, None, None, :]  # (batch, 1, length, keys)
        bias = torch.zeros((), device=x.device)
        if s.alibi:
            # The softmax does not see the part that depends on the query, so the last key has distance 0.
            bias = alibi_slopes(s, x.device)[:, None, None] * (keys - (total - 1))
        bias = torch.where(allowed, bias, torch.finfo(torch.float32).min)
        x = self.dropout(x)
        for block in self.blocks:
            x = block(x, bias, past_key_values)
        hidden = getattr(self, s.norm_names[2])(x)
        return BaseModelOutputWithPast(last_hidden_state=hidden, past_key_values=past_key_values)

    def logits(self, hidden):
        logits = hidden @ self.wte.weight.T
        return logits if self.s.logit_scale is None else logits * self.s.logit_scale
