"""What a killed DVC leaves is told apart from what a living one holds, and cleared; two pipelines; the playground."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest

from avcil.workshop import explore, repro
from conftest import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes elsewhere are told apart in other ways")

STAGE = """stages:
  slow:
    cmd: {python} -c "import time; time.sleep({seconds}); open('out.txt', 'w').write('whole')"
    outs: [out.txt]
"""


def _call(folder: Path, *command: str) -> str:
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def project(tmp_path) -> Path:
    """A repository with a stage that was run, committed."""
    _call(tmp_path, "git", "init", "-q")
    _call(tmp_path, "git", "config", "user.email", "a@example.org")
    _call(tmp_path, "git", "config", "user.name", "a")
    _call(tmp_path, sys.executable, "-m", "dvc", "init", "-q")
    (tmp_path / "dvc.yaml").write_text(STAGE.format(python=sys.executable, seconds=0))
    _call(tmp_path, sys.executable, "-m", "dvc", "repro", "-q")
    _call(tmp_path, "git", "add", "-A")
    _call(tmp_path, "git", "commit", "-qm", "a stage")
    return tmp_path


def _repro(project: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "avcil.workshop.repro"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "DVC_NO_ANALYTICS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(command, cwd=project, env=environment, text=True, start_new_session=True, **pipes)


def test_entries_of_processes_that_do_not_live_are_dropped(tmp_path):
    """Ended; ended, and waited for by nobody; another process with the number; but not a DVC at work."""
    (tmp_path / ".dvc/tmp").mkdir(parents=True)
    file = tmp_path / ".dvc/tmp/rwlock"
    ended = subprocess.Popen(["true"])
    ended.wait()
    zombie = subprocess.Popen(["true"])
    other, living = (
        subprocess.Popen([sys.executable, "-c", "input()", name], stdin=subprocess.PIPE) for name in ("a", "dvc")
    )
    while psutil.Process(zombie.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    while not all(psutil.Process(process.pid).cmdline() for process in (other, living)):  # empty amid its exec
        time.sleep(0.01)
    who = {process.pid: {"pid": process.pid, "cmd": "dvc repro"} for process in (ended, zombie, other, living)}
    entries = {
        "write": {f"/out{pid}": one for pid, one in who.items()},
        "read": {"/in": [*who.values()], "/only": [who[other.pid]]},
    }
    file.write_text(json.dumps(entries))
    repro.clear(tmp_path)
    mine = who[living.pid]
    assert json.loads(file.read_text()) == {"write": {f"/out{living.pid}": mine}, "read": {"/in": [mine]}}
    # DVC leaves out the half that has no entry
    for half in ({"write": entries["write"]}, {"read": entries["read"]}):
        file.write_text(json.dumps(half))
        repro.clear(tmp_path)
        left = json.loads(file.read_text())
        assert left == {"write": {}, "read": {}} | {
            "write": {f"/out{living.pid}": mine} if "write" in half else {},
            "read": {"/in": [mine]} if "read" in half else {},
        }
    for process in (other, living):
        process.communicate(b"\n")
    zombie.wait()


@pytest.mark.parametrize("content", ["", '{"write": {"/a": {"pi', "[]", '{"read": {}, "write": {"/a": 3}}'])
def test_a_half_written_list_of_entries_is_dropped(tmp_path, content):
    (tmp_path / ".dvc/tmp").mkdir(parents=True)
    (tmp_path / ".dvc/tmp/rwlock").write_text(content)
    repro.clear(tmp_path)
    assert json.loads((tmp_path / ".dvc/tmp/rwlock").read_text()) == {"read": {}, "write": {}}


@pytest.mark.parametrize("share", [0, 0.7])
def test_a_half_written_lock_file_is_taken_from_git_or_made_anew(project, share, capsys):
    file = project / "dvc.lock"
    whole = file.read_bytes()
    repro.clear(project)
    assert file.read_bytes() == whole and not capsys.readouterr().err
    file.write_bytes(cut := whole[: int(share * len(whole))])
    repro.clear(project)
    if file.read_bytes() != cut:  # a cut may be a shorter list of stages, which DVC reads
        assert file.read_bytes() == whole
        assert capsys.readouterr().err.startswith("dvc.lock: half written by a DVC that was killed")
    _call(project, sys.executable, "-m", "dvc", "repro", "-q")
    _call(project, "git", "rm", "-q", "--cached", "dvc.lock")
    file.write_bytes(b"schema: '2.0'\nstages:\n  slow:\n    cmd")
    repro.clear(project)
    assert not file.exists()
    _call(project, sys.executable, "-m", "dvc", "repro", "-q")
    assert file.read_bytes() == whole


@pytest.mark.slow
def test_of_two_pipelines_the_second_is_refused_and_after_a_kill_it_runs(project):
    (project / "dvc.yaml").write_text(STAGE.format(python=sys.executable, seconds=60))
    first = _repro(project)
    while "Running stage" not in (line := first.stdout.readline()):
        assert line
    rwlock = project / ".dvc/tmp/rwlock"
    held = json.loads(rwlock.read_text())
    assert held["write"]
    second = _repro(project)
    assert second.wait(60) and "is busy, it is being blocked by" in second.stdout.read()
    assert json.loads(rwlock.read_text()) == held, "entries of a living one were dropped"
    os.killpg(first.pid, signal.SIGKILL)  # and nobody waits for it: its number stays taken
    (project / "dvc.yaml").write_text(STAGE.format(python=sys.executable, seconds=0))
    third = _repro(project)
    assert third.wait(60) == 0 and (project / "out.txt").read_text() == "whole", third.stdout.read()
    first.wait()


def test_results_that_a_pipeline_makes_anew_meanwhile_are_one_line(params, tmp_path):
    """A result that is gone, or not of this version, once the playground reads it."""
    corpus = ROOT / "corpus" / params.benchmark
    places = explore.Places(ROOT / "metrics", tmp_path, tmp_path, tmp_path, corpus, ROOT / "prior/mini-0.safetensors")
    panel = explore.Results(places, params)
    seed = pd.read_csv(ROOT / "metrics/runs.csv").seed.iloc[0]
    for task in range(len(params.tasks)):
        file = tmp_path / f"runs/lll_prior/task{task}/seed{seed}/result.json"
        file.parent.mkdir(parents=True)
        file.write_text("{")
    panel.task.value -= 1
    assert "result.json: damaged" in panel.more.value and not panel.classes.outputs
