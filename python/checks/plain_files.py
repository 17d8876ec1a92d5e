# SPDX-License-Identifier: MIT OR Apache-2.0
"""What `otter` saves opens with plain safetensors, tokenizers and transformers pieces.

    plain_files.py GOLDEN_CASE SAVED_FOLDER_OR_FILE…

A saved folder's name ends in the element type it was saved with: `…-f32`, `…-f16`, `…-bf16`. What is stored as pickles,
in a folder (`pytorch_model.bin`, also in shards) or as one file (OpenFlamingo's `.pt`), goes through `torch.load`.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from common import check, close, finish, golden_weights, read_json
from safetensors import safe_open
from tokenizers import Tokenizer
from transformers import CONFIG_MAPPING, CLIPVisionConfig, CLIPVisionModel, GenerationConfig

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


def pickled_weights(folder):
    """Tensors of a folder of pickles, which `torch.load` must open without running code."""
    index = folder / "pytorch_model.bin.index.json"
    names = sorted(set(read_json(index)["weight_map"].values())) if index.exists() else ["pytorch_model.bin"]
    tensors = {}
    for name in names:
        shard = torch.load(folder / name, map_location="cpu", weights_only=True)
        if index.exists():
            listed = {key for key, file in read_json(index)["weight_map"].items() if file == name}
            check(shard.keys() == listed, f"{index}: weight_map differs from {name}")
        tensors.update(shard)
    check(len(names) > 1 or not index.exists(), f"{index}: names one shard only")
    return tensors


def saved_weights(folder):
    """Tensors of a folder; what the index says must be what the shards hold."""
    if any(folder.glob("pytorch_model*.bin")):
        return pickled_weights(folder)
    index = folder / "model.safetensors.index.json"
    names = sorted(set(read_json(index)["weight_map"].values())) if index.exists() else ["model.safetensors"]
    tensors, places = {}, {}
    for name in names:
        with safe_open(folder / name, framework="pt") as file:
            check(file.metadata() == {"format": "pt"}, f"{folder / name}: metadata {file.metadata()}")
            for key in file.keys():
                tensors[key] = file.get_tensor(key)
                places[key] = name
    if index.exists():
        check(len(names) > 1, f"{index}: names one shard only")
        check(read_json(index)["weight_map"] == places, f"{index}: weight_map differs from the shards")
        size = sum(tensor.nbytes for tensor in tensors.values())
        check(read_json(index)["metadata"]["total_size"] == size, f"{index}: total_size is not {size}")
    return tensors


def check_weights(folder, expected, dtype):
    found = saved_weights(folder)
    check(found.keys() == expected.keys(), f"{folder}: names differ: {sorted(found.keys() ^ expected.keys())[:6]}")
    for name in found.keys() & expected.keys():
        same = torch.equal(found[name], expected[name].to(dtype))
        check(found[name].dtype == dtype and same, f"{folder}: {name} differs")
    return found


def check_open_flamingo(path, expected):
    """A trained part: each tensor is one of the Otter's under OpenFlamingo's name."""
    found = torch.load(path, map_location="cpu", weights_only=True)
    check(len(found) > 10, f"{path}: {len(found)} tensors")
    for name, tensor in found.items():
        own = name
        if name.startswith("perceiver.layers."):
            layer, part, rest = name.removeprefix("perceiver.layers.").split(".", 2)
            own = f"perceiver.layers.{layer}." + ("feed_forward." if part == "1" else "") + rest
        own = own.replace("gated_cross_attn_layer.ff.", "gated_cross_attn_layer.feed_forward.")
        known = expected.get(own)
        check(known is not None and torch.equal(tensor, known), f"{path}: {name} is not {own} of the Otter")


def check_tokenizer(folder, case):
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for prompt in read_json(case / "generate.json")["prompts"]:
        for text, ids, mask in zip(prompt["texts"], prompt["input_ids"], prompt["attention_mask"]):
            expected = [token for token, real in zip(ids, mask) if real]
            check(tokenizer.encode(text).ids == expected, f"{folder}: token ids of {text!r}")


def check_configuration(folder, case, weights):
    saved, original = read_json(folder / "config.json"), read_json(case / "checkpoint" / "config.json")
    for key, value in original.items():
        if key not in ("vision_config", "text_config", "torch_dtype"):
            check(saved.get(key) == value, f"{folder}: config.json: {key} is {saved.get(key)}, was {value}")
    for part in ("vision_config", "text_config"):
        for key, value in original[part].items():
            check(saved[part].get(key) == value, f"{folder}: config.json: {part}.{key}: {saved[part].get(key)}, {value}")
    generation = GenerationConfig.from_pretrained(folder)
    before = GenerationConfig.from_pretrained(case / "checkpoint")
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        check(getattr(generation, key) == getattr(before, key), f"{folder}: generation_config.json: {key}")
    text = dict(saved["text_config"])
    model_type = text.pop("model_type")
    if model_type in CONFIG_MAPPING:
        config = CONFIG_MAPPING[model_type](**text)
        rows = next(weights[name].shape for name in weights if name.endswith(("embed_tokens.weight", "wte.weight")))
        check((config.vocab_size, config.hidden_size) == tuple(rows), f"{folder}: text_config has other sizes")
    vision = CLIPVisionModel(CLIPVisionConfig(**{k: v for k, v in saved["vision_config"].items() if k != "model_type"}))
    prefix = "vision_encoder.vision_model."
    tower = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
    vision = getattr(vision, "vision_model", vision)
    vision.load_state_dict(tower)  # raises on missing, unexpected and misshapen
    return vision


def check_pixels(folder, images):
    """`preprocessor_config.json` makes the image processor of CLIP give what the original's gave."""
    from safetensors.torch import load_file
    from transformers import AutoImageProcessor

    # With torchvision installed another resize would be chosen; the recordings are of Pillow's.
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    side = read_json(folder / "config.json")["vision_config"]["image_size"]
    expected = load_file(images / "preprocessed.safetensors")
    from PIL import Image

    for name, pixels in expected.items():
        kind, _, file = name.partition(".")
        if kind == f"clip{side}" and file.endswith(".png"):
            # The recordings drop transparency, which newer processors blend with white.
            found = processor(Image.open(images / file).convert("RGB"), return_tensors="pt")["pixel_values"][0]
            close(torch.as_tensor(np.asarray(found)), pixels, 1e-5, f"{folder}: pixels of {file}")


def main():
    case, folders = Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]]
    expected = golden_weights(case / "checkpoint")
    for folder in folders:
        if folder.is_file():
            check_open_flamingo(folder, expected)
            continue
        dtype = DTYPES[folder.name.rsplit("-", 1)[1]]
        weights = check_weights(folder, expected, dtype)
        check_tokenizer(folder, case)
        check_configuration(folder, case, weights)
        if (folder / "preprocessor_config.json").exists():
            check_pixels(folder, case.parent / "images")
    finish(f"plain pieces on {len(folders)} folders of {case.name}")


main()
