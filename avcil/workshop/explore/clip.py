"""Watch and listen: one clip, where and when rows look after each task, what they say, what the prior separates."""

import html
from pathlib import Path
from tempfile import TemporaryDirectory

import ipywidgets as widgets
import numpy as np
import torch

from avcil.comparison.protocol import run_folder
from avcil.encoders.prior import load_prior, released
from avcil.extraction.clips import ClipError, read_clip
from avcil.extraction.decoding import unread
from avcil.learn.checkpoint import CheckpointError
from avcil.params import Params
from avcil.results import plots
from avcil.results.names import short_name_of
from avcil.tokens.dataset import Dataset
from avcil.tokens.manifest import Media, class_order, read_manifest
from avcil.tokens.regions import patch_share
from avcil.tokens.tokens import Tokens
from avcil.workshop.explore.answers import Answer, answer, answer_of, prior_attention
from avcil.workshop.explore.faces import Faces, Regions
from avcil.workshop.explore.panel import WIDE, Checks, Panel, Places, beside, line, picture, png, side_by_side
from avcil.workshop.explore.playback import film, wav
from avcil.workshop.explore.rows import LiveRun, LiveRuns
from avcil.world.separation import Scenes, separate, si_sdr

ALONE = "the prior alone"
UPLOAD = "200 MB"  # as the Makefile tells the servers, and playground.js whoever chooses a larger one
TOP = 3  # classes shown of what a row says
STYLE = "<style>.avcil-said td, .avcil-said th {padding: 1px 5px; line-height: 1.25; text-align: center}</style>"


class ClipView(Panel):
    """``answers``: what each chosen row says after each task, and its attention; ``looks``: the attention shown;
    ``gain``: decibels that prompted separation brings."""

    def __init__(self, places: Places, params: Params, live: LiveRuns | None = None):
        self.places, self.params, self.live = places, params, live or LiveRuns()
        self.reading = params.film.model_dump()
        # faces look for the clip_id as a column
        self.table = read_manifest(places.corpus / "manifest.csv").set_index("clip_id", drop=False)
        self.test = self.table[self.table.split == "test"]
        self.regions = Regions(places.corpus / "regions.npz")
        self.faces = Faces(places.corpus, self.table, params.film, self.regions)
        self.encoder, self.separator = load_prior(places.prior, params.encoder)
        # other encoders are loaded when a row asks for them
        self.encoders = {"mini": self.encoder}

        trained = [name for name in params.methods if self._can_ask(name)]
        self.hint = "" if trained else line("`dvc repro` adds: attention and predictions after each task")
        # seeds of which something is stored; before anything has been learnt, all
        seeds = [seed for seed in params.seeds if not trained or self._folder(trained[0], 0, seed).exists()]
        tasks = range(len(params.tasks))
        self.stored = [(short_name_of(name), name) for name in trained]
        after = self._moments() if trained else [("prior", ALONE)]
        self.methods = Checks("rows", self.stored, trained[:1], height=430)
        self.seed = widgets.Dropdown(options=seeds, description="seed", **WIDE)
        # not redrawn while the handle is being dragged
        self.task = widgets.SelectionSlider(
            options=after, value=after[-1][1], description="look after", continuous_update=False, **WIDE
        )
        self.of_task = widgets.Dropdown(options=tasks, description="classes of task", **WIDE)
        self.of_class = widgets.ToggleButtons(layout=WIDE["layout"], style={"button_width": "60px"})
        self.of_class.add_class("avcil-faces")
        self.clip = widgets.Dropdown(description="test clip", **WIDE)
        hint, narrow = "its path, then Enter", WIDE | {"layout": widgets.Layout(flex="1 1 0", min_width="0")}
        self.own = widgets.Text(description="own clip", placeholder=hint, continuous_update=False, **narrow)
        self.upload = widgets.FileUpload(
            accept="video/*",
            description="upload",
            tooltip=f"a video of at most {UPLOAD}",
            layout=widgets.Layout(width="112px"),
        )
        own = widgets.HBox([self.own, self.upload], layout=WIDE["layout"])
        self.other = widgets.Dropdown(description="mixed with", **WIDE)
        self.note = widgets.HTML(layout=WIDE["layout"])
        controls = [self.methods, self.seed, self.task, self.of_task, self.of_class, self.clip, own, self.other]

        fixed = widgets.Layout(max_width="100%", height="auto", flex="0 0 auto", align_self="flex-start")
        self.video = widgets.Video(format="mp4", autoplay=False, loop=True, layout=fixed)
        self.mixture, self.separated = (widgets.Audio(format="wav", autoplay=False, loop=False) for _ in range(2))
        self.picture = picture("where it is looked, slot by slot")
        self.words, self.sound, self.style, self.voices = (widgets.HTML() for _ in range(4))
        mixture = widgets.VBox([widgets.HTML("mixture"), self.mixture])
        separated = widgets.VBox([widgets.HTML("what belongs to where it looks"), self.separated])

        self.react(self._list, self.seed, self.of_task)
        self.react(self._list_clips, self.of_class)
        self.react(self._leave_own, self.clip)
        self.react(self._read_path, self.own)
        self.react(self._read_upload, self.upload)
        self.react(self._look, self.methods, self.task)
        self.react(self._separate, self.other)
        self.live.observe(lambda _: self._take_live(), "runs")
        shown = [side_by_side(self.video, self.words), side_by_side(mixture, separated), self.sound, self.picture]
        super().__init__(
            f"Watch and listen: {len(self.test)} test clips",
            [beside([*controls, self.note, self.style, self.voices], shown)],
        )
        self._list()
        if self.live.runs:
            self._take_live()

    def _picture(self) -> bytes:
        return self.picture.value

    def _moments(self) -> list[tuple[str, str]]:
        return [("prior", ALONE), *((f"task {t}", f"after task {t}") for t in range(len(self.params.tasks)))]

    def _take_live(self) -> None:
        """Rows trained in this session stand below the stored ones; the last one is ticked."""
        # what a row of other tokens says cannot be asked, without its encoder
        names = [name for name, run in self.live.runs.items() if self._encodes(run.method.tokens)]
        if not names:
            return
        for name in names:
            self.answers.pop(name, None)  # of a run of that name before
            self.remarks.pop(name, None)
        with self.quiet():
            if len(self.task.options) == 1:  # no row was stored
                self.task.options = self._moments()
                self.task.value = self.task.options[-1][1]
            self.methods.options = [*self.stored, *((f"{name} (live)", name) for name in names)]
            # what is ticked stays so, and the newest one joins it
            self.methods.value = (*self.methods.value, *(n for n in names[-1:] if n not in self.methods.value))
        self.hint = ""
        self._look()

    def _encodes(self, tokens: str) -> bool:
        """Whether the encoder of these tokens stands in prior/."""
        return tokens in self.params.own_encoders and released(tokens, self.places.prior.parent).exists()

    def _folder(self, method: str, task: int, seed: int) -> Path:
        return run_folder(self.places.artifacts, method, task, seed)

    def _can_ask(self, name: str) -> bool:
        """Whether the row has been learnt, and a clip can be encoded for it."""
        learnt = any(self._folder(name, 0, seed).exists() for seed in self.params.seeds)
        return learnt and self._encodes(self.params.methods[name].tokens)

    # ---- the clip

    def _list(self) -> None:
        """The classes of the chosen task."""
        self.order = class_order(self.table, self.seed.value)
        sizes = [task.classes for task in self.params.tasks]
        first = sum(sizes[: self.of_task.value])
        labels = self.order[first : first + sizes[self.of_task.value]]
        self.style.value = self.faces.buttons("avcil-faces", labels)
        with self.quiet():
            self.of_class.options, self.of_class.value = labels, labels[0]
        self._list_clips()

    def _list_clips(self) -> None:
        """The test clips of the chosen class, and one of each other class."""
        mine = self.test.label == self.of_class.value
        away = self.test[~mine].drop_duplicates("label")
        with self.quiet():
            self.other.options = list(zip(away.label, away.clip_id, strict=True))
            self.other.value = away.clip_id.iloc[0]
            self.clip.options = self.test.clip_id[mine].tolist()
            self.clip.value = self.clip.options[0]
        self._leave_own()

    def _leave_own(self) -> None:
        with self.quiet():
            self.own.value = ""
        self._read(None)

    def _read_path(self) -> None:
        path = self.own.value.strip()
        self._read(Path(path).expanduser() if path else None)

    def _read_upload(self) -> None:
        (file,) = self.upload.value
        # emptied, so that the same file can be chosen once more
        with self.quiet():
            self.upload.value = ()
        with TemporaryDirectory() as folder:
            # the last part of its name alone, since a page might send a path
            path = Path(folder) / Path(file.name).name
            path.write_bytes(file.content)
            self._read(path)
            # the temporary folder means nothing to whoever reads it
            self.note.value = self.note.value.replace(f"{folder}/", "")

    def _read(self, own: Path | None) -> None:
        """Decode one's own clip, or else the chosen one."""
        file = own or self._file(self.clip.value)
        try:
            now = read_clip(file, **self.reading)
        except ClipError as error:
            # without the way out, which is a manifest's: to drop the row
            self.note.value = line(str(error).split("; ")[0], wrong=True)
            return
        assert now.frames is not None and now.waveform is not None  # only a clip read for one stream lacks the other
        self.now, self.frames, self.waveform = now, now.frames, now.waveform
        self.label = None if own else self.table.label[self.clip.value]
        self.name = own.name if own else self.clip.value
        # the benchmark's own clips are as long as `mini` reads
        longer = unread([Media(file)], self.params.film.frames / self.params.film.fps) if own else ""
        self.longer = longer and line(f"mini {longer}")
        # kept answers are of one clip
        self.tokens: dict[str, Tokens] = {}
        self.answers: dict[str, dict[str, Answer]] = {}
        self.remarks: dict[str, str] = {}
        tokens = self._encoded("mini")
        slots, patches = tokens.shape[1:3]
        grid = self.regions.of_clip(None if own else self.clip.value)
        self.share = patch_share(grid[None], slots, round(patches**0.5))[0]
        self.prior = prior_attention(tokens.similarity[0])
        self.mel = self.encoder.spectrogram(torch.from_numpy(now.waveform)[None])[0].numpy()
        self._look()

    def _file(self, clip: str) -> Path:
        return self.places.corpus / self.table.path[clip]

    def _encoded(self, name: str) -> Tokens:
        """The clip's tokens by that encoder; encoders and tokens are kept."""
        if name not in self.encoders:
            file = released(name, self.places.prior.parent)
            self.encoders[name], _ = load_prior(file, self.params.encoder)
        if name not in self.tokens:
            pair = (torch.from_numpy(part)[None] for part in (self.frames, self.waveform))
            self.tokens[name] = self.encoders[name].encode(*pair)
        return self.tokens[name]

    # ---- what rows say of it

    def _ask(self, row: str) -> dict[str, Answer]:
        """What the row's checkpoints say of the clip, task by task."""
        run: LiveRun | None = self.live.runs.get(row)
        # classes are positions in the order: in another one they would have other names
        if run and run.data.order != self.order:
            self.remarks[row] = line(f"{row} was trained in the class order of seed {run.seed}: choose that seed")
            return {}
        method = run.method if run else self.params.methods[row]
        tokens = self._encoded(method.tokens)
        # the class is not read, since nothing is scored
        data = Dataset([self.name], tokens, torch.tensor([0]), {}, self.order, method.tokens, None)
        if run:
            learnt = enumerate(run.checkpoints)
            return {f"after task {t}": answer_of(c, method, run.training, data, device=run.device) for t, c in learnt}
        answers, device = {}, self.params.compute.device
        for task in range(len(self.params.tasks)):
            folder = self._folder(row, task, self.seed.value)
            # a chain that is being learnt has its first tasks alone
            if folder.exists():
                try:
                    answers[f"after task {task}"] = answer(folder, method, self.params.training, data, device=device)
                # one line about this checkpoint; the others are asked all the same
                except CheckpointError as error:
                    self.remarks[row] = line(str(error), wrong=True)
        return answers

    def _look(self) -> None:
        """Ask the chosen rows, and show where and when they look after the chosen task, or the prior alone."""
        for row in self.methods.value:
            # once a clip: asking takes as long as learning's own predictions
            if row not in self.answers:
                self.answers[row] = self._ask(row)
        remarks = [self.remarks.get(row) for row in self.methods.value]
        self.note.value = " ".join(filter(None, [self.hint, self.longer, *remarks]))
        after = self.task.value
        looks = {row: self.answers[row][after].attention for row in self.methods.value if after in self.answers[row]}
        self.looks = {f"{short_name_of(row)} {after}": look for row, look in looks.items()} or {ALONE: self.prior}
        # the first row's look is the prompt of the separation below
        self.spatial, self.temporal, _ = next(iter(self.looks.values()))
        self.video.value, width = film(self.now, self.looks, self.share, self.mel)
        self.video.width = str(width)
        slots = len(self.temporal)
        moments = self.frames[:: len(self.frames) // slots][:slots]  # a picture for each slot
        # an even map shows nothing
        maps = {name: look.spatial for name, look in self.looks.items() if look.learnt} or {ALONE: self.prior.spatial}
        title = f"{self.name}: where to look (outlined: what sounds)"
        self.picture.value = png(plots.attention_over_tasks(moments, maps, self.share, title=title))
        self.words.value = self._table()
        self._separate()

    def _table(self) -> str:
        """The likeliest classes after each task, in pictures; what is true has a green frame."""
        rows = self.methods.value
        own = f"an own clip, {html.escape(self.name)}"
        truth = own if self.label is None else self.faces.html(self.label, size=64) + html.escape(self.label)
        heads = "".join(f"<th colspan={TOP}>{html.escape(short_name_of(row))}</th>" for row in rows)
        lines = []
        # the first option is the prior, which names no class
        for _, after in self.task.options[1:]:
            cells = []
            for answers in (self.answers[row] for row in rows):
                best = answers[after].scores.nlargest(TOP).items() if after in answers else ()
                mine = [
                    f"<td>{self.faces.html(label, right=label == self.label)}<br><small>{score:.2f}</small></td>"
                    for label, score in best
                ]
                # a row without an answer keeps its place in the table
                cells += mine + ["<td></td>"] * (TOP - len(mine))
            shade = ' style="background: rgba(25, 118, 210, 0.15)"' if after == self.task.value else ""
            lines.append(f"<tr{shade}><th>{after}</th>{''.join(cells)}</tr>")
        table = f'{STYLE}<table class="avcil-said"><tr><th></th>{heads}</tr>{"".join(lines)}</table>'
        return f"<div>truth: {truth}</div>{table if rows else ''}"

    def _separate(self) -> None:
        """Mix another clip's sound in, and keep what belongs to where the first row looks."""
        other = read_clip(self._file(self.other.value), **self.reading).waveform
        assert other is not None
        pair = torch.from_numpy(np.stack([self.waveform, other]))[None]
        # a prompt for each sound, of which only the first one's is read
        prompt = torch.from_numpy(np.stack([self.spatial, self.spatial]).astype(np.float32))[None]
        scenes = Scenes(torch.from_numpy(self.frames)[None], pair, prompt, torch.zeros(1, 2, dtype=torch.long))
        waves = separate(self.encoder, self.separator, scenes).waveforms
        before, after = (float(si_sdr(waves[name], waves["target"])) for name in ("mixture", "estimate"))
        self.gain = after - before
        for player, name in ((self.mixture, "mixture"), (self.separated, "estimate")):
            player.value = wav(waves[name][0].numpy(), self.now.sample_rate)
        mixed = self.faces.html(self.table.label[self.other.value])
        self.sound.value = f"mixed in: {mixed} " + line(
            f"SI-SDR of this clip's sound: {before:.1f} dB in the mixture, {after:.1f} dB separated"
        )
        # last, since each picture that was shown brings its sound along
        self.voices.value = self.faces.voices()
