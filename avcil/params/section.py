"""The base of every parameter section: frozen, strict, and clear when it refuses."""

import difflib
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator


class Section(BaseModel):
    """A frozen group of parameters. An unknown key, a missing key, a wrong type or an infinite number raises."""

    # strict, for a text that is taken for a number hides a slip; an infinite number passes any `gt`
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _known(cls, raw):
        # before pydantic's own check of keys, which names no near one; a task's `from` is known as an alias
        known = {*cls.model_fields, *(field.alias for field in cls.model_fields.values() if field.alias)}
        # what is no mapping is left to pydantic
        for key in raw if isinstance(raw, dict) else ():
            if key not in known:
                raise ValueError(f"no key `{key}`{nearest(key, sorted(known))}")
        return raw


def offence(error: ValidationError) -> str:
    """Where the first thing is wrong, and what, in one line."""
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    # pydantic puts its own words before those of our validators
    return (f"{where}: " if where else "") + first["msg"].removeprefix("Value error, ")


Precision = Literal["float32", "float16", "bfloat16"]


def nearest(word: str, words) -> str:
    """` (did you mean `…`?)`, or nothing."""
    # keys of YAML may be numbers
    close = difflib.get_close_matches(str(word), [str(w) for w in words], n=1, cutoff=0.5)
    return f" (did you mean `{close[0]}`?)" if close else ""


def _distinct(seeds: list[int]) -> list[int]:
    if twice := [seed for number, seed in enumerate(seeds) if seed in seeds[:number]]:
        raise ValueError(f"{twice[0]} occurs twice; drop one")
    return seeds


Seeds = Annotated[list[Annotated[int, Field(ge=0, lt=1 << 32)]], AfterValidator(_distinct)]
