"""Where models are: what `compute.device` names, and how much memory of it a process takes."""

import psutil
import pytest
import torch

from avcil.base import device
from avcil.params import ParameterError, parse


@pytest.mark.parametrize(
    ("cuda", "mps", "sound", "chosen"),
    [(1, True, True, "cuda"), (0, True, True, "mps"), (0, True, False, "cpu"), (0, False, True, "cpu")],
)
def test_auto_takes_cuda_then_a_sound_mps_then_the_cpu(monkeypatch, cuda, mps, sound, chosen):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(cuda))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setattr(device, "sound", lambda _: sound)
    assert device.named("auto").type == chosen


@pytest.mark.parametrize("name", ["cuda", "cuda:1", "mps", "xpu", "gpu"])
def test_a_device_that_is_not_here_is_named(monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: int(name == "cuda:1"))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ValueError, match=rf"^device {name}: torch sees none here; set compute\.device to auto or cpu$"):
        device.named(name)


@pytest.mark.parametrize("name", ["gpu", "CUDA", "cuda:", "meta", ""])
def test_params_name_devices_that_there_are(raw_params, name):
    with pytest.raises(ParameterError, match=r"compute\.device"):
        parse(raw_params | {"compute": raw_params["compute"] | {"device": name}})


def test_what_computes_as_the_cpu_does_is_sound_and_what_lacks_an_operation_is_not(monkeypatch):
    assert device.sound.__wrapped__(device.CPU)
    assert not device.sound.__wrapped__(torch.device("meta"))
    # a device whose softmax is wrong by a hundredth
    calls, softmax = [], torch.Tensor.softmax
    monkeypatch.setattr(
        torch.Tensor, "softmax", lambda x, dim: softmax(x, dim) * (1 + 1e-2 * (calls.append(x) or len(calls) - 1))
    )
    assert not device.sound.__wrapped__(device.CPU) and len(calls) == 2


def test_processes_share_a_gpu(monkeypatch):
    """Of 80 GB this process may take a quarter; what torch holds in reserve is its own."""
    fractions, limit = [], "set_per_process_memory_fraction"
    monkeypatch.setattr(torch.cuda, limit, lambda share, number: fractions.append((share, number)))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (70, 80))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 3)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 5)
    monkeypatch.setattr(device, "_share", 1.0)
    gpu = torch.device("cuda")
    assert device.free(gpu) == 72
    device.take(0.25, gpu)
    assert device.free(gpu) == 17 and fractions == [(0.25, 0)]
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (6, 80))  # the others were there first
    assert device.free(gpu) == 8


def test_processes_share_the_machine(monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 1000}))
    monkeypatch.setattr(device, "_share", 1.0)
    assert device.free(device.CPU) == 1000
    device.take(1 / 8, device.CPU)
    assert device.free(device.CPU) == 125
