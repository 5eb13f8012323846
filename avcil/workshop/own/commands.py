"""Commands of a learner, which `python -m avcil` lists: `predict`, `learn`, `forget` and `export`."""

import argparse
import io
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import numpy as np

from avcil.base.alone import alone
from avcil.base.files import write_bytes
from avcil.extraction.clips import AbsentTrack, ClipError, read_clip, write_clip
from avcil.extraction.decoding import unread
from avcil.learner import folders
from avcil.learner.clips import LearnerError, usable
from avcil.learner.export import check_name
from avcil.learner.labels import alike, tidy
from avcil.learner.learner import Learner
from avcil.learner.predictions import Prediction
from avcil.tokens.manifest import SPLITS, Media
from avcil.workshop.builders import folder as labels_of_folder
from avcil.workshop.builders.annotation import BuilderError

DEVICE = "cpu, cuda, mps or auto"
LEARNER = "a folder that Learner.save or `learn` wrote, or that of a run's task and seed"
Labelled = tuple[list[Media], list[str]]
FPS, SIZE = 24, 384  # frames a second, pixels a side: of the overlay, not of what the encoder sees


def add(subparsers) -> None:
    """Register all; each is called with its parsed arguments, as ``call``."""
    predict = subparsers.add_parser("predict", help="what clips are, by a saved learner")
    predict.add_argument("clips", nargs="+", type=Path, metavar="CLIP")
    predict.add_argument("--learner", required=True, type=Path, help=LEARNER)
    predict.add_argument("--overlay", type=Path, metavar="OUT.mp4", help="one clip, and over it where it was looked")
    predict.add_argument("--device", default="cpu", help=DEVICE)
    predict.set_defaults(call=run_predict)
    learn = subparsers.add_parser("learn", help="add clips to a learner, which is made if there is none")
    listed = "a .csv of path,label and, optionally, start and split, whose val clips calibrate and test clips stay out"
    learn.add_argument("clips", nargs="+", type=Path, metavar="CLIP", help=f"or, without --label, {listed}")
    learn.add_argument("--label", help="the class of all these clips, new or known")
    learn.add_argument("--learner", required=True, type=Path, help="its folder; a clip given twice counts twice")
    learn.add_argument("--method", help="of a learner that is made: a row of params.yaml, ridge_guided if left out")
    learn.add_argument("--device", help=f"{DEVICE}; of a learner that is made: compute.device of params.yaml")
    learn.set_defaults(call=run_learn)
    forget = subparsers.add_parser("forget", help="take a class out of a learner, as if no clip of it had been given")
    forget.add_argument("label", metavar="LABEL")
    forget.add_argument("--learner", required=True, type=Path, help="its folder")
    forget.set_defaults(call=run_forget)
    export = subparsers.add_parser("export", help="what predicts from tokens, by torch.export, for use without avcil")
    export.add_argument("out", type=Path, metavar="OUT.pt2")
    export.add_argument("clips", nargs="+", type=Path, metavar="CLIP", help="two or more, for the shapes of tokens")
    export.add_argument("--learner", required=True, type=Path, help=LEARNER)
    export.set_defaults(call=run_export)


def _opened(folder: Path, device: str = "cpu") -> Learner:
    """What was saved, or a run."""
    if (folder / "checkpoint.json").exists():
        return Learner.from_run(folder).to(device)
    return Learner.load(folder, device=device)


def run_predict(given: argparse.Namespace) -> None:
    """Print a line a clip: file, label, probability, score of being unknown.

    Raises LearnerError, or, after all others are answered, ClipError for what cannot be used.
    """
    # what is wrong with the words of a command is said before anything is loaded
    if given.overlay and len(given.clips) > 1:
        raise LearnerError(f"{given.overlay}: an overlay is of one clip, not of {len(given.clips)}; give one")
    if given.overlay and given.overlay.suffix != ".mp4":
        raise LearnerError(f"{given.overlay}: an overlay is an .mp4 file; name it so")
    # under whatever name: written over, a clip would be lost
    if given.overlay and given.overlay.resolve() == given.clips[0].resolve():
        raise LearnerError(f"{given.overlay}: is the clip itself; give the overlay another name")
    learner = _opened(given.learner, given.device)
    _warn_of_longer_ones([Media(path) for path in given.clips], learner)
    tokens, unusable = usable(given.clips, learner.encoder)
    read = [path for number, path in enumerate(given.clips) if number not in unusable]
    # tokens of no clip are refused, and here they are no mistake
    predictions = learner.predict(tokens) if read else []
    for path, prediction in zip(read, predictions, strict=True):
        strange = ", unlike all classes known" if prediction.is_unknown else ""
        chance = f"probability {prediction.probabilities[prediction.label]:.2f}"
        print(f"{path}: {prediction.label} ({chance}, unknown score {prediction.unknown:.3f}{strange})")
    # the last one is raised, so that the command ends with status 1, and is printed by what catches it
    *others, last = [*unusable.values()] or [""]
    for reason in others:
        print(reason, file=sys.stderr)
    if last:
        raise ClipError(last)
    if given.overlay:
        write_overlay(given.overlay, given.clips[0], predictions[0], learner)
        print(f"{given.overlay}: where it was looked")


def run_learn(given: argparse.Namespace) -> None:
    """Learn, save, and print what it cost. Raises LearnerError or ClipError; the folder is then as before."""
    folder = given.learner
    (clips, labels), held_out = _clips_of(given)
    classes = list(dict.fromkeys(labels))
    if folder.exists() and not folder.is_dir():
        raise LearnerError(f"{folder}: a file; a learner is a folder, name a new one")
    # with .next alone it is that of a first save that was killed
    if folder.exists() and not folders.there(folder) and {path.name for path in folder.iterdir()} - {folders.NEXT}:
        raise LearnerError(f"{folder}: not empty and no learner; name a new folder")
    with _left_as_it_was(folder), alone([folder]):  # from reading to writing: else one of two commands would be lost
        # looked for once more, now that nobody else writes: it may have been made meanwhile
        if folders.there(folder):
            if given.method is not None:
                raise LearnerError(f"{folder}: keeps its method; leave --method out, or name a new folder")
            learner = Learner.load(folder, device=given.device or "cpu")
        else:
            learner = Learner(method="ridge_guided" if given.method is None else given.method)
            if given.device is not None:
                learner.to(given.device)
        for label in classes:
            # told, and not refused: they may be two classes
            if label not in learner.classes and (near := alike(label, [*learner.classes, *classes])):
                say = f"`{label}` becomes a class of its own beside `{near[0]}`, which differs by case or blanks alone"
                print(f"{say}; if they are one, take it out by `forget`", file=sys.stderr)
        _warn_of_longer_ones([*clips, *held_out[0]], learner)
        calibrated = learner.threshold is not None
        cost = learner.learn(clips, labels, held_out if held_out[0] else None)
        # it asks for the same lock, which one process may hold twice
        learner.save(folder)
    kind = f"{'new' if cost.new_classes else 'known'} class {classes[0]}"
    if len(classes) > 1:
        kind = f"{len(classes)} classes, {len(cost.new_classes)} new,"
    seconds = f"{cost.seconds:.1f} s, {cost.encoding_seconds:.1f} of them for tokens"
    print(f"{folder}: {cost.clips} clip{'s' * (cost.clips > 1)} of {kind} in {seconds}")
    count = len(learner.classes)
    print(f"{count} class{'es' * (count > 1)}, {cost.bytes / 1e6:.1f} MB")
    for of, share in (("known before", cost.old_accuracy), ("that are new", cost.new_accuracy)):
        if share is not None:
            print(f"{share:.0%} of the validation clips of classes {of} are right")
    _tell_of_calibration(calibrated and not held_out[0])


def _clips_of(given: argparse.Namespace) -> tuple[Labelled, Labelled]:
    """What is learnt and what calibrates: clips, which are not read yet, and their labels. Raises LearnerError or
    BuilderError."""
    lists = [path for path in given.clips if path.suffix.lower() == ".csv"]
    if given.label is not None:
        if lists:
            raise LearnerError(f"{lists[0]}: a list has labels of its own; leave --label out")
        return ([Media(path) for path in given.clips], [tidy(given.label)] * len(given.clips)), ([], [])
    if given.clips != lists or len(lists) > 1:
        raise LearnerError("no --label: give the class of these clips, or one .csv file of path,label")
    [file] = lists
    parts: dict[str, Labelled] = {split: ([], []) for split in SPLITS}
    # where no split is given, nothing is drawn, and all are learnt
    for clip in labels_of_folder.read(file).clips:
        places = [Media(file.parent / path, start) for path, start in clip.places]
        there = next((place for place in places if place.path.exists()), None)
        if there is None:
            raise BuilderError(f"{file}: no file `{clip.places[0][0]}`; correct the path or delete the row")
        media, labels = parts["train" if clip.split == "open" else clip.split]
        media.append(there)
        labels.append(tidy(clip.label))
    if not parts["train"][0]:
        raise BuilderError(f"{file}: no clip of split train; there is nothing to learn")
    if left := len(parts["test"][0]):
        print(f"{file}: {left} clip{'s' * (left > 1)} of split test not read", file=sys.stderr)
    return parts["train"], parts["val"]


def run_forget(given: argparse.Namespace) -> None:
    """Forget a class, save, and print what is left. Raises LearnerError; the folder is then as before."""
    folder = given.learner
    # before it is locked, for which a folder that is not there would be made
    if not folders.there(folder):
        raise LearnerError(f"{folder}: no learner; give a folder that `learn` wrote")
    with alone([folder]):
        learner = Learner.load(folder)
        calibrated, known = learner.threshold is not None, len(learner.classes)
        learner.forget(given.label)
        if not learner.classes:
            raise LearnerError(f"{folder}: `{given.label}` is its only class; delete the folder instead")
        learner.save(folder)
    print(f"{folder}: {known - 1} of {known} classes left")
    _tell_of_calibration(calibrated)


def run_export(given: argparse.Namespace) -> None:
    """Write what makes logits of tokens. Raises LearnerError or ClipError; a file that was there is then as before."""
    # before anything is loaded
    check_name(given.out)
    _opened(given.learner).export(given.out, given.clips)
    print(f"{given.out}: logits of visual and audio tokens and their similarity; classes.json within it names them")


def _tell_of_calibration(dropped: bool) -> None:
    # else a monitor that relies on it would call nothing unknown from now on, without a word
    if dropped:
        print("its calibration was of other clips and is dropped: Learner.calibrate sets it anew", file=sys.stderr)


@contextmanager
def _left_as_it_was(folder: Path) -> Iterator[None]:
    """Folders that were made in vain are not left behind."""
    # innermost first: each is empty once those in it are gone
    absent = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        yield
    # Ctrl-C among others
    except BaseException:
        with suppress(OSError):  # not empty
            for place in absent:
                place.rmdir()
        raise


def _warn_of_longer_ones(media: Sequence[Media], learner: Learner) -> None:
    """Apart from the answers, and before them."""
    if learner.encoder and (what := unread(media, learner.encoder.encoder.reading.seconds)):
        print(f"{learner.encoder.name}: {what}; cut out what comes later as clips of its own", file=sys.stderr)


def write_overlay(path: Path, clip: Path, prediction: Prediction, learner: Learner) -> None:
    """The seconds of ``clip`` that the encoder reads, under spatial attention [L,S] as heat, with their sound.

    Raises LearnerError where the method has no map of patches, OSError naming a file that cannot be written.
    """
    from avcil.results.plots import overlay  # matplotlib takes a second

    # drawing interpolates a grid of 2 x 2 at least; without attention there is one patch
    if prediction.spatial.shape[1] < 4:
        raise LearnerError(f"fusion {learner.method.fusion} looks at no patches: there is nothing to draw")
    assert learner.encoder is not None  # it has read the clip
    reading, maps = learner.encoder.encoder.reading, prediction.spatial.numpy()
    count, rate = round(reading.seconds * FPS), reading.sample_rate
    read = partial(read_clip, clip, frames=count, fps=FPS, size=SIZE, sample_rate=rate, fit=reading.fit)
    try:
        shown = read()
    except AbsentTrack as error:  # of a learner that answers such clips
        if error.stream == "visual":
            raise LearnerError(f"{clip}: no picture to draw over; leave --overlay out") from None
        shown = read(streams=("visual",))._replace(waveform=np.zeros(round(reading.seconds * rate), np.float32))
    assert shown.frames is not None and shown.waveform is not None
    # more frames than slots: each is under the map of the slot that it falls into
    drawn = np.stack([overlay(frame, maps[i * len(maps) // count]) for i, frame in enumerate(shown.frames)])
    content = io.BytesIO()
    write_clip(content, drawn, shown.waveform, FPS, rate)
    # not by PyAV, which does not name a file that it cannot write, and leaves a part of it on a full disk
    write_bytes(path, content.getvalue())
