"""From the runs of the field to its tables: measures by seed, a summary, paired comparisons, accuracy by memory."""

import json
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from avcil.comparison import tables
from avcil.comparison.sweep import load_run
from avcil.learn.evaluate import TaskResult
from avcil.params.comparison import Protocol
from avcil.tokens.manifest import class_index, read_manifest


class Run(NamedTuple):
    """Results by task of one row with one seed; seconds on one thread; exemplars a class (or in all) it was allowed;
    memory_alone: see `Setting`."""

    setting: str
    row: str
    seed: int
    results: list[TaskResult]
    seconds: float
    exemplars: int
    memory_alone: bool


class Found(NamedTuple):
    """All runs of a benchmark; the class index of each clip by setting and seed; and, of benchmarks annotated so, the
    class indices of a test clip's several labels."""

    runs: list[Run]
    labels: dict[tuple[str, int], dict[str, int]]
    several: dict[tuple[str, int], dict[str, set[int]]]

    def _frames(self, setting: str) -> tables.Tables:
        return tables.frames({(r.row, r.seed): r.results for r in self.runs if r.setting == setting}, setting)

    def measures(self) -> pd.DataFrame:
        """A line a run: the measures of avcil/learn/metrics.py, seconds, bytes kept between tasks at the end."""
        settings = dict.fromkeys(run.setting for run in self.runs)
        frame = pd.concat([tables.per_seed(self._frames(setting)) for setting in settings])
        frame = frame.rename(columns={"benchmark": "setting", "variant": "row"})[
            ["setting", "row", "seed", *tables.MAIN]
        ]
        cost = pd.DataFrame(
            {
                "setting": run.setting, "row": run.row, "seed": run.seed, "seconds": run.seconds,
                "memory_bytes": run.results[-1].memory_bytes,
            }
            for run in self.runs
        )  # fmt: skip
        if self.several:
            cost["multilabel_accuracy"] = [self._multilabel_accuracy(run) for run in self.runs]
        return frame.merge(cost, on=["setting", "row", "seed"], how="left")

    def _multilabel_accuracy(self, run: Run) -> float:
        """Share of all test clips that are given one of their labels after the last task."""
        known, one = self.several[run.setting, run.seed], self.labels[run.setting, run.seed]
        said = run.results[-1].predictions
        return sum(index in known.get(clip, {one[clip]}) for clip, index in said.items()) / len(said)

    def curves(self, setting: str) -> pd.DataFrame:
        """Accuracy after each task: columns variant, seed, task, accuracy."""
        return self._frames(setting).runs[["variant", "seed", "task", "accuracy"]]

    def correctness(self) -> pd.DataFrame:
        """`tables.correctness` of every setting: columns setting, row, seed, correct."""
        frames = []
        for setting in dict.fromkeys(run.setting for run in self.runs):
            last = {(run.row, run.seed): run.results[-1] for run in self.runs if run.setting == setting}
            labels = {seed: known for (name, seed), known in self.labels.items() if name == setting}
            frame = tables.correctness(last, labels).rename(columns={"variant": "row"})
            frame.insert(0, "setting", setting)
            frames.append(frame)
        return pd.concat(frames)

    def budgets(self) -> pd.DataFrame:
        """Last accuracy by exemplars, of rows that were run with several numbers of them."""
        frame = pd.DataFrame(
            {
                "row": run.row, "exemplars": run.exemplars, "seed": run.seed,
                "last_accuracy": tables.last_accuracy(run.results),
            }
            for run in self.runs
            if run.memory_alone
        )  # fmt: skip
        several = frame.groupby("row").exemplars.nunique()
        return frame[frame.row.map(several) > 2].sort_values(["row", "exemplars"], kind="stable")


def read(folder: Path, protocol: Protocol, benchmark: Path) -> Found:
    """What notebook 9 left in ``folder``, of exactly the settings, rows and seeds of the protocol.

    benchmark: its folder; `multilabel.json` in it (avcil/workshop/builders/vggsound.py) adds a measure.
    """
    runs, labels, several = [], {}, {}
    file = benchmark / "multilabel.json"
    annotated = json.loads(file.read_text()) if file.exists() else {}
    for name, setting in protocol.settings.items():
        table = read_manifest(folder / name / "manifest.csv")
        orders = json.loads((folder / name / "orders.json").read_text())
        seeds = setting.seeds or protocol.seeds
        for seed in seeds:
            order = orders[str(seed)]
            labels[name, seed] = dict(zip(table.clip_id, class_index(table, order).tolist(), strict=True))
            if annotated:
                several[name, seed] = {clip: {order.index(n) for n in names} for clip, names in annotated.items()}
        for row in setting.rows or protocol.rows:
            for seed in seeds:
                done, made_from = load_run(folder / name / row / f"seed{seed}.json")
                runs.append(Run(name, row, seed, *done, made_from["method"]["exemplars"], setting.memory_alone))
    return Found(runs, labels, several)


def of_setting(correct: pd.DataFrame, setting: str) -> pd.DataFrame:
    """The lines of one setting of `Found.correctness`, with the columns that `tables.lead` and `compare` read."""
    return correct[correct.setting == setting].rename(columns={"row": "variant"})


def compare(correct: pd.DataFrame, setting: str, reference: str) -> pd.DataFrame:
    """`tables.compare` of ``reference`` with every other row of a setting, of what `Found.correctness` gives."""
    mine = of_setting(correct, setting)
    others = [row for row in dict.fromkeys(mine.variant) if row != reference]
    return tables.compare(mine, reference, others).rename(columns={"variant": "row"})


def summarise(measures: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard deviation (n − 1) over seeds, a line a setting and row; seconds and bytes are means."""
    groups = measures.groupby(["setting", "row"], sort=False)
    summary = tables.mean_and_spread(groups, tables.MAIN)
    if "multilabel_accuracy" in measures:
        summary["multilabel_accuracy"] = groups.multilabel_accuracy.mean()
    summary["seeds"] = groups.seed.nunique()
    summary["seconds"] = groups.seconds.mean()
    summary["memory_bytes"] = groups.memory_bytes.mean().round().astype(int)
    return summary.reset_index()
