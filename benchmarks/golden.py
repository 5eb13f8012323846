"""Record what the authors' model and losses give on drawn inputs, in tests/learn/golden_official.json.

The inputs are those of ``golden_inputs`` in tests/learn/test_golden_official.py. Functions of theirs are called; what
exists only inside their train() is run from its source: the statements of a training step up to ``model.zero_grad()``,
compiled from their file and given the variables that they use. So no value is derived again (but for one sum, see
REDERIVED), and nothing of theirs is kept. Everything is computed twice, in float32 (recorded) and in float64, and the
largest difference of each group is recorded too.

    python benchmarks/golden.py --official PATH

Dimension letters: as in tests/learn/test_golden_official.py.
"""

import argparse
import ast
import importlib.util
import json
import runpy
import sys
from argparse import Namespace
from itertools import takewhile
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

import authors_step
from authors import free_shadowed_functions, hush_pinned_memory, skip_figures, stub_missing_modules
from authors_step import loop_body, zeroes_gradients

TESTS = Path(__file__).resolve().parents[1] / "tests/learn"
RECIPE = runpy.run_path(str(TESTS / "test_golden_official.py"), run_name="recipe")
NEW, C, P, PROJECTIONS = RECIPE["NEW"], RECIPE["C"], RECIPE["P"], RECIPE["PROJECTIONS"]
STEP, PER_TASK = 3, 2
REDERIVED = ["kd_ragged.sum"]
SETTINGS = Namespace(
    **vars(authors_step.SETTINGS) | {"class_num_per_step": PER_TASK},
    lam_disc=0.5,
    gen_exem_batch_size=8,
    num_workers=0,
)


class Official(dict):
    """Their modules by the name of the file, in short, and the source of each."""

    def __init__(self, root: Path):
        sys.dont_write_bytecode = True
        stub_missing_modules()
        skip_figures()
        hush_pinned_memory()
        sys.path.insert(0, str(root))
        scripts = (
            "ours/train_incremental_ours.py",
            "AFC/train_incremental_afc.py",
            "iCaRL/train_incremental_icarl.py",
            "LwF/train_incremental_lwf.py",
            "model/layers.py",
            "model/audio_visual_model_incremental.py",
        )
        self.source = {}
        for script in scripts:
            path = root / script
            sys.path.insert(0, str(path.parent))
            name = path.stem.replace("train_incremental_", "")
            self[name], self.source[name] = self._load(path, script), path.read_text()
            sys.path.remove(str(path.parent))

    def _load(self, path: Path, script: str) -> ModuleType:
        # the name gives the model's relative import its package
        name = script.removesuffix(".py").replace("/", ".")
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        # no progress bars
        module.tqdm = iter
        return module

    def training_step(self, name: str, **variables) -> dict:
        """Run the body of the innermost training loop of train() up to ``model.zero_grad()``; its variables after."""
        tree = free_shadowed_functions(ast.parse(self.source[name]))
        train = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "train")
        body = list(takewhile(lambda line: not zeroes_gradients(line), loop_body(train)))
        space = dict(vars(self[name])) | variables
        exec(compile(ast.Module(body, []), name, "exec"), space)
        return space


def record(official: Official, dtype: torch.dtype) -> dict:
    """All values, as nested dicts of tensors, lists and numbers, computed in ``dtype``."""
    torch.set_default_dtype(dtype)
    drawn = {name: torch.as_tensor(array) for name, array in RECIPE["golden_inputs"]().items()}
    drawn = {name: array.to(dtype) if array.is_floating_point() else array for name, array in drawn.items()}
    clips = (drawn["visual"], drawn["audio"], drawn["labels"])
    new, exemplars = (((v, a), y) for v, a, y in (_rows(clips, slice(0, NEW)), _rows(clips, slice(NEW, None))))
    step = {
        "device": torch.device("cpu"),
        "T": 2,
        "step": STEP,
        "step_out_class_num": C,
        "last_step_out_class_num": P,
        "args": SETTINGS,
    }
    return {
        "forward": forward(network(official, drawn, "new"), *clips[:2]),
        "avcil": avcil(official, drawn, step | {"samples": (new, exemplars)}),
        "lwf": lwf(official, drawn, step | {"samples": new}),
        "kd_ragged": ragged(official, drawn, step),
        "icarl": icarl(official, drawn),
        "afc": afc(official, drawn, step | {"samples": ((drawn["visual"], drawn["audio"]), drawn["labels"])}),
        "lsc": lsc(official, drawn),
        "herding": herding(official, drawn),
    }


def _rows(arrays, rows: slice) -> tuple:
    return tuple(array[rows] for array in arrays)


def network(official: Official, drawn: dict, which: str, proxies: bool = False) -> torch.nn.Module:
    """Their model with the weights drawn; with ``proxies`` it has AFC's classifier, split as from task 1 on."""
    model = official["audio_visual_model_incremental"].IncreAudioVisualNet(SETTINGS, C if which == "new" else P)
    own = {name.removeprefix(f"{which}."): value for name, value in drawn.items() if name.startswith(f"{which}.")}
    model.load_state_dict({name: own[name].clone() for name in model.state_dict()})
    if proxies:
        rows, factor = drawn[f"{which}.proxies"], drawn["factors"][["new", "old"].index(which)]
        model.classifier = official["layers"].SplitLSCLinear(rows.shape[1], P, C - P)
        split = P * model.classifier.fc1.K
        model.classifier.fc1.weight.data, model.classifier.fc2.weight.data = rows[:split].clone(), rows[split:].clone()
        model.classifier.factor.data = factor.clone()
    return model


def forward(model: torch.nn.Module, visual, audio) -> dict:
    logits, fused, audio_unit, visual_unit, spatial, temporal = model(
        visual=visual, audio=audio, out_features=True, out_feature_before_fusion=True, out_attn_score=True
    )
    _, pooled, audio_feature, visual_feature = model(visual=visual, audio=audio, AFC_train_out=True)
    return {
        "logits": logits.tolist(),
        "audio": audio_feature,
        "visual_pooled": pooled,
        "visual": visual_feature,
        "fused": fused,
        "audio_unit": audio_unit,
        "visual_unit": visual_unit,
        "spatial": spatial,
        "temporal": temporal,
    }


def avcil(official: Official, drawn: dict, step: dict) -> dict:
    model = network(official, drawn, "new")
    after = official.training_step("ours", model=model, old_model=network(official, drawn, "old"), **step)
    after["loss"].backward()
    names = {
        "ce_new": "loss_curr",
        "ce_exemplar": "loss_prev",
        "ce": "loss_CE",
        "kd": "loss_KD",
        "instance_contrastive": "instance_contra_loss",
        "class_contrastive": "class_contra_loss",
        "spatial_distillation": "spatial_attn_dist_loss",
        "temporal_distillation": "temporal_attn_dist_loss",
        "loss": "loss",
    }
    values = {name: after[theirs].item() for name, theirs in names.items()}
    # SS-IL's step is these same statements without the optional terms
    bare = Namespace(**vars(SETTINGS) | dict.fromkeys(("instance_contrastive", "class_contrastive"), False))
    bare.attn_score_distil = False
    without = official.training_step(
        "ours",
        **step | {"args": bare},
        model=network(official, drawn, "new"),
        old_model=network(official, drawn, "old"),
    )
    # and the loss of task 0, on the new clips alone, as if all 8 classes were its own
    first = step | {"step": 0, "samples": step["samples"][0]}
    zero = official.training_step("ours", model=network(official, drawn, "new"), **first)
    values |= {"loss_without_contrast_and_attention": without["loss"].item(), "loss_first_task": zero["loss"].item()}
    return values | {"gradient_norms": gradients(model)}


def lwf(official: Official, drawn: dict, step: dict) -> dict:
    model = network(official, drawn, "new")
    after = official.training_step("lwf", model=model, old_model=network(official, drawn, "old"), **step)
    after["loss"].backward()
    values = {"kd": after["loss_KD"].item(), "ce": after["CE_loss_value"].item(), "loss": after["loss"].item()}
    return values | {"gradient_norms": gradients(model)}


def ragged(official: Official, drawn: dict, step: dict) -> dict:
    """Their distillation knows tasks of equal size only: one call a task, on its slice as if it were the only one."""
    terms = []
    for start, end in zip(drawn["logits_tasks"][:-1], drawn["logits_tasks"][1:], strict=True):
        wide = torch.cat([drawn["logits"][:, start:end], drawn["logits"][:, -1:]], 1)
        given = {
            "model": lambda wide=wide, **_: wide,
            "old_model": lambda start=start, end=end, **_: drawn["old_logits"][:, start:end],
            "args": Namespace(modality="audio-visual", class_num_per_step=int(end - start)),
            "last_step_out_class_num": int(end - start),
            "samples": ((drawn["logits"], drawn["logits"]), torch.zeros(len(wide), dtype=torch.long)),
            "step": 1,
        }
        space = step | given
        # the cross-entropy of this step is not looked at, but must not fail: one new class, label 0
        space["CE_loss"] = lambda *_: torch.zeros(())
        terms.append(official.training_step("lwf", **space)["loss_KD"].item())
    return {"terms": terms, "sum": sum(terms)}


def icarl(official: Official, drawn: dict) -> dict:
    loss, logits, labels = official["icarl"].iCaRL_loss, drawn["logits"], drawn["logits_labels"]
    return {
        "ce": official["icarl"].CE_loss(logits.shape[1], logits, labels).item(),
        "loss_first_task": loss(logits.shape[1], logits, labels).item(),
        "loss": loss(logits.shape[1], logits, labels, old_target=drawn["old_logits"]).item(),
    }


def afc(official: Official, drawn: dict, step: dict) -> dict:
    model, old = network(official, drawn, "new", proxies=True), network(official, drawn, "old", proxies=True)
    after = official.training_step("afc", model=model, old_model=old, **step)
    # the old model's gradients are a by-product of the importances
    model.zero_grad()
    after["loss"].backward()
    nca = official["afc"].nca
    shares = {"audio": "norm_I_audio", "visual": "norm_I_visual", "visual_pooled": "norm_I_visual_pooled"}
    terms = {name: f"loss_I_{name}" for name in shares}
    return {
        "nca_old_model": after["prev_loss_cls"].item(),
        "nca": after["loss_cls"].item(),
        "nca_of_logits": {
            scale: nca(drawn["logits"], drawn["logits_labels"], scale=scale).item() for scale in (1.0, 3.0)
        },
        "importance": {name: after[theirs].tolist() for name, theirs in shares.items()},
        "discrepancy_terms": {name: after[theirs].item() for name, theirs in terms.items()},
        "discrepancy": after["loss_disc"].item(),
        "weight": after["lam_disc"] * after["lam_t"],
        "loss": after["loss"].item(),
        "gradient_norms": gradients(model),
    }


def lsc(official: Official, drawn: dict) -> dict:
    """Scores of one unsplit and one split classifier on the fused features; the same rows must give the same scores."""
    layers, rows = official["layers"], drawn["new.proxies"]
    features = network(official, drawn, "new")(
        visual=drawn["visual"], audio=drawn["audio"], out_logits=False, out_features=True
    )
    whole = layers.LSCLinear(rows.shape[1], C)
    whole.weight.data = rows.clone()
    split = network(official, drawn, "new", proxies=True).classifier
    return {"scores": whole(features).tolist(), "scores_split": split(features).tolist()}


class Clips(torch.utils.data.Dataset):
    """The part of their loader that herding asks: (audio, vid, class) of new clips, then of old exemplars."""

    def __init__(self, features, labels, rows: list[int]):
        self.features, self.labels, self.own, self.rows = features, labels, rows, rows

    def _switch_gen_exemplar(self, old) -> None:
        self.rows = self.own + ([] if old is None else [int(vid) for vid in old.ravel() if vid is not None])

    def _switch_train(self) -> None:
        self.rows = self.own

    def _conbine_exemplar(self) -> None:
        pass

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int):
        row = self.rows[index]
        return self.features[row], str(row), self.labels[row]


class Normaliser(torch.nn.Module):
    """Their model as herding sees it: unit features."""

    def forward(self, audio, **_):
        return torch.nn.functional.normalize(audio)


def herding(official: Official, drawn: dict) -> dict:
    """Two tasks: classes 0 and 1 with 14 exemplars a class asked of 12 clips, and with 6; then class 2 with 4.

    Rows of ``herding`` in the order chosen, None where a class is too small; means, and nearest means of all 36 clips.
    """
    choose, labels = official["icarl"].gen_step_exemplar_set, drawn["herding_labels"]
    args = Namespace(modality="audio", gen_exem_batch_size=8, num_workers=0, class_num_per_step=2)
    chosen = {}
    for name, asked in (("first_of_2_classes_14_each", 14), ("first_of_2_classes_6_each", 6)):
        features, vids = choose(args, Normaliser(), 0, Clips(drawn["herding"], labels, list(range(24))), asked, None)
        chosen[name] = _picks(features, vids)
    # one class a task makes class 2 task 2
    args.class_num_per_step = 1
    features, vids = choose(args, Normaliser(), 2, Clips(drawn["herding"], labels, list(range(24, 36))), 4, vids)
    chosen["then_1_class_4_each"] = _picks(features, vids)
    means = np.mean(features, axis=1)
    return chosen | {"nearest_mean": official["icarl"].classify(drawn["herding"], means).tolist()}


def _picks(features: np.ndarray, vids: np.ndarray) -> dict:
    rows = [[None if vid is None else int(vid) for vid in line] for line in vids]
    return {"rows": rows, "means": torch.as_tensor(np.mean(features, axis=1))}


def gradients(model: torch.nn.Module) -> dict[str, float | None]:
    """Frobenius norms by parameter; None where the loss does not reach it."""
    return {name: None if p.grad is None else p.grad.norm().item() for name, p in model.named_parameters()}


# writing -------------------------------------------------------------------------------------------------------------


def summary(value: torch.Tensor) -> dict:
    """Shape, sum, sum of squares (both added up in float64), and entries at twelve evenly spaced flat indices."""
    flat = value.detach().flatten()
    at = [i * (len(flat) - 1) // 11 for i in range(12)]
    sums = {"sum": flat.double().sum().item(), "square_sum": flat.double().square().sum().item()}
    return {"shape": list(value.shape), **sums, "flat_indices": at, "entries": flat[at].tolist()}


def plain(value):
    """Tensors summarised, floats rounded to 7 significant digits."""
    if isinstance(value, torch.Tensor):
        value = summary(value)
    if isinstance(value, dict):
        return {str(name): plain(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    return float(f"{value:.7g}") if isinstance(value, float) else value


def deviation(value, exact) -> float:
    """Largest difference of two trees, relative to the largest magnitude beside it in the same list."""
    if isinstance(value, dict):
        return max(deviation(value[name], exact[name]) for name in value)
    if isinstance(value, list) and value and isinstance(value[0], list | dict):
        return max(map(deviation, value, exact))
    pairs = [(a, b) for a, b in zip(*(np.atleast_1d(x).tolist() for x in (value, exact)), strict=True) if a is not None]
    return max(abs(a - b) for a, b in pairs) / max(max(abs(b) for _, b in pairs), 1e-12) if pairs else 0.0


def layout(value, indent: int = 0) -> str:
    """JSON with lists on one line."""
    if not isinstance(value, dict):
        return json.dumps(value)
    inner = ",\n".join(f"{' ' * (indent + 1)}{json.dumps(k)}: {layout(v, indent + 1)}" for k, v in value.items())
    return f"{{\n{inner}\n{' ' * indent}}}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--official", type=Path, required=True, help="checkout of weiguoPian/AV-CIL_ICCV2023")
    torch.set_num_threads(1)
    official = Official(parser.parse_args().official.resolve())
    values, exact = (plain(record(official, dtype)) for dtype in (torch.float32, torch.float64))
    arrays = RECIPE["golden_inputs"]().items()
    golden = {
        "source": "https://github.com/weiguoPian/AV-CIL_ICCV2023, run by benchmarks/golden.py",
        "torch": torch.__version__,
        "rederived": REDERIVED,
        "deviation_from_float64": {name: plain(deviation(values[name], exact[name])) for name in values},
        "inputs": {n: {"shape": list(a.shape), "checksum": plain(RECIPE["checksum"](a))} for n, a in arrays},
        **values,
    }
    (TESTS / "golden_official.json").write_text(layout(golden) + "\n")


if __name__ == "__main__":
    main()
