"""The sampling plan: extendable, covering, canonical."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from coinfer_kernels import canonicalize, features

from coinfer_ray.errors import InputError
from coinfer_ray.models.library import load_graph
from coinfer_ray.predictor.fit import fit_predictor
from coinfer_ray.problem.sampling import plan_levels, plan_snr_db
from coinfer_ray.problem.space import SearchSpace
from coinfer_ray.records.store import read_records
from coinfer_ray.training.near import MAX_LOOKED_AT, near_candidates
from tests.synthetic import BASE_VALIDATION, write_synthetic_records

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


@pytest.mark.parametrize("noisy", [False, True])
def test_candidates_near_the_base_network_are_the_plans_first_that_are_predicted_to_be(
    tmp_path: Path, noisy: bool
) -> None:
    known = read_records(write_synthetic_records(tmp_path / "known.parquet", count=60, noisy=noisy))
    snr_db = (0.0, 50.0) if noisy else None
    found = near_candidates(SPACE, known, 0.03, 40, snr_db, 5)
    levels = plan_levels(SPACE, found[-1] + 1, 5)
    snr = plan_snr_db(found[-1] + 1, *snr_db, 5) if snr_db else None
    predicted = fit_predictor(known).predict(features(SPACE.tables, levels, snr))
    near = [number for number in np.flatnonzero(predicted >= BASE_VALIDATION - 0.03) if number > 60]
    assert found == near  # the records are candidates 0 to 59, and 60 is left out so that a gap follows
    assert near_candidates(SPACE, known, 0.03, 7, snr_db, 5) == found[:7]


def test_the_choice_stays_when_the_chosen_have_joined_the_records(tmp_path: Path) -> None:
    known = read_records(write_synthetic_records(tmp_path / "known.parquet", count=60))
    found = near_candidates(SPACE, known, 0.03, 12, None, 5)
    rows = known.table.take([*range(60), *range(12)])
    numbers = pa.array([*range(60), *found], rows.schema.field("candidate").type)
    joined = replace(known, table=rows.set_column(0, "candidate", numbers))
    assert near_candidates(SPACE, joined, 0.03, 12, None, 5) == found

    without = known.table["candidate"].to_numpy() != 7
    failed = replace(known, table=known.table.filter(without), failed=1)
    assert min(near_candidates(SPACE, failed, 0.03, 12, None, 5)) > 60
    cut_off = replace(known, table=known.table.filter(known.table["candidate"].to_numpy() > 0))
    with pytest.raises(InputError, match=r"known: .* lacks the plan's first candidates"):
        near_candidates(SPACE, cut_off, 0.03, 12, None, 5)


def test_too_few_candidates_near_the_base_network_are_said(tmp_path: Path) -> None:
    known = read_records(write_synthetic_records(tmp_path / "known.parquet", count=60))
    with pytest.raises(InputError, match=r"near: only \d+ of the plan's first 65,536 candidates are predicted to lose"):
        near_candidates(SPACE, known, 0.03, MAX_LOOKED_AT, None, 5)
    place = known.table.column_names.index("validation_accuracy")
    far = replace(known, table=known.table.set_column(place, "validation_accuracy", known.table["test_accuracy"]))
    assert far.accuracy().max() < BASE_VALIDATION
    with pytest.raises(InputError, match="near: only 0 of"):
        near_candidates(SPACE, far, float("nan"), 1, None, 5)
