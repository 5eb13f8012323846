"""The playground: what widgets change, what is refused in one line, and that a row taken from it is the row tried."""

import asyncio
import base64
import html
import io
import json
import re
import shlex
import shutil
import threading
import time
import wave
from itertools import pairwise

import av
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from dvc.utils.hydra import apply_overrides
from media import tone, write
from PIL import Image

from avcil.extraction.clips import Clip, read_clip
from avcil.learn.checkpoint import EMPTY, Checkpoint, save_checkpoint
from avcil.learn.evaluate import TaskResult
from avcil.learn.train import run_task, run_tasks
from avcil.params import Params, load, parse, whole
from avcil.params.learning import Method, Training
from avcil.results import plots_explore
from avcil.tokens.dataset import Dataset
from avcil.tokens.manifest import class_index, class_order, read_manifest
from avcil.workshop import explore
from avcil.workshop.explore import training
from avcil.workshop.explore.answers import answer, prior_attention
from avcil.workshop.explore.clip import UPLOAD
from avcil.workshop.explore.faces import cut_out
from avcil.workshop.explore.panel import VEGA, Checks
from avcil.workshop.explore.playback import AttentionMaps, film, wav
from avcil.workshop.explore.results import class_accuracy, measures_over_seeds, task_confusion
from avcil.workshop.explore.rows import LiveRun
from avcil.workshop.explore.training import Trainer
from conftest import ROOT, toy_dataset


@pytest.fixture
def places(tmp_path):
    """A fresh clone: nothing has been made yet."""
    return explore.Places(
        metrics=ROOT / "metrics",
        artifacts=tmp_path / "artifacts",
        features=tmp_path / "features",
        splits=tmp_path / "splits",
        corpus=ROOT / "corpus/sounding_objects",
        prior=ROOT / "prior/mini-0.safetensors",
    )


@pytest.fixture(scope="module")
def toy_raw(raw_params):
    """params.yaml with three tasks of two classes, as the toy data has them."""
    raw = json.loads(json.dumps(raw_params))
    raw["tasks"] = [{**task, "classes": 2, "epochs": 3} for task in raw["tasks"][:3]]
    raw["training"] |= {"width": 16, "heads": 2, "batch": 8}
    return raw


ABOUT = "about: {name: my_row, family: own}"


class Toy(Trainer):
    """A trainer whose tokens are the toy's."""

    def _missing(self, tokens):
        return ""

    def _dataset(self, tokens, seed):
        return toy_dataset()


@pytest.fixture
def trainer(places, toy_raw):
    return Toy(places, parse(toy_raw), toy_raw)


async def _pressed(trainer):
    trainer.train.click()
    await trainer.job


def figure(area) -> dict | None:
    """The Vega-Lite figure that stands there."""
    return area.outputs[0]["data"][VEGA] if area.outputs else None


def values(drawn: dict) -> pd.DataFrame:
    """What is drawn; JSON, to the last number."""
    return pd.DataFrame(json.loads(json.dumps(drawn["data"]["values"], allow_nan=False)))


# ---- results


def test_results_need_nothing_but_metrics(places, params):
    panel = explore.Results(places, params)
    summary = pd.read_csv(ROOT / "metrics/summary.csv").query("setting == 'standard'").set_index("method")
    shown = panel.numbers
    for name in ("average_accuracy", "last_accuracy", "forgetting_mean", "forgetting_last", "plasticity"):
        for column in (name, f"{name}_std"):
            assert (shown[column] - summary.loc[shown.index, column]).abs().max() < 2e-4
    assert "dvc repro" in panel.more.value and not panel.classes.outputs
    drawn = values(figure(panel.ranking)).set_index("method")
    assert list(drawn.index) == list(shown.index) and (drawn.plasticity - shown.plasticity).abs().max() < 1e-4
    ends = values(figure(panel.curves)).query("task == 4").set_index("method")
    assert (ends.accuracy - shown.last_accuracy).abs().max() < 1e-4


@pytest.mark.slow
def test_every_widget_of_the_results_changes_figures_and_numbers(places, params):
    panel = explore.Results(places, params)
    for change in (
        lambda: setattr(panel.task, "value", 2),
        lambda: setattr(panel.seeds, "value", (0,)),
        lambda: setattr(panel.methods, "value", ("lll_prior", "ridge")),
    ):
        areas = (panel.curves, panel.matrices, panel.balance, panel.ranking)
        figures = [figure(area) for area in areas]
        numbers, words = panel.numbers, panel.table.value
        change()
        assert all(figure(area) != old for area, old in zip(areas, figures, strict=True))
        assert not panel.numbers.equals(numbers) and panel.table.value != words
    runs = pd.read_csv(ROOT / "metrics/runs.csv").query(
        "setting == 'standard' and method == 'ridge' and seed == 0 and task == 2"
    )
    assert panel.numbers.loc["ridge", "last_accuracy"] == runs.accuracy.item()
    panel.methods.value = ()
    assert "choose at least one row" in panel.note.value


def test_names_are_ticked_one_by_one_and_all_unticked():
    names = Checks("rows", [("first", "a"), ("second", "b"), ("third", "c")], ("c", "a"), height=100)
    assert names.value == ("a", "c") and [box.value for box in names.boxes.children] == [True, False, True]
    values = []
    names.observe(lambda change: values.append(change.new), "value")
    names.boxes.children[1].value = True
    names.options = [("third", "c"), ("fourth", "d")]
    assert names.value == ("c",) and [box.description for box in names.boxes.children] == ["third", "fourth"]
    names.boxes.children[1].value = True
    names.none.click()
    assert values == [("a", "b", "c"), ("c",), ("c", "d"), ()] and not any(b.value for b in names.boxes.children)


def test_measures_of_a_matrix_made_by_hand():
    runs = pd.DataFrame({"setting": "s", "method": "a", "seed": 0, "task": [0, 1], "accuracy": [1.0, 0.6]})
    cells = {
        "setting": "s",
        "method": "a",
        "seed": 0,
        "task": [0, 1, 1],
        "on_task": [0, 0, 1],
        "accuracy": [1.0, 0.4, 0.8],
    }
    found = measures_over_seeds(runs, pd.DataFrame(cells)).loc["a"]
    assert found.average_accuracy == pytest.approx(0.8) and found.last_accuracy == 0.6
    assert found.forgetting_last == pytest.approx(0.6) and found.plasticity == pytest.approx(0.9)


def test_classes_and_confusion_made_by_hand():
    labels = pd.Series({"x": 0, "y": 1, "z": 2, "w": 3})
    predictions = [{"x": 0, "y": 0}, {"x": 2, "y": 1, "z": 2, "w": 1}]
    table = class_accuracy(predictions, labels)
    assert table[0].tolist()[:2] == [1, 0] and table[0].isna().tolist() == [False, False, True, True]
    assert table[1].tolist() == [0, 1, 1, 0]
    assert task_confusion(predictions[1], labels, [2, 2]).tolist() == [[0.5, 0.5], [0.5, 0.5]]


def test_what_is_stored_of_a_panel_is_one_line_and_a_picture(places, params):
    panel = explore.Results(places, params)
    # rows of one's own are shown too
    rows = pd.read_csv(ROOT / "metrics/summary.csv").query("setting == 'standard'").method.nunique()
    stored = panel._repr_mimebundle_()
    assert stored["text/plain"] == f"Results: {rows} rows, {len(params.seeds)} seeds, 5 tasks of sounding_objects"
    whole = Image.open(io.BytesIO(base64.b64decode(stored["image/png"])))
    assert whole.width > 400 and whole.getpixel((0, 0)) == (255, 243, 205)
    assert "application/vnd.jupyter.widget-view+json" in stored


def test_a_trainer_beside_no_stored_row_stores_no_picture(trainer):
    assert "image/png" in trainer._repr_mimebundle_()
    trainer.beside.value = ()
    assert "image/png" not in trainer._repr_mimebundle_()


def test_one_line_says_what_a_reload_does(capsys, monkeypatch):
    monkeypatch.delenv("SERVER_SOFTWARE", raising=False)
    explore.print_hint()
    assert "Run All Cells" in capsys.readouterr().out
    monkeypatch.setenv("SERVER_SOFTWARE", "voila/0.5.13")
    explore.print_hint()
    assert "starts over" in capsys.readouterr().out


TASKS = {"tasks_10": 10, "tasks_2": 2, "worlds_no_twins": 10}


@pytest.mark.slow
def test_results_are_browsed_setting_by_setting(places, params):
    panel = explore.Results(places, params)
    numbers, words, curves = panel.numbers, panel.table.value, figure(panel.curves)
    summary = pd.read_csv(ROOT / "metrics/summary.csv").set_index(["setting", "method"])
    settings = [setting for _, setting in panel.source.options]
    assert settings == list(params.protocol().settings)
    for setting in settings:
        panel.source.value = setting
        names = [name for _, name in panel.methods.options]
        assert set(names) == set(summary.loc[setting].index)
        panel.methods.value = some = names[::8]  # a figure of all takes a second
        stored = summary.loc[setting].loc[some]
        for column in panel.numbers:
            assert (panel.numbers[column] - stored[column]).abs().max() < 2e-4
        of = params.protocol().settings[setting]
        assert [seed for _, seed in panel.seeds.options] == (of.seeds or params.seeds)
        assert panel.task.value == panel.task.max == TASKS.get(setting, 5) - 1
    panel.methods.value, one = ("lll_prior",), figure(panel.curves)
    panel.seeds.value = (seed := panel.seeds.options[0][1],)
    runs = pd.read_csv(ROOT / "metrics/seeds.csv").set_index(["setting", "method", "seed"])
    shown = panel.numbers.loc["lll_prior", "last_accuracy"]
    assert shown == runs.last_accuracy[setting, "lll_prior", seed] and figure(panel.curves) != one
    panel.source.value = panel.source.options[0][1]
    panel.methods.value = list(numbers.index)
    assert panel.numbers.equals(numbers) and panel.table.value == words and figure(panel.curves) == curves


def test_rows_that_a_setting_lacks_leave_the_choice(places, params):
    panel = explore.Results(places, params)
    assert "finetune" in panel.methods.value
    panel.source.value = "tasks_10"
    assert panel.methods.value == ("lll_prior", "naive_fusion", "replay") == tuple(panel.numbers.index)


def test_what_was_not_run_cannot_be_chosen(places, params, tmp_path):
    for name in ("runs.csv", "accuracy_matrix.csv"):
        table = pd.read_csv(ROOT / "metrics" / name)
        table = table[(table.setting == "standard") & (table.method != "replay")]
        table.to_csv(tmp_path / name, index=False)
    panel = explore.Results(places._replace(metrics=tmp_path), params)
    assert [setting for _, setting in panel.source.options] == ["standard"]
    names = [name for _, name in panel.methods.options]
    assert names == [name for name in params.methods if name in set(table.method)] and "replay" not in names


def test_without_metrics_one_line_says_how_to_get_them(places, params, tmp_path):
    with pytest.raises(ValueError, match=r"runs\.csv: not there; `git checkout metrics`") as error:
        explore.Results(places._replace(metrics=tmp_path), params)
    assert "\n" not in str(error.value)


# ---- training


def _all_right(params, live, name="mine", tasks=2):
    """A run of seed 1, kept, that errs nowhere on the shipped test clips."""
    table = read_manifest(ROOT / "corpus/sounding_objects/manifest.csv")
    labels = class_index(table, class_order(table, 1))
    run = LiveRun(None, params.methods["lll_prior"], params.training, params.tasks, 1, name=name)
    for task in range(tasks):
        sizes = [t.classes for t in params.tasks[: task + 1]]
        right = {
            clip: int(label)
            for clip, label, split in zip(table.clip_id, labels, table.split, strict=True)
            if split == "test" and label < sum(sizes)
        }
        run.results.append(TaskResult(task, [1.0] * len(sizes), [20 * n for n in sizes], None, None, right, 0, 0))
    live.keep(run)


def test_a_row_trained_live_joins_the_results(places, params):
    live = explore.LiveRuns()
    panel = explore.Results(places, params, live)
    before = panel.methods.value
    _all_right(params, live)
    assert panel.methods.value == (*before, "mine") and panel.methods.options[-1] == ("mine (live)", "mine")
    assert panel.numbers.last_accuracy["mine"] == 1.0 and "mine (live)" in panel.table.value
    panel.detail.value = "mine"
    assert panel.classes.outputs and panel.by_class.loc[7, 1] == 1.0 and (panel.confusion == np.eye(2)).all()
    drawn = values(figure(panel.classes)["hconcat"][0])
    first = drawn.drop_duplicates("class").set_index("class")
    assert first.face.to_dict() == {label: panel.faces[label] for label in first.index}
    assert drawn.face.notna().sum() == len(first) == 8 and (drawn.accuracy == 1).all()
    # it was trained with one seed alone
    panel.seeds.value = tuple(seed for seed in params.seeds if seed != live.runs["mine"].seed)
    assert "mine" not in panel.numbers.index and list(panel.numbers.index) == [*before]
    shown = panel.table.value
    panel.methods.value = ("mine",)
    assert "none of these rows was learnt with these seeds" in panel.note.value and panel.table.value == shown
    panel.seeds.value = ()
    panel.detail.value = before[-1]  # classes of what is shown still
    panel.seeds.value, panel.methods.value = tuple(params.seeds), (*before, "mine")
    panel.source.value = "exemplars_1"
    assert "mine" not in panel.methods.value
    assert "predictions are kept of runs in `standard` alone" in panel.more.value
    panel.source.value = "standard"
    _all_right(params, live, "another", tasks=1)
    assert {"mine", "another"} < {name for _, name in panel.methods.options}
    # a panel that is made later has them too
    assert "another" in explore.Results(places, params, live).methods.value


def test_classes_without_clips_are_shown_by_their_names(places, params, tmp_path):
    """As of tokens that were imported."""
    shutil.copy(places.corpus / "manifest.csv", tmp_path)
    live = explore.LiveRuns()
    _all_right(params, live)
    panel = explore.Results(places._replace(corpus=tmp_path), params, live)
    panel.detail.value = "mine"
    assert set(values(figure(panel.classes)["hconcat"][0]).face.dropna()) == {""}


def test_a_live_run_gives_the_bits_of_the_pipeline(toy, trainer):
    method = trainer.params.methods["lll_prior"]
    expected = run_tasks(toy, method, trainer.params.training, trainer.params.tasks, 0, None)
    learning = LiveRun(toy, method, trainer.params.training, trainer.params.tasks, 0)
    thread = threading.Thread(target=learning.run)
    thread.start()
    thread.join()
    assert learning.results == expected and learning.share == 1.0
    assert [(loss["task"], loss["epoch"]) for loss in learning.losses] == [(t, e) for t in range(3) for e in range(3)]
    *_, losses = run_task(toy, method, trainer.params.training, trainer.params.tasks, 0, 0, EMPTY)
    assert learning.losses[:3] == [{"task": 0, "epoch": epoch} | values for epoch, values in enumerate(losses)]


@pytest.fixture
def drawings(monkeypatch) -> list[tuple[float, int]]:
    """Of each figure of losses: when it was drawn, and how many epochs it has."""
    drawn, draw = [], plots_explore.live_losses

    def live_losses(losses):
        drawn.append((time.monotonic(), len(losses)))
        return draw(losses)

    monkeypatch.setattr(plots_explore, "live_losses", live_losses)
    return drawn


def test_losses_grow_while_a_task_is_learnt_once_a_second(trainer, drawings, monkeypatch):
    monkeypatch.setattr(training, "DRAW", 0.2)
    trainer.epochs.value = 1000
    assert trainer.losses.layout.display == "none"

    async def scenario():
        trainer.train.click()
        while len(drawings) < 3:
            await asyncio.sleep(0.01)
        said, learnt = trainer.status.value, len(trainer.learning.results)
        assert len(values(figure(trainer.losses))) == drawings[-1][1] and trainer.losses.layout.display is None
        trainer.stop.click()
        await trainer.job
        return said, learnt

    said, learnt = asyncio.run(asyncio.wait_for(scenario(), 60))
    epochs = [count for _, count in drawings]
    assert learnt == 0 and epochs[0] < epochs[1] < epochs[2] <= epochs[-1] == len(trainer.learning.losses)
    *during, _ = drawings  # the end is always drawn
    assert all(later - sooner >= 0.2 for (sooner, _), (later, _) in pairwise(during))
    assert int(re.search(r"task 0 of 0 to 2, epoch (\d+) of 1000", said)[1]) in range(1, epochs[-1] + 1)


def test_validation_accuracy_is_drawn_beside_the_losses_not_among_them():
    losses = pd.DataFrame({"task": 0, "epoch": [0, 1], "cross_entropy": [2.0, 1.0], "validation_accuracy": [0.5, 0.75]})
    _, lines, scored = plots_explore.live_losses(losses)["layer"]
    assert lines["transform"][0]["fold"] == ["cross_entropy"]
    assert scored["encoding"]["y"]["field"] == "validation_accuracy"
    assert len(plots_explore.live_losses(losses.drop(columns="validation_accuracy"))["layer"]) == 2


def test_a_solved_row_has_no_losses_to_draw(trainer):
    trainer.base.value = "ridge"
    asyncio.run(_pressed(trainer))
    assert len(trainer.numbers) == 3 and not trainer.losses.outputs and trainer.losses.layout.display == "none"


def test_train_draws_tells_and_gives_the_row(trainer):
    trainer.parts["fusion"].value = "mean"
    trainer.parts["logit_distillation"].value = 0.5
    asyncio.run(_pressed(trainer))
    drawn = values(figure(trainer.curves)).query("row == 'this run'")
    assert drawn.accuracy.tolist() == trainer.numbers.accuracy.tolist() and trainer.bar.value == 1.0
    runs = pd.read_csv(ROOT / "metrics/runs.csv").query("setting == 'standard' and method == 'lll_prior' and seed == 0")
    stored = runs[runs.task == 2].accuracy.item()
    told = re.search(
        r"after task 2: ([\d.]+) % of clips right; stored, seed 0: lll_prior ([\d.]+), replay", trainer.status.value
    )
    assert float(told[1]) == pytest.approx(100 * trainer.numbers.accuracy.iloc[-1], abs=0.051)
    assert float(told[2]) == pytest.approx(100 * stored, abs=0.051)
    assert list(trainer.numbers.task) == [0, 1, 2]
    assert trainer.row == f"  my_row: {{<<: *lll_prior, {ABOUT}, fusion: mean, logit_distillation: 0.5}}"
    assert trainer.command == "dvc exp run -n my_row -S 'rows=[my_row]' ablations"
    assert "fusion: mean" in trainer.saved.value and html.escape(trainer.command) in trainer.saved.value
    assert not trainer.train.disabled and trainer.stop.disabled
    run = trainer.live.runs["my_row"]
    assert run.results and len(run.checkpoints) == len(run.results) == 3


def test_training_is_interrupted_between_two_steps(trainer):
    trainer.epochs.value = 1000

    async def scenario():
        trainer.train.click()
        assert trainer.train.disabled
        while not (trainer.learning and trainer.learning.share):
            await asyncio.sleep(0.01)
        assert not trainer.stop.disabled
        trainer.stop.click()
        learnt = len(trainer.learning.losses)
        await trainer.job
        return len(trainer.learning.losses) - learnt

    # the step in progress may have been an epoch's last
    assert asyncio.run(scenario()) <= 1
    assert len(trainer.learning.results) < 3 and "stopped" in trainer.status.value
    assert not trainer.train.disabled
    trainer.epochs.value = 1
    asyncio.run(_pressed(trainer))
    assert len(trainer.numbers) == 3 and "stopped" not in trainer.status.value


def test_a_stopped_run_leaves_no_hook_behind(toy, trainer):
    learning = LiveRun(toy, trainer.params.methods["lll_prior"], trainer.params.training, trainer.params.tasks, 0)
    learning.stopped.set()
    learning.run()
    assert learning.results == []
    weight = torch.nn.Parameter(torch.ones(1))
    weight.grad = torch.ones(1)
    torch.optim.SGD([weight], 0.1).step()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"readout": "carried_ridge", "restart": True}, "carried_ridge has nothing to carry with restart: true"),
        ({"restart": True, "readout": "carried_ridge"}, "nothing to carry with restart"),
        ({"exemplars": -1}, "params.yaml: methods.my_row.exemplars: Input should be greater than or equal to 0"),
        ({"prior_guidance": -1.0}, "prior_guidance: Input should be greater than or equal to 0"),
    ],
)
def test_an_impossible_row_is_one_line_and_cannot_be_trained(trainer, changes, message):
    for name, value in changes.items():
        trainer.parts[name].value = value
    assert message in trainer.status.value and "\n" not in trainer.status.value
    assert trainer.train.disabled
    trainer.train.click()
    assert trainer.job is None and trainer.learning is None


def test_shared_numbers_and_names_are_checked_too(trainer):
    trainer.shared["temperature"].value = 0.0
    assert "training.temperature: Input should be greater than 0" in trainer.status.value
    trainer.shared["temperature"].value = 2.0
    for name in ("replay", "lll_prior", "my row", "null", ""):
        trainer.name.value = name
        assert trainer.train.disabled and f"name: `{name}` is" in trainer.status.value
    trainer.name.value = "free_name"
    assert not trainer.train.disabled


def test_what_run_task_refuses_is_one_line(trainer, monkeypatch):
    def refuse(*_):
        raise ValueError("no store\nof that name")

    monkeypatch.setattr(trainer, "_dataset", refuse)
    asyncio.run(_pressed(trainer))
    assert "no store of that name" in trainer.status.value and not trainer.train.disabled


def test_without_features_one_line_says_what_dvc_repro_brings(places, params):
    panel = explore.Trainer(places, params, whole(ROOT / "params.yaml"))
    assert panel.train.disabled and "`dvc repro features`" in panel.status.value


@pytest.fixture
def panel(places, params, raw_params, tmp_path, monkeypatch):
    """A trainer of the project's own rows, and params.yaml with what stands beside it in a folder of their own."""
    shutil.copytree(ROOT / "protocols", tmp_path / "protocols")
    shutil.copy(ROOT / "search.yaml", tmp_path)
    monkeypatch.setattr(Trainer, "_missing", lambda *_: "")
    return explore.Trainer(places, params, raw_params)


@pytest.mark.parametrize("base", ["lll_prior", "replay", "joint_guided", "avcil", "acil_guided", "lll_analytic"])
def test_the_row_goes_through_params_yaml_unchanged(panel, params, tmp_path, base):
    text = (ROOT / "params.yaml").read_text()
    panel.base.value = base
    panel.parts["exemplars"].value = 3
    file = tmp_path / "params.yaml"
    file.write_text(f"{text.rstrip()}\n{panel.row}\n")  # methods are the last section
    now = load(file)
    mine = now.methods["my_row"]
    assert mine.model_dump() == params.methods[base].model_dump() | {"exemplars": 3}
    assert (mine.about.name, mine.about.family) == ("my_row", "own")
    assert now.model_copy(update={"methods": params.methods}) == params


def _on_screen(widget) -> list:
    """The widget and all below it, folded ones too."""
    return [widget, *(found for child in getattr(widget, "children", ()) for found in _on_screen(child))]


def test_every_parameter_of_a_row_and_of_training_has_a_widget_on_screen(trainer):
    assert list(trainer.parts) == list(Method.model_fields) and list(trainer.shared) == list(Training.model_fields)
    shown = _on_screen(trainer)
    assert all(shown.count(widget) == 1 for widget in (*trainer.parts.values(), *trainer.shared.values()))


def test_a_parameter_may_be_left_empty(trainer):
    """What a page sends is text; an empty line is None, and what is no number is refused."""
    for base, value, text in (("avcil", 4, "4"), ("lll_prior", None, "")):
        trainer.base.value = base
        widget = trainer.parts["patches"]
        assert widget.value == value and widget.get_state("value") == {"value": text}
    for text, value in (("8", 8), (" 2 ", 2), ("", None), ("  ", None)):
        widget.set_state({"value": text})
        assert widget.value == value and type(widget.value) is type(value) and not trainer.train.disabled
    for text, message in (("many", "Input should be a valid integer"), ("0", "Input should be greater than 0")):
        widget.set_state({"value": text})
        assert f"methods.my_row.patches: {message}" in trainer.status.value and trainer.train.disabled


def _carried_out(panel, text: str, file) -> Params:
    """params.yaml after the reader has done what the panel says: put the row there, run the command. The row is learnt,
    and no other."""
    words = shlex.split(panel.command)
    file.write_text(f"{text.rstrip()}\n{panel.row}\n")
    apply_overrides(file, [word for flag, word in pairwise(words) if flag == "-S"])
    now = load(file)
    assert now.protocol().chosen(now.rows) == {"standard": [panel.name.value]}
    return now


def test_a_row_alone_is_learnt_and_joins_the_tables(panel, params, tmp_path):
    now = _carried_out(panel, (ROOT / "params.yaml").read_text(), tmp_path / "params.yaml")
    assert shlex.split(panel.command)[-1] == "ablations"
    assert now.model_copy(update={"methods": params.methods, "rows": params.rows}) == params


def test_the_command_makes_dvc_change_what_was_changed(panel, params, tmp_path):
    text = (ROOT / "params.yaml").read_text()
    panel.shared["temperature"].value, panel.epochs.value = 3.0, 2
    words = shlex.split(panel.command)
    assert words[:5] == ["dvc", "exp", "run", "-n", "my_row"] and words[-1] == "sweep"
    now = _carried_out(panel, text, tmp_path / "params.yaml")
    assert now.training == params.training.model_copy(update={"temperature": 3.0})
    assert {task.epochs for task in now.tasks} == {2} and now.protocol().epochs == 2
    assert now.methods["my_row"].model_dump() == params.methods["lll_prior"].model_dump()


OTHERS = {"schedule": "constant", "optimiser": "adam", "keep": "best_new", "drop_last": True, "exemplar_batch": 16}
"""Values other than those of params.yaml, of keys that are no plain numbers."""


@pytest.mark.parametrize("tiny", [False, True])  # 1e-05 is written in another way than 0.25
def test_every_key_of_training_goes_through_the_command_unchanged(panel, params, tmp_path, tiny):
    text = (ROOT / "params.yaml").read_text()
    numbers = {key: old for key, old in params.training if key not in OTHERS}
    values = OTHERS | {n: 2 * old if isinstance(old, int) else 1e-05 if tiny else old / 4 for n, old in numbers.items()}
    for key, value in values.items():
        panel.shared[key].value = value
    now = _carried_out(panel, text, tmp_path / "params.yaml")
    assert now.training == Training(**values)
    rest = {"training": params.training, "methods": params.methods, "rows": params.rows}
    assert now.rows == ["my_row"] and now.model_copy(update=rest) == params


def test_what_is_emptied_is_null_in_row_and_command(places, raw_params, tmp_path, monkeypatch):
    """Where params.yaml has a number, leaving the key out would not make it None."""
    raw = json.loads(json.dumps(raw_params))
    raw["methods"] = {"lll_prior": raw["methods"]["lll_prior"] | {"patches": 4}}
    raw["training"]["exemplar_batch"], raw["search"]["trials"], raw["rows"] = 32, {}, "headline"
    raw["protocols"] = {raw["benchmark"]: {"class_order": "drawn", "rows": ["lll_prior"], "settings": {"standard": {}}}}
    raw["methods"] = raw.pop("methods")  # the last section, as in params.yaml
    text = yaml.safe_dump(raw, sort_keys=False).replace("\n  lll_prior:\n", "\n  lll_prior: &lll_prior\n")
    monkeypatch.setattr(Trainer, "_missing", lambda *_: "")
    panel = explore.Trainer(places, parse(raw), raw)
    panel.parts["patches"].set_state({"value": ""})
    panel.shared["exemplar_batch"].set_state({"value": ""})
    assert panel.row == f"  my_row: {{<<: *lll_prior, {ABOUT}, patches: null}}"
    assert "-S training.exemplar_batch=null " in panel.command
    now = _carried_out(panel, text, tmp_path / "params.yaml")
    assert now.methods["my_row"].patches is None and now.methods["lll_prior"].patches == 4
    assert now.training.exemplar_batch is None


# ---- clips


def test_a_clip_is_shown_without_any_run(places, params):
    panel = explore.ClipView(places, params)
    assert "dvc repro" in panel.note.value and list(panel.looks) == ["the prior alone"]
    assert panel.spatial.sum(-1) == pytest.approx(1, abs=1e-4) and panel.temporal.sum() == pytest.approx(1, abs=1e-4)
    film = panel.video.value
    assert panel.separated.value[:4] == b"RIFF" and panel.separated.value != panel.mixture.value
    picture, mixture = panel.picture.value, panel.mixture.value
    panel.clip.value = panel.clip.options[1]
    assert panel.picture.value != picture and panel.mixture.value != mixture and panel.video.value != film
    clips = panel.clip.options
    panel.of_task.value = 1
    assert not set(panel.clip.options) & set(clips)


def test_separation_prompted_by_where_the_prior_looks_helps(places, params):
    """The median gain over ten clips; 3 dB on held-out scenes of the prior's own world."""
    panel = explore.ClipView(places, params)
    gains = []
    for clip in panel.clip.options[:10]:
        panel.clip.value = clip
        gains.append(panel.gain)
    assert pd.Series(gains).median() > 1


def test_the_prior_alone_in_numbers():
    similarity = torch.zeros(2, 4)
    similarity[1, 2] = 2.0
    spatial, temporal, _ = prior_attention(similarity)
    assert spatial.sum(1) == pytest.approx(1) and temporal.sum() == pytest.approx(1)
    assert spatial[1].argmax() == 2 and temporal[1] > temporal[0]
    assert spatial[0] == pytest.approx(0.25)


READOUTS = ["classifier", "nearest_mean", "ridge", "carried_ridge", "slda", "fecam", "ranpac", "acil", "mmal"]


@pytest.mark.parametrize("readout", READOUTS)
def test_a_row_answers_by_its_own_head_what_the_pipeline_counted(toy, toy_raw, tmp_path, readout):
    """Clip by clip the class that `evaluate` wrote down, whatever the head."""
    params = parse(toy_raw)
    options = {"expansion": 64} if readout in ("ranpac", "acil", "mmal") else {}
    frozen = {} if readout in ("classifier", "carried_ridge") else {"fusion": "frozen_guided", "classifier": "linear"}
    method = params.methods["lll_prior"].model_copy(
        update={"readout": readout, "readout_options": options, "memory": "herding", "sampler": "uniform"} | frozen
    )
    if frozen:
        method = method.model_copy(update={"feature_distillation": 0.0, "logit_distillation": 0.0})
    *_, last = run_tasks(toy, method, params.training, params.tasks, 0, tmp_path)
    clips = list(last.predictions)[::6]
    for clip in clips:
        row = toy.clip_ids.index(clip)
        one = toy._replace(clip_ids=[clip], tokens=toy.tokens.clips(torch.tensor([row])), splits={}, share=None)
        found = answer(tmp_path / "task2/seed0", method, params.training, one)
        assert found.scores.idxmax() == toy.order[last.predictions[clip]]
        assert found.attention.learnt and found.attention.spatial.sum(1) == pytest.approx(1, abs=1e-4)
    assert len(set(last.predictions.values())) > 2


def test_a_row_that_averages_looks_nowhere(toy, toy_raw, tmp_path):
    params = parse(toy_raw)
    method = params.methods["lll_prior"].model_copy(update={"fusion": "mean"})
    run_tasks(toy, method, params.training, params.tasks[:1], 0, tmp_path)
    one = toy._replace(tokens=toy.tokens.clips(torch.tensor([0])))
    found = answer(tmp_path / "task0/seed0", method, params.training, one)
    assert not found.attention.learnt and found.attention.spatial == pytest.approx(1 / 16)


def _played(content: bytes) -> tuple[list[np.ndarray], int]:
    """Pictures of an .mp4 file, and how many sound frames it has."""
    with av.open(io.BytesIO(content)) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    with av.open(io.BytesIO(content)) as container:
        return pictures, sum(1 for _ in container.decode(audio=0))


def test_heat_and_playhead_are_where_and_when():
    clip = Clip(np.full((4, 48, 48, 3), 128, np.uint8), np.zeros(16000, np.float32), 4.0, 16000)
    spatial = np.full((2, 16), 0.01)
    spatial[0, 5] = spatial[1, 10] = 0.85
    look = AttentionMaps(spatial, np.array([0.25, 0.75]))
    content, width = film(clip, {"one": look, "two": look._replace(learnt=False)}, np.zeros((2, 16)), np.ones((8, 50)))
    pictures, sound = _played(content)
    assert len(pictures) == 16 and sound and pictures[0].shape[1] == width == 960
    redness = pictures[0].astype(int)[24:344, :, 0] - pictures[0].astype(int)[24:344, :, 2]
    assert redness[120, 320 + 120] > 80 and redness[200, 320 + 200] < 40  # patch 5 of 4 x 4, of the second tile
    later = pictures[-1].astype(int)[24:344, :, 0] - pictures[-1].astype(int)[24:344, :, 2]
    assert later[200, 320 + 200] > 80 and later[120, 320 + 120] < 40
    assert abs(redness[:, :320]).max() < 20 and abs(redness[:, 640:]).max() < 20
    cyan = [picture[-100].astype(int)[:, 2] - picture[-100].astype(int)[:, 0] for picture in pictures]
    places = [int(np.argmax(line)) for line in cyan]
    assert all(abs(place - (n + 0.5) / 16 * width) < 4 for n, place in enumerate(places))


def test_a_class_is_shown_by_what_sounds_in_it():
    picture = np.zeros((96, 96, 3), np.uint8)
    picture[20:36, 60:76] = 255
    grid = np.zeros((24, 24), np.float32)
    grid[5:9, 15:19] = 1
    cut = cut_out(picture, grid)
    assert cut.shape[0] == cut.shape[1] < 32 and cut.mean() > 255 / 4
    assert cut_out(picture, np.zeros((24, 24))).shape == picture.shape


def test_classes_have_pictures_of_their_own(places, params):
    panel = explore.ClipView(places, params)
    labels = panel.of_class.options
    assert len({panel.faces[label] for label in labels}) == len(labels) == params.tasks[0].classes
    assert all(panel.faces[label] in panel.style.value for label in labels)
    panel.of_class.value = labels[2]
    assert panel.label == labels[2] and panel.faces[labels[2]] in panel.words.value
    assert {panel.table.loc[clip].label for clip in panel.clip.options} == {labels[2]}


def test_every_picture_of_a_class_sounds(places, params):
    """All that are on screen; the sound is that of the clip which the picture is of."""
    panel = explore.ClipView(places, params)
    panel.of_task.value = 2
    faces, other = panel.faces, panel.table.label[panel.other.value]
    for label in (*panel.of_class.options, other):
        assert f'<audio title="{label}" src="{faces.sounds[label]}">' in panel.voices.value
        assert f'title="{label}"' in faces.html(label) and f"hear {label}" in faces.html(label)
    with wave.open(io.BytesIO(base64.b64decode(faces.sounds[other].split(",")[1]))) as file:
        sound = np.frombuffer(file.readframes(file.getnframes()), "<i2") / 32767
    clips = panel.table[(panel.table.label == other) & (panel.table.split == "train")].clip_id
    waves = [read_clip(panel._file(clip), **panel.reading).waveform for clip in clips]
    assert min(np.abs(sound - wave).max() for wave in waves) < 1e-4


def _uploaded(panel, name: str, content: bytes) -> None:
    """As the page sends it."""
    file = {"name": name, "type": "video/mp4", "size": len(content), "content": memoryview(content)}
    panel.upload.set_state({"value": [file | {"last_modified": 0}]})


def test_what_servers_take_is_what_people_are_told():
    """The Makefile tells the servers, in bytes and with room for what a message has around a file."""
    script = (ROOT / "avcil/workshop/app/labextensions/avcil-playground/static/playground.js").read_text()
    megabytes = int(re.search(r"const LIMIT = (\d+);", script)[1])
    assert f"{megabytes} MB" == UPLOAD
    taken = int(re.search(r'"websocket_max_message_size": (\d+)', (ROOT / "Makefile").read_text())[1])
    assert 1.01e6 * megabytes < taken < 1.1e6 * megabytes


def test_a_clip_of_ones_own_is_uploaded(places, params):
    panel = explore.ClipView(places, params)
    film, content = panel.video.value, (places.corpus / "clips/test-007-003.mp4").read_bytes()
    _uploaded(panel, "mine.mp4", content)
    mine = panel.video.value
    assert mine != film and panel.label is None and "an own clip, mine.mp4" in panel.words.value
    _uploaded(panel, "notes.mp4", b"no video")
    assert ">notes.mp4: damaged" in panel.note.value and panel.video.value == mine
    _uploaded(panel, "mine.mp4", content)  # a second time
    assert "damaged" not in panel.note.value and panel.video.value == mine
    panel.clip.value = panel.clip.options[1]
    assert panel.label == panel.of_class.value
    panel.own.value = str(places.corpus / "clips/test-007-003.mp4")
    assert panel.video.value == mine


def test_a_clip_of_ones_own_is_watched_by_its_path(places, params, tmp_path):
    panel = explore.ClipView(places, params)
    film, own = panel.video.value, tmp_path / "mine.mp4"
    shutil.copy(places.corpus / "clips/test-007-003.mp4", own)
    panel.own.value = str(own)
    assert panel.video.value != film and panel.label is None and "an own clip, mine.mp4" in panel.words.value
    assert panel.name == "mine.mp4" and not panel.share.any() and panel.gain
    kept = panel.video.value
    for path, reason in ((tmp_path / "none.mp4", "no such file"), (ROOT / "README.md", "damaged")):
        panel.own.value = str(path)
        assert reason in panel.note.value and str(path) in panel.note.value and panel.video.value == kept
    longer = write(tmp_path / "longer.mp4", [k / 4 for k in range(12)], sound=tone(440, 3, 16000))
    panel.own.value = str(longer)
    assert "mini reads 2 s of a clip, and 1 of 1 are longer (`longer.mp4`: 3.0 s)" in panel.note.value
    panel.clip.value = panel.clip.options[1]
    assert panel.own.value == "" and panel.label == panel.of_class.value
    assert reason not in panel.note.value and "longer" not in panel.note.value


def test_sound_louder_than_a_file_can_hold_is_not_clipped():
    content = wav(np.array([0.0, 2.0, -1.0]), 16000)
    with wave.open(io.BytesIO(content)) as file:
        assert file.getframerate() == 16000
        assert np.frombuffer(file.readframes(3), "<i2").tolist() == [0, 32767, -16383]


def test_a_row_trained_live_is_asked_about_a_clip(places, params):
    live = explore.LiveRuns()
    panel = explore.ClipView(places, params, live)
    assert panel.task.options == (("prior", "the prior alone"),)
    table, size = panel.table, params.tasks[0].classes
    clips = [clip for label in panel.order[:size] for clip in table.clip_id[table.label == label][:2]]
    read = [read_clip(panel._file(clip), **panel.reading) for clip in clips]
    frames, sound = (
        torch.from_numpy(np.stack(part)) for part in zip(*((c.frames, c.waveform) for c in read), strict=True)
    )
    rows, labels = torch.arange(len(clips)), torch.arange(size).repeat_interleave(2)
    splits = {"train": rows, "val": rows[:0], "test": rows}
    data = Dataset(clips, panel.encoder.encode(frames, sound), labels, splits, panel.order, "mini", None)
    run = LiveRun(data, params.methods["lll_closed"], params.training, params.tasks[:1], panel.seed.value, name="mine")
    run.run()
    live.keep(run)

    assert panel.methods.value == ("mine",) and "after task 0" in panel.answers["mine"]
    once = panel.answers["mine"]
    panel.task.value = "after task 0"
    assert panel.answers["mine"] is once, "asked once a clip"
    scores = once["after task 0"].scores
    assert list(panel.looks) == ["mine after task 0"] and list(scores.index) == panel.order[:size]
    panel.clip.value = panel.clip.options[1]
    assert "after task 0" in panel.answers["mine"], "another clip is asked about as well"
    panel.seed.value = params.seeds[1]
    assert "choose that seed" in panel.note.value and list(panel.looks) == ["the prior alone"]


def test_checkpoints_of_other_parameters_are_named_not_asked(places, params, tmp_path):
    for seed in params.seeds:
        save_checkpoint(
            places.artifacts / f"runs/lll_prior/task0/seed{seed}",
            Checkpoint({}, {}, [], [], {"method": {}, "training": {}}),
        )
    panel = explore.ClipView(places, params)
    assert "made with other parameters" in panel.note.value and list(panel.looks) == ["the prior alone"]
    panel.task.value = "after task 0"
    assert panel.spatial is panel.prior.spatial and "made with other parameters" in panel.note.value
