"""A learner: equal to learning all at once, honest about heads, costs and unknown clips, and kept without loss."""

import json
import shutil
import warnings

import av
import numpy as np
import pytest
import torch
from media import tone, write
from toys import TRAINING, row

import avcil
from avcil.base.files import read_sealed, write_sealed
from avcil.extraction.clips import ClipError, read_clip, write_clip
from avcil.learn.checkpoint import EMPTY, load_checkpoint
from avcil.learn.evaluate import restore
from avcil.learn.heads import RecursiveRidge
from avcil.learn.train import run_tasks
from avcil.learner.clips import LearnerError, tokens_of, usable, windows
from avcil.learner.predictions import auroc
from avcil.params import ParameterError
from avcil.params.learning import chain
from avcil.tokens.tokens import Tokens
from conftest import ROOT


def part(data, split, classes):
    """Tokens and labels of the clips of a split whose class is among ``classes``."""
    rows = torch.tensor([i for i in data.splits[split].tolist() if int(data.labels[i]) in classes])
    return data.tokens.clips(rows), [data.order[int(c)] for c in data.labels[rows]]


@pytest.fixture
def learner(params):
    return avcil.Learner(params=params, root=ROOT)


def answers(learner, tokens):
    return np.array([[p.probabilities[c] for c in sorted(learner.classes)] for p in learner.predict(tokens)])


def weights(learner):
    """W by label, from the sums that are kept."""
    state = learner.checkpoint.readout
    gram = state["gram"] + learner.training.ridge_penalty * torch.eye(len(state["gram"]), dtype=torch.float64)
    solved = torch.linalg.solve(gram, state["cross"])
    return torch.stack([solved[:, learner.classes.index(label)] for label in sorted(learner.classes)], 1)


def features_by_hand(tokens, guidance):
    """Mean audio token, visual tokens' mean under the prior's attention, and a one."""
    weight = (guidance * tokens.similarity.double()).softmax(-1)
    visual = (weight[..., None] * tokens.visual.double()).sum(2).mean(1)
    return torch.cat([tokens.audio.double().mean(1), visual, torch.ones(len(visual), 1)], 1)


@pytest.mark.parametrize("by_class", [True, False])
def test_parts_in_any_order_are_all_at_once(toy, params, by_class):
    tokens, labels = part(toy, "train", range(6))
    whole = avcil.Learner(params=params, root=ROOT)
    whole.fit(tokens, labels)
    # against ridge regression by hand, on all clips at once, in another library's arithmetic
    x = features_by_hand(tokens, whole.method.prior_guidance).numpy()
    y = np.array([[label == one for one in sorted(set(labels))] for label in labels], float)
    oracle = np.linalg.solve(x.T @ x + whole.training.ridge_penalty * np.eye(x.shape[1]), x.T @ y)
    # the model takes its attention in float32
    assert np.abs(weights(whole).numpy() - oracle).max() < 1e-6
    for order in ([0, 1, 2, 3, 4, 5], [5, 2, 0, 4, 1, 3]):
        learner = avcil.Learner(params=params, root=ROOT, by_class=by_class)
        for label in order:
            mine, names = part(toy, "train", [label])
            for half in (slice(0, 5), slice(5, 12)):
                learner.learn(mine.clips(half), names[half])
        assert (weights(learner) - weights(whole)).abs().max() < 1e-9
        assert learner.counts == whole.counts
        assert [p.label for p in learner.predict(tokens)] == [p.label for p in whole.predict(tokens)]


def test_classes_count_alike_however_many_clips_they_have(toy, params, learner):
    tokens, labels = part(toy, "train", range(5))
    few, _ = part(toy, "train", [5])
    learner.fit(tokens, labels)
    learner.learn(few.clips(slice(0, 2)), "class5")
    x = features_by_hand(tokens, learner.method.prior_guidance)
    x = torch.cat([x, features_by_hand(few.clips(slice(0, 2)), learner.method.prior_guidance)]).numpy()
    labels = [*labels, "class5", "class5"]
    y = np.array([[label == one for one in sorted(set(labels))] for label in labels], float)
    share = np.array([(62 / 6) / labels.count(label) for label in labels])[:, None]
    penalty = learner.training.ridge_penalty * np.eye(x.shape[1])
    oracle = np.linalg.solve(x.T @ (share * x) + penalty, x.T @ (share * y))
    assert np.abs(weights(learner).numpy() - oracle).max() < 1e-6
    plain = avcil.Learner(params=params, root=ROOT, by_class=False)
    plain.fit(tokens, labels[:-2])
    plain.learn(few.clips(slice(0, 2)), "class5")
    test, _ = part(toy, "test", [5])
    alike, hardly = ([p.probabilities["class5"] for p in one.predict(test)] for one in (learner, plain))
    assert np.mean(alike) > np.mean(hardly) + 0.01


def test_learning_says_what_it_cost(toy, learner):
    validation = part(toy, "val", range(4))
    first = learner.fit(*part(toy, "train", range(4)), validation)
    assert first.clips == 48 and first.new_classes == toy.order[:4] and first.seconds > 0
    assert first.old_accuracy is None and first.new_accuracy > 0.5  # chance: 1/4
    tokens, _ = part(toy, "train", [4])
    second = learner.learn(tokens.clips(slice(0, 5)), "class4", part(toy, "val", range(5)))
    assert second.new_classes == ["class4"] and second.old_accuracy > 0.5
    # by class 33 x 33 of the Gram matrix and 33 of the rest, all in float64, once more for their sum
    assert first.bytes == 8 * 33 * (4 * 34 + 33 + 4) and second.bytes - first.bytes == 8 * 33 * (34 + 1)
    test, labels = part(toy, "test", range(5))
    predicted = learner.predict(test)
    assert np.mean([p.label == label for p, label in zip(predicted, labels, strict=True)]) > 0.5
    one = predicted[0]
    assert sum(one.probabilities.values()) == pytest.approx(1, abs=1e-5) and one.spatial.shape == (2, 16)
    assert one.label == max(one.probabilities, key=one.probabilities.get)
    assert one.spatial.sum(1) == pytest.approx([1, 1], abs=1e-5) and one.temporal.sum() == pytest.approx(1)


def test_fit_gives_up_what_was_known_and_a_failure_changes_nothing(toy, learner):
    learner.fit(*part(toy, "train", range(3)))
    before = weights(learner)
    for wrong in ([toy.tokens.clips(slice(0, 2)), ["a"]], [toy.tokens.clips(slice(0, 1)), [""]], [[], []]):
        with pytest.raises(LearnerError):
            learner.fit(*wrong)
    with pytest.raises(LearnerError, match="which is not learnt"):
        learner.learn(*part(toy, "train", [3]), part(toy, "val", [4]))
    others, names = part(toy, "val", [3])
    with pytest.raises(LearnerError, match="channels"):
        learner.learn(*part(toy, "train", [3]), (others._replace(audio=others.audio[..., :8]), names))
    assert learner.classes == toy.order[:3] and torch.equal(weights(learner), before)
    learner.fit(*part(toy, "train", [5]))
    assert learner.classes == ["class5"]


def test_it_is_solved_once_for_what_it_knows_and_anew_when_that_changes(toy, params, learner, monkeypatch):
    solved, solve = [], RecursiveRidge._solve
    monkeypatch.setattr(
        RecursiveRidge, "_solve", lambda head: solved.append(len(head.state["cross"][0])) or solve(head)
    )
    tokens, labels = part(toy, "train", range(4))
    learner.fit(tokens, labels)
    first = answers(learner, tokens)
    assert np.array_equal(answers(learner, tokens), first) and solved == [4]
    learner.calibrate(*part(toy, "val", range(4)))
    assert solved == [4]
    learner.learn(*part(toy, "train", [4]))
    learner.predict(tokens)
    learner.forget("class4")
    learner.temperature = 1.0
    # the sums less a class's are those of before, up to rounding
    np.testing.assert_allclose(answers(learner, tokens), first, atol=1e-6)
    assert solved == [4, 5, 4]


def test_forgetting_is_as_if_never_learnt(toy, params, learner):
    learner.fit(*part(toy, "train", range(4)))
    learner.forget("class1")
    never = avcil.Learner(params=params, root=ROOT)
    never.fit(*part(toy, "train", [0, 2, 3]))
    assert learner.classes == never.classes
    assert (weights(learner) - weights(never)).abs().max() < 1e-9
    with pytest.raises(LearnerError, match=r"no class `clas2` \(did you mean `class2`"):
        learner.forget("clas2")
    summed = avcil.Learner(params=params, root=ROOT, by_class=False)
    summed.fit(*part(toy, "train", range(2)))
    with pytest.raises(LearnerError, match="by_class=True"):
        summed.forget("class0")


def test_saved_and_loaded_it_is_the_same_and_goes_on(toy, learner, tmp_path):
    for label in (2, 0, 1):  # another order than files have names in
        learner.learn(*part(toy, "train", [label]), part(toy, "val", [label]))
    learner.save(tmp_path / "mine")
    again = avcil.Learner.load(tmp_path / "mine")
    test, _ = part(toy, "test", range(6))
    for a, b in zip(learner.predict(test), again.predict(test), strict=True):
        assert (a.label, a.probabilities, a.unknown, a.is_unknown) == (
            b.label,
            b.probabilities,
            b.unknown,
            b.is_unknown,
        )
    for one in (learner, again):
        one.learn(*part(toy, "train", range(3, 6)))
        one.forget("class0")
    assert torch.equal(weights(learner), weights(again))
    names = {path.name for path in (tmp_path / "mine").iterdir()}
    assert names == {"config.json", "model.safetensors", "encoder.safetensors", "README.md"}
    card = (tmp_path / "mine/README.md").read_text()
    measured = json.loads((tmp_path / "mine/config.json").read_text())["accuracy"]
    assert f"{100 * measured:.1f} %" in card and "| class2 | 12 |" in card and "MIT" in card


def test_nothing_of_another_is_written_over(toy, learner, tmp_path):
    learner.fit(*part(toy, "train", range(2)))
    for name in ("README.md", "config.json"):
        folder = tmp_path / name.lower()
        folder.mkdir()
        (folder / name).write_text("{}")
        with pytest.raises(LearnerError, match=rf"{name}: of something else than a learner; name a new folder"):
            learner.save(folder)
        assert (folder / name).read_text() == "{}" and len([*folder.iterdir()]) == 1


def test_a_published_encoder_is_named_and_not_carried_along(toy, params, tmp_path):
    learner = avcil.Learner("pe_av", params=params, root=ROOT)
    learner.fit(*part(toy, "train", range(2)))
    learner.save(tmp_path / "first")
    avcil.Learner.load(tmp_path / "first").save(tmp_path / "second")
    assert {path.name for path in (tmp_path / "second").iterdir()} == {"config.json", "model.safetensors", "README.md"}
    assert params.encoders["pe_av"].weights in (tmp_path / "second/README.md").read_text()


def test_weights_in_a_folder_are_found_from_another_one(toy, params, tmp_path, monkeypatch):
    (tmp_path / "weights").mkdir()
    monkeypatch.chdir(tmp_path)
    local = {"weights": "weights", "audio_weights": "org/name"}
    encoders = params.encoders | {"clip_clap": params.encoders["clip_clap"].model_copy(update=local)}
    learner = avcil.Learner("clip_clap", params=params.model_copy(update={"encoders": encoders}), root=ROOT)
    learner.fit(*part(toy, "train", range(2)))
    learner.save("saved")
    published = avcil.Learner.load("saved").encoder.published
    assert published.weights == str(tmp_path / "weights") and published.audio_weights == "org/name"


def test_a_damaged_folder_is_one_clear_line(toy, learner, tmp_path):
    with pytest.raises(LearnerError, match="knows no class"):
        learner.save(tmp_path)
    with pytest.raises(LearnerError, match=r"no whole config\.json"):
        avcil.Learner.load(tmp_path)
    learner.fit(*part(toy, "train", range(2)))
    learner.save(tmp_path)
    weight = tmp_path / "model.safetensors"
    content = bytearray(weight.read_bytes())
    content[-1] ^= 1
    weight.write_bytes(content)
    with pytest.raises(LearnerError, match=r"model\.safetensors: missing or damaged"):
        avcil.Learner.load(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"readout": "nearest_mean"},
        {"readout": "carried_ridge"},
        {"fusion": "frozen_guided", "classifier": "linear", "readout": "ridge", "memory": "none"},
        {"fusion": "mean", "patches": 2},
        {"patches": 2},
    ],
    ids=str,
)
def test_a_run_predicts_as_it_was_evaluated(toy, tmp_path, changes):
    method = row(**changes)
    results = run_tasks(toy, method, TRAINING, chain([2, 2, 2], 3), 0, tmp_path)
    learner = avcil.Learner.from_run(tmp_path / "task2/seed0")
    test = toy.splits["test"]
    predicted = [p.label for p in learner.predict(toy.tokens.clips(test))]
    stored = results[-1].predictions
    assert predicted == [toy.order[stored[toy.clip_ids[i]]] for i in test.tolist()]
    learner.save(tmp_path / "saved")
    again = avcil.Learner.load(tmp_path / "saved").predict(toy.tokens.clips(test))
    assert [p.label for p in again] == predicted
    if changes.get("fusion") == "frozen_guided":
        learner.learn(toy.tokens.clips(slice(0, 2)), ["class0", "class6"])
        assert set(learner.predict(toy.tokens.clips(slice(0, 1)))[0].probabilities) == {*toy.order, "class6"}
        learner.save(tmp_path / "more")
        card = (tmp_path / "more/README.md").read_text()
        assert "| class0 | not recorded |" in card and "| class6 | 1 |" in card
    else:
        with pytest.raises(LearnerError, match="give from_run the data it learnt from"):
            learner.learn(*part(toy, "train", [5]))


@pytest.mark.parametrize(
    ("made_with", "encoder", "digest"),
    [
        # of a run of the pipeline, of one's own clips, of imported tokens, and of tokens of nobody's
        ("mini:abc:def", "mini", "abc"),
        ("mini-1:abc", "mini-1", "abc"),
        ("imported:abc:def", None, None),
        ("toy:0", None, None),
    ],
)
def test_a_run_is_read_by_the_encoder_that_it_was_made_with(toy, tmp_path, monkeypatch, made_with, encoder, digest):
    """Whatever tokens the row names; in a folder that has params.yaml alone, and named from inside of it."""
    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    data = toy._replace(encoder=made_with)
    run_tasks(data, row(memory="none", exemplars=0), TRAINING, chain([2], 1), 0, tmp_path / "runs")
    monkeypatch.chdir(tmp_path / "runs")
    learner = avcil.Learner.from_run("task0/seed0")
    assert (learner.encoder and learner.encoder.name, learner.encoder and learner.encoder.digest) == (encoder, digest)
    clip = ROOT / "corpus/sounding_objects/clips/test-000-000.mp4"
    with pytest.raises(LearnerError, match="but this learner's are abc" if encoder else "files need the project's"):
        learner.predict([clip])


CLOSED = {"fusion": "frozen_sources", "readout": "chosen_ridge", "memory": "none", "hooks": {"synchrony": {}}}


def of_row(method, epochs=2):
    return avcil.Learner._of(method, TRAINING, None, EMPTY, True, epochs)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"readout": "carried_ridge"},
        {"memory": "none", "exemplars": 0},
        {"budget": "total", "exemplars": 12},
        {"memory": "random", "hooks": {"der": {"weight": 1.0}}},
        {"restart": True, "memory": "all"},
        {"fusion": "mean"},
        CLOSED,
    ],
    ids=str,
)
def test_a_task_is_learnt_as_the_pipeline_learns_it(toy, tmp_path, changes):
    """To the bit, exemplars among it: from nothing, from a folder that was saved, and from a run of the pipeline."""
    method = row(**changes)
    run_tasks(toy, method, TRAINING, chain([2, 2, 2], 2), 0, tmp_path)
    expected = load_checkpoint(tmp_path / "task2/seed0")
    learner = of_row(method)
    for first in (0, 2, 4):
        cost = learner.learn(*part(toy, "train", [first, first + 1]))
        assert cost.new_classes == toy.order[first : first + 2] and cost.bytes == learner.bytes
        learner.save(tmp_path / "saved")
        learner = avcil.Learner.load(tmp_path / "saved")
    again = avcil.Learner.from_run(tmp_path / "task1/seed0", toy)
    again.learn(*part(toy, "train", [4, 5]))
    for one in (learner, again):
        assert one.checkpoint.classes == toy.order
        # DER++ has NaN where a class had no logit yet
        torch.testing.assert_close(one.checkpoint[:2], expected[:2], rtol=0, atol=0, equal_nan=True)
        kept = [toy.clip_ids.index(clip) for clip in expected.memory]
        assert bool(kept) == bool(one.kept)
        if kept:
            assert one.kept.labels == [toy.order[i] for i in toy.labels[kept]]
            if method.fusion == "guided":
                assert torch.equal(one.kept.tokens.visual, toy.tokens.visual[kept])
    card = (tmp_path / "saved/README.md").read_text()
    assert f"tokens of {len(expected.memory)} clips" in card and "| class0 | 12 |" in card


def test_exemplars_are_kept_in_half_of_the_bytes_where_that_loses_nothing(toy):
    halves = Tokens(*(stream.half() for stream in toy.tokens))
    learner = of_row(row())
    learner.learn(halves.clips(toy.splits["train"][:24]), [toy.order[i] for i in toy.labels[toy.splits["train"][:24]]])
    assert {stream.dtype for stream in learner.kept.tokens} == {torch.float16}
    assert len(learner.kept.tokens.audio) == 6


@pytest.mark.parametrize("changes", [CLOSED, {"fusion": "frozen_scaled", "readout": "scaled_ridge", "memory": "none"}])
def test_closed_forms_of_any_scale_take_more_clips_of_a_class(toy, changes):
    """New and known ones in one call as well; what is learnt is what all clips at once would have taught."""
    method = row(**{"hooks": {}} | changes)
    # synchrony is estimated from the first clips, so both begin alike
    whole, parts = of_row(method), of_row(method)
    first, names = part(toy, "train", [0, 1])
    for learner in (whole, parts):
        learner.fit(first, names)
    later, labels = part(toy, "train", [2, 3])
    whole.learn(later, labels)
    odd = torch.arange(24) % 2 == 1
    for mine in (odd, ~odd):
        parts.learn(later.clips(mine.nonzero()[:, 0]), [label for label, one in zip(labels, mine, strict=True) if one])
    more, again = part(toy, "train", [4, 0])
    whole.learn(more, again)
    parts.learn(more.clips(slice(12, 24)), again[12:])
    parts.learn(more.clips(slice(0, 12)), again[:12])
    assert parts.classes == whole.classes == toy.order[:5] and parts.counts == whole.counts
    assert parts.counts["class0"] == 24
    test, _ = part(toy, "test", range(5))
    difference = np.abs(answers(parts, test) - answers(whole, test)).max()
    assert difference < 1e-4, difference


def test_what_learns_by_tasks_says_what_it_cannot_do(toy, tmp_path, monkeypatch):
    learner = of_row(row())
    learner.fit(*part(toy, "train", [0, 1]))
    before = answers(learner, toy.tokens)
    # no file is read before it is said
    monkeypatch.setattr("avcil.learner.clips.ClipEncoder.read", None)
    clip = ROOT / "corpus/sounding_objects/clips/test-000-000.mp4"
    with pytest.raises(
        LearnerError, match="`class1` is known already, and fusion guided and read-out classifier learn no"
    ):
        learner.learn([clip, clip], ["class5", "class1"])
    with pytest.raises(LearnerError, match="does not come apart again; fit anew without this class"):
        learner.forget("class1")
    monkeypatch.setattr("avcil.learner.tasks.run_task", interrupted)
    with pytest.raises(KeyboardInterrupt):
        learner.learn(*part(toy, "train", [2]))
    assert learner.classes == toy.order[:2] and learner.counts == {"class0": 12, "class1": 12}
    assert np.array_equal(answers(learner, toy.tokens), before)
    run_tasks(toy, row(), TRAINING, chain([2], 1), 0, tmp_path)
    for other, message in (
        (toy._replace(clip_ids=[f"other{i}" for i in range(120)]), "is not among the clips; give the data set that"),
        (toy._replace(encoder="other:1"), "tokens of other:1, but the run's are of toy:0; give the data set"),
        (toy._replace(order=[label.upper() for label in toy.order]), "is labelled `CLASS0`, which the run has not"),
        (toy.tokens, "data of type Tokens; give the data set that the run learnt from, as `load_datasets` reads it"),
    ):
        with pytest.raises(LearnerError, match=message):
            avcil.Learner.from_run(tmp_path / "task0/seed0", other)


def interrupted(*_, **__):
    raise KeyboardInterrupt


def test_validation_clips_choose_the_epoch_where_the_row_says_so(toy, tmp_path):
    """As in the pipeline, from a run, whose seed goes on."""
    best = TRAINING.model_copy(update={"keep": "best_all"})
    run_tasks(toy, row(), best, chain([2, 2], 4), 3, tmp_path)
    learner = avcil.Learner.from_run(tmp_path / "task0/seed3", toy)
    with pytest.raises(LearnerError, match="best_all chooses an epoch by validation clips; give some"):
        learner.learn(*part(toy, "train", [2, 3]))
    learner.learn(*part(toy, "train", [2, 3]), part(toy, "val", range(4)))
    expected = load_checkpoint(tmp_path / "task1/seed3")
    torch.testing.assert_close(learner.checkpoint[:2], expected[:2], rtol=0, atol=0)
    assert learner.checkpoint.origin["seed"] == 3


def test_a_run_that_an_earlier_version_saved_goes_on_with_its_epochs(toy, tmp_path):
    run_tasks(toy, row(memory="none", exemplars=0), TRAINING, chain([2], 7), 0, tmp_path)
    learner = avcil.Learner.from_run(tmp_path / "task0/seed0")
    learner.save(tmp_path / "saved")
    config = read_sealed(tmp_path / "saved/config.json")
    write_sealed(tmp_path / "saved/config.json", {k: v for k, v in config.items() if k not in ("epochs", "exemplars")})
    assert avcil.Learner.load(tmp_path / "saved").epochs == 7


def test_a_program_around_it_is_left_as_it_is(toy):
    """What switches gradients off, what wants some of the tokens, and what draws numbers next."""
    torch.manual_seed(5)
    expected = torch.rand(3)
    learner = of_row(row())
    tokens, labels = part(toy, "train", [0, 1])
    torch.manual_seed(5)
    with torch.inference_mode():
        learner.learn(Tokens(*(stream.clone() for stream in tokens)), labels)
    with torch.no_grad():
        learner.learn(*part(toy, "train", [2, 3]))
    last, labels = part(toy, "train", [4, 5])
    learner.learn(Tokens(*(stream.clone().requires_grad_() for stream in last)), labels)
    assert torch.equal(torch.rand(3), expected) and learner.classes == toy.order


def test_the_row_says_whose_tokens_it_takes(params):
    named = {row: avcil.Learner(method=row, params=params, root=ROOT) for row in ("lll_prior", "without_prior")}
    assert {row: learner.encoder.name for row, learner in named.items()} == {
        "lll_prior": "mini", "without_prior": "random",
    }  # fmt: skip
    other = avcil.Learner("mini-1", "lll_prior", params=params, root=ROOT)
    assert other.encoder.name == other.method.tokens == "mini-1"


def test_what_a_task_refuses_is_one_line(toy, params):
    learner = of_row(row())
    learner.learn(*part(toy, "train", [0, 1]))
    tokens, labels = part(toy, "train", [2])
    for name, wrong in (
        ("visual", tokens._replace(visual=tokens.visual[:, :, :9], similarity=tokens.similarity[:, :, :9])),
        ("audio", tokens._replace(audio=tokens.audio[:, :3])),
    ):
        with pytest.raises(LearnerError, match=rf"{name} tokens are \[.*\] a clip, but those of the exemplars are"):
            learner.learn(wrong, labels)
    for epochs in (1.5, True, "3"):
        with pytest.raises(LearnerError, match=f"epochs {epochs!r}: give a whole number, 1 or more"):
            avcil.Learner(method="lll_prior", epochs=epochs, params=params, root=ROOT)
    diverging = avcil.Learner._of(row(), TRAINING.model_copy(update={"learning_rate": 1e30}), None, EMPTY, True, 3)
    with pytest.raises(LearnerError, match="lower `learning_rate`"):
        diverging.fit(*part(toy, "train", [0, 1]))
    assert diverging.classes == []


def test_the_trained_classifier_is_not_the_head_of_a_solved_row(toy, tmp_path):
    """Else the test above could not tell the two apart."""
    method = row(fusion="frozen_guided", classifier="linear", readout="ridge", memory="none")
    run_tasks(toy, method, TRAINING, chain([2, 2, 2], 1), 0, tmp_path)
    learner = avcil.Learner.from_run(tmp_path / "task2/seed0")
    tokens, labels = part(toy, "test", range(6))
    model = restore(learner.checkpoint, learner.method, learner.training, tokens.channels)
    trained = [learner.classes[int(i)] for i in model(tokens).logits.argmax(1)]
    solved = [p.label for p in learner.predict(tokens)]
    assert np.mean([a == b for a, b in zip(solved, labels, strict=True)]) > 0.5 and trained != solved


def test_unknown_classes_score_higher_and_a_threshold_is_calibrated(toy, learner):
    learner.fit(*part(toy, "train", range(4)))
    test, _ = part(toy, "test", range(6))
    known, unknown = learner.predict(test.clips(slice(0, 24))), learner.predict(test.clips(slice(24, 36)))
    assert auroc(known, unknown) > 0.7 and known[0].is_unknown is None
    assert learner.calibrate(*part(toy, "val", range(4)), accept=0.75) > 0.5
    accepted = [not p.is_unknown for p in learner.predict(part(toy, "val", range(4))[0])]
    assert np.mean(accepted) == 0.75
    rejected = [np.mean([p.is_unknown for p in learner.predict(test.clips(s))]) for s in (slice(0, 24), slice(24, 36))]
    assert rejected[1] > rejected[0]
    learner.learn(*part(toy, "train", [4]))
    assert learner.predict(test)[0].is_unknown is None


def test_calibrated_probabilities_are_likelier(toy, learner):
    learner.fit(*part(toy, "train", range(6)))
    tokens, labels = part(toy, "test", range(6))

    def likelihood():
        return np.mean([np.log(p.probabilities[c]) for p, c in zip(learner.predict(tokens), labels, strict=True)])

    before = likelihood()
    learner.calibrate(*part(toy, "val", range(6)))
    assert likelihood() > before + 0.1


def test_few_validation_clips_give_no_certainty_and_new_classes_no_old_temperature(toy, learner):
    tokens, labels = part(toy, "train", range(2))
    four = torch.tensor([0, 1, 12, 13])  # learnt from too, so all are right
    assert learner.fit(tokens, labels, (tokens.clips(four), [labels[i] for i in four])).new_accuracy == 1
    calibrated = learner.temperature
    # as if a fifth were of either class: probabilities are 0.9 in the mean, weighed by how far their logits are apart
    chances = np.array([p.probabilities[p.label] for p in learner.predict(tokens.clips(four))])
    assert np.average(chances, weights=np.log(chances / (1 - chances))) == pytest.approx(0.9, abs=1e-3)
    for wrong in (95, 0, -0.5, np.nan):
        with pytest.raises(LearnerError, match="more than 0, and at most 1"):
            learner.calibrate(tokens, labels, accept=wrong)
    assert learner.temperature == calibrated
    learner.learn(*part(toy, "train", [2]))
    assert learner.temperature == 1
    learner.calibrate(tokens, labels)
    learner.forget("class2")
    assert learner.temperature == 1


def test_bad_clips_and_names_are_one_clear_line(toy, params, learner, tmp_path):
    tokens, labels = part(toy, "train", range(2))
    with pytest.raises(LearnerError, match="knows no class yet"):
        learner.predict(tokens)
    learner.fit(tokens, labels)
    broken = tokens.visual.clone()
    broken[3, 0, 0, 0] = torch.nan
    with pytest.raises(LearnerError, match="clip 3: visual"):
        learner.predict(tokens._replace(visual=broken))
    with pytest.raises(LearnerError, match="shapes"):
        learner.predict(Tokens(tokens.visual[0], tokens.audio, tokens.similarity))
    with pytest.raises(LearnerError, match="shapes"):
        learner.predict(tokens._replace(similarity=tokens.similarity[..., :4]))
    with pytest.raises(LearnerError, match=r"visual tokens of type ndarray; give tensors"):
        learner.predict(Tokens(*(stream.numpy() for stream in tokens)))
    with pytest.raises(LearnerError, match=r"type NoneType; give a list"):
        learner.predict(None)
    with pytest.raises(LearnerError, match="clip 0: a Tensor is no path"):
        learner.predict(tuple(tokens))
    with pytest.raises(LearnerError, match="channels"):
        learner.predict(tokens._replace(audio=tokens.audio[..., :8]))
    with pytest.raises(LearnerError, match="channels"):
        learner.learn(tokens._replace(audio=tokens.audio[..., :8]), labels)
    # random features are as many of any channels
    random = avcil.Learner(method="acil_guided")
    random.fit(tokens, labels)
    random.save(tmp_path / "random")
    for other in (random, avcil.Learner.load(tmp_path / "random")):
        with pytest.raises(LearnerError, match="channels"):
            other.predict(tokens._replace(audio=tokens.audio[..., :8]))
    with pytest.raises(ClipError, match=r"absent\.mp4: no such file"):
        learner.predict(path for path in [tmp_path / "absent.mp4"])
    with pytest.raises(ClipError, match=": a folder; give the files in it"):
        learner.predict([tmp_path])
    with pytest.raises(LearnerError, match="one path"):
        learner.predict("clip.mp4")
    with pytest.raises(ParameterError, match="did you mean `ridge_guided`"):
        avcil.Learner(method="ridge_guide", params=params, root=ROOT)
    with pytest.raises(LearnerError, match="epochs 0: give a whole number"):
        avcil.Learner(method="lll_prior", epochs=0, params=params, root=ROOT)
    with pytest.raises(ParameterError, match="no `minni`"):
        avcil.Learner("minni", params=params, root=ROOT)


def test_a_folder_of_ones_home_is_found_there(toy, learner, tmp_path, monkeypatch):
    """And is no folder called `~`."""
    monkeypatch.setenv("HOME", str(tmp_path))
    learner.fit(*part(toy, "train", [0, 1]))
    learner.save("~/mine")
    assert (tmp_path / "mine/config.json").is_file()
    assert avcil.Learner.load("~/mine").classes == learner.classes


def test_what_is_no_label_is_one_clear_line(learner, monkeypatch):
    """Said before a file is read, which takes long."""
    monkeypatch.setattr("avcil.learner.clips.ClipEncoder.read", None)
    clips = [ROOT / f"corpus/sounding_objects/clips/test-000-00{k}.mp4" for k in range(3)]
    for labels in (None, 3):
        with pytest.raises(LearnerError, match=f"labels {labels}; give one a clip, or one word for all"):
            learner.fit(clips, labels)
    with pytest.raises(LearnerError, match="3 clips but 2 labels"):
        learner.fit(clips, ["a", "b"])
    with pytest.raises(LearnerError, match="validation: give a pair, clips and their labels"):
        learner.fit(clips, "a", clips)
    for label in (None, ["a"]):
        with pytest.raises(LearnerError, match="; give one label"):
            learner.forget(label)


def test_files_are_read_as_the_pipeline_reads_them(params, learner, tmp_path):
    """Clips of two classes of the corpus: saved and loaded, the folder needs no project."""
    clips = {c: [ROOT / f"corpus/sounding_objects/clips/test-00{c}-00{k}.mp4" for k in range(4)] for c in (0, 1)}
    learner.fit(clips[0][:3] + clips[1][:3], ["a"] * 3 + ["b"] * 3)
    held_out = [clips[0][3], clips[1][3]]
    before = learner.predict(held_out)
    assert before[0].spatial.shape == (8, 64)
    learner.save(tmp_path)
    again = avcil.Learner.load(tmp_path)
    assert [p.probabilities for p in again.predict(held_out)] == [p.probabilities for p in before]
    assert again.encoder.digest
    with pytest.raises(LearnerError, match="device gpu: torch sees none here; give cpu"):
        avcil.Learner.load(tmp_path, device="gpu")
    again.encoder.digest, again.encoder._encoder = "other", None
    with pytest.raises(LearnerError, match=r"weights .* but this learner's are other"):
        again.predict(held_out)


def test_what_is_in_memory_is_read_as_files_are(learner):
    """As docs/own_data.md says."""
    files = [ROOT / f"corpus/sounding_objects/clips/test-00{c}-000.mp4" for c in (0, 1)]
    encoder = learner.encoder.encoder
    clips = [read_clip(file, **encoder.reading._asdict()) for file in files]
    frames = torch.from_numpy(np.stack([clip.frames for clip in clips]))
    waveform = torch.from_numpy(np.stack([clip.waveform for clip in clips]))
    assert (frames.shape[1:], waveform.shape[1:]) == ((16, 96, 96, 3), (32000,))
    given, read = encoder.encode(frames, waveform), tokens_of(files, learner.encoder)
    assert all(a.half().equal(b) for a, b in zip(given, read, strict=True))
    learner.fit(files, ["bell", "horn"])
    assert [said.label for said in learner.predict(given)] == ["bell", "horn"]


def test_a_long_file_is_predicted_in_windows(learner, tmp_path):
    """Of two clips in one file, each is what it is alone; between them it is neither for certain."""
    files = [ROOT / f"corpus/sounding_objects/clips/test-00{c}-000.mp4" for c in (0, 1)]
    more = [ROOT / f"corpus/sounding_objects/clips/test-00{c}-00{k}.mp4" for c in (0, 1) for k in (1, 2, 3)]
    learner.fit(more, ["a"] * 3 + ["b"] * 3)
    parts = [read_clip(file, frames=16, fps=8, size=96, sample_rate=16000) for file in files]
    film = tmp_path / "film.mp4"
    frames, sound = (np.concatenate([getattr(part, name) for part in parts]) for name in ("frames", "waveform"))
    write_clip(film, frames, sound, 8, 16000)
    moments = windows(film, 2.0, every=0.5)
    assert [moment.start for moment in moments] == [0, 0.5, 1, 1.5, 2]
    inside = learner.predict(moments)
    assert [inside[0].label, inside[-1].label] == ["a", "b"]
    alone = learner.predict(files)
    for one, other in ((inside[0], alone[0]), (inside[-1], alone[1])):  # encoded twice: not the same bytes
        assert np.corrcoef(one.spatial.flatten(), other.spatial.flatten())[0, 1] > 0.8
    assert learner.predict(moments[2:3])[0].probabilities == pytest.approx(inside[2].probabilities, abs=1e-5)


def test_what_has_no_windows_is_one_clear_line(learner, tmp_path):
    clip = ROOT / "corpus/sounding_objects/clips/test-000-000.mp4"
    for seconds, every in ((2.0, 0), (2.0, np.nan), (2.0, np.inf), (0.0, 1), (-2.0, 1)):
        with pytest.raises(ValueError, match="give more than 0"):
            windows(clip, seconds, every)
    with pytest.raises(ClipError, match=r"test-000-000\.mp4: 2\.\d\d s, and a window takes 3\.00 s"):
        windows(clip, 3.0, every=1)
    # as a browser records it, or a pipe
    with av.open(str(clip)) as film, av.open(str(tmp_path / "live.mkv"), "w", options={"live": "1"}) as live:
        track = live.add_stream_from_template(film.streams.video[0])
        for packet in film.demux(video=0):
            if packet.dts is not None:
                packet.stream = track
                live.mux(packet)
    with pytest.raises(ClipError, match=r"live\.mkv: tells no length; write it anew"):
        windows(tmp_path / "live.mkv", 2.0, every=1)
    with pytest.raises(ClipError, match=r"none\.mp4: cannot be read"):
        windows(tmp_path / "none.mp4", 2.0, every=1)
    with pytest.raises(LearnerError, match="give a list of clips"):
        learner.predict(windows(clip, 2.0, every=1)[0])


def test_what_cannot_be_used_of_a_long_file_is_named_and_the_rest_is_answered(learner, tmp_path):
    clips = [ROOT / f"corpus/sounding_objects/clips/test-00{c}-000.mp4" for c in (0, 1)]
    learner.fit(clips, ["a", "b"])
    sound = tone(440, 6, 16000)
    sound[:, 26000:70000] = 0
    film = write(tmp_path / "film.mp4", [k / 3 for k in range(27)], sound=sound)
    moments = windows(film, 2.0, every=1)  # the picture goes on for 3 s
    assert [moment.start for moment in moments] == [0, 1, 2, 3, 4]
    with pytest.raises(ClipError, match=r"film\.mp4, from 2 s on: silent .*; leave it out$"):
        learner.predict(moments)
    tokens, unusable = usable(moments, learner.encoder)
    assert list(unusable) == [2] and len(learner.predict(tokens)) == 4
    torch.testing.assert_close(tokens.audio[3:], usable(moments[4:], learner.encoder)[0].audio)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"readout": "nearest_mean"},
        {"fusion": "frozen_guided", "classifier": "linear", "readout": "ridge", "memory": "none"},
        {"fusion": "frozen_sources", "readout": "chosen_ridge", "memory": "none", "hooks": {"synchrony": {}}},
        {"fusion": "mean"},
    ],
    ids=str,
)
def test_what_is_exported_says_the_same(toy, tmp_path, changes):
    run_tasks(toy, row(**changes), TRAINING, chain([3, 3], 1), 0, tmp_path)
    learner = avcil.Learner.from_run(tmp_path / "task1/seed0")
    learner.temperature = 0.25
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        learner.export(tmp_path / "part.pt2", toy.tokens.clips(slice(0, 3)))
    more = {"classes.json": "", "temperature.json": ""}
    program = torch.export.load(tmp_path / "part.pt2", extra_files=more).module()
    assert json.loads(more["classes.json"]) == learner.classes
    for count in (1, 3, 37):
        tokens = toy.tokens.clips(slice(20, 20 + count))
        torch.testing.assert_close(program(*tokens), learner._read_out(tokens).logits, rtol=1e-5, atol=1e-5)
    chances = (program(*tokens) / json.loads(more["temperature.json"])).softmax(1)
    said = [list(one.probabilities.values()) for one in learner.predict(tokens)]
    torch.testing.assert_close(chances, torch.tensor(said), rtol=1e-4, atol=1e-5)


def test_what_cannot_be_exported_is_said(toy, learner, tmp_path, monkeypatch):
    learner.fit(*part(toy, "train", range(2)))
    with pytest.raises(LearnerError, match=r"end in \.pt2"):
        learner.export(tmp_path / "part.onnx", toy.tokens.clips(slice(0, 2)))
    with pytest.raises(LearnerError, match="give two or more"):
        learner.export(tmp_path / "part.pt2", toy.tokens.clips(slice(0, 1)))
    (tmp_path / "folder.pt2").mkdir()
    with pytest.raises(OSError, match=r"; make room, or make its folder writable, and run this again: '.*folder\.pt2'"):
        learner.export(tmp_path / "folder.pt2", toy.tokens.clips(slice(0, 2)))
    # its kernel looks at values
    run_tasks(toy, row(fusion="channelwise"), TRAINING, chain([2], 1), 0, tmp_path)
    of_run = avcil.Learner.from_run(tmp_path / "task0/seed0")
    with pytest.raises(LearnerError, match=r"^fusion channelwise cannot be traced; predict by Learner instead"):
        of_run.export(tmp_path / "part.pt2", toy.tokens.clips(slice(0, 2)))
    # one that nobody knew of
    monkeypatch.setattr("avcil.learner.export.LOOKS_AT_VALUES", ())
    with pytest.raises(
        LearnerError, match=r"fusion channelwise, read-out classifier: cannot be traced \(.*; predict by Le"
    ):
        of_run.export(tmp_path / "part.pt2", toy.tokens.clips(slice(0, 2)))


def test_a_letter_that_is_written_in_two_ways_is_one(toy, learner):
    tokens, _ = part(toy, "train", [0])
    learner.fit(tokens, "V\xf6gel")
    assert learner.learn(tokens, " Vo\u0308gel").new_classes == [] and learner.classes == ["V\xf6gel"]
    learner.forget("Vo\u0308gel ")
    assert learner.classes == []


@pytest.mark.parametrize("made", ["saved", "new"])
def test_files_are_read_after_one_has_gone_to_another_folder(learner, tmp_path, monkeypatch, made):
    """Weights are read with the first file, and notebooks change folder (`project.enter`)."""
    clip = ROOT / "corpus/sounding_objects/clips/test-000-000.mp4"
    learner.fit([clip], "a")
    learner.save(tmp_path / "mine")
    shutil.copytree(ROOT / "prior", tmp_path / "prior")
    monkeypatch.chdir(tmp_path)
    again = avcil.Learner.load("mine") if made == "saved" else avcil.Learner(root=".")
    monkeypatch.chdir(ROOT.parent)
    again.learn([clip], "b")
    assert again.classes[-1] == "b"


def test_what_moves_elsewhere_takes_its_encoder_along():
    learner = avcil.Learner()
    learner.encoder.encoder  # noqa: B018 - loaded
    assert learner.to("meta") is learner
    assert (learner.device, learner.encoder.device, learner.encoder._encoder) == ("meta", "meta", None)


def test_a_label_breaks_no_table_of_the_card(tmp_path, toy, learner):
    learner.fit(toy.tokens, ["rain | hail" if label else "wind" for label in toy.labels])
    learner.save(tmp_path / "mine")
    lines = (tmp_path / "mine/README.md").read_text().splitlines()
    assert next(line for line in lines if "hail" in line).count("|") == 3
