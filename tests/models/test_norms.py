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


class Cut(NormAct):
    """As ReLU6: what is above 6 is 6, which normed images of 4 x 2 x 2 values are not."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).clamp(max=6)


class BySize(NormAct):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * (1 if x.shape[-2:] == (2, 2) else 2)


class ByMode(NormAct):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = super().forward(x)
        return y if self.training else y.clamp(max=6)


class Several(NormAct):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (super().forward(x),)  # type: ignore[return-value]


class Switched(NormAct):
    def forward(self, x: torch.Tensor, act: bool = True) -> torch.Tensor:
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        own = self.running_mean, self.running_var, self.weight, self.bias
        y = F.batch_norm(x, *own, self.training, self.momentum or 0.0, self.eps)
        return self.act(y) if act else y


class SwitchedByName(Switched):
    def forward(self, x: torch.Tensor, *, act: bool = True) -> torch.Tensor:
        return super().forward(x, act)


class SwitchedByAny(Switched):
    def forward(self, *args: torch.Tensor, **options: bool) -> torch.Tensor:
        return super().forward(*args, **options)


class Using(nn.Module):
    """Calls its norm with a further argument, or with its input by name."""

    def __init__(self, norm: nn.Module, **options: bool) -> None:
        super().__init__()
        self.conv, self.norm, self.options = nn.Conv2d(3, 8, 3), norm, options
        self.fc = nn.Sequential(nn.Flatten(), nn.Linear(8 * 36, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return self.fc(self.norm(y, **self.options) if self.options else self.norm(x=y))


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


@pytest.mark.parametrize("norm", [Cut, BySize, ByMode, Several])
def test_what_differs_on_other_inputs_only_is_left_alone(norm: type[NormAct]) -> None:
    module = norm(8, nn.ReLU())
    with_norms_apart(module)
    assert type(module) is norm


def test_a_norm_that_cuts_off_stays_itself_in_a_trace() -> None:
    network = Small(nn.ReLU(), Cut).eval()
    nn.init.constant_(network[1].weight, 50.0)
    x = torch.randn(2, 3, 8, 8)
    expected = network(x)
    traced = fx_trace(network, "small")
    assert type(network[1]) is Cut and torch.equal(network(x), expected)
    torch.testing.assert_close(traced.eval()(x), expected)


@pytest.mark.parametrize("norm", [Switched, SwitchedByName, SwitchedByAny])
def test_a_norm_that_takes_more_than_its_input_is_left_alone(norm: type[Switched]) -> None:
    network, x = Using(norm(8, nn.ReLU()), act=False).eval(), torch.randn(2, 3, 8, 8)
    expected = network(x)
    traced = fx_trace(network, "using").eval()
    assert type(network.norm) is norm and torch.equal(network(x), expected)
    torch.testing.assert_close(traced(x), expected)


def test_a_norm_whose_forward_is_its_own_is_left_alone() -> None:
    module = NormAct(8, nn.ReLU())
    module.forward = module.forward  # type: ignore[method-assign]
    assert type(with_norms_apart(module)) is NormAct


def test_a_norm_may_be_given_its_input_by_name() -> None:
    network, x = Using(NormAct(8, nn.ReLU())).eval(), torch.randn(2, 3, 8, 8)
    expected = network(x)
    assert type(with_norms_apart(network).norm) is BatchNormThen and torch.equal(network(x), expected)
    graph = check_network(network)
    assert [layer.kind for layer in graph.layers] == ["conv", "batch_norm", "relu", "fc"]
