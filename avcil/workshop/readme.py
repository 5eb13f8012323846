"""Writes the results of README.md and docs/ from metrics/: `python -m avcil.workshop.readme`.

What stands between two markers is never edited by hand, and a test compares it with metrics/.
"""

import argparse
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd

from avcil.beyond import answers
from avcil.beyond.settings import load_beyond
from avcil.comparison import tables
from avcil.comparison.intervals import ALPHA, VERDICTS, Interval, outcome, over_seeds, points, verdict
from avcil.comparison.search import compared
from avcil.comparison.tables import Comparable, markdown, percent
from avcil.params import load, project
from avcil.results import names
from avcil.results.names import GUIDED, UNGUIDED, families, name_of, of_family, short_name_of
from avcil.workshop import claims, probe

HEADLINE = ["joint_guided", "lll_closed", "lll_prior", "lll", "replay", "naive_fusion", "ridge", "finetune"]


def means(folder: Path) -> pd.DataFrame:
    """The table of means, from seeds.csv: those of summary.csv are rounded already, and would be rounded twice."""
    return tables.summarise(pd.read_csv(folder / "seeds.csv"))


def standard(folder: Path) -> pd.DataFrame:
    """The means of the first setting, a line a method."""
    summary = means(folder)
    return summary[summary.setting == claims.STANDARD].set_index("method")


def mean_ranks(runs: pd.DataFrame) -> pd.Series:
    """Ranks of the rows of development.csv by last accuracy, means over the collections, best first; NaN, and last,
    where a row lacks a collection."""
    runs = runs[runs.part == "table"]
    last = runs.groupby(["row", "collection"]).last_accuracy.mean().unstack()
    ranked = last[last.notna().all(axis=1)].rank(ascending=False).mean(axis=1)
    return ranked.reindex(last.index).sort_values(kind="stable")


def headline(folder: Path) -> str:
    """The rows that say most: all data at once, the method, and what it is measured against."""
    summary = standard(folder).loc[HEADLINE]
    # benchmarks/ stands beside metrics/, in the project's root
    development = pd.read_csv(folder.parent / "benchmarks/results/development.csv")
    measures = ["average_accuracy", "last_accuracy", "forgetting_last", "localisation_hit_first_task"]
    ranks = mean_ranks(development).dropna()
    placed = [f"{ranks[method]:.1f}" if method in ranks else "" for method in summary.index]
    rows = [
        [name_of(method), *tables.cells(row, measures), place]
        for (method, row), place in zip(summary.iterrows(), placed, strict=True)
    ]
    table = markdown("| row | average | last | forgetting | attention hit, task 0 | rank |", "lrrrrr", rows)
    # of how many seeds: the fewest, so that no row is said to have more than it has
    return (
        f"{table}\n\nTest clips of Sounding Objects, in percent: mean ± standard deviation over "
        f"{int(summary.seeds.min())} class orders. Average: accuracy on all classes seen so far, averaged over tasks; "
        "the others: after the last task. Attention hit: how often attention peaks on the sounding object; "
        "τ m: the prior's similarity m of sound and patch, with a learnt weight τ. Rank: among "
        f"{len(ranks)} rows, mean over {development.collection.nunique()} collections, two of them photographs "
        "and real sounds."
    )


# what the project set out to compare: first minus second
_COMPARISONS = [
    ("guidance over naive fusion, all data at once", "joint_guided", "joint_naive"),
    ("the same without τ m", "joint_lll", "joint_naive"),
    ("guidance over naive fusion, incrementally", "lll_prior", "naive_fusion"),
    ("audio queries over one learnt query, without τ m", "lll", "without_audio_queries"),
    ("LLL over ridge regression on frozen tokens", "lll_prior", "ridge"),
    # what of the line above is learnt: these tokens are pooled under the same similarity, by a frozen prior
    ("LLL over ridge regression on frozen, guided tokens", "lll_prior", "ridge_guided"),
    ("LLL over fine-tuning", "lll_prior", "finetune"),
    ("LLL over replay with the same memory", "lll_prior", "replay"),
    ("both levels of distillation over none", "lll_prior", "without_both_levels"),
    ("adding the feature level to the logit level", "lll_prior", "without_feature_level"),
    ("adding the logit level to the feature level", "lll_prior", "without_logit_level"),
    ("the trained prior over an untrained one", "lll_prior", "without_prior"),
    ("the prior's similarity in the attention scores", "lll_prior", "lll"),
    ("room for improvement: joint training over LLL", "joint_guided", "lll_prior"),
    ("the same, both solved: joint training over LLL, closed form", "joint_analytic", "lll_closed"),
    ("another prior: seed 1 over seed 0", "prior_1", "lll_prior"),
    ("another prior: seed 2 over seed 0", "prior_2", "lll_prior"),
]


def comparisons(folder: Path) -> str:
    """A table of differences with whatever sign they came out: last accuracy by seed and clip, forgetting by seed."""
    comparable, rows = Comparable.of(folder), []
    for what, first, second in _COMPARISONS:
        accuracy, forgetting = (
            claims.lead(comparable, claims.STANDARD, measure, first, second)
            for measure in ("last_accuracy", "forgetting_last")
        )
        # `claims.lead` counts less forgetting as being ahead
        rows.append([what, verdict(accuracy), verdict(forgetting, ("less by", "more by"))])
    table = markdown("| comparison | last accuracy | forgetting (last) |", "lll", rows)
    return (
        f"{table}\n\nDifferences in points with 95 % intervals: Student's t over seeds; for last accuracy, variation "
        "over test clips is included. *Not told apart* is no proof of equality: the interval says how large a "
        "difference may be."
    )


def remarks(folder: Path) -> str:
    """Attention as tasks go by, and the prior by itself."""
    priors = pd.read_csv(folder / "prior.csv").set_index("prior")
    # the untrained prior is what the others are compared with
    trained, comparable = priors.drop(index="random"), Comparable.of(folder)
    ours, none, replay = (
        points(comparable.lead(claims.STANDARD, "localisation_change_first_task", row))
        for row in ("lll_prior", "without_both_levels", "replay")
    )
    return (
        "From the first task to the last, the share of task 0's clips on which attention peaks on the sounding object "
        f"changes by {ours} points for LLL, {none} without distillation and {replay} for replay.\n\n"
        f"The priors alone ({', '.join(trained.index)}), on {trained.scenes.iloc[0]} held-out scenes of their own "
        f"world: prompted separation raises the median SI-SDR from {trained.si_sdr_mixture.mean():.1f} dB (the "
        "mixture) to "
        f"{', '.join(f'{value:.1f}' for value in trained.si_sdr_estimate)} dB (an ideal mask: "
        f"{trained.si_sdr_ideal_mask.mean():.1f} dB), and their similarity peaks on the sounding object in "
        f"{', '.join(f'{100 * value:.0f}' for value in trained.hit)} % of scenes (untrained: "
        f"{100 * priors.hit['random']:.0f} %, chance: {100 * priors.chance.iloc[0]:.0f} %)."
    )


def field(folder: Path) -> str:
    """Every row in the standard setting, by family, best first, with `lll_analytic` minus it."""
    table, reference = standard(folder), "lll_analytic"
    others = [row for row in table.index if row != reference]
    # all at once, so that the correction counts every comparison
    ahead = Comparable.of(folder).compare(claims.STANDARD, reference, others).set_index("method")
    measures, rows = ["average_accuracy", "last_accuracy", "forgetting_mean", "forgetting_last"], []
    for family in families():
        members = table.loc[table.index.isin(of_family(family))].sort_values("last_accuracy", ascending=False)
        # a line of which only the first cell is filled is a heading to the report's tables (report/static/report.js)
        rows += [[f"*{family}*{' |' * 6}"]] if len(members) else []
        for name, row in members.iterrows():
            # the reference is not ahead of itself
            lead = ""
            if name in ahead.index:
                line = ahead.loc[name]
                lead = points(Interval(line.difference, line.low, line.high, line.p, int(row.seeds)))
                lead += " †" if line.p_holm >= ALPHA else ""
            title = f"**{name_of(name)}**" if name in ("lll_prior", "lll_analytic") else name_of(name)
            rows.append([title, *tables.cells(row, measures), lead, f"{row.memory_bytes / 1000:,.0f}"])
    head = "| method | average | last | forgetting (mean) | forgetting (last) | LLL, solved, minus it | kB kept |"
    return (
        f"{markdown(head, 'lrrrrrr', rows)}\n\nTest clips, in percent: mean ± standard deviation over "
        f"{int(table.seeds.min())} seeds, each with its own class order. *LLL, solved, minus it*: paired difference of "
        "last accuracy in points, with a 95 % interval over seeds and clips; †: not told apart after Holm's correction "
        f"for all {len(ahead)} comparisons. *kB kept* between tasks: the exemplars' tokens, the sums of a solved "
        "classifier and the state of hooks. *All data at once*: after each task, a model is trained from scratch on "
        "the data of all classes seen so far."
    )


def methods() -> str:
    """What each row is: of `about` in params.yaml."""
    rows = [
        [f"`{name}`", row.paper, row.idea, row.deviations]
        for name, row in names.rows().items()
        # rows that are another one less a part, or that say nothing of themselves, are no methods of their own
        if row.idea and not row.part
    ]
    return markdown("| row | paper | what holds the new model to the old one | deviations |", "llll", rows)


def over_worlds(folder: Path) -> str:
    """The field where each seed has a world of its own: best last accuracy first, with what LLL is ahead of it by."""
    comparable = Comparable.of(folder)
    where = claims.run_in(comparable, claims.WORLDS)
    runs = comparable.seeds[comparable.seeds.setting.isin({*where.values()})]
    # means of other worlds than the row below has would not be comparable
    rows_of = runs.groupby("seed").method.nunique()
    shared, worlds = rows_of.index[rows_of == len(where)], runs.groupby("method").seed.nunique()
    summary = tables.summarise(runs[runs.seed.isin(shared)]).sort_values("last_accuracy", ascending=False)
    rows, ours = [], ("lll_prior", "lll_closed")
    for _, line in summary.iterrows():
        row = line.method
        leads = {
            one: comparable.lead(claims.WORLDS, "last_accuracy", one, row, where[row]) for one in ours if one != row
        }
        title = f"**{name_of(row)}**" if row in ours else name_of(row)
        title += " †" if worlds[row] < worlds.max() else ""
        cells = tables.cells(line, ["average_accuracy", "last_accuracy", "forgetting_last"])
        rows.append([title, *cells, *(points(leads[one]) if one in leads else "" for one in ours)])
    minus = " | ".join(f"{short_name_of(row)}, minus it" for row in ours)
    head = f"| method | average | last | forgetting (last) | {minus} |"
    return (
        f"{markdown(head, 'lrrrrr', rows)}\n\nTest clips, in percent: mean ± standard deviation over the "
        f"{len(shared)} worlds that all rows were run in. *Minus it*: paired difference of last accuracy in points, "
        f"with a 95 % interval of Student's t over all worlds of both rows, {worlds.min()} for rows with a † and else "
        f"{worlds.max()}; not corrected for the number of rows."
    )


def settings(folder: Path) -> str:
    """Last accuracy and forgetting of a few rows in harder settings, and in changed worlds."""
    summary = means(folder)
    # these have tables of their own
    summary = summary[~summary.setting.isin([claims.STANDARD, claims.WORLDS, claims.FIELD, claims.UNTOLD])]
    cells = (100 * summary.last_accuracy).map("{:.1f}".format)
    cells += (100 * summary.forgetting_last).map(" ({:.1f})".format)
    # in the order of the table, where `unstack` would sort by name
    columns = list(summary.setting.unique())
    table = cells.groupby([summary.method, summary.setting]).first().unstack(fill_value="")[columns]
    listed = [row for family in families() for row in of_family(family) if row in table.index]
    head = f"| last accuracy (forgetting) | {' | '.join(name.replace('_', ' ') for name in columns)} |"
    rows = [[name_of(row), *table.loc[row]] for row in listed]
    return f"{markdown(head, 'l' + 'r' * len(columns), rows)}\n\n{_harder(folder)}"


def priors(folder: Path) -> str:
    """Rows on tokens of the shipped prior, and of the one that was taught without regions."""
    comparable, settings, rows = Comparable.of(folder), (claims.STANDARD, claims.UNTOLD), []
    summary = means(folder).set_index(["setting", "method"])
    for row in comparable.methods(claims.UNTOLD):
        last = [percent(*summary.loc[setting, row][["last_accuracy", "last_accuracy_std"]]) for setting in settings]
        guidance = [
            # naive fusion is what the others are compared with
            "" if row == "naive_fusion" else points(comparable.lead(setting, "last_accuracy", row, "naive_fusion"))
            for setting in settings
        ]
        # the same row in two settings, which differ in tokens and share their test clips
        loss = points(comparable.lead(claims.UNTOLD, "last_accuracy", row, row, claims.STANDARD))
        rows.append([short_name_of(row), *last, loss, *guidance])
    head = (
        "| last accuracy | regions | no regions | difference | regions: minus naive fusion "
        "| no regions: minus naive fusion |"
    )
    untrained = percent(*summary.loc[claims.STANDARD, "without_prior"][["last_accuracy", "last_accuracy_std"]])
    return (
        f"{markdown(head, 'lrrrrr', rows)}\n\nTest clips of the shipped world, in percent, and differences in points "
        f"with 95 % intervals over seeds and clips. On untrained tokens, LLL, prior-guided, reaches {untrained}."
    )


def _harder(folder: Path) -> str:
    """What fewer exemplars change, and what is left to tell where sound alone tells the class."""
    comparable = Comparable.of(folder)
    leads = {
        # the same row with fewer exemplars, on the same test clips
        row: comparable.lead("exemplars_1", "last_accuracy", row, row, "exemplars_20")
        for row in ("lll_analytic", "lll_prior", "replay")
    }
    changes = ", ".join(f"{points(lead)} for {short_name_of(row)}" for row, lead in leads.items())
    control = {
        row: comparable.lead("worlds_no_twins", "last_accuracy", row, "ridge") for row in ("lll_prior", "lll_closed")
    }
    twins = ", ".join(f"{short_name_of(row)} {verdict(lead)}" for row, lead in control.items())
    return (
        f"Going from 20 exemplars per class to one changes last accuracy by {changes}. Where sound alone identifies "
        f"the class, compared with ridge regression on frozen tokens: {twins}."
    )


def worth(folder: Path) -> str:
    """What each part of LLL is worth, as one thing is turned."""
    # which setting turns what is said by the protocol, which a folder of tables does not have
    table = tables.worth(Comparable.of(folder), load(project.root() / "params.yaml").protocol())
    cells = table.assign(cell=[points(Interval(*line)) for line in table[list(Interval._fields)].values])
    wide = cells.pivot(index=["knob", "value"], columns="part", values="cell").fillna("")
    # a pivot sorts its lines; they stay in the order of the protocol
    order = table[["knob", "value"]].drop_duplicates().itertuples(index=False, name=None)
    rows = [[*key, *(wide.loc[key, part] for part in tables.PARTS)] for key in order]
    return markdown(f"| | | {' | '.join(tables.PARTS)} |", "llrrr", rows)


def field_reading(folder: Path) -> str:
    """Which row is first, which are not told apart from it, what LLL is ahead of, and the goals of the project."""
    comparable = Comparable.of(folder)

    def last(first: str, second: str | None = None) -> Interval:
        return comparable.lead(claims.STANDARD, "last_accuracy", first, second)

    def listed(rows) -> str:
        return "; ".join(short_name_of(row) for row in rows) or "none"

    seeds = comparable.seeds[comparable.seeds.setting == claims.STANDARD]
    # over all rows of the setting, ours and those of others
    first = seeds.groupby("method").last_accuracy.mean().idxmax()
    others = [row for row in comparable.methods(claims.STANDARD) if row != first]
    rest = comparable.compare(claims.STANDARD, first, others)
    lines = [
        f"- *Highest mean*: {short_name_of(first)}, {points(last(first))} %. After Holm's correction for all "
        f"{len(rest)} comparisons, not told apart from it: {listed(rest.method[rest.p_holm >= ALPHA])}.",
    ]
    goals = []
    for row in ("lll_prior", "lll_analytic"):
        against = [
            f"against {short_name_of(other)} {verdict(last(row, other))}"
            for other in ("joint_guided", "naive_fusion", "replay")
        ]
        for kind, rivals in (("without", UNGUIDED), ("given", GUIDED)):
            kind += " the guided model or tokens"
            rival, count, ahead = claims.nearest_rival(comparable, row, rivals, claims.STANDARD)
            against.append(f"against the nearest of {count} rows {kind} ({short_name_of(rival)}) {verdict(ahead)}")
            goals.append(f"{short_name_of(row)} over every row {kind}: {outcome(ahead, least=0.1)}")
        lines.append(f"- *{short_name_of(row)}*: {'; '.join(against)}.")
    # Student's t over seeds alone, since forgetting is not known clip by clip
    forgetting = {row: over_seeds(values) for row, values in seeds.groupby("method").forgetting_last}
    few = [row for row, interval in forgetting.items() if outcome(interval, least=0.05) == VERDICTS[2]]
    lines.append(
        f"- *Goals.* A lead of ten points: {'; '.join(goals)}. At most five points of forgetting: {listed(few)}."
    )
    return "\n".join(lines)


def machines(folder: Path) -> str:
    """The processors that the project was computed on, and how much of it came out the same on them."""
    records = probe.known(folder / "processors")

    def alike(part: str) -> tuple[int, ...]:
        """How many there are of a part, and how many give the same bytes in portable and in each one's arithmetic."""
        # null where nobody has run it
        ways = [record[part] for record in records if record[part]]
        tables = [pd.DataFrame([way[kind] for way in ways]) for kind in ("portable", "default")]
        # alike are those of which all processors give one digest
        return len(tables[0].columns), *(int((table.nunique() == 1).sum()) for table in tables)

    wide = {True: "yes", False: "no", None: "not recorded"}
    rows = [[one["name"], wide[one["instruction_sets"]["avx512_f"]], one["versions"]["torch"]] for one in records]
    made_on = json.loads((folder / "made_on.json").read_text()).values()
    # a table may have lines of several processors
    makers = sorted({one for made in made_on for one in (made["processor"], *made.get("lines_of", ())) if one})
    (operations, portable, own), (steps, portable_steps, own_steps) = alike("operations"), alike("whole")
    return (
        f"{markdown('| processor | AVX-512 | torch |', 'lll', rows)}\n\n"
        f"Of {operations} operations (`python -m avcil.workshop.probe`), {portable} give the same bytes on all of "
        f"these in portable arithmetic and {own} without it; of {steps} steps from the clips to the checkpoints of "
        f"`lll_prior` and `ridge`, {portable_steps} and {own_steps}. The tables in git were made on "
        f"{', '.join(makers)}."
    )


def kernels(benchmarks: Path) -> str:
    """What `benchmarks/kernels.py`, `training_step.py` and `training_epoch.py` have written."""
    # without the title and the blank line below it
    epochs = (benchmarks / "training_epoch.md").read_text().split("\n", 2)[2].strip()
    # its headings would divide the page that it is put into
    epochs = re.sub(r"^## (.*)$", r"**\1**", epochs, flags=re.M)
    return f"{(benchmarks / 'goals.md').read_text()}\nAV-CIL, from its features to its last task. {epochs}"


def untrained(folder: Path) -> str:
    """What worlds say where tokens mean nothing."""
    comparable = Comparable.of(folder)
    # the setting lists our row first
    ours, *others = comparable.methods("worlds_untrained")
    leads = {row: comparable.lead("worlds_untrained", "last_accuracy", ours, row) for row in others}
    against = "; ".join(f"{short_name_of(row)}: {verdict(lead)}" for row, lead in leads.items())
    # as many worlds for all of them
    worlds = leads[others[0]].seeds
    return f"On untrained tokens, in {worlds} worlds instead of one, {short_name_of(ours)} against {against}."


def open_set(file: Path) -> str:
    """How well each row tells clips of classes to come from those of classes learnt, best first."""
    measured, measures = pd.read_csv(file), ["auroc", "unknown_refused", "known_refused"]
    start, end = measured.task.min(), measured.task.max()
    # the mean over tasks first, so that the spread is that of seeds
    by_seed = measured.groupby(["row", "score", "seed"])[measures].mean()
    cells = by_seed.groupby(["row", "score"]).agg(["mean", "std"])
    moments = (100 * measured.groupby(["row", "task"]).auroc.mean().unstack()[[start, end]]).round(1).astype(str)
    rows = []
    for (name, score), row in cells.sort_values(("auroc", "mean"), ascending=False, kind="stable").iterrows():
        auroc, *refused = (percent(*row[measure]) for measure in measures)
        rows.append([name_of(name), score, auroc, *moments.loc[name], *refused])
    head = f"| row | score | AUROC | after task {start} | after task {end} | unknown refused | known refused |"
    # the same for every row and seed, whose classes have equally many clips
    known, unknown = (measured.groupby("task")[kind].first() for kind in ("known", "unknown"))
    return (
        f"{markdown(head, 'llrrrrr', rows)}\n\nTest clips, in percent: mean over all tasks except the last ± standard "
        f"deviation over {measured.seed.nunique()} seeds. Known clips are of classes learnt so far ({known.iloc[0]} to "
        f"{known.iloc[-1]} clips), unknown ones of later classes ({unknown.iloc[0]} to {unknown.iloc[-1]}). AUROC: "
        "50 is chance. Refused: scored above a threshold that accepts 95 % of the validation clips of known classes, "
        "so 5 % of known clips are expected to be refused."
    )


def search(file: Path) -> str:
    """Of each row, how it does as it ships and in the best of its trials, on validation clips of development worlds."""
    table, rows = pd.read_csv(file), []
    for line in compared(table).itertuples():
        best = ["", ""]
        if line.trials:
            mean, *each = (f"{100 * lead:+.1f}" for lead in (np.mean(line.ahead), *line.ahead))
            best = [line.best, f"{mean} ({', '.join(each)})"]
        rows.append([f"`{line.row}`", str(line.trials), f"{100 * line.shipped:.1f}", *best])
    head = "| row | trials | as it ships | best trial | ahead by |"
    return (
        f"{markdown(head, 'lrrlr', rows)}\n\nLast accuracy on validation clips, in percent, mean over development "
        f"worlds {', '.join(map(str, table.world.unique()))}; ahead by: points, mean and (in brackets) world by world. "
        "The best of many trials is ahead partly by luck."
    )


def parity(benchmarks: Path) -> str:
    """The conditions and the table of means; by task, and costs, are read there."""
    return (benchmarks / "parity.md").read_text().split("\n", 2)[2].split("Accuracy on all classes seen")[0].strip()


def files(root: Path) -> list[Path]:
    """README.md and the pages beside it."""
    return [root / "README.md", *sorted((root / "docs").glob("*.md"))]


def updated(texts: dict[str, str], folder: Path) -> dict[str, str]:
    """The texts with fresh results. Raises ValueError if a marker is missing, or stands in two texts."""
    # benchmarks/ stands beside metrics/, in the project's root
    texts, benchmarks = dict(texts), folder.parent / "benchmarks/results"
    root = project.root()
    beyond = load_beyond(load(root / "params.yaml"), root / "beyond.yaml")
    sections = {
        "results": f"{comparisons(folder)}\n\n{remarks(folder)}",
        "headline": headline(folder),
        "holds": claims.summary(folder),
        "claims": claims.table(folder),
        "attention": claims.attention(folder),
        "priors": priors(folder),
        "field": field(folder),
        "methods": methods(),
        "field_reading": field_reading(folder),
        "over_worlds": over_worlds(folder),
        "settings": settings(folder),
        "worth": worth(folder),
        "processors": machines(folder),
        "open_set": open_set(benchmarks / "open_set.csv"),
        "search": search(folder / "search.csv"),
        "kernels": kernels(benchmarks),
        # written by what measured them: benchmarks/scale.py, transfer.py and search.py
        "scale": (benchmarks / "scale.md").read_text().strip(),
        "development": f"{(benchmarks / 'development.md').read_text()}\n{untrained(folder)}",
        "distillation": (benchmarks / "distillation.md").read_text().strip(),
        "collection_search": (benchmarks / "search.md").read_text().strip(),
        "parity": parity(benchmarks),
        "many_tasks": answers.many_tasks(folder),
        "looked_at": answers.looked_at(folder),
        "missing": answers.missing(folder, beyond.missing),
        "light": answers.light(folder, beyond.light),
        "robust": answers.robust(folder),
        "adapting": answers.adapting(folder),
        "streams": answers.streams(folder),
    }
    for name, content in sections.items():
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        # a marker's two ends have to be in one text
        places = [place for place, text in texts.items() if begin in text and end in text]
        if len(places) != 1:
            stand = f"stand in {' and '.join(places)}" if places else "are gone"
            raise ValueError(f"README.md, docs/: the markers `{begin}` and `{end}` {stand}; put them round one table")
        # a marker that stands twice in its text fails here
        before, rest = texts[places[0]].split(begin)
        texts[places[0]] = f"{before}{begin}\n{content}\n{end}{rest.split(end)[1]}"
    return texts


if __name__ == "__main__":
    # it takes nothing, but asked for help it must not write
    argparse.ArgumentParser(prog="python -m avcil.workshop.readme", description=__doc__).parse_args()
    fresh = updated({str(path): path.read_text() for path in files(Path())}, Path("metrics"))
    for name, text in fresh.items():
        Path(name).write_text(text)
        print(f"{name}: results written")
