"""A small project in which any notebook runs: real clips, the shipped prior, few classes, minutes cut to seconds.

`build/smoke/.project-<stamp>` is a repository of its own with copies of code, notebooks and a few clips; what learns in
it has been run by the real `dvc repro`, once for each state of code, notebooks and parameters. A build that was stopped
goes on, since DVC skips the stages that were finished. `build/smoke/<notebook>` is what one notebook works in, with the
project's results in it, and `build/smoke/11_experiments` a copy of the whole repository.

`python -m avcil.workshop.smoke` builds the project anew; with a sandbox (build/smoke/04_train), that one alone, and no
more of the project than it needs.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
import yaml
from filelock import FileLock

from avcil.base.files import digest
from avcil.params import whole
from avcil.params.project import root

CLASSES, TRAIN_CLIPS, TEST_CLIPS = 8, 12, 6
TASKS, CLASSES_PER_TASK, EPOCHS = 2, 3, 20  # two classes are left for a third task
ROWS = (
    "lll_prior", "visual_only", "audio_only", "naive_fusion", "without_both_levels", "joint_guided", "lll_analytic",
    "replay", "acil_guided", "acil", "avcil",
)  # fmt: skip
# stages on which none depends that learns: their notebooks are run in sandboxes
LEFT_OUT = ("prior", "figures", "field", "tour", "report")
# notebooks that need no result of a stage
FROM_INPUTS = ("01_splits", "02_prior", "12_your_own")


def parameters(raw: dict) -> dict:
    """All parameters cut down: one seed, two tasks, a few rows; 8 classes are four pairs of twins."""
    small = json.loads(json.dumps(raw))
    small["seeds"] = raw["seeds"][:1]
    small["tasks"] = [{**task, "classes": CLASSES_PER_TASK, "epochs": EPOCHS} for task in raw["tasks"][:TASKS]]
    small["prior"] |= {"held_out": 16}
    small["rows"] = "all"
    small["search"] = {"worlds": [0], "trials": {"replay": [{"sampler": ["balanced"]}], "lll_analytic": []}}
    # DVC writes every row into dvc.lock three times over, and reads all of that again at each stage
    small["methods"] = {name: row for name, row in raw["methods"].items() if name in ROWS}
    embedded = small["protocols"][small["benchmark"]]
    embedded |= {"rows": list(ROWS), "headline": list(ROWS)}
    few = {"rows": ["lll_analytic", "replay"]}
    embedded["settings"] = {
        "standard": {},
        "exemplars_1": few | {"exemplars": 1},
        "exemplars_10": few | {"exemplars": 10},
    }
    embedded["knobs"] = {"exemplars a class": {"standard": "5"}}
    small["protocols"] = {small["benchmark"]: embedded}
    return small


def _few_clips(corpus: Path, timbres: int) -> pd.DataFrame:
    """The rows of the corpus's manifest that the project has."""
    manifest = pd.read_csv(corpus / "manifest.csv")
    labels = sorted(manifest.label.unique())
    chosen = [*labels[: CLASSES // 2], *labels[timbres : timbres + CLASSES // 2]]
    manifest = manifest[manifest.label.isin(chosen)]
    most = manifest.split.map({"train": TRAIN_CLIPS, "val": TEST_CLIPS, "test": TEST_CLIPS})
    return manifest[manifest.groupby(["split", "label"]).cumcount() < most]


def _stamp(top: Path) -> str:
    """Changes whenever something that the project is made of does; stored outputs of notebooks do not count."""
    parts = [path.read_bytes() for path in sorted((top / "avcil").rglob("*.py"))]
    parts.append(json.dumps(whole(top / "params.yaml")).encode())
    # data.dvc: of all clips
    parts += [(top / name).read_bytes() for name in ("dvc.yaml", "data.dvc")]
    parts += [path.read_bytes() for path in sorted((top / "prior").iterdir())]
    for path in sorted((top / "notebooks").glob("*.ipynb")):
        cells = nbformat.read(path, as_version=4).cells
        parts.append(json.dumps([c.source for c in cells if c.cell_type == "code"]).encode())
    return digest(b"".join(parts))


def _call(command: list[str], folder: Path) -> None:
    """Run a command; what it says goes where that of this process goes. Raises RuntimeError with its last errors."""
    binaries = Path(sys.executable).parent  # of papermill and dvc, wherever this was started from
    environment = os.environ | {"TQDM_DISABLE": "1", "PATH": f"{binaries}:{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise RuntimeError(f"the small project failed: {' '.join(command)}, in {folder}\n{done.stderr[-3000:]}")


def _git(folder: Path, *arguments: str) -> None:
    _call(["git", *arguments], folder)


def _write_parameters(project: Path, small: dict) -> None:
    (project / "protocols").mkdir()
    for name, protocol in small.pop("protocols").items():
        (project / f"protocols/{name}.yaml").write_text(yaml.safe_dump(protocol, sort_keys=False))
    (project / "search.yaml").write_text(yaml.safe_dump(small.pop("search"), sort_keys=False))
    small["methods"] = small.pop("methods")  # the last section: rows that are added by hand go there
    # which rows that are added by hand differ from
    text = yaml.safe_dump(small, sort_keys=False).replace("\n  lll_prior:\n", "\n  lll_prior: &lll_prior\n")
    (project / "params.yaml").write_text(text)


def _write(top: Path, project: Path) -> None:
    """The project before its first stage, committed."""
    raw = whole(top / "params.yaml")
    corpus, copy = top / "corpus" / raw["benchmark"], project / "corpus" / raw["benchmark"]
    (copy / "clips").mkdir(parents=True)
    manifest = _few_clips(corpus, raw["world"]["timbres"])
    manifest.to_csv(copy / "manifest.csv", index=False)
    for name in [*manifest.path, "regions.npz"]:
        shutil.copy(corpus / name, copy / name)
    for name in ("avcil", "notebooks", "prior"):
        shutil.copytree(top / name, project / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
    (project / ".dvc").mkdir()
    for name in (".gitattributes", ".gitignore", ".dvcignore", ".dvc/.gitignore", ".dvc/config", "data.dvc"):
        shutil.copy(top / name, project / name)
    shutil.copy(top / ".dvc/plots.html", project / ".dvc/plots.html")
    shutil.copytree(top / ".dvc/plots", project / ".dvc/plots")
    for name in ("artifacts/notebooks", "metrics", "figures"):
        (project / name).mkdir(parents=True)
    _write_parameters(project, parameters(raw))
    pipeline = yaml.safe_load((top / "dvc.yaml").read_text())
    for stage in LEFT_OUT:
        del pipeline["stages"][stage]
    (project / "dvc.yaml").write_text(yaml.safe_dump(pipeline, sort_keys=False))
    _git(project, "init", "--quiet", "--initial-branch=main")
    # neither a signature nor hooks that a person has for all repositories
    own = {"commit.gpgsign": "false", "core.hooksPath": os.devnull}
    for key, value in {"user.name": "avcil", "user.email": "avcil@example.org", **own}.items():
        _git(project, "config", key, value)
    _git(project, "add", "--all")
    _git(project, "commit", "--quiet", "--message", "A small project")


def build(top: Path, *, results: bool = True, anew: bool = False) -> Path:
    """The project, as far as it is not there yet or wanted ``anew``; with ``results``, those of its pipeline too. One
    process at a time builds; the others wait for what all need."""
    place = top / "build" / "smoke" / f".project-{_stamp(top)}"
    place.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(place.parent / ".lock"):
        if anew or not place.exists():
            for stale in place.parent.glob(".project-*"):
                shutil.rmtree(stale)
            unfinished = place.with_suffix(".part")
            _write(top, unfinished)
            unfinished.rename(place)
        finished = place / ".git/results"
        if results and not finished.exists():
            _call([sys.executable, "-m", "avcil.workshop.repro"], place)
            _git(place, "add", "--all")
            _git(place, "commit", "--quiet", "--message", "Its results")
            finished.touch()
    return place


def prepare(top: Path, sandbox: Path) -> None:
    """Make ``sandbox`` anew, for the notebook it is named after. Raises ValueError, before anything is deleted, if it
    is not a folder of build/smoke: somebody's own work may be there."""
    place = top / "build" / "smoke"
    if sandbox.is_symlink() or sandbox.name.startswith(".") or sandbox.parent.resolve() != place.resolve():
        raise ValueError(f"workdir {sandbox}: neither `.`, the project itself, nor a folder of {place}")
    project = build(top, results=sandbox.name not in FROM_INPUTS)
    shutil.rmtree(sandbox, ignore_errors=True)
    if sandbox.name == "11_experiments":
        shutil.copytree(project, sandbox, symlinks=True)
        return
    for name in ("metrics", "figures", "artifacts", "protocols"):
        shutil.copytree(project / name, sandbox / name, ignore=shutil.ignore_patterns("features", "notebooks"))
    for name in ("params.yaml", "search.yaml"):
        shutil.copy(project / name, sandbox)
    (sandbox / "prior").symlink_to(project / "prior")
    (sandbox / "data").symlink_to(project / "corpus")
    # extraction would find everything done
    if sandbox.name != "03_features":
        (sandbox / "artifacts/features").symlink_to(project / "artifacts/features")


if __name__ == "__main__":
    here = root()
    if sys.argv[1:]:
        try:
            prepare(here, here / sys.argv[1])
        except ValueError as error:
            sys.exit(str(error))
    else:
        build(here, anew=True)
