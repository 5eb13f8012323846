"""Read a dictionary of arrays out of a .npy file without executing anything that the file contains.

Such a file is a pickled object, which can run any command when it is loaded. Here `pickletools` only tells its opcodes
apart, and a machine that knows dictionaries, lists, text, numbers and plain arrays interprets those; whatever else a
file names is refused by that name. Arrays stay in the file until they are asked for.

Read is what `np.save` of numpy 1 and 2 writes of a dictionary, in protocols 3 and 4. Not read, because no released file
needs them: other protocols, arrays of text, records or big-endian numbers, numpy scalars, texts longer than `SHORT`,
nesting below `DEEPEST`; and one list, tuple or dictionary in two places, by which a few bytes describe a tree that no
memory holds.
"""

import math
import os
import pickletools
import re
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
class StoredArray:
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


# as numpy 1 spells them
_NAMES = {"numpy.ndarray", "numpy.dtype", "numpy.core.multiarray._reconstruct"}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: dict[str, type] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_CONTAINERS = {list, dict, tuple}
# how many values they take from the stack; 0: all since the last mark
_TAKEN = {
    "TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "APPEND": 1, "APPENDS": 0, "SETITEM": 2, "SETITEMS": 0,
}  # fmt: skip
# the width of the size that comes first
_WIDTHS = {
    "SHORT_BINUNICODE": 1, "BINUNICODE": 4, "BINUNICODE8": 8, "SHORT_BINBYTES": 1, "BINBYTES": 4, "BINBYTES8": 8,
}  # fmt: skip


class _Machine:
    """Interprets the opcodes of `step` and refuses all others. Imports and calls nothing that a file names."""

    def __init__(self, file, path: Path):
        self.file, self.path, self.offset = file, path, 0
        # no byte string and no axis may claim more than the file has
        self.end = os.fstat(file.fileno()).st_size
        self.stack: list = []
        self.marks: list[list] = []
        self.memo: dict[int, object] = {}
        self.depths: dict[int, int] = {}  # of each list, tuple and dictionary, by id
        # `np.save` wraps a dictionary as the one item of an array of objects without axes
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
                    return self.wrapped if isinstance(value, StoredArray) and value.dtype is None else value
                self.step(opcode)
        except NpyError:
            raise
        # what a damaged file makes pickletools, numpy and the steps below run into
        except (ValueError, TypeError, LookupError, OverflowError) as error:
            what = f"damaged or cut short ({' '.join(repr(error).split())}); download it again"
            raise NpyError(f"{self.path}, offset {self.offset}: {what}") from None

    def step(self, opcode) -> None:
        """Of what follows an opcode in the file, never more than `SHORT` bytes are read; arrays are passed over."""
        match name := opcode.name:
            case "PROTO" | "FRAME":
                # what they announce is not needed: whatever other protocols do otherwise is refused opcode by opcode
                opcode.arg.reader(self.file)
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                self.stack.append(_CONSTANTS[name])
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT":
                self.stack.append(opcode.arg.reader(self.file))
            case "SHORT_BINUNICODE" | "BINUNICODE" | "BINUNICODE8":
                size = int.from_bytes(self.file.read(_WIDTHS[name]), "little")
                if size > SHORT:
                    raise self.refuse(f"a text of {size} bytes; {SHORT} are allowed")
                self.stack.append(self.file.read(size).decode("utf-8", "surrogatepass"))
            case "SHORT_BINBYTES" | "BINBYTES" | "BINBYTES8":
                size = int.from_bytes(self.file.read(_WIDTHS[name]), "little")
                # where the bytes are, not what they are: values are read when somebody asks for them
                place = _Bytes(self.file.tell(), size)
                if sum(place) > self.end:
                    raise ValueError(f"{size} bytes where {self.end - place.offset} are left")
                self.file.seek(sum(place))
                self.stack.append(place)
            case "EMPTY_DICT" | "EMPTY_LIST" | "EMPTY_TUPLE":
                self.stack.append(self.nested(_EMPTY[name](), ()))
            case "MARK":
                self.marks.append(self.stack)
                self.stack = []
            case "BINPUT" | "LONG_BINPUT":
                self.memo[opcode.arg.reader(self.file)] = self.stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = self.stack[-1]
            case "BINGET" | "LONG_BINGET":
                again = self.memo[opcode.arg.reader(self.file)]
                # arrays may stand in two places, as they cost nothing twice; containers may not (see the head)
                if type(again) in _CONTAINERS:
                    raise self.refuse(f"a {type(again).__name__} in two places; save it again with a copy in each")
                self.stack.append(again)
            case "TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3":
                items = self.take(_TAKEN[name])
                self.stack.append(self.nested(tuple(items), items))
            case "APPEND" | "APPENDS":
                items = self.take(_TAKEN[name])
                list.extend(self.nested(self.stack[-1], items), items)  # called so, it refuses another type
            case "SETITEM" | "SETITEMS":
                items = self.take(_TAKEN[name])
                pairs = zip(map(self.key, items[::2]), items[1::2], strict=True)
                dict.update(self.nested(self.stack[-1], items), pairs)
            case "GLOBAL":
                # of a longer line the end is missing, so that `index` raises
                lines = [self.file.readline(SHORT).decode("utf-8") for _ in range(2)]
                self.stack.append(self.named(*(line[: line.index("\n")] for line in lines)))
            case "STACK_GLOBAL":
                self.stack.append(self.named(*self.take(2)))
            case "REDUCE":
                self.stack.append(self.call(*self.take(2)))
            case "BUILD":
                state = self.take(1)[0]
                self.build(self.stack[-1], state)
            case _:
                raise self.refuse(f"opcode `{name}`, which no dictionary of arrays needs")

    def take(self, count: int) -> list:
        if not count:
            # what came since the last mark is taken, what stood before it comes back
            items, self.stack = self.stack, self.marks.pop()
            return items
        if len(self.stack) < count:
            raise IndexError("too few values on the stack")
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

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

    def call(self, function, arguments) -> StoredArray | np.dtype:
        """What the functions of `_NAMES` would make of their arguments."""
        match function, arguments:
            case _Global("dtype"), (str(code), *_):
                # align and copy follow, which say nothing of plain numbers
                if not re.fullmatch(r"[biuf][1248]|O[48]?", code):
                    raise self.refuse(f"an array of dtype {code[:20]!a}, not of plain numbers")
                return np.dtype("O" if code.startswith("O") else f"<{code}")
            # an empty array, to which BUILD gives shape and place
            case _Global("_reconstruct"), (_Global("ndarray"), tuple(), _Bytes()):
                return StoredArray(self.path)
        what = function.name if isinstance(function, _Global) else type(function).__name__
        raise self.refuse(f"a call of `{what}` that `np.save` never makes")

    def build(self, target, state) -> None:
        match target, state:
            # the wrapping of `np.save` and nothing else: no axes, one item
            case StoredArray(), (int(), tuple(shape), np.dtype(hasobject=True), bool(), content):
                if shape != () or type(content) is not list or len(content) != 1:
                    raise self.refuse("an array of Python objects")
                target.shape, self.wrapped = (), content[0]
            case StoredArray(), (int(), tuple(shape), np.dtype() as dtype, bool(fortran), content):
                # no axis is longer than the file, even if another one is 0
                if len(shape) > AXES or not all(type(n) is int and 0 <= n <= self.end for n in shape):
                    raise self.refuse("an array whose shape is not made of counts, or larger than the file")
                whole = math.prod(shape) * dtype.itemsize
                if not isinstance(content, _Bytes) or content.size != whole:
                    raise self.refuse(f"an array of {whole} bytes in {getattr(content, 'size', 'none')}")
                target.shape, target.dtype, target.offset = shape, dtype, content.offset
                target.order = "F" if fortran else "C"
            # no sub-array, names or fields, by which a dtype would be a record
            case np.dtype(), (int(), "<" | "|", None, None, None, *_):
                pass
            case _:
                raise self.refuse(f"a state for a {type(target).__name__} that `np.save` never gives")


def index_npy(path: Path) -> dict:
    """The dictionary in a file written by `np.save(path, dictionary)`; its arrays as `StoredArray`, not yet read.

    Memory: the keys and some hundred bytes an array, however large the file.

    Raises:
        NpyError: for a missing, damaged or cut file, one without a dictionary, and one that names anything but plain
            arrays; the message has the offset and the name.
    """
    path = Path(path)
    if not path.is_file():
        raise NpyError(f"{path}: no such file; it belongs to the released data, see its README")
    with path.open("rb") as file:
        # format 1.0, with two bytes for the length of the header
        start = file.read(10)
        if start[:8] != b"\x93NUMPY\x01\x00":
            raise NpyError(f"{path}: not a .npy file; download it again")
        header = file.read(int.from_bytes(start[8:], "little"))
        # objects without axes, as a saved dictionary is
        if not re.match(rb"\{'descr': *'\|?O[48]?', *'fortran_order': *\w+, *'shape': *\(\)", header):
            raise NpyError(f"{path}: an array, not a dictionary")
        value = _Machine(file, path).run()
    if type(value) is not dict:
        raise NpyError(f"{path}: holds a {type(value).__name__}, not a dictionary")
    return value
