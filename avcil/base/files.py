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

from avcil.base.refusal import Refusal


def unfinished(path: Path) -> Path:
    """The name beside ``path`` under which this process makes it; `alone` clears away what a killed one left."""
    return path.with_name(f".{path.name}.{os.getpid()}.unfinished")


def write_bytes(path: Path, content: bytes) -> None:
    """Write to a temporary file beside ``path``, then rename. Raises OSError naming the file, and leaves nothing."""
    temporary = unfinished(path)
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


def json_bytes(value) -> bytes:
    """The same value gives the same bytes."""
    return (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def write_json(path: Path, value) -> None:
    write_bytes(path, json_bytes(value))


def write_sealed(path: Path, value: dict) -> None:
    """`write_json`, with the digest of the rest as one more entry, ``digest``."""
    content = json_bytes(json.loads(json_bytes(value)))  # keys are text in the file: sorted as such
    write_json(path, json.loads(content) | {"digest": digest(content)})


def read_sealed(path: Path) -> dict:
    """What `write_sealed` wrote, without the digest. A file of before there were digests is read as it is.

    Raises ValueError naming the file if it is missing, cut or changed.
    """
    try:
        value = json.loads(path.read_text("utf-8"))
        sealed = value.pop("digest", None)
        if sealed in (None, digest(json_bytes(value))):
            return value
        reason = "another digest than it was written with"
    except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
        reason = " ".join(str(error).split())
    raise Refusal(f"{path}: damaged ({reason}); delete its folder and run its stage again")


def seal_of(path: Path) -> Path:
    """The file beside ``path`` that holds its digest, as ``sha256sum`` writes and checks it."""
    return path.with_name(f"{path.name}.sha256")


def write_with_seal(path: Path, content: bytes) -> None:
    """`write_bytes`, and the digest beside it: for files that others read too, whose own content may not change."""
    seal_of(path).unlink(missing_ok=True)  # killed in between, new content has no digest rather than an old one
    write_bytes(path, content)
    write_bytes(seal_of(path), f"{hashlib.sha256(content).hexdigest()}  {path.name}\n".encode())


def check_seal(path: Path) -> None:
    """Raises ValueError naming the file if it has another digest than the one beside it. There may be none."""
    seal = seal_of(path)
    if seal.is_file() and seal.read_bytes().split()[:1] != [hashlib.sha256(path.read_bytes()).hexdigest().encode()]:
        way_out = f"make or copy it again, or delete {seal.name} if it was edited on purpose"
        raise Refusal(f"{path}: another digest than in {seal.name}; {way_out}")


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> str:
    """Returns the digest of what was written.

    No metadata: with two or more entries safetensors writes its header in random order (safetensors issue 584).
    """
    content = tensor_bytes(tensors)
    write_bytes(path, content)
    return digest(content)


def tensor_bytes(tensors: dict[str, Tensor]) -> bytes:
    return safetensors.torch.save({name: tensor.contiguous() for name, tensor in tensors.items()})


def read_tensors(path: Path, expected: str | None = None) -> dict[str, Tensor]:
    """Raises ValueError naming the file if it is missing, damaged, or has another digest than the ``expected``."""
    try:
        if expected is not None and digest(path.read_bytes()) != expected:
            reason = "another digest than it was written with"
            raise Refusal(f"{path}: damaged ({reason}); delete its folder and run its stage again")
        return safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise Refusal(f"{path}: cannot be read ({error}); delete it and run its stage again") from None


def file_digest(path: Path) -> str:
    """`digest` of a file's content, which need not fit in memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def digest(content: bytes | np.ndarray) -> str:
    """First 16 hexadecimal digits of SHA-256."""
    return hashlib.sha256(content if isinstance(content, bytes) else content.data).hexdigest()[:16]
