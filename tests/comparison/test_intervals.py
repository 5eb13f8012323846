"""Intervals that cover what they say, and sentences that say no more than they do."""

import math
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from avcil.comparison import tables
from avcil.comparison.intervals import (
    VERDICTS,
    Interval,
    half_width,
    holm,
    outcome,
    over_seeds,
    over_seeds_and_clips,
    points,
    sign,
    verdict,
)
from avcil.comparison.tables import Comparable
from avcil.params.comparison import Setting
from avcil.results import names, plots_field
from avcil.workshop import claims
from conftest import ROOT

DRAWS = 2_000  # 95 % of them: give or take one point


def coverage(intervals, truth: float) -> float:
    return float(np.mean([found.low <= truth <= found.high for found in intervals]))


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_over_seeds_covers_normal_values(seeds):
    rng = np.random.default_rng(seeds)
    found = [over_seeds(rng.normal(0.3, 0.02, seeds)) for _ in range(DRAWS)]
    assert 0.93 <= coverage(found, 0.3) <= 0.97


def accuracies(rng, seeds: int, *, by_seed: float, by_clip: float, by_class: float) -> np.ndarray:
    """Right minus wrong clips of two methods, [seeds, 400]: the same clips for all seeds, some hard for both.

    The deviations are of the log-odds of being right, of each method's own: of a run, of a clip in all runs, and of a
    class in a run, which its clips share. A run that confuses a class loses many clips at once.
    """
    clips, classes = 400, 20
    hard = rng.normal(0, 1.5, clips)
    right = []
    for lead in (0.4, 0.0):
        run = rng.normal(0, by_seed, (seeds, 1))
        own = rng.normal(0, by_clip, clips)
        late = rng.normal(0, by_class, (seeds, classes))[:, np.arange(clips) % classes]
        odds = 1 + lead + hard + own + run + late
        right.append(rng.uniform(size=odds.shape) < 1 / (1 + np.exp(-odds)))
    return right[0].astype(float) - right[1]


REAL = {"seeds alone": (0.3, 0.0, 0.5), "both": (0.1, 1.0, 0.3), "clips alone": (0.0, 1.5, 0.0)}


@pytest.mark.slow
@pytest.mark.parametrize("kind", REAL)
@pytest.mark.parametrize("seeds", [3, 5])
def test_over_seeds_and_clips_covers_accuracies_of_a_shared_test_set(seeds, kind):
    rng = np.random.default_rng(seeds)
    luck = dict(zip(("by_seed", "by_clip", "by_class"), REAL[kind], strict=True))
    truth = np.mean([accuracies(rng, 8, **luck).mean() for _ in range(300)])
    drawn = [accuracies(rng, seeds, **luck) for _ in range(DRAWS)]
    whole = coverage(map(over_seeds_and_clips, drawn), truth)
    alone = coverage((over_seeds(one.mean(1)) for one in drawn), truth)
    print(f"{seeds} seeds, {kind}: {whole:.3f}, over seeds alone {alone:.3f}")
    assert 0.93 <= whole <= 0.975
    if seeds == 5 and kind != "seeds alone":
        assert alone < 0.93  # the luck of the clips is not in it, as its docstring says


def test_methods_without_luck_of_their_own_are_told_apart_by_clips():
    """Closed forms whose accuracy is the same for all seeds: their differences have no spread over seeds."""
    rng = np.random.default_rng(0)
    drawn = [np.tile(rng.choice([1.0, 0.0, -1.0], 400, p=[0.15, 0.75, 0.1]), (3, 1)) for _ in range(DRAWS)]
    assert 0.93 <= coverage(map(over_seeds_and_clips, drawn), 0.05) <= 0.97
    assert coverage((over_seeds(one.mean(1)) for one in drawn), 0.05) < 0.1


def test_intervals_are_scipys():
    values = [0.71, 0.74, 0.69]
    found, theirs = over_seeds(values), stats.ttest_1samp(values, 0)
    assert (found.low, found.high) == pytest.approx(tuple(theirs.confidence_interval(0.95)))
    assert found.p == pytest.approx(theirs.pvalue) and found.seeds == 3
    assert found.high - found.mean == pytest.approx(half_width(np.std(values, ddof=1), 3))


def test_clips_that_all_seeds_classify_alike_widen_and_noise_does_not():
    rng = np.random.default_rng(0)
    noise = rng.choice([1.0, 0.0, -1.0], (5, 400))
    alone = over_seeds(noise.mean(1))
    both = over_seeds_and_clips(noise)
    assert both.high - both.low == pytest.approx(alone.high - alone.low, rel=0.3)
    shared = over_seeds_and_clips(noise + rng.choice([1.0, -1.0], 400))
    assert shared.high - shared.low > 1.5 * (alone.high - alone.low)
    # p is the level at which the interval ends at zero
    assert (both.p > 0.05) == (both.low < 0 < both.high)


def test_one_seed_tells_nothing():
    for found in (over_seeds([0.3]), over_seeds_and_clips(np.ones((1, 10)))):
        assert math.isnan(found.low) and math.isnan(found.p) and sign(found) == 0
    assert verdict(over_seeds([0.3])) == "not told apart (30.0, one seed)"


def test_seeds_that_agree_by_chance_tell_nothing():
    assert verdict(over_seeds([27 / 320, 27 / 320, 27 / 320])) == "not told apart (8.4, the same in 3 seeds)"


def test_the_same_values_are_not_told_apart():
    found = over_seeds_and_clips(np.zeros((3, 10)))
    assert found == Interval(0, 0, 0, 1, 3) and verdict(found) == "not told apart (0.0 [0.0, 0.0])"


@pytest.mark.parametrize(
    ("ends", "words"),
    [
        ((0.042, 0.0104, 0.0731), "ahead by 4.2 [1.0, 7.3]"),
        ((-0.042, -0.0731, -0.0104), "behind by 4.2 [1.0, 7.3]"),
        ((0.002, -0.021, 0.0244), "not told apart (0.2 [-2.1, 2.4])"),
        ((0.04, 0.0004, 0.08), "not told apart (4.0 [0.0, 8.0])"),  # no lead of [0.0, ...]
        ((-0.0001, -0.02, 0.02), "not told apart (0.0 [-2.0, 2.0])"),
    ],
)
def test_what_is_said_follows_from_the_interval(ends, words):
    assert verdict(Interval(*ends, p=0.5, seeds=3)) == words


def test_a_number_of_a_table_is_rounded_as_any_other():
    lead = Interval(0.0355, 0.0105, 0.0655, 0.01, 5)
    assert points(Interval(*np.array(lead))) == points(lead)


def test_forgetting_has_words_of_its_own():
    assert verdict(Interval(-0.1, -0.15, -0.05, 0.01, 3), ("more by", "less by")) == "less by 10.0 [5.0, 15.0]"
    assert points(Interval(-0.1, -0.15, -0.05, 0.01, 3)) == "-10.0 [-15.0, -5.0]"


def test_holm_is_worked_out_by_hand():
    # sorted 0.01, 0.02, 0.03, 0.4: times 4, 3, 2, 1, and never falling
    assert holm([0.03, 0.4, 0.01, 0.02]) == pytest.approx([0.06, 0.4, 0.04, 0.06])
    assert holm([0.6, 0.7]) == pytest.approx([1.0, 1.0])


# ---- claims


def test_a_claim_is_judged_by_the_whole_interval():
    found = Interval(0.01, -0.015, 0.035, 0.3, 3)
    assert outcome(found) == "not told apart"
    assert outcome(found, least=-claims.MARGIN) == "holds"  # a loss of two points is excluded
    assert outcome(found, least=0.04) == "does not hold"


def test_every_claim_names_rows_and_measures_that_there_are():
    judged = claims.judged(ROOT / "metrics")
    assert len(judged) == sum(map(len, claims.CLAIMS.values()))
    assert {one.verdict for one in judged} <= set(VERDICTS)


def test_no_claim_of_the_paper_s_is_carried_by_the_similarity_that_is_ours(params):
    """The prior's similarity τ m is in both rows compared or in neither; a row judged alone has none."""

    def similarity(row: str) -> str | None:
        method = params.method(row)
        return method.tokens if method.fusion in ("guided", "frozen_guided") and method.prior_guidance else None

    for claim in (claim for part in claims.CLAIMS.values() for claim in part if claim.whose == "paper"):
        families = claim.second if isinstance(claim.second, tuple) else ()
        rivals = [row for family in families for row in names.of_family(family)] if families else [claim.second]
        assert {similarity(row) if row else None for row in rivals} == {similarity(claim.first)}, claim


def test_claims_are_those_of_the_tables(tmp_path):
    """Two claims worked out from the files, and rows that were not run are said to be missing."""
    seeds = pd.read_csv(ROOT / "metrics/seeds.csv")
    last = seeds.set_index(["setting", "method", "seed"]).last_accuracy.sort_index()
    said = {one.part: one for one in claims.judged(ROOT / "metrics")}
    lead = last["worlds", "lll_prior"] - last["worlds", "without_prior"]
    assert said["prior"].lead.mean == pytest.approx(lead.mean()) and said["prior"].lead.seeds == len(lead)
    rise = seeds.set_index(["setting", "method"]).rise.sort_index()
    flat = rise["worlds", "lll_prior"].mean() - rise["worlds", "joint_guided"].mean()
    (same,) = (one for one in claims.judged(ROOT / "metrics") if one.claim.second == "joint_guided")
    assert same.lead.mean == pytest.approx(flat)
    shutil.copy(ROOT / "metrics/correct.csv", tmp_path)
    seeds[seeds.method != "without_prior"].to_csv(tmp_path / "seeds.csv", index=False)
    said = {one.part: one.verdict for one in claims.judged(tmp_path)}
    assert said["prior"] == "not run" and said["feature level"] != "not run"
    assert "**not run**: prior" in claims.summary(tmp_path)


def test_a_lead_over_a_family_is_the_one_that_is_least_sure(monkeypatch):
    """Of rivals that were run: not the best mean decides, but the lowest end of the interval."""
    lines = [
        ("standard", method, seed, mean + spread * (seed - 1))
        for method, mean, spread in (("ours", 0.8, 0.0), ("sure", 0.6, 0.01), ("unsure", 0.55, 0.11))
        for seed in range(3)
    ]
    seeds = pd.DataFrame(lines, columns=["setting", "method", "seed", "last_accuracy"])
    found = Comparable(seeds, pd.DataFrame(columns=["setting", "method", "seed", "correct"]))
    monkeypatch.setattr(claims, "of_family", lambda family: ["sure", "unsure", "never_run"])
    name, count, lead = claims.nearest_rival(found, "ours", ("one",), "standard")
    assert (name, count) == ("unsure", 2) and lead.mean == pytest.approx(0.25) and outcome(lead) != "holds"


def test_rivals_over_worlds_are_those_of_both_settings(monkeypatch):
    """The rest of the field is run in fewer of the same worlds: it is paired by world, and by those alone."""
    lines = [("worlds", "ours", world, 0.8 + 0.01 * world) for world in range(4)]
    lines += [("worlds", "one", world, 0.6 + 0.02 * world) for world in range(4)]
    lines += [("worlds_field", "other", world, 0.7 + 0.015 * world) for world in range(1, 3)]
    lines += [("standard", "other", world, 0.9) for world in range(4)]
    seeds = pd.DataFrame(lines, columns=["setting", "method", "seed", "last_accuracy"])
    found = Comparable(seeds, pd.DataFrame(columns=["setting", "method", "seed", "correct"]))
    monkeypatch.setattr(claims, "of_family", lambda family: ["one", "other", "never_run"])
    assert claims.run_in(found, "worlds") == {"other": "worlds_field", "ours": "worlds", "one": "worlds"}
    name, count, lead = claims.nearest_rival(found, "ours", ("family",), "worlds")
    assert (name, count, lead.seeds) == ("other", 2, 2) and lead.mean == pytest.approx(0.0925)


def test_a_rival_that_is_ahead_is_not_hidden_behind_one_that_is_less_sure(monkeypatch):
    """The other's interval reaches lower, since it is of fewer worlds, and decides nothing."""
    lines = [("worlds", "ours", world, 0.8) for world in range(6)]
    lines += [("worlds", "better", world, 0.83 + 0.002 * world) for world in range(6)]
    lines += [("worlds_field", "unsure", world, 0.8 + 0.02 * world) for world in range(3)]
    seeds = pd.DataFrame(lines, columns=["setting", "method", "seed", "last_accuracy"])
    found = Comparable(seeds, pd.DataFrame(columns=["setting", "method", "seed", "correct"]))
    monkeypatch.setattr(claims, "of_family", lambda family: ["better", "unsure"])
    name, _, lead = claims.nearest_rival(found, "ours", ("family",), "worlds")
    unsure = found.lead("worlds", "last_accuracy", "ours", "unsure", "worlds_field")
    assert unsure.low < lead.low and outcome(unsure) == "not told apart"
    assert name == "better" and outcome(lead) == "does not hold"


def test_a_lead_is_over_seeds_alone_where_they_share_no_clips():
    """In the same numbers: outcomes by clip of one setting, and none of the other."""
    right = {"a": ["1101", "1111", "1111"], "b": ["1001", "0111", "0110"]}
    lines = [(name, seed, digits) for name, of in right.items() for seed, digits in enumerate(of)]
    correct = pd.DataFrame([("shared", *line) for line in lines], columns=["setting", "method", "seed", "correct"])
    means = [(setting, m, s, d.count("1") / 4, 0.5 * s) for setting in ("shared", "worlds") for m, s, d in lines]
    seeds = pd.DataFrame(means, columns=["setting", "method", "seed", "last_accuracy", "retention"])
    found, apart = Comparable(seeds, correct), np.array([[0, 1, 0, 0], [1, 0, 0, 0], [1, 0, 0, 1]])
    assert found.lead("shared", "last_accuracy", "a", "b") == over_seeds_and_clips(apart)
    assert found.lead("worlds", "last_accuracy", "a", "b") == over_seeds(apart.mean(1))
    assert found.lead("shared", "last_accuracy", "a").mean == pytest.approx(11 / 12)
    same = found.lead("shared", "retention", "a", "b")
    assert same.mean == 0 and np.isnan(same.low)  # seeds that agree to the digit tell no spread
    with pytest.raises(KeyError):
        found.lead("worlds", "last_accuracy", "a", "c")


def test_a_part_s_worth_is_told_where_both_rows_were_run():
    """On other tokens, the row without the prior is that of the first setting; in other worlds there is none."""
    of = {
        ("standard", "lll_prior"): 0.8, ("standard", "naive_fusion"): 0.5, ("standard", "without_prior"): 0.2,
        ("other", "lll_prior"): 0.6, ("other", "naive_fusion"): 0.5, ("worlds_2", "lll_prior"): 0.9,
        ("parts", "naive_fusion"): 0.5, ("parts", "without_prior"): 0.2,
    }  # fmt: skip
    runs = [(*key, seed, mean + 0.01 * seed * (key[1] == "lll_prior")) for key, mean in of.items() for seed in (0, 2)]
    seeds = pd.DataFrame(runs, columns=["setting", "method", "seed", "last_accuracy"])
    found = Comparable(seeds, pd.DataFrame(columns=["setting", "method", "seed", "correct"]))
    settings = {name: Setting() for name in ("standard", "parts")}
    settings |= {"other": Setting(tokens="other"), "worlds_2": Setting(worlds=True)}
    knobs = {"knob": {"other": "a", "standard": "b", "worlds_2": "c", "parts": "e"}, "other knob": {"standard": "d"}}
    protocol = SimpleNamespace(settings=settings, knobs=knobs)
    table = tables.worth(found, protocol).set_index(["knob", "value", "part"])
    expected = {
        ("knob", "a", "guidance"): 0.11, ("knob", "a", "prior"): 0.41, ("knob", "b", "guidance"): 0.31,
        ("knob", "b", "prior"): 0.61, ("other knob", "d", "guidance"): 0.31, ("other knob", "d", "prior"): 0.61,
    }  # fmt: skip
    assert table["mean"].to_dict() == pytest.approx(expected) and (table.seeds == 2).all()
    figure = plots_field.knobs(table.reset_index())
    assert [axis.get_xlabel() for axis in figure.axes] == ["knob", "other knob"]
    assert [[text.get_text() for text in axis.get_xticklabels()] for axis in figure.axes] == [["a", "b"], ["d"]]


def test_less_forgetting_is_a_lead():
    seeds = pd.DataFrame(
        [("s", method, seed, value) for method, value in (("a", 0.1), ("b", 0.3)) for seed in range(2)],
        columns=["setting", "method", "seed", "forgetting_last"],
    )
    seeds.loc[0, "forgetting_last"] = 0.12
    found = Comparable(seeds, pd.DataFrame(columns=["setting", "method", "seed", "correct"]))
    lead = claims.lead(found, "s", "forgetting_last", "a", "b")
    assert lead.mean == pytest.approx(0.19) and lead.low < lead.mean < lead.high


def test_outcomes_by_clip_are_those_of_the_other_tables():
    """Else intervals would be of other runs than the means beside them. Worlds share no clips: they have none."""
    found, key = Comparable.of(ROOT / "metrics"), ["setting", "method", "seed"]
    mean = found.seeds.set_index(key).last_accuracy
    share = found.correct.set_index(key).correct.map(lambda digits: digits.count("1") / len(digits))
    assert share.index.is_unique and set(share.index) == {run for run in mean.index if not run[0].startswith("worlds")}
    assert (share - mean[share.index]).abs().max() < 1e-4
