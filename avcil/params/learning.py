"""A method is a row of choices; a task is an increment; training is what all methods share."""

from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from avcil.params.section import Section, nearest

# without learnt weights: what a solved head has summed up of past clips stays true
FROZEN = ("frozen", "frozen_guided", "frozen_scaled")
# what the core knows; any other name is a file of METHODS
FUSIONS = ("guided", "mean", "visual", "audio", *FROZEN)
CLASSIFIERS = ("linear", "cosine")
READOUTS = ("classifier", "nearest_mean", "nearest_exemplars", "ridge", "carried_ridge")
Selection = Literal["none", "random", "herding", "all"]

METHODS = Path(__file__).parents[1] / "learn/methods"
"""Where a choice that the core does not know has its file, by its name."""


def attends(fusion: str) -> bool:
    """Whether it weighs the patches of a slot, and so takes all of them."""
    # a fusion that is a file is taken to do so
    return fusion not in ("mean", "visual", "audio", "frozen")


class Method(Section):
    """A row of the comparison. A field that a row leaves out is off, as its default here says.

    `fusion`, `classifier`, `readout` and the keys of `hooks` may name a file of avcil/learn/methods, which then has the
    code that only such rows need; CONTRIBUTING.md says how to write one.
    """

    tokens: str = Field(description="whose tokens: `mini`, `random` (its untrained twin), or one of `encoders`")
    fusion: str = Field(
        description="guided, mean, visual, audio, frozen, frozen_guided or frozen_scaled, or a method's file"
    )
    prior_guidance: float = Field(
        ge=0, description="first value of τ, the weight of the prior's similarity in the scores"
    )
    memory: Selection
    exemplars: int = Field(ge=0)
    budget: Literal["per_class", "total"]
    sampler: Literal["uniform", "balanced", "paired"] = Field(
        description="balanced: every class equally often; paired: a batch of exemplars beside each of new clips"
    )
    feature_distillation: float = Field(ge=0, description="weight at as many past as new classes")
    logit_distillation: float = Field(ge=0, description="weight at as many past as new classes")
    classifier: str = Field(description="linear or cosine, or a method's file")
    readout: str = Field(
        description="classifier, or a head that is solved: nearest_mean, nearest_exemplars, ridge, carried_ridge, or a "
        "method's file"
    )
    restart: bool = Field(description="forget the weights and learn all data at hand anew (upper bounds)")

    # what only rows of the field use
    patches: int | None = Field(None, gt=0, description="side of the grid that each slot's patches are averaged to")
    cross_entropy: Literal["joint", "separated"] = Field(
        "joint", description="separated: new clips compete among new classes, exemplars among past ones (SS-IL)"
    )
    logit_blocks: Literal["past", "task"] = Field("past", description="one softmax over past classes, or one a task")
    growth: Literal["ratio", "task", "none"] = Field(
        "ratio", description="distillation weights grow with √(past / new classes), √(task + 1), or not"
    )
    hooks: dict[str, dict[str, object]] = Field({}, description="methods' files that take part, with their options")
    readout_options: dict[str, object] = Field({}, description="options of a read-out that is a method's file")

    @field_validator("fusion", "classifier", "readout", "hooks")
    @classmethod
    def _exists(cls, value, info):
        # known by their files, not by importing them: this room is below avcil/learn
        known = sorted(file.stem for file in METHODS.glob("*.py") if file.stem != "__init__")
        built_in = {"fusion": FUSIONS, "classifier": CLASSIFIERS, "readout": READOUTS, "hooks": ()}[info.field_name]
        # hooks are a mapping, whose keys are the files
        for name in value if isinstance(value, dict) else [value]:
            if name not in built_in and not (METHODS / f"{name}.py").exists():
                choices = f"none of {', '.join(built_in)}, and no" if built_in else "no"
                raise ValueError(f"`{name}` is {choices} file of avcil/learn/methods{nearest(name, known)}")
        return value

    @model_validator(mode="after")
    def _consistent(self):
        carried = self.readout == "carried_ridge"
        for wrong, message in (
            # of a class without exemplars there is no mean
            (
                self.readout == "nearest_exemplars"
                and (self.memory == "none" or not (self.exemplars or self.memory == "all")),
                "nearest_exemplars needs a memory and exemplars",
            ),
            # what is carried are sums of earlier tasks, along the drift of features that are learnt
            (carried and self.restart, "carried_ridge has nothing to carry with restart: true"),
            (carried and self.fusion in FROZEN, "carried_ridge needs a fusion that learns"),
            # options that nobody reads would pass for options that act
            (self.readout_options and self.readout in READOUTS, f"readout_options: `{self.readout}` has none"),
        ):
            if wrong:
                raise ValueError(message)
        return self


class Task(Section):
    """One increment."""

    # in Python `from` is a keyword: code says `from_`, params.yaml `from`
    model_config = ConfigDict(populate_by_name=True)

    id: int = Field(ge=0)
    from_: str = Field(alias="from", description="the checkpoint it starts from")
    classes: int = Field(gt=0, description="new classes")
    epochs: int = Field(gt=0)


def chain(sizes: list[int], epochs: int) -> list[Task]:
    """Tasks of so many new classes each, every one from the checkpoint of the one before."""
    # `init` is the empty checkpoint
    names = ["init", *(f"task{t}" for t in range(len(sizes)))]
    return [Task(id=t, from_=names[t], classes=size, epochs=epochs) for t, size in enumerate(sizes)]


class Training(Section):
    """What all methods share."""

    batch: int = Field(gt=1, description="clips a step")
    learning_rate: float = Field(gt=0)
    later_learning_rate: float = Field(gt=0, description="from the second task on, where weights are kept")
    weight_decay: float = Field(ge=0)
    temperature: float = Field(gt=0, description="of logit distillation")
    width: int = Field(gt=0, description="E, feature channels")
    heads: int = Field(gt=0, description="attention heads")
    learnt_guidance: float = Field(gt=0, description="first value of g, the weight of learnt scores")
    ridge_penalty: float = Field(gt=0)
    drift_damping: float = Field(10.0, gt=0, description="of carried_ridge")
    optimiser: Literal["adamw", "adam"] = "adamw"
    schedule: Literal["cosine", "constant"] = "cosine"
    drop_last: bool = Field(False, description="skip the last, smaller batch of an epoch")
    exemplar_batch: int | None = Field(None, gt=0, description="of the paired sampler; as `batch` if left out")
    keep: Literal["last", "best_all", "best_new"] = Field(
        "last",
        description="the epoch whose weights stay: the last, or best on validation clips of all or of new classes, "
        "by the trained classifier as it then is: before weights are aligned, and also where a solved head reads out",
    )
    covered: float = Field(gt=0, le=1, description="share of a patch the object must cover for a hit")

    @model_validator(mode="after")
    def _consistent(self):
        if self.width % self.heads:
            raise ValueError(f"width: {self.width} channels cannot be shared among {self.heads} heads; take a multiple")
        return self
