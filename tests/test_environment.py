"""What has to be installed: one list in ranges (pyproject.toml), its lock, and what each part of avcil imports."""

import ast
import copy
import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions, requires
from itertools import chain
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from test_rooms import MODULES, NOTEBOOKS, code, file_of

from conftest import ROOT

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PYPROJECT["project"]["optional-dependencies"]

# the only modules that may not be importable without an extra; avcil.encoders.load imports an encoder when it is asked
NEEDS = {
    **{f"avcil/encoders/{name}.py": "encoders" for name in (
        "clip_clap", "imagebind", "pe_av", "sam_audio", "videomae_audiomae",
    )},
    **{str(path.relative_to(ROOT)): "report" for path in (ROOT / "avcil/workshop/report").glob("*.py")},
}  # fmt: skip

# what a function imports when it is called, beyond that: each says in one line how to get it
WHEN_CALLED = {
    ("avcil/base/ray.py", "ray"),
    ("avcil/encoders/imagebind.py", "imagebind"),
    ("avcil/encoders/load.py", "huggingface_hub"),
    ("avcil/encoders/sam_audio.py", "core"),
    ("avcil/encoders/sam_audio.py", "sam_audio"),
}

# packages that are imported and not ours to install
UNDECLARED = {
    "sam_audio": "the authors' package, which the index does not have",
    "core": "perception_models, which comes with sam_audio",
    "imagebind": "the authors' package, which the index does not have; CC-BY-NC-SA",
    "liger_kernel": "a rival that benchmarks/ times where somebody installed it",
    # with them in an extra, the lock would have an older dateutil and a jsonschema that JupyterLab's do not allow
    **dict.fromkeys(("boto3", "dvc_s3", "moto"), "of a bucket, whose test is skipped where they are not"),
}


def names(requirements: list[str]) -> set[str]:
    """Distributions that these lines ask for, in the index's spelling."""
    return {canonicalize_name(Requirement(line).name) for line in requirements}


CORE = names(PYPROJECT["project"]["dependencies"])
DECLARED = CORE | names(PYPROJECT["build-system"]["requires"]).union(*map(names, EXTRAS.values())) - {"avcil"}


# ---- the list and its lock


@cache
def lock_script():
    spec = importlib.util.spec_from_file_location("lock_script", ROOT / ".ci/lock.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def locked(text: str) -> dict[str, list[tuple[str, list[str]]]]:
    """Version and hashes of each entry of a lock, by distribution; several for one that differs between machines."""
    found: dict[str, list] = {}
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip() and not line.startswith("#"):
            entry, *hashes = re.split(r"\s--hash=", line)
            (pin,) = Requirement(entry).specifier
            assert pin.operator == "==", line
            name = canonicalize_name(Requirement(entry).name)
            found.setdefault(name, []).append((pin.version, [value.strip() for value in hashes]))
    return found


def outside(requirements: list[str], text: str) -> set[str]:
    """The requirements that a lock lacks, or has in a version that they do not allow."""
    have = locked(text)
    wrong = set()
    for line in requirements:
        requirement = Requirement(line)
        entries = have.get(canonicalize_name(requirement.name), [])
        if not entries or not all(requirement.specifier.contains(version) for version, _ in entries):
            wrong.add(line)
    return wrong


def direct() -> list[str]:
    """Every line of pyproject.toml that asks for a package of somebody else."""
    lines = [*PYPROJECT["build-system"]["requires"], *PYPROJECT["project"]["dependencies"], *chain(*EXTRAS.values())]
    return [line for line in lines if Requirement(line).name != PYPROJECT["project"]["name"]]


def test_environment_yml_has_no_second_list_of_packages():
    text = (ROOT / "environment.yml").read_text()
    env, project = yaml.safe_load(text), PYPROJECT["project"]
    assert env["name"] == project["name"] and env["channels"] == ["conda-forge"]
    assert [d for d in env["dependencies"] if isinstance(d, dict)] == [{"pip": ["-r requirements.lock"]}]
    plain = {d.split("=")[0] for d in env["dependencies"] if isinstance(d, str)}
    assert plain == {"python", "pip", "git", "make"}
    assert "python=3.11" in env["dependencies"] and project["requires-python"].startswith(">=3.11")
    # avcil itself, with which neither conda nor the lock can deal: as .ci/setup does it
    own = "--no-deps --no-build-isolation -e ."
    assert f"pip install {own}\n" in text and own in (ROOT / ".ci/setup").read_text().replace(" $quiet", "")


def test_the_lock_is_of_these_ranges():
    """Fails when pyproject.toml changed without `make lock`."""
    header = (ROOT / "requirements.lock").read_text().splitlines()[:2]
    assert header == lock_script().HEADER.format(lock_script().ranges(PYPROJECT)).splitlines()


@pytest.mark.parametrize(
    "change",
    [
        lambda changed: changed["project"]["dependencies"].append("polars"),
        lambda changed: changed["project"]["dependencies"].remove("tqdm>=4.66"),
        lambda changed: changed["project"]["optional-dependencies"]["lab"].append("polars"),
        lambda changed: changed["project"]["optional-dependencies"].pop("ray"),
        lambda changed: changed["project"].update({"requires-python": ">=3.12"}),
        lambda changed: changed["build-system"]["requires"].append("wheel"),
    ],
)
def test_other_ranges_make_the_lock_stale(change):
    changed = copy.deepcopy(PYPROJECT)
    change(changed)
    assert lock_script().ranges(changed) != lock_script().ranges(PYPROJECT)
    same = copy.deepcopy(PYPROJECT)
    same["project"]["description"] = same["tool"]["ruff"]["line-length"] = "other"
    assert lock_script().ranges(same) == lock_script().ranges(PYPROJECT)


def test_every_locked_version_is_in_its_range():
    assert outside(direct(), (ROOT / "requirements.lock").read_text()) == set()
    text = "a==1.5 \\\n    --hash=sha256:0\nA_b==2.0 ; sys_platform == 'linux' \\\n    --hash=sha256:0\n"
    assert outside(["a>=1,<2", "a-b"], text) == set()
    assert outside(["a>=1,<1.5", "a.b>2", "c"], text) == {"a>=1,<1.5", "a.b>2", "c"}


def test_every_locked_package_has_hashes_and_no_address():
    text = (ROOT / "requirements.lock").read_text()
    for name, entries in locked(text).items():
        for version, hashes in entries:
            assert hashes and all(re.fullmatch(r"sha256:[0-9a-f]{64}", value) for value in hashes), (name, version)
    # whoever installs asks an index of their own
    assert "http:" not in text and "https:" not in text and "-i " not in text and "--index" not in text


def test_what_cannot_be_locked_leaves_the_lock(monkeypatch, tmp_path):
    script = lock_script()
    monkeypatch.setattr(script, "LOCK", tmp_path / "requirements.lock")
    script.LOCK.write_text("before\n")
    asked = []

    def run(command, *, input, **_):
        asked.append((command, input))
        if "--upgrade" in command:
            script.LOCK.write_text("a==1\n")
        return subprocess.CompletedProcess(command, 0 if "--upgrade" in command else 2)

    monkeypatch.setattr(script.subprocess, "run", run)
    with pytest.raises(SystemExit, match="avcil: nothing was locked, for the reason above"):
        script.main([])
    assert script.LOCK.read_text() == "before\n"
    script.main(["--upgrade"])
    assert script.LOCK.read_text() == script.HEADER.format(script.ranges(PYPROJECT)) + "a==1\n"
    (command, given) = asked[1]
    assert {"--extra=test", "--universal", "--generate-hashes", "--python-version=3.11"} <= set(command)
    assert given.splitlines() == PYPROJECT["build-system"]["requires"]


def test_the_test_extra_has_all_others():
    own = {extra for line in EXTRAS["test"] if Requirement(line).name == "avcil" for extra in Requirement(line).extras}
    assert own == set(EXTRAS) - {"test"}


# ---- what is imported


def imported(source: str) -> tuple[set[str], set[str]]:
    """Modules that a text imports when it is itself imported, and those that only its functions do.

    Among the latter are names that are given as text, to `importlib` and to `pytest.importorskip`.
    """
    first: set[str] = set()
    later: set[str] = set()

    def visit(node: ast.AST, found: set[str]) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                found |= {alias.name for alias in child.names}
            elif isinstance(child, ast.ImportFrom) and not child.level:
                found |= {child.module} | {f"{child.module}.{alias.name}" for alias in child.names}
            elif isinstance(child, ast.Call) and child.args and isinstance(child.args[0], ast.Constant):
                called = child.func.attr if isinstance(child.func, ast.Attribute) else getattr(child.func, "id", "")
                if called in ("import_module", "find_spec", "importorskip") and isinstance(child.args[0].value, str):
                    later.add(child.args[0].value)
            function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            visit(child, later if function else found)

    visit(ast.parse(source), first)
    return first, later


def packages(modules: set[str]) -> set[str]:
    """The packages of others that these modules are of."""
    return {module.split(".")[0] for module in modules} - sys.stdlib_module_names - {"avcil"}


@cache
def distributions() -> dict[str, set[str]]:
    """The distributions that have a package, of those that are installed."""
    return {package: set(map(canonicalize_name, found)) for package, found in packages_distributions().items()}


def not_of(found: set[str], declared: set[str]) -> set[str]:
    """The packages that no declared distribution has; one that is not installed is taken for one of its own name."""
    return {p for p in found if not distributions().get(p, {canonicalize_name(p)}) & declared}


def allowed(file: Path) -> set[str]:
    extra = NEEDS.get(str(file.relative_to(ROOT)))
    return CORE | (names(EXTRAS[extra]) if extra else set())


def test_the_scan_tells_imports_apart():
    first, later = imported(
        "import a.b\nif a:\n    from c import d\nclass E:\n    import f\n"
        "def g(x=pytest.importorskip('h.i')):\n    import j\nasync def k():\n    from l.m import n\nfrom . import o\n"
    )
    assert packages(first) == {"a", "c", "f"} and packages(later) == {"h", "j", "l"}
    assert not_of({"sklearn", "yaml", "torch"}, {"scikit-learn", "pyyaml"}) == {"torch"}


def test_every_package_that_is_imported_is_declared():
    """In pyproject.toml, as a distribution of its own: that another one brings it today is no promise."""
    scripts = [*MODULES, *(ROOT / ".ci").glob("*.py"), ROOT / "conftest.py"]
    for folder in ("benchmarks", "tests"):
        scripts += (ROOT / folder).rglob("*.py")
    sources = [path.read_text() for path in scripts] + [code(notebook) for notebook in NOTEBOOKS]
    found = set().union(*(packages(set().union(*imported(source))) for source in sources))
    # the scripts of tests/ and benchmarks/ import one another
    files = [path for folder in ("benchmarks", "tests") for path in (ROOT / folder).rglob("*.py")]
    beside = {path.parent.name if path.stem == "__init__" else path.stem for path in files}
    assert len(found) > 40
    assert not_of(found - beside, DECLARED) == set(UNDECLARED)


def test_only_modules_of_an_extra_need_its_packages():
    for file in MODULES:
        first, later = imported(file.read_text())
        name = str(file.relative_to(ROOT))
        assert not_of(packages(first), allowed(file)) == set(), name
        lazy = {(name, package) for package in not_of(packages(later), allowed(file))}
        assert lazy == {entry for entry in WHEN_CALLED if entry[0] == name}
        # nor by way of another module
        extra = NEEDS.get(name)
        reached = {target for module in first if module.startswith("avcil") and (target := file_of(module))}
        for target in reached:
            assert NEEDS.get(str(target.relative_to(ROOT)), extra) == extra, f"{name} imports {target}"


def test_modules_of_an_extra_are_those_that_use_it():
    """None stands in the list above for nothing; report/__init__ asks for exactly what its extra declares."""
    from avcil.workshop.report import NEEDED

    for name, extra in NEEDS.items():
        found = packages(set().union(*imported((ROOT / name).read_text())))
        assert extra == "report" or not_of(found, CORE), name
    assert set().union(*(distributions()[package] for package in NEEDED)) == names(EXTRAS["report"])


# ---- what one learns where a package is missing


def python(text: str, *without: str, **variables: str) -> subprocess.CompletedProcess:
    """A new Python in which some packages cannot be imported."""
    text = f"import sys; sys.modules.update(dict.fromkeys({without!r}))\n{text}"
    command, environment = [sys.executable, "-c", text], os.environ | variables
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)


def test_the_report_names_its_extra():
    done = python("import avcil.workshop.report.__main__", "jinja2", "griffe")
    line = "ImportError: the report needs griffe, jinja2: pip install 'avcil[report]'"
    assert done.returncode == 1 and done.stderr.splitlines()[-1] == line, done.stderr


def test_encoders_name_their_extra():
    kinds = [Path(name).stem for name, extra in NEEDS.items() if extra == "encoders"]
    text = f"""
from types import SimpleNamespace
from avcil.encoders.load import load_published
for kind in {kinds}:
    try:
        load_published(SimpleNamespace(kind=kind), "cpu")
    except ImportError as error:
        print(error)
"""
    said = python(text, "huggingface_hub", "timm", "transformers").stdout.splitlines()
    for kind, line in zip(kinds, said, strict=True):
        wanted = rf"no module [a-z_.]+, which an encoder of kind {kind} needs: pip install 'avcil\[encoders\]'"
        assert re.fullmatch(wanted, line), line


def test_ray_names_its_extra(monkeypatch):
    from avcil.base import ray

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"^compute\.engine: ray, but .* pip install 'avcil\[ray\]'$"):
        ray.connected()


# ---- the kernels, for use elsewhere


ALONE = """
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"{name} is neither torch's nor triton's", name=name)

sys.meta_path.insert(0, Blocked())
import warnings
warnings.simplefilter("ignore")  # torch's, that there is no NumPy
import torch
from avcil import kernels
query, tokens, weight = torch.randn(2, 3, 1, 8), torch.randn(2, 3, 5, 8, requires_grad=True), torch.randn(8, 8)
found = kernels.guided_attention(query, tokens, weight, weight, weight[0], heads=2)
found.output.sum().backward()
assert tokens.grad.abs().sum() > 0
if importlib.util.find_spec("triton"):
    from avcil.kernels import triton_channelwise, triton_distillation
print(*sorted(name for name in sys.modules if name.split(".")[0] == "avcil"))
"""


def closure(name: str) -> set[str]:
    """A distribution and all that it asks for, directly or not, on this machine."""
    found: set[str] = set()
    waiting = {name}
    while waiting:
        found |= waiting
        asked = [Requirement(line) for one in waiting for line in requires(one) or []]
        waiting = {canonicalize_name(r.name) for r in asked if not r.marker or r.marker.evaluate({"extra": ""})} - found
    return found


def test_kernels_need_torch_and_triton_alone():
    """No NumPy, nothing of ours but what every `import avcil` has: they can be taken into another project."""
    brought = closure("torch")
    blocked = {package for package, found in distributions().items() if not found & brought} - {"avcil"}
    assert {"numpy", "pandas", "pydantic", "yaml"} <= blocked and not {"torch", "triton"} & blocked
    # Triton's interpreter, for machines without a GPU, does want NumPy
    done = python(f"import importlib.util\nBLOCKED = {blocked!r}\n{ALONE}", TRITON_INTERPRET="0")
    assert done.returncode == 0, done.stderr
    ours = {name for name in done.stdout.split() if not name.startswith("avcil.kernels")}
    assert ours == {"avcil", "avcil.base", "avcil.base.garbage", "avcil.base.heap", "avcil.base.portable"}
