"""What is carried from one task to the next: weights, solved heads, the class order so far and the exemplars' names.

A checkpoint is a folder: ``tensors.safetensors`` and ``checkpoint.json``, each written atomically; the second holds the
digests of both. The empty checkpoint, with no class, is where task 0 starts.
"""

from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from avcil.base.files import read_sealed, read_tensors, write_sealed, write_tensors
from avcil.base.refusal import Refusal


class CheckpointError(Refusal):
    """A checkpoint that cannot be continued; the message names the folder and the way out."""


class Checkpoint(NamedTuple):
    """model and readout: tensors by name; classes: labels in the order learnt; memory: clip_ids of the exemplars, in
    order of merit within each class; origin: everything that determined this checkpoint, by name."""

    model: dict[str, Tensor]
    readout: dict[str, Tensor]
    classes: list[str]
    memory: list[str]
    origin: dict


EMPTY = Checkpoint({}, {}, [], [], {})


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """The JSON file is written last: a folder that has it is whole."""
    tensors = {f"model.{name}": value for name, value in checkpoint.model.items()}
    tensors |= {f"readout.{name}": value for name, value in checkpoint.readout.items()}
    # its digest goes into the JSON file: of two saves that a kill has mixed, neither is taken for whole
    written = write_tensors(folder / "tensors.safetensors", tensors)
    state = {"classes": checkpoint.classes, "memory": checkpoint.memory, "origin": checkpoint.origin}
    write_sealed(folder / "checkpoint.json", state | {"tensors": written})


def check_order(folder: Path, checkpoint: Checkpoint, order: list[str]) -> None:
    """Raises CheckpointError if its classes are not the first of ``order``."""
    if checkpoint.classes != order[: len(checkpoint.classes)]:
        way_out = "take the data of its own seed, or delete it and run from the first task"
        raise CheckpointError(f"{folder}: learnt in another class order; {way_out}")


def load_checkpoint(folder: Path, *, order: list[str] | None = None) -> Checkpoint:
    """Raises CheckpointError if the folder holds none, a damaged one, or one whose classes are not the first of
    ``order``."""
    # told apart from damage: nothing has to be deleted here
    if not (folder / "checkpoint.json").is_file():
        raise CheckpointError(f"{folder}: no whole checkpoint; run the task that makes it")
    try:
        state = read_sealed(folder / "checkpoint.json")
        # those of older versions have no digest of their tensors
        tensors = read_tensors(folder / "tensors.safetensors", state.pop("tensors", None))
        # TypeError: an entry too many or too few, as another version would write, or of another kind
        whole = Checkpoint({}, {}, **state)
        if not (isinstance(whole.classes, list) and isinstance(whole.memory, list) and isinstance(whole.origin, dict)):
            raise TypeError
    except ValueError as error:
        raise CheckpointError(str(error)) from None
    except TypeError:
        raise CheckpointError(f"{folder}: of another version; delete it and run from the first task") from None
    if order is not None:
        check_order(folder, whole, order)
    model, readout = (
        # the first word alone is cut off: a hook's tensors go on with its name and a dot
        {name.removeprefix(part): value for name, value in tensors.items() if name.startswith(part)}
        for part in ("model.", "readout.")
    )
    return whole._replace(model=model, readout=readout)
