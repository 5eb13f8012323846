"""`python -m avcil.workshop.open_set`, after `make repro`: how well each solved row knows what it does not know.

Learns the rows again, task by task, and scores the test clips of classes that are yet to come against those of classes
learnt, by `avcil.learner.predictions.unknown`. Writes benchmarks/results/open_set.csv, a line a row, seed and task; the
table in docs/results.md is made of it by `python -m avcil.workshop.readme`.
"""

from pathlib import Path

import pandas as pd
import torch

from avcil.base.progress import progress
from avcil.comparison import sweep
from avcil.learn import evaluate
from avcil.learn.checkpoint import EMPTY
from avcil.learn.train import run_task
from avcil.learner.predictions import by_leverage, unknown
from avcil.params import load
from avcil.params.learning import Method, Task, Training
from avcil.tokens.dataset import Dataset

# two minutes
ROWS = ["lll_closed", "ridge_guided", "scaled_ridge_guided", "ridge", "slda", "fecam", "ncm", "scaled_ridge"]
ACCEPT = 0.95  # share of validation clips of known classes that pass, which sets the threshold


def measure(
    data: Dataset, method: Method, training: Training, tasks: list[Task], seed: int, device: str = "cpu"
) -> list[dict]:
    """After each task but the last: AUROC of the test clips of classes to come against those of classes learnt; and at
    the threshold that ``ACCEPT`` of the validation clips pass, the share of either that is refused."""
    from sklearn.metrics import roc_auc_score

    data = data._replace(tokens=evaluate.tokens_of(data, method))  # once, not once a task
    # a head that knows nothing yet, asked of which kind it is
    leverage = by_leverage(evaluate.solved_head(method, training, {}))
    checkpoint, lines, classes = EMPTY, [], sum(task.classes for task in tasks)
    # after the last task no class is left to come
    for task in tasks[:-1]:
        checkpoint, _, _ = run_task(data, method, training, tasks, task.id, seed, checkpoint, device=device)
        seen = len(checkpoint.classes)
        known, coming, held_out = (
            unknown(evaluate.read_out(checkpoint, method, training, data.tokens, rows, device=device)).double()
            for rows in (data.rows("test", 0, seen), data.rows("test", seen, classes), data.rows("val", 0, seen))
        )
        # set on validation clips, since a threshold set on the test clips would know what it is tested on
        threshold = held_out.quantile(ACCEPT)
        lines.append(
            {
                "seed": seed,
                "task": task.id,
                "score": "leverage" if leverage else "minus the largest logit",
                "auroc": roc_auc_score([False] * len(known) + [True] * len(coming), torch.cat([known, coming])),
                "known_refused": float((known > threshold).double().mean()),
                "unknown_refused": float((coming > threshold).double().mean()),
                "known": len(known),
                "unknown": len(coming),
            }
        )
    return lines


def main() -> None:
    """Raises ManifestError or StoreError where `make repro` was not run."""
    params, file, lines = load(), Path("benchmarks/results/open_set.csv"), []
    # one thread, as everywhere: sums do not depend on how many processors there are
    torch.set_num_threads(1)
    for row in progress(ROWS, desc="rows"):
        method, splits = params.method(row), Path("artifacts/splits")
        store = Path("artifacts/features") / method.tokens
        # without regions, for attention is not measured
        data = sweep.datasets(sweep.Source(splits / "manifest.csv", splits / "orders.json", store))
        for seed in params.seeds:
            measured = measure(data[seed], method, params.training, params.tasks, seed, params.compute.device)
            lines += [{"row": row, **line} for line in measured]
        # what is learnt is kept should a later row fail
        pd.DataFrame(lines).round(4).to_csv(file, index=False)


if __name__ == "__main__":
    main()
