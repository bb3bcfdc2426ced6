"""What the teacher sees of a strategy, and what its student learns of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coinfer_ray.models.library import load_graph
from coinfer_ray.predictor import gaussian_process
from coinfer_ray.predictor.distillation import Aggregates
from coinfer_ray.predictor.regressors import DISTILLED, MONOTONE, SNR_FEATURE, build_regressor, directions
from coinfer_ray.problem.sampling import plan_levels
from coinfer_ray.problem.space import SearchSpace
from coinfer_ray.problem.strategy import Codec, Strategy

SPACES = {name: SearchSpace(load_graph(name, 64)) for name in ("alexnet", "regnet_x_400mf")}


def drawn(space: SearchSpace, count: int, seed: int) -> tuple[list[Strategy], np.ndarray]:
    strategies = [space.strategy(row) for row in plan_levels(space, count, seed)]
    return strategies, np.array([space.values(strategy) for strategy in strategies])


def in_plain_python(space: SearchSpace, strategy: Strategy) -> list[float]:
    """The aggregates but the FLOPs, the bits and the places, one set and one stage after the other."""
    logs: dict[int, float] = {}
    for prunable in space.graph.prunable_sets:
        logs[prunable.channels] = logs.get(prunable.channels, 0.0) + math.log(1 - strategy.sparsity[prunable.name])
    codec, point = space.canonical_codec(strategy), strategy.partition_point
    kept = float(space.graph.input_shape[0])
    if point:
        layer = space.graph.layers[point - 1]
        kept = float(layer.out_channels)
        if layer.out_set is not None:
            kept = space.graph.set_named(layer.out_set).channels * (1 - strategy.sparsity[layer.out_set])
            if space.cut_kind(point) == "vector":
                kept *= layer.out_channels / space.graph.set_named(layer.out_set).channels
    shares = [math.log(1 - ratio) for ratio in strategy.sparsity.values()]
    first, second = (codec.ratio_1, codec.kernel_1, codec.stride_1), (codec.ratio_2, codec.kernel_2, codec.stride_2)
    stages = sum(stage != (1.0, 1, 1) for stage in (first, second)) + sum(
        w != 1 for w in (codec.width_1, codec.width_2)
    )
    narrower = codec.ratio_1 * codec.ratio_2 * codec.width_1 * codec.width_2
    tied = [prunable.name for prunable in space.graph.prunable_sets if prunable.unit == 1 and len(prunable.layers) > 1]
    assert len(tied) == {"alexnet": 0, "regnet_x_400mf": 4}[space.graph.model]  # one a stage of RegNetX
    in_tied = sum(math.log(1 - strategy.sparsity[name]) for name in tied)
    pruned = [min(shares), sum(shares), *(logs[channels] for channels in sorted(logs)), in_tied]
    seen = 1.0
    for _, kernel, stride in (first, second):
        seen *= min(kernel, stride) ** 2 / stride**2
    code = math.log(narrower / (codec.stride_1 * codec.stride_2) ** 2)
    return [*pruned, stages, math.log(kept * narrower), code, math.log(seen)]


@pytest.mark.parametrize("model", SPACES)
def test_aggregates_are_those_of_plain_python(model: str) -> None:
    space = SPACES[model]
    strategies, x = drawn(space, 200, seed=3)
    found = Aggregates(space)(x)
    assert found.shape[1] == len(Aggregates(space).directions)
    for strategy, row in zip(strategies, found, strict=True):
        np.testing.assert_allclose(
            row[[*range(len(row) - 8), -7, -4, -2, -1]], in_plain_python(space, strategy), atol=1e-9
        )


@pytest.mark.parametrize("model", SPACES)
def test_bits_are_channels_times_places(model: str) -> None:
    space = SPACES[model]
    for point in space.graph.cut_points[1:-1]:
        none = {prunable.name: 0.0 for prunable in space.graph.prunable_sets}
        strategy = Strategy(none, point)
        bits, channels, places = Aggregates(space)(space.values(strategy)[None])[0, -5:-2]
        layer = space.graph.layers[point - 1]
        assert math.exp(bits) == pytest.approx(32 * layer.out_channels * layer.out_height * layer.out_width)
        assert math.exp(channels + places) == pytest.approx(math.exp(bits) / 32)


def test_the_codecs_flops_are_those_of_its_stages() -> None:
    space = SPACES["alexnet"]
    none = {prunable.name: 0.0 for prunable in space.graph.prunable_sets}
    codec = Codec(width_1=0.5, width_2=0.25)  # behind fc1: 4,096 values to 2,048 to 512 and back
    point = next(layer.index for layer in space.graph.layers if layer.out_set == "fc1")
    x = np.array([space.values(Strategy(none, point)), space.values(Strategy(none, point, codec))])
    without, flops = np.expm1(Aggregates(space)(x)[:, -6])
    assert without == 0
    assert flops == pytest.approx(2 * 2 * (4096 * 2048 + 2048 * 512), rel=0.01)


@given(st.sampled_from(sorted(SPACES)), st.integers(0, 2**31))
def test_pruning_more_never_raises_a_sum(model: str, seed: int) -> None:
    space = SPACES[model]
    _, x = drawn(space, 4, seed)
    more = x.copy()
    more[:, : space.sets] += np.random.default_rng(seed).random((4, space.sets)) * (0.999 - x[:, : space.sets])
    aggregates = Aggregates(space)
    rising = np.flatnonzero(aggregates.directions)
    assert (aggregates(more)[:, rising] <= aggregates(x)[:, rising] + 1e-12).all()


def test_the_student_learns_a_sum_better_than_trees_alone() -> None:
    space = SPACES["regnet_x_400mf"]
    _, x = drawn(space, 400, seed=0)
    kept = np.log1p(-x[:, : space.sets]).sum(axis=1)
    y = 0.7 / (1 + np.exp(-(kept + 8))) + np.random.default_rng(0).normal(0, 0.02, 400)
    known = np.arange(400) < 200
    errors = {}
    for name in (MONOTONE, DISTILLED):
        fitted = build_regressor(name, 0, space).fit(x[known], y[known])
        errors[name] = float(np.mean((fitted.predict(x[~known]) - y[~known]) ** 2))
    assert errors[DISTILLED] < 0.7 * errors[MONOTONE]


def test_the_student_hears_the_noise_of_the_channel() -> None:
    space = SPACES["alexnet"]
    _, x = drawn(space, 200, seed=0)
    snr_db = np.random.default_rng(0).uniform(0, 50, 200)
    noisy = np.column_stack([x, snr_db])
    fitted = build_regressor(DISTILLED, 0, space, noisy=True).fit(noisy, 0.8 - 0.5 * np.exp(-snr_db / 10))
    assert directions([SNR_FEATURE]) == [1]
    quiet, loud = (fitted.predict(np.column_stack([x, np.full(200, level)])) for level in (40.0, 3.0))
    np.testing.assert_allclose(quiet - loud, 0.5 * (math.exp(-0.3) - math.exp(-4)), rtol=0.25)


def test_a_teacher_of_many_records_sees_a_share_of_them_the_same_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gaussian_process, "MAX_RECORDS", 60)
    space = SPACES["alexnet"]
    _, x = drawn(space, 200, seed=0)
    y = 0.8 + 0.1 * np.log1p(-x[:, : space.sets]).sum(axis=1).clip(-6)
    one, other = (build_regressor(DISTILLED, 0, space).fit(x, y).predict(x) for _ in range(2))
    np.testing.assert_array_equal(one, other)
    assert np.mean((one - y) ** 2) < 0.1 * y.var()
