"""A server with other work: all that it computes takes 1 + load times as long, in every method, solver and sweep."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import coinfer_ray
from coinfer_ray.cli import main
from coinfer_ray.errors import InputError
from coinfer_ray.methods.compare import compare
from coinfer_ray.predictor.predictor import Predictor
from coinfer_ray.problem.layer_times import LayerTimes
from coinfer_ray.scenarios.read import parse_grid, resolve, server_of
from coinfer_ray.scenarios.scenario import Server
from coinfer_ray.sweeps.sweep import sweep
from tests.synthetic import trusted

GPU = LayerTimes(conv_flop=2e-12, grouped_flop=5e-11, element=1e-10, weight=3e-11, layer=2e-5)
MEASURED: dict[str, Any] = {"name": "gpu", "layer_seconds": GPU.to_json()}
PLAIN: dict[str, Any] = {"name": "box", "gflops": 200, "per_crossing_ms": 2}


@pytest.fixture(scope="module")
def predictor(synthetic_predictor: Predictor) -> Predictor:
    return trusted(synthetic_predictor)


def test_it_divides_the_speed_that_is_left() -> None:
    assert server_of({**PLAIN, "load": 3}).flops_per_s == 50e9
    assert server_of({**PLAIN, "load": 3}).per_crossing_s == 2e-3
    assert server_of({**PLAIN, "load": 3}, load=1).flops_per_s == 100e9
    assert server_of({**PLAIN, "load": 3}, load=0) == server_of(PLAIN)
    assert server_of("p100", load=1).flops_per_s == 5.3e12
    assert server_of(gflops=8, load=1).flops_per_s == 4e9
    assert server_of(Server("own", 6e9), load=2).flops_per_s == 2e9
    assert resolve(device="rpi4b", server=MEASURED, link="4g", server_load=0.5).weights()[1] == 1.5


@pytest.mark.parametrize("server", [PLAIN, MEASURED])
def test_every_method_counts_it(predictor: Predictor, server: dict[str, Any]) -> None:
    shared: dict[str, Any] = {"device": "rpi4b", "link": "wifi", "max_loss": 0.05, "confidence": None}
    shared |= {"records": predictor, "methods": ("all_local", "all_server", "neurosurgeon", "coinfer")}
    idle, busy = (
        {row["method"]: row for row in compare("alexnet", server=server, server_load=load, **shared)} for load in (0, 4)
    )
    assert busy["all_local"]["latency_s"] == idle["all_local"]["latency_s"]
    assert busy["all_server"]["server_s"] == pytest.approx(5 * idle["all_server"]["server_s"], rel=1e-12)
    assert idle["neurosurgeon"]["latency_s"] <= busy["neurosurgeon"]["latency_s"]
    assert idle["coinfer"]["latency_s"] <= busy["coinfer"]["latency_s"] * (1 + 1e-3)
    if server is PLAIN:
        slow = compare("alexnet", server={**PLAIN, "gflops": 40}, **shared)
        assert [row["latency_s"] for row in slow] == [row["latency_s"] for row in busy.values()]


@pytest.mark.parametrize("solver", ["exact", "atlas"])
def test_sweeps_count_it_by_entry_by_grid_and_by_argument(predictor: Predictor, solver: str) -> None:
    grid: dict[str, Any] = {"model": ["alexnet"], "device": ["rpi4b"], "link": ["wifi"], "max_loss": [0.05]}
    grid |= {"confidence": [None], "server": [{**PLAIN, "load": 1}, {**MEASURED, "load": 1}, PLAIN]}
    options: dict[str, Any] = {"executor": "local", "records": predictor, "quiet": True, "solver": solver}
    shared: dict[str, Any] = {"device": "rpi4b", "link": "wifi", "max_loss": 0.05, "confidence": None}

    def expected(servers: list[tuple[dict[str, Any], float]]) -> Any:
        found = [
            coinfer_ray.optimize("alexnet", server=server, server_load=load, records=predictor, **shared).latency_s
            for server, load in servers
        ]
        return pytest.approx(found, rel=2.1e-3)

    rows = sweep(grid, **options).to_table().to_pydict()
    assert rows["latency_s"] == expected([(PLAIN, 1), (MEASURED, 1), (PLAIN, 0)])
    assert rows["server_flops_per_s"] == [100e9, None, 200e9]
    busy = sweep({**grid, "server_load": 7}, **options).to_table()
    assert busy["latency_s"].to_pylist() == expected([(PLAIN, 7), (MEASURED, 7), (PLAIN, 7)])
    assert sweep(grid, server_load=7, **options).to_table().equals(busy)


@pytest.mark.parametrize("load", [-1, 1e9, float("nan"), "much", True])
def test_what_is_no_load_is_refused(load: Any) -> None:
    with pytest.raises(InputError, match=r"^server: load: .* must be"):
        server_of({**PLAIN, "load": load})
    with pytest.raises(InputError, match=r"^server load: .* must be"):
        server_of("p100", load=load)
    grid = {"model": ["alexnet"], "device": ["rpi4b"], "server": ["p100"], "link": ["4g"], "max_loss": [0.02]}
    with pytest.raises(InputError, match=r"^grid: server_load: .* must be"):
        parse_grid({**grid, "server_load": load})


def test_a_device_has_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "box.yaml").write_text(yaml.safe_dump({**PLAIN, "load": 1}))
    command = [
        "compare",
        "--model",
        "alexnet",
        "--device",
        "rpi4b",
        "--link",
        "4g",
        "--json",
        "--methods",
        "all_server",
    ]
    assert main([*command, "--server", str(tmp_path / "box.yaml")]) == 0
    once = json.loads(capsys.readouterr().out)[0]["server_s"]
    assert main([*command, "--server", str(tmp_path / "box.yaml"), "--server-load", "3"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["server_s"] == pytest.approx(2 * once)
    with pytest.raises(InputError, match="device: load: unknown key"):
        resolve(device={"gflops": 1, "load": 2}, server="p100", link="4g")
