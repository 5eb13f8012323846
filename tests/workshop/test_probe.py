"""Whether processors compute the same bytes: the known ones among one another, and this one."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from avcil.base import portable
from avcil.workshop import probe
from conftest import ROOT

KNOWN = probe.known(ROOT / probe.FOLDER)
OTHER = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"}


@pytest.fixture(scope="module")
def computed():
    """Digests of a process under portable arithmetic, computed twice, and of one under `OTHER`; both at once."""
    if not portable.possible():
        pytest.skip("portable arithmetic needs a processor with AVX2")
    # whatever pytest itself was started under, `import avcil` sets the variables there
    plain = {name: value for name, value in os.environ.items() if name not in {"AVCIL_PORTABLE", *portable.VARIABLES}}
    twice = "import json; from avcil.workshop.probe import digests; print(json.dumps([digests(), digests()]))"
    commands = {"twice": (["-c", twice], plain), "other": (["-m", "avcil.workshop.probe", "--json"], plain | OTHER)}
    running = {
        name: subprocess.Popen([sys.executable, *command], cwd=ROOT, env=environment, stdout=subprocess.PIPE)
        for name, (command, environment) in commands.items()
    }
    return SimpleNamespace(**{name: json.loads(process.communicate()[0]) for name, process in running.items()})


def test_known_processors_agree_in_portable_arithmetic_and_not_in_their_own():
    assert len(KNOWN) >= 2
    first, *others = KNOWN
    for other in others:
        for kind in ("operations", "whole"):
            if first[kind] and other[kind]:
                assert first[kind]["portable"] == other[kind]["portable"], (first["name"], other["name"])
    # else the comparison could not see a difference
    kinds = {
        kind: {json.dumps(known[kind]["default"]) for known in KNOWN if known[kind]} for kind in ("operations", "whole")
    }
    assert all(len(found) > 1 for found in kinds.values())


@pytest.mark.slow
def test_this_processor_computes_as_the_known_ones(computed):
    """A difference is no fault of whoever runs this: it is said what it means. Only a known processor, with the
    versions that it was recorded with, has to repeat itself."""
    mine = computed.twice[0]
    for known in KNOWN:
        if (known["name"], known["versions"]) == (portable.processor(), probe.versions()):
            assert not probe.differing(mine, known["operations"]["portable"])
    if any(probe.differing(mine, known["operations"]["portable"]) for known in KNOWN):
        pytest.xfail("\n".join([f"{portable.processor()}:", *probe.compare(mine, KNOWN)]))


@pytest.mark.slow
def test_digests_are_the_same_twice(computed):
    first, second = computed.twice
    assert first == second and len(set(first.values())) == len(first)


@pytest.mark.slow
def test_other_arithmetic_is_seen(computed):
    """`OTHER` is set before avcil sets its own, and stays."""
    mine = computed.twice[0]
    assert 5 < len(probe.differing(computed.other, mine)) < len(mine)
    assert all(set(known["operations"][kind]) == set(mine) for known in KNOWN for kind in ("portable", "default"))


def test_a_difference_is_said_by_processor():
    def record(name, torch, **operations):
        return {"name": name, "versions": {"torch": torch}, "operations": {"portable": {**same, **operations}}}

    same = {"exp": "1", "sin": "2", "stft": "3"}
    lines = probe.compare(same, [record("A", "2.11.0"), record("B", "2.12.0", sin="0", exp="0")])
    assert lines == [
        "3 of 3 operations as on A, torch 2.11.0",
        "1 of 3 operations as on B, torch 2.12.0",
        "    not exp; sin",
    ]
    assert probe.differing(same, {"exp": "1", "sin": "2", "new": "4"}) == ["stft", "new"]
    assert "no processor is known" in probe.compare(same, [])[0]


def test_a_processor_is_kept_with_what_was_known_of_it(tmp_path, monkeypatch):
    started = []

    def run(command, *, env, **_):
        started.append(env)
        return SimpleNamespace(stdout=json.dumps({"exp": "its own"}))

    monkeypatch.setattr(probe.subprocess, "run", run)
    monkeypatch.setattr(portable, "in_force", lambda: True)
    monkeypatch.setattr(portable, "processor", lambda: "Some CPU (family 1, model 2)")
    file = tmp_path / "some_cpu_family_1_model_2.json"
    assert probe.save({"exp": "old"}, tmp_path) == file
    file.write_text(json.dumps(json.loads(file.read_text()) | {"whole": {"portable": {"tokens": "1"}}}))
    probe.save({"exp": "new"}, tmp_path)
    (kept,) = probe.known(tmp_path)
    assert kept["operations"] == {"portable": {"exp": "new"}, "default": {"exp": "its own"}}
    assert kept["whole"] == {"portable": {"tokens": "1"}} and kept["versions"] == probe.versions()
    assert not set(started[0]) & (set(portable.VARIABLES) - {"OMP_NUM_THREADS"})


def test_what_is_not_portable_is_not_kept_and_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr(portable, "possible", lambda: True)
    monkeypatch.setenv("MKL_CBWR", "AVX512")
    with pytest.raises(ValueError, match=r"nothing kept.*MKL_CBWR is not COMPATIBLE"):
        probe.save({}, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_damaged_record_is_named(tmp_path):
    (tmp_path / "a.json").write_text('{"name": ')
    with pytest.raises(ValueError, match=r"a\.json: not JSON .*git checkout it"):
        probe.known(tmp_path)
