"""DADS: every way to divide a network between two sides, against a minimum cut and against plain splits."""

from __future__ import annotations

from itertools import product

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coinfer_ray.errors import InputError
from coinfer_ray.methods import dads
from coinfer_ray.methods.dads import Dads, crossing, divisions
from coinfer_ray.methods.registry import METHODS
from coinfer_ray.models.layers import LayerGraph
from coinfer_ray.models.library import load_graph
from coinfer_ray.optimizer.problem import assemble
from coinfer_ray.scenarios.batch import ScenarioBatch

PROBLEMS = {name: assemble(name, predict=False, input_px=64) for name in ("alexnet", "regnet_x_400mf")}


def batch(weights: np.ndarray) -> ScenarioBatch:
    nothing = np.full(len(weights), np.nan)
    return ScenarioBatch(weights, np.full(len(weights), 0.02), nothing, nothing)


def minimum_cut(graph: LayerGraph, device: float, server: float, uplink: float, input_bits: float) -> float:
    """The paper's construction: an auxiliary vertex behind every tensor is sent once; who runs on the server feeds
    nobody on the device."""
    net = nx.DiGraph()
    bits = [graph.input_elements * input_bits, *(32.0 * layer.output_elements for layer in graph.layers)]
    for layer in graph.layers:
        net.add_edge("device", layer.index, capacity=layer.flops * server)
        net.add_edge(layer.index, "server", capacity=layer.flops * device)
        for each in layer.inputs:
            source = each or "device"
            net.add_edge(source, ("sent", each), capacity=bits[each] * uplink)
            net.add_edge(("sent", each), layer.index)  # no capacity: infinite
            if each:
                net.add_edge(layer.index, each)
    return float(nx.minimum_cut_value(net, "device", "server"))


@pytest.mark.parametrize("model", PROBLEMS)
@settings(max_examples=25, deadline=None)
@given(st.floats(7, 12), st.floats(9, 14), st.floats(4, 10))
def test_the_best_division_is_the_minimum_cut(model: str, device: float, server: float, rate: float) -> None:
    problem = PROBLEMS[model]
    weights = 10.0 ** -np.array([[device, server, rate]])
    found = METHODS["dads"].solve(problem, batch(weights))
    expected = minimum_cut(problem.graph, *weights[0].tolist(), problem.delay.tables.input_bits)
    assert found.objective[0] == pytest.approx(expected, rel=1e-9)
    assert float(found.costs[0] @ weights[0]) == pytest.approx(expected, rel=1e-9)
    plain = METHODS["neurosurgeon"].solve(problem, batch(weights))
    assert found.objective[0] <= plain.objective[0] * (1 + 1e-12)


def test_a_chain_is_divided_as_neurosurgeon_divides_it() -> None:
    rng = np.random.default_rng(0)
    weights = 10.0 ** -np.column_stack([rng.uniform(7, 12, 200), np.full(200, 13.0), rng.uniform(4, 10, 200)])
    for cuts in ("all", "inner"):
        problem = assemble("alexnet", predict=False, input_px=64, cuts=cuts)
        found = (METHODS[name].solve(problem, batch(weights)) for name in ("dads", "neurosurgeon"))
        np.testing.assert_allclose(*(each.objective for each in found), rtol=1e-12)


def test_a_block_falls_into_the_divisions_that_a_hand_counts() -> None:
    """Every set of layers of RegNetX-400MF's first block that holds its members' inputs, by trying all of them."""
    graph = load_graph("regnet_x_400mf", 64)
    add = next(layer for layer in graph.layers if layer.kind == "add")
    start = next(layer.index for layer in reversed(graph.layers[: add.index]) if layer.name == "conv1") + 1
    inside = [layer for layer in graph.layers if start < layer.index <= add.index]
    expected = set()
    for chosen in product((False, True), repeat=len(inside)):
        own = {layer.index for layer, taken in zip(inside, chosen, strict=True) if taken}
        if own and all(each in own or each <= start for index in own for each in graph.layers[index - 1].inputs):
            expected.add(frozenset(own))
    rows = divisions(graph)
    assert len(np.unique(rows, axis=0)) == len(rows)
    last = np.where(rows, np.arange(1, rows.shape[1] + 1), 0).max(axis=1)
    found = {
        frozenset((np.flatnonzero(row) + 1)[np.flatnonzero(row) + 1 > start].tolist())
        for row, end in zip(rows, last, strict=True)
        if start < end <= add.index
    }
    assert found == expected
    crosses = crossing(graph, rows).sum(axis=1)
    assert crosses.max() == 2 and crosses[rows.all(axis=1)].tolist() == [0]
    assert crosses[~rows.any(axis=1)].tolist() == [1]  # the input


def test_a_network_too_wide_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dads, "MOST_DIVISIONS", 50)
    with pytest.raises(InputError, match="more than 50 divisions; leave it out"):
        Dads().solve(PROBLEMS["regnet_x_400mf"], batch(np.full((1, 3), 1e-9)))
