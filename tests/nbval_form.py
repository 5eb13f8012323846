"""Stored notebook outputs, compared digit by digit where the arithmetic is that of the store, else by form.

Under the portable arithmetic (avcil/base/portable.py) a notebook gives the bytes that are stored in it, and nbval
compares them as they are. On a processor that cannot compute so, or where `AVCIL_PORTABLE=0` says not to, training ends
elsewhere: accuracies differ by points, rows of a sorted table change places, classes are taken for other ones. Form is
what remains, and is what is compared there:

- where a decimal number stood stands one; `nan` and `inf` are no numbers here;
- where a class of the embedded benchmark stood stands one, and counts beside it (`clips`) are free, as in `2 of 3`;
- lines with either may change places with their neighbours; there are as many of them;
- everything else is the same: words, other integers, columns, empty cells of HTML tables, types and number of outputs.

nbval passes each stream, and each MIME type of an output, through `sanitize` before it compares them: that is where
the form is taken.
"""

import os
import re
import subprocess
import sys
from itertools import filterfalse, groupby

from nbval.plugin import IPyNbCell

from avcil.base import portable
from avcil.params import project

# what needs no result of the small project, which takes minutes
SMALL = {"01_splits", "02_prior", "12_your_own", "13_beyond"}
# runs for longest, and its process builds the small project while the other one does what needs none
FIRST = {"11_experiments"}
# what extracts and learns anew; the others show what the sandbox holds, or take too long to be run twice
ARITHMETIC = {"03_features", "04_train"}
prepared: set[str] = set()

_ALONE = r"(?<![\w.])[-+]?{}(?!\w|\.\d)"  # not a part of a name, a hash or a version
DECIMAL = re.compile(_ALONE.format(r"(\d+\.\d*(e[-+]\d+)?|\d+e[-+]\d+)"))
INTEGER = re.compile(_ALONE.format(r"\d+"))
CLASS = re.compile(r"\bobject_\d{3}\b")
SHARE = re.compile(r"\b\d+ of \d+\b")


def portable_arithmetic() -> bool:
    """Whether the kernels that this process starts compute as those did whose outputs are stored."""
    return all(os.environ.get(name) == value for name, value in portable.VARIABLES.items())


def form(text: str) -> str:
    """What does not hang on the arithmetic in ``text``."""
    # a row of an HTML table is one line
    text = re.sub(r"<tr.*?</tr>", lambda row: re.sub(r"\s*\n\s*", "", row[0]), text, flags=re.DOTALL)
    found: list[str] = []
    for learnt, run in groupby(map(_line, text.split("\n")), key=lambda line: bool(re.search("NUMBER|CLASS", line))):
        lines = list(run)
        found += sorted(lines) if learnt else lines
    return "\n".join(found)


def _line(line: str) -> str:
    # columns, and the rules under their heads, are as wide as their numbers
    line = re.sub("-{2,}", "--", " ".join(line.split()))
    line = SHARE.sub("NUMBER of NUMBER", DECIMAL.sub("NUMBER", line))
    return INTEGER.sub("NUMBER", CLASS.sub("CLASS", line)) if CLASS.search(line) else line


def pytest_report_header() -> str:
    how = "digit by digit" if portable_arithmetic() else "by form, since the arithmetic is not the portable one"
    return f"stored notebook outputs are compared {how}"


def pytest_runtest_setup(item) -> None:
    """A notebook's sandbox is there before its first cell, whose time is limited, asks for it."""
    sandbox = f"build/smoke/{item.path.stem}"
    if isinstance(item, IPyNbCell) and sandbox not in prepared and sandbox in item.path.read_text():
        prepared.add(sandbox)
        command = [sys.executable, "-m", "avcil.workshop.smoke", sandbox]
        subprocess.run(command, cwd=project.root(), check=True)
        os.environ["AVCIL_SANDBOX"] = "ready"  # the kernel, which starts now, need not make it again


def pytest_collection_modifyitems(items) -> None:
    """First what takes minutes, so that in the end nobody waits for it."""
    items.sort(key=lambda item: item.path.stem not in FIRST)


def pytest_itemcollected(item) -> None:
    if not isinstance(item, IPyNbCell):
        return
    item.add_marker("notebook")
    if item.path.stem not in SMALL:
        item.add_marker("slow")
    if item.path.stem in ARITHMETIC:
        item.add_marker("arithmetic")
    if not portable_arithmetic():
        sanitize, compare = item.sanitize, item.compare_outputs
        # what is no text (JSON of widgets) has been left alone by `sanitize` too
        item.sanitize = lambda output: form(sanitize(output)) if isinstance(output, str) else output
        item.compare_outputs = lambda computed, stored: compare(list(filterfalse(_warns, computed)), stored)


def _warns(output) -> bool:
    """Whether it is only what avcil.params.project says of this arithmetic."""
    return output.get("name") == "stderr" and "not the portable arithmetic" in output.text
