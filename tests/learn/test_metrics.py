"""Metrics against matrices worked out by hand, and against scikit-learn."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from avcil.base.files import write_json, write_sealed
from avcil.comparison import tables
from avcil.comparison.tables import Comparable, Swept, accuracy_matrix, correctness, frames, paired, per_seed, summarise
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


def _protocol(**changes) -> Protocol:
    common = {
        "classes_per_task": 1, "epochs": 1, "class_order": "drawn", "seeds": [0, 1], "rows": ["lll_prior", "replay"],
        "settings": {"standard": Setting(), "exemplars_1": Setting(seeds=[1], rows=["lll_prior"])},
    }  # fmt: skip
    return Protocol(**common | changes)


def test_twelve_tasks_keep_their_order_through_files_and_tables(tmp_path):
    """Sorted as strings, task 10 would stand before task 2. `lll_prior` is read from its chain, as tasks left it."""
    rng = np.random.default_rng(0)
    truth = {}
    for seed in (0, 1):
        matrix = np.full((12, 12), np.nan)
        for task in range(12):
            matrix[task, : task + 1] = rng.uniform(size=task + 1)
            result = _result(task, matrix[task, : task + 1])
            save_task(tmp_path / f"runs/lll_prior/task{task}/seed{seed}", EMPTY, result)
        truth[seed] = matrix
    protocol = _protocol(rows=["lll_prior"], settings={"standard": Setting()})
    _write_clips(tmp_path / "sweep/standard")
    found = tables.read(tmp_path, protocol, "all")
    assert list(found.results) == [("standard", "lll_prior", 0), ("standard", "lll_prior", 1)] and not found.seconds
    made = frames(found.results)
    for seed, matrix in truth.items():
        got, clips = accuracy_matrix(made.matrix[made.matrix.seed == seed])
        np.testing.assert_array_equal(got, matrix)
        assert clips.tolist() == [20] * 12
    row = summarise(per_seed(made)).iloc[0]
    lasts = [metrics.last_accuracy(m, np.full(12, 20)) for m in truth.values()]
    assert row.last_accuracy == pytest.approx(np.mean(lasts))
    assert row.last_accuracy_std == pytest.approx(np.std(lasts, ddof=1))
    assert row.forgetting_mean == pytest.approx(np.mean([metrics.forgetting_mean(m) for m in truth.values()]))
    assert row.seeds == 2 and row.memory_bytes == 100 and row.trained_parameters == 7
    rises = [lasts[seed] - truth[seed][0, 0] for seed in (0, 1)]
    assert row.rise == pytest.approx(np.mean(rises)) and row.localisation_change_first_task == 0
    tables.write(tmp_path / "metrics", found, protocol)
    runs = pd.read_csv(tmp_path / "metrics/runs.csv")
    assert list(runs) == [
        "setting", "method", "seed", "task", "accuracy", "new_accuracy", "past_accuracy", "localisation_hit",
        "localisation_auc",
    ]  # fmt: skip
    assert runs[runs.seed == 0].task.tolist() == list(range(12))
    assert runs.past_accuracy.isna().sum() == 2


def test_paired_differences_are_taken_seed_by_seed():
    seeds = pd.DataFrame(
        [("a", 0, 0.9), ("a", 1, 0.5), ("b", 0, 0.6), ("b", 1, 0.4)], columns=["method", "seed", "last_accuracy"]
    )
    differences = paired(seeds, "a", ["b"])
    assert differences.method.tolist() == ["b", "b"] and differences.seed.tolist() == [0, 1]
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


def _comparable(folder, rows: dict[str, np.ndarray], setting: str = "standard") -> Comparable:
    """As from files: of each row what is right [seeds, clips]."""
    lines = [
        (setting, name, seed, "".join(map(str, line.astype(int))))
        for name, right in rows.items()
        for seed, line in enumerate(right)
    ]
    pd.DataFrame(lines, columns=["setting", "method", "seed", "correct"]).to_csv(folder / "correct.csv", index=False)
    seeds = [(setting, name, seed, line.mean()) for name, right in rows.items() for seed, line in enumerate(right)]
    columns = ["setting", "method", "seed", "last_accuracy"]
    pd.DataFrame(seeds, columns=columns).to_csv(folder / "seeds.csv", index=False)
    return Comparable.of(folder)


def test_a_lead_on_the_same_clips_is_told_from_one_by_luck(tmp_path):
    rng = np.random.default_rng(0)
    other = rng.uniform(size=(5, 200)) < 0.5
    better = other | (rng.uniform(size=(5, 200)) < 0.2)  # right wherever the other is, and on more clips
    rows = {"other": other, "better": better, "luck": rng.uniform(size=(5, 200)) < 0.5, "same": other}
    comparable = _comparable(tmp_path, rows)
    assert comparable.methods("standard") == list(rows) and comparable.methods("elsewhere") == []
    found = comparable.compare("standard", "other", ["better", "luck", "same"]).set_index("method")
    assert found.difference["better"] == pytest.approx(other.mean() - better.mean())
    assert found.verdict["better"].startswith("behind by")
    assert found.p_holm["better"] == pytest.approx(3 * found.p["better"])
    assert found.low["luck"] < 0 < found.high["luck"] and found.p["luck"] > 0.05
    assert found.low["same"] == found.high["same"] == 0 and found.p["same"] == 1
    assert comparable.lead("standard", "last_accuracy", "better").mean == pytest.approx(better.mean())
    for setting, row in (("standard", "nobody"), ("elsewhere", "other")):
        with pytest.raises(KeyError):
            comparable.lead(setting, "last_accuracy", "better", row)


def test_where_seeds_have_clips_of_their_own_a_lead_is_over_seeds_alone(tmp_path):
    """And so is that of every other measure: Student's t over the differences."""
    rng = np.random.default_rng(0)
    rows = {name: rng.uniform(size=(4, 50)) < share for name, share in {"a": 0.7, "b": 0.5}.items()}
    shared = _comparable(tmp_path, rows)
    apart = rows["a"].mean(1) - rows["b"].mean(1)
    half = stats.t.ppf(0.975, 3) * apart.std(ddof=1) / 2
    of_seeds = replace(shared, correct=shared.correct.iloc[:0]).lead("standard", "last_accuracy", "a", "b")
    assert of_seeds[:3] == pytest.approx((apart.mean(), apart.mean() - half, apart.mean() + half))
    assert of_seeds.seeds == 4
    other_measure = replace(shared, seeds=shared.seeds.rename(columns={"last_accuracy": "retention"}))
    assert other_measure.lead("standard", "retention", "a", "b") == of_seeds
    both = shared.lead("standard", "last_accuracy", "a", "b")
    assert both.mean == pytest.approx(of_seeds.mean) and both != of_seeds
    # a seed that only one of them was run with counts for neither
    fewer = of_seeds.seeds - 1
    without = shared.seeds.drop(index=0)
    assert Comparable(without, shared.correct.iloc[:0]).lead("standard", "last_accuracy", "a", "b").seeds == fewer


def test_rows_of_other_seeds_are_not_told_apart(tmp_path):
    """As after another `seeds`, with which not every row was run again."""
    for by_clip in (True, False):
        found = _comparable(tmp_path, {name: np.ones((3, 4), bool) for name in "ab"})
        for table in (found.seeds, found.correct):
            table.loc[table.method == "b", "seed"] += 3
        found = found if by_clip else replace(found, correct=found.correct.iloc[:0])
        (line,) = found.compare("standard", "a", ["b"]).itertuples()
        assert np.isnan(line.difference) and line.verdict == "not told apart (no seed in common)"


def test_correctness_lines_up_clips_and_seeds():
    last = {("s", "b", 1): [_after_last({"b": 1, "a": 0})], ("s", "b", 0): [_after_last({"a": 1, "b": 1})]}
    labels = {("s", 0): {"a": 1, "b": 0}, ("s", 1): {"b": 0, "a": 0}}
    worlds = {("worlds", "b", 0): [_after_last({"c": 1})]}
    found = Swept(last | worlds, {}, {}, labels)
    assert correctness(found).values.tolist() == [["s", "b", 1, "10"], ["s", "b", 0, "10"]]
    with pytest.raises(ValueError, match="s, c, seed 0: other test clips"):
        correctness(found._replace(results=last | {("s", "c", 0): [_after_last({"a": 1})]}))


def test_seeds_whose_tasks_take_other_classes_have_no_clips_in_common(tmp_path):
    last = {("s", "b", 0): [_after_last({"a": 1})], ("s", "b", 1): [_after_last({"b": 1})]}
    last |= {("t", "b", seed): [_after_last({"a": 1})] for seed in (0, 1)}
    labels = {(setting, seed): {"a": 1, "b": 1} for setting in "st" for seed in (0, 1)}
    assert correctness(Swept(last, {}, {}, labels)).values.tolist() == [["t", "b", 0, "1"], ["t", "b", 1, "1"]]
    # compared by seed, though lines of a row that was not run again stand
    shared = _comparable(tmp_path, {name: np.ones((3, 4), bool) for name in "ab"})
    of_one = replace(shared, correct=shared.correct[shared.correct.method == "a"])
    assert of_one.lead("standard", "last_accuracy", "a", "b").seeds == 3


# ---- from the files of a sweep to tables


def _write_clips(folder) -> None:
    """A manifest of two classes with a clip in each split, and the class orders of two seeds."""
    folder.mkdir(parents=True)
    rows = [(f"{c}{s}", f"{c}{s}.mp4", c, s) for c in "xy" for s in ("train", "val", "test")]
    pd.DataFrame(rows, columns=["clip_id", "path", "label", "split"]).to_csv(folder / "manifest.csv", index=False)
    write_json(folder / "orders.json", {"0": ["x", "y"], "1": ["y", "x"]})


ACCURACY = {("lll_prior", 0): 1.0, ("lll_prior", 1): 0.5, ("replay", 0): 0.5, ("replay", 1): 0.0}


def _write_sweep(artifacts, protocol: Protocol, accuracy=ACCURACY) -> None:
    """Runs of two tasks of one class, right on as many of the two test clips as ``accuracy`` says."""
    for name, setting in protocol.settings.items():
        folder = artifacts / "sweep" / name
        _write_clips(folder)
        for row in setting.rows or protocol.rows:
            for seed in setting.seeds or protocol.seeds:
                share = accuracy[row, seed]
                right = {"xtest": seed, "ytest": 1 - seed}
                predicted = {"xtest": right["xtest"] if share == 1 else 1 - right["xtest"]}
                predicted["ytest"] = right["ytest"] if share > 0 else 1 - right["ytest"]
                results = [
                    TaskResult(0, [1.0], [1], None, None, {}, 8, 0),
                    TaskResult(1, [share, share], [1, 1], None, None, predicted, 16, 0),
                ]
                kept = {"origin": {}, "seconds": 2.0, "results": [r._asdict() for r in results]}
                write_sealed(folder / row / f"seed{seed}.json", kept)


def test_the_tables_are_of_the_sweep_s_files(tmp_path):
    protocol = _protocol()
    _write_sweep(tmp_path, protocol)
    found = tables.read(tmp_path, protocol, "all")
    assert found.seconds == dict.fromkeys(found.results, 2.0)
    seeds = per_seed(frames(found.results))
    assert len(seeds) == 5 and set(seeds.memory_bytes) == {16}
    summary = summarise(seeds).set_index(["setting", "method"])
    assert summary.last_accuracy["standard", "lll_prior"] == 0.75 and summary.seeds["exemplars_1", "lll_prior"] == 1
    assert summary.forgetting_last["standard", "lll_prior"] == 0.25
    assert np.isnan(summary.localisation_hit_first_task["standard", "lll_prior"])
    correct = correctness(found)
    assert correct.columns.tolist() == ["setting", "method", "seed", "correct"] and len(correct) == 5
    tables.write(tmp_path / "metrics", found, protocol)
    pd.testing.assert_frame_equal(Comparable.of(tmp_path / "metrics").correct, correct)
    (line,) = Comparable.of(tmp_path / "metrics").compare("standard", "lll_prior", ["replay"]).itertuples()
    assert (line.method, line.difference) == ("replay", 0.5)
    assert tables.budgets(seeds, protocol, {"lll_prior": 5, "replay": 5}).empty  # two budgets are no curve
    # a clip with both labels is right whatever is said
    several = tables.multilabel_accuracy(found, {"xtest": {"x": "V", "y": "A"}})
    assert several.multilabel_accuracy.tolist() == [1.0, 1.0, 1.0, 0.5, 1.0]
    assert tables.multilabel_accuracy(found, {}).multilabel_accuracy.tolist() == [1.0, 0.5, 0.5, 0.0, 0.5]


def test_a_curve_by_memory_is_of_settings_that_change_nothing_else():
    fewer = {f"exemplars_{n}": Setting(exemplars=n, rows=["lll_prior"]) for n in (1, 20)}
    more_tasks = Setting(exemplars=3, classes_per_task=2, rows=["lll_prior"])
    protocol = _protocol(settings={"standard": Setting(), **fewer, "tasks_10": more_tasks})
    lines = [(setting, "lll_prior", 0, n / 10) for n, setting in enumerate(protocol.settings)]
    lines.append(("standard", "replay", 0, 0.5))
    seeds = pd.DataFrame(lines, columns=["setting", "method", "seed", "last_accuracy"])
    curve = tables.budgets(seeds, protocol, {"lll_prior": 5, "replay": 5})
    assert curve.exemplars.tolist() == [1, 5, 20] and curve.last_accuracy.tolist() == [0.1, 0.0, 0.2]
    assert set(curve.method) == {"lll_prior"}


def test_lines_of_rows_that_were_not_asked_for_stay(tmp_path):
    protocol, folder = _protocol(), tmp_path / "metrics"
    _write_sweep(tmp_path / "a", protocol)
    whole = tables.read(tmp_path / "a", protocol, "all")
    # a table that not every benchmark has
    tables.write(folder, whole, protocol, multilabel=tables.multilabel_accuracy(whole, {}))
    names = ("runs", "accuracy_matrix", "localisation", "seeds", "summary", "correct", "multilabel")
    before = {name: (folder / f"{name}.csv").read_bytes() for name in (*names, "curves", "cost")}
    # replay is worse now; nobody asked for lll_prior
    _write_sweep(tmp_path / "b", protocol, {**ACCURACY, ("replay", 0): 0.0, ("lll_prior", 0): 0.0})
    found = tables.read(tmp_path / "b", protocol, ["replay"])
    assert list(found.results) == [("standard", "replay", 0), ("standard", "replay", 1)]
    tables.write(folder, found, protocol, multilabel=tables.multilabel_accuracy(found, {}))
    for name in names:
        old, new = (content.decode().splitlines() for content in (before[name], (folder / f"{name}.csv").read_bytes()))
        assert [line for line in new if ",lll_prior," in line] == [line for line in old if ",lll_prior," in line], name
        keys = [[line.split(",")[: 2 + (name != "summary")] for line in table] for table in (new, old)]
        assert keys[0] == keys[1], f"{name}: other order"
    seeds = pd.read_csv(folder / "seeds.csv").set_index(["setting", "method", "seed"])
    assert seeds.last_accuracy["standard", "replay", 0] == 0 and seeds.last_accuracy["standard", "lll_prior", 0] == 1
    assert pd.read_csv(folder / "curves.csv").columns.tolist() == ["task", "lll_prior", "replay"]
    assert (folder / "cost.csv").read_bytes() == before["cost"]  # seconds of fewer rows say less
    # the same again changes no byte; the whole of it is the table that it was
    tables.write(folder, whole, protocol, multilabel=tables.multilabel_accuracy(whole, {}))
    assert {name: (folder / f"{name}.csv").read_bytes() for name in before} == before


def test_a_row_that_looks_nowhere_any_more_keeps_no_line_of_its_attention(tmp_path):
    protocol = _protocol(rows=["lll_prior"], settings={"standard": Setting()})
    before = [_result(task, [0.5] * (task + 1)) for task in range(2)]
    blind = [result._replace(hit=None, auc=None) for result in before]
    for results, lines in ((before, 3), (blind, 0)):
        tables.write(tmp_path, Swept({("standard", "lll_prior", 0): results}, {}, {}, {}), protocol)
        assert len(pd.read_csv(tmp_path / "localisation.csv")) == lines
    assert len(pd.read_csv(tmp_path / "accuracy_matrix.csv")) == 3


def test_one_s_own_row_comes_last_and_is_told_of(tmp_path):
    """The protocol does not have it: it stays only as long as it is asked for."""
    protocol = _protocol(settings={"standard": Setting()})
    results = [_result(task, [0.5] * (task + 1)) for task in range(2)]
    everyone = Swept({("standard", row, 0): results for row in ("mine", "replay", "lll_prior")}, {}, {}, {})
    tables.write(tmp_path, everyone, protocol)
    assert pd.read_csv(tmp_path / "summary.csv").method.tolist() == ["lll_prior", "replay", "mine"]
    assert set(json.loads((tmp_path / "headline.json").read_text())) == {"lll_prior", "replay", "mine"}
    tables.write(tmp_path, Swept({("standard", "lll_prior", 0): results}, {}, {}, {}), protocol)
    assert pd.read_csv(tmp_path / "summary.csv").method.tolist() == ["lll_prior", "replay"]


def test_lines_of_rows_and_settings_that_the_protocol_has_no_more_go(tmp_path):
    protocol, folder = _protocol(), tmp_path / "metrics"
    _write_sweep(tmp_path, protocol)
    tables.write(folder, tables.read(tmp_path, protocol, "all"), protocol)
    fewer = _protocol(rows=["lll_prior"], settings={"standard": Setting()})
    tables.write(folder, tables.read(tmp_path, fewer, "all"), fewer)
    for name in ("runs", "accuracy_matrix", "seeds", "summary", "correct"):
        table = pd.read_csv(folder / f"{name}.csv")
        assert set(table.setting) == {"standard"} and set(table.method) == {"lll_prior"}, name
    assert pd.read_csv(folder / "curves.csv").columns.tolist() == ["task", "lll_prior"]
    assert list(json.loads((folder / "headline.json").read_text())) == ["lll_prior"]


def test_a_table_of_other_columns_is_not_mixed_with_the_new_one(tmp_path):
    protocol, folder = _protocol(), tmp_path / "metrics"
    _write_sweep(tmp_path, protocol)
    found = tables.read(tmp_path, protocol, ["replay"])
    tables.write(folder, found, protocol)
    alone = (folder / "seeds.csv").read_bytes()
    pd.DataFrame([("standard", "lll_prior", 0.5)], columns=["setting", "method", "old"]).to_csv(folder / "seeds.csv")
    tables.write(folder, found, protocol)
    assert (folder / "seeds.csv").read_bytes() == alone


def test_a_row_that_was_not_run_with_these_tasks_is_compared_by_seed(tmp_path):
    rng = np.random.default_rng(0)
    shared = _comparable(tmp_path, {name: rng.uniform(size=(3, 4)) < 0.5 for name in "ab"})
    shorter = shared.correct.assign(correct=["11" if name == "a" else "1111" for name in shared.correct.method])
    lead = replace(shared, correct=shorter).lead("standard", "last_accuracy", "a", "b")
    assert lead == replace(shared, correct=shared.correct.iloc[:0]).lead("standard", "last_accuracy", "a", "b")
