"""The training loop: task 0 is no special case, resuming is exact, two runs give the same bits."""

import math
import shutil
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from toys import TASKS, TRAINING, digest, row

from avcil.kernels import separated_cross_entropy
from avcil.learn import methods, train
from avcil.learn.attention import Features
from avcil.learn.checkpoint import EMPTY, CheckpointError, load_checkpoint, save_checkpoint
from avcil.learn.evaluate import build, predict, restore, solved_features, tokens_of
from avcil.learn.feed import Feed
from avcil.learn.heads import CarriedRidge, RecursiveRidge
from avcil.learn.hooks import Batch, Learning, check
from avcil.learn.losses import objective
from avcil.learn.methods import av_cil, channelwise
from avcil.learn.methods.afc import importance, importance_distillation, imprint
from avcil.learn.methods.modality_dropout import withhold
from avcil.learn.methods.proxies import PROXIES
from avcil.learn.methods.weight_aligning import WeightAligning
from avcil.learn.model import Classifier, IncrementalClassifier
from avcil.learn.optimise import batches as epoch_of_batches
from avcil.params import load
from avcil.params.learning import Method, attends, chain
from avcil.tokens.tokens import Tokens
from conftest import ROOT

pytestmark = pytest.mark.arithmetic


def batches(labels, sampler, past=0, seed=0, **training):
    """Rows of one epoch, batch by batch."""
    training = TRAINING.model_copy(update=training)
    generator = torch.Generator().manual_seed(seed)
    return list(epoch_of_batches(labels, past, row(sampler=sampler), training, generator))


def epoch(labels, sampler):
    """Rows of one epoch, batch after batch."""
    return torch.cat(batches(labels, sampler))


VARIANTS = {
    "guided": row(),
    "mean": row(fusion="mean", classifier="linear", sampler="uniform"),
    "visual": row(fusion="visual"),
    "audio": row(fusion="audio"),
    "nearest_mean": row(readout="nearest_mean"),
    "ridge": row(fusion="frozen", readout="ridge", memory="none"),
    "joint": row(memory="all", restart=True, feature_distillation=0.0, logit_distillation=0.0),
    "finetune": row(memory="none", feature_distillation=0.0, logit_distillation=0.0, hooks={}),
}


def assert_accuracy_is_of_its_predictions(data, result):
    """All test clips of the tasks so far are predicted, as seen classes, and accuracy is the share that is right."""
    right = [[] for _ in range(result.task + 1)]
    for clip, predicted in result.predictions.items():
        label = int(data.labels[data.clip_ids.index(clip)])
        assert 0 <= predicted < 2 * len(right)
        right[label // 2].append(predicted == label)
    assert [len(of_task) for of_task in right] == result.clips == [12] * len(right)
    assert result.accuracy == pytest.approx([sum(of_task) / 12 for of_task in right])


@pytest.mark.parametrize("name", VARIANTS)
def test_every_kind_of_row_learns_and_keeps_its_memory_budget(toy, name):
    method = VARIANTS[name]
    made = learn(toy, method, TRAINING, TASKS)
    a_class = {"none": 0, "all": 12}.get(method.memory, 3)
    for task, (checkpoint, result, _) in enumerate(made):
        assert_accuracy_is_of_its_predictions(toy, result)
        assert kept_a_class(toy, checkpoint) == Counter({c: a_class for c in range(2 * task + 2) if a_class})
    # chance is a sixth
    assert sum(result.accuracy) / 3 > 0.25
    assert (result.hit is None) == (method.fusion != "guided")


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
    plain = row(feature_distillation=0.0, logit_distillation=0.0, hooks={})
    a, b = (train.run_task(toy, method, TRAINING, TASKS, 0, 0, EMPTY)[0].model for method in (row(), plain))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_distillation_holds_the_old_features(toy):
    """A heavy feature weight leaves the features of old exemplars where they were; none lets them drift."""
    start, _, _ = train.run_task(toy, row(), TRAINING, TASKS, 0, 0, EMPTY)
    old = restore(start, row(), TRAINING, (16, 16))
    rows = toy.rows("test", 0, 2)
    drift = {}
    for weight in (0.0, 50.0):
        method = row(feature_distillation=weight, logit_distillation=0.0, hooks={})
        after, _, _ = train.run_task(toy, method, TRAINING, TASKS, 1, 0, start)
        new = restore(after, method, TRAINING, (16, 16))
        pair = [predict(m, toy.tokens, rows).features.fused for m in (old, new)]
        drift[weight] = 1 - torch.cosine_similarity(*pair).mean().item()
    assert drift[50.0] < 0.3 * drift[0.0]


def test_balanced_sampling_draws_classes_equally():
    labels = torch.tensor([0] * 90 + [1] * 10)
    drawn = labels[epoch(labels, "balanced")]
    assert 0.35 < (drawn == 1).float().mean() < 0.65
    assert epoch(labels, "uniform").sort().values.tolist() == list(range(100))


def test_memory_bytes_are_those_of_the_stored_tokens(toy):
    checkpoint, result, _ = train.run_task(toy, row(), TRAINING, TASKS, 0, 0, EMPTY)
    assert len(checkpoint.memory) == 2 * 3
    per_clip = 2 * (2 * 16 * 16 + 5 * 16 + 2 * 16)  # float16: visual, audio, similarity
    assert result.memory_bytes == 6 * per_clip


def test_memory_bytes_are_of_the_streams_that_the_fusion_reads(toy):
    """In float16: visual 2 x 16 x 16, audio 5 x 16, similarity 2 x 16; pooled, where nothing attends, 16 each."""
    streams = {
        "guided": (512, 80, 32), "scaled_guided": (512, 80, 32), "frozen_guided": (512, 80, 32),
        "channelwise": (512, 80), "mean": (16, 16), "frozen": (16, 16), "visual": (16,), "audio": (16,),
    }  # fmt: skip
    training = TRAINING.model_copy(update={"width": 16})
    for fusion, sizes in streams.items():
        method = row(fusion=fusion, feature_distillation=0.0, logit_distillation=0.0)
        short = [TASKS[0].model_copy(update={"epochs": 1})]
        _, result, _ = train.run_task(toy, method, training, short, 0, 0, EMPTY)
        assert result.memory_bytes == 6 * 2 * sum(sizes), fusion


def test_attention_is_not_scored_where_no_clip_of_a_task_shows_what_sounds(toy):
    """Nor are the others': tables would compare them with all tasks of another row."""
    first = toy.labels < 2
    unseen = toy._replace(share=torch.where(first[:, None, None], 0.0, toy.share))
    method, brief = row(), [task.model_copy(update={"epochs": 1}) for task in TASKS]
    assert all(
        result.hit is None and result.auc is None
        for result in train.run_tasks(unseen, method, TRAINING, brief, 0, None)
    )
    one = toy.share.clone()
    one[first.nonzero()[1:, 0]] = 0.0
    seen = toy._replace(share=one, splits=toy.splits | {"test": toy.splits["test"].index_select(0, torch.arange(36))})
    kept = seen._replace(splits=seen.splits | {"test": torch.cat([first.nonzero()[:1, 0], seen.splits["test"][6:]])})
    assert len(train.run_tasks(kept, method, TRAINING, brief, 0, None)[-1].hit) == 3


def test_classes_that_are_not_there_or_have_no_training_clip_are_told_before_anything_is_learnt(toy, monkeypatch):
    monkeypatch.setattr(train, "run_task", None)
    taught = toy.splits["train"]
    lacking = toy._replace(splits=toy.splits | {"train": taught[toy.labels[taught] != 3]})
    with pytest.raises(ValueError, match="task 1: no usable train clip of `class3`; add one, or drop it"):
        train.run_tasks(lacking, row(), TRAINING, TASKS, 0, None)
    with pytest.raises(ValueError, match="tasks of 8 classes, but there are 6; change the tasks"):
        train.run_tasks(toy, row(), TRAINING, chain([4, 4], 1), 0, None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fusion": "ranpac"}, "fusion: `ranpac` is none"),
        ({"classifier": "slda"}, "classifier: `slda` is none"),
        ({"readout": "proxies"}, "readout: `proxies` is none"),
        ({"readout": "weight_aligning"}, "readout: `weight_aligning` is none"),
        ({"fusion": "proxies"}, "fusion: `proxies` is none"),
        ({"classifier": "channelwise"}, "classifier: `channelwise` is none"),
        ({"readout": "chosen_ridge"}, "readout: `chosen_ridge` needs fusion: frozen_sources"),
        ({"hooks": {"der": {"weight": 1.0}}, "restart": True}, "der: with restart: true no logits are stored"),
        (
            {"hooks": {"afc": {"weight": 1.0}}, "classifier": "proxies"},
            "afc: stands for both; set feature_dist",
        ),
    ],
)
def test_files_of_another_kind_and_options_without_effect_are_refused(changes, message):
    with pytest.raises(ValueError, match=f"mine: {message}"):
        check("mine", row(**changes))


def test_means_of_exemplars_need_exemplars():
    for changes in ({"memory": "none"}, {"exemplars": 0}):
        with pytest.raises(ValueError, match="nearest_exemplars needs a memory and exemplars"):
            row(readout="nearest_exemplars", **changes)


def test_a_layer_that_nobody_reads_is_not_counted_as_trained(toy):
    method = row(fusion="scaled_guided", feature_distillation=0.0, logit_distillation=0.0)
    training = TRAINING.model_copy(update={"width": 16})
    brief = [TASKS[0].model_copy(update={"epochs": 1})]
    checkpoint, result, _ = train.run_task(toy, method, training, brief, 0, 0, EMPTY)
    unread = sum(v.numel() for name, v in checkpoint.model.items() if name.startswith("audio."))
    whole = sum(p.numel() for p in build(method, training, toy.tokens.channels).parameters() if p.requires_grad)
    assert unread and result.trained_parameters == whole + checkpoint.model["classifier.weight"].numel()


def test_a_task_without_a_clip_to_test_it_on_is_told_before_anything_is_learnt(toy, monkeypatch):
    monkeypatch.setattr(train, "run_task", None)
    test = toy.splits["test"]
    lacking = toy._replace(splits=toy.splits | {"test": test[(toy.labels[test] < 2) | (toy.labels[test] > 3)]})
    with pytest.raises(
        ValueError, match=r"task 1: no usable test clip of its classes \(class2, class3\); add one of each"
    ):
        train.run_tasks(lacking, row(), TRAINING, TASKS, 0, None)


def test_an_exemplar_that_the_data_lack_is_named(toy):
    checkpoint, _, _ = train.run_task(toy, row(), TRAINING, TASKS, 0, 0, EMPTY)
    other = checkpoint._replace(memory=["clip of other data", *checkpoint.memory])
    with pytest.raises(ValueError, match="task 1: exemplar `clip of other data` is not among the clips; take the data"):
        train.run_task(toy, row(), TRAINING, TASKS, 1, 0, other)


def test_a_loss_that_nothing_would_learn_by_is_refused(toy):
    """Of a fusion that is a file nobody knows beforehand whether it learns."""
    method = row(
        fusion="frozen_sources", readout="ridge", feature_distillation=0.0, logit_distillation=0.0,
        hooks={"attention_distillation": {"weight": 1.0}},
    )  # fmt: skip
    with pytest.raises(
        ValueError, match="`attention_distillation` adds a loss, but fusion `frozen_sources` learns noth"
    ):
        train.run_task(toy, method, TRAINING, TASKS, 0, 0, EMPTY)


def test_exemplars_are_training_clips_of_seen_classes(toy):
    checkpoint, _, _ = train.run_task(toy, row(), TRAINING, TASKS, 0, 0, EMPTY)
    allowed = {toy.clip_ids[i] for i in toy.rows("train", 0, 2)}
    assert set(checkpoint.memory) <= allowed


@pytest.mark.parametrize("changes", [{}, {"fusion": "mean"}, {"readout": "ridge"}])
def test_what_diverges_is_no_result(toy, tmp_path, changes):
    """Whatever is read out: a head is solved over features of such weights too."""
    wild = TRAINING.model_copy(update={"learning_rate": 1e30})
    with pytest.raises(
        ValueError, match=r"^task 0, seed 3: loss `\w+` is (nan|inf) in epoch \d; lower `learning_rate`"
    ):
        train.run_tasks(toy, row(**changes), wild, TASKS, 3, tmp_path)
    assert not any(tmp_path.rglob("result.json"))


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
    with pytest.raises(ValueError, match=r"tensors\.safetensors: damaged"):
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
        (16, 16), fusion="guided", classifier="linear", width=16, heads=2, prior_guidance=1.0, learnt_guidance=1e-6
    )
    output = model(toy.tokens)
    torch.testing.assert_close(output.spatial, toy.tokens.similarity.softmax(-1), atol=1e-4, rtol=0)
    torch.testing.assert_close(output.temporal, torch.full_like(output.temporal, 0.5))


def test_of_a_map_a_channel_their_mean_is_told(toy):
    """So that maps of all rows sum to one, whichever attention draws them."""
    model = IncrementalClassifier(
        (16, 16), fusion="channelwise", classifier="linear", width=16, heads=1, prior_guidance=0.0, learnt_guidance=0.1
    )
    output = predict(model, toy.tokens, torch.arange(5), maps=True)
    with torch.no_grad():
        by_channel = model(toy.tokens.clips(torch.arange(5)), maps=True)
    assert by_channel.spatial.dim() == 4
    torch.testing.assert_close(output.spatial, by_channel.spatial.mean(-1))
    torch.testing.assert_close(output.temporal, by_channel.temporal.mean(-1))
    torch.testing.assert_close(output.temporal.sum(-1), torch.ones(5))


# ---- rows of the field


RANDOM = {"ranpac": 50, "acil": 50, "mmal": 25}


def _small(method: Method) -> Method:
    """With few random features."""
    width = {"expansion": RANDOM[method.readout]} if method.readout in RANDOM else {}
    return Method(**method.model_dump() | ({"readout_options": width} if width else {}))


METHODS = load(ROOT / "params.yaml").methods
FIELD = {name: _small(method) for name, method in METHODS.items()}
# parts of lll_prior are learnt by what `row` makes; of one stream alone, two epochs are too few
LEARNT = [
    name
    for name, row in METHODS.items()
    if (row.about.family != "LLL" or name.startswith("lll_analytic")) and row.fusion not in ("audio", "visual")
]
SHORT = [task.model_copy(update={"epochs": 2}) for task in TASKS]
DARK = row(sampler="paired", hooks={"der": {"weight": 0.5}}, feature_distillation=0.0)


def learn(data, method, training=TRAINING, tasks=SHORT):
    """(checkpoint, result, losses by epoch) of each task in turn."""
    made, checkpoint = [], EMPTY
    for task in range(len(tasks)):
        made.append(train.run_task(data, method, training, tasks, task, 0, checkpoint))
        checkpoint = made[-1][0]
    return made


def same_tensors(a, b):
    """Bit for bit, NaN for NaN."""
    torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


def kept_a_class(data, checkpoint):
    """Exemplars of each class; all are training clips, none is kept twice."""
    rows = [data.clip_ids.index(clip) for clip in checkpoint.memory]
    assert len(set(rows)) == len(rows) and set(rows) <= set(data.splits["train"].tolist())
    return Counter(data.labels[rows].tolist())


@pytest.mark.parametrize("name", LEARNT)
def test_every_row_of_the_field_runs_keeps_its_budget_and_repeats_itself(toy, name):
    method = FIELD[name]
    made, again = learn(toy, method), learn(toy, method)
    for (a, first, _), (b, second, _) in zip(made, again, strict=True):
        assert first.predictions == second.predictions and a.memory == b.memory
        same_tensors(a.model | a.readout, b.model | b.readout)
    a_class = {"none": 0, "all": 12}.get(method.memory, method.exemplars)
    for task, (checkpoint, result, _) in enumerate(made):
        seen = 2 * task + 2
        assert kept_a_class(toy, checkpoint) == Counter({c: a_class for c in range(seen) if a_class})
        assert_accuracy_is_of_its_predictions(toy, result)
    # two epochs are enough for two classes, and with a mean or a solved head for all; one stream alone takes longer
    assert made[0][1].accuracy[0] > (0.9 if method.fusion not in ("visual", "audio") else 0.6)
    assert sum(result.accuracy) / 3 > (0.2 if method.readout == "classifier" else 0.9)
    # the toy's grid is 4 x 4, than which `patches: 4` is no coarser
    assert (result.hit is None) == (not attends(method.fusion) or method.patches not in (None, 4))


@pytest.mark.parametrize("memory", ["random", "herding"])
def test_a_total_budget_is_shared_by_the_classes_seen(toy, memory):
    made = learn(toy, row(memory=memory, budget="total", exemplars=13))
    for (checkpoint, _, _), seen, a_class in zip(made, (2, 4, 6), (6, 3, 2), strict=True):
        assert kept_a_class(toy, checkpoint) == Counter(dict.fromkeys(range(seen), a_class))


@pytest.mark.parametrize("name", ["derpp", "afc_lsc"])
def test_resuming_is_exact_with_stored_logits_and_with_kept_proxies(toy, tmp_path, name):
    # stored logits with NaN where a class came later, and classifiers of two parts, the first empty at first
    for folder in ("a", "b"):
        train.run_tasks(toy, FIELD[name], TRAINING, SHORT, 0, tmp_path / folder)
    (tmp_path / "b/task1/seed0/checkpoint.json").unlink()
    shutil.rmtree(tmp_path / "b/task2")
    train.run_tasks(toy, FIELD[name], TRAINING, SHORT, 0, tmp_path / "b")
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    for task, (checkpoint, _, _) in enumerate(learn(toy, FIELD[name])):
        loaded = load_checkpoint(tmp_path / f"b/task{task}/seed0", order=toy.order)
        same_tensors(loaded.model | loaded.readout, checkpoint.model | checkpoint.readout)


def test_past_proxies_stay_as_they_were_and_new_ones_are_learnt(toy):
    first, second, third = (checkpoint.model for checkpoint, _, _ in learn(toy, FIELD["afc_lsc"]))
    assert len(first["classifier.kept"]) == 0 and len(first["classifier.weight"]) == 2 * PROXIES
    same_tensors(second["classifier.kept"], first["classifier.weight"])
    same_tensors(third["classifier.kept"], torch.cat([second["classifier.kept"], second["classifier.weight"]]))


@pytest.mark.parametrize(
    ("method", "losses"),
    [
        (FIELD["avcil"], {"logit_distillation", "attention_distillation"}),
        (FIELD["afc_lsc"], {"feature_distillation"}),
        (DARK, {"logit_distillation", "dark_replay"}),
        (row(), {"logit_distillation", "feature_distillation", "attention_distillation"}),
    ],
    ids=["avcil", "afc", "dark", "guided"],
)
def test_what_holds_the_old_model_is_nothing_as_long_as_the_model_stays_and_grows_when_it_moves(toy, method, losses):
    """Were logits, features or maps of one clip held against another's, they would not vanish where nothing moved."""
    start = train.run_task(toy, method, TRAINING, SHORT, 0, 0, EMPTY)[0]
    found = {}
    for rate in (1e-9, 1e-2):
        training = TRAINING.model_copy(update={"later_learning_rate": rate, "exemplar_batch": 4})
        found[rate] = train.run_task(toy, method, training, SHORT, 1, 0, start)[2][-1]
    for loss in losses:
        assert abs(found[1e-9][loss]) < 1e-6 < 1e-4 < found[1e-2][loss]


def test_maps_of_exemplars_that_are_too_many_to_keep_are_computed_anew(toy, monkeypatch):
    kept = learn(toy, FIELD["avcil"])[-1][0].model
    monkeypatch.setattr(av_cil, "MAP_BYTES", 0)
    torch.testing.assert_close(learn(toy, FIELD["avcil"])[-1][0].model, kept, rtol=1e-3, atol=1e-4)


# ---- batches


def test_paired_batches_hold_every_new_clip_once_and_exemplars_each():
    labels = torch.tensor([2, 3] * 10 + [0, 1] * 3)
    found = batches(labels, "paired", past=2, batch=8, exemplar_batch=4)
    assert [int((labels[b] >= 2).sum()) for b in found] == [8, 8, 4]
    assert [len(set(b[labels[b] < 2].tolist())) for b in found] == [4, 4, 4]
    drawn = torch.cat(found)
    assert drawn[labels[drawn] >= 2].sort().values.tolist() == list(range(20))


def test_paired_batches_take_all_exemplars_where_they_are_few():
    labels = torch.tensor([2] * 20 + [0, 1, 1])
    for rows in batches(labels, "paired", past=2, batch=8):
        assert rows[labels[rows] < 2].sort().values.tolist() == [20, 21, 22]


def test_exemplars_that_one_epoch_leaves_out_come_in_another():
    labels = torch.tensor([2] * 8 + [0] * 7)
    drawn = [set(batches(labels, "paired", 2, seed, batch=8, exemplar_batch=4)[0].tolist()) for seed in range(20)]
    assert set.union(*drawn) == set(range(15)) and all(len(rows) == 12 for rows in drawn)


def test_without_exemplars_paired_batches_are_uniform_ones():
    labels = torch.tensor([0, 1] * 10)
    for past in (0, 2):
        paired, uniform = (batches(labels + past, sampler, past) for sampler in ("paired", "uniform"))
        assert all(torch.equal(a, b) for a, b in zip(paired, uniform, strict=True))


@pytest.mark.parametrize(("optimiser", "schedule"), [("adamw", "cosine"), ("adam", "constant")])
def test_a_task_takes_the_steps_of_a_loop_that_is_written_out(toy, optimiser, schedule):
    """Each with the gradient of its batch alone; over all steps of a task the rate falls as a half cosine to zero."""
    training = TRAINING.model_copy(update={"optimiser": optimiser, "schedule": schedule, "weight_decay": 0.3})
    method = row(fusion="mean", sampler="uniform")
    found = train.run_task(toy, method, training, SHORT, 0, 0, EMPTY)[0].model
    torch.manual_seed(0)
    model, generator = restore(EMPTY, method, training, (16, 16)), torch.Generator().manual_seed(0)
    model.classifier.grow(2)
    kind = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[optimiser]
    steps = kind([p for p in model.parameters() if p.requires_grad], training.learning_rate, weight_decay=0.3)
    clips = toy.rows("train", 0, 2)
    batched = [rows for _ in range(2) for rows in clips[torch.randperm(24, generator=generator)].split(16)]
    for step, rows in enumerate(batched):
        if schedule == "cosine":
            steps.param_groups[0]["lr"] = training.learning_rate * (1 + math.cos(math.pi * step / len(batched))) / 2
        steps.zero_grad()
        F.cross_entropy(model(toy.tokens.clips(rows)).logits, toy.labels[rows]).backward()
        steps.step()
    torch.testing.assert_close(found, dict(model.state_dict()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("clips", "sizes"), [(20, [8, 8]), (16, [8, 8]), (5, [5])])
def test_drop_last_skips_the_last_smaller_batch_unless_it_is_the_only_one(clips, sizes):
    assert [len(b) for b in batches(torch.zeros(clips).long(), "uniform", batch=8, drop_last=True)] == sizes
    labels = torch.tensor([1] * clips + [0] * 3)
    found = batches(labels, "paired", 1, batch=8, drop_last=True)
    assert [int(labels[b].sum()) for b in found] == sizes and [len(b) - 3 for b in found] == sizes


# ---- the epoch that is kept


def test_the_earliest_of_the_best_epochs_is_kept(toy):
    rows = toy.rows("train", 0, 2)
    model = build(row(), TRAINING, (16, 16))
    model.classifier.grow(2)
    weights, scores = [], iter([0.2, 0.9, 0.9, 0.1])

    def score():
        weights.append(model.classifier.weight.detach().clone())
        return next(scores)

    train.optimise(
        Learning(row(), TRAINING, [2], model, Feed(toy.tokens, rows), toy.labels[rows], len(rows)),
        epochs=4, score=score,
    )  # fmt: skip
    assert torch.equal(model.classifier.weight, weights[1])
    assert not any(torch.equal(weights[1], weights[other]) for other in (0, 2, 3))


@pytest.mark.parametrize("keep", ["best_all", "best_new"])
def test_the_epoch_kept_is_the_best_on_validation_clips_of_all_or_of_new_classes(toy, keep):
    """At a constant rate, so that the weights after k epochs are those of a run of k epochs."""
    method, start = FIELD["avcil_finetune"], learn(toy, FIELD["avcil_finetune"], TRAINING, TASKS[:1])[0][0]

    def run(epochs, kept):
        training = TRAINING.model_copy(update={"schedule": "constant", "keep": kept, "later_learning_rate": 3e-3})
        tasks = [TASKS[0], TASKS[1].model_copy(update={"epochs": epochs})]
        checkpoint, result, _ = train.run_task(toy, method, training, tasks, 1, 0, start, split="val")
        return checkpoint.model, {"best_all": sum(result.accuracy), "best_new": result.accuracy[1]}

    runs = [run(epochs, "last") for epochs in range(1, 9)]
    scores = {kept: [score[kept] for _, score in runs] for kept in ("best_all", "best_new")}
    best = {kept: of.index(max(of)) for kept, of in scores.items()}
    same_tensors(run(8, keep)[0], runs[best[keep]][0])
    # the two are different epochs, and neither is the last
    assert len({*best.values(), 7}) == 3


# ---- parts of methods


@pytest.mark.parametrize(
    ("past", "new", "factor"),
    [((1.0, 3.0), (2.0, 6.0), 0.5), ((2.0, 6.0), (1.0, 3.0), 1.0)],
    ids=["new classes are larger", "new classes are smaller"],
)
def test_weight_aligning_scales_new_classes_down_to_the_mean_norm_of_past_ones_and_never_up(past, new, factor):
    model = build(row(classifier="linear"), TRAINING, (16, 16))
    model.classifier.grow(4)
    directions = torch.rand(4, 16)
    norms = torch.tensor([*past, *new])
    with torch.no_grad():
        model.classifier.weight.copy_(norms[:, None] * directions / directions.norm(dim=1, keepdim=True))
        model.classifier.bias.copy_(torch.arange(4.0))
    before = model.classifier.weight.detach().clone()
    WeightAligning().after_task(Learning(row(), TRAINING, [2, 2], model, None, None, 0))
    same_tensors(model.classifier.weight.detach()[:2], before[:2])
    torch.testing.assert_close(model.classifier.weight.detach()[2:], factor * before[2:])
    assert model.classifier.bias.tolist() == [0, 1, 2, 3]


def test_weights_that_will_be_aligned_are_learnt_without_negative_ones(toy, monkeypatch):
    """Every fused feature is a ReLU's, so a longer weight without negative entries is a larger logit."""
    before = []
    align = WeightAligning.after_task

    def watched(self, learning):
        before.extend([learning.model.classifier.weight.detach().clone()] * (learning.past > 0))
        align(self, learning)

    monkeypatch.setattr(WeightAligning, "after_task", watched)
    made = learn(toy, FIELD["wa"])
    weights = [checkpoint.model["classifier.weight"] for checkpoint, _, _ in made]
    assert all((weight >= 0).all() and (weight > 0).any(1).all() for weight in [*weights, *before])
    # task 0 has nothing to align; afterwards no new class is longer than past ones are in the mean
    assert [len(weight) for weight in before] == [4, 6]
    for task, weight in enumerate(weights[1:], 1):
        norms = weight.norm(dim=1)
        assert norms[2 * task :].mean() <= norms[: 2 * task].mean() * (1 + 1e-6)
    model = restore(made[-1][0], FIELD["wa"], TRAINING, (16, 16))
    assert (predict(model, toy.tokens, torch.arange(120)).features.fused >= 0).all()
    plain = learn(toy, FIELD["wa"].model_copy(update={"hooks": {}}))[0][0]
    assert (plain.model["classifier.weight"] < 0).any()


# ---- what is started anew, and what is asked


@pytest.mark.parametrize("fusion", ["guided", "frozen"])
@pytest.mark.parametrize("readout", ["ridge", "slda", "acil", "nearest_mean"])
def test_a_solved_head_that_restarts_knows_all_clips_at_hand(toy, fusion, readout):
    """Not those of the last task alone: of what was learnt before, nothing is kept."""
    options = {"expansion": 50} if readout == "acil" else {}
    method = row(
        fusion=fusion, readout=readout, readout_options=options, restart=True, memory="all", classifier="linear"
    )
    for _, result, _ in learn(toy, method):
        assert min(result.accuracy) > 0.8


def test_the_sums_of_a_head_that_restarts_are_of_all_clips_at_hand(toy):
    method = row(readout="ridge", restart=True, memory="all")
    checkpoint = learn(toy, method)[-1][0]
    rows = toy.splits["train"]
    output = predict(restore(checkpoint, method, TRAINING, (16, 16)), toy.tokens, rows)
    exact = RecursiveRidge(1.0)
    exact.update(output.features, toy.labels[rows], 6)
    torch.testing.assert_close(checkpoint.readout, exact.state)


@pytest.mark.parametrize(
    ("method", "times"),
    [
        (FIELD["lwf"], 2),
        (FIELD["avcil_without_logit_distillation"], 0),  # it is asked for maps of exemplars alone
        (FIELD["afc_lsc"], 2),
        (FIELD["lll_analytic"], 2),
        (row(readout="carried_ridge", feature_distillation=0, logit_distillation=0, hooks={}), 2),
        (FIELD["derpp"], 0),
        (FIELD["avcil_finetune"], 0),
        (FIELD["avcil_joint"], 0),
        (FIELD["ranpac_guided"], 0),
        (row(restart=True), 0),
        (row(fusion="frozen", readout="ridge"), 0),
    ],
    ids=["lwf", "attention", "afc", "analytic", "carried", "dark", "finetune", "joint", "frozen", "restart", "distils"],
)
def test_the_old_model_is_asked_only_where_something_reads_its_answer(toy, monkeypatch, method, times):
    asked, begin = [], train._begin

    def watched(*arguments):
        learning = begin(*arguments)
        asked.extend([1] * (learning.old_output is not None))
        return learning

    monkeypatch.setattr(train, "_begin", watched)
    made = learn(toy, method)
    assert len(made) == 3 and len(asked) == times


def test_a_separated_softmax_needs_to_know_the_past_classes_and_nothing_of_the_old_model(toy):
    rows = toy.rows("train", 0, 4)
    model = build(row(), TRAINING, (16, 16))
    model.classifier.grow(4)
    output = model(toy.tokens.clips(rows))
    batch = Batch(torch.arange(len(rows)), toy.labels[rows], output, model.classifier.scale)
    plain = row(feature_distillation=0, logit_distillation=0, hooks={}, cross_entropy="separated")
    found = objective(Learning(plain, TRAINING, [2, 2], model, None, None, 0), batch)
    expected = separated_cross_entropy(output.logits, toy.labels[rows], 2)
    assert list(found) == ["cross_entropy"] and found["cross_entropy"].item() == pytest.approx(expected.item())


def test_choosing_an_epoch_builds_no_map_a_channel(toy, monkeypatch):
    """Nothing reads the maps of validation clips; with ``patches`` nothing reads those of test clips either."""
    monkeypatch.setattr(channelwise, "channelwise_maps", lambda *a: pytest.fail("maps were built"))
    training = TRAINING.model_copy(update={"keep": "best_all"})
    made = learn(toy, FIELD["avcil_finetune"].model_copy(update={"patches": 2}), training, SHORT[:2])
    assert len(made[-1][2]) == 2


def test_stored_logits_stay_with_their_clip_as_they_were(toy):
    # of a shared budget, so that a task drops exemplars of earlier ones
    method = DARK.model_copy(update={"budget": "total", "exemplars": 13})
    made = learn(toy, method)
    stored = [dict(zip(c.memory, c.readout["der.logits"], strict=True)) for c, _, _ in made]
    for task, (checkpoint, _, _) in enumerate(made):
        model, seen = restore(checkpoint, method, TRAINING, (16, 16)), 2 * task + 2
        for clip in stored[task].keys() - (stored[task - 1].keys() if task else set()):
            logits = predict(model, toy.tokens, torch.tensor([toy.clip_ids.index(clip)])).logits[0]
            torch.testing.assert_close(stored[task][clip], logits)
            for later in stored[task + 1 :]:
                if clip in later:
                    same_tensors(later[clip][:seen], stored[task][clip])
                    assert later[clip][seen:].isnan().all()
    assert [sum(clip in stored[-1] for clip in s) for s in stored] == [4, 8, 12]


def test_importance_of_a_model_that_knows_one_class_is_zero_and_distils_nothing(toy):
    model = IncrementalClassifier(
        (16, 16), fusion="channelwise", classifier="proxies", width=8, heads=1, prior_guidance=0.0, learnt_guidance=0.1
    )
    model.classifier.grow(1)
    weight = importance(model, toy.tokens, torch.zeros(len(toy.labels), dtype=torch.long))
    assert weight.shape == (len(toy.labels), 3) and not weight.any()
    new = torch.randn(len(weight), 8, requires_grad=True)
    loss = importance_distillation((new,) * 3, (torch.randn(len(weight), 8),) * 3, weight)
    loss.backward()
    assert loss.item() == 0 and not new.grad.any()


def test_new_proxies_start_at_their_class_s_clips_as_long_as_past_ones(toy):
    """Of 4 clips of a class each is a centre; the other proxies stay as they were drawn."""
    model = build(FIELD["afc_lsc"], TRAINING, (16, 16))
    model.classifier.grow(2)
    model.classifier.grow(4)
    rows = torch.cat([toy.rows("train", c, c + 1)[:4] for c in (0, 2, 3)])
    drawn, length = model.classifier.weight.detach().clone(), model.classifier.kept.norm(dim=1).mean()
    imprint(model, Feed(toy.tokens, rows), toy.labels[rows])
    clips = length * F.normalize(predict(model, toy.tokens, rows[4:]).features.fused, dim=1)
    for mine, found, before in zip(
        clips.split(4), model.classifier.weight.split(PROXIES), drawn.split(PROXIES), strict=True
    ):
        nearest = torch.cdist(mine, found[:4]).min(1)
        assert nearest.values.max() < 1e-4 * length and nearest.indices.unique().tolist() == [0, 1, 2, 3]
        same_tensors(found[4:], before[4:])


# ---- coarser patches


def test_coarse_patches_are_the_means_of_square_blocks(toy):
    fine, coarse = toy.tokens, toy.tokens.coarse(2)
    for block, (top, left) in enumerate([(0, 0), (0, 2), (2, 0), (2, 2)]):
        patches = [4 * i + j for i in (top, top + 1) for j in (left, left + 1)]
        torch.testing.assert_close(coarse.visual[:, :, block], fine.visual[:, :, patches].mean(2))
        torch.testing.assert_close(coarse.similarity[:, :, block], fine.similarity[:, :, patches].mean(2))
    assert coarse.visual.shape[2] == coarse.similarity.shape[2] == 4 and coarse.audio is fine.audio
    torch.testing.assert_close(fine.coarse(4), fine)


def test_patches_that_are_no_square_grid_are_refused():
    tokens = Tokens(torch.zeros(1, 2, 12, 3), torch.zeros(1, 1, 3), torch.zeros(1, 2, 12))
    with pytest.raises(ValueError, match="12 patches a slot are not a square grid"):
        tokens.coarse(2)


def test_a_method_looks_at_the_patches_of_its_row(toy):
    for patches, count in ((None, 16), (4, 16), (2, 4)):
        method = FIELD["ssil"].model_copy(update={"patches": patches})
        assert tokens_of(toy, method).visual.shape[2] == count
        assert len(learn(toy, method, tasks=SHORT[:1])[0][1].predictions) == 12
    # of more than there are, those that there are
    assert tokens_of(toy, method.model_copy(update={"patches": 7})) is toy.tokens


# ---- ridge that is carried along


def _joined(fused):
    return Features(None, None, fused)


def drifting():
    """Features [60,5] of clips of 6 classes before and after a linear drift with an offset, in float64."""
    generator = torch.Generator().manual_seed(0)
    before = torch.randn(60, 5, dtype=torch.float64, generator=generator)
    turn, offset = (torch.randn(shape, dtype=torch.float64, generator=generator) for shape in ((5, 5), (5,)))
    return before, before @ turn + offset, torch.arange(60) // 10


def test_carried_ridge_is_ridge_on_all_new_features_where_the_drift_is_linear():
    before, after, labels = drifting()
    head = CarriedRidge(2.0, 1e-10)
    head.update(_joined(before[:30]), labels[:30], 3)
    stale = RecursiveRidge(2.0, dict(head.state))
    # the clips at hand are the new ones and two exemplars
    at_hand = [0, 15, *range(30, 60)]
    head.carry(_joined(before[at_hand]), _joined(after[at_hand]))
    oracle = RecursiveRidge(2.0)
    oracle.update(_joined(after), labels, 6)
    for other in (head, stale):
        other.update(_joined(after[30:]), labels[30:], 6)
    torch.testing.assert_close(head.state, oracle.state, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(head.logits(_joined(after)), oracle.logits(_joined(after)), rtol=1e-5, atol=1e-6)
    assert (stale.logits(_joined(after)) - oracle.logits(_joined(after))).abs().max() > 0.1


def test_carried_ridge_stays_where_damping_is_strong_and_where_no_clip_shows_a_drift():
    before, after, labels = drifting()
    head = CarriedRidge(2.0, 1e15)
    head.update(_joined(before[:30]), labels[:30], 3)
    still = dict(head.state)
    head.carry(_joined(before[30:]), _joined(after[30:]))
    torch.testing.assert_close(head.state, still)
    head.damping = 1e-10
    head.carry(_joined(before[30:]), _joined(before[30:]))
    torch.testing.assert_close(head.state, still)


def test_the_training_loop_carries_the_ridge_to_the_features_of_the_new_model(toy):
    """Memory of all clips and little damping: the sums come near those of all clips' new features, and a model that
    hardly learns leaves them exactly there."""
    error = {}
    for damping, rate in ((1e-6, 1e-9), (1e-6, 3e-3), (1e9, 3e-3)):
        method = row(readout="carried_ridge", memory="all")
        training = TRAINING.model_copy(update={"later_learning_rate": rate, "drift_damping": damping})
        checkpoint = learn(toy, method, training)[-1][0]
        rows = toy.splits["train"]
        output = predict(restore(checkpoint, method, training, (16, 16)), toy.tokens, rows)
        exact = RecursiveRidge(1.0)
        exact.update(solved_features(method, toy.tokens, rows, output.features), toy.labels[rows], 6)
        difference = checkpoint.readout["gram"] - exact.state["gram"]
        error[damping, rate] = (difference.norm() / exact.state["gram"].norm()).item()
    assert error[1e-6, 1e-9] < 1e-5
    assert error[1e-6, 3e-3] < 0.3 * error[1e9, 3e-3]


# ---- what is refused, and other tokens


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"readout": "carried_ridge", "restart": True}, "nothing to carry with restart"),
        ({"readout": "carried_ridge", "fusion": "frozen"}, "carried_ridge needs a fusion that learns"),
        ({"readout": "ridge", "readout_options": {"penalty": 1.0}}, "readout_options: `ridge` has none"),
        ({"readout": "ranpack"}, r"`ranpack` is none of .* and no file of avcil/learn/methods \(did you mean `ranpac`"),
        ({"fusion": "ewk"}, r"no file of avcil/learn/methods"),
        ({"hooks": {"dre": {}}}, r"`dre` is no file of avcil/learn/methods \(did you mean `der`"),
    ],
)
def test_rows_that_cannot_be_learnt_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Method(**row().model_dump() | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hooks": {"weight_aligning": {}}, "classifier": "proxies"}, "weight_aligning: needs classifier: linear"),
        ({"hooks": {"weight_aligning": {}}}, "weight_aligning: needs classifier: linear"),
        ({"hooks": {"afc": {"weight": 1.0}}}, "afc: needs classifier: proxies"),
        (
            {"hooks": {"afc": {"weight": 1.0}}, "classifier": "proxies", "fusion": "mean"},
            "fusion: guided or channelwise",
        ),
        ({"hooks": {"av_cil": {"attention_distillation": 1.0}}}, "needs fusion: channelwise"),
        ({"hooks": {"icarl": {"weight": 1.0}}}, "set logit_distillation: 0.0"),
        ({"hooks": {"der": {"weigth": 1.0}}}, r"options of `der`: no key `weigth` \(did you mean `weight`\?\)"),
        ({"hooks": {"der": {"weight": -1.0}}}, "options of `der`: weight: Input should be greater than 0"),
        ({"readout": "slda", "readout_options": {"shrinkage": 2.0}}, "options of `slda`: shrinkage"),
        ({"hooks": {"fecam": {}}}, "hooks: `fecam` is none, but a fusion, classifier or read-out"),
    ],
)
def test_options_that_a_method_s_file_does_not_take_are_refused_by_row(changes, message):
    method = Method(**row(hooks={}).model_dump() | changes)
    with pytest.raises(ValueError, match=f"^mine: .*{message}"):
        check("mine", method)


@pytest.mark.parametrize(
    ("text", "message"), [("def build(", "never closed"), ("build = lost", "'lost' is not defined")]
)
def test_a_methods_file_that_cannot_be_read_is_refused_by_row(monkeypatch, tmp_path, text, message):
    (tmp_path / "mine_own.py").write_text(text)
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    with pytest.raises(ValueError, match=f"^mine: .*{message}"):
        check("mine", row().model_copy(update={"hooks": {"mine_own": {}}}))


@pytest.mark.parametrize(
    ("kind", "arguments"), [("fusion", "options, method"), ("classifier", "options, state"), ("readout", "sizes")]
)
def test_a_build_that_says_not_what_it_makes_is_told_by_its_arguments(monkeypatch, tmp_path, kind, arguments):
    (tmp_path / f"silent_{kind}.py").write_text(f"def build({arguments}): ...")
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    with pytest.raises(ValueError, match=f"^mine: {kind}: `silent_{kind}` is none"):
        check("mine", row().model_copy(update={kind: f"silent_{kind}"}))


def test_an_epoch_is_not_chosen_on_no_validation_clips(toy):
    training = TRAINING.model_copy(update={"keep": "best_all"})
    without = toy._replace(splits=toy.splits | {"val": toy.splits["val"][:0]})
    with pytest.raises(ValueError, match=r"keep: best_all, but task 0 has no validation clips; use last"):
        train.run_task(without, row(), training, TASKS, 0, 0, EMPTY)


@pytest.mark.parametrize("fusion", ["guided", "mean", "visual", "audio", "frozen", "frozen_guided"])
def test_sight_and_sound_may_differ_in_width(toy, fusion):
    narrow = toy._replace(tokens=toy.tokens._replace(audio=toy.tokens.audio[..., :10]))
    method = row(fusion=fusion)
    if fusion.startswith("frozen"):
        method = Method(**method.model_dump() | {"readout": "ridge"})
    checkpoint, result, _ = train.run_task(narrow, method, TRAINING, TASKS, 0, 0, EMPTY)
    assert result.accuracy[0] > 0.5 and checkpoint.classes == toy.order[:2]


def test_channelwise_attention_needs_equal_widths(toy):
    narrow = toy._replace(tokens=toy.tokens._replace(audio=toy.tokens.audio[..., :10]))
    with pytest.raises(ValueError, match="equal width, not 16 and 10; use another fusion or another encoder"):
        train.run_task(narrow, row(fusion="channelwise"), TRAINING, TASKS, 0, 0, EMPTY)


def test_a_learnt_query_hears_nothing_and_still_learns_where_to_look(toy):
    """Its maps are the same for any sound and similarity; the weights that would hear stay as they were drawn."""
    method, rows = row(fusion="learnt_query"), torch.arange(40)
    torch.manual_seed(0)  # as `run_task` draws the weights of this seed's first task
    start = restore(EMPTY, method, TRAINING, toy.tokens.channels)
    checkpoint, _, _ = train.run_task(toy, method, TRAINING, TASKS, 0, 0, EMPTY)
    model = restore(checkpoint, method, TRAINING, toy.tokens.channels)
    other = toy.tokens._replace(audio=toy.tokens.audio.flip(0), similarity=toy.tokens.similarity.flip(0))
    heard, unheard = predict(model, toy.tokens, rows), predict(model, other, rows)
    torch.testing.assert_close(heard.spatial, unheard.spatial, rtol=0, atol=0)
    torch.testing.assert_close(heard.temporal, unheard.temporal, rtol=0, atol=0)
    assert (heard.features.audio != unheard.features.audio).any()
    assert (heard.spatial - predict(start, toy.tokens, rows).spatial).abs().max() > 1e-3
    drawn, learnt = start.attention.state_dict(), model.attention.state_dict()
    moved = {name for name, value in drawn.items() if not torch.equal(value, learnt[name])}
    assert "attention.query.bias" in moved
    assert not {"attention.query.weight", "attention.moment_query.weight"} & moved


def test_a_null_token_stands_for_what_is_absent_and_is_learnt(toy):
    """Whole clips give what `mean` gives with the same weights; an absent stream gives what its token would."""
    mean, nulls = (restore(EMPTY, row(fusion=name), TRAINING, toy.tokens.channels) for name in ("mean", "null_tokens"))
    with torch.no_grad():
        nulls.visual.weight.copy_(torch.cat([mean.visual.weight, mean.audio.weight], 1))
        nulls.visual.bias.copy_(mean.visual.bias + mean.audio.bias)
        nulls.attention.sound.normal_()
    few, every = toy.tokens.clips(torch.arange(20)), torch.ones(20, dtype=torch.bool)
    torch.testing.assert_close(nulls(few).features.fused, mean(few).features.fused)
    said = few._replace(audio=nulls.attention.sound.detach().expand_as(few.audio))
    torch.testing.assert_close(nulls(withhold(few, every, ~every)).features.fused, nulls(said).features.fused)
    method = row(fusion="null_tokens", hooks={"modality_dropout": {"share": 0.5}})
    checkpoint, _, _ = train.run_task(toy, method, TRAINING, TASKS, 0, 0, EMPTY)
    learnt = restore(checkpoint, method, TRAINING, toy.tokens.channels).attention
    assert learnt.picture.abs().max() > 1e-3 and learnt.sound.abs().max() > 1e-3
