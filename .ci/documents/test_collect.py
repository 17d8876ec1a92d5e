"""What counts as a command of a document, and what is wrong with one: `python3 -m unittest discover .ci/documents`."""

import unittest

from collect import Command, of_head, of_help, of_markdown
from run import run_by_ci, unknown_flags, unknown_words

PAGE = """Read `otter init` first, and `--seed N`; `train.steps = 3` and `train.json`.

```sh
cargo run --release -- quickstart   # makes data
otter generate --image 'a # b.png' \\
  --json                            # two lines
```

| `bench/compare.py --only vision --rounds 3` | one |
| `--only vision8 --rounds 3` | another |

    fuzz/seed.sh

```python
import a
```
Then:
```python
a.b()
```
"""
PAGES = {(): "--threads --help", ("init",): "--like --seed-of", ("data",): "", ("data", "show"): "--index"}
PAGES |= {("otter-dev",): "--threads", ("otter-dev", "bench"): "--like"}


class Collected(unittest.TestCase):
    def test_markdown(self):
        found = [(command.kind, command.text) for command in of_markdown("a.md", PAGE)]
        expected = [
            ("shell", "cargo run --release -- quickstart"),
            ("shell", "otter generate --image 'a # b.png' --json"),
            ("shell", "fuzz/seed.sh"),
            ("python", "import a\na.b()"),
            ("pattern", "otter init"),
            ("flag", "--seed N"),
            ("key", "train.steps"),
            ("shell", "bench/compare.py --only vision --rounds 3"),
            ("shell", "bench/compare.py --only vision8 --rounds 3"),
        ]
        self.assertEqual(found, expected)

    def test_a_block_without_its_language_is_refused(self):
        with self.assertRaises(SystemExit):
            list(of_markdown("a.md", "```text\notter inspect DIR\n```\n"))

    def test_heads_and_help(self):
        head = "# Tunes it:\n#   otter toybox --out d     makes it\n[model]\n#   otter init\n"
        self.assertEqual(list(of_head("a.toml", head)), [Command("otter toybox --out d", "a.toml:2")])
        page = "Examples:\n  otter init --out 'a  b' \\\n    --seed 3      random\n  otter x […\n"
        texts = [(command.kind, command.text) for command in of_help(("init",), page)]
        self.assertEqual(texts, [("shell", "otter init --out 'a  b' --seed 3"), ("pattern", "otter x […")])

    def test_what_does_not_exist_is_named(self):
        self.assertEqual(list(unknown_flags("otter data show --index 3 && otter init --like x", PAGES)), [])
        self.assertEqual(list(unknown_flags("otter init --seed 3", PAGES)), ["`otter init` has no --seed"])
        self.assertEqual(list(unknown_flags("otter shwo", PAGES)), ["there is no command `shwo`"])
        self.assertEqual(list(unknown_flags("target/release/otter-dev bench --like x", PAGES)), [])
        wrong = "cargo run --release -p otter-dev -- bench --seed 3"
        self.assertEqual(list(unknown_flags(wrong, PAGES)), ["`otter-dev bench` has no --seed"])
        self.assertEqual(list(unknown_words("--index N --indexes", "--index")), ["nothing has --indexes"])

    def test_what_ci_runs(self):
        self.assertTrue(run_by_ci("cargo test --workspace"))
        self.assertFalse(run_by_ci("cargo test --workspace --release"))


if __name__ == "__main__":
    unittest.main()
