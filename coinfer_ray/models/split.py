"""Cut a network in two at a partition point, and put a codec and a channel between the halves."""

from __future__ import annotations

import torch
import torch.fx
from torch import nn

from coinfer_ray.models.layers import LayerGraph
from coinfer_ray.models.trace import fx_trace


def split(network: nn.Module, graph: LayerGraph, partition_point: int) -> tuple[nn.Module, nn.Module]:
    """(device half, server half): layers 1..c and the rest. The halves share ``network``'s parameters.

    ``graph`` is the network's layer graph (a pruned network keeps its layers, so the unpruned one's will do).
    """
    if partition_point == 0:
        return nn.Identity(), network
    if partition_point == len(graph.layers):
        return network, nn.Identity()
    traced = fx_trace(network, graph.model)
    nodes = list(traced.graph.nodes)
    cut = nodes.index(_layer_node(nodes, graph, partition_point))
    device, server = torch.fx.Graph(), torch.fx.Graph()
    copied: dict[torch.fx.Node, torch.fx.Node] = {}
    for node in nodes[: cut + 1]:
        copied[node] = device.node_copy(node, copied.__getitem__)
    device.output(copied[nodes[cut]])
    received = {nodes[cut]: server.placeholder("feature")}
    for node in nodes[cut + 1 :]:
        if node.op == "output":
            server.output(received[node.all_input_nodes[0]])
        else:
            received[node] = server.node_copy(node, received.__getitem__)
    return torch.fx.GraphModule(network, device), torch.fx.GraphModule(network, server)


def _layer_node(nodes: list[torch.fx.Node], graph: LayerGraph, partition_point: int) -> torch.fx.Node:
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
