"""A method is a row of choices; a task is an increment; training is what all methods share."""

from typing import Literal

from pydantic import ConfigDict, Field

from avcil.config import Section
from avcil.memory import Selection
from avcil.model import ClassifierKind, Fusion


class Method(Section):
    """A row of the comparison."""

    tokens: Literal["mini", "random"] = Field(description="whose tokens: the pre-trained prior's or its random twin's")
    fusion: Fusion
    prior_guidance: float = Field(
        ge=0, description="first value of τ, the weight of the prior's similarity in the scores"
    )
    memory: Selection
    exemplars: int = Field(ge=0)
    budget: Literal["per_class", "total"]
    sampler: Literal["uniform", "balanced"] = Field(description="balanced: every class seen is drawn equally often")
    feature_distillation: float = Field(ge=0, description="weight at as many past as new classes")
    logit_distillation: float = Field(ge=0, description="weight at as many past as new classes")
    attention_distillation: float = Field(ge=0, description="weight at as many past as new classes")
    classifier: ClassifierKind
    readout: Literal["classifier", "nearest_mean", "ridge"]
    restart: bool = Field(description="forget the weights and learn all data at hand anew (upper bounds)")


class Task(Section):
    """One increment."""

    model_config = ConfigDict(populate_by_name=True)

    id: int = Field(ge=0)
    from_: str = Field(alias="from", description="the checkpoint it starts from")
    classes: int = Field(gt=0, description="new classes")
    epochs: int = Field(gt=0)


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
    covered: float = Field(gt=0, le=1, description="share of a patch the object must cover for a hit")
