"""What only some rows need: a file each, found by the name that a row gives it. CONTRIBUTING.md says how to add one.

A row names files in `fusion`, `classifier` and `readout`, where the core has nothing of that name, and in `hooks`. Each
file has ``build``: of a fusion ``build(channels)``, an `Attention`; of a classifier ``build(features)``; of a read-out
``build(options, state)``, a `Head`; of hooks ``build(options, method)``, `Hooks`. ``Options``, a `Section`, says what a
row may give it; ``KNOWS_ABSENCE = True``, that rows with it learn from clips without sound or picture.
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
    # when a row asks for it: these files import hooks and model, which import this one, and a file that cannot be
    # read hinders only the rows that name it
    return importlib.import_module(f"avcil.learn.methods.{name}")


def options(name: str, given: dict[str, object]):
    """The file's `Options`, checked; raises ValueError naming the file and the first offence."""
    try:
        return find(name).Options(**given)
    except ValidationError as error:
        # pydantic's own text has several lines; whoever checks a row puts its name in front of this one
        raise ValueError(f"options of `{name}`: {offence(error)}") from None


def named(method: Method) -> list[str]:
    """The files that a row names."""
    choices = ((method.fusion, FUSIONS), (method.classifier, CLASSIFIERS), (method.readout, READOUTS))
    # of hooks the core has none: each is a file
    return [name for name, built_in in choices if name not in built_in] + list(method.hooks)


def knows_absence(method: Method) -> bool:
    """Whether zeros throughout a stream mean to the row that it is absent. To all others they are tokens like any."""
    return any(getattr(find(name), "KNOWS_ABSENCE", False) for name in named(method))


def files(method: Method) -> list[Path]:
    """The code that a row needs beyond the core: the files that it names and those that they import, in order."""
    paths: list[Path] = []
    waiting = named(method)
    # read, not imported: to say what a result was made by, nothing of it has to run
    while waiting:
        path = FOLDER / f"{waiting.pop()}.py"
        # two files may import a third, as many do `scaled_ridge`
        if path not in paths:
            paths.append(path)
            # `from avcil.learn.methods import NAME` is not seen: who writes it also imports something from NAME itself
            waiting += re.findall(r"^from avcil\.learn\.methods\.(\w+) import", path.read_text(), re.M)
    # in an order that neither the row's keys nor imports change: a sweep takes the digest of what stands in them
    return sorted(paths)
