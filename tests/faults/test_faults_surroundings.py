"""Full, small and read-only disks, bare and odd surroundings, a clock that jumps, crowds: what writes gives the bytes
that it gives elsewhere, or one line with the way out, and goes on from there once it can."""

import json
import os
import subprocess
import sys
from pathlib import Path

import kills
import pytest

from conftest import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="Linux mounts and forks")]

WORKS = {work.name: work for work in kills.WORKS if work.name in ("extraction", "tasks", "sweep", "import", "learner")}
_SCRIPT = """
import json, random, subprocess, sys, time
from pathlib import Path

given, to, *commands = sys.argv[1:]
if "a clock that jumps" in commands:
    commands.remove("a clock that jumps")
    real, dice = time.time, random.Random(0)
    time.time = lambda: real() + dice.choice((-1e9, 0, 1e9))
import avcil  # before torch, as every command does
import kills
if "one worker" in commands:
    commands.remove("one worker")
    kills.WORKERS = 1

works = [work for work in kills.WORKS if Path(given, work.name).exists()]
for command in commands or ["true"]:
    subprocess.run(command, shell=True, check=True)
    said = {}
    for work in works:
        try:
            work.do(Path(given, work.name), Path(to, work.name))
            said[work.name] = ""
        except (ValueError, OSError) as error:
            said[work.name] = str(error)
    print("said: " + json.dumps(said))
"""


def _done(
    given: Path, to: Path, *commands: str, mounts: str = "", out: Path | None = None, environment: dict | None = None
) -> list[dict]:
    """Everything is done after each command, in a process that sees those mounts, and at last copied ``out``. Returns
    each time what was said of each work, nothing of one that succeeded."""
    paths = os.pathsep.join(str(path) for path in (ROOT / "tests", ROOT / "tests/faults", ROOT))
    environment = (os.environ if environment is None else environment) | {"PYTHONPATH": paths, "TQDM_DISABLE": "1"}
    command = [sys.executable, "-c", _SCRIPT, str(given), str(to), *commands]
    if mounts:
        if subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
            pytest.skip("nobody may mount here")
        command = ["unshare", "-rm", "sh", "-ec", f'{mounts}\n"$@"\ncp -a "{to}" "{out}"', "sh", *command]
    done = subprocess.run(command, cwd=given.parent, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line[6:]) for line in done.stdout.splitlines() if line.startswith("said: ")]


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("given")
    for name, work in WORKS.items():
        (folder / name).mkdir()
        work.given(folder / name)
    return folder


@pytest.fixture(scope="module")
def sound(given, tmp_path_factory) -> dict[str, bytes]:
    to = tmp_path_factory.mktemp("sound")
    assert _done(given, to, "one worker") == [dict.fromkeys(WORKS, "")]
    return kills._contents(to)


def _refused(said: dict[str, str], *ways_out: str) -> None:
    """Every line names the file and a way out."""
    for name, line in said.items():
        assert line.isprintable() and "small" in line and any(way in line for way in ways_out), (name, line)


@pytest.fixture
def disk(tmp_path) -> tuple[Path, str]:
    """A small disk, and what mounts it."""
    (tmp_path / "small").mkdir()
    return tmp_path / "small", f"mount -t tmpfs -o size=16k tmpfs '{tmp_path}/small'"


ROOM = ("make room", "make its folder writable", "make the folder above it writable")


def test_a_disk_that_is_full_is_one_line_and_all_goes_on_with_room(given, sound, disk, tmp_path):
    place, mounts = disk
    half = sum(map(len, sound.values())) // 2
    sizes = [f"mount -o remount,size={size} '{place}'" for size in ("16k", half, "100m")]
    full, partly, roomy = _done(given, place / "to", *sizes, mounts=mounts, out=tmp_path / "out")
    _refused(full, *ROOM)
    _refused({name: line for name, line in partly.items() if line}, *ROOM)
    assert any(partly.values()) and roomy == dict.fromkeys(WORKS, "")
    assert kills._contents(tmp_path / "out") == sound


def test_a_read_only_disk_is_one_line_and_what_is_there_is_read(given, sound, disk, tmp_path):
    place, mounts = disk
    ways = [f"mount -o remount,size=100m,{how} '{place}'" for how in ("ro", "rw", "ro")]
    read = f"""cd '{ROOT}' && '{sys.executable}' -c "
from pathlib import Path
import avcil
from avcil.tokens.store import read_store
from avcil.learn.train import load_result
to = Path('{place}/to')
assert len(read_store(to / 'extraction/store', verify=True).header.clip_ids) == 10
assert load_result(to / 'tasks/task2/seed0').accuracy
assert len(avcil.Learner.load(to / 'learner/learner').classes) == 4
" """
    empty, written, there = _done(
        given, place / "to", "one worker", *ways[:2], f"{ways[2]} && {read}", mounts=mounts, out=tmp_path / "out"
    )
    _refused(empty, *ROOM)
    assert written == dict.fromkeys(WORKS, "")
    _refused({name: line for name, line in there.items() if line}, *ROOM)
    assert kills._contents(tmp_path / "out") == sound


def test_little_shared_memory_is_enough_and_none_is_one_line(given, sound, tmp_path):
    ways = [f"mount -o remount,{how} /dev/shm" for how in ("ro", "rw")]
    mounts = "mount -t tmpfs -o size=64k tmpfs /dev/shm"
    none, little = _done(given, tmp_path / "to", *ways, mounts=mounts, out=tmp_path / "out")
    way_out = "Read-only file system; processes that work side by side keep locks there: make it writable: '/dev/shm'"
    assert none == dict.fromkeys(WORKS, "") | {"sweep": f"[Errno 30] {way_out}"}
    assert little == dict.fromkeys(WORKS, "") and kills._contents(tmp_path / "out") == sound


def test_odd_surroundings_all_at_once(given, sound, tmp_path):
    """No home, no scratch, another locale, a folder of an odd name; clips, and the folder that is written, are links to
    other places; a clock that jumps by decades, back and forth, and files of the past and of the future."""
    bare = {"PATH": os.defpath, "HOME": "/nowhere", "TMPDIR": "/nowhere", "LC_ALL": "C", "LANG": "tr_TR.ISO-8859-9"}
    odd, elsewhere = tmp_path / "-odd folder\n\u2602 %s $(x) '\"", tmp_path / "elsewhere"
    for name in WORKS:
        (odd / "given" / name).mkdir(parents=True)
        for file in (given / name).iterdir():
            (odd / "given" / name / file.name).symlink_to(file)
    elsewhere.mkdir()
    (odd / "to").symlink_to(elsewhere)
    everything = odd / "given", odd / "to", "a clock that jumps", "one worker"
    assert _done(*everything, environment=bare) == [dict.fromkeys(WORKS, "")]
    shards = {file: file.stat().st_ino for file in elsewhere.rglob("*.safetensors")}
    for number, file in enumerate(sorted(elsewhere.rglob("*.*"))):
        os.utime(file, (number % 2 * 2**32, number % 2 * 2**32))
    assert _done(*everything, environment=bare) == [dict.fromkeys(WORKS, "")]
    assert kills._contents(elsewhere) == sound
    again = {file for file, inode in shards.items() if file.stat().st_ino != inode}
    assert all("import" in file.parts for file in again), "made anew"


@pytest.mark.parametrize("name", WORKS)
def test_two_in_one_folder_are_refused_or_safe(given, sound, tmp_path, name):
    work, to = WORKS[name], tmp_path / "to" / name
    to.parent.mkdir()
    both = [(kills._begun(work, given / name, to, tmp_path / who), tmp_path / who) for who in ("one", "other")]
    refused = [log.read_text().strip().split("\n")[-1] for child, log in both if kills._ended(child)]
    assert len(refused) < 2 and all("another process writes there; wait" in line for line in refused)
    assert kills._contents(tmp_path / "to") == {file: sound[file] for file in sound if file.startswith(name)}
