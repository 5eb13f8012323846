"""What every study does alike: runs that are done once, their table, and the worlds that they are done in."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from avcil.base.code import code_of
from avcil.base.files import digest, read_sealed, write_sealed
from avcil.comparison import sweep, worlds
from avcil.comparison.sweep import Done, Job, Source
from avcil.comparison.tables import accuracy_after
from avcil.comparison.worlds import Place
from avcil.learn.evaluate import TaskResult
from avcil.params import Params
from avcil.tokens.dataset import Dataset


def source_of(place: Place, world: int, folder: Path) -> Source:
    """The tokens of a world, with the regions of what sounds, which say whether attention hits."""
    return worlds.source_of(place, world, folder)._replace(regions=place.folder / "regions.npz")


def run(work: Callable[[Job], Done], asked: list[Job], params: Params) -> None:
    """Do every job that is not done yet."""
    sweep.run(asked, work=work, engine=params.compute.engine)


def once(job: Job, data: Dataset, measure: Callable[[], dict], *parts: str, **made_from: object) -> Done:
    """Keep what ``measure`` gives in the job's file, unless that stands there already, made from the same code, clips
    and choices: beside those of every run the code of ``parts`` of avcil/, and what else it is ``made_from``."""
    stamp = sweep.stamp_of(job, data) | made_from | {"measured by": digest(code_of(parts))}
    if not sweep.standing(job.file, stamp):
        # a study has one line a job and no use for its results by task
        write_sealed(_file(job), {"origin": stamp, "measured": measure()})
    return Done([], None)


def measured(job: Job) -> dict:
    """What `once` kept. Raises ValueError naming the file if it is damaged."""
    return read_sealed(_file(job))["measured"]


def table(asked: list[Job], columns: tuple[str, ...]) -> pd.DataFrame:
    """A line a job: the ``columns`` that it is named by, its world, its split, and what was measured."""
    return pd.DataFrame(
        [
            dict(zip(columns, job.name, strict=True)) | {"world": job.seed, "split": job.split} | measured(job)
            for job in asked
        ]
    )


def last(result: TaskResult) -> dict[str, float | None]:
    """last_accuracy, and hit: the share of clips whose attention peaks on what sounds, None where nothing attends."""
    hit = None if result.hit is None else float(np.average(result.hit, weights=result.clips))
    return {"last_accuracy": accuracy_after(result), "hit": hit}


def _file(job: Job) -> Path:
    assert job.file is not None
    return job.file
