"""Times llama.cpp on a GGUF file: a prompt in one batch, then greedy decoding; JSON to standard output.

    bench/.venv-llama/bin/python bench/llama_peer.py llama7b-q4k.gguf --tokens 256 --new-tokens 64 --threads 2
"""

import argparse
import ctypes
import json
import time

import llama_cpp
import numpy


@llama_cpp.llama_log_callback
def silent(level, text, data):
    """llama.cpp's log would be mixed with the results."""


def open_context(arguments):
    llama_cpp.llama_log_set(silent, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    model_options = llama_cpp.llama_model_default_params()
    model_options.n_gpu_layers = 0
    model = llama_cpp.llama_model_load_from_file(arguments.model.encode(), model_options)
    if not model:
        raise SystemExit(f"{arguments.model}: llama.cpp cannot read it; make it with llama_gguf.py")
    options = llama_cpp.llama_context_default_params()
    options.n_ctx = arguments.tokens + arguments.new_tokens
    options.n_batch = options.n_ubatch = arguments.tokens
    options.n_threads = options.n_threads_batch = arguments.threads
    return model, llama_cpp.llama_init_from_model(model, options)


def evaluate(context, tokens):
    """Scores of the token after `tokens`."""
    array = (llama_cpp.llama_token * len(tokens))(*tokens)
    if llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(array, len(tokens))) != 0:
        raise SystemExit("llama_decode failed")
    return llama_cpp.llama_get_logits_ith(context, -1)


def answer(context, vocabulary, arguments):
    """Seconds of the prompt, and of every token after the first."""
    llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
    prompt = [4 + i * 7919 % (vocabulary - 4) for i in range(arguments.tokens)]
    started = time.perf_counter()
    times = []
    step = prompt
    for _ in range(arguments.new_tokens):
        scores = numpy.ctypeslib.as_array(evaluate(context, step), (vocabulary,))
        step = [int(scores.argmax())]
        times.append(time.perf_counter())
    seconds = numpy.diff([started, *times])
    return float(seconds[0]), float(seconds[1:].sum())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--tokens", type=int, default=256, help="of the prompt")
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=1, help="timed answers after one that is not")
    arguments = parser.parse_args()
    model, context = open_context(arguments)
    vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    # One short answer maps the file and starts the threads.
    warm = argparse.Namespace(**{**vars(arguments), "tokens": min(32, arguments.tokens), "new_tokens": 4})
    answer(context, vocabulary, warm)
    times = [answer(context, vocabulary, arguments) for _ in range(arguments.repeats)]
    result = {
        "rows": [
            {"name": "prefill", "seconds": [prefill for prefill, _ in times], "count": arguments.tokens},
            {"name": "decode", "seconds": [decode for _, decode in times], "count": arguments.new_tokens - 1},
        ],
        "threads": arguments.threads,
        "parameters": llama_cpp.llama_model_n_params(model),
        "llama_cpp_python": llama_cpp.__version__,
        "instructions": llama_cpp.llama_print_system_info().decode(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
