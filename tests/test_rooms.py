"""The rooms of avcil/: their one order, what each may import, and what the stages of the pipeline depend on."""

import ast
import json
import re
from functools import cache
from pathlib import Path

import nbformat
import pytest
import yaml

from conftest import ROOT

# a room imports from itself and from those before it: no circle, no arrow upward
ORDER = [
    "base", "params", "kernels", "tokens", "encoders", "learn", "extraction", "world", "comparison", "results",
    "beyond", "learner", "workshop",
]  # fmt: skip
PACKAGE = ROOT / "avcil"
MODULES = sorted(PACKAGE.rglob("*.py"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def imports(source: str) -> set[str]:
    """Modules, and names that may be modules, that a text imports anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found


def file_of(module: str) -> Path | None:
    """The file of a module of ours, or None for another one's or for a name in one."""
    path = ROOT.joinpath(*module.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


@cache
def reached(file: Path) -> frozenset[Path]:
    """The files of ours that a file imports, however far away, and their packages' own."""
    found: set[Path] = set()
    waiting = [file_of(module) for module in imports(file.read_text()) if module.startswith("avcil.")]
    for target in filter(None, waiting):
        packages = {parent / "__init__.py" for parent in target.parents if parent.is_relative_to(PACKAGE)}
        found |= {target} | packages - {PACKAGE / "__init__.py"}
    seen = set(found)
    while found:
        new = {
            target
            for one in found
            for module in imports(one.read_text())
            if module.startswith("avcil.")
            if (target := file_of(module)) and target not in seen
        }
        seen |= new
        found = new
    return frozenset(seen)


def code(notebook: Path) -> str:
    cells = nbformat.read(notebook, as_version=4).cells
    return "\n".join(c.source for c in cells if c.cell_type == "code" and not c.source.startswith("%%"))


def room(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0]


def test_every_module_has_a_room():
    assert {room(file) for file in MODULES} == {*ORDER, "__init__.py", "__main__.py"}


def test_tests_have_the_same_rooms():
    """Beside them stand those of the project's own files, and those of damage and kills, which go through all rooms."""
    rooms = {path.parent.relative_to(ROOT / "tests").as_posix() for path in (ROOT / "tests").rglob("test_*.py")}
    assert rooms == {*ORDER, ".", "faults"}


def test_no_class_of_one_room_is_called_as_that_of_another():
    """Else a reader who knows the one takes it for the other."""
    rooms: dict[str, set[str]] = {}
    for file in MODULES:
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                rooms.setdefault(node.name, set()).add(room(file))
    # `Pooled`: statements of both files are in the names of stored results, which would be made again
    assert {name for name, found in rooms.items() if len(found) > 1} <= {"Pooled"}


@pytest.mark.parametrize("file", [m for m in MODULES if m.parent != PACKAGE], ids=lambda p: str(p.relative_to(ROOT)))
def test_rooms_import_only_from_below(file):
    below = ORDER[: ORDER.index(room(file)) + 1]
    ours = {module.split(".")[1] for module in imports(file.read_text()) if module.startswith("avcil.")}
    assert ours <= set(below), f"{room(file)} imports from {sorted(ours - set(below))}, which stand above it"


def test_rooms_need_few_packages():
    """The schema no torch; the core no numpy and no pandas; figures no torch."""

    def packages(file: Path) -> set[str]:
        return {name.split(".")[0] for name in imports(file.read_text())}

    assert not [file for file in (PACKAGE / "params").glob("*.py") if {"torch", "pandas"} & packages(file)]
    core = {"avcil", "collections", "copy", "functools", "itertools", "math", "typing", "torch"}
    for name in ("model", "losses", "heads", "memory", "optimise"):
        assert packages(PACKAGE / f"learn/{name}.py") <= core, name
    assert "torch" not in packages(PACKAGE / "results/plots.py")
    assert packages(PACKAGE / "base/portable.py") <= {"os", "platform", "sys", "pathlib", "torch"}


# ---- stages


def stages() -> dict[str, dict]:
    """Each stage of the pipeline with its notebook, by name."""
    found = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    return {name: stage for name, stage in found.items() if "notebooks/" in stage["cmd"]}


@pytest.mark.parametrize("name", stages())
def test_a_stage_depends_on_the_rooms_that_its_notebook_reaches_and_on_no_other(name):
    """Else a change of code leaves results that are silently stale, or makes them anew for nothing."""
    stage = stages()[name]
    notebook = ROOT / next(word for word in stage["cmd"].split() if word.startswith("notebooks/"))
    waiting, seen = {file_of(module) for module in imports(code(notebook))} - {None}, set()
    for file in waiting:
        seen |= {file, *reached(file)}
        seen |= {parent / "__init__.py" for parent in file.parents if parent.is_relative_to(PACKAGE)}
    needed = {f"avcil/{room(file)}" for file in seen if file.parent != PACKAGE}
    declared = {path for path in stage["deps"] if path.startswith("avcil")}
    assert declared == needed


def test_the_report_depends_on_all_code():
    assert "avcil" in yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["report"]["deps"]


@pytest.mark.parametrize("name", stages())
def test_a_stage_depends_on_every_parameter_that_its_notebook_reads(name):
    """`params.film` in a cell wants `film` or a key of it among the stage's params, `params.methods["lll_prior"]` wants
    `methods` or `methods.lll_prior`, and `params.protocol()` the benchmark's file of protocols/."""
    stage = stages()[name]
    notebook = ROOT / next(word for word in stage["cmd"].split() if word.startswith("notebooks/"))
    derived = {
        "own_encoders": ("prior",),
        "method": ("methods",),
        "protocol": ("protocols/${benchmark}.yaml", "benchmark"),
    }
    # seconds of work, and where it is done, decide no result
    read = {
        node.attr
        for node in ast.walk(ast.parse(code(notebook)))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "params"
    } - {"compute"}
    wanted = {key for attribute in read for key in derived.get(attribute, (attribute,))}
    keys = {key if isinstance(key, str) else next(iter(key)) for key in stage["params"]}
    declared = {key if key.endswith(".yaml") else key.split(".")[0] for key in keys}
    templated = {
        part.split("}")[0] for key in ("cmd", "deps", "outs") for part in json.dumps(stage[key]).split("${")[1:]
    }
    assert wanted <= declared | templated, sorted(wanted - declared - templated)
    named = set(re.findall(r"params\.methods\[[\"'](\w+)[\"']\]", code(notebook)))
    every = "methods" in keys or re.search(r"params\.methods(?!\[[\"'])", code(notebook))
    assert every or {f"methods.{name}" for name in named} <= keys
    assert "methods" in keys or not re.search(r"params\.methods(?!\[[\"'])", code(notebook))


def test_a_sweep_forgets_runs_of_other_code():
    """What decides a run's result is digested whole: every room that training reaches."""
    from avcil.comparison.sweep import CORE

    needed = {room(file) for file in reached(PACKAGE / "learn/train.py")} | {"learn", "params"}
    needed |= {room(file) for file in reached(PACKAGE / "tokens/dataset.py")}
    assert {part.split("/")[0] for part in CORE} == needed
    core = [file for part in CORE for file in PACKAGE.glob(part)]
    schema = {name for file in core for name in imports(file.read_text()) if name.startswith("avcil.params.")}
    read = {file for name in schema if (file := file_of(name))}
    assert read == {file for file in core if room(file) == "params"}
