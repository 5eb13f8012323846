""".ci/setup on machines that lack something: one line that says what and the way out, before any long work.

Next to nothing is installed: PATH is a folder of hand-picked tools, pip and uv are stand-ins or find a closed port.
"""

import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

from conftest import ROOT

TOOLS = ["awk", "cat", "cksum", "df", "dirname", "du", "git", "make", "mkdir", "readlink", "rm", "sed", "sh", "sleep"]
GB = 1048576  # in the kB that df and du count in
PYTHON = os.path.realpath(sys.executable)  # of no environment
UV = "pip install --force-reinstall --require-hashes -r /dev/stdin"  # by pip, which makes the others faster
LOCKED, OWN = "--require-hashes -r requirements.lock", "--no-deps --no-build-isolation -e ."


class Done(NamedTuple):
    code: int
    lines: list[str]


class Machine:
    """A project folder (its path has a space in it) and a PATH with few tools: what a new user starts from."""

    def __init__(self, folder: Path):
        self.bin, self.project = folder / "bin", folder / "a clone"
        self.bin.mkdir()
        for name in TOOLS:
            (self.bin / name).symlink_to(shutil.which(name))
        (self.project / ".ci").mkdir(parents=True)
        for name in (".ci/setup", "Makefile", "pyproject.toml", "requirements.lock"):
            shutil.copy(ROOT / name, self.project / name)
        self.run("git", "init", "-q")
        self.run("git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "--allow-empty", "-m", "start")
        self.script("python3", f'exec {PYTHON} "$@"')

    def script(self, name: str, body: str) -> None:
        path = self.project / name if "/" in name else self.bin / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)

    def python(self, name: str, version: tuple, lacks: str = "") -> None:
        """A Python that says it is of another version, or lacks a module."""
        code = f"import sys; sys.version_info = {version}; sys.modules[{lacks!r}] = None; exec(sys.argv[2])"
        self.script(name, f'exec {PYTHON} -c "{code}" "$@"')

    def free(self, gigabytes: float, held: float = 0) -> None:
        self.script("df", f"echo; echo disk 0 0 {int(gigabytes * GB)} 0% /")
        self.script("du", f"echo {int(held * GB)} .venv")

    def installed(self) -> None:
        """An environment whose pip and uv only write down what they were asked; `says` is what they then do."""
        given = 'case "$*" in */dev/stdin) cat >.venv/given;; esac'
        python = f'[ "$1" = -c ] && exec {PYTHON} "$@"\necho "pip $*" >>.venv/asked; {given}; . .venv/pip_says'
        self.script(".venv/bin/python", python)
        self.script(".venv/bin/uv", 'echo "uv $*" >>.venv/asked; . .venv/uv_says')
        self.says()

    def says(self, pip: str = "", uv: str = "") -> None:
        (self.project / ".venv/pip_says").write_text(pip)
        (self.project / ".venv/uv_says").write_text(uv)

    def asked(self) -> list[str]:
        """What pip and uv were asked to install since the last call."""
        path = self.project / ".venv/asked"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        manner = "-m pip |--quiet |--retries 1 |--compile-bytecode |--python .venv/bin/python "
        return [re.sub(manner, "", line) for line in lines if " install " in line]

    def run(self, *command: str, user: int | None = None, **variables: str) -> Done:
        environment = {"PATH": str(self.bin), "HOME": str(self.project), "GIT_CONFIG_NOSYSTEM": "1"}
        environment |= {"GIT_CEILING_DIRECTORIES": str(self.project.parent), "PIP_CONFIG_FILE": os.devnull}
        done = subprocess.run(
            command or ("sh", ".ci/setup"), cwd=self.project, env=environment | variables, user=user, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, timeout=60,
        )  # fmt: skip
        return Done(done.returncode, done.stdout.splitlines())

    def refuses(self, pattern: str, *, alone: bool = True, command: tuple = (), **variables) -> None:
        """The reason is the last line; `alone`: the only one, and nothing was made."""
        before = sorted(self.project.rglob("*"))
        done = self.run(*command, **variables)
        assert done.code == 1 and re.fullmatch(f"avcil: .*{pattern}.*", done.lines[-1]), done
        assert not alone or (len(done.lines) == 1 and sorted(self.project.rglob("*")) == before), done


@pytest.fixture
def machine(tmp_path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture
def no_network() -> dict[str, str]:
    with socket.socket() as port:
        port.bind(("127.0.0.1", 0))
        return {"PIP_INDEX_URL": f"http://127.0.0.1:{port.getsockname()[1]}/simple"}


# ---- before anything is made


def test_no_python(machine):
    (machine.bin / "python3").unlink()
    machine.refuses(r"Python 3\.11 to 3\.13 is needed, and python3 is missing: install one .* PYTHON=/path")


@pytest.mark.parametrize("version", [(2, 7, 18), (3, 9, 18), (3, 10, 12), (3, 14, 0)])
def test_another_python(machine, version):
    machine.python("python3", version)
    machine.refuses(f"and python3 is {'.'.join(map(str, version))}: install one")


def test_the_python_that_fits_is_found_among_others(machine):
    machine.python("python3", (3, 9, 18))
    machine.script("python3.11", "echo 'pyenv: python3.11: command not found'; exit 127")
    machine.python("python3.12", (3, 12, 1))
    machine.free(0)
    machine.refuses("need 7 GB")  # the check that follows Python's


def test_the_python_that_was_named_is_taken_or_refused(machine):
    machine.python("python3.9", (3, 9, 18))
    machine.refuses("python3.9 is 3.9.18: install one", PYTHON="python3.9")
    machine.refuses("/no/python is missing", PYTHON="/no/python")


def test_pythons_are_those_of_the_project():
    required = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    low, high = map(int, re.fullmatch(r">=3\.(\d+),<3\.(\d+)", required).groups())
    script = (ROOT / ".ci/setup").read_text()
    assert f"(3, {low}) <= sys.version_info[:2] < (3, {high})" in script
    assert all(f" python3.{minor} " in script for minor in range(low, high))
    for text in (script, (ROOT / "README.md").read_text()):
        assert f"Python 3.{low} to 3.{high - 1}" in text


def test_debian_without_python3_venv(machine):
    machine.python("python3", (3, 11, 2), lacks="ensurepip")
    machine.refuses(r"python3 has no venv with pip: apt install python3\.11-venv, or name another")
    machine.script("python3.12", f'exec {PYTHON} "$@"')
    machine.free(0)
    machine.refuses("need 7 GB")


def test_no_git(machine):
    (machine.bin / "git").unlink()
    machine.refuses("git is missing: install it")


def test_an_unpacked_zip(machine):
    shutil.rmtree(machine.project / ".git")
    machine.refuses("a clone is no git repository .*: git init -q && git add -A && git commit")


def test_a_git_that_changes_line_ends_leaves_ours(machine):
    """With `core.autocrlf`, as git of Windows is installed, sh would not read .ci/setup."""
    shutil.copy(ROOT / ".gitattributes", machine.project)
    machine.run("git", "add", "--all")
    (machine.project / ".ci/setup").unlink()
    assert machine.run("git", "-c", "core.autocrlf=true", "checkout", ".ci/setup").code == 0
    assert (machine.project / ".ci/setup").read_bytes() == (ROOT / ".ci/setup").read_bytes()


def test_a_repository_without_a_commit(machine):
    shutil.rmtree(machine.project / ".git")
    machine.run("git", "init", "-q")
    machine.refuses("a clone has no commit yet, .*: git init -q && git add -A && git commit")


def test_a_clone_of_another_user(machine):
    machine.refuses("git config --global --add safe.directory '.*/a clone'", GIT_TEST_ASSUME_DIFFERENT_OWNER="1")


def test_a_folder_that_cannot_be_written():
    with tempfile.TemporaryDirectory() as folder:  # whose parents others may enter, unlike those of tmp_path
        os.chmod(folder, 0o755)
        machine = Machine(Path(folder))
        if os.getuid() == 0:
            machine.refuses("cannot write to .*/a clone: clone into a folder of your own", user=65534)
        else:
            machine.project.chmod(0o555)
            machine.refuses("cannot write to .*/a clone: clone into a folder of your own")
            machine.project.chmod(0o755)


def test_no_room(machine):
    machine.free(6.5)
    machine.refuses("the installation .* need 7 GB, and 6 GB are free: make room")


def test_what_the_folders_hold_is_part_of_the_room(machine):
    machine.installed()
    machine.free(2, held=5.5)
    assert machine.run() == (0, ["avcil: installing 6 GB into .venv, in two minutes where the network is fast"])


def test_no_room_for_the_pipeline(machine):
    machine.installed()
    assert machine.run().code == 0
    machine.free(0.5)
    machine.refuses("the pipeline needs 1 GB, and 0 GB are free", command=("sh", ".ci/setup", "repro"))
    assert machine.run() == (0, [])  # `make lab` needs none
    machine.free(0.5, held=0.8)
    assert machine.run("sh", ".ci/setup", "repro") == (0, [])


# ---- environments that are there


def test_an_environment_of_another_folder(machine):
    machine.installed()
    assert machine.run().code == 0
    moved = machine.project.rename(machine.project.parent / "elsewhere")
    machine.project = moved
    machine.refuses(r"\.venv was made in .*/a clone and works only there: rm -rf \.venv")


def test_an_environment_whose_python_is_gone(machine):
    (machine.project / ".venv/bin").mkdir(parents=True)
    (machine.project / ".venv/bin/python").symlink_to("/usr/gone/python3.12")
    machine.refuses(r"made with /usr/gone/python3\.12, which is gone: rm -rf \.venv")


def test_an_environment_of_an_old_python(machine):
    machine.script(".venv/bin/python", '[ "$1" = -V ] && echo Python 3.8.1; exit 1')
    machine.refuses(r"\.venv is of Python 3\.8\.1, avcil needs 3\.11 to 3\.13: rm -rf \.venv")


def test_the_second_call_does_nothing(machine):
    machine.installed()
    assert machine.run().code == 0
    assert machine.asked() == [UV, f"uv pip install {LOCKED}", f"uv pip install {OWN}"]
    assert machine.run() == (0, []) and machine.asked() == []
    for name in ("pyproject.toml", "requirements.lock"):
        (machine.project / name).touch()
        assert machine.run() == (0, []) and machine.asked() == []
        with (machine.project / name).open("a") as file:
            file.write("# another package\n")
        assert machine.run().code == 0
        assert machine.asked() == [UV, f"uv pip install {LOCKED}", f"uv pip install {OWN}"], name


def test_uv_is_of_the_lock_too(machine):
    """Its one entry, with all hashes: pip takes nothing else from an index."""
    machine.installed()
    assert machine.run().code == 0
    entry, *hashes = (machine.project / ".venv/given").read_text().replace("\\\n", "").split()
    assert re.fullmatch(r"uv==[\d.]+", entry) and len(hashes) > 5
    assert all(re.fullmatch("--hash=sha256:[0-9a-f]{64}", value) for value in hashes)
    assert sum(line.startswith("uv==") for line in (ROOT / "requirements.lock").read_text().splitlines()) == 1


def test_a_clone_without_the_lock(machine):
    machine.installed()
    (machine.project / "requirements.lock").unlink()
    machine.refuses("requirements.lock is missing, .*: git checkout requirements.lock")


@pytest.mark.parametrize("fails", [LOCKED, OWN])
def test_pip_installs_what_uv_cannot(machine, fails):
    machine.installed()
    machine.says(uv=f'case "$*" in *"{fails}") exit 2;; esac')
    assert machine.run().code == 0
    tried = [f"uv pip install {LOCKED}", f"uv pip install {OWN}"][: 1 + (fails == OWN)]
    assert machine.asked() == [UV, *tried, f"pip install {LOCKED}", f"pip install {OWN}"]
    assert machine.run() == (0, []) and machine.asked() == []


@pytest.mark.parametrize("fails", [LOCKED, OWN])
def test_a_failed_installation_ends_with_our_line(machine, fails):
    machine.installed()
    machine.says(pip=f'case "$*" in *"{fails}") echo "ERROR: no torch here" >&2; exit 1;; esac', uv="exit 2")
    machine.refuses("the installation failed, for the reason above; the next attempt goes on", alone=False)
    assert (machine.project / ".venv/.installed").read_text().splitlines()[1] == "unfinished"


@pytest.mark.slow
def test_a_package_of_other_bytes_than_the_locked_is_refused(machine, tmp_path):
    """With the real venv and pip, and a folder as index: it holds what the lock says, and then does not."""
    wheel = tmp_path / "tiny-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("tiny.py", "")
        file.writestr("tiny-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1\n")
        file.writestr("tiny-1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr("tiny-1.dist-info/RECORD", "")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    index = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path)}
    for value, there in ((digest, True), (digest[::-1], False)):
        (machine.project / "requirements.lock").write_text(f"tiny==1 --hash=sha256:{value}\n")
        done = machine.run(**index)
        # there is no setuptools in that folder, so that both end with the same line
        assert done.code == 1 and done.lines[-1].startswith("avcil: the installation failed, for the reason above")
        assert bool(list((machine.project / ".venv").rglob("tiny.py"))) == there, done
        assert any("DO NOT MATCH THE HASHES" in line for line in done.lines) != there, done


def test_no_network_is_told_before_anything_long(machine, no_network):
    """With the real venv and pip, twice: what the first attempt leaves does not disturb the second."""
    for _ in range(2):
        machine.refuses("no package index can be reached: connect to the network", alone=False, **no_network)
    assert (machine.project / ".venv/.installed").read_text().splitlines() == [str(machine.project)]


def test_an_interruption_is_one_line_and_remembered(machine):
    machine.installed()
    machine.says(uv="sleep 600")
    running = subprocess.Popen(
        ["sh", ".ci/setup"], cwd=machine.project, env={"PATH": str(machine.bin), "HOME": "/"}, text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    until = time.monotonic() + 60
    while f"uv pip install {LOCKED}" not in machine.asked() and time.monotonic() < until:
        time.sleep(0.05)
    os.killpg(running.pid, signal.SIGTERM)
    said = running.communicate(timeout=60)[1].splitlines()
    assert running.returncode == 1 and said[-1] == "avcil: interrupted; the next attempt goes on from here"
    assert (machine.project / ".venv/.installed").read_text().splitlines()[1] == "unfinished"


def test_an_interrupted_installation_is_made_anew(machine, no_network):
    """uv, stopped, leaves packages without some of their files, which pip and uv take for installed."""
    torn = machine.project / ".venv/lib/python/site-packages/torch"
    torn.mkdir(parents=True)
    (machine.project / ".venv/.installed").write_text(f"{machine.project}\nunfinished\n")
    (machine.project / ".venv/bin").mkdir()
    (machine.project / ".venv/bin/python").symlink_to(machine.bin / "python3")  # and no pip in it
    machine.refuses("no package index can be reached", alone=False, **no_network)
    assert not torn.exists()
    assert machine.run(".venv/bin/python", "-m", "pip", "--version").code == 0


# ---- the Makefile


def test_every_target_sets_up_first(machine):
    targets = re.search(r"^\.PHONY: (.*)", (ROOT / "Makefile").read_text(), re.M)[1].split()
    for target in set(targets) - {"help", "clean"}:
        first = machine.run("make", "-n", target).lines[0]
        assert first == "sh .ci/setup" + " repro" * (target == "repro"), target


def test_make_alone_says_what_each_target_does_and_how_long_it_takes(machine):
    targets = re.search(r"^\.PHONY: (.*)", (ROOT / "Makefile").read_text(), re.M)[1].split()
    done = machine.run("make")
    pattern = r"make (\w*) +(?:\d+ min|seconds|minutes|hours) +\w.*"
    listed = [match[1] for line in done.lines[1:] if (match := re.fullmatch(pattern, line))]
    assert done.code == 0 and sorted(listed) == sorted(set(targets) - {"help"})
    assert machine.run("make", "help") == done and len(done.lines) == len(targets)
    assert not (machine.project / ".venv").exists()


def test_make_fails_with_the_one_line(machine):
    (machine.bin / "git").unlink()
    done = machine.run("make", "repro")
    assert done.code == 2 and done.lines[0].startswith("avcil: git is missing") and len(done.lines) == 2


def test_make_names_a_python(machine):
    machine.python("python3.9", (3, 9, 18))
    assert "python3.9 is 3.9.18" in machine.run("make", "lab", "PYTHON=python3.9").lines[0]
