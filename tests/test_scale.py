"""The benchmark of scale: a store that is learnt from like any other, and one line a case."""

import subprocess
import sys

import pandas as pd
import pytest

from avcil.tokens.dataset import load_datasets
from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import scale


def test_its_store_has_clips_of_each_class_in_each_split(tmp_path):
    scale.write_store(tmp_path, 240, 12)
    data = load_datasets(tmp_path / "manifest.csv", tmp_path / "orders.json", tmp_path / "store", [0])[0]
    assert data.tokens.shape == (240, 8, 16, 256) and len(data.order) == 12
    for split, count in {"train": 16, "val": 2, "test": 2}.items():
        assert data.labels[data.splits[split]].bincount(minlength=12).tolist() == [count] * 12
    # classes differ in their means, clips of a class in noise
    means = data.tokens.audio.mean(1)
    same, other = means[0] - means[12], means[0] - means[1]
    assert 0 < same.norm() < 0.5 * other.norm()


def test_a_case_that_is_measured_again_replaces_its_line(tmp_path):
    file = tmp_path / "out" / "scale.csv"
    case = dict(zip(scale.CASE, ["a", "lll_prior", "memory", 2000, 20, 5, 1], strict=True))
    for line in (
        case | {"peak_gb": 1.0}, case | {"store": "mapped", "peak_gb": 2.0}, case | {"processes": 2, "peak_gb": 4.0},
        case | {"peak_gb": 3.0},
    ):  # fmt: skip
        scale.add(file, line)
    assert pd.read_csv(file).peak_gb.tolist() == [2.0, 3.0, 4.0]


CHILD = """
import json, mmap, os, sys, time
print("ready", flush=True)
sys.stdin.readline()
with open(sys.argv[1], "r+b") as file:
    shared = mmap.mmap(file.fileno(), 0)
    mine = bytearray(os.urandom(20_000_000))
    seen = sum(shared[place] for place in range(0, len(shared), 4096))
    time.sleep(1.5)
print(json.dumps({"read_gb": 1.0, "peak_gb": 9.0, "seen": seen}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel for proportional set sizes")
def test_what_processes_share_counts_once(tmp_path):
    """Each maps the same 40 MB and holds 20 MB of its own: together 80 MB, not 120."""
    (tmp_path / "store").write_bytes(bytes(40_000_000))
    line = scale.measured([sys.executable, "-c", CHILD, str(tmp_path / "store")], 2)
    assert 0.07 < line["peak_gb"] < 0.1 and line["read_gb"] == 2.0
    with pytest.raises(SystemExit, match="a process ended with status 3"):
        scale.measured([sys.executable, "-c", "print('ready', flush=True); input(); raise SystemExit(3)"], 1)


def test_the_committed_numbers_are_of_a_named_machine():
    table = pd.read_csv(scale.OUT)
    assert not table.duplicated(scale.CASE).any() and (table.machine.str.len() > 3).all()
    assert (table[["cpu_ms_a_clip", "peak_gb", "store_gb", "checkpoints_mb"]] > 0).all(axis=None)


VIEW = """
import sys
from pathlib import Path
import torch
sys.path.insert(0, "benchmarks")
from authors import peak_memory
from avcil.tokens.store import read_store
tokens = read_store(Path(sys.argv[1]), room=0).tokens
before = peak_memory()
tokens.coarse(2).clips(torch.arange(10))
print(peak_memory() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
def test_a_worker_that_looks_at_coarser_patches_does_not_hold_them_all(tmp_path):
    """Once they stand beside the store. In its own memory they took 59 kB a clip, and all of the store was read."""
    clips = 1200
    scale.write_store(tmp_path, clips, 12)
    peaks = [
        int(subprocess.check_output([sys.executable, "-c", VIEW, str(tmp_path / "store")], cwd=ROOT)) for _ in range(2)
    ]
    assert peaks[1] < 10_000 * clips < peaks[0]
