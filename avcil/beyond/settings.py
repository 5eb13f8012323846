"""What is measured beyond the paper's own limits: beyond.yaml, beside params.yaml, read by `make beyond` alone."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from avcil.learn.methods import files, find
from avcil.learn.methods.ranpac import RandomOptions
from avcil.params import ParameterError, Params, read, with_changes
from avcil.params.learning import METHODS, Method, Training
from avcil.params.section import Section, Seeds, nearest, offence
from avcil.params.world import ClipsPerClass


def _check_worlds(worlds: list[int], trained: list[int], choice: Sequence[int] = ()) -> None:
    """What is trained is trained in worlds of the study; what it was chosen by is reported by none."""
    if foreign := sorted({*trained} - {*worlds}):
        raise ValueError(f"trained_worlds: {foreign[0]} is not among the worlds {worlds}")
    if reported := sorted({*choice} & {*worlds}):
        raise ValueError(f"choice: {reported[0]} is among the worlds that are reported; take another one")


class ManyTasks(Section):
    """Worlds of many classes in tasks of few."""

    worlds: Seeds = Field(min_length=1, description="of worlds, their scenes and class orders; 1 or more")
    classes: int = Field(ge=4)
    timbres: int = Field(ge=1)
    clips_per_class: ClipsPerClass
    classes_per_task: int = Field(gt=0)
    epochs: int = Field(gt=0)
    exemplars: int = Field(ge=0, description="in all")
    moments: int = Field(gt=0, description="at which accuracy is measured, evenly spread over the tasks")
    rows: list[str] = Field(min_length=1)
    trained: list[str] = Field([], description="rows that learn by gradients, and so take the time")
    trained_worlds: Seeds = Field([], description="of the worlds, those in which they learn")

    @model_validator(mode="after")
    def _consistent(self):
        _check_worlds(self.worlds, self.trained_worlds)
        # `many_tasks` evaluates after every so many whole tasks, the last among them
        if self.classes % (self.classes_per_task * self.moments):
            raise ValueError(f"{self.classes} classes are not {self.moments} times a number of tasks; change `moments`")
        return self


class MissingRow(Section):
    """A row of params.yaml with changes, and what stands for a stream that a clip lacks."""

    name: str
    of: str
    changes: dict[str, object] = Field({}, description="keys of the row")
    fill: Literal["zeros", "means"] = Field("zeros", description="means: those of the training clips that have it")
    quarantine: bool = Field(False, description="leave training clips out that lack a stream")


class Missing(Section):
    """Clips without sound or without picture."""

    shares: list[float] = Field(min_length=2, description="of clips that lack it")
    compared: float = Field(gt=0, description="the share at which rows are compared clip by clip, beside 0")
    rows: dict[str, MissingRow]

    @model_validator(mode="after")
    def _compared(self):
        if not {0.0, self.compared} <= set(self.shares):
            raise ValueError(f"shares: 0.0 and {self.compared}, at which rows are compared, belong to them")
        return self


class Variant(Section):
    """What is stored of a clip's tokens; by default all of them in float16, as a feature store does."""

    patches: int | None = Field(None, gt=0, description="of each slot")
    by: Literal["guidance", "random", "grid", "attention"] = Field(
        "guidance", description="the most similar ones, random ones, means of a coarser grid, or the guided mean"
    )
    slots: int | None = Field(None, gt=0, description="evenly spread over the clip")
    numbers: Literal["float16", "int8_token", "int8_channel"] = Field(
        "float16", description="of both streams; int8 has a scale a token, or a channel of a clip"
    )

    @property
    def side(self) -> int:
        """Of a coarser grid."""
        return math.isqrt(self.patches or 0)

    @property
    def kept(self) -> str:
        """What of the patches and slots, in words."""
        # the figure has a colour for each of these words, whatever the numbers are stored as
        kinds = {"random": "random patches", "grid": "means of a grid", "attention": "guided mean"}
        kept = kinds.get(self.by, "best patches") if self.patches else "all patches"
        return f"{kept} of fewer slots" if self.slots else kept

    @property
    def name(self) -> str:
        """In words."""
        grid = f"{self.side} x {self.side} means"
        kinds = {"random": f"{self.patches} random patches", "grid": grid, "attention": "guided mean"}
        kept = kinds.get(self.by, f"{self.patches} best patches") if self.patches else "all patches"
        slots = f" of {self.slots} slots" if self.slots else ""
        # what follows `int8_`
        return f"{kept}{slots}{'' if self.numbers == 'float16' else ', int8 by ' + self.numbers[5:]}"

    @model_validator(mode="after")
    def _possible(self):
        # a coarser grid is square, as the encoder's is
        if self.by == "grid" and self.side**2 != self.patches:
            raise ValueError(f"patches: {self.patches} are no square grid")
        if self.by == "attention" and self.patches != 1:
            raise ValueError(f"patches: {self.patches}, but the guided mean of a slot is 1")
        # `patches: null` keeps all, of which none is drawn
        if self.by == "random" and self.patches is None:
            raise ValueError("patches: by random, but not how many")
        return self


class Shape(Section):
    """Of attention that is learnt. A head's scores are a form of rank ``width`` / ``heads`` over audio and visual
    channels."""

    heads: int | None = Field(None, gt=0)
    width: int | None = Field(None, gt=0, description="channels of all heads together, and of features")

    @property
    def name(self) -> str:
        """In words."""
        heads = f"{self.heads} head{'s' * (self.heads > 1)}" if self.heads else ""
        width = f"{self.width} channels" if self.width else ""
        return " of ".join(filter(None, (heads, width)))


class Light(Section):
    """Fewer patches, slots and bits; and of attention that is learnt fewer heads and channels."""

    worlds: Seeds = Field(min_length=2, description="on whose test clips variants are compared; 0 is the shipped one")
    choice: int = Field(gt=0, description="the world on whose validation clips `claimed` was chosen")
    row: str = Field(description="that is learnt from every variant, solved over frozen attention")
    changes: dict[str, object] = Field({}, description="keys of the row")
    trained: str = Field(description="that learns by gradients, and so takes the time")
    trained_worlds: Seeds = Field([], description="of the worlds, those in which it learns")
    trained_variants: list[str]
    shapes: dict[str, Shape] = Field({}, description="of its attention, over whole tokens; others are of `training`")
    claimed: str = Field(description="the variant that the answer is about")
    share: float = Field(gt=0, lt=1, description="goal: of whole tokens' bytes")
    loss: float = Field(ge=0, lt=1, description="goal: what may be lost of last accuracy")
    variants: dict[str, Variant]

    @model_validator(mode="after")
    def _consistent(self):
        _check_worlds(self.worlds, self.trained_worlds, [self.choice])
        # tables, figures and answers ask for these by name
        for name in ("whole", self.claimed, *self.trained_variants):
            if name not in self.variants:
                raise ValueError(f"variants: no `{name}`{nearest(name, self.variants)}")
        if both := [name for name in self.shapes if name in self.variants]:
            raise ValueError(f"shapes: `{both[0]}` is a variant, too; give it another name")
        if self.variants["whole"] != Variant():
            raise ValueError("variants: `whole` is what all are compared with; write whole: {}")
        return self


def _drawn(worlds: list[int]) -> list[int]:
    if 0 in worlds:
        raise ValueError("0 is the shipped one, whose clips are not rendered here; take others")
    return worlds


Drawn = Annotated[Seeds, AfterValidator(_drawn)]
"""Worlds that are drawn here."""


def _check_strength(key: str, strength: float) -> None:
    """Of those that are no decibels, which may be any number."""
    # x264's rate factors end at 51, and what is a part of a whole at 1
    highest = {"pixel_noise": 1, "compression": 51, "dropped_frames": 1, "delay": math.inf, "grey": 1}
    # keys are `damages.DAMAGE` or `shifts.NAME.PART`
    part = key.split(".")[-1]
    if part in highest and not 0 < strength <= highest[part]:
        raise ValueError(f"{key}: {strength:g} is not above 0 and at most {highest[part]}")


Damage = Literal["pixel_noise", "sound_noise", "other_sound", "gain", "compression", "dropped_frames", "delay"]


WHOLE, DUET = "whole", "two_sounds"  # what is compared with damaged clips, and a second object that sounds
# their order enters the seeds of what damages draw, so a new one stands at the end
CASES = {  # what is done to a clip, in words that take its strength
    WHOLE: "undamaged",
    "pixel_noise": "pixel noise of {:g}",
    "sound_noise": "noise {:g} dB below the sound",
    "other_sound": "off-screen sound, {:g} dB below",
    "gain": "gain of {:+g} dB",
    "compression": "compression, rate factor {:g}",
    "dropped_frames": "{:.0%} of frames dropped",
    "delay": "sound delayed by {:g} s",
    DUET: "two objects sound",
}


class Robust(Section):
    """Test clips that are damaged, and clips in which two objects sound."""

    worlds: Drawn = Field(min_length=2, description="on whose test clips rows are compared; 1 or more")
    rows: list[str] = Field(min_length=2, description="each against the first")
    damages: dict[Damage, list[float]] = Field(description="strengths; avcil/beyond/robust.py has their units")

    @property
    def cases(self) -> list[tuple[Damage, float]]:
        return [(damage, strength) for damage, strengths in self.damages.items() for strength in strengths]

    @model_validator(mode="after")
    def _possible(self):
        for damage, strength in self.cases:
            _check_strength(f"damages.{damage}", strength)
        return self


Shift = Literal["pixel_noise", "sound_noise", "gain", "grey"]
Way = Literal[
    "frozen", "moments", "first", "continued", "distilled", "merged", "merged_distilled", "gated", "gated_distilled",
    "before", "all",
]  # fmt: skip
WAYS: dict[Way, str] = {  # how tokens are adapted, without a label
    "frozen": "frozen",
    "moments": "no adapter, tokens re-standardised on the first task's clips",
    "first": "adapters trained on the first task only",
    "continued": "adapters trained further on each task",
    "distilled": "the same, with feature distillation",
    "merged": "one adapter per task, averaged",
    "merged_distilled": "one per task, distilled from the first, averaged",
    "gated": "one adapter per task, that of the nearest task used",
    "gated_distilled": "one per task, distilled from the first, nearest used",
    "before": "adapters trained beforehand, on other classes",
    "all": "adapters trained on all tasks at once (bound)",
}


class Adapting(Section):
    """Worlds that differ from those the prior was taught in, and adapters of its tokens."""

    worlds: Drawn = Field(min_length=2, description="1 or more")
    clips_per_class: ClipsPerClass
    surroundings: int = Field(gt=1, description="clips a class of the other classes that `before` learns from")
    shifts: dict[str, dict[Shift, float]] = Field(description="strengths, as of `robust`; grey: share of colour lost")
    rank: int = Field(gt=0, description="of an adapter")
    epochs: int = Field(gt=0, description="of adapters")
    batch: int = Field(gt=1, description="clips that are told apart")
    learning_rate: float = Field(gt=0)
    distillation: float = Field(gt=0, description="weight of `distilled`")
    rows: dict[str, list[Way]] = Field(min_length=1, description="each with its ways, `frozen` first")

    @model_validator(mode="after")
    def _possible(self):
        for row, ways in self.rows.items():
            if ways[:1] != ["frozen"]:
                raise ValueError(f"rows.{row}: begins with frozen, which the others are compared with")
        for name, shift in self.shifts.items():
            for part, strength in shift.items():
                _check_strength(f"shifts.{name}.{part}", strength)
        return self


ALONE = "none"  # no stream beside sound and picture


class Streams(Section):
    """More streams than sound and picture, joined to the tokens of patches."""

    worlds: Drawn = Field(min_length=2, description="on whose test clips rows are compared; 1 or more")
    choice: Drawn = Field(min_length=1, description="worlds on whose validation clips `weight` was chosen")
    weights: list[float] = Field(min_length=1, description="that it was chosen among")
    weight: float = Field(gt=0, description="of a stream beside the encoder's tokens")
    rows: list[str] = Field(min_length=1, description="the first one chose")
    trained: list[str] = Field([], description="rows that learn by gradients, and so take the time: with all streams")
    trained_worlds: Seeds = Field([], description="of the worlds, those in which they learn")

    @model_validator(mode="after")
    def _consistent(self):
        _check_worlds(self.worlds, self.trained_worlds, self.choice)
        if self.weight not in self.weights:
            raise ValueError(f"weight: {self.weight:g} is not among {self.weights}, which were tried")
        return self


class Beyond(Section):
    """The whole of beyond.yaml."""

    many_tasks: ManyTasks
    more_tasks: ManyTasks  # in worlds of other numbers, for one of a number is deleted where another is drawn
    missing: Missing
    light: Light
    robust: Robust
    adapting: Adapting
    streams: Streams

    def method(self, params: Params, name: str) -> Method:
        """A row of `missing`."""
        row = self.missing.rows[name]
        return with_changes(Method, params.method(row.of), row.changes, f"missing.rows.{name}.changes")

    def solved(self, params: Params) -> Method:
        """The row of `light`."""
        return with_changes(Method, params.method(self.light.row), self.light.changes, "light.changes")

    def shaped(self, params: Params) -> dict[str, Training]:
        """Training by the shapes of `light`."""
        return {
            name: with_changes(Training, params.training, shape.model_dump(exclude_none=True), f"light.shapes.{name}")
            for name, shape in self.light.shapes.items()
        }


def one_draw(params: Params) -> Params:
    """With the same random features in every world: rows are compared within one, where they share them."""
    methods = dict(params.methods)
    for name, row in methods.items():
        # those that draw import ranpac.py; another file, which somebody may still be writing, is not read for this
        if METHODS / "ranpac.py" in files(row) and issubclass(find(row.readout).Options, RandomOptions):
            methods[name] = row.model_copy(update={"readout_options": {"draw": 0} | row.readout_options})
    return params.model_copy(update={"methods": methods})


def load_beyond(params: Params, path: Path = Path("beyond.yaml")) -> Beyond:
    """beyond.yaml, checked; raises ParameterError naming the key and the way out."""
    raw = read(path)
    try:
        beyond = Beyond.model_validate(raw)
        # of all studies at once: a name that is wrong is told before hours of those that are right
        rows = [beyond.light.trained, *beyond.robust.rows, *beyond.adapting.rows]
        for study in (beyond.many_tasks, beyond.more_tasks, beyond.streams):
            rows += [*study.rows, *study.trained]
        for name in rows:
            params.method(name)
        # only to refuse a row that cannot be
        for name in beyond.missing.rows:
            beyond.method(params, name)
        beyond.solved(params)
        beyond.shaped(params)
    except ValidationError as error:
        raise ParameterError(f"{path.name}: {offence(error)}") from None
    except ValueError as error:
        raise ParameterError(f"{path.name}: {error}") from None
    return beyond
