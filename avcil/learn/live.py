"""What a training run says while it runs, in the files that `dvc plots show`, DVC Studio and editors read.

The training loop knows nothing of it (it calls a `Watch`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dvclive.live import Live

from avcil.learn.train import Watch


@contextmanager
def logged(folder: Path) -> Iterator[Watch]:
    """Gives the `Watch` that logs the epochs of a task by DVCLive: a line an epoch, a file a loss.

    They are ``folder/plots/metrics/cross_entropy.tsv`` and so on; ``folder/metrics.json`` has the last of each. What
    stood in the folder is replaced.
    """
    # DVC runs this as a stage: an experiment, and plots in dvc.yaml, are its own affair
    with Live(str(folder), save_dvc_exp=False, dvcyaml=False) as live:

        def watch(task: int, epoch: int, losses: dict[str, float]) -> None:
            # the folder is one task's, so that its number is not written
            for name, value in losses.items():
                live.log_metric(name, value)
            live.next_step()

        yield watch
