"""Which stage made a file, and from what: read from dvc.lock, which DVC writes as stages finish."""

import json
from pathlib import Path
from typing import NamedTuple

import yaml

from avcil.base.files import digest


class Stage(NamedTuple):
    """name: as DVC calls it, with its file where that is not dvc.yaml; notebook: the source it executed, or None;
    deps and outs: MD5 by path; params: by name; digest: of the parameters, 16 hexadecimal digits."""

    name: str
    notebook: str | None
    deps: dict[str, str]
    outs: dict[str, str]
    params: dict[str, object]
    digest: str

    @property
    def anchor(self) -> str:
        return "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in self.name)


def stages(root: Path, without: str = "report") -> dict[str, Stage]:
    """All stages that have run, by name, in the order of their notebooks, the field's last. Paths are below ``root``.

    ``without``: the stage that asks, whose own entry is still that of its last run.
    """
    found = {}
    for file in ("dvc.lock", "benchmarks/dvc.lock"):
        if not (root / file).is_file():
            continue
        folder = Path(file).parent
        for name, entry in (yaml.safe_load((root / file).read_text()).get("stages") or {}).items():
            if name == without:
                continue
            deps, outs = (
                {item["path"]: item.get("md5", "") for item in entry.get(kind) or []} for kind in ("deps", "outs")
            )
            params = {key: value for group in (entry.get("params") or {}).values() for key, value in group.items()}
            title = name if folder == Path(".") else f"{folder}: {name}"
            notebook = next((path for path in deps if path.endswith(".ipynb")), None)
            mark = digest(json.dumps(params, sort_keys=True).encode())
            found[title] = Stage(title, notebook, deps, outs, params, mark)
    # not in the order of the file, which depends on what ran when
    return dict(sorted(found.items(), key=lambda item: (":" in item[0], item[1].notebook or "", item[0])))


def makers(found: dict[str, Stage]) -> dict[str, Stage]:
    """The stage of every output, by path."""
    return {path: stage for stage in found.values() for path in stage.outs}
