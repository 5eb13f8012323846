"""Metrics against matrices worked out by hand, and against scikit-learn."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from avcil import metrics
from avcil.checkpoint import EMPTY
from avcil.evaluate import TaskResult
from avcil.tables import accuracy_matrix, collect, intervals, paired, summarise, write
from avcil.train import save_task

NAN = np.nan
R = np.array([[0.8, NAN, NAN], [0.9, 0.6, NAN], [0.5, 0.7, 1.0]])
N = np.array([10, 30, 60])


def test_accuracy_weighs_tasks_by_clips():
    after = [0.8, (10 * 0.9 + 30 * 0.6) / 40, (10 * 0.5 + 30 * 0.7 + 60) / 100]
    assert metrics.accuracy_after(R, N) == pytest.approx(after)
    assert metrics.average_accuracy(R, N) == pytest.approx(np.mean(after))
    assert metrics.last_accuracy(R, N) == pytest.approx(0.86)


def test_both_customs_of_forgetting():
    # task 1: best 0.8, now 0.9: -0.1.  task 2: 0.9 - 0.5 = 0.4 and 0.6 - 0.7 = -0.1, mean 0.15
    assert metrics.forgetting(R) == pytest.approx([-0.1, 0.15])
    assert metrics.forgetting_mean(R) == pytest.approx(0.025)
    assert metrics.forgetting_last(R) == pytest.approx(0.15)


def test_transfer_plasticity_retention():
    assert metrics.backward_transfer(R) == pytest.approx(((0.5 - 0.8) + (0.7 - 0.6)) / 2)
    assert metrics.plasticity(R) == pytest.approx((0.8 + 0.6 + 1.0) / 3)
    assert metrics.retention(R) == pytest.approx((0.5 / 0.8 + 0.7 / 0.6) / 2)


def test_a_task_never_learnt_has_nothing_to_retain():
    matrix = np.array([[0.0, NAN, NAN], [0.0, 0.5, NAN], [0.2, 0.25, 1.0]])
    assert metrics.retention(matrix) == pytest.approx(0.5)


def test_one_task_forgets_nothing():
    one = np.array([[0.7]])
    assert metrics.forgetting_mean(one) == metrics.forgetting_last(one) == metrics.backward_transfer(one) == 0


def _result(task: int, accuracy) -> TaskResult:
    return TaskResult(task, list(accuracy), [20] * (task + 1), [0.5] * (task + 1), [0.6] * (task + 1), {}, 100, 7)


def test_twelve_tasks_keep_their_order_through_files_and_tables(tmp_path):
    """Sorted as strings, task 10 would stand before task 2."""
    rng = np.random.default_rng(0)
    truth = {}
    for seed in (0, 1):
        matrix = np.full((12, 12), np.nan)
        for task in range(12):
            matrix[task, : task + 1] = rng.uniform(size=task + 1)
            save_task(
                tmp_path / "runs/v" / f"task{task}" / f"seed{seed}", EMPTY, _result(task, matrix[task, : task + 1])
            )
        truth[seed] = matrix
    tables = collect(tmp_path / "runs", "b", ["v"], [0, 1], 12)
    for seed, matrix in truth.items():
        got, clips = accuracy_matrix(tables.matrix[tables.matrix.seed == seed])
        np.testing.assert_array_equal(got, matrix)
        assert clips.tolist() == [20] * 12
    summary = summarise(tables)
    row = summary.iloc[0]
    lasts = [metrics.last_accuracy(m, np.full(12, 20)) for m in truth.values()]
    assert row.last_accuracy == pytest.approx(np.mean(lasts))
    assert row.last_accuracy_std == pytest.approx(np.std(lasts, ddof=1))
    assert row.forgetting_mean == pytest.approx(np.mean([metrics.forgetting_mean(m) for m in truth.values()]))
    assert row.seeds == 2 and row.memory_bytes == 100 and row.trained_parameters == 7
    write(tmp_path / "metrics", tables, summary)
    runs = pd.read_csv(tmp_path / "metrics/runs.csv")
    assert list(runs) == [
        "benchmark", "variant", "seed", "task", "accuracy", "new_accuracy", "past_accuracy",
        "localisation_hit", "localisation_auc",
    ]  # fmt: skip
    assert runs[runs.seed == 0].task.tolist() == list(range(12))
    assert runs.past_accuracy.isna().sum() == 2


def test_paired_differences_are_taken_seed_by_seed():
    runs = pd.DataFrame(
        [("a", 0, 1, 0.9), ("a", 1, 1, 0.5), ("b", 0, 1, 0.6), ("b", 1, 1, 0.4), ("a", 0, 0, 0.0), ("b", 0, 0, 1.0)],
        columns=["variant", "seed", "task", "accuracy"],
    )
    differences = paired(runs, "a", ["b"])
    assert differences.difference.tolist() == pytest.approx([0.3, 0.1])
    row = intervals(differences).loc["b"]
    assert row["mean"] == pytest.approx(0.2) and row["seeds ahead"] == "2 of 2"
    assert 0.1 - 1e-9 <= row.low <= row["mean"] <= row.high <= 0.3 + 1e-9


def test_attention_hit_needs_the_peak_of_space_and_time():
    spatial = np.array([[[0.6, 0.4], [0.1, 0.9]]])
    share = np.array([[[0.0, 1.0], [0.0, 0.05]]])
    early, late = np.array([[0.9, 0.1]]), np.array([[0.1, 0.9]])
    assert not metrics.attention_hit(spatial, early, share, 0.1)[0]
    assert not metrics.attention_hit(spatial, late, share, 0.1)[0]
    assert metrics.attention_hit(spatial, late, share, 0.05)[0]


def test_attention_auc_is_scikit_learns():
    rng = np.random.default_rng(0)
    spatial = rng.integers(0, 6, (3, 4, 16)).astype(float)  # with ties
    share = (rng.uniform(size=(3, 4, 16)) > 0.7).astype(float)
    share[0, 1] = 0  # the object does not show
    share[1] = 0  # never shows
    expected = [
        np.mean([roc_auc_score(share[b, s], spatial[b, s]) for s in range(4) if share[b, s].any()]) for b in (0, 2)
    ]
    got = metrics.attention_auc(spatial, share, 0.5)
    assert got[[0, 2]] == pytest.approx(expected)
    assert np.isnan(got[1])
