"""`make verify`: tables made by hand, committed in a repository of their own, against others that stand there."""

import csv
import hashlib
import io
import json
import re
import subprocess

import pytest
import torch
import yaml

from avcil.base import portable
from avcil.params import whole
from avcil.workshop import probe, verify
from conftest import ROOT

# three seeds: t(0.975, 2) = 4.303, so that half an interval of a spread of 0.02 is 4.303 x 0.02 / √3 = 0.0497
MEANS = {
    "last_accuracy": "0.7", "last_accuracy_std": "0.02", "average_accuracy": "0.8", "average_accuracy_std": "0.02",
    "forgetting_mean": "0.2", "forgetting_mean_std": "0.02", "forgetting_last": "", "forgetting_last_std": "",
    "retention": "0.5", "seeds": "3",
}  # fmt: skip
NO_SPREAD = {f"{measure}_std": "0.0" for measure in verify.MEASURES}
ONE_SEED = {f"{measure}_std": "" for measure in verify.MEASURES} | {"seeds": "1"}


def text(*lines: dict[str, str]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, lines[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue()


def summary(**rows: dict[str, str]) -> str:
    return text(*({"setting": "standard", "method": name} | MEANS | changed for name, changed in rows.items()))


def seeds(**rows: str) -> str:
    """One accuracy a row; whose seeds are more than one, has them elsewhere."""
    return text(*({"setting": "standard", "method": name, "seed": "0", "last_accuracy": a} for name, a in rows.items()))


def cost(seconds: str) -> str:
    return text({"setting": "standard", "method": "acil", "seconds": seconds})


class Project:
    """A folder under git with four tables, those of two stages; and what `verify` says of it."""

    def __init__(self, folder, capsys):
        self.folder, self.capsys = folder, capsys
        self.git("init", "-q")
        self.ask(["lll_prior", "replay", "acil"])
        self.write("summary.csv", summary(lll_prior={}, replay={}, acil={}))
        self.write("seeds.csv", seeds(lll_prior="0.7", replay="0.6", acil="0.7"))
        self.write("cost.csv", cost("1.5"))
        self.write("prior.csv", "prior\nmini\n")

    def ask(self, rows):
        """params.yaml as it is, for `rows`."""
        raw = whole(ROOT / "params.yaml") | {"rows": rows}
        (self.folder / "params.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))

    def git(self, *arguments):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments], cwd=self.folder, check=True)

    def write(self, name, content):
        (self.folder / "metrics").mkdir(exist_ok=True)
        (self.folder / "metrics" / name).write_text(content)

    def commit(self):
        self.git("add", "metrics")
        self.git("commit", "-q", "--allow-empty", "-m", "tables")

    def run_stages(self, *notebooks):
        """As DVC leaves it: executed notebooks, and their md5 in dvc.lock."""
        outs = []
        for name in notebooks:
            file = self.folder / f"artifacts/notebooks/{name}.ipynb"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{{{name}}}")
            outs.append(f"    - path: {file.name}\n      md5: {hashlib.md5(file.read_bytes()).hexdigest()}\n")
        (self.folder / "dvc.lock").write_text("".join(outs))

    def verify(self, *arguments):
        """Exit status, outcomes by row, and all that was said."""
        with pytest.raises(SystemExit) as stopped:
            verify.main(list(arguments))
        said = self.capsys.readouterr().out
        outcomes = (verify.SAME, verify.WITHIN, verify.OUTSIDE, verify.NOT_RUN)
        found = {
            line.split()[2]: outcome
            for line in said.splitlines()
            for outcome in outcomes
            if " / " in line and line.endswith(outcome)
        }
        return stopped.value.code, found, said


@pytest.fixture
def project(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(probe, "digests", dict)
    made = Project(tmp_path, capsys)
    made.commit()
    made.run_stages("02_prior", "06_ablations")
    return made


def test_the_same_bytes_whatever_the_seconds(project):
    project.write("cost.csv", cost("99.0"))
    status, found, said = project.verify()
    assert status == 0 and found == dict.fromkeys(("lll_prior", "replay", "acil"), verify.SAME)
    assert "3 rows: 3 same bytes" in said
    # and yet git sees other bytes
    assert "not as committed in metrics/ and figures/: metrics/cost.csv" in said


@pytest.mark.parametrize(
    ("committed", "here", "reason"),
    {
        "another column alone": ({}, {"retention": "0.9"}, None),
        "just within": ({}, {"last_accuracy": "0.7496"}, None),
        "just outside": (
            {},
            {"last_accuracy": "0.7498"},
            "last_accuracy 70.0 committed, 75.0 here: +5.0, allowed ± 5.0",
        ),
        "outside, below": ({}, {"average_accuracy": "0.7"}, "average_accuracy 80.0 committed, 70.0 here: -10.0"),
        "outside in forgetting": ({}, {"forgetting_mean": "0.3"}, "forgetting_mean 20.0 committed, 30.0 here: +10.0"),
        "no spread, a clip": (NO_SPREAD, {"last_accuracy": "0.703"}, None),
        "no spread, two clips": (NO_SPREAD, {"last_accuracy": "0.705"}, "last_accuracy 70.0 committed, 70.5 here"),
        "one seed, a clip": (ONE_SEED, {"last_accuracy": "0.697"}, None),
        "one seed, two clips": (ONE_SEED, {"last_accuracy": "0.695"}, "allowed ± 0.3"),
        "fewer seeds": ({}, {"seeds": "2"}, "3 seeds committed, 2 here"),
        "a measure too many": ({}, {"forgetting_last": "0.1"}, "forgetting_last is given on one side only"),
        "not a number": ({}, {"last_accuracy": "nan"}, "last_accuracy 70.0 committed, nan here"),
    }.values(),
)
def test_within_and_outside_the_interval(project, committed, here, reason):
    project.write("summary.csv", summary(lll_prior=committed, replay={}, acil={}))
    project.commit()
    project.write("summary.csv", summary(lll_prior=committed | here, replay={}, acil={}))
    status, found, said = project.verify()
    outcome = verify.OUTSIDE if reason else verify.WITHIN
    assert (status, found["lll_prior"], found["replay"]) == (int(bool(reason)), outcome, verify.SAME)
    assert (reason or "") in said and f"3 rows: 2 same bytes, 1 {outcome}" in said


def test_single_seeds_count_where_means_agree(project):
    project.write("seeds.csv", seeds(lll_prior="0.7", replay="0.5", acil="0.7"))
    assert project.verify()[:2] == (0, {"lll_prior": verify.SAME, "replay": verify.WITHIN, "acil": verify.SAME})
    (project.folder / "metrics/seeds.csv").unlink()
    status, found, said = project.verify()
    assert (status, found) == (0, dict.fromkeys(("lll_prior", "replay", "acil"), verify.WITHIN))
    assert "not as committed in metrics/ and figures/: metrics/seeds.csv" in said


def test_a_row_on_one_side_only_is_outside(project):
    project.write("summary.csv", summary(lll_prior={}, ncm={}, acil={}))
    status, found, said = project.verify()
    assert status == 1
    assert found == {"lll_prior": verify.SAME, "replay": verify.OUTSIDE, "ncm": verify.OUTSIDE, "acil": verify.SAME}
    assert "committed, but not here" in said and "not among the committed rows" in said


def test_rows_of_two_settings_are_two_rows(project):
    both = summary(lll_prior={}) + summary(lll_prior={"setting": "tasks_10"}).splitlines(keepends=True)[1]
    project.write("summary.csv", both)
    project.commit()
    project.write("summary.csv", both.replace("tasks_10,lll_prior,0.7,", "tasks_10,lll_prior,0.1,"))
    status, _, said = project.verify()
    assert status == 1 and "2 rows: 1 same bytes, 1 outside" in said
    outcomes = dict(re.findall(r"^(\w+ / lll_prior) .*  (same bytes|outside)$", said, re.M))
    assert outcomes == {"standard / lll_prior": verify.SAME, "tasks_10 / lll_prior": verify.OUTSIDE}


def test_what_git_put_there_is_no_result_of_this_machine(project):
    # of rows that nobody asked for, the committed lines are kept
    project.ask(["lll_prior", "replay"])
    status, found, said = project.verify()
    assert status == 0 and found == {"lll_prior": verify.SAME, "replay": verify.SAME}
    assert "3 rows: 2 same bytes, 1 not run here" in said
    # another run's results were pulled: dvc.lock names their notebook, and that of this machine stands there
    (project.folder / "artifacts/notebooks/06_ablations.ipynb").write_text("{older}")
    status, found, said = project.verify()
    assert (status, found) == (0, {}) and "3 rows: 3 not run here" in said
    assert "metrics/summary.csv: not run here, 3 rows as committed" in said
    (project.folder / "artifacts/notebooks/06_ablations.ipynb").unlink()
    assert "3 rows: 3 not run here" in project.verify()[2]
    # other numbers are told of, whoever made them
    project.write("summary.csv", summary(lll_prior={"last_accuracy": "0.5"}, replay={}, acil={}))
    assert project.verify()[:2] == (1, {"lll_prior": verify.OUTSIDE})


@pytest.mark.parametrize("nothing", ["no repository", "no commit", "no table committed", "no table here"])
def test_where_there_is_nothing_to_compare_one_line_says_so(tmp_path, monkeypatch, capsys, nothing):
    monkeypatch.chdir(tmp_path)
    if nothing != "no repository":
        project = Project(tmp_path, capsys)
    if nothing == "no table committed":
        project.git("commit", "-q", "--allow-empty", "-m", "nothing")
    if nothing == "no table here":
        project.commit()
        (tmp_path / "metrics/summary.csv").unlink()
    with pytest.raises(SystemExit) as stopped:
        verify.main([])
    expected = {
        "no repository": "not a git repository",
        "no commit": "with a commit of git",
        "no table committed": "metrics/summary.csv is not committed",
        "no table here": "metrics/summary.csv is missing: `make repro` makes it",
    }
    assert expected[nothing] in stopped.value.code and "\n" not in stopped.value.code


def test_a_damaged_table_is_named(project):
    project.write("summary.csv", summary(lll_prior={"last_accuracy": "much"}, replay={}, acil={}))
    with pytest.raises(SystemExit) as stopped:
        verify.main([])
    assert "metrics/summary.csv cannot be compared" in stopped.value.code and "much" in stopped.value.code


# ---- on what tables were made


def made_on(project) -> dict:
    return json.loads((project.folder / verify.MADE_ON).read_text())


def test_what_each_table_was_made_on_is_recorded_beside_it(project):
    project.write("search.csv", "trial\nlll\n")
    project.commit()
    project.verify("--record")
    first = made_on(project)
    assert first["metrics/seeds.csv"] == {
        "sha256": hashlib.sha256(seeds(lll_prior="0.7", replay="0.6", acil="0.7").encode()).hexdigest(),
        "processor": portable.processor(), "portable": portable.in_force(), "threads": torch.get_num_threads(),
        "versions": probe.versions(), "lines_of": [],
    }  # fmt: skip
    # nothing tells that this one was made here
    assert first["metrics/search.csv"]["processor"] is None and len(first) == 5
    project.write("cost.csv", cost("99.0"))
    assert "metrics/made_on.json: unchanged" in project.verify("--record")[2] and made_on(project) == first


def test_same_bytes_keep_their_record_and_other_bytes_make_a_new_one(project, monkeypatch):
    project.verify("--record")
    first = made_on(project)
    monkeypatch.setattr(portable, "processor", lambda: "another")
    project.run_stages("06_ablations")
    project.write("summary.csv", summary(lll_prior={"retention": "0.6"}, replay={}, acil={}))
    said = project.verify("--record")[2]
    second = made_on(project)
    assert second["metrics/summary.csv"]["processor"] == "another"
    assert second["metrics/summary.csv"]["lines_of"] == [first["metrics/summary.csv"]["processor"]]
    assert second["metrics/summary.csv"]["sha256"] != first["metrics/summary.csv"]["sha256"]
    assert all(second[f"metrics/{name}.csv"] == first[f"metrics/{name}.csv"] for name in ("seeds", "cost", "prior"))
    assert "metrics/made_on.json: metrics/summary.csv" in said
    # summary.csv is not as committed, so that three tables are left
    project.git("checkout", "-q", "metrics/summary.csv")
    assert f"3 of 4 committed tables were made on {first['metrics/seeds.csv']['processor']}" in project.verify()[2]


def test_the_committed_tables_are_those_of_the_record():
    """After results are committed anew: `python -m avcil.workshop.verify --record`, and commit metrics/made_on.json."""
    record = json.loads(verify.git(ROOT, "show", f"HEAD:./{verify.MADE_ON}"))
    tables = {name: verify.table_digest(content) for name, content in verify.committed(ROOT).items()}
    assert {name: made["sha256"] for name, made in record.items()} == tables
    keys = {"sha256", "processor", "portable", "threads", "versions"}
    assert all(keys <= set(made) for made in record.values() if made["processor"])
