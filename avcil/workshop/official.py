"""Import of the features and splits that the authors of AV-CIL released, without executing anything they contain.

    python -m avcil.workshop.official SOURCE                       what is in it, and what is wrong with it
    python -m avcil.workshop.official SOURCE DESTINATION [--patches K] [--video-disjoint]

SOURCE is one data set of theirs (data/AVE, data/kinetics-sounds or data/VGGSound_100); a file may also lie directly in
it:

    category_encode_dict.npy    {label: class id}; the ids are the order in which classes are learnt
    all_classId_vid_dict.npy    {split: {class id: [clip]}}
    all_id_category_dict.npy    {split: {clip: label}}
    audio_pretrained_feature/audio_pretrained_feature_dict.npy     {clip: [D]}
    visual_pretrained_feature/visual_pretrained_feature_dict.npy   {clip: [L*S,D]}, slot by slot; L = 8
    visual_pretrained_feature/visual_features.h5                   the same, one data set a clip

DESTINATION receives:

    manifest.csv    the paths are placeholders, clips/<clip_id>.mp4: no film is released
    order.json      the labels in the authors' class order
    features/official/   a feature store (avcil/tokens/store.py) of encoder `official`; similarity is zero
    report.json     what `inspect` found, and the clips without usable features; written last

Source: Pian et al., Audio-Visual Class-Incremental Learning, ICCV 2023 (arXiv 2308.11073) and its data loaders.
"""

import argparse
import math
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import pandas as pd
import torch

from avcil.base.alone import alone
from avcil.base.files import digest, json_bytes, write_json, write_with_seal
from avcil.base.progress import progress
from avcil.base.refusal import Refusal
from avcil.tokens.manifest import SPLITS, write_manifest
from avcil.tokens.store import Header, StoreError, cost, finish, open_store, stale_shards, write_shard
from avcil.tokens.tokens import Layout, coarse_grid
from avcil.workshop.builders.report import as_text
from avcil.workshop.builders.vggsound import RENAMED
from avcil.workshop.npydict import NpyError, Stored, index_npy

SLOTS = 8
FEATURES = {
    "audio": ["audio_pretrained_feature_dict.npy"],
    "visual": ["visual_pretrained_feature_dict.npy", "visual_features.h5"],
}
_DAMAGE = RuntimeError, KeyError, TypeError, AttributeError  # what h5py raises beside OSError
SHARD_BYTES = 1 << 26  # a shard stands in memory about three times while it is written


class OfficialError(Refusal):
    """A released data set that cannot be used; one line that names the file, what is wrong and the way out."""


class Report(NamedTuple):
    """What is in a source folder, and what is wrong with it. clips, dropped: how many, by split. leaks: how many clips
    of one split have a YouTube video with a clip in another. unusable: why, by clip."""

    source: str
    order: list[str]
    clips: dict[str, int]
    renamed: dict[str, str]
    features: dict[str, str]
    contradictions: list[str]
    leaks: dict[str, int]
    dropped: dict[str, int]
    unusable: dict[str, str]

    def __str__(self) -> str:
        found = self._asdict()
        return as_text(found.pop("source"), found)


class _Clip(NamedTuple):
    clip_id: str
    label: str
    split: str

    @property
    def video(self) -> str:
        """VGGSound's ids are <YouTube id>_<start second>; all others are those of a video."""
        match = re.fullmatch(r"([\w-]{11})_\d{6}", self.clip_id, re.ASCII)
        return match[1] if match else self.clip_id


class _Source(NamedTuple):
    """features: file and arrays by clip, by stream."""

    report: Report
    clips: list[_Clip]
    features: dict[str, tuple[Path, Mapping]]


def _read_clips(folder: Path) -> tuple[list[str], list[_Clip], list[str]]:
    """Labels as they are written, in class order; clips; contradictions between the two dictionaries."""
    files = [folder / f"{n}.npy" for n in ("category_encode_dict", "all_classId_vid_dict", "all_id_category_dict")]
    ids, members, labels = map(index_npy, files)
    if {type(i) for i in ids.values()} != {int} or sorted(ids.values()) != list(range(len(ids))):
        raise OfficialError(f"{files[0]}: the class ids are not 0, 1, 2, ...")
    if not all(isinstance(name, str) and name.isprintable() for name in ids):
        raise OfficialError(f"{files[0]}: a label is not plain text")
    names = sorted(ids, key=lambda name: ids[name])
    clips, contradictions = [], []
    for split in SPLITS:
        if type(members.get(split)) is not dict or type(labels.get(split)) is not dict:
            raise OfficialError(f"{files[1]} or {files[2].name}: no split `{split}`")
        if not all(isinstance(text, str) and text.isprintable() for pair in labels[split].items() for text in pair):
            raise OfficialError(f"{files[2]}: {split}: a clip id or a label is not plain text")
        for class_id, listed in members[split].items():
            if type(class_id) is not int or not 0 <= class_id < len(names) or type(listed) is not list:
                raise OfficialError(f"{files[1]}: {split}: no list of a class of {files[0].name}")
            for clip in listed:
                if not isinstance(clip, str) or not re.fullmatch(r"[\w.-]+", clip, re.ASCII):
                    raise OfficialError(f"{files[1]}: {split}: what class {class_id} lists is not all clip ids")
                name, label = names[class_id], labels[split].get(clip)
                if label != name:
                    contradictions.append(f"{split} clip `{clip}` is of class `{name}`, but its label is `{label}`")
                clips.append(_Clip(clip, RENAMED.get(name, name), split))
    listed = Counter(clip.clip_id for clip in clips)
    contradictions += [f"clip `{clip}` is listed {count} times" for clip, count in listed.items() if count > 1]
    unlisted = [clip for split in SPLITS for clip in labels[split] if clip not in listed]
    return names, clips, contradictions + [f"clip `{clip}` has a label, but no class lists it" for clip in unlisted]


def _leaks(clips: list[_Clip]) -> dict[str, int]:
    labels = defaultdict(set)
    for clip in clips:
        labels[clip.split, clip.video].add(clip.label)
    counts = {}
    for split, other in (("test", "train"), ("test", "val"), ("val", "train")):
        shared = [clip for clip in clips if clip.split == split and (other, clip.video) in labels]
        counts[f"{split} and {other}"] = len(shared)
        same = sum(clip.label in labels[other, clip.video] for clip in shared)
        counts[f"{split} and {other}, same class"] = same
    return counts


def _find(folder: Path, stream: str) -> tuple[Path, Mapping] | None:
    """A stream's file, if there is one, and its arrays by clip."""
    places = [place / name for name in FEATURES[stream] for place in (folder / f"{stream}_pretrained_feature", folder)]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        return None
    try:
        return path, index_npy(path) if path.suffix == ".npy" else h5py.File(path, "r")
    except OSError as error:
        raise OfficialError(f"{path}: cannot be read ({error}); download it again") from None


@contextmanager
def _intact(path: Path) -> Iterator[None]:
    try:
        yield
    except _DAMAGE as error:
        raise OfficialError(f"{path}: damaged ({error}); download it again") from None


def _open(folder: Path) -> _Source:
    if not folder.is_dir():
        raise OfficialError(f"{folder}: no such folder; give one like data/AVE of the released repository")
    names, clips, contradictions = _read_clips(folder)
    features = {stream: found for stream in FEATURES if (found := _find(folder, stream))}
    unusable: dict[str, str] = {}
    for stream, (path, arrays) in features.items():
        with _intact(path):
            unusable |= {clip.clip_id: f"no {stream} features" for clip in clips if clip.clip_id not in arrays}
    report = Report(
        source=folder.resolve().name,
        order=[RENAMED.get(name, name) for name in names],
        clips=dict(Counter(clip.split for clip in clips)),
        renamed={name: RENAMED[name] for name in names if name in RENAMED},
        features={stream: str(path.relative_to(folder)) for stream, (path, _) in features.items()},
        contradictions=contradictions,
        leaks=_leaks(clips),
        dropped={},
        unusable=unusable,
    )
    return _Source(report, clips, features)


def inspect(folder: Path) -> Report:
    """What is in ``folder``, without reading any feature. Absent feature files are reported, not refused.

    Raises OfficialError or NpyError if one of the three split files is missing or damaged, or a file names anything but
    arrays.
    """
    return _open(Path(folder)).report


def lacking(order: list[str], usable: set[tuple[str, str]]) -> str:
    """The first class of which there is no (split, label) to learn or to test; empty if there is none such."""
    pairs = [(split, label) for split in ("train", "test") for label in order if (split, label) not in usable]
    return f"class `{pairs[0][1]}` has no {pairs[0][0]} clip" if pairs else ""


def _kept(source: _Source, video_disjoint: bool) -> list[_Clip]:
    """The clips to import. Raises OfficialError for clips that no manifest can hold, absent features, or a class
    without usable training or test clips."""
    report, clips = source.report, source.clips
    if wrong := report.contradictions:
        raise OfficialError(f"{report.source}: {wrong[0]} ({len(wrong)} such); mend the split files and start again")
    for stream in [stream for stream in FEATURES if stream not in source.features]:
        raise OfficialError(f"{report.source}: no {stream} features; put {' or '.join(FEATURES[stream])} there")
    if video_disjoint:
        tested = {clip.video for clip in clips if clip.split == "test"}
        clips = [clip for clip in clips if clip.split == "test" or clip.video not in tested]
    usable = {(clip.split, clip.label) for clip in clips if clip.clip_id not in report.unusable}
    if missing := lacking(report.order, usable):
        raise OfficialError(f"{report.source}: {missing} with features; are they complete, and of this data set?")
    return clips


def _layout(source: _Source, clips: list[_Clip], side: int | None) -> tuple[int, Layout]:
    """Visual tokens of a clip as released, and layout as stored, from the commonest shapes among the first clips."""
    shapes: list[tuple[int, ...] | None] = []
    for stream in FEATURES:
        path, arrays = source.features[stream]
        there = (arrays[clip.clip_id] for clip in clips if clip.clip_id in arrays)
        with _intact(path):
            shapes += Counter(getattr(array, "shape", None) for array in islice(there, 100)).most_common(1)[0][:1]
    audio, visual = shapes
    if visual is None or len(visual) != 2 or audio != visual[1:] or visual[0] % SLOTS or not visual[0]:
        what = f"visual arrays of shape {visual}, audio arrays of shape {audio}"
        raise OfficialError(f"{path}: {what}; ({SLOTS} x patches, channels) and (channels,) are wanted")
    patches = visual[0] // SLOTS
    if side is not None and not 1 <= side**2 <= math.isqrt(patches) ** 2 == patches:
        raise OfficialError(f"{path}: {patches} patches a slot cannot be pooled to {side} x {side}")
    tokens, channels = visual
    return tokens, Layout(SLOTS, patches if side is None else side**2, 1, channels, channels)


def _values(source: _Source, stream: str, clip: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Of one clip, as float32. Raises ValueError or OSError for what is missing, of another shape, or no numbers."""
    _, arrays = source.features[stream]
    if clip not in arrays:
        raise ValueError(f"no {stream} features")
    array = arrays[clip]
    if not isinstance(array, Stored | h5py.Dataset) or array.shape != shape:
        raise ValueError(f"{stream}: {type(array).__name__} of shape {getattr(array, 'shape', None)}, not {shape}")
    if isinstance(array, h5py.Dataset) and (array.external or array.is_virtual or array.file != arrays):
        raise ValueError(f"{stream}: kept in another file, which was not read")
    values = array.read() if isinstance(array, Stored) else array[()]
    if values.dtype.kind not in "fiu":
        raise ValueError(f"{stream}: of dtype {values.dtype}, not numbers")
    if not (np.abs(values) <= np.finfo(np.float16).max).all():
        raise ValueError(f"{stream}: NaN, or a value beyond float16 (65504)")
    return torch.from_numpy(values.astype(np.float32))


def _shard(
    source: _Source, ids: list[str], tokens: int, layout: Layout
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tokens of the clips ``ids``, of which ``tokens`` visual ones were released, and the reasons why some are zero."""
    patches, channels = layout.patches, layout.visual_channels
    visual = torch.zeros(len(ids), SLOTS, patches, channels, dtype=torch.float16)
    audio = torch.zeros(len(ids), 1, channels, dtype=torch.float16)
    bad = {}
    for row, clip in enumerate(ids):
        try:
            heard = _values(source, "audio", clip, (channels,))
            seen = _values(source, "visual", clip, (tokens, channels))
        except (ValueError, OSError, *_DAMAGE) as error:
            bad[clip] = str(error)
            continue
        audio[row, 0] = heard
        seen = seen.view(1, SLOTS, -1, channels)
        visual[row] = seen[0] if tokens == SLOTS * patches else coarse_grid(seen, math.isqrt(patches))[0]
    if len(bad) == len(ids):
        raise OfficialError(f"no usable clip in a whole shard, `{ids[0]}` to `{ids[-1]}`: {bad[ids[0]]}")
    return {"visual": visual, "audio": audio, "similarity": visual.new_zeros(visual.shape[:3])}, bad


def _checksum(source: _Source) -> str:
    """Digest of each file's size and first 4 MiB: features that were extracted anew differ."""
    total = ""
    for path, _ in source.features.values():
        with path.open("rb") as file:
            total += f"{path.stat().st_size} {digest(file.read(1 << 22))} "
    return digest(total.encode())


def write_import(
    destination: Path,
    table: pd.DataFrame,
    order: list[str],
    header: Header,
    shard: Callable[[list[str]], tuple[dict[str, torch.Tensor], dict[str, str]]],
) -> dict[str, str]:
    """Write manifest, class order, and those shards of features/<encoder> that are not there yet.

    table: clip_id, label and split; paths are placeholders. shard: tokens of the clips of those ids, and the reasons
    why some are zero. Prints what the store will take. Returns quarantined clips with reasons; raises StoreError.
    """
    table = table.copy()
    table.insert(1, "path", "clips/" + table.clip_id + ".mp4")
    store = destination / "features" / header.encoder
    print(f"{store}: {cost(header.layout, len(table))}", flush=True)
    with alone([destination]):
        open_store(store, header)
        write_manifest(destination / "manifest.csv", table)
        write_with_seal(destination / "order.json", json_bytes(order))
        shards = header.shards
        stale = stale_shards(store, [header.checksum] * len(shards))
        for number in progress(stale, desc=header.encoder, unit="shard"):
            write_shard(store, number, *shard(shards[number]), header.checksum)
        return finish(store, header)


def import_features(
    source: Path, destination: Path, *, patches: int | None = None, video_disjoint: bool = False
) -> Report:
    """Write manifest, class order, feature store and report of the released data set in ``source``.

    A clip whose features are missing, of another shape, not finite or beyond float16 stays in the manifest and is
    quarantined in the store. A killed import goes on after its last shard. Prints what the store will take.

    Args:
        patches: average-pool each slot's square grid of patches to patches x patches; None keeps all.
        video_disjoint: leave out every train and val clip whose YouTube video also has a test clip. Train and val may
            still share videos.

    Raises:
        NpyError: for unsafe or damaged files (see `index_npy`).
        OfficialError: for contradicting splits, or a class or a whole shard without usable features.
        StoreError: for another import at ``destination``, or too little space.
    """
    opened, destination = _open(Path(source)), Path(destination)
    clips = _kept(opened, video_disjoint)
    tokens, layout = _layout(opened, clips, patches)
    table = pd.DataFrame(clips)
    reading = {"source": opened.report.source, "tokens": tokens}
    size = max(1, SHARD_BYTES // layout.clip_bytes)
    header = Header("official", "released", _checksum(opened), reading, layout, list(table.clip_id), size)
    order = opened.report.order
    unusable = write_import(destination, table, order, header, lambda ids: _shard(opened, ids, tokens, layout))
    counts = dict(Counter(table.split))
    dropped = {split: count - counts.get(split, 0) for split, count in opened.report.clips.items()}
    report = opened.report._replace(clips=counts, leaks=_leaks(clips), dropped=dropped, unusable=unusable)
    write_json(destination / "report.json", report._asdict())
    return report


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m avcil.workshop.official", description="Import released AV-CIL features."
    )
    parser.add_argument("source", type=Path, help="a folder such as data/AVE")
    parser.add_argument("destination", type=Path, nargs="?", help="where to write; without it, only report")
    parser.add_argument("--patches", type=int, metavar="K", help="average-pool each slot's patches to K x K")
    parser.add_argument("--video-disjoint", action="store_true", help="no train or val clip of a test clip's video")
    given = vars(parser.parse_args(arguments))
    source, destination = given.pop("source"), given.pop("destination")
    try:
        print(inspect(source) if destination is None else import_features(source, destination, **given))
    except (NpyError, OfficialError, StoreError, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
