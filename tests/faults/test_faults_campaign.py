"""The campaign in small, and its table in docs/faults.md."""

import sys

import pandas as pd
import pytest
import table

from avcil.base.refusal import Refusal
from conftest import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it forks, and counts processor time")

ROWS = pd.read_csv(ROOT / table.TABLE)
# ten inputs each take a second; these also cost most of the campaign
DEAR = (
    "params.yaml, protocols", "prior", "prior without digest", "learner's folder", "film .mp4", "film .mkv",
    "sound .wav",
)  # fmt: skip


def test_the_table_in_the_docs_is_the_campaigns():
    shown = (ROOT / table.PAGE).read_text().split(table.MARK)[1].strip()
    assert shown == table.markdown(ROWS)


def test_nothing_was_lost_crashed_hung_or_silent():
    """And nobody stayed."""
    assert not ROWS[["crashed", "hung", "silent", "lost"]].fillna(0).to_numpy().any()
    assert not ROWS.orphans.fillna(0).any()
    assert (ROWS.tried == ROWS[["same", "other", "refused", "survived"]].sum(axis=1)).all()


@pytest.mark.slow
def test_some_inputs_of_every_cheap_reader():
    import inputs

    for number, reader in enumerate(inputs.READERS):
        if reader.name not in DEAR:
            counts, wrong = inputs.tried(number, range(12), 4711)
            assert counts.total() == 12 and not wrong, reader.name


@pytest.mark.slow
def test_the_campaign_sees_what_is_wrong(monkeypatch):
    """A reader that crashes, dies, hangs, and believes anything."""
    import inputs
    import readers

    def read(folder):
        content = (folder / "a.txt").read_bytes()
        if content == b"sound" * 9:
            return "sound"
        match sum(content) % 4:
            case 0:
                raise KeyError("raw")
            case 1:
                import os

                os._exit(3)
            case 2:
                while True:
                    pass
        return "other"

    def make(folder):
        (folder / "a.txt").write_bytes(b"sound" * 9)
        return [folder / "a.txt"]

    monkeypatch.setattr(inputs, "READERS", [readers.Reader("toy", 1, make, read, checked=True)])
    monkeypatch.setattr(inputs, "SECONDS", 0.5)
    counts, wrong = inputs.tried(0, range(16), 0)
    assert counts.total() == 16 and {outcome for _, outcome, _ in wrong} == {"crashed", "hung", "silent"}
    assert any("process ended: 3" in words for *_, words in wrong) and any("KeyError" in words for *_, words in wrong)


def test_a_refusal_is_one_line_that_no_terminal_obeys():
    assert str(Refusal("row `\x1b]0;owned\x07\nä\u202e`")) == r"row `\x1b]0;owned\x07\nä\u202e`"
