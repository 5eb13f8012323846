"""What is done to files: bits and bytes, cells and words, and values of the JSON and arrays in them."""

import io
import json
import zipfile

import numpy as np

from avcil.base.files import digest, json_bytes

WORDS = [
    "", " ", "nan", "inf", "-1", "0", "1e309", "9" * 400, "../../etc/passwd", "/etc/passwd", "\x00", "\x1b]0;owned\x07",
    "\ufeff", "\u202e", "Bär", '"', "'", ",", "\n", "\t", "~", "null", "true",
    "[" * 5000, "{" * 300, "&a *a", "!!python/name:os.system",
    "<<: *x", "a" * 100_000, "=1+1", "-", "- - -", "2001-99-99", "0x7fffffff", "1_000", ".inf", "#", "%", "\\",
]  # fmt: skip
NODES = [
    None, True, -1, 0, 2**63, 10**400, 1e308, "", "\x1b[31m", "../../x", [], {}, [[[]]], {"a": {}}, "a" * 100_000,
    [0] * 10_000, "NaN", 0.5, ["a"], {"digest": "x"},
]  # fmt: skip


def damaged(content: bytes, name: str, rng: np.random.Generator) -> tuple[bytes, bool]:
    """The content with one to three changes; and whether the digest in it was made to fit: a forgery, not damage."""
    inside = {".json": _node, ".safetensors": _header, ".npz": _member}.get(name[name.rfind(".") :])
    if inside is not None and rng.random() < 0.4:
        return inside(content, rng), inside is _node
    text = name.endswith((".csv", ".yaml", ".txt"))
    for _ in range(rng.integers(1, 4)):
        change = _words if text and rng.random() < 0.6 else _bytes
        content = change(content, rng)
    return content, False


def _place(content: bytes, rng: np.random.Generator) -> int:
    """Half of the time near the beginning or the end, where headers and directories are."""
    size = max(1, len(content))
    near = int(rng.integers(min(size, 300)))
    return int([near, size - 1 - near, rng.integers(size), rng.integers(size)][rng.integers(4)])


def _bytes(content: bytes, rng: np.random.Generator) -> bytes:
    at, length = _place(content, rng), int(2 ** rng.integers(0, 12))
    changed = bytearray(content or b"\0")
    match rng.integers(9):
        case 0 | 1 | 2:
            changed[at] ^= 1 << int(rng.integers(8))
        case 3:
            changed[at] = int(rng.choice([0, 1, 0x7F, 0x80, 0xFF]))
        case 4:
            return content[:at]
        case 5:
            del changed[at : at + length]
        case 6:
            changed[at:at] = changed[_place(content, rng) :][:length]
        case 7:
            changed[at : at + length] = rng.bytes(length)
        case 8:
            huge = [2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1, 2**40][rng.integers(5)]
            changed[at : at + 8] = huge.to_bytes(8, ["little", "big"][rng.integers(2)])
    return bytes(changed)


def _words(content: bytes, rng: np.random.Generator) -> bytes:
    lines = content.decode("utf-8", "surrogateescape").split("\n")
    row = int(rng.integers(len(lines)))
    word = WORDS[rng.integers(len(WORDS))]
    match rng.integers(7):
        case 0:
            lines.insert(row, lines[rng.integers(len(lines))])
        case 1:
            del lines[row]
        case 2:
            lines[row] = word
        case 3:
            return content.decode("utf-8", "replace").encode(
                ["utf-16", "latin-1", "utf-8-sig"][rng.integers(3)], "replace"
            )
        case _:
            mark = [",", ":", " ", "&"][rng.integers(4)]
            cells = lines[row].split(mark)
            cells[rng.integers(len(cells))] = word
            lines[row] = mark.join(cells)
    return "\n".join(lines).encode("utf-8", "surrogateescape")


def _changed(value, rng: np.random.Generator):
    """With one node of the tree replaced, deleted or doubled."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = list(value)[rng.integers(len(value))]
        match rng.integers(6):
            case 0:
                return {k: v for k, v in value.items() if k != key}
            case 1:
                return value | {WORDS[rng.integers(len(WORDS))]: value[key]}
        return value | {key: _changed(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = int(rng.integers(len(value)))
        return [*value[:at], _changed(value[at], rng), *value[at + int(rng.integers(2)) :]]
    return NODES[rng.integers(len(NODES))]


def _node(content: bytes, rng: np.random.Generator) -> bytes:
    """Another value in a JSON file, with the digest that belongs to it."""
    value = json.loads(content)
    sealed = isinstance(value, dict) and value.pop("digest", None) is not None
    value = _changed(value, rng)
    if sealed and isinstance(value, dict):
        value["digest"] = digest(json_bytes(value))
    return json_bytes(value)


def _header(content: bytes, rng: np.random.Generator) -> bytes:
    size = int.from_bytes(content[:8], "little")
    header = json.dumps(_changed(json.loads(content[8 : 8 + size]), rng)).encode()
    return len(header).to_bytes(8, "little") + header + content[8 + size :]


def _member(content: bytes, rng: np.random.Generator) -> bytes:
    """An array in a .npz file, damaged before its checksum is taken."""
    archive, written = zipfile.ZipFile(io.BytesIO(content)), io.BytesIO()
    names = archive.namelist()
    chosen = names[rng.integers(len(names))]
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as other:
        for name in names:
            part = archive.read(name)
            other.writestr(name, _bytes(part, rng) if name == chosen else part)
    return written.getvalue()
