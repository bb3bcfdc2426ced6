"""Scenarios and grids against the paper's tables, closed forms and a plain-Python product."""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from coinfer_ray.errors import InputError
from coinfer_ray.scenarios.read import device_of, link_of, parse_grid, read_grid, read_yaml, resolve, server_of
from coinfer_ray.scenarios.scenario import Device, Link, Scenario, Server, shannon_rate_bps

PAPER_GRID: dict[str, Any] = {
    "model": ["alexnet"],
    "device": ["rpi3b+", "rpi4b", {"name": "phone", "gflops": {"logspace": [0.1, 1000, 5]}}],
    "server": ["p100"],
    "link": [
        "3g",
        {"rate_mbps": {"logspace": [0.01, 100, 4]}},
        {"bandwidth_mhz": [5, 10], "snr_db": {"linspace": [0, 50, 3]}},
    ],
    "max_loss": [0.01, 0.02, 0.05],
}


@pytest.mark.parametrize(
    ("name", "gflops"), [("rpi3b+", 0.2), ("rpi4b", 3), ("tk1", 326.4), ("RPI4B", 3)]
)  # the paper's Table II
def test_devices(name: str, gflops: float) -> None:
    assert device_of(name) == Device(name.lower(), pytest.approx(gflops * 1e9))


@pytest.mark.parametrize(("name", "mbps"), [("3g", 1.19), ("4g", 11.22), ("5g", 52.24), ("wifi", 54.19)])  # Table III
def test_links(name: str, mbps: float) -> None:
    assert link_of(name) == Link(name, pytest.approx(mbps * 1e6), None)


def test_the_server() -> None:
    assert server_of("p100") == Server("p100", pytest.approx(10.6e12))


@pytest.mark.parametrize("snr_db", [-20, 0, 10, 35.5, 200])
def test_shannon(snr_db: float) -> None:
    assert shannon_rate_bps(1e7, snr_db) == pytest.approx(1e7 * math.log2(1 + 10 ** (snr_db / 10)), rel=1e-12)
    found = link_of(bandwidth_mhz=10, snr_db=snr_db)
    assert (found.rate_bps, found.snr_db) == (pytest.approx(shannon_rate_bps(1e7, snr_db)), snr_db)


def test_latency_weights() -> None:
    scenario = resolve(device="rpi3b+", server_gflops=1000, link="4g", max_loss=0.05)
    assert scenario.weights() == pytest.approx((1 / 0.2e9, 1 / 1e12, 1 / 11.22e6), rel=1e-12)
    assert scenario.max_loss == 0.05


def test_energy_weights(tmp_path: Path) -> None:
    file = tmp_path / "phone.yaml"
    file.write_text("{gflops: 5, compute_w: 3, radio_w: 1.5, idle_w: 0.5}")
    scenario = Scenario(device_of(str(file)), Server("s", 1e12), Link("l", 1e6))
    assert scenario.weights("energy") == pytest.approx((3 / 5e9, 0.5 / 1e12, 1.5 / 1e6), rel=1e-12)
    with pytest.raises(InputError, match="the powers of tk1 are not known"):
        Scenario(device_of("tk1"), Server("s", 1e12), Link("l", 1e6)).weights("energy")


def test_objects_pass_through() -> None:
    mine = Device("mine", 7e9)
    assert resolve(device=mine, server=Server("s", 1.0), link=Link("l", 2.0)).device is mine


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"device": "rpi3"}, r"device: 'rpi3' is unknown; did you mean rpi3b\+ or rpi4b?"),
        ({"link": "3gg"}, "link: '3gg' is unknown; did you mean 3g"),
        ({"server": "v100"}, "server: 'v100' is unknown; did you mean p100"),
        ({"device": None}, r"device: missing; give a name, a YAML file, or numbers \(gflops\)"),
        ({"device_gflops": 3}, "device: tk1 and gflops were both given"),
        ({"device": None, "device_gflops": -3}, "device: gflops: -3 must be > 0"),
        ({"device": None, "device_gflops": math.nan}, "device: gflops: nan must be a finite number"),
        ({"device": "no.yaml"}, r"no\.yaml: cannot be read \(No such file or directory\); give a YAML file"),
        ({"device": {"gflops": [1, 2]}}, "device: gflops has 2 values; one scenario takes one"),
        (
            {"device": {"gflop": 1}},
            "device: gflop: unknown key; known: name, gflops, gflops_by_network, layer_seconds, network_seconds, "
            "held_out_error, measured, compute_w, radio_w, idle_w",
        ),
        ({"link": None, "bandwidth_mhz": 10}, "link: needs either rate_mbps, or bandwidth_mhz and snr_db"),
        ({"link": None, "bandwidth_mhz": 10, "snr_db": -4000}, "link: its rate in bit/s must be > 0 and finite"),
        ({"max_loss": 2}, r"max_loss: 2 must be in \(-1, 1\); it is a share of all images, 0.02 for 2 points"),
        ({"max_loss": math.nan}, r"max_loss: nan must be in \(-1, 1\)"),
    ],
)
def test_what_cannot_be_resolved(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        resolve(**({"device": "tk1", "server": "p100", "link": "wifi"} | arguments))
    assert "\n" not in str(error.value)


def entries(items: list[Any], expand: Any) -> list[tuple[str, ...]]:
    return [entry for item in items for entry in expand(item)]


def test_the_columns_are_the_product() -> None:
    """Every scenario in order, written down naively."""
    grid = parse_grid(PAPER_GRID | {"model": ["alexnet", "regnet_x_400mf"]})
    speeds = [("rpi3b+", 0.2e9), ("rpi4b", 3e9)] + [("phone", 1e9 * 0.1 * 10 ** (4 * k / 4)) for k in range(5)]
    links = [("3g", 1.19e6, math.nan)]
    links += [("0.01 to 100 Mb/s", 1e6 * 0.01 * 10 ** (4 * k / 3), math.nan) for k in range(4)]
    links += [
        ("5 to 10 MHz, 0 to 50 dB", mhz * 1e6 * math.log2(1 + 10 ** (snr / 10)), snr)
        for mhz in (5, 10)
        for snr in (0, 25, 50)
    ]
    models = [(0,), (1,)]
    expected = list(itertools.product(models, speeds, [("p100", 10.6e12)], links, [0.01, 0.02, 0.05]))
    assert len(grid) == len(expected) == 2 * 7 * 1 * 11 * 3
    columns = grid.columns(0, len(grid))
    weights = grid.weights(0, len(grid))
    for number, ((model,), (device, theta_d), (server, theta_s), (link, rate, snr), loss) in enumerate(expected):
        assert columns["scenario"][number] == number
        assert columns["model"][number] == model
        assert grid.device.labels[columns["device"][number]] == device
        assert grid.server.labels[columns["server"][number]] == server
        assert grid.link.labels[columns["link"][number]] == link
        assert columns["device_flops_per_s"][number] == pytest.approx(theta_d, rel=1e-12)
        assert columns["rate_bps"][number] == pytest.approx(rate, rel=1e-12)
        assert columns["snr_db"][number] == pytest.approx(snr, nan_ok=True)
        assert columns["max_loss"][number] == loss
        assert weights[number] == pytest.approx([1 / theta_d, 1 / theta_s, 1 / rate], rel=1e-12)


@settings(max_examples=50, deadline=None)
@given(
    sizes=st.tuples(*[st.integers(1, 4)] * 4),
    data=st.data(),
)
def test_any_range_is_a_slice_of_the_whole(sizes: tuple[int, ...], data: st.DataObject) -> None:
    devices, servers, links, losses = sizes
    grid = parse_grid(
        {
            "model": ["alexnet", "other"],
            "device": [{"gflops": [1 + k for k in range(devices)]}],
            "server": [{"gflops": [10 + k]} for k in range(servers)],
            "link": [{"rate_mbps": 1 + k} for k in range(links)],
            "max_loss": [k / 10 for k in range(losses)],
        }
    )
    start = data.draw(st.integers(0, len(grid)))
    stop = data.draw(st.integers(start, len(grid)))
    whole, part = grid.columns(0, len(grid)), grid.columns(start, stop)
    for name, values in part.items():
        np.testing.assert_array_equal(values, whole[name][start:stop])
    with pytest.raises(ValueError, match="do not lie within"):
        grid.columns(start, len(grid) + 1)


def test_a_huge_grid_costs_nothing() -> None:
    rates = {"logspace": [0.01, 100, 10_000]}
    grid = parse_grid(PAPER_GRID | {"device": [{"gflops": rates}], "link": [{"rate_mbps": rates}]})
    assert len(grid) == 3 * 10**8
    last = grid.columns(len(grid) - 2, len(grid))
    assert last["scenario"].tolist() == [3 * 10**8 - 2, 3 * 10**8 - 1]
    assert last["rate_bps"] == pytest.approx([100e6, 100e6])
    assert last["max_loss"].tolist() == [0.02, 0.05]


def test_a_grid_file(tmp_path: Path) -> None:
    file = tmp_path / "grid.yaml"
    file.write_text(yaml.safe_dump(PAPER_GRID | {"seed": 3, "cuts": "inner"}))
    grid = read_grid(file)
    assert (len(grid), grid.seed, grid.cuts) == (len(parse_grid(PAPER_GRID)), 3, "inner")
    assert json.loads(json.dumps(grid.document)) == PAPER_GRID | {"seed": 3, "cuts": "inner"}


def test_numbers_as_yaml_and_numpy_write_them(tmp_path: Path) -> None:
    (tmp_path / "phone.yaml").write_text("name: phone\ngflops: 1e2\n")  # YAML 1.1 reads 1e2 as text
    grid = parse_grid(
        PAPER_GRID | {"device": [tmp_path / "phone.yaml"], "link": [{"rate_mbps": np.array([1.0, 2.0])}], "max_loss": 0}
    )
    assert grid.columns(0, 2)["device_flops_per_s"].tolist() == [1e11, 1e11]
    assert grid.columns(0, 2)["rate_bps"].tolist() == [1e6, 2e6]
    assert grid.document["device"] == [{"name": "phone", "gflops": "1e2"}]
    json.dumps(grid.document)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"link": ["3g", "4g", {"rate_mbps": -1}]}, r"link[2].rate_mbps: -1 must be > 0"),
        ({"link": [{"rate_mbps": [1, 0]}]}, "link[0].rate_mbps: 0 must be > 0"),
        ({"link": [{"rate_mbps": math.nan}]}, "link[0].rate_mbps: nan must be a finite number"),
        (
            {"link": [{"rate_mbs": 1}]},
            "link[0].rate_mbs: unknown key; known: name, rate_mbps, bandwidth_mhz, snr_db, round_trip_ms, radio",
        ),
        (
            {"device": [{"gflops": 3, "radio": {}}]},
            "device[0].radio: unknown key; known: name, gflops, gflops_by_network, layer_seconds, network_seconds, "
            "held_out_error, measured, compute_w, radio_w, idle_w; radio is a key of links",
        ),
        (
            {"link": [{"rate_mbps": 3, "radio_w": 1}]},
            "link[0].radio_w: unknown key; known: name, rate_mbps, bandwidth_mhz, snr_db, round_trip_ms, radio; "
            "radio_w is a key of devices",
        ),
        ({"link": [{"rate_mbps": 1, "snr_db": 3}]}, "link[0]: needs either rate_mbps, or bandwidth_mhz and snr_db"),
        ({"link": ["6g"]}, "link[0]: '6g' is unknown; did you mean 5g or 4g or 3g?"),
        ({"link": []}, "link: must be a list with at least one entry"),
        ({"link": "3g"}, "link: must be a list with at least one entry"),
        (
            {"link": [5]},
            "link[0]: 5 must be a name or a mapping with the keys name, rate_mbps, bandwidth_mhz, snr_db, "
            "round_trip_ms, radio",
        ),
        (
            {"links": ["3g"]},
            "links: unknown key; known: model, device, server, link, max_loss, confidence, round_trip_ms, server_load, "
            "objective, cost_model, seed, cuts",
        ),
        ({"model": []}, "model: must be a list with at least one entry"),
        ({"model": ["alexnet", "alexnet"]}, "model: alexnet stands there twice; name every network once"),
        ({"model": [None]}, "model[0]: None must be a name"),
        ({"confidence": []}, "confidence: an empty list; give at least one probability, or null for none"),
        ({"confidence": [None, 95]}, "confidence: 95 must be in [0, 1); it is a probability, 0.95 for 95 %"),
        ({"confidence": [0.9, -0.1]}, "confidence: -0.1 must be in [0, 1); it is a probability, 0.95 for 95 %"),
        ({"confidence": "high"}, "confidence: 'high' must be a finite number"),
        ({"max_loss": []}, "max_loss: an empty list; give at least one number"),
        ({"max_loss": [0.01, 2]}, "max_loss: 2 must be in (-1, 1); it is a share of all images, 0.02 for 2 points"),
        ({"device": [{"name": "phone"}]}, "device[0]: needs either gflops, or gflops_by_network, or layer_seconds"),
        ({"device": [{"gflops": {"logspace": [0, 1, 3]}}]}, "device[0].gflops: logspace: 0 must be > 0"),
        (
            {"device": [{"gflops": {"linspace": [1, 3]}}]},
            "device[0].gflops: linspace: [1, 3] must be [first, last, count]",
        ),
        (
            {"device": [{"gflops": {"linspace": [1, 2, 0]}}]},
            "device[0].gflops: linspace: the count 0 must be a whole number from 1 to 10,000,000",
        ),
        ({"device": [{"gflops": "fast"}]}, "device[0].gflops: 'fast' must be a finite number"),
        ({"device": [{"gflops": True}]}, "device[0].gflops: True must be a finite number"),
        ({"device": [{"gflops": 1, "compute_w": -1}]}, "device[0].compute_w: -1 must be >= 0"),
        ({"device": [{"gflops": 10**400}]}, f"device[0].gflops: 1{'0' * 59}... must be a finite number"),
        ({"device": [{"gflops": 1e308}]}, "device[0].gflops: 1e+308 is a speed that no number holds in FLOP/s"),
        ({"server": [{"gflops": 1e-320}]}, "server[0].gflops: 9.99989e-321 is a speed that no number holds in FLOP/s"),
        ({"link": [{"rate_mbps": 1e308}]}, "link[0]: its rate in bit/s must be > 0 and finite"),
        ({"link": [{"rate_mbps": 1e-318}]}, "link[0]: its rate in bit/s must be > 0 and finite"),
        (
            {"link": [{key: {"linspace": [1, 2, 5000]} for key in ("bandwidth_mhz", "snr_db")}]},
            "link[0]: 25,000,000 pairs of bandwidth_mhz and snr_db; at most 10,000,000",
        ),
        ({"link": [{"bandwidth_mhz": 1e308, "snr_db": 1}]}, "link[0]: its rate in bit/s must be > 0 and finite"),
        (
            {"max_loss": {"linspace": [-1e308, 1e308, 3]}},
            "max_loss: linspace: -1e+308 and 1e+308 are too far apart",
        ),
        ({"seed": 2**63}, "seed: 9223372036854775808 must be below 9223372036854775808"),
        ({"seed": -1}, "seed: -1 must be at least 0"),
        ({"cuts": "none"}, "cuts: 'none' is unknown; known: all, inner"),
        ({"seed": 1.5}, "seed: 1.5 must be a whole number"),
        ({"cost_model": 3}, "cost_model: 3 is unknown; known: flops, layers, profile"),
        (
            {"link": [{"rate_mbps": 1, "radio": 3}]},
            "link[0].radio: must be a mapping with the keys base_w, w_per_mbps, up_to_mbps",
        ),
        (
            {"device": [{"gflops_by_network": {}}]},
            "device[0].gflops_by_network: must be a mapping with at least one entry",
        ),
        ({"device": [{"gflops": 1, "measured": 3}]}, "device[0].measured: must be a mapping"),
    ],
)
def test_a_bad_grid_is_one_line(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    file = tmp_path / "grid.yaml"
    file.write_text(yaml.safe_dump(PAPER_GRID | changes))
    with pytest.raises(InputError) as error:
        read_grid(file)
    assert str(error.value) == f"{file}: {message}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("model: [alexnet\n", "no valid YAML in line 2"),
        ("- 1", "must be a mapping with the keys model"),
        ("", "must be a mapping with the keys model"),
        ("a: \x00", "no valid YAML"),
        ("model: [alexnet]", "device: is missing"),
        ("a: 1\ndevice: [x]\n\ndevice: [y]\n", "in line 4: the key 'device' stands there twice, first in line 2"),
        ("link:\n- {rate_mbps: 1, rate_mbps: 2}\n", "in line 2: the key 'rate_mbps' stands there twice"),
        ("{1: a, '1': b}", "in line 1: the key '1' stands there twice"),
        ("a: 1\nmodel: &a\n- *a\n", "in line 2: this value holds itself"),
        ("&a {b: {c: *a}}", "in line 1: this value holds itself"),
        ("model:\n- !!int abc", "in line 2: 'abc' is no int"),
        ("model: 2020-99-99", "in line 1: '2020-99-99' is no timestamp"),
        ("seed: " + "9" * 5000, "in line 1: '9{60}...' is no int"),
        ("seed: " + "[" * 5000, "nested too deeply"),
        ("a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{f'*a{i - 1}, ' * 9}]\n" for i in range(1, 15)), "aliases make more"),
        ("model: !!python/object:os.system x", "no valid YAML in line 1: could not determine a constructor"),
    ],
)
def test_a_bad_file_is_one_line(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "grid.yaml"
    file.write_text(content)
    with pytest.raises(InputError, match=message) as error:
        read_grid(file)
    assert str(error.value).startswith(f"{file}: ")
    assert "\n" not in str(error.value)


def test_aliases_and_merged_keys_are_read(tmp_path: Path) -> None:
    file = tmp_path / "grid.yaml"
    text = "base: &base {gflops: 3, compute_w: 2}\nall: [*base, *base, {<<: *base, gflops: 5}]\nnone:\n"
    file.write_text(text)
    base = {"gflops": 3, "compute_w": 2}
    assert read_yaml(file) == {"base": base, "all": [base, base, {"gflops": 5, "compute_w": 2}], "none": None}


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_grid(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(InputError, match=r"cannot be read \(not text\)"):
        read_grid(tmp_path / "binary.yaml")


def test_the_import_is_light() -> None:
    code = (
        "import sys, coinfer_ray.scenarios.scenario; "
        "print([m for m in ('yaml', 'pydantic', 'numba') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
