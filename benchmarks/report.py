"""What the benchmarks write: the machine they ran on, goals and whether they were met, tables. Needs torch alone."""

import importlib.metadata
import json
import os
import platform
import re
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import torch

RESULTS = Path(__file__).resolve().parent / "results"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_flags() -> dict[str, bool]:
    probes = {"amx": "_is_amx_tile_supported", "avx512_bf16": "_is_avx512_bf16_supported"}
    return {name: bool(getattr(torch.cpu, probe, lambda: False)()) for name, probe in probes.items()}


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.+)", info.read_text()) if info.exists() else None
    return found[1] if found else platform.processor() or platform.machine()


def machine(device: torch.device) -> dict:
    """What the numbers were measured on."""
    flags = _cpu_flags()
    name = cpu_name()
    slug = re.sub(r"\(R\)|\(TM\)|\bProcessor\b|\bCPU\b|@.*", " ", name)
    slug = f"cpu {slug} {'amx' if flags['amx'] else torch.backends.cpu.get_cpu_capability()}"
    if device.type == "cuda":
        name = slug = torch.cuda.get_device_name(device)
    return {
        "device": name,
        "slug": re.sub(r"\W+", "_", slug.lower()).strip("_"),
        "cpu": cpu_name(),
        "isa": torch.backends.cpu.get_cpu_capability(),
        **flags,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "torch": torch.__version__,
        "triton": _version("triton"),
        "load_average": [round(x, 2) for x in os.getloadavg()],
    }


class Goal(NamedTuple):
    """What was aimed at. ``reached`` looks it up in a result, or gives None where it was not measured."""

    text: str
    device: Literal["cpu", "cuda"]
    wanted: float
    reached: Callable[[dict], float | None]
    at_most: bool = False


def judged(goals: list[Goal], found: dict, device: str) -> list[dict]:
    rows = []
    for goal in (goal for goal in goals if goal.device == device):
        value = goal.reached(found)
        met = None if value is None else bool(value <= goal.wanted if goal.at_most else value >= goal.wanted)
        sign = "at most" if goal.at_most else "at least"
        reached = None if value is None else float(f"{value:.4g}")
        rows.append({"goal": goal.text, "wanted": f"{sign} {goal.wanted:.3g}", "reached": reached, "met": met})
    return rows


def row(found: dict, key: str, name: str) -> dict | None:
    """The row of a variant (`name, precision`) in the group of that key, if it ran."""
    group = found["groups"].get(key, {"variants": []})
    names = {f"{row['variant']}, {row['precision']}": row for row in group["variants"] if "ms" in row}
    return names.get(name)


def times_as_fast(found: dict, key: str, ours: str, *others: str) -> float | None:
    """From the ratios of a group, against the first of the others that took part."""
    ratios = found["groups"].get(key, {}).get("ratios", {}).get(ours, {})
    return next((ratios[other]["wall"] for other in others if other in ratios), None)


def memory_share(found: dict, key: str, ours: str, *others: str) -> float | None:
    """Of the peak memory of the first of the others that ran."""
    mine, theirs = row(found, key, ours), next(filter(None, (row(found, key, other) for other in others)), None)
    return mine["peak_mib"] / theirs["peak_mib"] if mine and theirs else None


def read(path: Path) -> dict:
    return json.loads(path.read_text()) if path.exists() else {}


def write(path: Path, found: dict, text: str) -> None:
    """The JSON and, beside it, the Markdown, and the goals of all that stands there, which docs/kernels.md shows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n")
    path.with_suffix(".md").write_text(text)
    path.with_name("goals.md").write_text(goals_by_device(path.parent))


def goals_by_device(folder: Path) -> str:
    """The goals of the kernels, then those of a training step: a table a device."""
    blocks, said = [], {True: "", False: "**missed**", None: "not measured"}
    # by kind, then by name: the order of a folder's files differs from system to system
    for path in [path for kind in ("kernels", "training_step") for path in sorted(folder.glob(f"{kind}_*.json"))]:
        measured = read(path)
        about = measured["machine"]
        lines = [f"| {about['device']}, {about['threads']} threads | wanted | reached | |", "|---|---:|---:|---|"]
        for goal in measured["goals"]:
            reached = "" if goal["reached"] is None else f"{goal['reached']:.3g}"
            lines.append(f"| {goal['goal']} | {goal['wanted']} | {reached} | {said[goal['met']]} |")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def heading(title: str, found: dict, command: str) -> list[str]:
    """Title, machine and rates."""
    about, rate = found["machine"], found["rates"]
    names = {"triton": about["triton"], "torch": about["torch"], "Python": about["python"]}
    versions = ", ".join(f"{name} {version}" for name, version in names.items() if version)
    units = ", ".join(f"{gflops:,} in {precision}" for precision, gflops in rate["matmul_gflops"].items())
    isa = about["isa"] + "".join(f", {flag}" for flag in ("amx", "avx512_bf16") if about[flag])
    load = " to ".join(f"{x:.2f}" for x in (about["load_average"][0], found["load_average_after"]))
    return [
        f"# {title}",
        "",
        f"{about['device']}; CPU {about['cpu']} ({isa}), {about['cores']} cores, {about['threads']} threads, "
        f"{about['system']}; {versions}; load average {load}. Written by `{command}`.",
        "",
        f"Measured in the same run: a copy moves {rate['copy_gbs']} GB/s; matrix products, GFLOP/s: {units}.",
    ]


def table(group: dict) -> list[str]:
    """Markdown: a group's rows, then the ratios of ours."""
    bound = ", ".join(f"{ms} ms in {precision}" for precision, ms in group["roofline_ms"].items())
    lines = [f"## {group['operation']}, {group['shape']}", "", f"Roofline: {bound}.", ""]
    lines += ["| variant | type | ms (p20 to p80) | CPU ms | GB/s | GFLOP/s | of roofline | peak MiB (RSS) | error |"]
    lines += ["|---|---|---:|---:|---:|---:|---:|---:|---:|"]
    for one in group["variants"]:
        name = f"**{one['variant']}**" if one["whose"] == "ours" else one["variant"]
        if "failed" in one:
            lines.append(
                f"| {name} | {one['precision']} | did not run: {one['failed']} | | | | | | |".replace("``", "")
            )
            continue
        resident = "" if one["peak_rss_mib"] is None else f" ({one['peak_rss_mib']:.0f})"
        error = "" if one["error"] is None else f"{one['error']:.1e} {worst(one)}"
        cells = [
            f"{one['ms']:.4g} ({one['ms_p20']:.4g} to {one['ms_p80']:.4g})",
            f"{one['cpu_ms']:.4g}",
            f"{one['gbs']:.3g} ({one['share_of_copy']:.0%})",
            f"{one['gflops']:.3g} ({one['share_of_matmul']:.0%})",
            f"{one['share_of_roofline']:.0%}",
            f"{one['peak_mib']:.3g}{resident}",
            error,
        ]
        lines.append(f"| {name} | {one['precision']} | " + " | ".join(cells) + " |")
    return [*lines, "", *_ratio_table(group)]


def worst(one: dict) -> str:
    """The name of what is furthest from the reference."""
    return max(one["errors"], key=one["errors"].get, default="")


def _ratio_table(group: dict) -> list[str]:
    ratios = {ours.removeprefix("ours, "): others for ours, others in group["ratios"].items() if "fp16" not in ours}
    others = list(next(iter(ratios.values()), {}))
    if not others:
        return []
    lines = ["| times as long as ours: | " + " | ".join(ratios) + " |", "|---|" + "---:|" * len(ratios)]
    lines += [
        f"| {other} | " + " | ".join(f"{r[other]['wall']:.3g} [{r[other]['cpu']:.3g}]" for r in ratios.values()) + " |"
        for other in others
    ]
    return [*lines, ""]


def goal_table(goals: list[dict]) -> list[str]:
    said = {True: "yes", False: "no", None: "not measured"}
    lines = ["| goal | wanted | reached | met |", "|---|---:|---:|---|"]
    lines += [
        f"| {g['goal']} | {g['wanted']} | {'' if g['reached'] is None else g['reached']} | {said[g['met']]} |"
        for g in goals
    ]
    return [*lines, ""]
