"""More streams: what else is known of the patches of a clip, by name, joined to what the encoder says of them.

A stream has numbers for each patch of each slot, and any number of streams are joined: their channels stand behind
those of the visual tokens. So whatever reads these reads them: guidance by synchrony, attention, both levels of
distillation, solved heads; no row is written for them.

Dimension letters: ``N`` clips, ``F`` frames, ``L`` slots, ``S`` patches of a slot, ``G`` cells of a side of the
renderer's grid, ``D`` visual channels, ``E`` channels of a stream.
"""

import math
from functools import partial
from itertools import chain, combinations
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from avcil.base import processes
from avcil.base.code import code_of
from avcil.base.files import check_seal, digest, read_tensors, tensor_bytes, write_with_seal
from avcil.base.progress import progress
from avcil.beyond import study
from avcil.beyond.settings import ALONE, Streams
from avcil.comparison import sweep, worlds
from avcil.comparison.sweep import Done, Job
from avcil.comparison.worlds import Place
from avcil.learn.train import run_tasks
from avcil.params import Params
from avcil.tokens.manifest import read_manifest
from avcil.tokens.store import load_header
from avcil.tokens.tokens import Layout, Tokens
from avcil.world.scenes import REGION_CELLS, Scene
from avcil.world.sounding_objects import benchmark_clip

MEASURING = "beyond/streams.py"
AT_ONCE = 50  # clips that a process renders


# ---- what is known of a clip


def depth(scene: Scene) -> np.ndarray:
    """How near what a cell shows is, as the renderer knows it: [F,G,G]."""
    return scene.nearness


def motion(scene: Scene) -> np.ndarray:
    """How much the pixels of a cell differ from the frame before, in brightness; none in the first frame: [F,G,G]."""
    brightness = scene.frames.mean(-1, dtype=np.float32) / 255
    changed = np.abs(np.diff(brightness, axis=0, prepend=brightness[:1]))
    cell = changed.shape[1] // REGION_CELLS
    return changed.reshape(-1, REGION_CELLS, cell, REGION_CELLS, cell).mean((2, 4))


STREAMS = {"depth": depth, "motion": motion}


def by_patch(cells: np.ndarray, layout: Layout) -> np.ndarray:
    """Cells [F,G,G] of a clip as a stream [L,S,E]: a patch of a slot has all its cells, in all its frames."""
    side = math.isqrt(layout.patches)
    frames, within = len(cells) // layout.slots, cells.shape[1] // side
    parts = cells.reshape(layout.slots, frames, side, within, side, within)
    return parts.transpose(0, 2, 4, 1, 3, 5).reshape(layout.slots, layout.patches, -1)


def _rendered(ids: list[str], params: Params, layout: Layout) -> dict[str, Tensor]:
    """The streams of clips of the world of ``params``."""
    found: dict[str, list[np.ndarray]] = {name: [] for name in STREAMS}
    for clip in ids:
        split, label, index = clip.split("-")
        scene, _ = benchmark_clip(params.world, params.film, params.corpus.seed, (split, int(label), int(index)))
        for name, cells in STREAMS.items():
            found[name].append(by_patch(cells(scene), layout))
    return {name: torch.from_numpy(np.stack(clips)).half() for name, clips in found.items()}


def streams_of(world: int, place: Place, params: Params, folder: Path) -> Path:
    """The file with all streams [N,L,S,E] of a world's clips, float16, in the order of its manifest; rendered unless it
    is there."""
    file = folder / f"{place.folder.name}-{digest(code_of((MEASURING,)))[:12]}.safetensors"
    if not file.exists():
        ids = read_manifest(place.folder / "manifest.csv").clip_id.tolist()
        layout = load_header(place.stores / "mini").layout
        work = partial(_rendered, params=worlds.seeded(world, params), layout=layout)
        some = [ids[first : first + AT_ONCE] for first in range(0, len(ids), AT_ONCE)]
        done = dict(progress(processes.each(work, some, params.compute.workers), total=len(some), desc="streams"))
        folder.mkdir(parents=True, exist_ok=True)
        whole = {name: torch.cat([done[number][name] for number in range(len(some))]) for name in STREAMS}
        write_with_seal(file, tensor_bytes(whole))
    return file


# ---- what is learnt from


def joined(tokens: Tokens, streams: list[Tensor], weight: float, rows: Tensor) -> Tokens:
    """Tokens with streams [N,L,S,E] behind the visual channels.

        v'_ls = [v_ls, weight r (s_ls − s̄)],   r² = mean ‖v_ls‖² / mean ‖s_ls − s̄‖²

    for each stream s, with means over all patches of the clips at ``rows``: so that weight² is how much it has beside
    the encoder's tokens, whatever its own scale. Streams that never change there are left as they are, less s̄.
    """
    size, parts = tokens.visual[rows].square().sum(-1).mean(), [tokens.visual]
    for stream in streams:
        stream = stream.float()
        stream = stream - stream[rows].mean((0, 1, 2))
        spread = stream[rows].square().sum(-1).mean()
        parts.append(weight * (size / spread).sqrt() * stream if spread else stream)
    return tokens._replace(visual=torch.cat(parts, -1))


def ways() -> dict[str, tuple[str, ...]]:
    """Every choice among the streams, none first, by name."""
    chosen = chain.from_iterable(combinations(STREAMS, count) for count in range(len(STREAMS) + 1))
    return {" and ".join(names) or ALONE: names for names in chosen}


def jobs(settings: Streams, params: Params, drawn: Path, folder: Path) -> tuple[list[Job], dict[int, Path]]:
    """Every row with its choices of streams, named (row, way, weight), and the file of streams by world. Worlds are
    drawn below ``drawn`` where they are not there yet. What the weight was chosen by is scored on validation clips."""
    sources, files, every = {}, {}, list(ways())
    for world in (*settings.worlds, *settings.choice):
        place = worlds.drawn(world, drawn, params)
        files[world] = streams_of(world, place, params, folder)
        sources[world] = study.source_of(place, world, folder)
    asked = [(row, way, settings.weight, world) for world in settings.worlds for row in settings.rows for way in every]
    ends = (every[0], every[-1])
    asked += [
        (row, way, settings.weight, world)
        for world in settings.trained_worlds
        for row in settings.trained
        for way in ends
    ]
    asked += [(settings.rows[0], every[-1], weight, world) for world in settings.choice for weight in settings.weights]
    return [
        Job((row, way, f"{weight:g}"), sources[world], params.method(row), params.training, params.tasks, world,
            split="val" if world in settings.choice else "test",
            file=folder / f"{row}-{way.replace(' ', '_')}-{weight:g}-{world}.json", device=params.compute.device)
        for row, way, weight, world in asked
    ], files  # fmt: skip


def learn(job: Job, files: dict[int, Path]) -> Done:
    """Do one job, unless its file stands there already, made from the same code, clips and choices."""
    data, (_, way, weight), file = sweep.datasets(job.source)[job.seed], job.name, files[job.seed]

    def measure() -> dict:
        check_seal(file)
        known, first = read_tensors(file), data.rows("train", 0, job.tasks[0].classes)
        tokens = joined(data.tokens.clips(slice(None)), [known[name] for name in ways()[way]], float(weight), first)
        results = run_tasks(
            data._replace(tokens=tokens), job.method, job.training, job.tasks, job.seed, None, split=job.split,
            device=job.device,
        )  # fmt: skip
        return study.last(results[-1])

    return study.once(job, data, measure, MEASURING, streams=[file.name, way, weight])


def run(settings: Streams, params: Params, drawn: Path, folder: Path) -> dict[str, pd.DataFrame]:
    """Learn what is not learnt yet; `beyond_streams`, a line a row, choice of streams, weight and world: last_accuracy
    on clips of ``split``, and hit, the share of them on which attention peaks on what sounds."""
    asked, files = jobs(settings, params, drawn, folder)
    study.run(partial(learn, files=files), asked, params)
    return {"beyond_streams": study.table(asked, ("row", "streams", "weight")).astype({"weight": float, "hit": float})}
