"""Small files that ask the restricted reader for hours, gigabytes or a deep stack are refused at once."""

import pickle
import re
import time

import numpy as np
import pytest

from avcil.workshop.builders.annotation import BuilderError
from avcil.workshop.npydict import NpyError, index_npy
from avcil.workshop.official import inspect

HEADER = b"{'descr': '|O', 'fortran_order': False, 'shape': (), }".ljust(117) + b"\n"


def _npy(path, stream: bytes):
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(HEADER).to_bytes(2, "little") + HEADER + stream)
    return path


def _shape(opcodes: bytes) -> bytes:
    """A pickled {"a": np.ones(9)} whose shape is what the opcodes push."""
    whole = pickle.dumps({"a": np.ones(9, "u1")}, 4)
    old = b"K\x09\x85\x94"
    assert whole.count(old) == 1
    return whole.replace(old, opcodes)


_BIG = b"\x8a\xff" + b"\xff" * 254 + b"\x7f"  # an integer of 2039 bits
_AGAIN = b"h\x63"  # of what was stored as number 99
DOUBLED = b"\x80\x04}\x8c\x01x\x8c\x01y\x94" + b"".join(b"q%ch%c\x86" % (n, n) for n in range(1, 28)) + b"s."
HOSTILE = {
    "doubled": (DOUBLED, "a tuple in two places"),
    "doubled list": (b"\x80\x04}]q\x01(h\x01h\x01es.", "a list in two places"),
    "a list in itself": (b"\x80\x04}\x8c\x01x]q\x01h\x01as.", "a list in two places"),
    "huge axes": (_shape(b"(" + _BIG + b"q\x63" + 8000 * _AGAIN + b"t"), "shape is not made of counts, or larger"),
    "huge behind 0": (_shape(b"K\x00" + _BIG + b"\x86"), "shape is not made of counts, or larger"),
    "many axes": (_shape(b"(" + 65 * b"K\x01" + b"t"), "shape is not made of counts, or larger"),
    "deep tuples": (b"\x80\x04}\x8c\x01x)" + 100_000 * b"\x85" + b"s.", "more than 16 lists, tuples or dictionaries"),
    "deep lists": (b"\x80\x04}\x8c\x01x" + 9_999 * b"]" + 9_998 * b"a" + b"s.", "more than 16 lists"),
    "deep dicts": (b"\x80\x04" + 9_999 * b"}N" + b"N" + 9_999 * b"s" + b".", "more than 16 lists"),
    "equal hashes": (pickle.dumps({n * (2**61 - 1): None for n in range(20_000)}, 4), "a key of more than 60 bits"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_it_is_refused_at_once(tmp_path, name):
    stream, message = HOSTILE[name]
    path = _npy(tmp_path / "a.npy", stream)
    # the seconds of this process, whatever else runs on the machine: what is not refused may keep it busy for ever
    begun = time.process_time()
    with pytest.raises(NpyError, match=message) as error:
        index_npy(path)
    assert time.process_time() - begun < 20 and len(str(error.value)) < 500 and str(error.value).startswith(f"{path}, ")


def test_sixteen_deep_is_read(tmp_path):
    value: dict = {"x": 1}
    for _ in range(12):  # np.save wraps the dictionary in four
        value = {"x": value}
    np.save(tmp_path / "a.npy", value)
    assert index_npy(tmp_path / "a.npy") == value


@pytest.mark.parametrize("where", ["clip", "class"])
def test_no_escape_code_reaches_the_terminal(tmp_path, where):
    evil = "\x1b]0;owned\x07"
    clip, name = (evil if where == part else part for part in ("clip", "class"))
    np.save(tmp_path / "category_encode_dict.npy", {name: 0})
    np.save(tmp_path / "all_classId_vid_dict.npy", {split: {0: [clip]} for split in ("train", "val", "test")})
    with pytest.raises(BuilderError, match=r"not printable|not the ids 0, 1, 2") as error:
        inspect(tmp_path)
    assert re.fullmatch(r"[ -~]+", str(error.value))
