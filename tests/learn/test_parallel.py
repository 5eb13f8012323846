"""One model learnt by two processes is the model that one process learns."""

import json
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing import start_processes

from avcil.learn import parallel, train
from avcil.learn.checkpoint import EMPTY
from avcil.learn.evaluate import build
from avcil.learn.methods.afc import nca
from avcil.params import load
from avcil.params.learning import chain
from conftest import ROOT, toy_dataset

pytestmark = [pytest.mark.slow, pytest.mark.arithmetic]

# forked, processes need not import torch again; a GPU's threads do not survive that
START = "fork" if sys.platform == "linux" and not torch.cuda.is_available() else "spawn"
# Adam's steps are of the size of the learning rate (1e-3), whatever the gradient's; where that is nothing but rounding,
# two ways of summing part by as much. AFC begins every task there: a norm has no slope where new and old features
# agree.
APART = {"lll_prior": 1e-4, "avcil": 1e-5, "afc_lsc": 2e-3}


def learnt() -> dict:
    """Losses and predictions of two tasks of each row, and the gradients of one batch."""
    params = load(ROOT / "params.yaml")
    training = params.training.model_copy(update={"batch": 7, "width": 8, "heads": 2})
    data, found = toy_dataset(), {}
    for row in APART:
        method = params.methods[row].model_copy(update={"patches": None})
        tasks, checkpoint = chain([2, 2], 2), EMPTY
        for task in range(2):
            checkpoint, result, losses = train.run_task(data, method, training, tasks, task, 0, checkpoint)
            found[f"{row} {task}"] = {"losses": losses, "predictions": result.predictions}
    torch.manual_seed(0)
    model = build(params.methods["afc_lsc"], training, data.tokens.channels)
    model.classifier.grow(2)
    rows = data.rows("train", 0, 2)[8:15]
    logits = parallel.gather(model(data.tokens.clips(parallel.share(rows))), len(rows)).logits
    nca(logits, data.labels[rows], parallel.once(model.classifier.scale)).backward()
    parallel.sum_gradients(list(model.parameters()))
    gradients = {name: p.grad.flatten().tolist() for name, p in model.named_parameters() if p.grad is not None}
    return found | {"gradients": gradients}


def work(rank: int, processes: int, folder: Path) -> None:
    """As torchrun would start it (tests/workshop/test_own_videos.py has torchrun itself)."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=processes)
    found = learnt()
    if parallel.first():
        (folder / "learnt.json").write_text(json.dumps(found))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parallel")
    start_processes(work, (2, folder), nprocs=2, start_method=START)
    return learnt(), json.loads((folder / "learnt.json").read_text())


@pytest.mark.parametrize("task", [0, 1])
@pytest.mark.parametrize("row", APART)
def test_two_processes_learn_what_one_learns(runs, row, task):
    """Uneven shares (7 clips a batch), contrastive terms over the batch, a scale that only the objective uses."""
    one, two = (run[f"{row} {task}"] for run in runs)
    assert [sorted(epoch) for epoch in one["losses"]] == [sorted(epoch) for epoch in two["losses"]]
    for a, b in zip(one["losses"], two["losses"], strict=True):
        assert all(b[name] == pytest.approx(a[name], abs=APART[row], rel=1e-5) for name in a)
    differ = [clip for clip, label in one["predictions"].items() if two["predictions"][clip] != label]
    # a clip between two classes may fall to either side
    assert len(differ) <= 1


def test_gradients_are_summed_over_processes_and_counted_once(runs):
    """By name; Adam would hide a factor."""
    one, two = (run["gradients"] for run in runs)
    assert {"audio.weight", "visual.weight", "classifier.weight", "classifier.scale"} <= one.keys() == two.keys()
    for name, values in one.items():
        assert two[name] == pytest.approx(values, abs=1e-6, rel=1e-4), name
    assert abs(one["classifier.scale"][0]) > 1e-3
