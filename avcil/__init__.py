"""Audio-visual class-incremental learning: guided attention and dual-level distillation.

    import avcil

    run = avcil.load_run("lll_prior")     # from anywhere inside the project
    run.measures                    # a row a seed
    run.matrix                      # accuracy after each task on each task's clips, mean ± standard deviation
    run.checkpoint(task=4, seed=0)  # weights, classes, exemplars

    learner = avcil.Learner()       # learns classes from clips, in closed form; or by any row: method="lll_prior"
    learner.fit(files, labels)
    learner.predict(files)[0].label

What else is public stands in the modules below; `avcil.kernels` needs torch alone.
"""

from typing import TYPE_CHECKING

from avcil.base import garbage, heap, portable

if TYPE_CHECKING:
    from avcil.learner.learner import Learner
    from avcil.results.runs import AccuracyMatrix, Run, load_run

portable.apply()
garbage.spare()
heap.keep()

__all__ = ["AccuracyMatrix", "Learner", "Run", "load_run"]


def __getattr__(name: str):
    # on first use: `import avcil` and `import avcil.kernels` load neither pandas nor anything of the project
    if name == "Learner":
        from avcil.learner.learner import Learner

        return Learner
    if name in __all__:
        from avcil.results import runs

        return getattr(runs, name)
    raise AttributeError(f"module `avcil` has no attribute `{name}`")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
