"""`otter-dev bench loader` against the ways of the original, whole processes in turn: A B C A B C …

JPEG files of 640 x 480 (made here with Pillow, the same every time, unless `--images` names a folder) become batches of
normalized 224 x 224 pixels with the same number of workers:

    torchvision   Pillow, Resize (bicubic, square), ToTensor, Normalize: what the original trains with
    clip          Pillow, CLIPImageProcessor on Pillow's resize: what it used at inference
    clip-tensors  Pillow, CLIPImageProcessor on torchvision's tensors: what newer transformers choose

each in a PyTorch `DataLoader`. Both sides are timed from their first batch on, so that starting workers does not count.
A round gives one ratio per way, ours over theirs, from processes that ran one after the other. CPU time of all
processes of a side is given too: other work on the machine disturbs it less.

    cargo build --release -p otter-dev
    bench/setup.sh
    bench/.venv/bin/python bench/loader.py --rounds 5 --json bench/loader.json
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
WAYS = {"torchvision": "train", "clip": "clip", "clip-tensors": "clip"}  # The transform of ours that does the same.
MEAN, STD = (0.481, 0.458, 0.408), (0.269, 0.261, 0.276)


def make_photos(folder, count):
    """Smooth light, shapes with edges, and noise, as 4:2:0 files of quality 90."""
    import numpy as np
    from PIL import Image, ImageDraw, ImageFilter

    y, x = np.mgrid[0:480, 0:640]
    for number in range(count):
        random = np.random.default_rng(number)
        across, down = 60 + 20 * random.random(), 90 + 40 * random.random()
        light = np.stack([128 + 80 * np.sin(x / across + y / down + c * 3 * random.random()) for c in range(3)], -1)
        image = Image.fromarray(light.clip(0, 255).astype(np.uint8))
        draw = ImageDraw.Draw(image)
        for shape in range(40):
            left, top, wide, high = random.integers((0, 0, 10, 10), (600, 440, 150, 150)).tolist()
            color = tuple(random.integers(0, 255, 3).tolist())
            (draw.ellipse if shape % 2 else draw.rectangle)((left, top, left + wide, top + high), fill=color)
        grain = random.normal(128, 40, (480, 640)).clip(0, 255).astype(np.uint8)
        grain = np.asarray(Image.fromarray(grain).filter(ImageFilter.GaussianBlur(1)), dtype=float) - 128
        noise = 0.7 * grain + random.normal(0, 2, (480, 640))
        pixels = (np.asarray(image, dtype=float) + noise[..., None]).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:05}.jpg", quality=90)


def transform_of(way, size):
    from torchvision import transforms

    if way == "torchvision":
        return transforms.Compose([
            transforms.Resize((size, size), interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ])
    import transformers

    # Since version 5 the plain name stands for the tensor backend; before, for Pillow's.
    by_tensors = transformers.CLIPImageProcessor
    by_pillow = getattr(transformers, "CLIPImageProcessorPil", None)
    if by_pillow is None:
        by_tensors, by_pillow = transformers.CLIPImageProcessorFast, transformers.CLIPImageProcessor
    kind = by_pillow if way == "clip" else by_tensors
    processor = kind(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
    return lambda image: processor(image, return_tensors="pt")["pixel_values"][0]


class Folder:
    """A map-style data set of the files of a folder."""

    def __init__(self, files, transform):
        self.files, self.transform = files, transform

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        from PIL import Image

        return self.transform(Image.open(self.files[index]).convert("RGB"))


def cpu_seconds():
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def work(arguments):
    """One side in a process of its own: prints what it measured."""
    import torch
    from torch.utils.data import DataLoader

    torch.set_num_threads(1)
    files = sorted(path for path in Path(arguments.images).iterdir() if path.is_file())
    data = Folder(files, transform_of(arguments.work, arguments.size))
    rates, cpu = [], []
    for epoch in range(arguments.repeats + 1):
        before = cpu_seconds()
        first, seen = None, 0
        for batch in DataLoader(data, batch_size=arguments.batch, num_workers=arguments.workers, shuffle=True):
            seen += len(batch)
            first = first or (time.perf_counter(), seen)
        if epoch > 0:
            rates.append((seen - first[1]) / (time.perf_counter() - first[0]))
            cpu.append((cpu_seconds() - before) / seen * 1e3)
    print(json.dumps({"images_per_second": rates, "cpu_ms_per_image": cpu}))


def run(command):
    output = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if output.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))} ended with {output.returncode}:\n{output.stderr}")
    return json.loads(output.stdout.splitlines()[-1] if command[0] == sys.executable else output.stdout)


def spread(values):
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def shown(values, digits):
    low, middle, high = (f"{values[key]:.{digits}f}" for key in ("min", "median", "max"))
    return f"{middle} ({low} – {high})"


def measure(arguments, images):
    sizes = ["--images", images, "--workers", arguments.workers, "--batch", arguments.batch, "--size", arguments.size,
             "--repeats", arguments.repeats]
    ways = [way for way in WAYS if arguments.only in (None, way)]
    rounds = []
    for number in range(arguments.rounds):
        row = {}
        for way in ways:
            ours = run([arguments.otter, "--threads", "1", "bench", "loader", "--json", "--transform", WAYS[way], *sizes])
            theirs = run([sys.executable, HERE / "loader.py", "--work", way, *sizes])
            rate = statistics.median(ours["images_per_second"]) / statistics.median(theirs["images_per_second"])
            cpu = statistics.median(theirs["cpu_ms_per_image"]) / statistics.median(ours["cpu_ms_per_image"])
            row[way] = {"otter": ours, "python": theirs, "images_ratio": rate, "cpu_ratio": cpu}
            print(f"{number + 1}/{arguments.rounds} {way:12} otter / Python {rate:.2f} in images/s, "
                  f"{cpu:.2f} in CPU time, load {os.getloadavg()[0]:.1f}", file=sys.stderr)
        rounds.append(row)
    return ways, rounds


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="processes of each side")
    parser.add_argument("--repeats", type=int, default=3, help="timed epochs in a process")
    parser.add_argument("--only", choices=list(WAYS))
    parser.add_argument("--images", metavar="DIR", help="folder of image files instead of made ones")
    parser.add_argument("--count", type=int, default=384, help="images that are made")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--otter", default=HERE.parent / "target/release/otter-dev")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--work", choices=list(WAYS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments)
        return
    with tempfile.TemporaryDirectory() as scratch:
        if arguments.images is None:
            make_photos(Path(scratch), arguments.count)
        ways, rounds = measure(arguments, arguments.images or scratch)
    import PIL
    import torch
    import torchvision
    import transformers

    last = rounds[-1][ways[0]]["otter"]
    machine = {
        "images": last["images"], "mean_file_bytes": last["mean_file_bytes"], "workers": arguments.workers,
        "cores": os.cpu_count(), "system": platform.platform(), "python": platform.python_version(),
        "torch": torch.__version__, "torchvision": torchvision.__version__, "pillow": PIL.__version__,
        "transformers": transformers.__version__,
    }
    for key, value in machine.items():
        print(f"{key:16}{value}")
    print("\n| way | otter images/s | Python images/s | otter / Python, images/s | Python / otter, CPU time |")
    print("|---|---|---|---|---|")
    summary = {}
    for way in ways:
        rows = [row[way] for row in rounds]
        rate = {side: spread([statistics.median(row[side]["images_per_second"]) for row in rows])
                for side in ("otter", "python")}
        ratios = {key: spread([row[key] for row in rows]) for key in ("images_ratio", "cpu_ratio")}
        summary[way] = {**rate, **ratios}
        print(f"| {way} | {shown(rate['otter'], 0)} | {shown(rate['python'], 0)} "
              f"| {shown(ratios['images_ratio'], 2)} | {shown(ratios['cpu_ratio'], 2)} |")
    print("\n| stage of otter, one thread | ms an image |\n|---|---|")
    for stage in last["stage_ms_per_image"]:
        values = [row[way]["otter"]["stage_ms_per_image"][stage] for row in rounds for way in ways]
        print(f"| {stage} | {shown(spread(values), 3)} |")
    if arguments.json:
        text = json.dumps({"machine": machine, "summary": summary, "rounds": rounds}, indent=1)
        temporary = Path(f"{arguments.json}.tmp")
        temporary.write_text(text + "\n")
        temporary.replace(arguments.json)


if __name__ == "__main__":
    main()
