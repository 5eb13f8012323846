"""The benchmark of scale: a store that is learnt from like any other, and one line a case."""

import sys

import pandas as pd

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
    case = dict(zip(scale.CASE, ["a", "lll_prior", "memory", 2000, 20, 5], strict=True))
    for line in (case | {"peak_gb": 1.0}, case | {"store": "mapped", "peak_gb": 2.0}, case | {"peak_gb": 3.0}):
        scale.add(file, line)
    assert pd.read_csv(file).peak_gb.tolist() == [2.0, 3.0]


def test_the_committed_numbers_are_of_a_named_machine():
    table = pd.read_csv(scale.OUT)
    assert not table.duplicated(scale.CASE).any() and (table.machine.str.len() > 3).all()
    assert (table[["cpu_ms_a_clip", "peak_gb", "store_gb", "checkpoints_mb"]] > 0).all(axis=None)
