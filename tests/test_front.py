"""Fronts of latency, energy and loss: by an oracle over all measured strategies, and beside single answers."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import coinfer_ray
from coinfer_ray.cli import main
from coinfer_ray.cli.pareto import losses_of
from coinfer_ray.errors import InputError
from coinfer_ray.optimizer.candidates import unbeaten
from coinfer_ray.optimizer.optimize import answer
from coinfer_ray.optimizer.pareto import Front, FrontPoint, _sums, front
from coinfer_ray.optimizer.problem import Problem, assemble
from coinfer_ray.report.front import draw_front, write_front
from coinfer_ray.report.pictures import FORMATS
from coinfer_ray.scenarios.scenario import Device, Link, Scenario, Server
from tests.synthetic import write_synthetic_records

DEVICE = Device("board", 4e9, compute_w=2, radio_w=6, idle_w=0.3)
SERVER, LINK = Server("server", 1e12), Link("link", 20e6, round_trip_s=1e-3)
ARGUMENTS = ["--device-gflops", "4", "--server-gflops", "1000", "--rate-mbps", "20"]


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic_records(tmp_path_factory.mktemp("records") / "r.parquet", repeats=2)


@pytest.fixture(scope="module")
def problem(records: Path) -> Problem:
    return assemble("alexnet", records=records, regressor="monotone_boosting")


def of(confidence: float | None = 0.9, max_loss: float = 0.02, device: Device = DEVICE) -> Scenario:
    return Scenario(device, SERVER, LINK, max_loss, confidence)


def all_measured(problem: Problem, confidence: float) -> list[tuple[float, float, float]]:
    """(s, J, loss) of every measured strategy and of the network as it is at every cut, by hand."""
    found = []
    own = problem.measured
    bounds = [problem.base_accuracy] * len(problem.known_costs) + problem.measured_bound(confidence).tolist()
    for (device, server, bit), bound in zip([*problem.known_costs, *own.costs], bounds, strict=True):
        here, there, sent = device / 4e9, server / 1e12, bit / 20e6
        crossing = 1e-3 if bit else 0.0
        joules = 2 * here + 6 * sent + 0.3 * (there + crossing)
        found.append((here + there + sent + crossing, joules, problem.base_accuracy - bound))
    return found


def beats(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    """Whether ``a`` is nowhere worse and somewhere better by more than sums in another order can differ."""
    return all(x <= y * (1 + 1e-12) for x, y in zip(a, b, strict=True)) and any(
        x < y * (1 - 1e-12) for x, y in zip(a, b, strict=True)
    )


def place(point: FrontPoint) -> tuple[float, ...]:
    return point.latency_s, point.energy_j or 0.0, point.loss


@given(st.lists(st.tuples(*[st.integers(0, 3)] * 3), min_size=1, max_size=40))
def test_unbeaten_are_those_that_no_other_beats(rows: list[tuple[int, int, int]]) -> None:
    kept = unbeaten(np.array(rows, dtype=np.float64))
    found = [rows[row] for row in kept]
    assert found == sorted({row for row in rows if not any(beats(other, row) for other in rows)})
    assert [rows.index(row) for row in found] == kept.tolist()  # of equal rows the first


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.99])
def test_a_measured_front_is_that_of_all_measured_strategies(problem: Problem, confidence: float) -> None:
    every = all_measured(problem, confidence)
    expected = sorted({row for row in every if not any(beats(other, row) for other in every)})
    found = front(problem, of(confidence))
    assert len(found.points) > 10 and found.looked_at == len(every)
    assert np.array([place(point) for point in found.points]) == pytest.approx(np.array(expected), rel=1e-12)
    assert any(point.accuracy_source == "base" for point in found.points)


def test_the_ends_within_each_loss_are_the_answers_for_it(problem: Problem) -> None:
    losses = (0.0, 0.01, 0.03, 0.06)
    found, every = front(problem, of(), losses), all_measured(problem, 0.9)
    for loss in losses:
        inside = [point for point in found.points if point.loss <= loss]
        fastest = answer(problem, of(max_loss=loss))
        leanest = answer(problem, of(max_loss=loss), objective="energy")
        assert min(point.latency_s for point in inside) == pytest.approx(fastest.latency_s, rel=1e-12)
        assert min(point.energy_j or 0 for point in inside) == pytest.approx(leanest.energy_j, rel=1e-12)
    for point in found.points:
        rivals = [[row[:2] for row in every if row[2] <= loss] for loss in losses if point.loss <= loss]
        assert any(not any(beats(rival, place(point)[:2]) for rival in each) for each in rivals)
        assert not any(beats(row, place(point)) for row in every)
    assert {place(point) for point in found.points} < {place(point) for point in front(problem, of()).points}


def test_without_powers_latency_and_loss_are_left(problem: Problem) -> None:
    found = front(problem, of(device=Device("board", 4e9)))
    assert found.without_energy is not None and "the powers of board are not known" in found.without_energy
    rows = {(latency, loss) for latency, _, loss in all_measured(problem, 0.9)}
    expected = sorted(row for row in rows if not any(beats(other, row) for other in rows))
    assert [(point.latency_s, point.loss) for point in found.points] == [pytest.approx(row) for row in expected]
    assert all(point.energy_j is None for point in found.points)


def test_where_predictions_count_the_ends_are_the_exact_answers(problem: Problem) -> None:
    found = front(problem, of(None), (0.03,), points=2, time_limit_s=None)
    fastest = answer(problem, of(None, 0.03), time_limit_s=None)
    leanest = answer(problem, of(None, 0.03), objective="energy", time_limit_s=None)
    assert found.confidence is None and all(point.loss <= 0.03 for point in found.points)
    assert min(point.latency_s for point in found.points) == pytest.approx(fastest.latency_s, rel=1e-3)
    assert min(point.energy_j or 0 for point in found.points) == pytest.approx(leanest.energy_j, rel=1e-3)
    places = [place(point) for point in found.points]
    rivals = [*places, *((*row[:2], row[2]) for row in all_measured(problem, 0.5))]
    assert not any(beats(rival, own) for own in places for rival in rivals)
    assert all(point.gap is not None and 0 <= point.gap <= 1e-3 for point in found.points if point.gap is not None)
    assert any(point.accuracy_source == "predicted" for point in found.points)
    assert found.looked_at == 2 + 2 + len(all_measured(problem, 0.5))  # two ends, two sums


def test_sums_count_seconds_and_joules_by_what_lies_between_the_ends() -> None:
    weights = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    ends = np.array([[1.0, 0, 9.0], [5.0, 0, 1.0], [2.0, 0, 2.0], [2.0, 0, 2.0]])  # the second floor's are one point
    sums, floors = _sums(ends, np.ones(4, dtype=np.bool_), weights, np.array([0.7, 0.8]), 3)
    assert sums == pytest.approx(np.array([[share / 4, 0, (1 - share) / 8] for share in (0.75, 0.5, 0.25)]))
    assert floors.tolist() == [0.7] * 3
    assert len(_sums(ends, np.array([True, False, True, True]), weights, np.array([0.7, 0.8]), 3)[0]) == 0


def test_a_front_is_written_and_drawn_whole(problem: Problem, tmp_path: Path) -> None:
    for device in (DEVICE, Device("board", 4e9)):
        found = front(problem, of(device=device))
        write_front(found, tmp_path / "front.csv")
        with (tmp_path / "front.csv").open(newline="") as file:
            lines = list(csv.DictReader(file))
        assert len(lines) == len(found.points)
        for line, point in zip(lines, found.points, strict=True):
            assert float(line["latency_s"]) == point.latency_s and float(line["loss"]) == point.loss
            assert line["energy_j"] == ("" if point.energy_j is None else repr(point.energy_j))
            assert float(line["sparsity.conv1"]) == point.strategy.sparsity["conv1"]
            assert int(line["partition_point"]) == point.strategy.partition_point
        for ending in FORMATS:
            draw_front(found, tmp_path / f"front{ending}")
            draw_front(found, tmp_path / f"front{ending}")  # its own picture is replaced
    drawing = (tmp_path / "front.svg").read_text()
    assert "latency (ms)" in drawing and "the network as it is" in drawing
    (tmp_path / "thesis.csv").write_text("years of work")
    with pytest.raises(InputError, match="is there and is not a front that coinfer wrote"):
        write_front(found, tmp_path / "thesis.csv")
    with pytest.raises(InputError, match=r"front\.gif has none of the endings"):
        draw_front(found, tmp_path / "front.gif")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "front.csv", "front.pdf", "front.png", "front.svg", "thesis.csv"
    ]  # fmt: skip


def test_losses_are_a_list_or_a_range() -> None:
    assert losses_of("0.02,0.01") == [0.02, 0.01]
    assert losses_of("0.005:0.05:10") == pytest.approx([0.005 * step for step in range(1, 11)])
    for wrong in ("", "a", "0.1:0.2", "0.2:0.1:3", "0.1:0.2:1", "0.1:0.2:1e9", "nan", "0:inf:3", "0.1:0.2:1001"):
        with pytest.raises(InputError, match="is neither a list"):
            losses_of(wrong)


def test_what_cannot_be_answered_is_refused(problem: Problem) -> None:
    with pytest.raises(InputError, match=r"no strategy loses at most -0\.5; the least that can be had is a loss of"):
        front(problem, of(), (-0.5,))
    with pytest.raises(TypeError, match="it takes max_losses"):
        coinfer_ray.pareto("alexnet", DEVICE, SERVER, LINK, max_loss=0.1)
    for options, words in (
        ({"max_losses": []}, "max losses: none given"),
        ({"max_losses": [2]}, r"max_loss: 2 must be in \(-1, 1\)"),
        ({"points": -1}, "points: -1 must be 0 or more"),
    ):
        with pytest.raises(InputError, match=words):
            coinfer_ray.pareto("alexnet", DEVICE, SERVER, LINK, **options)


def test_the_command_prints_the_front(records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given: list[str] = ["pareto", "--records", str(records), *ARGUMENTS]
    assert main([*given, "--max-losses", "0.01:0.05:3", "--json", "--out", str(tmp_path / "front.csv")]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    found: Front = coinfer_ray.pareto(
        "alexnet", device_gflops=4, server_gflops=1000, rate_mbps=20, records=records, max_losses=[0.01, 0.03, 0.05]
    )
    assert document == json.loads(json.dumps(found.to_json()))
    assert main(given) == 0
    printed = capsys.readouterr()
    assert "the network as it is" in printed.out and "energy does not count" in printed.err
    assert main([*given, "--picture", str(tmp_path / "front.gif")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
