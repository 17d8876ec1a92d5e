"""CLIP ViT-L/14 on one image in PyTorch, the other side of the example `vision_tower` of otter-dev.

Weights and pixels come from the formula of otter_torch.py, so that the features of both can be compared.
"""

import argparse
import json
import sys
import time

import torch
import transformers
from otter_torch import fill_parameter, pixels
from transformers import CLIPVisionConfig, CLIPVisionModel


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5, help="timed repetitions after one warm-up")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--attention", choices=["sdpa", "eager"], default="sdpa")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.set_num_interop_threads(1)
    config = CLIPVisionConfig(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16,
        image_size=224, patch_size=14, hidden_act="quick_gelu", layer_norm_eps=1e-5,
    )
    config._attn_implementation = arguments.attention
    with torch.device("meta"):
        model = CLIPVisionModel(config)
    model = model.to_empty(device="cpu").eval()
    tower = getattr(model, "vision_model", model)
    tower.embeddings.position_ids = torch.arange(tower.embeddings.num_positions)[None]
    seconds = []
    with torch.inference_mode():
        for name, parameter in model.named_parameters():
            fill_parameter(parameter, f"vision.{name.removeprefix('vision_model.')}")
        image = pixels(1, model)
        for _ in range(arguments.repeats + 1):
            start = time.perf_counter()
            features = model(pixel_values=image).last_hidden_state[:, 1:]
            seconds.append(time.perf_counter() - start)
    results = {
        "vision_seconds": seconds[1:],
        "features": features.flatten()[:8].tolist(),
        "parameters": sum(p.numel() for p in model.parameters()),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": sys.version.split()[0],
    }
    print(json.dumps(results))


if __name__ == "__main__":
    main()
