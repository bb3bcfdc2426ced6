"""A recipe follows from the layers, whatever the network is called."""

from __future__ import annotations

import pytest
from torch import nn

from coinfer_ray.models.library import load_graph
from coinfer_ray.models.trace import trace_graph
from coinfer_ray.training.recipes import NORMALISED, PLAIN, Recipe, recipe_for


@pytest.mark.parametrize(("norm", "recipe"), [(nn.Identity, PLAIN), (lambda: nn.BatchNorm2d(8), NORMALISED)])
def test_batch_norms_are_looked_for_in_the_network(norm: type[nn.Module], recipe: Recipe) -> None:
    layers = [nn.Conv2d(3, 8, 3), norm(), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)]
    assert recipe_for(trace_graph(nn.Sequential(*layers), (3, 32, 32), "my_own")) is recipe


def test_the_networks_that_ship() -> None:
    assert recipe_for(load_graph("alexnet", 64)) is PLAIN
    assert recipe_for(load_graph("regnet_x_400mf", 64)) is NORMALISED
