#!/bin/sh
# Makes bench/.venv-llama with llama.cpp (llama-cpp-python, compiled here for this processor's own instructions) and the
# `gguf` package: the other side of llama_compare.py. Needs a C++ compiler; cmake and ninja come from PyPI. Takes minutes.
set -eu
cd "$(dirname "$0")"
python3 -m venv .venv-llama
.venv-llama/bin/pip install numpy==2.* gguf==0.19.* cmake ninja
PATH="$PWD/.venv-llama/bin:$PATH" .venv-llama/bin/pip install --no-binary llama-cpp-python llama-cpp-python==0.3.36
.venv-llama/bin/python -c 'import llama_cpp; print("llama-cpp-python", llama_cpp.__version__)'
