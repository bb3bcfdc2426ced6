"""The exact solver against a look at every strategy of a small space, by each cost model and each objective.

AlexNet with two levels of each set and no codec. What a strategy costs is summed up layer by layer in plain
Python, from the device's file to seconds and joules; the accuracy is that of random trees.
"""

from __future__ import annotations

from functools import cache
from itertools import product
from typing import Any

import numpy as np
import pytest
from coinfer_kernels import Scenarios, TreeEnsemble, solve_exact

from coinfer_ray.models.layers import Layer
from coinfer_ray.problem.costs import DelayCalculator
from coinfer_ray.problem.space import SearchSpace
from coinfer_ray.scenarios.scenario import Device, Link, Objective, Scenario, Server
from tests.kernels.random_tables import random_ensemble
from tests.test_layer_times import GPU, PI, plain_seconds
from tests.test_network_times import CALL_S, GRAPH, OWN

SPACE = SearchSpace(GRAPH, sparsity_levels=2, codec=False, feature_bits=(32, 8))
COMPUTE_W, RADIO_W, IDLE_W, SECONDS_PER_JOULE = 6.0, 1.5, 2.5, 0.3
DEVICE_FLOPS, SERVER_FLOPS = 4e9, 4e11
SIDES: dict[str, tuple[Any, Any]] = {
    "flops": (None, None),
    "layers": (PI, GPU),
    "profile": (OWN, OWN),
    "layers beside flops": (PI, None),
    "profile beside layers": (OWN, GPU),
}


def layer_seconds(times: Any, layer: Layer, ci: int, co: int, flops_per_s: float) -> float:
    """What one layer takes by itself, straight from what the file says."""
    if times is None:
        per_pair, per_output = layer.flop_coefficients
        return (per_pair * ci * co + per_output * co) / flops_per_s
    if times is OWN:
        q, o, i, c = OWN.rows[layer.index - 1]
        return q * ci * co + o * co + i * ci + c
    return plain_seconds(layer, times, ci, co)


def half_seconds(times: Any, layers: tuple[Layer, ...], kept: dict[str, int], flops_per_s: float) -> float:
    """What a half takes, the call of a runtime included where it is known."""
    total = CALL_S if times is OWN and layers else 0.0
    for layer in layers:
        ci = layer.in_channels if layer.in_set is None else kept[layer.in_set]
        co = layer.out_channels if layer.out_set is None else kept[layer.out_set]
        total += layer_seconds(times, layer, ci, co, flops_per_s)
    return total


@cache
def every_strategy() -> np.ndarray:
    """(n, V) all strategies once."""
    free = [range(int(count)) for count in SPACE.tables.n_levels[: SPACE.cut_variable + 1]]
    levels = np.zeros((int(np.prod([len(each) for each in free])), len(SPACE.variables)), dtype=np.int64)
    levels[:, : len(free)] = list(product(*free))
    return levels


@cache
def seconds_and_bits(model: str) -> np.ndarray:
    """(n, 3) of every strategy: seconds on the device and on the server, and what crosses."""
    device, server = SIDES[model]
    rows = []
    for levels in every_strategy():
        strategy = SPACE.strategy(levels)
        kept, cut = SPACE.kept_channels(strategy), strategy.partition_point
        bits = 0.0
        if cut < len(GRAPH.layers):
            last = GRAPH.layers[cut - 1]
            channels = last.out_channels if last.out_set is None else kept[last.out_set]
            sent = channels * last.out_height * last.out_width if cut else GRAPH.input_elements
            bits = sent * (strategy.feature_bits if cut else 32)
        rows.append(
            (
                half_seconds(device, GRAPH.layers[:cut], kept, DEVICE_FLOPS),
                half_seconds(server, GRAPH.layers[cut:], kept, SERVER_FLOPS),
                bits,
            )
        )
    return np.array(rows)


def asked(objective: Objective, seconds: np.ndarray, rate_bps: float, trip_s: float) -> np.ndarray:
    """(n,) seconds, joules, or seconds and a price for joules, of strategies of so many seconds and bits."""
    device_s, server_s, uplink_s = seconds[:, 0], seconds[:, 1], seconds[:, 2] / rate_bps
    crossing_s = np.where(seconds[:, 2] > 0, trip_s, 0.0)
    latency = device_s + server_s + uplink_s + crossing_s
    energy = COMPUTE_W * device_s + RADIO_W * uplink_s + IDLE_W * (server_s + crossing_s)
    each: dict[str, np.ndarray] = {"latency": latency, "energy": energy}
    return each.get(objective, latency + SECONDS_PER_JOULE * energy)


@pytest.mark.parametrize("objective", ["latency", "energy", "weighted"])
@pytest.mark.parametrize("model", SIDES)
def test_the_exact_solver_finds_the_least_of_all(model: str, objective: Objective) -> None:
    device, server = SIDES[model]
    ensemble = random_ensemble(np.random.default_rng(7), len(SPACE.variables), trees=12, depth=4)
    levels = every_strategy()
    accuracy = TreeEnsemble(ensemble).predict(SPACE.tables.values[np.arange(levels.shape[1]), levels])
    cost = DelayCalculator(SPACE, times=(device, server)).tables
    chosen = set()
    for rate_bps, trip_s, share in product((2e5, 5e6, 3e8), (0.0, 0.004), (0.5, 0.9, 0.995)):
        scenario = Scenario(
            Device("d", 1.0 if device else DEVICE_FLOPS, COMPUTE_W, RADIO_W, IDLE_W),
            Server("s", 1.0 if server else SERVER_FLOPS),
            Link("l", rate_bps, round_trip_s=trip_s),
            seconds_per_joule=SECONDS_PER_JOULE,
        )
        floor = float(np.quantile(accuracy, share)) + 1e-9
        one = Scenarios(np.array([scenario.weights(objective)]), np.array([floor]), np.array([np.nan]))
        found = solve_exact(SPACE.tables, cost, ensemble, one, gap=0.0, threads=1)
        value = asked(objective, seconds_and_bits(model), rate_bps, trip_s)
        assert found.objective[0] == pytest.approx(value[accuracy >= floor].min(), rel=1e-10)
        assert found.gap[0] <= 1e-12
        chosen.add(tuple(found.levels[0].tolist()))
    assert len(chosen) > 2  # the scenarios differ, and so do their answers
