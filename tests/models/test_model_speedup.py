"""NNI's own ModelSpeedup as the oracle of our rebuild: it removes the same channels by quite other means."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Mapping

import numpy as np
import pytest
import torch
import torch.fx
from torch import nn

from coinfer_ray.compression.pruning import ChannelRanking, shrink
from coinfer_ray.models import trace, zoo
from coinfer_ray.models.layers import LayerGraph
from tests.models.test_pruning import random_kept, with_lively_norms

INPUT = (2, 3, 64, 64)


@pytest.fixture(autouse=True)
def quiet_nni() -> Iterator[None]:
    """It logs some hundred lines a network."""
    logger = logging.getLogger("nni")
    level = logger.level
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(level)


def nni_masks(
    network: nn.Module, graph: LayerGraph, keep: Mapping[str, torch.Tensor]
) -> dict[str, dict[str, torch.Tensor]]:
    """The masks of NNI's pruner format, for the layers whose output channels fall."""
    masks: dict[str, dict[str, torch.Tensor]] = {}
    for layer in graph.layers:
        if layer.kind not in ("conv", "fc") or layer.out_set not in keep:
            continue
        module = network.get_submodule(layer.module)
        assert isinstance(module, (nn.Conv2d, nn.Linear))
        rows = torch.zeros(layer.out_channels)
        rows[keep[layer.out_set]] = 1
        shape = [-1] + [1] * (module.weight.dim() - 1)
        masks[layer.module] = {"weight": rows.view(shape).expand_as(module.weight).clone()}
        if module.bias is not None:
            masks[layer.module]["bias"] = rows.clone()
    return masks


@pytest.mark.filterwarnings("ignore")  # importing it registers pytree nodes in a way that torch advises against
@pytest.mark.parametrize("model", ["alexnet", "regnet_x_400mf"])
def test_our_rebuild_computes_what_model_speedups_does(model: str) -> None:
    from nni.compression.speedup import ModelSpeedup

    torch.manual_seed(0)
    network = with_lively_norms(zoo.build(model, 10))
    graph = trace.trace_graph(network, INPUT[1:], model)
    kept = random_kept(graph, np.random.default_rng(7))
    keep = ChannelRanking(network, graph).keep(kept)
    images = torch.randn(INPUT)

    # It edits the masks and the network in place, and rebuilds batch norms in training mode.
    theirs = copy.deepcopy(network)
    traced = torch.fx.symbolic_trace(theirs)
    ModelSpeedup(theirs, images, nni_masks(network, graph, keep), graph_module=traced).speedup_model()
    theirs.eval()
    ours = shrink(network, graph, keep)

    sizes = [
        {name: tuple(tensor.shape) for name, tensor in one.state_dict().items() if "num_batches" not in name}
        for one in (ours, theirs)
    ]
    assert sizes[0] == sizes[1]
    with torch.no_grad():
        assert torch.allclose(ours(images), theirs(images), rtol=0, atol=1e-5)
        assert not torch.allclose(ours(images), network(images), rtol=0, atol=1e-3), "nothing was pruned"
