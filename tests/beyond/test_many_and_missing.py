"""Beyond the paper's limits: costs by the number of tasks, and clips that lack a sense."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from toys import TASKS, TRAINING, beyond_with, row

from avcil.beyond import answers, many_tasks, missing, plots
from avcil.beyond.many_tasks import blocks, exponent, hit_of_first, run_costs
from avcil.beyond.missing import filled, lacking, pooled, posed, ranks
from avcil.beyond.settings import load_beyond, one_draw
from avcil.comparison.intervals import over_seeds, over_seeds_and_clips, points
from avcil.comparison.sweep import Job, Source
from avcil.learn import metrics
from avcil.learn.checkpoint import EMPTY
from avcil.learn.evaluate import TaskResult, evaluate, predict, restore
from avcil.learn.methods.modality_dropout import withhold
from avcil.learn.train import run_task, run_tasks
from avcil.params import ParameterError
from avcil.params.learning import Method, chain
from conftest import ROOT

SOLVED = {"fusion": "frozen", "memory": "none", "classifier": "linear", "readout": "scaled_ridge", "sampler": "uniform"}


# ---- settings


def test_settings_are_checked(params, tmp_path):
    assert load_beyond(params, ROOT / "beyond.yaml").many_tasks.classes == 100
    text = (ROOT / "beyond.yaml").read_text()
    for old, new, message in (
        ("of: lll_closed", "of: lll_close", "no method `lll_close` .*did you mean `lll_closed`"),
        ("moments: 10", "moments: 7", "many_tasks: .*100 classes are not 7 times"),
        ("compared: 0.5", "compared: 0.6", "missing: shares: 0.0 and 0.6"),
        ("fill: means", "fil: means", r"rows.means: no key `fil` \(did you mean `fill`\?\)"),
        ("{readout: conditional_ridge,", "{readouts: conditional_ridge,", "did you mean `readout`"),
        (
            "  changes: *plain             #",
            "  changes: {hook: {}}  #",
            r"light\.changes: no key `hook` \(did you mean `hooks`",
        ),
        ("claimed: slots", "claimed: slot", "light: variants: no `slot_4_best_16_int8.*did you mean `slots_"),
        ("choice: 10 ", "choice: 9 ", "light: choice: 9 is among the worlds"),
        ("trained_worlds: [0, 1, 2, 3, 4]", "trained_worlds: [11]", "light: trained_worlds: 11 is not among"),
        ("heads_1: {heads: 1}", "heads_1: {heads: 3}", r"light\.shapes\.heads_1: .*128 channels cannot be shared"),
        ("heads_1: {heads: 1}", "best_8: {heads: 1}", "light: shapes: `best_8` is a variant, too"),
        ("{patches: 4, by: grid}", "{patches: 5, by: grid}", "light.variants.grid_4: patches: 5 are no square grid"),
        ("{patches: 1, by: attention}", "{patches: 2, by: attention}", "light.variants.attended: patches: 2, but"),
        ("{patches: 32, by: random}", "{by: random}", "light.variants.random_32: patches: by random"),
        ("whole: {}", "whole: {slots: 4}", "light: variants: `whole` is"),
    ):
        (tmp_path / "beyond.yaml").write_text(text.replace(old, new))
        with pytest.raises(ParameterError, match=message):
            load_beyond(params, tmp_path / "beyond.yaml")
    with pytest.raises(ParameterError, match=r"none\.yaml: cannot be read"):
        load_beyond(params, tmp_path / "none.yaml")


def test_rows_share_their_random_features(params):
    same, beyond = one_draw(params), load_beyond(params, ROOT / "beyond.yaml")
    drawn = {name for name, row in same.methods.items() if row != params.methods[name]}
    assert {"lll_closed", "acil", "ranpac_guided", "mmal"} <= drawn
    assert all(same.methods[name].readout_options["draw"] == 0 for name in drawn)
    # what else a row says stays, its own draw among it
    assert same.methods["lll_closed_synchrony"].readout_options["sources"] == ["synchrony", "none"]
    own = params.methods["acil"].model_copy(update={"readout_options": {"draw": 3}})
    given = params.model_copy(update={"methods": params.methods | {"acil": own}})
    assert one_draw(given).methods["acil"] == own
    # rows with changes, too
    of_lll = [beyond.solved(same), *(beyond.method(same, name) for name in ("conditional", "zeros", "means"))]
    assert {row.readout_options["draw"] for row in of_lll} == {0}


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        ("robust", {"worlds": [0, 1]}, "worlds: 0 is the shipped one"),
        ("robust", {"damages": {"compression": [60]}}, "damages.compression: 60 is not above 0 and at most 51"),
        ("robust", {"damages": {"delay": [-1]}}, "damages.delay: -1 is not"),
        ("adapting", {"worlds": [0, 1]}, "worlds: 0 is the shipped one"),
        ("adapting", {"rows": {"lll_closed": ["before", "frozen"]}}, "rows.lll_closed: begins with frozen"),
        ("adapting", {"shifts": {"pale": {"grey": 2}}}, "shifts.pale.grey: 2 is not above 0 and at most 1"),
        ("adapting", {"rows": {"lll_close": ["frozen"]}}, "lll_close"),
        ("streams", {"worlds": [0, 1]}, "worlds: 0 is the shipped one"),
        ("streams", {"choice": [3, 20]}, "choice: 3 is among the worlds that are reported"),
        ("streams", {"trained_worlds": [1, 40]}, "trained_worlds: 40 is not among the worlds"),
        ("streams", {"weight": 0.5}, "weight: 0.5 is not among"),
        ("streams", {"rows": ["lll_close"]}, "lll_close"),
    ],
)
def test_settings_that_cannot_be_are_refused(params, tmp_path, section, changes, message):
    with pytest.raises(ParameterError, match=f"^beyond.yaml: .*{message}"):
        load_beyond(params, beyond_with(tmp_path, section, changes))


# ---- very long sequences


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
def test_the_exponent_of_a_power_is_found(power):
    sizes = np.arange(10, 101, 10)
    assert exponent(sizes, 3.7 * sizes**power) == pytest.approx(power, abs=1e-9)
    noisy = 3.7 * sizes**power * np.exp(np.random.default_rng(0).normal(0, 0.05, len(sizes)))
    assert exponent(sizes, noisy) == pytest.approx(power, abs=0.1)


def test_tasks_between_two_moments_are_one_block():
    """Two moments of two tasks each: R of blocks, weighted by clips."""

    def result(task, accuracy):
        return TaskResult(task, accuracy, [1, 3, 2, 2][: task + 1], None, None, {}, 0, 0)

    matrix, clips = blocks([result(1, [1.0, 1.0]), result(3, [0.0, 1.0, 1.0, 0.5])])
    assert clips.tolist() == [4, 4]
    assert matrix[1].tolist() == [0.75, 0.75] and matrix[0, 0] == 1 and np.isnan(matrix[0, 1])
    assert metrics.forgetting_last(matrix) == 0.25


def test_hits_are_of_the_first_tasks_clips():
    def result(task, hit):
        return TaskResult(task, [1.0] * (task + 1), [1, 3, 2, 2][: task + 1], hit, None, {}, 0, 0)

    assert hit_of_first([result(1, [1.0, 0.0]), result(3, [1.0, 1.0, 0.0, 0.0])]).tolist() == [0.25, 1.0]
    assert np.isnan(hit_of_first([result(0, None), result(1, None)])).tolist() == [True, True]


def test_a_run_is_that_of_the_loop_and_its_joint_twin_of_the_same_sums(toy, tmp_path):
    """What a task costs is measured beside it: it changes nothing."""
    source, method = Source(tmp_path, tmp_path, tmp_path), row(**SOLVED)
    job = Job(("incremental", "scaled_ridge"), source, method, TRAINING, TASKS, 0)
    costs = run_costs(job, toy, moments=3)
    assert [r.accuracy for r in costs.results] == [r.accuracy for r in run_tasks(toy, method, TRAINING, TASKS, 0, None)]
    assert len(costs.seconds) == 3 and min(costs.seconds) > 0
    # sums are of C classes, and so is the classifier that a solved row does not use
    grown = np.diff(costs.bytes)
    assert len(costs.bytes) == 3 and grown[0] == grown[1] == 2 * 8 * 33 + 2 * 4 * 33
    joint = run_costs(job._replace(tasks=chain([6], 1)), toy, moments=3)
    (twin,) = joint.results
    assert twin.clips == [36]
    assert twin.accuracy[0] == pytest.approx(np.average(costs.results[-1].accuracy, weights=costs.results[-1].clips))


def test_memory_is_one_number_for_all_classes(params):
    settings = load_beyond(params, ROOT / "beyond.yaml").many_tasks
    kept = many_tasks._with_memory(params.methods["replay"], settings)
    assert (kept.exemplars, kept.budget) == (settings.exemplars, "total")
    closed = many_tasks._with_memory(params.methods["lll_closed"], settings)
    assert closed == Method(**params.methods["lll_closed"].model_dump())


# ---- missing senses


def test_shares_are_exact_and_nested(toy):
    rank = ranks(toy, 3)
    for rows in toy.splits.values():
        for share in (0.0, 0.25, 0.5, 1.0):
            assert int((rank[rows] < share).sum()) == round(share * len(rows))
    assert not torch.equal(rank, ranks(toy, 4))


def test_what_is_posed_lacks_what_it_should(toy, params):
    method = params.method("naive_fusion")
    tokens = pooled(toy.tokens, method, params.training)
    data = posed(toy, tokens, "sound", 0.5, [0.0, 1.0], 0)
    learnt, tested = len(toy.splits["train"]), len(toy.splits["test"])
    deaf = data.tokens.audio.flatten(1).eq(0).all(1)
    assert int(deaf[:learnt].sum()) == learnt // 2
    assert not deaf[learnt : learnt + tested].any() and deaf[learnt + tested :].all()
    assert not data.tokens.visual.flatten(1).eq(0).all(1).any()
    assert data.clip_ids[-1] == f"1.0/{toy.clip_ids[toy.splits['test'][-1]]}"
    left = posed(toy, tokens, "picture", 0.5, [1.0], 0, quarantine=True)
    assert len(left.splits["train"]) == learnt - learnt // 2
    assert not left.tokens.visual[left.splits["train"]].flatten(1).eq(0).all(1).any()
    first = torch.arange(learnt)
    means = posed(toy, tokens, "sound", 0.5, [1.0], 0, fill="means").tokens.audio
    torch.testing.assert_close(means[learnt:], data.tokens.audio[first][~deaf[:learnt]].mean(0).expand(tested, -1, -1))
    assert torch.equal(filled(tokens.whole, first).visual, tokens.whole.visual)


def test_without_its_sound_nothing_guides_a_clip(toy, params):
    """One token a stream is what `frozen_sources` makes of the clip whose sound, and similarity, are zero."""
    method = params.method("lll_closed")
    tokens = pooled(toy.tokens, method, params.training)
    absent = ranks(toy, 0) < 0.5
    given = lacking(tokens, absent, "sound")
    model = restore(EMPTY, method, params.training, toy.tokens.channels)
    clips = withhold(toy.tokens, absent, torch.zeros_like(absent))
    features = predict(model, clips, torch.arange(len(absent))).features
    torch.testing.assert_close(given.visual[:, 0, 0], features.visual)
    torch.testing.assert_close(given.audio[:, 0], features.audio)
    assert not torch.equal(tokens.whole.visual[absent], given.visual[absent])
    torch.testing.assert_close(given.visual[absent][:, 0, 0, :16], toy.tokens.visual[absent].mean((1, 2)))


def test_the_short_way_is_the_method_itself(toy, params):
    """With nothing missing, learnt at once from a token a stream: as `lll_closed`, task by task, of all tokens."""
    options = {"products": 30, "sources": ["similarity", "none"]}
    plain = params.method("lll_closed").model_copy(update={"hooks": {}, "readout_options": options})
    data = posed(toy, pooled(toy.tokens, plain, params.training), "sound", 0.0, [0.0], 0)
    for readout in ("chosen_ridge", "conditional_ridge"):
        short = plain.model_copy(update={"fusion": "frozen", "readout": readout})
        _, result, _ = run_task(data, short, params.training, chain([6], 1), 0, 0, EMPTY)
        last = run_tasks(toy, plain, params.training, chain([2, 2, 2], 1), 0, None)[-1]
        assert {name.removeprefix("0.0/"): at for name, at in result.predictions.items()} == last.predictions


def test_modality_dropout_learns_to_do_with_one(toy):
    """Of clips whose sound is withheld it tells more than the same row without it."""
    every = torch.ones(len(toy.labels), dtype=torch.bool)
    unheard = toy._replace(tokens=withhold(toy.tokens, every, ~every).pooled())
    tasks, reached = chain([6], 30), []
    for hooks in ({}, {"modality_dropout": {"share": 0.5}}):
        method = row(fusion="mean").model_copy(update={"hooks": hooks})
        checkpoint, _, _ = run_task(toy, method, TRAINING, tasks, 0, 0, EMPTY)
        reached.append(evaluate(unheard, method, TRAINING, tasks, 0, checkpoint).accuracy[0])
    assert reached[1] > reached[0] + 0.1


# ---- the page


def _tables(folder):
    rng = np.random.default_rng(0)
    lines = [
        {"row": name, "world": world, "classes": 20, "last_accuracy": base + rng.normal(0, 0.01),
         "joint_accuracy": base + 0.01, "forgetting_last": 0.2, "seconds": 1.5,
         "seconds_exponent": 0.1 + rng.normal(0, 0.01), "bytes": 4e6, "bytes_exponent": 0.05}
        for name, base in (("lll_closed", 0.6), ("ranpac", 0.4), ("acil", 0.45), ("acil_guided", 0.55))
        for world in (1, 2, 3)
    ]  # fmt: skip
    pd.DataFrame(lines).to_csv(folder / "beyond_many_tasks.csv", index=False)
    pd.DataFrame({"tasks": [10, 20], "row": "acil", "world": 1}).to_csv(folder / "beyond_tasks.csv", index=False)
    ends = {"world": 1, "classes": [50, 100], "timbres": 50, "sound": 0.99, "picture": [0.72, 0.71]}
    pd.DataFrame(ends).to_csv(folder / "beyond_distinct.csv", index=False)
    return pd.DataFrame(lines)


def test_the_answer_on_many_tasks_is_that_of_the_tables(tmp_path):
    runs = _tables(tmp_path)
    text = answers.many_tasks(tmp_path)
    wide = runs.pivot(index="world", columns="row", values="last_accuracy")
    low, high = stats.ttest_rel(wide.lll_closed, wide.acil).confidence_interval()
    mean = (wide.lll_closed - wide.acil).mean()
    lead = f"ahead by {100 * mean:.1f} [{100 * low:.1f}, {100 * high:.1f}]; goal: ahead by 10 (reached)"
    assert f"against the nearest of 2 published rows, ACIL, {lead}" in text and "After 20 tasks in 3 worlds" in text
    assert "1.0, the same in 3 worlds" not in text and "(goal: at most 3; reached)" in text
    assert "50 classes: 99 and 72 %, 100 classes: 99 and 71 %." in text


def test_what_is_looked_at_is_told_of_rows_that_attend(tmp_path):
    hits = {"lll_prior": [0.9, 0.8, 0.85], "acil_guided": [0.9, 0.9, 0.96]}
    lines = [(row, world, hit, -0.1 * world) for row, of in hits.items() for world, hit in enumerate(of)]
    lines += [("ridge", world, np.nan, np.nan) for world in range(3)]
    table = pd.DataFrame(lines, columns=["row", "world", "hit_of_first", "hit_change"])
    larger = table.assign(world=table.world + 10, classes=40, hit_of_first=0.5 + 0 * table.hit_of_first)
    pd.concat([larger, table.assign(classes=20)]).to_csv(tmp_path / "beyond_many_tasks.csv", index=False)
    moments = {"tasks": [10, 100, 20, 200], "row": "ridge", "world": [0, 0, 10, 10]}
    pd.DataFrame(moments).to_csv(tmp_path / "beyond_tasks.csv", index=False)
    pd.DataFrame({"world": []}).to_csv(tmp_path / "beyond_distinct.csv", index=False)
    text = answers.looked_at(tmp_path)
    change, apart = (over_seeds(values) for values in ([0, -0.1, -0.2], [0, -0.1, -0.11]))
    smaller, rest = text.split("**From task 20 to task 200")
    assert smaller.startswith("**From task 10 to task 100, hits on clips of the first 10 tasks")
    assert "the same in 3 worlds" in rest
    assert f"change by (points): LLL, prior-guided {points(change)}." in smaller and "ridge" not in text
    assert f"| 95.0 | {points(over_seeds(hits['lll_prior']))} | {points(change)} | {points(apart)} |" in text
    assert "guidance alone, frozen | " in text and "over 3 worlds" in text


def test_the_figure_draws_worlds_of_each_size():
    columns = ["row", "world", "tasks", "accuracy", "seconds", "bytes", "hit_of_first"]
    lines = [
        (row, world, tasks, 1 - tasks / 50 - world / 100, 0.5, 1e6, np.nan)
        for row, worlds in (("lll_closed", (1, 2, 3)), ("replay", (1, 2)))
        for world in worlds
        for tasks in ((10, 20, 30, 40) if world == 3 else (10, 20))
    ]
    figure = plots.many_tasks(pd.DataFrame(lines, columns=columns))
    assert [axis.get_ylabel() for axis in figure.axes][::2] == ["accuracy on all classes seen, %", "seconds per task"]
    assert [text.get_text() for text in figure.legends[0].texts] == ["LLL, closed form", "replay"]
    (small, other, large) = figure.axes[0].lines
    assert small.get_ydata() == pytest.approx([0.785, 0.585]) and len(other.get_xdata()) == 2
    assert list(large.get_xdata()) == [10, 20, 30, 40] and large.get_alpha() < 1 == small.get_alpha()


def test_a_difference_between_rows_is_paired_by_seed_and_clip(tmp_path):
    rng = np.random.default_rng(0)
    lines, kept = [], {}
    for name in ("conditional", "quarantined", "zeros", "means", "naive", "naive_dropout", "naive_nulls"):
        for seed, sense, train, test in [
            (s, sense, a, b) for s in (0, 1, 2) for sense in missing.SENSES for a in (0.0, 0.5) for b in (0.0, 0.5)
        ]:
            right = rng.random(50) < 0.5
            kept[name, sense, train, test, seed] = right
            digits = "".join(str(int(one)) for one in right)
            lines.append((name, seed, sense, train, test, digits))
    correct = pd.DataFrame(lines, columns=["row", "seed", "sense", "train", "test", "correct"]).sample(frac=1)
    found = answers.answers(correct)

    def of(name, train, test):
        return np.array([kept[name, "sound", train, test, seed] for seed in (0, 1, 2)], float)

    drop = {name: of(name, 0.0, 0.0) - of(name, 0.0, 0.5) for name in ("conditional", "naive")}
    assert found["half sound"] == over_seeds_and_clips(drop["naive"] / 2 - drop["conditional"])
    learnt = of("conditional", 0.5, 0.5) - of("quarantined", 0.5, 0.5)
    assert found["learnt sound"] == over_seeds_and_clips(learnt)
