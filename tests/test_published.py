"""Scission's published times of ResNet-50, imported: splits are the measured best; those by one speed are not."""

from __future__ import annotations

import json

import numpy as np
import pytest

from coinfer_ray.cli import main
from coinfer_ray.methods.neurosurgeon import Neurosurgeon
from coinfer_ray.models.layers import LayerGraph
from coinfer_ray.optimizer.problem import Problem, assemble
from coinfer_ray.scenarios.batch import ScenarioBatch
from coinfer_ray.scenarios.read import device_of, server_of
from coinfer_ray.scenarios.scenario import Device, Link, Scenario, Server
from tests.published import BLOCK_MS, DEVICES, SERVER, layers_ms, measured_splits, write_table

pytest.importorskip("torchvision")
RATES_BPS = np.geomspace(0.05e6, 5e9, 400)
ROUND_TRIPS_S = (0.0, 0.067)


@pytest.fixture(scope="module")
def by_operations() -> Problem:
    return assemble("resnet50", input_px=224, predict=False)


@pytest.fixture(scope="module")
def graph(by_operations: Problem) -> LayerGraph:
    return by_operations.graph


@pytest.fixture(scope="module")
def files(graph: LayerGraph, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The device file of each machine, as the command makes it of the table."""
    folder = tmp_path_factory.mktemp("published")
    table = write_table(folder / "times.csv", graph)
    made = {machine: str(folder / f"{number}.yaml") for number, machine in enumerate(BLOCK_MS)}
    for machine, file in made.items():
        given = ["--import", str(table), "--side", machine, "--input-px", "224", "--out", file]
        assert main(["devices", *given]) == 0
    return made


def above(
    graph: LayerGraph, problem: Problem, device: Device, server: Server, machine: str, trip_s: float
) -> np.ndarray:
    """(rates,) by how much the chosen splits' seconds in the table exceed the least there; 1 where not."""
    links = [Link("uplink", rate, round_trip_s=trip_s) for rate in RATES_BPS.tolist()]
    found = Neurosurgeon().solve(problem, ScenarioBatch.of([Scenario(device, server, link) for link in links]))
    cuts, seconds = measured_splits(graph, machine, RATES_BPS, trip_s)
    chosen = [row[cuts.index(point)] for row, point in zip(seconds, found.partition_point.tolist(), strict=True)]
    ratio: np.ndarray = np.array(chosen) / seconds.min(axis=1)
    return ratio


@pytest.mark.parametrize("machine", DEVICES)
def test_splits_by_imported_times_are_the_measured_best(graph: LayerGraph, files: dict[str, str], machine: str) -> None:
    device, server = device_of(files[machine]), server_of(files[SERVER])
    problem = assemble("resnet50", input_px=224, predict=False, times=(device.times, server.times))
    for trip_s in ROUND_TRIPS_S:
        assert above(graph, problem, device, server, machine, trip_s) == pytest.approx(np.ones(len(RATES_BPS)))
    local, remote = Scenario(device, server, Link("slow", 1.0)), Scenario(device, server, Link("fast", 1e15))
    ends = Neurosurgeon().solve(problem, ScenarioBatch.of([local, remote]))
    for seconds, side in zip(ends.objective.tolist(), (machine, SERVER), strict=True):
        assert seconds == pytest.approx(sum(BLOCK_MS[side]) / 1e3, rel=1e-6)


@pytest.mark.parametrize(("machine", "named", "wrong"), [(DEVICES[0], "rpi4b", 1.1), (DEVICES[1], "tk1", 2.0)])
def test_splits_by_a_speed_of_elsewhere_are_not(
    graph: LayerGraph, by_operations: Problem, machine: str, named: str, wrong: float
) -> None:
    """The paper's speeds cost up to 1.16 and 2.4 times the best. A speed that is this network's own, for which its
    times must be known, errs nowhere: ResNet-50 is best run whole, on one side or the other."""
    speeds = [graph.flops / (sum(layers_ms(side)) / 1e3) for side in (machine, SERVER)]
    own = Device("own", speeds[0]), Server("own", speeds[1])
    for trip_s in ROUND_TRIPS_S:
        of_paper = above(graph, by_operations, device_of(named), server_of("p100"), machine, trip_s)
        assert of_paper.max() > 1.1
        assert above(graph, by_operations, *own, machine, trip_s) == pytest.approx(np.ones(len(RATES_BPS)))
    without_trip = above(graph, by_operations, device_of(named), server_of("p100"), machine, 0.0)
    assert without_trip.max() > wrong


def test_the_command_line_counts_by_them(files: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    sides = ["--device", files["jetsonnano"], "--server", files[SERVER], "--cost-model", "profile"]
    given = [*sides, "--rate-mbps", "100", "--round-trip-ms", "67", "--input-px", "224"]
    capsys.readouterr()
    assert main(["compare", "--model", "resnet50", "--methods", "neurosurgeon,all_server", *given, "--json"]) == 0
    chosen, remote = json.loads(capsys.readouterr().out)
    image_bits = 32 * 3 * 224 * 224
    server_s = sum(BLOCK_MS[SERVER]) / 1e3
    assert remote["latency_s"] == pytest.approx(server_s + image_bits / 100e6 + 0.067, rel=1e-9)
    assert chosen["latency_s"] == pytest.approx(min(remote["latency_s"], sum(BLOCK_MS["jetsonnano"]) / 1e3), rel=1e-9)
