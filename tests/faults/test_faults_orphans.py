"""Whatever is killed with SIGKILL leaves no process of its own behind."""

import os
import subprocess
import sys
import time
from pathlib import Path

import kills
import nbformat
import psutil
import pytest

from conftest import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Windows tells nobody of a dead parent")

_DVC = """
import subprocess, sys
subprocess.run([sys.argv[1], "-c", f"TQDM_DISABLE=1 {sys.executable} -m papermill --engine plain n.ipynb out.ipynb"])
"""
# without a guard: its workers do not run it again
_WORKERS = """
import time
import torch
from avcil.base import processes

list(processes.each(time.sleep, [600, 600], 2))
"""
_RENDERERS = """
import sys
from pathlib import Path
from avcil.params import load
from avcil.world.separation import render_scenes
from avcil.world.sounding_objects import write_corpus

params = load(Path("params.yaml"))
if sys.argv[1] == "clips":
    write_corpus(Path(sys.argv[2]), params.world, params.film, params.corpus, workers=2)
else:
    render_scenes(params.world, params.film, 0, 5000, workers=2)
"""


def _notebook(folder: Path) -> dict[str, str]:
    """Write one that says when it begins, and takes ten minutes; the environment to run it in."""
    cell = nbformat.v4.new_code_cell("import pathlib, time; pathlib.Path('begun').touch(); time.sleep(600)")
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(nbformat.v4.new_notebook(cells=[cell], metadata={"kernelspec": kernel}), folder / "n.ipynb")
    return {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(folder)}


def _started(process: psutil.Process, count: int) -> list[psutil.Process]:
    """Its descendants, as soon as there are so many."""
    for _ in range(600):
        if len(below := process.children(recursive=True)) >= count:
            return below
        time.sleep(0.1)
    raise AssertionError(f"only {below}")


@pytest.mark.slow
@pytest.mark.parametrize("shell", ["/bin/sh", "/bin/bash"])
def test_a_notebook_ends_with_the_dvc_that_runs_it(tmp_path, shell):
    environment = _notebook(tmp_path)
    with subprocess.Popen([sys.executable, "-c", _DVC, shell], cwd=tmp_path, env=environment) as dvc:
        below = _started(psutil.Process(dvc.pid), 2)
        for _ in range(600):
            if (tmp_path / "begun").exists():
                break
            time.sleep(0.1)
        below = psutil.Process(dvc.pid).children(recursive=True)
        assert any("ipykernel" in " ".join(process.cmdline()) for process in below)
        dvc.kill()
    assert not kills.orphans(below)


@pytest.mark.parametrize("shell", ["/bin/sh", "/bin/bash"])
def test_a_stage_whose_dvc_was_killed_while_it_started_does_not_begin(tmp_path, shell):
    """Papermill takes a second to get to where it watches anybody; it belongs to the system by then."""
    environment = _notebook(tmp_path) | {"DVC_STAGE": "stage"}
    command = [sys.executable, "-c", _DVC, shell]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, start_new_session=True) as dvc:
        below = _started(psutil.Process(dvc.pid), 1)
        dvc.kill()
    assert not kills.orphans(below)
    assert not (tmp_path / "begun").exists()


def test_workers_watch_before_they_import_torch():
    """Which takes seconds, and on a busy machine half a minute."""
    seen = "import sys, avcil.base.parent; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", seen], capture_output=True, text=True).stdout == "False\n"


@pytest.mark.parametrize("after", [0, 1, 4])
def test_workers_end_with_the_process_that_started_them(tmp_path, after):
    program = tmp_path / "program.py"  # of one that was given with -c no worker would know
    program.write_text(_WORKERS)
    with subprocess.Popen([sys.executable, program], env=os.environ | {"PYTHONPATH": str(ROOT)}) as sweep:
        below = _started(psutil.Process(sweep.pid), 3)  # and multiprocessing's own
        time.sleep(after)  # seconds
        sweep.kill()
    assert not kills.orphans(below)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a thread watches, until Python shuts down")
def test_a_child_ends_with_its_parent_even_while_it_shuts_down(tmp_path):
    """What is left to do then is done by no thread: here by a finaliser, which runs when all threads have stopped."""
    child = tmp_path / "child.py"
    child.write_text(f"""
import os, pathlib, time
from avcil.base.parent import end_with

class Slow:
    def __del__(self, sleep=time.sleep, begun=pathlib.Path({str(tmp_path / "begun")!r})):
        begun.touch()
        sleep(600)

end_with(os.getppid())
slow = Slow()
""")
    parent = "import subprocess, sys; subprocess.run([sys.executable, sys.argv[1]])"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", parent, child], env=environment) as started:
        below = _started(psutil.Process(started.pid), 1)
        for _ in range(600):
            if (tmp_path / "begun").exists():
                break
            time.sleep(0.1)
        assert (tmp_path / "begun").exists(), "it ended before it was killed"
        started.kill()
    assert not kills.orphans(below)


@pytest.mark.parametrize("what", ["clips", "scenes"])
def test_renderers_end_with_the_process_that_started_them(tmp_path, what):
    with subprocess.Popen([sys.executable, "-c", _RENDERERS, what, tmp_path], cwd=ROOT) as render:
        below = _started(psutil.Process(render.pid), 2)
        time.sleep(1)
        render.kill()
    assert not kills.orphans(below)
