"""Optuna's own conformance suite for samplers, run against ours.

Left out is its class for samplers of several objectives, which contradicts the one for samplers of a single one.
"""

import pytest

pytest_samplers = pytest.importorskip("optuna.testing.pytest_samplers")

from coinfer_ray.adapters.optuna import QuantumSampler  # noqa: E402


class TestQuantumSampler(
    pytest_samplers.BasicSamplerTestCase,
    pytest_samplers.RelativeSamplerTestCase,
    pytest_samplers.SingleOnlySamplerTestCase,
):
    @pytest.fixture
    def sampler(self):
        return QuantumSampler
