"""The mid-size Otter of `otter-dev bench` in PyTorch, timed the same way: one training step, one greedy decode.

The frozen parts are the classes of `transformers` (CLIP tower, LLaMA decoder layers, both with SDPA attention); the
Perceiver resampler and the masked gated cross-attention are written here with `scaled_dot_product_attention`. PyTorch
gets its fastest eager settings: no gradient graph through the tower, gradients only for trained parameters, fused
AdamW, logits only for rows that have a target (`--full-logits` computes all, as the original does), inference mode, a
key-value cache, and media projected once a prompt in the decode.

Weights, pixels and tokens come from the same formula as in `otter-dev bench`, so that loss, gradient norm and generated
tokens can be compared.

With `--device cuda` all of it is on a GPU, and times are taken when the GPU has done its work. With `--dtype bf16`
the training step has its forward pass under autocast, frozen parts in bf16 and trained parameters in f32; the decode
has the whole model in bf16. In f32 no product is rounded to TF32.

`--only big-decode` is another model: LLaMA 7B of `transformers` with random weights, 256 tokens of prompt and
`--new-tokens` after them, in rows like those of `otter-dev bench --only prefill,decode`.
"""

import argparse
import contextlib
import json
import math
import resource
import sys
import time

import torch
import torch.nn.functional as F
import transformers
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel, DynamicCache, LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRMSNorm, LlamaRotaryEmbedding

WIDTH = 768  # of the tower, the resampler and the language model
LAYERS = 12
EVERY_N_LAYERS = 4
VOCABULARY = 32004
HEADS, HEAD_SIZE, LATENTS = 8, 64, 64
INNER = HEADS * HEAD_SIZE
IMAGE_TOKEN, STOP_TOKEN, IGNORE = 3, 2, -100
BIG_PROMPT = 256
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


def feed_forward(width):
    return nn.Sequential(
        nn.LayerNorm(width),
        nn.Linear(width, 4 * width, bias=False),
        nn.GELU(),
        nn.Linear(4 * width, width, bias=False),
    )


def split_heads(x):
    return x.unflatten(-1, (HEADS, HEAD_SIZE)).transpose(1, 2)


def merge_heads(x):
    return x.transpose(1, 2).flatten(2)


class PerceiverLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm_media = nn.LayerNorm(WIDTH)
        self.norm_latents = nn.LayerNorm(WIDTH)
        self.to_q = nn.Linear(WIDTH, INNER, bias=False)
        self.to_kv = nn.Linear(WIDTH, 2 * INNER, bias=False)
        self.to_out = nn.Linear(INNER, WIDTH, bias=False)
        self.feed_forward = feed_forward(WIDTH)

    def forward(self, media, latents):
        normed = self.norm_latents(latents)
        q = self.to_q(normed)
        k, v = self.to_kv(torch.cat((self.norm_media(media), normed), dim=1)).chunk(2, dim=-1)
        out = F.scaled_dot_product_attention(split_heads(q), split_heads(k), split_heads(v))
        latents = latents + self.to_out(merge_heads(out))
        return latents + self.feed_forward(latents)


class PerceiverResampler(nn.Module):
    def __init__(self, depth=6):
        super().__init__()
        self.latents = nn.Parameter(torch.empty(LATENTS, WIDTH))
        self.layers = nn.ModuleList(PerceiverLayer() for _ in range(depth))
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, media):
        latents = self.latents.expand(media.shape[0], -1, -1)
        for layer in self.layers:
            latents = layer(media, latents)
        return self.norm(latents)


class MaskedCrossAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.to_q = nn.Linear(WIDTH, INNER, bias=False)
        self.to_kv = nn.Linear(WIDTH, 2 * INNER, bias=False)
        self.to_out = nn.Linear(INNER, WIDTH, bias=False)

    def project(self, media):
        k, v = self.to_kv(media).chunk(2, dim=-1)
        return split_heads(k), split_heads(v)

    def forward(self, x, keys_values, mask, sees):
        k, v = keys_values
        out = F.scaled_dot_product_attention(split_heads(self.to_q(self.norm(x))), k, v, attn_mask=mask)
        if sees is not None:
            out = out.masked_fill(~sees, 0.0)
        return self.to_out(merge_heads(out))


class GatedCrossAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn_gate = nn.Parameter(torch.empty(1))
        self.ff_gate = nn.Parameter(torch.empty(1))
        self.attn = MaskedCrossAttention()
        self.feed_forward = feed_forward(WIDTH)

    def forward(self, x, keys_values, mask, sees):
        x = x + self.attn(x, keys_values, mask, sees) * self.attn_gate.tanh()
        return x + self.feed_forward(x) * self.ff_gate.tanh()


class WrappedLayer(nn.Module):
    def __init__(self, config, index):
        super().__init__()
        with_block = (index + 1) % EVERY_N_LAYERS == 0
        self.gated_cross_attn_layer = GatedCrossAttention() if with_block else None
        self.decoder_layer = LlamaDecoderLayer(config, index)


def media_mask(ids, items):
    """Which latents each row attends, and which rows attend any: the item of the latest media token."""
    text_time = (ids == IMAGE_TOKEN).cumsum(1)
    media_time = torch.arange(1, items + 1, device=ids.device).repeat_interleave(LATENTS)
    allowed = text_time[:, :, None] == media_time
    sees = (text_time > 0)[:, None, :, None]
    # A row without an allowed key attends everything before it is set to zero, so that softmax stays finite.
    allowed = allowed | ~allowed.any(-1, keepdim=True)
    return allowed[:, None], sees


class Otter(nn.Module):
    def __init__(self):
        super().__init__()
        vision = CLIPVisionConfig(
            hidden_size=WIDTH, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
            image_size=224, patch_size=32, hidden_act="quick_gelu", layer_norm_eps=1e-5,
        )
        vision._attn_implementation = "sdpa"
        text = LlamaConfig(
            hidden_size=WIDTH, intermediate_size=2048, num_hidden_layers=LAYERS, num_attention_heads=12,
            num_key_value_heads=12, vocab_size=VOCABULARY, rms_norm_eps=1e-6, max_position_embeddings=2048,
        )
        text._attn_implementation = "sdpa"
        self.vision_encoder = CLIPVisionModel(vision)
        self.perceiver = PerceiverResampler()
        self.embed_tokens = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleList(WrappedLayer(text, i) for i in range(LAYERS))
        self.norm = LlamaRMSNorm(WIDTH, eps=1e-6)
        self.lm_head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.rotary = LlamaRotaryEmbedding(text)
        self.text_config = text

    def encode_media(self, pixels):
        # The tower is frozen and in bf16 already where autocast is on: it needs none of its casts.
        with torch.no_grad(), torch.autocast(pixels.device.type, enabled=False):
            features = self.vision_encoder(pixel_values=pixels).last_hidden_state[:, 1:]
        return self.perceiver(features)

    def project_media(self, latents):
        blocks = (layer.gated_cross_attn_layer for layer in self.layers)
        return [block and block.attn.project(latents) for block in blocks]

    def hidden(self, ids, media, mask, sees, cache=None, start=0):
        x = self.embed_tokens(ids)
        positions = torch.arange(start, start + ids.shape[1], device=ids.device)[None]
        embeddings = self.rotary(x, positions)
        for layer, keys_values in zip(self.layers, media):
            if layer.gated_cross_attn_layer is not None:
                x = layer.gated_cross_attn_layer(x, keys_values, mask, sees)
            # Without a mask SDPA takes its causal path (and for a single row, the plain one).
            x = layer.decoder_layer(x, position_embeddings=embeddings, past_key_values=cache)
        return self.norm(x)


def original_name(name):
    """The state-dict key of the original for a parameter of this module."""
    if name.startswith("vision_encoder."):
        rest = name.removeprefix("vision_encoder.").removeprefix("vision_model.")
        return f"vision_encoder.vision_model.{rest}"
    if name.startswith("perceiver."):
        return name
    if name.startswith("lm_head."):
        return f"lang_encoder.{name}"
    return f"lang_encoder.model.{name}"


def is_trained(name):
    parts = ("perceiver", "gated_cross_attn_layer")
    return any(p in name for p in parts) or name.endswith(("embed_tokens.weight", "lm_head.weight"))


def is_decayed(name):
    spared = ("ff_gate", "attn_gate", "norm", "bias", "feed_forward.0.")
    return "gated_cross_attn_layer" in name and not any(p in name for p in spared)


def fill_uniform(out, name, center, amplitude):
    """center + amplitude * u with u in [-1, 1) from a hash of the element's index and the name."""
    seed = 0x811C9DC5
    for byte in name.encode():
        seed = ((seed ^ byte) * 0x01000193) & 0xFFFFFFFF
    flat = out.view(-1)
    for start in range(0, flat.numel(), 1 << 18):
        part = flat[start : start + (1 << 18)]
        x = (torch.arange(start, start + part.numel(), device=out.device) * 0x9E3779B1 + seed) & 0xFFFFFFFF
        for shift, factor in ((15, 0x85EBCA77), (13, 0xC2B2AE3D)):
            x = ((x ^ (x >> shift)) * factor) & 0xFFFFFFFF
        x = (x ^ (x >> 16)) >> 8
        part.copy_((x.to(torch.float32) / 8388608.0 - 1.0) * amplitude + center)


def fill_parameter(parameter, name):
    shape = parameter.shape
    if name.endswith("_gate"):
        return parameter.fill_(0.5)
    if parameter.dim() == 1 and name.endswith(".weight"):
        return fill_uniform(parameter, name, 1.0, 0.125)
    if name.endswith("latents"):
        return fill_uniform(parameter, name, 0.0, 1.5)
    return fill_uniform(parameter, name, 0.0, 0.03125 if len(shape) > 1 else 0.015625)


def pixels(images, tower):
    """Pixels where the tower is, in its type."""
    weight = tower.get_input_embeddings().weight
    values = torch.empty(images, 3, 224, 224, device=weight.device)
    fill_uniform(values, "pixels", 0.0, 1.5)
    return values.to(weight.dtype)


def clock(device):
    """Seconds, after a GPU has done all it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def to_bf16(model, everything):
    """Moves the frozen parameters to bf16, or everything."""
    for parameter in model.parameters():
        if everything or not parameter.requires_grad:
            parameter.grad = None
            parameter.data = parameter.data.to(torch.bfloat16)


def exact_norm(parameters):
    parts = (part for p in parameters for part in p.grad.view(-1).split(1 << 18))
    return math.sqrt(sum(part.double().square().sum().item() for part in parts))


def equal_lengths(arguments):
    """Token ids and labels of `--batch` sequences of `--length` tokens; labels on the second halves."""
    batch, length = arguments.batch, arguments.length
    index = torch.arange(batch * length)
    ids = torch.where(index % length == 1, IMAGE_TOKEN, 4 + (index * 7919) % (VOCABULARY - 4)).view(batch, length)
    return ids, torch.where(index.view(batch, length) % length < length // 2, IGNORE, ids)


def padded(lengths):
    """The same for sequences of these lengths, padded on the right to the longest."""
    index = torch.arange(max(lengths)).expand(len(lengths), -1)
    ends = torch.tensor(lengths)[:, None]
    ids = torch.where(index == 1, IMAGE_TOKEN, 4 + (index * 7919) % (VOCABULARY - 4))
    labels = torch.where((index >= ends // 2) & (index < ends) & (index > 1), ids, IGNORE)
    return torch.where(index < ends, ids, 0), labels


def forward_pass(arguments):
    if arguments.dtype == "f32":
        return contextlib.nullcontext()
    return torch.autocast(torch.device(arguments.device).type, dtype=DTYPES[arguments.dtype])


def time_lengths(model, arguments, results):
    """Forward and backward pass of padded sequences. Under the causal mask no token sees the padding after it, so nothing
    else needs a mask."""
    device = torch.device(arguments.device)
    ids, labels = (part.to(device) for part in padded(arguments.lengths))
    targets = F.pad(labels[:, 1:], (0, 1), value=IGNORE).flatten()
    rows = torch.nonzero(targets != IGNORE).flatten()
    images = pixels(len(ids), model.vision_encoder)
    seconds, losses = [], []
    for _ in range(arguments.repeats + 1):
        model.zero_grad(set_to_none=True)
        start = clock(device)
        with forward_pass(arguments):
            mask, sees = media_mask(ids, 1)
            media = model.project_media(model.encode_media(images))
            hidden = model.hidden(ids, media, mask, sees).flatten(0, 1)
            loss = F.cross_entropy(model.lm_head(hidden[rows]), targets[rows])
        loss.backward()
        seconds.append(clock(device) - start)
        losses.append(loss.item())
    results["padded_seconds"] = seconds[1:]
    results["losses"] = losses[:1]


def time_training(model, arguments, results):
    device = torch.device(arguments.device)
    ids, labels = (part.to(device) for part in equal_lengths(arguments))
    targets = F.pad(labels[:, 1:], (0, 1), value=IGNORE).flatten()
    rows = torch.nonzero(targets != IGNORE).flatten()
    images = pixels(len(ids), model.vision_encoder)
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    groups = [
        {"params": [p for n, p in trained if is_decayed(n)], "weight_decay": 0.1},
        {"params": [p for n, p in trained if not is_decayed(n)], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-5, betas=(0.9, 0.999), eps=1e-8, fused=True)
    parameters = [p for _, p in trained]
    seconds, losses, norms = [], [], []
    for step in range(arguments.repeats + 1):
        start = clock(device)
        optimizer.zero_grad(set_to_none=True)
        with forward_pass(arguments):
            mask, sees = media_mask(ids, 1)
            media = model.project_media(model.encode_media(images))
            hidden = model.hidden(ids, media, mask, sees).flatten(0, 1)
            if arguments.full_logits:
                loss = F.cross_entropy(model.lm_head(hidden), targets, ignore_index=IGNORE)
            else:
                loss = F.cross_entropy(model.lm_head(hidden[rows]), targets[rows])
        loss.backward()
        if step == 0:
            # Only in the warm-up: the norm below is summed in f32 and good to three digits.
            norms = [exact_norm(parameters)]
        nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)
        optimizer.step()
        losses.append(loss.item())
        seconds.append(clock(device) - start)
    results["train_step_seconds"] = seconds[1:]
    results["losses"] = losses
    results["gradient_norms"] = norms


@torch.inference_mode()
def time_decoding(model, arguments, results):
    device = torch.device(arguments.device)
    prompt = torch.tensor([[IMAGE_TOKEN if i == 1 else 4 + i for i in range(64)]], device=device)
    image = pixels(1, model.vision_encoder)
    seconds, tokens = [], []
    for _ in range(arguments.repeats + 1):
        start = clock(device)
        media = model.project_media(model.encode_media(image))
        mask, sees = media_mask(prompt, 1)
        cache = DynamicCache(config=model.text_config)
        hidden = model.hidden(prompt, media, mask, sees, cache)
        tokens = []
        while True:
            logits = model.lm_head(hidden[:, -1])
            logits[:, STOP_TOKEN] = -math.inf
            token = logits.argmax(-1, keepdim=True)
            tokens.append(token.item())
            if len(tokens) == arguments.new_tokens:
                break
            # Later tokens keep attending the only image: no mask is needed.
            hidden = model.hidden(token, media, None, None, cache, 63 + len(tokens))
        seconds.append(clock(device) - start)
    results["decode_seconds"] = seconds[1:]
    results["decode_tokens"] = arguments.new_tokens
    results["generated"] = tokens


def llama_7b(arguments):
    """LLaMA 7B with random weights, made where it runs: neither the host's memory nor a file holds it."""
    config = LlamaConfig(**arguments.big_sizes)
    config._attn_implementation = "sdpa"
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    device = torch.device(arguments.device)
    model = model.to(DTYPES[arguments.dtype]).to_empty(device=device).eval()
    # Tables that are no parameters came out empty too.
    model.model.rotary_emb = LlamaRotaryEmbedding(config).to(device)
    generator = torch.Generator(device).manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.fill_(1.0)
            else:
                parameter.normal_(0.0, 0.02, generator=generator)
    return model


@torch.inference_mode()
def time_big_decode(model, arguments, results):
    """Both sides hand out every token before they compute the next one."""
    device = torch.device(arguments.device)
    prompt = torch.tensor([[4 + (i * 7919) % (model.config.vocab_size - 4) for i in range(BIG_PROMPT)]], device=device)
    new_tokens = max(arguments.new_tokens, 2)
    first, later = [], []
    for _ in range(arguments.repeats + 1):
        start = clock(device)
        cache = DynamicCache(config=model.config)
        ids, tokens = prompt, []
        while True:
            logits = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
            ids = logits[:, -1].argmax(-1, keepdim=True)
            tokens.append(ids.item())
            if len(tokens) == 1:
                prefilled = clock(device)
            if len(tokens) == new_tokens:
                break
        later.append(clock(device) - prefilled)
        first.append(prefilled - start)

    def row(name, seconds, count):
        rate = count / sorted(seconds)[len(seconds) // 2]
        return {"name": name, "seconds": seconds, "count": count, "unit": "tokens", "rate": rate}

    results["rows"] = [row("prefill", first[1:], BIG_PROMPT), row("decode", later[1:], new_tokens - 1)]
    results["generated"] = tokens


def mid_size(arguments):
    """The model of the other works, filled by the formula."""
    # Random initialization of the classes would be thrown away: build them empty, then fill.
    with torch.device("meta"):
        model = Otter()
    device = torch.device(arguments.device)
    model = model.to_empty(device=device).train(arguments.only == "train" or bool(arguments.lengths))
    model.vision_encoder.eval()
    # Tables that are no parameters came out empty too.
    tower = getattr(model.vision_encoder, "vision_model", model.vision_encoder)
    tower.embeddings.position_ids = torch.arange(tower.embeddings.num_positions, device=device)[None]
    model.rotary = LlamaRotaryEmbedding(model.text_config).to(device)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            fill_parameter(parameter, original_name(name))
            parameter.requires_grad_(is_trained(name))
    return model


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=["train", "decode", "big-decode"])
    parser.add_argument("--device", default="cpu", help="cpu, cuda, or cuda:N of several GPUs")
    parser.add_argument("--dtype", choices=list(DTYPES), default="f32")
    parser.add_argument("--big-sizes", type=json.loads, default={}, metavar="JSON",
                        help="fields of LlamaConfig that make the model of big-decode smaller, for a try")
    parser.add_argument("--repeats", type=int, default=3, help="timed repetitions after one warm-up")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--full-logits", action="store_true", help="logits of every row, as the original computes")
    parser.add_argument("--lengths", type=lambda text: [int(n) for n in text.split(",")],
                        help="time a forward and backward pass of sequences of these lengths instead")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.set_num_interop_threads(1)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    device = torch.device(arguments.device)
    if device.index is not None:
        torch.cuda.set_device(device)
    big = arguments.only == "big-decode"
    model = (llama_7b if big else mid_size)(arguments)
    counts = [(p.numel(), p.requires_grad) for p in model.parameters()]
    results = {
        "parameters": sum(n for n, _ in counts),
        "trainable": sum(n for n, trained in counts if trained),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": sys.version.split()[0],
    }
    if device.type != "cpu" or arguments.dtype != "f32":
        results["dtype"] = arguments.dtype
        results["device"] = torch.cuda.get_device_name(device) if device.type == "cuda" else arguments.device
    if big:
        time_big_decode(model, arguments, results)
    elif arguments.dtype == "bf16":
        to_bf16(model, everything=False)
    if arguments.lengths:
        time_lengths(model, arguments, results)
    elif arguments.only in (None, "train"):
        model.train()
        model.vision_encoder.eval()
        time_training(model, arguments, results)
    if arguments.only in (None, "decode") and not arguments.lengths:
        model.eval()
        if arguments.dtype == "bf16":
            to_bf16(model, everything=True)
        time_decoding(model, arguments, results)
    results["peak_resident_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if device.type == "cuda":
        results["gpu_peak_bytes"] = torch.cuda.max_memory_allocated(device)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
