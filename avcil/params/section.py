"""The base of every parameter section: frozen, strict, and clear when it refuses."""

import difflib
from typing import Literal

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A frozen group of parameters. An unknown key, a missing key or a wrong type raises."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


Precision = Literal["float32", "float16", "bfloat16"]


def nearest(word: str, words) -> str:
    """` (did you mean `…`?)`, or nothing."""
    close = difflib.get_close_matches(str(word), [str(w) for w in words], n=1, cutoff=0.5)
    return f" (did you mean `{close[0]}`?)" if close else ""
