"""Methods without compression: the paper's ratios, and equality with a plain loop over the layers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coinfer_ray.methods.registry import METHODS
from coinfer_ray.models.layers import LayerGraph
from coinfer_ray.models.library import load_graph
from coinfer_ray.problem.costs import DelayCalculator
from coinfer_ray.problem.space import SearchSpace
from coinfer_ray.scenarios.read import resolve


@pytest.fixture(scope="module")
def alexnet() -> DelayCalculator:
    return DelayCalculator(SearchSpace(load_graph("alexnet", 224), cuts="inner"), codec_flops=False)


# (device, link, All_Local / Partition, All_Server / Partition, cut after): our figures in the table of the design
# notes, which the paper's Fig. 6 rounds.
RATIOS = [
    ("rpi3b+", "3g", 3.62, 2.06, "pool1"),
    ("rpi3b+", "4g", 8.46, None, "pool1"),
    ("rpi3b+", "wifi", 9.67, None, "pool1"),
    ("rpi4b", "wifi", 6.33, 1.19, "pool1"),
    ("tk1", "3g", None, 35.4, "fc1"),
    ("tk1", "wifi", None, 13.3, "fc1"),
]


@pytest.mark.parametrize(("device", "link", "local", "server", "cut_after"), RATIOS)
def test_the_papers_partition_ratios(
    alexnet: DelayCalculator, device: str, link: str, local: float | None, server: float | None, cut_after: str
) -> None:
    weights = np.array([resolve(device=device, server="p100", link=link).weights()])
    seconds = {name: solve(alexnet, weights, cuts="inner") for name, solve in METHODS.items()}
    partition = seconds["neurosurgeon"]
    assert alexnet.space.graph.cut_name(int(partition.partition_point[0])) == cut_after
    for method, ratio in (("all_local", local), ("all_server", server)):
        if ratio is not None:
            assert seconds[method].objective[0] / partition.objective[0] == pytest.approx(ratio, rel=0.01)


def plain_objectives(graph: LayerGraph, weights: tuple[float, float, float]) -> dict[int, float]:
    """Every allowed partition point's objective, layer by layer."""
    objectives = {}
    for point in graph.cut_points:
        device = sum(layer.flops for layer in graph.layers if layer.index <= point)
        server = sum(layer.flops for layer in graph.layers if layer.index > point)
        elements = graph.input_elements if point == 0 else graph.layers[point - 1].output_elements
        bits = 0 if point == len(graph.layers) else 32 * elements
        objectives[point] = device * weights[0] + server * weights[1] + bits * weights[2]
    return objectives


weight = st.floats(1e-13, 1e-6)


@settings(max_examples=30, deadline=None)
@given(
    model=st.sampled_from(["alexnet", "regnet_x_400mf"]),
    cuts=st.sampled_from(["all", "inner"]),
    weights=st.lists(st.tuples(weight, weight, weight), min_size=1, max_size=5),
)
def test_methods_equal_a_plain_loop(model: str, cuts: str, weights: list[tuple[float, float, float]]) -> None:
    graph = load_graph(model, 64)
    delay = DelayCalculator(SearchSpace(graph))
    batch = np.array(weights)
    results = {name: solve(delay, batch, cuts=cuts) for name, solve in METHODS.items()}
    for row, one in enumerate(weights):
        plain = plain_objectives(graph, one)
        allowed = {point: plain[point] for point in (graph.cut_points if cuts == "all" else graph.cut_points[1:-1])}
        assert results["all_local"].objective[row] == pytest.approx(plain[len(graph.layers)], rel=1e-12)
        assert results["all_server"].objective[row] == pytest.approx(plain[0], rel=1e-12)
        best = results["neurosurgeon"]
        assert best.objective[row] == pytest.approx(min(allowed.values()), rel=1e-12)
        assert allowed[int(best.partition_point[row])] == pytest.approx(min(allowed.values()), rel=1e-12)
    for result in results.values():
        np.testing.assert_allclose((result.costs * batch).sum(axis=1), result.objective, rtol=1e-12)
        assert np.isnan(result.accuracy).all()


def test_costs_equal_those_of_the_untouched_strategy() -> None:
    delay = DelayCalculator(SearchSpace(load_graph("alexnet", 128)), input_bits=8)
    levels = np.zeros((22, 16), dtype=np.int64)
    levels[:, delay.space.cut_variable] = np.arange(22)
    weights = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    costs = delay.costs(levels)
    assert METHODS["all_server"](delay, weights).objective[0] == costs[0, 2] == 8 * 3 * 128 * 128
    assert METHODS["all_local"](delay, weights).objective[1] == costs[-1, 0]
    assert METHODS["neurosurgeon"](delay, weights, cuts="inner").objective[0] == costs[1:-1, 2].min()
