"""What results were made by: the code of parts of avcil/, so that another one is noticed, and other words are not."""

import ast
import io
import tokenize
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

PACKAGE = Path(__file__).parents[1]


@lru_cache
def code_of(parts: tuple[str, ...]) -> bytes:
    """The `statements` of all files that the patterns ``parts``, relative to avcil/, name."""
    return statements_of(file for part in parts for file in sorted(PACKAGE.glob(part)))


def statements_of(files: Iterable[Path]) -> bytes:
    return b"\0".join(_of_file(file) for file in files)


@lru_cache
def _of_file(file: Path) -> bytes:
    # kept: what this process has imported stays what it does, whatever stands in the file by now
    return statements(file.read_text("utf-8")).encode()


def statements(source: str) -> str:
    """Python without its comments, strings that stand alone (docstrings) and blank lines.

    Cut out of the text, not printed from its syntax tree: versions of Python print a tree differently.
    """
    # one more: a source that ends without a line break has its end in the line after
    lines: list[str | None] = [*source.split("\n"), None]
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        row, column = token.start
        line = lines[row - 1]
        if token.type == tokenize.COMMENT and line is not None:
            lines[row - 1] = line[:column].rstrip()
        # a line of a text that spans several ends in no such token: what is blank in it stays
        elif token.type == tokenize.NL and not (line or "").strip():
            lines[row - 1] = None
    alone = [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    ]
    # from the end, so that columns of what stands before on the same line stay
    for node in sorted(alone, key=lambda node: (node.lineno, node.col_offset), reverse=True):
        first, last = node.lineno - 1, (node.end_lineno or node.lineno) - 1
        # columns count bytes; code may stand beside a string, as in `def f(x): "It."; return x`
        before = (lines[first] or "").encode()[: node.col_offset].decode()
        after = (lines[last] or "").encode()[node.end_col_offset :].decode()
        lines[first : last + 1] = [before + after if (before + after).strip() else None, *[None] * (last - first)]
    return "\n".join(line for line in lines if line is not None)
