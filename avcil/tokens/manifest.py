"""The manifest: one row a clip. Class orders, and the checks that come before any long work.

Columns: ``clip_id`` (unique), ``path`` (relative to the manifest's folder), ``label``, ``split`` (train, val or test),
and, where clips are parts of longer files, ``start`` (seconds into the file).
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import pandas as pd
from pydantic import AfterValidator, TypeAdapter

from avcil.base.files import check_seal, file_digest, json_bytes, write_with_seal
from avcil.base.refusal import Refusal

COLUMNS = ("clip_id", "path", "label", "split")
SPLITS = ("train", "val", "test")


def _each_once(order: list[str]) -> list[str]:
    if len(set(order)) < len(order):
        raise ValueError("a class occurs twice")
    return order


_Order = Annotated[list[str], AfterValidator(_each_once)]


class Media(NamedTuple):
    """Where a clip is: a file, and the second at which it begins."""

    path: Path
    start: float = 0.0


class ManifestError(Refusal):
    """A manifest that contradicts itself; the message names the row and the way out."""


def read_manifest(path: Path) -> pd.DataFrame:
    """Read and check a manifest.

    Raises ManifestError for a missing file or column, another digest than the one beside it, what is not CSV in UTF-8,
    a blank cell, a repeated clip_id or path, a path that leads out of the folder, an unknown split, or a class without
    training or test clips. Rows are counted as in an editor: the header is row 1.
    """
    path = Path(path)
    if not path.is_file():
        way_out = "`make repro` writes the benchmark's, a builder or importer that of other clips"
        raise ManifestError(f"{path}: no such file; {way_out}")
    # before it is parsed, so that damage is called damage and not a missing column
    _check_seal(path)
    try:
        # all as text: 007 keeps its zeros, and a clip or class called NA is no gap
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:  # also of pandas' parser, and of what is not UTF-8
        # pandas may say it in several lines, and a refusal has one
        reason = " ".join(str(error).split())
        raise ManifestError(f"{path}: not a CSV file ({reason}); save it as CSV in UTF-8") from None
    missing = [column for column in COLUMNS if column not in table]
    if missing:
        raise ManifestError(f"{path}: no column `{missing[0]}`; it needs {', '.join(COLUMNS)}")

    def refuse(rows: pd.Series, what: str, way_out: str) -> None:
        if rows.any():
            first = int(np.flatnonzero(rows)[0])
            shown = table.iloc[first]
            # the header is row 1, and positions begin at 0
            raise ManifestError(f"{path}, row {first + 2}: clip `{shown.clip_id}` {what.format(**shown)}; {way_out}")

    for column in COLUMNS:
        refuse(table[column].str.strip() == "", f"has no {column}", "fill it in or drop the row")
    refuse(table.clip_id.duplicated(), "occurs twice", "drop one of the rows")
    if "start" in table:
        # what is no number becomes NaN, which is between nothing, and the upper end keeps infinity out
        table["start"] = pd.to_numeric(table.start, errors="coerce")
        refuse(~table.start.between(0, 1e9), "has no start in seconds, 0 or later", "give one or drop the column")
    # at both slashes, whichever system wrote it
    outside = [path.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", path) for path in table.path]
    refuse(pd.Series(outside), "has the path `{path}`", "give one below the folder of the manifest, link it if need be")
    # of one file several clips may be cut, each with its own start
    place = [column for column in ("path", "start") if column in table]
    refuse(table.duplicated(place), "has the path `{path}` of an earlier row", "drop one of the rows")
    refuse(~table.split.isin(SPLITS), "has split `{split}`", "use train, val or test")
    # a class may do without validation clips: only choosing an epoch wants them (avcil/learn/train.py)
    for split in ("train", "test"):
        known = set(table.label[table.split == split])
        refuse(
            ~table.label.isin(known), "has label `{label}`" + f" without any {split} clip", "add some or drop the row"
        )
    return table


def _check_seal(path: Path) -> None:
    try:
        check_seal(path)
    except (ValueError, OSError) as error:
        raise ManifestError(str(error)) from None


def manifest_bytes(table: pd.DataFrame) -> bytes:
    """The same on every system."""
    return table.to_csv(index=False, lineterminator="\n").encode()


def write_manifest(path: Path, table: pd.DataFrame) -> None:
    """With its digest beside it, as `read_manifest` wants it where there is one."""
    write_with_seal(path, manifest_bytes(table))


def write_orders(path: Path, orders: Mapping[int, list[str]]) -> None:
    """The class order of each seed, with its digest beside it."""
    write_with_seal(path, json_bytes(orders))


def read_orders(path: Path) -> dict[int, list[str]]:
    """What `write_orders` wrote. Raises ManifestError naming the file if it is missing, damaged or something else."""
    return _read(path, dict[int, _Order])


def read_order(path: Path) -> list[str]:
    """The class order that came with a data set, a list in JSON. Raises ManifestError as `read_orders` does."""
    return _read(path, _Order)


def _read(path: Path, kind: Any) -> Any:
    _check_seal(path)
    try:
        # keys that JSON has as text become numbers, where the kind says so
        return TypeAdapter(kind).validate_json(path.read_bytes())
    except (OSError, ValueError) as error:
        # pydantic lists each entry that is wrong, and a line's worth of it will do
        reason = " ".join(str(error).split())[:200]
        raise ManifestError(f"{path}: no class order ({reason}); make it again") from None


def media(table: pd.DataFrame, folder: Path) -> dict[str, Media]:
    """Where each clip of a manifest in ``folder`` is, by clip_id."""
    starts = table.start if "start" in table else np.zeros(len(table))
    rows = zip(table.clip_id, table.path, starts, strict=True)
    return {clip: Media(folder / path, float(start)) for clip, path, start in rows}


def find_leaks(table: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """Pairs of clips with the same bytes, from the same start, in different splits: columns clip_id, split, twin,
    twin_split.

    Raises ManifestError for a row whose file is missing.
    """
    seen: dict[tuple[str, float], tuple[str, str]] = {}
    # of a long file that has many clips, once
    digests: dict[str, str] = {}
    leaks = []
    for row in table.itertuples():
        file = folder / row.path
        if not file.is_file():
            raise ManifestError(
                f"row {row.Index + 2}: clip `{row.clip_id}`: no file {file}; restore it or drop the row"
            )
        if row.path not in digests:
            digests[row.path] = file_digest(file)
        key = digests[row.path], float(getattr(row, "start", 0.0))
        # the first clip with these bytes stands for all of them
        twin, twin_split = seen.setdefault(key, (row.clip_id, row.split))
        if twin_split != row.split:
            leaks.append((row.clip_id, row.split, twin, twin_split))
    return pd.DataFrame(leaks, columns=["clip_id", "split", "twin", "twin_split"])


def class_order(table: pd.DataFrame, seed: int) -> list[str]:
    """The labels in the order in which they are learnt: a permutation drawn from ``seed``."""
    # sorted first, so that rows in another order give the same permutation
    labels = sorted(table.label.unique())
    return [labels[i] for i in np.random.default_rng((seed, 0)).permutation(len(labels))]


def class_index(table: pd.DataFrame, order: list[str]) -> np.ndarray:
    """Position of each row's label in ``order``. Raises ManifestError for a label that is not in it."""
    position = {label: i for i, label in enumerate(order)}
    unknown = ~table.label.isin(position)
    if unknown.any():
        row = int(np.flatnonzero(unknown)[0])
        label, clip = table.label.iloc[row], table.clip_id.iloc[row]
        message = (
            f"manifest row {row + 2}: clip `{clip}` has label `{label}`, not in the class order; add it or drop the row"
        )
        raise ManifestError(message)
    return table.label.map(position).to_numpy()
