"""The base of every parameter section: frozen, strict, and clear when it refuses."""

import difflib
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


class Section(BaseModel):
    """A frozen group of parameters. An unknown key, a missing key, a wrong type or an infinite number raises."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


Precision = Literal["float32", "float16", "bfloat16"]


def nearest(word: str, words) -> str:
    """` (did you mean `…`?)`, or nothing."""
    close = difflib.get_close_matches(str(word), [str(w) for w in words], n=1, cutoff=0.5)
    return f" (did you mean `{close[0]}`?)" if close else ""


def _distinct(seeds: list[int]) -> list[int]:
    if twice := [seed for number, seed in enumerate(seeds) if seed in seeds[:number]]:
        raise ValueError(f"{twice[0]} occurs twice; drop one")
    return seeds


Seeds = Annotated[list[Annotated[int, Field(ge=0, lt=1 << 32)]], AfterValidator(_distinct)]
