"""The API reference, from docstrings and signatures as they are written: nothing is imported, so neither the Python at
hand nor the packages that happen to be installed change a byte of it."""

import re
from pathlib import Path
from typing import NamedTuple

import griffe
import mistune

from avcil.workshop.report import markup

_markdown = mistune.create_markdown(escape=True, plugins=["table"])


def _plain(text: str) -> str:
    return str(_markdown(text))


class Entry(NamedTuple):
    """A class, function or method. name: after its module; signature: without the name of a method's class; text: HTML;
    fields: annotated attributes of a class; methods: its public ones."""

    name: str
    kind: str
    signature: str
    text: str
    fields: list[str]
    methods: list["Entry"]


class Module(NamedTuple):
    """name: dotted; text: HTML of the docstring; first: of its first paragraph; entries: what is public, as written."""

    name: str
    text: str
    first: str
    entries: list[Entry]


def docstring(item: griffe.Object | griffe.Alias) -> str:
    """HTML of a docstring: reStructuredText's mathematics, Markdown's code, and arguments as a list."""
    if item.docstring is None:
        return ""
    text = re.sub(
        r"^\.\. math::\s*(.*(?:\n[ \t]+\S.*)*)",
        lambda found: f"$${' '.join(found[1].split())}$$",
        item.docstring.value,
        flags=re.M,
    )
    text = re.sub(r":math:`(.+?)`", r"$\1$", text)
    text = re.sub(r"^(Args|Attributes|Raises):\n", r"\1:\n\n", text, flags=re.M)
    text = re.sub(r"^    (\w+(?:, \w+)*): ", r"- `\1`: ", text, flags=re.M)
    return markup.render(text, _plain)


def _public(parent: griffe.Object | griffe.Alias) -> list[griffe.Object]:
    """Members that the module itself defines or, where it has `__all__`, lends its name to."""
    found: list[griffe.Object] = []
    for name, member in parent.members.items():
        if name.startswith("_") or (member.is_alias and name not in (parent.exports or [])):
            continue
        found.append(member.final_target if isinstance(member, griffe.Alias) else member)
    return found


def _entry(item: griffe.Class | griffe.Function | griffe.Attribute, prefix: str = "") -> Entry:
    name, text = prefix + item.name, docstring(item)
    if isinstance(item, griffe.Function):
        return Entry(name, "function", item.signature(name=item.name), text, [], [])
    if isinstance(item, griffe.Attribute):
        return Entry(name, "property", f"{item.name}: {item.annotation}", text, [], [])
    bases = ", ".join(str(base) for base in item.bases)
    own = [member for member in _public(item) if not member.inherited]
    annotated = [member for member in own if isinstance(member, griffe.Attribute) and member.annotation]
    fields = [f"{member.name}: {member.annotation}" for member in annotated if "property" not in member.labels]
    documented = [member for member in annotated if "property" in member.labels and member.docstring]
    functions = [member for member in own if isinstance(member, griffe.Function)]
    shown: list[griffe.Attribute | griffe.Function] = [*documented, *functions]
    methods = [_entry(member, f"{name}.") for member in shown]
    return Entry(name, "class", f"{item.name}({bases})" if bases else item.name, text, fields, methods)


def modules(folder: Path) -> list[Module]:
    """All modules of the package in ``folder``, by name."""
    package = griffe.load(folder.name, search_paths=[folder.parent.resolve()], allow_inspection=False)
    found: list[Module] = []
    waiting: list[griffe.Object | griffe.Alias] = [package]
    while waiting:
        module = waiting.pop()
        waiting += [part for part in module.modules.values() if not part.is_alias]
        kinds = (griffe.Class, griffe.Function)
        entries = [_entry(item) for item in _public(module) if isinstance(item, kinds)]
        first = module.docstring.value.split("\n\n")[0] if module.docstring else ""
        first = _plain(first).strip().removeprefix("<p>").removesuffix("</p>")
        found.append(Module(module.path, docstring(module), first, entries))
    return sorted(found)
