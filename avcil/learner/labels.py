"""Labels as people write them."""

from collections.abc import Iterable


def tidy(label: str) -> str:
    """Without stray blanks."""
    return " ".join(label.split())


def alike(label: str, known: Iterable[str]) -> list[str]:
    """Those of ``known`` that are other labels, but by case or blanks alone."""
    # known ones are tidied as well: those of a run are as its manifest has them
    return [one for one in known if one != label and tidy(one).casefold() == tidy(label).casefold()]
