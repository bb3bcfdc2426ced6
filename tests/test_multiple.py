"""Kept channels in multiples: the space has no others, and every solver and method keeps to it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coinfer_ray.errors import InputError
from coinfer_ray.methods.compare import compare
from coinfer_ray.models.layers import LayerGraph
from coinfer_ray.models.library import load_graph
from coinfer_ray.optimizer.optimize import optimize
from coinfer_ray.optimizer.problem import assemble
from coinfer_ray.predictor.predictor import Predictor
from coinfer_ray.problem.space import SearchSpace
from coinfer_ray.problem.strategy import Strategy

SCENARIO = {"device": "rpi3b+", "server": "p100", "link": "3g", "max_loss": 0.03}
GRAPHS = {name: load_graph(name, 64) for name in ("alexnet", "regnet_x_400mf")}


def in_multiples(graph: LayerGraph, strategy: Strategy, multiple: int) -> bool:
    """By the channels that training would keep, counted in plain Python."""
    kept = {
        each.name: each.channels - round(strategy.sparsity[each.name] * each.channels) for each in graph.prunable_sets
    }
    return all(kept[each.name] % multiple == 0 or kept[each.name] == each.channels for each in graph.prunable_sets)


@given(name=st.sampled_from(sorted(GRAPHS)), multiple=st.integers(1, 130))
@settings(max_examples=40, deadline=None)
def test_the_levels_are_those_of_the_whole_space_that_keep_to_it(name: str, multiple: int) -> None:
    graph = GRAPHS[name]
    whole, space = SearchSpace(graph), SearchSpace(graph, multiple=multiple)
    assert space.feature_names == whole.feature_names
    for prunable, mine, every in zip(graph.prunable_sets, space.variables, whole.variables, strict=False):
        kept = [(value, round((1 - value) * prunable.channels)) for value in every.values]
        wanted = [value for value, left in kept if left == prunable.channels or left % multiple == 0]
        assert list(mine.values) == wanted


@pytest.mark.parametrize("optimizer", ["exact", "quantum", "paper"])
@pytest.mark.parametrize("multiple", [8, 100])  # 100: nothing of AlexNet's first set can be pruned
def test_answers_keep_to_it(optimizer: str, multiple: int, synthetic_predictor: Predictor) -> None:
    graph = GRAPHS["alexnet"]
    options = {**SCENARIO, "records": synthetic_predictor, "confidence": None, "optimizer": optimizer}
    found = optimize("alexnet", multiple=multiple, **options)  # type: ignore[arg-type]
    assert in_multiples(graph, found.strategy, multiple)
    assert any(found.strategy.sparsity.values()) or multiple == 100
    if optimizer == "exact":
        free = optimize("alexnet", **options)  # type: ignore[arg-type]
        assert not in_multiples(graph, free.strategy, multiple)
        assert found.latency_s >= free.latency_s
        assert found.lower_bound_s == pytest.approx(found.latency_s, rel=1e-3)


def test_measured_strategies_off_the_multiples_do_not_answer(synthetic_predictor: Predictor) -> None:
    problem = assemble("alexnet", records=synthetic_predictor, multiple=8)
    whole = assemble("alexnet", records=synthetic_predictor)
    kept = [in_multiples(problem.graph, problem.space.strategy(row), 8) for row in problem.measured.levels]
    assert all(kept)
    there = [in_multiples(whole.graph, whole.space.strategy(row), 8) for row in whole.measured.levels]
    assert len(kept) == int(np.sum(there)) < len(there)
    assert problem.provenance()["multiple"] == 8
    assert "multiple" not in whole.provenance()


def test_the_row_without_a_codec_keeps_to_it(synthetic_predictor: Predictor) -> None:
    options = {**SCENARIO, "records": synthetic_predictor, "confidence": None, "multiple": 16}
    rows = compare("alexnet", methods=["prune_partition", "coinfer"], **options)  # type: ignore[arg-type]
    for row in rows:
        assert in_multiples(GRAPHS["alexnet"], Strategy.from_json(row), 16)


def test_no_multiple_below_one() -> None:
    with pytest.raises(InputError, match="multiple: channels in multiples of 0"):
        SearchSpace(GRAPHS["alexnet"], multiple=0)
