"""The device's energy as the objective: by hand, by enumeration, and only where powers are known."""

from __future__ import annotations

from typing import Any

import pytest

import coinfer_ray
from coinfer_ray.errors import InputError
from coinfer_ray.methods.compare import compare
from coinfer_ray.models.library import load_graph
from coinfer_ray.predictor.predictor import Predictor
from coinfer_ray.scenarios.presets import PRESETS
from coinfer_ray.scenarios.read import link_of, resolve
from coinfer_ray.scenarios.scenario import Device, Link, RadioPower, Scenario, Server
from tests.synthetic import trusted

LTE = RadioPower(base_w=1.28804, w_per_mbps=0.43839, up_to_mbps=6)


def test_a_radio_draws_more_the_faster_it_sends() -> None:
    assert LTE.at(0) == pytest.approx(1.28804)
    assert LTE.at(5e6) == pytest.approx(1.28804 + 5 * 0.43839)
    with pytest.raises(
        InputError, match=r"link: the radio's power is known up to 6 Mb/s, and this link has 11.22; give"
    ):
        LTE.at(11.22e6)


def test_weights_are_watts_times_seconds() -> None:
    device = Device("phone", 5e9, compute_w=3, idle_w=0.5)
    link = Link("lte", 4e6, round_trip_s=0.05, radio=LTE)
    watts = 1.28804 + 4 * 0.43839
    expected = (3 / 5e9, 0.5 / 1e12, watts / 4e6, 0.5 * 0.051)
    assert Scenario(device, Server("s", 1e12, 0.001), link).weights("energy") == pytest.approx(expected, rel=1e-12)
    own = Device("phone", 5e9, compute_w=3, radio_w=2, idle_w=0.5)  # the device's own word goes before the link's
    assert Scenario(own, Server("s", 1e12), link).weights("energy")[2] == pytest.approx(2 / 4e6)


def test_presets_have_powers_with_sources() -> None:
    for preset in PRESETS:
        powers = preset.compute_w is not None or preset.radio is not None
        assert powers == bool(preset.power_source)
    scenario = resolve(network="alexnet", device="rpi4b-ncnn", server="v100-ncnn", link="4g-typical")
    seconds, joules = scenario.weights(), scenario.weights("energy")
    watts = [joule / second for joule, second in zip(joules, seconds, strict=True)]
    assert watts == pytest.approx([6.4, 2.7, 1.28804 + 5.85 * 0.43839, 2.7])


def test_what_is_not_known_is_refused() -> None:
    with pytest.raises(InputError, match="the powers of tk1 are not known"):
        resolve(device="tk1", server="p100", link="4g-typical").weights("energy")
    with pytest.raises(InputError, match="the powers of rpi4b-ncnn are not known"):
        resolve(network="alexnet", device="rpi4b-ncnn", server="p100", link="4g").weights("energy")
    with pytest.raises(InputError, match=r"known up to 6 Mb/s, and this link has 18\.88"):
        resolve(network="alexnet", device="rpi4b-ncnn", server="p100", link="wifi-typical").weights("energy")
    with pytest.raises(InputError, match=r"link: radio\.base_w: is missing"):
        link_of({"rate_mbps": 1, "radio": {"w_per_mbps": 1, "up_to_mbps": 2}})


def test_answers_are_the_least_energy(synthetic_predictor: Predictor) -> None:
    shared: dict[str, Any] = {"device": "rpi4b-ncnn", "server": "v100-ncnn", "link": "4g-typical", "max_loss": 0.05}
    shared |= {"records": trusted(synthetic_predictor), "confidence": None, "objective": "energy"}
    answer = coinfer_ray.optimize("alexnet", **shared)
    radio = 1.28804 + 5.85 * 0.43839
    waiting = 2.7 * (answer.server_s + answer.crossing_s)
    assert answer.energy_j == pytest.approx(6.4 * answer.device_s + radio * answer.uplink_s + waiting, rel=1e-12)
    names = ("all_local", "all_server", "neurosurgeon", "prune_partition", "coinfer")
    rows = {row["method"]: row for row in compare("alexnet", methods=names, **shared)}
    assert answer.energy_j == pytest.approx(rows["coinfer"]["energy_j"], rel=1e-12)
    assert answer.energy_j <= min(row["energy_j"] for row in rows.values()) * (1 + 1e-3)
    scenario = resolve(network="alexnet", device="rpi4b-ncnn", server="v100-ncnn", link="4g-typical")
    device, server, bit, crossing = scenario.weights("energy")
    graph, each = load_graph("alexnet", 64), []
    for point in graph.cut_points:
        here, there = (sum(layer.flops for layer in part) for part in (graph.layers[:point], graph.layers[point:]))
        sent = graph.input_elements if point == 0 else graph.layers[point - 1].output_elements
        over = 32 * sent * bit + crossing if point < len(graph.layers) else 0.0
        each.append(here * device + there * server + over)
    assert rows["neurosurgeon"]["energy_j"] == pytest.approx(min(each), rel=1e-12)
    assert rows["all_local"]["energy_j"] == pytest.approx(each[-1], rel=1e-12)
