"""A training step of AV-CIL's authors (Pian et al., ICCV 2023) from a checkout of their code. Needs torch alone.

Their code has no licence, so none of it is here: the model's file is imported from the user's path, and statements that
exist only inside their train() are compiled from their source, as functions of the variables that they use.
"""

import ast
import importlib.util
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

SCRIPT, MODEL = "ours/train_incremental_ours.py", "model/audio_visual_model_incremental.py"
# what run_incremental_ours.sh passes for AVE
SETTINGS = Namespace(
    dataset="AVE",
    modality="audio-visual",
    class_num_per_step=7,
    instance_contrastive=True,
    class_contrastive=True,
    attn_score_distil=True,
    instance_contrastive_temperature=0.05,
    class_contrastive_temperature=0.05,
    lam=0.5,
    lam_I=0.5,
    lam_C=1.0,
)
STEP = [
    *("samples", "model", "old_model", "opt", "device", "args", "T", "step"),
    *("step_out_class_num", "last_step_out_class_num", "train_loss", "num_steps"),
]


def loop_body(tree: ast.AST) -> list[ast.stmt]:
    """The statements of the training loop: the one that begins its backward pass with ``model.zero_grad()``."""
    loops = (node.body for node in ast.walk(tree) if isinstance(node, ast.For))
    return next(body for body in loops if any(map(zeroes_gradients, body)))


def zeroes_gradients(line: ast.stmt) -> bool:
    return ast.unparse(line) == "model.zero_grad()"


class Authors:
    """Their code at ``root``.

    distil(**maps and batch sizes) gives their two attention losses; step(**STEP) makes a whole training step, from the
    batch to ``opt.step()`` and ``loss.item()``, and gives the summed loss and the count of steps.
    """

    def __init__(self, root: Path):
        if not (root / SCRIPT).is_file():
            raise FileNotFoundError(f"{root} is no checkout of weiguoPian/AV-CIL_ICCV2023: it has no {SCRIPT}")
        sys.dont_write_bytecode = True
        sys.path.insert(0, str(root))
        self.model = importlib.import_module(MODEL.removesuffix(".py").replace("/", ".")).IncreAudioVisualNet
        sys.path.remove(str(root))
        tree = ast.parse((root / SCRIPT).read_text())
        losses = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.endswith("loss")]
        self.space = {"torch": torch, "F": F}
        exec(compile(ast.Module(losses, []), SCRIPT, "exec"), self.space)
        body = loop_body(tree)
        self.step = self._function("step", STEP, body, "train_loss, num_steps")
        distil = next(
            node.body
            for node in ast.walk(ast.Module(body, []))
            if isinstance(node, ast.If)
            and ast.unparse(node.test) == "args.attn_score_distil"
            and "spatial_attn_dist_loss =" in ast.unparse(node)
        )
        names = ["spatial_attn_score", "temporal_attn_score", "old_spatial_attn_score", "old_temporal_attn_score"]
        names += ["data_batch_size", "exemplar_data_batch_size"]
        self.distil = self._function("distil", names, distil, "spatial_attn_dist_loss, temporal_attn_dist_loss")

    def _function(self, name: str, arguments: list[str], body: list[ast.stmt], result: str) -> Callable:
        frame = ast.parse(f"def {name}({', '.join(arguments)}):\n    return {result}")
        frame.body[0].body = [*body, *frame.body[0].body]
        exec(compile(frame, SCRIPT, "exec"), self.space)
        return self.space[name]

    def network(self, classes: int, device: torch.device) -> torch.nn.Module:
        return self.model(SETTINGS, classes).to(device)
