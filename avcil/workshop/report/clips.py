"""Two clips that play, with where and when rows look drawn into them."""

from pathlib import Path
from typing import NamedTuple

import torch

from avcil.comparison.protocol import run_folder
from avcil.encoders.prior import load_prior, released
from avcil.extraction.clips import read_clip
from avcil.params import Params
from avcil.tokens.dataset import Dataset
from avcil.tokens.manifest import class_order, read_manifest
from avcil.tokens.regions import patch_share
from avcil.workshop.explore.answers import answer, prior_attention
from avcil.workshop.explore.faces import Regions
from avcil.workshop.explore.playback import film

ROWS = {"lll_prior": "LLL", "replay": "replay"}


class ShownClip(NamedTuple):
    """file: name of the .mp4 file; caption: what sounds, and what rows take it for; width in pixels."""

    file: str
    caption: str
    width: int


def films(root: Path, params: Params, folder: Path) -> list[ShownClip]:
    """A test clip of two of the first task's classes, as LLL and replay see it after the last task, else as the prior
    alone does: without runs there is nothing else."""
    seed, last, corpus = params.seeds[0], len(params.tasks) - 1, root / "data" / params.benchmark
    table = read_manifest(corpus / "manifest.csv")
    order, test = class_order(table, seed), table[table.split == "test"].set_index("label")
    encoder, _ = load_prior(released("mini", root / "prior"), params.encoder)
    regions, made = Regions(corpus / "regions.npz"), []
    runs = {name: run_folder(root / "artifacts", row, last, seed) for row, name in ROWS.items()}
    for label in order[:2]:
        # a list of one label gives a table, even where the class has a single test clip
        row = test.loc[[label]].iloc[0]
        clip = read_clip(corpus / row.path, **params.film.model_dump())
        tokens = encoder.encode(*(torch.from_numpy(part)[None] for part in (clip.frames, clip.waveform)))
        # the class is not read, since nothing is scored
        data = Dataset([row.clip_id], tokens, torch.tensor([0]), {}, order, "mini", None)
        answers = {
            name: answer(runs[name], params.methods[key], params.training, data)
            for key, name in ROWS.items()
            # what is stored may be of other tokens than `mini`, in which the clip is encoded here
            if runs[name].exists() and params.methods[key].tokens == "mini"
        }
        looks = {name: one.attention for name, one in answers.items()}
        slots, patches = tokens.visual.shape[1:3]
        share = patch_share(regions.of_clip(row.clip_id)[None], slots, round(patches**0.5))[0]
        mel = encoder.spectrogram(torch.from_numpy(clip.waveform)[None])[0].numpy()
        content, width = film(clip, looks or {"the prior alone": prior_attention(tokens.similarity[0])}, share, mel)
        (folder / f"{row.clip_id}.mp4").write_bytes(content)
        said = [f"{name} predicts {one.scores.idxmax()}" for name, one in answers.items()]
        made.append(ShownClip(f"{row.clip_id}.mp4", "; ".join([f"The class is {label}", *said]) + ".", width))
    return made
