"""One model learnt by two processes is the model that one process learns."""

import json
import os
import subprocess
import sys

import pytest

from conftest import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.arithmetic]


def _torchrun(processes: int, *command: str) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([*launcher, *command], capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parallel")
    for processes in (1, 2):
        _torchrun(processes, "tests/parallel_worker.py", str(folder / f"{processes}.json"))
    return [json.loads((folder / f"{processes}.json").read_text()) for processes in (1, 2)]


# Adam's steps are of the size of the learning rate (1e-3), whatever the gradient's; where that is nothing but rounding,
# two ways of summing part by as much. AFC begins every task there: a norm has no slope where new and old features
# agree.
APART = {"lll": 1e-4, "avcil": 1e-5, "afc_lsc": 2e-3}


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
