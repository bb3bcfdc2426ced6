"""What must hold of every network that is taken: pruning, cutting and counting do to it what they say."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import nn

from coinfer_ray.compression.pruning import ChannelRanking, shrink
from coinfer_ray.models.layers import LayerGraph
from coinfer_ray.models.layout import channels_last
from coinfer_ray.models.split import split
from coinfer_ray.models.trace import trace_graph
from tests.models.test_pruning import masked, random_kept, with_lively_norms


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal but for rounding: to 1e-5 of the largest value."""
    return a.shape == b.shape and bool((a - b).abs().max() <= 1e-5 * b.abs().max())


def check_network(
    network: nn.Module, shape: tuple[int, int, int] = (3, 8, 8), *, prunings: int = 5, every_cut: int = 1
) -> LayerGraph:
    """Random prunings against the masked network, halves against the whole, FLOPs against those predicted."""
    network = with_lively_norms(network)
    graph = trace_graph(network, shape, "own")
    rng = np.random.default_rng(0)
    images = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0)).to(next(network.parameters()).dtype)
    ranking = ChannelRanking(network, graph) if graph.prunable_sets else None
    with torch.no_grad():
        check_halves(network, graph, images, every_cut)
        for number in range(prunings):
            kept = {each.name: each.channels for each in graph.prunable_sets}
            if number:  # at first nothing falls
                kept = random_kept(graph, rng)
            keep = ranking.keep(kept) if ranking else {}
            assert {name: len(channels) for name, channels in keep.items()} == kept
            small = shrink(network, graph, keep)
            assert close(small(images), masked(network, graph, keep)(images))
            again = channels_last(copy.deepcopy(small))
            assert close(again(images.contiguous(memory_format=torch.channels_last)), small(images))
            predicted = [
                layer.flops_at(
                    kept.get(layer.in_set or "", layer.in_channels), kept.get(layer.out_set or "", layer.out_channels)
                )
                for layer in graph.layers
            ]
            assert [layer.flops for layer in trace_graph(small, shape, "own").layers] == predicted
            check_halves(small, graph, images, every_cut)
    return graph


def check_halves(network: nn.Module, graph: LayerGraph, images: torch.Tensor, every: int = 1) -> None:
    whole = network(images)
    for point in graph.cut_points[::every]:
        device, server = split(network, graph, point)
        feature = device(images)
        assert feature.dim() in (2, 4) and len(feature) == len(images)
        assert close(server(feature.contiguous()), whole), f"cut at {graph.cut_name(point)}"
