"""The part that all builders share: from annotations and media to a benchmark, and what is wrong with them.

A benchmark is a folder:

    clips          a link to the folder of media
    manifest.csv   clip_id, path (clips/<file>), label, split, start (seconds into the file)
    order.json     the labels in the order in which they are learnt
    report.json    a `Report`; written last

What is drawn, or left out to keep videos apart, depends on annotations alone, whatever media are missing.
"""

import os
import re
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from avcil.base.files import json_bytes, unfinished, write_with_seal
from avcil.base.progress import progress
from avcil.learner.labels import tidy
from avcil.params.section import nearest
from avcil.tokens.manifest import SPLITS, class_order
from avcil.workshop.builders import draw
from avcil.workshop.builders.annotation import AnnotatedClip, Annotation, BuilderError

VIDEO = {".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".flv"}
AUDIO = {".wav", ".flac", ".mp3", ".ogg", ".m4a"}


class Report(NamedTuple):
    """What a benchmark holds, and what was wrong with its annotations and media.

    missing: clips without a medium, left out. repeated: listed more than once, kept once. two_labels: by clip, in the
    order of the files; the last is kept. two_splits: listed in two splits, left out. mended_labels: what became of
    labels spelled otherwise. leaks: clips of one split whose video has a clip in another, their share, and how many of
    them are of the same class. dropped: by video_disjoint.
    """

    benchmark: str
    source: str
    order: list[str]
    clips: dict[str, int]
    per_class: dict[str, dict[str, int]]
    missing: list[str]
    repeated: list[str]
    two_labels: dict[str, list[str]]
    two_splits: list[str]
    mended_labels: dict[str, str]
    leaks: dict[str, dict[str, float]]
    dropped: dict[str, int]
    notes: dict[str, str]

    @property
    def leaks_in_words(self) -> dict[str, str]:
        of = "{clips} ({share:.1%}), {same_class} of the same class"
        return {pair: of.format(**leak) for pair, leak in self.leaks.items()}

    def __str__(self) -> str:
        """A line for each field; of many items the first three."""
        fields = self._asdict()
        fields["per_class"] = {
            split: f"{column.min()} (`{column.idxmin()}`) to {column.max()}, median {column.median():g}"
            for split, column in pd.DataFrame(self.per_class).T.items()
        }
        fields["leaks"] = self.leaks_in_words
        lines = [f"{fields.pop('benchmark')}, from {fields.pop('source')}"]
        for name, value in fields.items():
            items = [f"{key}: {item}" for key, item in value.items()] if isinstance(value, dict) else value
            many = f"{len(items)}, such as {'; '.join(items[:3])}"
            lines.append(f"{name}: {many if len(items) > 6 else '; '.join(items) or 'none'}")
        return "\n".join(lines)


def media_index(folder: Path) -> dict[str, str]:
    """Files under ``folder`` by their relative path, and media also without suffix, without folder, and by YouTube id
    alone where start and end follow it (Kinetics). Of files of one name a video comes before a sound."""
    if not folder.is_dir():
        raise BuilderError(f"{folder}: no such folder; give the one with the media")
    walk = progress(os.walk(folder), desc="media", unit=" folders")
    files = [Path(place, name).relative_to(folder) for place, _, names in walk for name in names]
    index: dict[str, str] = {}
    # the first file of a name is kept, and sorted it is the same one on every file system
    for file in sorted(files, key=lambda file: (file.suffix.lower() in AUDIO, file)):
        path = file.as_posix()
        index.setdefault(path, path)
        # any other file is found by its whole path alone
        if file.suffix.lower() in VIDEO | AUDIO:
            timed = re.fullmatch(r"(.{11})_\d{6}_\d{6}", file.stem)
            for name in (path.removesuffix(file.suffix), file.stem, *(timed.groups() if timed else ())):
                index.setdefault(name, path)
    return index


def _tidy(labels: pd.Series, renamed: dict[str, str]) -> tuple[pd.Series, dict[str, str]]:
    """Labels without stray blanks, under their official names, and of names that differ in case only the commonest;
    and what became of the others."""
    named = labels.map(tidy).replace(renamed)
    # of spellings that are equally common, `mode` puts the first of the alphabet first
    named = named.groupby(named.str.casefold()).transform(lambda names: names.mode()[0])
    changed = named != labels
    return named, dict(zip(labels[changed], named[changed], strict=True))


def _order(annotation: Annotation, labels: set[str]) -> list[str]:
    """The classes in the order in which they are learnt. Raises BuilderError for one without clips."""
    # a list of classes may be written in either spelling too, and is tidied as labels are
    order = [annotation.renamed.get(name, name) for name in map(tidy, annotation.classes or sorted(labels))]
    if unknown := [f"`{name}`{nearest(name, labels)}" for name in order if name not in labels]:
        raise BuilderError(f"{annotation.source}: no clip of {', '.join(unknown)}; correct or drop these classes")
    if twice := [name for i, name in enumerate(order) if name in order[:i]]:
        raise BuilderError(f"{annotation.source}: `{twice[0]}` is listed under two names; drop one from the classes")
    return order if annotation.classes else class_order(pd.DataFrame({"label": order}), 0)


def _unique(clips: pd.DataFrame) -> tuple[pd.DataFrame, dict]:
    """Every clip once, and what `Report` says of the others."""
    by_clip = clips.groupby("clip_id", sort=False)
    # left out of both, as in AV-CIL, rather than given to one of them
    torn = by_clip.split.transform("nunique") > 1
    ambiguous = by_clip.label.transform("nunique") > 1
    # plain repetitions; clips torn between splits or labels are listed as such
    again = clips.duplicated("clip_id") & ~torn & ~ambiguous
    fields = {
        "repeated": sorted(set(clips.clip_id[again])),
        "two_labels": {clip: list(dict.fromkeys(same.label)) for clip, same in clips[ambiguous].groupby("clip_id")},
        "two_splits": sorted(set(clips.clip_id[torn])),
    }
    # of two labels the last, as in AV-CIL
    return clips[~torn].drop_duplicates("clip_id", keep="last"), fields


def select(annotation: Annotation, *, split_seed: int = 0, video_disjoint: bool = False) -> tuple[pd.DataFrame, dict]:
    """The clips to look for, as a table of `AnnotatedClip`, and what `Report` says of the annotation. Arguments as of
    `build`.

    Raises BuilderError for an annotation without clips, or classes that are unknown.
    """
    if not annotation.clips:
        raise BuilderError(f"{annotation.source}: no clips; --help shows what is expected")
    clips = pd.DataFrame(annotation.clips, columns=AnnotatedClip._fields)
    clips["label"], mended = _tidy(clips.label, annotation.renamed)
    order = _order(annotation, set(clips.label))
    # classes that are left out go first, so that a second label among them contradicts nothing
    clips, fields = _unique(clips[clips.label.isin(order)])
    if clips.empty:
        raise BuilderError(f"{annotation.source}: each clip is listed in two splits; list it in one")
    clips = clips.assign(split=draw.split(clips, annotation.redraw, split_seed))
    tested = clips.video[clips.split == "test"]
    # nothing is shared where nobody asked for videos to be kept apart
    shared = (clips.split != "test") & clips.video.isin(tested) & video_disjoint
    fields |= {"order": order, "mended_labels": mended, "dropped": clips.split[shared].value_counts().to_dict()}
    # last, so that shots are drawn of clips that stay
    return draw.few(clips[~shared], annotation.shots, split_seed), fields


def lacking(clips: pd.DataFrame, order: list[str]) -> str:
    """Of which classes there is no clip to learn from or none to test, in words; empty if there are both of all."""
    by_split = {split: set(order) - set(clips.label[clips.split == split]) for split in ("train", "test")}
    missing = [f"no {split} clip of `{'`, `'.join(sorted(labels))}`" for split, labels in by_split.items() if labels]
    return "; ".join(missing)


def summarise(benchmark: str, source: str, clips: pd.DataFrame, **fields) -> Report:
    """The report on ``clips``; ``fields``: what cannot be counted from them."""
    leaks = {}
    for split, other in (("test", "train"), ("test", "val"), ("val", "train")):
        own, others = clips[clips.split == split], clips[clips.split == other]
        shared = own[own.video.isin(others.video)]
        # once a clip, however many parts of its video the other split has
        same = len(shared.merge(others[["video", "label"]].drop_duplicates()))
        # a benchmark may have no val clips
        share = round(len(shared) / max(1, len(own)), 4)
        leaks[f"{split} and {other}"] = {"clips": len(shared), "share": share, "same_class": same}
    # a class that lacks a split is told of as 0, not left out
    per_class = pd.crosstab(clips.label, clips.split).reindex(index=fields["order"], columns=SPLITS, fill_value=0)
    counts = {"clips": per_class.sum().to_dict(), "per_class": per_class.T.to_dict()}
    return Report(benchmark, source, leaks=leaks, **counts, **fields)


def _locate(clips: pd.DataFrame, media: Path, exact: bool) -> tuple[pd.DataFrame, list[str]]:
    """The clips that are in ``media``, with path and start; and those that are not."""
    if exact:  # nothing but the files of the list is looked at, and folders may be links
        index = {name: name for names in clips.places for name, _ in names if (media / name).is_file()}
    else:
        index = media_index(media)
    # places are listed best first
    place = clips.places.map(lambda names: next(((index[name], at) for name, at in names if name in index), None))
    there = place.notna()
    if not there.any():
        what = f"none of the {len(clips)} clips, such as `{clips.places.iloc[0][0][0]}`"
        raise BuilderError(f"{media}: holds {what}; give the folder that does (--help shows the layout)")
    # ten digits at most, so that a start is written alike however its file spells it
    path, start = "clips/" + place[there].str[0], place[there].str[1].map("{:.10g}".format)
    return clips[there].assign(path=path, start=start), sorted(clips.clip_id[~there])


def _write(destination: Path, media: Path, manifest: bytes, contents: dict[str, object]) -> None:
    link, old = destination / "clips", destination / "manifest.csv"
    # a folder of somebody's own is never replaced
    if link.exists() and not link.is_symlink():
        raise BuilderError(f"{link}: not a link to media; choose another destination")
    # a store has a row for each clip of its manifest, in that order
    if (destination / "features").exists() and not (old.is_file() and old.read_bytes() == manifest):
        raise BuilderError(f"{destination}: holds features of other clips; delete them or choose another destination")
    destination.mkdir(parents=True, exist_ok=True)
    # renamed over the old link, so that there is one at every moment
    fresh = unfinished(destination / "clips")
    fresh.symlink_to(media.resolve(), target_is_directory=True)
    fresh.replace(link)
    write_with_seal(old, manifest)
    for name, content in contents.items():
        write_with_seal(destination / name, json_bytes(content))


def build(
    benchmark: str,
    annotation: Annotation,
    media: Path,
    destination: Path,
    *,
    split_seed: int = 0,
    video_disjoint: bool = False,
) -> Report:
    """Write the benchmark of the annotated clips that are in ``media``. The same input gives the same bytes.

    Args:
        split_seed: of what the annotation leaves open.
        video_disjoint: leave out train and val clips whose video also has a test clip.

    Raises BuilderError, before anything is written, for classes that are unknown or lack training or test clips, media
    that are not there, or a destination in use.
    """
    clips, fields = select(annotation, split_seed=split_seed, video_disjoint=video_disjoint)
    clips, missing = _locate(clips, media, annotation.exact)
    if what := lacking(clips, fields["order"]):
        why = f"annotate some{', of other recordings: those of one are drawn together' if annotation.redraw else ''}"
        if missing:
            why = f"{len(missing)} clips have no medium, such as `{missing[0]}`: get theirs"
        raise BuilderError(f"{annotation.source}: {what}; {why}, or leave the classes out")
    # splits in the order train, val, test, which is not the alphabet's
    clips = clips.sort_values(["split", "clip_id"], key=lambda c: c.map(SPLITS.index) if c.name == "split" else c)
    report = summarise(benchmark, str(annotation.source), clips, missing=missing, notes=annotation.notes, **fields)
    table = clips[["clip_id", "path", "label", "split", "start"]]
    contents = {"order.json": report.order, **annotation.files, "report.json": report._asdict()}
    # a list of one's own may be called manifest.csv, and lie where its benchmark is to be
    for file in [destination / name for name in ("manifest.csv", *contents) if (destination / name).exists()]:
        if file.samefile(annotation.source):
            raise BuilderError(f"{file}: would be written over; choose another destination, or give it another name")
    _write(destination, media, table.to_csv(index=False, lineterminator="\n").encode(), contents)
    return report
