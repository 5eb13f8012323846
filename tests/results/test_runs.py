"""The public interface: `import avcil`, `avcil.load_run`."""

import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import avcil
from avcil.base.files import write_sealed
from avcil.comparison import tables
from avcil.comparison.protocol import choices, run_folder, tasks_of
from avcil.learn import metrics
from avcil.learn.checkpoint import Checkpoint
from avcil.learn.evaluate import TaskResult
from avcil.learn.train import save_task
from avcil.params import ParameterError, load
from avcil.tokens.manifest import write_manifest, write_orders
from conftest import ROOT

# accuracy on past tasks by task learnt; the tasks have unequal numbers of clips
MATRIX, CLIPS = (
    [[0.9], [0.6, 0.8], [0.5, 0.7, 1.0], [0.4, 0.6, 0.9, 0.7], [0.3, 0.5, 0.8, 0.6, 0.5]],
    [10, 10, 20, 5, 5],
)


@pytest.fixture
def bare(tmp_path) -> Path:
    """A project in which nothing has been run."""
    shutil.copy(ROOT / "search.yaml", tmp_path)
    # whatever somebody asks for in the project itself
    text = re.sub(r"^rows: .*", "rows: headline", (ROOT / "params.yaml").read_text(), flags=re.M)
    (tmp_path / "params.yaml").write_text(text)
    (tmp_path / "dvc.yaml").touch()
    for name in ("protocols", "metrics"):
        shutil.copytree(ROOT / name, tmp_path / name)
    return tmp_path


@pytest.fixture
def run_before(bare, params) -> Path:
    """The same after a run of `replay`; seed s has lost s hundredths on every task."""
    made_from = origin_of(bare, "standard", "replay", 0)
    for seed in params.seeds:
        for task in range(5):
            accuracy = [value - 0.01 * seed for value in MATRIX[task]]
            result = TaskResult(task, accuracy, CLIPS[: task + 1], None, None, {"clip": task}, 7, 8)
            state = Checkpoint(
                {"w": torch.full((2,), float(task))}, {}, [f"c{task}"], ["clip"], made_from | {"seed": seed}
            )
            save_task(bare / f"artifacts/runs/others/replay/task{task}/seed{seed}", state, result)
    return bare


def origin_of(root: Path, setting: str, row: str, seed: int, benchmark: str = "sounding_objects") -> dict:
    """What a sweep's file says that it was learnt from."""
    params = load(root / "params.yaml")
    protocol, order = params.protocols[benchmark], [f"c{number}" for number in range(28 if benchmark == "ave" else 20)]
    method, training = (section.model_dump(mode="json") for section in choices(params, protocol, setting, row))
    tasks = [task.model_dump(by_alias=True) for task in tasks_of(protocol, setting, row, len(order))]
    return {"method": method, "training": training, "seed": seed, "tasks": tasks, "order": order}


def _modules(code: str) -> set[str]:
    code += "; import sys; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_importing_is_light():
    loaded = _modules("import avcil")
    assert not {"torch", "numpy", "pandas"} & loaded and "avcil.results.runs" not in loaded
    loaded = _modules("import avcil.kernels")
    assert "torch" in loaded and not {"pandas", "pydantic", "avcil.results.runs", "avcil.params"} & loaded
    assert "load_run" in dir(avcil)
    with pytest.raises(AttributeError, match="no attribute `lode_run`"):
        avcil.lode_run  # noqa: B018


def test_a_run_from_artifacts(run_before, params):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = avcil.load_run("replay", root=run_before)
    assert run.seeds == params.seeds and run.note == ""
    wanted = np.full((5, 5), np.nan)
    for t, row in enumerate(MATRIX):
        wanted[t, : t + 1] = row
    np.testing.assert_allclose(run.accuracy(0), wanted)
    np.testing.assert_allclose(run.accuracy(2), wanted - 0.02)
    assert list(run.accuracy(0).index) == list(run.accuracy(0).columns) == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(run.matrix.mean, wanted - 0.02)
    np.testing.assert_allclose(run.matrix.std.loc[4, 0], 0.01 * np.std(params.seeds, ddof=1))
    assert run.measures.last_accuracy[0] == pytest.approx(np.average(MATRIX[4], weights=CLIPS))
    assert run.measures.forgetting_last[1] == pytest.approx(metrics.forgetting_last(wanted))
    assert run.results[2][3].predictions == {"clip": 3}
    checkpoint = run.checkpoint(task=3, seed=1)
    assert checkpoint.model["w"].tolist() == [3, 3] and checkpoint.origin["seed"] == 1
    assert len(run.checkpoints) == 5 * len(params.seeds)
    with pytest.raises(KeyError, match="after task 9 with seed 0"):
        run.checkpoint(task=9, seed=0)
    with pytest.raises(KeyError, match="no seed 7"):
        run.accuracy(7)


def test_without_artifacts_the_committed_metrics_speak(bare):
    with pytest.warns(
        UserWarning, match=r"^from metrics/ alone: artifacts/\S+: no results of seed 0; `dvc repro`"
    ) as told:
        run = avcil.load_run("lll_prior", root=bare)
    assert len(told) == 1 and "\n" not in run.note and run.note in repr(run) and not run.results
    summary = pd.read_csv(ROOT / "metrics/summary.csv").set_index(["setting", "method"]).loc["standard", "lll_prior"]
    for measure in ("average_accuracy", "last_accuracy", "forgetting_mean", "forgetting_last", "plasticity"):
        assert run.measures[measure].mean() == pytest.approx(summary[measure], abs=2e-4)
        assert run.measures[measure].std() == pytest.approx(summary[f"{measure}_std"], abs=2e-4)
    assert run.measures.localisation_hit_first_task.mean() == pytest.approx(
        summary.localisation_hit_first_task, abs=2e-4
    )
    with pytest.raises(KeyError, match="`dvc repro` gives predictions and checkpoints"):
        run.checkpoint(task=0, seed=0)


def test_metrics_do_not_assume_tasks_of_equal_size(run_before, params):
    """Last accuracy weighs tasks by their clips, which metrics/ does not hold."""
    from avcil.comparison import tables

    whole = avcil.load_run("replay", root=run_before)
    results = {("standard", "replay", seed): by_task for seed, by_task in whole.results.items()}
    tables.write(run_before / "metrics", tables.Swept(results, {}, {}, {}), params.protocol())
    shutil.rmtree(run_before / "artifacts")
    with pytest.warns(UserWarning):
        rounded = avcil.load_run("replay", root=run_before)
    pd.testing.assert_frame_equal(rounded.measures, whole.measures, atol=2e-4, rtol=0)


def test_tasks_that_a_longer_sequence_left_are_none_of_the_run(run_before, params):
    splits = run_before / "artifacts/splits"
    splits.mkdir()
    clips = [(f"{split}.mp4", f"{split}.mp4", "barking", split) for split in ("train", "test")]
    write_manifest(splits / "manifest.csv", pd.DataFrame(clips, columns=["clip_id", "path", "label", "split"]))
    write_orders(splits / "orders.json", {0: ["barking"]})
    protocol = params.protocol()
    protocol = protocol.model_copy(update={"settings": {"standard": protocol.settings["standard"]}, "seeds": [0]})
    for tasks in (5, 4):
        shorter = protocol.model_copy(update={"classes_per_task": [4] * tasks})
        found = tables.read(run_before / "artifacts", shorter, ["replay"]).results["standard", "replay", 0]
        assert [result.task for result in found] == [*range(tasks)]


def test_half_a_run_is_not_taken_for_a_whole_one(run_before):
    (run_before / "artifacts/runs/others/replay/task4/seed1/result.json").unlink()
    with pytest.warns(UserWarning, match="alone: artifacts/runs/others/replay/task4/seed1/result.json: damaged"):
        assert avcil.load_run("replay", root=run_before).results == {}


def test_it_is_found_from_a_folder_of_the_project(run_before, params, monkeypatch):
    monkeypatch.chdir(run_before / "metrics")
    assert avcil.load_run("replay").seeds == params.seeds


def test_a_run_that_keeps_no_checkpoints_is_read_from_its_file(bare, params):
    """A row in another setting than the first: `artifacts/sweep/<setting>/<row>/seed<s>.json`."""
    seeds = params.seeds
    for seed in seeds:
        results = [TaskResult(t, MATRIX[t], CLIPS[: t + 1], None, None, {"clip": seed}, 7, 8) for t in range(5)]
        kept = {"origin": origin_of(bare, "exemplars_1", "replay", seed), "seconds": 1.0}
        kept["results"] = [result._asdict() for result in results]
        write_sealed(bare / f"artifacts/sweep/exemplars_1/replay/seed{seed}.json", kept)
    run = avcil.load_run("replay", "exemplars_1", root=bare)
    assert (run.seeds, run.setting, run.note, run.checkpoints) == (seeds, "exemplars_1", "", {})
    assert run.results[seeds[1]][3].predictions == {"clip": seeds[1]}
    with pytest.raises(KeyError, match="none are kept of the setting `exemplars_1`; take the first one's"):
        run.checkpoint(0, seeds[0])
    assert run.measures.last_accuracy[seeds[0]] == pytest.approx(np.average(MATRIX[4], weights=CLIPS))
    # in the setting that was not run here, the committed tables speak
    with pytest.warns(UserWarning, match="from metrics/ alone"):
        assert avcil.load_run("replay", root=bare).results == {}


def test_of_an_imported_benchmark_all_is_its_own(bare):
    """Place, seeds and tasks: AVE has its own of each."""
    learnt, seeds, tasks = bare / "imports/ave/results/sweep/standard/lwf", [0, 1, 2], 4
    for seed in seeds:
        results = [TaskResult(t, MATRIX[t], CLIPS[: t + 1], None, None, {"clip": seed}, 7, 8) for t in range(tasks)]
        kept = {"origin": origin_of(bare, "standard", "lwf", seed, "ave"), "seconds": 1.0}
        write_sealed(learnt / f"seed{seed}.json", kept | {"results": [result._asdict() for result in results]})
        for result in results:
            save_task(learnt / f"task{result.task}/seed{seed}", Checkpoint({}, {}, [], [], {}), result)
    run = avcil.load_run("lwf", benchmark="ave", root=bare)
    assert run.seeds == seeds and sorted(run.checkpoints) == [(seed, task) for seed in seeds for task in range(tasks)]


@pytest.mark.filterwarnings("ignore:from metrics/ alone")
def test_runs_of_an_experiment_that_was_taken_back_are_not_taken_for_these(bare, params):
    for seed in params.seeds:
        origin = origin_of(bare, "standard", "ridge", seed)
        results = [
            TaskResult(t, MATRIX[t], CLIPS[: t + 1], None, None, {"clip": seed}, 7, 8)._asdict() for t in range(5)
        ]
        file = bare / f"artifacts/sweep/standard/ridge/seed{seed}.json"
        write_sealed(file, {"origin": origin, "seconds": 1.0, "results": results})
    assert avcil.load_run("ridge", root=bare).results
    origin["training"] |= {"ridge_penalty": 3.0}
    write_sealed(file, {"origin": origin, "seconds": 1.0, "results": results})
    run = avcil.load_run("ridge", root=bare)
    assert not run.results and f"seed{seed}.json: learnt with another training; `dvc repro` gives" in run.note
    with pytest.raises(ValueError, match=rf"seed{seed}\.json: learnt with another training; `dvc repro --force sweep`"):
        tables.read(bare / "artifacts", params.protocol(), ["ridge"], params)


@pytest.mark.filterwarnings("ignore:from metrics/ alone")
@pytest.mark.parametrize("changed", ["sequence of tasks", "class order"])
def test_nor_are_those_of_a_protocol_that_was_changed(bare, params, changed):
    """A row that was not learnt again stood beside those of other tasks, or of another class order."""
    for seed in params.seeds:
        results = [TaskResult(t, MATRIX[t], CLIPS[: t + 1], None, None, {}, 7, 8)._asdict() for t in range(5)]
        file = bare / f"artifacts/sweep/standard/ridge/seed{seed}.json"
        kept = {"origin": origin_of(bare, "standard", "ridge", seed), "seconds": 1.0, "results": results}
        write_sealed(file, kept)
    order = kept["origin"]["order"]
    write_orders(bare / "artifacts/sweep/standard/orders.json", {params.seeds[0]: order})
    assert avcil.load_run("ridge", root=bare).results
    if changed == "class order":
        write_orders(bare / "artifacts/sweep/standard/orders.json", {seed: order[::-1]})
    else:
        prescribed = bare / f"protocols/{params.benchmark}.yaml"
        prescribed.write_text(f"classes_per_task: 10\nepochs: {params.tasks[0].epochs}\n{prescribed.read_text()}")
    assert not avcil.load_run("ridge", root=bare).results
    changed_params = load(bare / "params.yaml")
    with pytest.raises(ValueError, match=rf"\.json: learnt with another {changed}; "):
        tables.run_of(bare / "artifacts", ("standard", "ridge", seed), changed_params.protocol(), changed_params)


@pytest.mark.filterwarnings("ignore:from metrics/ alone")
def test_nor_are_those_of_a_chain(run_before, params):
    """Where params.yaml was taken back by git, and what it made not by DVC."""
    file = run_before / "params.yaml"
    file.write_text(file.read_text().replace("later_learning_rate: 1.0", "later_learning_rate: 1.5"))
    run = avcil.load_run("replay", root=run_before)
    assert not run.results and "replay/task0/seed0/checkpoint.json: learnt with another training" in run.note


def test_an_unknown_run_names_the_nearest(bare):
    with pytest.raises(ParameterError, match="did you mean `replay`"):
        avcil.load_run("repaly", root=bare)
    with pytest.raises(ParameterError, match=r"no setting `world` in protocols/.*did you mean `worlds`"):
        avcil.load_run("replay", "world", root=bare)


@pytest.mark.filterwarnings("ignore:from metrics/ alone")
def test_a_row_that_was_not_run_in_a_setting_is_one_clear_line(bare):
    with pytest.raises(
        FileNotFoundError, match="no run of `acil` in `exemplars_1`; a line of `exemplars_1` in protocols/"
    ):
        avcil.load_run("acil", "exemplars_1", root=bare)


@pytest.mark.filterwarnings("ignore:from metrics/ alone")
def test_what_is_to_be_run_learns_what_is_missing(bare):
    """`dvc repro` by itself learns the headline in the first setting, and checkpoints are kept there alone."""
    note = {
        key: avcil.load_run(*key, root=bare).note.split("; ")[1] for key in [("avcil",), ("ridge",), ("lll", "worlds")]
    }
    assert note["ridge",] == "`dvc repro` gives predictions and checkpoints"
    assert note["avcil",] == "`dvc repro` with `rows: [avcil]` gives predictions and checkpoints"
    assert note["lll", "worlds"] == "`dvc repro` with `rows: [lll]` gives predictions"
    # asked for already, as after `dvc exp apply` or in a clone: DVC finds nothing changed, and has no such runs to give
    file = bare / "params.yaml"
    file.write_text(file.read_text().replace("rows: headline", "rows: [avcil, ridge]", 1))
    again = {row: avcil.load_run(row, root=bare).note.split("; ")[1] for row in ("avcil", "ridge")}
    assert again["avcil"] == "`dvc repro --force sweep` gives predictions and checkpoints"
    assert again["ridge"] == "`dvc repro` gives predictions and checkpoints"


def test_checkpoints_of_the_chain_and_of_the_headline_are_found_where_dvc_has_them(tmp_path):
    """Others stand beside their results."""
    assert run_folder(tmp_path, "replay", 2, 1) == tmp_path / "sweep/standard/replay/task2/seed1"
    for made in ("runs/lll_prior", "runs/others/lll_prior", "runs/others/replay"):
        (tmp_path / made).mkdir(parents=True)
    assert run_folder(tmp_path, "lll_prior", 2, 1) == tmp_path / "runs/lll_prior/task2/seed1"
    assert run_folder(tmp_path, "replay", 2, 1) == tmp_path / "runs/others/replay/task2/seed1"
    assert run_folder(tmp_path, "acil", 2, 1) == tmp_path / "sweep/standard/acil/task2/seed1"
    assert run_folder(tmp_path, "lll_prior", 2, 1, "tasks_10") == tmp_path / "sweep/tasks_10/lll_prior/task2/seed1"


def test_what_is_shown(run_before, params):
    run = avcil.load_run("replay", root=run_before)
    assert repr(run).startswith(f"replay (`replay`): {len(params.seeds)} seeds, 5 tasks; percent")
    assert "last_accuracy" in repr(run) and "28.0 ± 1.6" in repr(run.matrix)
    shown = run._repr_html_()
    assert "<h4>replay (replay)</h4>" in shown and shown.count("<table") == 2 and "28.0 ± 1.6" in shown
    # no cell above the diagonal
    assert run.matrix._repr_html_().count("±") == 15
