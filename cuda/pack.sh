#!/bin/sh
# Packs `otter` for GPUs with its self-check, for a machine that has neither Rust nor a network. Here it needs what
# `cargo build --features cuda` needs (cuda/toolkit.sh); there it needs the GPU's driver and Python 3, and PyTorch with
# transformers for the comparison of speed.
#
#   cuda/pack.sh                    writes target/otter-cuda.tar.gz
#   cuda/pack.sh --with-tests       with the tests of the kernels (cuda/pack_tests.sh) too
#   cuda/pack.sh --binary PATH      packs this program instead of building one
#   cuda/pack.sh --out FILE         writes another file
#   tar xzf otter-cuda.tar.gz && otter-cuda/self_check.py [--device cuda:0] [--json FILE]
set -eu

# The program is downloaded and carried about: it must not grow unnoticed.
largest=60000000

stop() {
    echo "$1" >&2
    exit 1
}

binary= with_tests= out=
while [ $# -gt 0 ]; do
    case "$1" in
    --with-tests) with_tests=1 ;;
    --binary | --out)
        [ $# -gt 1 ] || stop "$1 needs a path"
        # Relative to where the caller is, not to the project.
        case "$2" in /*) path=$2 ;; *) path=$PWD/$2 ;; esac
        if [ "$1" = --binary ]; then binary=$path; else out=$path; fi
        shift
        ;;
    *) stop "unknown argument $1: there are --with-tests, --binary PATH and --out FILE" ;;
    esac
    shift
done

cd "$(dirname "$0")/.."
out=${out:-$PWD/target/otter-cuda.tar.gz}
mkdir -p target
if [ -z "$binary" ]; then
    cargo build --release --locked -p otter-cli -p otter-dev --features otter-cli/cuda
    binary=target/release/otter
fi
tool=$(dirname "$binary")/otter-dev
for file in "$binary" "$tool"; do [ -f "$file" ] || stop "there is no $file"; done

unfinished=$(mktemp -d target/otter-cuda.XXXXXX)
trap 'rm -rf "$unfinished" "$out.tmp"' EXIT
pack=$unfinished/otter-cuda
mkdir -p "$pack/golden"
cp "$binary" "$pack/otter"
cp "$tool" "$pack/otter-dev"
for program in otter otter-dev; do
    strip "$pack/$program" || echo "not stripped" >&2
    chmod 755 "$pack/$program"
    bytes=$(wc -c <"$pack/$program")
    [ "$bytes" -lt "$largest" ] || stop "$program has $bytes bytes, and $largest are allowed"
done

cp cuda/self_check.py bench/otter_torch.py "$pack/"
chmod 755 "$pack/self_check.py"
for case in llama video flamingo mpt7b-style mpt1b-style; do
    mkdir "$pack/golden/$case"
    cp -R "tests/golden/$case/checkpoint" "tests/golden/$case/forward.safetensors" "$pack/golden/$case/"
    # None were recorded for Flamingo.
    gradients=tests/golden/$case/grads.safetensors
    [ "$case" = flamingo ] || cp "$gradients" "$pack/golden/$case/"
done
if [ -n "$with_tests" ]; then
    cuda/pack_tests.sh
    cp -R target/otter-cuda-tests "$pack/tests"
fi
tar czf "$out.tmp" -C "$unfinished" otter-cuda
mv "$out.tmp" "$out"
ls -l "$out"
