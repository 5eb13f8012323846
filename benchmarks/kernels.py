"""Our kernels beside the public ways to compute the same: time, memory, error, and the share of the machine's rates.

    PYTHONPATH=. python benchmarks/kernels.py [--official PATH] [--device cuda] [--only NAME ...] [--rounds N] [--quick]
    PYTHONPATH=. python benchmarks/kernels.py --figure

Needs torch alone (on a GPU triton too), and matplotlib and seaborn for the figure. How it is measured: timing.py; who
takes part: peers/. ``--official`` names a checkout of github.com/weiguoPian/AV-CIL_ICCV2023, whose module is then the
peer of the channel-wise step; without it, our reference with the old model in the loop stands for it. ``--only`` picks
groups whose name contains one of the words ("guided", "channel-wise", "dual", "Q32"); the others' results are kept if
they are there, so that a long run can be made in pieces.

Writes benchmarks/results/kernels_<device>.json and .md after each group, and .png with ``--figure``.
"""

import argparse
import gc
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from authors_step import Authors
from peers import Options, attention, channelwise, distillation, shape
from peers.attention import Attention
from peers.channelwise import Channelwise
from peers.distillation import LIGER, Distil
from report import (
    RESULTS,
    Goal,
    goal_table,
    heading,
    judged,
    machine,
    memory_share,
    read,
    row,
    table,
    times_as_fast,
    write,
)
from timing import Group, measure, rates, use_threads

BUILD: dict[type, Callable[[NamedTuple, Options], Group]] = {
    Attention: attention.group,
    Channelwise: channelwise.group,
    Distil: distillation.group,
}
NAMES = {Attention: "guided attention", Channelwise: "channel-wise step", Distil: "dual distillation"}
CASES = {
    "cpu": [
        *(Attention(8, 1, queries, 1568) for queries in (1, 8, 32)),
        *(Attention(16, 1, queries, 196) for queries in (1, 8, 32)),
        *(Channelwise(16, 8, tokens) for tokens in (49, 196)),
        *(Distil(384, past) for past in (1, 3, 9)),
    ],
    "cuda": [
        *(Attention(256, 1, queries, 1568) for queries in (1, 8, 32)),
        *(Attention(256, 8, queries, 196) for queries in (1, 8, 32)),
        *(Channelwise(256, 8, tokens) for tokens in (49, 196)),
        *(Distil(384, past) for past in (1, 3, 9)),
    ],
    "quick": [Attention(2, 2, 3, 7, 16, 2), Channelwise(4, 8, 5, 768), Distil(8, 2, 3, 16)],
}
STAND_IN = "our reference with the old model in the loop"


def key(case: NamedTuple) -> str:
    return f"{NAMES[type(case)]}, {shape(case)}"


# goals ---------------------------------------------------------------------------------------------------------------


def authors(precision: str) -> list[str]:
    """Their module, or where the user has none what stands for it."""
    return [f"{name}, {precision}" for name in ("authors' module", STAND_IN)]


def against(case: NamedTuple, ours: str, *others: str) -> Callable[[dict], float | None]:
    return lambda found: times_as_fast(found, key(case), ours, *others)


def memory(case: Channelwise, ours: str) -> Callable[[dict], float | None]:
    return lambda found: memory_share(found, key(case), ours, *authors("fp32"))


def best(case: NamedTuple, precision: str, whose: str) -> Callable[[dict], dict | None]:
    """The fastest row of ours or of the peers, whose tokens have that type (peers: any)."""

    def find(found: dict) -> dict | None:
        rows = found["groups"].get(key(case), {"variants": []})["variants"]
        rows = [r for r in rows if "ms" in r and r["whose"] == whose]
        rows = [r for r in rows if r["precision"] == precision or whose != "ours"]
        return min(rows, key=lambda r: r["ms"], default=None)

    return find


def fastest_peer(case: Attention) -> Callable[[dict], float | None]:
    """Ours in bfloat16 against the fastest public way, in any type. Our reference, compiled, is not public yet."""

    def ratio(found: dict) -> float | None:
        rows = found["groups"].get(key(case), {"variants": []})["variants"]
        public = [
            r["ms"] for r in rows if "ms" in r and r["whose"] == "peer" and not r["variant"].startswith("our reference")
        ]
        ours = best(case, "bf16", "ours")(found)
        return min(public) / ours["ms"] if public and ours else None

    return ratio


def share_of_copy(case: Attention) -> Callable[[dict], float | None]:
    ours = best(case, "bf16", "ours")
    return lambda found: ours(found) and ours(found)["share_of_copy"]


def launched(case: Distil) -> Callable[[dict], float | None]:
    return lambda found: (row(found, key(case), "ours, triton, fp32") or {}).get("launches")


LAYER = "ours, auto, as nn.MultiheadAttention, fp32"
MHA = "nn.MultiheadAttention with weights, fp32"


def goals() -> list[Goal]:
    one, _, many, *_ = CASES["cpu"]
    steps = [case for case in CASES["cpu"] if isinstance(case, Channelwise)]
    text = "guided attention, Q = {}, N = 1568: times as fast as nn.MultiheadAttention"
    found = [
        Goal(text.format(case.Q), "cpu", wanted, against(case, LAYER, MHA)) for case, wanted in ((one, 10), (many, 2))
    ]
    for case in steps:
        name = f"channel-wise step, S = {case.S}"
        for precision, wanted in (("fp32", 2.5), ("bf16", 5)):
            ours = f"ours, auto, {precision}"
            how = against(case, ours, *authors("fp32"))
            found.append(Goal(f"{name}, {precision} tokens: times as fast as the authors'", "cpu", wanted, how))
            how = memory(case, ours)
            found.append(
                Goal(f"{name}, {precision} tokens: share of the authors' peak memory", "cpu", 1 / 3, how, True)
            )
    for case in (case for case in CASES["cuda"] if isinstance(case, Attention)):
        name = f"guided attention, bf16, {shape(case)}"
        found.append(
            Goal(f"{name}: times as fast as the fastest public way to the same map", "cuda", 5, fastest_peer(case))
        )
        found.append(Goal(f"{name}: share of the copy bandwidth", "cuda", 0.8, share_of_copy(case)))
    official = Channelwise(256, 8, 196)
    triton = "ours, triton, bf16"
    autocast = against(official, triton, *authors("bf16"))
    found += [
        Goal(
            "channel-wise step: times as fast as the authors' in their precision",
            "cuda",
            10,
            against(official, triton, *authors("fp32")),
        ),
        Goal("channel-wise step: times as fast as the authors' under autocast to bf16", "cuda", 5, autocast),
        Goal("channel-wise step: share of the authors' peak memory", "cuda", 1 / 8, memory(official, triton), True),
        Goal("dual distillation, 9 past tasks: launches", "cuda", 1, launched(Distil(384, 9)), True),
        Goal(
            "dual distillation, 9 past tasks: times as fast as eager",
            "cuda",
            10,
            against(Distil(384, 9), "ours, triton, fp32", "reference, eager, fp32"),
        ),
    ]
    return found


# running -------------------------------------------------------------------------------------------------------------


def run(cases: list[NamedTuple], options: Options, rounds: int, path: Path, found: dict) -> None:
    """Measure the cases one after the other, writing after each."""
    for case in cases:
        print(key(case), flush=True)
        torch.manual_seed(0)
        found["groups"][key(case)] = measure(BUILD[type(case)](case, options), options.device, found["rates"], rounds)
        found["load_average_after"] = round(os.getloadavg()[0], 2)
        found["goals"] = judged(goals(), found, options.device.type)
        write(path, found, report(found))
        print("\n".join(table(found["groups"][key(case)])), flush=True)
        torch.compiler.reset()
        gc.collect()
        if options.device.type == "cuda":
            torch.cuda.empty_cache()


def report(found: dict) -> str:
    lines = heading("Kernels", found, "python benchmarks/kernels.py")
    lines += [
        "Shares are of those. The roofline is what the algorithm with the least work could reach. Times are medians; "
        "ratios are medians over interleaved rounds, of wall time and [of CPU time]. Memory is beyond the inputs. "
        "Error is the largest relative one among results and gradients, against float64 (without a map: of the "
        "output). **Ours** in bold.",
        "",
        *goal_table(found["goals"]),
    ]
    notes = ["Peers of half precision run under autocast; max-autotune is without CUDA graphs where tokens take part."]
    if not found["official"]:
        notes.append(f"The authors' code was not given: {STAND_IN!r} stands for their module.")
    if not found["liger"]:
        notes.append("Liger's KL is left out: it needs a GPU and `liger_kernel`.")
    lines += [*(f"- {note}" for note in notes), ""]
    for group in found["groups"].values():
        lines += table(group)
    return "\n".join(lines).rstrip() + "\n"


def figure(found: dict, path: Path) -> None:
    """Milliseconds of every variant, a panel a group; lines: the roofline in float32 and in half precision."""
    import matplotlib.pyplot as plt
    import seaborn as sns

    colours = dict(zip(("ours", "peer", "bar"), sns.color_palette("colorblind", 3), strict=True))
    groups = list(found["groups"].values())
    rows = [[r for r in group["variants"] if "ms" in r] for group in groups]
    heights = [len(ran) + 2 for ran in rows]
    drawn, axes = plt.subplots(
        len(groups), 1, figsize=(9, 0.19 * sum(heights)), height_ratios=heights, squeeze=False, layout="constrained"
    )
    for axis, group, ran in zip(axes[:, 0], groups, rows, strict=True):
        ran = sorted(ran, key=lambda r: r["ms"])
        names = [f"{r['variant']}, {r['precision']}" for r in ran]
        spans = [[r["ms"] - r["ms_p20"] for r in ran], [r["ms_p80"] - r["ms"] for r in ran]]
        axis.barh(names, [r["ms"] for r in ran], xerr=spans, color=[colours[r["whose"]] for r in ran], ecolor="0.4")
        for precision, style in (("fp32", "--"), ("bf16", "-")):
            if precision in group["roofline_ms"]:
                axis.axvline(group["roofline_ms"][precision], color="0.3", linestyle=style, linewidth=1)
        axis.set(xscale="log")
        axis.invert_yaxis()
        axis.tick_params(which="both", labelsize="x-small")
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter("")
        axis.set_title(f"{group['operation']}, {group['shape']}", fontsize="small", loc="left")
        sns.despine(ax=axis)
    axes[-1, 0].set_xlabel("milliseconds; lines: roofline in bf16 (solid) and fp32 (dashed)")
    handles = [plt.Rectangle((0, 0), 1, 1, color=colour) for colour in colours.values()]
    drawn.legend(handles, ["ours", "peers", "does less (no map)"], loc="outside upper right", ncols=3, fontsize="small")
    drawn.suptitle(found["machine"]["device"], fontsize="medium", x=0.01, ha="left")
    drawn.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--official", type=Path, help="checkout of weiguoPian/AV-CIL_ICCV2023")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", nargs="*", default=[""], help="groups whose name contains one of these")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out: it takes most of the time")
    parser.add_argument("--no-tune", action="store_true", help="leave its max-autotune out: a minute or more a shape")
    parser.add_argument("--quick", action="store_true", help="tiny shapes, to see that everything runs")
    parser.add_argument("--figure", action="store_true", help="draw what was measured before; measures nothing")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    if given.figure:
        for path in sorted(given.out.glob("kernels_*.json")):
            figure(json.loads(path.read_text()), path.with_suffix(".png"))
        return
    device = torch.device(given.device)
    use_threads()
    torch._dynamo.config.recompile_limit = 64
    module = Authors(given.official.resolve()) if given.official else None
    about = machine(device)
    path = given.out / f"kernels_{about['slug']}{'_quick' * given.quick}.json"
    found = {
        "machine": about,
        "official": module is not None,
        "liger": LIGER and device.type == "cuda",
        "rates": rates(device, given.quick),
        "groups": read(path).get("groups", {}),
    }
    options = Options(device, module, compiled=not (given.quick or given.no_compile), tuned=not given.no_tune)
    known = CASES["quick" if given.quick else device.type]
    cases = [case for case in known if any(word in key(case) for word in given.only)]
    if not cases:
        parser.error(f"--only: no group's name contains {given.only}; there are {', '.join(map(key, known))}")
    run(cases, options, given.rounds or (2 if given.quick else 20 if device.type == "cuda" else 7), path, found)
    print("\n".join(goal_table(found["goals"])))


if __name__ == "__main__":
    main()
