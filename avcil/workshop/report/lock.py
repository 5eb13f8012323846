"""Which stage made a file, and from what: read from dvc.lock, which DVC writes as stages finish."""

from itertools import permutations
from pathlib import Path, PurePath
from typing import NamedTuple

import networkx
from docutils.nodes import make_id

from avcil.params import read

WIDE, HIGH, BOX = 130, 64, 26  # pixels of a stage's place in the picture, and the height of its box


class Stage(NamedTuple):
    """name: as DVC calls it; notebook: the source that it executed, or None;
    deps and outs: MD5 by path; params: by name."""

    name: str
    notebook: str | None
    deps: dict[str, str]
    outs: dict[str, str]
    params: dict[str, object]

    @property
    def anchor(self) -> str:
        return make_id(f"stage {self.name}")


def stages(root: Path) -> list[Stage]:
    """All stages that have run but the report, whose entry is still that of its last run. Paths are below ``root``."""
    known = []
    # a lock of which no stage has run has no entries
    for name, entry in (read(root / "dvc.lock").get("stages") or {}).items():
        deps, outs = ({i["path"]: i.get("md5", "") for i in entry.get(kind) or []} for kind in ("deps", "outs"))
        params = {key: value for group in (entry.get("params") or {}).values() for key, value in group.items()}
        notebook = next((path for path in deps if path.startswith("notebooks/")), None)
        known.append(Stage(name, notebook, deps, outs, params))
    # in the order of their notebooks: that of the file depends on what ran when
    # and of a chain that of its tasks, the tenth behind the ninth
    order = sorted(known, key=lambda stage: (stage.notebook or "", len(stage.name), stage.name))
    return [stage for stage in order if stage.name != "report"]


def picture(known: list[Stage]) -> str:
    """What stages hand on to one another, as SVG; of the tasks of a chain one box. Each box leads to its record."""
    # reversed, so that a chain's box leads to the record of its first task
    first = {stage.name.split("@")[0]: stage for stage in reversed(known)}
    graph = networkx.DiGraph()
    graph.add_nodes_from(stage.name.split("@")[0] for stage in known)
    for one, other in permutations(known, 2):
        outs, deps = map(PurePath, one.outs), [*map(PurePath, other.deps)]
        ends = [stage.name.split("@")[0] for stage in (one, other)]
        # tasks of a chain hand on within their box; else one path may be a folder in which the other is
        if ends[0] != ends[1] and any(o.is_relative_to(d) or d.is_relative_to(o) for o in outs for d in deps):
            graph.add_edge(*ends)
    # without lines to what a stage only gets through others
    graph = networkx.transitive_reduction(graph)
    # sorted, so that the picture does not hang on the order in dvc.lock
    layers = [sorted(layer) for layer in networkx.topological_generations(graph)]
    width = WIDE * max(map(len, layers))
    place = {
        name: ((column + 0.5) * width / len(layer), (row + 0.5) * HIGH)
        for row, layer in enumerate(layers)
        for column, name in enumerate(layer)
    }
    lines = [
        f'<path d="M{place[a][0]:.0f},{place[a][1]:.0f} L{place[b][0]:.0f},{place[b][1] - BOX / 2:.0f}"/>'
        for a, b in sorted(graph.edges)
    ]
    boxes = [
        f'<a href="#{first[name].anchor}"><rect x="{x - WIDE / 2 + 6:.0f}" y="{y - BOX / 2:.0f}" width="{WIDE - 12}" '
        f'height="{BOX}" rx="5"/><text x="{x:.0f}" y="{y + 5:.0f}">{name}</text></a>'
        for name, (x, y) in place.items()
    ]
    size = f'width="{width}" viewBox="0 0 {width} {HIGH * len(layers)}"'
    return f'<svg class="pipeline" {size} role="group" aria-label="The pipeline">{"".join([*lines, *boxes])}</svg>'
