"""Records whose accuracies follow a known function, for tests that need a predictor but no training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from coinfer_kernels import canonicalize

from coinfer_ray.models.library import load_graph, ships
from coinfer_ray.optimizer.problem import Problem
from coinfer_ray.predictor.measured import Measured
from coinfer_ray.predictor.predictor import Predictor
from coinfer_ray.problem.costs import DelayCalculator
from coinfer_ray.problem.space import SearchSpace
from coinfer_ray.records.store import RecordsInfo, write_records

BASE_VALIDATION, BASE_TEST = 0.84, 0.83
SETTINGS: dict[str, Any] = {"data": "made up", "fine_tune_images": 0, "end_to_end_images": 0, "channel": "noise-free"}


def trusted(predictor: Predictor) -> Predictor:
    """``predictor``, its scores taken for those of answers, so that answers with a confidence rest on predictions."""
    return replace(predictor, calibration=replace(predictor.calibration, rests_on="answers"))


def true_accuracy(space: SearchSpace, values: np.ndarray, snr_db: np.ndarray | None = None) -> np.ndarray:
    """Accuracies (n,) for predictor features ``values`` (n, V): each ratio and each codec stage costs a little."""
    sparsity, codec = values[:, : space.sets], values[:, space.codec_variable :]
    weights = np.linspace(0.03, 0.12, space.sets)
    loss = (sparsity**2 * weights).sum(axis=1)
    loss += 0.03 * (1 - codec[:, 0]) ** 2 + 0.05 * (1 - codec[:, 3]) ** 2 + 0.01 * (codec[:, 2] - 1)
    loss += 0.04 * (1 - codec[:, 6]) ** 3 + 0.04 * (1 - codec[:, 7]) ** 3
    if snr_db is not None:
        loss += 0.3 * np.exp(-snr_db / 8)
    return BASE_VALIDATION + 0.002 - loss


def beyond_reach(problem: Problem, base_accuracy: float = 0.9) -> Problem:
    """``problem`` at inner cuts with 8 bits a value alone, none of them measured, and a base network that is better
    than anything predicted: nothing is known to keep a small bound."""
    space = SearchSpace(problem.graph, cuts="inner", feature_bits=(8,))
    fitted = replace(problem.predictor, base_accuracy=base_accuracy)
    return replace(problem, space=space, delay=DelayCalculator(space), fitted=fitted)


def nothing_measured(variables: int) -> Measured:
    """No measured strategies, of so many variables."""
    numbers, whole = np.empty(0), np.empty(0, dtype=np.int64)
    return Measured(np.empty((0, variables)), numbers, whole, whole, numbers, numbers, numbers)


def write_synthetic_records(
    path: Path,
    *,
    model: str = "alexnet",
    input_px: int = 64,
    count: int = 120,
    repeats: int = 1,
    noisy: bool = False,
    seed: int = 0,
    settings: Mapping[str, Any] = SETTINGS,
) -> Path:
    """Write ``repeats`` records of each of ``count`` strategies, half of them pruned little.

    The noise of an accuracy is 0.2 points, another for each repeat.
    """
    rng = np.random.default_rng(seed)
    graph = load_graph(model, input_px)
    space = SearchSpace(graph)
    cube = rng.random((count, len(space.variables)))
    cube[: count // 2, : space.sets] *= 0.3
    levels = canonicalize(space.tables, (cube * space.tables.n_levels).astype(np.int64))
    strategies = [space.strategy(row) for row in levels]
    snr_db = rng.uniform(0, 50, count) if noisy else None
    values = np.array([space.values(strategy) for strategy in strategies])
    accuracy = true_accuracy(space, values, snr_db) + rng.normal(0, 0.002, (repeats, count))
    costs = DelayCalculator(space).costs(levels)
    versions = {"coinfer-ray": "test"}
    info = RecordsInfo(model, input_px, space_sets(space), settings, versions, None if ships(graph) else graph)
    rows = [
        {
            "candidate": row,
            "status": "ok",
            "sparsity": list(strategy.sparsity.values()),
            "partition_point": strategy.partition_point,
            "codec": list(strategy.codec.values()),
            "snr_db": None if snr_db is None else float(snr_db[row]),
            "base_validation_accuracy": BASE_VALIDATION,
            "base_test_accuracy": BASE_TEST,
            "validation_accuracy": float(accuracy[repeat, row]),
            "test_accuracy": float(accuracy[repeat, row]) - 0.01,
            "device_flop": costs[row, 0],
            "server_flop": costs[row, 1],
            "uplink_bit": costs[row, 2],
            "fine_tune_images": 0,
            "end_to_end_images": 0,
            "seed": seed * repeats + repeat,
            "wall_s": 1.0,
        }
        for repeat in range(repeats)
        for row, strategy in enumerate(strategies)
    ]
    write_records(path, rows, info)
    return path


def space_sets(space: SearchSpace) -> tuple[str, ...]:
    return tuple(prunable.name for prunable in space.graph.prunable_sets)
