"""params.yaml and what stands beside it: what is wrong there is one clear line."""

import copy
import shutil

import pytest

from avcil.params import ParameterError, load, parse, whole
from conftest import ROOT


def _changed(raw, path, value):
    changed = copy.deepcopy(raw)
    *parents, last = path.split(".")
    section = changed
    for key in parents:
        section = section[int(key)] if isinstance(section, list) else section[key]
    section[last] = value
    return changed


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("training.bach", 32, r"params\.yaml: training: no key `bach` \(did you mean `batch`\?\)"),
        (
            "methods.lll_prior.fusion",
            "guidde",
            r"params\.yaml: methods\.lll_prior\.fusion: `guidde` is none of guided, mean",
        ),
        ("training.batch", 0, r"training\.batch: Input should be greater than 1"),
        ("training.batch", "64", r"training\.batch: Input should be a valid integer"),
        ("methods.replay.exemplars", -1, r"methods\.replay\.exemplars: Input should be greater than or equal to 0"),
        ("film.size", 100, r"film\.size: Input should be a multiple of 24"),
        ("tasks.1.from", "init", r"each task starts from the one before it"),
        ("tasks.1.id", 3, r"ids must count 0, 1, 2"),
        ("tasks.1.epochs", 5, r"tasks: epochs \[5, 40\], but all rows learn each task as long"),
        ("prior.world.seed", 0, r"prior\.world\.seed: must differ from world\.seed"),
        ("seedz", [0], r"params\.yaml: no key `seedz` \(did you mean `seeds`\?\)"),
        ("rows", ["lll_prior", "replai"], r"rows: no method `replai` \(did you mean `replay`\?\)"),
        ("rows", "healdine", r"rows: `healdine` is neither headline nor all"),
        ("rows", "lll_prior", r"in brackets, \[lll_prior\]"),
        ("methods.ridge.tokens", "minni", r"methods\.ridge: no encoder `minni` \(did you mean `mini`\?\)"),
        ("methods.lll_2", {}, r"methods\.lll_2\.tokens: Field required; and \d+ more"),
        ("methods.ridge.about.name", "replay", r"methods\..*: is named as `.*` is; give it an `about` of its own"),
        ("methods.ridge.about.famly", "x", r"methods\.ridge\.about: no key `famly` \(did you mean `family`\?\)"),
        ("tasks.1.form", "init", r"tasks\.1: no key `form` \(did you mean `from`\?\)"),
        ("encoders.pe_av.frame", 3, r"encoders\.pe_av\.pe_av: no key `frame` \(did you mean `frames`\?\)"),
    ],
)
def test_a_bad_parameter_is_one_clear_line(raw_params, path, value, message):
    with pytest.raises(ParameterError, match=message) as error:
        parse(_changed(raw_params, path, value))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["lll/2", "../lll", ".lll"])
def test_methods_and_encoders_name_a_folder(raw_params, name):
    row = raw_params["methods"]["ridge"] | {"about": {"name": "mine", "family": "own"}}
    with pytest.raises(ParameterError, match=rf"methods\.{name}: names a folder; use no `/`, and no `\.` in f"):
        parse(_changed(raw_params, "methods", raw_params["methods"] | {name: row}))
    with pytest.raises(ParameterError, match=rf"encoders\.{name}: names a folder"):
        parse(_changed(raw_params, "encoders", raw_params["encoders"] | {name: raw_params["encoders"]["pe_av"]}))


@pytest.mark.parametrize("name", ["mini", "mini-1", "random"])
def test_an_entry_of_encoders_hides_behind_no_own_encoder(raw_params, name):
    """It would never be read: own encoders are looked for first."""
    entry = raw_params["encoders"]["pe_av"]
    with pytest.raises(ParameterError, match=f"encoders.{name}: has the name of an own encoder, in prior/; give it a"):
        parse(_changed(raw_params, "encoders", raw_params["encoders"] | {name: entry}))


def test_a_missing_parameter_is_named(raw_params):
    raw = {key: value for key, value in raw_params.items() if key != "film"}
    with pytest.raises(ParameterError, match="film: Field required"):
        parse(raw)


def test_params_that_are_not_yaml(tmp_path):
    (tmp_path / "params.yaml").write_text("a: [1")
    with pytest.raises(ParameterError, match="not YAML"):
        load(tmp_path / "params.yaml")


def test_lll_is_one_of_the_methods(raw_params):
    methods = {name: row for name, row in raw_params["methods"].items() if name != "lll_prior"}
    with pytest.raises(ParameterError, match=r"methods: `lll_prior` is missing, which stages of their own learn"):
        parse(raw_params | {"methods": methods})


def test_an_unknown_method_names_the_nearest(params):
    with pytest.raises(ParameterError, match=r"no method `replai` .*did you mean `replay`"):
        params.method("replai")


def test_parameters_are_frozen(params):
    with pytest.raises(Exception, match="frozen"):
        params.training.batch = 3


def test_tasks_and_classes_fit_the_benchmark(params):
    assert sum(task.classes for task in params.tasks) == params.world.classes


def test_what_is_said_of_a_row_decides_no_result(params):
    """`about` is in no checkpoint and in no run's file: a row may be renamed."""
    assert "about" not in params.methods["lll_prior"].model_dump()


# ---- protocols


TINY = {"class_order": "drawn", "headline": ["lll_prior", "ridge"], "rows": ["lll_prior", "ridge", "replay"]}
FEW = ["lll_prior", "replay", "lwf"]
SETTINGS = {"standard": {}, "few": {"exemplars": 1, "rows": FEW}}


def test_rows_are_chosen_setting_by_setting(raw_params):
    protocol = parse(raw_params | {"protocols": {raw_params["benchmark"]: TINY | {"settings": SETTINGS}}}).protocol()
    assert protocol.chosen("all") == {"standard": TINY["rows"], "few": FEW}
    assert protocol.chosen("headline") == {"standard": ["lll_prior", "ridge"]}
    assert protocol.model_copy(update={"headline": []}).chosen("headline") == {"standard": TINY["rows"]}
    assert protocol.chosen(["replay", "lll_prior"]) == {name: ["lll_prior", "replay"] for name in SETTINGS}
    assert protocol.chosen(["ridge"]) == {"standard": ["ridge"]} and protocol.chosen(["lwf"]) == {"few": ["lwf"]}
    # a row of one's own, which no protocol lists
    assert protocol.chosen(["ncm"]) == {"standard": ["ncm"]}
    assert protocol.chosen(["ncm", "replay"]) == {"standard": ["replay", "ncm"], "few": ["replay"]}


def test_the_embedded_protocol_takes_seeds_and_tasks_from_params(raw_params):
    raw = raw_params | {"protocols": {raw_params["benchmark"]: TINY | {"settings": SETTINGS}}, "seeds": [4, 7]}
    raw["tasks"] = [task | {"epochs": 3} for task in raw["tasks"]]
    found = parse(raw).protocol()
    assert (found.seeds, found.epochs, found.classes_per_task) == ([4, 7], 3, [4] * 5)


@pytest.mark.parametrize(
    ("key", "given", "message"),
    [
        ("training", {"bach": 3}, r"protocols\.\w+\.training: no key `bach` \(did you mean `batch`\?\)"),
        ("training", {"batch": "a"}, r"protocols\.\w+\.training: batch: Input should be a valid integer"),
        ("changes", {"replay": {"exemplar": 3}}, r"changes: replay: no key `exemplar` \(did you mean `exemplars`\?\)"),
        ("changes", {"*": {"memory": "some"}}, r"protocols\.\w+\.changes: lll_prior: memory: Input should be 'none'"),
    ],
)
def test_what_a_protocol_changes_is_checked(raw_params, key, given, message):
    tiny = TINY | {"settings": SETTINGS, key: given}
    with pytest.raises(ParameterError, match=message) as error:
        parse(raw_params | {"protocols": {"own": tiny | {"classes_per_task": 2, "epochs": 1, "seeds": [0]}}})
    assert "\n" not in str(error.value)
    # what the chain of `lll_prior` would be learnt without
    with pytest.raises(ParameterError, match=rf"{key}: `lll_prior` is learnt without; change it in params\.yaml, or"):
        parse(raw_params | {"protocols": {raw_params["benchmark"]: tiny}})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"silent_objects": [0, 2]}, "give at least one"),
        ({"silent_objects": [3, 1]}, "no more than the most"),
        ({"classes": 4, "timbres": 2}, "3 of other timbres, but of 4 classes 2 are"),
        ({"timbres": 1}, "but of 20 classes 0 are"),
        ({"noise": [0.3, 0.05]}, "the least and the most"),
    ],
)
def test_a_world_that_cannot_be_drawn_is_refused(raw_params, changes, message):
    with pytest.raises(ParameterError, match=message):
        parse(raw_params | {"world": raw_params["world"] | changes})
    for clips in ({"train": 4, "val": 1}, {"train": 4, "val": 1, "tset": 2}, {"train": 4, "val": 1, "test": -3}):
        with pytest.raises(ParameterError, match=r"corpus\.clips_per_class"):
            parse(raw_params | {"corpus": raw_params["corpus"] | {"clips_per_class": clips}})


def test_a_protocol_takes_the_rest_from_the_one_that_it_is_like(tmp_path):
    for name in ("params.yaml", "search.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "protocols").mkdir()
    place = tmp_path / "protocols"
    shutil.copy(ROOT / "protocols/sounding_objects.yaml", place)
    shutil.copy(ROOT / "protocols/ave.yaml", place)
    (place / "mine.yaml").write_text("like: ave\nexemplars: 7\nepochs_of: {}\n")
    (place / "again.yaml").write_text("like: mine\nepochs: 3\n")
    found = load(tmp_path / "params.yaml").protocols
    assert found["mine"] == found["ave"].model_copy(update={"exemplars": 7, "epochs_of": {}})
    assert found["again"] == found["mine"].model_copy(update={"epochs": 3})
    assert whole(tmp_path / "params.yaml")["protocols"]["again"]["exemplars"] == 7
    (place / "mine.yaml").write_text("like: avee\n")
    with pytest.raises(ParameterError, match=r"avee\.yaml: cannot be read") as error:
        load(tmp_path / "params.yaml")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (
            "protocols.sounding_objects.rows",
            ["lwff"],
            "protocols.sounding_objects: no method `lwff` .did you mean `lwf`",
        ),
        ("protocols.ave.epochs_of", {"lll_": 3}, "epochs_of: `lll_` is not among the rows"),
        ("protocols.ave.epochs_of", {"*": 3}, r"epochs_of: `\*` is not among the rows"),
        ("protocols.sounding_objects.headline", ["lwff"], "protocols.sounding_objects: no method `lwff`"),
        ("protocols.ave.settings.standard.seeds", [9], "settings.standard: seed 9 is not among"),
        ("protocols.sounding_objects.settings.worlds.world", {"classes": 40}, "settings.worlds: other classes, in the"),
        ("protocols.sounding_objects.settings.tasks_2.world", {"noise": [0, 1]}, "settings.tasks_2: only drawn worlds"),
        (
            "protocols.sounding_objects.settings.worlds.world",
            {"twins_in_view": 0.0},
            "sounding_objects.settings.worlds.world: no key `twins_in_view` .did you mean `twin_in_view`",
        ),
        ("protocols.ave.knobs", {"one": {"standard": "1", "exemplars_3": "3"}}, "knobs.one: no setting `exemplars_3`"),
        ("protocols.ave.settings.standard.worlds", True, "settings.standard: drawn worlds have no official order"),
        (
            "protocols.sounding_objects.settings.worlds.tokens",
            "mini-1",
            "settings.worlds: drawn worlds have a prior each",
        ),
        (
            "prior.variants.frames",
            {"matching": "frame"},
            "prior: variants.frames: matching: Input should be 'regions' or",
        ),
        ("prior.variants.frames", {"step": 3}, "prior: variants.frames: no key `step` .did you mean `steps`"),
        ("methods.lwf.logit_blocks", "tasks", "Input should be 'past' or 'task'"),
        ("benchmark", "sounding_object", "no protocol `sounding_object` .did you mean `sounding_objects`"),
    ],
)
def test_a_bad_protocol_is_one_clear_line(raw_params, path, value, message):
    with pytest.raises(ParameterError, match=message) as error:
        parse(_changed(raw_params, path, value)).protocol()
    assert "\n" not in str(error.value)
