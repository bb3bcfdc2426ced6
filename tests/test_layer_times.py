"""Measured times of layers as costs: against plain Python, in every solver, and from files to answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from coinfer_kernels import canonicalize

import coinfer_ray
from coinfer_ray.errors import InputError
from coinfer_ray.methods.compare import compare
from coinfer_ray.models.library import load_graph
from coinfer_ray.optimizer.problem import assemble
from coinfer_ray.predictor.predictor import Predictor
from coinfer_ray.problem.costs import DelayCalculator
from coinfer_ray.problem.layer_times import FREE, LayerTimes, terms_of
from coinfer_ray.problem.space import SearchSpace
from coinfer_ray.refine.cases import Case, cases_of
from coinfer_ray.scenarios.read import device_of, parse_grid, resolve, server_of
from coinfer_ray.sweeps.chunks import split_grid
from coinfer_ray.sweeps.sweep import sweep
from tests.synthetic import trusted

PI = LayerTimes(conv_flop=5e-11, grouped_flop=2e-10, element=2e-9, weight=4e-10, layer=4e-5)
GPU = LayerTimes(conv_flop=2e-13, grouped_flop=5e-12, element=1e-11, weight=3e-12, layer=2e-5)
FILE: dict[str, Any] = {"name": "pi", "layer_seconds": PI.to_json(), "held_out_error": {"layer": 0.15}}
SERVER_FILE: dict[str, Any] = {"name": "gpu", "layer_seconds": GPU.to_json()}


@pytest.fixture(scope="module")
def predictor(synthetic_predictor: Predictor) -> Predictor:
    return trusted(synthetic_predictor)


def plain_seconds(layer: Any, times: LayerTimes, ci: int, co: int) -> float:
    """What a layer takes, straight from what it does."""
    if layer.kind in FREE:
        return 0.0
    inputs, outputs = ci * layer.in_height * layer.in_width, co * layer.out_height * layer.out_width
    moved = (inputs * len(layer.inputs) + outputs) * times.element + times.layer
    if layer.kind == "conv":
        if layer.group_width:
            weights = layer.group_width * layer.kernel_area * co
            return (
                2 * outputs * (layer.group_width * layer.kernel_area + 1) * times.grouped_flop
                + weights * times.weight
                + moved
            )
        weights = ci * layer.kernel_area * co
        return 2 * outputs * (ci * layer.kernel_area + 1) * times.conv_flop + weights * times.weight + moved
    if layer.kind == "fc":
        return inputs * co * times.weight + moved
    return moved


@pytest.mark.parametrize("model", ["alexnet", "regnet_x_400mf"])
def test_costs_are_the_sums_of_the_layers_seconds(model: str) -> None:
    graph = load_graph(model, 64)
    space = SearchSpace(graph, feature_bits=(32, 8))
    rng = np.random.default_rng(0)
    cube = rng.random((40, len(space.variables)))
    levels = canonicalize(space.tables, (cube * space.tables.n_levels).astype(np.int64))
    costs = DelayCalculator(space, codec_flops=False, times=(PI, GPU)).costs(levels)
    flops = DelayCalculator(space, codec_flops=False).costs(levels)
    for row, cost in zip(levels, costs, strict=True):
        strategy = space.strategy(row)
        kept = space.kept_channels(strategy)
        seconds = [0.0, 0.0]
        for layer in graph.layers:
            ci = layer.in_channels if layer.in_set is None else kept[layer.in_set]
            co = layer.out_channels if layer.out_set is None else kept[layer.out_set]
            side = int(layer.index > strategy.partition_point)
            own = (PI, GPU)[side]
            seconds[side] += plain_seconds(layer, own, ci, co)
            assert own.seconds(layer, ci, co) == pytest.approx(plain_seconds(layer, own, ci, co), rel=1e-12)
        assert cost[:2] == pytest.approx(seconds, rel=1e-12)
    assert (costs[:, 2] == flops[:, 2]).all()
    half = DelayCalculator(space, codec_flops=False, times=(PI, None)).costs(levels)
    assert half[:, 0] == pytest.approx(costs[:, 0], rel=1e-13)
    assert (half[:, 1] == flops[:, 1]).all()


def test_a_codec_costs_its_flops_its_elements_and_its_stages() -> None:
    space = SearchSpace(load_graph("alexnet", 64))
    levels = np.zeros((2, len(space.variables)), dtype=np.int64)
    points = np.asarray(space.variables[space.cut_variable].values)
    levels[:, space.cut_variable] = int(np.flatnonzero(points == 3)[0])
    levels[1, space.codec_variable] = 8  # half of the channels, kernel and stride 1
    layer = space.graph.layers[2]
    channels, area = layer.out_channels, layer.out_height * layer.out_width
    half = channels // 2
    without, with_codec = DelayCalculator(space, times=(PI, GPU)).costs(levels)
    moved = (channels + half) * area
    encoder = 2 * area * (channels + 1) * half * PI.conv_flop + moved * PI.element + PI.layer
    decoder = (2 * area * channels * half + 2 * area * channels) * GPU.conv_flop + moved * GPU.element + GPU.layer
    assert with_codec[:2] - without[:2] == pytest.approx([encoder, decoder], rel=1e-9)


@pytest.mark.parametrize("model", ["alexnet", "regnet_x_400mf"])
def test_no_layer_gets_slower_as_channels_go(model: str) -> None:
    for layer in load_graph(model, 64).layers:
        whole = terms_of(layer, layer.in_channels, layer.out_channels)
        for ci, co in ((layer.in_channels - 1, layer.out_channels), (layer.in_channels, layer.out_channels - 1)):
            assert (terms_of(layer, max(1, ci), max(1, co)) <= whole).all()


def test_files_are_read_as_yaml_and_as_json(tmp_path: Path) -> None:
    for name, text in (("pi.yaml", yaml.safe_dump(FILE)), ("pi.json", json.dumps(FILE, indent=2))):
        (tmp_path / name).write_text(text)
        device = device_of(str(tmp_path / name))
        assert (device.name, device.times, device.flops_per_s) == ("pi", PI, 1.0)
    assert server_of(SERVER_FILE).times == GPU
    both = {**FILE, "gflops": 12}
    assert device_of(both).times == PI
    assert device_of(both, cost_model="flops").flops_per_s == 12e9
    assert device_of(both, cost_model="flops").times is None
    assert resolve(device=FILE, server=SERVER_FILE, link="4g").weights() == (1.0, 1.0, pytest.approx(1 / 11.22e6))


@pytest.mark.parametrize(
    ("device", "options", "message"),
    [
        ({"layer_seconds": {"conv_flop": 1e-10}}, {}, r"device: layer_seconds.grouped_flop: is missing"),
        ({"layer_seconds": {**PI.to_json(), "element": -1}}, {}, r"layer_seconds.element: -1 must be >= 0"),
        ({"layer_seconds": dict.fromkeys(PI.to_json(), 0)}, {}, r"layer_seconds: all of them are 0"),
        (FILE, {"cost_model": "flops"}, r"cost model: the file of pi has layer_seconds alone"),
        ("rpi4b", {"cost_model": "layers"}, r"cost model: layers needs a device or a server with layer_seconds"),
        ("rpi4b", {"cost_model": "nn-meter"}, r"cost model: 'nn-meter' is unknown"),
    ],
)
def test_bad_files_and_choices_are_named(device: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        resolve(device=device, server="p100", link="4g", **options)


def test_answers_add_up_and_no_method_beats_them(predictor: Predictor) -> None:
    shared: dict[str, Any] = {"device": FILE, "server": SERVER_FILE, "link": "wifi", "max_loss": 0.05}
    shared |= {"round_trip_ms": 0.5, "confidence": None, "records": predictor}
    names = ("all_local", "all_server", "neurosurgeon", "prune_partition", "coinfer")
    rows = {row["method"]: row for row in compare("alexnet", methods=names, **shared)}
    graph = load_graph("alexnet", 64)
    whole = [sum(own.seconds(each, each.in_channels, each.out_channels) for each in graph.layers) for own in (PI, GPU)]
    assert rows["all_local"]["latency_s"] == pytest.approx(whole[0], rel=1e-12)
    assert rows["all_server"]["server_s"] == pytest.approx(whole[1], rel=1e-12)
    plain = min(row["latency_s"] for name, row in rows.items() if name != "coinfer")
    assert rows["coinfer"]["latency_s"] <= plain * (1 + 1e-3)
    each = []
    for point in graph.cut_points:
        device = sum(PI.seconds(layer, layer.in_channels, layer.out_channels) for layer in graph.layers[:point])
        server = sum(GPU.seconds(layer, layer.in_channels, layer.out_channels) for layer in graph.layers[point:])
        sent = graph.input_elements if point == 0 else graph.layers[point - 1].output_elements
        each.append(device + server + (32 * sent / 54.19e6 + 5e-4 if point < len(graph.layers) else 0))
    assert rows["neurosurgeon"]["latency_s"] == pytest.approx(min(each), rel=1e-12)
    answer = coinfer_ray.optimize("alexnet", **shared)
    parts = answer.device_s + answer.server_s + answer.uplink_s + answer.crossing_s
    assert answer.latency_s == pytest.approx(parts, rel=1e-12)
    assert answer.gap is not None
    assert answer.gap <= 1e-3 + 1e-12
    assert answer.latency_s == pytest.approx(rows["coinfer"]["latency_s"], rel=1e-12)


def test_provenance_says_what_costs_rest_on(predictor: Predictor) -> None:
    assert "layer_seconds" not in assemble("alexnet", records=predictor).provenance()
    said = assemble("alexnet", records=predictor, times=(PI, None)).provenance()["layer_seconds"]
    assert said == {"device": PI.to_json(), "server": None}


GRID: dict[str, Any] = {
    "model": ["alexnet"],
    "device": [FILE, "rpi4b", {"gflops": [5, 40]}, {**FILE, "name": "slower", "layer_seconds": GPU.to_json()}],
    "server": ["p100", SERVER_FILE],
    "link": [{"rate_mbps": [1, 20], "round_trip_ms": 1}],
    "max_loss": [0.05],
    "confidence": [None],
}


def test_a_grid_of_several_kinds_is_cut_where_its_problems_change() -> None:
    grid = parse_grid(GRID)
    assert grid.pairs_of_times == [(PI, GPU), (PI, None), (GPU, GPU), (GPU, None), (None, GPU), (None, None)]
    per_pair = 2
    expected = [
        (device, server) for device in (PI, None, None, None, GPU) for server in (None, GPU) for _ in range(per_pair)
    ]
    assert [grid.times(scenario) for scenario in range(len(grid))] == expected
    chunks = list(split_grid(grid, 3))
    assert [chunk.start for chunk in chunks[1:]] == [chunk.stop for chunk in chunks[:-1]]
    assert all(len({grid.times(row) for row in range(chunk.start, chunk.stop)}) == 1 for chunk in chunks)
    part = grid.of_times((None, GPU))
    assert len(part) == 3 * per_pair
    assert part.pairs_of_times == [(None, GPU)]


@pytest.mark.parametrize("solver", ["exact", "atlas"])
def test_a_sweep_answers_each_scenario_as_optimize_does(predictor: Predictor, solver: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"executor": "local", "records": predictor, "quiet": True, "solver": solver}
    answers = sweep(GRID, tmp_path / "out", **options).to_table().to_pandas()
    scenario = 0
    for device in (FILE, "rpi4b", {"gflops": 5}, {"gflops": 40}, {"layer_seconds": GPU.to_json()}):
        for server in ("p100", SERVER_FILE):
            for rate in (1, 20):
                link = {"rate_mbps": rate, "round_trip_ms": 1}
                shared: dict[str, Any] = {"records": predictor, "max_loss": 0.05, "confidence": None}
                one = coinfer_ray.optimize("alexnet", device=device, server=server, link=link, **shared)
                row = answers.iloc[scenario]
                assert row.latency_s == pytest.approx(one.latency_s, rel=2.1e-3)
                assert row.lower_bound_s <= one.latency_s * (1 + 1e-12)
                assert row[["device_s", "server_s", "uplink_s", "crossing_s"]].sum() == pytest.approx(row.latency_s)
                scenario += 1
    assert scenario == len(answers)
    again = sweep(GRID, tmp_path / "out", **options).to_table().to_pandas()
    assert again.equals(answers)


def test_what_counts_operations_refuses_seconds(predictor: Predictor) -> None:
    scenario = resolve(device=FILE, server="p100", link="4g")
    with pytest.raises(
        InputError, match=r"refine: counts operations, and pi has measured times of layers; give its speed instead"
    ):
        Case.of(scenario)
    with pytest.raises(InputError, match="refine: counts operations"):
        cases_of(parse_grid(GRID), "alexnet")
    with pytest.raises(InputError, match="methods: what trained methods cost is known in operations alone"):
        compare("alexnet", methods=["two_step"], device=FILE, server="p100", link="4g")


def test_a_sweep_counts_operations_where_that_is_asked(predictor: Predictor, tmp_path: Path) -> None:
    """A device with both a speed and times, by the grid's key and by the argument; where none are, that is said."""
    both = {**FILE, "gflops": 4}
    options: dict[str, Any] = {"solver": "paper", "executor": "local", "records": predictor, "quiet": True}
    options["solver_options"] = {"max_evaluations": 300}
    grid = {"model": ["alexnet"], "device": [both], "server": ["p100"], "link": ["3g", "4g"], "max_loss": [0.2]}
    plain = {**grid, "device": [{"name": "pi", "gflops": 4}]}
    counted = sweep(plain, **options).to_table()
    assert sweep(grid, cost_model="flops", **options).to_table().equals(counted)
    assert sweep({**grid, "cost_model": "flops"}, **options).to_table().equals(counted)
    measured = sweep(grid, cost_model="layers", **options).to_table()
    assert measured["device_flops_per_s"].null_count == 2
    assert measured["latency_s"].to_pylist() != counted["latency_s"].to_pylist()
    with pytest.raises(InputError, match="cost_model: layers needs a device or a server with layer_seconds"):
        sweep(plain, cost_model="layers", **options)
