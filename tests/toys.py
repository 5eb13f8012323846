"""A small row and a short training for the toy data (conftest.py): what tests of several rooms learn."""

import yaml

from avcil.params.learning import Method, Task, Training
from conftest import ROOT

TASKS = [Task(**{"id": t, "from": "init" if t == 0 else f"task{t - 1}", "classes": 2, "epochs": 8}) for t in range(3)]
TRAINING = Training(
    batch=16, learning_rate=1e-2, later_learning_rate=1e-2, weight_decay=1e-2, temperature=2.0, width=16, heads=2,
    learnt_guidance=0.1, ridge_penalty=1.0, covered=0.5,
)  # fmt: skip


def row(**changes) -> Method:
    base = {
        "tokens": "mini", "fusion": "guided", "prior_guidance": 1.0, "memory": "herding", "exemplars": 3,
        "budget": "per_class", "sampler": "balanced", "feature_distillation": 1.0, "logit_distillation": 1.0,
        "classifier": "cosine", "readout": "classifier", "restart": False,
        "hooks": {"attention_distillation": {"weight": 1.0}} if changes.get("fusion", "guided") == "guided" else {},
    }  # fmt: skip
    return Method(**(base | changes))


class Reduced:
    """Pickles as a call of ``function``: what an attacker's file holds."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def digest(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def beyond_with(folder, section, changes):
    """The project's beyond.yaml with other keys in a section, in ``folder``."""
    given = yaml.safe_load((ROOT / "beyond.yaml").read_text())
    given[section] |= changes
    (folder / "beyond.yaml").write_text(yaml.safe_dump(given, sort_keys=False))
    return folder / "beyond.yaml"
