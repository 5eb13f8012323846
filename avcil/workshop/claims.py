"""What the paper claims, one by one, and what metrics/ says of each: docs/claims.md and the head of the report."""

from pathlib import Path
from typing import NamedTuple

from avcil.comparison.intervals import Interval, points, sign
from avcil.comparison.tables import Comparable
from avcil.results.names import of_family, short_name_of

VERDICTS = ("holds", "not told apart", "does not hold")
MARGIN = 0.02  # of a claim that nothing is lost: the loss that the interval must exclude
STANDARD, WORLDS, FREE = "standard", "worlds", "worlds_exemplars_0"
# rivals as they were published, and those that are given the guided model or tokens
PUBLISHED = ("AV-CIL's model", "closed form, pooled tokens")
GUIDED = ("replay on the guided model", "closed form, guided tokens")

NOTE = (
    "Differences in percent points on Sounding Objects, more being better, with 95 % intervals. *Worlds*: every seed "
    "has a world, one of three priors, a class order and weights of its own; Student's t over them. *One world*: the "
    "shipped one and its prior; of last accuracy with the luck of the test clips, which seeds share there. A claim "
    f"that nothing is lost holds if the interval excludes a loss of {100 * MARGIN:.0f} points. A lead over many rows "
    "is shown against the one that it is least sure against. Verdicts are of single claims: one in twenty may be wrong."
)
SETTINGS = {STANDARD: "one world, {} seeds", WORLDS: "{} worlds", FREE: "{} worlds, no exemplars"}

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
    """text: the claim; whose: the paper's or ours; in a setting ``first`` minus ``second`` (nothing, one row, or the
    rows of some families) in a measure is more than ``least``."""

    text: str
    whose: str
    setting: str
    measure: str
    first: str
    second: None | str | tuple[str, ...] = None
    least: float = 0.0


CLAIMS = {
    "prior": [
        Claim("its tokens help", "paper", WORLDS, "last_accuracy", "lll_prior", "without_prior"),
    ],
    "guidance": [
        Claim("with τ m", "both", WORLDS, "last_accuracy", "lll_prior", "naive_fusion"),
        Claim("without τ m", "paper", WORLDS, "last_accuracy", "lll", "naive_fusion"),
        Claim("τ m itself", "ours", WORLDS, "last_accuracy", "lll_prior", "lll"),
    ],
    "feature level": [
        Claim("it helps by itself", "paper", WORLDS, "last_accuracy", "without_logit_level", "without_both_levels"),
        Claim("and without exemplars, head solved", "both", FREE, "last_accuracy",
              "lll_analytic_without_logit_level", "lll_analytic_without_both_levels"),
    ],
    "logit level": [
        Claim("it helps by itself", "paper", WORLDS, "last_accuracy", "without_feature_level", "without_both_levels"),
        Claim("and without exemplars, head solved", "both", FREE, "last_accuracy",
              "lll_analytic_without_feature_level", "lll_analytic_without_both_levels"),
    ],
    "both against one": [
        Claim("both help", "paper", WORLDS, "last_accuracy", "lll_prior", "without_both_levels"),
        Claim("beat features alone", "paper", WORLDS, "last_accuracy", "lll_prior", "without_logit_level"),
        Claim("beat logits alone", "paper", WORLDS, "last_accuracy", "lll_prior", "without_feature_level"),
        Claim("beat features alone without exemplars, head solved", "both", FREE, "last_accuracy",
              "lll_analytic", "lll_analytic_without_logit_level"),
        Claim("beat logits alone without exemplars, head solved", "both", FREE, "last_accuracy",
              "lll_analytic", "lll_analytic_without_feature_level"),
    ],
    "retention": [
        Claim("more kept than by replay", "paper", WORLDS, "retention", "lll_prior", "replay"),
        Claim("less forgotten", "paper", WORLDS, "forgetting_last", "lll_prior", "replay"),
        Claim("distillation keeps more", "paper", WORLDS, "forgetting_last", "lll_prior", "without_both_levels"),
    ],
    "plasticity": [
        Claim("distillation costs none", "paper", WORLDS, "plasticity", "lll_prior", "without_both_levels", -MARGIN),
        Claim("as much as replay", "paper", WORLDS, "plasticity", "lll_prior", "replay", -MARGIN),
    ],
    "flat curve": [
        Claim("no fall", "paper", WORLDS, "rise", "lll_prior", None, -MARGIN),
        Claim("less than replay's", "paper", WORLDS, "rise", "lll_prior", "replay"),
        Claim("no more than with all data at once", "paper", STANDARD, "rise", "lll_prior", "joint_guided", -MARGIN),
    ],
    "attention kept": [
        Claim("finds what sounds", "paper", WORLDS, "localisation_change_first_task", "lll_prior", None, -MARGIN),
        Claim("distillation keeps it", "paper", WORLDS, "localisation_change_first_task", "lll_prior",
              "without_both_levels"),
    ],
    "better than the field": [
        Claim("than all as published", "paper", STANDARD, "last_accuracy", "lll_prior", PUBLISHED),
        Claim("than all given its model or tokens", "paper", STANDARD, "last_accuracy", "lll_prior", GUIDED),
        Claim("than the nearest of those, over worlds", "paper", WORLDS, "last_accuracy", "lll_prior", "acil_guided"),
    ],
}  # fmt: skip


def lead(found: Comparable, setting: str, measure: str, first: str, second: str | None = None) -> Interval:
    """`Comparable.lead` with more being better: forgetting counts with the other sign."""
    interval = found.lead(setting, measure, first, second)
    if MEASURES[measure][1] > 0:
        return interval
    return interval._replace(mean=-interval.mean, low=-interval.high, high=-interval.low)


def nearest(found: Comparable, first: str, families: tuple[str, ...]) -> tuple[str, int, Interval]:
    """Of the rows of some families that which ``first`` is least surely ahead of, how many they are, and the lead.

    If it is told from that one, it is from all: a claim about every row needs no adjustment for their number.
    """
    known = set(found.methods(STANDARD))
    rivals = [row for family in families for row in of_family(family) if row in known]
    leads = {row: lead(found, STANDARD, "last_accuracy", first, row) for row in rivals}
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


def _judge(found: Comparable, part: str, claim: Claim) -> Judged:
    first = short_name_of(claim.first)
    try:
        if isinstance(claim.second, tuple):
            row, rivals, difference = nearest(found, claim.first, claim.second)
            rows = f"{first} − {short_name_of(row)}, the nearest of {rivals}"
        else:
            difference = lead(found, claim.setting, claim.measure, claim.first, claim.second)
            rows = f"{first} − {short_name_of(claim.second)}" if claim.second else first
    except (KeyError, ValueError):  # ValueError: of families of which no row was run
        return Judged(part, claim, first, None, "not run")
    return Judged(part, claim, rows, difference, outcome(difference, claim.least))


def judged(folder: Path) -> list[Judged]:
    """All claims with their verdicts, from the tables in ``folder``."""
    found = Comparable.of(folder)
    return [_judge(found, part, claim) for part, claims in CLAIMS.items() for claim in claims]


def table(folder: Path) -> str:
    """The claims in Markdown, and how to read them."""
    lines = ["| | claim | term | setting | rows compared | difference | verdict |", "|---|---|---|---|---|---:|---|"]
    before = ""
    for part, claim, rows, interval, verdict in judged(folder):
        setting = difference = ""
        if interval is not None:
            setting = f"{MEASURES[claim.measure][0]}; {SETTINGS[claim.setting].format(interval.seeds)}"
            difference = points(interval)
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
