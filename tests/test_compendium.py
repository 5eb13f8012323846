"""What keeps the files at the top level consistent with one another, and the rooms apart."""

import ast
import json
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import yaml
from test_rooms import imports

from avcil.params import parse
from avcil.workshop import smoke
from conftest import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MODULES = sorted((ROOT / "avcil").rglob("*.py"))


# ---- files at the top level


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """The committed files and data/, as `dvc repro` first imports it from corpus/, without any result."""
    folder = tmp_path_factory.mktemp("copy")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((ROOT / name).read_bytes())
    shutil.copytree(folder / "corpus", folder / "data")
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    return folder


def _stale(folder: Path) -> dict[str, str]:
    """What `dvc status` finds changed, results that are merely absent aside."""
    done = subprocess.run([sys.executable, "-m", "dvc", "status", "--json"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = {}
    for stage, changes in json.loads(done.stdout).items():
        for change in changes:
            if isinstance(change, str):  # "changed command", "always changed"
                found[stage] = change
                continue
            for path, state in change.get("changed deps", {}).items():
                absent = state == "deleted" or path.startswith(("artifacts/runs", "artifacts/notebooks"))
                if not absent:
                    found[f"{stage}: {path}"] = str(state)
            for path, state in change.get("changed outs", {}).items():
                if state == "modified":
                    found[f"{stage}: {path}"] = state
    return found


@pytest.mark.slow
def test_dvc_lock_matches_the_committed_inputs(copy):
    """Fails when code, notebooks, clips or parameters changed without `dvc repro`."""
    assert _stale(copy) == {}
    kept = {name: (copy / name).read_text() for name in ("params.yaml", "avcil/learn/losses.py")}
    (copy / "params.yaml").write_text(kept["params.yaml"].replace("width: 128", "width: 64"))
    (copy / "avcil/learn/losses.py").write_text(kept["avcil/learn/losses.py"] + "\n")
    changed = _stale(copy)
    for name, text in kept.items():
        (copy / name).write_text(text)
    assert changed["train@task0: avcil/learn"] == "modified"
    assert "training.width" in changed["train@task0: params.yaml"] or "training" in changed["train@task0: params.yaml"]


def test_each_task_depends_on_its_own_parameters_and_on_the_task_before(params):
    """So that changing task 3's parameters runs task 3 and, through its checkpoint, the later tasks only."""
    stages = yaml.safe_load((ROOT / "dvc.lock").read_text())["stages"]
    for task in params.tasks:
        stage = stages[f"train@task{task.id}"]
        assert [key for key in stage["params"]["params.yaml"] if key.startswith("tasks")] == [f"tasks.{task.id}"]
        runs = [dep["path"] for dep in stage["deps"] if dep["path"].startswith("artifacts/runs")]
        assert runs == [f"artifacts/runs/lll_prior/{task.from_}"]
        assert f"artifacts/runs/lll_prior/task{task.id}" in [out["path"] for out in stage["outs"]]


def test_metrics_are_of_exactly_the_declared_runs(params):
    protocol = params.protocol()
    expected = {
        (name, row, seed)
        for name, rows in protocol.chosen("all").items()
        for row in rows
        for seed in protocol.settings[name].seeds or protocol.seeds
    }
    key, metrics = ["setting", "method"], ROOT / "metrics"
    seeds, runs = pd.read_csv(metrics / "seeds.csv"), pd.read_csv(metrics / "runs.csv")
    found = list(seeds[[*key, "seed"]].itertuples(index=False, name=None))
    assert set(found) == expected and len(found) == len(expected)
    assert set(runs[[*key, "seed"]].itertuples(index=False, name=None)) == expected
    standard, tasks = runs[runs.setting == "standard"], list(range(len(params.tasks)))
    assert standard.groupby(["method", "seed"]).task.apply(list).map(lambda found: found == tasks).all()
    assert standard.groupby("method").seed.nunique().min() >= 5
    summary = pd.read_csv(metrics / "summary.csv").set_index(key)
    rows = [(name, row) for name, rows in protocol.chosen("all").items() for row in rows]
    assert list(summary.index) == rows and summary.index.is_unique
    assert (summary.last_accuracy - seeds.groupby(key).last_accuracy.mean()).abs().max() < 2e-4
    last = runs[runs.task == runs.groupby([*key, "seed"]).task.transform("max")].groupby(key).accuracy.mean()
    assert (summary.last_accuracy - last).abs().max() < 2e-4
    assert summary.seeds.to_dict() == seeds.groupby(key).seed.nunique().to_dict()


def test_what_dvc_shows_are_the_same_metrics(params):
    """A few rows for `dvc metrics`; curves and confusion for `dvc plots`."""
    metrics = ROOT / "metrics"
    summary, runs = (
        table[table.setting == "standard"]
        for table in (pd.read_csv(metrics / f"{name}.csv") for name in ("summary", "runs"))
    )
    summary = summary.set_index("method")
    shown = json.loads((metrics / "headline.json").read_text())
    assert set(shown) == {"lll_prior", "lll_closed", "replay", "joint_guided"}
    for method, measures in shown.items():
        line = summary.loc[method]
        assert measures == {"last": line.last_accuracy, "forgetting": line.forgetting_last}
    curves = pd.read_csv(metrics / "curves.csv").set_index("task")
    means = runs.groupby(["task", "method"]).accuracy.mean().unstack()
    assert list(curves) == params.protocol().rows and (curves - means).abs().max().max() < 2e-4
    confusion = pd.read_csv(metrics / "confusion.csv")
    right = (confusion.actual == confusion.predicted).groupby(confusion.seed).mean()
    last = runs[(runs.method == "lll_prior") & (runs.task == runs.task.max())].set_index("seed").accuracy
    assert list(right.index) == params.seeds and (right - last).abs().max() < 2e-4


def test_dvc_plots_only_what_the_pipeline_makes(params):
    pipeline = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    outs = {
        out["path"] for s in yaml.safe_load((ROOT / "dvc.lock").read_text())["stages"].values() for out in s["outs"]
    }
    for plot in pipeline["plots"]:
        definition = next(iter(plot.values())) if isinstance(plot, dict) else {"y": {plot: ""}}
        for file, columns in definition["y"].items():
            assert any(file == out or file.startswith(f"{out}/") or out.startswith(f"{file}/") for out in outs), file
            if file.startswith("metrics/"):
                known = set(pd.read_csv(ROOT / file, nrows=1))
                columns = [columns] if isinstance(columns, str) else columns
                assert {definition["x"], *columns} <= known, file
    logged = [file for plot in pipeline["plots"] if isinstance(plot, dict) for file in next(iter(plot.values()))["y"]]
    live = {out for out in outs if out.startswith("artifacts/live/lll_prior/task")}
    assert live == {file.partition("/seed0/")[0] for file in logged if file.startswith("artifacts/live")}
    assert len(live) == len(params.tasks)


@pytest.mark.slow
def test_experiments_are_a_table_of_what_changed_and_what_came_of_it(tmp_path):
    """`make experiments`, of a stage that takes all parameters and makes such metrics, artifacts and notebooks."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copytree(ROOT / "protocols", tmp_path / "protocols")
    (tmp_path / "learn.py").write_text(
        "import json, pathlib, yaml\n"
        "n = yaml.safe_load(open('params.yaml'))['methods']['lll_prior']['exemplars']\n"
        "last = {'lll_prior': n, 'lll_closed': 1, 'replay': 2 * n, 'joint_guided': 1}\n"
        "measures = {row: {'last': value, 'forgetting': value} for row, value in last.items()}\n"
        "pathlib.Path('headline.json').write_text(json.dumps(measures))\n"
        "pathlib.Path('artifacts').mkdir(exist_ok=True)\n"
        "pathlib.Path('artifacts/tokens').write_text(str(n))\n"
    )
    stages = {
        "learn": {
            "cmd": f"{sys.executable} learn.py",
            "params": ["rows", "methods", "training", {"protocols/sounding_objects.yaml": None}],
            "outs": ["artifacts/tokens"],
            "metrics": [{"headline.json": {"cache": False}}],
        },
        "look": {"cmd": "cp artifacts/tokens seen", "deps": ["artifacts/tokens"], "outs": ["seen"]},
    }
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    shell = subprocess.run(
        ["make", "-n", "--no-print-directory", "-f", ROOT / "Makefile", "experiments", "EXPERIMENTS=--md"],
        capture_output=True,
        text=True,
    ).stdout.partition("\n")[2]
    dvc = f"{sys.executable} -m dvc"
    commands = f"""
        git init -q && git config user.name a && git config user.email a@b && {dvc} init -q && {dvc} repro -q
        git add -A && git commit -qm start
        {dvc} exp run -q -n more -S 'rows=[lll_prior]' -S methods.lll_prior.exemplars=9 -S training.batch=32
        {shell.replace(".venv/bin/dvc", dvc)}"""
    done = subprocess.run(["sh", "-ec", commands], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    head = [cell.strip() for cell in done.stdout.splitlines()[0].strip("| ").split("|")]
    measures = {f"{row}.{name}" for row in ("lll_prior", "replay") for name in ("last", "forgetting")}
    assert head[0] == "Experiment" and "[more]" in done.stdout
    assert set(head[1:]) == measures | {"methods.lll_prior.exemplars", "training.batch"}


def test_every_row_is_compared_and_says_what_it_is(params):
    """No row is left over; where a paper is named, what is done otherwise than there is said too."""
    rows = {row for protocol in params.protocols.values() for name in protocol.chosen("all").values() for row in name}
    assert rows == set(params.methods)
    for name, row in params.methods.items():
        published = "](http" in row.about.paper or "arXiv" in row.about.paper
        assert not published or row.about.deviations or row.about.part, name


def test_official_protocols_are_those_of_the_authors_scripts(params):
    """Classes a task, exemplars in all, and epochs, as their run_incremental_*.sh have them."""
    published = {"ave": (7, 340, 200, 150), "kinetics_sounds": (6, 500, 200, 150), "vggsound100": (10, 1500, 200, 200)}
    for name, (classes, memory, epochs, finetune) in published.items():
        protocol = params.protocols[name]
        assert (protocol.classes_per_task, protocol.exemplars, protocol.budget) == (classes, memory, "total")
        assert protocol.epochs_of.get("avcil", protocol.epochs) == epochs
        assert protocol.epochs_of.get("avcil_finetune", protocol.epochs) == finetune
        assert protocol.class_order == "official" and protocol.training["keep"] == "best_all"
        assert protocol.settings["new_classes_only"].keep == "best_new"
        assert protocol.changes["*"] == {"patches": None}
        hooks = protocol.changes["avcil"]["hooks"]["av_cil"]
        assert hooks["instance_contrast"] == (0.5 if name == "ave" else 0.1)
        theirs = {row: changes["hooks"] for row, changes in protocol.changes.items() if "hooks" in changes}
        assert all(next(iter(hooks.values()))["as_published"] for hooks in theirs.values())
        with_a_switch = {row for row in protocol.rows if {"av_cil", "icarl"} & params.methods[row].hooks.keys()}
        assert theirs.keys() == with_a_switch


def test_readme_numbers_are_those_of_the_metrics(tmp_path):
    """The block between the markers is what `python -m avcil.workshop.readme` writes from metrics/.

    Committed numbers with committed numbers, for a run on another machine may change metrics/ and says nothing of
    README.md; one that is being edited, with what stands beside it.
    """
    from avcil.workshop import readme

    folder = ROOT
    if subprocess.run(["git", "diff", "--quiet", "HEAD", "--", "README.md", "docs"], cwd=ROOT).returncode == 0:
        folder = tmp_path
        wanted = ["README.md", "docs", "metrics", "benchmarks/results"]
        packed = subprocess.run(["git", "archive", "HEAD", *wanted], cwd=ROOT, capture_output=True, check=True).stdout
        subprocess.run(["tar", "-x"], cwd=folder, input=packed, check=True)
    texts = {path.name: path.read_text() for path in readme.files(folder)}
    assert readme.updated(texts, folder / "metrics") == texts


def test_means_are_rounded_once():
    """Of 0.84648, which metrics/summary.csv has as 0.8465, 84.6 % is shown and not 84.7."""
    from avcil.results.names import name_of
    from avcil.workshop import readme

    seeds = pd.read_csv(ROOT / "metrics/seeds.csv").query("setting == 'standard'")
    shown, means = readme.headline(ROOT / "metrics"), seeds.groupby("method").average_accuracy.mean()
    assert all(f"| {name_of(row)} | {100 * means[row]:.1f} ± " in shown for row in readme.HEADLINE)


def test_the_writer_of_the_readme_helps_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["readme", "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / "avcil/workshop/readme.py"), run_name="__main__")
    assert end.value.code == 0 and "Writes the results of README.md" in capsys.readouterr().out


def test_readme_is_short_and_its_links_lead_somewhere():
    assert (ROOT / "README.md").stat().st_size <= 12_000
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name}: {target}"
    named = re.findall(r'README\.md, "([^"]+)"', (ROOT / "CONTRIBUTING.md").read_text())
    assert named and all(f"\n## {section}\n" in (ROOT / "README.md").read_text() for section in named)


def test_committed_files_are_small():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    sizes = {name: (ROOT / name).stat().st_size for name in listed.split("\0") if name and (ROOT / name).exists()}
    assert sum(size for name, size in sizes.items() if name.startswith("corpus/")) < 40e6
    assert all(size < 2.5e6 for size in sizes.values()), max(sizes, key=sizes.get)
    assert not [name for name in sizes if name.endswith((".pt", ".pkl", ".pickle", ".pth"))]


# ---- habits


def test_nothing_unpickles():
    """No function that executes what a file says."""
    for path in [*MODULES, *NOTEBOOKS]:
        text = path.read_text()
        unsafe = r"pickle\.loads?\(|Unpickler\b|torch\.load\((?!.*weights_only=True)|allow_pickle=True|yaml\.load\("
        assert not re.search(unsafe, text), path.name


def test_progress_bars_come_from_one_place():
    """`tqdm.auto` through avcil/base/progress.py: a widget in JupyterLab, a line in a terminal, silence elsewhere."""
    for path in MODULES:
        ours = path.stem == "progress"
        assert ours or not any(name.split(".")[0] == "tqdm" for name in imports(path.read_text())), path
    assert "tqdm.auto.tqdm" in imports((ROOT / "avcil/base/progress.py").read_text())


def test_no_module_escapes_the_type_checks():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]
    assert "exclude" not in settings and settings["files"] == ["avcil"]
    for override in settings["overrides"]:
        assert not override.get("ignore_errors")
        skipped = override["module"] if override.get("follow_imports") == "skip" else ()
        assert not [name for name in skipped if name.startswith("avcil")]


# ---- notebooks


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_form(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    # nbval silently skips the comparison for a cell whose execution count is null
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    tagged = [cell for cell in code if "parameters" in cell.metadata.get("tags", [])]
    assert tagged == code[:1]
    for node in ast.parse(code[0].source).body:
        ast.literal_eval(node.value)
    assert notebook.metadata.kernelspec.name == "python3"
    assert not any("execution" in cell.metadata or "papermill" in cell.metadata for cell in notebook.cells)
    source = "\n".join(cell.source for cell in code)
    assert sum(bool(line.strip()) for line in source.splitlines()) <= 110
    assert not re.search(r"^\s*(def|class) |sys\.path|!pip", source, re.M)
    assert notebook.cells[0].cell_type == "markdown" and notebook.cells[0].source.startswith("# ")
    outputs = [out for cell in code for out in cell.outputs]
    assert not any(out.output_type == "error" or out.get("name") == "stderr" for out in outputs)
    assert path.stat().st_size < 150e3


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_what_a_notebook_reads_and_writes_is_declared(path):
    """Every artifacts/, metrics/ or figures/ path of a notebook is a dependency or an output of its DVC stage."""
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].values()
    mine = [stage for stage in stages if f"notebooks/{path.name}" in stage["cmd"]]
    if not mine:
        # the search, the experiments, own clips, what is beyond the paper and the playground stand outside the pipeline
        assert path.stem in ("08_search", "11_experiments", "12_your_own", "13_beyond", "explore")
        return
    entries = [entry for key in ("deps", "outs", "metrics") for entry in mine[0].get(key, [])]
    declared = [next(iter(e)) if isinstance(e, dict) else e for e in entries]
    declared = [d.split("$")[0] for d in declared]
    source = "\n".join(c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code")
    for name in re.findall(r"\"((?:artifacts|metrics|figures)/[^\"]*)\"", source):
        name = name.split("{")[0]
        assert any(d.startswith(name) or name.startswith(d) for d in declared), f"{name} is not in dvc.yaml"


def test_the_small_project_has_real_rows_and_all_stages_that_others_need(raw_params):
    whole, small = parse(raw_params), parse(smoke.parameters(raw_params))
    assert tuple(small.protocol().rows) == smoke.ROWS and set(smoke.ROWS) <= set(small.methods)
    assert all(small.methods[name] == whole.methods[name] for name in small.methods)
    assert sum(task.classes for task in small.tasks) < smoke.CLASSES  # notebook 11 learns one more task
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    needed = {dep for name, stage in stages.items() if name not in smoke.LEFT_OUT for dep in stage["deps"]}
    outs = [out for name in smoke.LEFT_OUT for out in stages[name]["outs"]]
    assert not needed & {next(iter(out)) if isinstance(out, dict) else out for out in outs}
