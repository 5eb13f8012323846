"""`python -m avcil run`: nothing of it is stale, nothing is overwritten, and nothing else of the project is needed."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from media import tone, write

from avcil.__main__ import main
from avcil.comparison import sweep
from avcil.params import whole
from conftest import ROOT

CORPUS = ROOT / "corpus/sounding_objects"


def add_clips(folder: Path, labels: list[str], count: int = 6) -> None:
    table = pd.read_csv(CORPUS / "manifest.csv")
    table = table[table.label.isin(labels) & (table.split == "train")]
    table = table[table.groupby("label").cumcount() < count]
    (folder / "clips").mkdir(exist_ok=True)
    for path in table.path:
        shutil.copy(CORPUS / path, folder / path)
    file = folder / "labels.csv"
    before = [pd.read_csv(file)] if file.exists() else []
    pd.concat([*before, table[["path", "label"]]]).to_csv(file, index=False)


def scramble(folder: Path) -> None:
    table = pd.read_csv(folder / "labels.csv")
    table["label"] = table.label.sample(frac=1, random_state=1).to_numpy()
    table.to_csv(folder / "labels.csv", index=False)


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """Four classes of six clips, params.yaml with few epochs, and nothing else."""
    raw = whole(ROOT / "params.yaml")
    raw["tasks"] = [task | {"epochs": 2} for task in raw["tasks"]]
    raw["compute"]["workers"] = 0
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    (tmp_path / "dvc.lock").write_text("of the pipeline\n")
    add_clips(tmp_path, [f"object_00{i}" for i in range(4)])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sweep, "_each", lambda work, jobs, workers: ((n, work(job)) for n, job in enumerate(jobs)))
    return tmp_path


def run(*more: str, to: str = "to") -> str:
    main(["run", "labels.csv", "--to", to, "--rows", "lll_prior", "ridge", "--seeds", "0", *more])
    return Path(to, "table.md").read_text()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def fresh(folder: Path) -> list[Path]:
    """Shards of clips that no other store has."""
    return [file for file in folder.rglob("*.safetensors") if file.stat().st_nlink == 1]


@pytest.mark.slow
def test_labels_clips_and_classes_that_change(here):
    around = contents(here)
    first = run("--tasks", "2")
    assert {name: file for name, file in contents(here).items() if not name.startswith("to/")} == around
    assert re.search(r"n = \d+: this \d+ % means little", first)
    kept = contents(Path("to/learnt"))
    assert run("--tasks", "2") == first and contents(Path("to/learnt")) == kept
    shutil.copy(here / "labels.csv", "labels.before")

    scramble(here)
    assert run("--tasks", "2") != first
    assert kept.items() <= contents(Path("to/learnt")).items() and len(list(Path("to/tokens").glob("*/*"))) == 1
    shutil.copy("labels.before", here / "labels.csv")
    assert run("--tasks", "2") == first

    clip = here / pd.read_csv("labels.csv").path[0]
    clip.write_bytes((CORPUS / "clips/train-009-000.mp4").read_bytes())
    run("--tasks", "2")
    assert len(fresh(Path("to/tokens"))) == 2  # of the new clip, and of the old one
    two = {path.parent for path in Path("to/learnt").rglob("task1")}

    add_clips(here, ["object_004"])
    run("--tasks", "2")
    tasks = json.loads(Path("to/classes.json").read_text())["tasks"]
    assert [len(task) for task in tasks] == [2, 2, 1] and tasks[2] == ["object_004"]
    assert kept.items() <= contents(Path("to/learnt")).items()
    new = {path.parent for path in Path("to/learnt").rglob("task2")}
    assert len(new) == 2 and not new & two
    for folder in new:
        file = folder / "task1/seed0/tensors.safetensors"
        assert any(file.samefile(other / "task1/seed0/tensors.safetensors") for other in two if other.exists())
    # the same as if all had been there from the start
    Path("again").mkdir()
    shutil.copy("to/classes.json", "again")
    run("--tasks", "2", to="again")
    assert contents(Path("again/learnt")).items() <= contents(Path("to/learnt")).items()


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda t: t.replace(t.path[3], "clips/none.mp4"), [], r"labels.csv: no file `clips/none.mp4`"),
        (lambda t: t.rename(columns={"label": "class"}), [], r"no column `label`"),
        (lambda t: t[t.label == "object_001"], [], r"only the class `object_001`"),
        (lambda t: t, ["--tasks", "9"], r"--tasks 9: there are 4 classes"),
        (lambda t: t, ["--encoder", "minni"], r"no `minni` \(did you mean `mini`"),
        (lambda t: t, ["--rows", "lll_prior", "rigde"], r"no method `rigde` in params.yaml \(did you mean `ridge`"),
        (lambda t: t, ["--encoder", "pe_av"], r"facebook/pe-av-large: weights of pe_av are not here"),
    ],
)
def test_what_cannot_be_run_is_one_line(here, monkeypatch, change, options, message):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    change(pd.read_csv("labels.csv")).to_csv("labels.csv", index=False)
    with pytest.raises(SystemExit, match=message) as error:
        main(["run", "labels.csv", "--to", "to", *options])
    assert "\n" not in str(error.value) and not Path("to/tokens").exists()


def test_a_clip_listed_twice_and_a_damaged_one(here, capsys):
    paths = pd.read_csv("labels.csv").path
    before = Path(paths[1]).read_bytes()
    shutil.copy(paths[0], paths[1])
    with pytest.raises(SystemExit, match=r"are the same clip; delete one of the rows"):
        run()
    Path(paths[1]).write_bytes(before[:500])
    run()
    assert re.search(r"left out: .*: damaged", capsys.readouterr().out)


def test_what_is_not_read_of_longer_clips_is_said_before_extraction(here, capsys):
    """Of one that is half a second longer than `mini` reads, and of a film of which three parts are listed."""
    for number, (name, seconds) in enumerate({"longer": 2.5, "film": 7}.items()):
        times = [k / 4 for k in range(round(4 * seconds))]
        write(here / f"clips/{name}.mp4", times, sound=tone(440 + number, seconds, 16000))
    with open("labels.csv", "a") as labels:
        labels.write("clips/longer.mp4,object_000\n")
    table = pd.read_csv("labels.csv").assign(start=0)
    parts = [("clips/film.mp4", "object_001", start) for start in (0, 2, 4)]
    pd.concat([table, pd.DataFrame(parts, columns=list(table))]).to_csv("labels.csv", index=False)
    main(["run", "labels.csv", "--to", "to", "--rows", "ridge", "--seeds", "0"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("mini: ") and "MB a clip" in lines[1]
    assert lines[2].startswith("mini: reads 2 s of a clip, and 2 of 28 are longer (`film.mp4`: 3.0 s); list what")
    assert lines[3].startswith("ridge: ") and sum("reads 2 s" in line for line in lines) == 1


@pytest.mark.slow
def test_dvc_reruns_what_changed(here):
    Path("dvc.lock").unlink()
    stage = re.search(r"```yaml\n(stages:.*?)```", (ROOT / "docs/own_data.md").read_text(), re.S)[1]
    Path("dvc.yaml").write_text(stage)
    place = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": place, "PYTHONPATH": str(ROOT), "DVC_NO_ANALYTICS": "1"}

    def call(*command: str) -> str:
        done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    call("git", "init", "-q")
    call("dvc", "init", "-q")
    call("dvc", "repro")
    first = Path("results/table.md").read_text()
    assert "didn't change, skipping" in call("dvc", "repro")
    scramble(here)
    call("dvc", "repro")
    assert Path("results/table.md").read_text() != first
    add_clips(here, ["object_004"])
    call("dvc", "repro")
    assert json.loads(Path("results/classes.json").read_text())["tasks"][-1] == ["object_004"]
