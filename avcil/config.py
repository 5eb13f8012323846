"""The base of every parameter section: frozen, strict, and clear when it refuses."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """A frozen group of parameters. An unknown key, a missing key or a wrong type raises."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


Precision = Literal["float32", "float16", "bfloat16"]


class Compute(Section):
    """Where work is done. Results depend on it by rounding at most, so no stage of the pipeline does."""

    engine: Literal["local", "ray"] = Field(description="ray: extraction and sweeps on a Ray cluster, or started here")
    workers: int = Field(ge=0, description="processes that decode clips, for each encoder")
    actors: int = Field(gt=0, description="encoders at once, on Ray")
    device: str = Field(description="of encoders: cpu, cuda, cuda:1, ...")
    tokens: Precision = Field(description="what learning under torchrun holds visual tokens in")
