"""Throughput of a stream: the slowest stage, by an enumeration in plain Python; refused where sums are minimised."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import coinfer_ray
from coinfer_ray.cli import main
from coinfer_ray.errors import InputError
from coinfer_ray.methods.compare import compare
from coinfer_ray.models.library import load_graph
from coinfer_ray.optimizer.budget import Budget
from coinfer_ray.optimizer.candidates import Candidates
from coinfer_ray.optimizer.optimize import answer
from coinfer_ray.optimizer.pareto import front
from coinfer_ray.optimizer.problem import Problem, assemble
from coinfer_ray.problem.costs import seconds_per_item
from coinfer_ray.report.front import draw_front, write_front
from coinfer_ray.scenarios.scenario import Device, Link, Scenario, Server
from tests.synthetic import write_synthetic_records

DEVICE, SERVER = Device("board", 6e9, compute_w=5.0, radio_w=1.0), Server("server", 1e11)
LINK = Link("link", 4e6, round_trip_s=5e-3)
GIVEN = ["--device-gflops", "6", "--server-gflops", "100", "--rate-mbps", "4", "--round-trip-ms", "5"]


@pytest.fixture(scope="module")
def problem(tmp_path_factory: pytest.TempPathFactory) -> Problem:
    records = write_synthetic_records(tmp_path_factory.mktemp("records") / "r.parquet", repeats=2)
    return assemble("alexnet", records=records, regressor="decision_tree")


@pytest.fixture(scope="module")
def predictor(problem: Problem, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("predictor") / "predictor.npz"
    problem.predictor.save(path)
    return path


def of(rate_bps: float = 4e6, max_loss: float = 0.1, confidence: float | None = 0.9, trip_s: float = 5e-3) -> Scenario:
    return Scenario(DEVICE, SERVER, Link("link", rate_bps, round_trip_s=trip_s), max_loss, confidence)


def all_measured(problem: Problem, rate_bps: float = 4e6, trip_s: float = 5e-3) -> list[tuple[float, float, float]]:
    """(seconds an item, latency in s, loss) of every measured strategy and of the network as it is, by hand."""
    bounds = [problem.base_accuracy] * len(problem.known_costs) + problem.measured_bound(0.9).tolist()
    found = []
    for (device, server, bit), bound in zip(
        [*problem.known_costs.tolist(), *problem.measured.costs.tolist()], bounds, strict=True
    ):
        stages = device / 6e9, server / 1e11, bit / rate_bps
        found.append((max(stages), sum(stages) + (trip_s if bit else 0.0), problem.base_accuracy - bound))
    return found


def test_the_slowest_stage_sets_the_pace() -> None:
    costs = np.array([[6.0, 10.0, 0.0], [2.0, 40.0, 7.0], [1.0, 1.0, 9.0], [8.0, 0.0, 0.0]])
    assert seconds_per_item(costs, np.array([1.0, 0.1, 1.0])).tolist() == [6, 7, 9, 8]
    assert seconds_per_item(costs, np.array([1.0, 0.1, 1.0, 1e3])).tolist() == [6, 7, 9, 8]  # no crossing


@pytest.mark.parametrize("rate_bps", [1e5, 1e6, 4e6, 1e8])
@pytest.mark.parametrize("max_loss", [0.0, 0.1])
def test_the_answer_is_the_fastest_stream_of_all_measured(problem: Problem, rate_bps: float, max_loss: float) -> None:
    within = [row for row in all_measured(problem, rate_bps) if row[2] <= max_loss]
    found = answer(problem, of(rate_bps, max_loss), objective="throughput")
    pace = min(row[0] for row in within)
    assert found.items_per_s == pytest.approx(1 / pace, rel=1e-12)
    assert max(found.device_s, found.uplink_s, found.server_s) == pytest.approx(pace, rel=1e-12)
    ties = [row[1] for row in within if row[0] <= pace * (1 + 1e-12)]
    assert found.latency_s == pytest.approx(min(ties), rel=1e-12)
    assert found.gap == 0 and found.lower_bound_s is None and found.energy_j is None
    far = answer(problem, of(rate_bps, max_loss, trip_s=5.0), objective="throughput")
    assert far.items_per_s == found.items_per_s  # a round trip holds up none behind it
    single = answer(problem, of(rate_bps, max_loss))
    assert single.items_per_s is None and "items_per_s" not in single.to_json()
    assert max(single.device_s, single.uplink_s, single.server_s) >= pace * (1 - 1e-12)


def test_of_equal_paces_the_least_latency() -> None:
    table = np.array([[5.0, 9.0, 0.0], [9.0, 5.0, 0.0], [9.0, 1.0, 0.0], [9.0, 2.0, 0.0]])
    zero = np.zeros(4)
    pool = Candidates(table, table, zero, zero, zero > 0, zero.astype(np.int64), zero)
    weights = np.array([1.0, 1.0, 1.0])
    kept = np.array([True, True, True, True])
    best = pool.best(seconds_per_item(table, weights), kept, pool.objective((1.0, 1.0, 1.0)))
    assert best.levels[0].tolist() == [9, 1, 0] and best.objective[0] == 9 == best.lower_bound[0]
    assert pool.best(seconds_per_item(table, weights), kept).levels[0].tolist() == [5, 9, 0]
    none = pool.best(seconds_per_item(table, weights), ~kept)
    assert not none.feasible[0] and none.objective[0] == np.inf


def test_a_stream_within_a_latency(problem: Problem) -> None:
    within = [row for row in all_measured(problem, trip_s=0.05) if row[2] <= 0.1]
    answers = set()
    for most in sorted({row[1] for row in within})[::15]:
        budget = Budget("latency", most * (1 + 1e-9))
        found = answer(problem, of(trip_s=0.05), objective="throughput", budget=budget)
        expected = min(row[0] for row in within if row[1] <= budget.most)
        assert found.items_per_s == pytest.approx(1 / expected, rel=1e-12) and found.latency_s <= budget.most
        answers.add(found.items_per_s)
    assert len(answers) > 1
    with pytest.raises(InputError, match=r"max latency: no measured strategy .* keeps to 0\.001 ms; the least"):
        answer(problem, of(), objective="throughput", budget=Budget("latency", 1e-6))


def test_methods_are_compared_by_what_was_measured(problem: Problem, predictor: Path) -> None:
    shared: dict[str, Any] = {"records": predictor, "max_loss": 0.1, "objective": "throughput"}
    names = ("all_local", "all_server", "neurosurgeon", "prune_partition", "coinfer")
    rows = {row["method"]: row for row in compare("alexnet", DEVICE, SERVER, LINK, methods=names, **shared)}
    graph, plain = load_graph("alexnet", 64), {}
    for point in graph.cut_points:
        here, there = (sum(layer.flops for layer in part) for part in (graph.layers[:point], graph.layers[point:]))
        sent = graph.input_elements if point == 0 else graph.layers[point - 1].output_elements
        plain[point] = max(here / 6e9, there / 1e11, 32 * sent / 4e6 if point < len(graph.layers) else 0.0)
    assert 1 / rows["all_local"]["items_per_s"] == pytest.approx(plain[len(graph.layers)], rel=1e-12)
    assert 1 / rows["all_server"]["items_per_s"] == pytest.approx(plain[0], rel=1e-12)
    assert 1 / rows["neurosurgeon"]["items_per_s"] == pytest.approx(min(plain.values()), rel=1e-12)
    best = coinfer_ray.optimize("alexnet", DEVICE, SERVER, LINK, **shared)
    assert rows["coinfer"]["items_per_s"] == best.items_per_s
    assert rows["coinfer"]["strategy"] == best.strategy.to_json()
    assert best.items_per_s is not None
    assert rows["neurosurgeon"]["items_per_s"] <= rows["prune_partition"]["items_per_s"] <= best.items_per_s
    for row in rows.values():
        stages = row["device_s"], row["uplink_s"], row["server_s"]
        assert 1 / row["items_per_s"] == pytest.approx(max(stages), rel=1e-12)
        assert row["latency_s"] == pytest.approx(sum(stages) + row["crossing_s"], rel=1e-12)
    for name, words in (("genetic", "genetic does not; leave it out"), ("cia", "cia learns sums of costs")):
        with pytest.raises(InputError, match=words):
            compare("alexnet", DEVICE, SERVER, LINK, methods=[name], **shared)
    by_latency = compare("alexnet", DEVICE, SERVER, LINK, methods=names, records=predictor, max_loss=0.1)
    assert all("items_per_s" not in row for row in by_latency)


def test_methods_that_train_choose_the_fastest_stream() -> None:
    names = ("neurosurgeon", "two_step", "fpgm")
    rows = {
        row["method"]: row["items_per_s"]
        for row in compare("alexnet", "rpi4b", "p100", "4g", methods=names, max_loss=0.05, objective="throughput")
    }
    assert rows["neurosurgeon"] <= min(rows["two_step"], rows["fpgm"])
    assert max(rows["two_step"], rows["fpgm"]) > rows["neurosurgeon"]


def test_a_front_of_streams_is_that_of_all_measured(problem: Problem, tmp_path: Path) -> None:
    every = [(pace, loss) for pace, _, loss in all_measured(problem)]

    def beats(a: tuple[float, float], b: tuple[float, float]) -> bool:
        return a[0] <= b[0] * (1 + 1e-12) and a[1] <= b[1] and (a[0] < b[0] * (1 - 1e-12) or a[1] < b[1])

    expected = sorted({row for row in every if not any(beats(other, row) for other in every)})
    found = front(problem, of(), objective="throughput")
    got = [(1 / point.items_per_s, point.loss) for point in found.points if point.items_per_s is not None]
    assert found.of_streams and len(got) == len(found.points) > 3
    distinct = sorted({pace: row for pace, *row in expected}.items())
    assert [pace for pace, _ in got] == pytest.approx([pace for pace, _ in distinct], rel=1e-12)
    for point in found.points:
        ties = [row[1] for row in all_measured(problem) if row[2] == point.loss and point.items_per_s is not None
                and abs(row[0] * point.items_per_s - 1) < 1e-12]  # fmt: skip
        assert point.latency_s == pytest.approx(min(ties), rel=1e-12)
    assert found.without_energy is not None and "one request at a time" in found.without_energy
    single = answer(problem, of(max_loss=0.05), objective="throughput")
    within = front(problem, of(), (0.05,), objective="throughput")
    assert [point.items_per_s for point in within.points] == [single.items_per_s]
    write_front(found, tmp_path / "front.csv")
    with (tmp_path / "front.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [float(line["items_per_s"]) for line in lines] == [point.items_per_s for point in found.points]
    write_front(found, tmp_path / "front.csv")  # its own file is replaced
    draw_front(found, tmp_path / "front.svg")
    assert "time per item of a stream (ms)" in (tmp_path / "front.svg").read_text()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"confidence": None}, "objective: throughput is found among measured strategies alone"),
        ({"optimizer": "quantum"}, "all measured strategies are compared, and quantum does not"),
        ({"max_energy_j": 1}, "max energy: energy is counted for one request at a time"),
        ({"max_latency_ms": 0}, "max latency: 0 ms must be above 0"),
        ({"certify": True}, "certify: bounds what predictions allow, and throughput is found by comparing all"),
        ({"certify": True, "objective": "latency", "max_energy_j": 1}, "certify: bounds .* what keeps to a budget is"),
        ({"objective": "speed"}, "objective: 'speed' is unknown; did you mean weighted"),
        ({"max_loss": -0.5}, "max loss: no strategy reaches"),
    ],
)
def test_where_it_does_not_fit_one_line_says_so(predictor: Path, options: dict[str, Any], words: str) -> None:
    given = {"records": predictor, "objective": "throughput"} | options
    with pytest.raises(InputError, match=words):
        coinfer_ray.optimize("alexnet", DEVICE, SERVER, LINK, **given)


def test_fronts_and_comparisons_on_predictions_are_refused(predictor: Path) -> None:
    for run in (coinfer_ray.pareto, coinfer_ray.compare):
        with pytest.raises(InputError, match="objective: throughput is found among measured strategies alone"):
            run("alexnet", DEVICE, SERVER, LINK, records=predictor, objective="throughput", confidence=None)
    with pytest.raises(InputError, match="objective: 'energy' is unknown"):
        coinfer_ray.pareto("alexnet", DEVICE, SERVER, LINK, records=predictor, objective="energy")  # type: ignore[arg-type]


def test_commands_print_items_per_second(predictor: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shared = ["--records", str(predictor), *GIVEN, "--objective", "throughput"]
    assert main(["optimize", *shared, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["items_per_s"] == pytest.approx(1 / max(found["device_s"], found["uplink_s"], found["server_s"]))
    assert main(["optimize", *shared]) == 0
    printed = capsys.readouterr().out
    assert "items/s, held up by the" in printed and "the greatest throughput of all" in printed
    for command in ("compare", "pareto"):
        assert main([command, *shared]) == 0
        assert "items/s" in capsys.readouterr().out
    for wrong in (["sweep", "grid.yaml", "--out", "o"], ["atlas", "build", "--out", "a", "--model", "alexnet"]):
        assert main([*wrong, "--objective", "throughput"]) == 2
        printed = capsys.readouterr()
        assert printed.out == "" and printed.err.count("\n") == 1 and "--objective" in printed.err
