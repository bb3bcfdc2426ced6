"""The sampling plan: extendable, covering, canonical."""

from __future__ import annotations

import numpy as np
from coinfer_kernels import canonicalize

from coinfer_ray.models.layers import load_graph
from coinfer_ray.space import SearchSpace
from coinfer_ray.training.plan import plan_levels, plan_snr_db

SPACE = SearchSpace(load_graph("alexnet", 64))


def test_a_longer_plan_begins_with_the_shorter_one() -> None:
    assert np.array_equal(plan_levels(SPACE, 300, 5)[:37], plan_levels(SPACE, 37, 5))
    assert np.array_equal(plan_snr_db(200, 0, 50, 5)[:33], plan_snr_db(33, 0, 50, 5))
    assert not np.array_equal(plan_levels(SPACE, 37, 5), plan_levels(SPACE, 37, 6))


def test_every_cut_and_the_neighbourhood_of_the_identity_are_covered() -> None:
    levels = plan_levels(SPACE, 300, 0)
    cuts = np.bincount(levels[:, SPACE.cut_variable], minlength=22)
    assert cuts.min() >= 8
    sparsity = np.array([list(SPACE.strategy(row).sparsity.values()) for row in levels]).mean(axis=1)
    assert (sparsity < 0.1).mean() > 0.15
    assert (sparsity > 0.4).mean() > 0.05


def test_plans_are_canonical_and_within_bounds() -> None:
    levels = plan_levels(SPACE, 300, 0)
    assert np.array_equal(levels, canonicalize(SPACE.tables, levels))
    assert (levels >= 0).all()
    assert (levels < SPACE.tables.n_levels).all()


def test_snr_covers_its_range() -> None:
    snr = plan_snr_db(128, 0, 50, 0)
    assert snr.min() < 1
    assert snr.max() > 49
    assert np.histogram(snr, 8, (0, 50))[0].min() >= 14
