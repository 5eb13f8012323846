"""The base of every parameter section: frozen, strict, and clear when it refuses."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


class Section(BaseModel):
    """A frozen group of parameters. An unknown key, a missing key, a wrong type or an infinite number raises."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


Precision = Literal["float32", "float16", "bfloat16"]


def _distinct(seeds: list[int]) -> list[int]:
    if twice := [seed for number, seed in enumerate(seeds) if seed in seeds[:number]]:
        raise ValueError(f"{twice[0]} occurs twice; drop one")
    return seeds


Seeds = Annotated[list[Annotated[int, Field(ge=0, lt=1 << 32)]], AfterValidator(_distinct)]
