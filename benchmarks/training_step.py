"""Whole training steps on features that are in memory: AV-CIL's recipe by its authors' code and by ours, and LLL's.

    PYTHONPATH=. python benchmarks/training_step.py [--official PATH] [--device cuda] [--rounds N] [--quick]

A step is all that happens between two batches: its features gathered, forward, losses, backward, optimiser. Features
are random, of the shape of AV-CIL's: 8 frames of 196 patches, 768 channels; the task is the last of AVE's four (7 new
classes, 21 past), half of a batch are exemplars. Who takes part: recipes.py; ``--official`` names a checkout of
github.com/weiguoPian/AV-CIL_ICCV2023, without which our reference with the old model in the loop stands for theirs.

Needs torch alone (on a GPU triton too). How it is measured: timing.py; on a GPU 50 steps between two events. The error
is the larger one of the first batch's loss and gradient, against the peer in float32. Writes
benchmarks/results/training_step_<device>.json and .md.
"""

import argparse
import copy
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

import recipes
from authors_step import Authors
from peers import attention, cast, channelwise
from peers.attention import Attention
from peers.channelwise import Channelwise
from recipes import CLASSES, PAST, AvCil, Data, Guided, Sizes, Training, captured, eager
from report import RESULTS, Goal, goal_table, heading, judged, machine, memory_share, table, times_as_fast, write
from timing import DTYPES, Group, Variant, Work, measure, rates, use_threads

SIZES = {"cpu": Sizes(16, 64), "cuda": Sizes(256, 1024), "quick": Sizes(4, 8, S=5)}
AUTHORS, STAND_IN = "authors' step", "our reference with the old model in the loop"
MHA = "nn.MultiheadAttention, old model in the loop"
GRAPH = "ours, triton, CUDA graph"


class Recipe(NamedTuple):
    """makers: by name and whose, from data to a model and its step; works: as in a Group."""

    name: str
    makers: dict[tuple[str, str], Callable[[Data], Training]]
    works: dict[str, list[Work]]


def _ways(device: torch.device) -> dict[str, tuple[str, Callable]]:
    """Ours: implementation, and how steps are made."""
    ways = {"ours, auto": ("auto", eager)}
    if device.type == "cuda":
        ways |= {"ours, triton": ("triton", eager), GRAPH: ("triton", captured)}
    return ways


def _gathered(work: Work, sizes: Sizes, item: int) -> Work:
    """The batch is read and written once more."""
    return work._replace(bytes=work.bytes + 2 * sizes.B * sizes.L * sizes.S * sizes.D * item)


def av_cil(sizes: Sizes, device: torch.device, authors: Authors | None) -> Recipe:
    new, old = (AvCil(sizes.D, classes).to(device) for classes in (CLASSES, PAST))
    adam = partial(torch.optim.Adam, lr=1e-3, weight_decay=1e-4)

    def theirs(data: Data) -> Training:
        return recipes.authors_step(authors, [new.state_dict(), old.state_dict()], data)

    def plain(data: Data) -> Training:
        model = copy.deepcopy(new)
        return eager(model, recipes.av_cil_in_the_loop(model, old, data), adam(model.parameters()), data)

    def ours(impl: str, how: Callable, data: Data) -> Training:
        model = copy.deepcopy(new)
        optimiser = adam(model.parameters(), fused=True, capturable=device.type == "cuda")
        return how(model, recipes.av_cil_from_memory(model, old, data, impl), optimiser, data)

    makers = {(AUTHORS, "peer"): theirs} if authors else {(STAND_IN, "peer"): plain}
    makers |= {(name, "ours"): partial(ours, *way) for name, way in _ways(device).items()}
    case = Channelwise(sizes.B, sizes.L, sizes.S, sizes.D)
    works = {p: [_gathered(channelwise.work(case, k.itemsize), sizes, k.itemsize)] for p, k in DTYPES.items()}
    return Recipe("AV-CIL", makers, works)


def lll_prior(sizes: Sizes, device: torch.device) -> Recipe:
    new, old = (Guided(sizes, classes).to(device) for classes in (CLASSES, PAST))

    def plain(data: Data) -> Training:
        model, old_model = (copy.deepcopy(source).plainly() for source in (new, old))
        return eager(
            model, recipes.lll_in_the_loop(model, old_model, data), torch.optim.AdamW(model.parameters()), data
        )

    def ours(impl: str, how: Callable, data: Data) -> Training:
        model = copy.deepcopy(new)
        optimiser = torch.optim.AdamW(model.parameters(), fused=True, capturable=device.type == "cuda")
        return how(model, recipes.lll_from_memory(model, old, data, impl), optimiser, data)

    makers = {(MHA, "peer"): plain} | {(name, "ours"): partial(ours, *way) for name, way in _ways(device).items()}
    case = Attention(sizes.B, sizes.L, 1, sizes.S, sizes.D, sizes.H)
    works = {p: [_gathered(w, sizes, k.itemsize) for w in attention.work(case, k.itemsize)] for p, k in DTYPES.items()}
    return Recipe("LLL", makers, works)


def group(recipe: Recipe, sizes: Sizes, data: Data) -> Group:
    """Peers keep tokens in float32 and run under autocast; ours are given tokens in that precision."""
    cuda, half = data.audio.device.type == "cuda", data.to(torch.bfloat16)
    variants = []
    for (name, whose), make in recipe.makers.items():
        for precision in ("fp32", "tf32", "bf16") if cuda and whose == "peer" else ("fp32", "bf16"):
            kept = half if whose == "ours" and precision == "bf16" else data
            build = partial(_built, make, kept, "fp32" if whose == "ours" else precision)
            # a graph is recorded after a few steps
            check = dict if name == GRAPH else partial(first_step, build)
            variants.append(Variant(name, whose, precision, build().step, check=check))
    works = {variant.precision: recipe.works[variant.precision] for variant in variants}
    shape = " ".join(f"{name}{size}" for name, size in sizes._asdict().items())
    return Group(f"{recipe.name}, a training step", shape, variants, variants[0].check(), works)


def _built(make: Callable[[Data], Training], data: Data, precision: str) -> Training:
    made = make(data)
    return made._replace(step=cast(made.step, precision, data.audio.device))


def first_step(build: Callable[[], Training]) -> dict[str, Tensor]:
    """The loss of the first batch, and its gradient with respect to all weights."""
    model, step = build()
    found = step()
    gradients = [p.grad.flatten() for _, p in sorted(model.named_parameters())]
    return {"loss": found["loss"], "gradient": torch.cat(gradients)}


# goals and running ---------------------------------------------------------------------------------------------------


def _found(found: dict, name: str) -> str:
    """The key of a recipe's group."""
    return next((key for key in found["groups"] if key.startswith(name)), "")


def against(recipe: str, ours: str, others: list[str]) -> Callable[[dict], float | None]:
    return lambda found: times_as_fast(found, _found(found, recipe), ours, *others)


def peak(recipe: str, ours: str, others: list[str]) -> Callable[[dict], float | None]:
    return lambda found: memory_share(found, _found(found, recipe), ours, *others)


def goals() -> list[Goal]:
    theirs, autocast = ([f"{name}, {precision}" for name in (AUTHORS, STAND_IN)] for precision in ("fp32", "bf16"))
    graph = f"{GRAPH}, bf16"
    text = "AV-CIL, a training step"
    speed, memory = "times as fast as the authors'", "share of the authors' peak memory"
    return [
        *(
            Goal(f"{text}, {p} tokens: {speed}", "cpu", wanted, against("AV-CIL", f"ours, auto, {p}", theirs))
            for p, wanted in (("fp32", 2.5), ("bf16", 5))
        ),
        Goal(f"{text}, bf16: {memory}", "cpu", 1 / 3, peak("AV-CIL", "ours, auto, bf16", theirs), True),
        Goal(f"{text}, CUDA graph: {speed}", "cuda", 10, against("AV-CIL", graph, theirs)),
        Goal(f"{text}, CUDA graph: {speed} under autocast", "cuda", 5, against("AV-CIL", graph, autocast)),
        Goal(f"{text}: {memory}", "cuda", 1 / 8, peak("AV-CIL", "ours, triton, bf16", theirs), True),
    ]


def report(found: dict, batch: int) -> str:
    lines = heading("Training steps", found, "python benchmarks/training_step.py")
    lines += ["", *goal_table(found["goals"])]
    if not found["official"]:
        lines += [f"The authors' code was not given: {STAND_IN!r} stands for it.", ""]
    for one in found["groups"].values():
        lines += [*table(one), "| variant | clips a second |", "|---|---:|"]
        ran = [r for r in one["variants"] if "ms" in r]
        lines += [f"| {r['variant']}, {r['precision']} | {1e3 * batch / r['ms']:.4g} |" for r in ran]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--official", type=Path, help="checkout of weiguoPian/AV-CIL_ICCV2023")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--quick", action="store_true", help="a tiny shape, to see that everything runs")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    device = torch.device(given.device)
    use_threads()
    authors = Authors(given.official.resolve()) if given.official else None
    sizes = SIZES["quick" if given.quick else device.type]
    about = machine(device)
    path = given.out / f"training_step_{about['slug']}{'_quick' * given.quick}.json"
    found = {"machine": about, "official": authors is not None, "rates": rates(device, given.quick), "groups": {}}
    torch.manual_seed(0)
    data = recipes.draw(sizes, device)
    for build in (partial(av_cil, authors=authors), lll_prior):
        made = group(build(sizes, device=device), sizes, data)
        print(made.key, flush=True)
        rounds, calls = given.rounds or (2 if given.quick else 5), 50 if device.type == "cuda" else 1
        found["groups"][made.key] = measure(made, device, found["rates"], rounds, calls)
        found["load_average_after"] = round(os.getloadavg()[0], 2)
        found["goals"] = judged(goals(), found, device.type)
        write(path, found, report(found, sizes.B))
    print(path.with_suffix(".md").read_text())


if __name__ == "__main__":
    main()
