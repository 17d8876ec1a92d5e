"""Finds the commands that documents show: in Markdown, at the head of recipes and scripts, in `--help`."""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

# What a command begins with. Everything else in backticks is a word.
PROGRAM = re.compile(
    r"(?:[A-Z_]+=\S+ )*(?:/usr/bin/time -v )?"
    r"(?:otter(?:-dev)?|cargo|python3|tar|(?:target/|bench/|cuda/|fuzz/|python/|venv/|\.ci/)\S*)(?= |$)"
)
# A pattern of a command, not one to be typed: something is left out, or one of several.
PATTERN = re.compile(r"…|<COMMAND>|\[--|\w\|\w| SRC$| SOURCE$")
# A key of a training configuration, and what looks like one.
KEY = re.compile(r"((?:model|data|optimizer|schedule|train|eval|eval\.data)\.(?!(?:rs|json|yaml|toml|pkl|gguf|safetensors|save_pretrained)\b)[a-z_]+)(?: ?=.*)?")
# A record of what was done with earlier versions.
HISTORY = {"docs/log.md"}


@dataclass(frozen=True)
class Command:
    """One command, or the Python blocks of a page together, with the place that shows it."""

    text: str
    place: str
    # `shell`, `python`, or what is only looked up: `pattern` of a command, `flag`, `key` of a configuration.
    kind: str = "shell"


def without_comment(line):
    """A line of shell without its comment and with its quotes."""
    quote = ""
    for at, letter in enumerate(line):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter == "#" and (at == 0 or line[at - 1] == " "):
            return line[:at].rstrip()
    return line.rstrip()


def without_remark(line):
    """A line of `--help` or of a head without the words that follow it at a distance."""
    quoted = re.match(r"(?:[^' ]|'[^']*'| (?! ))*", line)
    return quoted.group().rstrip()


def joined(lines, strip):
    """Logical lines of (number, text): a backslash at the end continues."""
    begun, number = "", 0
    for at, line in lines:
        line = strip(line.strip())
        number = number if begun else at
        if line.endswith("\\"):
            begun += line[:-1].rstrip() + " "
        elif begun + line:
            yield number, begun + line
            begun = ""


def of_markdown(name, text):
    lines = list(enumerate(text.splitlines(), 1))
    block, language, prose, program = [], None, [], []
    for number, line in lines:
        fence = re.match(r"\s*```(\w*)", line)
        if fence and language is None:
            language, block = fence.group(1), []
        elif fence:
            if language == "sh":
                for at, command in joined(block, without_comment):
                    yield Command(command, f"{name}:{at}")
            elif language == "python":
                program += block
            elif any(PROGRAM.match(line.strip()) for _, line in block):
                raise SystemExit(f"{name}:{block[0][0]}: a block with commands must begin with ```sh")
            language = None
        elif language is not None:
            block.append((number, line))
        elif line.startswith("    ") and PROGRAM.match(line.strip()):
            yield Command(without_comment(line.strip()), f"{name}:{number}")
        else:
            prose.append((number, line))
    if program:
        yield Command("\n".join(line for _, line in program), f"{name}:{program[0][0]}", "python")
    script = ""
    for number, line in prose:
        for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", line):
            # In a table, further rows give the flags alone.
            if code.startswith("--only ") and line.startswith("|"):
                code = f"{script} {code}"
            elif code.startswith("--"):
                yield Command(code, f"{name}:{number}", "flag")
            if key := KEY.fullmatch(code):
                yield Command(key.group(1), f"{name}:{number}", "key")
            found = PROGRAM.match(code)
            script = found.group() if found else script
            if found and (" " in code[found.end() - 1 :] or "/" in code):
                # With a flag or a file it is a command, otherwise the name of one.
                words = code.replace("\\|", "|")
                whole = not PATTERN.search(words) and re.search(r" --|[/.]\w", words)
                if " " not in code and not code.endswith(".sh") and code != ".ci/run":
                    continue
                if whole or code.startswith("otter"):
                    yield Command(words, f"{name}:{number}", "shell" if whole else "pattern")


def of_head(name, text):
    """Commands in the comment or docstring that a file begins with, indented by two or more."""
    docstring = re.search(r'"""(.*?)"""', text, re.S) if name.endswith(".py") else None
    if docstring:
        before = text[: docstring.start()].count("\n")
        lines = [(before + at, line) for at, line in enumerate(docstring.group(1).splitlines(), 1)]
    else:
        head = re.match(r"(?:#.*\n|\n)*", text).group()
        lines = [(at, line.lstrip("#").removeprefix(" ")) for at, line in enumerate(head.splitlines(), 1)]
    shown = [(at, line) for at, line in lines if line.startswith("  ")]
    for at, command in joined(shown, without_remark):
        if PROGRAM.match(command):
            yield Command(command, f"{name}:{at}", "pattern" if PATTERN.search(command) else "shell")


def help_of(otter, words):
    return subprocess.run([otter, *words, "--help"], check=True, capture_output=True, text=True).stdout


def pages_of_both(otter, otter_dev):
    """The help of `otter` by the words of a command, and of `otter-dev` with its name before them."""
    return pages_of_help(otter) | {("otter-dev", *words): page for words, page in pages_of_help(otter_dev).items()}


def pages_of_help(otter, words=()):
    """The help of every command of the binary, by its words."""
    page = help_of(otter, words)
    pages = {words: page}
    listed = re.search(r"^Commands:\n((?:  .*\n)+)", page, re.M)
    for name in re.findall(r"^  (\w[\w-]*)", listed.group(1) if listed else "", re.M):
        if name != "help":
            pages |= pages_of_help(otter, (*words, name))
    return pages


def of_help(words, page):
    """The lines of a page of help that begin with the binary's name, and what continues them."""
    shown = [(at, line) for at, line in enumerate(page.splitlines(), 1) if line.startswith("  ")]
    words = words if words[:1] == ("otter-dev",) else ("otter", *words)
    name = " ".join((*words, "--help"))
    for at, command in joined(shown, without_remark):
        if command.startswith(words[0] + " "):
            yield Command(command, f"{name}:{at}", "pattern" if PATTERN.search(command) else "shell")


def commands(root, pages):
    """All commands in the order in which they are to be run, each once."""
    found = []
    names = ["README.md", *sorted(str(path.relative_to(root)) for path in (root / "docs").glob("*.md"))]
    names += ["fuzz/README.md", "tests/golden/README.md"]
    for name in names:
        if name not in HISTORY:
            found += of_markdown(name, (root / name).read_text())
    for pattern in ("recipes/*.toml", "bench/*.py", "bench/*.sh", "cuda/*.py", "cuda/*.sh", "python/*.py", "fuzz/*.sh", "tests/*/*.py"):
        for path in sorted(root.glob(pattern)):
            found += of_head(str(path.relative_to(root)), path.read_text())
    for words, page in pages.items():
        found += of_help(words, page)
    first = {}
    for command in found:
        if command.text not in first or first[command.text].kind == "pattern":
            first[command.text] = command
    return list(first.values())


def main():
    """Prints the commands."""
    import sys

    root = Path(__file__).resolve().parents[2]
    for command in commands(root, pages_of_both(*sys.argv[1:3])):
        print(f"{command.kind:8} {command.place:32} {command.text!r}")


if __name__ == "__main__":
    main()
