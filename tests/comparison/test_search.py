"""The search for hyper-parameters: what a trial is, where it is scored, and that no row is left out."""

import pandas as pd
import pytest
import yaml

from avcil.comparison import protocol, search
from avcil.comparison.protocol import Place
from avcil.comparison.sweep import Source
from avcil.learn.methods.product_ridge import Options
from avcil.params import ParameterError
from avcil.params.comparison import Search
from avcil.tokens.manifest import write_orders
from conftest import ROOT


def _with(params, trials):
    return params.model_copy(update={"search": Search(worlds=[90, 91], trials=trials)})


def test_trials_are_every_combination_of_a_grid_beside_the_row_as_it_ships(params):
    some = {"ridge": [], "acil_guided": [{"prior_guidance": [0.5, 2.0], "readout_options.penalty": [1.0, 10.0]}]}
    made = search.trials(_with(params, some))
    assert list(made) == [
        ("ridge", "as it ships"),
        ("acil_guided", "as it ships"),
        ("acil_guided", "prior_guidance 0.5, penalty 1.0"),
        ("acil_guided", "prior_guidance 0.5, penalty 10.0"),
        ("acil_guided", "prior_guidance 2.0, penalty 1.0"),
        ("acil_guided", "prior_guidance 2.0, penalty 10.0"),
    ]
    method, training = made["acil_guided", "prior_guidance 2.0, penalty 10.0"]
    assert (method.prior_guidance, method.readout_options) == (2.0, {"penalty": 10.0})
    assert params.methods["acil_guided"].readout_options == {"penalty": 100.0} and training == params.training


def test_a_trial_changes_shared_training_and_single_options_of_hooks(params):
    some = {"avcil": [{"hooks.av_cil.attention_distillation": [0.1], "later_learning_rate": [3e-4]}]}
    (_, shipped), (method, training) = search.trials(_with(params, some)).values()
    assert method.hooks["av_cil"] == {"instance_contrast": 0.5, "class_contrast": 1.0, "attention_distillation": 0.1}
    assert training.later_learning_rate == 3e-4 != shipped.later_learning_rate


def test_trials_of_equal_last_words_and_trials_like_another_row_stay_apart(params):
    hooks = {f"hooks.{name}.weight": [0.5] for name in ("afc", "der")}
    made = search.trials(_with(params, {"lll": [{key: values} for key, values in hooks.items()]}))
    assert [trial for _, trial in made] == ["as it ships", *(f"{key} 0.5" for key in hooks)]
    # `lll` is `lll_prior` with another τ
    same = {"lll": [], "lll_prior": [{"prior_guidance": [params.methods["lll"].prior_guidance]}]}
    assert len(search.trials(_with(params, same))) == 3


def test_what_ships_is_not_tried_twice(params):
    shipped = params.methods["ridge_guided"].prior_guidance
    assert len(search.trials(_with(params, {"ridge_guided": [{"prior_guidance": [shipped, shipped + 1]}]}))) == 2
    # nor where an option is written out that is its file's default
    default = Options().products
    made = search.trials(_with(params, {"lll_closed": [{"readout_options.products": [default, default + 1]}]}))
    assert [trial for _, trial in made] == ["as it ships", f"products {default + 1}"]


def test_keys_that_there_are_not_are_named(params):
    with pytest.raises(ParameterError, match=r"search\.trials\.lll\.exemplar: .*did you mean `exemplars`"):
        search.trials(_with(params, {"lll": [{"exemplar": [3]}]}))
    with pytest.raises(ParameterError, match=r"search\.trials\.acil: options of `acil`: .*penalti"):
        search.trials(_with(params, {"acil": [{"readout_options.penalti": [3]}]}))
    with pytest.raises(ParameterError, match="lll_priors"):
        search.trials(_with(params, {"lll_priors": []}))


def test_no_row_is_left_out(params):
    """But parts of rows, rows that differ in their prior alone, which each world has one of, and two of which
    docs/search.md says that they were not scored."""
    listed, unscored = set(params.search.trials), {"joint_lll", "joint_analytic"}
    assert all(f"`{name}`" in (ROOT / "docs/search.md").read_text() for name in unscored)
    for name in params.protocol().rows:
        row = params.methods[name]
        assert name in listed | unscored or row.about.part or row.tokens.startswith("mini-"), name
    assert listed <= set(params.protocol().rows)


def test_no_table_reports_a_development_world(params):
    reported = {
        seed
        for one in params.protocols.values()
        for setting in one.settings.values()
        for seed in setting.seeds or one.seeds
    }
    studies = yaml.safe_load((ROOT / "beyond.yaml").read_text()).values()
    reported |= {world for study in studies for world in study.get("worlds", [])}
    assert not reported & set(params.search.worlds) and {0, 1, 100, 200} <= reported
    assert not {0, params.prior.world.seed - params.world.seed} & set(params.search.worlds)


def test_trials_are_scored_on_validation_clips_of_worlds_of_their_own(params, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(protocol.worlds, "drawn", lambda seed, folder, *_: drawn.append(seed) or Place(folder, folder))
    order = [f"class{number}" for number in range(20)]
    write_orders(tmp_path / "orders.json", dict.fromkeys(params.search.worlds, order))
    there = Source(ROOT / "corpus/sounding_objects/manifest.csv", tmp_path / "orders.json", tmp_path)
    monkeypatch.setattr(protocol, "_source", lambda *_: there)
    some = _with(params, {"lll_prior": [{"learning_rate": [3e-3]}], "ridge": []})
    jobs = search.jobs(some, tmp_path)
    assert drawn == [90, 91] and {sum(task.classes for task in job.tasks) for job in jobs} == {20}
    assert {job.split for job in jobs} == {"val"} and {job.folder for job in jobs} == {None}
    assert len({job.file for job in jobs}) == len(jobs) == 6
    assert [job.seed for job in jobs] == [90, 90, 90, 91, 91, 91]
    assert [job.training.learning_rate for job in jobs[:3]] == [1e-3, 3e-3, 1e-3]


def test_the_best_trial_is_compared_world_by_world():
    lines = [("a", "as it ships", 1, 0.50), ("a", "as it ships", 2, 0.60), ("a", "x 1", 1, 0.40), ("a", "x 1", 2, 0.50)]
    lines += [("a", "x 2", 1, 0.53), ("a", "x 2", 2, 0.64), ("b", "as it ships", 1, 0.1), ("b", "as it ships", 2, 0.3)]
    first, second = search.compared(pd.DataFrame(lines, columns=["row", "trial", "world", "last_accuracy"])).itertuples(
        index=False
    )
    assert (first.row, first.trials, first.best) == ("a", 2, "x 2")
    assert first.shipped == pytest.approx(0.55)
    assert first.ahead == pytest.approx([0.03, 0.04])
    assert (second.trials, second.best, second.ahead) == (0, None, [])
