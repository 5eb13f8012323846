"""From a list of labels to the table, for somebody's own clips: `python -m avcil run labels.csv`.

All that it makes is in one folder, in parts that are named by what they are made from: what changed is made anew beside
what was there, and what did not is used again.

    classes.json                            the classes of each task; one that comes later is a task at the end, one
                                            that is gone keeps its place
    manifest.csv, orders.json               the clips and the class order of the last run
    tokens/ENCODER-HOW/CLIPS/               a feature store, a shard a clip; of one of other clips it links the shards
    learnt/ROW/WHAT/task{t}/seed{s}/        checkpoints and results; the tasks that two runs share are learnt once
    table.csv, table.md                     the last run's accuracy
"""

import argparse
import shutil
from contextlib import suppress
from itertools import chain, takewhile
from pathlib import Path

import pandas as pd
from pydantic import TypeAdapter, ValidationError

from avcil.base.alone import alone
from avcil.base.files import read_sealed, write_bytes, write_sealed
from avcil.base.refusal import Refusal
from avcil.comparison import sweep, tables
from avcil.encoders.load import check_weights
from avcil.learn.hooks import check
from avcil.learn.methods import knows_absence
from avcil.learn.optimise import Diverged
from avcil.learn.train import run_tasks
from avcil.learner.clips import ClipEncoder, at_hand
from avcil.params import ParameterError
from avcil.params.learning import chain as increments
from avcil.params.section import Seeds, offence
from avcil.tokens.manifest import write_manifest, write_orders
from avcil.tokens.store import Header, load_header
from avcil.workshop.builders import folder
from avcil.workshop.own.clips import (
    begun,
    check_whole,
    classes_by_task,
    digest_of,
    drop_unusable,
    extract_tokens,
    in_words,
    link,
    read_clips,
)
from avcil.workshop.own.protocol import SHOWN

ROWS = ["joint_guided", "lll_closed", "lll_analytic", "lll_prior", "replay", "ridge"]
FEW = 30  # test clips
WRITTEN = ("manifest.csv", "orders.json", "table.csv", "table.md")  # anew by each run
PARTS = ("classes.json", "tokens", "learnt")  # one of which there is wherever a run has been


# ---- learning


def learn(job: sweep.Job) -> sweep.Done:
    """All tasks of a run; those that stand in its folder are not learnt again. The folder's name says of which clips
    they are, so the store's own digest, which any new clip changes, is left out of what a checkpoint is made from."""
    data = sweep.datasets(job.source)[job.seed]
    # `encoder:weights:store`, of which the last is left out
    data = data._replace(encoder=data.encoder.rpartition(":")[0])
    try:
        results = run_tasks(data, job.method, job.training, job.tasks, job.seed, job.folder, device=job.device)
    except Diverged as error:
        raise Diverged(f"{job.name[0]}: {error}") from None
    # the table tells no seconds
    return sweep.Done(results, None)


def _made_from(table: pd.DataFrame, tasks: list[list[str]], header: Header, shared: list) -> list[str]:
    """Of each task, the digest of all that determines it but the seed: no clip of a later task is among that."""
    # all that the header says, but for the clips: those are named below, as far as a task has seen them
    encoder, digests = header._replace(clip_ids=[]).as_json(), []
    for seen in (tasks[: task + 1] for task in range(len(tasks))):
        clips = table[table.label.isin([*chain.from_iterable(seen)])]
        digests.append(digest_of([encoder, shared, seen, clips[["clip_id", "label", "split"]].values.tolist()]))
    return digests


def _begin_run(row: Path, digests: list[str]) -> Path:
    """The folder of a run, with the first tasks of the run beside it that shares most of them."""
    # the last digest is that of all tasks, and so of the whole run
    run = row / digests[-1]
    if run.exists():
        return run
    shared: dict[Path, int] = {}
    for file in row.glob("*/made_from.json"):
        with suppress(ValueError, KeyError):  # damaged, or of another version: nothing is known of it
            pairs = zip(digests, read_sealed(file)["tasks"], strict=False)
            # a task is the same only if all tasks before it are
            shared[file.parent] = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    with begun(run) as unfinished:
        if shared:
            best = max(shared, key=lambda other: shared[other])
            for there in (best / f"task{task}" for task in range(shared[best])):
                # the run beside it may have been killed before its last task
                if there.exists():
                    # links are safe, since files are never changed in place (avcil/base/files.py)
                    shutil.copytree(there, unfinished / there.name, copy_function=link)
        write_sealed(unfinished / "made_from.json", {"tasks": digests})
    return run


# ---- the table


def table_of(results: dict, test: pd.Series) -> tuple[pd.DataFrame, str]:
    """A line a row, best last accuracy first, as numbers and as Markdown. Of a single task no forgetting is told.

    low and high: 95 % Wilson interval of the last accuracy, for as many test clips as there are. Source: Wilson, JASA
    1927, by scipy.

    Args:
        results: by (setting, row, seed).
        test: the labels of the test clips.
    """
    from scipy.stats import binomtest  # takes a second to import

    count, fewest = len(test), test.value_counts()
    table = tables.summarise(tables.per_seed(tables.frames(results))).rename(columns={"method": "row"})
    table = table[["row", *(f"{name}{end}" for name in tables.MAIN for end in ("", "_std")), "seeds"]]
    # rows that are equal stay in the order in which they were asked for
    table = table.sort_values("last_accuracy", ascending=False, kind="stable")
    # whole clips, on the mean over seeds: all seeds are tested on the same ones
    right = (table.last_accuracy * count).round().astype(int)
    spans = [binomtest(k, count).proportion_ci(method="wilson") for k in right]
    table = table.assign(test_clips=count, low=[span.low for span in spans], high=[span.high for span in spans])
    single = max(map(len, results.values())) == 1
    if single:
        # nan rather than 0, which would look like a merit
        table.loc[:, table.columns.str.startswith("forgetting")] = float("nan")
    cells = []
    for _, row in table.iterrows():
        average, last, forgetting = tables.cells(row, SHOWN)
        cells.append([row.row, average, last, f"{100 * row.low:.0f} to {100 * row.high:.0f}", forgetting or "–"])
    lines = [tables.markdown("| row | average | last | 95 % | forgetting |", "lrrrr", cells)]
    seeds = int(table.seeds.min())
    spread = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "one seed"
    lines += [
        "",
        f"Accuracy in percent on {count} test clips, {fewest.min()} of them `{fewest.idxmin()}`, which has fewest; "
        f"{spread}. One clip is {100 / count:.1f} points; 95 %: where the last accuracy lies, from so many clips.",
    ]
    if single:
        lines.append("All classes are one task, so that nothing can be forgotten; --tasks 2 divides them.")
    if count < FEW:
        best = 100 * table.last_accuracy.iloc[0]
        lines.append(f"n = {count}: this {best:.0f} % means little. Label more clips before you believe a difference.")
    return table, "\n".join(lines)


# ---- the command


def _check_nothing_is_lost(labels: Path, to: Path) -> None:
    """Raises ValueError if a run would write over the list itself, or over what no run has written."""
    begun_before = any((to / part).exists() for part in PARTS)
    for file in [to / name for name in WRITTEN if (to / name).exists()]:
        if file.samefile(labels) or not begun_before:
            raise Refusal(f"{file}: would be written over; give --to another folder, or the file another name")


def run(
    labels: Path, to: Path, *, encoder: str = "mini", rows: list[str] = ROWS, tasks: int | None = None,
    seeds: list[int] | None = None,
) -> str:  # fmt: skip
    """Learn the classes of ``labels`` into the folder ``to``; returns the table. All other settings are those of
    params.yaml, which is read where one starts from, or else where avcil is. Raises ValueError, or an error of it."""
    params, priors = at_hand(Path())
    seeds = seeds or params.seeds
    try:
        # checked as those of params.yaml, and named as the option is
        TypeAdapter(dict[str, Seeds]).validate_python({"--seeds": seeds})
    except ValidationError as error:
        raise ParameterError(offence(error)) from None
    # all rows learn from one encoder's tokens, whatever params.yaml has them read
    methods = {row: params.method(row).model_copy(update={"tokens": encoder}) for row in rows}
    # hooks and weights are checked first, before any clip is decoded
    for row, method in methods.items():
        check(row, method)
    if any(map(knows_absence, methods.values())):
        params = params.model_copy(update={"features": params.features.model_copy(update={"incomplete": "keep"})})
    reader = ClipEncoder.of_params(encoder, params, priors)
    for published in (reader.published, reader.guide):
        if published:
            check_weights(published)

    if labels.exists():  # else what reads it says so
        _check_nothing_is_lost(labels, to)
    with alone([to]):
        table, drawn = read_clips(labels)
        division = classes_by_task(to / "classes.json", drawn, tasks, len(params.tasks))
        by_task = division.of(drawn)
        print(f"{len(table)} clips; tasks: {in_words(by_task)}", flush=True)
        store, unusable = extract_tokens(table, labels.parent, encoder, params, to / "tokens", priors)
        usable = drop_unusable(table, unusable, labels)
        if params.features.incomplete == "keep":
            check_whole(usable, store, methods)

        # not before it is known that these classes can be learnt: another order would stay
        write_sealed(to / "classes.json", division._asdict())
        write_manifest(to / "manifest.csv", table)
        write_orders(to / "orders.json", {seed: [*chain.from_iterable(by_task)] for seed in seeds})
        source = sweep.Source(to / "manifest.csv", to / "orders.json", store)
        # the tasks of params.yaml are of other classes; only their epochs are taken, those of the first
        chained = increments([len(task) for task in by_task], params.tasks[0].epochs)
        jobs = []
        for row, method in methods.items():
            # all that decides what a row learns, beside clips and tokens
            shared = [method.model_dump(), params.training.model_dump(), params.tasks[0].epochs, sweep.code(method)]
            place = _begin_run(to / "learnt" / row, _made_from(usable, by_task, load_header(store), shared))
            print(f"{row}: {place}", flush=True)
            on = params.compute.device
            job = sweep.Job((row,), source, method, params.training, chained, 0, folder=place, device=on)
            # seeds share a run's folder, whose name leaves them out
            jobs += [job._replace(seed=seed) for seed in seeds]
        done = sweep.run(jobs, engine=params.compute.engine, work=learn)
        results = {("own", name[0], seed): runs.results for (name, seed), runs in done.items()}
        numbers, text = table_of(results, usable.label[usable.split == "test"])
        write_bytes(to / "table.csv", numbers.round(4).to_csv(index=False, lineterminator="\n").encode())
        write_bytes(to / "table.md", f"{text}\n".encode())
    return text


def _command(given: argparse.Namespace) -> None:
    # a list that is called labels.csv says nothing, so its folder names the results
    name = given.labels.stem if given.labels.stem != "labels" else given.labels.resolve().parent.name
    to = given.to or Path("own") / name
    print(run(given.labels, to, encoder=given.encoder, rows=given.rows, tasks=given.tasks, seeds=given.seeds))


def add(subparsers) -> None:
    """Register `run`."""
    shape = argparse.RawDescriptionHelpFormatter
    parser = subparsers.add_parser("run", help="own clips: from labels.csv to the table", formatter_class=shape)
    parser.description = f"{folder.read.__doc__}\n{__doc__}"
    parser.add_argument("labels", type=Path, help="a .csv file beside the clips: path,label[,split,video,start]")
    parser.add_argument("--encoder", default="mini", help="mini, or a name under `encoders` in params.yaml")
    parser.add_argument("--to", type=Path, help="folder of all results (default: own/<name of the list or its folder>)")
    parser.add_argument("--rows", nargs="+", default=ROWS, help=f"of params.yaml (default: {' '.join(ROWS)})")
    parser.add_argument("--tasks", type=int, help="that the classes of the first run are cut into")
    parser.add_argument("--seeds", type=int, nargs="+", help="of weights and batches (default: those of params.yaml)")
    parser.set_defaults(call=_command)
