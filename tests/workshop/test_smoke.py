"""What makes sandboxes and reports deletes what was there before: never anything that is not its own."""

import pytest

from avcil.params import project
from avcil.workshop import smoke
from avcil.workshop.report.__main__ import build
from conftest import ROOT


@pytest.fixture
def mine(tmp_path):
    """A project with work of somebody's own."""
    for folder in ("notebooks", "build/smoke/.project-1"):
        (tmp_path / "project" / folder).mkdir(parents=True)
    for file in ("dvc.yaml", "params.yaml", "notebooks/mine.ipynb", "build/smoke/.project-1/file", "../beside.txt"):
        (tmp_path / "project" / file).write_text("mine")
    return tmp_path / "project"


OTHERS = ["..", "notebooks", "build", "build/smoke", "build/smoke/..", "build/smoke/.project-1"]


def test_a_working_folder_that_is_no_sandbox_is_refused_and_stays(mine):
    before = sorted(mine.parent.rglob("*"))
    for workdir in (str(mine), str(mine.parent), *OTHERS):
        with pytest.raises(ValueError, match="the project itself, nor a folder of"):
            smoke.prepare(mine, mine / workdir)
    assert sorted(mine.parent.rglob("*")) == before


def test_a_notebook_is_told_in_a_line(mine, monkeypatch):
    monkeypatch.chdir(mine)
    monkeypatch.delenv("AVCIL_SANDBOX", raising=False)  # of notebooks that were run before
    with pytest.raises(RuntimeError) as refused:
        project.enter(str(mine))
    assert str(refused.value).splitlines()[1].startswith(f"workdir {mine}: neither `.`, the project itself, nor")
    assert (mine / "notebooks/mine.ipynb").exists()


def test_a_report_replaces_no_folder_that_is_none(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(FileExistsError, match="there is something else than a report"):
        build(ROOT, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
