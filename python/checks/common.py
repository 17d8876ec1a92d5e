# SPDX-License-Identifier: MIT OR Apache-2.0
"""What the checks share."""

import json
import sys
from pathlib import Path

import torch

failures = []


def check(holds, what):
    """Notes a failure and goes on, so that one run shows all of them."""
    if not holds:
        failures.append(what)
        print(f"FAILED: {what}", file=sys.stderr)


def close(found, expected, tolerance, what):
    if found.shape != expected.shape:
        check(False, f"{what}: shape {tuple(found.shape)}, expected {tuple(expected.shape)}")
        return
    difference = (found - expected).abs().max().item()
    check(difference <= tolerance, f"{what}: differs by {difference:.2e}, accepted {tolerance:.0e}")


def read_json(path):
    return json.loads(Path(path).read_text(encoding="utf-8"))


def golden_weights(checkpoint):
    """The tensors of a golden checkpoint, read by PyTorch or safetensors."""
    from safetensors.torch import load_file

    tensors = {}
    for path in sorted(Path(checkpoint).glob("*.safetensors")):
        tensors.update(load_file(path))
    for path in sorted(Path(checkpoint).glob("pytorch_model*.bin")):
        tensors.update(torch.load(path, map_location="cpu", weights_only=True))
    return tensors


def finish(what):
    if failures:
        sys.exit(f"{len(failures)} of the checks of {what} failed")
    print(f"{what}: all hold")
