"""Linear layers that are kept as two thin matrices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from coinfer_ray.compression.pruning import ChannelRanking
from coinfer_ray.models import trace
from coinfer_ray.training.base import BaseNetwork, build_base, product, read_base, round_weights, save_base
from coinfer_ray.training.data import DataSplits, load_data
from coinfer_ray.training.low_rank import factors_of, saves_space, with_low_rank
from coinfer_ray.training.ordering import ordered_network

CPU = torch.device("cpu")
RANK = 12


@pytest.fixture(scope="module")
def data(few_images: Path) -> DataSplits:
    return load_data(few_images)


@pytest.fixture(scope="module")
def low(data: DataSplits) -> tuple[BaseNetwork, BaseNetwork]:
    from coinfer_ray.models import zoo

    torch.manual_seed(0)
    network = zoo.build("alexnet", len(data.classes))
    info = {"model": "alexnet", "input_px": 64, "data": data.name, "data_fingerprint": data.fingerprint}
    weights = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    ordered, _ = ordered_network(BaseNetwork(weights, 0.0, 0.0, info), len(data.classes))
    round_weights(ordered)
    base = BaseNetwork({name: tensor.numpy() for name, tensor in ordered.state_dict().items()}, 0.0, 0.0, info)
    return base, with_low_rank(base, data, RANK, device=CPU, precision=torch.float32)


def test_the_factors_are_the_best_of_their_rank() -> None:
    rng = np.random.default_rng(0)
    weight = torch.from_numpy(rng.normal(size=(30, 20)) @ np.diag(0.7 ** np.arange(20)))
    left, right = factors_of(weight, 5)
    singular = np.linalg.svd(weight.numpy(), compute_uv=False)
    assert left.shape == (30, 5) and right.shape == (5, 20)
    assert float((left @ right - weight).norm()) == pytest.approx(np.sqrt((singular[5:] ** 2).sum()), rel=1e-4)


@pytest.mark.parametrize(
    ("shape", "rank", "saves"),
    [((100, 100), 49, True), ((100, 100), 50, False), ((10, 4096), 128, False), ((9,), 1, False)],
)
def test_only_matrices_that_get_smaller(shape: tuple[int, ...], rank: int, saves: bool) -> None:
    assert saves_space(shape, rank) == saves


def test_two_linear_layers_of_alexnet_get_that_rank(low: tuple[BaseNetwork, BaseNetwork], data: DataSplits) -> None:
    before, after = low
    assert set(after.factors) == {"classifier.1.weight", "classifier.4.weight"}
    for name, (left, right) in after.factors.items():
        assert left.shape[1] == right.shape[0] == RANK
        assert (after.weights[name] == product(left, right)).all()
        # bfloat16 rounds the exact product by one part in 256 at most
        assert np.allclose(after.weights[name], left.astype(float) @ right, rtol=2**-8, atol=0)
    assert (after.weights["classifier.6.bias"] == before.weights["classifier.6.bias"]).all()
    network = build_base(after, len(data.classes))
    graph = trace.trace_graph(network, (3, 64, 64), "alexnet")
    for name, order in ChannelRanking(network, graph).order().items():
        moved = (order - torch.arange(len(order))).abs().max()
        assert moved <= 0.02 * len(order), name  # all but rounding's neighbours lie in the order of their norms


def test_the_file_holds_the_factors_and_gives_the_same_network(
    low: tuple[BaseNetwork, BaseNetwork], tmp_path: Path
) -> None:
    _, after = low
    save_base(after, tmp_path / "low.safetensors")
    again = read_base(tmp_path / "low.safetensors")
    assert again.fingerprint == after.fingerprint and set(again.weights) == set(after.weights)
    assert set(again.factors) == set(after.factors)
    size, whole = (tmp_path / "low.safetensors").stat().st_size, sum(a.size for a in after.weights.values())
    assert size < 0.1 * 2 * whole  # of what bfloat16 would take
    save_base(again, tmp_path / "twice.safetensors")
    assert (tmp_path / "twice.safetensors").read_bytes() == (tmp_path / "low.safetensors").read_bytes()
    assert isinstance(build_base(again, 10), nn.Module)
