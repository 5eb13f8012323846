"""Beyond the paper's limits: the answers and tables of docs/beyond.md, from ``metrics/beyond_*.csv``."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from avcil.beyond.missing import SENSES
from avcil.beyond.settings import ALONE, CASES, DUET, WAYS, WHOLE, Light, Missing
from avcil.comparison.intervals import Interval, negative, outcome, over_seeds, over_seeds_and_clips, points, verdict
from avcil.comparison.tables import markdown, percent
from avcil.results.names import UNGUIDED, family_of, name_of, short_name_of

OURS, JOINT, AHEAD = "lll_closed", 0.03, 0.10  # goals: within so much of the joint twin, ahead of what is published
FROZEN = "acil_guided"  # attends by the prior's similarity alone
HALF, NOTHING = 0.5, 0.005  # of clips that lack a sense; what may be lost where none does
RIVALS = {
    "zeros": "the closed form, zeros",
    "means": "the closed form, mean tokens",
    "naive": "naive fusion",
    "naive_dropout": "naive fusion, modality dropout",
    "naive_nulls": "naive fusion, learnt null tokens, modality dropout",
}
GOAL = {"holds": "reached", "not told apart": "not told apart", "does not hold": "missed"}


# ---- very long sequences


def by_world(runs: pd.DataFrame, row: str, measure: str) -> pd.Series:
    return runs[runs.row == row].set_index("world")[measure]


def lead(runs: pd.DataFrame, other: str) -> Interval:
    """Last accuracy of `lll_closed` minus that of another row, which may have been run in fewer worlds."""
    return apart(runs, "row", OURS, other)


def left_to_gain(runs: pd.DataFrame, row: str) -> Interval:
    """Last accuracy of the joint twin minus that of the row."""
    return over_seeds(by_world(runs, row, "joint_accuracy") - by_world(runs, row, "last_accuracy"))


def of_others(row: str) -> bool:
    """Whether it is others', on what it was published on; the paper's own, `lll`, is."""
    # `scaled_ridge` is ours, though it stands in a family of others; in that of `lll` all other rows are ours
    return row == "lll" or (family_of(row) in UNGUIDED and row != "scaled_ridge")


def published(runs: pd.DataFrame) -> list[str]:
    """The rows `of_others` that were run in as many worlds as ours."""
    known = [row for row in dict.fromkeys(runs.row) if of_others(row)]
    # from fewer worlds an interval is wider, and its row could come out as the nearest for that alone
    return [row for row in known if lead(runs, row).seeds == runs[runs.row == OURS].world.nunique()]


def _by_size(folder: Path) -> Iterator[tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]]:
    """Of worlds of as many classes, fewest first, the runs, their moments, and what classes are told apart by."""
    runs, *others = (pd.read_csv(folder / f"beyond_{name}.csv") for name in ("many_tasks", "tasks", "distinct"))
    for _, mine in runs.groupby("classes"):
        # these tables do not say how many classes a world has, but no two sizes share the number of a world
        moments, distinct = (table[table.world.isin(mine.world)] for table in others)
        yield mine, moments, distinct


def many_tasks(folder: Path) -> str:
    """Of each size of worlds the answer, and a line a row, best first."""
    blocks = []
    for runs, moments, distinct in _by_size(folder):
        means = runs.groupby("row").mean(numeric_only=True).sort_values("last_accuracy", ascending=False)
        lines = [
            [
                f"**{name_of(row)}**" if row == OURS else name_of(row),
                str(int((runs.row == row).sum())),
                *(f"{100 * mean[measure]:.1f}" for measure in ("last_accuracy", "forgetting_last")),
                points(left_to_gain(runs, row)),
                "" if row == OURS else points(lead(runs, row)),
                f"{mean.seconds:.2f}",
                f"{mean.seconds_exponent:.2f}",
                f"{mean.bytes / 1e6:,.1f}",
                f"{mean.bytes_exponent:.2f}",
            ]
            for row, mean in means.iterrows()
        ]
        compared = "joint twin minus it | LLL, closed form, minus it"
        head = f"| row | worlds | last | forgetting | {compared} | s | exponent | MB | exponent |"
        blocks += [f"**{_of_many_tasks(runs, moments)}** {_distinct(distinct)}", markdown(head, "lrrrrrrrrr", lines)]
    note = (
        "Test clips, in percent; differences in points, with 95 % intervals of Student's t over worlds. Forgetting is "
        "measured on blocks of tasks, between evaluations of all of them. Joint twin: the same row trained on all "
        "classes in one task. s: processor seconds per task, for the last tasks; MB: what is kept for the next task; "
        "exponent: b, where the quantity grows as tasks^b."
    )
    return _of_worlds("\n\n".join([*blocks, note]))


def _of_worlds(text: str) -> str:
    """`points`, where a seed is a world."""
    return re.sub(r"the same in (\d+) seeds", r"the same in \1 worlds", text.replace("one seed", "one world"))


def looked_at(folder: Path) -> str:
    """Of each size of worlds the answer, and a line a row that attends."""
    # of a row that does not attend there is no hit
    return "\n\n".join(_looked_at(runs[runs.hit_of_first.notna()], moments) for runs, moments, _ in _by_size(folder))


def _looked_at(runs: pd.DataFrame, moments: pd.DataFrame) -> str:
    """Hits on clips of the first tasks, what became of them, and against the frozen guidance by itself."""

    def interval(row: str, measure: str, less: str | None = None) -> Interval:
        values = by_world(runs, row, measure)
        return over_seeds((values if less is None else values - by_world(runs, less, measure)).dropna())

    first, last = moments.tasks.min(), moments.tasks.max()
    # hits at the first moment: the table has the last ones and what changed
    early = 100 * (runs.hit_of_first - runs.hit_change).groupby(runs.row).mean()
    # guidance by itself has a line of its own, below
    others = [row for row in dict.fromkeys(runs.row) if row != FROZEN]
    rows = [
        [
            name_of(row),
            f"{early[row]:.1f}",
            points(interval(row, "hit_of_first")),
            points(interval(row, "hit_change")),
            points(interval(row, "hit_of_first", FROZEN)),
        ]
        for row in others
    ]
    alone = interval(FROZEN, "hit_of_first")
    rows.append(["guidance alone, frozen", f"{early[FROZEN]:.1f}", points(alone), "0, by construction", ""])
    changes = "; ".join(f"{short_name_of(row)} {points(interval(row, 'hit_change'))}" for row in others)
    head = f"| row | after {first} tasks | after {last} | change | it minus guidance alone |"
    text = (
        f"**From task {first} to task {last}, hits on clips of the first {first} tasks change by (points): {changes}. "
        f"Guidance alone, which cannot change, hits {points(alone)} %.**\n\n{markdown(head, 'lrrrr', rows)}\n\n"
        "Share of test clips on which attention peaks on the sounding object, in percent; "
        f"95 % intervals of Student's t over {alone.seeds} worlds."
    )
    return _of_worlds(text)


def _of_many_tasks(runs: pd.DataFrame, moments: pd.DataFrame) -> str:
    twin, leads = left_to_gain(runs, OURS), {row: lead(runs, row) for row in published(runs)}
    # of one world there is no interval
    nearest = min(leads, key=lambda row: np.nan_to_num(leads[row].low, nan=leads[row].mean))
    ahead, cost, size = leads[nearest], *(_power(runs, OURS, kind) for kind in ("seconds", "bytes"))
    # at most JOINT below the twin, so that it minus the twin is more than -JOINT
    within, lead_of = GOAL[outcome(_less(twin), -JOINT)], GOAL[outcome(ahead, AHEAD)]
    worlds = f"{twin.seeds} world{'s' * (twin.seeds > 1)}"
    return (
        f"After {moments.tasks.max()} tasks in {worlds}, {short_name_of(OURS)} is {_points(twin)} below its joint twin "
        f"(goal: at most {100 * JOINT:.0f}; {within}), and against the nearest of {len(leads)} published rows, "
        f"{short_name_of(nearest)}, {verdict(ahead)}; goal: ahead by {100 * AHEAD:.0f} ({lead_of}). Its seconds per "
        f"task grow with the number of tasks to the power {cost}, its memory to the power {size}."
    )


def _points(interval: Interval) -> str:
    if np.isnan(interval.low):
        return f"{100 * interval.mean:.1f} points{', in each world,' * (interval.seeds > 1)}"
    return f"{points(interval)} points"


def _less(interval: Interval) -> Interval:
    """Of the negative; no difference at all, in any world, has no luck in it."""
    if np.isnan(interval.low) and not interval.mean:
        interval = interval._replace(low=interval.mean, high=interval.mean)
    return negative(interval)


def _power(runs: pd.DataFrame, row: str, kind: str) -> str:
    interval = over_seeds(by_world(runs, row, f"{kind}_exponent"))
    ends = "" if np.isnan(interval.low) else f" [{interval.low:.2f}, {interval.high:.2f}]"
    return f"{interval.mean:.2f}{ends}"


def _distinct(table: pd.DataFrame) -> str:
    """What the renderer has to tell so many classes apart by."""
    parts = [
        f"{classes} classes: {100 * line.sound:.0f} and {100 * line.picture:.0f} %"
        for classes, line in table.groupby("classes").mean().iterrows()
    ]
    return (
        "How distinct so many classes are, as the share of test clips whose timbre is identified from sound alone and "
        f"the share identified among twins from the guided picture alone: {', '.join(parts)}."
    )


# ---- missing senses


def right(correct: pd.DataFrame, row: str, sense: str, train: float, test: float) -> np.ndarray:
    """Whether each test clip is right, [seeds, clips]."""
    lines = correct[(correct.row == row) & (correct.sense == sense)]
    # by seed, for rows are paired line by line
    lines = lines[(lines.train == train) & (lines.test == test)].sort_values("seed")
    return np.array([[*digits] for digits in lines.correct], float)


def answers(correct: pd.DataFrame) -> dict[str, Interval]:
    """What the answer is written from, by name; paired by seed and clip.

    `whole`: zeros minus conditioning where both senses are there. For each sense, with half of the test clips without
    it: `drop` of conditioning and of naive fusion, `half` of naive fusion's minus it, and the lead `over` each rival;
    with half of the training clips without it, `trained`; `learnt`: with both, over leaving such training clips out.
    """
    # where every clip is whole it does not matter which sense the line is filed under
    both = [right(correct, row, SENSES[0], 0, 0) for row in ("conditional", "zeros")]
    found = {"whole": both[1] - both[0]}
    for sense in SENSES:
        drop = {
            row: right(correct, row, sense, 0, 0) - right(correct, row, sense, 0, HALF)
            for row in ("conditional", "naive")
        }
        found |= {f"drop {row} {sense}": values for row, values in drop.items()}
        # above zero where it costs less than half of what naive fusion loses
        found[f"half {sense}"] = drop["naive"] / 2 - drop["conditional"]
        # name, rival, and the shares of training and of test clips that lack the sense
        compared = [(f"over {row}", row, 0.0, HALF) for row in RIVALS]
        compared += [(f"trained {row}", row, HALF, 0.0) for row in RIVALS] + [("learnt", "quarantined", HALF, HALF)]
        for what, row, train, test in compared:
            ours, other = (right(correct, name, sense, train, test) for name in ("conditional", row))
            found[f"{what} {sense}"] = ours - other
    return {name: over_seeds_and_clips(values) for name, values in found.items()}


def missing(folder: Path, settings: Missing) -> str:
    """The answer, and two tables: by the share of test clips, and of training clips, that lack a sense."""
    table = pd.read_csv(folder / "beyond_missing.csv")
    found = answers(pd.read_csv(folder / "beyond_correct.csv", dtype={"correct": str}))
    blocks = [f"**{_of_missing(found)}**"]
    for vary, other, clips in (("test", "train", "test"), ("train", "test", "training")):
        # one share is turned while the other split is whole
        means = table[table[other] == 0].groupby(["row", "sense", vary]).last_accuracy.mean()
        columns = [(sense, share) for sense in SENSES for share in settings.shares]
        rows = [
            # no cell where a row has no run: it leaves such training clips out, and all are such
            [row.name, *(f"{100 * means[name, *key]:.1f}" if (name, *key) in means else "" for key in columns)]
            for name, row in settings.rows.items()
        ]
        head = " | ".join(f"no {sense} {100 * share:.0f} %" for sense, share in columns)
        blocks.append(markdown(f"| of {clips} clips | {head} |", "l" + "r" * len(columns), rows))
    note = (
        f"Last accuracy in percent, mean over {table.seed.nunique()} seeds, each with its own class order, weights and "
        "choice of incomplete clips; clips of the other split are complete. Differences below: points, with 95 % "
        "intervals over seeds and clips."
    )
    return "\n\n".join([*blocks, note, _leads(found)])


def _of_missing(found: dict[str, Interval]) -> str:
    whole, costs = found["whole"], []
    for sense in SENSES:
        ours, naive = (points(found[f"drop {row} {sense}"]) for row in ("conditional", "naive"))
        costs.append(f"without {sense} {ours} against {naive} ({GOAL[outcome(found[f'half {sense}'])]})")
    return (
        f"With both modalities present, conditioning on what is there loses {points(whole)} points (goal: at most "
        f"{100 * NOTHING:.1f}; {GOAL[outcome(_less(whole), -NOTHING)]}). Points lost where half of the test clips "
        f"lack one modality, against naive fusion (goal: half as many): {'; '.join(costs)}."
    )


def _leads(found: dict[str, Interval]) -> str:
    """Conditioning against each rival, where half of the test clips, or of the training clips, lack a sense."""
    cases = [(what, sense) for what in ("over", "trained") for sense in SENSES]
    rows = [
        [f"over {name}", *(verdict(found[f"{what} {row} {sense}"]) for what, sense in cases)]
        for row, name in RIVALS.items()
    ]
    head = " | ".join(
        f"half of {dict(over='test', trained='training')[what]} clips, no {sense}" for what, sense in cases
    )
    learnt = ", ".join(f"no {sense} {verdict(found[f'learnt {sense}'])}" for sense in SENSES)
    return (
        f"{markdown(f'| | {head} |', 'lllll', rows)}\n\nAgainst leaving incomplete training clips out, where half of "
        f"the training clips and half of the test clips are incomplete: {learnt}."
    )


# ---- light attention


def apart(runs: pd.DataFrame, column: str, first: str, second: str, paired: str = "world") -> Interval:
    """Last accuracy of runs where ``column`` is ``first``, minus where it is ``second``, ``paired`` by another column;
    of what both have."""
    wide = runs.pivot(index=paired, columns=column, values="last_accuracy")
    return over_seeds((wide[first] - wide[second]).dropna())


def gain(table: pd.DataFrame, row: str, variant: str, other: str = "whole") -> Interval:
    """What a variant changes of last accuracy."""
    return apart(table[(table.row == row) & (table.split == "test")], "variant", variant, other)


def candidates(table: pd.DataFrame, settings: Light) -> pd.Series:
    """Accuracy on validation clips of the world that is not reported, best first, of equals the smallest: of variants
    that store no more than the goal's share and leave more than one patch a slot, so that there is something to attend
    to. The first is the one to claim."""
    scored = table[table.split == "val"].set_index("variant")
    # null, of all patches, is more than one as well
    several = np.array([settings.variants[name].patches != 1 for name in scored.index])
    fitting = scored[several & (scored.bytes <= settings.share * scored.bytes["whole"])]
    return fitting.sort_values(["last_accuracy", "bytes"], ascending=[False, True]).last_accuracy


def light(folder: Path, settings: Light) -> str:
    """The answer, a line a variant, what guidance chooses against what it does not, and the row that is trained."""
    table = pd.read_csv(folder / "beyond_light.csv")
    solved = table[table.row == settings.row]
    # bytes and times are means over all runs, accuracies are kept apart by split
    means = solved.groupby("variant").mean(numeric_only=True)
    whole, lines = means.loc["whole"], []
    for name, variant in settings.variants.items():
        if name in means.index:  # else it is not run yet
            mine = solved[solved.variant == name]
            # a variant may have been scored on validation clips alone
            scored, tested = (mine.last_accuracy[mine.split == split] for split in ("val", "test"))
            lines.append(
                [
                    f"**{variant.name}**" if name == settings.claimed else variant.name,
                    f"{means.bytes[name]:,.0f}",
                    *(_part(means[measure][name] / whole[measure]) for measure in ("bytes", "flops")),
                    f"{means.time_ratio[name]:.2f}",
                    percent(scored.mean()),
                    str(len(tested)),
                    percent(tested.mean()),
                    points(gain(table, settings.row, name)) if len(tested) and name != "whole" else "",
                ]
            )
    names = f"validation, world {settings.choice} | worlds | last | minus all tokens"
    head = f"| stored per clip | bytes | relative bytes | relative FLOPs | relative time | {names} |"
    note = (
        f"{short_name_of(settings.row)}, test clips of as many worlds, in percent; differences in points, paired by "
        "world, with 95 % intervals of Student's t over worlds, not corrected for the number of variants. FLOPs of the "
        "attention, and processor time from the store to the attended visual feature, are relative to all tokens: "
        f"{whole.flops / 1e6:.2f} million FLOPs and {whole.milliseconds:.2f} ms per clip."
    )
    chosen = [
        f"{settings.variants[name].name} {100 * score:.1f}" for name, score in candidates(table, settings).items()
    ]
    blocks = [
        f"**{_of_light(table, settings)}**",
        f"The choice, on validation clips of world {settings.choice}, in percent: {'; '.join(chosen)}.",
        markdown(head, "lrrrrrrrr", lines),
        note,
        _guided(table, settings),
        _trained(table, settings),
    ]
    # without counterparts there is no table of what guidance chooses
    return _of_worlds("\n\n".join(filter(None, blocks)))


def _part(share: float) -> str:
    """`1/11.8`."""
    return f"1/{1 / share:.3g}" if share < 1 else f"{share:.3g}"


def _of_light(table: pd.DataFrame, settings: Light) -> str:
    name, gained = settings.variants[settings.claimed].name, gain(table, settings.row, settings.claimed)
    sizes = table[table.row == settings.row].groupby("variant").bytes.mean()
    ours, whole = sizes[[settings.claimed, "whole"]]
    # both have to hold: few bytes, and little lost
    reached = outcome(gained, -settings.loss) if ours <= settings.share * whole else "does not hold"
    wanted = f"{_part(settings.share)} for at most {100 * settings.loss:.0f}; {GOAL[reached]}"
    return (
        f"Stored as {name}, a clip takes {ours:,.0f} of {whole:,.0f} bytes, {_part(ours / whole)}, and "
        f"{short_name_of(settings.row)} loses {points(negative(gained))} points of last accuracy in {gained.seeds} "
        f"worlds (goal: {wanted})."
    )


def _guided(table: pd.DataFrame, settings: Light) -> str:
    """The most similar patches against as many that are chosen or made otherwise."""
    # of the row that is solved: shapes are of learnt attention, and no variants
    tested = (table.split == "test") & (table.row == settings.row)
    # frozen, and so hashable: a variant is looked up by what it stores
    run = {settings.variants[name]: name for name in table.variant[tested].unique()}
    rows = []
    for variant, name in run.items():
        if variant.by == "guidance" and variant.patches and not variant.slots:
            # the same in all but how patches are chosen
            others = [run.get(variant.model_copy(update={"by": by})) for by in ("random", "grid")]
            rows.append([variant.name, *(verdict(gain(table, settings.row, name, o)) if o else "" for o in others)])
    # a line of names alone tells nothing
    rows = [row for row in rows if any(row[1:])]
    return markdown("| | over as many random patches | over as many grid means |", "lll", rows) if rows else ""


def _trained(table: pd.DataFrame, settings: Light) -> str:
    """Of the row that is trained a line a variant, and a line a shape of its attention."""
    row = settings.trained
    run = table[table.row == row]
    if not len(run):
        return f"Not run: {short_name_of(row)}, which is trained."
    worlds, means = run.world.unique(), run.groupby("variant").mean(numeric_only=True)
    whole = means.loc["whole"]
    names = {name: settings.variants[name].name for name in settings.trained_variants}
    names |= {name: f"all patches, {shape.name}" for name, shape in settings.shapes.items()}
    lines = [
        [
            names[name],
            *(_part(means[measure][name] / whole[measure]) for measure in ("bytes", "flops")),
            f"{means.time_ratio[name]:.2f}",
            percent(means.last_accuracy[name]),
            "" if name == "whole" else points(gain(table, row, name)),
        ]
        for name in names
        if name in means.index
    ]
    measures = "relative bytes | relative FLOPs | relative time | last | minus all tokens"
    return (
        f"{short_name_of(row)}, whose attention is learnt, in {len(worlds)} world{'s' * (len(worlds) > 1)}; its own "
        f"attention takes {whole.flops / 1e6:.1f} million FLOPs and {whole.milliseconds:.2f} ms per clip:\n\n"
        f"{markdown(f'| stored per clip, attention | {measures} |', 'lrrrrr', lines)}"
    )


# ---- damaged inputs


def lost(measured: pd.DataFrame) -> pd.DataFrame:
    """The share that whole clips had and damaged ones have no more; both a line a damage, strength and world, a column
    a row."""
    # of each world its whole clips, beside all its damages
    return 1 - measured / measured.xs((WHOLE, 0.0)).reindex(measured.index, level="world")


def robust(folder: Path) -> str:
    """The answer, a line a damage, and what is named where two objects sound."""
    table = pd.read_csv(folder / "beyond_robust.csv")
    # in the order of beyond.yaml: the first row is the one that is compared
    rows, cases = list(dict.fromkeys(table.row)), dict.fromkeys(zip(table.damage, table.strength, strict=True))
    damages = [case for case in cases if case[0] not in (WHOLE, DUET)]
    accuracy, precision = (
        table.pivot(index=["damage", "strength", "world"], columns="row", values=measure)
        for measure in ("last_accuracy", "mean_average_precision")
    )
    means = table.groupby(["row", "damage", "strength"]).mean()
    shares, two, lines = lost(accuracy), lost(precision).loc[(DUET, 0.0)], []
    for damage, strength in [(WHOLE, 0.0), *damages]:
        line = [CASES[damage].format(strength)]
        for row in rows:
            fallen = over_seeds(shares.loc[(damage, strength), row])
            # whole clips lose nothing
            line += [percent(means.last_accuracy[row, damage, strength]), "" if damage == WHOLE else points(fallen)]
        lines.append(line)
    head = " | ".join(f"{short_name_of(row)} | lost" for row in rows)
    duets = [
        [
            name_of(row),
            *(percent(means.mean_average_precision[row, case, 0.0]) for case in (WHOLE, DUET)),
            points(over_seeds(two[row])),
        ]
        for row in rows
    ]
    against = {
        # losses the other way round, so that above zero is better for the first row in both
        row: [*_counted(accuracy[rows[0]] - accuracy[row], damages), *_counted(shares[row] - shares[rows[0]], damages)]
        for row in rows[1:]
    }
    # the sentence is about the last row of the list, the table below about all
    (other, counts), ours = list(against.items())[-1], short_name_of(rows[0])
    answer = (
        f"Of {len(damages)} kinds of damage, {ours} remains more accurate than {short_name_of(other)} under "
        f"{counts[0]} and less accurate under {counts[1]}; it loses a smaller share under {counts[3]} and a larger one "
        f"under {counts[4]}."
    )
    note = (
        "Last accuracy on test clips, mean over worlds, and the share of it that is lost, both in percent, with 95 % "
        f"intervals of Student's t over {table.world.nunique()} worlds, not corrected for the number of damages."
    )
    blocks = [
        f"**{answer}**",
        markdown(f"| test clips | {head} |", "l" + "rr" * len(rows), lines),
        note,
        markdown(
            f"| kinds of damage under which {ours} is | more accurate | less accurate | not told apart "
            "| smaller share lost | larger share lost | not told apart |",
            "lrrrrrr",
            [[f"than {name_of(row)}", *map(str, counts)] for row, counts in against.items()],
        ),
        markdown("| mean average precision, % | one object sounds | two | lost, % |", "lrrr", duets),
    ]
    return "\n\n".join(blocks)


def _counted(apart: pd.Series, damages: list[tuple[str, float]]) -> list[int]:
    """In how many damages a difference, over worlds, is above zero, below, and not told apart."""
    verdicts = [outcome(over_seeds(apart.loc[damage])) for damage in damages]
    return [verdicts.count(verdict) for verdict in ("holds", "does not hold", "not told apart")]


# ---- adapting the prior


def _over(runs: pd.DataFrame, column: str, way: str, base: str) -> list[str]:
    """Of one row's runs where ``column`` is ``way`` last accuracy, what it is over ``base``, and hits."""
    mine = runs[runs[column] == way]
    # a row that is trained may have been run in few ways
    gained = "" if way == base or mine.empty else points(apart(runs, column, way, base))
    return [percent(mine.last_accuracy.mean()), gained, percent(mine.hit.mean())]


def adapting(folder: Path) -> str:
    """The answer, and of each row a line a way: last accuracy, what it is over the frozen prior's, and hits."""
    table = pd.read_csv(folder / "beyond_adapting.csv")
    shifts, rows = list(dict.fromkeys(table["shift"])), list(dict.fromkeys(table.row))
    # not `table.shift`, which pandas has for something else
    runs = {key: of for key, of in table.groupby(["row", "shift"])}
    ours, blocks = rows[0], []
    for row in rows:
        lines = [
            [WAYS[way], *(cell for shift in shifts for cell in _over(runs[row, shift], "way", way, "frozen"))]
            for way in dict.fromkeys(table.way[table.row == row])
        ]
        head = " | ".join(f"{shift} | over frozen | hits" for shift in shifts)
        blocks.append(markdown(f"| {short_name_of(row)} | {head} |", "l" + "rrr" * len(shifts), lines))
    told = []
    for way in ("continued", "distilled", "gated_distilled", "before"):
        over = [f"{shift} {verdict(apart(runs[ours, shift], 'way', way, 'frozen'))}" for shift in shifts]
        told.append(f"{WAYS[way]}: {', '.join(over)}")
    note = (
        "Last accuracy and hits (the share of test clips on which attention peaks on the sounding object), in percent, "
        f"means over {table.world.nunique()} worlds; differences in points, with 95 % intervals of Student's t over "
        "worlds, not corrected for their number."
    )
    return "\n\n".join([f"**{short_name_of(ours)}, against the frozen prior: {'; '.join(told)}.**", *blocks, note])


# ---- more streams


def streams(folder: Path) -> str:
    """The answer, and a line a choice of streams: of each row last accuracy, what they add to it, and hits."""
    table = pd.read_csv(folder / "beyond_streams.csv")
    tested, tried = table[table.split == "test"], table[table.split == "val"]
    rows = {row: tested[tested.row == row] for row in dict.fromkeys(tested.row)}
    # the weight was chosen with all streams joined, so its lines have the name of all
    chosen, every = list(dict.fromkeys(tested.streams)), tried.streams.iloc[0]
    lines = [[way, *(cell for runs in rows.values() for cell in _over(runs, "streams", way, ALONE))] for way in chosen]
    told = "; ".join(
        f"{short_name_of(row)} {verdict(apart(runs, 'streams', every, ALONE))}" for row, runs in rows.items()
    )
    means_of = 100 * tried.groupby("weight").last_accuracy.mean()
    scores = "; ".join(f"{weight:g}: {score:.1f}" for weight, score in means_of.items())
    worlds = ", ".join(f"{short_name_of(row)} {runs.world.nunique()}" for row, runs in rows.items())
    head = " | ".join(f"{short_name_of(row)} | over none | hits" for row in rows)
    note = (
        "Last accuracy and hits (the share of test clips on which attention peaks on the sounding object), in percent, "
        f"means over worlds ({worlds}); differences in points, with 95 % intervals of Student's t over worlds, not "
        "corrected for their number. A stream's weight relative to the encoder's tokens is "
        f"{tested.weight.iloc[0]:g}, chosen by last accuracy of "
        f"{short_name_of(tried.row.iloc[0])} on validation clips of worlds "
        f"{', '.join(map(str, tried.world.unique()))} ({scores})."
    )
    answer = f"**Adding {every} to sound and picture: {told}.**"
    return "\n\n".join([answer, markdown(f"| joined | {head} |", "l" + "rrr" * len(rows), lines), note])
