"""What rows are called and which belong together: their `about` in the params.yaml of the project that one is in."""

from functools import lru_cache
from pathlib import Path

from avcil.params import ParameterError, load, project
from avcil.params.comparison import About

# families of rivals: without the guided model or tokens, as papers have them but for what `about` says, ablations and
# `scaled_ridge`, which is ours, among them; and those that are given the guided model or tokens
UNGUIDED = ("AV-CIL's model", "closed form, pooled tokens")
GUIDED = ("replay on the guided model", "closed form, guided tokens")


@lru_cache(maxsize=1)
def _read(file: Path, changed: int) -> dict[str, About]:
    # `changed` is read by the cache alone: a params.yaml that was edited is read again
    return {name: row.about for name, row in load(file).methods.items()}


def rows() -> dict[str, About]:
    """Of every row, in the order of params.yaml; none outside of a project, or where it cannot be read."""
    try:
        file = project.root() / "params.yaml"
        return _read(file, file.stat().st_mtime_ns)
    # outside of a project `root` raises FileNotFoundError
    except (OSError, ParameterError):
        return {}


def about(method: str) -> About:
    """Of a row that params.yaml does not have, its own name, in the first family."""
    known = rows()
    if method in known:
        return known[method]
    # any family will do, but it has to be one of `families`, among which figures look it up
    return About(name=method.replace("_", " "), family=next((row.family for row in known.values()), "others"))


def name_of(method: str) -> str:
    return about(method).name


def short_name_of(method: str) -> str:
    """The name without its explanation in brackets."""
    return about(method).short_name


def families() -> list[str]:
    """In the order of params.yaml."""
    # as `about` calls it where there is no params.yaml
    return list(dict.fromkeys(row.family for row in rows().values())) or ["others"]


def family_of(method: str) -> str:
    return about(method).family


def of_family(family: str) -> list[str]:
    """The rows of a family, in the order of params.yaml."""
    return [name for name, row in rows().items() if row.family == family]
