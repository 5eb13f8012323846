"""`python -m avcil.workshop.open_set`, after `make repro`: how well each solved row knows what it does not know.

Learns the rows again, task by task, and scores the test clips of classes that are yet to come against those of classes
learnt, by `avcil.learner.unknown`. Writes benchmarks/results/open_set.csv, a line a row, seed and task; the table in
docs/results.md is made of it by `python -m avcil.workshop.readme`.
"""

import argparse
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from avcil.base.progress import progress
from avcil.learn import evaluate
from avcil.learn.checkpoint import EMPTY, Checkpoint
from avcil.learn.train import run_task
from avcil.learner.unknown import penalty_of, unknown
from avcil.params import load
from avcil.params.learning import Method, Task, Training
from avcil.tokens.dataset import Dataset, load_datasets

ROWS = ["ridge_guided", "scaled_ridge_guided", "ridge", "slda", "fecam", "ncm", "scaled_ridge"]  # a minute
ACCEPT = 0.95  # share of validation clips of known classes that pass, which sets the threshold


def scores(data: Dataset, method: Method, training: Training, learnt: Checkpoint, rows: Tensor) -> tuple[Tensor, str]:
    """Scores of being unknown [N] of the clips at ``rows``, and of which kind they are. ``data``: of the tokens that
    the method looks at."""
    output = evaluate.predict(evaluate.restore(learnt, method, training, data.tokens.channels), data.tokens, rows)
    head = evaluate.solved_head(method, training, learnt.readout)
    kind = "minus the largest logit" if penalty_of(head) is None else "leverage"
    if head is None:
        return unknown(None, output.features, output.logits), kind
    features = evaluate.solved_features(method, data.tokens, rows, output.features)
    return unknown(head, features, head.logits(features)), kind


def measure(data: Dataset, method: Method, training: Training, tasks: list[Task], seed: int) -> list[dict]:
    """After each task but the last: AUROC of the test clips of classes to come against those of classes learnt; and at
    the threshold that ``ACCEPT`` of the validation clips pass, the share of either that is refused."""
    from sklearn.metrics import roc_auc_score

    data = data._replace(tokens=evaluate.tokens_of(data, method))  # once, not once a task
    learnt, found, classes = EMPTY, [], sum(task.classes for task in tasks)
    for number, task in enumerate(tasks[:-1]):
        learnt, _, _ = run_task(data, method, training, tasks, number, seed, learnt)
        seen = len(learnt.classes)
        known, coming, held_out = (
            scores(data, method, training, learnt, data.rows(*part))
            for part in (("test", 0, seen), ("test", seen, classes), ("val", 0, seen))
        )
        threshold = held_out[0].double().quantile(ACCEPT)
        truth = [False] * len(known[0]) + [True] * len(coming[0])
        found.append(
            {
                "seed": seed,
                "task": task.id,
                "score": known[1],
                "auroc": roc_auc_score(truth, torch.cat([known[0], coming[0]])),
                "known_refused": float((known[0] > threshold).double().mean()),
                "unknown_refused": float((coming[0] > threshold).double().mean()),
                "known": len(known[0]),
                "unknown": len(coming[0]),
            }
        )
    return found


def main(arguments: list[str] | None = None) -> None:
    """Raises ParameterError for an unknown row, and ManifestError or StoreError where `make repro` was not run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", nargs="+", default=ROWS, help="rows of params.yaml")
    parser.add_argument("--to", type=Path, default=Path("benchmarks/results/open_set.csv"))
    given = parser.parse_args(arguments)
    params = load(Path("params.yaml"))
    methods = {row: params.method(row) for row in given.rows}
    splits, found = Path("artifacts/splits"), []
    data = {
        name: load_datasets(
            splits / "manifest.csv", splits / "orders.json", Path("artifacts/features") / name, params.seeds
        )
        for name in {method.tokens for method in methods.values()}
    }
    torch.set_num_threads(1)
    for row, method in progress(methods.items(), desc="rows"):
        for seed in params.seeds:
            lines = measure(data[method.tokens][seed], method, params.training, params.tasks, seed)
            found += [{"row": row, **line} for line in lines]
        # what is learnt is kept should a later row fail
        given.to.parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame(found).round(4).to_csv(given.to, index=False)


if __name__ == "__main__":
    main()
