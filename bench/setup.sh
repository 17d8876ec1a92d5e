#!/bin/sh
# Makes bench/.venv with PyTorch, torchvision, Pillow and transformers, the other side of compare.py and loader.py: the
# environment of python/make_environment.py, without the several GB of CUDA packages that a CPU benchmark does not need, and
# what bench/requirements.txt adds. For a GPU (otter_torch.py --device cuda), or to have torch from an index of your own,
# set TORCH_INDEX to the address of a package index that PyTorch's installation page names.
set -eu
cd "$(dirname "$0")"
if [ -n "${TORCH_INDEX:-}" ]; then
    python3 -m venv .venv
    .venv/bin/pip install --index-url "$TORCH_INDEX" torch torchvision
    .venv/bin/pip install transformers pillow
else
    python3 ../python/make_environment.py .venv
    .venv/bin/pip install --quiet --disable-pip-version-check --no-deps -r requirements.txt
fi
.venv/bin/python -c 'import torch, torchvision, transformers; print("torch", torch.__version__, "torchvision", torchvision.__version__, "transformers", transformers.__version__)'
