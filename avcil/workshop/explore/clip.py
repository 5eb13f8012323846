"""Watch and listen: one clip, where and when rows look after each task, what they say, what the prior separates."""

import html
import io
import wave
from pathlib import Path

import ipywidgets as widgets
import numpy as np
import pandas as pd
import torch

from avcil.comparison.protocol import run_folder
from avcil.encoders.prior import load_prior, released
from avcil.extraction.clips import ClipError, read_clip
from avcil.learn.checkpoint import CheckpointError
from avcil.params import Params
from avcil.results import plots_explore
from avcil.results.names import short_name_of
from avcil.tokens.dataset import Dataset
from avcil.tokens.manifest import class_order, read_manifest
from avcil.tokens.regions import patch_share
from avcil.tokens.tokens import Tokens
from avcil.workshop.explore.answers import Answer, answer, prior_attention
from avcil.workshop.explore.faces import Faces, Regions
from avcil.workshop.explore.panel import (
    SHORT,
    WIDE,
    Checks,
    Panel,
    Places,
    beside,
    choice,
    line,
    picture,
    png,
    side_by_side,
)
from avcil.workshop.explore.playback import film
from avcil.world.separation import Scenes, Separated, separate, si_sdr

ALONE = "the prior alone"
TOP = 3  # classes shown of what a row says


def wav(waveform: np.ndarray, rate: int) -> bytes:
    """A waveform in [-1, 1] as a .wav file of 16 bits; louder ones are made as loud as fits."""
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((waveform / max(1.0, np.abs(waveform).max()) * 32767).astype("<i2").tobytes())
    return content.getvalue()


class ClipView(Panel):
    """``answers``: what each chosen row says after each task, and its attention; ``looks``: the attention shown;
    ``gain``: decibels that prompted separation brings."""

    def __init__(self, places: Places, params: Params):
        self.places, self.params, self._quiet = places, params, False
        self.table = read_manifest(places.corpus / "manifest.csv").set_index("clip_id", drop=False)
        self.regions = Regions(places.corpus / "regions.npz")
        self.faces = Faces(places.corpus, self.table, params.film, self.regions)
        self.encoder, self.separator = load_prior(places.prior, params.encoder)
        self.encoders = {"mini": self.encoder}
        trained = [name for name in params.methods if self._can_ask(name)]
        self._controls(trained)
        self.video = widgets.Video(format="mp4", autoplay=False, loop=True)
        self.video.layout = widgets.Layout(max_width="100%", height="auto", flex="0 0 auto", align_self="flex-start")
        self.mixture, self.separated = (widgets.Audio(format="wav", autoplay=False, loop=False) for _ in range(2))
        self.picture, self.words, self.sound, self.style = picture(), widgets.HTML(), widgets.HTML(), widgets.HTML()
        self.note = widgets.HTML(layout=WIDE)
        self.hint = "" if trained else line("`dvc repro` adds: attention and predictions after each task")
        for widget in (self.seed, self.of_task):
            widget.observe(self._list, "value")
        self.of_class.observe(self._list_clips, "value")
        for widget in (self.clip, self.own):
            widget.observe(self._read, "value")
        for widget in (self.methods, self.task):
            widget.observe(self._look, "value")
        self.other.observe(self._separate, "value")
        controls = [self.methods, self.seed, self.task, self.of_task, self.of_class, self.clip, self.own, self.other]
        sounds = [
            widgets.VBox([widgets.HTML(title), sound])
            for title, sound in (("mixture", self.mixture), ("what belongs to where it looks", self.separated))
        ]
        super().__init__(
            f"Watch and listen: {int((self.table.split == 'test').sum())} test clips",
            self.picture,
            [
                beside(
                    [*controls, self.note, self.style],
                    [side_by_side(self.video, self.words), side_by_side(*sounds), self.sound, self.picture],
                )
            ],
        )
        self._list()

    def _controls(self, trained: list[str]) -> None:
        params = self.params
        seeds = [s for s in params.seeds if not trained or self._folder(trained[0], 0, s).exists()]
        names = [(short_name_of(name), name) for name in trained]
        self.methods = Checks("rows", names, trained[:1], height=430)
        self.seed = choice(seeds, seeds[0], "seed")
        self.of_task = choice(range(len(params.tasks)), 0, "classes of task")
        self.of_class = widgets.ToggleButtons(layout=WIDE, style={"button_width": "60px"}).add_class("avcil-faces")
        self.clip = choice([], None, "test clip")
        after = [("prior", ALONE)]
        after += [(f"task {t}", f"after task {t}") for t in range(len(params.tasks) * bool(trained))]
        self.task = widgets.SelectionSlider(
            options=after, value=after[-1][1], description="look after", continuous_update=False, style=SHORT,
            layout=WIDE,
        )  # fmt: skip
        self.own = widgets.Text(
            description="own clip", placeholder="path of a video, then Enter", continuous_update=False, style=SHORT,
            layout=WIDE,
        )  # fmt: skip
        self.other = choice([], None, "mixed with")

    def _folder(self, method: str, task: int, seed: int) -> Path:
        return run_folder(self.places.artifacts, method, task, seed)

    def _can_ask(self, name: str) -> bool:
        """Whether the row has been learnt, and the encoder of its tokens stands in prior/."""
        tokens = self.params.methods[name].tokens
        known = tokens in self.params.own_encoders and released(tokens, self.places.prior.parent).exists()
        return known and any(self._folder(name, 0, seed).exists() for seed in self.params.seeds)

    def _list(self, _=None) -> None:
        """The classes of the chosen task."""
        self.order = class_order(self.table, self.seed.value)
        sizes = [task.classes for task in self.params.tasks]
        first = sum(sizes[: self.of_task.value])
        labels = self.order[first : first + sizes[self.of_task.value]]
        self.style.value = self.faces.buttons("avcil-faces", labels)
        self._quiet = True  # options change one after the other: read the clip once, at the end
        self.of_class.options, self.of_class.value = labels, labels[0]
        self._quiet = False
        self._list_clips()

    def _list_clips(self, _=None) -> None:
        """The test clips of the chosen class, and one of each other class."""
        if self._quiet or self.of_class.value is None:
            return
        test = self.table[self.table.split == "test"]
        mine = test.label == self.of_class.value
        away = test[~mine].drop_duplicates("label")
        self._quiet = True
        self.other.options = [(row.label, row.clip_id) for row in away.itertuples()]
        self.clip.options, self.own.value = test.clip_id[mine].tolist(), ""
        self.other.value, self.clip.value = self.other.options[0][1], self.clip.options[0]
        self._quiet = False
        self._read()

    def _file(self, clip: str) -> Path:
        return self.places.corpus / self.table.loc[clip].path

    def _read(self, change=None) -> None:
        """Decode the clip: that of the path, if there is one, else the chosen one."""
        if self._quiet or self.clip.value is None:
            return
        if change and change.owner is self.clip and self.own.value:
            self._quiet, self.own.value = True, ""
            self._quiet = False
        own = self.own.value.strip()
        try:
            now = read_clip(
                Path(own).expanduser() if own else self._file(self.clip.value), **self.params.film.model_dump()
            )
        except ClipError as error:
            self.note.value = line(str(error).split("; ")[0], wrong=True)
            return
        assert now.frames is not None and now.waveform is not None  # only a clip read for one stream lacks the other
        self.now, self.frames, self.waveform = now, now.frames, now.waveform
        self.label = None if own else self.table.loc[self.clip.value].label
        self.name = Path(own).name if own else self.clip.value
        self.tokens: dict[str, Tokens] = {}
        self.answers: dict[str, dict[str, Answer]] = {}
        tokens = self._encoded("mini")
        slots, patches = tokens.shape[1:3]
        grid = self.regions.of_clip(None if own else self.clip.value)
        self.share = patch_share(grid[None], slots, round(patches**0.5))[0]
        self.prior = prior_attention(tokens.similarity[0])
        self.mel = self.encoder.spectrogram(torch.from_numpy(now.waveform)[None])[0].numpy()
        self._look()

    def _encoded(self, name: str) -> Tokens:
        """The clip's tokens by that encoder; encoders and tokens are kept."""
        if name not in self.encoders:
            file = released(name, self.places.prior.parent)
            self.encoders[name], _ = load_prior(file, self.params.encoder)
        if name not in self.tokens:
            pair = (torch.from_numpy(part)[None] for part in (self.frames, self.waveform))
            self.tokens[name] = self.encoders[name].encode(*pair)
        return self.tokens[name]

    def _ask(self, row: str) -> dict[str, Answer]:
        """What the row's checkpoints say of the clip, task by task."""
        method, found = self.params.methods[row], {}
        data = Dataset(
            [self.name], self._encoded(method.tokens), torch.tensor([0]), {}, self.order, method.tokens, None
        )
        for task in range(len(self.params.tasks)):
            folder = self._folder(row, task, self.seed.value)
            if folder.exists():
                try:
                    found[f"after task {task}"] = answer(folder, method, self.params.training, data)
                except CheckpointError as error:
                    self.note.value = line(str(error), wrong=True)
        return found

    def _look(self, _=None) -> None:
        """Ask the chosen rows, and show where and when they look after the chosen task, or the prior alone."""
        if self._quiet:
            return
        self.note.value = self.hint
        for row in self.methods.value:
            self.answers.setdefault(row, self._ask(row))
        asked = {row: self.answers[row] for row in self.methods.value}
        after = self.task.value
        self.looks = {
            f"{short_name_of(row)} {after}": found[after].attention for row, found in asked.items() if after in found
        } or {ALONE: self.prior}
        who, (self.spatial, self.temporal, _) = next(iter(self.looks.items()))
        self.video.value, width = film(self.now, self.looks, self.share, self.mel)
        self.video.width = str(width)
        moments = self.frames[:: len(self.frames) // len(self.temporal)]  # a picture for each slot
        self.picture.value = png(
            plots_explore.looking(
                moments[: len(self.temporal)], self.spatial, self.share, self.mel, self.temporal,
                seconds=len(self.waveform) / self.now.sample_rate,
                title=f"{self.name}: where and when to look, by {who} (outlined: what sounds)",
            )
        )  # fmt: skip
        self.words.value = self._table(asked)
        self._separate()

    def _table(self, asked: dict[str, dict[str, Answer]]) -> str:
        """The likeliest classes after each task, in pictures; what is true has a green frame."""
        truth = "an own clip" if self.label is None else self.faces.html(self.label, size=64) + html.escape(self.label)
        heads = "".join(f"<th colspan={TOP}>{html.escape(short_name_of(row))}</th>" for row in asked)
        lines = []
        for _, after in self.task.options[1:]:
            cells = ""
            for found in asked.values():
                best = found[after].scores.nlargest(TOP) if after in found else pd.Series(dtype=float)
                cells += "".join(
                    f"<td>{self.faces.html(label, right=label == self.label)}<br><small>{score:.2f}</small></td>"
                    for label, score in best.items()
                ) + "<td></td>" * (TOP - len(best))
            shade = ' style="background: rgba(25, 118, 210, 0.15)"' if after == self.task.value else ""
            lines.append(f"<tr{shade}><th>{after}</th>{cells}</tr>")
        style = (
            "<style>.avcil-said td, .avcil-said th {padding: 1px 5px; line-height: 1.25; text-align: center}</style>"
        )
        table = f'{style}<table class="avcil-said"><tr><th></th>{heads}</tr>{"".join(lines)}</table>'
        return f"<div>truth: {truth}</div>{table if asked else ''}"

    def _separate(self, _=None) -> None:
        """Mix another clip's sound in, and keep what belongs to where the first row looks."""
        if self._quiet or self.other.value is None:
            return
        other = read_clip(self._file(self.other.value), **self.params.film.model_dump())
        assert other.waveform is not None
        pair = torch.from_numpy(np.stack([self.waveform, other.waveform]))[None]
        prompt = torch.from_numpy(np.stack([self.spatial, self.spatial]).astype(np.float32))[None]
        scenes = Scenes(torch.from_numpy(self.frames)[None], pair, prompt, torch.zeros(1, 2, dtype=torch.long))
        found: Separated = separate(self.encoder, self.separator, scenes)
        waves = found.waveforms
        before, after = (float(si_sdr(waves[name], waves["target"])) for name in ("mixture", "estimate"))
        self.gain = after - before
        rate = self.now.sample_rate
        self.mixture.value, self.separated.value = (wav(waves[n][0].numpy(), rate) for n in ("mixture", "estimate"))
        mixed = self.faces.html(self.table.loc[self.other.value].label)
        self.sound.value = f"mixed in: {mixed} " + line(
            f"SI-SDR of this clip's sound: {before:.1f} dB in the mixture, {after:.1f} dB separated"
        )
