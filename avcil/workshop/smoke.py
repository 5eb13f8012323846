"""A small sandbox in which any notebook runs alone: real clips, the shipped prior, few classes, minutes cut to seconds.

The sandbox of a notebook is the project as it stands before that notebook: `build/smoke/<notebook>` holds what the
stages before it made. They are run once, and kept until code, notebooks or parameters change. That of
`11_experiments` is a repository of its own, with the results of a pipeline of two tasks.

`python -m avcil.workshop.smoke` builds it all and says how long each notebook took; with a folder's name, that one
alone.
"""

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import nbformat
import pandas as pd
import yaml
from filelock import FileLock
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from avcil.base.files import digest, write_json
from avcil.params.project import root

CLASSES, TRAIN_CLIPS, TEST_CLIPS = 8, 20, 10
VARIANTS = ("visual_only", "audio_only", "naive_fusion", "without_both_levels", "joint_guided", "replay")
REPOSITORY = ("without_both_levels",)  # beside `lll`, in the sandbox of 11_experiments
FIELD = ("joint_guided", "lll_analytic", "replay", "acil_guided", "acil", "avcil")
SWEEPS = ("05_variants", "09_field")
# the stages in order; the tour comes after everything, whatever its number
STEPS: list[tuple[str, dict]] = [
    ("01_splits", {}),
    ("03_features", {}),
    ("04_train", {"task": 0}),
    ("04_train", {"task": 1}),
    ("04_train", {"task": 2}),
    ("04_train", {"task": 3}),
    ("05_variants", {}),
    ("06_ablations", {}),
    ("09_field", {}),
]


def parameters(raw: dict) -> dict:
    """params.yaml cut down: 8 classes (four pairs of twins) in 4 tasks, one seed, a few variants."""
    small = json.loads(json.dumps(raw))
    small["seeds"] = raw["seeds"][:1]
    small["tasks"] = [{**task, "classes": CLASSES // 4, "epochs": 30} for task in raw["tasks"][:4]]
    small["prior"] |= {"held_out": 16}
    small["variants"] = {name: row for name, row in raw["variants"].items() if name in VARIANTS}
    small["search"]["trials"] = {"replay": {"of": "replay"}, "ridge": {"of": "ridge_guided"}}
    embedded = small["protocols"][small["benchmark"]]
    embedded |= {"classes_per_task": CLASSES // 4, "epochs": 4, "seeds": small["seeds"], "rows": list(FIELD)}
    few = {"rows": ["lll_analytic", "replay"]}
    embedded["settings"] = {
        "standard": {},
        "exemplars_1": few | {"exemplars": 1},
        "exemplars_10": few | {"exemplars": 10},
    }
    small["protocols"] = {small["benchmark"]: embedded}
    return small


def _few_clips(corpus: Path, timbres: int) -> pd.DataFrame:
    """The rows of the corpus's manifest that a sandbox has."""
    manifest = pd.read_csv(corpus / "manifest.csv")
    labels = sorted(manifest.label.unique())
    kept = [*labels[: CLASSES // 2], *labels[timbres : timbres + CLASSES // 2]]
    manifest = manifest[manifest.label.isin(kept)]
    most = manifest.split.map({"train": TRAIN_CLIPS, "val": TEST_CLIPS, "test": TEST_CLIPS})
    return manifest[manifest.groupby(["split", "label"]).cumcount() < most]


def _write_inputs(top: Path, sandbox: Path) -> None:
    raw = yaml.safe_load((top / "params.yaml").read_text())
    sandbox.mkdir(parents=True)
    (sandbox / "params.yaml").write_text(yaml.safe_dump(parameters(raw), sort_keys=False))
    corpus, data = top / "corpus" / raw["benchmark"], sandbox / "data" / raw["benchmark"]
    data.mkdir(parents=True)
    _few_clips(corpus, raw["world"]["timbres"]).to_csv(data / "manifest.csv", index=False)
    for shared in ("clips", "regions.npz"):
        (data / shared).symlink_to(corpus / shared)
    (sandbox / "prior").symlink_to(top / "prior")
    _make_output_folders(sandbox)


def _make_output_folders(sandbox: Path) -> None:
    for folder in ("artifacts/notebooks", "metrics", "figures"):
        (sandbox / folder).mkdir(parents=True, exist_ok=True)


def _stamp(top: Path) -> str:
    """Changes whenever something that the sandbox is made of does; stored outputs of notebooks do not count."""
    parts = [path.read_bytes() for path in sorted((top / "avcil").rglob("*.py"))]
    parts += [(top / name).read_bytes() for name in ("params.yaml", "dvc.yaml", "data.dvc")]  # data.dvc: of all clips
    parts += [path.read_bytes() for path in sorted((top / "prior").iterdir())]
    for path in sorted((top / "notebooks").glob("*.ipynb")):
        cells = nbformat.read(path, as_version=4).cells
        parts.append(json.dumps([c.source for c in cells if c.cell_type == "code"]).encode())
    return digest(b"".join(parts))


def _execute(notebook: Path, arguments: dict) -> None:
    """Run the code cells of a notebook in this process.

    Papermill starts two processes a notebook, and what they import takes longer than what a sandbox learns.
    """
    # a module of their own: as `__main__` they would hide this one from the processes that a sweep starts
    cells = ModuleType("cells")
    shell = InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}), user_module=cells)
    shell.reset(new_session=False)
    for cell in nbformat.read(notebook, as_version=4).cells:
        if cell.cell_type == "code":
            shell.run_cell(cell.source).raise_error()
            if "parameters" in cell.metadata.get("tags", []):
                shell.push(arguments)
    from matplotlib import pyplot  # reads MPLBACKEND when it is imported

    pyplot.close("all")


def _run(top: Path, sandbox: Path, notebook: str, arguments: dict) -> None:
    """As it stands in the sandbox, with nothing shown. Raises RuntimeError with what failed."""
    os.environ |= {"AVCIL_SANDBOX": "ready", "MPLBACKEND": "agg"}
    arguments = {"workdir": str(sandbox.relative_to(top)), **arguments}
    try:
        with contextlib.chdir(top), contextlib.redirect_stdout(io.StringIO()):
            _execute(top / "notebooks" / f"{notebook}.ipynb", arguments)
    except Exception as error:
        raise RuntimeError(f"{notebook} failed in {sandbox}: {error}") from error


def _call(command: list[str], folder: Path, what: str) -> None:
    binaries = Path(sys.executable).parent  # of papermill and dvc, wherever this was started from
    environment = os.environ | {"TQDM_DISABLE": "1", "PATH": f"{binaries}:{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{what} failed: {' '.join(command)}\n{done.stdout[-1000:]}{done.stderr[-3000:]}")


def _files(sandbox: Path) -> list[str]:
    found = (path for path in sandbox.rglob("*") if path.is_file() or path.is_symlink())
    return sorted(str(path.relative_to(sandbox)) for path in found if path.name != "progress.json")


def _steps_before(notebook: str) -> int:
    """How many of STEPS stand before the last run of a notebook, which is the one that it shows by default.

    A sweep stands after its own: it finds its runs there, as it does in the pipeline, and learns what is missing.
    """
    own = [number for number, (name, _) in enumerate(STEPS) if name == notebook]
    if own:
        return own[-1] + (notebook in SWEEPS)
    later = [number for number, (name, _) in enumerate(STEPS) if name > notebook]
    return later[0] if later and notebook != "00_tour" else len(STEPS)


def build_base(top: Path, steps: int = len(STEPS), *, report=lambda *_: None) -> tuple[Path, list[list[str]]]:
    """Run the first of STEPS in `build/smoke/.base-<stamp>`, those that were not run yet; a build that was stopped goes
    on. Returns the folder and, for each step and for what comes after the last one, the files that stood there before.
    """
    base = top / "build" / "smoke" / f".base-{_stamp(top)}"
    progress = base / "progress.json"
    if not progress.exists():
        for stale in base.parent.glob(".base-*"):
            shutil.rmtree(stale)
        _write_inputs(top, base)
        write_json(progress, [_files(base)])
    before: list[list[str]] = json.loads(progress.read_text())
    for number in range(len(before) - 1, steps):
        notebook, arguments = STEPS[number]
        started = time.perf_counter()
        _run(top, base, notebook, arguments)
        report(f"{time.perf_counter() - started:5.1f} s  {notebook} {arguments or ''}")
        before.append(_files(base))
        write_json(progress, before)
    return base, before


def _write_repository(top: Path, sandbox: Path) -> None:
    """A project of its own, with copies of code, notebooks and a few clips: two tasks, and one row beside `lll`."""
    raw = yaml.safe_load((top / "params.yaml").read_text())
    small = parameters(raw)
    small["tasks"] = small["tasks"][:2]
    small["variants"] = {name: small["variants"][name] for name in REPOSITORY}
    small["protocols"][raw["benchmark"]] |= {"rows": list(REPOSITORY), "settings": {"standard": {}}}
    corpus, copy = top / "corpus" / raw["benchmark"], sandbox / "corpus" / raw["benchmark"]
    (copy / "clips").mkdir(parents=True)
    manifest = _few_clips(corpus, raw["world"]["timbres"])
    manifest.to_csv(copy / "manifest.csv", index=False)
    for name in [*manifest.path, "regions.npz"]:
        shutil.copy(corpus / name, copy / name)
    for name in ("avcil", "notebooks", "prior"):
        shutil.copytree(top / name, sandbox / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
    (sandbox / ".dvc").mkdir()
    dvc = [".dvc/.gitignore", ".dvc/config", ".dvc/plots.html", "data.dvc", "dvc.yaml"]
    for name in (".gitignore", ".dvcignore", *dvc):
        shutil.copy(top / name, sandbox / name)
    text = yaml.safe_dump(small, sort_keys=False)
    (sandbox / "params.yaml").write_text(text.replace("\nlll:\n", "\nlll: &lll\n"))  # for rows that are added by hand
    pipeline = yaml.safe_load((top / "dvc.yaml").read_text())
    stages = list(pipeline["stages"])
    for stage in ("prior", *stages[stages.index("ablations") + 1 :]):
        del pipeline["stages"][stage]
    (sandbox / "dvc.yaml").write_text(yaml.safe_dump(pipeline, sort_keys=False))
    _make_output_folders(sandbox)


def build_repository(top: Path) -> Path:
    """`build/smoke/.repository-<stamp>`: a small project whose pipeline has run up to its tables. Returns it."""
    place = top / "build" / "smoke" / f".repository-{_stamp(top)}"
    if place.exists():
        return place
    for stale in place.parent.glob(".repository-*"):
        shutil.rmtree(stale)
    unfinished = place.with_suffix(".part")
    _write_repository(top, unfinished)
    for command in (
        ["git", "init", "--quiet", "--initial-branch=main"],
        ["git", "config", "user.name", "avcil"],
        ["git", "config", "user.email", "avcil@example.org"],
        ["git", "config", "commit.gpgsign", "false"],
        ["git", "add", "--all"],
        ["git", "commit", "--quiet", "--message", "A small project"],
        [sys.executable, "-m", "dvc", "repro", "--quiet"],
        ["git", "add", "--all"],
        ["git", "commit", "--quiet", "--message", "Its results"],
    ):
        _call(command, unfinished, "the small project")
    return unfinished.rename(place)


def prepare(top: Path, sandbox: Path) -> None:
    """Make ``sandbox`` the project as it stands before the notebook it is named after.

    One process at a time builds the base, and one the repository: who comes second finds built what both need.
    """
    if os.environ.get("AVCIL_SANDBOX") == "ready":
        return
    (top / "build/smoke").mkdir(parents=True, exist_ok=True)
    with FileLock(top / "build/smoke" / (".repository.lock" if sandbox.name == "11_experiments" else ".base.lock")):
        _prepare(top, sandbox)


def _prepare(top: Path, sandbox: Path) -> None:
    shutil.rmtree(sandbox, ignore_errors=True)
    if sandbox.name == "11_experiments":
        shutil.copytree(build_repository(top), sandbox, symlinks=True)
        return
    steps = _steps_before(sandbox.name)
    base, before = build_base(top, steps)
    for name in before[steps]:
        (sandbox / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(base / name, sandbox / name, follow_symlinks=False)
    _make_output_folders(sandbox)


if __name__ == "__main__":
    project = root()
    if sys.argv[1:]:
        prepare(project, project / sys.argv[1])
        sys.exit()
    shutil.rmtree(project / "build" / "smoke", ignore_errors=True)
    build_base(project, report=print)
    for last in ("02_prior", "07_figures", "08_search", "10_field_tables", "11_experiments", "00_tour", "explore"):
        place = project / "build" / "smoke" / last
        _prepare(project, place)
        _run(project, place, last, {})
        print(f"         {last}")
