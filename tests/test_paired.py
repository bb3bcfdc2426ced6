"""What a loss errs by: counted image by image, taken from the same machine's base network, and kept up to an answer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import coinfer_ray
from coinfer_ray.errors import InputError
from coinfer_ray.optimizer.problem import Problem, assemble
from coinfer_ray.predictor import obtain
from coinfer_ray.predictor.calibration import SELECTED
from coinfer_ray.predictor.fit import fit_predictor, floats_of, measured_of
from coinfer_ray.predictor.measured import Measured
from coinfer_ray.predictor.predictor import Predictor
from coinfer_ray.problem.strategy import FLOAT_BITS, Codec, Strategy
from coinfer_ray.records.choices import ChoiceTable, shipped_choices
from coinfer_ray.records.paired import paired_error
from coinfer_ray.records.store import Records, Split, read_records, shipped_parts
from coinfer_ray.refine.cases import drawn_cases
from coinfer_ray.refine.facts import Facts
from coinfer_ray.refine.moves import Neighbourhood
from tests.test_measured import scenarios_of

SPLITS: tuple[Split, ...] = ("validation", "test")
GRID: dict[str, Any] = {
    "model": ["alexnet"],
    "device": ["rpi3b+", "tk1"],
    "server": ["p100"],
    "link": [{"rate_mbps": [1.1, 18.88]}],
    "max_loss": [0.01, 0.02, 0.05],
    "confidence": [0.8, 0.95],
}


@pytest.fixture(scope="module")
def records() -> Records:
    return read_records(shipped_parts("alexnet"))


@pytest.fixture(scope="module")
def problem() -> Problem:
    return assemble("alexnet")


@given(st.integers(0, 300), st.integers(0, 300), st.integers(600, 20_000))
def test_the_error_is_that_of_the_images_own_differences(gained: int, lost: int, images: int) -> None:
    each = np.zeros(images)
    each[:gained], each[gained : gained + lost] = -1.0, 1.0
    assert paired_error(gained, lost, images) == pytest.approx(each.std() / np.sqrt(images), abs=1e-15)


def test_a_loss_is_counted_from_the_base_network_on_the_same_machine(records: Records) -> None:
    """One in ten was measured where the base network gets two images more: it lost two more, and that stays so."""
    rows = records.table.to_pylist()
    moved = [
        {**row, "base_validation_accuracy": row["base_validation_accuracy"] + 2 / 5000} if number % 10 == 5 else row
        for number, row in enumerate(rows)
    ]
    there = Records.of(moved, records.info, "moved")
    assert there.base_accuracy() == records.base_accuracy()
    lost_more = np.arange(len(rows)) % 10 == 5
    assert there.accuracy() == pytest.approx(records.accuracy() - lost_more * 2 / 5000)
    assert there.accuracy() == pytest.approx(there.base_accuracy() - there.losses()[0])
    measured = measured_of(there, "validation")
    assert (measured.accuracy * measured.trainings).sum() == pytest.approx(there.accuracy().sum())


def test_a_choice_loses_what_it_lost_on_its_machine() -> None:
    table = shipped_choices("alexnet")
    before = table.of("jalad")
    rows = table.table.to_pylist()
    moved = [{**row, "base_validation_accuracy": row["base_validation_accuracy"] - 3 / 5000} for row in rows[1:]]
    after = ChoiceTable(table.info, table.table.from_pylist([rows[0], *moved], table.table.schema), "moved")
    kept = rows[0]["method"] == "jalad"
    assert np.count_nonzero(np.isclose(after.of("jalad").loss, before.loss - 3 / 5000)) == len(before) - kept
    assert after.of("jalad").error == pytest.approx(before.error)


def test_choices_say_what_they_err_by() -> None:
    table = shipped_choices("alexnet")
    for method in table.methods:
        found = table.of(method, "test")
        assert (found.error > 0).all() and (found.error < 0.01).all()
        assert found.accuracy == pytest.approx(found.base_accuracy - found.loss)


def of_records(records: Records) -> dict[str, float]:
    """By strategy, with one cut for all of a network without a codec: the root mean square of its trainings' errors."""
    variances: dict[str, list[float]] = {}
    for strategy, error in zip(records.strategies, records.losses()[1], strict=True):
        variances.setdefault(_name(strategy), []).append(error**2)
    return {name: float(np.sqrt(np.mean(each))) for name, each in variances.items()}


def _name(strategy: Strategy) -> str:
    plain = strategy.codec == Codec() and strategy.feature_bits == FLOAT_BITS
    return repr(replace(strategy, partition_point=-1) if plain else strategy)


def test_a_measured_strategy_errs_by_its_own_images(records: Records, problem: Problem) -> None:
    expected = of_records(records)
    own = problem.measured
    for levels, error in zip(own.levels, own.error, strict=True):
        assert error == pytest.approx(expected[_name(problem.space.strategy(levels))])
    assert np.isnan(own.errors_of(problem.known_levels)).all()
    assert (own.errors_of(own.levels) == own.error).all() and own.error.max() > 2 * own.error.min()
    margin = SELECTED * NormalDist().inv_cdf(0.9) * own.error
    assert problem.measured_bound(0.9) == pytest.approx(own.accuracy - margin)


def test_one_answer_a_sweep_and_an_atlas_keep_the_strategy_s_own_margin(
    records: Records, problem: Problem, tmp_path: Path
) -> None:
    expected, seen = of_records(records), set()
    for solver in ("exact", "atlas"):
        out = tmp_path / solver
        coinfer_ray.sweep(GRID, out, solver=solver, columns="full", executor="local", quiet=True)
        for row in pq.ParquetDataset(next(out.glob("model=*"))).read().to_pylist():
            assert row["accuracy_bound"] >= row["accuracy_floor"] - 1e-12
            if row["accuracy_source"] == "measured":
                error = expected[_name(problem.space.strategy(np.array(row["strategy"])))]
                margin = SELECTED * NormalDist().inv_cdf(row["confidence"]) * error
                assert row["predicted_accuracy"] - row["accuracy_bound"] == pytest.approx(margin)
                seen.add(error)
    assert len(seen) > 2
    found = coinfer_ray.optimize("alexnet", "rpi3b+", "p100", rate_mbps=1.1, max_loss=0.02)
    assert found.accuracy_source == "measured" and found.typical_error == pytest.approx(expected[_name(found.strategy)])


def test_errors_travel_with_a_predictor_and_files_before_have_none(problem: Problem, tmp_path: Path) -> None:
    problem.predictor.save(tmp_path / "p.npz")
    measured = Predictor.load(tmp_path / "p.npz").measured
    assert (measured.error == problem.predictor.measured.error).all()
    arrays = measured.to_arrays()
    before = Measured.from_arrays({name: values for name, values in arrays.items() if name != "measured_error"})
    assert np.isnan(before.error).all() and before.fingerprint != measured.fingerprint
    assert before.fingerprint == replace(measured, error=np.full(len(measured), np.nan)).fingerprint
    old = replace(problem, fitted=replace(problem.predictor, measured=before))
    assert (old.measured.error == problem.predictor.calibration.usual_error).all()


@settings(deadline=None, max_examples=30)
@given(st.floats(0.015, 0.1), st.floats(0.6, 0.99))
def test_what_a_move_may_lose_leaves_room_for_its_error(loss: float, confidence: float) -> None:
    problem = assemble("alexnet")
    near = Neighbourhood(problem, scenarios_of(problem, drawn_cases(2, 1, (loss,))), confidence=confidence)
    factor, own = SELECTED * NormalDist().inv_cdf(confidence), problem.measured
    lost = problem.base_accuracy - own.accuracy
    for allowed in near.allowed:
        like = np.abs(lost - allowed).argsort()[:60]  # what really errs at such a loss
        usual = np.sqrt((own.error[like] ** 2).mean())
        assert (loss - allowed) / factor == pytest.approx(usual, rel=0.2)


def test_one_base_network_is_behind_a_predictor_and_all_that_it_measured() -> None:
    """What was trained through noise was measured where the base network gets other images right than the rest says."""
    everything = read_records("alexnet-64px.awgn.parquet")
    for split in SPLITS:
        bases = everything.table[f"base_{split}_accuracy"].to_pylist()
        assert len(set(bases)) == 2 and floats_of(everything).base_accuracy(split) != bases[0]
        predictor = fit_predictor(everything, regressor="linear_regression", accuracy=split)
        assert predictor.base_accuracy == everything.base_accuracy(split) == bases[0]
        lost = (predictor.base_accuracy - predictor.measured.accuracy) * predictor.measured.trainings
        assert lost.sum() == pytest.approx(everything.losses(split)[0].sum())


def test_facts_of_a_refinement_are_those_that_answers_rest_on(records: Records, problem: Problem) -> None:
    facts = Facts(problem, records, "validation")
    own = problem.measured
    seen = 0
    for fact in facts.facts:
        place = own.find(np.array([fact.levels]))[0]
        if fact.source == "records" and fact.trainings == own.trainings[place]:
            assert fact.accuracy == pytest.approx(own.accuracy[place])
            seen += 1
    assert seen > 100


def test_a_cached_fit_is_that_of_the_same_counts(records: Records) -> None:
    rows = records.table.to_pylist()
    counted = [{**row, "validation_gained": row["validation_gained"] + 9} for row in rows]
    names = {
        obtain._fingerprint(each, "linear_regression", "validation", 10)
        for each in (records, Records.of(rows, records.info, "same"), Records.of(counted, records.info, "other counts"))
    }
    assert len(names) == 2


def test_a_sweep_of_another_margin_is_not_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = {**GRID, "confidence": 0.9, "max_loss": 0.02}
    coinfer_ray.sweep(few, tmp_path / "out", executor="local", quiet=True)
    monkeypatch.setattr("coinfer_ray.optimizer.problem.SELECTED", 1.0)
    with pytest.raises(InputError, match=r"margin is 1\.75 there and 1\.0 here"):
        coinfer_ray.sweep(few, tmp_path / "out", executor="local", quiet=True)
