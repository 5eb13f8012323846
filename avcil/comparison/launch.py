"""Learn one row with several processes, one a GPU: for benchmarks whose tokens are many.

    torchrun --nproc-per-node 4 -m avcil.comparison.launch lll_prior --seed 0

Benchmark, protocol and device come from params.yaml (`benchmark`, `protocols`, `compute.device`). Losses are those of
one process up to rounding (avcil/learn/parallel.py), hence not to the bit, so that results stay apart from the sweep's:
``artifacts/launched/<benchmark>/<row>``. A run that was killed goes on after its last whole task.
"""

import argparse
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from avcil.comparison.protocol import jobs, place_of
from avcil.comparison.sweep import datasets
from avcil.comparison.tables import accuracy_after
from avcil.learn import parallel
from avcil.learn.evaluate import TaskResult
from avcil.learn.train import run_tasks
from avcil.params import Params, load


def main() -> None:
    parser = argparse.ArgumentParser(prog="torchrun -m avcil.comparison.launch", description=__doc__.splitlines()[0])
    parser.add_argument("row", help="a row of params.yaml")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--setting", default="standard")
    given, params = parser.parse_args(), load(Path("params.yaml"))
    if params.compute.device.startswith("cuda"):
        device, backend = f"cuda:{os.environ.get('LOCAL_RANK', 0)}", "nccl"
        torch.cuda.set_device(device)
    else:
        device, backend = "cpu", "gloo"
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // int(os.environ.get("WORLD_SIZE", 1))))
    if "RANK" in os.environ:
        dist.init_process_group(backend)
    try:
        for result in learn(params, given.row, given.setting, given.seed, device):
            if parallel.first():
                clips = sum(result.clips)
                print(
                    f"task {result.task}: accuracy {accuracy_after(result):.4f} on {clips} clips of classes seen so far"
                )
    except ValueError as error:
        sys.exit(str(error))
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def learn(params: Params, row: str, setting: str, seed: int, device: str) -> list[TaskResult]:
    """All tasks of a row, as the benchmark's protocol prescribes them. Raises ValueError for what it does not have."""
    protocol = params.protocol()
    params.method(row)
    changes = protocol.settings.get(setting)
    if changes is None or seed not in (changes.seeds or protocol.seeds):
        raise ValueError(f"no seed {seed} in a setting `{setting}` of the protocol of {params.benchmark}")
    # that run alone, `lll_prior` too: no other world is drawn
    alone = protocol.model_copy(update={"settings": {setting: changes.model_copy(update={"seeds": [seed]})}})
    place = place_of(params.benchmark)._replace(chained=False)
    out = Path("artifacts/launched") / params.benchmark
    rank = dist.get_rank() if dist.is_initialized() else 0
    [job] = jobs(place, params, alone, [row], out / f".rank{rank}")
    data, folder, precision = datasets(job.source)[seed], out / setting / row, params.compute.tokens
    return run_tasks(data, job.method, job.training, job.tasks, seed, folder, device=device, precision=precision)


if __name__ == "__main__":
    main()
