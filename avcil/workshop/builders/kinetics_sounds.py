"""Kinetics-Sounds (Arandjelović & Zisserman, ICCV 2017): those classes of Kinetics-400 that can be heard."""

from pathlib import Path

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

SPLITS = {"train": "train", "val": "val", "validate": "val", "test": "test"}
# AV-CIL's 30, in its order
CLASSES = [
    "playing drums", "bowling", "shoveling snow", "playing harmonica", "tickling", "chopping wood",
    "dribbling basketball", "laughing", "playing organ", "playing xylophone", "playing keyboard", "playing accordion",
    "ripping paper", "tapping pen", "playing piano", "playing saxophone", "blowing out candles", "playing trumpet",
    "tap dancing", "playing trombone", "singing", "playing bass guitar", "shuffling cards", "blowing nose",
    "playing guitar", "playing violin", "playing bagpipes", "stomping grapes", "playing clarinet", "tapping guitar",
]  # fmt: skip
# names in class lists, and Kinetics' own
RENAMED = {name.removeprefix("playing "): name for name in CLASSES if name.startswith("playing ")} | {
    "blowing out": "blowing out candles",
    "dribbling ball": "dribbling basketball",
    "mowing the lawn by pushing lawnmower": "mowing lawn",
    "stomping": "stomping grapes",
}


def read(annotations: Path, *, classes: Path | None = None, val_share: float | None = None) -> Annotation:
    """Kinetics-Sounds, cut from Kinetics-400.

    ANNOTATIONS  a folder with train.csv, val.csv and test.csv of Kinetics-400 (or one .csv file), with a header and
                 columns label, youtube_id, time_start, time_end, split;
                 or AV-CIL's data/kinetics-sounds with its .npy dictionaries: its split and class order
    MEDIA        a folder with <youtube_id>_<start>_<end>.mp4, start and end of six digits, in any subfolders

    Where test.csv has no labels, use --val-share S: the clips that Kinetics calls val are the test clips, and S of its
    training clips are the val clips. Lists of 27 to 34 classes are in use; a list given with --classes may say `drums`
    for `playing drums`. Without one it is AV-CIL's of 30.
    """
    names = read_classes(classes) if classes else CLASSES
    notes = {"class list": f"the {len(names)} of {classes or 'AV-CIL'}"}
    if released := read_avcil(annotations, val_share):
        return Annotation(annotations, released[0], names if classes else released[1], RENAMED, notes=notes)
    clips, unlabelled = [], 0
    # sorted, since of two labels of a clip the last counts, and file systems list as they like
    for path in sorted(annotations.glob("*.csv")) if annotations.is_dir() else [annotations]:
        # `label` is not asked for, since test.csv may come without it
        for where, row in read_rows(path, ("youtube_id", "time_start", "time_end", "split")):
            split = SPLITS[one_of(where, row["split"], list(SPLITS))]
            if not row.get("label"):
                unlabelled += 1
                continue
            # names of files have whole seconds
            begin, end = (int(time(where, row[column])) for column in ("time_start", "time_end"))
            clip_id = f"{row['youtube_id']}_{begin:06d}_{end:06d}"
            clips.append(AnnotatedClip(clip_id, row["label"], split, row["youtube_id"], ((clip_id, 0.0),)))
    if val_share is None:
        if not any(clip.split == "test" for clip in clips):
            what = f"no test clip has a label ({unlabelled} rows have none)"
            raise BuilderError(f"{annotations}: {what}; add a test.csv with labels, or --val-share 0.1")
        return Annotation(annotations, clips, names, RENAMED, notes=notes)
    notes["split"] = f"Kinetics' val is test; {val_share:g} of its train, drawn by class, is val"
    # clips that Kinetics calls test are left out, whether they have labels or not
    clips = [clip._replace(split="test" if clip.split == "val" else "train") for clip in clips if clip.split != "test"]
    redraw = {"train": {"train": 1 - val_share, "val": val_share}}
    return Annotation(annotations, clips, names, RENAMED, redraw, notes=notes)
