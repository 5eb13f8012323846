"""Executed notebooks: the same code gives the same bytes, and a failing cell fails the stage."""

import base64
import io
import os
import shutil
import subprocess
import sys

import nbformat
import numpy as np
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_notebook, new_output
from PIL import Image

from avcil.params import whole
from avcil.workshop.nbtools import execute, lighten, normalise
from conftest import ROOT

_STARTUP = ".ipython/profile_default/startup/own.py"  # runs before the first cell of whatever notebook


def _notebook(path, source: str):
    cell = new_code_cell(source, metadata={"tags": ["parameters"], "execution": {"iopub.status.busy": "now"}})
    metadata = {"kernelspec": {"display_name": "x", "language": "python", "name": "python3"}}
    nbformat.write(new_notebook(cells=[cell], metadata=metadata), path)


def _papermill(source, target, **where):
    command = [sys.executable, "-m", "papermill", "--engine", "plain", "--no-progress-bar", "--log-level", "WARNING"]
    return subprocess.run([*command, str(source), str(target)], capture_output=True, text=True, **where)


def test_the_plain_engine_gives_the_same_bytes_twice(tmp_path):
    _notebook(tmp_path / "n.ipynb", "a = 1\nprint(a + 1)")
    for name in ("one.ipynb", "two.ipynb"):
        assert _papermill(tmp_path / "n.ipynb", tmp_path / name).returncode == 0
    assert (tmp_path / "one.ipynb").read_bytes() == (tmp_path / "two.ipynb").read_bytes()
    assert '"2\\n"' in (tmp_path / "one.ipynb").read_text()


def test_a_stage_reads_no_settings_of_a_home_or_a_machine(tmp_path):
    for name, text in {".config/matplotlib/matplotlibrc": "lines.linewidth: 9", _STARTUP: "greeting = 'hello'"}.items():
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(text)
    source = "import os, matplotlib as m\nm.rcParams['lines.linewidth'], 'greeting' in globals(), "
    _notebook(tmp_path / "n.ipynb", source + "'inline' in m.get_backend(), os.environ['OMP_NUM_THREADS']")
    own = {"AVCIL_PORTABLE", "IPYTHONDIR", "MATPLOTLIBRC", "MPLCONFIGDIR", "XDG_CONFIG_HOME"}
    environment = {name: value for name, value in os.environ.items() if name not in own}
    environment |= {"HOME": str(tmp_path), "MPLBACKEND": "agg", "OMP_NUM_THREADS": "8"}
    assert _papermill(tmp_path / "n.ipynb", tmp_path / "out.ipynb", env=environment).returncode == 0
    (output,) = nbformat.read(tmp_path / "out.ipynb", as_version=4).cells[0].outputs
    assert output.data["text/plain"] == "(1.5, False, True, '1')"


def test_a_failing_cell_fails_the_stage_and_says_why(tmp_path):
    _notebook(tmp_path / "n.ipynb", "raise ValueError('row 17: clip `x`')")
    done = _papermill(tmp_path / "n.ipynb", tmp_path / "out.ipynb")
    assert done.returncode != 0 and "row 17: clip `x`" in done.stderr


def test_tasks_that_do_not_divide_the_classes_are_one_line_before_a_notebook_starts(tmp_path):
    """What a stage of the pipeline runs, in a project whose protocol wants tasks of 3 of the 20 classes."""
    raw = whole(ROOT / "params.yaml") | {"rows": "all"}
    settings = raw["protocols"]["sounding_objects"]["settings"]
    (tmp_path / "data/sounding_objects").mkdir(parents=True)
    shutil.copy(ROOT / "corpus/sounding_objects/manifest.csv", tmp_path / "data/sounding_objects")
    _notebook(tmp_path / "n.ipynb", "print('begun')")
    for tasks, code in ((3, 1), (4, 0)):
        settings["tasks_10"]["classes_per_task"] = tasks
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(raw))
        done = _papermill("n.ipynb", "out.ipynb", cwd=tmp_path)
        assert done.returncode == code and (tmp_path / "out.ipynb").exists() == (not code), done.stderr
        refusal = "protocols.sounding_objects.settings.tasks_10: 20 classes do not divide into tasks of 3; change"
        if code:
            assert done.stderr.startswith(refusal) and done.stderr.count("\n") == 1
        else:  # jupyter_client interrupts a kernel that ends, and a kernel that is still busy then says so
            assert refusal not in done.stderr


def test_normalise_drops_clocks_and_keeps_tags(tmp_path):
    _notebook(tmp_path / "n.ipynb", "1")
    notebook = normalise(nbformat.read(tmp_path / "n.ipynb", as_version=4))
    assert notebook.cells[0].metadata == {"tags": ["parameters"]} and notebook.cells[0].id == "cell-00"


def test_text_that_comes_in_pieces_is_kept_in_one(tmp_path):
    """By the engine of stages, and where notebooks are stored in place."""
    # what is written is sent at once, and so in four pieces
    write = "import sys, time\nfor piece in 'abcd':\n    print(piece, flush=True); time.sleep(0.3)"
    _notebook(tmp_path / "n.ipynb", f"{write}\nprint('e', file=sys.stderr)")
    assert _papermill(tmp_path / "n.ipynb", tmp_path / "out.ipynb").returncode == 0
    execute(tmp_path / "n.ipynb")
    for name in ("n.ipynb", "out.ipynb"):
        outputs = nbformat.read(tmp_path / name, as_version=4).cells[0].outputs
        assert [(out.name, out.text) for out in outputs] == [("stdout", "a\nb\nc\nd\n"), ("stderr", "e\n")], name


def test_stored_pictures_are_made_light():
    """Few colours stay exact, of a photograph enough is kept to be looked at, other outputs are left alone."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    pictures = {"png": Image.new("RGB", (60, 40), "red"), "jpeg": Image.fromarray(noise)}
    for kind, picture in pictures.items():
        file = io.BytesIO()
        picture.save(file, "png")
        text = base64.b64encode(file.getvalue()).decode()
        output = new_output("display_data", {"image/png": text, "text/plain": "<Figure>"})
        data = lighten(new_notebook(cells=[new_code_cell("1", outputs=[output])])).cells[0].outputs[0].data
        assert set(data) == {f"image/{kind}", "text/plain"} and len(data[f"image/{kind}"]) <= len(text)
        stored = Image.open(io.BytesIO(base64.b64decode(data[f"image/{kind}"]))).convert("RGB")
        assert stored.size == picture.size and (kind == "jpeg" or stored.tobytes() == picture.tobytes())


@pytest.mark.parametrize("content", [None, "# a text", '{"a": 1}'])
def test_what_is_no_notebook_is_one_line_before_any_is_run(content, tmp_path):
    _notebook(tmp_path / "n.ipynb", "raise RuntimeError('run')")
    wrong = tmp_path / "wrong.ipynb"
    if content is not None:
        wrong.write_text(content)
    command = [sys.executable, "-m", "avcil.workshop.nbtools", tmp_path / "n.ipynb", wrong]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith(f"{wrong}: no notebook (")


def test_what_every_stage_imports_before_its_kernel_starts_is_light():
    """It did import pandas for a while, at a second a stage."""
    code = "import papermill.cli, avcil.workshop.papermill_engine, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"pandas", "torch", "matplotlib"} & {*done.stdout.split()}
