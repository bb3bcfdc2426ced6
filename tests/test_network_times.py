"""A network's own measured times as costs: fitted to halves, in files, and in every solver."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from coinfer_kernels import canonicalize

import coinfer_ray
from coinfer_ray.cli import main
from coinfer_ray.errors import InputError
from coinfer_ray.methods.compare import compare
from coinfer_ray.models.layers import LayerGraph
from coinfer_ray.models.library import load_graph
from coinfer_ray.optimizer.problem import assemble
from coinfer_ray.predictor.predictor import Predictor
from coinfer_ray.problem.costs import DelayCalculator
from coinfer_ray.problem.layer_times import FREE, LayerTimes
from coinfer_ray.problem.network_times import NetworkTimes, times_for
from coinfer_ray.problem.space import SearchSpace
from coinfer_ray.profile import measure
from coinfer_ray.profile import profile as module
from coinfer_ray.profile.fit_network import fit_network, half_seconds
from coinfer_ray.profile.halves import LEVELS, Half, halves_of, measured_cuts
from coinfer_ray.profile.measure import Prepared
from coinfer_ray.profile.profile import profile
from coinfer_ray.profile.work import Work
from coinfer_ray.scenarios.read import device_of, parse_grid, resolve
from coinfer_ray.sweeps.sweep import sweep
from tests.synthetic import trusted

BASE = LayerTimes(conv_flop=5e-11, grouped_flop=2e-10, element=2e-9, weight=4e-10, layer=4e-5)
GPU = LayerTimes(conv_flop=2e-13, grouped_flop=5e-12, element=1e-11, weight=3e-12, layer=2e-5)
CALL_S = 3e-4
MODELS = ("alexnet", "regnet_x_400mf")


@pytest.fixture(scope="module")
def predictor(synthetic_predictor: Predictor) -> Predictor:
    return trusted(synthetic_predictor)


def own_times(graph: LayerGraph, seed: int = 0, call_s: float = CALL_S) -> NetworkTimes:
    """Times in which each layer is up to twice as fast or as slow as the five coefficients say."""
    rng = np.random.default_rng(seed)
    rows = [np.array(BASE.coefficients(layer)) * 2 ** rng.uniform(-1, 1) for layer in graph.layers]
    return NetworkTimes(
        graph.model,
        graph.input_px,
        graph.fingerprint,
        tuple(layer.name for layer in graph.layers),
        tuple((float(q), float(o), float(i), float(c)) for q, o, i, c in rows),
        call_s,
        BASE,
    )


def entry(times: NetworkTimes, graph: LayerGraph) -> dict[str, Any]:
    return {
        "network": times.network,
        "input_px": times.input_px,
        "fingerprint": times.fingerprint,
        "call": times.call_s,
        "layers": {layer.name: list(row) for layer, row in zip(graph.layers, times.rows, strict=True)},
    }


GRAPH = load_graph("alexnet", 64)
OWN = own_times(GRAPH)
FILE: dict[str, Any] = {
    "name": "pi",
    "gflops": 4,
    "layer_seconds": BASE.to_json(),
    "network_seconds": [entry(OWN, GRAPH)],
}
SERVER_FILE: dict[str, Any] = {
    "name": "gpu",
    "layer_seconds": GPU.to_json(),
    "network_seconds": [entry(replace(OWN, rows=tuple(tuple(0.01 * x for x in row) for row in OWN.rows)), GRAPH)],
}


@pytest.mark.parametrize("model", MODELS)
def test_costs_are_sums_over_the_layers_and_one_call_a_side(model: str) -> None:
    graph = load_graph(model, 64)
    device, server = own_times(graph, 1), own_times(graph, 2, 0.07)
    space = SearchSpace(graph, feature_bits=(32, 8))
    cube = np.random.default_rng(0).random((40, len(space.variables)))
    levels = canonicalize(space.tables, (cube * space.tables.n_levels).astype(np.int64))
    ends = np.flatnonzero(np.isin(space.variables[space.cut_variable].values, (0, len(graph.layers))))
    levels[:2, space.cut_variable] = ends[:2]
    levels = canonicalize(space.tables, levels)
    costs = DelayCalculator(space, codec_flops=False, times=(device, server)).costs(levels)
    for row, cost in zip(levels, costs, strict=True):
        strategy = space.strategy(row)
        kept = space.kept_channels(strategy)
        seconds, layers = [0.0, 0.0], [0, 0]
        for layer, (q, o, i, c) in zip(graph.layers, device.rows, strict=True):
            ci = layer.in_channels if layer.in_set is None else kept[layer.in_set]
            co = layer.out_channels if layer.out_set is None else kept[layer.out_set]
            side = int(layer.index > strategy.partition_point)
            q, o, i, c = (q, o, i, c) if side == 0 else server.rows[layer.index - 1]
            seconds[side] += q * ci * co + o * co + i * ci + c
            layers[side] += 1
        expected = [
            each + call * (count > 0) for each, call, count in zip(seconds, (CALL_S, 0.07), layers, strict=True)
        ]
        assert cost[:2] == pytest.approx(expected, rel=1e-11)
    assert 0.0 in costs[:, 0]
    assert 0.0 in costs[:, 1]


def exact(graph: LayerGraph, times: NetworkTimes) -> list[tuple[Half, float]]:
    return [(half, half_seconds(times, times.call_s, half.work.layers)) for half in halves_of(graph)]


@pytest.mark.parametrize("model", MODELS)
def test_halves_cover_every_cut_and_level(model: str) -> None:
    graph = load_graph(model, 64)
    halves, cuts = halves_of(graph), measured_cuts(graph)
    fitted = {(half.side, half.cut, half.pruned) for half in halves if half.pruned is not None}
    inner = [cut for cut in cuts if any(layer.kind not in FREE for layer in graph.layers[cut:])]
    assert fitted == {("device", cut, level) for cut in cuts for level in LEVELS} | {
        ("server", cut, level) for cut in inner for level in LEVELS
    }
    assert len({half.work.name for half in halves}) == len(halves)
    assert set(cuts) <= set(graph.cut_points)
    for point in graph.cut_points[1:-1]:  # every cut has the costs of one that is measured
        later = next(cut for cut in cuts if cut >= point)
        assert all(layer.kind in FREE for layer in graph.layers[point:later]) or point in cuts
    assert [half.work.name for half in halves] == [half.work.name for half in halves_of(graph)]
    assert [half.work.name for half in halves] != [half.work.name for half in halves_of(graph, seed=1)]


@pytest.mark.parametrize("model", MODELS)
def test_layers_unlike_any_five_coefficients_are_fitted_by_their_halves(model: str) -> None:
    graph = load_graph(model, 64)
    fitted = fit_network(graph, BASE, 0.0, exact(graph, own_times(graph)))
    assert fitted.error < 0.01
    assert fitted.layer_error > 0.05
    assert fitted.error < fitted.layer_error / 5
    assert fitted.times.call_s == pytest.approx(CALL_S, rel=0.2)
    assert min(map(min, fitted.times.rows)) >= 0
    for layer, row in zip(graph.layers, fitted.times.rows, strict=True):
        assert (sum(row) == 0) == (layer.kind in FREE)


def test_noise_of_measuring_is_averaged_and_where_five_coefficients_say_nothing_halves_do() -> None:
    rng = np.random.default_rng(3)
    noisy = [(half, seconds * np.exp(rng.normal(0, 0.05))) for half, seconds in exact(GRAPH, OWN)]
    fitted = fit_network(GRAPH, BASE, 1e-5, noisy)
    true = [(half, seconds) for half, seconds in exact(GRAPH, OWN) if half.pruned is None]
    apart = [abs(half_seconds(fitted.times, fitted.times.call_s, half.work.layers) / real - 1) for half, real in true]
    assert np.mean(apart) < 0.04
    nothing = replace(BASE, element=0.0, layer=0.0)  # poolings and sums take no time at all
    assert fit_network(GRAPH, nothing, 0.0, exact(GRAPH, OWN)).error < 0.02


def test_too_few_halves_are_refused() -> None:
    measured = [each for each in exact(GRAPH, OWN) if each[0].pruned is not None]
    with pytest.raises(InputError, match=r"halves of alexnet are measured to fit and 0 to judge by, 12 and 2"):
        fit_network(GRAPH, BASE, 0.0, measured)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A machine that takes exactly the times of ``OWN`` for AlexNet and those of ``BASE`` for all else."""
    ran: list[str] = []

    def seconds(work: Work) -> float:
        own = work.part in ("cut", "held out") and work.name.startswith("alexnet")
        times = OWN if own else BASE
        return half_seconds(times, CALL_S, work.layers)

    def prepare(work: Work, threads: int) -> Prepared:
        ran.append(work.name)
        return Prepared(lambda: seconds(work), lambda: None)

    monkeypatch.setattr(module, "backend_of", lambda name: SimpleNamespace(version=lambda: "fake 1", prepare=prepare))
    monkeypatch.setattr(measure, "time_calls", lambda work: (work.call(), 0.01))
    return ran


@pytest.mark.parametrize("suffix", ["yaml", "json"])
def test_profile_writes_a_networks_own_times(fake: list[str], tmp_path: Path, suffix: str) -> None:
    out, graph_file = tmp_path / f"board.{suffix}", tmp_path / "own.json"
    graph_file.write_text(json.dumps(GRAPH.to_json()))
    found = profile(out, networks=[str(graph_file)], name="board", quiet=True)
    assert found.done == found.planned == len(fake)
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted([out.name, "own.json"])
    document = (json.loads if suffix == "json" else yaml.safe_load)(out.read_text())
    assert document == found.document
    (own,) = document["network_seconds"]
    assert own["held_out_error"]["halves"] < 0.01 < own["held_out_error"]["halves_by_layer_seconds"]
    assert len(own["measured"]["halves"]) == len(halves_of(GRAPH))
    device = device_of(str(out), network="alexnet", cost_model="profile")
    counted = times_for(device.times, GRAPH)
    assert isinstance(counted, NetworkTimes)
    for half, seconds in exact(GRAPH, OWN):
        assert half_seconds(counted, counted.call_s, half.work.layers) == pytest.approx(seconds, rel=0.05)
    assert vars(device_of(str(out), cost_model="layers").times) == pytest.approx(vars(BASE), rel=1e-6)
    assert device_of(str(out), cost_model="flops").times is None


def test_it_goes_on_where_it_was_stopped(fake: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, real = tmp_path / "board.yaml", measure.time_calls

    def killed(work: Prepared) -> tuple[float, float]:
        if len(fake) > 250:
            raise KeyboardInterrupt
        return real(work)

    monkeypatch.setattr(measure, "time_calls", killed)
    with pytest.raises(KeyboardInterrupt):
        profile(out, networks=["alexnet"], quiet=True)
    with pytest.raises(InputError, match="networks"):
        profile(out, networks=["regnet_x_400mf"], quiet=True)
    monkeypatch.setattr(measure, "time_calls", real)
    fake.clear()
    found = profile(out, networks=["alexnet"], quiet=True)
    assert len(fake) == found.planned - 250
    assert found.networks[0].error < 0.01


def test_time_that_is_up_leaves_every_network_its_share(
    fake: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(100_000))
    monkeypatch.setattr(measure.time, "monotonic", lambda: float(next(clock)))
    found = profile(tmp_path / "a.yaml", networks=MODELS, minutes=8, quiet=True)
    assert 0.2 < found.done / found.planned < 0.8
    shares = [
        (each.fitted + each.held_out) / len(halves_of(load_graph(each.times.network, 64))) for each in found.networks
    ]
    assert shares == pytest.approx([found.done / found.planned] * len(MODELS), abs=0.02)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"network_seconds": None}, {"cost_model": "profile"}, "cost model: profile needs a device or a server with"),
        ({"layer_seconds": None}, {}, "device: network_seconds needs layer_seconds beside it"),
        ({"network_seconds": []}, {}, "device: network_seconds: must be a list with at least one entry"),
    ],
)
def test_bad_files_and_choices_are_named(change: dict[str, Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        resolve(device={**FILE, **change}, server="p100", link="4g", **options)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            [0, -1e-9, 0, 0],
            r"seconds\[0\]\.layers\.conv1: -1e-09 must be >= 0 and finite: no layer may get slower",
        ),
        ([0, float("inf"), 0, 0], r"layers\.conv1: inf must be >= 0 and finite"),
        ([0, 1, 2], r"network_seconds\[0\]\.layers\.conv1\[3\]: is missing"),
    ],
)
def test_times_that_no_search_could_prove_anything_by_are_refused(row: list[float], message: str) -> None:
    own = entry(OWN, GRAPH)
    own["layers"] = {**own["layers"], "conv1": row}
    with pytest.raises(InputError, match=message):
        device_of({**FILE, "network_seconds": [own]})


def test_the_model_that_counts_is_the_best_that_a_file_has_or_the_one_asked_for() -> None:
    side: Callable[..., Any] = lambda model: device_of(FILE, cost_model=model).times  # noqa: E731
    assert times_for(side(None), GRAPH) == times_for(side("profile"), GRAPH) == OWN
    assert side("layers") == BASE
    assert side("flops") is None
    other = load_graph("alexnet", 224)
    assert times_for(side(None), other) == BASE
    with pytest.raises(
        InputError,
        match=r"on pi alexnet at 224 px was not measured, only alexnet at 64 px; measure it with",
    ):
        times_for(side("profile"), other)
    fewer = {**FILE, "network_seconds": [{**entry(OWN, GRAPH), "layers": {"conv1": [1, 0, 0, 0]}}]}
    with pytest.raises(InputError, match=r"network_seconds: layers: \w+ is missing; give each of its 21 layers once"):
        times_for(device_of(fewer).times, GRAPH)
    changed = replace(GRAPH, classes=100)
    with pytest.raises(InputError, match="has other layers now than the one that was measured"):
        times_for(side("profile"), changed)


def test_answers_add_up_and_no_method_beats_them(predictor: Predictor) -> None:
    shared: dict[str, Any] = {"device": FILE, "server": SERVER_FILE, "link": "wifi", "max_loss": 0.05}
    shared |= {"round_trip_ms": 0.5, "confidence": None, "records": predictor, "cost_model": "profile"}
    names = ("all_local", "all_server", "neurosurgeon", "prune_partition", "coinfer")
    rows = {row["method"]: row for row in compare("alexnet", methods=names, **shared)}
    whole = [OWN.seconds(layer, layer.in_channels, layer.out_channels) for layer in GRAPH.layers]
    assert rows["all_local"]["latency_s"] == pytest.approx(sum(whole) + CALL_S, rel=1e-12)
    assert rows["all_server"]["server_s"] == pytest.approx(0.01 * sum(whole) + CALL_S, rel=1e-12)
    each = []
    for point in GRAPH.cut_points:
        device = sum(whole[:point]) + CALL_S * (point > 0)
        server = 0.01 * sum(whole[point:]) + CALL_S * (point < len(whole))
        sent = GRAPH.input_elements if point == 0 else GRAPH.layers[point - 1].output_elements
        each.append(device + server + (32 * sent / 54.19e6 + 5e-4 if point < len(whole) else 0))
    assert rows["neurosurgeon"]["latency_s"] == pytest.approx(min(each), rel=1e-12)
    plain = min(row["latency_s"] for name, row in rows.items() if name != "coinfer")
    assert rows["coinfer"]["latency_s"] <= plain * (1 + 1e-3)
    answer = coinfer_ray.optimize("alexnet", **shared)
    assert answer.gap is not None
    assert answer.gap <= 1e-3 + 1e-12
    problem = assemble("alexnet", records=predictor, times=resolve(**without(shared)).times)
    said = problem.provenance()["layer_seconds"]
    assert said["device"] == OWN.to_json()
    assert said["device"]["digest"] != said["server"]["digest"]
    # No sampled strategy that is accurate enough is faster: the answer is the best, not only a good one.
    cube = np.random.default_rng(1).random((20_000, len(problem.space.variables)))
    levels = canonicalize(problem.space.tables, (cube * problem.space.tables.n_levels).astype(np.int64))
    x = problem.space.tables.values[np.arange(levels.shape[1]), levels]
    enough = problem.predictor.predict(x) >= problem.base_accuracy - 0.05
    costs = problem.delay.costs(levels[enough])
    latency = costs[:, 0] + costs[:, 1] + costs[:, 2] / 54.19e6 + 5e-4 * (costs[:, 2] > 0)
    assert len(latency)
    assert answer.latency_s <= latency.min() * (1 + 1e-3)


def without(shared: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in shared.items() if key != "records"}


GRID: dict[str, Any] = {
    "model": ["alexnet"],
    "device": [FILE, "rpi4b", {**FILE, "name": "slower", "network_seconds": [entry(own_times(GRAPH, 5), GRAPH)]}],
    "server": ["p100", SERVER_FILE],
    "link": [{"rate_mbps": [1, 20], "round_trip_ms": 1}],
    "max_loss": [0.05],
    "confidence": [None],
    "cost_model": "profile",
}


@pytest.mark.parametrize("solver", ["exact", "atlas"])
def test_a_sweep_answers_each_scenario_as_optimize_does(predictor: Predictor, solver: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"executor": "local", "records": predictor, "quiet": True, "solver": solver}
    answers = sweep(GRID, tmp_path / "out", **options).to_table().to_pandas()
    scenario = 0
    for device in GRID["device"]:
        for server in GRID["server"]:
            for rate in (1, 20):
                link = {"rate_mbps": rate, "round_trip_ms": 1}
                shared: dict[str, Any] = {"records": predictor, "max_loss": 0.05, "confidence": None}
                one = coinfer_ray.optimize("alexnet", device=device, server=server, link=link, **shared)
                row = answers.iloc[scenario]
                assert row.latency_s == pytest.approx(one.latency_s, rel=2.1e-3)
                assert row.lower_bound_s <= one.latency_s * (1 + 1e-12)
                scenario += 1
    assert scenario == len(answers)
    plain = {**GRID, "device": ["rpi4b"], "server": ["p100"]}
    with pytest.raises(InputError, match="grid: cost_model: profile needs a device or a server with network_seconds"):
        parse_grid(plain)


def test_the_command_line_takes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "pi.yaml").write_text(yaml.safe_dump(FILE))
    command = [
        "compare",
        "--model",
        "alexnet",
        "--server",
        "p100",
        "--link",
        "wifi",
        "--methods",
        "all_local",
        "--json",
    ]
    latency = {}
    for model in ("flops", "layers", "profile"):
        assert main([*command, "--device", str(tmp_path / "pi.yaml"), "--cost-model", model]) == 0
        latency[model] = json.loads(capsys.readouterr().out)[0]["latency_s"]
    layers, profile = (
        sum(times.seconds(each, each.in_channels, each.out_channels) for each in GRAPH.layers) for times in (BASE, OWN)
    )
    assert latency["flops"] == pytest.approx(GRAPH.flops / 4e9)
    assert latency["layers"] == pytest.approx(layers)
    assert latency["profile"] == pytest.approx(profile + CALL_S)  # though the file's keys have lost their order
    assert main([*command, "--device", "rpi4b", "--cost-model", "profile"]) == 2
    assert "network_seconds" in capsys.readouterr().err
