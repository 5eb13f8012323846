"""Clips that lack a sense: a share of the training clips, of the test clips, or of both, without sound or without
picture.

Zeros stand for an absent stream, as in a feature store, and no similarity is left of a clip that lacks one. Which clips
lack it is drawn from the seed; those of a larger share have those of a smaller one among them. All rows learn from one
token a stream: its mean, or for `frozen_sources` the picture as each source shows it, of clips without sound none.

Dimension letters: ``N`` clips.
"""

from functools import lru_cache, partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from avcil.beyond import study
from avcil.beyond.settings import Beyond
from avcil.comparison import sweep
from avcil.comparison.sweep import Done, Job, Source
from avcil.comparison.tables import right
from avcil.learn.checkpoint import EMPTY
from avcil.learn.evaluate import TaskResult, build, predict
from avcil.learn.methods.modality_dropout import withhold
from avcil.learn.train import run_task
from avcil.params import Params
from avcil.params.learning import Method, Training, chain
from avcil.tokens.dataset import Dataset
from avcil.tokens.tokens import Tokens, TokenSource

# with what withholds a sense, which of the rows one alone names as its hook
MEASURING = ("beyond/missing.py", "learn/methods/modality_dropout.py")
Sense = Literal["sound", "picture"]
SENSES: tuple[Sense, ...] = ("sound", "picture")


class Pooled(NamedTuple):
    """One token a stream of N clips: of the clips as they are, and of the same clips where nothing is heard."""

    whole: Tokens
    unheard: Tokens


def pooled(tokens: TokenSource, method: Method, training: Training) -> Pooled:
    """What a row pools tokens to; without a sound nothing guides."""
    if method.fusion != "frozen_sources":
        whole = tokens.pooled().clips(slice(None))
        every = torch.ones(len(whole.audio), dtype=torch.bool)
        # a mean of zeros is zero, so that a stream may be withheld after pooling as well as before
        return Pooled(whole, withhold(whole, every, ~every))
    # the picture of a clip without sound is another one, so sound is withheld before patches are weighed
    model = build(method, training, tokens.channels)
    views = []
    for heard in (True, False):
        parts = []
        for index in torch.arange(tokens.shape[0]).split(100):
            clips, every = tokens.clips(index), torch.ones(len(index), dtype=torch.bool)
            clips = clips if heard else withhold(clips, every, ~every)
            features = predict(model, clips, torch.arange(len(index)), fields=()).features
            # one patch of one slot, which has the pictures of all sources beside one another
            visual = features.visual[:, None, None]
            # no similarity: it has done its guiding
            parts.append(Tokens(visual, features.audio[:, None], visual.new_zeros(visual.shape[:3])))
        views.append(Tokens(*map(torch.cat, zip(*parts, strict=True))))
    return Pooled(*views)


def ranks(data: Dataset, seed: int) -> Tensor:
    """[N] in [0, 1): of a share s those below s lack the sense, of every split as many."""
    rank = torch.zeros(len(data.clip_ids), dtype=torch.float64)
    for number, rows in enumerate(data.splits.values()):
        # each split by itself, so that shares are exact in each
        drawn = np.random.default_rng((seed, 1, number)).permutation(len(rows))
        # a split may have no clips
        rank[rows] = torch.from_numpy(drawn / max(1, len(rows)))
    return rank


def lacking(tokens: Pooled, absent: Tensor, sense: Sense) -> Tokens:
    """The clips, of which those ``absent`` [N] lack a sense."""
    nobody = torch.zeros_like(absent)
    # without its picture a clip is heard as ever, but without its sound its picture is seen unguided
    if sense == "picture":
        return withhold(tokens.whole, nobody, absent)
    pairs = zip(tokens.unheard, tokens.whole, strict=True)
    return Tokens(*(torch.where(absent.view(-1, *[1] * (one.dim() - 1)), one, two) for one, two in pairs))


def filled(tokens: Tokens, rows: Tensor) -> Tokens:
    """With the mean token of those clips at ``rows`` that have a stream in place of its absence."""
    streams = []
    for stream in (tokens.visual, tokens.audio):
        # zeros throughout are what stands for absence
        there = stream.flatten(1).ne(0).any(1)
        # of training clips alone: a row that learns knows no mean of test clips
        known = stream[rows][there[rows]]
        # where every training clip lacks it there is no mean
        mean = known.mean(0) if len(known) else torch.zeros_like(stream[0])
        streams.append(torch.where(there.view(-1, *[1] * (stream.dim() - 1)), stream, mean))
    return Tokens(streams[0], streams[1], tokens.similarity)


def posed(
    data: Dataset, tokens: Pooled, sense: Sense, train: float, tests: list[float], seed: int, *,
    fill: str = "zeros", quarantine: bool = False,
) -> Dataset:  # fmt: skip
    """The training clips, of which a share lacks the sense, and the test clips once for each share of ``tests``, in one
    split, named `0.5/CLIP`."""
    rank, learnt, tested = ranks(data, seed), data.splits["train"], data.splits["test"]
    # one run answers all shares: the same test clips stand there once for each
    rows = torch.cat([learnt, *[tested] * len(tests)])
    absent = torch.cat([rank[learnt] < train, *(rank[tested] < share for share in tests)])
    at = Pooled(*(view.clips(rows) for view in tokens))
    clips = lacking(at, absent, sense)
    first = torch.arange(len(learnt))
    if fill == "means":
        clips = filled(clips, first)
    # predictions are by name, and a test clip is asked once for each share
    ids = [data.clip_ids[row] for row in learnt.tolist()]
    ids += [f"{share}/{data.clip_ids[row]}" for share in tests for row in tested.tolist()]
    splits = {
        "train": first[~absent[first]] if quarantine else first,
        "val": first[:0],
        "test": torch.arange(len(learnt), len(rows)),
    }
    # no share of patches: of one token a stream there are none
    return Dataset(ids, clips, data.labels[rows], splits, data.order, data.encoder, share=None)


def jobs(beyond: Beyond, params: Params, source: Source, folder: Path) -> list[Job]:
    """Every row with every seed, named (row,). What is solved does not depend on how clips are cut into tasks: it has
    all classes in one."""
    listed = []
    for name in beyond.missing.rows:
        method, tasks = beyond.method(params, name), params.tasks
        if method.fusion == "frozen_sources":
            tasks = chain([sum(task.classes for task in tasks)], 1)
        for seed in params.seeds:
            file = folder / f"{name}-{seed}.json"
            listed.append(
                Job((name,), source, method, params.training, tasks, seed, file=file, device=params.compute.device)
            )
    return listed


@lru_cache(maxsize=2)
def _pooled(source: Source, dumped: str, training: Training) -> Pooled:
    """Of a source, once for all rows and seeds that look at it alike."""
    # seeds differ in the order of classes, and their tokens are the same
    data = next(iter(sweep.datasets(source).values()))
    # the row comes as text, for its dictionaries would be no key of a cache
    return pooled(data.tokens, Method.model_validate_json(dumped), training)


def learn(job: Job, beyond: Beyond) -> Done:
    """Do one job, unless its file stands there already, made from the same code, clips and choices."""
    settings = beyond.missing
    row, data = settings.rows[job.name[0]], sweep.datasets(job.source)[job.seed]

    def measure() -> dict:
        method = job.method
        # what does not change how a row looks is left out of the key, so that rows share their tokens
        seen = method if method.fusion == "frozen_sources" else method.model_copy(update={"hooks": {}})
        tokens = _pooled(job.source, seen.model_copy(update={"readout_options": {}}).model_dump_json(), job.training)
        if method.fusion == "frozen_sources":
            method = method.model_copy(update={"fusion": "frozen"})  # of one token the mean
        found = {}
        for sense in SENSES:
            for share in settings.shares:
                if row.quarantine and share == 1:
                    continue  # there is nothing to learn from
                given = posed(
                    data, tokens, sense, share, settings.shares, job.seed, fill=row.fill, quarantine=row.quarantine
                )
                result = _last(given, method, job)
                truth = dict(zip(given.clip_ids, given.labels.tolist(), strict=True))
                for test in settings.shares:
                    mine = {name: at for name, at in result.predictions.items() if name.startswith(f"{test}/")}
                    found[f"{sense}/{share}/{test}"] = right(mine, truth)
        return found

    # what a row is called changes no result
    how = {"missing": row.model_dump(exclude={"name"}), "shares": settings.shares}
    return study.once(job, data, measure, *MEASURING, **how)


def _last(data: Dataset, method: Method, job: Job) -> TaskResult:
    checkpoint, result = EMPTY, None
    for task in job.tasks:
        checkpoint, result, _ = run_task(
            data, method, job.training, job.tasks, task.id, job.seed, checkpoint, device=job.device
        )
    assert result is not None
    return result


def run(beyond: Beyond, params: Params, source: Source, folder: Path) -> dict[str, pd.DataFrame]:
    """Learn what is not learnt yet and return its tables: `beyond_missing` with last_accuracy by row, seed, sense,
    train and test (the shares that lack it), and `beyond_correct`, at the shares that are compared, with a digit a test
    clip in the order of their names, 1 if it is right."""
    asked = jobs(beyond, params, source, folder)
    study.run(partial(learn, beyond=beyond), asked, params)
    lines = []
    for job in asked:
        for key, digits in study.measured(job).items():
            sense, train, test = key.split("/")
            lines.append((job.name[0], job.seed, sense, float(train), float(test), digits))
    table = pd.DataFrame(lines, columns=["row", "seed", "sense", "train", "test", "correct"])
    accuracy = table.correct.map(lambda digits: digits.count("1") / len(digits))
    compared = table[["train", "test"]].isin([0.0, beyond.missing.compared]).all(axis=1)
    return {
        "beyond_missing": table.drop(columns="correct").assign(last_accuracy=accuracy),
        "beyond_correct": table[compared],
    }
