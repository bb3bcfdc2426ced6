"""Networks whose channels lie in the order of their importance, and weights that say that order themselves."""

from __future__ import annotations

import torch
from torch import nn

from coinfer_ray.compression.pruning import ChannelRanking, shrink
from coinfer_ray.models.layers import Layer, LayerGraph
from coinfer_ray.models.trace import trace_graph
from coinfer_ray.training.base import BaseNetwork, build_base

NORM_MARGIN = 2e-3  # by which neighbours in the ranking differ: more than rounding to bfloat16 moves a norm
HOMOGENEOUS = ("conv", "fc", "relu", "leaky_relu", "max_pool", "avg_pool", "dropout")


def ordered_network(base: BaseNetwork, classes: int) -> tuple[nn.Module, LayerGraph]:
    """The network of ``base``, the channels of every prunable set in the order of their L1 norms, and its graph."""
    network = build_base(base, classes)
    pixels = int(base.info["input_px"])
    graph = trace_graph(network, (3, pixels, pixels), str(base.info["model"]))
    return shrink(network, graph, ChannelRanking(network, graph).order()), graph


@torch.no_grad()
def keep_order(network: nn.Module, graph: LayerGraph) -> None:
    """Scale filters, in place, so that their L1 norms fall from the first channel of every prunable set to the last.

    A factor on a filter is undone by the batch norm behind it, or, where what follows is as homogeneous as a ReLU, by
    the inputs of the next layers. Sets with neither are left as they are.
    """
    for prunable in graph.prunable_sets:
        makers = [layer for layer in graph.layers if layer.name in prunable.layers]
        scores = torch.stack([_filter_norms(network, layer) for layer in makers]).mean(0)
        scores = scores.reshape(-1, prunable.unit).mean(1)
        wanted = scores.sort(descending=True).values
        margin = 1 + min(NORM_MARGIN, 1 / len(wanted))
        for place in range(1, len(wanted)):
            wanted[place] = torch.minimum(wanted[place], wanted[place - 1] / margin)
        factors = (wanted / scores.clamp_min(1e-12)).repeat_interleave(prunable.unit)
        norms = [_norm_behind(graph, layer) for layer in makers]
        readers = [layer for layer in graph.layers if layer.in_set == prunable.name and layer.out_set != prunable.name]
        if all(norms):
            for norm in norms:
                assert norm is not None
                module = network.get_submodule(norm.module)
                if module.running_mean is None:  # it keeps none
                    continue
                module.running_mean.mul_(factors)  # type: ignore[union-attr, operator]
                module.running_var.mul_(factors.square())  # type: ignore[union-attr, operator]
        elif len(makers) == 1 and _is_homogeneous(graph, prunable.name):
            for layer in readers:
                if layer.kind in ("conv", "fc"):
                    weight = network.get_submodule(layer.module).weight
                    assert isinstance(weight, torch.Tensor)
                    inputs = factors.repeat_interleave(weight.shape[1] // len(factors))
                    weight.div_(inputs.reshape(1, -1, *[1] * (weight.dim() - 2)))
        else:
            continue
        for layer in makers:
            module = network.get_submodule(layer.module)
            module.weight.mul_(factors.reshape(-1, *[1] * (module.weight.dim() - 1)))  # type: ignore[operator]
            if module.bias is not None:
                module.bias.mul_(factors)  # type: ignore[operator]


def _filter_norms(network: nn.Module, layer: Layer) -> torch.Tensor:
    weight = network.get_submodule(layer.module).weight
    assert isinstance(weight, torch.Tensor)
    return weight.abs().flatten(1).sum(1)


def _norm_behind(graph: LayerGraph, layer: Layer) -> Layer | None:
    """The batch norm that alone reads a layer's output."""
    readers = [other for other in graph.layers if layer.index in other.inputs]
    return readers[0] if len(readers) == 1 and readers[0].kind == "batch_norm" else None


def _is_homogeneous(graph: LayerGraph, name: str) -> bool:
    touched = [layer for layer in graph.layers if name in (layer.in_set, layer.out_set)]
    return all(layer.kind in HOMOGENEOUS and not layer.group_width for layer in touched)
