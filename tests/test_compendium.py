"""What keeps the files at the top level consistent with one another, and the rooms apart."""

import ast
import json
import re
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

from avcil.comparison import search
from avcil.params import ParameterError, load, parse
from avcil.workshop import smoke
from conftest import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MODULES = sorted((ROOT / "avcil").rglob("*.py"))


# ---- parameters


def _changed(raw, path, value):
    import copy

    changed = copy.deepcopy(raw)
    *parents, last = path.split(".")
    section = changed
    for key in parents:
        section = section[int(key)] if isinstance(section, list) else section[key]
    section[last] = value
    return changed


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("training.bach", 32, r"params\.yaml: training\.bach: .*\(did you mean `batch`\?\)"),
        ("lll.fusion", "guidde", r"params\.yaml: lll\.fusion: `guidde` is none of guided, mean"),
        ("training.batch", 0, r"training\.batch: Input should be greater than 1"),
        ("training.batch", "64", r"training\.batch: Input should be a valid integer"),
        ("variants.replay.exemplars", -1, r"variants\.replay\.exemplars: Input should be greater than or equal to 0"),
        ("film.size", 100, r"film\.size: Input should be a multiple of 24"),
        ("tasks.1.from", "init", r"each task starts from the one before it"),
        ("tasks.1.id", 3, r"ids must count 0, 1, 2"),
        ("prior.world.seed", 0, r"prior\.world\.seed: must differ from world\.seed"),
        ("seedz", [0], r"seedz: .*\(did you mean `seeds`\?\)"),
    ],
)
def test_a_bad_parameter_is_one_clear_line(raw_params, path, value, message):
    with pytest.raises(ParameterError, match=message) as error:
        parse(_changed(raw_params, path, value))
    assert "\n" not in str(error.value)


def test_a_missing_parameter_is_named(raw_params):
    raw = {key: value for key, value in raw_params.items() if key != "film"}
    with pytest.raises(ParameterError, match="film: Field required"):
        parse(raw)


def test_params_that_are_not_yaml(tmp_path):
    (tmp_path / "params.yaml").write_text("a: [1")
    with pytest.raises(ParameterError, match="not YAML"):
        load(tmp_path / "params.yaml")


def test_an_unknown_variant_names_the_nearest(params):
    with pytest.raises(ParameterError, match=r"no variant `replai` .*did you mean `replay`"):
        params.method("replai")


def test_parameters_are_frozen(params):
    with pytest.raises(Exception, match="frozen"):
        params.training.batch = 3


def test_tasks_and_classes_fit_the_benchmark(params):
    assert sum(task.classes for task in params.tasks) == params.world.classes


def test_search_trials_are_checked(params):
    assert list(search.trials(params)) == ["lll", *params.search.trials]
    wrong = params.model_copy(update={"search": params.search.model_copy(update={"trials": {"x": {"exemplar": 3}}})})
    with pytest.raises(ParameterError, match=r"search\.trials\.x\.exemplar: .*did you mean `exemplars`"):
        search.trials(wrong)


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
                absent = state == "deleted" or path.startswith("artifacts/runs")
                if not absent:
                    found[f"{stage}: {path}"] = str(state)
            for path, state in change.get("changed outs", {}).items():
                if state == "modified":
                    found[f"{stage}: {path}"] = state
    return found


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
        assert runs == [f"artifacts/runs/lll/{task.from_}"]
        assert f"artifacts/runs/lll/task{task.id}" in [out["path"] for out in stage["outs"]]


def test_metrics_are_of_exactly_the_declared_runs(params):
    expected = {(v, s) for v in ["lll", *params.variants] for s in params.seeds}
    runs = pd.read_csv(ROOT / "metrics/runs.csv")
    assert set(zip(runs.variant, runs.seed, strict=True)) == expected
    assert runs.groupby(["variant", "seed"]).task.apply(list).map(lambda t: t == list(range(len(params.tasks)))).all()
    summary = pd.read_csv(ROOT / "metrics/summary.csv")
    assert list(summary.variant) == ["lll", *params.variants]
    last = runs[runs.task == runs.task.max()].groupby("variant").accuracy.mean()
    assert (summary.set_index("variant").last_accuracy - last).abs().max() < 2e-4


def test_what_dvc_shows_are_the_same_metrics(params):
    """A file a variant for `dvc metrics`; curves and confusion for `dvc plots`."""
    metrics = ROOT / "metrics"
    summary, runs = pd.read_csv(metrics / "summary.csv").set_index("variant"), pd.read_csv(metrics / "runs.csv")
    shown = {path.stem: json.loads(path.read_text()) for path in (metrics / "variants").glob("*.json")}
    assert set(shown) == set(summary.index)
    for variant, measures in shown.items():
        assert "last_accuracy" in measures
        assert measures == summary.loc[variant, list(measures)].to_dict()
    curves = pd.read_csv(metrics / "curves.csv").set_index("task")
    means = runs.groupby(["task", "variant"]).accuracy.mean().unstack()
    assert list(curves) == ["lll", *params.variants] and (curves - means).abs().max().max() < 2e-4
    confusion = pd.read_csv(metrics / "confusion.csv")
    right = (confusion.actual == confusion.predicted).groupby(confusion.seed).mean()
    last = runs[(runs.variant == "lll") & (runs.task == runs.task.max())].set_index("seed").accuracy
    assert (right - last).abs().max() < 2e-4


def test_dvc_plots_only_what_the_pipeline_makes(params):
    pipeline = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    outs = {
        out["path"] for s in yaml.safe_load((ROOT / "dvc.lock").read_text())["stages"].values() for out in s["outs"]
    }
    for plot in pipeline["plots"]:
        definition = next(iter(plot.values())) if isinstance(plot, dict) else {"y": {plot: ""}}
        for file, columns in definition["y"].items():
            assert any(file == out or file.startswith(f"{out}/") for out in outs), file
            if file.startswith("metrics/"):
                known = set(pd.read_csv(ROOT / file, nrows=1))
                columns = [columns] if isinstance(columns, str) else columns
                assert {definition["x"], *columns} <= known, file
    logged = [file for plot in pipeline["plots"] if isinstance(plot, dict) for file in next(iter(plot.values()))["y"]]
    assert sum(file.startswith("artifacts/live/lll/task") for file in logged) == len(params.tasks)


def test_the_field_is_of_exactly_the_declared_runs(params):
    protocol = params.protocols["sounding_objects"]
    expected = {
        (name, row, seed)
        for name, setting in protocol.settings.items()
        for row in setting.rows or protocol.rows
        for seed in setting.seeds or protocol.seeds
    }
    seeds = pd.read_csv(ROOT / "metrics/field_sounding_objects_seeds.csv")
    assert set(zip(seeds.setting, seeds.row, seeds.seed, strict=True)) == expected and len(seeds) == len(expected)
    summary = pd.read_csv(ROOT / "metrics/field_sounding_objects.csv").set_index(["setting", "row"])
    means = seeds.groupby(["setting", "row"]).last_accuracy.mean()
    assert (summary.last_accuracy - means).abs().max() < 2e-4
    standard = seeds[seeds.setting == "standard"]
    assert standard.groupby("row").seed.nunique().min() >= 5


def test_every_row_of_the_field_has_a_name_and_a_family(params):
    from avcil.results.plots import NAMES
    from avcil.results.plots_field import FAMILIES

    rows = {row for protocol in params.protocols.values() for row in protocol.rows}
    assert rows <= set(NAMES) and rows <= {row for _, family in FAMILIES.values() for row in family}


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
        with_a_switch = {row for row in protocol.rows if {"av_cil", "icarl"} & params.rows[row].hooks.keys()}
        assert theirs.keys() == with_a_switch


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("protocols.sounding_objects.rows", ["lwff"], "protocols.sounding_objects: no row `lwff` .did you mean `lwf`"),
        ("protocols.ave.epochs_of", {"lll_": 3}, "epochs_of: `lll_` is not among the rows"),
        ("protocols.sounding_objects.settings.no_twins.seeds", [9], "settings.no_twins: seed 9 is not among"),
        ("field.lll", {}, "`lll` has a section of its own|field.lll"),
        ("field.lwf.logit_blocks", "tasks", "Input should be 'past' or 'task'"),
    ],
)
def test_a_bad_field_is_one_clear_line(raw_params, path, value, message):
    with pytest.raises(ParameterError, match=message) as error:
        parse(_changed(raw_params, path, value))
    assert "\n" not in str(error.value)


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


def test_readme_is_short_and_its_links_lead_somewhere():
    assert (ROOT / "README.md").stat().st_size <= 12_000
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name}: {target}"


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
    files = (ROOT / "dvc.yaml", ROOT / "benchmarks/dvc.yaml")
    stages = [stage for file in files for stage in yaml.safe_load(file.read_text())["stages"].values()]
    mine = [stage for stage in stages if f"notebooks/{path.name}" in stage["cmd"]]
    if not mine:
        # the search, the experiments and the playground stand outside the pipeline
        assert path.stem in ("08_search", "11_experiments", "explore")
        return
    entries = [entry for key in ("deps", "outs", "metrics") for entry in mine[0].get(key, [])]
    declared = [next(iter(e)) if isinstance(e, dict) else e for e in entries]
    declared = [d.split("$")[0] for d in declared]
    source = "\n".join(c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code")
    for name in re.findall(r"\"((?:artifacts|metrics|figures)/[^\"]*)\"", source):
        name = name.split("{")[0]
        assert any(d.startswith(name) or name.startswith(d) for d in declared), f"{name} is not in dvc.yaml"


def test_the_smoke_sandbox_uses_real_rows(raw_params):
    small = parse(smoke.parameters(raw_params))
    assert set(small.variants) == set(smoke.VARIANTS) <= set(raw_params["variants"])
    assert sum(task.classes for task in small.tasks) == smoke.CLASSES
