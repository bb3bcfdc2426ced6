"""Cut a network in two at a partition point, and put a codec and a channel between the halves."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
import torch.fx
from torch import nn

from coinfer_ray.models.layers import LayerGraph
from coinfer_ray.models.symbolic import Evaluation, fx_trace


def split(network: nn.Module, graph: LayerGraph, partition_point: int) -> tuple[nn.Module, nn.Module]:
    """(device half, server half): layers 1..c and the rest. The halves share ``network``'s parameters.

    ``graph`` is the network's layer graph (a pruned network keeps its layers, so the unpruned one's will do). The
    halves take any number of images, any memory format, and follow their own mode; the server half takes the sizes of
    tensors that it doesn't have from those that the network has on inputs of the graph's shape.
    """
    if partition_point == 0:
        return nn.Identity(), network
    if partition_point == len(graph.layers):
        return network, nn.Identity()
    traced = fx_trace(network, graph.model)
    nodes = list(traced.graph.nodes)
    cut = nodes.index(layer_node(nodes, graph, partition_point))
    device = torch.fx.Graph()
    copied: dict[torch.fx.Node, torch.fx.Node] = {}
    for node in nodes[: cut + 1]:
        copied[node] = device.node_copy(node, copied.__getitem__)
    device.output(copied[nodes[cut]])
    server = _ServerHalf(traced, graph, nodes[cut])
    for node in nodes[cut + 1 :]:
        if node.op == "output":
            server.made.output(server.take(node.all_input_nodes[0]))
        else:
            server.take(node)
    return torch.fx.GraphModule(network, device), torch.fx.GraphModule(network, server.made)


Look = Callable[[int, torch.Tensor], object]


class Watched(torch.fx.Interpreter):
    """A trace of a whole network or of its device half that shows the features at partition ``points`` on its way;
    layers that come next may change them in place."""

    def __init__(self, traced: torch.fx.GraphModule, graph: LayerGraph, points: Sequence[int]) -> None:
        super().__init__(traced)
        nodes = list(traced.graph.nodes)
        self.points = {layer_node(nodes, graph, point): point for point in points}

    def run(self, images: torch.Tensor, look: Look) -> Any:  # type: ignore[override]
        """What the trace makes of ``images``; ``look`` is called with each point and its feature."""
        self.look = look
        return super().run(images)

    def run_node(self, n: torch.fx.Node) -> Any:
        value = super().run_node(n)
        if n in self.points:
            self.look(self.points[n], value)
        return value


class _ServerHalf:
    """The graph behind a cut, and the way to what it needs of the time before."""

    def __init__(self, traced: torch.fx.GraphModule, graph: LayerGraph, cut: torch.fx.Node) -> None:
        self.traced, self.graph = traced, graph
        self.made = torch.fx.Graph()
        self.feature = self.made.placeholder("feature")
        self.received: dict[torch.fx.Node, Any] = {cut: self.feature}
        nodes = list(traced.graph.nodes)
        self.before = {node for node in nodes[: nodes.index(cut)] if node.op != "get_attr"}

    def take(self, node: torch.fx.Node) -> Any:
        """``node``'s value in this half, a node or a constant. No tensor that is made of images crosses but the
        feature, so what is left are the network's own tensors, its mode, and numbers."""
        if node not in self.received:
            self.received[node] = self._again(node)
        return self.received[node]

    def _again(self, node: torch.fx.Node) -> Any:
        if self.before.isdisjoint({node, *node.all_input_nodes}):
            return self.made.node_copy(node, self.take)
        few, many = self._on_batches
        if node in few.values:
            try:
                return self._sized(few.values[node], many.values[node])
            except _NoMultiple:
                pass
        return self.made.node_copy(node, self.take)

    def _sized(self, few: Any, many: Any) -> Any:
        """What a number was for two images and for three, for as many as the feature has."""
        if isinstance(few, tuple):
            return tuple(self._sized(*pair) for pair in zip(few, many, strict=True))
        if few == many:
            return few
        if type(few) is not int or few * 3 != many * 2:
            raise _NoMultiple
        return self._images if few == 2 else self.made.call_function(operator.mul, (self._images, few // 2))

    @cached_property
    def _images(self) -> torch.fx.Node:
        return self.made.call_method("size", (self.feature, 0))

    @cached_property
    def _on_batches(self) -> tuple[Evaluation, Evaluation]:
        of = self.traced, self.graph.input_shape, self.graph.model
        return Evaluation(*of, batch=2), Evaluation(*of, batch=3)


class _NoMultiple(Exception):
    """A number that is neither constant nor a multiple of the number of images."""


def layer_node(nodes: list[torch.fx.Node], graph: LayerGraph, partition_point: int) -> torch.fx.Node:
    """The fx node of a layer: a module may be called several times, so nodes and layers are matched in order."""
    position = 0
    for node in nodes:
        layer = graph.layers[position]
        if layer.module == (str(node.target) if node.op == "call_module" else node.name):
            if layer.index == partition_point:
                return node
            position += 1
    raise AssertionError(f"layer {partition_point} of {graph.model} has no node in its trace")


class SplitNetwork(nn.Module):
    """Device half, encoder, channel, decoder, server half: trained end to end as one network."""

    def __init__(
        self, device_half: nn.Module, encoder: nn.Module, channel: nn.Module, decoder: nn.Module, server_half: nn.Module
    ) -> None:
        super().__init__()
        self.device_half = device_half
        self.encoder = encoder
        self.channel = channel
        self.decoder = decoder
        self.server_half = server_half

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        feature = self.encoder(self.device_half(x))
        output: torch.Tensor = self.server_half(self.decoder(self.channel(feature)))
        return output
