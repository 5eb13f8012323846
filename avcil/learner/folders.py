"""A learner as a folder, laid out as the Hugging Face hub has models: no pickle, a digest of each file that is read.

config.json           method, training, encoder with the digest of its weights, classes, clips a class, calibration
model.safetensors     weights, the head's sums, those of each class, and the exemplars' tokens
encoder.safetensors   an own encoder's weights; published ones are named in config.json
README.md             the model card, from these numbers
"""

import shutil
from pathlib import Path

from torch import Tensor

from avcil.base.alone import alone
from avcil.base.files import file_digest, read_sealed, read_tensors, write_bytes, write_sealed, write_tensors
from avcil.learner.clips import ClipEncoder, LearnerError

FORMAT = 1
ENCODER = "encoder.safetensors"
NAMES = (ENCODER, "model.safetensors", "README.md", "config.json")  # the last one tells that all are there
NEXT = ".next"  # the folder of a save that is not in place yet


def write(folder: Path, config: dict, tensors: dict[str, Tensor], encoder: ClipEncoder | None) -> None:
    """All files are written beside the old ones, config.json last, with the digests of the others, and then take their
    places: killed at any moment, the folder is as before, or the next `read` or `write` brings the rest in place."""
    with alone([folder]):
        # what a killed save has left is finished or cleared away first, or .next would be in the way
        _take_over(folder)
        if stranger := next((name for name in NAMES if (folder / name).exists()), None):
            try:
                mine = read_sealed(folder / "config.json").get("format") == FORMAT
            except ValueError:
                mine = False
            # somebody's own README.md, or another model's weights, would be lost
            if not mine:
                raise LearnerError(f"{folder / stranger}: of something else than a learner; name a new folder")
        following, sums = folder / NEXT, {}
        following.mkdir()
        if encoder is not None and encoder.weights is not None:
            # these may be the weights of this very folder: they are read before anything takes their place
            write_bytes(following / ENCODER, encoder.weights.read_bytes())
            sums[ENCODER] = file_digest(following / ENCODER)
        licence = encoder.licence if encoder is not None else "not recorded: it was given tokens"
        write_bytes(following / "README.md", card(config, licence).encode())
        sums["model.safetensors"] = write_tensors(following / "model.safetensors", tensors)
        # with a digest of its own, for no other file vouches for this one
        write_sealed(following / "config.json", {"format": FORMAT, "files": sums, **config})
        _take_over(folder)


def _take_over(folder: Path) -> None:
    """Put what a save has written whole in place; drop what it has not."""
    if (folder / NEXT / "config.json").exists():
        for name in NAMES:
            # those that were moved before a kill are in place; an encoder's weights need not be there at all
            if (folder / NEXT / name).exists():
                (folder / NEXT / name).replace(folder / name)
    shutil.rmtree(folder / NEXT, ignore_errors=True)


def there(folder: Path) -> bool:
    """Whether a learner has been saved there, be it not yet in place."""
    return any((folder / place / "config.json").exists() for place in ("", NEXT))


def read(folder: Path) -> tuple[dict, dict[str, Tensor]]:
    """config.json and all tensors by name. Raises LearnerError for what is missing or damaged."""
    # not always: to take the lock would make a folder that is not there
    if (folder / NEXT).exists():
        with alone([folder]):
            _take_over(folder)
    try:
        config = read_sealed(folder / "config.json")
    # what it says is said of files that a stage makes again: no stage makes a learner
    except ValueError:
        way_out = "name the folder that Learner.save wrote, or copy it again"
        raise LearnerError(f"{folder}: no whole config.json; {way_out}") from None
    if config.get("format") != FORMAT or not isinstance(config.get("files"), dict):
        raise LearnerError(f"{folder}/config.json: not of format {FORMAT}; load it by the avcil that saved it")
    # names of ours, not those in the file, which may be forged
    for name in [name for name in ("model.safetensors", ENCODER) if name in config["files"]]:
        if not (folder / name).is_file() or file_digest(folder / name) != config["files"][name]:
            raise LearnerError(f"{folder}/{name}: missing or damaged; copy the folder again")
    return config, read_tensors(folder / "model.safetensors")


def below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those whose name begins so, by the rest of it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def card(config: dict, licence: str) -> str:
    """The model card."""
    method, encoder = config["method"], config["encoder"]
    name = encoder["name"] if encoder else method["tokens"]
    measured = "not measured"
    if config["accuracy"] is not None:
        measured = f"{100 * config['accuracy']:.1f} % on the validation clips that it was last given"
    counts, known = config["counts"], len(config["classes"])
    classes = "\n".join(
        f"| {label.replace('|', '&#124;')} | {counts.get(label, 'not recorded')} |" for label in config["classes"]
    )
    return f"""---
library_name: avcil
tags: [audio-visual, class-incremental-learning, video-classification]
---

# Audio-visual classifier of {known} class{"es" * (known > 1)}

    avcil.Learner.load(".").predict(["clip.mp4"])

| what | |
| --- | --- |
| fusion, read-out | {method["fusion"]}, {method["readout"]} |
| exemplars | tokens of {len(config.get("exemplars", []))} clips are in model.safetensors |
| encoder | {name}, weights {encoder["digest"] if encoder and encoder["digest"] else "not loaded when saved"} |
| validation accuracy | {measured} |
| licence of the encoder | {licence} |

| class | clips learnt from |
| --- | --- |
{classes}
"""
