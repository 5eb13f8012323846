"""The field: every row of the comparison under the protocol of a benchmark, and in harder settings."""

import json
from pathlib import Path
from typing import Literal

import pandas as pd
from pydantic import Field, model_validator

from avcil.config import Section
from avcil.files import write_json
from avcil.manifest import class_order, read_manifest
from avcil.methods import Method, Training, chain
from avcil.sweep import Job, Source


class Setting(Section):
    """What one block of runs changes in the protocol; what is left out stays."""

    rows: list[str] | None = Field(None, description="rows to run; all rows of the protocol if left out")
    classes_per_task: int | None = Field(None, gt=0)
    exemplars: int | None = Field(None, ge=0, description="for rows that keep any")
    keep: Literal["last", "best_all", "best_new"] | None = None
    seeds: list[int] | None = Field(None, min_length=1, description="a part of the protocol's")
    twins: bool = Field(True, description="false: classes that share a sound are one class, so that sound tells all")

    @property
    def memory_alone(self) -> bool:
        """Whether nothing but the memory differs from the protocol, so that accuracies can be told by memory."""
        return self.model_dump(exclude=_MEMORY) == Setting().model_dump(exclude=_MEMORY)


_MEMORY = {"rows", "seeds", "exemplars"}


class Protocol(Section):
    """What a benchmark prescribes to every row."""

    classes_per_task: int | list[int] = Field(description="new classes of every task, or of each")
    epochs: int = Field(gt=0)
    epochs_of: dict[str, int] = Field({}, description="of rows that are trained longer or shorter")
    tokens: str | None = Field(None, description="of every row, instead of what rows say: a store of the benchmark")
    class_order: Literal["drawn", "official"] = Field(description="official: order.json beside the manifest")
    seeds: list[int] = Field(min_length=1)
    exemplars: int | None = Field(None, ge=0, description="instead of what rows say")
    budget: Literal["per_class", "total"] | None = None
    training: dict[str, object] = Field({}, description="keys of `training` that the benchmark changes")
    changes: dict[str, dict[str, object]] = Field({}, description="keys of rows that it changes, by row; `*`: of all")
    rows: list[str] = Field(min_length=1)
    settings: dict[str, Setting]

    @model_validator(mode="after")
    def _consistent(self):
        sizes = self.classes_per_task
        if min(sizes if isinstance(sizes, list) else [sizes], default=0) < 1:
            raise ValueError("classes_per_task: at least one class a task")
        for key, named in (("epochs_of", self.epochs_of), ("changes", self.changes)):
            if unknown := sorted(named.keys() - {*self.rows, "*"}):
                raise ValueError(f"{key}: `{unknown[0]}` is not among the rows")
        for name, setting in self.settings.items():
            if foreign := sorted(set(setting.seeds or []) - set(self.seeds)):
                raise ValueError(f"settings.{name}: seed {foreign[0]} is not among the protocol's {self.seeds}")
            if not setting.twins and self.class_order == "official":
                raise ValueError(f"settings.{name}: merged classes have no official order; use class_order: drawn")
        return self


def places(benchmark: str, tokens: str) -> tuple[Path, Path]:
    """Folder of the manifest and feature store of a benchmark: imported (avcil/official.py, avcil/builders), or the
    embedded one."""
    imported = Path("imports") / benchmark
    if imported.exists():
        return imported, imported / "features" / tokens
    return Path("data") / benchmark, Path("artifacts/features") / tokens


def _source(folder: Path, store: Path, protocol: Protocol, setting: Setting, timbres: int, out: Path) -> Source:
    """Write the class orders, and the manifest where classes are merged, and say where everything is."""
    table = read_manifest(folder / "manifest.csv")
    if not setting.twins:
        labels = sorted(table.label.unique())
        table["label"] = table.label.map({label: f"timbre {i % timbres}" for i, label in enumerate(labels)})
    out.mkdir(parents=True, exist_ok=True)
    table.to_csv(out / "manifest.csv", index=False)
    if protocol.class_order == "official":
        order = json.loads((folder / "order.json").read_text())
        orders = dict.fromkeys(map(str, protocol.seeds), order)
    else:
        orders = {str(seed): class_order(table, seed) for seed in protocol.seeds}
    write_json(out / "orders.json", orders)
    regions = folder / "regions.npz"
    return Source(out / "manifest.csv", out / "orders.json", store, regions if regions.exists() else None)


def _sizes(classes: int, per_task: int | list[int]) -> list[int]:
    sizes = per_task if isinstance(per_task, list) else [per_task] * (classes // per_task)
    if sum(sizes) != classes:
        raise ValueError(f"{classes} classes do not divide into tasks of {per_task}; change classes_per_task")
    return sizes


def _adapted(row: str, method: Method, protocol: Protocol, setting: Setting) -> Method:
    changes = protocol.changes.get("*", {}) | protocol.changes.get(row, {})
    if method.memory in ("random", "herding"):
        exemplars = protocol.exemplars if setting.exemplars is None else setting.exemplars
        if exemplars is not None:
            changes["exemplars"] = exemplars
        if exemplars == 0:
            if method.readout == "nearest_exemplars":
                raise ValueError("a row that classifies by the means of exemplars cannot do without: leave it out")
            changes["memory"] = "none"
        if protocol.budget is not None:
            changes["budget"] = protocol.budget
    return Method(**method.model_dump() | changes)


def jobs(
    benchmark: Path,
    store: Path,
    protocol: Protocol,
    methods: dict[str, Method],
    training: Training,
    timbres: int,
    out: Path,
) -> list[Job]:
    """All runs of a benchmark, named (setting, row); their files are under ``out``.

    benchmark: folder of manifest.csv. methods: all rows by name. timbres: see `World`, for settings without twins.
    """
    found = []
    for name, setting in protocol.settings.items():
        source = _source(benchmark, store, protocol, setting, timbres, out / name)
        changed = training.model_dump() | protocol.training
        if setting.keep is not None:
            changed["keep"] = setting.keep
        shared = Training(**changed)
        classes = pd.read_csv(source.manifest, dtype=str).label.nunique()
        for row in setting.rows or protocol.rows:
            epochs = protocol.epochs_of.get(row, protocol.epochs)
            tasks = chain(_sizes(classes, setting.classes_per_task or protocol.classes_per_task), epochs)
            method = _adapted(row, methods[row], protocol, setting)
            for seed in setting.seeds or protocol.seeds:
                file = out / name / row / f"seed{seed}.json"
                found.append(Job((name, row), source, method, shared, tasks, seed, file=file))
    return found
