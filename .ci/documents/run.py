#!/usr/bin/env python3
"""Runs the commands that documents show, small: `.ci/documents/run.py`. See table.toml beside this file.

A command is run by bash in a folder of stand-ins, with `otter` on PATH. It must end with 0, without a traceback, and what
it names with `--out` must be there. Commands that cannot run here are listed with the reason, and their flags looked up in
`--help`.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

from collect import commands, pages_of_both

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
LIMIT_SECONDS = 300
# What is typed where a command asks for something.
TYPED = "what colour is it ?\n"


class Table:
    """table.toml, with a count of the uses of every entry."""

    def __init__(self, path):
        self.entries = tomllib.loads(path.read_text())
        self.unused = {id(entry): (kind, entry) for kind, entries in self.entries.items() for entry in entries}

    def all(self, kind, text):
        for entry in self.entries.get(kind, []):
            if re.search(entry["find"], text, re.M):
                self.unused.pop(id(entry), None)
                yield entry

    def replaced(self, text):
        for entry in self.entries.get("replace", []):
            if re.search(entry["find"], text, re.M):
                self.unused.pop(id(entry), None)
                text = re.sub(entry["find"], entry["with"], text, flags=re.M)
        return text


def unknown_flags(text, pages):
    """What is wrong with the words and flags of the calls of otter in a command."""
    for part in re.split(r" && | ; | \| ", text):
        call = re.match(r"(?:\S*/)?otter(-dev)? (.*)", part, re.S) or re.match(r"cargo run .*-p otter(-dev) -- (.*)", part, re.S)
        words, path = call[2].split() if call else [], ()
        if call and call[1]:
            words = ["otter-dev", *words]
        while len(path) < len(words) and (*path, words[len(path)]) in pages:
            path = (*path, words[len(path)])
        if words and not path and not words[0].startswith("-"):
            yield f"there is no command `{words[0]}`"
        for flag in re.findall(r"(?<=[ \[])--[a-z][\w-]*", f" {call[2]}") if words else []:
            if not re.search(rf"{flag}(?![\w-])", pages[path]):
                yield f"`{' '.join(path if path[:1] == ('otter-dev',) else ('otter', *path))}` has no {flag}"


def unknown_words(text, known):
    """Flags in a sentence that neither `--help` nor a script knows."""
    for flag in re.findall(r"(?<!\S)--[a-z][\w-]*", text):
        if not re.search(rf"{flag}(?![\w-])", known):
            yield f"nothing has {flag}"


def run_by_ci(text):
    """Whether a line of .ci/run has the words of a command in their order."""
    script = (ROOT / ".ci/run").read_text().replace("\\\n", " ")
    return text == ".ci/run" or re.search(r"\b.*[\s/]".join(map(re.escape, text.split())), script)


class Sandbox:
    """A folder of stand-ins in which commands are run."""

    def __init__(self, folder, otter, otter_dev, python):
        self.folder, self.kept = folder / "here", folder / "kept"
        path = [str(otter.parent), str(otter_dev.parent), *([str(python.parent)] if python else []), os.environ["PATH"]]
        self.environment = {
            **os.environ,
            "PATH": os.pathsep.join(path),
            "ROOT": str(ROOT),
            "OTTER_MIRROR": str(self.folder / "mirror"),
            "HF_HOME": str(folder / "hub"),
            "HF_HUB_OFFLINE": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        self.folder.mkdir()
        printed, status = self.shell([str(HERE / "stand_ins.sh"), str(ROOT)])
        if status:
            sys.exit(f"stand_ins.sh ended with {status}:\n{printed}")
        shutil.copytree(self.folder, self.kept, symlinks=True)

    def shell(self, command):
        """How a command ended, and what it printed; 124 after the limit, with what it started ended too."""
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        with subprocess.Popen(
            command, cwd=self.folder, env=self.environment, text=True, errors="replace", start_new_session=True, **pipes
        ) as process:
            try:
                return process.communicate(TYPED, LIMIT_SECONDS)[0], process.returncode
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                return process.communicate()[0] + f"\nnot done after {LIMIT_SECONDS} s", 124

    def remove(self, name):
        path = self.folder / name
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)

    def run(self, text, kind, before):
        """Runs a command; what is wrong, or nothing."""
        outputs = re.findall(r" --out (\S+)", text) if kind == "shell" else []
        for name in outputs:
            self.remove(name)
        for command in before:
            printed, status = self.shell(["bash", "-euc", command])
            if status:
                return f"before it, {command} ended with {status}:\n{printed[-3000:]}"
        command = ["python3", "-c", text] if kind == "python" else ["bash", "-euo", "pipefail", "-c", text]
        printed, status = self.shell(command)
        # A zero may be no value for it; the key is there.
        refused = "unknown key" in printed if kind == "key" else status != 0
        wrong = f"ended with {status}" if refused else ""
        if re.search(r"^Traceback \(most recent|panicked at", printed, re.M):
            wrong = wrong or "printed a traceback"
        missing = [name for name in outputs if not (self.folder / name).exists()]
        wrong = wrong or (f"left no {missing[0]}" if missing else "")
        for name in outputs:
            if (self.kept / name).exists():
                self.remove(name)
                source = self.kept / name
                shutil.copytree(source, self.folder / name) if source.is_dir() else shutil.copy(source, self.folder / name)
        return f"{wrong}:\n{printed[-3000:]}" if wrong else ""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--otter", type=Path, default=ROOT / "target/release/otter")
    parser.add_argument("--otter-dev", type=Path, default=ROOT / "target/debug/otter-dev", help="as the tests have built it")
    parser.add_argument("--python", type=Path, help="an interpreter with torch, transformers, torchvision")
    parser.add_argument("--only", metavar="REGEX", help="commands that this fits, or whose place it fits")
    parser.add_argument("--list", action="store_true", help="say what would be done")
    parser.add_argument("--keep", action="store_true", help="keep the folder")
    arguments = parser.parse_args()
    table = Table(HERE / "table.toml")
    pages = pages_of_both(arguments.otter, arguments.otter_dev)
    scripts = [path for folder in ("bench", "cuda") for path in (ROOT / folder).glob("*.*") if path.is_file()]
    known = "\n".join(["--features --help", *pages.values(), *(path.read_text() for path in scripts)])
    failures, not_run, sandbox = [], [], None
    folder = Path(tempfile.mkdtemp(prefix="otter-documents."))
    for command in commands(ROOT, pages):
        place, text = command.place, command.text
        wrong = list(unknown_words(text, known) if command.kind == "flag" else unknown_flags(text, pages))
        reasons = list(table.all("not_run", text))
        by_ci, before = list(table.all("ci", text)), [entry["run"] for entry in table.all("before", text)]
        small = f"otter train --config recipes/toybox.toml --plan {text}=0" if command.kind == "key" else table.replaced(text)
        if arguments.only and not re.search(arguments.only, f"{place}: {text}"):
            continue
        seconds, state = 0.0, "ran"
        if wrong:
            wrong = "; ".join(wrong)
        elif command.kind in ("pattern", "flag"):
            state = "looked up"
        elif reasons:
            state = "not run"
            not_run.append((place, text, reasons[0]["why"]))
        elif by_ci:
            state = "ci"
            wrong = "" if run_by_ci(text) else "no line of .ci/run has it"
        elif not arguments.list:
            sandbox = sandbox or Sandbox(folder, arguments.otter, arguments.otter_dev, arguments.python)
            started = time.monotonic()
            wrong = sandbox.run(small, command.kind, before)
            seconds = time.monotonic() - started
        first = text.splitlines()[0]
        print(f"{'FAILED' if wrong else state:9} {seconds:6.1f} s  {place:28} {first}", flush=True)
        if wrong:
            failures.append(f"{place}: {text}\n    as {small}\n    {wrong}")
    if not arguments.keep:
        shutil.rmtree(folder)
    if not arguments.only:
        failures += [f"table.toml: no command fits {kind} {entry['find']}" for kind, entry in table.unused.values()]
    print(f"\n{len(not_run)} commands of documents are not run:")
    for place, text, why in not_run:
        print(f"  {place}: {text}: {why}")
    if failures:
        sys.exit("\n" + "\n\n".join(failures) + f"\n\n{len(failures)} commands of documents fail")


if __name__ == "__main__":
    main()
