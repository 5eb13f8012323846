"""AVE (Tian et al., ECCV 2018): 28 audio-visual events in films of ten seconds."""

from pathlib import Path

from avcil.workshop.builders.annotation import (
    AnnotatedClip,
    Annotation,
    BuilderError,
    read_avcil,
    read_classes,
    read_rows,
)

COLUMNS = ("Category", "VideoID", "Quality", "StartTime", "EndTime")
FILES = {"train": "trainSet.txt", "val": "valSet.txt", "test": "testSet.txt"}


def read(annotations: Path, *, classes: Path | None = None) -> Annotation:
    """AVE as its authors split it, or as AV-CIL's did.

    ANNOTATIONS  a folder with Annotations.txt, trainSet.txt, valSet.txt and testSet.txt, of rows
                 `Category&VideoID&Quality&StartTime&EndTime`, with or without a header;
                 or AV-CIL's data/AVE with its .npy dictionaries: its split and class order
    MEDIA        a folder with <VideoID>.mp4; the whole film is a clip, not the seconds of the event

    Some films are annotated twice. As in AV-CIL, one that is in two splits is left out, and of two labels in one split
    that counts which comes last in Annotations.txt.
    """
    order = read_classes(classes) if classes else None
    if released := read_avcil(annotations):
        # an order that was asked for goes before AV-CIL's
        return Annotation(annotations, released[0], order or released[1])
    rows = read_rows(annotations / "Annotations.txt", COLUMNS, headless=True, delimiter="&")
    # of a film that is annotated again with the same label, the place of its last row counts
    known = {(row["Category"], row["VideoID"]): place for place, (_, row) in enumerate(rows)}
    clips = []
    for split, name in FILES.items():
        for where, row in read_rows(annotations / name, COLUMNS, headless=True, delimiter="&"):
            label, video = row["Category"], row["VideoID"]
            if (label, video) not in known:
                what = f"`{video}` of `{label}` is not in Annotations.txt"
                raise BuilderError(f"{where}: {what}; take all four files from one download")
            clips.append((known[label, video], AnnotatedClip.of(video, label, split)))
    # the order of Annotations.txt, whatever that of the other files: of two labels the last one is kept
    return Annotation(annotations, [clip for _, clip in sorted(clips)], order)
