"""Ranges of speeds and rates: regrets by fine grids in plain Python, the least of them by looking at all."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import coinfer_ray
from coinfer_ray.cli import main
from coinfer_ray.errors import InputError
from coinfer_ray.optimizer.budget import Budget
from coinfer_ray.optimizer.candidates import Candidates
from coinfer_ray.optimizer.optimize import answer
from coinfer_ray.optimizer.problem import Problem, assemble
from coinfer_ray.optimizer.robust import Box, Place, Robust, box_of, choose, shares
from coinfer_ray.scenarios.scenario import Device, Link, Scenario, Server
from tests.synthetic import trusted, write_synthetic_records

RANGES: dict[str, tuple[float, float]] = {
    "device_gflops": (2, 60),
    "server_gflops": (500, 4000),
    "rate_mbps": (0.3, 30),
    "round_trip_ms": (0, 12),
}
Point = tuple[float, float, float, float]  # FLOP/s, FLOP/s, bit/s, s
Row = tuple[tuple[float, float, float], float]  # costs and the accuracy that counts


@pytest.fixture(scope="module")
def problem(tmp_path_factory: pytest.TempPathFactory) -> Problem:
    records = write_synthetic_records(tmp_path_factory.mktemp("records") / "r.parquet", repeats=2)
    return assemble("alexnet", records=records, regressor="decision_tree")


@pytest.fixture(scope="module")
def predictor(problem: Problem, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The problem's predictor as a file: what a command needs not fit."""
    path = tmp_path_factory.mktemp("predictor") / "predictor.npz"
    problem.predictor.save(path)
    return path


def rows_within(problem: Problem, max_loss: float, confidence: float = 0.9) -> list[Row]:
    """Costs of every strategy that keeps to a loss, the network as it is first."""
    bounds = [problem.base_accuracy] * len(problem.known_costs) + problem.measured_bound(confidence).tolist()
    costs = [*problem.known_costs.tolist(), *problem.measured.costs.tolist()]
    floor = problem.base_accuracy - max_loss
    return [((d, s, b), bound) for (d, s, b), bound in zip(costs, bounds, strict=True) if bound >= floor]


def latency(costs: tuple[float, float, float], at: Point) -> float:
    return costs[0] / at[0] + costs[1] / at[1] + costs[2] / at[2] + (at[3] if costs[2] else 0.0)


def grid(steps: int, ranges: dict[str, tuple[float, float]] = RANGES) -> Iterator[Point]:
    """Points of a box, even steps between the ends, which are among them."""
    axes = [[low + (high - low) * step / (steps - 1) for step in range(steps)] for low, high in ranges.values()]
    for device, server, rate, trip in product(*axes):
        yield device * 1e9, server * 1e9, rate * 1e6, trip / 1e3


def point_of(place: Place) -> Point:
    device, server = place.device_flops_per_s, place.server_flops_per_s
    assert device is not None and server is not None
    return device, server, place.rate_bps, place.round_trip_s


def costs_of(problem: Problem, choice: Any) -> tuple[float, float, float]:
    """Costs by the strategy itself."""
    pool = Candidates.measured(problem, 0.9)
    (row,) = (k for k, levels in enumerate(pool.levels) if problem.space.strategy(levels) == choice.strategy)
    device, server, bit = pool.costs[row].tolist()
    return device, server, bit


@pytest.mark.parametrize("max_loss", [0.02, 0.1])
def test_no_point_of_a_fine_grid_has_more_regret_and_a_corner_has_it(problem: Problem, max_loss: float) -> None:
    found, every = choose(problem, box_of(**RANGES, max_loss=max_loss)), rows_within(problem, max_loss)
    assert found.corners == 16 and found.looked_at == len(every)
    chosen = [costs_of(problem, choice) for choice in found.choices]
    worst = [0.0] * len(chosen)
    for at in grid(5):
        best = min(latency(costs, at) for costs, _ in every)
        worst = [max(old, latency(costs, at) / best - 1) for old, costs in zip(worst, chosen, strict=True)]
    for choice, costs, seen in zip(found.choices, chosen, worst, strict=True):
        assert seen == pytest.approx(choice.regret, rel=1e-9)  # the corners are among the points
        at = point_of(choice.worst_at)
        best = min(latency(other, at) for other, _ in every)
        assert latency(costs, at) / best - 1 == pytest.approx(choice.regret, rel=1e-9)
        ends = [latency(costs, corner) for corner in grid(2)]
        assert (choice.least_latency_s, choice.greatest_latency_s) == pytest.approx((min(ends), max(ends)), rel=1e-12)


@pytest.mark.parametrize("max_loss", [0.02, 0.1])
def test_no_strategy_has_less_regret(problem: Problem, max_loss: float) -> None:
    found, every = choose(problem, box_of(**RANGES, max_loss=max_loss)), rows_within(problem, max_loss)
    corners = list(grid(2))
    best = [min(latency(costs, at) for costs, _ in every) for at in corners]
    regrets = [max(latency(costs, at) / least for at, least in zip(corners, best, strict=True)) for costs, _ in every]
    by_role = {choice.chosen_as: choice for choice in found.choices}
    assert 1 + by_role["least_regret"].regret == pytest.approx(min(regrets), rel=1e-12)
    plain = min(regrets[: len(problem.known_costs)])
    assert 1 + by_role["plain_split"].regret == pytest.approx(plain, rel=1e-12)
    assert found.gain == pytest.approx(plain / min(regrets), rel=1e-12)
    others = min(by_role["middle"].regret, by_role["worst_case"].regret)
    assert by_role["least_regret"].regret <= others
    if max_loss == 0.1:  # here it is an answer of its own, which neither of the usual two gives
        assert by_role["least_regret"].regret < others


def test_the_middle_and_the_worst_case_are_single_answers(problem: Problem) -> None:
    found = choose(problem, box_of(**RANGES, max_loss=0.1))
    by_role = {choice.chosen_as: choice for choice in found.choices}
    middle = {name: math.sqrt(low * high) for name, (low, high) in RANGES.items()} | {"round_trip_ms": 6}
    slow = {name: low for name, (low, _) in RANGES.items()} | {"round_trip_ms": 12}
    for role, numbers in (("middle", middle), ("worst_case", slow)):
        single = answer(problem, box_of(**numbers, max_loss=0.1).slow)
        assert by_role[role].strategy == single.strategy  # type: ignore[index]
    assert by_role["middle"].middle_latency_s == pytest.approx(
        answer(problem, box_of(**middle, max_loss=0.1).slow).latency_s, rel=1e-12
    )
    assert by_role["worst_case"].greatest_latency_s == min(each.greatest_latency_s for each in found.choices)


@pytest.mark.parametrize("rate", [0.5, 4.0, 40.0])
def test_a_box_that_is_a_point_gives_the_single_answer(problem: Problem, rate: float) -> None:
    numbers: dict[str, Any] = {"device_gflops": 7, "server_gflops": 1000, "rate_mbps": rate, "max_loss": 0.05}
    found = choose(problem, box_of(**numbers))
    single = answer(problem, box_of(**numbers).slow)
    assert found.corners == 1
    for choice in found.choices[:3]:
        assert choice.strategy == single.strategy and choice.regret == 0
        assert choice.least_latency_s == choice.middle_latency_s == choice.greatest_latency_s
        assert choice.least_latency_s == pytest.approx(single.latency_s, rel=1e-12)
    assert found.choices[3].regret > 0


positive = st.floats(1e-2, 1e2)
span = st.tuples(positive, positive).map(lambda pair: (min(pair), max(pair)))


@given(
    costs=st.lists(st.tuples(*[st.integers(0, 50)] * 3), min_size=1, max_size=8),
    ranges=st.tuples(span, span, span, span),
    inside=st.lists(st.tuples(*[st.floats(0, 1)] * 4), min_size=1, max_size=8),
)
@settings(max_examples=100, deadline=None)
def test_no_point_inside_a_box_has_more_regret_than_its_corners(
    costs: list[tuple[int, int, int]], ranges: tuple[tuple[float, float], ...], inside: list[tuple[float, ...]]
) -> None:
    table = np.array([(device + 1, server, bit) for device, server, bit in costs], dtype=np.float64)
    unknown = np.zeros(len(table))
    pool = Candidates(table, table, unknown, unknown, unknown > 0, unknown.astype(np.int64), unknown)

    def scenario(at: tuple[float, ...]) -> Scenario:
        device, server, rate, trip = at
        return Scenario(Device("d", device), Server("s", server), Link("l", rate, round_trip_s=trip))

    lows, highs = zip(*ranges, strict=True)
    box = Box(scenario((*lows[:3], highs[3])), scenario((*highs[:3], lows[3])))
    greatest = shares(pool, box.corners()).max(axis=1)
    for place in inside:
        at = tuple(min(high, low + share * (high - low)) for share, (low, high) in zip(place, ranges, strict=True))
        times = [latency((d, s, b), (at[0], at[1], at[2], at[3])) for d, s, b in table.tolist()]
        for own, most in zip(times, greatest.tolist(), strict=True):
            assert own / min(times) <= most * (1 + 1e-12)


def test_corners_are_all_there_are_and_each_once() -> None:
    box = box_of(device="rpi4b", server="p100", rate_mbps=(2, 20), round_trip_ms=(5, 5))
    assert [corner.link.rate_bps for corner in box.corners()] == [2e6, 20e6]
    wide = box_of(**RANGES)
    found = {Place.of(corner) for corner in wide.corners()}
    assert {point_of(place) for place in found} == set(grid(2)) and len(wide.corners()) == 16
    assert Place.of(wide.corners()[0]) == Place.of(wide.slow)
    middle = box_of(device_gflops=(1, 4), server_gflops=5, rate_mbps=(2, 8), round_trip_ms=(0, 30)).middle()
    assert point_of(Place.of(middle)) == pytest.approx((2e9, 5e9, 4e6, 0.015), rel=1e-12)


def test_a_device_whose_layers_were_measured_has_no_speed_to_tell(predictor: Path) -> None:
    seconds = {"conv_flop": 1e-10, "grouped_flop": 1e-10, "element": 1e-9, "weight": 1e-9, "layer": 1e-5}
    found = coinfer_ray.robust(
        "alexnet", {"layer_seconds": seconds}, "p100", rate_mbps=(1, 20), records=predictor, max_loss=0.1
    )
    assert found.slow.device_flops_per_s is None and found.slow.server_flops_per_s == 10.6e12
    assert found.corners == 2 and found.choices[0].regret <= found.choices[-1].regret


def test_without_a_plain_split_that_keeps_to_the_loss_there_is_none_beside_it(problem: Problem) -> None:
    poor = replace(problem, fitted=replace(problem.predictor, base_accuracy=problem.base_accuracy - 0.04))
    every = rows_within(poor, -0.01)
    assert every and all(bound > poor.base_accuracy for _, bound in every)
    found = choose(poor, box_of(**RANGES, max_loss=-0.01))
    assert [choice.chosen_as for choice in found.choices] == ["least_regret", "middle", "worst_case"]
    assert found.gain is None and found.looked_at == len(every)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rate_mbps": (20, 2)}, r"rate mbps: the range 20:2 must rise"),
        ({"rate_mbps": (1, math.inf)}, r"rate mbps: the range 1:inf must rise, .* and be finite"),
        ({"rate_mbps": (math.nan, 2)}, r"rate mbps: the range nan:2 must rise"),
        ({"rate_mbps": (0, 2)}, r"link: rate_mbps: 0 must be > 0"),
        ({"rate_mbps": (1e-313, 2)}, r"ranges: where all is slowest no number holds a latency"),
        ({"rate_mbps": (1, 2, 3)}, r"rate mbps: \(1, 2, 3\) is no range; give a number, or two"),
        ({"rate_mbps": "1:2"}, r"rate mbps: '1:2' is no range"),
        ({"rate_mbps": (1, 2), "round_trip_ms": (-1, 2)}, r"round trip: -1 must be in"),
        ({"rate_mbps": (1, 2), "device_gflops": (-1, 2)}, r"device: .* were both given"),
        ({"rate_mbps": (1, 2), "confidence": None}, r"confidence: all measured strategies are compared"),
        ({"rate_mbps": (1, 2), "max_loss": -0.5}, r"max loss: no strategy reaches an accuracy of 1\.34"),
    ],
)
def test_what_is_no_range_is_refused(predictor: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        coinfer_ray.robust("alexnet", "rpi4b", "p100", records=predictor, **options)
    with pytest.raises(TypeError, match="unexpected keyword argument 'rate'"):
        coinfer_ray.robust("alexnet", "rpi4b", "p100", rate=3)  # type: ignore[call-arg]


@pytest.mark.parametrize("predictions", ["errors", "answers"])
def test_the_loss_that_is_named_can_be_allowed(problem: Problem, predictions: str) -> None:
    """Also where predictions are trusted, which promise more than was measured and cannot be had here."""
    own = problem if predictions == "errors" else replace(problem, fitted=trusted(problem.predictor))
    box = box_of(**RANGES, max_loss=-0.5)
    budget = Budget("latency", 1.0)
    options: list[dict[str, Any]] = [{"objective": "throughput"}, {"objective": "throughput", "budget": budget}]
    with pytest.raises(InputError) as caught:
        choose(own, box)
    named = re.search(r"allow a loss of (-?\d\.\d{4}) or more$", str(caught.value))
    assert named is not None
    for option in options:
        with pytest.raises(InputError) as same:
            answer(own, box.slow, **option)
        assert str(same.value) == str(caught.value)
    least = float(named[1])
    wider = Box(replace(box.slow, max_loss=least), replace(box.fast, max_loss=least))
    assert choose(own, wider).looked_at
    assert all(answer(own, wider.slow, **option).items_per_s for option in options)


def test_a_noisy_channel_needs_the_ratio_of_the_link(tmp_path: Path) -> None:
    records = write_synthetic_records(tmp_path / "noisy.parquet", count=60, noisy=True)
    noisy = assemble("alexnet", records=records, regressor="decision_tree")
    box = box_of(**RANGES)
    for run in (
        lambda: choose(noisy, box),
        lambda: answer(noisy, box.slow, objective="throughput"),
        lambda: answer(noisy, box.slow, objective="throughput", budget=Budget("latency", 1.0)),
    ):
        with pytest.raises(InputError, match="link: the records come from a noisy channel, so every link needs a"):
            run()
    known = box_of(device_gflops=(2, 60), server_gflops=1000, bandwidth_mhz=5, snr_db=10)
    assert choose(noisy, known).corners == 2


def test_the_command_prints_the_choices(predictor: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shared: list[str] = ["robust", "--records", str(predictor), "--max-loss", "0.1"]
    ranges = ["--device-gflops", "2:60", "--server-gflops", "500:4000", "--rate-mbps", "0.3:30"]
    out = tmp_path / "choices.csv"
    assert main([*shared, *ranges, "--round-trip-ms", "0:12", "--json", "--out", str(out)]) == 0
    document = json.loads(capsys.readouterr().out)
    found: Robust = coinfer_ray.robust("alexnet", records=predictor, max_loss=0.1, **RANGES)
    assert document == json.loads(json.dumps(found.to_json()))
    with out.open(newline="") as file:
        lines = list(csv.DictReader(file))
    for line, choice in zip(lines, found.choices, strict=True):
        assert line["chosen_as"] == choice.chosen_as and float(line["regret"]) == choice.regret
        assert float(line["worst_at.rate_bps"]) == choice.worst_at.rate_bps
        assert float(line["sparsity.conv1"]) == choice.strategy.sparsity["conv1"]
    assert main([*shared, *ranges, "--out", str(out)]) == 0  # its own file is replaced
    printed = capsys.readouterr()
    assert "best in the middle" in printed.out and "exact among" in printed.err
    for wrong in ("20:2", "0:3", "3:", "fast"):
        assert main([*shared, *ranges[:4], "--rate-mbps", wrong]) == 2
        printed = capsys.readouterr()
        assert printed.out == "" and printed.err.count("\n") == 1 and "rate" in printed.err
