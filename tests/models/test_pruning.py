"""Removing channels for real: the shrunken network computes what the masked one does, and NNI's rules hold."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from coinfer_ray.compression.pruning import ChannelRanking, shrink
from coinfer_ray.models import trace, zoo
from coinfer_ray.models.layers import LayerGraph
from coinfer_ray.problem.space import SearchSpace
from tests.models.test_trace import table_one_without_biases

PRUNINGS = 20


def with_lively_norms(network: nn.Module) -> nn.Module:
    """Batch norms as after training: without, a masked channel's shift could be forgotten unseen."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and module.affine:
            for tensor, mean, spread in (
                (module.weight, 1.0, 0.3),
                (module.bias, 0.0, 0.3),
                (module.running_mean, 0.0, 0.1),
            ):
                drawn = mean + spread * torch.randn(tensor.shape, generator=generator)
                tensor.data = drawn.to(tensor.dtype)
            variances = 0.5 + torch.rand(module.running_var.shape, generator=generator)
            module.running_var.data = variances.to(module.running_var.dtype)
    return network.eval()


def random_kept(graph: LayerGraph, rng: np.random.Generator) -> dict[str, int]:
    return {
        prunable.name: int(prunable.unit * rng.integers(1, prunable.channels // prunable.unit + 1))
        for prunable in graph.prunable_sets
    }


def masked(network: nn.Module, graph: LayerGraph, keep: Mapping[str, torch.Tensor]) -> nn.Module:
    """A copy of ``network`` with the same channels zeroed instead of removed: what NNI's masks stand for.

    A batch norm's gamma and beta are zeroed too, else a masked channel still carries its shift.
    """
    copied = copy.deepcopy(network)
    with torch.no_grad():
        for layer in graph.layers:
            if layer.kind not in ("conv", "fc", "batch_norm") or not layer.out_set or layer.out_set not in keep:
                continue
            gone = torch.ones(layer.out_channels, dtype=torch.bool)
            gone[keep[layer.out_set]] = False
            module = copied.get_submodule(layer.module)
            for name in ("weight", "bias"):
                parameter = getattr(module, name)
                if parameter is not None:
                    parameter[gone] = 0
    return copied


@pytest.mark.parametrize("model", ["alexnet", "regnet_x_400mf"])
def test_shrunken_network_equals_the_masked_one_and_its_flops_are_table_one(model: str) -> None:
    torch.manual_seed(0)
    network = with_lively_norms(zoo.build(model, 10))
    graph = trace.trace_graph(network, (3, 64, 64), model)
    ranking = ChannelRanking(network, graph)
    rng = np.random.default_rng(1)
    images = torch.randn(2, 3, 64, 64)
    for _ in range(PRUNINGS):
        kept = random_kept(graph, rng)
        keep = ranking.keep(kept)
        assert {name: len(channels) for name, channels in keep.items()} == kept
        small = shrink(network, graph, keep)
        with torch.no_grad():
            reference = masked(network, graph, keep)(images)
            assert torch.allclose(small(images), reference, rtol=0, atol=1e-5)
        counted = trace.trace_graph(small, (3, 64, 64), model)
        with FlopCounterMode(display=False) as counter:
            small(images[:1])
        assert table_one_without_biases(counted) == counter.get_total_flops()
        expected = sum(
            layer.flops_at(
                kept.get(layer.in_set or "", layer.in_channels), kept.get(layer.out_set or "", layer.out_channels)
            )
            for layer in graph.layers
        )
        assert counted.flops == expected


def test_pruning_leaves_the_base_network_alone() -> None:
    network = zoo.build("resnet18", 10).eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    graph = trace.trace_graph(network, (3, 64, 64), "resnet18")
    small = shrink(network, graph, ChannelRanking(network, graph).keep(random_kept(graph, np.random.default_rng(0))))
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.fill_(1.0)
        for buffer in small.buffers():
            buffer.fill_(1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_l1_keeps_the_filters_with_the_largest_norm() -> None:
    network = zoo.build("alexnet", 10).eval()
    graph = trace.trace_graph(network, (3, 64, 64), "alexnet")
    full = {prunable.name: prunable.channels for prunable in graph.prunable_sets}
    keep = ChannelRanking(network, graph).keep(full | {"conv2": 48})
    norms = network.features[3].weight.detach().abs().sum((1, 2, 3))
    assert keep["conv2"].tolist() == sorted(norms.topk(48).indices.tolist())
    assert len(keep["fc1"]) == 4096


def test_fpgm_drops_the_filters_nearest_to_all_others() -> None:
    network = zoo.build("alexnet", 10).eval()
    graph = trace.trace_graph(network, (3, 64, 64), "alexnet")
    full = {prunable.name: prunable.channels for prunable in graph.prunable_sets}
    keep = ChannelRanking(network, graph, "fpgm").keep(full | {"conv1": 16})
    filters = network.features[0].weight.detach().flatten(1)
    distances = torch.stack([(filters - one).norm(dim=1).sum() for one in filters])
    assert keep["conv1"].tolist() == sorted(distances.topk(16).indices.tolist())


def test_kept_channels_are_exactly_those_of_the_spaces_levels() -> None:
    graph = trace.trace_graph(zoo.build("regnet_x_400mf", 10), (3, 64, 64), "regnet_x_400mf")
    space = SearchSpace(graph)
    for level in range(int(space.tables.n_levels.max())):
        levels = np.minimum(level, space.tables.n_levels - 1)
        strategy = space.strategy(levels)
        kept = space.kept_channels(strategy)
        for prunable in graph.prunable_sets:
            assert kept[prunable.name] % prunable.unit == 0
            assert kept[prunable.name] / prunable.channels == pytest.approx(1 - strategy.sparsity[prunable.name])
