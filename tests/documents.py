"""The pages of the documentation: their blocks of code, and the commands in them."""

import re
import shlex

from tests.paths import ROOT

NOTEBOOKS = sorted((ROOT / "docs").rglob("*.ipynb"))
"""Shown by the site as pages of their names."""
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PROGRAM = re.compile(r"(python -m (?:runners|benchmarks)\.\w+|torchrun --nproc-per-node \d+ -m runners\.duel)\b")


def name(page):
    return page.relative_to(ROOT).as_posix()


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def files(text):
    """The files that a page asks its reader to save, by name."""
    return dict(re.findall(r"Save this as `(\w+\.py)`:\n\n```python\n(.*?)```", text, flags=re.DOTALL))


def commands(text):
    """The command lines of a page's bash blocks, in order, without comments."""
    joined = "\n".join(blocks(text, "bash")).replace("\\\n", " ")
    lines = [part.split("  #")[0].strip() for line in joined.splitlines() for part in line.split("&&")]
    return [line for line in lines if PROGRAM.match(line)]


def arguments(command):
    """What follows the program's name."""
    return shlex.split(PROGRAM.sub("", command, count=1))
