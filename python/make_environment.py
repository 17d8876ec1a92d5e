# SPDX-License-Identifier: MIT OR Apache-2.0
"""Makes a virtual environment with the packages of requirements.txt: `python3 make_environment.py FOLDER`.

On Linux on x86-64 the torch wheel of PyPI is linked against CUDA libraries of some 2 GB. A CPU calls none of them, but
the loader wants to find them. There, torch is installed without its dependencies, empty libraries take the places of
the large ones, and the interpreter is told to resolve functions when they are first called. Never use such an
environment with a GPU. Everywhere else this is `pip install -r requirements.txt`.
"""

import argparse
import os
import platform
import subprocess
import sys
import time
import venv
from pathlib import Path

REQUIREMENTS = Path(__file__).with_name("requirements.txt")

# What torch 2.15 is linked against besides the two small libraries in requirements.txt.
CUDA_LIBRARIES = (
    "libcublas.so.13 libcublasLt.so.13 libcudnn.so.9 libcufft.so.12 libcufile.so.0 libcusparse.so.12 "
    "libcusparseLt.so.0 libnccl.so.2 libnvrtc.so.13"
).split()


def run(command, deadline):
    subprocess.run(command, check=True, timeout=max(1, deadline - time.monotonic()))


def install(python, deadline):
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        run([*pip, "-r", str(REQUIREMENTS)], deadline)
        return
    lines = [line for line in REQUIREMENTS.read_text().splitlines() if line and not line.startswith("#")]
    large = [line for line in lines if line.startswith(("torch==", "nvidia-"))]
    run([*pip, *(line for line in lines if line not in large)], deadline)
    run([*pip, "--no-deps", *large], deadline)
    packages = Path(
        subprocess.check_output([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True).strip()
    )
    folder = packages / "torch" / "lib"
    compiler = [os.environ.get("CC", "cc"), "-shared", "-nostdlib", "-x", "c", "-"]
    for name in CUDA_LIBRARIES:
        subprocess.run([*compiler, f"-Wl,-soname,{name}", "-o", folder / name], input=b"", check=True)
    # One library is asked for a variable, which is looked up at once, with its version.
    name, script = "libnvshmem_host.so.3", folder / "nvshmem.version"
    script.write_text("NVSHMEM { global: *; };\n")
    options = [f"-Wl,-soname,{name}", f"-Wl,--version-script={script}", "-o", folder / name]
    subprocess.run([*compiler, *options], input=b"int nvshmem_selected_device_transport;", check=True)
    (packages / "lazy_binding.pth").write_text("import os, sys; sys.setdlopenflags(os.RTLD_LAZY)\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--limit", type=float, default=1800, help="seconds to give up after")
    arguments = parser.parse_args()
    deadline = time.monotonic() + arguments.limit
    venv.create(arguments.folder, clear=True, with_pip=True, symlinks=os.name != "nt")
    python = str(arguments.folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))
    try:
        install(python, deadline)
        run([python, "-c", "import torch, transformers; torch.ones(2, 2) @ torch.ones(2, 2)"], deadline)
    except (OSError, subprocess.SubprocessError) as error:
        sys.exit(f"the Python environment could not be made: {error}")


if __name__ == "__main__":
    main()
