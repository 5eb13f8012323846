"""Small files, written so that a killed run never leaves half of one, and the same content gives the same bytes."""

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
from torch import Tensor


def write_bytes(path: Path, content: bytes) -> None:
    """Write to a temporary file beside ``path``, then rename. Raises OSError naming the file, and leaves nothing."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # else a power cut may leave the new name with nothing behind it
        temporary.replace(path)
    except OSError as error:
        way_out = "make room, or make its folder writable, and run this again"
        raise OSError(error.errno, f"{error.strerror}; {way_out}", str(path)) from None
    finally:
        with suppress(OSError):
            temporary.unlink()


def _json(value) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def write_json(path: Path, value) -> None:
    write_bytes(path, _json(value))


def write_sealed(path: Path, value: dict) -> None:
    """`write_json`, with the digest of the rest as one more entry, ``digest``."""
    content = _json(json.loads(_json(value)))  # keys are text in the file: sorted as such
    write_json(path, json.loads(content) | {"digest": digest(content)})


def read_sealed(path: Path) -> dict:
    """What `write_sealed` wrote, without the digest. A file of before there were digests is read as it is.

    Raises ValueError naming the file if it is missing, cut or changed.
    """
    try:
        value = json.loads(path.read_text("utf-8"))
        sealed = value.pop("digest", None)
        if sealed in (None, digest(_json(value))):
            return value
        reason = "another digest than it was written with"
    except (OSError, ValueError, AttributeError, TypeError) as error:
        reason = " ".join(str(error).split())
    raise ValueError(f"{path}: damaged ({reason}); delete its folder and run its stage again")


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> str:
    """Returns the digest of what was written.

    No metadata: with two or more entries safetensors writes its header in random order (safetensors issue 584).
    """
    content = safetensors.torch.save({name: tensor.contiguous() for name, tensor in tensors.items()})
    write_bytes(path, content)
    return digest(content)


def read_tensors(path: Path, expected: str | None = None) -> dict[str, Tensor]:
    """Raises ValueError naming the file if it is missing, damaged, or has another digest than the ``expected``."""
    try:
        if expected is not None and digest(path.read_bytes()) != expected:
            reason = "another digest than it was written with"
            raise ValueError(f"{path}: damaged ({reason}); delete its folder and run its stage again")
        return safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); delete it and run its stage again") from None


def digest(content: bytes | np.ndarray) -> str:
    """First 16 hexadecimal digits of SHA-256."""
    return hashlib.sha256(content if isinstance(content, bytes) else content.data).hexdigest()[:16]
