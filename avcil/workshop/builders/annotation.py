"""What annotation files say, row by row, before any medium is looked for."""

import csv
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, NamedTuple

import pandas as pd
from pydantic import AfterValidator, NonNegativeInt, TypeAdapter, ValidationError

from avcil.base.refusal import Refusal
from avcil.params.section import offence
from avcil.tokens.manifest import SPLITS, read_order
from avcil.workshop.npydict import index_npy


def is_clip_id(text: str) -> bool:
    """Whether a manifest can name a clip by it."""
    # blanks are printable, line ends and what a terminal obeys are not
    return text.isprintable() and text.strip() != ""


def _clip_id(text: str) -> str:
    if not is_clip_id(text):
        raise ValueError("a clip id that is blank or not printable")
    return text


# no negative ids: taken as a position, -1 would be the last class
_BY_CLASS = TypeAdapter(dict[NonNegativeInt, list[Annotated[str, AfterValidator(_clip_id)]]])


class BuilderError(Refusal):
    """Annotations or media that make no benchmark; one line: the file, the row as in an editor, and the way out."""


class AnnotatedClip(NamedTuple):
    """A clip as it is annotated. Clips of one ``video`` are parts of one recording. ``places``: files that hold the
    clip, best first, by a name of `report.media_index`, each with the second at which the clip begins."""

    clip_id: str
    label: str
    split: str
    video: str
    places: tuple[tuple[str, float], ...]

    @classmethod
    def of(cls, clip_id: str, label: str, split: str) -> "AnnotatedClip":
        """A clip in a file of its own name; one named <YouTube id>_<start second>, as in VGGSound, is of that video."""
        # ASCII, as YouTube's ids are; else letters of any alphabet would fit
        timed = re.fullmatch(r"([\w-]{11})_\d{6}", clip_id, re.ASCII)
        return cls(clip_id, label, split, timed[1] if timed else clip_id, ((clip_id, 0.0),))


@dataclass(frozen=True)
class Annotation:
    """All that a data set's own files say.

    classes: those to keep, in the order in which they are learnt; None: all, in an order drawn from seed 0.
    renamed: official names of labels that some files spell otherwise. redraw: for a split that the files leave open,
    the shares of the splits to draw from it. shots: how many training clips to keep of a class.
    files: .json files that belong beside the manifest, by name. notes: what the report adds. exact: places are paths
    below the folder of media, and no other names of files.
    """

    source: Path
    clips: list[AnnotatedClip]
    classes: list[str] | None = None
    renamed: dict[str, str] = field(default_factory=dict)
    redraw: dict[str, dict[str, float]] = field(default_factory=dict)
    shots: dict[str, int] = field(default_factory=dict)
    files: dict[str, object] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    exact: bool = False


def read_rows(
    path: Path, columns: Sequence[str], *, headless: bool = False, delimiter: str = ","
) -> Iterator[tuple[str, dict[str, str]]]:
    """Of each row its place, for messages, and its cells. Rows are counted as in an editor.

    headless: the header may be missing; then there are exactly ``columns``.
    """
    # in AVE's rows, which are divided by &, a quotation mark is a character as any other
    quoting = csv.QUOTE_MINIMAL if delimiter == "," else csv.QUOTE_NONE
    # nothing is guessed: 007 stays a text, NA may be a label, and an empty row counts as it does in an editor
    as_text = {"header": None, "dtype": str, "keep_default_na": False, "skip_blank_lines": False}
    try:
        # with -sig the mark that spreadsheets put in front is not taken for a part of the first name
        table = pd.read_csv(path, sep=delimiter, quoting=quoting, encoding="utf-8-sig", **as_text)
    except (OSError, ValueError) as error:  # ValueError: also pandas' own, and of what is not UTF-8
        reason = " ".join(str(error).split())
        way_out = "save it in UTF-8" if isinstance(error, UnicodeError) else "--help shows what is expected"
        raise BuilderError(f"{path}: cannot be read ({reason}); {way_out}") from None
    names = table.iloc[0].str.strip().tolist()
    lacking = [column for column in columns if column not in names]
    # without a header the number of columns is all that tells what they are
    if lacking and not (headless and len(names) == len(columns)):
        wanted = f"{', '.join(columns)} are expected, with `{delimiter}` between them"
        raise BuilderError(f"{path}, row 1: no column `{lacking[0]}`; {wanted}")
    first = 1
    if lacking:
        names, first = list(columns), 0
    # a dictionary would keep the last one without a word; of columns without names nobody reads any
    if twice := [name for number, name in enumerate(names) if name and name in names[:number]]:
        raise BuilderError(f"{path}, row 1: two columns `{twice[0]}`; delete or rename one")
    for number, cells in enumerate(table.to_numpy()[first:].tolist(), first + 1):
        if not any(cell.strip() for cell in cells):
            continue
        # of labels the report tells how they were written
        row = {n: c if n in ("label", "Category") else c.strip() for n, c in zip(names, cells, strict=True)}
        if empty := [column for column in columns if not row[column].strip()]:
            raise BuilderError(f"{path}, row {number}: no {empty[0]}; fill it in or delete the row")
        yield f"{path}, row {number}", row


def time(where: str, text: str) -> float:
    """A time in a file. Raises BuilderError unless it is a number that a manifest may have as `start`."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    # NaN fails both comparisons, so that what is no number is refused here too
    if not 0 <= value <= 1e9:
        raise BuilderError(f"{where}: `{text}` is no time in seconds; mend or delete the row")
    return value


def one_of(where: str, text: str, known: Sequence[str]) -> str:
    """``text``. Raises BuilderError if it is not known."""
    if text not in known:
        raise BuilderError(f"{where}: `{text}` is not one of {', '.join(known)}; mend or delete the row")
    return text


def read_classes(path: Path) -> list[str]:
    """Class names in the order of a .json list or of a `category_encode_dict.npy`, {name: place in the order}."""
    if path.suffix != ".npy":
        return read_order(path)
    ids = index_npy(path)
    plain = all(isinstance(name, str) and name.isprintable() for name in ids)
    # types as well, for True and 1.0 are equal to 1
    if not plain or {type(i) for i in ids.values()} != {int} or sorted(ids.values()) != list(range(len(ids))):
        raise BuilderError(f"{path}: not the ids 0, 1, 2, ... of class names; give category_encode_dict.npy")
    return sorted(ids, key=lambda name: ids[name])


def read_avcil(folder: Path, val_share: float | None = None) -> tuple[list[AnnotatedClip], list[str]] | None:
    """The clips as AV-CIL's authors released them (data/AVE and others), and the labels in their order; None if
    ``folder`` is none of theirs. Raises BuilderError if another share of val clips is wanted."""
    path = folder / "all_classId_vid_dict.npy"
    if not path.is_file():
        return None
    if val_share is not None:
        raise BuilderError(f"{folder}: has its own val clips; leave out --val-share")
    labels, members, clips = read_classes(folder / "category_encode_dict.npy"), index_npy(path), []
    try:
        for split in SPLITS:
            # strict, else the text "0" would pass for the class 0
            for class_id, ids in _BY_CLASS.validate_python(members[split], strict=True).items():
                clips += [AnnotatedClip.of(clip, labels[class_id], split) for clip in ids]
    # LookupError: of a split that is not there, or of an id beyond the labels
    except (ValidationError, LookupError) as error:
        reason = str(error)
        if isinstance(error, ValidationError):
            # in ASCII and cut short, for anything may stand there
            reason = f"{split}.{offence(error)}: {error.errors()[0]['input']!a:.300}"
        raise BuilderError(f"{path}: not {{split: {{class id: [clip]}}}} ({reason}); download it again") from None
    return clips, labels
