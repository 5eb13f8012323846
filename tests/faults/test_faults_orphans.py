"""Whatever is killed with SIGKILL leaves no process of its own behind."""

import subprocess
import sys
import time

import nbformat
import psutil
import pytest

from conftest import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Windows tells nobody of a dead parent")

_DVC = """
import subprocess, sys
subprocess.run([sys.argv[1], "-c", f"TQDM_DISABLE=1 {sys.executable} -m papermill --engine plain n.ipynb out.ipynb"])
"""
_SWEEP = """
import multiprocessing, time
from concurrent.futures import ProcessPoolExecutor
from avcil.comparison.sweep import _begin

if __name__ == "__main__":
    with ProcessPoolExecutor(2, multiprocessing.get_context("fork"), _begin, (1 << 30,)) as pool:
        list(pool.map(time.sleep, [600, 600]))
"""


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
    cell = nbformat.v4.new_code_cell("import pathlib, time; pathlib.Path('begun').touch(); time.sleep(600)")
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(nbformat.v4.new_notebook(cells=[cell], metadata={"kernelspec": kernel}), tmp_path / "n.ipynb")
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", _DVC, shell], cwd=tmp_path, env=environment) as dvc:
        below = _started(psutil.Process(dvc.pid), 2)
        for _ in range(600):
            if (tmp_path / "begun").exists():
                break
            time.sleep(0.1)
        below = psutil.Process(dvc.pid).children(recursive=True)
        assert any("ipykernel" in " ".join(process.cmdline()) for process in below)
        dvc.kill()
    assert not psutil.wait_procs(below, 5)[1]


def test_workers_of_a_sweep_end_with_it(tmp_path):
    with subprocess.Popen([sys.executable, "-c", _SWEEP], cwd=ROOT) as sweep:
        below = _started(psutil.Process(sweep.pid), 2)
        time.sleep(1)  # until they watch
        sweep.kill()
    assert not psutil.wait_procs(below, 5)[1]
