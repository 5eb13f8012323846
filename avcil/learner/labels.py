"""Labels as people write them."""

import unicodedata
from collections.abc import Iterable


def tidy(label: str) -> str:
    """Without stray blanks, and each letter written in one way."""
    # names of folders on a Mac have ö in two characters, keyboards give one: they would be two classes that look alike
    return " ".join(unicodedata.normalize("NFC", label).split())


def alike(label: str, known: Iterable[str]) -> list[str]:
    """Those of ``known`` that are other labels, but by case or blanks alone."""
    # known ones are tidied as well: those of a run are as its manifest has them
    return [one for one in known if one != label and tidy(one).casefold() == tidy(label).casefold()]
