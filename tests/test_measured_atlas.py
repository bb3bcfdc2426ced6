"""Atlases of measured times: built, shown and asked by the command line, against single exact answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import coinfer_ray
from coinfer_ray.atlas.atlas import load_atlas
from coinfer_ray.cli import main
from coinfer_ray.predictor.predictor import Predictor
from tests.synthetic import trusted
from tests.test_network_times import FILE, GRAPH, SERVER_FILE, entry, own_times

RATES = (0.3, 2.0, 20.0, 150.0)
PLAIN: dict[str, Any] = {"name": "pi", "layer_seconds": FILE["layer_seconds"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, synthetic_predictor: Predictor) -> Path:
    path = tmp_path_factory.mktemp("atlases")
    trusted(synthetic_predictor).save(path / "alexnet.npz")
    for name, content in (("pi", FILE), ("layers", PLAIN), ("box", SERVER_FILE)):
        (path / f"{name}.yaml").write_text(yaml.safe_dump(content))  # which sorts its keys
    other = {**FILE, "name": "other", "network_seconds": [entry(own_times(GRAPH, 8), GRAPH)]}
    (path / "other.yaml").write_text(yaml.safe_dump(other))
    return path


def build(folder: Path, name: str, *arguments: str) -> Path:
    out = folder / f"{name}.parquet"
    command = ["atlas", "build", "--records", str(folder / "alexnet.npz"), "--out", str(out), "--rate-mbps", "0.1:200"]
    command += ["--max-loss", "0.05", "--confidence", "0", "--threads", "1"]
    assert main([*command, *arguments]) == 0
    return out


def ask(capsys: pytest.CaptureFixture[str], atlas: Path, *arguments: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["atlas", "show", str(atlas), "--json", *arguments]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def best(folder: Path, **scenario: Any) -> float:
    shared: dict[str, Any] = {"records": folder / "alexnet.npz", "max_loss": 0.05, "confidence": None}
    return coinfer_ray.optimize("alexnet", **shared, **scenario).latency_s


def test_both_sides_measured_and_the_servers_load(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    device, server = str(folder / "pi.yaml"), str(folder / "box.yaml")
    atlas = build(folder, "both", "--device", device, "--server", server, "--server-load", "0:9", "--crossings")
    info = load_atlas(atlas).info
    assert info.measured == (True, True)
    assert info.ranges.device == (0.1, 1.0)
    for rate in RATES:
        for load in (0, 2.5, 9):
            found = ask(capsys, atlas, "--rate-mbps", str(rate), "--server-load", str(load), "--round-trip-ms", "3")
            one = best(folder, device=device, server=server, rate_mbps=rate, server_load=load, round_trip_ms=3)
            assert found["answer"]["latency_s"] == pytest.approx(one, rel=2.1e-3)
            assert found["answer"]["lower_bound_s"] <= one * (1 + 1e-9)
            inside = [
                each for each in found["intervals"] if each["rate_low_bps"] <= rate * 1e6 <= each["rate_high_bps"]
            ]
            assert found["answer"]["row"] in [each["row"] for each in inside]
    named = ask(capsys, atlas, "--rate-mbps", "2", "--device", device, "--server", server)
    assert named["answer"] == ask(capsys, atlas, "--rate-mbps", "2")["answer"]
    assert main(["atlas", "show", str(atlas), "--rate-mbps", "2"]) == 0
    shown = capsys.readouterr().out
    assert "device ms" in shown
    assert "server ms" in shown


def test_one_side_measured_by_five_coefficients(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    device = str(folder / "layers.yaml")
    atlas = build(folder, "device", "--device", device, "--server-gflops", "50:5000")
    assert load_atlas(atlas).info.measured == (True, False)
    for rate in RATES:
        found = ask(capsys, atlas, "--device", device, "--server-gflops", "300", "--rate-mbps", str(rate))
        one = best(folder, device=device, server={"gflops": 300}, rate_mbps=rate)
        assert found["answer"]["latency_s"] == pytest.approx(one, rel=2.1e-3)
    server = build(folder, "server", "--device-gflops", "1:100", "--server", str(folder / "box.yaml"))
    found = ask(capsys, server, "--device-gflops", "7", "--rate-mbps", "20")
    one = best(folder, device={"gflops": 7}, server=str(folder / "box.yaml"), rate_mbps=20)
    assert found["answer"]["latency_s"] == pytest.approx(one, rel=2.1e-3)
    by_name = build(folder, "name", "--device", "rpi4b", "--server", "p100", "--server-load", "1")
    found = ask(capsys, by_name, "--device", "rpi4b", "--server-load", "1", "--rate-mbps", "20")
    one = best(folder, device="rpi4b", server="p100", rate_mbps=20, server_load=1)
    assert found["answer"]["latency_s"] == pytest.approx(one, rel=2.1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--device", "{}/other.yaml"],
            "device: the atlas is of measured times, and not of those of other",
        ),
        (["--device-gflops", "4"], "device: the atlas is of measured times, and not of those of 4 GFLOPS"),
        (["--server", "p100"], "server: the atlas is of measured times, and not of those of p100"),
        (["--server-load", "30", "--rate-mbps", "3"], "atlas: "),
        (["--picture", "{}/a.png"], "picture: its axes are speeds and rates, and this atlas is of measured times"),
    ],
)
def test_what_an_atlas_of_measured_times_refuses(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    atlas = folder / "both.parquet"
    if not atlas.exists():
        sides = ("--device", str(folder / "pi.yaml"), "--server", str(folder / "box.yaml"))
        build(folder, "both", *sides, "--server-load", "0:9", "--crossings")
    capsys.readouterr()
    assert main(["atlas", "show", str(atlas), *(each.format(folder) for each in arguments)]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "rpi4b", "--device-gflops", "1:2"], "device: rpi4b and gflops were both given"),
        (["--cost-model", "layers"], "cost model: layers needs a device or a server with layer_seconds"),
        (
            ["--device", "{}/layers.yaml", "--cost-model", "profile"],
            "cost model: profile needs a device or a server",
        ),
        (["--server-load", "3:1"], "server load: 3:1 must rise from 0 on"),
        (["--server-load", "-1"], "server load: -1 must rise from 0 on"),
    ],
)
def test_what_building_refuses(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    command = ["atlas", "build", "--model", "alexnet", "--out", str(folder / "none.parquet")]
    assert main([*command, *(each.format(folder) for each in arguments)]) == 2
    assert message in capsys.readouterr().err
    assert not (folder / "none.parquet").exists()


def test_an_atlas_of_operations_refuses_measured_times(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    atlas = build(folder, "operations", "--device-gflops", "1:100")
    capsys.readouterr()
    assert main(["atlas", "show", str(atlas), "--device", str(folder / "pi.yaml"), "--rate-mbps", "3"]) == 2
    assert "atlas: counts operations, and pi has measured times" in capsys.readouterr().err
