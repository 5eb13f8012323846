"""What counts as another code: statements do, words do not."""

import ast
from pathlib import Path

import pytest

from avcil.base.code import PACKAGE, code_of, statements, statements_of

SOURCE = '''"""A module."""

import math  # for pi

LINES = """one

# two
"""
"""What a constant is."""


def area(r):
    """Its docstring,
    of two lines."""
    # why
    return math.pi * r**2  # "quoted"


class Empty(Exception):
    """Nothing but words."""
'''


def test_words_are_left_out_and_texts_stay():
    assert statements(SOURCE).split("\n") == [
        "import math", 'LINES = """one', "", "# two", '"""', "def area(r):", "    return math.pi * r**2",
        "class Empty(Exception):", "",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("# why", "# why not\n    # and when", True),
        ("Its docstring,\n", "What it is,\n\n", True),
        ("\n\n\nclass", "\n\nclass", True),
        ("one\n\n", "one\n", False),
        ("# two", "# three", False),
        ("r**2", "r**3", False),
        ("# why\n    ", "", True),
        ("    return", "    if r:\n        return", False),
    ],
)
def test_another_code_is_told_from_other_words(old, new, same):
    assert old in SOURCE
    assert (statements(SOURCE.replace(old, new)) == statements(SOURCE)) == same


def test_code_beside_a_docstring_stays():
    beside = 'def f(x): "Ä text,"; """of\ntwo lines."""; return x'
    assert statements(beside) == "def f(x): ; ; return x"
    assert statements(beside.replace("two", "more")) == statements(beside) != statements(beside.replace("x", "y"))


def test_a_last_line_needs_no_break():
    for source in ("x = 1", "x = 1  # one", 'x = 1\n"""One."""', "x = 1\n\n    "):
        assert statements(source).strip() == statements(source + "\n").strip() == "x = 1"


def test_of_every_file_the_meaning_is_kept():
    """What is left has the syntax tree of the whole, docstrings apart."""

    def bare(source: str) -> str:
        tree = ast.parse(source)
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list):
                words = [one for one in body if isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant)]
                node.body = [one for one in body if one not in words or not isinstance(one.value.value, str)]
                node.body = node.body or [ast.Pass()]
        return ast.dump(tree)

    for file in sorted(PACKAGE.rglob("*.py")):
        left = statements(file.read_text())
        # a class of a docstring alone has no body left
        filled = "\n".join(_with_bodies(left.split("\n")))
        assert bare(filled) == bare(file.read_text()), file


def _with_bodies(lines: list[str]) -> list[str]:
    found = []
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        found.append(line)
        indent = len(line) - len(line.lstrip())
        opens = line.lstrip().startswith(("class ", "def ")) and line.endswith(":")
        if opens and len(following) - len(following.lstrip()) <= indent:
            found.append(" " * (indent + 4) + "pass")
    return found


def test_what_was_imported_stays_what_it_was(tmp_path):
    """A file that is edited is not imported anew, so that results of this process are of the old one."""
    file = tmp_path / "method.py"
    file.write_text("x = 1\n")
    before = statements_of([file])
    file.write_text("x = 2\n")
    assert statements_of([file]) == before == b"x = 1\n"


def test_a_pattern_without_files_is_no_code():
    assert code_of(("base/code.py",)) == statements(Path(PACKAGE, "base/code.py").read_text()).encode()
    assert code_of(("base/*.py",)).count(b"\0") == len([*(PACKAGE / "base").glob("*.py")]) - 1
    assert code_of(("nowhere/*.py",)) == b""
