"""Solved heads against scikit-learn, SciPy and NumPy, exemplar selection against hand-made cases."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import Ridge
from toys import TASKS, TRAINING

from avcil.learn.attention import Features
from avcil.learn.checkpoint import EMPTY, load_checkpoint
from avcil.learn.evaluate import read_out, tokens_of
from avcil.learn.heads import NearestMean, RecursiveRidge
from avcil.learn.memory import herding, quota, select
from avcil.learn.methods import fecam, find
from avcil.learn.methods.acil import Acil
from avcil.learn.methods.acil import Options as acil_options
from avcil.learn.methods.fecam import FeCam
from avcil.learn.methods.frozen_sources import SOURCES
from avcil.learn.methods.mmal import Mmal
from avcil.learn.methods.mmal import Options as mmal_options
from avcil.learn.methods.ranpac import Options as ranpac_options
from avcil.learn.methods.ranpac import RandomOptions, RanPac
from avcil.learn.methods.slda import Slda
from avcil.learn.train import load_result, run_task, run_tasks
from avcil.params import load
from avcil.results.names import about, name_of
from conftest import ROOT

pytestmark = pytest.mark.arithmetic

# 8 classes of different size, the last of a single clip
LABELS = np.repeat(np.arange(8), [9, 7, 12, 5, 8, 6, 12, 1])
N = len(LABELS)
DRAW = 5  # seed of the random features

HEADS = {
    "nearest_mean": lambda state=None: NearestMean(state),
    "ridge": lambda state=None: RecursiveRidge(3.0, state),
    "ranpac": lambda state=None: RanPac(40, 10.0, state),
    "acil": lambda state=None: Acil(40, 0.1, state),
    "slda": lambda state=None: Slda(0.01, state),
    "fecam": lambda state=None: FeCam(0.5, 0.5, state),
    "fecam, shared": lambda state=None: FeCam(0.5, 0.5, state, shared=True),
    "mmal": lambda state=None: Mmal(40, 0.1, state),
}
# read-outs with random features
RANDOM = [
    file.stem
    for file in sorted((ROOT / "avcil/learn/methods").glob("[a-z]*.py"))
    if issubclass(getattr(find(file.stem), "Options", object), RandomOptions)
]
CUTS = {
    "two clips and the rest": [2, N],
    "tasks": [16, 33, 47, N],  # at class boundaries
    "within classes": [5, 20, 21, 40, N],
}


def _features(seed=0, n=N, labels=None):
    """Signed features of classes with different means; fused is the two joined, as with frozen tokens."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 9)) @ rng.normal(size=(9, 9))
    if labels is not None:
        x = x + 4 * np.random.default_rng(99).normal(size=(9, 9))[labels]
    x = torch.tensor(x, dtype=torch.float32)
    return Features(visual=x[:, 4:], audio=x[:, :4], fused=x)


def _learn(make, features, cuts, labels=LABELS):
    """The head after tasks that end at each of ``cuts``, through a checkpoint before each."""
    head, start, seen = make(), 0, 0
    head.begin(DRAW)
    labels = torch.tensor(labels)
    for stop in cuts:
        seen = max(seen, int(labels[start:stop].max()) + 1)
        head = make({name: value.clone() for name, value in head.state.items()})
        head.update(features.at(slice(start, stop)), labels[start:stop], seen)
        start = stop
    return head


TRAIN, TEST = _features(0, labels=LABELS), _features(1, 11)
ONE_HOT = np.eye(8)[LABELS]


def _double(x):
    return x.double().numpy()


def _random(inputs, size, generator):
    return torch.randn(inputs, size, generator=generator, dtype=torch.float64).numpy()


# ---- what every head owes


# the nearest mean is given a class at once
SUMS = [name for name in HEADS if name != "nearest_mean"]


@pytest.mark.parametrize(
    ("name", "cuts"), [("nearest_mean", "tasks"), *((name, cuts) for name in SUMS for cuts in CUTS)]
)
def test_cutting_into_tasks_changes_nothing(name, cuts):
    expected = _learn(HEADS[name], TRAIN, [N]).logits(TEST)
    found = _learn(HEADS[name], TRAIN, CUTS[cuts]).logits(TEST)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", HEADS.values(), ids=HEADS)
def test_shape_and_finite_with_single_clips(make):
    for cuts, labels in (([N], LABELS), ([1, 2, 3], np.arange(3)), ([4], np.zeros(4, dtype=int))):
        head = _learn(make, TRAIN, cuts, labels)
        logits = head.logits(TEST)
        assert logits.shape == (11, labels.max() + 1) and logits.dtype == torch.float32
        assert logits.isfinite().all()


@pytest.mark.parametrize("make", HEADS.values(), ids=HEADS)
def test_learns_and_does_not_solve_twice(make, monkeypatch):
    head = _learn(make, TRAIN, CUTS["tasks"])
    logits = head.logits(TRAIN)
    assert (logits.argmax(1).numpy() == LABELS).mean() > 0.6
    monkeypatch.setattr(head, "_solve", lambda: pytest.fail("solved again"))
    assert torch.equal(head.logits(TRAIN), logits)


@pytest.mark.parametrize("name", SUMS)
def test_an_update_is_seen_and_leaves_the_old_state(name):
    head = _learn(HEADS[name], TRAIN, [N])
    before, kept = head.logits(TEST), {name: value.clone() for name, value in head.state.items()}
    state = head.state
    head.update(TEST.at(slice(0, 5)), torch.tensor([3, 3, 1, 0, 2]), 8)
    assert not torch.allclose(head.logits(TEST), before)
    assert all(torch.equal(state[name], kept[name]) for name in kept)


# ---- each head against an independent oracle


def test_recursive_ridge_equals_ridge_on_all_data_at_once():
    # ours penalises the constant too: give scikit-learn a column of ones
    x, test = (np.c_[_double(f.fused), np.ones(len(f.fused))] for f in (TRAIN, TEST))
    oracle = Ridge(alpha=3.0, fit_intercept=False).fit(x, ONE_HOT)
    found = _learn(HEADS["ridge"], TRAIN, CUTS["tasks"]).logits(TEST)
    np.testing.assert_allclose(found, oracle.predict(test), atol=1e-5)


def test_names_in_tables_say_what_the_rows_lack():
    """The paper has 10,000 random features; of MMAL's paper only the abstract could be read."""
    for row in ("ranpac", "ranpac_guided"):
        assert f"{ranpac_options().expansion:,} random features, not 10,000" in name_of(row)
    for row in ("mmal", "mmal_guided"):
        assert "our equations" in name_of(row)
    ranpac, mmal = about("ranpac").deviations, about("mmal").deviations
    assert f"{ranpac_options().expansion:,} random features instead of 10,000" in ranpac
    assert "our equations" in mmal and f"{mmal_options().expansion:,} random features a stream" in mmal


def test_deviations_have_the_numbers_of_their_rows():
    acil, methods = acil_options(), load(ROOT / "params.yaml").methods
    assert f"{acil.expansion:,} random features" in about("acil").deviations
    assert f"γ = {acil.penalty:g}, not 0.1" in about("acil").deviations
    for row, said in (("slda", "shrunk by {:g}, not 10⁻⁴"), ("fecam", "shrunk once, by {:g}, not twice by 1")):
        assert said.format(methods[row].readout_options["shrinkage"]) in about(row).deviations


def test_ranpac_equals_ridge_on_projected_features():
    projection = _random(9, 40, torch.Generator().manual_seed(DRAW))
    x, test = (np.maximum(_double(f.fused) @ projection, 0) for f in (TRAIN, TEST))
    oracle = Ridge(alpha=10.0, fit_intercept=False).fit(x, ONE_HOT)
    found = _learn(HEADS["ranpac"], TRAIN, CUTS["tasks"]).logits(TEST)
    np.testing.assert_allclose(found, oracle.predict(test), atol=1e-5)


def test_ranpac_chooses_the_penalty_of_least_held_out_error():
    projection = _random(9, 40, torch.Generator().manual_seed(DRAW))
    grid, chosen = [10.0**k for k in range(-8, 9)], []
    order = torch.randperm(30, generator=torch.Generator().manual_seed(DRAW)).numpy()
    fit, held = order[:24], order[24:]
    for trial in range(8):
        # the noisier the labels, the larger the best penalty
        rng = np.random.default_rng(10 + trial)
        labels = np.where(rng.random(30) < trial / 8, rng.integers(0, 8, 30), LABELS[:30])
        head = RanPac(40)
        head.begin(DRAW)
        head.update(TRAIN.at(slice(0, 30)), torch.tensor(labels), 8)
        x, test = (np.maximum(_double(f.fused) @ projection, 0) for f in (TRAIN, TEST))
        x, y = x[:30], np.eye(8)[labels]
        ridges = [Ridge(alpha=a, fit_intercept=False, solver="svd") for a in grid]
        errors = [((ridge.fit(x[fit], y[fit]).predict(x[held]) - y[held]) ** 2).mean() for ridge in ridges]
        chosen.append(grid[int(np.argmin(errors))])
        assert head.state["penalty"].item() == pytest.approx(chosen[-1])
        expected = Ridge(alpha=chosen[-1], fit_intercept=False).fit(x, y).predict(test)
        np.testing.assert_allclose(head.logits(TEST), expected, atol=1e-4)
    assert len(set(chosen)) > 2 and 1e-8 < min(chosen) < max(chosen) < 1e8


def test_ranpac_uses_the_last_penalty_and_all_clips():
    head = _learn(lambda state=None: RanPac(40, None, state), TRAIN, [30, 50, N - 1, N])
    before = _learn(lambda state=None: RanPac(40, None, state), TRAIN, [30, 50, N - 1])
    # the last task has one clip, which cannot be split: the penalty stays
    assert head.state["penalty"] == before.state["penalty"] != 1
    fixed = _learn(lambda state=None: RanPac(40, head.state["penalty"].item(), state), TRAIN, [N])
    np.testing.assert_allclose(head.logits(TEST), fixed.logits(TEST), rtol=1e-4, atol=1e-5)


def test_acil_equals_the_published_recursion():
    buffer = _random(9, 40, torch.Generator().manual_seed(DRAW)) / np.sqrt(27)
    x, test = (np.maximum(_double(f.fused) @ buffer, 0) for f in (TRAIN, TEST))
    r, w, start = np.eye(40) / 0.1, np.zeros((40, 0)), 0
    for stop in CUTS["tasks"]:
        new, seen = x[start:stop], LABELS[stop - 1] + 1
        w = np.c_[w, np.zeros((40, seen - w.shape[1]))]
        r = r - r @ new.T @ np.linalg.inv(np.eye(len(new)) + new @ r @ new.T) @ new @ r
        w = w + r @ new.T @ (ONE_HOT[start:stop, :seen] - new @ w)
        start = stop
    found = _learn(HEADS["acil"], TRAIN, CUTS["tasks"]).logits(TEST)
    np.testing.assert_allclose(found, test @ w, atol=1e-5)


def few(name):
    """Random features, as options of a read-out."""
    return {key: 20 for key in ("expansion", "products") if key in find(name).Options.model_fields}


@pytest.mark.parametrize("name", RANDOM)
def test_random_features_are_drawn_by_the_seed_of_the_run(toy, tmp_path, name):
    base = load(ROOT / "params.yaml").methods["lll_closed"].model_copy(update={"hooks": {}})
    fusion = base.fusion if hasattr(find(name), "FUSION") else "frozen"

    def last(seed, **options):
        changes = {"fusion": fusion, "readout": name, "readout_options": few(name) | options}
        method = base.model_copy(update=changes)
        run_tasks(toy, method, TRAINING, TASKS, seed, tmp_path / f"{options}")
        folder = tmp_path / f"{options}/task2/seed{seed}"
        rows = toy.splits["test"]
        read = read_out(load_checkpoint(folder), method, TRAINING, tokens_of(toy, method), rows)
        # a checkpoint predicts as the head did that has learnt
        predictions = zip((toy.clip_ids[row] for row in rows), read.logits.argmax(1).tolist(), strict=True)
        assert load_result(folder).predictions == dict(predictions)
        return read.logits

    first, second = last(0), last(1)
    assert not torch.equal(first, second)
    # by hand: those of any seed, in all runs
    torch.testing.assert_close(last(0, draw=1), second)
    torch.testing.assert_close(last(1, draw=1), second)
    torch.testing.assert_close(last(1, draw=0), first)


@pytest.mark.parametrize("name", RANDOM)
def test_a_head_of_an_older_checkpoint_has_the_features_of_seed_0(name):
    begun, older = (find(name).build(find(name).Options(**few(name)), {}) for _ in range(2))
    begun.begin(0)
    sources = TRAIN._replace(visual=TRAIN.visual.repeat(1, len(SOURCES)))
    for head in (begun, older):
        head.update(sources, torch.tensor(LABELS), 8)
    assert torch.equal(begun.logits(sources), older.logits(sources))


def test_acil_is_ranpac_with_another_penalty():
    acil = _learn(HEADS["acil"], TRAIN, CUTS["tasks"]).logits(TEST)
    ranpac = _learn(lambda state=None: RanPac(40, 3 * 9 * 0.1, state), TRAIN, CUTS["tasks"]).logits(TEST)
    np.testing.assert_allclose(acil, ranpac, atol=1e-5)


@pytest.mark.filterwarnings("ignore:Only one sample")
def test_slda_equals_scikit_learn():
    """scikit-learn shrinks to tr(Σ)/E rather than to 1, so features are first given that trace, and has log-priors."""
    x = _double(TRAIN.fused)
    means = np.stack([x[c == LABELS].mean(0) for c in range(8)])
    scale = np.sqrt(9 / (((x - means[LABELS]) ** 2).sum() / N))
    train, test = (Features(*(f * scale for f in part)) for part in (TRAIN, TEST))
    oracle = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.01).fit(_double(train.fused), LABELS)
    expected = oracle.decision_function(_double(test.fused)) - np.log(oracle.priors_)
    found = _learn(HEADS["slda"], train, CUTS["within classes"]).logits(test)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shared", [False, True])
def test_fecam_equals_scipy(shared):
    x, test = _double(TRAIN.fused), _double(TEST.fused)

    def tukey(z):
        return np.sign(z) * np.abs(z) ** 0.5

    def unit(z):
        return z / np.linalg.norm(z)

    expected = np.zeros((11, 8))
    within = np.concatenate([tukey(x[c == LABELS]) - tukey(x[c == LABELS]).mean(0) for c in range(8)])
    for c in range(8):
        clips = x[c == LABELS]
        correlation = np.eye(9)  # of a single clip
        if len(clips) > 1 or shared:
            covariance = np.cov(within.T) if shared else np.cov(tukey(clips).T)
            off = ~np.eye(9, dtype=bool)
            shrunk = covariance + 0.5 * np.diag(covariance).mean() * np.eye(9) + 0.5 * covariance[off].mean() * off
            correlation = shrunk / np.sqrt(np.outer(np.diag(shrunk), np.diag(shrunk)))
        prototype = unit(tukey(clips.mean(0)))
        for n in range(11):
            expected[n, c] = -(mahalanobis(unit(tukey(test[n])), prototype, np.linalg.inv(correlation)) ** 2)
    head = _learn(HEADS["fecam, shared" if shared else "fecam"], TRAIN, CUTS["within classes"])
    np.testing.assert_allclose(head.logits(TEST), expected, rtol=1e-5)
    assert head.state["tukey_grams"].shape == ((9, 9) if shared else (8, 9, 9))


def test_fecam_refuses_more_covariances_than_its_bound_before_it_makes_them(monkeypatch):
    clips = Features(*(torch.ones(1, 2048).expand(309, -1) for _ in range(3)))
    with pytest.raises(ValueError, match=r"309 classes in 2048 channels are 10\.4 GB, .* use .*shared: true"):
        FeCam(0.5, 10.0).update(clips, torch.arange(309), 309)
    # one for all is a 309th, which fits
    head = FeCam(0.5, 10.0, shared=True)
    monkeypatch.setattr("avcil.learn.methods.fecam.BOUND", 8 * 2048**2)
    head.update(clips, torch.arange(309), 309)
    assert head.state["tukey_grams"].nbytes == 8 * 2048**2


def test_what_a_head_cannot_keep_at_the_end_is_said_before_the_first_task(toy, monkeypatch):
    method = load(ROOT / "params.yaml").methods["fecam"]
    size = 8 * 6 * 32**2  # of all three tasks; of the first it is a third
    for bound, shared in ((size, False), (size - 1, False), (size - 1, True)):
        monkeypatch.setattr(fecam, "BOUND", bound)
        row = method.model_copy(update={"readout_options": {"shared": shared}})
        if bound == size or shared:
            assert run_task(toy, row, TRAINING, TASKS, 0, 0, EMPTY)[1].accuracy
            continue
        with pytest.raises(ValueError, match="fecam: covariances of 6 classes in 32 channels"):
            run_task(toy, row, TRAINING, TASKS, 0, 0, EMPTY)


def test_a_row_may_ask_for_one_covariance():
    head = fecam.build(fecam.Options(shared=True), {})
    assert head.shared and not fecam.build(fecam.Options(), {}).shared


def test_fecam_twice_shrunk_is_once_shrunk_with_more():
    """What its docstring says of the authors' code."""
    covariance, off = np.cov(_double(TRAIN.fused).T), ~np.eye(9, dtype=bool)

    def shrink(s, gamma):
        return s + gamma * np.diag(s).mean() * np.eye(9) + gamma * s[off].mean() * off

    np.testing.assert_allclose(shrink(shrink(covariance, 0.7), 0.7), shrink(covariance, 1.7**2 - 1))


def _mmal_oracle(train, test, labels):
    generator = torch.Generator().manual_seed(DRAW)
    expanded = {}
    for name in ("audio", "visual", "fused"):
        streams = [getattr(features, name) for features in (train, test)]
        channels = streams[0].shape[1]
        buffer = _random(channels, 40, generator) / np.sqrt(3 * channels)
        expanded[name] = [np.maximum(_double(z) @ buffer, 0) for z in streams]
    audio, visual, fused = expanded.values()
    y = np.eye(labels.max() + 1)[labels]
    main = Ridge(alpha=0.1, fit_intercept=False).fit(fused[0], y)
    left = y - main.predict(fused[0])
    parts = [Ridge(alpha=0.1, fit_intercept=False).fit(x[0], left).predict(x[1]) for x in (audio, visual)]
    return main.predict(fused[1]) + 0.5 * parts[0] + 0.5 * parts[1]


def test_mmal_fits_what_the_fused_head_leaves_over_of_all_clips():
    found = _learn(HEADS["mmal"], TRAIN, CUTS["tasks"]).logits(TEST)
    np.testing.assert_allclose(found, _mmal_oracle(TRAIN, TEST, LABELS), atol=1e-5)


def test_mmal_bears_a_missing_modality():
    train, test = (f._replace(audio=torch.zeros_like(f.audio)) for f in (TRAIN, TEST))
    found = _learn(HEADS["mmal"], train, CUTS["tasks"]).logits(test)
    np.testing.assert_allclose(found, _mmal_oracle(train, test, LABELS), atol=1e-5)


def test_nearest_mean_keeps_means_of_classes_without_data():
    def features(rows):
        return Features(torch.zeros(len(rows), 1), torch.zeros(len(rows), 1), torch.tensor(rows))

    head = NearestMean()
    head.update(features([[2.0, 0.0], [4.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0, 1]), 2)
    head.update(features([[0.0, -3.0]]), torch.tensor([2]), 3)
    scores = head.logits(features([[1.0, 0.0], [0.0, 5.0], [0.1, -1.0]]))
    assert scores.argmax(1).tolist() == [0, 1, 2]
    assert scores[0, 0].item() == pytest.approx(1)


# ---- memory


def test_herding_follows_the_mean():
    angles = torch.tensor([0.0, 0.3, -0.3, 1.2, -1.2]).double()
    unit = torch.stack([angles.cos(), angles.sin()], 1)
    chosen = herding(unit, 5)
    assert chosen[0] == 0 and sorted(chosen) == [0, 1, 2, 3, 4]
    # brute force: each prefix's next element is the best of all candidates
    mean = unit.mean(0)
    for k in range(1, 5):
        rest = [i for i in range(5) if i not in chosen[:k]]
        best = min(rest, key=lambda i: float((mean - unit[[*chosen[:k], i]].mean(0)).norm()))
        assert float((mean - unit[[*chosen[:k], best]].mean(0)).norm()) == pytest.approx(
            float((mean - unit[chosen[: k + 1]].mean(0)).norm())
        )


def test_quota():
    assert quota(5, True, 12) == 5
    assert quota(50, False, 12) == 4


def _select(at_hand, labels, new, **options):
    """Those of the clips ``at_hand``, the ``new`` ones first, that are kept."""
    defaults = {"selection": "random", "count": 2, "generator": torch.Generator().manual_seed(0)}
    at_hand = torch.tensor(at_hand)
    chosen = select(labels[at_hand], torch.randn(len(at_hand), 3), new, **(defaults | options))
    return at_hand[chosen].tolist()


def test_select_truncates_old_classes_and_keeps_their_best():
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 1])
    kept = _select([4, 5, 6, 2, 0, 3], labels, 3)
    assert kept[:2] == [2, 0] and len(kept) == 4 and set(kept[2:]) <= {4, 5, 6}


def test_a_random_choice_hangs_on_its_generator_alone():
    """Else a task that goes on after a stop would keep other clips."""
    one, again, other = (
        _select(range(40), torch.zeros(40), 40, count=8, generator=torch.Generator().manual_seed(n)) for n in (0, 0, 1)
    )
    assert one == again != other


@pytest.mark.parametrize(("selection", "expected"), [("none", 0), ("random", 4), ("herding", 4), ("all", 6)])
def test_select_counts(selection, expected):
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    kept = _select([3, 4, 5, 0, 1, 2], labels, 3, selection=selection)
    assert len(kept) == expected and len(set(kept)) == expected


@pytest.mark.parametrize("selection", ["random", "herding"])
def test_a_budget_smaller_than_the_classes_keeps_nothing(selection):
    assert _select([3, 4, 5, 0], torch.tensor([0, 0, 0, 1, 1, 1]), 3, selection=selection, count=0) == []
