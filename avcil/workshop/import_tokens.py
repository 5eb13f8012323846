"""Import of tokens that somebody extracted with whatever encoder, from one .npz or .safetensors file.

    python -m avcil.workshop.import_tokens FILE                what is in it, and whether it can be imported
    python -m avcil.workshop.import_tokens FILE DESTINATION [--name OURS=THEIRS ...] [--scale S] [--encoder NAME]

The file holds, under these names or under those that --name gives:

    visual      [n,L,S,D]             S patches in each of L slots
    audio       [n,D'] or [n,A,D']    one token, or A
    similarity  [n,L,S]               optional; how well each patch matches its sound, to be read as a logit
    loudness    [n,L]                 optional; where there is no similarity it is the change that loudness explains
                                      (avcil/tokens/guidance.py), in [0, 1]: rows want a prior_guidance of about 20
    region      [n,L,S]               optional; share of each patch that the sounding object covers, in [0, 1] or 0 to
                                      255: only the measures of attention read it
    label       [n]                   positions in `order`, or its words
    split       [n]                   0, 1, 2 or train, val, test
    clip_id     [n]                   letters, digits, `_`, `-`, `.`
    order       [C]                   the classes in the order in which they are learnt
    scale       []                    what visual and audio are multiplied by where they are integers

In a .safetensors file, which holds no text, texts are lists in JSON among its metadata.

DESTINATION receives what `avcil.workshop.official` writes, with the store as features/NAME, and regions.npz where there
are regions. Nothing is unpickled, and a shard at a time is in memory.
"""

import argparse
import io
import json
import math
import re
import sys
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError, safe_open

from avcil.base.files import digest, write_bytes
from avcil.base.refusal import Refusal
from avcil.tokens.guidance import explained_change
from avcil.tokens.manifest import SPLITS
from avcil.tokens.store import Header, StoreError, cost
from avcil.tokens.tokens import Layout
from avcil.workshop.official import SHARD_BYTES, lacking, write_import

SHAPES = {
    "visual": "nLSD", "audio": "nAD", "similarity": "nLS", "loudness": "nL", "region": "nLS", "label": "n",
    "split": "n", "clip_id": "n", "order": "C", "scale": "",
}  # fmt: skip
OPTIONAL = ("similarity", "loudness", "region", "scale")
TEXTS = ("clip_id", "order")
CHUNK = 16  # clips whose change over slots stands in memory as float64


class TokensError(Refusal):
    """A file of tokens that cannot be imported; one line that names the array, what is wrong and the way out."""


class _Array(NamedTuple):
    """An array that stays in its file, read by ``rows(start, stop)``. kind, as in NumPy: f, i, u, U or another. wrong:
    why it cannot be read, if so."""

    shape: tuple[int, ...]
    kind: str
    rows: Callable[[int, int], np.ndarray]
    wrong: str = ""

    def all(self) -> np.ndarray:
        return self.rows(0, self.shape[0]) if self.shape else self.rows(0, 1)


class _Source(NamedTuple):
    """A checked file: its arrays by our names, its clips, and what all integers are multiplied by."""

    path: Path
    arrays: dict[str, _Array]
    table: pd.DataFrame
    order: list[str]
    scale: float
    layout: Layout

    def __str__(self) -> str:
        counts = self.table.split.value_counts()
        lines = [f"{name}: {list(array.shape)}" for name, array in self.arrays.items()]
        clips = ", ".join(f"{counts.get(split, 0)} {split}" for split in SPLITS)
        return "\n".join([*lines, f"clips: {clips}; {len(self.order)} classes", cost(self.layout, len(self.table))])


def _npy(archive: zipfile.ZipFile, member: str) -> _Array:
    """A member of a .npz file; its header is checked against its size, and its values are read when asked for."""
    file = archive.open(member)
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    start, step = file.tell(), dtype.itemsize * math.prod(shape[1:])
    if dtype.hasobject or (fortran and len(shape) > 1):
        raise ValueError("holds Python objects" if dtype.hasobject else "is in Fortran order")
    if start + dtype.itemsize * math.prod(shape) != archive.getinfo(member).file_size:
        raise ValueError("is not as large as its header says")

    def rows(first: int, last: int) -> np.ndarray:
        file.seek(start + first * step)
        return np.frombuffer(file.read((last - first) * step), dtype).reshape(
            -1 if not shape else last - first, *shape[1:]
        )

    return _Array(shape, dtype.kind, rows)


def _read_npz(path: Path) -> dict[str, _Array]:
    archive, arrays = zipfile.ZipFile(path), {}
    for member in archive.namelist():
        try:
            arrays[member.removesuffix(".npy")] = _npy(archive, member)
        except Exception as error:  # NumPy's parser of a damaged header raises anything, its tokenizer's errors too
            # what nobody asks for may be anything
            arrays[member.removesuffix(".npy")] = _Array((), "", lambda first, last: np.empty(0), str(error))
    return arrays


def _read_safetensors(path: Path) -> dict[str, _Array]:
    file = safe_open(path, framework="pt")

    def lazy(name: str) -> _Array:
        part = file.get_slice(name)
        kind = {"F": "f", "B": "f", "I": "i", "U": "u"}[part.get_dtype()[0]] if part.get_dtype() != "BOOL" else "b"

        def rows(first: int, last: int) -> np.ndarray:
            values = part[first:last] if part.get_shape() else file.get_tensor(name).reshape(1)
            return (values.float() if kind == "f" else values).numpy()

        return _Array(tuple(part.get_shape()), kind, rows)

    arrays = {name: lazy(name) for name in file.keys()}  # noqa: SIM118  it is no dictionary
    for name, text in (file.metadata() or {}).items():
        words = json.loads(text) if text.startswith("[") else None
        if words and all(isinstance(word, str) for word in words):
            arrays[name] = _Array((len(words),), "U", partial(_part, np.array(words)))
    return arrays


def _part(values: np.ndarray, first: int, last: int) -> np.ndarray:
    return values[first:last]


def _arrays(path: Path, names: dict[str, str]) -> dict[str, _Array]:
    """The arrays that are there by our names, of the kinds and shapes that are wanted. Reads no values."""
    if unknown := [name for name in names if name not in SHAPES]:
        raise TokensError(f"--name {unknown[0]}=...: no such array is read; those are {', '.join(SHAPES)}")
    read = {".npz": _read_npz, ".safetensors": _read_safetensors}.get(path.suffix)
    if read is None or not path.is_file():
        raise TokensError(f"{path}: " + ("no such file" if read else "neither .npz nor .safetensors; save it as one"))
    try:
        there = read(path)
    except (OSError, zipfile.BadZipFile, zlib.error, SafetensorError, ValueError, KeyError, EOFError) as error:
        raise TokensError(f"{path}: cannot be read ({error}); write it again") from None
    arrays: dict[str, _Array] = {}
    sizes: dict[str, int] = {}
    for name, letters in SHAPES.items():
        theirs = names.get(name, name)
        if theirs not in there:
            if name in OPTIONAL and name not in names:
                continue
            listed = ", ".join(sorted(there)[:20])
            raise TokensError(f"{path}: no array `{theirs}`, wanted as {name}; say --name {name}=THEIRS, of {listed}")
        array = arrays[name] = there[theirs]
        if array.wrong:
            raise TokensError(f"{path}: `{theirs}` {array.wrong}; save it as a plain array in C order")
        wanted = "U" if name in TEXTS else "iuU" if name in ("label", "split") else "fiu"
        if array.kind not in wanted:
            raise TokensError(
                f"{path}: `{theirs}` is of kind {array.kind}, not of {' or '.join(wanted)} (NumPy's letters)"
            )
        if name == "audio" and len(array.shape) == 2:
            letters = "nD"
        # audio has channels and tokens of its own
        own = {letter: f"audio {letter}" for letter in "AD"} if name == "audio" else {}
        fits = len(array.shape) == len(letters) and all(array.shape)
        if fits:
            fits = all(
                sizes.setdefault(own.get(a, a), size) == size for a, size in zip(letters, array.shape, strict=True)
            )
        if not fits:
            known = ", ".join(
                f"{letter} = {size}" for letter, size in sizes.items() if len(letter) == 1 and letter != "C"
            )
            raise TokensError(
                f"{path}: `{theirs}` is of shape {list(array.shape)}, not [{','.join(letters)}] ({known})"
            )
    return arrays


def _column(array: _Array) -> list[Any]:
    return [str(value) if array.kind == "U" else int(value) for value in array.all()]


def _table(path: Path, arrays: dict[str, _Array]) -> tuple[pd.DataFrame, list[str]]:
    """The manifest and the class order. Raises TokensError for the first clip or class that contradicts another."""
    columns = (arrays[name] for name in ("clip_id", "order", "label", "split"))
    clips, order, labels, splits = (_column(array) for array in columns)
    seen: dict[str, int] = {}
    for row, clip in enumerate(clips):
        if not re.fullmatch(r"[\w.-]+", clip, re.ASCII):
            raise TokensError(f"{path}, clip {row}: id {clip!r}; use letters, digits, `_`, `-` and `.`")
        if seen.setdefault(clip, row) != row:
            raise TokensError(f"{path}, clip {row}: id `{clip}` is that of clip {seen[clip]} too; give each its own")
    position = {name: name for name in order} | dict(enumerate(order))
    if len(set(order)) < len(order) or not all(name and name.isprintable() for name in order):
        raise TokensError(f"{path}: a class of the order is empty, no plain text or there twice; name each once")
    by_split = {name: name for name in SPLITS} | dict(enumerate(SPLITS))
    for what, values, known in (("label", labels, position), ("split", splits, by_split)):
        wrong = next((row for row, value in enumerate(values) if value not in known), None)
        if wrong is not None:
            way_out = f"use {'0, 1, 2 or train, val, test' if what == 'split' else 'positions or words of the order'}"
            raise TokensError(f"{path}, clip {wrong}: `{clips[wrong]}` has {what} {values[wrong]!r}; {way_out}")
    table = pd.DataFrame(
        {"clip_id": clips, "label": [position[v] for v in labels], "split": [by_split[v] for v in splits]}
    )
    if missing := lacking(order, set(zip(table.split, table.label, strict=True))):
        raise TokensError(f"{path}: {missing}; add some, or leave the class out of the order")
    return table, order


def open_tokens(path: Path, *, names: dict[str, str] | None = None, scale: float | None = None) -> _Source:
    """Check names, shapes, clips and classes of a file of tokens, reading nothing that is large.

    Args:
        names: their names by ours, where they differ.
        scale: in place of the file's own.

    Raises TokensError.
    """
    path = Path(path)
    arrays = _arrays(path, names or {})
    visual, audio = arrays["visual"], arrays["audio"]
    try:
        if scale is None and "scale" in arrays:
            scale = float(arrays["scale"].all().reshape(-1)[0])
        integers = [name for name in ("visual", "audio") if arrays[name].kind != "f"]
        if bool(integers) != (scale is not None) and (integers or "scale" not in arrays):
            what = f"{integers[0]} holds integers" if integers else "no integers are there that a scale would be for"
            raise TokensError(f"{path}: {what}; {'give' if integers else 'leave out'} --scale")
        if scale is not None and not (math.isfinite(scale) and scale > 0):
            raise TokensError(f"{path}: scale {scale}; give --scale, the value of one step")
        table, order = _table(path, arrays)
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, SafetensorError) as error:
        raise TokensError(f"{path}: damaged ({error}); write it again") from None
    if "region" in arrays and math.isqrt(visual.shape[2]) ** 2 != visual.shape[2]:
        raise TokensError(f"{path}: regions of {visual.shape[2]} patches, which are no square grid; leave them out")
    tokens = audio.shape[1] if len(audio.shape) == 3 else 1
    _, slots, patches, channels = visual.shape
    layout = Layout(slots, patches, tokens, channels, audio.shape[-1])
    return _Source(path, arrays, table, order, 1.0 if scale is None else scale, layout)


def _shard(source: _Source, first: int, last: int) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tokens of the clips in [first, last), and the reasons why some of them are zero."""
    ids = source.table.clip_id[first:last].tolist()
    values: dict[str, torch.Tensor] = {}
    bad: dict[str, str] = {}
    for name in [name for name in ("visual", "audio", "similarity", "loudness") if name in source.arrays]:
        array = source.arrays[name]
        try:
            part = array.rows(first, last).astype(np.float32)
        except (OSError, ValueError, zipfile.BadZipFile, zlib.error, EOFError, SafetensorError) as error:
            raise TokensError(f"{source.path}: {name} of clip {first} is damaged ({error}); write it again") from None
        if name in ("visual", "audio") and array.kind != "f":
            part *= source.scale
        usable = (np.abs(part) <= np.finfo(np.float16).max).reshape(len(ids), -1).all(1)
        bad |= {ids[row]: f"{name}: NaN, or a value beyond float16 (65504)" for row in np.flatnonzero(~usable)}
        values[name] = torch.from_numpy(part)
    if len(bad) == len(ids):
        raise TokensError(f"{source.path}: no usable clip from `{ids[0]}` to `{ids[-1]}`: {bad[ids[0]]}")
    for part in values.values():
        part[[ids.index(clip) for clip in bad]] = 0
    visual = values["visual"]
    similarity = values.get("similarity")
    if similarity is None and "loudness" in values:
        pairs = zip(visual.split(CHUNK), values["loudness"][..., None].split(CHUNK), strict=True)
        similarity = torch.cat([explained_change(*pair) for pair in pairs])
    if similarity is None:
        similarity = visual.new_zeros(visual.shape[:3])
    audio = values["audio"].view(len(ids), source.layout.audio_tokens, -1)
    return {"visual": visual.half(), "audio": audio.half(), "similarity": similarity.half()}, bad


def _regions(source: _Source) -> bytes:
    """regions.npz, as avcil/tokens/dataset.py reads it. Raises TokensError for shares outside of their range."""
    array = source.arrays["region"]
    region = array.all()
    if array.kind == "f":
        region = np.rint(region * 255.0)
    if not ((region >= 0) & (region <= 255)).all():
        raise TokensError(
            f"{source.path}: a region is not in [0, 1], or 0 to 255 as an integer; mend or leave them out"
        )
    count, slots, patches = region.shape
    side, content = math.isqrt(patches), io.BytesIO()
    region = region.astype(np.uint8).reshape(count, slots, side, side)
    np.savez_compressed(content, clip_id=source.table.clip_id.to_numpy(str), region=region)
    return content.getvalue()


def _checksum(path: Path) -> str:
    """Digest of a file's size and of 256 blocks spread over it: tokens that were extracted anew differ everywhere."""
    size, total = path.stat().st_size, ""
    with path.open("rb") as file:
        for block in range(256):
            file.seek(size * block // 256)
            total += digest(file.read(1 << 16))
    return digest(f"{size} {total}".encode())


def import_tokens(
    path: Path,
    destination: Path,
    *,
    names: dict[str, str] | None = None,
    scale: float | None = None,
    encoder: str = "imported",
) -> dict[str, str]:
    """Write manifest, class order, feature store and regions of a file of tokens; returns unusable clips with reasons.

    Those stay in the manifest and are quarantined in the store. Prints what the store will take; a killed import goes
    on after its last shard. ``encoder`` names the store.

    Raises TokensError for what `open_tokens` refuses, damage, or a whole shard without usable clips; StoreError for
    another import at ``destination``, or too little space.
    """
    source, destination = open_tokens(path, names=names, scale=scale), Path(destination)
    if not re.fullmatch(r"\w[\w.-]*", encoder, re.ASCII):
        raise TokensError(f"--encoder {encoder!r}: use letters, digits, `_`, `-` and `.`")
    regions = _regions(source) if "region" in source.arrays else None
    guidance = next((name for name in ("similarity", "loudness") if name in source.arrays), "none")
    reading = {"source": source.path.name, "names": names or {}, "scale": source.scale, "similarity": guidance}
    size = max(1, SHARD_BYTES // source.layout.clip_bytes)
    ids = source.table.clip_id.tolist()
    header = Header(encoder, "imported", _checksum(source.path), reading, source.layout, ids, size)
    starts = {shard[0]: number * size for number, shard in enumerate(header.shards)}
    unusable = write_import(
        destination,
        source.table,
        source.order,
        header,
        lambda ids: _shard(source, starts[ids[0]], starts[ids[0]] + len(ids)),
    )
    if regions is not None:
        write_bytes(destination / "regions.npz", regions)
    return unusable


def _pair(text: str) -> tuple[str, str]:
    ours, equals, theirs = text.partition("=")
    if not (ours and equals and theirs):
        raise argparse.ArgumentTypeError(f"`{text}` is not OURS=THEIRS")
    return ours, theirs


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m avcil.workshop.import_tokens", description="Import tokens from one .npz or .safetensors file."
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("destination", type=Path, nargs="?", help="where to write; without it, only report")
    parser.add_argument("--name", type=_pair, action="append", default=[], metavar="OURS=THEIRS", help="of an array")
    parser.add_argument("--scale", type=float, help="what integers are multiplied by, if the file does not say")
    parser.add_argument("--encoder", default="imported", help="name of the store")
    given = parser.parse_args(arguments)
    names = dict(given.name)
    try:
        print(open_tokens(given.file, names=names, scale=given.scale))
        if given.destination is not None:
            options = {"names": names, "scale": given.scale, "encoder": given.encoder}
            unusable = import_tokens(given.file, given.destination, **options)
            print("\n".join([f"unusable clips: {len(unusable)}", *(f"{c}: {why}" for c, why in unusable.items())]))
    except (TokensError, StoreError, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
