"""FSD-MIX-CLIPS (Wang et al., WASPAA 2021) and FSC-89 (Xie et al., Interspeech 2023): one second of sound, no picture.

Clips are cut out of mixtures of ten seconds, which stand here for videos. Mixtures may share source recordings; their
annotation files do not tell.
"""

import re
from pathlib import Path

from avcil.workshop.builders.annotation import (
    AnnotatedClip,
    Annotation,
    BuilderError,
    one_of,
    read_classes,
    read_rows,
    time,
)
from avcil.workshop.builders.draw import SHARES

CLASSES, BASE, WAY = 89, 59, 5
IDS = [str(i) for i in range(CLASSES)]
# samples a second of the mixtures, by which names of clips that are cut out of them count
RATE = 44_100
FOLDERS = ("base/train", "base/val", "base/test", "novel_val", "novel_test")


def read_fsd_mix_clips(annotations: Path, *, names: Path | None = None, shots: int | None = None) -> Annotation:
    """FSD-MIX-CLIPS, its clips of one label. Sound only.

    ANNOTATIONS  a folder with {base_train,base_val,base_test,novel_val,novel_test}.csv, with a header and columns
                 filename, start_time, labels (`[50]` or `"[9, 49]"`); rows of several labels are left out
    MEDIA        a folder with base/{train,val,test}/soundscape_N.wav and, novel, {val,test}/soundscape_N.wav;
                 or the clips cut out, {base/train,...,novel_val,novel_test}/soundscape_N_<first sample>.wav

    The 59 base classes have their own split and are the first task, six tasks of 5 novel classes follow (tasks.json).
    Novel classes are drawn as 70 % train, 10 % val, 20 % test, all clips of a soundscape together.
    """
    labels, clips, several = _labels(names), [], 0
    for folder in FOLDERS:
        path = annotations / f"{folder.replace('/', '_')}.csv"
        for where, row in read_rows(path, ("filename", "start_time", "labels")):
            if not re.fullmatch(r"\[\d+(, *\d+)*\]", row["labels"]):
                raise BuilderError(f"{where}: `{row['labels']}` is no list of class ids; mend or delete the row")
            ids = re.findall(r"\d+", row["labels"])
            several += len(ids) > 1
            if len(ids) == 1:
                # `base/train` and its like have their split in their name; novel classes come without one
                split = folder[5:] if folder.startswith("base") else "novel"
                clips.append(_clip(where, folder, row["filename"], row["start_time"], ids[0], split, labels))
    # base classes keep all their clips
    few = dict.fromkeys(labels[BASE:], shots) if shots else {}
    return _annotation(annotations, clips, labels, few, {"novel": SHARES}, f"{several} rows of several labels left out")


def read_fsc89(annotations: Path, *, names: Path | None = None, shots: int = 5) -> Annotation:
    """FSC-89, few-shot sessions cut from FSD-MIX-CLIPS. Sound only.

    ANNOTATIONS  the folder of one setup, with Fsc89-<setup>-fsci_{train,val,test}.csv, with a header and columns
                 data_folder, FSD_MIX_SED_filename, start_time, label
    MEDIA        a folder with base/{train,val,test}/soundscape_N.wav and, novel, {val,test}/soundscape_N.wav;
                 or the clips cut out, {base/train,...,novel_val,novel_test}/soundscape_N_<first sample>.wav

    The 59 base classes are the first task, six tasks of 5 novel classes follow (tasks.json). Of each novel class
    --shots train clips are drawn (default: 5); it has no val clips. Source of the tasks: the authors' own command,
    `--way 5 --shot 5 --session 7`, the first of which is the base (github.com/chester-w-xie/APR, README).
    """
    labels, clips = _labels(names), []
    for split in ("train", "val", "test"):
        files = sorted(annotations.glob(f"Fsc89-*-fsci_{split}.csv"))
        if len(files) != 1:
            what = f"{len(files)} files Fsc89-*-fsci_{split}.csv"
            raise BuilderError(f"{annotations}: {what}; give the folder of one setup, such as FSC-89-meta/setup1")
        for where, row in read_rows(files[0], ("data_folder", "FSD_MIX_SED_filename", "start_time", "label")):
            folder, file = one_of(where, row["data_folder"], FOLDERS), row["FSD_MIX_SED_filename"]
            clips.append(_clip(where, folder, file, row["start_time"], row["label"].strip(), split, labels))
    return _annotation(annotations, clips, labels, dict.fromkeys(labels[BASE:], shots), {}, f"{shots} a novel class")


def _labels(names: Path | None) -> list[str]:
    """Class names by id, or the ids themselves."""
    labels = read_classes(names) if names else IDS
    if len(labels) != CLASSES:
        raise BuilderError(f"{names}: {len(labels)} names where {CLASSES} are expected; give vocab.json or none")
    return labels


def _clip(where: str, folder: str, file: str, start: str, label: str, split: str, labels: list[str]) -> AnnotatedClip:
    # as text: 007 or -1 is no id, though either could be made a position
    label = labels[IDS.index(one_of(where, label, IDS))]
    stem, begin = file.removesuffix(".wav"), time(where, start)
    # of novel classes, soundscapes are in val/ and test/, and clips cut out of them in novel_val/ and novel_test/
    mixture, cut = f"{folder.removeprefix('novel_')}/{stem}", f"{folder}/{stem}_{int(begin * RATE)}"
    # a clip that is cut out begins at 0; else it is looked for in its mixture, under both names of the folder
    return AnnotatedClip(cut, label, split, mixture, ((cut, 0.0), (mixture, begin), (f"{folder}/{stem}", begin)))


def _annotation(source, clips, labels, shots, redraw, note) -> Annotation:
    tasks = [BASE] + [WAY] * ((CLASSES - BASE) // WAY)
    notes = {"media": "1 s at 44.1 kHz, no picture", "clips": note}
    return Annotation(source, clips, labels, {}, redraw, shots, {"tasks.json": tasks}, notes)
