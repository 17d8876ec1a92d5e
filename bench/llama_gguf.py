"""Writes a GGUF file of LLaMA-7B's shape, its weights drawn at random: every matrix in Q4_K, or with --mixture as llama.cpp's
Q4_K_M, which keeps the output table and half of the value and down projections in Q6_K.

What a product costs does not depend on the values, as long as they are ordinary numbers. Blocks are those of normal
weights of deviation 0.02, quantized by scale and minimum of every 32, as llama.cpp lays them out; a pool of them is
repeated from random places.

    bench/.venv-llama/bin/python bench/llama_gguf.py llama7b-q4k.gguf
    bench/.venv-llama/bin/python bench/llama_gguf.py llama7b-q4km.gguf --mixture
"""

import argparse
from pathlib import Path

import gguf
import numpy

VOCABULARY, WIDTH, INNER, LAYERS, HEADS = 32004, 4096, 11008, 32, 32
BLOCK, GROUP = 256, 32
FOUR, SIX = gguf.GGMLQuantizationType.Q4_K, gguf.GGMLQuantizationType.Q6_K


def quantize(values):
    """Q4_K blocks (blocks, 144) of values (blocks, 256)."""
    groups = values.reshape(-1, BLOCK // GROUP, GROUP)
    minimum = numpy.maximum(-groups.min(axis=2), 0)
    step = (groups.max(axis=2) + minimum) / 15
    unit, unit_minimum = (a.max(axis=1, keepdims=True) / 63 for a in (step, minimum))
    scales, minima = (numpy.rint(a / u).astype(numpy.uint8) for a, u in ((step, unit), (minimum, unit_minimum)))
    unit, unit_minimum = unit.astype(numpy.float16), unit_minimum.astype(numpy.float16)
    step = (unit.astype(numpy.float32) * scales)[..., None]
    low = (unit_minimum.astype(numpy.float32) * minima)[..., None]
    codes = numpy.clip(numpy.rint((groups + low) / numpy.maximum(step, 1e-30)), 0, 15).astype(numpy.uint8)
    # Six bits each: the first four scales and minima in bytes of their own, the upper bits of the others above them.
    packed = numpy.concatenate(
        [
            scales[:, :4] | (scales[:, 4:] >> 4) << 6,
            minima[:, :4] | (minima[:, 4:] >> 4) << 6,
            (scales[:, 4:] & 15) | (minima[:, 4:] & 15) << 4,
        ],
        axis=1,
    )
    # Two groups share 32 bytes, low halves first.
    pairs = codes.reshape(-1, 4, 2, GROUP)
    nibbles = (pairs[:, :, 0] | pairs[:, :, 1] << 4).reshape(-1, BLOCK // 2)
    blocks = [unit.view(numpy.uint8), unit_minimum.view(numpy.uint8), packed, nibbles]
    return numpy.concatenate(blocks, axis=1)


def quantize_six(values):
    """Q6_K blocks (blocks, 210) of values (blocks, 256): a signed scale for 16, codes of six bits."""
    groups = values.reshape(-1, 16, 16)
    step = numpy.abs(groups).max(axis=2) / 31
    unit = (step.max(axis=1, keepdims=True) / 127).astype(numpy.float16)
    scales = numpy.rint(step / unit.astype(numpy.float32)).astype(numpy.int8)
    step = (unit.astype(numpy.float32) * scales)[..., None]
    codes = (numpy.clip(numpy.rint(groups / step), -32, 31) + 32).astype(numpy.uint8)
    # Halves of 128 codes, each four rows of 32: low four bits of rows 0 and 2, and 1 and 3, share bytes; so do all high bits.
    rows = codes.reshape(-1, 2, 4, 32)
    low = (rows[:, :, :2] & 15) | (rows[:, :, 2:] & 15) << 4
    high = sum((rows[:, :, row] >> 4) << 2 * row for row in range(4))
    blocks = [low.reshape(-1, 128), high.reshape(-1, 64), scales.view(numpy.uint8), unit.view(numpy.uint8)]
    return numpy.concatenate(blocks, axis=1)


class Random:
    """Matrices of blocks from a pool."""

    def __init__(self, seed):
        self.generator = numpy.random.default_rng(seed)
        values = self.generator.normal(0, 0.02, (1 << 14, BLOCK)).astype(numpy.float32)
        self.pools = {FOUR: quantize(values), SIX: quantize_six(values)}

    def matrix(self, kind, rows, width):
        of_row, pool = width // BLOCK, self.pools[kind]
        starts = self.generator.integers(0, len(pool) - of_row, rows)
        return pool[starts[:, None] + numpy.arange(of_row)].reshape(rows, of_row * pool.shape[1])


def in_six(name, layers):
    """Whether Q4_K_M keeps a matrix in Q6_K."""
    if name == "output":
        return True
    parts = name.split(".")
    if parts[-1] not in ("attn_v", "ffn_down"):
        return False
    layer, eighth = int(parts[1]), layers // 8
    return layer < eighth or layer >= 7 * eighth or (layer - eighth) % 3 == 2


def write(path, seed, mixture, layers):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("random weights of LLaMA-7B's shape")
    writer.add_context_length(2048)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(VOCABULARY)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_K_M if mixture else gguf.LlamaFileType.MOSTLY_Q4_K_S)
    # Tokens are given as numbers; the names only have to be there.
    writer.add_tokenizer_model("llama")
    names = [b"<unk>", b"<s>", b"</s>", *(f"<0x{byte:02X}>".encode() for byte in range(256))]
    names += [f"token{index}".encode() for index in range(len(names), VOCABULARY)]
    writer.add_token_list(names)
    writer.add_token_scores([0.0] * VOCABULARY)
    writer.add_token_types([2, 3, 3, *[6] * 256, *[1] * (VOCABULARY - 259)])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    random = Random(seed)
    sizes = {"token_embd": (VOCABULARY, WIDTH), "output": (VOCABULARY, WIDTH)}
    for layer in range(layers):
        own = {"attn_q": (WIDTH, WIDTH), "attn_k": (WIDTH, WIDTH), "attn_v": (WIDTH, WIDTH), "attn_output": (WIDTH, WIDTH)}
        own |= {"ffn_gate": (INNER, WIDTH), "ffn_up": (INNER, WIDTH), "ffn_down": (WIDTH, INNER)}
        sizes |= {f"blk.{layer}.{name}": size for name, size in own.items()}
    norms = [f"blk.{layer}.{name}" for layer in range(layers) for name in ("attn_norm", "ffn_norm")] + ["output_norm"]
    kinds = {name: SIX if mixture and in_six(name, layers) else FOUR for name in sizes}
    for name, (rows, width) in sizes.items():
        of_row = width // BLOCK * random.pools[kinds[name]].shape[1]
        writer.add_tensor_info(f"{name}.weight", (rows, of_row), numpy.dtype(numpy.uint8), rows * of_row, kinds[name])
    for name in norms:
        writer.add_tensor_info(f"{name}.weight", (WIDTH,), numpy.dtype(numpy.float32), WIDTH * 4)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, (rows, width) in sizes.items():
        writer.write_tensor_data(random.matrix(kinds[name], rows, width))
    for _ in norms:
        writer.write_tensor_data(numpy.ones(WIDTH, numpy.float32))
    writer.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mixture", action="store_true", help="as Q4_K_M")
    parser.add_argument("--layers", type=int, default=LAYERS)
    arguments = parser.parse_args()
    unfinished = arguments.path.with_name(arguments.path.name + ".tmp")
    write(unfinished, arguments.seed, arguments.mixture, arguments.layers)
    unfinished.replace(arguments.path)


if __name__ == "__main__":
    main()
