"""A learner as a folder, laid out as the Hugging Face hub has models: no pickle, and every file with its digest.

config.json           method, training, encoder with the digest of its weights, classes, clips a class, calibration
model.safetensors     weights, the head's sums, and those of each class
encoder.safetensors   an own encoder's weights; published ones are named in config.json
README.md             the model card, from these numbers
"""

import json
import shutil
from pathlib import Path

from torch import Tensor

from avcil.base.files import digest, read_tensors, write_bytes, write_json, write_tensors
from avcil.learner.clips import ClipEncoder, LearnerError

FORMAT = 1
ENCODER = "encoder.safetensors"


def write(folder: Path, config: dict, tensors: dict[str, Tensor], encoder: ClipEncoder | None) -> None:
    """config.json is written last, with the digests of the others: a folder that fits it is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    sums = {}
    if encoder is not None and encoder.weights is not None:
        if encoder.weights.resolve() != (folder / ENCODER).resolve():
            shutil.copyfile(encoder.weights, folder / ENCODER)
        sums[ENCODER] = digest((folder / ENCODER).read_bytes())
    licence = encoder.record.licence if encoder is not None else "not recorded: it was given tokens"
    write_bytes(folder / "README.md", card(config, licence).encode())
    sums["model.safetensors"] = write_tensors(folder / "model.safetensors", tensors)
    write_json(folder / "config.json", {"format": FORMAT, "files": sums, **config})


def read(folder: Path) -> tuple[dict, dict[str, Tensor]]:
    """config.json and all tensors by name. Raises LearnerError for what is missing or damaged."""
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, json.JSONDecodeError):
        raise LearnerError(f"{folder}: no whole config.json; name the folder that Learner.save wrote") from None
    if not isinstance(config, dict) or config.get("format") != FORMAT or "files" not in config:
        raise LearnerError(f"{folder}/config.json: not of format {FORMAT}; save the learner anew")
    for name, expected in config["files"].items():
        if name not in ("model.safetensors", ENCODER):
            raise LearnerError(f"{folder}/config.json: names a file `{name}`, which no learner has; save it anew")
        if not (folder / name).is_file() or digest((folder / name).read_bytes()) != expected:
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
    counts = config["counts"]
    classes = "\n".join(f"| {label} | {counts.get(label, 'not recorded')} |" for label in config["classes"])
    return f"""---
library_name: avcil
tags: [audio-visual, class-incremental-learning, video-classification]
---

# Audio-visual classifier of {len(config["classes"])} classes

    avcil.Learner.load(".").predict(["clip.mp4"])

| what | |
| --- | --- |
| fusion, read-out | {method["fusion"]}, {method["readout"]} |
| encoder | {name}, weights {encoder["digest"] if encoder and encoder["digest"] else "not loaded when saved"} |
| validation accuracy | {measured} |
| licence of the encoder | {licence} |

| class | clips learnt from |
| --- | --- |
{classes}
"""
