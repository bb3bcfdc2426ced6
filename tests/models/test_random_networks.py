"""Random small networks of everything that is followed: pruning, cutting and counting do what they say."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.models.agreement import check_network

STEPS = ("conv", "grouped", "depthwise", "sum", "concat", "excite", "pool", "norm", "gate", "twice", "shuffle", "scale")
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
        hidden = int(self.rng.choice(WIDTHS))
        self.inputs = self.width * (self.side**2 if self.rng.random() < 0.5 else 1)
        self.fc1, self.norm1 = nn.Linear(self.inputs, hidden), nn.BatchNorm1d(hidden)
        self.fc2 = nn.Linear(hidden, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n = x.size(0)
        for step in self.steps:
            x = step(self, x)
        x = x.mean((2, 3)) if self.inputs == self.width and self.side > 1 else x.view(n, -1)
        return self.fc2(F.relu(self.norm1(self.fc1(F.dropout(x, 0.5, training=self.training)))))

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


@settings(max_examples=60, deadline=None, derandomize=True)
@given(steps=st.lists(st.sampled_from(STEPS), min_size=1, max_size=7), seed=st.integers(0, 10_000))
def test_random_networks_are_pruned_cut_and_counted_rightly(steps: list[str], seed: int) -> None:
    check_network(Drawn(steps, seed), prunings=3, every_cut=3)
