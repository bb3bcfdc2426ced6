"""Sub-networks of a network whose channels lie in the order of their importance: each keeps the first of every set.

They are run on slices of the network's own weights, so what they learn is learnt by all (slimmable networks: J. Yu and
T. Huang, "Universally Slimmable Networks and Improved Training Techniques", ICCV 2019).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any

import numpy as np
import torch
import torch.fx
import torch.nn.functional as F
from torch import nn

from coinfer_ray.models.layers import Layer, LayerGraph
from coinfer_ray.models.pointwise import convolve
from coinfer_ray.models.symbolic import fx_trace

MAX_SPARSITY = 0.9
_Sizes = Mapping[str, tuple[int, int]]  # by prunable set: channels kept, and with those of zeros that fill them up

MULTIPLE = 16  # channels: a processor's convolutions are half as slow again with counts between its multiples


def draw_kept(graph: LayerGraph, level: float, spread: float, rng: np.random.Generator) -> dict[str, int]:
    """Channels that a random sub-network keeps in each prunable set.

    Every set's sparsity is normal around ``level`` (0..1) with the standard deviation ``spread``, within
    0..:data:`MAX_SPARSITY`, and rounded to whole units of the set.
    """
    return _kept(graph, level, rng.normal(0.0, spread, len(graph.prunable_sets)))


def kept_of_flops(graph: LayerGraph, share: float, spread: float, rng: np.random.Generator) -> dict[str, int]:
    """:func:`draw_kept` at the level that leaves ``share`` (0..1) of the network's FLOPs, as nearly as it can."""
    offsets = rng.normal(0.0, spread, len(graph.prunable_sets))
    levels = np.linspace(0.0, MAX_SPARSITY, 361)
    shares = [flops_left(graph, _kept(graph, float(level), offsets)) for level in levels]
    return _kept(graph, float(levels[np.abs(np.array(shares) - share).argmin()]), offsets)


def flops_left(graph: LayerGraph, kept: Mapping[str, int]) -> float:
    """Share of the network's FLOPs (the paper's Table I) that remain with so many channels in each prunable set."""
    left = 0
    for layer in graph.layers:
        inputs = layer.in_channels if layer.in_set is None else kept[layer.in_set]
        left += layer.flops_at(inputs, layer.out_channels if layer.out_set is None else kept[layer.out_set])
    return left / graph.flops


def _kept(graph: LayerGraph, level: float, offsets: np.ndarray) -> dict[str, int]:
    kept = {}
    for prunable, offset in zip(graph.prunable_sets, offsets, strict=True):
        groups = prunable.channels // prunable.unit
        removed = round(float(np.clip(level + offset, 0.0, MAX_SPARSITY)) * groups)
        kept[prunable.name] = prunable.unit * max(1, groups - removed)
    return kept


class SlicedNetwork:
    """Runs sub-networks of ``network`` in training mode; the network's own state but its weights is left alone.

    ``graph`` is its layer graph. Batch norms normalise by the batch at hand and keep no averages.
    """

    def __init__(self, network: nn.Module, graph: LayerGraph) -> None:
        self.graph = graph
        self.traced = fx_trace(network, graph.model)
        self.modules = dict(self.traced.named_modules())
        self.layers: dict[torch.fx.Node, Layer] = {}
        position = 0
        for node in self.traced.graph.nodes:
            named = str(node.target) if node.op == "call_module" else node.name
            if position < len(graph.layers) and graph.layers[position].module == named:
                self.layers[node] = graph.layers[position]
                position += 1
        assert position == len(graph.layers), f"{graph.model} is not the network of this layer graph"
        # Layers that a batch norm follows: their channels are set to zero behind it, which makes its bias of zeros.
        self.normed = {layer.inputs[0] for layer in graph.layers if layer.kind == "batch_norm"}

    def __call__(self, x: torch.Tensor, kept: Mapping[str, int]) -> torch.Tensor:
        """Class scores (n, classes) of ``x`` (n, 3, px, px) with the first ``kept`` channels of every prunable set."""
        if x.is_cuda:
            return self._masked(x, kept)
        # Whole groups are never padded: their width is what such a set's counts are multiples of.
        sizes = {
            each.name: (kept[each.name], min(each.channels, -(-kept[each.name] // MULTIPLE) * MULTIPLE))
            if each.unit == 1
            else (kept[each.name], kept[each.name])
            for each in self.graph.prunable_sets
        }
        return self._walk(x, lambda node, values: self._run(node, values, sizes))

    def _walk(self, x: torch.Tensor, run: Callable[[torch.fx.Node, dict[torch.fx.Node, Any]], Any]) -> torch.Tensor:
        """The network's output, each of its nodes computed by ``run`` from the values before it."""
        values: dict[torch.fx.Node, Any] = {}
        for node in self.traced.graph.nodes:
            if node.op == "placeholder":
                values[node] = x
            elif node.op == "get_attr":
                values[node] = attrgetter(str(node.target))(self.traced)
            elif node.op == "output":
                break
            else:
                values[node] = run(node, values)
        output: torch.Tensor = values[node.all_input_nodes[0]]
        return output

    def _masked(self, x: torch.Tensor, kept: Mapping[str, int]) -> torch.Tensor:
        """The same scores by the whole network with all other channels at zero.

        A GPU hardly feels the channels that are saved, but for every new size of a layer its libraries choose an
        algorithm anew, which takes longer than the step.
        """
        masks = {
            each.name: (torch.arange(each.channels, device=x.device) < kept[each.name]).to(x.dtype)
            for each in self.graph.prunable_sets
        }
        return self._walk(x, lambda node, values: self._run_masked(node, values, masks))

    def _run_masked(
        self, node: torch.fx.Node, values: dict[torch.fx.Node, Any], masks: Mapping[str, torch.Tensor]
    ) -> Any:
        layer = self.layers.get(node)
        if node.op != "call_module" or layer is None or layer.kind not in ("conv", "fc", "batch_norm"):
            return self._run(node, values, {})
        module, inputs = self.modules[str(node.target)], values[node.all_input_nodes[0]]
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            output = F.batch_norm(inputs, None, None, module.weight, module.bias, training=True, eps=module.eps)
        else:
            output = module(inputs)
        if layer.out_set is None or layer.index in self.normed:
            return output
        mask = masks[layer.out_set].to(output.dtype)
        return output * mask.view(1, -1, *[1] * (output.dim() - 2))

    def _run(self, node: torch.fx.Node, values: dict[torch.fx.Node, Any], sizes: _Sizes) -> Any:
        arguments: Any = torch.fx.node.map_arg(node.args, values.__getitem__)
        named: Any = torch.fx.node.map_arg(node.kwargs, values.__getitem__)
        if node.op == "call_function":
            return node.target(*arguments, **named)  # type: ignore[operator]
        if node.op == "call_method":
            return getattr(arguments[0], str(node.target))(*arguments[1:], **named)
        module, layer = self.modules[str(node.target)], self.layers.get(node)
        if layer is None or layer.kind not in ("conv", "fc", "batch_norm"):
            return module(*arguments, **named)
        return _sliced(module, layer, arguments[0], sizes)


def _sliced(module: nn.Module, layer: Layer, x: torch.Tensor, sizes: _Sizes) -> torch.Tensor:
    assert isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm1d | nn.BatchNorm2d)
    weight, bias = [
        None if parameter is None else _rows(parameter, layer, sizes) for parameter in (module.weight, module.bias)
    ]
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        return F.batch_norm(x, None, None, weight, bias, training=True, eps=module.eps)
    assert weight is not None
    if isinstance(module, nn.Linear):
        return F.linear(x, weight[:, : x.shape[1]], bias)
    return convolve(module, x, weight if layer.group_width else weight[:, : x.shape[1]], bias)


def _rows(parameter: torch.Tensor, layer: Layer, sizes: _Sizes) -> torch.Tensor:
    """The first rows of a parameter and, to fill up, zeros: a channel of zeros, behind a batch norm of zeros too, is
    one that isn't there."""
    if layer.out_set is None:
        return parameter
    kept, filled = sizes[layer.out_set]
    return F.pad(parameter[:kept], (0, 0) * (parameter.dim() - 1) + (0, filled - kept))
