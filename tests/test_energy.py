"""The device's energy as the objective: by hand, by enumeration, and only where powers are known."""

from __future__ import annotations

from collections.abc import Callable
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


PRICED: dict[str, Any] = {"device": "rpi4b-ncnn", "server": "v100-ncnn", "link": "4g-typical", "max_loss": 0.05}


@pytest.mark.parametrize("confidence", [None, 0.9])
def test_weighted_is_seconds_and_the_price_of_joules(synthetic_predictor: Predictor, confidence: float | None) -> None:
    asked: dict[str, Any] = {**PRICED, "records": trusted(synthetic_predictor), "confidence": confidence}
    fast = coinfer_ray.optimize("alexnet", **asked)
    lean = coinfer_ray.optimize("alexnet", **asked, objective="energy")
    scenario = resolve(network="alexnet", **PRICED)
    before = None
    for price in (1e-6, 0.1, 1.0, 10.0, 1e6):
        found = coinfer_ray.optimize("alexnet", **asked, objective="weighted", seconds_per_joule=price)
        assert found.energy_j is not None
        assert found.weighted_s == pytest.approx(found.latency_s + price * found.energy_j, rel=1e-9)
        for other in (fast, lean):  # both are among what it may choose
            watts = [j / s for j, s in zip(scenario.weights("energy"), scenario.weights(), strict=True)]
            spent = (other.device_s, other.server_s, other.uplink_s, other.crossing_s)
            joules = sum(watt * second for watt, second in zip(watts, spent, strict=True))
            assert found.weighted_s <= (other.latency_s + price * joules) * (1 + 1.1e-3)
        if before is not None:  # the dearer energy is, the less of it
            assert found.energy_j <= before * (1 + 1.1e-3)
        before = found.energy_j
        assert found.lower_bound_s is None
        assert found.to_json()["weighted_s"] == found.weighted_s
    assert lean.energy_j is not None
    assert before == pytest.approx(lean.energy_j, rel=1.1e-3)
    assert "weighted_s" not in fast.to_json()


def test_rows_by_the_weighted_objective_are_the_least_of_an_enumeration() -> None:
    scenario = resolve(network="alexnet", **PRICED)
    graph = load_graph("alexnet", 64)
    names = ("all_local", "all_server", "neurosurgeon")
    for price in (0.01, 0.3, 5.0):
        asked: dict[str, Any] = {**PRICED, "objective": "weighted", "seconds_per_joule": price, "methods": names}
        rows = {row["method"]: row for row in compare("alexnet", **asked)}
        weights = [s + price * j for s, j in zip(scenario.weights(), scenario.weights("energy"), strict=True)]
        every = []
        for point in graph.cut_points:
            flops = [sum(layer.flops for layer in part) for part in (graph.layers[:point], graph.layers[point:])]
            sent = graph.input_elements if point == 0 else graph.layers[point - 1].output_elements
            crosses = point < len(graph.layers)
            bits = 32 * sent if crosses else 0
            every.append(weights[0] * flops[0] + weights[1] * flops[1] + weights[2] * bits + weights[3] * crosses)
        assert rows["neurosurgeon"]["weighted_s"] == pytest.approx(min(every), rel=1e-12)
        assert rows["all_server"]["weighted_s"] == pytest.approx(every[0], rel=1e-12)
        assert rows["all_local"]["weighted_s"] == pytest.approx(every[-1], rel=1e-12)
        for row in rows.values():
            assert row["weighted_s"] == pytest.approx(row["latency_s"] + price * row["energy_j"], rel=1e-12)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"objective": "weighted"}, "objective: weighted is seconds and a price for energy; give the price by --sec"),
        ({"objective": "weighted", "seconds_per_joule": 0.0}, "seconds per joule: 0 must be above 0, and finite"),
        ({"objective": "weighted", "seconds_per_joule": float("nan")}, "seconds per joule: nan must be above 0"),
        ({"objective": "energy", "seconds_per_joule": 1.0}, "weighted objective, and energy was asked for"),
        ({"seconds_per_joule": 1.0}, "weighted objective, and latency was asked for; give --objective weighted"),
        ({"objective": "weighted", "seconds_per_joule": 1.0, "device": "tk1"}, "the powers of tk1 are not known"),
    ],
)
@pytest.mark.parametrize("ask", [coinfer_ray.optimize, compare])
def test_a_price_that_is_missing_or_means_nothing_is_refused(
    ask: Callable[..., Any], given: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        ask("alexnet", **{**PRICED, **given})


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
    with pytest.raises(InputError, match="what sending draws is known neither of rpi4b-ncnn nor of"):
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
