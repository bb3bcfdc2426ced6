"""Random small networks of everything that is followed, and of much that is not: pruning, cutting and counting do what
they say.

Sixty by default. ``pytest -m slow -s tests/models/test_random_networks.py`` tries 300 and prints how many of each step
and head were in them, how many sets of channels could be pruned, and where they could be cut.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.models.agreement import check_network

STEPS = (
    *("conv", "grouped", "depthwise", "sum", "concat", "excite", "pool", "norm", "gate", "twice", "shuffle", "scale"),
    *("product", "prelu", "functional", "permute", "chunk", "branches", "padded", "resized", "attention", "shared"),
)
HEADS = ("mean", "flat", "pooled", "conv1d", "pointwise")
ACTIVATIONS = (F.relu, F.hardswish, F.silu, F.gelu, F.leaky_relu, torch.tanh)
WIDTHS = (4, 6, 8, 12, 24)
Step = Callable[["Drawn", torch.Tensor], torch.Tensor]


class Drawn(nn.Module):
    """A chain of ``steps`` on 8 x 8 maps, drawn from ``seed``, and a head of linear layers."""

    def __init__(self, steps: list[str], seed: int) -> None:
        super().__init__()
        self.rng = np.random.default_rng(seed)
        torch.manual_seed(seed)
        self.parts, self.factors = nn.ModuleList(), nn.ParameterList()
        self.steps: list[Step] = []
        self.width, self.side = 3, 8
        for kind in ["conv", *steps]:
            self.steps.append(getattr(self, kind)())
        self.head = HEADS[self.rng.integers(len(HEADS))]
        flattened = getattr(self, f"{self.head}_head")()
        self.steps.append(flattened)
        hidden = int(self.rng.choice(WIDTHS))
        self.fc1, self.norm1 = nn.Linear(self.width, hidden), nn.BatchNorm1d(hidden)
        self.fc2 = nn.Linear(hidden, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for step in self.steps:
            x = step(self, x)
        return self.fc2(F.relu(self.norm1(self.fc1(F.dropout(x, 0.5, training=self.training)))))

    def mean_head(self) -> Step:
        return lambda net, x: x.mean((2, 3))

    def flat_head(self) -> Step:
        self.width *= self.side**2
        kinds: list[Step] = [
            lambda net, x: x.contiguous().view(x.size(0), -1),
            lambda net, x: torch.flatten(x, 1),
            lambda net, x: x.reshape(x.shape[0], x.shape[1] * x.shape[2] * x.shape[3]),
        ]
        return kinds[self.rng.integers(len(kinds))]

    def pooled_head(self) -> Step:
        pools = [F.adaptive_avg_pool2d, F.adaptive_max_pool2d]
        pool = pools[self.rng.integers(2)]
        kinds: list[Step] = [
            lambda net, x: pool(x, 1).flatten(1),
            lambda net, x: pool(x, (1, 1))[:, :, 0, 0],
            lambda net, x: pool(x, 1).squeeze(-1).squeeze(-1),
        ]
        return kinds[self.rng.integers(len(kinds))]

    def conv1d_head(self) -> Step:
        """Places as a sequence: a convolution in one dimension, and a norm of sequences."""
        outputs = self.any_width()
        conv, norm = self.part(nn.Conv1d(self.width, outputs, 1)), self.part(nn.BatchNorm1d(outputs))
        self.width = outputs
        return lambda net, x: F.relu(norm(net, conv(net, x.flatten(2)))).mean(2)

    def pointwise_head(self) -> Step:
        conv = self.part(nn.Conv2d(self.width, self.width, self.side))
        return lambda net, x: F.hardswish(conv(net, x)).flatten(1)

    def part(self, module: nn.Module) -> Step:
        """``module`` by its place: a copy of the network has one of its own there."""
        place = len(self.parts)
        self.parts.append(module)
        return lambda net, x: net.parts[place](x)

    def convolution(self, outputs: int, groups: int = 1, inputs: int | None = None) -> Step:
        kernel = int(self.rng.choice([1, 3]))
        bias = bool(self.rng.integers(2))
        return self.part(
            nn.Conv2d(inputs or self.width, outputs, kernel, padding=kernel // 2, groups=groups, bias=bias)
        )

    def any_width(self) -> int:
        return int(self.rng.choice(WIDTHS))

    def activation(self) -> Callable[[torch.Tensor], torch.Tensor]:
        return ACTIVATIONS[self.rng.integers(len(ACTIVATIONS))]

    def conv(self) -> Step:
        width = self.any_width()
        layer, activation = self.convolution(width), self.activation()
        self.width = width
        return lambda net, x: activation(layer(net, x))

    def grouped(self) -> Step:
        outputs = int(self.rng.choice([self.width, self.width, 2 * self.width]))
        groups = [count for count in range(2, self.width) if self.width % count == 0] or [1]
        layer, activation = self.convolution(outputs, int(self.rng.choice(groups))), self.activation()
        self.width = outputs
        return lambda net, x: activation(layer(net, x))

    def depthwise(self) -> Step:
        outputs = self.width * int(self.rng.integers(1, 3))
        layer = self.convolution(outputs, self.width)
        self.width = outputs
        return layer

    def sum(self) -> Step:
        layer, activation = self.convolution(self.width), self.activation()
        return lambda net, x: activation(x + layer(net, x))

    def concat(self) -> Step:
        outputs = self.any_width()
        layer = self.convolution(outputs)
        self.width += outputs
        return lambda net, x: torch.cat([x, F.relu(layer(net, x))], 1)

    def excite(self) -> Step:
        squeezed = self.any_width()
        if self.rng.random() < 0.5:
            down, up = self.part(nn.Linear(self.width, squeezed)), self.part(nn.Linear(squeezed, self.width))

            def excited(net: Drawn, x: torch.Tensor) -> torch.Tensor:
                scale = torch.sigmoid(up(net, F.relu(down(net, x.mean([2, 3])))))
                return x * scale.view(x.size(0), x.size(1), 1, 1)

            return excited
        first, second = self.convolution(squeezed), self.convolution(self.width, inputs=squeezed)
        return lambda net, x: F.hardsigmoid(second(net, F.relu(first(net, F.adaptive_avg_pool2d(x, 1))))) * x

    def pool(self) -> Step:
        if self.side == 1:
            return lambda net, x: x
        self.side //= 2
        kinds = [nn.MaxPool2d(2), nn.AvgPool2d(2), nn.MaxPool2d(3, 2, 1)]
        return self.part(kinds[self.rng.integers(3)])

    def norm(self) -> Step:
        kinds = [nn.BatchNorm2d(self.width), nn.BatchNorm2d(self.width), nn.GroupNorm(1, self.width)]
        return self.part(kinds[self.rng.integers(3)])

    def gate(self) -> Step:
        return self.part([nn.Sigmoid(), nn.Softplus(), nn.Hardsigmoid()][self.rng.integers(3)])

    def twice(self) -> Step:
        layer, activation = self.convolution(self.width), self.activation()
        return lambda net, x: activation(layer(net, activation(layer(net, x))))

    def shuffle(self) -> Step:
        groups = 2 if self.width % 2 == 0 else 1

        def shuffled(net: Drawn, x: torch.Tensor) -> torch.Tensor:
            n, c, h, w = x.size()
            return x.reshape(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, -1, h, w)

        return shuffled

    def scale(self) -> Step:
        place = len(self.factors)
        self.factors.append(nn.Parameter(torch.rand(self.width, 1, 1)))
        return [lambda net, x: x * net.factors[place], lambda net, x: x * 0.5, lambda net, x: x - 0.5][
            self.rng.integers(3)
        ]

    def product(self) -> Step:
        one, other, activation = self.convolution(self.width), self.convolution(self.width), self.activation()
        return lambda net, x: activation(one(net, x)) * torch.sigmoid(other(net, x))

    def prelu(self) -> Step:
        return self.part(nn.PReLU(self.width if self.rng.random() < 0.5 else 1, init=float(self.rng.uniform(-1, 1))))

    def functional(self) -> Step:
        """Weights that are no module's."""
        place, outputs = len(self.factors), self.any_width()
        self.factors.append(nn.Parameter(torch.randn(outputs, self.width, 1, 1)))
        self.factors.append(nn.Parameter(torch.rand(outputs)))
        self.width = outputs
        return lambda net, x: F.relu(F.conv2d(x, net.factors[place], bias=net.factors[place + 1]))

    def permute(self) -> Step:
        """Channels last, and back."""
        kinds = [nn.LayerNorm(self.width), nn.Linear(self.width, self.width), nn.Softmax(-1)]
        layer = self.part(kinds[self.rng.integers(3)])
        if self.rng.random() < 0.5:
            return lambda net, x: layer(net, x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return lambda net, x: layer(net, x.transpose(1, 3)).transpose(1, 3).contiguous()

    def chunk(self) -> Step:
        if self.width % 2:
            return lambda net, x: x
        layer, half = self.convolution(self.width // 2, inputs=self.width // 2), self.width // 2

        def halves(net: Drawn, x: torch.Tensor) -> torch.Tensor:
            a, b = x.chunk(2, 1)
            return torch.cat([a, layer(net, b)], 1)

        kinds: list[Step] = [halves, lambda net, x: torch.cat((x[:, half:], layer(net, x[:, :half])), dim=1)]
        return kinds[self.rng.integers(2)]

    def branches(self) -> Step:
        widths = [self.any_width() for _ in range(3)]
        layers = [self.convolution(width) for width in widths]
        activation, self.width = self.activation(), sum(widths)
        return lambda net, x: activation(torch.cat([layer(net, x) for layer in layers], dim=1))

    def padded(self) -> Step:
        layer = self.part(nn.Conv2d(self.width, self.width, 3, bias=False))
        return lambda net, x: F.relu6(layer(net, F.pad(x, (1, 1, 1, 1))))

    def resized(self) -> Step:
        layer, by = self.convolution(self.width), min(2, self.side)
        return lambda net, x: x + F.interpolate(layer(net, F.avg_pool2d(x, by)), scale_factor=by)

    def attention(self) -> Step:
        layers = [self.part(nn.Conv2d(self.width, self.width, 1)) for _ in range(3)]

        def attended(net: Drawn, x: torch.Tensor) -> torch.Tensor:
            q, k, v = (layer(net, x).flatten(2).transpose(1, 2) for layer in layers)
            return x + F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)

        return attended

    def shared(self) -> Step:
        """One norm and one convolution for two branches."""
        norm, layer = self.part(nn.BatchNorm2d(self.width)), self.convolution(self.width)
        return lambda net, x: norm(net, layer(net, x)) + torch.tanh(norm(net, layer(net, F.relu(x))))


NETWORKS = given(steps=st.lists(st.sampled_from(STEPS), min_size=1, max_size=7), seed=st.integers(0, 10_000))


@settings(max_examples=60, deadline=None, derandomize=True)
@NETWORKS
def test_random_networks_are_pruned_cut_and_counted_rightly(steps: list[str], seed: int) -> None:
    check_network(Drawn(steps, seed).double(), prunings=3, every_cut=3)


@pytest.mark.slow
def test_three_hundred_are() -> None:
    """All are tried, whatever becomes of the first, and counted."""
    seen: Counter[str] = Counter()
    found: Counter[str] = Counter()
    wrong: list[str] = []

    @settings(max_examples=300, deadline=None, derandomize=True)
    @NETWORKS
    def check(steps: list[str], seed: int) -> None:
        network = Drawn(steps, seed).double()  # what differs then differs by more than rounding
        seen.update({*steps, f"{network.head} head"})
        found["networks"] += 1
        try:
            graph = check_network(network, prunings=3, every_cut=3)
        except Exception as error:
            wrong.append(f"{steps}, {seed}: {type(error).__name__}: {error}")
            print(wrong[-1], flush=True)
            return
        found["with channels to prune"] += bool(graph.prunable_sets)
        found.update(layers=len(graph.layers), sets=len(graph.prunable_sets), cuts=len(graph.cut_points))

    check()
    print(dict(found), dict(sorted(seen.items())), sep="\n")
    assert found["networks"] >= 300 and set(STEPS) < set(seen)
    assert not wrong
