"""The validation-only search for hyper-parameters: a trial overrides keys of a row or of the shared training."""

import numpy as np

from avcil import metrics
from avcil.evaluate import Dataset
from avcil.methods import Method, Task, Training
from avcil.params import ParameterError, Params, nearest
from avcil.train import run_tasks


def trials(params: Params) -> dict[str, tuple[Method, Training]]:
    """Name to method and training of each trial, `lll` as it stands first.

    A trial names the row it is `of` (by default lll) and keys of that row or of `training` to change. Raises
    ParameterError for a key of neither.
    """
    found = {"lll": (params.lll, params.training)}
    for name, changes in params.search.trials.items():
        row = params.method(changes.get("of", "lll")).model_dump()
        shared = params.training.model_dump()
        for key, value in changes.items():
            if key == "of":
                continue
            if key not in row and key not in shared:
                hint = nearest(key, [*row, *shared])
                raise ParameterError(f"search.trials.{name}.{key}: neither of a row nor of `training`{hint}")
            (row if key in row else shared)[key] = value
        found[name] = (Method(**row), Training(**shared))
    return found


def score(data: Dataset, method: Method, training: Training, tasks: list[Task], seed: int) -> dict[str, float]:
    """Average, last and new-class accuracy and both forgettings on the validation clips."""
    results = run_tasks(data, method, training, tasks, seed, None, split="val")
    matrix = np.full((len(tasks), len(tasks)), np.nan)
    for result in results:
        matrix[result.task, : result.task + 1] = result.accuracy
    clips = np.array(results[-1].clips)
    return {
        "average_accuracy": metrics.average_accuracy(matrix, clips),
        "last_accuracy": metrics.last_accuracy(matrix, clips),
        "forgetting_mean": metrics.forgetting_mean(matrix),
        "forgetting_last": metrics.forgetting_last(matrix),
        "plasticity": metrics.plasticity(matrix),
    }
