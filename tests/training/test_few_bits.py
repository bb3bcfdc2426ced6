"""The proposed method at 8 bits: which strategies are trained, and what a training leaves."""

from __future__ import annotations

import numpy as np
import pytest

from coinfer_ray.models.library import load_graph
from coinfer_ray.problem.strategy import Strategy
from coinfer_ray.records.store import read_records, shipped_records
from coinfer_ray.training.compared.common import lower_envelope
from coinfer_ray.training.compared.few_bits import LOSSES, FewBits


@pytest.mark.parametrize("model", ["alexnet", "regnet_x_400mf"])
def test_the_plan_has_the_best_measured_strategy_of_every_scenario(model: str) -> None:
    graph = load_graph(model, 64)
    planned = [Strategy.from_json(each["strategy"]) for each in FewBits().plan(graph)]
    records = read_records(shipped_records(model))
    inner = np.array([0 < each.partition_point < len(graph.layers) for each in records.strategies])
    costs, lost = records.costs(), records.base_accuracy() - records.accuracy()
    rng = np.random.default_rng(0)
    for device, bit in zip(10 ** rng.uniform(-12, -6, 200), 10 ** rng.uniform(-9, -4, 200), strict=True):
        for most in LOSSES:
            seconds = np.where(inner & (lost <= most), costs[:, 0] * device + costs[:, 2] * bit, np.inf)
            best = records.strategies[int(seconds.argmin())]
            assert best in planned or seconds.min() == pytest.approx(
                min(s for s, each in zip(seconds, records.strategies, strict=True) if each in planned)
            )


def test_the_lower_envelope_is_that_of_all_weights() -> None:
    rng = np.random.default_rng(1)
    rows = [{"device_flop": x, "uplink_bit": y} for x, y in rng.integers(0, 50, (60, 2)).tolist()]
    corners = lower_envelope(rows)
    assert corners == sorted(corners, key=lambda row: row["device_flop"])
    for angle in np.linspace(0.01, np.pi / 2 - 0.01, 50):
        value = [np.cos(angle) * row["device_flop"] + np.sin(angle) * row["uplink_bit"] for row in rows]
        own = [np.cos(angle) * row["device_flop"] + np.sin(angle) * row["uplink_bit"] for row in corners]
        assert min(own) == pytest.approx(min(value))
