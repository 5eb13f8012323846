import os
import shutil
from pathlib import Path

import pytest
import torch

from avcil.params import parse, whole
from avcil.tokens.dataset import Dataset
from avcil.tokens.tokens import Tokens

# before the first import of triton: without a GPU its kernels run in its interpreter
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

ROOT = Path(__file__).resolve().parents[1]
# the cache of torch.compile does not tell code for other instructions apart
os.environ.setdefault(
    "TORCHINDUCTOR_CACHE_DIR", str(ROOT / "build" / f"inductor-{os.environ.get('ATEN_CPU_CAPABILITY', 'native')}")
)

# for the tests that drive a browser: where it is, and how it runs in a container without asking anything of the network
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread():
    """As everything of the project computes (avcil/base/portable.py)."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def raw_params() -> dict:
    return whole(ROOT / "params.yaml")


@pytest.fixture(scope="session")
def params(raw_params):
    return parse(raw_params)


@pytest.fixture
def toy() -> Dataset:
    return toy_dataset()


def toy_dataset() -> Dataset:
    """Six classes, tokens with a class-dependent patch that the similarity map points at; 3 tasks of 2 classes."""
    generator = torch.Generator().manual_seed(0)
    classes, per_class, slots, patches, channels = 6, 20, 2, 16, 16
    count = classes * per_class
    labels = torch.arange(classes).repeat_interleave(per_class)
    looks = torch.randn(classes, channels, generator=generator)
    visual = torch.randn(count, slots, patches, channels, generator=generator)
    place = torch.randint(patches, (count, slots), generator=generator)
    share = torch.nn.functional.one_hot(place, patches).float()
    visual += 1.5 * share[..., None] * looks[labels][:, None, None]
    audio = torch.randn(count, 5, channels, generator=generator) + looks[labels].roll(1, 1)[:, None]
    within = torch.arange(count) % per_class
    return Dataset(
        clip_ids=[f"clip{i:03d}" for i in range(count)],
        tokens=Tokens(visual, audio, 3 * share),
        labels=labels,
        splits={
            "train": (within < 12).nonzero()[:, 0],
            "val": ((within >= 12) & (within < 14)).nonzero()[:, 0],
            "test": (within >= 14).nonzero()[:, 0],
        },
        order=[f"class{c}" for c in range(classes)],
        encoder="toy:0",
        share=share,
    )
