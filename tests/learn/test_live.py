"""What a run logs while it learns."""

import json

import pandas as pd
import torch
from toys import TASKS, TRAINING, digest, row

from avcil.learn import live, train
from avcil.learn.checkpoint import EMPTY


def watched(toy, method, training=TRAINING, seed=0):
    """Task, epoch and losses of every epoch of a whole run."""
    epochs = []
    train.run_tasks(toy, method, training, TASKS, seed, None, watch=lambda *epoch: epochs.append(epoch))
    return epochs


def test_a_watcher_is_told_every_epoch_s_losses(toy):
    epochs = watched(toy, row())
    assert [(task, epoch) for task, epoch, _ in epochs] == [(t.id, e) for t in TASKS for e in range(t.epochs)]
    _, _, losses = train.run_task(toy, row(), TRAINING, TASKS, 0, 0, EMPTY)
    assert [epoch for task, _, epoch in epochs if task == 0] == losses
    assert set(epochs[-1][2]) == {
        "cross_entropy",
        "logit_distillation",
        "feature_distillation",
        "attention_distillation",
    }


def test_the_accuracy_that_chooses_an_epoch_is_told_too(toy):
    epochs = watched(toy, row(), TRAINING.model_copy(update={"keep": "best_all"}))
    clips = len(toy.rows("val", 0, 2))
    found = [epoch["validation_accuracy"] * clips for task, _, epoch in epochs if task == 0]
    assert found == [round(value) for value in found] and max(found) > 0


def test_a_watcher_changes_nothing(toy):
    runs = [train.run_task(toy, row(), TRAINING, TASKS, 0, 0, EMPTY, watch=w) for w in (None, lambda *_: None)]
    torch.testing.assert_close(runs[0][0].model, runs[1][0].model, rtol=0, atol=0)
    assert runs[0][1:] == runs[1][1:]


def test_rows_that_learn_in_no_epochs_tell_nothing(toy):
    assert watched(toy, row(fusion="frozen", readout="nearest_mean")) == []


def test_a_file_a_loss_with_a_line_an_epoch(toy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder, start = tmp_path / "live", train.run_task(toy, row(), TRAINING, TASKS, 0, 1, EMPTY)[0]
    (folder / "plots/metrics").mkdir(parents=True)
    (folder / "plots/metrics/old.tsv").write_text("of a run before")

    def logged():
        with live.logged(folder) as watch:
            return train.run_task(toy, row(), TRAINING, TASKS, 1, 1, start, watch=watch)[2]

    losses = logged()
    names = {path.name for path in (folder / "plots/metrics").iterdir()}
    assert names == {f"{loss}.tsv" for loss in losses[0]} and len(names) == 4
    lines = pd.read_csv(folder / "plots/metrics/cross_entropy.tsv", sep="\t", float_precision="round_trip")
    assert lines.step.tolist() == list(range(TASKS[1].epochs))
    assert lines.cross_entropy.tolist() == [epoch["cross_entropy"] for epoch in losses]
    assert json.loads((folder / "metrics.json").read_text())["cross_entropy"] == losses[-1]["cross_entropy"]
    before = digest(folder)
    logged()
    assert digest(folder) == before  # or DVC would see another run in it
