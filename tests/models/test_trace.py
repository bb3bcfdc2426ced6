"""Layer graphs: Table I against torch's own counter, tied channels, cuts, and errors that name the operation."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from coinfer_ray.errors import InputError
from coinfer_ray.models import trace, zoo
from coinfer_ray.models.layers import LayerGraph
from coinfer_ray.models.library import SHIPPED, load_graph, shipped_graphs

TRACED = (*SHIPPED, "vgg11_bn", "resnet18", "mobilenet_v2")


def traced(model: str, pixels: int = 224) -> LayerGraph:
    return trace.trace_graph(zoo.build(model, 10), (3, pixels, pixels), model)


def test_alexnet_is_the_papers_21_layers_with_every_cut_allowed() -> None:
    graph = traced("alexnet")
    assert len(graph.layers) == 21
    assert graph.cut_points == tuple(range(22))
    assert [layer.name for layer in graph.layers][:3] == ["conv1", "relu1", "pool1"]
    assert [layer.kind for layer in graph.layers].count("fc") == 3
    # The figures measured for the convolutions and linear layers at 224 px with ten classes.
    assert sum(layer.flops for layer in graph.layers if layer.kind in ("conv", "fc")) == 1_421_228_662
    # pool1 by hand: 3 x 3 x 27 x 27 x 64; conv1: 2 x 55 x 55 x (3 x 121 + 1) x 64.
    by_name = {layer.name: layer for layer in graph.layers}
    assert by_name["pool1"].flops == 9 * 27 * 27 * 64
    assert by_name["conv1"].flops == 2 * 55 * 55 * (3 * 121 + 1) * 64
    assert by_name["fc1"].flops == (2 * 9216 - 1) * 4096
    assert by_name["pool1"].output_elements == 27 * 27 * 64
    assert [prunable.channels for prunable in graph.prunable_sets] == [64, 192, 384, 256, 256, 4096, 4096]


def test_regnet_has_27_tied_sets_and_cuts_only_where_one_tensor_crosses() -> None:
    graph = traced("regnet_x_400mf")
    assert sum(layer.flops for layer in graph.layers if layer.kind in ("conv", "fc")) == 833_180_470
    units = [prunable.unit for prunable in graph.prunable_sets]
    assert len(units) == 27
    assert units.count(16) == 22
    assert sum(len(prunable.layers) > 2 for prunable in graph.prunable_sets) == 3  # stages with several blocks
    inside_block = next(layer for layer in graph.layers if layer.module.endswith("block1-0.f.a.0"))
    assert not inside_block.cut_allowed
    after_block = next(layer for layer in graph.layers if layer.module.endswith("block1-0.activation"))
    assert after_block.cut_allowed


@pytest.mark.parametrize(("model", "sets"), [("vgg11_bn", 10), ("resnet18", 12), ("mobilenet_v2", 25)])
def test_other_networks_trace_to_layers_and_cuts(model: str, sets: int) -> None:
    graph = traced(model, 64)
    assert len(graph.prunable_sets) == sets
    assert len(graph.cut_points) > 10
    assert graph.cut_points[-1] == len(graph.layers)


@pytest.mark.parametrize("model", TRACED)
def test_flops_equal_torchs_counter_after_the_correction_for_biases(model: str) -> None:
    network = zoo.build(model, 10).eval()
    graph = trace.trace_graph(network, (3, 64, 64), model)
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, 64, 64))
    assert table_one_without_biases(graph) == counter.get_total_flops()


def table_one_without_biases(graph: LayerGraph) -> int:
    """Table I counts a bias a filter and one addition less a linear output; torch counts 2 a multiplication."""
    total = 0
    for layer in graph.layers:
        if layer.kind == "conv":
            total += layer.flops - 2 * layer.out_height * layer.out_width * layer.out_channels
        elif layer.kind == "fc":
            total += layer.flops + layer.out_channels
    return total


@pytest.mark.parametrize(("model", "pixels"), sorted(shipped_graphs()))
def test_shipped_graphs_equal_a_fresh_trace(model: str, pixels: int) -> None:
    document = json.loads(shipped_graphs()[model, pixels].read_text())
    assert document == json.loads(json.dumps(traced(model, pixels).to_json()))
    assert load_graph(model, pixels) == traced(model, pixels)


def test_an_unshipped_size_is_traced() -> None:
    assert load_graph("alexnet", 96).input_px == 96


class Accumulates(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (torch.cumsum(self.conv(x), 1) + x).flatten(1)


class Branches(Accumulates):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x).flatten(1) if x.sum() > 0 else x


class FeatureMap(Accumulates):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (Accumulates(), "uses cumsum (at cumsum), which has no entry in the cost table"),
        (Branches(), "cannot be traced by torch.fx"),
        (FeatureMap(), "does not end in one vector"),
    ],
)
def test_a_network_that_cannot_be_shared_says_which_operation_is_why(network: nn.Module, words: str) -> None:
    with pytest.raises(InputError, match=words.replace("(", r"\(").replace(")", r"\)")) as error:
        trace.trace_graph(network, (3, 8, 8), "mine")
    assert "\n" not in str(error.value)


def test_too_small_an_input_and_unknown_names_are_told() -> None:
    with pytest.raises(InputError, match="does not run on inputs of 32 px"):
        traced("alexnet", 32)
    with pytest.raises(InputError, match="did you mean alexnet"):
        load_graph("alexnett", 224)
