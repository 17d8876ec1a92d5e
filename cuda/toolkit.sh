#!/bin/sh
# Fetches NVIDIA's compiler for `cargo build -p otter-cuda --features cuda` from the Python package index, for machines without a CUDA
# toolkit: about 110 MB, into target/cuda-toolkit, where the build looks. Nothing is installed outside that folder. The license is
# NVIDIA's (it is among the files); a GPU is not needed to build, its driver is all that is needed to run.
#
#   cuda/toolkit.sh
#   cargo build --release -p otter-cuda --features cuda
#
# Needs python3 with pip, and a C++ compiler.
set -eu
cd "$(dirname "$0")/.."
place=target/cuda-toolkit
if [ -x "$place/bin/nvcc" ] && "$place/bin/nvcc" --version >/dev/null 2>&1; then
    echo "already there: $place"
    exit 0
fi
for need in python3 g++; do
    command -v "$need" >/dev/null || { echo "$need is needed and was not found" >&2; exit 1; }
done
mkdir -p target
unfinished=$(mktemp -d target/cuda-toolkit.XXXXXX)
trap 'rm -rf "$unfinished"' EXIT
python3 -m pip download --quiet --no-deps --dest "$unfinished/wheels" \
    'nvidia-cuda-nvcc==13.0.*' 'nvidia-nvvm==13.0.*' 'nvidia-cuda-crt==13.0.*' \
    'nvidia-cuda-runtime==13.0.*' 'nvidia-cuda-cccl==13.0.*'
for wheel in "$unfinished"/wheels/*.whl; do
    python3 -m zipfile -e "$wheel" "$unfinished/files"
done
home=$unfinished/files/nvidia/cu13
# Python's zip files do not keep which files are programs.
find "$home/bin" "$home/nvvm/bin" -type f -exec chmod +x {} +
[ -e "$home/lib64" ] || ln -s lib "$home/lib64"
"$home/bin/nvcc" --version
rm -rf "$place"
mv "$home" "$place"
echo "ready: $place"
