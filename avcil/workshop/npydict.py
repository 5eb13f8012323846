"""Read a dictionary of arrays out of a .npy file without executing anything that the file contains.

Such a file is a pickled object, which can run any command when it is loaded. Here `pickletools` only tells its opcodes
apart, and a machine that knows dictionaries, lists, text, numbers and plain arrays interprets those; whatever else a
file names is refused by that name. Arrays stay in the file until they are asked for.

Read is what `np.save` of numpy 1 and 2 writes of a dictionary, in protocols 3 to 5. Not read, because no released file
needs them: protocol 2, arrays of text or records, numpy scalars, texts longer than `SHORT`, nesting below `DEEPEST`;
and one list, tuple or dictionary in two places, by which a few bytes describe a tree that no memory holds.
"""

import math
import os
import pickletools
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from avcil.base.refusal import Refusal

SHORT = 255  # bytes of the longest text and of the longest name
DEEPEST = 16  # containers in one another
AXES = 64  # of an array, as in numpy


class NpyError(Refusal):
    """A file that is not read; one line that names the file, what is wrong and the way out."""


@dataclass(slots=True, eq=False)
class Stored:
    """An array that stays in its file. One of Python objects, as `np.save` wraps a dictionary in, has no dtype."""

    path: Path
    shape: tuple[int, ...] | None = None
    dtype: np.dtype | None = None
    order: Literal["C", "F"] = "C"
    offset: int = 0

    def read(self) -> np.ndarray:
        """The values. Raises NpyError for an array of Python objects."""
        if self.dtype is None or self.shape is None:
            raise NpyError(f"{self.path}: an array of Python objects where numbers belong")
        values = np.fromfile(self.path, self.dtype, math.prod(self.shape), offset=self.offset)
        return values.reshape(self.shape, order=self.order)


class _Bytes(NamedTuple):
    """Where a byte string stands in the file."""

    offset: int
    size: int


class _Global(NamedTuple):
    """A name that a file refers to: a token, never the object."""

    name: str


@dataclass(slots=True, eq=False)
class _Dtype:
    code: str
    order: str = "="


# as numpy 1 spells them
_NAMES = {"numpy.ndarray", "numpy.dtype", "numpy.core.multiarray._reconstruct", "numpy.core.numeric._frombuffer"}
_CONSTANTS: dict[str, Callable[[], object]] = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple,
}  # fmt: skip
_CONTAINERS = {list, dict, tuple}
_NUMBERS = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"}
# the width of the size that comes first
_TEXTS = {"SHORT_BINUNICODE": 1, "BINUNICODE": 4, "BINUNICODE8": 8}
_BYTES = {"SHORT_BINBYTES": 1, "BINBYTES": 4, "BINBYTES8": 8, "BYTEARRAY8": 8}
_OTHERS = {"PROTO", "FRAME", "MARK", "BINPUT", "LONG_BINPUT", "MEMOIZE", "BINGET", "LONG_BINGET", "GLOBAL"}
# how many values they take from the stack; 0: all since the last mark
_TAKEN = {
    "TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "APPEND": 1, "APPENDS": 0, "SETITEM": 2, "SETITEMS": 0,
    "STACK_GLOBAL": 2, "REDUCE": 2, "BUILD": 1,
}  # fmt: skip
_KNOWN = {*_CONSTANTS, *_NUMBERS, *_TEXTS, *_BYTES, *_OTHERS, *_TAKEN}


class _Machine:
    """Interprets the opcodes of `_KNOWN`. Imports and calls nothing that a file names."""

    def __init__(self, file, path: Path):
        self.file, self.path, self.offset = file, path, 0
        self.end = os.fstat(file.fileno()).st_size
        self.stack: list = []
        self.marks: list[list] = []
        self.memo: dict[int, object] = {}
        self.depths: dict[int, int] = {}  # of each list, tuple and dictionary, by id
        self.wrapped: object = None

    def refuse(self, what: str) -> NpyError:
        return NpyError(f"{self.path}, offset {self.offset}: {what}; nothing of the file was executed")

    def run(self):
        try:
            while True:
                self.offset = self.file.tell()
                opcode = pickletools.code2op[self.file.read(1).decode("latin-1")]  # type: ignore[attr-defined]
                if opcode.name == "STOP":
                    value = self.stack.pop()
                    return self.wrapped if isinstance(value, Stored) and value.dtype is None else value
                if opcode.name not in _KNOWN:
                    raise self.refuse(f"opcode `{opcode.name}`, which no dictionary of arrays needs")
                self.step(opcode.name, self.argument(opcode))
        except NpyError:
            raise
        # what a damaged file makes pickletools, numpy and the steps below run into
        except (ValueError, TypeError, LookupError, OverflowError) as error:
            what = f"damaged or cut short ({' '.join(repr(error).split())}); download it again"
            raise NpyError(f"{self.path}, offset {self.offset}: {what}") from None

    def argument(self, opcode):
        """What follows an opcode in the file. Bytes are passed over, and never more than `SHORT` are read."""
        if opcode.name in _BYTES:
            size = int.from_bytes(self.file.read(_BYTES[opcode.name]), "little")
            place = _Bytes(self.file.tell(), size)
            if sum(place) > self.end:
                raise ValueError(f"{size} bytes where {self.end - place.offset} are left")
            self.file.seek(sum(place))
            return place
        if opcode.name in _TEXTS:
            size = int.from_bytes(self.file.read(_TEXTS[opcode.name]), "little")
            if size > SHORT:
                raise self.refuse(f"a text of {size} bytes; {SHORT} are allowed")
            return self.file.read(size).decode("utf-8", "surrogatepass")
        if opcode.name == "GLOBAL":
            lines = [self.file.readline(SHORT).decode("utf-8") for _ in range(2)]
            return [line[: line.index("\n")] for line in lines]
        return opcode.arg.reader(self.file) if opcode.arg else None

    def step(self, name: str, argument) -> None:
        if name in _CONSTANTS:
            self.stack.append(self.nested(_CONSTANTS[name](), ()))
        elif name in _TEXTS or name in _BYTES or name in _NUMBERS:
            self.stack.append(argument)
        elif name == "MARK":
            self.marks.append(self.stack)
            self.stack = []
        elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.memo[len(self.memo) if argument is None else argument] = self.stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            again = self.memo[argument]
            if type(again) in _CONTAINERS:
                raise self.refuse(f"a {type(again).__name__} in two places; save it again with a copy in each")
            self.stack.append(again)
        elif name == "GLOBAL":
            self.stack.append(self.named(*argument))
        elif name in _TAKEN:
            self.combine(name, self.take(_TAKEN[name]))

    def take(self, count: int) -> list:
        if not count:
            items, self.stack = self.stack, self.marks.pop()
            return items
        if len(self.stack) < count:
            raise IndexError("too few values on the stack")
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def combine(self, name: str, items: list) -> None:
        if name.startswith("TUPLE"):
            self.stack.append(self.nested(tuple(items), items))
        elif name == "STACK_GLOBAL":
            self.stack.append(self.named(*items))
        elif name == "REDUCE":
            self.stack.append(self.call(*items))
        elif name == "BUILD":
            self.build(self.stack[-1], *items)
        elif name.startswith("APPEND"):
            list.extend(self.nested(self.stack[-1], items), items)  # called so, it refuses another type
        else:
            pairs = zip(map(self.key, items[::2]), items[1::2], strict=True)
            dict.update(self.nested(self.stack[-1], items), pairs)

    def nested(self, container, items):
        """The container, when it is found shallow enough to take the items. Each is whole when another one takes it."""
        if type(container) in _CONTAINERS:
            below = max((self.depths[id(item)] for item in items if type(item) in _CONTAINERS), default=0)
            if below >= DEEPEST:
                raise self.refuse(f"more than {DEEPEST} lists, tuples or dictionaries in one another")
            known = self.depths.get(id(container), 1) if items else 1  # a new one may have the id of one that is gone
            self.depths[id(container)] = max(known, below + 1)
        return container

    def key(self, key):
        # nothing nested: hashing a tuple of tuples of ... can take for ever
        if key is not None and not isinstance(key, (str, int, float)):
            raise self.refuse(f"a dictionary with a {type(key).__name__} as key")
        if isinstance(key, int) and abs(key) >= 1 << 60:  # above, many can be made that hash alike
            raise self.refuse("a dictionary with a key of more than 60 bits")
        return key

    def named(self, module, name) -> _Global:
        full = ".".join((module, name))  # not an f-string, which would spell out nested tuples
        if full == "_codecs.encode":
            raise self.refuse("bytes as text, which protocol 2 makes of them; save it again with `np.save` of numpy 2")
        if full.replace("numpy._core.", "numpy.core.") not in _NAMES:
            raise self.refuse(f"names `{full if full.isprintable() else ascii(full)}`, which no array needs")
        return _Global(full.rpartition(".")[2])

    def call(self, function, arguments):
        """What the functions of `_NAMES` would make of their arguments."""
        match function, arguments:
            case _Global("dtype"), (str(code), *_):
                if not re.fullmatch(r"[biuf][1248]|O[48]?", code):
                    raise self.refuse(f"an array of dtype {code[:20]!a}, not of plain numbers")
                return _Dtype(code)
            case _Global("_reconstruct"), (_Global("ndarray"), tuple(), _Bytes()):
                return Stored(self.path)
            case _Global("_frombuffer"), (content, _Dtype() as dtype, tuple(shape), "C" | "F" as order):
                return self.fill(Stored(self.path), shape, dtype, order, content)
        what = function.name if isinstance(function, _Global) else type(function).__name__
        raise self.refuse(f"a call of `{what}` that `np.save` never makes")

    def build(self, target, state) -> None:
        match target, state:
            case Stored(), (int(), tuple(shape), _Dtype() as dtype, bool(fortran), content):
                self.fill(target, shape, dtype, "F" if fortran else "C", content)
            case _Dtype(), (int(), "<" | ">" | "|" | "=" as order, None, None, None, *_):
                target.order = order
            case _:
                raise self.refuse(f"a state for a {type(target).__name__} that `np.save` never gives")

    def fill(self, array: Stored, shape: tuple, dtype: _Dtype, order: Literal["C", "F"], content) -> Stored:
        kind = np.dtype(dtype.order + dtype.code)
        if kind.hasobject:
            if shape != () or type(content) is not list or len(content) != 1:
                raise self.refuse("an array of Python objects")
            array.shape, self.wrapped = (), content[0]
            return array
        # no axis is longer than the file, even if another one is 0
        if len(shape) > AXES or not all(type(n) is int and 0 <= n <= self.end for n in shape):
            raise self.refuse("an array whose shape is not made of counts, or larger than the file")
        whole = math.prod(shape) * kind.itemsize
        if not isinstance(content, _Bytes) or content.size != whole:
            raise self.refuse(f"an array of {whole} bytes in {getattr(content, 'size', 'none')}")
        array.shape, array.dtype, array.order, array.offset = shape, kind, order, content.offset
        return array


def index_npy(path: Path) -> dict:
    """The dictionary in a file written by `np.save(path, dictionary)`; its arrays as `Stored`, not yet read.

    Memory: the keys and some hundred bytes an array, however large the file.

    Raises:
        NpyError: for a missing, damaged or cut file, one without a dictionary, and one that names anything but plain
            arrays; the message has the offset and the name.
    """
    path = Path(path)
    if not path.is_file():
        raise NpyError(f"{path}: no such file; it belongs to the released data, see its README")
    with path.open("rb") as file:
        start = file.read(10)
        if start[:8] != b"\x93NUMPY\x01\x00":
            raise NpyError(f"{path}: not a .npy file; download it again")
        header = file.read(int.from_bytes(start[8:], "little"))
        if not re.match(rb"\{'descr': *'\|?O[48]?', *'fortran_order': *\w+, *'shape': *\(\)", header):
            raise NpyError(f"{path}: an array, not a dictionary")
        value = _Machine(file, path).run()
    if type(value) is not dict:
        raise NpyError(f"{path}: holds a {type(value).__name__}, not a dictionary")
    return value
