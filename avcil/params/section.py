"""The base of every parameter section: frozen, strict, and clear when it refuses."""

from typing import Literal

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A frozen group of parameters. An unknown key, a missing key or a wrong type raises."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


Precision = Literal["float32", "float16", "bfloat16"]
