"""Learn one row with several processes, one a GPU: for benchmarks whose tokens are many.

    torchrun --nproc-per-node 4 -m avcil.comparison.launch lll_prior --seed 0

Benchmark, protocol and device come from params.yaml (`benchmark`, `protocols`, `compute.device`). Losses are those of
one process up to rounding (avcil/learn/parallel.py), hence not to the bit, so that results stay apart from the sweep's,
in files like its own: ``artifacts/launched/<benchmark>/sweep/<setting>/<row>``. The table of all that stands there is
printed at the end. A run that was killed goes on after its last whole task.
"""

import argparse
import os
import sys
from pathlib import Path

import pandas as pd
import torch
import torch.distributed as dist

from avcil.base.device import named
from avcil.base.processes import processors
from avcil.comparison import tables
from avcil.comparison.protocol import jobs, place_of
from avcil.comparison.sweep import Done, begin_folder, datasets, read_run, stamp_of, write_run
from avcil.learn import parallel
from avcil.learn.evaluate import TaskResult
from avcil.learn.train import run_tasks
from avcil.params import Params, load


def main() -> None:
    parser = argparse.ArgumentParser(prog="torchrun -m avcil.comparison.launch", description=__doc__.splitlines()[0])
    parser.add_argument("row", help="a row of params.yaml")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--setting", default="standard")
    given = parser.parse_args()
    try:
        params = load(Path("params.yaml"))
        if named(params.compute.device).type == "cuda":
            # torchrun numbers the processes of a machine, and each takes the GPU of its number
            device, backend = f"cuda:{os.environ.get('LOCAL_RANK', 0)}", "nccl"
            torch.cuda.set_device(device)
        else:
            device, backend = "cpu", "gloo"
            # processes share the processors, and more threads than there are of these slow all of them down (LOG.md)
            torch.set_num_threads(max(1, processors() // int(os.environ.get("WORLD_SIZE", 1))))
        # torchrun sets it: without, this is one process and there is no group to join
        if "RANK" in os.environ:
            dist.init_process_group(backend)
        for result in learn(params, given.row, given.setting, given.seed, device):
            # every process holds all results, and one of them speaks
            if parallel.first():
                clips = sum(result.clips)
                seen = f"{clips} clips of classes seen so far"
                print(f"task {result.task}: accuracy {tables.accuracy_after(result):.4f} on {seen}")
        if parallel.first():
            print(table(launched(params)).to_string(index=False))
    # parameters that cannot be used, a row, setting, seed or device that there is not: each is told in one line
    except ValueError as error:
        sys.exit(str(error))
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def learn(params: Params, row: str, setting: str, seed: int, device: str) -> list[TaskResult]:
    """All tasks of a row, as the benchmark's protocol prescribes them. Raises ValueError for what it does not have."""
    protocol = params.protocol()
    # only to refuse, by name, a row that there is not
    params.method(row)
    changes = protocol.settings.get(setting)
    if changes is None or seed not in (changes.seeds or protocol.seeds):
        raise ValueError(f"no seed {seed} in a setting `{setting}` of the protocol of {params.benchmark}")
    # that row alone, `lll_prior` too, and no other seed's world is drawn
    # where seeds share clips they all stay, for the one orders.json serves launches of other seeds too
    seeds = {"seeds": [seed]} if changes.worlds else {}
    alone = protocol.model_copy(update={"settings": {setting: changes.model_copy(update=seeds)}})
    place = place_of(params.benchmark)._replace(chained=False)
    out, first = launched(params), parallel.first()
    # each process writes the files that it reads; those of the first are with the results
    made = jobs(place, params, alone, [row], out if first else out / f".rank{dist.get_rank()}")
    job = next(job for job in made if job.seed == seed)
    # all processes go on from the checkpoints in this folder, which the first one alone writes (`run_tasks`)
    data, folder, precision = datasets(job.source)[seed], out / "sweep" / setting / row, params.compute.tokens
    stamp = stamp_of(job, data) | {"tokens": precision}
    if first:
        begin_folder(folder, seed, stamp)
    # no process is to find what the first one is about to delete
    if dist.is_initialized():
        dist.barrier()
    results = run_tasks(data, job.method, job.training, job.tasks, seed, folder, device=device, precision=precision)
    if first and job.file:
        # no seconds: tables tell those of one thread
        write_run(job.file, Done(results, None), stamp)
    return results


def launched(params: Params) -> Path:
    """What was learnt by launches, laid out as artifacts/ is by a sweep."""
    return Path("artifacts/launched") / params.benchmark


def table(folder: Path) -> pd.DataFrame:
    """Measures of all that stands there, a line a setting and row, as the sweep's tables have them."""
    runs = {
        # of sweep/SETTING/ROW/seedS.json
        (file.parts[-3], file.parts[-2], int(file.stem.removeprefix("seed"))): read_run(file)[0].results
        for file in sorted(folder.glob("sweep/*/*/seed*.json"))
    }
    summary = tables.summarise(tables.per_seed(tables.frames(runs)))
    return summary[["setting", "method", *tables.MAIN, "seeds"]].round(4)


if __name__ == "__main__":
    main()
