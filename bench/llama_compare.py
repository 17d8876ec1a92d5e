"""`otter-dev bench` against llama.cpp at 4 bits, whole processes in turn: A B A B …

Ours is a whole Otter of LLaMA-7B's shape, its gated cross-attention over an image included; theirs is the language model
alone. A round gives one ratio each of prefill and decode, from two processes that ran one after the other, so slow spells
of the machine hit both.

    cargo build --release -p otter-dev
    bench/llama_setup.sh
    bench/.venv-llama/bin/python bench/llama_gguf.py llama7b-q4k.gguf
    bench/.venv-llama/bin/python bench/llama_compare.py llama7b-q4k.gguf --rounds 3
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
WORK = ("prefill", "decode")


def run(command):
    """Runs a benchmark process; returns its JSON with the peak resident memory that the system saw."""
    with subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, text=True) as process:
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))} ended with {process.returncode}")
    result = json.loads(output)
    result["peak"] = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return result


def seconds(result, what):
    """Median seconds of a token."""
    row = next(row for row in result["rows"] if row["name"] == what)
    return statistics.median(row["seconds"]) / row["count"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("gguf", help="made by llama_gguf.py")
    parser.add_argument("--like", default="otter-9b", help="shape of our model")
    parser.add_argument("--quantize", default="q4_k")
    parser.add_argument("--rounds", type=int, default=3, help="pairs of processes")
    parser.add_argument("--repeats", type=int, default=1, help="timed answers in a process")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--otter", default=HERE.parent / "target/release/otter-dev")
    parser.add_argument("--python", default=HERE / ".venv-llama/bin/python")
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args()
    sizes = ["--tokens", arguments.tokens, "--new-tokens", arguments.new_tokens, "--repeats", arguments.repeats]
    ours = [arguments.otter, "--threads", arguments.threads, "bench", "--json", "--only", "prefill,decode"]
    ours += ["--like", arguments.like, "--quantize", arguments.quantize, *sizes]
    theirs = [arguments.python, HERE / "llama_peer.py", arguments.gguf, "--threads", arguments.threads, *sizes]
    rounds = []
    for number in range(arguments.rounds):
        otter, llama = run(ours), run(theirs)
        own = {what: {"otter": seconds(otter, what), "llama": seconds(llama, what)} for what in WORK}
        for what in WORK:
            own[what]["ratio"] = own[what]["llama"] / own[what]["otter"]
            rates = ", ".join(f"{side} {1 / own[what][side]:.2f} tokens/s" for side in ("otter", "llama"))
            print(f"{what} {number + 1}/{arguments.rounds}: {rates}, {own[what]['ratio']:.2f}x", file=sys.stderr)
        rounds.append({"otter": otter, "llama": llama, **own})
    print("| work | otter tokens/s | llama.cpp tokens/s | ratio (min – max) | peak otter | peak llama.cpp |")
    print("|---|---|---|---|---|---|")
    peaks = " | ".join(f"{max(r[side]['peak'] for r in rounds) / 2**30:.2f} GiB" for side in ("otter", "llama"))
    for what in WORK:
        rates = " | ".join(f"{1 / statistics.median(r[what][side] for r in rounds):.2f}" for side in ("otter", "llama"))
        ratios = [r[what]["ratio"] for r in rounds]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} – {max(ratios):.2f})"
        print(f"| {what} | {rates} | {spread} | {peaks} |")
    print(f"\nllama.cpp: {rounds[-1]['llama']['instructions'].strip()}")
    if arguments.json:
        unfinished = Path(f"{arguments.json}.tmp")
        unfinished.write_text(json.dumps(rounds, indent=1) + "\n")
        unfinished.replace(arguments.json)


if __name__ == "__main__":
    main()
