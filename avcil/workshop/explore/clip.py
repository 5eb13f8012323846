"""Watch and listen: one clip, where and when a model looks after each task, what it says, what the prior separates."""

import html
import io
import wave

import ipywidgets as widgets
import numpy as np
import pandas as pd
import torch
from torch import Tensor

from avcil.encoders.prior import load_prior
from avcil.extraction.clips import read_clip
from avcil.learn.checkpoint import load_checkpoint, run_folder
from avcil.learn.evaluate import predict, restore
from avcil.learn.model import Output
from avcil.params import Params
from avcil.params.learning import attends
from avcil.results import plots, plots_explore
from avcil.results.attention import slot_frames
from avcil.tokens.manifest import class_order, read_manifest
from avcil.tokens.regions import patch_share
from avcil.tokens.tokens import Tokens
from avcil.workshop.explore.panel import (
    LABEL,
    WIDE,
    Panel,
    Places,
    choice,
    line,
    picture,
    png,
    side_by_side,
    small_table,
)
from avcil.world.separation import Scenes, Separated, separate, si_sdr

ALONE = "the prior alone"


def wav(waveform: np.ndarray, rate: int) -> bytes:
    """A waveform in [-1, 1] as a .wav file of 16 bits; louder ones are made as loud as fits."""
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((waveform / max(1.0, np.abs(waveform).max()) * 32767).astype("<i2").tobytes())
    return content.getvalue()


def prior_maps(similarity: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Where and when the prior itself hears the sound come from: spatial [L,S] and temporal [L]."""
    joint = similarity.flatten().softmax(0).view_as(similarity)
    temporal = joint.sum(1)
    return (joint / temporal[:, None]).numpy(), temporal.numpy()


class ClipView(Panel):
    """``said``: the likeliest classes after each task; ``spatial``, ``temporal``: the attention that is shown;
    ``gain``: decibels that prompted separation brings."""

    def __init__(self, places: Places, params: Params):
        self.places, self.params = places, params
        self.table = read_manifest(places.corpus / "manifest.csv")
        self.encoder, self.separator = load_prior(places.prior, params.encoder)
        rows = [
            name
            for name, row in params.rows.items()
            if attends(row.fusion) and row.tokens == "mini" and row.patches is None and row.readout == "classifier"
        ]
        trained = [name for name in rows if self._folder(name, 0, params.seeds[0]).exists()]
        seeds = [s for s in params.seeds if not trained or self._folder(trained[0], 0, s).exists()]
        options = [(plots.short_name_of(name), name) for name in trained]
        self.variant = choice(options, trained[0] if trained else None, "row")
        self.seed = choice(seeds, seeds[0], "seed")
        self.of_task = choice(range(len(params.tasks)), 0, "clips of task")
        self.clip = choice([], None, "test clip")
        after = [
            ("prior", ALONE),
            *((f"task {t}", f"after task {t}") for t in range(len(params.tasks) * bool(trained))),
        ]
        self.task = widgets.SelectionSlider(
            options=after, value=after[-1][1], description="look", continuous_update=False, style=LABEL, layout=WIDE
        )
        self.other = choice([], None, "mixed with")
        self.video = widgets.Video(format="mp4", width=288, autoplay=False, loop=True)
        self.mixture, self.separated = (widgets.Audio(format="wav", autoplay=False, loop=False) for _ in range(2))
        self.picture, self.words, self.sound = picture(), widgets.HTML(), widgets.HTML()
        self.note = widgets.HTML("" if trained else line("`dvc repro` adds: attention and predictions after each task"))
        for widget in (self.seed, self.of_task):
            widget.observe(self._list, "value")
        for widget in (self.clip, self.variant):
            widget.observe(self._read, "value")
        self.task.observe(self._look, "value")
        self.other.observe(self._separate, "value")
        controls = [self.variant, self.seed, self.of_task, self.clip, self.task, self.other, self.note, self.words]
        sounds = [widgets.HTML("mixture"), self.mixture, widgets.HTML("what belongs to where it looks"), self.separated]
        super().__init__(
            f"Watch and listen: {int((self.table.split == 'test').sum())} test clips",
            self.picture,
            [
                side_by_side(widgets.VBox(controls), widgets.VBox([self.video, *sounds, self.sound])),
                self.picture,
            ],
        )
        self._list()

    def _folder(self, variant: str, task: int, seed: int):
        return run_folder(self.places.runs, variant, task, seed)

    def _list(self, _=None) -> None:
        """The test clips of the chosen task."""
        self.order = class_order(self.table, self.seed.value)
        sizes = [task.classes for task in self.params.tasks]
        first = sum(sizes[: self.of_task.value])
        labels = self.order[first : first + sizes[self.of_task.value]]
        test = self.table[self.table.split == "test"]
        clips = test[test.label.isin(labels)].clip_id.tolist()
        away = test[~test.label.isin(labels)].clip_id.tolist() or clips
        self._quiet = True  # options change one after the other: read the clip once, at the end
        for widget, names in ((self.other, away[:20]), (self.clip, clips)):
            widget.options = names
            widget.value = names[0]
        self._quiet = False
        self._read()

    def _load(self, name: str):
        row = self.table.set_index("clip_id").loc[name]
        file = self.places.corpus / row.path
        return file, read_clip(file, **self.params.film.model_dump()), row.label

    def _read(self, _=None) -> None:
        """Encode the clip, and ask the checkpoint of every task."""
        if self._quiet or self.clip.value is None:
            return
        file, self.now, self.label = self._load(self.clip.value)
        self.video.value, self.frames = file.read_bytes(), slot_frames(file, self.params.film)
        tokens = self.encoder.encode(*(torch.from_numpy(x)[None] for x in (self.now.frames, self.now.waveform)))
        side = round(tokens.shape[2] ** 0.5)
        with np.load(self.places.corpus / "regions.npz") as arrays:
            grid = arrays["region"][list(arrays["clip_id"]).index(self.clip.value)]
        self.share = patch_share(grid[None].astype(np.float32) / 255, tokens.shape[1], side)[0]
        self.maps = {ALONE: prior_maps(tokens.similarity[0])}
        self.said = pd.DataFrame()
        for after, output in self._ask(tokens).items():
            self.maps[after] = output.spatial[0].numpy(), output.temporal[0].numpy()
            chances = pd.Series(output.logits[0].softmax(0).numpy(), index=self.order[: output.logits.shape[1]])
            best = [f"{name} {chance:.2f}" for name, chance in chances.nlargest(3).items()]
            told = dict(zip(("1st", "2nd", "3rd"), best, strict=False))
            self.said = pd.concat([self.said, pd.DataFrame(told, index=[after])])
        self._look()

    def _ask(self, tokens: Tokens) -> dict[str, Output]:
        found: dict[str, Output] = {}
        if self.variant.value is None:
            return found
        self.note.value = ""
        for task in range(len(self.params.tasks)):
            folder = self._folder(self.variant.value, task, self.seed.value)
            if not folder.exists():
                continue
            checkpoint, method = load_checkpoint(folder), self.params.rows[self.variant.value]
            made_from = {"method": method.model_dump(), "training": self.params.training.model_dump()}
            now = all(checkpoint.origin[part] == value for part, value in made_from.items())
            if not now or checkpoint.classes != self.order[: len(checkpoint.classes)]:
                self.note.value = line(f"{folder}: made with other parameters; `dvc repro` makes it anew", wrong=True)
                continue
            model = restore(checkpoint, method, self.params.training, tokens.channels)
            found[f"after task {task}"] = predict(model, tokens, torch.tensor([0]), maps=True)
        return found

    def _look(self, _=None) -> None:
        who = self.task.value if self.task.value in self.maps else ALONE
        self.spatial, self.temporal = self.maps[who]
        mel = self.encoder.spectrogram(torch.from_numpy(self.now.waveform)[None])[0].numpy()
        if who != ALONE:
            who = f"{plots.short_name_of(self.variant.value)} {who}"
        self.picture.value = png(
            plots_explore.looking(
                self.frames, self.spatial, self.share, mel, self.temporal,
                seconds=len(self.now.waveform) / self.now.sample_rate,
                title=f"{self.clip.value}: where and when to look, by {who} (outlined: what sounds)",
            )
        )  # fmt: skip
        rows = small_table(self.said) if len(self.said) else ""
        truth = html.escape(str(self.label))
        self.words.value = f"truth: <b>{truth}</b>{rows.replace(truth, f'<b>{truth}</b>')}"
        self._separate()

    def _separate(self, _=None) -> None:
        """Mix another clip's sound in, and keep what belongs to where the model looks."""
        if self._quiet or self.other.value is None:
            return
        _, other, _ = self._load(self.other.value)
        pair = torch.from_numpy(np.stack([self.now.waveform, other.waveform]))[None]
        prompt = torch.from_numpy(np.stack([self.spatial, self.spatial]))[None]
        scenes = Scenes(torch.from_numpy(self.now.frames)[None], pair, prompt, torch.zeros(1, 2, dtype=torch.long))
        found: Separated = separate(self.encoder, self.separator, scenes)
        waves = found.waveforms
        before, after = (float(si_sdr(waves[name], waves["target"])) for name in ("mixture", "estimate"))
        self.gain = after - before
        rate = self.now.sample_rate
        self.mixture.value, self.separated.value = (wav(waves[n][0].numpy(), rate) for n in ("mixture", "estimate"))
        self.sound.value = line(
            f"SI-SDR of this clip's sound: {before:.1f} dB in the mixture, {after:.1f} dB separated"
        )
