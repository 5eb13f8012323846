"""Import of tokens that somebody extracted with whatever encoder, from one .npz or .safetensors file.

    python -m avcil.workshop.import_tokens FILE                names, shapes, clips and classes, checked; no values
    python -m avcil.workshop.import_tokens FILE DESTINATION [--name OURS=THEIRS ...] [--scale S] [--encoder NAME]

The file holds, under these names or under those that --name gives:

    visual      [n,L,S,D]             S patches in each of L slots
    audio       [n,E] or [n,A,E]      one token, or A
    similarity  [n,L,S]               optional; how well each patch matches its sound, to be read as a logit
    loudness    [n,L]                 optional; where there is no similarity it is the change that loudness explains
                                      (avcil/tokens/guidance.py), in [0, 1]: rows want a prior_guidance of about 20
    region      [n,L,S]               optional; share of each patch that the sounding object covers, in [0, 1] or 0 to
                                      255: only the measures of attention read it
    label       [n]                   positions in `order`, or its words
    split       [n]                   0, 1, 2 or train, val, test
    clip_id     [n]                   any printable text
    order       [C]                   the classes in the order in which they are learnt
    scale       []                    what visual and audio are multiplied by where they are integers

In a .safetensors file, which holds no text, texts are lists in JSON among its metadata.

DESTINATION receives what `avcil.workshop.official` writes, with the store as features/NAME, and regions.npz where there
are regions. Nothing is unpickled. Of a .safetensors file a shard at a time is in memory, of a .npz file all of it.
"""

import argparse
import io
import json
import math
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from safetensors import safe_open
from torch import Tensor

from avcil.base.files import write_bytes
from avcil.base.refusal import Refusal
from avcil.tokens.guidance import explained_change
from avcil.tokens.manifest import SPLITS
from avcil.tokens.store import cost
from avcil.tokens.tokens import Layout
from avcil.workshop.builders.annotation import is_clip_id
from avcil.workshop.builders.report import lacking
from avcil.workshop.imports import BEYOND, TokensError, within_half, write_import

# visual comes first: by its clips, slots and patches the other arrays are then measured
SHAPES = {
    "visual": "nLSD", "audio": "nAE", "similarity": "nLS", "loudness": "nL", "region": "nLS", "label": "n",
    "split": "n", "clip_id": "n", "order": "C", "scale": "",
}  # fmt: skip
OPTIONAL = ("similarity", "loudness", "region", "scale")
KINDS = {"clip_id": "U", "order": "U", "label": "iuU", "split": "iuU"}  # NumPy's letters; of all others "fiu"
CHUNK = 16  # clips whose change over slots stands in memory as float64


class _Slices:
    """A tensor of a .safetensors file, read in parts, as NumPy has them: bfloat16 as float32."""

    def __init__(self, part):
        self.part, self.shape = part, tuple(part.get_shape())
        # of BF16 and BOOL the first letter is the same
        kind = part.get_dtype().replace("BF16", "F16")[0]
        self.dtype = np.dtype({"F": "f4", "I": "i8", "U": "u8", "B": "?", "C": "c8"}[kind])

    def __getitem__(self, rows: slice) -> np.ndarray:
        # NumPy has no bfloat16, so floating-point numbers leave torch as float32
        return (self.part[rows].float() if self.dtype.kind == "f" else self.part[rows]).numpy()


_Array = np.ndarray | _Slices


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


def _reader(path: Path) -> tuple[list[str], Callable[[str], _Array]]:
    """The names of the file's arrays, and what opens one of them."""
    if path.suffix == ".npz":
        # unless told otherwise NumPy unpickles nothing: an array of objects raises when it is opened
        archive = np.load(path)
        return archive.files, archive.__getitem__
    file = safe_open(path, framework="pt")
    texts = file.metadata() or {}

    def opened(name: str) -> _Array:
        if name in texts:
            return np.array(json.loads(texts[name]))
        part = file.get_slice(name)
        # a single number, such as the scale, cannot be sliced
        return _Slices(part) if part.get_shape() else file.get_tensor(name).float().numpy()

    return [*file.keys(), *texts], opened


def _arrays(path: Path, names: dict[str, str]) -> dict[str, _Array]:
    """The arrays that are there by our names, of the kinds and shapes that are wanted."""
    # else a misspelt name would be passed over, and the array under our own name read in its place
    if unknown := [name for name in names if name not in SHAPES]:
        raise TokensError(f"--name {unknown[0]}=...: no such array is read; those are {', '.join(SHAPES)}")
    if path.suffix not in (".npz", ".safetensors"):
        raise TokensError(f"{path}: neither .npz nor .safetensors; save it as one")
    try:
        there, opened = _reader(path)
    except Exception as error:  # of a damaged file NumPy's reader raises anything
        raise TokensError(f"{path}: cannot be read ({error}); write it again") from None
    arrays: dict[str, _Array] = {}
    sizes: dict[str, int] = {}
    for name, letters in SHAPES.items():
        theirs = names.get(name, name)
        if theirs not in there:
            # whoever names an optional array wants it, so that it has to be there
            if name in OPTIONAL and name not in names:
                continue
            listed = ", ".join(sorted(there)[:20])
            raise TokensError(f"{path}: no array `{theirs}`, wanted as {name}; say --name {name}=THEIRS, of {listed}")
        try:
            array = arrays[name] = opened(theirs)
        except Exception as error:
            raise TokensError(f"{path}: `{theirs}`: {error}; write it again, as a plain array") from None
        wanted = KINDS.get(name, "fiu")
        if array.dtype.kind not in wanted:
            kinds = " or ".join(wanted)
            raise TokensError(f"{path}: `{theirs}` is of kind {array.dtype.kind}, not of {kinds} (NumPy's letters)")
        # one token a clip needs no axis of tokens
        if name == "audio" and len(array.shape) == 2:
            letters = "nE"
        pairs = list(zip(letters, array.shape, strict=False))
        fits = len(letters) == len(array.shape) and all(array.shape)
        # the first array that has a letter settles its size, all later ones must agree
        if not fits or any(sizes.setdefault(letter, size) != size for letter, size in pairs):
            known = ", ".join(f"{letter} = {size}" for letter, size in sizes.items())
            raise TokensError(
                f"{path}: `{theirs}` is of shape {list(array.shape)}, not [{','.join(letters)}] ({known})"
            )
    return arrays


def _table(path: Path, columns: dict[str, list[Any]]) -> tuple[pd.DataFrame, list[str]]:
    """The manifest and the class order. Raises TokensError for the first clip or class that contradicts another."""
    order = columns.pop("order")
    # a class is written in the same cells as a clip
    if len(set(order)) < len(order) or not all(map(is_clip_id, order)):
        raise TokensError(f"{path}: a class of the order is empty, no plain text or there twice; name each once")
    # objects, so that a message quotes Python's own 4, not np.int64(4)
    written = pd.DataFrame(columns, dtype=object)[["clip_id", "label", "split"]]
    table = written.assign(
        # words and positions are both keys, for a file may hold either; all else becomes NaN, and is refused below
        label=written.label.map({name: name for name in order} | dict(enumerate(order))),
        split=written.split.map({name: name for name in SPLITS} | dict(enumerate(SPLITS))),
    )
    for column, wrong, way_out in (
        ("clip_id", ~written.clip_id.map(is_clip_id), "use printable characters, not blanks alone"),
        ("clip_id", written.clip_id.duplicated(), "an earlier clip has it too; give each its own"),
        ("label", table.label.isna(), "use positions or words of the order"),
        ("split", table.split.isna(), "use 0, 1, 2 or train, val, test"),
    ):
        if wrong.any():
            row = int(wrong.to_numpy().argmax())
            raise TokensError(f"{path}, clip {row}: {column} {written[column][row]!r}; {way_out}")
    if what := lacking(table, order):
        raise TokensError(f"{path}: {what}; add some, or leave the class out of the order")
    return table, order


def open_tokens(path: Path, *, names: dict[str, str] | None = None, scale: float | None = None) -> _Source:
    """Check names, shapes, clips and classes of a file of tokens.

    Args:
        names: their names by ours, where they differ.
        scale: in place of the file's own.

    Raises TokensError.
    """
    path = Path(path)
    arrays = _arrays(path, names or {})
    visual, audio = arrays["visual"], arrays["audio"]
    # these two alone may be stored in steps of a scale; other arrays are read as they are
    integers = [name for name in ("visual", "audio") if arrays[name].dtype.kind != "f"]
    if scale is not None and not integers:
        raise TokensError(f"{path}: no integers are there that a scale would be for; leave out --scale")
    # what the command line says goes before what the file says
    if scale is None and "scale" in arrays:
        scale = float(np.asarray(arrays["scale"]))
    # these columns are short and read whole; of a .safetensors file the tokens stay where they are
    table, order = _table(path, {name: arrays[name][:].tolist() for name in KINDS})
    # of a scale also 0, NaN and infinity are refused, which would spoil all tokens alike
    if integers and not (scale and 0 < scale < math.inf):
        raise TokensError(
            f"{path}: {integers[0]} holds integers, scale is {scale}; give --scale, the value of one step"
        )
    _, slots, patches, channels = visual.shape
    # regions.npz holds a square grid for each slot
    if "region" in arrays and math.isqrt(patches) ** 2 != patches:
        raise TokensError(f"{path}: regions of {patches} patches, which are no square grid; leave them out")
    tokens = audio.shape[1] if len(audio.shape) == 3 else 1
    layout = Layout(slots, patches, tokens, channels, audio.shape[-1])
    return _Source(path, arrays, table, order, 1.0 if scale is None else scale, layout)


def _shard(source: _Source, first: int, last: int) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tokens of the clips in [first, last), and the reasons why some of them are zero."""
    ids = source.table.clip_id[first:last].tolist()
    values: dict[str, Tensor] = {}
    unusable: dict[str, str] = {}
    for name in [name for name in ("visual", "audio", "similarity", "loudness") if name in source.arrays]:
        array = source.arrays[name]
        part = array[first:last].astype(np.float32)
        if name in ("visual", "audio") and array.dtype.kind != "f":
            part *= source.scale
        unusable |= {ids[row]: f"{name}: {BEYOND}" for row in np.flatnonzero(~within_half(part))}
        values[name] = torch.from_numpy(part)
    # a clip is unusable as a whole, and no NaN of it may reach the decomposition of changes below
    for part in values.values():
        part[[ids.index(clip) for clip in unusable]] = 0
    visual = values["visual"]
    similarity = values.get("similarity")
    if similarity is None and "loudness" in values:
        pairs = zip(visual.split(CHUNK), values["loudness"][..., None].split(CHUNK), strict=True)
        similarity = torch.cat([explained_change(*pair) for pair in pairs])
    # all patches alike: where to look has to be learnt from nothing
    if similarity is None:
        similarity = visual.new_zeros(visual.shape[:3])
    # the file may leave out the axis of a single token, the store does not
    audio = values["audio"].view(len(ids), source.layout.audio_tokens, -1)
    return {"visual": visual.half(), "audio": audio.half(), "similarity": similarity.half()}, unusable


def _regions(source: _Source) -> bytes:
    """regions.npz, as avcil/tokens/regions.py reads it. Raises TokensError for shares outside of their range."""
    array, (count, slots, patches) = source.arrays["region"], source.arrays["region"].shape
    region = array[:]
    # fractions become steps of 255; integers are such steps already
    if array.dtype.kind == "f":
        with np.errstate(over="ignore", invalid="ignore"):  # refused below
            region = np.rint(region * 255.0)
    # written so that NaN, which compares false, is refused too
    if not ((region >= 0) & (region <= 255)).all():
        wanted = "in [0, 1], or 0 to 255 as an integer"
        raise TokensError(f"{source.path}: a region is not {wanted}; mend or leave them out")
    side, content = math.isqrt(patches), io.BytesIO()
    region = region.astype(np.uint8).reshape(count, slots, side, side)
    np.savez_compressed(content, clip_id=source.table.clip_id.to_numpy(str), region=region)
    return content.getvalue()


def import_tokens(
    path: Path,
    destination: Path,
    *,
    names: dict[str, str] | None = None,
    scale: float | None = None,
    encoder: str = "imported",
) -> dict[str, str]:
    """Write manifest, class order, feature store and regions of a file of tokens; returns unusable clips with reasons.

    Those stay in the manifest and are quarantined in the store. Prints what the file holds and the store will take; a
    killed import goes on after its last shard. ``encoder`` names the store.

    Raises TokensError for what `open_tokens` refuses, damage, or a whole shard without usable clips; StoreError for
    another import at ``destination``, or too little space.
    """
    source, destination = open_tokens(path, names=names, scale=scale), Path(destination)
    # the name becomes a folder below features/
    if not re.fullmatch(r"\w[\w.-]*", encoder, re.ASCII):
        raise TokensError(f"--encoder {encoder!r}: use letters, digits, `_`, `-` and `.`")
    print(source)
    # before anything is written, so that a wrong region leaves nothing behind
    regions = _regions(source) if "region" in source.arrays else None
    guidance = next((name for name in ("similarity", "loudness") if name in source.arrays), "none")
    unusable = write_import(
        destination,
        source.table,
        source.order,
        source.layout,
        partial(_shard, source),
        encoder=encoder,
        revision="imported",
        # part of the store's header: with another scale or other names an import does not go on with these shards
        reading={"source": source.path.name, "names": names or {}, "scale": source.scale, "similarity": guidance},
        files=[source.path],
    )
    stores = [*(destination / "features").glob("[!.]*")]
    if regions is not None:
        write_bytes(destination / "regions.npz", regions)
    # those of an earlier import, which another encoder of the same clips may have brought
    elif len(stores) == 1:
        (destination / "regions.npz").unlink(missing_ok=True)
    return unusable


def _pair(text: str) -> tuple[str, str]:
    # the first sign divides, for their name may have one in it
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
    options = {"names": dict(given.name), "scale": given.scale}
    try:
        if given.destination is None:
            print(open_tokens(given.file, **options))
            print("names, shapes, clips and classes will do; values are read when it is imported")
        else:
            unusable = import_tokens(given.file, given.destination, encoder=given.encoder, **options)
            print("\n".join([f"unusable clips: {len(unusable)}", *(f"{c}: {why}" for c, why in unusable.items())]))
    except (Refusal, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
