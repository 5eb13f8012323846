"""Portable arithmetic: set before any operation, handed down, and left alone where somebody says so."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from avcil.base import portable
from avcil.params import project
from conftest import ROOT

BARE = {name: value for name, value in os.environ.items() if name not in {*portable.VARIABLES, "AVCIL_PORTABLE"}}
needs_avx2 = pytest.mark.skipif(not portable.possible(), reason="a processor without AVX2 computes in its own way")


def _python(code: str, environment: dict | None = None) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=BARE | (environment or {}), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@needs_avx2
def test_it_is_in_force_even_if_torch_is_imported_first():
    code = "import pandas, torch, avcil.kernels; print(torch.backends.cpu.get_cpu_capability())"
    assert _python(code) == "AVX2"


@needs_avx2
def test_what_torch_chose_before_is_not_called_portable():
    code = (
        "import torch; torch.ones(3).exp(); import avcil; from avcil.base import portable; print(portable.in_force())"
    )
    assert _python(code, {"ATEN_CPU_CAPABILITY": "default"}) == "False"


@pytest.mark.parametrize("given", [{"AVCIL_PORTABLE": "0"}, {"ATEN_CPU_CAPABILITY": "default"}])
def test_who_says_otherwise_is_obeyed(given):
    code = "import avcil, os; print(os.environ.get('ATEN_CPU_CAPABILITY'))"
    assert _python(code, given) == str(given.get("ATEN_CPU_CAPABILITY"))


@needs_avx2
def test_a_command_is_started_under_it():
    code = "import os; print(os.environ['MKL_CBWR'], os.environ['OMP_NUM_THREADS'])"
    run = [sys.executable, "-m", "avcil.base.portable", sys.executable, "-c", code]
    assert subprocess.run(run, cwd=ROOT, env=BARE, capture_output=True, text=True).stdout.split() == ["COMPATIBLE", "1"]


@needs_avx2
def test_importing_avcil_first_puts_all_of_it_in_force_and_a_notebook_that_cannot_compute_so_says_it():
    """One process: each takes seconds to import torch."""
    code = """
import os, warnings, avcil, torch
from avcil.base import portable
from avcil.params import project
warnings.simplefilter("error")
project.enter(".")
print(portable.in_force())
torch.set_num_threads(2)
os.environ["OMP_NUM_THREADS"] = "2"
project.enter(".")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=BARE, capture_output=True, text=True)
    assert done.stdout == "True\n"
    said = done.stderr.splitlines()[-1]
    assert "not the portable arithmetic" in said and "make lab" in said and said.endswith(", without OMP_NUM_THREADS")


def test_pipeline_tests_and_playground_start_it():
    """Whatever starts kernels imports avcil before: papermill by its engine, pytest by conftest, JupyterLab by make."""
    assert "--engine plain" in yaml.safe_load((ROOT / "dvc.yaml").read_text())["vars"][0]["run"]
    lines = (ROOT / "conftest.py").read_text().splitlines()
    first = next(line for line in lines if "import" in line and "avcil" in line)
    assert first.startswith("import avcil")
    makefile = (ROOT / "Makefile").read_text()
    assert all("avcil.base.portable" in line for line in makefile.splitlines() if "jupyter lab " in line)


def test_one_cpu_file_is_enough_to_tell(monkeypatch, tmp_path):
    """The name of a processor tells apart what a cloud calls alike; without /proc it is what Python knows."""
    cpuinfo = tmp_path / "cpuinfo"
    monkeypatch.setattr(portable, "Path", lambda _: cpuinfo)
    assert portable.processor() == (portable.platform.processor() or portable.platform.machine())
    cpuinfo.write_text(
        "model name\t: AMD EPYC\ncpu family\t: 23\nmodel\t\t: 1\nflags\t\t: sse avx\n\nmodel name\t: x\n"
    )
    assert portable.processor() == "AMD EPYC (family 23, model 1)"
    monkeypatch.setattr(portable.platform, "machine", lambda: "x86_64")
    assert not portable.possible()
    cpuinfo.write_text(cpuinfo.read_text().replace("avx\n", "avx avx2\n"))
    assert portable.possible()
    monkeypatch.setattr(portable.platform, "machine", lambda: "arm64")
    assert not portable.possible()


def test_a_project_is_found_from_below(tmp_path, monkeypatch):
    (tmp_path / "dvc.yaml").touch()
    (tmp_path / "a/b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a/b")
    assert project.root() == Path(tmp_path).resolve()
