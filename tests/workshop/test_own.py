"""`python -m avcil run`: nothing of it is stale, nothing is overwritten, and nothing else of the project is needed."""

import json
import os
import re
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import yaml
from media import tone, without, write

from avcil.__main__ import main
from avcil.base.files import write_sealed
from avcil.comparison import sweep
from avcil.extraction.clips import read_clip, write_clip
from avcil.learn.evaluate import TaskResult
from avcil.params import mapping
from avcil.workshop.own.clips import classes_by_task, in_words, read_clips
from avcil.workshop.own.run import table_of
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
    """Four classes of six clips, params.yaml alone with few epochs, and a folder that happens to be called `prior`."""
    raw = mapping((ROOT / "params.yaml").read_text())
    raw["tasks"] = [task | {"epochs": 2} for task in raw["tasks"]]
    raw["compute"]["workers"] = 0
    own = {"about": {"name": "hooked", "family": "own"}, "hooks": {"der": {"wieght": 0.1}}}
    raw["methods"]["hooked"] = raw["methods"]["replay"] | own
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    (tmp_path / "dvc.lock").write_text("of the pipeline\n")
    (tmp_path / "prior").mkdir()
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


def test_params_of_something_else_are_refused_with_a_way_out(here):
    Path("params.yaml").write_text("lr: 0.1\n")
    with pytest.raises(SystemExit, match=r"^params\.yaml: .*; it is read instead of avcil's: mend it, or start from"):
        run()


def test_classes_that_are_gone_keep_their_place(tmp_path, capsys):
    def divide(classes: str, asked: int | None = 2) -> str:
        division = classes_by_task(tmp_path / "classes.json", list(classes), asked, 5)
        write_sealed(tmp_path / "classes.json", division._asdict())
        return in_words(division.of(list(classes)))

    assert divide("cabd") == "`c`, `a` | `b`, `d`" and capsys.readouterr().out == ""
    assert divide("dca") == "`c`, `a` | `d`"
    assert capsys.readouterr().out == f"{tmp_path}/classes.json: the tasks were `c`, `a` | `b`, `d`\n"
    assert divide("edca") == "`c`, `a` | `d` | `e`"
    assert divide("abcde", None) == "`c`, `a` | `b`, `d` | `e`"
    capsys.readouterr()
    assert divide("abcde") == "`c`, `a` | `b`, `d` | `e`" and capsys.readouterr().out == ""
    assert divide("abcde", 1) == "`a`, `b`, `c`, `d`, `e`" and "the tasks were" in capsys.readouterr().out


def test_a_run_that_ends_before_it_learns_changes_no_division(here):
    for path in pd.read_csv("labels.csv").path:
        Path(path).write_bytes(path.encode())
    with pytest.raises(SystemExit, match=r"no train clip of `object_000`, .*`object_003`; no test clip of .* is left"):
        run()
    assert not Path("to/classes.json").exists()


def test_recordings_in_two_splits_are_told_of(here, capsys):
    table = pd.read_csv("labels.csv")
    table.assign(split=["train", "test"] * 12, video=table.index // 2).to_csv("labels.csv", index=False)
    read_clips(Path("labels.csv"))
    said = "clips whose recording is in another split too: test and train: 12 (100.0%), 12 of the same class\n"
    assert capsys.readouterr().out == said


def test_of_one_task_no_forgetting_is_told():
    one, two = (TaskResult(task, [0.5] * (task + 1), [4] * (task + 1), None, None, {}, 0, 0) for task in (0, 1))
    table, text = table_of({("own", "ridge", 0): [one]}, pd.Series(["a", "b"] * 2))
    assert table.forgetting_last.isna().all() and "| – |" in text and "one task" in text and "--tasks 2" in text
    table, text = table_of({("own", "ridge", 0): [one, two]}, pd.Series(["a", "b"] * 4))
    assert table.forgetting_last.notna().all() and "| 0.0 |" in text and "one task" not in text


@pytest.mark.slow
def test_labels_clips_and_classes_that_change(here):
    around = contents(here)
    first = run("--tasks", "2")
    assert {name: file for name, file in contents(here).items() if not name.startswith("to/")} == around
    assert re.search(r"n = \d+: this \d+ % means little", first)
    kept = contents(Path("to/learnt"))
    assert run("--tasks", "2") == first and contents(Path("to/learnt")) == kept
    shutil.copy(here / "labels.csv", "labels.before")

    numbers = pd.read_csv("to/table.csv").last_accuracy
    scramble(here)
    assert run("--tasks", "2") != first
    # in this same process, which has read clips of these names before
    assert (pd.read_csv("to/table.csv").last_accuracy < numbers).any()
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
        (lambda t: t, ["--seeds", "0", "-1"], r"^--seeds\.1: Input should be greater than or equal to 0"),
        (lambda t: t, ["--seeds", "0", "0"], r"^--seeds: 0 occurs twice; drop one"),
        (lambda t: t, ["--rows", "ridge", "hooked"], r"^hooked: .*`wieght`"),
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


def test_a_name_with_a_colon_is_no_protocol(here, capsys):
    """Beside its list, in the folder where one is: FFmpeg would take what is in front of the colon for one."""
    (here / "labels.csv").write_text((here / "labels.csv").read_text().replace("clips/", "12:30-"))
    for clip in (here / "clips").iterdir():
        clip.rename(here / f"12:30-{clip.name}")
    main(["run", "labels.csv", "--to", "to", "--rows", "ridge", "--seeds", "0"])
    assert "left out" not in capsys.readouterr().out


def test_neither_the_list_nor_what_is_somebody_s_own_is_written_over(here):
    for name in ("manifest.csv", "table.csv"):
        shutil.copy("labels.csv", name)
        with pytest.raises(SystemExit, match=rf"^{name}: would be written over; give --to another folder"):
            main(["run", name, "--to", ".", "--rows", "ridge", "--seeds", "0"])
        assert Path(name).read_bytes() == Path("labels.csv").read_bytes()
        with pytest.raises(SystemExit, match=rf"^{name}: would be written over"):
            run(to=".")
        Path(name).unlink()
    run(to=".")
    run(to=".")
    # what a run has written stays its own where its division was deleted, and a list that comes there is none of it
    Path("classes.json").unlink()
    run(to=".")
    shutil.copy("labels.csv", "table.csv")
    with pytest.raises(SystemExit, match=r"^table\.csv: would be written over"):
        main(["run", "table.csv", "--to", ".", "--rows", "ridge", "--seeds", "0"])


def test_a_letter_that_is_written_in_two_ways_is_one(here, capsys):
    """Names of folders on a Mac have ö in two characters; the class would be two that look alike."""
    table = pd.read_csv("labels.csv")
    spelled = {"NFC": table.index[:3], "NFD": table.index[3:6]}
    for form, rows in spelled.items():
        table.loc[rows, "label"] = unicodedata.normalize(form, "Vögel")
    table.to_csv("labels.csv", index=False)
    read, order = read_clips(Path("labels.csv"))
    assert len(order) == 4 and (read.label == "V\xf6gel").sum() == 6
    assert capsys.readouterr().out == "label `Vo\u0308gel` is read as `V\xf6gel`\n"


def test_of_a_film_that_holds_several_clips_the_unusable_row_is_told(here, capsys):
    write(here / "clips/film.mp4", [k / 4 for k in range(20)], sound=tone(440, 5, 16000))
    table = pd.read_csv("labels.csv").assign(start=0)
    parts = [("clips/film.mp4", "object_001", start) for start in (0, 2, 4.5)]
    pd.concat([table, pd.DataFrame(parts, columns=list(table))]).to_csv("labels.csv", index=False)
    (here / "clips" / Path(table.path[0]).name).write_text("no film")
    main(["run", "labels.csv", "--to", "to", "--rows", "ridge", "--seeds", "0"])
    one, other = [line for line in capsys.readouterr().out.splitlines() if line.startswith("left out: ")]
    assert "film.mp4: " in one and one.endswith("; drop its row (start 4.5)")
    assert other.endswith("; restore it or drop its row")


def test_a_damaged_division_into_tasks_costs_nothing_that_was_learnt(here):
    """To delete its folder, as is said of other files, would delete tokens and checkpoints too."""
    run()
    Path("to/classes.json").write_text("{")
    way_out = "damaged, or of another version; delete it, and classes are divided into tasks anew"
    with pytest.raises(SystemExit, match=f"^to/classes.json: {way_out}$"):
        run()
    Path("to/classes.json").unlink()
    run()


@pytest.mark.slow
@pytest.mark.parametrize("project", [True, False])
def test_what_was_learnt_predicts_files(here, capsys, project):
    """From a terminal, and where no project is, too, which the command does without as well."""
    run()
    if not project:
        Path("params.yaml").unlink()
    [place] = here.glob("to/learnt/ridge/*/task1/seed0")
    clip = pd.read_csv("labels.csv").path[0]
    capsys.readouterr()
    main(["predict", clip, "--learner", str(place)])
    assert re.match(rf"{clip}: object_00[0-3] \(probability ", capsys.readouterr().out)


@pytest.mark.slow
def test_dvc_reruns_what_changed(here):
    Path("dvc.lock").unlink()
    stage = re.search(r"```yaml\n(stages:.*?)```", (ROOT / "docs/own_data.md").read_text(), re.S)[1]
    # one row, which no processes of its own have to learn
    Path("dvc.yaml").write_text(stage.replace("lll_prior ridge", "ridge"))
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


def test_the_notebook_takes_a_list_as_short_as_it_says(tmp_path, monkeypatch, capsys):
    """Two classes of three clips, which are parts of a film each; none is for validation, and one is tested."""
    rows = []
    for label in ("object_000", "object_001"):
        add_clips(tmp_path, [label], count=3)
        files = [path for path in pd.read_csv(tmp_path / "labels.csv").path][-3:]
        clips = [read_clip(tmp_path / file, frames=16, fps=8, size=96, sample_rate=16000) for file in files]
        frames, sound = (np.concatenate([getattr(clip, name) for clip in clips]) for name in ("frames", "waveform"))
        write_clip(tmp_path / f"{label}.mp4", frames, sound, 8, 16000)
        rows += [(f"{label}.mp4", label, split, start) for split, start in (("train", 0), ("train", 2), ("test", 4))]
    pd.DataFrame(rows, columns=["path", "label", "split", "start"]).to_csv(tmp_path / "list.csv", index=False)
    monkeypatch.chdir(ROOT)
    given = {"workdir": ".", "labels": str(tmp_path / "list.csv"), "place": str(tmp_path / "place")}
    names: dict = {}
    for cell in nbformat.read(ROOT / "notebooks/12_your_own.ipynb", as_version=4).cells:
        if cell.cell_type == "code":
            exec(cell.source, names)
            names |= given
    assert [file.start for file in names["files"]] == [0, 2, 4] * 2
    assert not names["tokens"].audio[0].equal(names["tokens"].audio[1])
    printed = capsys.readouterr().out
    assert "called unknown: 0 of 1 known, 0 of 1 unknown clips" in printed
    assert "validation clips: none of old classes, none of the new one" in printed


def test_clips_without_sound_or_picture_are_learnt_by_a_row_that_can(here, capsys):
    table = pd.read_csv("labels.csv")
    for path, kind in zip(table.path[:2], ("audio", "video"), strict=True):
        without(CORPUS / path, kind, here / path)
    main(["run", "labels.csv", "--to", "to", "--rows", "ridge", "--seeds", "0"])
    left = [line for line in capsys.readouterr().out.splitlines() if line.startswith("left out: ")]
    assert [re.sub(r".*: no (\w+) track.*", r"\1", line) for line in left] == ["audio", "video"]
    main(["run", "labels.csv", "--to", "to", "--rows", "ridge", "lll_conditional", "--seeds", "0"])
    assert "left out" not in capsys.readouterr().out
    assert {"ridge", "lll_conditional"} == set(pd.read_csv("to/table.csv").row)
    # a class that is never heard
    for path in table.path[table.label == "object_002"]:
        without(CORPUS / path, "audio", here / path)
    with pytest.raises(
        SystemExit, match="each training clip of `object_002` lacks its sound or its picture, and ridge"
    ):
        main(["run", "labels.csv", "--to", "to", "--rows", "ridge", "lll_conditional", "--seeds", "0"])
    main(["run", "labels.csv", "--to", "to", "--rows", "lll_conditional", "--seeds", "0"])
