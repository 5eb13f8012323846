"""What a protocol prescribes as runs: every row in every setting, with every seed."""

import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Literal

from avcil.comparison import worlds
from avcil.comparison.sweep import Job, Source
from avcil.comparison.worlds import Place
from avcil.params import Params
from avcil.params.comparison import Protocol, Setting
from avcil.params.learning import Method, Task, Training, chain
from avcil.tokens.manifest import class_order, read_manifest, read_order, read_orders, write_manifest, write_orders


def place_of(benchmark: str) -> Place:
    """Where a benchmark is: imported (avcil/workshop), or the embedded one."""
    imported = Path("imports") / benchmark
    if imported.exists():
        return Place(imported, imported / "features")
    return Place(Path("data") / benchmark, Path("artifacts/features"), chained=True)


def run_folder(artifacts: Path, method: str, task: int, seed: int, setting: str = "standard") -> Path:
    """Where checkpoint and result of a row after a task are kept: in `runs`, which DVC versions, those of `lll_prior`,
    which is learnt task by task in stages of its own, and of the headline's other rows; else beside the results."""
    # `lll_prior` comes last: where it is the method itself, the folder of its chain counts
    rows = {method: f"runs/others/{method}", "lll_prior": "runs/lll_prior"} if setting == "standard" else {}
    place = artifacts / rows.get(method, "")
    # rows outside of the headline have no such folder
    place = place if method in rows and place.exists() else artifacts / "sweep" / setting / method
    return place / f"task{task}" / f"seed{seed}"


def _source(place: Place, tokens: str, protocol: Protocol, setting: Setting, out: Path) -> Source:
    """Write manifest and class orders, and say where everything is."""
    table = read_manifest(place.folder / "manifest.csv")
    # tables read clips and orders beside the results (`tables.read`), whatever becomes of the place
    write_manifest(out / "manifest.csv", table)
    seeds = setting.seeds or protocol.seeds
    if protocol.class_order == "official":
        # one order for all: seeds then differ in what they draw while they learn
        orders = dict.fromkeys(seeds, read_order(place.folder / "order.json"))
    else:
        orders = {seed: class_order(table, seed) for seed in seeds}
    write_orders(out / "orders.json", orders)
    regions = place.folder / "regions.npz"
    # without regions, as of most videos, attention is not scored
    stored = regions if regions.exists() else None
    return Source(out / "manifest.csv", out / "orders.json", place.stores / tokens, stored)


def _adapted(row: str, method: Method, protocol: Protocol, setting: Setting) -> Method:
    # a new dictionary, so that what is added below does not reach the protocol, and the row's word counts last
    changes = protocol.changes.get("*", {}) | protocol.changes.get(row, {})
    # a row that keeps no exemplars, or all clips, is asked for no number of them
    if method.memory in ("random", "herding"):
        # not `or`: a setting of 0 exemplars is one
        exemplars = protocol.exemplars if setting.exemplars is None else setting.exemplars
        if exemplars is not None:
            changes["exemplars"] = exemplars
        if exemplars == 0:
            if method.readout == "nearest_exemplars":
                raise ValueError("a row that classifies by the means of exemplars cannot do without: leave it out")
            changes["memory"] = "none"
        if protocol.budget is not None:
            changes["budget"] = protocol.budget
    # made anew, for `model_copy` would check none of the changes
    return Method(**method.model_dump() | changes)


def choices(params: Params, protocol: Protocol, name: str, row: str) -> tuple[Method, Training]:
    """What a row and all that is shared are in the setting of that name."""
    setting = protocol.settings[name]
    keep = {} if setting.keep is None else {"keep": setting.keep}
    training = Training(**params.training.model_dump() | protocol.training | keep)
    return _adapted(row, params.methods[row], protocol, setting), training


def tasks_of(protocol: Protocol, name: str, row: str, classes: int) -> list[Task]:
    """In which a row learns so many ``classes`` in the setting of that name."""
    return chain(protocol.sizes(protocol.settings[name], classes), protocol.epochs_of.get(row, protocol.epochs))


def jobs(
    place: Place, params: Params, protocol: Protocol, rows: Literal["headline", "all"] | list[str], artifacts: Path
) -> list[Job]:
    """The runs of a benchmark that ``rows`` asks for, named (setting, method), but `lll_prior` in a chain of its own.

    Results are kept in ``artifacts``/sweep; those of the first setting keep checkpoints too (`run_folder`). Worlds of
    settings that have one a seed are drawn where they are not there yet, in ``artifacts``/worlds.
    """
    jobs, first, out = [], next(iter(protocol.settings)), artifacts / "sweep"
    # all that any setting learns from, whichever are asked for now, so that no world is drawn twice
    kinds = ("mini", *sorted({one.tokens for one in protocol.settings.values() if one.worlds and one.tokens}))
    for name, chosen in protocol.chosen(rows).items():
        setting = protocol.settings[name]
        # of each seed the place whose clips it learns, and the folder for its manifest and class order
        where = dict.fromkeys(setting.seeds or protocol.seeds, (place, out / name))
        if setting.worlds:
            changed = bool(setting.world or setting.clips_per_class)
            # `worlds.drawn` deletes other worlds of the same seed there, so changed ones have a folder of their own
            folder = artifacts / "worlds" / (name if changed else "")
            turned = params.turned(setting.world, setting.clips_per_class)
            for seed in where:
                # world 0 is the shipped one, and of a setting that changes its worlds none is shipped
                world = worlds.drawn(seed, folder, turned, kinds) if seed or changed else place
                where[seed] = (world, out / name / f"world{seed}")
        for row in chosen:
            if place.chained and (name, row) == (first, "lll_prior"):
                continue
            method, shared = choices(params, protocol, name, row)
            tokens = setting.tokens or protocol.tokens or method.tokens
            # by place, not by seed: seeds that share clips share one source, which is in memory once
            sources = {at: _source(at[0], tokens, protocol, setting, at[1]) for at in set(where.values())}
            for seed, at in where.items():
                tasks = tasks_of(protocol, name, row, len(read_orders(sources[at].orders)[seed]))
                file = out / name / row / f"seed{seed}.json"
                # DVC versions runs/others, which holds the checkpoints of the embedded benchmark's headline alone
                versioned = place.chained and row in protocol.headline
                folder = artifacts / "runs/others" / row if versioned else file.parent
                kept = folder if name == first else None
                on = params.compute.device
                job = Job((name, row), sources[at], method, shared, tasks, seed, file=file, folder=kept, device=on)
                jobs.append(job)
    return jobs


def drop_others(artifacts: Path, protocol: Protocol, methods: Collection[str]) -> None:
    """Delete the runs in ``artifacts`` of settings that the protocol, and of rows that ``methods`` have no more."""
    stale = [folder for folder in (artifacts / "runs/others").glob("*") if folder.name not in protocol.headline]
    for setting in (artifacts / "sweep").glob("*"):
        # manifests and folders of worlds stand there too, and are no rows
        runs = [folder for folder in setting.glob("*") if any(folder.glob("seed*.json"))]
        gone = setting.name not in protocol.settings
        stale += [setting] if gone else [folder for folder in runs if folder.name not in methods]
    for folder in stale:
        print(f"{folder}: of a row or setting that there is no more; its runs are deleted", flush=True)
        shutil.rmtree(folder)
