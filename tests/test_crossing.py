"""Crossing time from scenario and grid files to answers: counted once in whatever is sent, never on the device."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coinfer_kernels import Scenarios

import coinfer_ray
from coinfer_ray.atlas.atlas import Ranges, load_atlas
from coinfer_ray.atlas.build import build
from coinfer_ray.cli import main
from coinfer_ray.errors import InputError
from coinfer_ray.methods.compare import compare
from coinfer_ray.methods.registry import METHODS, PLAIN_METHODS
from coinfer_ray.optimizer.problem import Problem, assemble
from coinfer_ray.optimizer.solve import solve
from coinfer_ray.predictor.predictor import Predictor
from coinfer_ray.problem.costs import objective, parts
from coinfer_ray.refine.cases import Case, cases_of
from coinfer_ray.scenarios.batch import ScenarioBatch
from coinfer_ray.scenarios.read import link_of, parse_grid, resolve, server_of
from coinfer_ray.scenarios.scenario import Device, Link, Scenario, Server
from coinfer_ray.sweeps.sweep import sweep
from tests.synthetic import trusted

GRID: dict[str, Any] = {
    "model": ["alexnet"],
    "device": ["rpi4b", {"gflops": [5, 40, 200]}],
    "server": [{"gflops": 10600, "per_crossing_ms": 0.2}],
    "link": ["4g", {"rate_mbps": [1, 30], "round_trip_ms": 2}, {"rate_mbps": 30, "round_trip_ms": 30}],
    "max_loss": [0.05],
    "confidence": [None],
}


@pytest.fixture(scope="module")
def predictor(synthetic_predictor: Predictor) -> Predictor:
    return trusted(synthetic_predictor)


@pytest.fixture(scope="module")
def problem(predictor: Predictor) -> Problem:
    return assemble("alexnet", records=predictor)


def test_links_servers_and_options_say_it(tmp_path: Path) -> None:
    file = tmp_path / "lte.yaml"
    file.write_text("{rate_mbps: 12, round_trip_ms: 45}")
    assert link_of(str(file)) == Link("12 Mb/s", 12e6, None, 0.045)
    assert link_of(str(file), round_trip_ms=10).round_trip_s == pytest.approx(0.01)
    assert link_of("4g", round_trip_ms=30) == Link("4g", pytest.approx(11.22e6), None, 0.03)
    assert server_of({"gflops": 100, "per_crossing_ms": 1.5}) == Server("100 GFLOPS", 1e11, 0.0015)
    scenario = resolve(device="rpi4b", server={"gflops": 100, "per_crossing_ms": 1.5}, link="4g", round_trip_ms=30)
    assert scenario.crossing_s == pytest.approx(0.0315)
    assert scenario.weights() == pytest.approx((1 / 3e9, 1 / 1e11, 1 / 11.22e6, 0.0315))
    assert len(resolve(device="rpi4b", server="p100", link="4g").weights()) == 3


def test_the_device_waits_while_the_link_is_crossed() -> None:
    device = Device("phone", 5e9, compute_w=3, radio_w=1.5, idle_w=0.5)
    scenario = Scenario(device, Server("s", 1e12, 0.001), Link("l", 1e6, round_trip_s=0.04))
    assert scenario.weights("energy") == pytest.approx((3 / 5e9, 0.5 / 1e12, 1.5 / 1e6, 0.5 * 0.041), rel=1e-12)


@pytest.mark.parametrize(
    ("link", "message"),
    [
        ({"rate_mbps": 1, "round_trip_ms": -1}, r"round_trip_ms: -1 must be in \[0, 1e\+09\]; .* in milliseconds"),
        ({"rate_mbps": 1, "round_trip_ms": "soon"}, "round_trip_ms: 'soon' must be a finite number"),
        ({"rate_mbps": 1, "round_trip_ms": [1, 2]}, "round_trip_ms: .* must be a finite number"),
    ],
)
def test_bad_times_are_named(link: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        link_of(link)
    with pytest.raises(InputError, match="round trip: nan must be a finite number"):
        resolve(device="rpi4b", server="p100", link="4g", round_trip_ms=float("nan"))


def test_parts_add_up_to_the_objective() -> None:
    costs = np.array([[3.0, 2.0, 5.0], [4.0, 0.0, 0.0]])
    weights = np.array([[1.0, 10.0, 100.0, 7.0]] * 2)
    assert parts(costs, weights).tolist() == [[3, 20, 500, 7], [4, 0, 0, 0]]
    assert objective(costs, weights[0]).tolist() == [530, 4]
    assert objective(costs, weights).tolist() == [[530, 530], [4, 4]]
    assert objective(costs[0], weights[0]) == 530
    assert parts(costs, weights[:, :3])[:, 3].tolist() == [0, 0]


@pytest.mark.parametrize("optimizer", ["exact", "quantum"])
def test_it_turns_to_the_device_where_the_round_trip_costs_more(predictor: Predictor, optimizer: str) -> None:
    options: dict[str, Any] = {"records": predictor, "max_loss": 0.05, "confidence": None, "optimizer": optimizer}
    found = [
        coinfer_ray.optimize("alexnet", server="p100", link="5g", device_gflops=40, round_trip_ms=wait, **options)
        for wait in (None, 0, 0.3, 1000)
    ]
    plain, free, short, long = found
    assert {**plain.to_json(), "seconds": 0} == {**free.to_json(), "seconds": 0}
    assert plain.crossing_s == 0
    assert plain.uplink_bit > 0
    assert short.crossing_s == pytest.approx(0.0003)
    assert long.uplink_bit == long.crossing_s == 0
    for answer in found:
        whole = answer.device_s + answer.server_s + answer.uplink_s + answer.crossing_s
        assert answer.latency_s == pytest.approx(whole, rel=1e-12)
    # Waiting longer never helps, and never by more than the wait.
    assert plain.latency_s <= short.latency_s <= plain.latency_s + 0.0003 + 1e-6
    if optimizer == "exact":
        assert long.lower_bound_s is not None
        assert long.lower_bound_s <= long.latency_s * (1 + 1e-12)
        assert long.gap is not None
        assert long.gap <= 1e-3 + 1e-12


def test_every_method_counts_it_once_and_only_where_something_is_sent(predictor: Predictor) -> None:
    wait = 0.02
    scenario = {"device_gflops": 20, "server": "p100", "rate_mbps": 30, "max_loss": 0.05, "confidence": None}
    names = [*PLAIN_METHODS, "prune_partition", "coinfer"]
    rows = {
        trip: compare("alexnet", methods=names, records=predictor, round_trip_ms=trip, **scenario)  # type: ignore[arg-type]
        for trip in (0, 1e3 * wait)
    }
    for free, late in zip(rows[0], rows[1e3 * wait], strict=True):
        assert late["crossing_s"] == pytest.approx(wait if late["uplink_bit"] else 0)
        whole = late["device_s"] + late["server_s"] + late["uplink_s"] + late["crossing_s"]
        assert late["latency_s"] == pytest.approx(whole, rel=1e-12)
        assert free["latency_s"] <= late["latency_s"] <= free["latency_s"] + wait + 1e-5
    by_name = {row["method"]: row for row in rows[1e3 * wait]}
    assert by_name["all_local"]["latency_s"] == rows[0][0]["latency_s"]
    assert by_name["all_server"]["crossing_s"] == pytest.approx(wait)
    least = min(by_name["all_local"]["latency_s"], by_name["all_server"]["latency_s"])
    assert by_name["neurosurgeon"]["latency_s"] <= least
    assert by_name["coinfer"]["latency_s"] <= by_name["prune_partition"]["latency_s"] * (1 + 1e-3)


def test_neurosurgeon_equals_enumeration(problem: Problem) -> None:
    scenarios = [resolve(device_gflops=20, server="p100", link="4g", round_trip_ms=trip) for trip in (0, 1, 15, 90)]
    batch = ScenarioBatch.of(scenarios)
    assert batch.weights.shape == (4, 4)
    found = METHODS["neurosurgeon"].solve(problem, batch)
    graph = problem.graph
    for scenario, best in zip(scenarios, found.objective, strict=True):
        each = []
        for point in graph.cut_points:
            here = sum(layer.flops for layer in graph.layers[:point]) / 20e9
            there = sum(layer.flops for layer in graph.layers[point:]) / 10.6e12
            sent = graph.input_elements if point == 0 else graph.layers[point - 1].output_elements
            crossing = 32 * sent / scenario.link.rate_bps + scenario.crossing_s if point < len(graph.layers) else 0
            each.append(here + there + crossing)
        assert best == pytest.approx(min(each), rel=1e-12)


def test_a_sweep_by_atlas_and_by_the_exact_solver_agree(predictor: Predictor, tmp_path: Path) -> None:
    options: dict[str, Any] = {"executor": "local", "records": predictor, "quiet": True}
    by_atlas = sweep(GRID, tmp_path / "sweep", solver="atlas", **options).to_table().to_pandas()
    exactly = sweep(GRID, solver="exact", **options).to_table().to_pandas()
    for answers in (by_atlas, exactly):
        whole = answers[["device_s", "server_s", "uplink_s", "crossing_s"]].sum(axis=1)
        assert answers.latency_s.to_numpy() == pytest.approx(whole.to_numpy(), rel=1e-12)
        assert ((answers.crossing_s > 0) == (answers.uplink_bit > 0)).all()
        assert (answers.lower_bound_s <= answers.latency_s * (1 + 1e-12)).all()
        plain = answers[["all_local_s", "all_server_s", "neurosurgeon_s"]].min(axis=1)
        assert (answers.latency_s <= plain * (1 + 1e-12)).all()
    assert 0 < (exactly.uplink_bit == 0).sum() < len(exactly)
    assert (by_atlas.latency_s <= exactly.latency_s * (1 + 1e-3)).all()
    assert (by_atlas.latency_s >= exactly.lower_bound_s * (1 - 1e-12)).all()
    again = sweep(GRID, tmp_path / "sweep", solver="atlas", **options).to_table().to_pandas()
    assert again.equals(by_atlas)
    without = sweep({**GRID, "server": ["p100"], "link": ["4g"]}, solver="quantum", **options).to_table()
    assert not without["crossing_s"].to_numpy().any()


def test_a_round_trip_of_the_whole_grid_goes_before_the_links_own() -> None:
    grid = parse_grid({**GRID, "round_trip_ms": 7})
    assert set(grid.weights(0, len(grid))[:, 3]) == {0.0072}
    assert grid.document["round_trip_ms"] == 7
    cases = cases_of(grid, "alexnet")
    assert cases[0].weights == tuple(grid.weights(0, 1)[0])
    one = resolve(device="rpi4b", server={"gflops": 10600, "per_crossing_ms": 0.2}, link="4g", round_trip_ms=7)
    assert Case.of(one).weights == pytest.approx(cases[0].weights, rel=1e-15)


def test_an_atlas_with_crossings_answers_any_and_another_refuses(
    problem: Problem, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ranges = Ranges.of_speeds((5e9, 2e11), (1.06e13, 1.06e13), (1e6, 1e8))
    path = tmp_path / "a.parquet"
    atlas = build(problem, ranges, max_loss=0.05, crossings=True, tolerance=0.01, threads=1, out=path, quiet=True)
    kept = load_atlas(path)
    assert kept.info.crossings
    rng = np.random.default_rng(0)
    weights = np.array(
        [
            Scenario(Device("d", device), Server("s", 1.06e13), Link("l", rate, round_trip_s=wait)).weights()
            for device, rate, wait in zip(
                10 ** rng.uniform(10, 11, 30),
                10 ** rng.uniform(6.5, 7.5, 30),
                10 ** rng.uniform(-5, -1, 30),
                strict=True,
            )
        ]
    )
    index, value = kept.lookup(weights)
    alike = np.ones(30)
    scenarios = Scenarios(weights, alike * (problem.base_accuracy - 0.05), alike * np.nan)
    best = solve(problem, scenarios, "exact", threads=1)
    assert (value <= best.objective * (1 + kept.info.ratio - 1 + 1e-9)).all()
    assert (value >= best.lower_bound * (1 - 1e-9)).all()
    assert 0 < (index == len(kept) - 1).sum() < 30
    assert (kept.table.costs[-1, 2] == 0, (kept.table.costs[:-1, 2] > 0).all()) == (True, True)
    assert (atlas.lookup(weights)[0] == index).all()
    for row, low, high in kept.intervals(4e10, 1.06e13, crossing_s=0.002):
        rate = np.sqrt(low * high)
        found, _ = kept.lookup(np.array([[1 / 4e10, 1 / 1.06e13, 1 / rate, 0.002]]))
        assert found[0] == row
    show = ["atlas", "show", str(path), "--device-gflops", "40", "--link", "4g", "--round-trip-ms", "500"]
    assert main([*show, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["answer"]["row"] == len(kept) - 1
    assert document["strategies"][-1]["rate_low_bps"] is None
    assert main(show) == 0
    assert main(["atlas", "show", str(path)]) == 0
    capsys.readouterr()
    plain = build(problem, ranges, max_loss=0.05, tolerance=0.1, threads=1, quiet=True)
    assert "crossings" not in plain.info.to_json()
    for ask in (lambda: plain.lookup(weights), lambda: plain.intervals(4e10, 1.06e13, crossing_s=0.1)):
        with pytest.raises(InputError, match="atlas: was built for links whose crossing takes no time"):
            ask()
