"""The validation-only search for hyper-parameters: a trial overrides keys of a row or of the shared training."""

from pathlib import Path

import pandas as pd

from avcil.comparison import tables
from avcil.comparison.sweep import Job, Source, run
from avcil.params import ParameterError, Params
from avcil.params.learning import Method, Training
from avcil.params.section import nearest


def trials(params: Params) -> dict[str, tuple[Method, Training]]:
    """Name to method and training of each trial, `lll_prior` as it stands first.

    A trial names the row it is `of` (by default lll_prior) and keys of that row or of `training` to change. Raises
    ParameterError for a key of neither.
    """
    named: dict[str, tuple[Method, Training]] = {"lll_prior": (params.methods["lll_prior"], params.training)}
    for name, changes in params.search.trials.items():
        row = params.method(str(changes.get("of", "lll_prior"))).model_dump()
        shared = params.training.model_dump()
        for key, value in changes.items():
            if key == "of":
                continue
            if key not in row and key not in shared:
                hint = nearest(key, [*row, *shared])
                raise ParameterError(f"search.trials.{name}.{key}: neither of a row nor of `training`{hint}")
            (row if key in row else shared)[key] = value
        named[name] = (Method(**row), Training(**shared))
    return named


def scores(params: Params, source: Source, seeds: list[int], folder: Path) -> pd.DataFrame:
    """Mean over ``seeds`` of each trial's measures on validation clips. ``folder`` keeps finished runs."""
    jobs = [
        Job(
            (name,), source, method, training, params.tasks, seed, "val", folder / name / f"seed{seed}.json",
            device=params.compute.device,
        )
        for name, (method, training) in trials(params).items()
        for seed in seeds
    ]  # fmt: skip
    results = {
        ("search", name, seed): done.results
        for ((name,), seed), done in run(jobs, engine=params.compute.engine).items()
    }
    summary = tables.summarise(tables.per_seed(tables.frames(results)))
    return summary.set_index("method")[tables.MAIN].rename_axis("trial")
