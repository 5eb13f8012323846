"""The arithmetic and tables of benchmarks/parity.py; with AVCIL_OFFICIAL=PATH also two short runs of both sides."""

import importlib
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
authors, parity = map(importlib.import_module, ("authors", "parity"))


def _run(accuracy, forgetting, seconds=2.0, memory=3_000_000):
    return parity.Run(accuracy, forgetting, [seconds / 2], [seconds], 10 * seconds, memory, 5 * seconds)


THEIRS = [_run([0.9, 0.5], 0.3, 3.0), _run([0.9, 0.6], 0.4, 5.0)]
OURS = [_run([0.8, 0.7], 0.3, 2.0), _run([0.8, 0.9], 0.4, 2.0)]


def test_noise_of_a_difference():
    found = parity.compare([0.0, 2.0], [0.0, 3.0, 6.0])
    assert found.theirs == pytest.approx((1, 2**0.5)) and found.ours == pytest.approx((3, 3))
    # variances 2 with 1 degree of freedom and 9 with 2: pooled (2 + 18) / 3
    assert found.pooled == pytest.approx((20 / 3) ** 0.5)
    assert found.two_errors == pytest.approx(2 * (20 / 3 * 5 / 6) ** 0.5)
    assert found.difference == 2 and found.within is True
    assert parity.compare([0.0, 0.1], [0.3, 0.4]).within is False
    assert parity.compare([0.5], [0.6])[3:] == (None, None, None)


def test_two_equal_codes_differ_by_two_standard_errors_as_often_as_t_says():
    # P(|t| > 2) with 4 degrees of freedom
    assert parity.false_alarms(4) == pytest.approx(0.1161, abs=2e-3)


def test_measures_of_a_run():
    assert parity.measures(_run([0.9, 0.5, 0.4], 0.3)) == pytest.approx(
        {"after_task_0": 0.9, "after_task_1": 0.5, "after_task_2": 0.4, "last": 0.4, "average": 0.6, "forgetting": 0.3}
    )


def test_tables():
    found = {"ssil": parity.comparisons(THEIRS, OURS)}
    lines = parity.accuracy_table(found).splitlines()
    assert lines[2] == "| ssil | last accuracy | 55.0 ± 7.1 | 80.0 ± 14.1 | +25.0 | 11.2 | 22.4 | **no** |"
    assert lines[4] == "| ssil | average forgetting | 35.0 ± 7.1 | 35.0 ± 7.1 | +0.0 | 7.1 | 14.1 | yes |"
    lines = parity.task_table(found).splitlines()
    assert lines[2:] == [
        "| ssil | theirs | 90.0 ± 0.0 | 55.0 ± 7.1 |",
        "|  | ours | 80.0 ± 0.0 * | 80.0 ± 14.1 * |",
    ]
    lines = parity.cost_table({"ssil": {"theirs": THEIRS, "ours": OURS}}).splitlines()
    assert lines[2] == "| ssil | seconds an epoch | 4.000 | 2.000 | 2.00 |"
    assert lines[6] == "| ssil | peak memory, MB | 3 | 3 | 1.00 |"
    one = {"ssil": parity.comparisons(THEIRS[:1], OURS[:1])}
    assert parity.accuracy_table(one).splitlines()[2].endswith("| 50.0 | 70.0 | +20.0 | – | – | – |")


def test_lifting_keeps_inner_products():
    x = np.random.default_rng(1).normal(size=(5, 3, 12)).astype(np.float32)
    lifted = parity.lift(x, 20)
    assert lifted.shape == (5, 3, 20)
    flat, wide = x.reshape(15, 12), lifted.reshape(15, 20)
    np.testing.assert_allclose(wide @ wide.T, flat @ flat.T, atol=1e-4)
    np.testing.assert_array_equal(lifted, parity.lift(x, 20))
    with pytest.raises(ValueError, match="12 channels do not fit into 8"):
        parity.lift(x, 8)


def test_standardising_looks_at_training_clips_only():
    x = np.array([[1.0, 3.0], [100.0, 200.0]])
    np.testing.assert_allclose(parity.standardise(x, np.array([True, False])), [[-1, 1], [98, 198]])


def test_our_side_reads_what_theirs_does(tmp_path):
    folder = authors.demo_features(tmp_path, classes=4)
    data = parity.read_features(folder)
    stored = np.load(folder / f"{authors.VISUAL}.npy", allow_pickle=True).item()
    assert len(data.clip_ids) == 4 * 22 and data.order == [f"class{c:02d}" for c in range(4)]
    assert [len(data.splits[split]) for split in authors.SPLITS] == [48, 16, 24]
    for row in (0, 50, 87):
        clip = data.tokens.clips(slice(row, row + 1))
        np.testing.assert_array_equal(clip.visual.reshape(32, 768), stored[data.clip_ids[row]])
        np.testing.assert_allclose(data.tokens.pooled().visual[row], clip.visual.mean((1, 2), keepdim=True)[0])
    labels = np.load(folder / "all_classId_vid_dict.npy", allow_pickle=True).item()["val"]
    assert data.clip_ids[int(data.rows("val", 2, 3)[0])] == labels[2][0]


def test_timing_sees_each_epoch():
    spans = []
    optimise = parity.timed(lambda epochs, score: [score() for _ in range(epochs)], spans)
    assert optimise(3, score=lambda: 0.5) == [0.5] * 3
    assert [len(task) for task in spans] == [3]
    assert all(0 <= trained <= whole for trained, whole in spans[0])


@pytest.mark.parametrize("method", ["finetune", "avcil"])
def test_both_sides_run(tmp_path, method):
    official = os.environ.get("AVCIL_OFFICIAL")
    if not official:
        pytest.skip("AVCIL_OFFICIAL names no checkout of the authors' code")
    features = authors.demo_features(tmp_path / "features", classes=6)
    setup = parity.Setup(classes_per_task=2, epochs=2, memory=12, batch=12, exemplar_batch=6, threads=1)
    theirs = parity.run_theirs(Path(official), features, method, setup, 0)
    ours = parity.run_ours(features, method, setup, 0)
    for run in (theirs, ours):
        # chance is 1/2 at first
        assert len(run.accuracy) == 3 and run.accuracy[0] > 0.7
        assert len(run.epoch_seconds) == 3 and run.peak_memory > 1e8
        assert all(run.train_seconds) and run.cpu_seconds > 0
    text = parity.write(
        tmp_path / "parity.json",
        {method: {"theirs": [theirs], "ours": [ours]}},
        {
            "features": "drawn",
            "setup": setup._asdict(),
            "seeds": [0],
            "machine": "this",
            "torch_memory": 1,
            "others_cpu_share": None,
        },
    )
    assert (tmp_path / "parity.md").read_text() == text and f"| {method} | last accuracy |" in text
