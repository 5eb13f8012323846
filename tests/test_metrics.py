"""Metrics against matrices worked out by hand, and against scikit-learn."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from avcil.base.files import write_json
from avcil.comparison.field_tables import compare as compare_field
from avcil.comparison.field_tables import read
from avcil.comparison.field_tables import summarise as field_summary
from avcil.comparison.tables import (
    accuracy_matrix,
    collect,
    compare,
    correctness,
    lead,
    paired,
    read_correctness,
    summarise,
    write,
)
from avcil.learn import metrics
from avcil.learn.checkpoint import EMPTY
from avcil.learn.evaluate import TaskResult
from avcil.learn.train import save_task
from avcil.params.comparison import Protocol, Setting

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
                tmp_path / "runs/variants/v" / f"task{task}" / f"seed{seed}",
                EMPTY,
                _result(task, matrix[task, : task + 1]),
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


def _after_last(predictions) -> TaskResult:
    return TaskResult(1, [1.0], [2], None, None, predictions, 0, 0)


def test_a_lead_on_the_same_clips_is_told_from_one_by_luck(tmp_path):
    rng = np.random.default_rng(0)
    other = rng.uniform(size=(5, 200)) < 0.5
    better = other | (rng.uniform(size=(5, 200)) < 0.2)  # right wherever the other is, and on more clips
    rows = {"other": other, "better": better, "luck": rng.uniform(size=(5, 200)) < 0.5, "same": other}
    lines = [
        (name, seed, "".join(map(str, line.astype(int))))
        for name, right in rows.items()
        for seed, line in enumerate(right)
    ]
    pd.DataFrame(lines, columns=["variant", "seed", "correct"]).to_csv(tmp_path / "correct.csv", index=False)
    correct = read_correctness(tmp_path / "correct.csv")
    found = compare(correct, "other", ["better", "luck", "same"]).set_index("variant")
    assert found.difference["better"] == pytest.approx(other.mean() - better.mean())
    assert found.verdict["better"].startswith("behind by")
    assert found.p_holm["better"] == pytest.approx(3 * found.p["better"])
    assert found.low["luck"] < 0 < found.high["luck"] and found.p["luck"] > 0.05
    assert found.low["same"] == found.high["same"] == 0 and found.p["same"] == 1
    assert lead(correct, "better").mean == pytest.approx(better.mean())


def test_correctness_lines_up_clips_and_seeds():
    last = {("b", 1): _after_last({"b": 1, "a": 0}), ("b", 0): _after_last({"a": 1, "b": 1})}
    labels = {0: {"a": 1, "b": 0}, 1: {"b": 0, "a": 0}}
    assert correctness(last, labels).values.tolist() == [["b", 1, "10"], ["b", 0, "10"]]
    with pytest.raises(ValueError, match="c, seed 0: other test clips"):
        correctness(last | {("c", 0): _after_last({"a": 1})}, labels)


def test_the_tables_of_the_field_are_of_its_files(tmp_path):
    protocol = Protocol(
        classes_per_task=1, epochs=1, class_order="drawn", seeds=[0, 1], rows=["lll", "replay"],
        settings={"standard": Setting(), "exemplars_1": Setting(seeds=[1], rows=["lll"])},
    )  # fmt: skip
    accuracy = {("lll", 0): 1.0, ("lll", 1): 0.5, ("replay", 0): 0.5, ("replay", 1): 0.0}
    for name, setting in protocol.settings.items():
        folder = tmp_path / name
        folder.mkdir()
        rows = [(f"{c}{s}", f"{c}{s}.mp4", c, s) for c in "xy" for s in ("train", "val", "test")]
        pd.DataFrame(rows, columns=["clip_id", "path", "label", "split"]).to_csv(folder / "manifest.csv", index=False)
        write_json(folder / "orders.json", {"0": ["x", "y"], "1": ["y", "x"]})
        for row in setting.rows or protocol.rows:
            for seed in setting.seeds or protocol.seeds:
                share = accuracy[row, seed]
                right = {"xtest": seed, "ytest": 1 - seed}
                said = {"xtest": right["xtest"] if share == 1 else 1 - right["xtest"]}
                said["ytest"] = right["ytest"] if share > 0 else 1 - right["ytest"]
                results = [
                    TaskResult(0, [1.0], [1], None, None, {}, 8, 0),
                    TaskResult(1, [share, share], [1, 1], None, None, said, 16, 0),
                ]
                kept = {"origin": {"method": {"exemplars": 5 if name == "standard" else 1}}, "seconds": 2.0}
                write_json(folder / row / f"seed{seed}.json", kept | {"results": [r._asdict() for r in results]})
    found = read(tmp_path, protocol, tmp_path / "benchmark")
    measures = found.measures()
    assert len(measures) == 5 and set(measures.memory_bytes) == {16}
    summary = field_summary(measures).set_index(["setting", "row"])
    assert summary.last_accuracy["standard", "lll"] == 0.75 and summary.seeds["exemplars_1", "lll"] == 1
    assert summary.forgetting_last["standard", "lll"] == 0.25
    correct = found.correctness()
    assert correct.columns.tolist() == ["setting", "row", "seed", "correct"] and len(correct) == 5
    (line,) = compare_field(correct, "standard", "lll").itertuples()
    assert (line.row, line.difference) == ("replay", 0.5)
    assert found.budgets().empty  # two budgets are no curve
    # a clip with both labels is right whatever is said
    write_json(tmp_path / "benchmark/multilabel.json", {"xtest": {"x": "V", "y": "A"}})
    several = read(tmp_path, protocol, tmp_path / "benchmark").measures()
    assert several.multilabel_accuracy.tolist() == [1.0, 1.0, 1.0, 0.5, 1.0]
    assert field_summary(several).multilabel_accuracy.tolist() == [1.0, 0.75, 1.0]
    assert "multilabel_accuracy" not in measures
