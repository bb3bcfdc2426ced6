"""The corners that a weighted sum of device FLOPs and uplink bits is least at."""

from __future__ import annotations

import numpy as np
import pytest

from coinfer_ray.training.compared.common import lower_envelope


def test_the_lower_envelope_is_that_of_all_weights() -> None:
    rng = np.random.default_rng(1)
    rows = [{"device_flop": x, "uplink_bit": y} for x, y in rng.integers(0, 50, (60, 2)).tolist()]
    corners = lower_envelope(rows)
    assert corners == sorted(corners, key=lambda row: row["device_flop"])
    for angle in np.linspace(0.01, np.pi / 2 - 0.01, 50):
        value = [np.cos(angle) * row["device_flop"] + np.sin(angle) * row["uplink_bit"] for row in rows]
        own = [np.cos(angle) * row["device_flop"] + np.sin(angle) * row["uplink_bit"] for row in corners]
        assert min(own) == pytest.approx(min(value))
