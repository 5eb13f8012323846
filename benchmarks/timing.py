"""Time, memory and error of several ways to compute the same, side by side; and what the machine could do at best.

Rounds are interleaved (A, B, C, A, B, C, ...), so that a machine that slows down slows all alike, and ratios are
medians over rounds. Needs torch alone.

- Time of as many calls as take some 10 ms, after 256 MiB were written, so that no variant finds its tokens in a cache
  where the one before it left them: on a GPU between CUDA events; on a CPU wall time, and the process's CPU time, which
  other processes disturb less.
- Memory beyond the inputs: on a GPU ``max_memory_allocated``; on a CPU the allocator's events as torch.profiler records
  them, from the first call on, so that a buffer that is kept counts. Beside it, on Linux, the peak of the resident set
  in a later call, over what it was after ``malloc_trim``: that also sees scratch memory of oneDNN, and
  the holes that malloc leaves. Comparisons are of the former.
- Roofline: the longer of the bytes that must move at the bandwidth of a copy and the operations of matrix products at
  the rate of a large one, both measured in the same run.
"""

import ctypes
import gc
import os
import re
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import torch
import torch._inductor.config
from torch import Tensor

DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
ROOT = Path(__file__).resolve().parents[1]


class Work(NamedTuple):
    """What an algorithm cannot do without: floating-point operations of matrix products, and bytes moved."""

    flops: float
    bytes: float


class Variant(NamedTuple):
    """One way to compute. ``step`` is what is timed; of its tensors, those that the reference names are compared."""

    name: str
    whose: Literal["ours", "peer", "bar"]
    """bar: does less than the others, so that it is no peer but shows what is fast."""
    precision: str
    """One of DTYPES."""
    step: Callable[[], dict[str, Tensor]]
    forward: Callable[[], object] | None = None
    """The op alone, to count its launches on a GPU."""
    check: Callable[[], dict[str, Tensor]] | None = None
    """What is compared with the reference where that is not what ``step`` gives."""


class Group(NamedTuple):
    """Variants of one operation at one shape. ``works`` by precision: the algorithms that there are."""

    operation: str
    shape: str
    variants: list[Variant]
    reference: dict[str, Tensor]
    works: dict[str, list[Work]]

    @property
    def key(self) -> str:
        return f"{self.operation}, {self.shape}"


def differentiated(forward: Callable[[], tuple[Tensor, dict]], leaves: dict[str, Tensor]) -> Callable[[], dict]:
    """A step: forward gives a loss and what to compare; then the loss's gradients, named `d leaf`."""

    def step() -> dict[str, Tensor]:
        loss, values = forward()
        gradients = torch.autograd.grad(loss, list(leaves.values()))
        return values | {f"d {name}": gradient for name, gradient in zip(leaves, gradients, strict=True)}

    return step


def rates(device: torch.device, quick: bool = False) -> dict:
    """copy_gbs: read and written bytes of a copy; matmul_gflops by precision. Each the best of several."""
    cuda = device.type == "cuda"
    count = 1 << (20 if quick else 28 if cuda else 26)
    source = torch.ones(count, device=device)
    target = torch.empty_like(source)
    copied = min(_samples(partial(target.copy_, source), device, 7))
    size = 256 if quick else 8192 if cuda else 2048
    found = {}
    for precision in ["fp32", *(["tf32"] if cuda else []), "bf16", "fp16"]:
        a, b = torch.ones(2, size, size, device=device, dtype=DTYPES[precision])
        run = in_precision(partial(torch.mm, a, b), precision)
        found[precision] = round(2 * size**3 / min(_samples(run, device, 3 if size > 4096 else 5)) / 1e9)
    return {"copy_gbs": round(8 * count / copied / 1e9, 1), "matmul_gflops": found}


def in_precision(run: Callable, precision: str) -> Callable:
    """``run`` with float32 products in TensorFloat-32 if that is the precision, else in float32."""

    def wrapped():
        torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
        try:
            return run()
        finally:
            torch.backends.cuda.matmul.allow_tf32 = False

    return wrapped


def use_threads() -> None:
    """As many as OMP_NUM_THREADS says, or all cores."""
    threads = int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1))
    torch.set_num_threads(threads)
    # compiled loops have their number built in, and those of an earlier run are found again in a cache that asks for
    # the configuration, but not for the number of threads
    torch._inductor.config.cpp.threads = threads


# measuring -----------------------------------------------------------------------------------------------------------


def _samples(run: Callable, device: torch.device, count: int) -> list[float]:
    run()
    inner = _calls(run, device)
    return [_sample(run, device, inner)[0] for _ in range(count)]


def _calls(run: Callable, device: torch.device) -> int:
    """How many calls take some 10 ms."""
    return max(1, min(1000, round(0.01 / _sample(run, device, 1)[0])))


_FLUSH: dict[torch.device, Tensor] = {}


def _sample(run: Callable, device: torch.device, calls: int) -> tuple[float, float]:
    """Seconds a call, and seconds of this process's CPU time a call."""
    if device not in _FLUSH:
        _FLUSH[device] = torch.empty(1 << 26, device=device)
    if device.type == "cuda":
        events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
        torch.cuda.synchronize()
    _FLUSH[device].zero_()
    if device.type == "cuda":
        cpu = time.process_time()
        events[0].record()
        for _ in range(calls):
            run()
        events[1].record()
        cpu = time.process_time() - cpu
        torch.cuda.synchronize()
        return events[0].elapsed_time(events[1]) / 1e3 / calls, cpu / calls
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(calls):
        run()
    return (time.perf_counter() - wall) / calls, (time.process_time() - cpu) / calls


def interleaved(
    runs: dict[str, Callable], device: torch.device, rounds: int, calls: int | None = None
) -> dict[str, list[tuple[float, float]]]:
    """Per run and round, seconds of wall (on a GPU: device) and CPU time a call. All have been called before."""
    counts = {name: calls or _calls(run, device) for name, run in runs.items()}
    times = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            times[name].append(_sample(run, device, counts[name]))
    return times


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, 20th and 80th percentile."""
    ordered = sorted(values)
    return statistics.median(ordered), *(ordered[round(share * (len(ordered) - 1))] for share in (0.2, 0.8))


def peak_memory(run: Callable, device: torch.device) -> tuple[float, float | None]:
    """MiB beyond what was there, by the allocator and (CPU, Linux) by the resident set. ``run`` was not called yet."""
    if device.type == "cuda":
        run()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20, None
    with warnings.catch_warnings():
        # of profiler cycles, which there are none of here
        warnings.simplefilter("ignore")
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            run()
            run()
    events = profile.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    held = peak = 0
    for _, change in changes:
        held += change
        peak = max(peak, held)
    return peak / 2**20, _resident_peak(run)


def _resident_peak(run: Callable) -> float | None:
    reset = Path("/proc/self/clear_refs")
    if sys.platform != "linux" or not os.access(reset, os.W_OK):
        return None
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    # 5: VmHWM starts again from the present
    reset.write_text("5")
    before = _status("VmRSS")
    run()
    return max(0, _status("VmHWM") - before) / 1024


def _status(name: str) -> int:
    return int(re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


def launches(run: Callable) -> int:
    """Kernels that one call starts on a GPU (copies and fills among them)."""
    run()
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        run()
        torch.cuda.synchronize()
    return sum(event.device_type == torch.autograd.DeviceType.CUDA for event in profile.events())


def errors(values: dict[str, Tensor], reference: dict[str, Tensor]) -> dict[str, float]:
    """Norm of the difference over norm of the reference, for what both have."""
    found = {}
    for name in values.keys() & reference.keys():
        exact = reference[name]
        difference = values[name].detach().reshape(exact.shape).to(exact.dtype) - exact
        found[name] = _rounded(difference.norm().item() / max(exact.norm().item(), 1e-30))
    return found


def measure(group: Group, device: torch.device, rate: dict, rounds: int, calls: int | None = None) -> dict:
    """All that is stored of a group; ``calls`` a sample. A variant that fails is told of, with its error."""
    # what was imported, torch above all, need not be gone through at each collection below
    gc.freeze()
    rows, runs = {}, {}
    for variant in group.variants:
        name = f"{variant.name}, {variant.precision}"
        rows[name] = {"variant": variant.name, "whose": variant.whose, "precision": variant.precision}
        run = in_precision(variant.step, variant.precision)
        try:
            peak, resident = peak_memory(run, device)
            error = errors(in_precision(variant.check or variant.step, variant.precision)(), group.reference)
            count = launches(variant.forward) if device.type == "cuda" and variant.forward else None
        # whatever a peer's compiler throws must not end the run of the others
        except Exception as problem:
            rows[name]["failed"] = f"{type(problem).__name__}: {problem}".splitlines()[0][:300]
            print(f"  {name}: {rows[name]['failed']}", flush=True)
            continue
        finally:
            gc.collect()
        rows[name] |= {
            "peak_mib": _rounded(peak),
            "peak_rss_mib": None if resident is None else _rounded(resident),
            "error": max(error.values(), default=None),
            "errors": error,
            "launches": count,
        }
        runs[name] = run
    times = interleaved(runs, device, rounds, calls)
    bounds = {precision: roofline(works, rate, precision) for precision, works in group.works.items()}
    for name, taken in times.items():
        rows[name] |= _times(taken) | _shares(taken, bounds[rows[name]["precision"]], rate, rows[name]["precision"])
    return {
        "operation": group.operation,
        "shape": group.shape,
        "roofline_ms": {precision: _rounded(bound[0] * 1e3) for precision, bound in bounds.items()},
        "variants": list(rows.values()),
        "ratios": _ratios(rows, times),
    }


def roofline(works: list[Work], rate: dict, precision: str) -> tuple[float, Work]:
    """Seconds of the algorithm that could be fastest, and its work."""
    matmul = rate["matmul_gflops"].get(precision, rate["matmul_gflops"]["fp32"])
    bound = {work: max(work.bytes / rate["copy_gbs"], work.flops / matmul) / 1e9 for work in works}
    best = min(bound, key=bound.get)
    return bound[best], best


def _times(taken: list[tuple[float, float]]) -> dict:
    wall, cpu = zip(*taken, strict=True)
    names = ("ms", "ms_p20", "ms_p80", "cpu_ms", "cpu_ms_p20", "cpu_ms_p80")
    return {name: _rounded(1e3 * x) for name, x in zip(names, (*spread(wall), *spread(cpu)), strict=True)}


def _shares(taken: list[tuple[float, float]], bound: tuple[float, Work], rate: dict, precision: str) -> dict:
    """What must be moved and multiplied, over the time that it took."""
    seconds, work = spread([wall for wall, _ in taken])[0], bound[1]
    matmul = rate["matmul_gflops"].get(precision, rate["matmul_gflops"]["fp32"])
    gbs, gflops = work.bytes / seconds / 1e9, work.flops / seconds / 1e9
    return {
        "gbs": _rounded(gbs),
        "gflops": _rounded(gflops),
        "share_of_copy": _rounded(gbs / rate["copy_gbs"]),
        "share_of_matmul": _rounded(gflops / matmul),
        "share_of_roofline": _rounded(bound[0] / seconds),
    }


def _ratios(rows: dict, times: dict) -> dict:
    """How many times as long each other variant takes, by ours: medians over rounds of wall and of CPU time."""
    return {
        ours: {
            other: {
                kind: _rounded(statistics.median(b[i] / max(a[i], 1e-9) for a, b in zip(mine, theirs, strict=True)))
                for i, kind in enumerate(("wall", "cpu"))
            }
            for other, theirs in times.items()
            if rows[other]["whose"] != "ours"
        }
        for ours, mine in times.items()
        if rows[ours]["whose"] == "ours"
    }


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
