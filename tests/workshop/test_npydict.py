"""Restricted reading of .npy dictionaries: what is harmless is read exactly, what is hostile is refused and inert."""

import contextlib
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from toys import Reduced

from avcil.workshop.npydict import NpyError, StoredArray, index_npy


def _npy(path: Path, stream: bytes) -> Path:
    """A file as np.save writes it for a dictionary, with any pickle as its body."""
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (), }".ljust(117) + b"\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + stream)
    return path


def _save(path: Path, value, protocol: int = 3, numpy: int = 2) -> Path:
    wrapped = np.empty((), object)
    wrapped[()] = value
    stream = pickle.dumps(wrapped, protocol)
    if numpy == 1:
        name, old = b"numpy._core.multiarray", b"numpy.core.multiarray"
        stream = stream.replace(b"\x8c" + bytes([len(name)]) + name, b"\x8c" + bytes([len(old)]) + old)
        stream = stream.replace(b"c" + name, b"c" + old)
    assert (b"._core." in stream) == (numpy == 2)
    return _npy(path, stream)


def _values() -> dict:
    rng = np.random.default_rng(0)
    shared = rng.standard_normal((40, 6)).astype("f4")
    return {
        "float32": rng.standard_normal((96, 5)).astype("f4"),
        "float16": rng.standard_normal((96, 5)).astype("f2"),
        "float64": rng.standard_normal(300),
        "integers": rng.integers(-9, 9, (3, 200)),
        "booleans": rng.random(700) > 0.5,
        "Fortran": np.asfortranarray(rng.standard_normal((30, 20))),
        "every other": rng.standard_normal((30, 20))[:, ::2],
        "small": np.arange(4.0),
        "empty": np.ones((0, 3)),
        "0-d": np.array(3.5),
        "one": shared,
        "other": shared,
    }


@pytest.mark.parametrize("numpy", [1, 2])
@pytest.mark.parametrize("protocol", [3, 4])
def test_arrays_are_those_that_were_saved(tmp_path, protocol, numpy):
    values = _values()
    read = index_npy(_save(tmp_path / "a.npy", values, protocol, numpy))
    assert list(read) == list(values)
    for name, value in values.items():
        assert read[name].shape == value.shape and read[name].dtype == value.dtype, name
        np.testing.assert_array_equal(read[name].read(), value, err_msg=name)
    assert read["one"] is read["other"]


def test_what_np_save_itself_writes_is_read(tmp_path):
    plain = {"train": {0: ["x", "y"], -1: (), 2**40: (1, None)}, 1.5: [True, False, 2**70], None: "é", "": {}}
    np.save(tmp_path / "a.npy", plain)
    assert index_npy(tmp_path / "a.npy") == plain
    np.save(tmp_path / "b.npy", _values())
    for name, array in index_npy(tmp_path / "b.npy").items():
        np.testing.assert_array_equal(array.read(), _values()[name])


# ---- hostile files


def _text(path) -> bytes:
    text = f"touch {path}".encode()
    return b"X" + len(text).to_bytes(4, "little") + text


def _dumps(value, protocol: int, old: bytes = b"", new: bytes = b"") -> bytes:
    stream = pickle.dumps(value, protocol)
    assert not old or stream.count(old) == 1
    return stream.replace(old, new) if old else stream


def _system(path) -> Reduced:
    return Reduced(os.system, f"touch {path}")


# files that create ``p`` when they are loaded
RUN = {
    "GLOBAL": ("posix.system", lambda p: _dumps(_system(p), 2)),
    "STACK_GLOBAL": ("posix.system", lambda p: _dumps(_system(p), 4)),
    "text": ("os.system", lambda p: f"cos\nsystem\n(S'touch {p}'\ntR.".encode()),
    "eval": ("builtins.eval", lambda p: _dumps(Reduced(eval, f"open({str(p)!r}, 'w')"), 4)),
    "value": ("posix.system", lambda p: _dumps({"a": np.ones(9), "b": [_system(p)]}, 3)),
    "key": ("posix.system", lambda p: _dumps({_system(p): 0}, 3)),
    "dotted": ("os.path.os.system", lambda p: b"\x80\x04\x8c\x07os.path\x8c\x09os.system\x93" + _text(p) + b"\x85R."),
    "INST": ("INST", lambda p: b"(" + _text(p) + b"ios\nsystem\n."),
}
# harmless or broken, but nothing that an array needs
ODD = {
    "instance": (r"pathlib\S*\.PosixPath", lambda p: _dumps({"a": p}, 4)),
    "tensor": ("torch._utils._rebuild_tensor_v2", lambda p: _dumps({"a": torch.ones(3)}, 4)),
    "scalar": (r"numpy\._core\.multiarray\.scalar", lambda p: _dumps({"a": np.float32(1)}, 4)),
    "object array": ("array of Python objects", lambda p: _dumps({"a": np.array([{}, {}])}, 4)),
    "record array": ("dtype 'V8'", lambda p: _dumps({"a": np.zeros(2, "i4,f4")}, 4)),
    "text array": ("dtype 'U1'", lambda p: _dumps({"a": np.array(["x"])}, 4)),
    "protocol 2": ("protocol 2 makes of them; save it again", lambda p: _dumps({"a": np.ones(3)}, 2)),
    "protocol 5": (r"numpy\._core\.numeric\._frombuffer", lambda p: _dumps(np.zeros(2), 5)),
    "big endian": ("a state for a", lambda p: _dumps({"a": np.ones(3, ">f8")}, 4)),
    "long text": ("a text of 256 bytes", lambda p: _dumps({"a": "x" * 256}, 4)),
    "set": ("EMPTY_SET", lambda p: _dumps({1}, 4)),
    "two lines": (r"'os\\nevil\.x'", lambda p: b"\x80\x04\x8c\x07os\nevil\x8c\x01x\x93."),
    "tuple as name": ("damaged", lambda p: b"\x80\x04))\x93."),
    "tuple as key": ("a tuple as key", lambda p: _dumps({(1, 2): 0}, 4)),
    "array as function": ("a call of `StoredArray`", lambda p: _dumps(np.ones(2), 3)[:-1] + b")R."),
    "state of a dict": ("a state for a dict", lambda p: b"\x80\x04}}b."),
    "items of a list": ("damaged", lambda p: b"\x80\x04]K\x01K\x02s."),
    "wrong size": ("an array of 8000 bytes in 800", lambda p: _dumps(np.ones(100), 3, b"Kd\x85", b"M\xe8\x03\x85")),
    "negative": ("not made of counts", lambda p: _dumps(np.ones(100), 3, b"Kd\x85", b"J\xff\xff\xff\xff\x85")),
    "endless": ("2147483647 bytes where 1 are left", lambda p: b"\x80\x04B\xff\xff\xff\x7f."),
}


@pytest.mark.parametrize("name", [*RUN, *ODD])
def test_a_hostile_file_is_refused_by_name_and_runs_nothing(tmp_path, name):
    message, build = (RUN | ODD)[name]
    modules = set(sys.modules)
    path = _npy(tmp_path / "a.npy", build(tmp_path / "sentinel"))
    with pytest.raises(NpyError, match=message) as error:
        index_npy(path)
    assert str(error.value).startswith(f"{path}, offset ") and "\n" not in str(error.value)
    assert not (tmp_path / "sentinel").exists() and set(sys.modules) == modules


@pytest.mark.parametrize("name", RUN)
def test_these_files_do_run_when_they_are_loaded(tmp_path, name):
    """The control: without it the test above could pass with files that do nothing."""
    with contextlib.suppress(TypeError, pickle.UnpicklingError):
        np.load(_npy(tmp_path / "a.npy", RUN[name][1](tmp_path / "sentinel")), allow_pickle=True)
    assert (tmp_path / "sentinel").exists()


@pytest.mark.parametrize("protocol", [3, 4])
def test_a_file_cut_anywhere_or_with_any_byte_changed_is_read_or_refused(tmp_path, protocol):
    whole = _save(tmp_path / "whole.npy", {"a": np.arange(100.0), "b": [1, "x", 2.5]}, protocol).read_bytes()
    path = tmp_path / "a.npy"
    for cut in {*range(0, len(whole), 17), len(whole) - 1}:
        path.write_bytes(whole[:cut])
        with pytest.raises(NpyError, match=r"a\.npy.*(download it again|: an array)") as error:
            index_npy(path)
        assert "\n" not in str(error.value)
    rng = np.random.default_rng(protocol)
    for _ in range(400):
        changed = bytearray(whole)
        changed[rng.integers(128, len(whole))] = rng.integers(256)
        path.write_bytes(changed)
        try:
            for value in index_npy(path).values():
                if isinstance(value, StoredArray):
                    value.read()
        except NpyError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda p: None, "no such file"),
        (lambda p: p.write_bytes(b"PK\x03\x04" + bytes(99)), "not a .npy file"),
        (lambda p: np.save(p, np.ones(3)), "an array, not a dictionary"),
        (lambda p: _save(p, [1]), "holds a list, not a dictionary"),
        (lambda p: _save(p, np.ones(2)), "holds a StoredArray, not a dictionary"),
    ],
    ids=["missing", "zip", "array", "list", "wrapped array"],
)
def test_what_is_no_dictionary_is_one_clear_line(tmp_path, write, message):
    write(tmp_path / "a.npy")
    with pytest.raises(NpyError, match=rf"a\.npy.*{message}"):
        index_npy(tmp_path / "a.npy")


MEASURE = """
import resource, sys
from avcil.workshop.npydict import index_npy
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
before = peak()
content = index_npy(sys.argv[1])
indexed = peak()
total = sum(float(array.read().sum()) for array in content.values())
print(indexed - before, peak() - before, total)
"""


@pytest.mark.parametrize("protocol", [3, 4])
def test_memory_stays_that_of_one_array(tmp_path, protocol):
    """Megabytes beyond those of the imports, for 96 MB in arrays of 4."""
    path = _save(tmp_path / "a.npy", {i: np.full(1 << 20, i, "f4") for i in range(24)}, protocol)
    done = subprocess.run([sys.executable, "-c", MEASURE, path], capture_output=True, text=True, check=True)
    indexed, read, total = map(float, done.stdout.split())
    assert total == sum(i << 20 for i in range(24))
    assert indexed < 4 and read < 14
