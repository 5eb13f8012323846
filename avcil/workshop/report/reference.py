"""The API reference as reStructuredText, from docstrings and signatures as they are written: nothing is imported, so
neither the Python at hand nor the packages that happen to be installed change a byte of it."""

import re
from pathlib import Path
from textwrap import indent
from typing import Any

import griffe
from sphinx.ext.napoleon import Config
from sphinx.ext.napoleon.docstring import GoogleDocstring

Item = griffe.Object | griffe.Alias


def _marked(text: str) -> str:
    """Words of a docstring as reStructuredText."""
    # `Tensor`s: it wants something between the mark and the letter
    text = re.sub(r"(`[^`\n]+`)(?=\w)", r"\1\\ ", text)
    # |x| and *.yaml are no marks of its own
    return "\n".join(
        line if re.search(r"[`\\]", line) else re.sub(r"[|*](?=\S)|(?<=\S)\|", r"\\\g<0>", line)
        for line in text.split("\n")
    )


def _docstring(item: Item) -> str:
    options: Any = Config(napoleon_use_ivar=True)  # of napoleon, which its annotation takes for one of Sphinx
    opens = re.compile(r"\.\. |[A-Z][a-z]+:$").match  # a directive, or a section (`Args:`)
    blocks, before = list[str](), ""
    for block in item.docstring.value.split("\n\n") if item.docstring else []:
        lines = block.split("\n")
        # code and equations keep their lines, of which reStructuredText would make a single one; what is indented below
        # a directive or a section belongs to it
        if all(line.startswith("    ") for line in lines) and not opens(before):
            blocks.append(block if before.endswith("::") else f"::\n\n{block}")
        else:
            blocks.append(_marked(block))
            before = lines[0] if opens(lines[0]) and not before.endswith("::") else lines[-1]
    return str(GoogleDocstring("\n\n".join(blocks), options))


def _public(parent: Item) -> list[Item]:
    """What is defined there, in the order of the source; names that are lent by another module stand in that one."""
    return [member for name, member in parent.members.items() if name[0] != "_" and not member.is_alias]


def _directive(item: Item) -> str:
    """A function, class or documented attribute as a directive of Sphinx, with its docstring and what it holds."""
    if isinstance(item, griffe.Function):
        head, parts = f".. py:function:: {item.signature()}", []
    elif isinstance(item, griffe.Class):
        bases = ", ".join(map(str, item.bases))
        head, parts = f".. py:class:: {item.name}({bases})", [_directive(member) for member in _public(item)]
    elif isinstance(item, griffe.Attribute) and item.annotation and isinstance(item.parent, griffe.Class):
        head, parts = f".. py:attribute:: {item.name}\n   :type: {item.annotation}", []
    else:
        # values of a module, and attributes without a type, are left out
        return ""
    body = "\n\n".join(filter(None, [_docstring(item), *parts]))
    return f"{head}\n\n{indent(body, '   ')}\n"


def pages(folder: Path) -> dict[str, str]:
    """A page for each module of the package in ``folder``, by dotted name; a package's leads to those of its own."""
    texts, waiting = {}, [griffe.load(folder.name, search_paths=[folder.parent.resolve()], allow_inspection=False)]
    # the list grows while it is gone through: packages in packages
    for module in waiting:
        inner = [part for _, part in sorted(module.modules.items()) if not part.is_alias]
        waiting += inner
        # in no table of contents: with one of 150 entries each page takes three times as long to write
        head = "" if module is waiting[0] else ":orphan:\n\n"
        head += f"{module.path}\n{'=' * len(module.path)}\n\n.. py:module:: {module.path}\n"
        links = "\n".join(f"* :doc:`{part.path}`" for part in inner)
        parts = [head, _docstring(module), *map(_directive, _public(module)), links]
        texts[module.path] = "\n\n".join(filter(None, parts)) + "\n"
    return texts
