# SPDX-License-Identifier: MIT OR Apache-2.0
"""Small random Otters around every language model of the module.

    language_models.py MODULE_FOLDER TOKENIZER_FOLDER IMAGE OUT

With its gates at zero an Otter is its language model: logits and generation must equal those of Transformers' own class
with the same weights, also for a batch that is padded on the left. With open gates, decoding with a cache must equal
decoding without, and the picture must matter. Each model is saved to OUT/<name> with what it answers in `answer.json`,
for the `otter` binary to repeat.
"""

import importlib
import json
import shutil
import sys
from pathlib import Path

import torch
from common import check, close, finish, read_json
from transformers import (
    AutoModelForCausalLM,
    FalconConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MptConfig,
    OPTConfig,
    PreTrainedTokenizerFast,
)

VISION = dict(
    hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=7
)
PERCEIVER = dict(depth=2, heads=2, dim_head=8, num_latents=6, ff_mult=2)
CROSS_ATTENTION = dict(heads=2, dim_head=8, ff_mult=2)
LAYERS = {
    "llama": "model.layers",
    "opt": "model.decoder.layers",
    "gpt_neox": "gpt_neox.layers",
    "falcon": "transformer.h",
    "mpt": "transformer.blocks",
}


def known_to_transformers(vocabulary):
    sizes = dict(vocab_size=vocabulary, hidden_size=24, num_hidden_layers=3, num_attention_heads=4)
    mpt = dict(vocab_size=vocabulary, d_model=24, n_layers=3, max_seq_len=128)
    llama3 = dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16)
    return {
        "llama": LlamaConfig(**sizes, intermediate_size=48),
        "llama-grouped": LlamaConfig(**sizes, intermediate_size=48, num_key_value_heads=2),
        "llama-linear": LlamaConfig(**sizes, intermediate_size=48, rope_scaling=dict(rope_type="linear", factor=2.0)),
        "llama-3": LlamaConfig(
            **sizes, intermediate_size=48, rope_theta=500000.0, rope_scaling=dict(rope_type="llama3", **llama3)
        ),
        "gpt-neox": GPTNeoXConfig(**sizes, intermediate_size=48, rotary_pct=0.25),
        "gpt-neox-serial": GPTNeoXConfig(**sizes, intermediate_size=48, use_parallel_residual=False),
        "opt": OPTConfig(**sizes, ffn_dim=48, max_position_embeddings=128, word_embed_proj_dim=24),
        "opt-350m": OPTConfig(
            **sizes, ffn_dim=48, max_position_embeddings=128, word_embed_proj_dim=16, do_layer_norm_before=False
        ),
        "falcon": FalconConfig(**sizes),
        "mpt": MptConfig(**mpt, n_heads=4),
        "mpt-six-heads": MptConfig(**mpt, n_heads=6),
        "mpt-clip": MptConfig(**mpt, n_heads=4, attn_config=dict(clip_qkv=0.5)),
    }


def own_decoders(vocabulary):
    """`text_config` objects of MPT variants that Transformers has no class for."""
    sizes = dict(vocab_size=vocabulary, d_model=24, hidden_size=24, n_heads=6, n_layers=3, max_seq_len=128)
    mpt = dict(sizes, model_type="mpt", architectures=["MPTForCausalLM"], no_bias=True, expansion_ratio=2)
    mosaic = dict(sizes, model_type="mosaic_gpt", architectures=["MosaicGPT"], mlp_ratio=2, no_bias=True)
    return {
        "mpt-qk-norm": dict(mpt, attn_config=dict(alibi=True, qk_ln=True, clip_qkv=0.7)),
        "mpt-positions": dict(mpt, attn_config=dict(alibi=False)),
        "mpt-biases": dict(mpt, no_bias=False, attn_config=dict(alibi=True, qk_ln=True)),
        "mpt-multi-query": dict(mpt, attn_config=dict(alibi=True, attn_type="multiquery_attention")),
        "mpt-rms-norm": dict(mpt, norm_type="rmsnorm", logit_scale="inv_sqrt_d_model", attn_config=dict(alibi=True)),
        "mosaic-gpt": dict(mosaic, alibi=True, attn_qk_ln=True),
        "mosaic-gpt-positions": dict(mosaic, alibi=False, attn_clip_qkv=0.6, softmax_scale=0.3),
    }


def randomize(module, seed):
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        center, spread = (1.0, 0.2) if parameter.ndim == 1 else (0.0, 0.3)
        parameter.data = center + spread * torch.randn(parameter.shape, generator=generator)


def set_gates(model, value):
    for name, parameter in model.named_parameters():
        if name.endswith("_gate"):
            parameter.data.fill_(value)


def copy_weights(language_model, model, text, name):
    """Gives an Otter the weights of a causal language model, by name."""
    own = language_model.state_dict()
    layers = LAYERS[text.model_type]
    weights = model.state_dict()
    for key in list(weights):
        if key.startswith("lang_encoder.") and ".gated_cross_attn_layer." not in key:
            plain = key.removeprefix("lang_encoder.").replace(".decoder_layer.", ".")
            check(plain == key.removeprefix("lang_encoder.") or plain.startswith(layers), f"{name}: {key}")
            plain = plain.replace("embed_out.", "lm_head.")  # the name of GPT-NeoX before Transformers 5
            weights[key] = own.pop(plain)
    model.load_state_dict(weights)
    own.pop("lm_head.weight" if text.tie_word_embeddings else None, None)
    check(not own, f"{name}: the Otter has no place for {sorted(own)}")


def batch(vocabulary, image):
    ids = torch.randint(5, vocabulary - 8, (2, 14), generator=torch.Generator().manual_seed(3))
    ids[:, 6] = image
    mask = torch.ones_like(ids)
    mask[1, :4] = 0
    ids[1, :4] = 0
    return ids, mask


def check_language_model(language_model, model, ids, mask, pixels, name):
    set_gates(model, 0.0)
    output = model(input_ids=ids, attention_mask=mask, vision_x=pixels)
    expected = language_model(input_ids=ids, attention_mask=mask)
    close(output.logits[mask.bool()], expected.logits[mask.bool()], 2e-4, f"{name}: logits of the language model")
    options = dict(attention_mask=mask, max_new_tokens=10, do_sample=False, eos_token_id=None, pad_token_id=0)
    found = model.generate(input_ids=ids, vision_x=pixels, **options)
    check(torch.equal(found, language_model.generate(input_ids=ids, **options)), f"{name}: generation of the model")


def check_open_gates(model, ids, mask, pixels, name):
    set_gates(model, 0.7)
    first = model(input_ids=ids, attention_mask=mask, vision_x=pixels).logits
    second = model(input_ids=ids, attention_mask=mask, vision_x=pixels.flip(-1)).logits
    difference = (first - second).abs().amax(-1) * mask
    check(difference[:, :6].max() == 0 and difference[:, 6:].max() > 1e-3, f"{name}: where the picture matters")
    options = dict(attention_mask=mask, max_new_tokens=10, do_sample=False, eos_token_id=None)
    cached = model.generate(input_ids=ids, vision_x=pixels, **options)
    whole = model.generate(input_ids=ids, vision_x=pixels, use_cache=False, **options)
    check(torch.equal(cached, whole), f"{name}: with and without cache: {cached.tolist()} {whole.tolist()}")
    beams = model.generate(input_ids=ids, vision_x=pixels, num_beams=2, num_return_sequences=2, **options)
    check(beams.shape == (4, ids.shape[1] + 10), f"{name}: two beams of each row")


def save(model, processor, tokenizer_folder, image, folder):
    """The checkpoint, and what it answers to one prompt with a picture."""
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    shutil.copy(tokenizer_folder / "tokenizer.json", folder)
    prompt = "<image>User: What is the color of the boat? GPT:<answer>"
    inputs = processor(prompt, images=[image])
    length = inputs["input_ids"].shape[1]
    rows = model.generate(**inputs, max_new_tokens=12, do_sample=False)
    scores = model(input_ids=rows, vision_x=inputs["vision_x"]).logits[0, length - 1 : -1].log_softmax(-1)
    two = scores.topk(2).values
    new = rows[0, length:].tolist()
    answer = {
        "prompt": prompt,
        "token_ids": new,
        "text": processor.decode(new, skip_special_tokens=False),
        "smallest_gap": (two[:, 0] - two[:, 1]).min().item(),
    }
    (folder / "answer.json").write_text(json.dumps(answer), encoding="utf-8")


def main():
    module, tokenizer_folder, image, out = (Path(argument) for argument in sys.argv[1:5])
    # The module as a package, as Transformers makes one of it.
    package = out / "packages" / "otter_module"
    shutil.copytree(module, package)
    (package / "__init__.py").touch()
    sys.path.insert(0, str(package.parent))
    modeling = importlib.import_module("otter_module.modeling_otter")
    configuration = importlib.import_module("otter_module.configuration_otter")
    processing = importlib.import_module("otter_module.processing_otter")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tokenizer_folder)
    processor = processing.OtterProcessor(tokenizer, image_size=28)
    vocabulary = len(tokenizer)
    ids_of = tokenizer.convert_tokens_to_ids
    special = dict(image_token_id=ids_of("<image>"), endofchunk_token_id=ids_of("<|endofchunk|>"))
    special["pad_token_id"] = ids_of("<PAD>")
    ids, mask = batch(vocabulary, special["image_token_id"])
    pixels = torch.randn(2, 1, 1, 3, 28, 28, generator=torch.Generator().manual_seed(5))

    def otter(text, tied, seed):
        config = configuration.OtterConfig(
            vision_config=VISION,
            text_config=text,
            cross_attn_every_n_layers=2,
            perceiver_config=PERCEIVER,
            cross_attention_config=CROSS_ATTENTION,
            tie_word_embeddings=tied,
            **special,
        )
        model = modeling.OtterForConditionalGeneration(config).eval()
        randomize(model, seed)
        return model

    count = 0
    with torch.no_grad():
        for seed, (name, text) in enumerate(known_to_transformers(vocabulary).items()):
            language_model = AutoModelForCausalLM.from_config(text).eval()
            randomize(language_model, 100 + seed)
            class_name = type(language_model).__name__
            model = otter({**text.to_dict(), "architectures": [class_name]}, text.tie_word_embeddings, seed)
            copy_weights(language_model, model, text, name)
            model.tie_weights()
            check_language_model(language_model, model, ids, mask, pixels, name)
            check_open_gates(model, ids, mask, pixels, name)
            save(model, processor, tokenizer_folder, image, out / name)
            count += 1
        for seed, (name, text) in enumerate(own_decoders(vocabulary).items(), 50):
            model = otter(text, True, seed)
            check_open_gates(model, ids, mask, pixels, name)
            save(model, processor, tokenizer_folder, image, out / name)
            count += 1
    finish(f"{count} language models")


main()
