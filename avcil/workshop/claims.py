"""What the paper claims, one by one, and what metrics/ says of each: docs/claims.md and the head of the report.

Last accuracy is paired by seed and clip, every other measure by seed (`avcil.comparison.intervals`).
"""

from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from avcil.comparison import field_tables, tables
from avcil.comparison.intervals import Interval, over_seeds, points, sign
from avcil.results import runs
from avcil.results.plots import short_name_of
from avcil.results.plots_field import FAMILIES

VERDICTS = ("holds", "not told apart", "does not hold")
MARGIN = 0.02  # of a claim that nothing is lost: the loss that the interval must exclude
FIELD = "field_sounding_objects"
# rivals as they were published, and those that are given the guided model or tokens
PUBLISHED = ("AV-CIL's model", "closed form, pooled tokens")
GUIDED = ("replay on the guided model", "closed form, guided tokens")

NOTE = (
    "Differences in percent points on Sounding Objects, more being better, with 95 % intervals: Student's t over "
    "seeds, of last accuracy with the luck of the test clips too; other measures are of these clips alone. A claim "
    f"that nothing is lost holds if the interval excludes a loss of {100 * MARGIN:.0f} points. A lead over many rows "
    "is shown against the one that it is least sure against. Verdicts are of single claims: one in twenty may be wrong."
)

# of each measure: what it is called, and 1 where more of it is better
MEASURES = {
    "last_accuracy": ("last accuracy", 1),
    "retention": ("retention", 1),
    "forgetting_last": ("less forgetting (last)", -1),
    "plasticity": ("plasticity", 1),
    "rise": ("accuracy, last task minus first", 1),
    "localisation_change_first_task": ("attention hit on task 0's clips, last task minus first", 1),
}


class Claim(NamedTuple):
    """text: the claim; whose: the paper's or ours; in the field (else among the variants) ``first`` minus ``second``
    (nothing, one row, or the rows of some families) in a measure is more than ``least``."""

    text: str
    whose: str
    in_field: bool
    measure: str
    first: str
    second: None | str | tuple[str, ...] = None
    least: float = 0.0


CLAIMS = {
    "prior": [
        Claim("its tokens help", "paper", False, "last_accuracy", "lll", "without_prior"),
    ],
    "guidance": [
        Claim("with τ m", "both", True, "last_accuracy", "lll", "naive_fusion"),
        Claim("without τ m", "paper", False, "last_accuracy",
              "without_prior_guidance", "naive_fusion"),
        Claim("τ m itself", "ours", False, "last_accuracy", "lll", "without_prior_guidance"),
    ],
    "feature level": [
        Claim("it helps by itself", "paper", False, "last_accuracy", "without_logit_level", "without_both_levels"),
    ],
    "logit level": [
        Claim("it helps by itself", "paper", False, "last_accuracy", "without_feature_level", "without_both_levels"),
    ],
    "both against one": [
        Claim("both help", "paper", True, "last_accuracy", "lll", "without_both_levels"),
        Claim("beat features alone", "paper", False, "last_accuracy", "lll", "without_logit_level"),
        Claim("beat logits alone", "paper", False, "last_accuracy", "lll", "without_feature_level"),
    ],
    "retention": [
        Claim("more kept than by replay", "paper", False, "retention", "lll", "replay"),
        Claim("less forgotten", "paper", True, "forgetting_last", "lll", "replay"),
        Claim("distillation keeps more", "paper", True, "forgetting_last", "lll", "without_both_levels"),
    ],
    "plasticity": [
        Claim("distillation costs none", "paper", True, "plasticity", "lll", "without_both_levels", -MARGIN),
        Claim("as much as replay", "paper", True, "plasticity", "lll", "replay", -MARGIN),
    ],
    "flat curve": [
        Claim("no fall", "paper", False, "rise", "lll", None, -MARGIN),
        Claim("less than replay's", "paper", False, "rise", "lll", "replay"),
        Claim("no more than with all data at once", "paper", False, "rise", "lll", "joint_guided", -MARGIN),
    ],
    "attention kept": [
        Claim("finds what sounds", "paper", False, "localisation_change_first_task", "lll", None, -MARGIN),
        Claim(
            "distillation keeps it", "paper", False, "localisation_change_first_task", "lll", "without_both_levels",
        ),
    ],
    "better than the field": [
        Claim("than all as published", "paper", True, "last_accuracy", "lll", PUBLISHED),
        Claim("than all given its model or tokens", "paper", True, "last_accuracy", "lll", GUIDED),
    ],
}  # fmt: skip


class Found:
    """What metrics/ has of the variants and, where it was run, of the field: outcomes by clip, measures by seed."""

    def __init__(self, folder: Path):
        self.folder = folder

    @cached_property
    def variants(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        read = (pd.read_csv(self.folder / f"{name}.csv") for name in ("runs", "accuracy_matrix", "localisation"))
        of_runs = tables.Tables(*read)
        curve = of_runs.runs.sort_values("task").groupby(["variant", "seed"]).accuracy
        by_seed = runs.measures(of_runs).assign(rise=curve.last() - curve.first())
        return tables.read_correctness(self.folder / "correct.csv"), by_seed

    @cached_property
    def field(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        correct = field_tables.of_setting(tables.read_correctness(self.folder / f"{FIELD}_correct.csv"), "standard")
        seeds = pd.read_csv(self.folder / f"{FIELD}_seeds.csv")
        return correct, seeds[seeds.setting == "standard"].set_index(["row", "seed"])

    def lead(self, in_field: bool, measure: str, first: str, second: str | None = None) -> Interval:
        """``first`` minus ``second`` in a measure. Raises KeyError for a row that was not run."""
        correct, by_seed = self.field if in_field else self.variants
        if measure == "last_accuracy":
            return tables.lead(correct, first, second)
        values = by_seed[measure].loc[first]
        if second is not None:
            values = (values - by_seed[measure].loc[second]).dropna()
        return over_seeds(MEASURES[measure][1] * values)


def nearest(found: Found, first: str, families: tuple[str, ...]) -> tuple[str, int, Interval]:
    """Of the rows of some families that which ``first`` is least surely ahead of, how many they are, and the lead.

    If it is told from that one, it is from all: a claim about every row needs no adjustment for their number.
    """
    known = set(found.field[0].variant)
    rivals = [row for family in families for row in FAMILIES[family][1] if row in known]
    leads = {row: found.lead(True, "last_accuracy", first, row) for row in rivals}
    name = min(leads, key=lambda row: leads[row].low)
    return name, len(rivals), leads[name]


def outcome(interval: Interval, least: float = 0.0) -> str:
    """`holds` if the whole interval is above ``least``, `does not hold` if it is below, else `not told apart`."""
    shifted = interval._replace(low=interval.low - least, high=interval.high - least)
    return VERDICTS[1 - sign(shifted)]


class Judged(NamedTuple):
    """A claim with what speaks for it: the rows compared, their difference (None if they were not run), the verdict."""

    part: str
    claim: Claim
    rows: str
    lead: Interval | None
    verdict: str


def _judge(found: Found, part: str, claim: Claim) -> Judged:
    first = short_name_of(claim.first)
    try:
        if isinstance(claim.second, tuple):
            row, rivals, lead = nearest(found, claim.first, claim.second)
            rows = f"{first} − {short_name_of(row)}, the nearest of {rivals}"
        else:
            lead = found.lead(claim.in_field, claim.measure, claim.first, claim.second)
            rows = f"{first} − {short_name_of(claim.second)}" if claim.second else first
    except (KeyError, FileNotFoundError):
        return Judged(part, claim, first, None, "not run")
    return Judged(part, claim, rows, lead, outcome(lead, claim.least))


def judged(folder: Path) -> list[Judged]:
    """All claims with their verdicts, from the tables in ``folder``."""
    found = Found(folder)
    return [_judge(found, part, claim) for part, claims in CLAIMS.items() for claim in claims]


def table(folder: Path) -> str:
    """The claims in Markdown, and how to read them."""
    lines = ["| | claim | term | setting | rows compared | difference | verdict |", "|---|---|---|---|---|---:|---|"]
    before = ""
    for part, claim, rows, lead, verdict in judged(folder):
        setting = difference = ""
        if lead is not None:
            clips = " and clips" if claim.measure == "last_accuracy" else ""
            setting = f"{MEASURES[claim.measure][0]}; {lead.seeds} seeds{clips}"
            difference = points(lead)
        shown = f"**{verdict}**" if "hold" in verdict else verdict
        name = "" if part == before else part
        lines.append(f"| {name} | {claim.text} | {claim.whose} | {setting} | {rows} | {difference} | {shown} |")
        before = part
    return "\n".join([*lines, "", NOTE])


def summary(folder: Path) -> str:
    """The claims by verdict, in a few lines."""
    lines, every = [], judged(folder)
    for verdict in (*VERDICTS, "not run"):
        parts: dict[str, list[str]] = {}
        for one in every:
            if one.verdict == verdict:
                parts.setdefault(one.part, []).append(one.claim.text)
        if parts:
            # of a part with one claim its name is enough
            single = {part for part, claims in CLAIMS.items() if len(claims) == 1}
            named = (part if part in single else f"{part} ({', '.join(texts)})" for part, texts in parts.items())
            listed = "; ".join(named)
            lines.append(f"- **{verdict}**: {listed}")
    return "\n".join(lines)
