"""Solved heads and guidance in closed form on development sets of real photographs and sounds, and on Sounding Objects.

    AVCIL_DEVELOPMENT=FOLDER python benchmarks/development.py [--features artifacts/features/mini]

FOLDER holds DEV-C.npz and DEV-D.npz, which are no part of the project. Both come in through
avcil/workshop/import_tokens.py; no method reads a region. With --features also the embedded benchmark, whose prior's
similarity is withheld from the estimators.

Every row is `ScaledRidge` on the mean audio token and the visual tokens under softmax_s(τ m), classes in the set's own
order; τ is the one of the best last accuracy on validation clips, the smallest of equals. Printed: that on validation
clips, mean over tasks and last accuracy on test clips, and the share of test clips whose attention peaks on the
sounding object, in percent. It takes about twelve minutes on one core.
"""

import argparse
import contextlib
import io
import os
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from avcil.base.files import write_json
from avcil.learn.attention import Features
from avcil.learn.evaluate import predict
from avcil.learn.methods.scaled_ridge import ScaledRidge
from avcil.learn.metrics import attention_hit
from avcil.learn.model import IncrementalClassifier
from avcil.tokens.dataset import Dataset, load_datasets
from avcil.tokens.guidance import change_sums, explained_change, synchrony, synchrony_form
from avcil.tokens.manifest import class_order, read_manifest
from avcil.tokens.tokens import frame_audio
from avcil.workshop.import_tokens import import_tokens

NAMES = {"clip_id": "vid", "order": "classes"}
COVERED = 0.1
SHARES, FORMS = (8.0, 16.0, 20.0, 32.0), (0.5, 1.0, 2.0, 4.0)  # τ of an m in [0, 1], and of one of unit spread


def imported(path: Path, folder: Path) -> Dataset:
    with contextlib.redirect_stdout(io.StringIO()):
        import_tokens(path, folder, names=NAMES)
    write_json(folder / "orders.json", {"0": np.load(path)["classes"].tolist()})
    places = folder / "manifest.csv", folder / "orders.json", folder / "features/imported"
    regions = folder / "regions.npz"
    return load_datasets(*places, [0], regions=regions if regions.exists() else None)[0]


def features_of(data: Dataset, similarity: Tensor | None, tau: float) -> tuple[Features, Tensor]:
    """Of all clips, and the attention [N,L,S] that they come from."""
    fusion = "frozen" if similarity is None else "frozen_guided"
    model = IncrementalClassifier(
        data.tokens.channels, fusion=fusion, classifier="linear", width=1, heads=1, prior_guidance=tau,
        learnt_guidance=0.0,
    )  # fmt: skip
    tokens = data.tokens if similarity is None else data.tokens._replace(similarity=similarity)
    output = predict(model, tokens, torch.arange(len(data.labels)))
    return output.features, output.spatial


def scores(data: Dataset, features: Features, split: str, sizes: list[int]) -> list[float]:
    """Accuracy on all clips of seen classes after each task, learnt one task after the other."""
    head, accuracy = ScaledRidge(), []
    for past, seen in pairwise(np.cumsum([0, *sizes]).tolist()):
        rows = data.rows("train", past, seen)
        head.update(features.at(rows), data.labels[rows], seen)
        rows = data.rows(split, 0, seen)
        predicted = head.logits(features.at(rows)).argmax(1)
        accuracy.append(100 * float((predicted == data.labels[rows]).double().mean()))
    return accuracy


def row(
    data: Dataset, name: str, similarity: Tensor | None, taus: tuple[float, ...], per_task: int, streams="av"
) -> None:
    classes = len(data.order)
    best = (-1.0, 0.0, None, None)
    for tau in taus:
        features, spatial = features_of(data, similarity, tau)
        absent = {n: torch.zeros(len(data.labels), 1) for n in ("audio", "visual") if n[0] not in streams}
        features = features._replace(**absent)
        last = scores(data, features, "val", [classes])[-1]
        if last > best[0]:
            best = (last, tau, features, spatial)
    validation, tau, features, spatial = best
    tests = scores(data, features, "test", [per_task] * (classes // per_task))
    hit = "-"
    if similarity is not None and data.share is not None:
        rows = data.splits["test"]
        even = np.full((len(rows), spatial.shape[1]), 1 / spatial.shape[1])
        hits = attention_hit(spatial[rows].numpy(), even, data.share[rows].numpy(), COVERED)
        hit = f"{100 * hits.mean():.0f}"
    chosen = "-" if similarity is None else f"{tau:g}"
    print(f"| {name} | {chosen} | {validation:.1f} | {np.mean(tests):.1f} | {tests[-1]:.1f} | {hit} |", flush=True)


def heading(name: str, data: Dataset, per_task: int) -> None:
    counts = ", ".join(f"{len(rows)} {split}" for split, rows in data.splits.items())
    print(f"\n{name}: {len(data.order)} classes, {per_task} a task; clips {counts}\n")
    print("| | τ | validation, last | test, mean | test, last | hit |\n| --- | ---: | ---: | ---: | ---: | ---: |")


def streams(data: Dataset, per_task: int) -> None:
    for name, letters in (("audio", "a"), ("visual", "v"), ("both", "av")):
        row(data, name, None, (0.0,), per_task, letters)


def synchronies(data: Dataset, sound: Tensor, what: str, per_task: int) -> None:
    """From the change of training clips; as it is, and averaged over slots."""
    rows = data.splits["train"]
    sums = change_sums(data.tokens.visual[rows], sound[rows])
    for damping in (0.1, 1.0):
        parts = zip(data.tokens.visual.split(50), sound.split(50), strict=True)
        form = synchrony_form(sums, damping)
        m = torch.cat([synchrony(*part, form) for part in parts])
        row(data, f"synchrony with {what}, damping {damping:g}", m, FORMS, per_task)
        mean = m.mean(1, keepdim=True).expand_as(m)
        row(data, "the same, averaged over slots", mean / mean.std(), FORMS, per_task)


def explained(data: Dataset, sound: Tensor, components: int) -> Tensor:
    parts = zip(data.tokens.visual.split(50), sound.split(50), strict=True)
    return torch.cat([explained_change(*part, components) for part in parts])


def development(folder: Path, work: Path) -> None:
    data = imported(folder / "DEV-C.npz", work / "C")
    heading("DEV-C", data, 2)
    streams(data, 2)
    data = imported(folder / "DEV-D.npz", work / "D")
    heading("DEV-D", data, 2)
    streams(data, 2)
    with np.load(folder / "DEV-D.npz") as arrays:
        loudness = torch.from_numpy(arrays["loudness"].astype("f4"))[..., None]
        slots = torch.from_numpy(arrays["audio_slots"].astype("f4") * float(arrays["scale"]))
    row(data, "change that loudness explains", data.tokens.similarity, SHARES, 2)
    other = torch.randperm(len(loudness), generator=torch.Generator().manual_seed(0))
    row(data, "control: another clip's loudness", explained(data, loudness[other], 1), SHARES, 2)
    row(data, "change that two components of the sound explain", explained(data, slots, 2), SHARES, 2)
    synchronies(data, loudness, "loudness", 2)
    synchronies(data, slots, "sound by slot", 2)
    row(data, "oracle: the true region", data.share, SHARES, 2)


def embedded(features: Path, work: Path) -> None:
    folder = Path("data/sounding_objects")
    write_json(work / "orders.json", {"0": class_order(read_manifest(folder / "manifest.csv"), 0)})
    data = load_datasets(
        folder / "manifest.csv", work / "orders.json", features, [0], regions=folder / "regions.npz"
    )[0]  # fmt: skip
    heading(f"Sounding Objects, {features.name}", data, 4)
    streams(data, 4)
    sound = frame_audio(data.tokens.audio, data.tokens.shape[1])
    for components in (1, 2, 3):
        name = f"change that {components} components of the sound explain"
        row(data, name, explained(data, sound, components), SHARES, 4)
    synchronies(data, sound, "sound by slot", 4)
    row(data, "the prior's own similarity", data.tokens.similarity, FORMS, 4)
    row(data, "oracle: the true region", data.share, SHARES, 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", type=Path, help="a feature store of the embedded benchmark")
    given = parser.parse_args()
    folder = os.environ.get("AVCIL_DEVELOPMENT")
    if folder is None and given.features is None:
        sys.exit("AVCIL_DEVELOPMENT names no folder with DEV-C.npz and DEV-D.npz, and --features no store")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as work:
        if folder is not None:
            development(Path(folder), Path(work))
        if given.features is not None:
            embedded(given.features, Path(work))


if __name__ == "__main__":
    main()
