"""Work in several processes, from programs of any form."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from avcil.base import processes
from conftest import ROOT


@pytest.mark.parametrize(("items", "workers"), [([5], 2), ([5, 6], 1), ([], 2)])
def test_a_single_worker_or_item_is_done_here_on_one_thread(items, workers):
    torch.set_num_threads(2)
    done = list(processes.each(lambda item: (item, os.getpid(), torch.get_num_threads()), items, workers))
    assert done == [(number, (item, os.getpid(), 1)) for number, item in enumerate(items)]
    assert torch.get_num_threads() == 2


_PLAIN = """
from avcil.base import processes

print("begun")
print(sorted(processes.each(abs, [-1, -2, -3], 2)))
"""
_OWN = """
from avcil.base import processes

def twice(number):
    return 2 * number

print("begun")
if __name__ == "__main__":
    print(sorted(processes.each(twice, [1, 2, 3], 2)))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "begun", "last"),
    [(_PLAIN, 1, "[(0, 1), (1, 2), (2, 3)]"), (_OWN, 3, "[(0, 2), (1, 4), (2, 6)]")],
    ids=["without a guard", "a function of its own"],
)
def test_workers_run_the_program_again_only_for_functions_of_its_own(tmp_path, program, begun, last):
    file = tmp_path / "program.py"
    file.write_text(program)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, file], capture_output=True, text=True, env=environment, timeout=120)
    lines = done.stdout.split("\n")
    assert (lines.count("begun"), lines[-2], done.stderr) == (begun, last, "")


_WORK = """
import os
from pathlib import Path

files = {}

def wrote(number):
    files[number] = Path(f"file{number}").open("w")
    files[number].write(os.environ.get("SAID", "nothing"))
"""
_TWICE = """
import os
from avcil.base import processes
from work import wrote

for said in ("first", "second"):
    os.environ["SAID"] = said
    list(processes.each(wrote, [1, 2, 3], 2))
    print([open(f"file{number}").read() for number in (1, 2, 3)])
"""


@pytest.mark.slow
def test_workers_have_this_environment_and_leave_nothing_unwritten(tmp_path):
    (tmp_path / "work.py").write_text(_WORK)
    (tmp_path / "program.py").write_text(_TWICE)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True, env=environment, timeout=120
    )
    assert (done.stdout, done.stderr) == ("['first', 'first', 'first']\n['second', 'second', 'second']\n", "")


_FINDS = """
def finds(name):
    return __import__(name).__name__
"""
_ELSEWHERE = """
import os
from avcil.base import processes
from finds import finds

before = dict(os.environ)
print(list(processes.each(finds, ["torch", "pandas"], 2)))
print({name for name in before | os.environ if before.get(name) != os.environ.get(name)})
"""


def _ends_with(program: str, folder: Path, environment: dict[str, str]) -> tuple[str, str]:
    """What the program, kept beside ``folder`` and run inside it, says last, and what goes wrong."""
    (folder.parent / "program.py").write_text(program)
    done = subprocess.run(
        [sys.executable, folder.parent / "program.py"],
        cwd=folder,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        timeout=120,
    )
    return done.stdout, done.stderr


@pytest.mark.slow
def test_workers_take_no_module_of_the_folder_they_are_started_in(tmp_path):
    (tmp_path / "finds.py").write_text(_FINDS)
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("torch", "pandas"):
        (folder / f"{name}.py").write_text("raise RuntimeError(__file__)")
    found = "[(0, 'torch'), (1, 'pandas')]\n{'OMP_NUM_THREADS'}\n"
    assert _ends_with(_ELSEWHERE, folder, {"OMP_NUM_THREADS": "2"}) == (found, "")


@pytest.mark.slow
def test_a_temporary_folder_with_a_long_name_holds_nobody_up(tmp_path):
    folder = tmp_path / ("long" * 25)  # a socket's name has some 100 letters
    folder.mkdir()
    assert _ends_with(_PLAIN, folder, {"TMPDIR": str(folder)})[0].endswith("\n[(0, 1), (1, 2), (2, 3)]\n")


_THREADS = """
import sys
from concurrent.futures import ThreadPoolExecutor
from avcil.base import processes

program = sys.modules["__main__"]
with ThreadPoolExecutor(4) as threads:
    done = list(threads.map(lambda start: sorted(processes.each(abs, [start, -1], 2)), range(4)))
print(done == [[(0, start), (1, 1)] for start in range(4)], sys.modules["__main__"] is program)
"""


@pytest.mark.slow
def test_threads_that_start_workers_leave_the_program_in_its_place(tmp_path):
    (tmp_path / "folder").mkdir()
    assert _ends_with(_THREADS, tmp_path / "folder", {}) == ("True True\n", "")
