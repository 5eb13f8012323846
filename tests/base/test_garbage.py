"""Less looking for garbage: sooner begun and ended, and nothing that was written is lost."""

import subprocess
import sys

import pytest

from avcil.base import garbage

# what a function and its module hold is a circle: Python lets go of it in its last collection, or never
CIRCLE = """
import gzip, sys, zipfile
import avcil

class Last:
    def __del__(self):
        sys.stdout.write("collected")

last = Last()

def circle():
    return last
"""


def _run(*command: str) -> str:
    return subprocess.run([sys.executable, *command], check=True, capture_output=True, text=True).stdout


def test_what_there_is_at_the_end_is_left_alone():
    assert _run("-c", CIRCLE) == ""
    assert _run("-c", CIRCLE.replace("import avcil\n", "")) == "collected"


def test_a_script_of_ones_own_ends_as_python_ends_it(tmp_path):
    (tmp_path / "own.py").write_text(CIRCLE)
    assert _run(str(tmp_path / "own.py")) == "collected"


@pytest.mark.parametrize(
    ("begun", "read"),
    [
        ("file = open({!r}, 'w'); file.write('said')", "open({!r}).read()"),
        ("file = open({!r}, 'w+b'); file.write(b'said')", "open({!r}).read()"),
        ("file = gzip.open({!r}, 'wt'); file.write('said')", "gzip.open({!r}, 'rt').read()"),
        ("file = zipfile.ZipFile({!r}, 'w'); file.writestr('a', 'said')", "zipfile.ZipFile({!r}).read('a').decode()"),
    ],
)
def test_what_was_written_and_never_closed_arrives(begun, read, tmp_path):
    name = str(tmp_path / "file")
    assert _run("-c", f"{CIRCLE}\n{begun.format(name)}") == "collected"
    assert _run("-c", f"import gzip, zipfile; print({read.format(name)}, end='')") == "said"


def test_files_that_are_done_with_hold_nothing_back(tmp_path):
    taken = (tmp_path / "taken").open("wb")
    raw = taken.detach()
    closed = (tmp_path / "closed").open("wb")
    closed.close()
    assert not any(map(garbage._holds_back, (taken, closed, sys.__stdout__.buffer, (tmp_path / "closed").open("rb"))))
    raw.close()


@pytest.mark.parametrize(("before", "after"), [(700, garbage.NEW_OBJECTS), (0, 0), (9_000, 9_000)])
def test_garbage_is_collected_less_often_but_as_somebody_wants(before, after):
    program = f"import gc; gc.set_threshold({before}, 7, 8); import avcil; print(*gc.get_threshold())"
    assert _run("-c", program) == f"{after} 7 8\n"
