"""Any folder of films or sounds with a list of labels."""

import unicodedata
from pathlib import Path, PurePosixPath

from avcil.tokens.manifest import SPLITS
from avcil.workshop.builders.annotation import AnnotatedClip, Annotation, BuilderError, one_of, read_rows, time
from avcil.workshop.builders.draw import SHARES


def read(annotations: Path) -> Annotation:
    """A benchmark of your own.

    ANNOTATIONS  a .csv file beside the media, with a header and columns
                 path    of the film, relative to the .csv file
                 label   its class
                 split   train, val or test; without this column 70 % of each class are drawn as train, 10 % as val,
                         20 % as test
                 video   of which recording it is a part; clips of one recording are drawn together (optional)
                 start   second at which the clip begins, where a file holds several (optional)
    """
    clips: list[AnnotatedClip] = []
    seen: dict[str, str] = {}
    notes: dict[str, str] = {}
    for where, row in read_rows(annotations, ("path", "label")):
        # a list may have been written on Windows; ./a and a/./b are a and a/b, or one file would pass for two
        path = str(PurePosixPath(row["path"].replace("\\", "/")))
        # later the manifest would be refused, by a row that this list does not have
        if path.startswith("/") or ".." in PurePosixPath(path).parts:
            raise BuilderError(f"{where}: `{path}` is not in {annotations.parent}; give a path as seen from there")
        start = time(where, row.get("start", "0"))
        # 0 and 0.0 are the same second, and make the same id
        clip_id = f"{path}@{start:.10g}" if "start" in row else path
        if clip_id in seen:
            raise BuilderError(f"{where}: `{clip_id}` is also in {seen[clip_id]}; delete one of the rows")
        seen[clip_id] = where.rpartition(", ")[2]
        if "split" not in row:
            notes["split"] = "drawn by class: 70 % train, 10 % val, 20 % test"
        split = one_of(where, row["split"], SPLITS) if "split" in row else "open"
        # one letter may be written in two ways, and not every system keeps the one of the list
        spelled = dict.fromkeys([path, *(unicodedata.normalize(form, path) for form in ("NFC", "NFD"))])
        places = tuple((file, start) for file in spelled)
        # a file whose recording is not told is one by itself
        clips.append(AnnotatedClip(clip_id, row["label"], split, row.get("video") or path, places))
    # only what was left open is drawn, and then there is a note of it
    return Annotation(annotations, clips, redraw={"open": SHARES} if notes else {}, notes=notes, exact=True)
