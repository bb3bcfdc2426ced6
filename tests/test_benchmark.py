"""The table of measured strategies: its optimum, regret and nearest row against plain loops."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coinfer_ray.benchmark import Benchmark
from coinfer_ray.errors import InputError
from coinfer_ray.records.choices import choices_path, read_choices
from coinfer_ray.records.store import read_records, shipped_parts


@pytest.fixture(scope="module", params=["alexnet", "regnet_x_400mf"])
def bench(request: pytest.FixtureRequest) -> Benchmark:
    return Benchmark.load(request.param)


def test_it_holds_all_that_was_trained(bench: Benchmark) -> None:
    records = read_records(shipped_parts(bench.space.graph.model))
    ours = bench.method == "coinfer"
    assert bench.trainings[ours].sum() == len(records)
    assert ours.sum() == len({json.dumps(each.to_json()) for each in records.strategies})
    path = choices_path(bench.space.graph.model)
    methods = set(read_choices(path).methods) if path.exists() else set()
    assert set(bench.method.tolist()) == methods | {"coinfer"}
    for split in ("validation", "test"):
        pooled = (bench.accuracy[split] * bench.trainings)[ours].sum() / len(records)
        assert pooled == pytest.approx(records.accuracy(split).mean())
        assert bench.base_accuracy[split] == records.base_accuracy(split)


@settings(max_examples=30, deadline=None)
@given(speed=st.floats(-1, 3), rate=st.floats(-2, 3), max_loss=st.floats(0.01, 0.2), seed=st.integers(0, 1000))
def test_optimum_and_regret_equal_a_plain_loop(speed: float, rate: float, max_loss: float, seed: int) -> None:
    bench = Benchmark.load("alexnet")
    scenario = bench.scenario(device_gflops=10**speed, server="p100", rate_mbps=10**rate, max_loss=max_loss)
    seconds = []
    for row in range(len(bench)):
        device, server, bits = bench.costs[row]
        time = device / (1e9 * 10**speed) + server / 10.6e12 + bits / (1e6 * 10**rate)
        lost = bench.base_accuracy["validation"] - bench.accuracy["validation"][row]
        seconds.append(time if lost <= max_loss + 1e-12 else np.inf)
    best = bench.optimum(scenario)
    assert seconds[best] == pytest.approx(min(seconds))
    row = int(np.random.default_rng(seed).integers(len(bench)))
    assert bench.regret(row, scenario) == pytest.approx(seconds[row] / min(seconds) - 1)
    assert bench.regret(best, scenario) == 0
    own = bench.optimum(scenario, method="coinfer")
    assert bench.method[own] == "coinfer" and seconds[own] >= min(seconds)


def test_the_nearest_of_a_trained_strategy_is_itself(bench: Benchmark) -> None:
    for row in (0, 17, 101):
        strategy = bench.strategies[row]
        assert strategy is not None
        found, distance = bench.nearest(strategy)
        assert distance == 0 and bench.strategies[found] == strategy
        elsewhere = [replace(strategy, partition_point=point) for point in bench.space.graph.cut_points]
        other = next(moved for moved in elsewhere if moved not in bench.strategies)
        _, distance = bench.nearest(other)
        assert 0 < distance < 1


def test_a_table_for_others(bench: Benchmark) -> None:
    table = bench.table()
    assert len(table) == len(bench) and table["method"].to_pylist() == bench.method.tolist()
    assert all(json.loads(text) for text in table["strategy"].to_pylist())
    assert table["uplink_bit"].to_numpy() == pytest.approx(bench.costs[:, 2])


def test_what_cannot_be_answered_says_so() -> None:
    bench = Benchmark.load("alexnet")
    scenario = bench.scenario(device="tk1", server="p100", link="4g", max_loss=-0.5)
    with pytest.raises(InputError, match=r"no measured strategy loses at most -0\.5"):
        bench.optimum(scenario)
    assert bench.regret(0, scenario) == np.inf
    with pytest.raises(InputError, match="method"):
        bench.optimum(scenario, method="coinfre")
    with pytest.raises(InputError, match="none ship for alexnet at 65 px"):
        Benchmark.load("alexnet", 65)
