# SPDX-License-Identifier: MIT OR Apache-2.0
"""`config.json` of an Otter or Flamingo checkpoint, in the original's layout, for Transformers.

Sub-configurations stand under `vision_config` (CLIP) and `text_config`. Language models that Transformers has keep its
configuration classes; MPT and MosaicGPT (MPT-1B) are read as they are, for `modeling_otter_mpt.py`.
"""

from transformers import CONFIG_MAPPING, AutoConfig, CLIPVisionConfig, PreTrainedConfig

# Falcon's first releases, before Transformers had the model.
FALCON_NAMES = {"n_embed": "hidden_size", "n_head": "num_attention_heads", "n_layer": "num_hidden_layers"}


class MptTextConfig(PreTrainedConfig):
    """MPT: the keys of the original stay as they are, absent ones get the original's defaults."""

    model_type = "mpt"
    attribute_map = {"num_attention_heads": "n_heads", "num_hidden_layers": "n_layers"}

    def __init__(self, d_model=2048, n_heads=16, n_layers=24, vocab_size=50368, max_seq_len=2048, **kwargs):
        self.d_model = d_model
        self.n_heads = n_heads
        self.n_layers = n_layers
        self.vocab_size = vocab_size
        self.max_seq_len = max_seq_len
        kwargs["hidden_size"] = d_model
        super().__init__(**kwargs)


class MosaicGptTextConfig(MptTextConfig):
    """MosaicGPT, the language model of MPT-1B: MPT with other key names."""

    model_type = "mosaic_gpt"

    def __init__(self, **kwargs):  # without one, Transformers generates it
        super().__init__(**kwargs)


def text_config_of(text):
    """The configuration object of a language model, chosen as the original does: by architecture, then by type."""
    if isinstance(text, PreTrainedConfig):
        return text
    text = dict(text or {})
    architecture = (text.get("architectures") or [None])[0]
    model_type = text.pop("model_type", None)
    if architecture == "MosaicGPT" or model_type == "mosaic_gpt":
        return MosaicGptTextConfig(**text)
    if architecture in ("MPTForCausalLM", "MptForCausalLM") or model_type == "mpt":
        return MptTextConfig(**text)
    if architecture == "RWForCausalLM" or model_type in ("RefinedWeb", "RefinedWebModel"):
        model_type = "falcon"
        text = {FALCON_NAMES.get(key, key): value for key, value in text.items()}
    if model_type not in ("llama", "opt", "gpt_neox", "falcon"):
        raise ValueError(
            f"text_config.model_type is {model_type!r}; this module knows llama, mpt, mosaic_gpt, gpt_neox, opt, falcon"
        )
    if text.get("pad_token_id") == -1:  # how older files say "none"
        text["pad_token_id"] = None
    return CONFIG_MAPPING[model_type](**text)


class OtterConfig(PreTrainedConfig):
    """Sizes of an Otter, and the token ids that its generation depends on.

    `perceiver_config` and `cross_attention_config` are objects of sizes that differ from the published ones, or None.
    """

    model_type = "otter"
    sub_configs = {"vision_config": CLIPVisionConfig, "text_config": AutoConfig}

    def __init__(
        self,
        vision_config=None,
        text_config=None,
        cross_attn_every_n_layers=4,
        max_num_frames=None,
        perceiver_config=None,
        cross_attention_config=None,
        image_token_id=None,
        endofchunk_token_id=None,
        pad_token_id=None,
        tie_word_embeddings=True,
        **kwargs,
    ):
        if not isinstance(vision_config, PreTrainedConfig):
            vision = dict(vision_config or {})
            vision.pop("model_type", None)
            vision_config = CLIPVisionConfig(**vision)
        self.vision_config = vision_config
        # The class default is what `to_diff_dict` compares with, and needs no language model.
        self.text_config = text_config_of(text_config or {"model_type": "llama"})
        self.cross_attn_every_n_layers = cross_attn_every_n_layers
        self.max_num_frames = max_num_frames
        self.perceiver_config = perceiver_config
        self.cross_attention_config = cross_attention_config
        self.image_token_id = image_token_id
        self.endofchunk_token_id = endofchunk_token_id
        self.pad_token_id = pad_token_id
        # Ties input and output table only where the weights hold one of them, or two equal ones.
        self.tie_word_embeddings = tie_word_embeddings
        super().__init__(**kwargs)


class FlamingoConfig(OtterConfig):
    """As `OtterConfig`, for checkpoints of the original's Flamingo class."""

    model_type = "flamingo"

    def __init__(self, **kwargs):  # without one, Transformers generates it
        super().__init__(**kwargs)
