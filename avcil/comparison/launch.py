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
from avcil.learn import parallel
from avcil.learn.train import run_tasks
from avcil.params import load


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="torchrun -m avcil.comparison.launch", description=__doc__.splitlines()[0])
    parser.add_argument("row", help="a row of params.yaml")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--setting", default="standard")
    given = parser.parse_args(arguments)
    params = load(Path("params.yaml"))
    if params.compute.device.startswith("cuda"):
        device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
        torch.cuda.set_device(device)
    else:
        device = "cpu"
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // int(os.environ.get("WORLD_SIZE", 1))))
    if "RANK" in os.environ:
        dist.init_process_group("nccl" if device != "cpu" else "gloo")
    try:
        _learn(params, given, device)
    except ValueError as error:
        sys.exit(str(error))
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _learn(params, given: argparse.Namespace, device: str) -> None:
    protocol = params.protocol()
    params.method(given.row)
    setting = protocol.settings.get(given.setting)
    if setting is None or given.seed not in (setting.seeds or protocol.seeds):
        raise ValueError(f"no seed {given.seed} in a setting `{given.setting}` of the protocol of {params.benchmark}")
    # that run alone, `lll_prior` too: no other world is drawn
    alone = {given.setting: setting.model_copy(update={"seeds": [given.seed]})}
    place = place_of(params.benchmark)._replace(chained=False)
    out = Path("artifacts/launched") / params.benchmark
    rank = dist.get_rank() if dist.is_initialized() else 0
    protocol = protocol.model_copy(update={"settings": alone})
    [job] = jobs(place, params, protocol, [given.row], out / f".rank{rank}")
    data = datasets(job.source)[job.seed]
    results = run_tasks(
        data,
        job.method,
        job.training,
        job.tasks,
        job.seed,
        out / given.setting / given.row,
        device=device,
        precision=params.compute.tokens,
    )
    if parallel.first():
        for result in results:
            right = sum(a * n for a, n in zip(result.accuracy, result.clips, strict=True)) / sum(result.clips)
            print(f"task {result.task}: accuracy {right:.4f} on {sum(result.clips)} clips of classes seen so far")


if __name__ == "__main__":
    main()
