"""What a list of labels says now: its clips by their content, the classes of each task, and their tokens."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import pandas as pd
from pydantic import TypeAdapter

from avcil.base.code import code_of
from avcil.base.files import digest, file_digest, read_sealed, unfinished, write_sealed
from avcil.base.refusal import Refusal
from avcil.extraction.extract import extract
from avcil.extraction.features import READING
from avcil.learn.methods import knows_absence
from avcil.learner.clips import ClipEncoder
from avcil.params import Params
from avcil.params.learning import Method
from avcil.tokens.dataset import incomplete_of
from avcil.tokens.manifest import media, read_manifest
from avcil.tokens.store import load_header, quarantined, read_store
from avcil.workshop.builders import folder
from avcil.workshop.builders.annotation import BuilderError
from avcil.workshop.builders.report import build, lacking


def digest_of(value: object) -> str:
    """Of anything that JSON can hold."""
    return digest(json.dumps(value, sort_keys=True).encode())


def link(source: str | Path, target: str | Path) -> None:
    """The same file under another name."""
    try:
        # tokens and checkpoints stand on the disk once, however many stores and runs have them
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copy2(source, target)


@contextmanager
def begun(place: Path) -> Iterator[Path]:
    """A folder to fill, which gets its name once it is whole. What a killed process leaves, `alone` clears away."""
    new = unfinished(place)
    new.mkdir(parents=True)
    yield new
    new.rename(place)


# ---- clips and classes


def read_clips(labels: Path) -> tuple[pd.DataFrame, list[str]]:
    """The manifest of the clips in a list of labels, and its classes in an order drawn from seed 0. Prints labels that
    were mended, and recordings that are on two sides of a split.

    A clip_id ends with the digest of the file, so that changed bytes are another clip; paths are as in the list. Rows
    are in the order of paths, so that clips of new classes leave the order of the others alone.

    Raises BuilderError for a list that cannot be used, a file that is not there, or a clip that is listed twice.
    """
    # built for its checks and its manifest: all else of the benchmark goes with the scratch folder
    with TemporaryDirectory() as scratch:
        report = build("folder", folder.read(labels), labels.parent, Path(scratch))
        table = read_manifest(Path(scratch) / "manifest.csv")
    if report.missing:
        more = f" and {len(report.missing) - 1} more" if len(report.missing) > 1 else ""
        raise BuilderError(f"{labels}: no file `{report.missing[0]}`{more}; correct the path or delete the row")
    # as in the list: `clips` was the link in the scratch folder
    table["path"] = table.path.str.removeprefix("clips/")
    # a film that holds several clips is read once
    table["content"] = table.path.map({path: file_digest(labels.parent / path) for path in table.path.unique()})
    # the same bytes under two names would be learnt twice, or learnt and tested
    again = table.duplicated(["content", "start"])
    if again.any():
        second = table[again].iloc[0]
        first = table[(table.content == second.content) & (table.start == second.start)].iloc[0]
        raise BuilderError(f"{labels}: `{first.path}` and `{second.path}` are the same clip; delete one of the rows")
    for wrong, label in report.mended_labels.items():
        print(f"label `{wrong}` is read as `{label}`")
    if leaks := [f"{pair}: {of}" for pair, of in report.leaks_in_words.items() if report.leaks[pair]["clips"]]:
        print(f"clips whose recording is in another split too: {'; '.join(leaks)}")
    table["clip_id"] += "#" + table.content
    return table.drop(columns="content").sort_values("clip_id", ignore_index=True), report.order


class Division(NamedTuple):
    """How many tasks were asked for, and the classes of each: all that a folder ever had."""

    asked: int | None
    tasks: list[list[str]]

    def of(self, drawn: list[str]) -> list[list[str]]:
        """The tasks of the classes that are there now."""
        tasks = [[label for label in task if label in drawn] for task in self.tasks]
        # a task of which no class is there now is none
        return [task for task in tasks if task]


def in_words(tasks: list[list[str]]) -> str:
    """One line, whatever a label has in it."""
    return " | ".join(", ".join(f"`{label}`" for label in task) for task in tasks)


def classes_by_task(file: Path, drawn: list[str], asked: int | None, most: int) -> Division:
    """The classes of each task, to be kept in ``file``: those that are new there are a task at the end, the others stay
    where they are, and those that are gone keep their place, for they may come back. Prints what changes.

    Args:
        drawn: all classes, in the order in which new ones are learnt.
        asked: so many tasks. Another number than the last time cuts the classes anew.
        most: tasks at first, if ``asked`` is None: two classes each, but not more tasks than that.

    Raises ValueError for more tasks than classes, a single class, or a file of other classes altogether.
    """
    if len(drawn) < 2:
        raise ValueError(f"only the class `{drawn[0]}`: there is nothing to tell apart; label clips of a second one")
    if asked is not None and not 1 <= asked <= len(drawn):
        raise ValueError(f"--tasks {asked}: there are {len(drawn)} classes; give 1 to {len(drawn)}")
    try:
        before = TypeAdapter(Division).validate_python(read_sealed(file)) if file.exists() else None
    # pydantic's is one, and so is that of a damaged file, whose own way out is to delete all that was learnt beside it
    except ValueError:
        what = "damaged, or of another version; delete it, and classes are divided into tasks anew"
        raise Refusal(f"{file}: {what}") from None
    known = {label for task in before.tasks for label in task} if before else set()
    # that none of its classes is known says that the folder is of another list
    if before and not known & set(drawn):
        raise ValueError(f"{file.parent}: holds results of other classes; give --to another folder")
    # without another wish the division stands, and only grows
    if before and asked in (None, before.asked):
        new = [label for label in drawn if label not in known]
        division = before._replace(tasks=[*before.tasks, new] if new else before.tasks)
    else:
        count = asked or min(most, max(1, len(drawn) // 2))
        # as even as they divide, earlier tasks having the one class more
        division = Division(asked, [part.tolist() for part in np.array_split(drawn, count)])
    # also where a class has gone or come back, which leaves the file as it is
    if before and before.tasks != division.of(drawn):
        print(f"{file}: the tasks were {in_words(before.tasks)}")
    return division


# ---- tokens


def extract_tokens(
    table: pd.DataFrame, folder: Path, encoder: str, params: Params, place: Path, priors: Path
) -> tuple[Path, dict[str, str]]:
    """The feature store of the clips of ``table`` in ``folder``, below ``place``, and its unusable clips with reasons.

    Only clips that no store of this encoder has yet are decoded and encoded. One at a time: the tokens of a clip are
    the same bits whatever clips it came with.
    """
    # of `features` these alone decide what a clip's tokens are
    chosen = ClipEncoder.of_params(encoder, params, priors).model_dump(exclude={"features"})
    # and the code that makes them, so that tokens of an older one are not taken for these
    how = chosen, params.features.silence, params.features.incomplete, digest(code_of(("encoders/*.py", *READING)))
    # absolute: reasons that a store keeps are read from other folders too
    clips = media(table, folder.absolute())
    store = place / f"{encoder}-{digest_of(how)}" / digest_of(list(clips))
    _begin_store(store, list(clips))
    # a shard a clip, so that other stores can link it; and however many clips are unusable, it is said of each
    features = params.features.model_copy(update={"clips_per_shard": 1, "quarantine_share": 1.0})
    adapted = params.model_copy(update={"features": features})
    # `replace`: the same settings with other weights
    header = extract(encoder, clips, adapted, store, replace=True, priors=priors)
    return store, quarantined(store, range(len(header.shards)))


def _begin_store(store: Path, clips: list[str]) -> None:
    """Begin a store with the shards of the one beside it that has most of its clips. Files as in avcil/tokens/store.py;
    the header comes along, so that shards of other weights are not taken for these."""
    others = [file.parent for file in store.parent.glob("*/header.json")]
    if store.exists() or not others:
        return
    headers = {other: load_header(other) for other in others}
    best = max(others, key=lambda other: len({*headers[other].clip_ids} & {*clips}))
    known = {clip: number for number, clip in enumerate(headers[best].clip_ids)}
    with begun(store) as unfinished:
        for number, clip in enumerate(clips):
            for suffix in (".safetensors", ".json"):
                # of a clip that the other store lacks it asks for shard -0001, which there never is
                if (shard := best / f"{known.get(clip, -1):05d}{suffix}").exists():
                    link(shard, unfinished / f"{number:05d}{suffix}")
        write_sealed(unfinished / "header.json", headers[best]._replace(clip_ids=clips).as_json())


def check_whole(table: pd.DataFrame, store: Path, methods: Mapping[str, Method]) -> None:
    """Raises BuilderError for a class of which each training clip lacks its sound or picture, where a row does without
    such clips."""
    others = [row for row, method in methods.items() if not knows_absence(method)]
    content = read_store(store)
    if not others or (incomplete := incomplete_of(content)) is None:
        return
    lame = {clip for clip, lacks in zip(content.header.clip_ids, incomplete.tolist(), strict=True) if lacks}
    learnt = table[table.split == "train"]
    if lost := sorted({*learnt.label} - {*learnt.label[~learnt.clip_id.isin(lame)]}):
        what = f"each training clip of `{lost[0]}` lacks its sound or its picture, and {others[0]} learns from none"
        raise BuilderError(f"{what}; add a whole one, or leave the row out")


def drop_unusable(table: pd.DataFrame, unusable: dict[str, str], labels: Path) -> pd.DataFrame:
    """The clips that can be used; the others are printed. Raises BuilderError for a class that lost all of a split."""
    # of a file that holds several clips the reason tells which file, not which row
    several = table.path.duplicated(keep=False)
    for clip, start, which in zip(table.clip_id, table.start, several, strict=True):
        if clip in unusable:
            print(f"left out: {unusable[clip]}" + f" (start {start:.10g})" * which)
    left = table[~table.clip_id.isin(unusable)]
    # of all classes in the list, so that one whose clips are all unusable is noticed
    if what := lacking(left, sorted(set(table.label))):
        raise BuilderError(f"{labels}: {what} is left, as {len(unusable)} clips cannot be used; replace them")
    return left
