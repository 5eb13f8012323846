"""A method is a row of choices; a task is an increment; training is what all methods share."""

from typing import Literal

from pydantic import ConfigDict, Field, model_validator

from avcil.params.section import Section

Fusion = Literal["guided", "channelwise", "mean", "visual", "audio", "frozen", "frozen_guided"]
ClassifierKind = Literal["linear", "cosine", "proxies"]
FROZEN = ("frozen", "frozen_guided")
ATTENDING = ("guided", "channelwise", "frozen_guided")
Selection = Literal["none", "random", "herding", "all"]
Readout = Literal[
    "classifier",
    "nearest_mean",
    "nearest_exemplars",
    "ridge",
    "slda",
    "ranpac",
    "acil",
    "fecam",
    "mmal",
    "carried_ridge",
]


class Method(Section):
    """A row of the comparison. A field that a row leaves out is off, as its default here says."""

    tokens: str = Field(description="whose tokens: `mini`, `random` (its untrained twin), or one of `encoders`")
    fusion: Fusion
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
    attention_distillation: float = Field(ge=0, description="weight at as many past as new classes")
    classifier: ClassifierKind
    readout: Readout
    restart: bool = Field(description="forget the weights and learn all data at hand anew (upper bounds)")

    # what only rows of the field use
    patches: int | None = Field(None, gt=0, description="side of the grid that each slot's patches are averaged to")
    cross_entropy: Literal["joint", "separated", "nca"] = Field(
        "joint", description="separated: new clips compete among new classes, exemplars among past ones (SS-IL)"
    )
    logit_blocks: Literal["past", "task", "sigmoid"] = Field(
        "past", description="one softmax over all past classes, one a task, or a sigmoid a class (iCaRL)"
    )
    feature_distance: Literal["cosine", "importance"] = "cosine"
    growth: Literal["ratio", "task", "none"] = Field(
        "ratio", description="distillation weights grow with √(past / new classes), √(task + 1), or not"
    )
    instance_contrast: float = Field(0.0, ge=0, description="weight; audio against visual features, clip by clip")
    class_contrast: float = Field(0.0, ge=0, description="weight; audio against visual features, class by class")
    contrast_temperature: float = Field(0.05, gt=0)
    dark_replay: float = Field(0.0, ge=0, description="weight of the exemplars' logits as they were when stored")
    weight_aligning: bool = Field(False, description="new classes' weights are scaled to the norm of past ones'")
    as_published: bool = Field(False, description="with the deviations of the authors' code from their paper")

    @model_validator(mode="after")
    def _consistent(self):
        attends = self.fusion in ("guided", "channelwise")
        for wrong, message in (
            (self.dark_replay and self.readout != "classifier", "dark_replay needs readout: classifier"),
            (self.readout == "carried_ridge" and self.restart, "carried_ridge has nothing to carry with restart: true"),
            (self.readout == "carried_ridge" and self.fusion in FROZEN, "carried_ridge needs a fusion that learns"),
            (self.weight_aligning and self.classifier != "linear", "weight_aligning needs a linear classifier"),
            (
                self.feature_distance == "importance" and not (attends and self.cross_entropy == "nca"),
                "feature_distance: importance needs cross_entropy: nca and fusion: guided or channelwise",
            ),
        ):
            if wrong:
                raise ValueError(message)
        return self


class Task(Section):
    """One increment."""

    model_config = ConfigDict(populate_by_name=True)

    id: int = Field(ge=0)
    from_: str = Field(alias="from", description="the checkpoint it starts from")
    classes: int = Field(gt=0, description="new classes")
    epochs: int = Field(gt=0)


def chain(sizes: list[int], epochs: int) -> list[Task]:
    """Tasks of so many new classes each, every one from the checkpoint of the one before."""
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
    # of the other solved heads (avcil/learn/heads.py)
    expansion: int = Field(2000, gt=0, description="random ReLU features: ranpac, acil; mmal has half as many a stream")
    acil_penalty: float = Field(1.0, gt=0)
    mmal_penalty: float = Field(1.0, gt=0)
    slda_shrinkage: float = Field(1e-2, gt=0, le=1)
    fecam_power: float = Field(0.5, gt=0)
    fecam_shrinkage: float = Field(1.0, gt=0)
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
