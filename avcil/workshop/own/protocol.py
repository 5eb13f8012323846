"""An imported benchmark by its protocol: `python -m avcil protocol ave`.

The benchmark is `imports/NAME` (avcil/workshop/official.py, avcil/workshop/builders), what it prescribes
`protocols/NAME.yaml`. All of it goes to `imports/NAME/results`: runs, which are not made again, and tables.
"""

import argparse
from typing import Literal

from avcil.comparison import protocol, sweep, tables
from avcil.params import ParameterError, load
from avcil.params.section import nearest
from avcil.tokens.manifest import read_manifest
from avcil.workshop.builders import vggsound

SHOWN = ("average_accuracy", "last_accuracy", "forgetting_last")


def run(benchmark: str, rows: list[str] | None = None) -> str:
    """Learn what the protocol prescribes, or those of its rows; returns the table. Raises ValueError in one line."""
    params = load()
    if benchmark not in params.protocols:
        known = nearest(benchmark, params.protocols)
        raise ParameterError(f"no protocols/{benchmark}.yaml{known}; CONTRIBUTING.md has one to begin with")
    place, prescribed = protocol.place_of(benchmark), params.protocols[benchmark]
    # without a folder in imports/ it is the embedded benchmark, which has stages of its own
    if place.chained:
        raise ParameterError(f"imports/{benchmark}: not there; import it first (docs/own_data.md)")
    # a misspelt row is refused before any is learnt
    for row in rows or []:
        params.method(row)
    chosen: list[str] | Literal["all"] = rows or "all"
    results = place.folder / "results"
    protocol.drop_others(results, prescribed, params.methods)
    sweep.run(protocol.jobs(place, params, prescribed, chosen, results), engine=params.compute.engine)
    found = tables.read(results, prescribed, chosen, params)
    more = {}
    # only a benchmark that was built with --vggsounder has several labels a clip
    if (place.folder / vggsound.MULTILABEL).exists():
        more["multilabel"] = tables.multilabel_accuracy(found, vggsound.read_multilabel(place.folder))
    # lines of rows that were not asked for stay in the tables, unless the protocol was changed since they were learnt
    gone = tables.outdated(results, prescribed, params)
    tables.write(results / "metrics", found, prescribed, gone, **more)
    summary = tables.summarise(tables.per_seed(tables.frames(found.results)))
    lines = [
        [row.setting, row.method, *tables.cells(row, SHOWN)]
        for _, row in summary.sort_values(["setting", "last_accuracy"], ascending=False).iterrows()
    ]
    table = tables.markdown("| setting | row | average | last | forgetting |", "llrrr", lines)
    test = read_manifest(place.folder / "manifest.csv").query("split == 'test'").label.value_counts()
    few = f"{test.sum()} test clips, {test.min()} of them `{test.idxmin()}`, which has fewest"
    return f"{table}\n\n{few}; in percent: mean ± standard deviation over seeds. Tables: {results}/metrics"


def add(subparsers) -> None:
    """Register `protocol`."""
    shape = argparse.RawDescriptionHelpFormatter
    parser = subparsers.add_parser("protocol", help="an imported benchmark by its protocol", formatter_class=shape)
    parser.description = __doc__
    parser.add_argument("benchmark", help="a folder of imports/ and a file of protocols/")
    parser.add_argument("--rows", nargs="+", help="of params.yaml; all of the protocol if left out")
    parser.set_defaults(call=lambda given: print(run(given.benchmark, given.rows)))
