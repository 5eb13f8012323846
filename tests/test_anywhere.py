"""What keeps the tests green on processors that compute otherwise, without making them blind."""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output
from nbval.plugin import IPyNbCell, nocolors
from nbval_form import pytest_itemcollected

from avcil.base import portable
from conftest import ROOT


def _html(*rows: list[str]) -> str:
    lines = [
        f"    <tr>\n      <th>{row}</th>\n      <td>{one}</td>\n      <td>{two}</td>\n    </tr>"
        for row, one, two in rows
    ]
    return "\n".join(["<table>", "  <tbody>", *lines, "  </tbody>", "</table>"])


TABLE = """\
          last_accuracy  forgetting seeds ahead
lll_prior               0.700       0.058      2 of 3
replay            0.675       0.500      1 of 3"""
HTML = _html(["lll_prior", "0.700", ""], ["replay", "0.675", "0.500"])
CONFUSED = """\
       actual   predicted  clips
0  object_012  object_002      7
1  object_000  object_010      6"""
DVC = """\
| Experiment | last_accuracy | lll_prior.exemplars |
|------------|---------------|---------------|
| main       | 0.65          | 5             |"""

# (stored, computed): what may become of an output under another arithmetic
SAME = {
    "digits": (TABLE, TABLE.replace("0.058", "0.142")),
    "a sign": (TABLE, TABLE.replace(" 0.058", "-0.013")),
    "an exponent": ("loss 0.0004", "loss 3e-07"),
    "the end of a sentence": ("It fell by 0.2.", "It fell by 0.25."),
    "shares": (TABLE, TABLE.replace("1 of 3", "0 of 3")),
    "the order of rows": (TABLE, "\n".join(TABLE.split("\n")[row] for row in (0, 2, 1))),
    "the order of rows in HTML": (HTML, _html(["replay", "0.7", "0.5"], ["lll_prior", "0.6", ""])),
    "classes and counts": (CONFUSED, CONFUSED.replace("object_002", "object_010").replace(" 7", "12")),
    "the width of a column": (DVC, DVC.replace("0.65  ", "0.7125").replace("---|\n", "------|\n")),
}
# what is an error under any
OTHER = {
    "nan": (TABLE, TABLE.replace("0.058", "  nan")),
    "infinity": ("loss 0.5", "loss inf"),
    "no number": (TABLE, TABLE.replace("0.058", "     ")),
    "a column less": (TABLE, "\n".join(line.rsplit(maxsplit=3)[0] for line in TABLE.split("\n"))),
    "a row less": (TABLE, TABLE.rsplit("\n", 1)[0]),
    "a row more": (CONFUSED, f"{CONFUSED}\n2  object_001  object_011      3"),
    "another row": (TABLE, TABLE.replace("replay", "joint ")),
    "another head": (TABLE, TABLE.replace("forgetting", "plasticity")),
    "another empty cell": (HTML, _html(["lll_prior", "", "0.7"], ["replay", "0.675", "0.500"])),
    "rows that change their empty cells": (HTML, _html(["lll_prior", "0.7", "0.5"], ["replay", "0.6", ""])),
    "an error's text": (TABLE, "ValueError: lll_prior has no task 3"),
    "another count": ("0.14 MB a clip, 320 clips", "0.14 MB a clip, 321 clips"),
    "another integer": ("{'clips': 320, 'quarantined': 0}", "{'clips': 320, 'quarantined': 1}"),
    "another parameter": (DVC, DVC.replace("| 5 ", "| 10")),
    "no class": (CONFUSED, CONFUSED.replace("object_002", "       nan")),
    "another version": ("torch 2.11.0", "torch 2.12.0"),
    "lines of text in another order": ("one\ntwo", "two\none"),
}


def _compared(stored: list, computed: list) -> bool:
    """By the methods of a collected cell."""
    cell = IPyNbCell.__new__(IPyNbCell)
    cell.parent = SimpleNamespace(sanitize_patterns={}, skip_compare=("output_type", "name", "metadata"))
    cell.colors, cell.format_output_compare, cell.add_marker = nocolors, lambda *_: None, lambda *_: None
    cell.path = Path("01_splits.ipynb")
    pytest_itemcollected(cell)
    return cell.compare_outputs(computed, stored)


def _outputs(text: str) -> list[list]:
    """The three ways in which a cell may show it."""
    data = {"text/plain": text, "text/html": text}
    return [
        [new_output("stream", name="stdout", text=text)],
        *([new_output("display_data", {m: t})] for m, t in data.items()),
    ]


@pytest.fixture
def elsewhere(monkeypatch):
    monkeypatch.setenv("MKL_CBWR", "AVX512")


@pytest.fixture
def here(monkeypatch):
    for name, value in portable.VARIABLES.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("case", SAME)
def test_elsewhere_outputs_of_the_same_form_agree(elsewhere, case):
    for stored, computed in zip(*map(_outputs, SAME[case]), strict=True):
        assert _compared(stored, computed) and _compared(computed, stored)


@pytest.mark.parametrize("case", OTHER)
def test_elsewhere_outputs_of_another_form_do_not(elsewhere, case):
    for stored, computed in zip(*map(_outputs, OTHER[case]), strict=True):
        assert not _compared(stored, computed) and not _compared(computed, stored)


def test_elsewhere_another_kind_of_output_does_not_agree(elsewhere):
    """A stream for a table, a table without its HTML, one output too many, a JSON of other numbers."""
    shown = [[new_output("display_data", {"text/plain": TABLE, "text/html": HTML})], *_outputs(TABLE)]
    shown += [shown[0] * 2, *([new_output("display_data", {"application/json": {"a": a}})] for a in (0.5, 0.25))]
    assert all(_compared(a, b) == (i == k) for i, a in enumerate(shown) for k, b in enumerate(shown))


def test_elsewhere_the_warning_of_it_is_no_output_and_other_ones_are(elsewhere):
    stored = _outputs(TABLE)[0]
    for text, same in {
        "UserWarning: not the portable arithmetic: results may": True,
        "RuntimeWarning: nan": False,
    }.items():
        warned = [*stored, new_output("stream", name="stderr", text=text)]
        assert _compared(stored, warned) == same and not _compared(warned, stored)


@pytest.mark.parametrize("case", SAME)
def test_under_the_portable_arithmetic_all_digits_count(here, case):
    stored, computed = SAME[case]
    assert _compared(*([new_output("stream", name="stdout", text=text)] for text in (stored, stored)))
    assert not _compared(*([new_output("stream", name="stdout", text=text)] for text in (stored, computed)))


@pytest.mark.slow
def test_pytest_compares_notebooks_so_and_starts_their_kernels_under_the_same_arithmetic():
    """Cell 0 knows what its kernel computes with, cell 1 has a stored digit that is wrong."""
    sources = {"import os; print(os.environ.get('MKL_CBWR'))": "COMPATIBLE\n", "print(0.75)": "0.5\n"}
    cells = [
        new_code_cell(source, execution_count=number, outputs=[new_output("stream", text=text)])
        for number, (source, text) in enumerate(sources.items(), start=1)
    ]
    plain = {name: value for name, value in os.environ.items() if name not in {"AVCIL_PORTABLE", *portable.VARIABLES}}
    (ROOT / "build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ROOT / "build") as folder:
        nbformat.write(new_notebook(cells=cells), Path(folder) / "n.ipynb")
        command = [sys.executable, "-m", "pytest", "-v", "-m", "", "-p", "no:cacheprovider", folder]
        for chosen, found in {"0": ["FAILED", "PASSED"], "1": ["PASSED", "FAILED"]}.items():
            if chosen == "0" or portable.possible():
                environment = plain | {"AVCIL_PORTABLE": chosen}
                said = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True).stdout
                assert re.findall(r"::Cell \d (PASSED|FAILED)", said) == found, said
                assert "outputs are compared " + {"0": "by form", "1": "digit by digit"}[chosen] in said
