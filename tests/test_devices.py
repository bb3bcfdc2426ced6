"""Presets: the paper's as they were, measured ones by network, each with its source, listed by ``coinfer devices``."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest

from coinfer_ray.cli import main
from coinfer_ray.errors import InputError
from coinfer_ray.models.library import load_graph
from coinfer_ray.scenarios.presets import PRESETS, presets_of
from coinfer_ray.scenarios.read import device_of, link_of, parse_grid, resolve, server_of
from coinfer_ray.scenarios.scenario import DEVICE_FLOPS_PER_S, LINK_RATE_BPS, SERVER_FLOPS_PER_S

GRID: dict[str, Any] = {
    "model": ["alexnet", "regnet_x_400mf"],
    "device": ["rpi4b", "rpi4b-ncnn", {"gflops": [1, 2]}],
    "server": ["v100-ncnn", "p100"],
    "link": ["4g", "4g-typical"],
    "max_loss": [0.02],
}


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.name)
def test_each_says_what_it_is_and_where_from(preset) -> None:
    assert preset.title
    assert len(preset.source) > 20
    assert re.fullmatch(r"20\d\d(-\d\d)?", preset.date)
    given = [preset.gflops is not None, bool(preset.gflops_by_network), preset.rate_mbps is not None]
    assert sum(given) == 1
    assert given[2] == (preset.kind == "link")


def test_names_are_told_apart() -> None:
    for kind in ("device", "server", "link"):
        own = [preset.name for preset in PRESETS if preset.kind == kind]
        assert len(own) == len(set(own))
        assert all(name == name.lower() for name in own)


def test_the_papers_stay_as_they_are() -> None:
    for name, speed in DEVICE_FLOPS_PER_S.items():
        assert device_of(name).flops_per_s == pytest.approx(speed, rel=1e-15)
    for name, speed in SERVER_FLOPS_PER_S.items():
        assert server_of(name).flops_per_s == pytest.approx(speed, rel=1e-15)
    for name, rate in LINK_RATE_BPS.items():
        link = link_of(name)
        assert (link.rate_bps, link.round_trip_s) == (pytest.approx(rate, rel=1e-15), 0)


# Effective GFLOP/s as the published times give them (AlexNet, RegNetY-400MF, ResNet-18, ResNet-50).
@pytest.mark.parametrize(
    ("name", "speeds"),
    [
        ("rpi3b+-ncnn", (9.2, 6.8, 13.4, 14.0)),
        ("rpi4b-ncnn", (19.1, 12.4, 30, 31)),
        ("rpi5-ncnn", (68, 74, 184, 179)),
        ("jetson-orin-nano-ncnn", (169, 112, 774, 901)),
    ],
)
def test_a_network_has_a_speed_of_its_own(name: str, speeds: tuple[float, ...]) -> None:
    networks = ("alexnet", "regnet_y_400mf", "resnet18", "resnet50")
    found = [device_of(name, network=network).flops_per_s / 1e9 for network in networks]
    assert found == pytest.approx(speeds, rel=0.015)
    assert (
        device_of(name, network="regnet_x_400mf").flops_per_s == device_of(name, network="regnet_y_400mf").flops_per_s
    )


def test_the_whole_network_takes_the_time_that_was_published() -> None:
    flops = load_graph("alexnet", 224).flops
    assert flops / device_of("rpi4b-ncnn", network="alexnet").flops_per_s == pytest.approx(0.0758, rel=0.03)
    assert flops / server_of("v100-ncnn", network="alexnet").flops_per_s == pytest.approx(1.33e-3, rel=0.03)


def test_what_was_not_measured_is_refused() -> None:
    with pytest.raises(InputError, match=r"device: the speed of rpi5-ncnn on vgg16 is not known, only on alexnet, "):
        device_of("rpi5-ncnn", network="vgg16")
    with pytest.raises(InputError, match=r"server: v100-ncnn has a speed for each network; say for which"):
        server_of("v100-ncnn")
    with pytest.raises(InputError, match=r"needs either gflops, or gflops_by_network"):
        device_of({"gflops": 1, "gflops_by_network": {"alexnet": 2}})
    with pytest.raises(InputError, match=r"gflops_by_network.alexnet: 0 must be > 0"):
        device_of({"gflops_by_network": {"alexnet": 0}}, network="alexnet")
    with pytest.raises(InputError, match=r"the speed of rpi4b-ncnn on mobilenet_v2 is not known"):
        parse_grid({**GRID, "model": ["alexnet", "mobilenet_v2"]})


def test_a_file_can_say_it_too() -> None:
    phone = {"name": "phone", "gflops_by_network": {"alexnet": 20, "resnet18": 50}, "compute_w": 3}
    assert device_of(phone, network="resnet18").flops_per_s == 50e9
    assert resolve(network="alexnet", device=phone, server="p100", link="4g").device.compute_w == 3


def test_a_grid_of_several_networks_has_the_speeds_of_each() -> None:
    grid = parse_grid(GRID)
    columns = grid.columns(0, len(grid))
    weights = grid.weights(0, len(grid))
    devices, servers = ("rpi4b", "rpi4b-ncnn", {"gflops": 1}, {"gflops": 2}), ("v100-ncnn", "p100")
    scenario = 0
    for model in GRID["model"]:
        for device in devices:
            for server in servers:
                for link in GRID["link"]:
                    one = resolve(network=model, device=device, server=server, link=link)
                    expected = [*one.weights(), 0.0][:4]
                    assert weights[scenario] == pytest.approx(expected, rel=1e-15)
                    scenario += 1
    assert scenario == len(grid)
    parts = [grid.columns(start, start + 5) for start in range(0, 30, 5)]
    for name, column in columns.items():
        joined = np.concatenate([part[name] for part in parts])
        assert np.array_equal(joined, column[:30], equal_nan=column.dtype == float)


def test_the_command_lists_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in document["servers"]] == list(presets_of("server"))
    (pi,) = (row for row in document["devices"] if row["name"] == "rpi4b-ncnn")
    assert pi["gflops_by_network"]["alexnet"] == pytest.approx(1.45 / 75.8 * 1e3)
    assert pi["source"].startswith("Tencent/ncnn")
    (link,) = (row for row in document["links"] if row["name"] == "4g-typical")
    assert (link["rate_mbps"], link["round_trip_ms"]) == (5.85, 50)
    assert main(["devices"]) == 0
    printed = capsys.readouterr().out
    assert all(preset.name in printed and preset.source in printed for preset in PRESETS)
