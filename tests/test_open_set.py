""" "None of these": the score of each head, and how it is measured."""

import numpy as np
import pandas as pd
import pytest
import torch
from toys import TRAINING, row

import avcil
from avcil.learn.train import run_tasks
from avcil.params.learning import chain
from avcil.workshop import open_set, readme

CLOSED = {"fusion": "frozen_guided", "classifier": "linear", "memory": "none"}


@pytest.mark.parametrize(
    ("readout", "kind"),
    [("ridge", "leverage"), ("scaled_ridge", "leverage"), ("nearest_mean", "minus the largest logit")],
)
def test_classes_to_come_score_higher(toy, readout, kind):
    found = open_set.measure(toy, row(readout=readout, **CLOSED), TRAINING, chain([2, 2, 2], 1), 0)
    assert [line["task"] for line in found] == [0, 1] and {line["score"] for line in found} == {kind}
    assert [(line["known"], line["unknown"]) for line in found] == [(12, 24), (24, 12)]
    assert np.mean([line["auroc"] for line in found]) > 0.7
    refused = [(line["unknown_refused"], line["known_refused"]) for line in found]
    assert np.mean(refused, 0)[0] > np.mean(refused, 0)[1]


def test_what_is_measured_is_what_a_learner_says(toy, tmp_path):
    method = row(readout="ridge", **CLOSED)
    [first, _] = open_set.measure(toy, method, TRAINING, chain([2, 2, 2], 1), 0)
    run_tasks(toy, method, TRAINING, chain([2, 2, 2], 1), 0, tmp_path)
    learner = avcil.Learner.from_run(tmp_path / "task0/seed0")
    known, coming = (learner.predict(toy.tokens.clips(toy.rows("test", *part))) for part in ((0, 2), (2, 6)))
    assert avcil.learner.predictions.auroc(known, coming) == pytest.approx(first["auroc"])


def test_the_leverage_is_that_of_the_regressors(toy, tmp_path):
    """Against numpy, from the clips and not from the sums that a head keeps."""
    method = row(readout="ridge", **CLOSED)
    run_tasks(toy, method, TRAINING, chain([6], 1), 0, tmp_path)
    learner = avcil.Learner.from_run(tmp_path / "task0/seed0")
    x = {}
    for split in ("train", "test"):
        features = learner._read_out(toy.tokens.clips(toy.splits[split])).features
        x[split] = np.pad(features.fused.double(), ((0, 0), (0, 1)), constant_values=1)
    gram = x["train"].T @ x["train"] + TRAINING.ridge_penalty * np.eye(x["train"].shape[1])
    oracle = np.einsum("nm,nm->n", x["test"], np.linalg.solve(gram, x["test"].T).T)
    said = [one.unknown for one in learner.predict(toy.tokens.clips(toy.splits["test"]))]
    assert np.abs(said - oracle).max() < 1e-5


def test_a_ridge_without_a_penalty_of_its_own_still_answers(toy, tmp_path):
    """`scaled_ridge`, whose sums alone cannot be inverted with fewer clips than channels."""
    run_tasks(toy, row(readout="scaled_ridge", **CLOSED), TRAINING, chain([2, 2, 2], 1), 0, tmp_path)
    said = avcil.Learner.from_run(tmp_path / "task2/seed0").predict(toy.tokens.clips(torch.arange(8)))
    assert np.isfinite([one.unknown for one in said]).all()


def test_the_table_is_of_its_file(tmp_path):
    lines = [
        {"row": name, "seed": seed, "task": task, "score": "leverage", "auroc": value - 0.1 * task,
         "known_refused": 0.05, "unknown_refused": 0.5, "known": 80 * (task + 1), "unknown": 320 - 80 * task}
        for name, value in (("ncm", 0.7), ("ridge", 0.9)) for seed in (0, 1) for task in (0, 1)
    ]  # fmt: skip
    pd.DataFrame(lines).to_csv(tmp_path / "found.csv", index=False)
    text = readme.open_set(tmp_path / "found.csv").splitlines()
    assert text[2] == "| ridge, frozen | leverage | 85.0 ± 0.0 | 90.0 | 80.0 | 50.0 ± 0.0 | 5.0 ± 0.0 |"
    assert text[3].startswith("| nearest mean, frozen |") and "(80 to 160 clips)" in text[-1] and "2 seeds" in text[-1]
