"""What only some rows need: a file each, found by the name that a row gives it. CONTRIBUTING.md says how to add one.

A row names files in `fusion`, `classifier` and `readout`, where the core has nothing of that name, and in `hooks`. Each
file has ``build``: of a fusion ``build(channels)``, an `Attention`; of a classifier ``build(features)``; of a read-out
``build(options, state)``, a `Head`; of hooks ``build(options, method)``, `Hooks`. ``Options``, a `Section`, says what a
row may give it.
"""

import importlib
import re
from pathlib import Path
from types import ModuleType

from pydantic import ValidationError

from avcil.params.learning import CLASSIFIERS, FUSIONS, READOUTS, Method
from avcil.params.section import offence

FOLDER = Path(__file__).parent


def find(name: str) -> ModuleType:
    """The module of a method's file."""
    return importlib.import_module(f"avcil.learn.methods.{name}")


def options(name: str, given: dict[str, object]):
    """The file's `Options`, checked; raises ValueError naming the file and the first offence."""
    try:
        return find(name).Options(**given)
    except ValidationError as error:
        raise ValueError(f"options of `{name}`: {offence(error)}") from None


def named(method: Method) -> list[str]:
    """The files that a row names."""
    choices = ((method.fusion, FUSIONS), (method.classifier, CLASSIFIERS), (method.readout, READOUTS))
    return [name for name, built_in in choices if name not in built_in] + list(method.hooks)


def files(method: Method) -> list[Path]:
    """The code that a row needs beyond the core: the files that it names and those that they import, in order."""
    paths: list[Path] = []
    waiting = named(method)
    while waiting:
        path = FOLDER / f"{waiting.pop()}.py"
        if path not in paths:
            paths.append(path)
            waiting += re.findall(r"^from avcil\.learn\.methods\.(\w+) import", path.read_text(), re.M)
    return sorted(paths)
