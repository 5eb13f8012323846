"""CONTRIBUTING.md does what it says: its examples, as they stand there, in a copy of the project."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from conftest import ROOT

SECTIONS = ("A method", "A data set", "An encoder")


def _blocks(section: str) -> list[tuple[str, str]]:
    """(language, code) of a section of CONTRIBUTING.md."""
    text = (ROOT / "CONTRIBUTING.md").read_text().split(f"\n## {section}\n")[1].split("\n## ")[0]
    return re.findall(r"```(\w+)\n(.*?)```", text, re.S)


def _written(section: str) -> list[str]:
    """The lines that one has to write: no blank ones, no imports, not the name of the file."""
    lines = []
    for language, code in _blocks(section):
        for line in code.splitlines():
            if language == "diff":
                if not line.startswith("+") or line.startswith("+++"):
                    continue
                line = line[1:]
            lines.append(line.strip())
    return [line for line in lines if line and not line.startswith(("from ", "import ", "# "))]


@pytest.mark.parametrize("section", SECTIONS)
def test_each_takes_under_60_lines(section):
    assert 5 < len(_written(section)) < 60


@pytest.mark.slow
def test_the_examples_work(tmp_path):
    """All in one copy: a process of pytest takes longer to start than their tests to run."""
    shutil.copytree(ROOT / "avcil", tmp_path / "avcil", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "tests").mkdir()
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    shutil.copytree(ROOT / "protocols", tmp_path / "protocols")
    for name in (
        "params.yaml",
        "search.yaml",
        "conftest.py",
        "tests/conftest.py",
        "tests/media.py",
        "tests/nbval_form.py",
    ):
        shutil.copy(ROOT / name, tmp_path / name)
    tests = []
    for language, code in (block for section in SECTIONS for block in _blocks(section)):
        if language == "diff":
            command = ["git", "apply", "-C1", "-"]
            done = subprocess.run(command, cwd=tmp_path, input=code, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            continue
        name = re.match(r"# (\S+)\n", code)[1]
        assert not (tmp_path / name).exists(), f"{name} is there already"
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(code.split("\n", 1)[1])
        tests += [name] if name.startswith("tests/") else []
    assert len(tests) == len(SECTIONS)
    paths = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    style = [sys.executable, "-m", "ruff", "check", "--config", str(ROOT / "pyproject.toml"), "avcil", "tests"]
    style = subprocess.run(style, cwd=tmp_path, capture_output=True, text=True)
    assert style.returncode == 0, style.stdout


def test_the_commands_are_those_of_ci():
    ci = (ROOT / ".ci/run").read_text()
    for command in ("ruff check .", "ruff format --check .", "mypy"):
        assert command in ci and f".venv/bin/{command}" in (ROOT / "CONTRIBUTING.md").read_text()
