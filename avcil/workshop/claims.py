"""What the paper claims, one by one, and what metrics/ says of each: docs/claims.md and the head of the report."""

from pathlib import Path
from typing import NamedTuple

from avcil.comparison.intervals import ALPHA, VERDICTS, Interval, holm, negative, outcome, points
from avcil.comparison.tables import Comparable, markdown
from avcil.results.names import GUIDED, UNGUIDED, of_family, short_name_of

MARGIN = 0.02  # of a claim that nothing is lost: the loss that the interval must exclude
STANDARD, WORLDS, FREE = "standard", "worlds", "worlds_exemplars_0"
FIELD = "worlds_field"  # the field's other rows, in some of the same worlds
UNTOLD, WORLDS_UNTOLD = "prior_without_regions", "worlds_without_regions"

NOTE = (
    "Differences in percentage points on Sounding Objects (positive is better), with 95 % intervals. *Worlds*: each "
    "seed has its own world, one of three priors, and its own class order, initial weights and random features; "
    "Student's t over seeds. *One world*: the shipped world and prior; since seeds share its test clips, intervals of "
    "last accuracy include the variation over clips. A claim that nothing is lost holds if the interval excludes a "
    f"loss of {100 * MARGIN:.0f} points. A lead over many rows is shown against the row with the least certain lead; "
    "where rows are ahead in spite of Holm's correction for their number, against one of those. Verdicts are not "
    "corrected for the number of claims: one in twenty may be wrong."
)
SETTINGS = {
    STANDARD: "one world, {} seeds",
    WORLDS: "{} worlds",
    FREE: "{} worlds, no exemplars",
    UNTOLD: "one world, {} seeds, prior taught without regions",
    WORLDS_UNTOLD: "{} worlds, prior taught without regions",
}

# of each measure: what it is called, and 1 where more of it is better
MEASURES = {
    "last_accuracy": ("last accuracy", 1),
    "retention": ("retention", 1),
    "forgetting_last": ("less forgetting (last)", -1),
    "plasticity": ("plasticity", 1),
    "rise": ("accuracy, last task minus first", 1),
    "localisation_hit_first_task": ("attention hit on task 0's clips after the last task", 1),
    "localisation_change_first_task": ("attention hit on task 0's clips, last task minus first", 1),
}


class Claim(NamedTuple):
    """text: the claim; whose: `paper` only where what is compared does not differ in τ m, which is ours; in a setting
    ``first`` minus ``second`` (nothing, one row, or the rows of some families) in a measure is more than ``least``.
    """

    text: str
    whose: str
    first: str
    second: None | str | tuple[str, ...] = None
    measure: str = "last_accuracy"
    setting: str = WORLDS
    least: float = 0.0


SOLVED = "lll_analytic"
WITHOUT_BOTH, WITHOUT_LOGIT, WITHOUT_FEATURE = (
    f"{SOLVED}_without_{part}" for part in ("both_levels", "logit_level", "feature_level")
)
HIT, ATTENTION = "localisation_hit_first_task", "localisation_change_first_task"
CLAIMS = {
    "prior": [Claim("its tokens help", "both", "lll_prior", "without_prior")],
    "guidance": [
        Claim("with the similarity τ m", "both", "lll_prior", "naive_fusion"),
        Claim("without τ m", "paper", "lll", "naive_fusion"),
        Claim("by audio queries", "paper", "lll", "without_audio_queries"),
        Claim("the similarity itself", "ours", "lll_prior", "lll"),
        Claim("prior taught without regions", "both", "lll_prior", "naive_fusion", setting=WORLDS_UNTOLD),
        Claim("the same, in closed form", "ours", "lll_closed_without_products", "scaled_ridge", setting=WORLDS_UNTOLD),
    ],
    "feature level": [
        Claim("helps alone", "paper", "without_logit_level", "without_both_levels"),
        Claim("helps without exemplars with a solved classifier", "both", WITHOUT_LOGIT, WITHOUT_BOTH, setting=FREE),
    ],
    "logit level": [
        Claim("helps alone", "paper", "without_feature_level", "without_both_levels"),
        Claim("helps without exemplars with a solved classifier", "both", WITHOUT_FEATURE, WITHOUT_BOTH, setting=FREE),
    ],
    "both against one": [
        Claim("both help", "paper", "lll_prior", "without_both_levels"),
        Claim("beat features alone", "paper", "lll_prior", "without_logit_level"),
        Claim("beat logits alone", "paper", "lll_prior", "without_feature_level"),
        Claim("beat features alone without exemplars", "both", SOLVED, WITHOUT_LOGIT, setting=FREE),
        Claim("beat logits alone without exemplars", "both", SOLVED, WITHOUT_FEATURE, setting=FREE),
    ],
    "retention": [
        Claim("keeps more than replay", "paper", "lll_prior", "replay", "retention"),
        Claim("forgets less than replay", "paper", "lll_prior", "replay", "forgetting_last"),
        Claim("distillation reduces forgetting", "paper", "lll_prior", "without_both_levels", "forgetting_last"),
    ],
    "plasticity": [
        Claim("distillation costs none", "paper", "lll_prior", "without_both_levels", "plasticity", least=-MARGIN),
        Claim("as plastic as replay", "paper", "lll_prior", "replay", "plasticity", least=-MARGIN),
    ],
    "flat curve": [
        Claim("accuracy does not fall", "both", "lll_prior", None, "rise", least=-MARGIN),
        Claim("falls less than replay", "paper", "lll_prior", "replay", "rise"),
        Claim("falls no more than joint training", "paper", "lll_prior", "joint_guided", "rise", least=-MARGIN),
    ],
    "attention kept": [
        Claim("still finds what sounds", "both", "lll_prior", None, ATTENTION, least=-MARGIN),
        Claim("distillation helps", "paper", "lll_prior", "without_both_levels", ATTENTION),
        # ridge_guided looks where the prior by itself does (`attention`)
        Claim("better than the prior alone", "both", "lll_prior", "ridge_guided", HIT),
    ],
    "better than the field": [
        Claim("than all on other models", "both", "lll_prior", UNGUIDED),
        Claim("than all on other models without τ m", "paper", "lll", UNGUIDED),
        Claim("than all given its model or tokens", "paper", "lll_prior", GUIDED),
    ],
    "closed form": [
        Claim("ahead of all given its tokens", "ours", "lll_closed", GUIDED),
        Claim("ahead of trained LLL", "ours", "lll_closed", "lll_prior"),
        Claim("ahead of LLL solved", "ours", "lll_closed", "lll_analytic"),
        Claim("forgets less than trained LLL", "ours", "lll_closed", "lll_prior", measure="forgetting_last"),
        Claim("random products help", "ours", "lll_closed", "lll_closed_without_products"),
        Claim("guidance helps without the similarity", "ours", "lll_closed_synchrony", "scaled_ridge"),
    ],
}


def lead(comparable: Comparable, setting: str, measure: str, first: str, second: str | None = None) -> Interval:
    """`Comparable.lead` with more being better: forgetting counts with the other sign."""
    interval = comparable.lead(setting, measure, first, second)
    return interval if MEASURES[measure][1] > 0 else negative(interval)


def run_in(comparable: Comparable, setting: str) -> dict[str, str]:
    """The rows of a setting, and of ten worlds those that were run in five, each with the setting of its runs."""
    settings = [FIELD, WORLDS] if setting == WORLDS else [setting]
    return {row: name for name in settings for row in comparable.methods(name)}


def nearest_rival(
    comparable: Comparable, first: str, families: tuple[str, ...], setting: str
) -> tuple[str, int, Interval]:
    """Of the rows of some families that which ``first`` is least surely ahead of in a setting, how many were run there,
    and the lead. One that is told to be ahead, in spite of the number of rivals, comes before all others.

    If it is told from the least sure one, it is from all: a claim about every row needs no adjustment for their number.
    """
    # a setting may run a part of a family
    where = run_in(comparable, setting)
    rivals = [row for family in families for row in of_family(family) if row in where]
    leads = {row: comparable.lead(setting, "last_accuracy", first, row, where[row]) for row in rivals}
    adjusted = dict(zip(rivals, holm([lead.p for lead in leads.values()]), strict=True))
    beaten = [row for row in rivals if leads[row].mean < 0 and adjusted[row] < ALPHA]
    # the least sure is told by the lower end of the interval, not by the mean: rows of few seeds have wide ones
    name = min(beaten or rivals, key=lambda row: leads[row].low)
    return name, len(rivals), leads[name]


class Judged(NamedTuple):
    """A claim with what speaks for it: the rows compared, their difference (None if they were not run), the verdict."""

    part: str
    claim: Claim
    rows: str
    lead: Interval | None
    verdict: str


def _judge(comparable: Comparable, part: str, claim: Claim) -> Judged:
    first = short_name_of(claim.first)
    try:
        if isinstance(claim.second, tuple):
            row, rivals, difference = nearest_rival(comparable, claim.first, claim.second, claim.setting)
            rows = f"{first} − {short_name_of(row)}, the nearest of {rivals}"
        else:
            difference = lead(comparable, claim.setting, claim.measure, claim.first, claim.second)
            rows = f"{first} − {short_name_of(claim.second)}" if claim.second else first
    except (KeyError, ValueError):  # ValueError: of families of which no row was run
        return Judged(part, claim, first, None, "not run")
    return Judged(part, claim, rows, difference, outcome(difference, claim.least))


def judged(folder: Path) -> list[Judged]:
    """All claims with their verdicts, from the tables in ``folder``."""
    comparable = Comparable.of(folder)
    return [_judge(comparable, part, claim) for part, claims in CLAIMS.items() for claim in claims]


def table(folder: Path) -> str:
    """The claims in Markdown, and how to read them."""
    rows, before = [], ""
    for part, claim, compared, interval, verdict in judged(folder):
        setting = difference = ""
        if interval is not None:
            setting = f"{MEASURES[claim.measure][0]}; {SETTINGS[claim.setting].format(interval.seeds)}"
            difference = points(interval)
        # what is decided is set in bold, one way or the other
        shown = f"**{verdict}**" if "hold" in verdict else verdict
        # on the first of its claims only, as a heading
        rows.append(["" if part == before else part, claim.text, claim.whose, setting, compared, difference, shown])
        before = part
    head = "| | claim | term | setting | rows compared | difference | verdict |"
    return f"{markdown(head, 'lllllrl', rows)}\n\n{NOTE}"


def attention(folder: Path) -> str:
    """What of *attention kept* is a constant: hits of the prior's own attention, beside those of learnt ones.

    The former is that of `ridge_guided`, softmax_s(τ m) with the τ that `lll_prior` begins with.
    """
    comparable, rows = Comparable.of(folder), []
    cells = [
        (HIT, "ridge_guided"), (HIT, "lll_prior"), (ATTENTION, "lll_prior"), (HIT, "lll_prior", "ridge_guided"),
        (HIT, "lll"), (ATTENTION, "lll"),
    ]  # fmt: skip
    for setting in (WORLDS, STANDARD, UNTOLD):
        leads = [lead(comparable, setting, *cell) for cell in cells]
        rows.append([SETTINGS[setting].format(leads[0].seeds), *map(points, leads)])
    head = (
        "| | prior alone | LLL, prior-guided | change since task 0 | minus the prior alone "
        "| LLL, the paper's text | change since task 0 |"
    )
    return (
        f"{markdown(head, 'lrrrrrr', rows)}\n\nAttention hits on task 0's test clips after the last task, in percent, "
        "with 95 % intervals over seeds. *Prior alone*: softmax of τ m over the patches of a slot, with all slots "
        "weighted equally and the τ that LLL, prior-guided, begins with."
    )


def summary(folder: Path) -> str:
    """The claims by verdict, in a few lines."""
    lines, claims = [], judged(folder)
    for verdict in (*VERDICTS, "not run"):
        parts: dict[str, list[str]] = {}
        for one in claims:
            if one.verdict == verdict:
                parts.setdefault(one.part, []).append(one.claim.text)
        # of a part with one claim its name is enough
        named = [part if len(CLAIMS[part]) == 1 else f"{part} ({', '.join(texts)})" for part, texts in parts.items()]
        if named:
            lines.append(f"- **{verdict}**: {'; '.join(named)}")
    return "\n".join(lines)
