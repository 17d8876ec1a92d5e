"""`otter-dev bench` against the same model in PyTorch, whole processes in turn: A B A B …

Both sides warm up once in each process and then time `--repeats` steps (or decodes). A round gives one ratio,
PyTorch's median over ours, from two processes that ran one after the other, so slow spells of the machine hit both; the fastest repetition of each side is
given too, because it is what other work on the machine disturbs least.
Peak memory is what the system reports for each process when it ends. Losses, gradient norms and generated tokens
must agree, otherwise the comparison is refused.

    cargo build --release -p otter-dev
    cargo build --release -p otter-dev --example vision_tower
    bench/setup.sh
    bench/.venv/bin/python bench/compare.py --rounds 5 --json bench/results.json

Work: a training step; a greedy decode; with `--lengths`, a forward and backward pass of sequences of those lengths, packed
here and padded there; CLIP ViT-L/14 on one image.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
# Where each side reports its seconds.
WORK = {
    "train": ("train_step_seconds", "train_step_seconds"),
    "decode": ("decode_seconds", "decode_seconds"),
    "lengths": ("packed_seconds", "padded_seconds"),
    "vision": ("vision_seconds", "vision_seconds"),
    "vision8": ("vision_seconds", "vision_seconds"),
}


def run(command):
    """Runs a benchmark process; returns its JSON with the peak resident memory that the system saw."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))} ended with {process.returncode}")
    result = json.loads(output)
    # Linux counts kilobytes, macOS bytes.
    result["peak"] = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return result


def commands(arguments, what):
    sizes = ["--repeats", arguments.repeats, "--batch", arguments.batch, "--length", arguments.length]
    sizes += ["--new-tokens", arguments.new_tokens]
    work = ["--only", what]
    if what == "lengths":
        work, sizes = ["--lengths", arguments.lengths], ["--repeats", arguments.repeats]
    ours = [arguments.otter, "--threads", arguments.threads, "bench", "--json", *work, *sizes]
    torch = [arguments.python, HERE / "otter_torch.py", *work, "--threads", arguments.threads, *sizes]
    if what in ("vision", "vision8"):
        common = ["--threads", arguments.threads, "--repeats", arguments.repeats]
        ours = [arguments.vision_tower, *common, "--bits", 8 if what == "vision8" else 32]
        torch = [arguments.python, HERE / "vision_tower.py", *common]
    if arguments.full_logits:
        torch.append("--full-logits")
    return [str(a) for a in ours], [str(a) for a in torch]


def check(what, ours, torch):
    """Refuses to compare two programs that do not compute the same."""
    for key in ("parameters", "trainable", "threads"):
        if ours.get(key) != torch.get(key):
            sys.exit(f"{key}: otter has {ours[key]}, PyTorch has {torch[key]}")
    if what == "train":
        # The gradient norm of the first step only: see otter_torch.py.
        for key in ("losses", "gradient_norms"):
            for step, (a, b) in enumerate(zip(ours[key], torch[key])):
                if abs(a - b) > 1e-5 * abs(b):
                    sys.exit(f"{key}, step {step}: otter has {a}, PyTorch has {b}")
    elif what == "lengths":
        # Ours holds the padded pass and the packed one.
        for a in ours["losses"]:
            if abs(a - torch["losses"][0]) > 1e-5 * abs(a):
                sys.exit(f"losses: otter has {ours['losses']}, PyTorch has {torch['losses']}")
    elif what in ("vision", "vision8"):
        if ours["least_cosine"] < 0.999:
            sys.exit(f"features of a patch in blocks have a cosine of {ours['least_cosine']} with those in 32 bits")
        largest = max(abs(b) for b in torch["features"])
        if any(abs(a - b) > 1e-3 * largest for a, b in zip(ours["features"], torch["features"])):
            sys.exit(f"features differ:\notter   {ours['features']}\nPyTorch {torch['features']}")
    elif ours["generated"] != torch["generated"]:
        sys.exit(f"generated tokens differ:\notter   {ours['generated']}\nPyTorch {torch['generated']}")


def processor():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        fields = dict(line.replace("\t", "").split(":", 1) for line in lines if ":" in line)
        names = (fields.get("model name", "").strip(), "family", fields.get("cpu family", "").strip())
        return " ".join((*names, "model", fields.get("model", "").strip()))
    except OSError:
        return platform.processor() or platform.machine()


def measure(arguments, what):
    ours_command, torch_command = commands(arguments, what)
    rounds = []
    for number in range(arguments.rounds):
        ours, torch = run(ours_command), run(torch_command)
        check(what, ours, torch)
        a, b = (statistics.median(r[key]) for r, key in zip((ours, torch), WORK[what]))
        rounds.append({"otter": ours, "torch": torch, "otter_seconds": a, "torch_seconds": b, "ratio": b / a})
        load = os.getloadavg()[0]
        print(f"{what} {number + 1}/{arguments.rounds}: otter {a:.3f} s, PyTorch {b:.3f} s, "
              f"PyTorch / otter {b / a:.2f}, load {load:.1f}", file=sys.stderr)
    ratios = [r["ratio"] for r in rounds]
    return {
        "otter_seconds": statistics.median(r["otter_seconds"] for r in rounds),
        "torch_seconds": statistics.median(r["torch_seconds"] for r in rounds),
        "otter_fastest": min(min(r["otter"][WORK[what][0]]) for r in rounds),
        "torch_fastest": min(min(r["torch"][WORK[what][1]]) for r in rounds),
        "ratio": {"min": min(ratios), "median": statistics.median(ratios), "max": max(ratios)},
        "otter_peak_bytes": max(r["otter"]["peak"] for r in rounds),
        "torch_peak_bytes": max(r["torch"]["peak"] for r in rounds),
        "rounds": rounds,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="pairs of processes")
    parser.add_argument("--repeats", type=int, default=3, help="timed repetitions in a process")
    parser.add_argument("--only", choices=list(WORK))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--lengths", help="tokens of each sequence of a batch, such as 128,61,90,37")
    parser.add_argument("--full-logits", action="store_true", help="let PyTorch compute the logits of every row")
    parser.add_argument("--otter", default=HERE.parent / "target/release/otter-dev")
    parser.add_argument("--vision-tower", default=HERE.parent / "target/release/examples/vision_tower")
    parser.add_argument("--python", default=HERE / ".venv/bin/python")
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args()

    wanted = [what for what in WORK if arguments.only in (None, what) and (what != "lengths" or arguments.lengths)]
    if not wanted:
        sys.exit("--only lengths needs --lengths, the tokens of each sequence, such as 128,61,90,37")
    measured = {what: measure(arguments, what) for what in wanted}
    last = next(iter(measured.values()))["rounds"][-1]
    machine = {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": arguments.threads,
        "system": platform.platform(),
        "otter": subprocess.run([arguments.otter, "--version"], capture_output=True, text=True).stdout.strip(),
        **{key: last["torch"].get(key) for key in ("torch", "transformers", "python")},
        "parameters": last["otter"]["parameters"],
        "trainable": last["otter"].get("trainable"),
    }
    for key, value in machine.items():
        print(f"{key:13}{value}")
    print(f"\n| {'work':30} | otter (fastest) | PyTorch (fastest) | PyTorch / otter (min – max) | peak otter "
          "| peak PyTorch |")
    print(f"|{'-' * 32}|-----------------|-------------------|-----------------------------|------------"
          "|--------------|")
    names = {
        "train": f"training step, {arguments.batch} x {arguments.length} tokens",
        "decode": f"greedy decode, {arguments.new_tokens} tokens",
        "lengths": "packed against padded lengths",
        "vision": "CLIP ViT-L/14, one image",
        "vision8": "CLIP ViT-L/14, one image, ours in blocks of 8 bits",
    }
    for what, m in measured.items():
        ratio = m["ratio"]
        spread = f"{ratio['median']:.2f} ({ratio['min']:.2f} – {ratio['max']:.2f})"
        ours, torch = (f"{m[f'{side}_seconds']:.2f} s ({m[f'{side}_fastest']:.2f} s)" for side in ("otter", "torch"))
        print(f"| {names[what]:30} | {ours:15} | {torch:17} | {spread:27} "
              f"| {m['otter_peak_bytes'] / 2**30:.2f} GiB   | {m['torch_peak_bytes'] / 2**30:.2f} GiB     |")
    if arguments.json:
        text = json.dumps({"machine": machine, "work": measured}, indent=1)
        temporary = Path(f"{arguments.json}.tmp")
        temporary.write_text(text + "\n")
        temporary.replace(arguments.json)


if __name__ == "__main__":
    main()
