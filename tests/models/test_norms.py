"""Norms that have their activation in them: taken apart in traces, the same everywhere else."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from coinfer_ray.compression.pruning import ChannelRanking, shrink
from coinfer_ray.models.norms import BatchNormThen, with_norms_apart
from coinfer_ray.models.split import split
from coinfer_ray.models.symbolic import fx_trace
from coinfer_ray.models.trace import trace_graph
from tests.models.agreement import check_network


class NormAct(nn.BatchNorm2d):
    """As timm writes it: torch's forward spelt out, then dropout and activation."""

    def __init__(self, channels: int, act: nn.Module) -> None:
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), act

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        own = self.running_mean, self.running_var, self.weight, self.bias
        x = F.batch_norm(x, *own, self.training, self.momentum or 0.0, self.eps)
        return self.act(self.drop(x))


class Scaled(NormAct):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


class Small(nn.Sequential):
    def __init__(self, act: nn.Module, norm: type[NormAct] = NormAct) -> None:
        super().__init__(
            *(nn.Conv2d(3, 8, 3, bias=False), norm(8, act), nn.Conv2d(8, 12, 3), norm(12, nn.ReLU(inplace=True))),
            *(nn.Flatten(), nn.Linear(12 * 16, 5)),
        )


@pytest.mark.parametrize("act", [nn.ReLU(), nn.SiLU(), nn.Sigmoid(), nn.PReLU(8), nn.Identity()], ids=str)
def test_such_networks_are_pruned_and_cut_rightly(act: nn.Module) -> None:
    network = Small(act)
    graph = check_network(network)
    kinds = [layer.kind for layer in graph.layers]
    name = type(act).__name__.lower()
    assert kinds == [*("conv", "batch_norm", name, "conv", "batch_norm", "relu", "fc")] or name == "identity"
    fixed = isinstance(act, nn.PReLU | nn.Sigmoid)  # a slope for each channel; not zero at zero
    assert [each.name for each in graph.prunable_sets] == (["conv2"] if fixed else ["conv1", "conv2"])


def test_the_network_stays_what_it_is() -> None:
    torch.manual_seed(0)
    network, x = Small(nn.SiLU()), torch.randn(4, 3, 8, 8)
    apart = with_norms_apart(copy.deepcopy(network))
    assert sum(isinstance(module, BatchNormThen) for module in apart.modules()) == 2
    assert type(network[1]) is NormAct and list(apart.state_dict()) == list(network.state_dict())
    for training in (True, False):
        ys = [each.train(training)(x) for each in (network, apart, pickle.loads(pickle.dumps(apart)))]
        assert torch.equal(ys[0], ys[1])
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, apart.state_dict()[name])


def test_halves_follow_the_mode_and_can_be_traced_again() -> None:
    network, x = Small(nn.ReLU()), torch.randn(4, 3, 8, 8)
    graph = trace_graph(network, (3, 8, 8), "small")
    keep = ChannelRanking(network, graph).keep({"conv1": 5, "conv2": 7})
    device, server = split(shrink(network, graph, keep), graph, 3)
    before = device.get_submodule("1").running_mean.clone()
    whole = nn.Sequential(device, server)
    whole.train()(x)
    assert not torch.equal(device.get_submodule("1").running_mean, before)
    again = fx_trace(device.eval(), "half")
    assert torch.equal(again.eval()(x), device(x))


def test_what_computes_something_else_is_left_alone() -> None:
    network = Small(nn.ReLU(), Scaled)
    before = copy.deepcopy(network)
    graph = check_network(network)
    assert type(network[1]) is Scaled and not graph.prunable_sets
    state = torch.random.get_rng_state()
    with_norms_apart(before)
    assert torch.equal(torch.random.get_rng_state(), state)
