"""From a data set's official annotation files and a folder of its media to a benchmark.

    python -m avcil.workshop.builders BENCHMARK --help            which files are expected
    python -m avcil.workshop.builders ave ANNOTATIONS MEDIA       writes imports/ave
    python -m avcil.workshop.builders folder my_videos/labels.csv imports/mine

Prints what the benchmark holds, and what was wrong with annotations and media.
"""

import argparse
import sys
from collections.abc import Callable
from inspect import cleandoc, signature
from pathlib import Path
from typing import Any

from avcil.base.refusal import Refusal
from avcil.workshop.builders import ave, folder, fsd, kinetics_sounds, vggsound
from avcil.workshop.builders.annotation import Annotation
from avcil.workshop.builders.report import build

BUILDERS: dict[str, Callable[..., Annotation]] = {
    "ave": ave.read,
    "kinetics_sounds": kinetics_sounds.read,
    "vggsound": vggsound.read,
    "fsd_mix_clips": fsd.read_fsd_mix_clips,
    "fsc89": fsd.read_fsc89,
    "folder": folder.read,
}
SHARED = ("split_seed", "video_disjoint")  # options of `build`


def _share(text: str) -> float:
    if not 0 < float(text) < 1:
        # argparse names the option of a bare ValueError, and calls the text invalid
        raise ValueError
    return float(text)


def _seed(text: str) -> int:
    if int(text) < 0:
        raise ValueError
    return int(text)


def _count(text: str) -> int:
    if int(text) < 1:
        raise ValueError
    return int(text)


OPTIONS: dict[str, dict[str, Any]] = {
    "classes": dict(type=Path, metavar="FILE", help="classes to keep, in the order in which they are learnt: a JSON "
        "list or AV-CIL's category_encode_dict.npy"),
    "split_seed": dict(type=_seed, default=0, metavar="N", help="of what the files leave open (default: 0)"),
    "val_share": dict(type=_share, metavar="S", help="of each class's train clips, drawn as val"),
    "video_disjoint": dict(action="store_true", help="no train or val clip of a video that has a test clip"),
    "vggsounder": dict(type=Path, metavar="FILE", help="a csv of VGGSounder: several labels a test clip"),
    "names": dict(type=Path, metavar="FILE", help="vocab.json: the class names by id (default: the ids)"),
    "shots": dict(type=_count, metavar="K", help="train clips to draw of each novel class"),
}  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="python -m avcil.workshop.builders", description=__doc__, formatter_class=shape
    )
    benchmarks = parser.add_subparsers(dest="benchmark", required=True, metavar="BENCHMARK")
    for name, read in BUILDERS.items():
        text = cleandoc(read.__doc__ or "")
        one = benchmarks.add_parser(name, help=text.split("\n")[0], description=text, formatter_class=shape)
        one.add_argument("annotations", type=Path)
        # the media of a list of one's own lie beside it
        if name != "folder":
            one.add_argument("media", type=Path)
        place = "imports/<its folder>" if name == "folder" else f"imports/{name}"
        one.add_argument("destination", type=Path, nargs="?", help=f"where to write (default: {place})")
        # the options of a benchmark are the parameters of its reader, after the annotations
        for option in (*list(signature(read).parameters)[1:], *SHARED):
            one.add_argument(f"--{option.replace('_', '-')}", **OPTIONS[option])
    return parser


def main(arguments: list[str] | None = None) -> None:
    given = vars(_parser().parse_args(arguments))
    benchmark, annotations, destination = (given.pop(name) for name in ("benchmark", "annotations", "destination"))
    media = given.pop("media", annotations.parent)
    # `labels.csv` alone lies in `.`, which has no name before it is resolved
    name = media.resolve().name if benchmark == "folder" else benchmark
    # what is not given has its default where it is used
    given = {option: value for option, value in given.items() if value is not None}
    of_build = {option: given.pop(option) for option in SHARED if option in given}
    try:
        annotation = BUILDERS[benchmark](annotations, **given)
        print(build(benchmark, annotation, media, destination or Path("imports") / name, **of_build))
    except (Refusal, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
