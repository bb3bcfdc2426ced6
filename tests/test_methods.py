"""Methods without compression: the paper's ratios, and equality with a plain loop over the layers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coinfer_ray.errors import InputError
from coinfer_ray.methods.registry import METHODS, PLAIN_METHODS
from coinfer_ray.models.layers import LayerGraph
from coinfer_ray.optimizer.problem import Problem, assemble
from coinfer_ray.scenarios.batch import ScenarioBatch
from coinfer_ray.scenarios.read import resolve


@pytest.fixture(scope="module")
def alexnet() -> Problem:
    return assemble("alexnet", predict=False, input_px=224, cuts="inner", codec_flops=False)


def batch_of(weights: Sequence[tuple[float, float, float]]) -> ScenarioBatch:
    nothing = np.full(len(weights), np.nan)
    return ScenarioBatch(np.array(weights), nothing, nothing, nothing)


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
    alexnet: Problem, device: str, link: str, local: float | None, server: float | None, cut_after: str
) -> None:
    batch = ScenarioBatch.of([resolve(device=device, server="p100", link=link)])
    seconds = {name: METHODS[name].solve(alexnet, batch) for name in PLAIN_METHODS}
    partition = seconds["neurosurgeon"]
    assert alexnet.graph.cut_name(int(partition.partition_point[0])) == cut_after
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
    problem = assemble(model, predict=False, input_px=64, cuts=cuts)
    graph = problem.graph
    results = {name: METHODS[name].solve(problem, batch_of(weights)) for name in PLAIN_METHODS}
    for row, one in enumerate(weights):
        plain = plain_objectives(graph, one)
        allowed = {point: plain[point] for point in (graph.cut_points if cuts == "all" else graph.cut_points[1:-1])}
        assert results["all_local"].objective[row] == pytest.approx(plain[len(graph.layers)], rel=1e-12)
        assert results["all_server"].objective[row] == pytest.approx(plain[0], rel=1e-12)
        best = results["neurosurgeon"]
        assert best.objective[row] == pytest.approx(min(allowed.values()), rel=1e-12)
        assert allowed[int(best.partition_point[row])] == pytest.approx(min(allowed.values()), rel=1e-12)
    for result in results.values():
        np.testing.assert_allclose((result.costs * np.array(weights)).sum(axis=1), result.objective, rtol=1e-12)
        assert np.isnan(result.accuracy).all() and not result.known.any() and result.feasible.all()


def test_costs_equal_those_of_the_untouched_strategy() -> None:
    problem, inner = (
        assemble("alexnet", predict=False, input_px=128, input_bits=8, cuts=cuts, feature_bits=32)
        for cuts in ("all", "inner")
    )
    levels = np.zeros((22, 16), dtype=np.int64)
    levels[:, problem.space.cut_variable] = np.arange(22)
    batch = batch_of([(0.0, 0.0, 1.0), (1.0, 0.0, 0.0)])
    costs = problem.delay.costs(levels)
    assert METHODS["all_server"].solve(problem, batch).objective[0] == costs[0, 2] == 8 * 3 * 128 * 128
    assert METHODS["all_local"].solve(problem, batch).objective[1] == costs[-1, 0]
    assert METHODS["neurosurgeon"].solve(inner, batch).objective[0] == costs[1:-1, 2].min()
    # The endpoints are All_Local's and All_Server's own, whatever the cuts.
    assert METHODS["all_server"].solve(inner, batch).partition_point.tolist() == [0, 0]


def test_every_method_keeps_the_protocol() -> None:
    for name, method in METHODS.items():
        assert method.name == name and method.title and method.predicts in (True, False)
    problem = assemble("alexnet", predict=False, input_px=64)
    assert np.isnan(problem.base_accuracy)
    with pytest.raises(InputError, match="records: predictions for alexnet need some"):
        METHODS["coinfer"].solve(problem, batch_of([(1.0, 1.0, 1.0)]))
