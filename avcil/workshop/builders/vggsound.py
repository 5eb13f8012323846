"""VGGSound (Chen et al., ICASSP 2020): 309 classes in ten-second clips; VGGSounder's several labels of test clips."""

import json
from collections import defaultdict
from pathlib import Path

from avcil.base.files import check_seal
from avcil.workshop.builders.annotation import (
    AnnotatedClip,
    Annotation,
    BuilderError,
    one_of,
    read_avcil,
    read_classes,
    read_rows,
    time,
)

# cut short in VGGSound_100 of AV-CIL
RENAMED = {"subway, metr": "subway, metro, underground"}
MULTILABEL = "multilabel.json"


def read(
    annotations: Path, *, classes: Path | None = None, val_share: float | None = None, vggsounder: Path | None = None
) -> Annotation:
    """VGGSound, or a part of its classes.

    ANNOTATIONS  vggsound.csv, without header: YouTube ID, start seconds, label, train/test split. 10 % of the train
                 clips (--val-share) are drawn by class as val, all clips of a video together;
                 or AV-CIL's data/VGGSound_100 with its .npy dictionaries: its own split, which is not VGGSound's, and
                 its class order. For its 100 classes in VGGSound's split give vggsound.csv, and its
                 category_encode_dict.npy as --classes
    MEDIA        a folder with <YouTube ID>_<start>.mp4, start of six digits, in any subfolders

    --vggsounder FILE: a csv of VGGSounder (in vggsounder/data/ of the Python package `vggsounder`), with columns
    video_id and label. Its labels of the test clips, if among the classes, go to multilabel.json.
    """
    order = read_classes(classes) if classes else None
    redraw, notes = {}, {}
    if released := read_avcil(annotations, val_share):
        clips, order = released[0], order or released[1]
    else:
        # not as a default of the parameter, since `read_avcil` refuses a share that was asked for
        share = val_share or 0.1
        clips, redraw = [], {"train": {"train": 1 - share, "val": share}}
        notes["split"] = f"VGGSound's; {share:g} of its train, drawn by class and video, is val"
        columns = ("YouTube ID", "start seconds", "label", "train/test split")
        for where, row in read_rows(annotations, columns, headless=True):
            begin = int(time(where, row["start seconds"]))
            split = one_of(where, row["train/test split"], ("train", "test"))
            clips.append(AnnotatedClip.of(f"{row['YouTube ID']}_{begin:06d}", row["label"], split))
    files: dict[str, object] = {}
    if vggsounder:
        files[MULTILABEL], notes["VGGSounder"] = _multilabel(vggsounder, clips, order)
    return Annotation(annotations, clips, order, RENAMED, redraw, files=files, notes=notes)


def _multilabel(path: Path, clips: list[AnnotatedClip], order: list[str] | None) -> tuple[dict[str, list[str]], str]:
    """The labels of each test clip that is annotated anew, and a line for the report."""
    # both under VGGSound's own names, as VGGSounder writes them
    official = {clip.clip_id: RENAMED.get(clip.label, clip.label) for clip in clips if clip.split == "test"}
    classes = {RENAMED.get(name, name) for name in order or official.values()}
    several: dict[str, set[str]] = defaultdict(set)
    for _, row in read_rows(path, ("video_id", "label")):
        # of clips that are tested here, and of labels that can be predicted
        if official.get(row["video_id"]) in classes and row["label"] in classes:
            several[row["video_id"]].add(row["label"])
    tested = sum(label in classes for label in official.values())
    if not several:
        raise BuilderError(f"{path}: none of the {tested} test clips is in it; give vggsounder.csv of VGGSounder")
    agreed = sum(official[clip] in labels for clip, labels in several.items())
    count = f"{sum(map(len, several.values()))} labels of {len(several)} of {tested} test clips"
    note = f"{count}; VGGSound's own label is one in {agreed}"
    # sorted, since sets come in another order each time
    return {clip: sorted(labels) for clip, labels in several.items()}, note


def read_multilabel(folder: Path) -> dict[str, list[str]]:
    """All labels of the test clips that VGGSounder annotated anew: a prediction is right if it is among them. Of the
    other test clips there is only the manifest's label.

    Raises ValueError if the benchmark in ``folder`` was built without, or the file is damaged.
    """
    path = Path(folder) / MULTILABEL
    if not path.is_file():
        raise BuilderError(f"{path}: no such file; build the benchmark with --vggsounder")
    check_seal(path)
    return json.loads(path.read_text())
