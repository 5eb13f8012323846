"""Compiles the Triton kernels for an H100 without one: each call below compiles what its launches would run.

A process of its own, `python tests/kernels/triton_compile.py`, because in an interpreting one nothing compiles.
Prints, by kernel and call, what ptxas and the code say.
"""

import json
import re
import subprocess
import tempfile
from pathlib import Path
from types import SimpleNamespace

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import JITFunction

from avcil.kernels.reference import OldAttention
from avcil.kernels.triton_channelwise import channelwise_attention
from avcil.kernels.triton_distillation import dual_distillation

PTXAS = Path(triton.__file__).parent / "backends/nvidia/bin/ptxas"
OFFICIAL = (2, 8, 196, 768)  # clips, slots, patches, channels of AV-CIL's features
found: dict[str, dict] = {}
call = ""


def examine(kernel) -> dict:
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as ptx:
        ptx.write(kernel.asm["ptx"])
        ptx.flush()
        ptxas = [PTXAS, "-v", "--gpu-name", "sm_90a", ptx.name, "-o", "/dev/null"]
        said = subprocess.run(ptxas, capture_output=True, text=True, check=True).stderr
    return {
        "registers": int(re.search(r"Used (\d+) registers", said)[1]),
        "spilled_bytes": int(re.search(r"(\d+) bytes spill stores", said)[1]),
        "shared_kib": kernel.metadata.shared / 1024,
        "atomics": len(re.findall(r"\b(?:atom|red)\.", kernel.asm["ptx"])),
        "narrow_offsets": narrow_offsets(kernel.asm["ttir"]),
    }


def narrow_offsets(code: str) -> list[str]:
    """Uses of program_id(0), which counts sets, frames or clips, that do not first widen it to 64 bits."""
    program = re.search(r"(%\w+) = tt.get_program_id x", code)[1]
    uses = re.findall(rf".*[ ,(]{program}(?!\w).*", code)
    return [use.strip() for use in uses if not re.search(r"get_program_id|extsi %\w+ : i32 to i64", use)]


compile_or_launch = JITFunction.run


def compile_only(kernel, *arguments, grid, warmup, **options):
    found[f"{kernel.__name__} {call}"] = examine(
        compile_or_launch(kernel, *arguments, grid=None, warmup=True, **options)
    )


def channelwise(dtype: torch.dtype, shape: tuple[int, int, int, int], remembering: bool) -> None:
    clips, slots, _, channels = shape
    learned = [torch.zeros(s, requires_grad=True) for s in ((clips, channels), (channels, channels), (channels,))]
    old = OldAttention(torch.zeros(shape, dtype=dtype), *torch.zeros(2, clips, slots, channels))
    given = (old, torch.arange(clips)) if remembering else (None, None)
    sum(
        x.sum() for x in channelwise_attention(learned[0], torch.zeros(shape, dtype=dtype), *learned[1:], *given)
    ).backward()


def distillation(dtype: torch.dtype, blocks: list[int], count: int) -> None:
    logits = torch.zeros(4, sum(blocks) + 10, dtype=dtype)
    features = tuple(torch.zeros(count, 4, 768, dtype=dtype))
    old = torch.zeros(4, sum(blocks), dtype=dtype)
    dual_distillation(logits, torch.arange(4), old, blocks, features, features, 2.0, separated=True)


def main() -> None:
    global call
    device = {"get_current_device": lambda: 0, "get_current_stream": lambda device: 0}
    h100 = SimpleNamespace(get_current_target=lambda: GPUTarget("cuda", 90, 32), **device)
    triton.runtime.driver.set_active(h100)
    JITFunction.run = compile_only
    for dtype in (torch.bfloat16, torch.float32):
        for name, function, *arguments in (
            ("plain", channelwise, dtype, OFFICIAL, False),
            ("old", channelwise, dtype, OFFICIAL, True),
            ("nine tasks", distillation, dtype, [10] * 9, 3),
        ):
            call = f"{dtype} {name}"
            function(*arguments)
    # a size of 1 is compiled in, an empty past has no storage
    call = "smallest"
    channelwise(torch.float16, (1, 1, 1, 768), True)
    distillation(torch.float16, [], 0)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
