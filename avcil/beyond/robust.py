"""Damaged inputs: what is left of last accuracy where test films are noisy, faint, drowned, squeezed, jerky or late,
and what is named where two objects sound.

Rows learn the clips of a world as they are. Its test clips are rendered again, damaged, and written, decoded and
encoded as any film. What a damage draws, it draws from the seed of the clips.

Dimension letters: ``F`` frames, ``H`` = ``W`` pixels of a side, ``N`` samples, ``C`` classes.
"""

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import average_precision_score

from avcil.base import processes
from avcil.base.code import code_of
from avcil.base.files import digest, write_sealed
from avcil.base.progress import progress
from avcil.beyond import study
from avcil.beyond.settings import CASES, DUET, WHOLE, Damage, Robust
from avcil.comparison import sweep, worlds
from avcil.comparison.sweep import Job
from avcil.extraction.clips import STORED, write_clip
from avcil.extraction.extract import extract
from avcil.learn.checkpoint import load_checkpoint
from avcil.learn.evaluate import read_out, tokens_of
from avcil.params import Params
from avcil.tokens.dataset import Dataset
from avcil.tokens.manifest import Media
from avcil.tokens.store import read_store
from avcil.world.scenes import duet_scene
from avcil.world.sounding_objects import benchmark_clip, clip_id

MEASURING = (*worlds.MAKING, "beyond/robust.py")
COLUMNS = ["row", "world", "damage", "strength", "last_accuracy", "mean_average_precision"]
_DRAWN = 11  # the stream of random numbers of damages


class Shot(NamedTuple):
    """A test clip before it is written: frames [F,H,W,3] uint8, waveform [N] float32; other [N]: a sound of another
    timbre; quality: options of x264."""

    frames: np.ndarray
    waveform: np.ndarray
    other: np.ndarray
    sample_rate: int
    quality: dict[str, str] = STORED


# ---- what befalls a clip, at a strength; ``rng`` draws what is drawn


def pixel_noise(shot: Shot, deviation: float, rng: np.random.Generator) -> Shot:
    """Normal noise of that standard deviation, of full scale, on every channel of every pixel."""
    noisy = shot.frames + rng.normal(0, 255 * deviation, shot.frames.shape)
    return shot._replace(frames=noisy.round().clip(0, 255).astype(np.uint8))


def sound_noise(shot: Shot, decibels: float, rng: np.random.Generator) -> Shot:
    """White noise, the sound being so many decibels above it."""
    return shot._replace(waveform=beside(shot.waveform, rng.normal(0, 1, len(shot.waveform)), decibels))


def other_sound(shot: Shot, decibels: float, rng: np.random.Generator) -> Shot:
    """The sound of an object that is not in the picture, the clip's own being so many decibels above it."""
    return shot._replace(waveform=beside(shot.waveform, shot.other, decibels))


def beside(sound: np.ndarray, other: np.ndarray, decibels: float) -> np.ndarray:
    """x + y rms(x) / rms(y) 10^(-decibels / 20), clipped to [-1, 1]: [N] float32."""
    scale = np.sqrt(np.mean(sound**2) / np.mean(other**2)) * 10 ** (-decibels / 20)
    return (sound + scale * other).clip(-1, 1).astype(np.float32)


def gain(shot: Shot, decibels: float, rng: np.random.Generator) -> Shot:
    """Louder, or fainter, by so much; what exceeds full scale is clipped."""
    return shot._replace(waveform=(shot.waveform * 10 ** (decibels / 20)).clip(-1, 1).astype(np.float32))


def compression(shot: Shot, rate_factor: float, rng: np.random.Generator) -> Shot:
    """Written with that rate factor of x264."""
    return shot._replace(quality=shot.quality | {"crf": f"{rate_factor:g}"})


def dropped_frames(shot: Shot, share: float, rng: np.random.Generator) -> Shot:
    """Each frame but the first is lost with that probability; the one before stays on screen."""
    there = rng.random(len(shot.frames)) >= share
    there[0] = True
    return shot._replace(frames=shot.frames[np.maximum.accumulate(np.where(there, np.arange(len(there)), 0))])


def delay(shot: Shot, seconds: float, rng: np.random.Generator) -> Shot:
    """The sound comes so much after the picture."""
    late = np.zeros_like(shot.waveform)
    first = round(seconds * shot.sample_rate)
    # of a delay longer than the clip nothing is left
    late[first:] = shot.waveform[: max(0, len(late) - first)]
    return shot._replace(waveform=late)


DAMAGES: dict[Damage, Callable[[Shot, float, np.random.Generator], Shot]] = {
    "pixel_noise": pixel_noise,
    "sound_noise": sound_noise,
    "other_sound": other_sound,
    "gain": gain,
    "compression": compression,
    "dropped_frames": dropped_frames,
    "delay": delay,
}


# ---- films


def _write_films(folder: Path, params: Params, settings: Robust, row: tuple[str, int, int]) -> list[tuple]:
    """All films of one test clip; of each its name, damage, strength, and which classes sound."""
    _, label, index = row
    world, film, seed = params.world, params.film, params.corpus.seed

    def drawn(case: str) -> np.random.Generator:
        return np.random.default_rng((seed, _DRAWN, [*CASES].index(case), label, index))

    scene, waveform = benchmark_clip(world, film, seed, row)
    stranger = int(drawn("other_sound").choice([c for c in range(world.classes) if (c - label) % world.timbres]))
    _, other = benchmark_clip(world, film, seed, (row[0], stranger, index))
    shot = Shot(scene.frames, waveform, other, film.sample_rate)
    made: list[tuple[str, float, Shot, tuple[int, ...]]] = [(WHOLE, 0.0, shot, (label,))]
    for damage, strength in settings.cases:
        made.append((damage, strength, DAMAGES[damage](shot, strength, drawn(damage)), (label,)))
    duet, rng = duet_scene(world, film, seed, label, index), drawn(DUET)
    both = duet.waveforms.T @ rng.uniform(0.4, 0.9, 2) + rng.normal(0, 1, film.samples) * rng.uniform(*world.noise)
    heard = both.clip(-1, 1).astype(np.float32)
    made.append((DUET, 0.0, shot._replace(frames=duet.frames, waveform=heard), duet.classes[:2]))
    lines = []
    for damage, strength, one, labels in made:
        name = f"{damage}-{strength:g}-{clip_id(*row)}"
        write_clip(
            folder / f"{name}.mp4", one.frames, one.waveform, film.fps, film.sample_rate,
            quality=one.quality,
        )  # fmt: skip
        lines.append((name, damage, strength, labels))
    return lines


def films(folder: Path, params: Params, settings: Robust) -> pd.DataFrame:
    """Write every test clip of the world of ``params`` into ``folder``, whole, with each damage, and as a duet; columns
    clip_id, damage, strength, labels (numbers of the classes that sound)."""
    folder.mkdir(parents=True)
    rows = [
        ("test", label, index)
        for label in range(params.world.classes)
        for index in range(params.corpus.clips_per_class["test"])
    ]
    write = partial(_write_films, folder, params, settings)
    made = dict(progress(processes.each(write, rows, max(1, params.compute.workers)), total=len(rows), desc="films"))
    lines = [line for number in range(len(rows)) for line in made[number]]
    return pd.DataFrame(lines, columns=["clip_id", "damage", "strength", "labels"])


# ---- what rows say of them


def jobs(settings: Robust, params: Params, drawn: Path, folder: Path) -> list[Job]:
    """Every row in every world, named (row,), with checkpoints in ``folder``; worlds are drawn below ``drawn`` where
    they are not there yet."""
    sources = {world: worlds.source_of(worlds.drawn(world, drawn, params), world, folder) for world in settings.worlds}
    return [
        Job((row,), source, params.methods[row], params.training, params.tasks, world,
            file=folder / row / f"seed{world}.json", folder=folder / row, device=params.compute.device)
        for row in settings.rows
        for world, source in sources.items()
    ]  # fmt: skip


def measured(asked: list[Job], settings: Robust, params: Params, folder: Path) -> list[dict]:
    """What the jobs ``asked`` for a world answer about its films, lines of the table of `run`, unless that stands in
    ``folder`` already."""
    world, data = asked[0].seed, sweep.datasets(asked[0].source)[asked[0].seed]
    file, here = folder / f"world{world}.json", folder / "films"
    stamp: dict[str, object] = {
        "cases": [list(case) for case in settings.cases],
        "made": digest(code_of(MEASURING)),
    }
    stamp |= {job.name[0]: sweep.stamp_of(job, data) for job in asked}
    if kept := sweep.standing(file, stamp):
        return kept["lines"]
    shutil.rmtree(here, ignore_errors=True)
    table = films(here, worlds.seeded(world, params), settings)
    clips = {name: Media(here / f"{name}.mp4") for name in table.clip_id}
    extract(worlds.prior_of(world, params), clips, params, here / "store")
    shown = data._replace(clip_ids=list(clips), tokens=read_store(here / "store").tokens, share=None, incomplete=None)
    lines = [line for job in asked for line in _answers(job, shown, table)]
    write_sealed(file, {"origin": stamp, "lines": lines})
    shutil.rmtree(here)
    return lines


def _answers(job: Job, shown: Dataset, table: pd.DataFrame) -> Iterator[dict]:
    """A line a damage and strength, of what a row makes of the films of ``table`` after its last task."""
    assert job.folder is not None
    last = load_checkpoint(job.folder / f"task{job.tasks[-1].id}" / f"seed{job.seed}", order=shown.order)
    tokens = tokens_of(shown, job.method)
    position = {label: number for number, label in enumerate(shown.order)}
    for (damage, strength), group in table.reset_index().groupby(["damage", "strength"], sort=False):
        rows = torch.from_numpy(group["index"].to_numpy())
        answer = read_out(last, job.method, job.training, tokens, rows, maps=False, device=job.device)
        logits, right = answer.logits.numpy(), np.zeros(answer.logits.shape, int)
        for line, labels in enumerate(group.labels):
            right[line, [position[f"object_{label:03d}"] for label in labels]] = 1
        named = right[np.arange(len(rows)), logits.argmax(1)].mean()
        precision = average_precision_score(right, logits, average="macro")
        yield {
            "row": job.name[0], "world": job.seed, "damage": damage, "strength": strength,
            "last_accuracy": float(named), "mean_average_precision": float(precision),
        }  # fmt: skip


def run(settings: Robust, params: Params, drawn: Path, folder: Path) -> dict[str, pd.DataFrame]:
    """Learn and measure what is not there yet, and return its table, `beyond_robust`, a line a row, world, damage and
    strength: last_accuracy, where two objects sound the share of clips that are given one of their classes, and
    mean_average_precision, of the logits of all classes, mean over classes."""
    asked = jobs(settings, params, drawn, folder)
    study.run(sweep.run_job, asked, params)
    lines = []
    for world in settings.worlds:
        lines += measured([job for job in asked if job.seed == world], settings, params, folder)
    table = pd.DataFrame(lines)[COLUMNS]
    return {"beyond_robust": table.sort_values("row", key=lambda rows: rows.map(settings.rows.index), kind="stable")}
