"""Writes the results of README.md and docs/ from metrics/: `python -m avcil.workshop.readme`.

What stands between two markers is never edited by hand, and a test compares it with metrics/.
"""

import json
from pathlib import Path

import pandas as pd

from avcil.comparison import tables
from avcil.comparison.intervals import ALPHA, Interval, over_seeds, points, sign, verdict
from avcil.comparison.tables import Comparable
from avcil.results import names
from avcil.results.names import families, name_of, of_family, short_name_of
from avcil.tokens.tokens import Layout
from avcil.workshop import claims, probe


def _cell(row, measure: str) -> str:
    return tables.percent(row[measure], row[f"{measure}_std"])


def _line(name: str, row, measures: list[str]) -> str:
    return f"| {name} | " + " | ".join(_cell(row, measure) for measure in measures) + " |"


def _standard(folder: Path) -> pd.DataFrame:
    """The table of means of the first setting, a line a method."""
    summary = pd.read_csv(folder / "summary.csv")
    return summary[summary.setting == claims.STANDARD].set_index("method")


HEADLINE = ["joint_guided", "lll_prior", "lll", "replay", "naive_fusion", "ridge", "finetune"]


def headline(folder: Path) -> str:
    """The six rows that say most: the upper bound, the method, and what it is measured against."""
    summary = _standard(folder).loc[HEADLINE]
    measures = ["average_accuracy", "last_accuracy", "forgetting_last", "localisation_hit_first_task"]
    lines = ["| | average | last | forgetting | attention hit, task 0 |", "|---" + "|---:" * len(measures) + "|"]
    lines += [_line(name_of(method), row, measures) for method, row in summary.iterrows()]
    note = (
        f"Test clips of Sounding Objects, in percent: mean ± standard deviation over {int(summary.seeds.min())} class "
        "orders. Average: over tasks of the accuracy on all classes seen; last: after the last task."
    )
    return "\n".join([*lines, "", note])


# what the project set out to compare: first minus second
_COMPARISONS = [
    ("guidance, all data at once", "joint_guided", "joint_naive"),
    ("guidance, incrementally", "lll_prior", "naive_fusion"),
    ("LLL over ridge regression on frozen tokens", "lll_prior", "ridge"),
    ("LLL over fine-tuning", "lll_prior", "finetune"),
    ("LLL over replay with the same memory", "lll_prior", "replay"),
    ("both levels of distillation", "lll_prior", "without_both_levels"),
    ("the feature level, beside the logit level", "lll_prior", "without_feature_level"),
    ("the logit level, beside the feature level", "lll_prior", "without_logit_level"),
    ("the prior", "lll_prior", "without_prior"),
    ("the prior's similarity as a start for attention", "lll_prior", "lll"),
    ("left to gain: the upper bound over LLL", "joint_guided", "lll_prior"),
    ("the luck of the prior: seed 1 over seed 0", "prior_1", "lll_prior"),
    ("the luck of the prior: seed 2 over seed 0", "prior_2", "lll_prior"),
]


def comparisons(folder: Path) -> str:
    """A table of differences with whatever sign they came out: last accuracy by seed and clip, forgetting by seed."""
    found = Comparable.of(folder)
    lines = ["| first against second | last accuracy | forgetting (last) |", "|---|---|---|"]
    for what, a, b in _COMPARISONS:
        accuracy = verdict(claims.lead(found, claims.STANDARD, "last_accuracy", a, b))
        forgetting = verdict(claims.lead(found, claims.STANDARD, "forgetting_last", a, b), ("less by", "more by"))
        lines.append(f"| {what} | {accuracy} | {forgetting} |")
    note = (
        "Points, with a 95 % interval: Student's t over seeds, of last accuracy with the luck of the test clips too. "
        "*Not told apart* is no proof of equality: the interval says how large a difference may be."
    )
    return "\n".join([*lines, "", note])


def remarks(folder: Path) -> str:
    """Attention as tasks go by, and the prior by itself."""
    priors = pd.read_csv(folder / "prior.csv").set_index("prior")
    trained = priors.drop(index="random")
    found = Comparable.of(folder)
    ours, none, replay = (
        points(found.lead(claims.STANDARD, "localisation_change_first_task", row))
        for row in ("lll_prior", "without_both_levels", "replay")
    )
    attention = (
        "From the first task to the last, the share of task 0's clips on which attention peaks on the sounding object "
        f"changes by {ours} points for LLL, {none} without distillation and {replay} for replay."
    )
    alone = (
        f"The three priors by themselves, on {trained.scenes.iloc[0]} held-out scenes of their own world: prompted "
        f"separation takes the median SI-SDR from {trained.si_sdr_mixture.mean():.1f} dB (the mixture) to "
        f"{', '.join(f'{value:.1f}' for value in trained.si_sdr_estimate)} dB (an ideal mask: "
        f"{trained.si_sdr_ideal_mask.mean():.1f} dB), and their similarity peaks on the sounding object in "
        f"{', '.join(f'{100 * value:.0f}' for value in trained.hit)} % of scenes (untrained: "
        f"{100 * priors.hit['random']:.0f} %, chance: {100 * priors.chance.iloc[0]:.0f} %)."
    )
    return f"{attention}\n\n{alone}"


def field(folder: Path) -> str:
    """Every row in the standard setting, by family, best first, with `lll_analytic` minus it."""
    table, found = _standard(folder), Comparable.of(folder)
    reference = "lll_analytic"
    ahead = found.compare(claims.STANDARD, reference, [row for row in table.index if row != reference])
    ahead = ahead.set_index("method")
    measures = ["average_accuracy", "last_accuracy", "forgetting_mean", "forgetting_last"]
    lines = [
        "| method | average | last | forgetting (mean) | forgetting (last) | LLL, solved, minus it | kB kept |",
        "|---" + "|---:" * 6 + "|",
    ]
    for family in families():
        mine = table.loc[table.index.isin(of_family(family))].sort_values("last_accuracy", ascending=False)
        lines += [f"| *{family}* |" + " |" * 6] if len(mine) else []
        for name, row in mine.iterrows():
            cells = [_cell(row, measure) for measure in measures]
            if name in ahead.index:
                line = ahead.loc[name]
                shown = points(Interval(line.difference, line.low, line.high, line.p, int(row.seeds)))
                cells.append(shown + (" †" if line.p_holm >= ALPHA else ""))
            else:
                cells.append("")
            title = f"**{name_of(name)}**" if name in ("lll_prior", "lll_analytic") else name_of(name)
            lines.append(f"| {title} | " + " | ".join([*cells, f"{row.memory_bytes / 1000:,.0f}"]) + " |")
    note = (
        f"Test clips, in percent: mean ± standard deviation over {int(table.seeds.min())} seeds, each with its own "
        "class order. Minus it: points of last accuracy, paired, with a 95 % interval over seeds and clips; †: not "
        f"told apart once all {len(ahead)} comparisons are counted (Holm). Kept: between tasks, exemplars' tokens and "
        "a solved head's sums. All data at once: all classes seen so far, learnt again from scratch after each task."
    )
    return "\n".join([*lines, "", note])


def methods(folder: Path) -> str:
    """What each row is: of `about` in params.yaml."""
    lines = ["| row | paper | what holds the new model to the old one | deviations |", "|---|---|---|---|"]
    for name, row in names.rows().items():
        if row.idea and not row.part:
            lines.append(f"| `{name}` | {row.paper} | {row.idea} | {row.deviations} |")
    return "\n".join(lines)


def settings(folder: Path) -> str:
    """Last accuracy and forgetting of a few rows in harder settings, and over worlds."""
    summary = pd.read_csv(folder / "summary.csv")
    other = [name for name in summary.setting.unique() if name != claims.STANDARD]
    shown = set(summary[summary.setting != claims.STANDARD].method)
    cells = summary.set_index(["setting", "method"])
    lines = ["| last accuracy (forgetting) | " + " | ".join(name.replace("_", " ") for name in other) + " |"]
    lines.append("|---" + "|---:" * len(other) + "|")
    for row in (row for family in families() for row in of_family(family) if row in shown):
        texts = []
        for setting in other:
            if (setting, row) not in cells.index:
                texts.append("")
                continue
            line = cells.loc[setting, row]
            texts.append(f"{100 * line.last_accuracy:.1f} ({100 * line.forgetting_last:.1f})")
        lines.append(f"| {name_of(row)} | " + " | ".join(texts) + " |")
    return "\n".join([*lines, "", _harder(folder)])


def _harder(folder: Path) -> str:
    """What fewer exemplars change, and what is left to tell where sound alone tells the class."""
    found = Comparable.of(folder)
    both = found.correct.assign(method=found.correct.setting + " " + found.correct.method, setting=claims.STANDARD)
    across = found._replace(correct=both)

    def change(row: str) -> str:
        interval = across.lead(claims.STANDARD, "last_accuracy", f"exemplars_1 {row}", f"exemplars_20 {row}")
        return f"{points(interval)} for {short_name_of(row)}"

    changes = ", ".join(change(row) for row in ("lll_analytic", "lll_prior", "replay"))
    twins = verdict(found.lead("no_twins", "last_accuracy", "lll_prior", "ridge"))
    return (
        f"From 20 exemplars a class to one, last accuracy changes by {changes}. Without twins, LLL against ridge "
        f"regression on frozen tokens: {twins}."
    )


def _names(rows) -> str:
    return "; ".join(short_name_of(row) for row in rows) or "none"


def field_reading(folder: Path) -> str:
    """Which row is first, which are not told apart from it, what LLL is ahead of, and the goals of the project."""
    found = Comparable.of(folder)
    seeds = found.seeds[found.seeds.setting == claims.STANDARD]
    first = seeds.groupby("method").last_accuracy.mean().idxmax()
    rest = found.compare(claims.STANDARD, first, [row for row in found.methods(claims.STANDARD) if row != first])
    alike = rest.method[rest.p_holm >= ALPHA]
    lines = [
        f"- *First* by its mean is {short_name_of(first)}: {points(_last(found, first))} %. Not "
        f"told apart from it, all {len(rest)} comparisons counted (Holm): {_names(alike)}.",
    ]
    goals = []
    for row in ("lll_prior", "lll_analytic"):
        against = [
            f"against {short_name_of(other)} {verdict(_last(found, row, other))}"
            for other in ("joint_guided", "naive_fusion", "replay")
        ]
        for kind, rivals in (("as published", claims.PUBLISHED), ("given the guided model or tokens", claims.GUIDED)):
            rival, count, ahead = claims.nearest(found, row, rivals)
            against.append(f"against the nearest of {count} methods {kind} ({short_name_of(rival)}) {verdict(ahead)}")
            goals.append(f"{short_name_of(row)} over every method {kind}: {claims.outcome(ahead, least=0.1)}")
        lines.append(f"- *{short_name_of(row)}*: {'; '.join(against)}.")
    forgetting = {row: over_seeds(values) for row, values in seeds.groupby("method").forgetting_last}
    few = [row for row, interval in forgetting.items() if sign(interval._replace(high=interval.high - 0.05)) < 0]
    lines.append(
        f"- *Goals.* Ten points of lead: {'; '.join(goals)}. At most five points of forgetting: {_names(few)}."
    )
    return "\n".join(lines)


def _last(found: Comparable, first: str, second: str | None = None) -> Interval:
    return found.lead(claims.STANDARD, "last_accuracy", first, second)


def machines(folder: Path) -> str:
    """The processors that the project was computed on, and how much of it came out the same on them."""
    records = probe.known(folder / "processors")
    agree = {
        kind: sum(
            len({record["operations"][kind][name] for record in records}) == 1
            for name in records[0]["operations"][kind]
        )
        for kind in ("portable", "default")
    }
    whole = [record["whole"] for record in records if record["whole"]]
    steps = {
        kind: sum(len({way[kind][step] for way in whole}) == 1 for step in whole[0][kind])
        for kind in ("portable", "default")
    }
    lines = ["| processor | AVX-512 | torch |", "|---|---|---|"]
    for record in records:
        wide = {True: "yes", False: "no", None: "not recorded"}[record["instruction_sets"]["avx512_f"]]
        lines.append(f"| {record['name']} | {wide} | {record['versions']['torch']} |")
    made_on = json.loads((folder / "made_on.json").read_text())
    makers = sorted({str(entry["processor"]) for entry in made_on.values() if entry["processor"]})
    again = sorted({name for entry in made_on.values() for name in entry.get("again_on", [])})
    seen = f" and made again, byte for byte, on {', '.join(again)}" if again else ""
    return "\n".join(
        [
            *lines,
            "",
            f"Of {len(records[0]['operations']['portable'])} operations (`python -m avcil.workshop.probe`) "
            f"{agree['portable']} give the same bytes on all of them in portable arithmetic, and {agree['default']} in "
            f"each one's own; of {len(whole[0]['portable'])} steps from clips to the checkpoints of `lll_prior` and "
            f"`ridge`, {steps['portable']} and {steps['default']}. The tables in git were made on "
            f"{', '.join(makers)}{seen}.",
        ]
    )


def storage() -> str:
    """Gigabytes of 200,000 clips of 10 s, 16 frames each, by encoder and patches a frame."""
    layouts = {
        "pe_av, all 24 x 24 patches": Layout(16, 576, 250, 1024, 1024),
        "pe_av, 8 x 8": Layout(16, 64, 250, 1024, 1024),
        "pe_av, 4 x 4": Layout(16, 16, 250, 1024, 1024),
        "videomae_audiomae, all 14 x 14": Layout(8, 196, 63, 768, 768),
        "videomae_audiomae, 7 x 7": Layout(8, 49, 63, 768, 768),
        "clip_clap, all 14 x 14": Layout(16, 196, 32, 768, 768),
        "imagebind, all 16 x 16": Layout(16, 256, 60, 1280, 768),
    }
    lines = ["| encoder | MB a clip | GB in all |", "|---|---:|---:|"]
    for name, layout in layouts.items():
        size = layout.clip_bytes
        lines.append(f"| `{name.replace(',', '`,', 1)} | {size / 1e6:.2f} | {200_000 * size / 1e9:,.0f} |")
    return "\n".join(lines)


def kernels(benchmarks: Path) -> str:
    """The goals of the kernels and of a training step, by device, and seconds an epoch."""
    blocks = []
    for kind in ("kernels", "training_step"):
        for path in sorted(benchmarks.glob(f"{kind}_*.json")):
            found = json.loads(path.read_text())
            about = found["machine"]
            lines = [f"| {about['device']}, {about['threads']} threads | wanted | reached | |", "|---|---:|---:|---|"]
            for goal in found["goals"]:
                met = {True: "", False: "**missed**", None: "not measured"}[goal["met"]]
                reached = "" if goal["reached"] is None else f"{goal['reached']:.3g}"
                lines.append(f"| {goal['goal']} | {goal['wanted']} | {reached} | {met} |")
            blocks.append("\n".join(lines))
    epochs = (benchmarks / "training_epoch.md").read_text().split("\n", 2)[2].strip().replace("## ", "**")
    epochs = "\n".join(f"{line}**" if line.startswith("**") else line for line in epochs.splitlines())
    return "\n\n".join([*blocks, "AV-CIL from its features to its last task. " + epochs])


def development(benchmarks: Path) -> str:
    """Average and last accuracy of every row on every collection of `benchmarks/transfer.py`, best mean rank first."""
    table = pd.read_csv(benchmarks / "development.csv").query("part == 'table'")
    collections = list(dict.fromkeys(table.collection))
    seeds = table.groupby("collection").seeds.max()
    lines = [f"| average / last | {' | '.join(collections)} | mean rank |", "|---|" + "---:|" * (len(collections) + 1)]
    # rows that lack a collection, whose ranks are no mean of all, come last
    for row, mine in sorted(table.groupby("row"), key=lambda i: (i[1].mean_rank.isna().any(), i[1]["rank"].mean())):
        by_name = mine.set_index("collection")
        cells = [
            f"{by_name.average[name]:.1f} / {by_name['last'][name]:.1f}" if name in by_name.index else ""
            for name in collections
        ]
        rank = "" if mine.mean_rank.isna().any() else f"{mine.mean_rank.iloc[0]:.1f}"
        lines.append(f"| {name_of(row)} | {' | '.join(cells)} | {rank} |")
    counts = ", ".join(f"{name} {count}" for name, count in seeds.items())
    return (
        "\n".join(lines) + f"\n\nTest clips, in percent; at most so many seeds: {counts}. Ranks are of last accuracy."
    )


def open_set(file: Path) -> str:
    """How well each row tells clips of classes to come from those of classes learnt, best first."""
    found = pd.read_csv(file)
    tasks = sorted(found.task.unique())
    by_seed = found.groupby(["row", "score", "seed"])[["auroc", "unknown_refused", "known_refused"]].mean()
    cells = by_seed.groupby(["row", "score"]).agg(["mean", "std"]).reset_index("score")
    at = found[found.task.isin([tasks[0], tasks[-1]])].groupby(["row", "task"]).auroc.mean().unstack()
    head = f"| row | score | AUROC | after task {tasks[0]} | after task {tasks[-1]} | unknown refused | known refused |"
    lines = [head, "|---|---" + "|---:" * 5 + "|"]
    for name, row in cells.sort_values(("auroc", "mean"), ascending=False, kind="stable").iterrows():
        spread = [tables.percent(*row[measure]) for measure in ("auroc", "unknown_refused", "known_refused")]
        moments = [f"{100 * value:.1f}" for value in at.loc[name]]
        lines.append(
            f"| {name_of(name)} | {row['score'].item()} | " + " | ".join([spread[0], *moments, *spread[1:]]) + " |"
        )
    first = found.groupby("task")[["known", "unknown"]].first()
    note = (
        "In percent, test clips, mean over the tasks but the last ± standard deviation over "
        f"{found.seed.nunique()} seeds; known clips are those of classes learnt ({first.known.iloc[0]} to "
        f"{first.known.iloc[-1]}), unknown ones those of classes to come ({first.unknown.iloc[0]} to "
        f"{first.unknown.iloc[-1]}). AUROC: 50 is guessing. Refused: above the threshold that 95 % of the validation "
        "clips of classes learnt pass, so that of the known 5 % are expected."
    )
    return "\n".join([*lines, "", note])


def _sections(folder: Path) -> dict[str, str]:
    found = {"results": "\n\n".join([comparisons(folder), remarks(folder)])}
    found["headline"] = headline(folder)
    found["holds"] = claims.summary(folder)
    found["claims"] = claims.table(folder)
    found["field"] = field(folder)
    found["methods"] = methods(folder)
    found["field_reading"] = field_reading(folder)
    found["settings"] = settings(folder)
    found["storage"] = storage()
    found["processors"] = machines(folder)
    found["open_set"] = open_set(folder.parent / "benchmarks/results/open_set.csv")
    found["kernels"] = kernels(folder.parent / "benchmarks/results")
    found["development"] = development(folder.parent / "benchmarks/results")
    # the conditions and the table of means; by task, and costs, are read there
    parity = (folder.parent / "benchmarks/results/parity.md").read_text()
    found["parity"] = parity.split("\n", 2)[2].split("Accuracy on all classes seen")[0].strip()
    return found


def files(root: Path) -> list[Path]:
    """README.md and the pages beside it."""
    return [root / "README.md", *sorted((root / "docs").glob("*.md"))]


def updated(texts: dict[str, str], folder: Path) -> dict[str, str]:
    """The texts with fresh results. Raises ValueError if a marker is missing, or stands in two texts."""
    texts = dict(texts)
    for name, content in _sections(folder).items():
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        places = [place for place, text in texts.items() if begin in text and end in text]
        if len(places) != 1:
            found = f"stand in {' and '.join(places)}" if places else "are gone"
            raise ValueError(f"README.md, docs/: the markers `{begin}` and `{end}` {found}; put them round one table")
        before, rest = texts[places[0]].split(begin)
        texts[places[0]] = before + begin + "\n" + content + "\n" + end + rest.split(end)[1]
    return texts


if __name__ == "__main__":
    fresh = updated({str(path): path.read_text() for path in files(Path())}, Path("metrics"))
    for name, text in fresh.items():
        Path(name).write_text(text)
        print(f"{name}: results written")
