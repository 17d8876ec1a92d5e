#!/bin/sh
# Makes bench/.venv with PyTorch, torchvision, Pillow and transformers, the other side of compare.py and loader.py.
#
# On Linux the default torch wheel brings several GB of CUDA packages that a CPU benchmark does not need. To avoid
# them, set TORCH_INDEX to the address of the CPU-only package index that PyTorch's installation page names.
set -eu
cd "$(dirname "$0")"
python3 -m venv .venv
if [ -n "${TORCH_INDEX:-}" ]; then
    .venv/bin/pip install --index-url "$TORCH_INDEX" torch torchvision
fi
.venv/bin/pip install -r requirements.txt
.venv/bin/python -c 'import torch, torchvision, transformers; print("torch", torch.__version__, "torchvision", torchvision.__version__, "transformers", transformers.__version__)'
