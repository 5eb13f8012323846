"""What people write into manifest.csv and params.yaml by mistake: one line that names it, never a traceback."""

import copy
import shutil

import pandas as pd
import pytest

from avcil.params import ParameterError, load, mapping, parse
from avcil.tokens.manifest import ManifestError, read_manifest
from conftest import ROOT

ROWS = "clip_id,path,label,split,start\na,a.mp4,cat,train,0\nb,b.mp4,cat,test,1.5\n"


def _refusal(path) -> str:
    with pytest.raises(ManifestError) as error:
        read_manifest(path)
    assert "\n" not in str(error.value) and str(error.value).startswith(str(path))
    return str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (ROWS.replace("cat", "Bär").encode("latin-1"), "save it as CSV in UTF-8"),
        (ROWS.encode("utf-16"), "save it as CSV in UTF-8"),
        (b"", "save it as CSV in UTF-8"),
        (ROWS.encode() + b"c,c.mp4,cat,train,0,too,many\n", "save it as CSV in UTF-8"),
        (ROWS.replace("1.5", "inf").encode(), "row 3: clip `b` has no start in seconds"),
        (ROWS.replace("1.5", "1e300").encode(), "row 3: clip `b` has no start in seconds"),
        (ROWS.replace("1.5", "nan").encode(), "row 3: clip `b` has no start in seconds"),
        (ROWS.replace("a.mp4,cat", "a.mp4, \u00a0").encode(), "row 2: clip `a` has no label; fill it in"),
        (ROWS.replace("b.mp4", "/etc/passwd").encode(), "row 3: clip `b` has the path `/etc/passwd`; give one below"),
        (ROWS.replace("b.mp4", "x/../../b.mp4").encode(), "row 3: clip `b` has the path `x/../../b.mp4`; give one"),
        (ROWS.replace("b.mp4", "..\\b.mp4").encode(), "give one below the folder of the manifest"),
    ],
)
def test_a_manifest_is_refused_in_one_line(tmp_path, content, message):
    path = tmp_path / "manifest.csv"
    path.write_bytes(content)
    assert message in _refusal(path)


def test_two_dots_in_a_name_are_no_way_out(tmp_path):
    path = tmp_path / "manifest.csv"
    path.write_text(ROWS.replace("a.mp4", "clips/a..b.mp4"))
    assert isinstance(read_manifest(path), pd.DataFrame)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "learning_rate: 1.0e-3     #",
            "learning_rate: .inf     #",
            "training.learning_rate: Input should be a finite",
        ),
        ("learning_rate: 1.0e-3     #", "learning_rate: .nan     #", "training.learning_rate: Input should be "),
        ("width: 128 ", "width: 7 ", "training: width: 7 channels cannot be shared among 4 heads"),
        ("\nseeds: [0, 1, 2, 3, 4]", "\nseeds: [0, 0]", "seeds: 0 occurs twice; drop one"),
        ("\nseeds: [0, 1, 2, 3, 4]", "\nseeds: [0, -1]", "seeds.1: Input should be greater than or equal to 0"),
        ("  batch: 64  ", "  batch: 32\n  batch: 64  ", "`batch` occurs twice"),
        ("\nfeatures:\n", "\nfeatures: {}\nfeatures:\n", "`features` occurs twice"),
        ("benchmark: sounding_objects", "benchmark: 2001-99-99", "not YAML: month must be in 1..12"),
        ("benchmark: sounding_objects", "benchmark: " + 9999 * "[", "not YAML: "),
        ("benchmark: sounding_objects", "benchmark: B\udce4r", "save it as UTF-8"),
        ("benchmark: sounding_objects", "{[1]: 2, [1]: 3}: 4", "not YAML: "),
    ],
)
def test_params_are_refused_in_one_line(tmp_path, old, new, message):
    text = (ROOT / "params.yaml").read_text()
    assert text.count(old) == 1
    shutil.copytree(ROOT / "protocols", tmp_path / "protocols")
    shutil.copy(ROOT / "search.yaml", tmp_path)
    path = tmp_path / "params.yaml"
    path.write_bytes(text.replace(old, new).encode("utf-8", "surrogateescape"))
    with pytest.raises(ParameterError) as error:
        load(path)
    assert message in str(error.value) and "\n" not in str(error.value) and "params.yaml" in str(error.value)


def test_what_stands_beside_params_is_refused_by_its_name(tmp_path):
    """A damaged protocol, and a search that is not there: the file is named, in one line."""
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    (tmp_path / "protocols").mkdir()
    place = tmp_path / "protocols/sounding_objects.yaml"
    place.write_text((ROOT / "protocols/sounding_objects.yaml").read_text())
    for content, message in ((None, "search.yaml: cannot be read"), (b"a: [1", "sounding_objects.yaml: not YAML")):
        if content:
            place.write_bytes(content)
        with pytest.raises(ParameterError) as error:
            load(tmp_path / "params.yaml")
        assert message in str(error.value) and "\n" not in str(error.value)


def test_an_offence_in_search_names_its_file(tmp_path):
    for name in ("params.yaml", "search.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "protocols", tmp_path / "protocols")
    path = tmp_path / "search.yaml"
    path.write_text(path.read_text().replace("worlds:", "world:", 1))
    with pytest.raises(ParameterError, match=r"^search\.yaml: search: no key `world` \(did you mean `worlds`\?\)"):
        load(tmp_path / "params.yaml")


def test_params_that_are_not_there_are_one_line(tmp_path):
    with pytest.raises(ParameterError, match=r"params\.yaml: cannot be read .*; take it from git"):
        load(tmp_path / "params.yaml")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("like: a\n", r"a\.yaml: like `a`, which is like it; name another one"),
        ("like: b\n", r"b\.yaml: like `a`, which is like it; name another one"),
        ("like: list\n", r"list\.yaml: no mapping of keys; mend it"),
        ("like: [x]\n", r"cannot be read"),
    ],
)
def test_protocols_like_one_another_in_a_circle_are_refused(tmp_path, content, message):
    for name in ("params.yaml", "search.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "protocols").mkdir()
    for name, text in {"a": content, "b": "like: a\n", "list": "[1]\n"}.items():
        (tmp_path / f"protocols/{name}.yaml").write_text(text)
    with pytest.raises(ParameterError, match=message) as error:
        load(tmp_path / "params.yaml")
    assert "\n" not in str(error.value)


def test_merged_keys_occur_once():
    """`<<` brings keys that the mapping may have too: those are its own, and no mistake."""
    text = "base: &base {one: 1, two: 2}\nmore: &more {<<: *base, one: 3}\nmost: {<<: *more, two: 4}\n"
    assert mapping(text)["most"] == {"one": 3, "two": 4}


def test_seeds_of_a_protocol_are_checked_too(raw_params):
    wrong = copy.deepcopy(raw_params)
    name = next(iter(wrong["protocols"]))
    wrong["protocols"][name]["seeds"] = [1, 1]
    with pytest.raises(ParameterError, match=rf"protocols\.{name}\.seeds: 1 occurs twice"):
        parse(wrong)
