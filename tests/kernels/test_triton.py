"""The Triton kernels against float64 autograd of avcil/kernels/reference.py: in the interpreter, or on a GPU.

Dimension letters as in avcil/kernels/reference.py.
"""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from avcil import kernels
from avcil.kernels import reference
from avcil.kernels.reference import OldAttention

pytest.importorskip("triton")
from avcil.kernels import triton_channelwise, triton_distillation

# numpy before 2.4 only warns of how triton 3.6 reads the bounds of a loop
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning"),
]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
on_gpu = pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU: torch.cuda is not available")
interpreted = pytest.mark.skipif(DEVICE == "cuda", reason="looks into the interpreter's memory, a GPU has its own")

CHANNELWISE = [
    # B, L, S, D
    (3, 2, 67, 33),
    (2, 3, 49, 96),
    (4, 1, 1, 33),
    (2, 2, 7, 200),
    (1, 8, 66, 16),
    (2, 1, 49, 768),
]
DISTILLATION = [
    # past blocks, new classes, separated, width of features
    ([], 7, False, ()),
    ([], 7, True, (33,)),
    ([6, 3, 11], 5, True, (96, 33, 7)),
    ([6, 3, 11], 5, False, (16, 16)),
    ([1, 2], 1, True, (5, 5, 5)),
    ([10] * 9, 10, True, (768, 768, 768)),
]


@pytest.fixture(autouse=True)
def poison(monkeypatch):
    """Memory that nobody has written to is NaN."""

    def poisoned(allocate):
        def allocated(*arguments, **options):
            made = allocate(*arguments, **options)
            return made.fill_(torch.nan) if made.is_floating_point() else made

        return allocated

    for owner, name in ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")):
        monkeypatch.setattr(owner, name, poisoned(getattr(owner, name)))


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def channelwise_case(clips, slots, count, channels, remembering=True, dtype=torch.float64):
    learned = {
        "audio": random(clips, channels, seed=0).tanh(),
        "weight": random(channels, channels, seed=1) / channels**0.5,
        "bias": random(channels, seed=2),
    }
    fixed = {"tokens": 1 + random(clips, slots, count, channels, seed=3), "old": None, "of": None}
    if remembering:
        spatial = random(3, slots, count, channels, seed=4).softmax(2)
        temporal = random(3, slots, channels, seed=5).softmax(1)
        fixed["old"] = OldAttention(spatial.to(dtype), temporal, torch.xlogy(spatial, spatial).sum(2))
        # some remembered, out of order; one of several not
        fixed["of"] = torch.tensor([2, -1, 0, 0])[:clips]
    return learned, fixed


def distillation_case(blocks, new, separated, widths, clips=6):
    past = sum(blocks)
    names = [f"feature{i}" for i in range(len(widths))]
    learned = {"logits": 3 * random(clips, past + new, seed=0)}
    learned |= {
        name: random(clips, width, seed=10 + i) for i, (name, width) in enumerate(zip(names, widths, strict=True))
    }
    old = tuple(random(clips, width, seed=20 + i) for i, width in enumerate(widths))
    if old:
        # absent; tiny; a feature of zeros beside an old one that is not
        old[0][0], old[-1][1] = 0, 1e-8 * old[-1][1]
        learned[names[-1]][2], learned[names[0]][3] = 0, 1e-8 * learned[names[0]][3]
    labels = torch.arange(clips) * (past + new) // clips
    return learned, {
        "labels": labels.flip(0),
        "old_logits": 3 * random(clips, past, seed=1),
        "blocks": blocks,
        "old_features": old,
        "temperature": 1.7,
        "separated": separated,
    }


def distil(function, logits, labels, old_logits, blocks, old_features, temperature, separated, **features):
    given = tuple(features.values()), old_features, temperature, separated
    return function(logits, labels, old_logits, blocks, *given)


def channelwise_reference(audio, tokens, weight, bias, old, of):
    return reference.channelwise_attention(audio, tokens, weight, bias, None, old, of)


KERNELS = {
    "channelwise": (triton_channelwise.channelwise_attention, channelwise_reference, channelwise_case),
    "distillation": (
        partial(distil, triton_distillation.dual_distillation),
        partial(distil, reference.dual_distillation),
        distillation_case,
    ),
}
CASES = [
    *(("channelwise", shape) for shape in CHANNELWISE),
    *(("distillation", shape) for shape in DISTILLATION),
]


def cast(x, dtype):
    """Floating-point tensors, also in tuples, in a type; everything on the device."""
    if isinstance(x, tuple):
        parts = [cast(y, dtype) for y in x]
        return type(x)(*parts) if hasattr(x, "_fields") else tuple(parts)
    if not isinstance(x, torch.Tensor):
        return x
    return x.to(DEVICE, dtype if x.is_floating_point() else x.dtype)


def run(function, learned, fixed, *, dtype=torch.float64, tokens=None, only=None, view=lambda x: x) -> dict:
    """Outputs and gradients by name, for random upstream gradients, of the output ``only`` or of all."""
    fixed = {name: cast(x, tokens if tokens and name == "tokens" else dtype) for name, x in fixed.items()}
    fixed = {name: view(x) if isinstance(x, torch.Tensor) else x for name, x in fixed.items()}
    leaves = {name: cast(x, dtype).detach().clone().requires_grad_() for name, x in learned.items()}
    made = function(**{name: view(x) for name, x in leaves.items()}, **fixed)._asdict()
    ups = {name: view(cast(random(*x.shape, seed=len(name)), x.dtype)) for name, x in made.items()}
    kept = [name for name, x in made.items() if x.requires_grad and only in (None, name)]
    torch.autograd.backward([made[name] for name in kept], [ups[name] for name in kept])
    slopes = {f"gradient of {name}": torch.zeros_like(x) if x.grad is None else x.grad for name, x in leaves.items()}
    return {name: x.detach() for name, x in made.items()} | slopes


def error(found: torch.Tensor, exact: torch.Tensor) -> float:
    """The largest difference, relative to the largest value or 1; equal infinities do not differ."""
    found, exact = found.double().cpu(), exact.double().cpu()
    size = torch.cat((exact[exact.isfinite()].abs(), torch.ones(1))).max()
    return ((found - exact).masked_fill(found == exact, 0).abs().max() / size).item()


def assert_same(found: dict, exact: dict, tolerance: float = 1e-12):
    assert found.keys() == exact.keys()
    for name in exact:
        assert error(found[name], exact[name]) <= tolerance, name


def assert_as_good(found: dict, eager: dict, exact: dict, half: torch.dtype | None = None):
    """At most twice the error of plain PyTorch in the same types, and a floor: eight roundings to float32, or, of half
    types, an eighth of one, as much as chance moves sums of them."""
    single = torch.finfo(torch.float32).eps
    floor = torch.finfo(half).eps / 8 if half else 8 * single
    # the interpreter cuts bfloat16 off where others round
    times = 4 if half == torch.bfloat16 and DEVICE == "cpu" else 2
    for name in exact:
        allowed = times * error(eager[name], exact[name]) + floor
        if name.endswith("divergence"):
            # a difference of sums over the channels, rounded once each
            allowed += single * len(exact["gradient of bias"])
        assert error(found[name], exact[name]) <= allowed, (name, error(found[name], exact[name]), allowed)


@interpreted
@pytest.mark.parametrize(("kernel", "shape"), CASES, ids=str)
def test_double_precision_equals_autograd_of_the_reference(kernel, shape):
    ours, plain, case = KERNELS[kernel]
    given = case(*shape)
    assert_same(run(ours, *given), run(plain, *given))


@pytest.mark.parametrize(("kernel", "shape"), CASES, ids=str)
def test_single_precision_errs_as_plain_pytorch(kernel, shape):
    ours, plain, case = KERNELS[kernel]
    given = case(*shape)
    exact = run(plain, *(({n: cast(cast(x, torch.float32), torch.float64) for n, x in g.items()}) for g in given))
    single = {"dtype": torch.float32}
    assert_as_good(run(ours, *given, **single), run(plain, *given, **single), exact)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("kernel", "shape"), [case for case in CASES if case[0] != "distillation" and case[1][-1] < 768], ids=str
)
def test_half_precision_tokens_err_as_plain_pytorch(kernel, shape, half):
    ours, plain, case = KERNELS[kernel]
    learned, fixed = case(*shape)
    learned, fixed = ({n: cast(cast(x, torch.float32), torch.float64) for n, x in g.items()} for g in (learned, fixed))
    fixed["tokens"] = cast(cast(fixed["tokens"], half), torch.float64)
    types = {"dtype": torch.float32, "tokens": half}
    found, eager = run(ours, learned, fixed, **types), run(plain, learned, fixed, **types)
    assert_as_good(found, eager, run(plain, learned, fixed), half)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_logits_err_as_plain_pytorch(half):
    ours, plain, case = KERNELS["distillation"]
    given = [{n: cast(cast(x, half), torch.float64) for n, x in g.items()} for g in case([6, 3], 5, True, (33, 33))]
    found, eager = (run(function, *given, dtype=half) for function in (ours, plain))
    assert_as_good(found, eager, run(plain, *given), half)


OPTIONS = [
    ("channelwise", (2, 2, 49, 33, False)),
    ("channelwise", (1, 2, 49, 33, True)),
]


@interpreted
@pytest.mark.parametrize(("kernel", "shape"), OPTIONS, ids=str)
def test_optional_arguments(kernel, shape):
    ours, plain, case = KERNELS[kernel]
    given = case(*shape)
    assert_same(run(ours, *given), run(plain, *given))


SMALL = {"channelwise": (4, 2, 49, 33), "distillation": ([6, 3], 5, True, (7, 9))}
OUTPUTS = [
    *(("channelwise", name) for name in reference.Channelwise._fields),
    *(("distillation", name) for name in reference.Distillation._fields),
]


@interpreted
@pytest.mark.parametrize(("kernel", "only"), OUTPUTS)
def test_gradient_of_one_output_alone(kernel, only):
    ours, plain, case = KERNELS[kernel]
    given = case(*SMALL[kernel])
    assert_same(run(ours, *given, only=only), run(plain, *given, only=only))


def strided(x):
    return torch.stack((x, torch.zeros_like(x)), -1)[..., 0]


@interpreted
@pytest.mark.parametrize("kernel", KERNELS)
def test_arguments_and_upstream_gradients_need_not_be_contiguous(kernel):
    ours, _, case = KERNELS[kernel]
    given = case(*SMALL[kernel])
    found, expected = (run(ours, *given, dtype=torch.float32, view=view) for view in (strided, lambda x: x))
    for name in expected:  # not bit by bit: products of strided matrices may take another way through BLAS
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("kernel", KERNELS)
def test_two_runs_give_equal_bits(kernel):
    ours, _, case = KERNELS[kernel]
    given = case(*SMALL[kernel])
    first, second = (run(ours, *given, dtype=torch.float32) for _ in range(2))
    for name in first:
        assert torch.equal(first[name], second[name]), name


@interpreted
@pytest.mark.parametrize("kernel", KERNELS)
def test_nothing_waits_for_the_device(kernel, monkeypatch):
    """Neither pass asks a tensor for a value."""
    ours, _, case = KERNELS[kernel]
    learned, fixed = case(*SMALL[kernel])
    run(ours, learned, fixed, dtype=torch.float32)  # the layout of the blocks is copied once
    for name in ("item", "tolist", "nonzero", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__"):

        def refused(*_, name=name):
            raise AssertionError(f"Tensor.{name} waits for the device")

        monkeypatch.setattr(torch.Tensor, name, refused)
    run(ours, learned, fixed, dtype=torch.float32)


@interpreted
@pytest.mark.parametrize("block", [{"TOKENS": 16, "CHANNELS": 32}, {"TOKENS": 64, "CHANNELS": 16}], ids=str)
def test_channels_and_tokens_in_several_blocks(block, monkeypatch):
    monkeypatch.setattr(triton_channelwise, "BLOCK", block)
    ours, plain, case = KERNELS["channelwise"]
    given = case(2, 2, 49, 50)
    assert_same(run(ours, *given), run(plain, *given))


def test_forgotten_clips_have_divergence_0_without_gradient():
    """Whatever the cache holds."""
    ours, _, case = KERNELS["channelwise"]
    learned, fixed = case(3, 2, 49, 33)
    fixed["of"] = torch.full((3,), -1)
    fixed["old"] = OldAttention(*(torch.full_like(x, torch.nan) for x in fixed["old"]))
    found = run(ours, learned, fixed, dtype=torch.float32)
    alone = run(ours, learned, fixed | {"old": None}, dtype=torch.float32)
    for name in alone:
        assert torch.equal(found[name], alone[name]), name
    assert found["spatial_divergence"].eq(0).all() and found["temporal_divergence"].eq(0).all()


def test_an_unchanged_model_has_divergence_0():
    learned, fixed = ({n: cast(x, torch.float32) for n, x in g.items()} for g in channelwise_case(3, 2, 49, 33, False))
    old = kernels.remember_attention(**learned, tokens=fixed["tokens"], dtype=torch.float32)
    fixed |= {"old": old, "of": torch.arange(3, device=DEVICE)}
    found = triton_channelwise.channelwise_attention(**learned, **fixed)
    torch.testing.assert_close(found.spatial_divergence, torch.zeros(3, device=DEVICE), atol=1e-3, rtol=0)
    torch.testing.assert_close(found.temporal_divergence, torch.zeros(3, device=DEVICE), atol=1e-4, rtol=0)


def sparse(*shape: int) -> torch.Tensor:
    """Half-precision numbers in memory of which only what is touched is taken."""
    count = torch.Size(shape).numel()
    return torch.tensor([], dtype=torch.float16).set_(torch.UntypedStorage(2 * count), 0, shape)


@interpreted
def test_old_maps_beyond_2_to_the_31_elements(monkeypatch):
    monkeypatch.setattr("triton.runtime.interpreter.GridExecutor._restore_args_dev", lambda *_: None)
    ours, _, case = KERNELS["channelwise"]
    learned, fixed = case(2, 1, 4, 16)
    near = fixed["old"]._replace(spatial=fixed["old"].spatial.half())
    rows = 2**25 + 1
    far = sparse(rows, 1, 4, 16)
    far[-1] = near.spatial[2]
    maps = [x[2:].expand(rows, *x.shape[1:]) for x in near[1:]]
    with pytest.MonkeyPatch.context() as patch:
        # casting would touch all of it
        patch.setattr(sys.modules[__name__], "cast", lambda x, dtype: x)
        learned = {name: x.float() for name, x in learned.items()}
        fixed = {"tokens": fixed["tokens"].float(), "of": torch.tensor([2, -1])}
        expected = run(ours, learned, fixed | {"old": near})
        fixed |= {"old": OldAttention(far, *maps), "of": torch.tensor([rows - 1, -1])}
        found = run(ours, learned, fixed)
    for name in expected:
        assert torch.equal(found[name], expected[name]), name


def test_refusals():
    learned, fixed = channelwise_case(2, 2, 3, 16)
    attend = partial(triton_channelwise.channelwise_attention, **learned)
    with pytest.raises(ValueError, match="tokens require a gradient"):
        attend(**fixed | {"tokens": fixed["tokens"].clone().requires_grad_()})
    with pytest.raises(ValueError, match=r"old.spatial is not contiguous"):
        attend(**fixed | {"old": fixed["old"]._replace(spatial=fixed["old"].spatial.transpose(1, 2))})
    learned, fixed = distillation_case([2, 3], 2, True, (4,))
    distilled = partial(distil, triton_distillation.dual_distillation, **learned)
    with pytest.raises(ValueError, match=r"blocks \[4\] sum to 4, old_logits has 5 past classes"):
        distilled(**fixed | {"blocks": [4]})
    with pytest.raises(ValueError, match="old_logits require a gradient"):
        distilled(**fixed | {"old_logits": fixed["old_logits"].clone().requires_grad_()})


def test_second_backward_of_channelwise_attention_is_refused():
    learned, fixed = ({n: cast(x, torch.float32) for n, x in g.items()} for g in channelwise_case(2, 2, 49, 33))
    learned["audio"].requires_grad_()
    output = triton_channelwise.channelwise_attention(**learned, **fixed).output.sum()
    output.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="the first backward has overwritten"):
        output.backward()


def test_layout_of_past_blocks_is_copied_once():
    sizes = (6, 3, 5)
    offsets, copied = triton_distillation._layout(sizes, torch.device(DEVICE))
    assert offsets.tolist() == [0, 6, 9] and copied.tolist() == [6, 3, 5]
    assert triton_distillation._layout(sizes, torch.device(DEVICE))[0] is offsets


@interpreted
def test_channelwise_attention_with_a_centre_and_remembered_maps():
    learned, fixed = channelwise_case(4, 2, 49, 33)
    changed = {"audio": learned["audio"], "weight": learned["weight"] * 1.1, "bias": learned["bias"]}
    fixed |= {"centre": random(33, seed=8), "of": torch.tensor([3, -1, 1, 0])}
    fixed["old"] = kernels.remember_attention(
        **changed, tokens=fixed["tokens"], centre=fixed["centre"], dtype=torch.float64
    )
    found, expected = (
        run(partial(kernels.channelwise_attention, impl=impl), learned, fixed) for impl in ("triton", "reference")
    )
    assert_same(found, expected)


@interpreted
def test_dual_distillation_weighted_as_in_training():
    learned, fixed = distillation_case([6, 3], 5, True, (7, 9))
    temperature, separated = fixed.pop("temperature"), fixed.pop("separated")

    def total(impl, logits, labels, old_logits, blocks, old_features, **features):
        given = logits, labels, old_logits, blocks, tuple(features.values()), old_features
        found = kernels.dual_distillation(*given, temperature=temperature, separated=separated, impl=impl)
        loss = found.cross_entropy + 0.7 * found.logit + 0.2 * found.feature
        return reference.Distillation(loss, found.logit, found.feature)

    found, expected = (run(partial(total, impl), learned, fixed) for impl in ("triton", "reference"))
    assert_same(found, expected)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory) -> dict:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("triton"))}
    script = Path(__file__).with_name("triton_compile.py")
    ran = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def test_compiles_for_an_h100(compiled):
    """No register spills, no more shared memory than there is, no atomics, 64-bit offsets."""
    assert len(compiled) == 13
    for call, found in compiled.items():
        assert found["spilled_bytes"] == 0, call
        assert found["shared_kib"] <= 227, call
        assert found["atomics"] == 0, call
        assert found["narrow_offsets"] == [], call
    assert all(found["registers"] <= 168 for call, found in compiled.items() if call.startswith("_attend"))


@on_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("seed", range(8))
def test_random_shapes_on_a_gpu(dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    pick = lambda low, high: int(torch.randint(low, high, (), generator=generator))  # noqa: E731
    ours, plain, case = KERNELS["channelwise"]
    given = case(pick(1, 5), pick(1, 9), pick(1, 300), pick(1, 1025))
    learned, fixed = ({n: cast(cast(x, torch.float32), torch.float64) for n, x in g.items()} for g in given)
    fixed["tokens"] = cast(cast(fixed["tokens"], dtype), torch.float64)
    types = {"dtype": torch.float32, "tokens": dtype}
    found, eager = run(ours, learned, fixed, **types), run(plain, learned, fixed, **types)
    assert_as_good(found, eager, run(plain, learned, fixed), None if dtype == torch.float32 else dtype)


@on_gpu
@pytest.mark.parametrize("kernel", KERNELS)
def test_no_races_on_a_gpu(kernel):
    ours, _, case = KERNELS[kernel]
    shape = {"channelwise": (4, 8, 196, 768), "distillation": DISTILLATION[-1]}
    given = case(*shape[kernel])
    types = {"dtype": torch.float32, "tokens": torch.bfloat16}
    first = run(ours, *given, **types)
    for _ in range(50):
        again = run(ours, *given, **types)
        for name in first:
            assert torch.equal(first[name], again[name]), name


@on_gpu
@pytest.mark.parametrize("kernel", KERNELS)
def test_no_synchronisation_on_a_gpu(kernel):
    ours, _, case = KERNELS[kernel]
    learned, fixed = ({n: cast(x, torch.float32) for n, x in g.items()} for g in case(*SMALL[kernel]))
    run(ours, learned, fixed, dtype=torch.float32)
    leaves = {name: x.clone().requires_grad_() for name, x in learned.items()}
    torch.cuda.set_sync_debug_mode("error")
    try:
        made = ours(**leaves, **fixed)
        torch.autograd.backward(list(made), [torch.ones_like(x) for x in made])
    finally:
        torch.cuda.set_sync_debug_mode("default")
