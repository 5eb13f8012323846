"""Import of the features and splits that the authors of AV-CIL released, without executing anything they contain.

    python -m avcil.workshop.official SOURCE                       what is in it, and what is wrong with it
    python -m avcil.workshop.official SOURCE DESTINATION [--patches K] [--video-disjoint]

SOURCE is one data set of theirs (data/AVE, data/kinetics-sounds or data/VGGSound_100); a file may also lie directly in
it:

    category_encode_dict.npy    {label: class id}; the ids are the order in which classes are learnt
    all_classId_vid_dict.npy    {split: {class id: [clip]}}
    audio_pretrained_feature/audio_pretrained_feature_dict.npy     {clip: [D]}
    visual_pretrained_feature/visual_pretrained_feature_dict.npy   {clip: [L*S,D]}, slot by slot; L = 8
    visual_pretrained_feature/visual_features.h5                   the same, one data set a clip

DESTINATION receives:

    manifest.csv    the paths are placeholders, clips/<clip_id>.mp4: no film is released
    order.json      the labels in the authors' class order
    features/official/   a feature store (avcil/tokens/store.py) of encoder `official`; similarity is zero
    report.json     what the first command prints; written last

Source: Pian et al., Audio-Visual Class-Incremental Learning, ICCV 2023 (arXiv 2308.11073) and its data loaders.
"""

import argparse
import math
import sys
from collections import Counter
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import pandas as pd
import torch
from torch import Tensor

from avcil.base.files import write_json
from avcil.base.refusal import Refusal
from avcil.tokens.tokens import Layout, coarse_grid
from avcil.workshop.builders.annotation import Annotation, read_avcil
from avcil.workshop.builders.report import Report, lacking, select, summarise
from avcil.workshop.builders.vggsound import RENAMED
from avcil.workshop.imports import BEYOND, TokensError, within_half, write_import
from avcil.workshop.npydict import StoredArray, index_npy

SLOTS = 8
# in the order in which they are preferred
FEATURES = {
    "audio": ["audio_pretrained_feature_dict.npy"],
    "visual": ["visual_pretrained_feature_dict.npy", "visual_features.h5"],
}
_DAMAGE = OSError, RuntimeError, KeyError, TypeError, AttributeError  # what h5py raises


class _Source(NamedTuple):
    """clips: as `select` gives them. features: file and arrays by clip, by stream."""

    folder: Path
    clips: pd.DataFrame
    features: dict[str, tuple[Path, Mapping]]
    report: Report


def _features(folder: Path, stream: str) -> tuple[Path, Mapping] | None:
    """A stream's file, if there is one, and its arrays by clip."""
    # a dictionary goes before HDF5, and the layout as released before a file that lies directly in the folder
    places = [place / name for name in FEATURES[stream] for place in (folder / f"{stream}_pretrained_feature", folder)]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        return None
    try:
        return path, index_npy(path) if path.suffix == ".npy" else h5py.File(path, "r")
    except OSError as error:
        raise TokensError(f"{path}: cannot be read ({error}); download it again") from None


def _open(folder: Path, video_disjoint: bool = False) -> _Source:
    released = read_avcil(folder)
    if released is None:
        raise TokensError(f"{folder}: no all_classId_vid_dict.npy; give a folder like data/AVE of the released data")
    # as VGGSound's builder does it, the label that AV-CIL cuts short is mended
    clips, fields = select(Annotation(folder, *released, RENAMED), video_disjoint=video_disjoint)
    features = {stream: opened for stream in FEATURES if (opened := _features(folder, stream))}
    missing: set[str] = set()
    for path, arrays in features.values():
        # HDF5 reads its tables when a clip is asked for, so that damage shows here and not on opening
        try:
            missing |= {clip for clip in clips.clip_id if clip not in arrays}
        except _DAMAGE as error:
            raise TokensError(f"{path}: damaged ({error}); download it again") from None
    notes = {f"{stream} features": str(path.relative_to(folder)) for stream, (path, _) in features.items()}
    # `.` has no name of its own before it is resolved
    name = folder.resolve().name
    report = summarise("official", name, clips, missing=sorted(missing), notes=notes, **fields)
    return _Source(folder, clips, features, report)


def inspect(folder: Path) -> Report:
    """What is in ``folder``, without reading any feature; ``missing`` are clips that have none.

    Raises a Refusal if one of the two split files is missing or damaged, or a file names anything but arrays.
    """
    return _open(Path(folder)).report


def _layout(source: _Source, side: int | None) -> tuple[int, Layout]:
    """Visual tokens of a clip as released, and layout as stored, from the commonest shapes among the first clips."""
    shapes = {}
    for stream, (path, arrays) in source.features.items():
        # a hundred clips tell the commonest shape: an odd one among them is outvoted, and quarantined when it is read
        there = (arrays[clip] for clip in source.clips.clip_id if clip in arrays)
        try:
            shapes[stream] = Counter(getattr(array, "shape", None) for array in islice(there, 100)).most_common(1)[0][0]
        except _DAMAGE as error:
            raise TokensError(f"{path}: damaged ({error}); download it again") from None
    audio, visual = shapes["audio"], shapes["visual"]
    # of both streams as many channels are wanted; a value of the dictionary that is no array has no shape
    if visual is None or len(visual) != 2 or audio != visual[1:] or visual[0] % SLOTS or not visual[0]:
        what = f"visual arrays of shape {visual}, audio arrays of shape {audio}"
        raise TokensError(f"{path}: {what}; ({SLOTS} x patches, channels) and (channels,) are wanted")
    tokens, channels = visual
    patches = tokens // SLOTS
    # at least one patch, no more than there are, and only of a square grid
    if side is not None and not 1 <= side <= math.isqrt(patches) == patches**0.5:
        raise TokensError(f"{path}: {patches} patches a slot cannot be pooled to {side} x {side}")
    return tokens, Layout(SLOTS, patches if side is None else side**2, 1, channels, channels)


def _values(source: _Source, stream: str, clip: str, shape: tuple[int, ...]) -> Tensor:
    """Of one clip, as float32. Raises ValueError for what is missing, of another shape, or no numbers."""
    _, arrays = source.features[stream]
    if clip not in arrays:
        raise ValueError(f"no {stream} features")
    array = arrays[clip]
    # a dictionary may hold a list or a number where an array belongs
    if not isinstance(array, StoredArray | h5py.Dataset) or array.shape != shape:
        raise ValueError(f"{stream}: {type(array).__name__} of shape {getattr(array, 'shape', None)}, not {shape}")
    # a link, a virtual or an external data set could name any file of this machine
    if isinstance(array, h5py.Dataset) and (array.external or array.is_virtual or array.file != arrays):
        raise ValueError(f"{stream}: kept in another file, which was not read")
    values = array.read() if isinstance(array, StoredArray) else array[()]
    if values.dtype.kind not in "fiu":
        raise ValueError(f"{stream}: of dtype {values.dtype}, not numbers")
    if not within_half(values[None]).all():
        raise ValueError(f"{stream}: {BEYOND}")
    return torch.from_numpy(values.astype(np.float32))


def _shard(source: _Source, ids: list[str], tokens: int, layout: Layout) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tokens of the clips ``ids``, of which ``tokens`` visual ones were released, and the reasons why some are zero."""
    # zeros stay for clips that cannot be used, and for the similarity, which was not released
    shard = {name: torch.zeros(shape, dtype=torch.float16) for name, shape in layout.shapes(len(ids)).items()}
    unusable = {}
    for row, clip in enumerate(ids):
        try:
            audio = _values(source, "audio", clip, (layout.audio_channels,))
            visual = _values(source, "visual", clip, (tokens, layout.visual_channels))
        # damage within one clip's array costs that clip alone
        except (ValueError, *_DAMAGE) as error:
            unusable[clip] = str(error)
            continue
        patches = visual.view(1, SLOTS, -1, layout.visual_channels)
        pooled = patches if tokens == SLOTS * layout.patches else coarse_grid(patches, math.isqrt(layout.patches))
        shard["audio"][row], shard["visual"][row] = audio, pooled[0]
    return shard, unusable


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
        BuilderError: for splits that make no benchmark.
        TokensError: for a class or a whole shard without usable features.
        StoreError: for another import at ``destination``, or too little space.
    """
    opened, destination = _open(Path(source), video_disjoint), Path(destination)
    report, clips = opened.report, opened.clips
    # one line, of the first stream that is missing
    for stream in [stream for stream in FEATURES if stream not in opened.features]:
        raise TokensError(f"{report.source}: no {stream} features; put {' or '.join(FEATURES[stream])} there")
    # counted on clips that have features: a class without any cannot be learnt or tested
    if what := lacking(clips[~clips.clip_id.isin(report.missing)], report.order):
        raise TokensError(f"{report.source}: {what} with features; are they complete, and of this data set?")
    tokens, layout = _layout(opened, patches)
    ids = clips.clip_id.tolist()
    unusable = write_import(
        destination,
        clips[["clip_id", "label", "split"]],
        report.order,
        layout,
        lambda first, last: _shard(opened, ids[first:last], tokens, layout),
        encoder="official",
        revision="released",
        reading={"source": report.source, "tokens": tokens},
        files=[path for path, _ in opened.features.values()],
    )
    if unusable:
        # how many, since the reasons of many clips would fill the report
        reasons = f"{len(unusable)} clips, with reasons in features/official/index.json"
        report = report._replace(notes=report.notes | {"unusable": reasons})
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
    except (Refusal, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
