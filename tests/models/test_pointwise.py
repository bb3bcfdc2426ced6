"""Strided 1x1 convolutions with few input channels train without writing out of bounds, and compute the same."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from coinfer_ray.models import trace, zoo
from coinfer_ray.models.pointwise import StridedPointwise, with_safe_strides
from coinfer_ray.models.split import split

# Trains the very layers in the product's own loop. oneDNN is kept to AVX2, on which it crashes where there is no guard.
TRAIN = """
import sys
import numpy as np
import torch
from torch import nn
from coinfer_ray.training.data import ImageSet
from coinfer_ray.training.trainer import Phase, Preprocess, train

torch.set_num_threads(1)
rng = np.random.default_rng(0)
images = ImageSet(rng.integers(0, 256, (128, 32, 32, 3), dtype=np.uint8), rng.integers(0, 10, 128))
phase = Phase(images=640, batch_size=64, learning_rate=1e-3)
for channels in range(3, 8):
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)]
    network = nn.Sequential(nn.Conv2d(3, channels, 3, 2, 1), nn.Conv2d(channels, 64, 1, 2, bias=False), *head)
    network = network.to(memory_format=torch.channels_last)
    preprocess = Preprocess(32, (0.5,) * 3, (0.2,) * 3)
    train(network, images, preprocess, phase, seed=0, device=torch.device("cpu"), precision=torch.float32)
print("whole")
"""


def test_few_channels_corrupt_no_memory() -> None:
    checked = {"ONEDNN_MAX_CPU_ISA": "AVX2", "GLIBC_TUNABLES": "glibc.malloc.check=3", "MALLOC_PERTURB_": "165"}
    if Path("/lib/x86_64-linux-gnu/libc_malloc_debug.so.0").exists():  # where the checks live from glibc 2.34 on
        checked["LD_PRELOAD"] = "libc_malloc_debug.so.0"
    run = subprocess.run(
        [sys.executable, "-c", TRAIN], env=os.environ | checked, capture_output=True, text=True, timeout=300
    )
    assert (run.returncode, run.stdout.strip()) == (0, "whole"), run.stderr[-500:]


@pytest.mark.parametrize("channels", [3, 8, 24])
@pytest.mark.parametrize("bias", [False, True])
def test_results_and_gradients_are_those_of_torch(channels: int, bias: bool) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(channels, 12, 1, stride=(2, 3), bias=bias)  # contiguous: torch's own is sound there
    safe = with_safe_strides(copy.deepcopy(conv))
    assert type(safe) is StridedPointwise and type(conv) is nn.Conv2d
    assert list(safe.state_dict()) == list(conv.state_dict())
    outputs, gradients = [], []
    for module in (conv, safe):
        x = torch.arange(channels * 2 * 9 * 7).reshape(2, channels, 9, 7).sin().requires_grad_()
        y = module(x)
        y.square().mean().backward()
        outputs.append(y.detach())
        gradients.append([x.grad, *(parameter.grad for parameter in module.parameters())])
    assert torch.allclose(*outputs, atol=1e-6)
    for one, other in zip(*gradients, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_other_convolutions_are_left_alone() -> None:
    others = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, 2), nn.Conv2d(4, 4, 1, 2, padding=1))
    with_safe_strides(others)
    assert all(type(module) is nn.Conv2d for module in others)


def test_a_safe_network_traces_splits_copies_and_pickles() -> None:
    network = with_safe_strides(zoo.build("regnet_x_400mf", 10)).eval()
    assert sum(isinstance(module, StridedPointwise) for module in network.modules()) == 4  # one a stage
    graph = trace.trace_graph(network, (3, 64, 64), "regnet_x_400mf")
    assert graph == trace.trace_graph(zoo.build("regnet_x_400mf", 10), (3, 64, 64), "regnet_x_400mf")
    x = torch.randn(2, 3, 64, 64)
    expected = network(x)
    device, server = split(network, graph, graph.cut_points[3])
    assert torch.equal(server(device(x)), expected)
    for copied in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert torch.equal(copied(x), expected)
