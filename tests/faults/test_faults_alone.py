"""One process at a time in a folder; a killed one leaves no lock; what was interrupted is finished or undone."""

import os
import subprocess
import sys
import time

import pandas as pd
import pytest
import torch
from kills import METHOD, TASKS, TRAINING

import avcil
from avcil.base import alone as module
from avcil.base.alone import alone
from avcil.comparison import sweep
from avcil.extraction import features
from avcil.learn.train import run_tasks
from avcil.learner import folders
from avcil.tokens.tokens import Layout, Tokens
from avcil.workshop.imports import write_import
from conftest import ROOT, toy_dataset

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows holds no folder")

_HOLDER = """
import sys, time
from pathlib import Path
from avcil.base.alone import alone

with alone([Path(sys.argv[1])]):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the folder `held`."""
    command = [sys.executable, "-c", _HOLDER, str(tmp_path / "held")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_process_is_refused_in_one_line_until_the_first_is_killed(holder, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 0.3)
    refused = pytest.raises(BlockingIOError, match=r"another process writes there; wait .*: '.*held'")
    with refused as error, alone([tmp_path / "held"]):
        raise AssertionError("held by two")
    assert "\n" not in str(error.value)
    with alone([tmp_path / "other"]):
        pass
    holder.kill()
    holder.wait()
    with alone([tmp_path / "held"]):
        assert not list((tmp_path / "held").iterdir()), "a lock is left"


def test_whatever_writes_is_refused_where_another_writes(holder, tmp_path, monkeypatch, params):
    """Extraction, import, sweep and learner: before any work, and nothing is changed."""
    monkeypatch.setattr(module, "PATIENCE", 0.1)
    monkeypatch.setattr(sweep, "check", lambda name, method: None)
    held = tmp_path / "held"
    store = {"encoder": "toy", "revision": "", "reading": {}, "files": []}
    table = pd.DataFrame({"clip_id": ["a"], "label": ["x"], "split": ["train"]})
    job = sweep.Job(("a",), sweep.Source(held, held, held), None, None, [], 0, file=held / "seed0.json")
    for write in (
        lambda: features.extract(None, "mini", {}, None, held),
        lambda: write_import(held, table, ["x"], Layout(1, 1, 1, 1, 1), None, **store),
        lambda: sweep.run([job]),
        lambda: _learner(params, [0]).save(held),
    ):
        with pytest.raises(BlockingIOError, match="another process writes there"):
            write()
    assert not list(held.iterdir())


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"name another one: '.*file/below'") as error, alone([tmp_path / "file/below"]):
        pass
    assert "\n" not in str(error.value)


def test_a_process_may_hold_again_what_it_holds(tmp_path):
    with alone([tmp_path / "a"]):
        with alone([tmp_path / "a", tmp_path / "b"]):
            pass
        assert len(module._HELD) == 1
    assert not module._HELD


def test_what_killed_processes_left_half_written_is_cleared(tmp_path):
    (tmp_path / "task0/seed0").mkdir(parents=True)
    (tmp_path / "task0/seed0/.result.json.4711.unfinished").write_text("half")
    (tmp_path / ".begun.12.unfinished").mkdir()
    (tmp_path / ".begun.12.unfinished/more").write_text("")
    (tmp_path / ".clips.13.unfinished").symlink_to(tmp_path / "task0")
    for own in ("task0/.keep", ".coverage.host.4711"):
        (tmp_path / own).write_text("")
    with alone([tmp_path]):
        left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
    assert left == [".coverage.host.4711", "task0", "task0/.keep", "task0/seed0"]


# ---- a learner that is killed while it is saved over an old one


def _learner(params, classes):
    data = toy_dataset()
    learner = avcil.Learner(params=params, root=ROOT)
    learner.encoder = None
    for number in classes:
        learner.learn(Tokens(*data.tokens.clips(data.rows("train", number, number + 1))), f"class{number}")
    return learner


class _Killed(BaseException):
    pass


@pytest.mark.parametrize("moment", range(8))
def test_a_learner_is_the_old_one_or_the_new_one(params, tmp_path, monkeypatch, moment):
    folder = tmp_path / "learner"
    old, new = (_learner(params, range(count)) for count in (1, 2))
    old.save(folder)
    calls = 0

    def killing(do):
        def call(*arguments, **options):
            nonlocal calls
            calls += 1
            if calls > moment:
                raise _Killed
            return do(*arguments, **options)

        return call

    with monkeypatch.context() as patched:
        for name in ("write_bytes", "write_tensors", "write_sealed"):
            patched.setattr(folders, name, killing(getattr(folders, name)))
        patched.setattr(folders.Path, "replace", killing(folders.Path.replace))
        try:
            new.save(folder)
        except _Killed:
            assert calls == moment + 1
    read = avcil.Learner.load(folder)
    wanted = old if read.classes == ["class0"] else new
    assert read.classes == wanted.classes
    assert all(torch.equal(read.checkpoint.readout[k], v) for k, v in wanted.checkpoint.readout.items())
    assert not (folder / folders.NEXT).exists()
    new.save(folder)
    assert avcil.Learner.load(folder).classes == new.classes


# ---- sweeps


def test_a_damaged_task_is_learnt_again(tmp_path):
    def run():
        run_tasks(toy_dataset(), METHOD, TRAINING, TASKS[:2], 0, tmp_path)
        return {path: path.read_bytes() for path in tmp_path.rglob("*.*")}

    whole = run()
    for path in whole:
        path.write_bytes(path.read_bytes()[:-9])
        assert run() == whole


def test_a_run_of_another_version_is_one_line(tmp_path):
    sweep.write_sealed(tmp_path / "seed0.json", {"origin": {}, "results": [{"a": 1}], "seconds": 1.0})
    with pytest.raises(ValueError, match=r"seed0\.json: of another version; delete it and run its sweep again"):
        sweep.read_run(tmp_path / "seed0.json")


def _die(job):
    time.sleep(0.1)
    os._exit(9)


@pytest.mark.slow
def test_a_run_whose_process_is_killed_is_one_line(monkeypatch):
    monkeypatch.setattr(sweep, "check", lambda name, method: None)
    jobs = [sweep.Job((name,), None, None, None, [], 0) for name in "ab"]
    with pytest.raises(ChildProcessError, match=r"ended from outside, .* run this again, it goes on"):
        sweep.run(jobs, workers=2, work=_die)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no process is given a part of the processors here")
def test_a_sweep_takes_the_processors_that_it_was_given(monkeypatch):
    """As `taskset -c 0` on a machine of 64: all runs are done in this process."""
    monkeypatch.setattr(sweep, "check", lambda name, method: None)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0})
    jobs = [sweep.Job((name,), None, None, None, [], 0) for name in "ab"]
    assert set(sweep.run(jobs, work=_process).values()) == {os.getpid()}


def _process(job):
    return os.getpid()
