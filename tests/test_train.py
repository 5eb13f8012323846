"""The training loop: task 0 is no special case, resuming is exact, two runs give the same bits."""

import shutil

import pytest
import torch

from avcil import train
from avcil.checkpoint import EMPTY, CheckpointError, load_checkpoint, save_checkpoint
from avcil.evaluate import predict, restore
from avcil.methods import Method, Task, Training
from avcil.model import Classifier, IncrementalClassifier

TASKS = [Task(**{"id": t, "from": "init" if t == 0 else f"task{t - 1}", "classes": 2, "epochs": 8}) for t in range(3)]
TRAINING = Training(
    batch=16, learning_rate=1e-2, later_learning_rate=1e-2, weight_decay=1e-2, temperature=2.0, width=16, heads=2,
    learnt_guidance=0.1, ridge_penalty=1.0, covered=0.5,
)  # fmt: skip


def row(**changes) -> Method:
    base = {
        "tokens": "mini", "fusion": "guided", "prior_guidance": 1.0, "memory": "herding", "exemplars": 3,
        "budget": "per_class", "sampler": "balanced", "feature_distillation": 1.0, "logit_distillation": 1.0,
        "attention_distillation": 1.0, "classifier": "cosine", "readout": "classifier", "restart": False,
    }  # fmt: skip
    return Method(**(base | changes))


def digest(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


VARIANTS = {
    "guided": row(),
    "mean": row(fusion="mean", classifier="linear", sampler="uniform"),
    "visual": row(fusion="visual"),
    "audio": row(fusion="audio"),
    "nearest_mean": row(readout="nearest_mean"),
    "ridge": row(fusion="frozen", readout="ridge", memory="none"),
    "joint": row(memory="all", restart=True, feature_distillation=0.0, logit_distillation=0.0),
    "finetune": row(memory="none", feature_distillation=0.0, logit_distillation=0.0, attention_distillation=0.0),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_kind_of_row_runs_and_keeps_its_memory_budget(toy, name):
    method = VARIANTS[name]
    results = train.run_tasks(toy, method, TRAINING, TASKS, 0, None)
    assert [len(r.accuracy) for r in results] == [1, 2, 3]
    assert all(0 <= a <= 1 for r in results for a in r.accuracy)
    assert (results[-1].hit is None) == (method.fusion != "guided")
    assert len(results[-1].predictions) == sum(results[-1].clips) == len(toy.splits["test"])


def test_guided_attention_finds_what_pooling_drowns(toy):
    """The class shows in one patch of sixteen: pooled tokens bury it, guided ones do not."""
    joint = {"memory": "all", "restart": True, "feature_distillation": 0.0, "logit_distillation": 0.0}
    last = {
        fusion: train.run_tasks(toy, row(fusion=fusion, **joint), TRAINING, TASKS, 0, None)[-1]
        for fusion in ("guided", "visual")
    }
    mean = {fusion: sum(result.accuracy) / 3 for fusion, result in last.items()}
    assert mean["guided"] > mean["visual"] + 0.1
    assert sum(last["guided"].hit) / 3 > 0.8


def test_replay_and_distillation_forget_less_than_fine_tuning(toy):
    kept = {name: train.run_tasks(toy, VARIANTS[name], TRAINING, TASKS, 0, None)[-1] for name in ("guided", "finetune")}
    assert kept["guided"].accuracy[0] > kept["finetune"].accuracy[0] + 0.2


def test_two_runs_give_the_same_bytes_and_resuming_is_exact(toy, tmp_path):
    for name in ("a", "b"):
        train.run_tasks(toy, row(), TRAINING, TASKS, 0, tmp_path / name)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    # killed in the middle of task 1: its result is there, its checkpoint is not; task 2 is gone
    (tmp_path / "b/task1/seed0/checkpoint.json").unlink()
    shutil.rmtree(tmp_path / "b/task2")
    train.run_tasks(toy, row(), TRAINING, TASKS, 0, tmp_path / "b")
    assert digest(tmp_path / "a") == digest(tmp_path / "b")


def test_a_finished_task_is_not_run_again_unless_its_inputs_changed(toy, tmp_path, monkeypatch):
    train.run_tasks(toy, row(), TRAINING, TASKS[:2], 0, tmp_path)
    calls = []
    original = train.run_task
    monkeypatch.setattr(train, "run_task", lambda *a, **k: calls.append(a[4]) or original(*a, **k))
    train.run_tasks(toy, row(), TRAINING, TASKS[:2], 0, tmp_path)
    assert calls == []
    longer = [TASKS[0], TASKS[1].model_copy(update={"epochs": 9})]
    train.run_tasks(toy, row(), TRAINING, longer, 0, tmp_path)
    assert calls == [1]


def test_seeds_differ(toy):
    a, b = (train.run_task(toy, row(), TRAINING, TASKS, 0, seed, EMPTY)[0].model for seed in (0, 1))
    assert not torch.equal(a["visual.weight"], b["visual.weight"])


def test_task_0_feels_no_distillation(toy):
    """Zero past classes: the distilled run of task 0 is bit for bit the undistilled one."""
    plain = row(feature_distillation=0.0, logit_distillation=0.0, attention_distillation=0.0)
    a, b = (train.run_task(toy, method, TRAINING, TASKS, 0, 0, EMPTY)[0].model for method in (row(), plain))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_distillation_holds_the_old_features(toy):
    """A heavy feature weight leaves the features of old exemplars where they were; none lets them drift."""
    start, _, _ = train.run_task(toy, row(), TRAINING, TASKS, 0, 0, EMPTY)
    old = restore(start, row(), TRAINING, 16)
    rows = toy.rows("test", 0, 2)
    drift = {}
    for weight in (0.0, 50.0):
        method = row(feature_distillation=weight, logit_distillation=0.0, attention_distillation=0.0)
        after, _, _ = train.run_task(toy, method, TRAINING, TASKS, 1, 0, start)
        new = restore(after, method, TRAINING, 16)
        pair = [predict(m, toy.tokens, rows).features.fused for m in (old, new)]
        drift[weight] = 1 - torch.cosine_similarity(*pair).mean().item()
    assert drift[50.0] < 0.3 * drift[0.0]


def test_balanced_sampling_draws_classes_equally():
    labels = torch.tensor([0] * 90 + [1] * 10)
    drawn = labels[train._epoch_order(labels, "balanced", torch.Generator().manual_seed(0))]
    assert 0.35 < (drawn == 1).float().mean() < 0.65
    every = train._epoch_order(labels, "uniform", torch.Generator().manual_seed(0))
    assert every.sort().values.tolist() == list(range(100))


def test_memory_bytes_are_those_of_the_stored_tokens(toy):
    checkpoint, result, _ = train.run_task(toy, row(), TRAINING, TASKS, 0, 0, EMPTY)
    assert len(checkpoint.memory) == 2 * 3
    per_clip = 2 * (2 * 16 * 16 + 5 * 16 + 2 * 16)  # float16: visual, audio, similarity
    assert result.memory_bytes == 6 * per_clip


def test_exemplars_are_training_clips_of_seen_classes(toy):
    checkpoint, _, _ = train.run_task(toy, row(), TRAINING, TASKS, 0, 0, EMPTY)
    allowed = {toy.clip_ids[i] for i in toy.rows("train", 0, 2)}
    assert set(checkpoint.memory) <= allowed


def test_a_checkpoint_of_another_class_order_is_refused(toy, tmp_path):
    checkpoint, _, _ = train.run_task(toy, row(), TRAINING, TASKS, 0, 0, EMPTY)
    save_checkpoint(tmp_path, checkpoint)
    with pytest.raises(CheckpointError, match="learnt in another class order"):
        load_checkpoint(tmp_path, order=toy.order[::-1])
    with pytest.raises(ValueError, match="task 2 starts from 4 classes"):
        train.run_task(toy, row(), TRAINING, TASKS, 2, 0, checkpoint)


def test_checkpoint_round_trip_and_damage(toy, tmp_path):
    checkpoint, _, _ = train.run_task(toy, VARIANTS["ridge"], TRAINING, TASKS, 0, 0, EMPTY)
    save_checkpoint(tmp_path / "c", checkpoint)
    loaded = load_checkpoint(tmp_path / "c", order=toy.order)
    assert loaded.classes == checkpoint.classes and loaded.origin["seed"] == 0
    assert all(torch.equal(loaded.readout[k], v) for k, v in checkpoint.readout.items())
    (tmp_path / "c/tensors.safetensors").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"tensors\.safetensors: cannot be read"):
        load_checkpoint(tmp_path / "c")
    with pytest.raises(CheckpointError, match="no whole checkpoint"):
        load_checkpoint(tmp_path / "absent")


def test_classifier_keeps_old_rows_when_it_grows():
    classifier = Classifier(4, "linear")
    classifier.grow(2)
    before = classifier.weight.detach().clone()
    classifier.grow(5)
    assert classifier.weight.shape == (5, 4) and torch.equal(classifier.weight[:2], before)
    assert Classifier(4, "cosine")(torch.randn(3, 4)).shape == (3, 0)


def test_attention_starts_from_the_prior(toy):
    """Before any learning the map is, up to the small learnt term, the softmax of the prior's similarity."""
    model = IncrementalClassifier(
        16, fusion="guided", classifier="linear", width=16, heads=2, prior_guidance=1.0, learnt_guidance=1e-6
    )
    output = model(toy.tokens)
    torch.testing.assert_close(output.spatial, toy.tokens.similarity.softmax(-1), atol=1e-4, rtol=0)
    torch.testing.assert_close(output.temporal, torch.full_like(output.temporal, 0.5))
