"""The field: every row of the comparison under the protocol of a benchmark, and in harder settings."""

import json
from pathlib import Path

import pandas as pd

from avcil.base.files import write_json
from avcil.comparison.sweep import Job, Source
from avcil.params.comparison import Protocol, Setting
from avcil.params.learning import Method, Training, chain
from avcil.tokens.manifest import class_order, read_manifest


def places(benchmark: str, tokens: str) -> tuple[Path, Path]:
    """Folder of the manifest and feature store of a benchmark: imported (avcil/workshop), or the
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
