#!/usr/bin/env bash
# Small good files to begin with, from tests/golden; run from anywhere.
set -eu
cd "$(dirname "$0")"
golden=../tests/golden
put() { mkdir -p "corpus/$1"; cp "$2" "corpus/$1/$(basename "$2")"; }
put torch_zip "$golden/video/checkpoint/pytorch_model-00003-of-00003.bin"
put sentencepiece "$golden/llama/checkpoint/tokenizer.model"
put tokenizer_json "$golden/llama/checkpoint/tokenizer.json"
put shard_index "$golden/video/checkpoint/pytorch_model.bin.index.json"
for case in llama mpt7b-style mpt1b-style flamingo; do
    mkdir -p corpus/config_json
    cp "$golden/$case/checkpoint/config.json" "corpus/config_json/$case.json"
done
mkdir -p corpus/torch_pickle corpus/torch_legacy corpus/safetensors corpus/gguf
python3 - <<'PYTHON'
import json, struct, zipfile
golden = "../tests/golden/video/checkpoint/pytorch_model-00003-of-00003.bin"
with zipfile.ZipFile(golden) as archive:
    name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
    open("corpus/torch_pickle/golden", "wb").write(archive.read(name))
header = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
open("corpus/safetensors/small", "wb").write(struct.pack("<Q", len(header)) + header + bytes(8))

def text(value): return struct.pack("<Q", len(value)) + value.encode()
def entry(key, kind, value): return text(key) + struct.pack("<I", kind) + value
tokens = ["<unk>", "<s>", "</s>", "a", "b", "ab"]
metadata = [
    entry("general.architecture", 8, text("llama")),
    entry("llama.attention.head_count", 4, struct.pack("<I", 2)),
    entry("llama.embedding_length", 4, struct.pack("<I", 4)),
    entry("llama.block_count", 4, struct.pack("<I", 1)),
    entry("llama.context_length", 4, struct.pack("<I", 8)),
    entry("llama.feed_forward_length", 4, struct.pack("<I", 8)),
    entry("tokenizer.ggml.model", 8, text("llama")),
    entry("tokenizer.ggml.tokens", 9, struct.pack("<IQ", 8, len(tokens)) + b"".join(map(text, tokens))),
    entry("tokenizer.ggml.token_type", 9, struct.pack("<IQ6i", 5, 6, 2, 3, 3, 1, 1, 1)),
]
tensors = [("token_embd.weight", [4, 6], 0, 96), ("blk.0.attn_q.weight", [4, 4], 0, 64), ("output.weight", [256], 12, 144)]
out = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata)) + b"".join(metadata)
offset, body = 0, b""
for name, shape, kind, size in tensors:
    out += text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape) + struct.pack("<IQ", kind, offset)
    body += bytes(range(size)) + bytes(-size % 32)
    offset = len(body)
open("corpus/gguf/llama", "wb").write(out + bytes(-len(out) % 32) + body)

pickled = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19." b"\x80\x02M\xe9\x03." b"\x80\x02}."
pickled += (b"\x80\x02}X\x01\0\0\0xctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\n"
            b"X\x01\0\0\x000X\x03\0\0\0cpuK\x02NtQK\0(K\x02t(K\x01t\x89ccollections\nOrderedDict\n)RtRs.")
pickled += b"\x80\x02](X\x01\0\0\x000e." + struct.pack("<Q2f", 2, 1.0, 2.0)
open("corpus/torch_legacy/small", "wb").write(pickled)
PYTHON
