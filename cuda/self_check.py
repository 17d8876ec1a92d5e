#!/usr/bin/env python3
"""Checks `otter` on one GPU: its numbers, its tuning, its memory, and its speed beside PyTorch on the same GPU.

Needs the GPU's driver and Python 3; PyTorch with transformers for the comparison of speed.

    otter-cuda/self_check.py [--device cuda:0] [--json FILE]

Every part ends as passed, failed or skipped, with its reason; one that fails does not stop the others. All of it ends
within `--seconds`: a part has its share of the time that is left, and one that no longer fits is skipped. The result is
written anew after every part, so that a check that is cut short leaves what it found. Ends with 0 if nothing failed.
"""

import argparse
import json
import math
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

HERE = Path(__file__).resolve().parent
GOLDEN = ("llama", "video", "flamingo", "mpt7b-style", "mpt1b-style")
QUICK_GOLDEN = "mpt1b-style"
# Held-out words and concepts, bound in context.
QUICKSTART_SHOTS, QUICKSTART_ACCURACY = (1, 2, 4), 0.9
GIB = 2**30
GPU_BYTES, HOST_BYTES = 24 * GIB, 14 * GIB
STEP_TARGET, DECODE_TARGET = 1.2, 1.5
LEAST_ROUNDS, MOST_ROUNDS = 2, 3
# Both sides round to bf16, at different places.
LOSS_TOLERANCE = 0.02
REPEATS = {"train": 20, "decode": 5}

# What PyTorch is there, asked of a process of its own: importing it takes seconds and may fail in many ways.
PROBE = """
import json, sys
found = {"python": sys.version.split()[0]}
for name in ("torch", "transformers"):
    try:
        found[name] = str(__import__(name).__version__)
    except BaseException as problem:
        found[name], found[name + "_problem"] = None, repr(problem)
if found["torch"]:
    import torch
    found["torch_cuda"] = torch.version.cuda
    found["cuda_available"] = torch.cuda.is_available()
print(json.dumps(found))
"""


class Skip(Exception):
    """The part cannot be done here, or no longer."""


class Failure(Exception):
    """The part was done, or begun, and is not as it should be."""


def last_lines(text, count=3):
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " / ".join(lines[-count:])[-600:]


def run(command, limit):
    """Runs a program with a limit in seconds; returns its exit code, standard output and standard error."""
    command = [str(part) for part in command]
    if limit <= 0:
        raise Skip("no time left")
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   start_new_session=True)
    except OSError as problem:
        raise Failure(f"{command[0]} does not start: {problem.strerror or problem}") from problem
    try:
        out, err = process.communicate(timeout=limit)
    except BaseException as problem:
        # With all that it has started: a program left behind would hold the GPU.
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except OSError:
            pass
        if not isinstance(problem, subprocess.TimeoutExpired):
            raise
        try:
            _, err = process.communicate(timeout=5)
        except subprocess.TimeoutExpired:
            err = b""
        last = last_lines(err.decode(errors="replace"), 1)
        name = " ".join([Path(command[0]).name, *command[1:2]])
        raise Failure(f"{name} was stopped after {limit:.0f} s" + (f": {last}" if last else "")) from None
    return process.returncode, out.decode(errors="replace"), err.decode(errors="replace")


def run_json(command, limit, accepted=(0,)):
    """As `run`, of a program that prints one JSON object."""
    code, out, err = run(command, limit)
    name = " ".join([Path(str(command[0])).name, *map(str, command[1:2])])
    try:
        result = json.loads(out)
    except ValueError:
        result = None
    if code not in accepted or not isinstance(result, dict):
        how = f"was ended by signal {-code}" if code < 0 else f"ended with {code}"
        raise Failure(f"{name} {how}: {last_lines(err) or last_lines(out) or 'it said nothing'}")
    return result


def finite(value):
    """Whether it is a number; what is not finite comes as null."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def plain(value):
    """The value with all that JSON has no word for as text."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, str)) or finite(value):
        return value
    return str(value)


def median(values):
    if not values or not all(finite(value) and value > 0 for value in values):
        raise Failure(f"no usable times: {values}")
    return statistics.median(values)


def memory_available():
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


class Check:
    """The parts. Each one is given a dictionary that it fills with what it found, and the moment at which it must end;
    it returns a summary in words, or raises `Skip` or `Failure`."""

    def __init__(self, arguments):
        self.arguments = arguments
        self.otter = Path(arguments.otter)
        self.on_gpu = arguments.device.split(":")[0] == "cuda"
        self.python_side = None

    def is_done(self, name):
        """Whether a part takes any of the time."""
        if name in ("environment", "parity", "quickstart"):
            return True
        return self.on_gpu and (name == "kernels" or not self.arguments.quick)

    def dtypes(self):
        return ["f32"] if self.arguments.device == "cpu" else ["f32", "bf16"]

    def beside(self, name, elsewhere):
        """A file of the pack, or of the project when this is run there."""
        for place in (HERE / name, HERE.parent / elsewhere):
            if place.exists():
                return place
        raise Failure(f"there is no {name} beside {Path(__file__).name}")

    def torch(self, end):
        if self.python_side is None:
            self.python_side = run_json([self.arguments.python, "-c", PROBE], min(90, end - time.monotonic()))
        return self.python_side

    def environment(self, found, end):
        found["system"] = platform.platform()
        found["processors"] = os.cpu_count()
        try:
            found["processors_usable"] = len(os.sched_getaffinity(0))
        except AttributeError:
            pass
        found["memory_available_bytes"] = memory_available()
        found["python"] = sys.version.split()[0]
        found["gpus"] = []
        if shutil.which("nvidia-smi"):
            query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
            try:
                code, out, err = run(query, min(20, end - time.monotonic()))
                found["gpus"] = [line.strip() for line in out.splitlines() if line.strip()] if code == 0 else []
                if code != 0:
                    found["gpus_problem"] = last_lines(err or out)
            except (Skip, Failure) as problem:
                found["gpus_problem"] = str(problem)
        else:
            found["gpus_problem"] = "no nvidia-smi"
        # Before PyTorch, which may take long: this one decides.
        code, out, err = run([self.otter, "--version"], min(20, end - time.monotonic()))
        if code != 0:
            raise Failure(f"{self.otter.name} --version ended with {code}: {last_lines(err or out)}")
        found["otter"] = out.strip()
        try:
            found["pytorch"] = self.torch(end)
        except (Skip, Failure) as problem:
            found["pytorch_problem"] = str(problem)
        torch = found.get("pytorch", {}).get("torch")
        return f"{'; '.join(found['gpus']) or 'no GPU seen'}; {found['otter']}; PyTorch {torch or 'not there'}"

    def parity(self, found, end):
        cases = [QUICK_GOLDEN] if self.arguments.quick else list(GOLDEN)
        runs = [(case, dtype) for dtype in self.dtypes() for case in cases]
        found["runs"], wrong, left_out, worst = [], {}, [], {}
        folder = self.beside("golden", "tests/golden")
        for case, dtype in runs:
            left = end - time.monotonic()
            if left < 2:
                left_out.append(f"{case} {dtype}")
                continue
            entry = {"case": case, "dtype": dtype}
            found["runs"].append(entry)
            started = time.monotonic()
            try:
                self.parity_of(folder / case, dtype, left, entry)
                worst[dtype] = max(worst.get(dtype, 0.0), entry["worst_relative"])
            except (Skip, Failure) as problem:
                entry["verdict"], entry["reason"] = "failed", str(problem)
                # The same complaint of all of them is told once.
                wrong.setdefault(str(problem), []).append(f"{case} {dtype}")
            entry["seconds"] = time.monotonic() - started
        if wrong:
            raise Failure("; ".join(f"{', '.join(where)}: {problem}" for problem, where in wrong.items()))
        if left_out:
            raise Skip(f"no time left for {', '.join(left_out)}; all others agree")
        differences = ", ".join(f"{dtype} {value:.1e}" for dtype, value in worst.items())
        return f"{len(runs)} comparisons agree; worst relative difference {differences}"

    def parity_of(self, folder, dtype, limit, entry):
        command = [self.otter, "parity", "--json", "--device", self.arguments.device, "--dtype", dtype]
        command += ["--model", folder / "checkpoint", "--golden", folder / "forward.safetensors"]
        gradients = folder / "grads.safetensors"
        if gradients.exists():
            command += ["--gradients", gradients]
        # It ends with 1 when something differs, and says in its JSON what.
        result = run_json(command, limit, accepted=(0, 1))
        report = result["report"]
        comparisons = report["comparisons"]
        entry["tensors"] = len(comparisons)
        entry["gradients"] = gradients.exists()
        if not comparisons:
            raise Failure("nothing was compared")

        def size(comparison):
            value = comparison["max_relative"]
            return value if finite(value) else math.inf

        worst = max(comparisons, key=size)
        entry["worst_relative"] = size(worst)
        entry["worst_tensor"] = f"{worst['scenario']}.{worst['name']}"
        entry["differing"] = [c for c in comparisons if not c["ok"]][:20]
        entry["not_compared"] = report["not_compared"] + report["without_golden"]
        if not result["passed"]:
            bad = sum(not c["ok"] for c in comparisons)
            words = f"{bad} of {len(comparisons)} tensors differ, {len(entry['not_compared'])} not compared"
            raise Failure(f"{words}, worst {entry['worst_tensor']} by {entry['worst_relative']:.1e}")
        entry["verdict"] = "passed"

    def quickstart(self, found, end):
        folder = Path(tempfile.mkdtemp(prefix="otter-quickstart-"))
        try:
            command = [self.otter, "quickstart", "--device", self.arguments.device, "--json", "--out", folder / "run"]
            if self.arguments.quick:
                command += ["--scale", "0.02"]
            started = time.monotonic()
            result = run_json(command, end - started)
            found["wall_seconds"] = time.monotonic() - started
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        for key in ("seconds", "stages", "final_loss", "memory", "tokens", "scale", "seed"):
            found[key] = result.get(key)
        if not finite(result.get("final_loss")):
            raise Failure(f"the last loss is {result.get('final_loss')}")
        tuned = next(model for model in result["models"] if model["name"] == "tuned")
        rows = [row for row in tuned["table"]["rows"] if row["family"] == "binding" and row["kind"] is None]
        # A row that has no other beside it says nothing about being held out.
        held_out = [row for row in rows if row["held_out"]] or [row for row in rows if row["held_out"] is None]
        if not held_out:
            raise Failure("no row of held-out binding")
        cells = {cell["shots"]: cell for cell in held_out[0]["cells"]}
        found["binding"] = {shots: cell["choice"]["accuracy"] for shots, cell in sorted(cells.items())}
        took = f"{found['wall_seconds']:.0f} s"
        if self.arguments.quick:
            return f"a fiftieth of it in {took}; its accuracy is not judged"
        shown = {shots: found["binding"].get(shots) for shots in QUICKSTART_SHOTS}
        words = ", ".join(f"{100 * a:.1f} %" if finite(a) else "nothing" for a in shown.values())
        words = f"held-out binding at {'/'.join(map(str, QUICKSTART_SHOTS))} shots {words} in {took}"
        if not all(finite(accuracy) and accuracy >= QUICKSTART_ACCURACY for accuracy in shown.values()):
            raise Failure(f"{words}; {100 * QUICKSTART_ACCURACY:.0f} % each is the target")
        return words

    def need_gpu(self):
        if not self.on_gpu:
            raise Skip(f"'{self.arguments.device}' is no GPU")
        if self.arguments.quick:
            raise Skip("left out by --quick")

    def memory(self, found, end):
        self.need_gpu()
        available = memory_available()
        found["host_available_bytes"] = available
        if available is None or available < HOST_BYTES:
            have = "unknown" if available is None else f"{available / GIB:.1f} GiB"
            raise Skip(f"making the model needs about {HOST_BYTES // GIB} GiB of the host's memory; available: {have}")
        command = [self.otter.with_name("otter-dev"), "bench", "--like", "otter-9b", "--quantize", "q4_k", "--only", "train"]
        command += ["--eight-bit-moments", "--batch", 1, "--length", 512, "--repeats", 3, "--memory", "24GiB"]
        command += ["--device", self.arguments.device, "--dtype", "bf16", "--json"]
        result = run_json(command, end - time.monotonic())
        found["otter"] = result
        peak, losses = result.get("gpu_peak_bytes"), result.get("losses") or []
        if not finite(peak):
            raise Failure("no peak of the GPU's memory was reported")
        step = median(result.get("train_step_seconds"))
        shown = ", ".join(f"{loss:.3f}" if finite(loss) else "not finite" for loss in losses)
        words = f"peak {peak / GIB:.2f} of 24 GiB, {step:.2f} s a step, losses {shown}"
        if peak > GPU_BYTES or not losses or not all(map(finite, losses)):
            raise Failure(words)
        return words

    def need_torch(self, end):
        self.need_gpu()
        there = self.torch(end)
        for name in ("torch", "transformers"):
            if not there.get(name):
                raise Skip(f"{name} is missing: {there.get(name + '_problem')}")
        if not there.get("cuda_available"):
            raise Skip(f"torch {there['torch']} has no GPU (built for CUDA {there.get('torch_cuda')})")

    def rounds(self, found, end, ours, torch, compare):
        """Whole processes in turn; `compare` gives the seconds of both sides of a round."""
        found["commands"] = [" ".join(map(str, command)) for command in (ours, torch)]
        found["rounds"] = []
        longest = 0.0
        while len(found["rounds"]) < MOST_ROUNDS:
            started = time.monotonic()
            left = end - started
            # A round that ends early for want of time says nothing.
            if found["rounds"] and left < 1.2 * longest:
                break
            entry = {}
            entry["otter"] = run_json(ours, left)
            entry["torch"] = run_json(torch, end - time.monotonic())
            longest = max(longest, time.monotonic() - started)
            a, b = compare(entry, entry["otter"], entry["torch"])
            entry.update(otter_seconds=a, torch_seconds=b, ratio=b / a)
            found["rounds"].append(entry)
        ratios = [entry["ratio"] for entry in found["rounds"]]
        found["ratio"] = {"min": min(ratios), "median": statistics.median(ratios), "max": max(ratios)}
        for side in ("otter", "torch"):
            found[f"{side}_seconds"] = statistics.median(entry[f"{side}_seconds"] for entry in found["rounds"])

    def judge(self, found, target):
        found["target"] = target
        ratio, count = found["ratio"], len(found["rounds"])
        words = f"{ratio['median']:.2f} times PyTorch's speed"
        words += f" ({ratio['min']:.2f} – {ratio['max']:.2f}, {count} rounds): {found['otter_seconds']:.4f} s,"
        words += f" PyTorch {found['torch_seconds']:.4f} s; target {target}"
        if count < LEAST_ROUNDS:
            raise Skip(f"time for one round only, {LEAST_ROUNDS} are needed; {words}")
        if ratio["median"] < target:
            raise Failure(words)
        return words

    def peer(self, only, repeats):
        script = self.beside("otter_torch.py", "bench/otter_torch.py")
        return [self.arguments.python, script, "--only", only, "--device", self.arguments.device, "--dtype", "bf16",
                "--repeats", repeats, "--threads", os.cpu_count() or 2]

    def mid_size(self, only, target, found, end):
        self.need_torch(end)
        repeats = REPEATS[only]
        ours = [self.otter.with_name("otter-dev"), "bench", "--preset", "mid", "--only", only, "--json", "--device", self.arguments.device,
                "--dtype", "bf16", "--repeats", repeats]
        key = "train_step_seconds" if only == "train" else "decode_seconds"

        def compare(entry, otter, torch):
            for fact in ("parameters", "trainable"):
                if otter.get(fact) != torch.get(fact):
                    raise Failure(f"{fact}: otter has {otter.get(fact)}, PyTorch {torch.get(fact)}")
            if only == "train":
                pairs = list(zip(otter["losses"], torch["losses"]))
                if not pairs or not all(finite(a) and finite(b) for a, b in pairs):
                    raise Failure(f"losses: otter has {otter['losses']}, PyTorch {torch['losses']}")
                entry["loss_difference"] = max(abs(a - b) / abs(b) for a, b in pairs)
                # Later steps tell apart how each rounds: only the first ones show that the work is the same.
                if any(abs(a - b) > LOSS_TOLERANCE * abs(b) for a, b in pairs[:2]):
                    raise Failure(f"losses: otter has {otter['losses'][:2]}, PyTorch {torch['losses'][:2]}")
            else:
                pairs = list(zip(otter["generated"], torch["generated"]))
                if len(otter["generated"]) != len(torch["generated"]):
                    raise Failure(f"otter made {len(otter['generated'])} tokens, PyTorch {len(torch['generated'])}")
                # Not judged: tokens that are nearly as probable change places with the rounding.
                equal = next((i for i, (a, b) in enumerate(pairs) if a != b), len(pairs))
                entry["equal_tokens"] = equal
            return median(otter[key]), median(torch[key])

        self.rounds(found, end, ours, self.peer(only, repeats), compare)
        return self.judge(found, target)

    def speed_step(self, found, end):
        return self.mid_size("train", STEP_TARGET, found, end)

    def speed_decode(self, found, end):
        return self.mid_size("decode", DECODE_TARGET, found, end)

    def speed_big_decode(self, found, end):
        self.need_torch(end)
        ours = [self.otter.with_name("otter-dev"), "bench", "--like", "otter-9b", "--quantize", "q4_k", "--only", "prefill,decode"]
        ours += ["--tokens", 256, "--new-tokens", 64, "--json", "--device", self.arguments.device, "--dtype", "bf16"]

        def compare(entry, otter, torch):
            seconds = {}
            for side, result in (("otter", otter), ("torch", torch)):
                rows = {row["name"]: row for row in result["rows"]}
                for name in ("prefill", "decode"):
                    seconds[name, side] = median(rows[name]["seconds"]) / rows[name]["count"]
            entry["prefill_ratio"] = seconds["prefill", "torch"] / seconds["prefill", "otter"]
            return seconds["decode", "otter"], seconds["decode", "torch"]

        self.rounds(found, end, ours, [*self.peer("big-decode", 3), "--new-tokens", 64], compare)
        found["prefill_ratio"] = statistics.median(entry["prefill_ratio"] for entry in found["rounds"])
        return self.judge(found, DECODE_TARGET)

    def kernels(self, found, end):
        tests = HERE / "tests" / "run.sh"
        if not tests.exists():
            raise Skip("packed without the tests of the kernels")
        if not self.on_gpu:
            raise Skip(f"'{self.arguments.device}' is no GPU")
        number = self.arguments.device.partition(":")[2] or "0"
        code, out, err = run([tests, number], end - time.monotonic())
        results = [line.strip() for line in out.splitlines() if line.startswith("test result:")]
        bad = [line for line in out.splitlines() if line.startswith("test ") and line.endswith("... FAILED")]
        found["results"], found["failed"], found["output"] = results, bad, (out + err)[-4000:]
        if code != 0:
            raise Failure("; ".join(bad[:10]) or f"ended with {code}: {last_lines(err or out)}")
        return f"{len(results)} programs passed"


# Name, what is done, its share of the time as a weight, and the least seconds that are worth beginning with.
PARTS = (
    ("environment", Check.environment, 40, 2),
    ("parity", Check.parity, 40, 10),
    ("memory", Check.memory, 70, 45),
    ("speed-step", Check.speed_step, 70, 45),
    ("speed-decode", Check.speed_decode, 70, 45),
    ("speed-big-decode", Check.speed_big_decode, 80, 60),
    ("quickstart", Check.quickstart, 150, 30),
    ("kernels", Check.kernels, 20, 10),
)


def names(text):
    """The parts that `--only` names: `speed` is all that begins so."""
    wanted = []
    for word in text.split(","):
        matching = [name for name, *_ in PARTS if name == word or name.startswith(word + "-")]
        if not matching:
            raise argparse.ArgumentTypeError(f"'{word}' is no part; there are {', '.join(name for name, *_ in PARTS)}")
        wanted += matching
    return wanted


def write(result, path):
    temporary = Path(f"{path}.tmp")
    temporary.write_text(json.dumps(plain(result), indent=1, allow_nan=False) + "\n")
    temporary.replace(path)


def one_part(check, function, least, share, end):
    """Does one part; returns its entry of the result."""
    started = time.monotonic()
    found = {}
    try:
        left = end - started
        if left < least:
            raise Skip(f"needs about {least} s, and {max(left, 0):.0f} s are left")
        # The least counts more than the share: half a part is worth nothing.
        verdict, reason = "passed", function(check, found, started + min(max(share, least), left))
    except Skip as problem:
        verdict, reason = "skipped", str(problem)
    except Failure as problem:
        verdict, reason = "failed", str(problem)
    except Exception as problem:
        verdict, reason = "failed", f"{type(problem).__name__}: {problem}"
        found["traceback"] = traceback.format_exc()
    return {"verdict": verdict, "reason": reason, "seconds": time.monotonic() - started, "found": found}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda:0", help="as otter takes it: cuda, or cuda:N of several GPUs")
    parser.add_argument("--json", metavar="FILE", default=HERE / "self_check.json", help="where the result is written")
    parser.add_argument("--only", type=names, metavar="PART,…", help=", ".join(name for name, *_ in PARTS))
    parser.add_argument("--seconds", type=float, default=520, help="all of it ends within these (default: 520)")
    parser.add_argument("--otter", metavar="PATH", default=HERE / "otter", help="default: the one beside this script")
    parser.add_argument("--python", metavar="PATH", default=sys.executable, help="the Python that has PyTorch")
    parser.add_argument("--quick", action="store_true", help="one golden case, a fiftieth of the quickstart, no timing")
    arguments = parser.parse_args()
    # A word without a slash would be looked for on the search path.
    arguments.otter = Path(arguments.otter).absolute()

    # Ended from outside, it ends the program that it runs too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    started = time.monotonic()
    # A little is kept for ending programs and writing.
    end = started + arguments.seconds - min(5, 0.05 * arguments.seconds)
    wanted = [part for part in PARTS if arguments.only is None or part[0] in arguments.only]
    check = Check(arguments)
    result = {
        "device": arguments.device,
        "quick": arguments.quick,
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "limit_seconds": arguments.seconds,
        "finished": False,
        "parts": {},
    }
    for index, (name, function, weight, least) in enumerate(wanted):
        print(f"{name} …", file=sys.stderr, flush=True)
        others = [part[2] for part in wanted[index + 1:] if check.is_done(part[0])]
        share = (end - time.monotonic()) * weight / (weight + sum(others))
        entry = one_part(check, function, least, share, end)
        result["parts"][name] = entry
        result["seconds"] = time.monotonic() - started
        words = f"{name}: {entry['verdict']} after {entry['seconds']:.1f} s: {entry['reason']}"
        print(words, file=sys.stderr, flush=True)
        try:
            write(result, arguments.json)
        except OSError as problem:
            print(f"{arguments.json} cannot be written: {problem}", file=sys.stderr)
    verdicts = [entry["verdict"] for entry in result["parts"].values()]
    result["finished"] = True
    result["verdict"] = "failed" if "failed" in verdicts else "passed" if "passed" in verdicts else "skipped"
    result["counts"] = {verdict: verdicts.count(verdict) for verdict in ("passed", "failed", "skipped")}
    unwritten = False
    try:
        write(result, arguments.json)
    except OSError as problem:
        unwritten = True
        print(f"{arguments.json} cannot be written: {problem}", file=sys.stderr)
    print(json.dumps(plain(result), allow_nan=False))
    print(f"\n{'part':18}{'verdict':9}{'seconds':>8}  what was found")
    for name, entry in result["parts"].items():
        print(f"{name:18}{entry['verdict']:9}{entry['seconds']:8.1f}  {entry['reason']}")
    sys.exit(1 if result["verdict"] == "failed" or unwritten else 0)


if __name__ == "__main__":
    main()
