"""Weights published as a .pth file: read without running what is in it, and loaded by name."""

import argparse
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from avcil.encoders.base import WeightsError

Module = TypeVar("Module", bound=nn.Module)


def read_pth(path: str, *, terms: str, mmap: bool = False) -> dict[str, Tensor]:
    """The tensors of a local .pth file by name.

    ``terms``: where the file comes from and its licence, for the error messages. ``mmap``: of a file of gigabytes only
    what is used is read; it must have been written by torch 1.6 or later.
    Raises WeightsError if the file is missing, damaged, or holds other than tensors, numbers, text and containers.
    """
    if not Path(path).is_file():
        raise WeightsError(f"{path}: no such file. {terms}")
    # training scripts leave their options in the file as a Namespace, which runs no code
    with torch.serialization.safe_globals([argparse.Namespace]):
        try:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
        except Exception as error:  # of a damaged file torch's reader raises anything
            lines = str(error).split("\n")
            reason = next((line.strip() for line in lines if "Unsupported" in line), lines[0])[:200]
            message = f"{path}: damaged, or holds more than tensors, and running what it holds is not safe ({reason})"
            raise WeightsError(f"{message}. {terms}") from None
    # training scripts keep the model beside the optimiser, bare weights are the whole file
    content = content.get("model", content) if isinstance(content, dict) else {}
    # `model` may be a word or None there, and options may stand among the weights: whoever lacks a tensor says so
    named = content.items() if isinstance(content, dict) else ()
    return {name: value for name, value in named if isinstance(name, str) and isinstance(value, Tensor)}


def filled(module: Module, tensors: dict[str, Tensor], path: str, *, terms: str) -> Module:
    """``module`` with its own entries of ``tensors``. The file may hold other parts, but not lack any of these.

    Raises WeightsError naming what is missing or of another shape.
    """
    # others are left out here; what is lacking is for `load_state_dict` to name
    own = module.state_dict().keys() & tensors.keys()
    try:
        module.load_state_dict({name: tensors[name] for name in own})
    except RuntimeError as error:
        raise WeightsError(f"{path}: another model's weights ({' '.join(str(error).split())[:200]}). {terms}") from None
    return module
