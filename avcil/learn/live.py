"""What a training run says while it runs, in the files that `dvc plots show`, DVC Studio and editors read.

Only notebooks use this; the training loop knows nothing of it (it calls a `Watch`).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dvclive.live import Live

from avcil.learn.train import Watch


@contextmanager
def logged(folder: Path) -> Iterator[Callable[[int], Watch]]:
    """Gives, for a seed, the `Watch` that logs its epochs by DVCLive: a line an epoch, a file a seed, task and loss.

    They are ``folder/plots/metrics/task2/seed0/cross_entropy.tsv`` and so on; ``folder/metrics.json`` has the last of
    each. What stood in the folder is replaced.
    """
    with Live(str(folder), save_dvc_exp=False, dvcyaml=False) as live:

        def of_seed(seed: int) -> Watch:
            def watch(task: int, epoch: int, told: dict[str, float]) -> None:
                live.step = epoch
                for name, value in told.items():
                    live.log_metric(f"task{task}/seed{seed}/{name}", value)
                live.next_step()

            return watch

        yield of_seed
