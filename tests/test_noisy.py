"""Strategies that were measured through noise: where they hold, and which are worth training there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from coinfer_kernels import Scenarios
from hypothesis import given, settings
from hypothesis import strategies as st

from coinfer_ray.atlas.atlas import Ranges, solve_by_atlas
from coinfer_ray.atlas.build import build
from coinfer_ray.methods.registry import METHODS
from coinfer_ray.optimizer.optimize import answer
from coinfer_ray.optimizer.pareto import front
from coinfer_ray.optimizer.problem import Problem, assemble
from coinfer_ray.optimizer.solve import solve
from coinfer_ray.predictor.calibration import SELECTED
from coinfer_ray.predictor.measured import Measured
from coinfer_ray.problem.costs import objective
from coinfer_ray.records.store import read_records
from coinfer_ray.refine.cases import Case
from coinfer_ray.refine.facts import Facts
from coinfer_ray.refine.noisy import next_noisy
from coinfer_ray.scenarios.batch import ScenarioBatch
from coinfer_ray.scenarios.read import parse_grid, resolve
from coinfer_ray.sweeps.sweep import sweep
from tests.synthetic import write_synthetic_records

LADDER = (0.0, 10.0, 20.0, 30.0)
MOST_LEVELS = 20  # by which a set is pruned here


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Problem:
    path = write_synthetic_records(tmp_path_factory.mktemp("records") / "noisy.parquet", noisy=True)
    return assemble("alexnet", records=path, regressor="monotone_boosting")


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Problem:
    path = write_synthetic_records(tmp_path_factory.mktemp("records") / "r.parquet", count=60)
    return assemble("alexnet", records=path, regressor="monotone_boosting", feature_bits=32)


def strategy_at(problem: Problem, cut: int, pruned: int, coded: bool) -> np.ndarray:
    """Levels of a strategy: every set pruned by so many levels, with the least codec or with none."""
    space = problem.space
    levels = space.tables.canonical.copy()
    levels[: space.sets] = pruned
    levels[space.cut_variable] = cut
    levels[space.codec_variable] = int(coded)
    return levels


def with_facts(problem: Problem, facts: list[tuple[np.ndarray, float, float]]) -> Problem:
    """The problem with measured strategies (levels, ratio in dB, accuracy) and no others."""
    levels = np.array([each[0] for each in facts])
    values = problem.space.tables.values[np.arange(levels.shape[1]), levels]
    accuracy, ratios = np.array([each[2] for each in facts]), np.array([each[1] for each in facts])
    ones = np.ones(len(facts), dtype=np.int64)
    measured = Measured(values, accuracy, ones, 32 * ones, np.full(len(facts), np.nan), ratios, errors_of(facts))
    return replace(problem, fitted=replace(problem.predictor, measured=measured))


def errors_of(facts: list[tuple[np.ndarray, float, float]]) -> np.ndarray:
    """Each its own."""
    return np.linspace(0.002, 0.006, len(facts))


def some_facts(problem: Problem) -> list[tuple[np.ndarray, float, float]]:
    """A codec at three ratios, a pruned network without one, and another codec."""
    base = problem.base_accuracy
    coded, whole, other = (strategy_at(problem, *how) for how in ((4, 6, True), (12, 8, False), (7, 9, True)))
    return [
        (coded, 10.0, base - 0.04),
        (coded, 30.0, base - 0.005),
        (coded, 20.0, base - 0.015),
        (coded, 25.0, base - 0.02),  # less lucky than at 20 dB, whose network may be shipped as well
        (whole, np.nan, base - 0.01),
        (other, 20.0, base - 0.012),
    ]


def test_a_measurement_holds_at_its_ratio_and_above_and_the_best_counts(noisy: Problem) -> None:
    problem = with_facts(noisy, some_facts(noisy))
    coded, other, base = some_facts(noisy)[0][0], some_facts(noisy)[-1][0], noisy.base_accuracy
    cuts = len(problem.space.cut_bits)
    for snr_db, of_coded, of_other in (
        (-5.0, None, None),
        (9.9, None, None),
        (10.0, 0.04, None),
        (19.9, 0.04, None),
        (20.0, 0.015, 0.012),
        (29.0, 0.015, 0.012),
        (30.0, 0.005, 0.012),
        (80.0, 0.005, 0.012),
    ):
        ((link, rows),) = problem.by_snr(np.array([snr_db]))
        assert rows.tolist() == [0]
        own = link.measured
        for levels, lost in ((coded, of_coded), (other, of_other)):
            place = own.find(levels[None])[0]
            if lost is None:
                assert place < 0
            else:
                assert own.accuracy[place] == base - lost
        # The pruned network that has no codec sends bits, wherever it is cut: it loses what it loses without noise.
        pruned = np.array([strategy_at(problem, cut, 8, False) for cut in range(cuts)])
        assert (own.accuracy[own.find(pruned)] == base - 0.01).all()
    assert len(problem.measured.levels) == cuts  # no link: what has no codec alone


def batch_of(problem: Problem, ratios: np.ndarray, losses: np.ndarray) -> Scenarios:
    rng = np.random.default_rng(3)
    weights = np.column_stack(
        [
            10 ** rng.uniform(-12, -8, len(ratios)),
            np.full(len(ratios), 1 / 1.06e13),
            10 ** rng.uniform(-9, -5, len(ratios)),
        ]
    )
    return Scenarios(weights, problem.base_accuracy - losses, ratios)


def test_a_batch_of_links_is_answered_as_each_of_them_alone_and_best_among_the_facts(noisy: Problem) -> None:
    facts = some_facts(noisy)
    problem = with_facts(noisy, facts)
    ratios = np.tile([-5.0, 5.0, 12.0, 20.0, 25.0, 33.0, 50.0], 12)
    batch = batch_of(problem, ratios, np.repeat([0.01, 0.02, 0.045], 28))
    found = solve(problem, batch, confidence=0.9)
    answers = problem.answers(found, ratios)
    assert answers.trainings is not None
    margins = SELECTED * NormalDist().inv_cdf(0.9) * errors_of(facts)
    compressed = 0
    for s in range(len(ratios)):
        best = objective(problem.known_costs, batch.weights[s : s + 1]).min()
        heard: dict[tuple[int, ...], tuple[float, float]] = {}
        for (levels, ratio, accuracy), margin in zip(facts, margins, strict=True):
            every = range(len(problem.space.cut_bits))
            cuts = every if np.isnan(ratio) else [levels[problem.space.cut_variable]]
            for cut in cuts:
                own = levels.copy()
                own[problem.space.cut_variable] = cut
                if np.isnan(ratio) or ratio <= ratios[s]:
                    heard[tuple(own)] = max((accuracy, margin), heard.get(tuple(own), (0.0, 0.0)))
        for own, (accuracy, margin) in heard.items():
            if accuracy - margin >= batch.accuracy_floor[s]:
                best = min(best, objective(problem.delay.costs(np.array([own])), batch.weights[s : s + 1]).item())
        assert found.objective[s] == pytest.approx(best, rel=1e-12)
        one = solve(problem, Scenarios._make(column[s : s + 1] for column in batch), confidence=0.9)
        for name, together, alone in zip(found._fields, found, one, strict=True):
            np.testing.assert_array_equal(together[s : s + 1], alone, err_msg=name)
        known = problem.is_known(found.levels[s : s + 1])[0]
        assert answers.trainings[s] == (0 if known else 1)
        compressed += not known
    assert compressed > 20


GRID = {
    "model": ["alexnet"],
    "device": ["rpi3b+", "tk1"],
    "server": ["p100"],
    "link": [{"bandwidth_mhz": [0.5, 5], "snr_db": [5, 12, 25, 40]}],
    "max_loss": [0.004, 0.02, 0.05],
    "confidence": [0.9],
}


def test_a_sweep_and_an_atlas_answer_as_optimize_does(noisy: Problem, tmp_path: Path) -> None:
    problem = with_facts(noisy, some_facts(noisy))
    predictor, grid = problem.predictor, parse_grid(GRID)
    for solver in ("exact", "atlas"):
        out = tmp_path / solver
        sweep(grid, out, records=predictor, solver=solver, columns="full", executor="local", quiet=True)
        rows = pq.ParquetDataset(next(out.glob("model=*"))).read().to_pylist()
        assert len(rows) == len(grid)
        for row in rows:
            bandwidth, snr_db = next(
                (mhz, db)
                for mhz in GRID["link"][0]["bandwidth_mhz"]
                for db in GRID["link"][0]["snr_db"]
                if row["rate_bps"] == pytest.approx(mhz * 1e6 * np.log2(1 + 10 ** (db / 10))) and row["snr_db"] == db
            )
            one = answer(
                problem,
                resolve(
                    device=row["device"],
                    server="p100",
                    bandwidth_mhz=bandwidth,
                    snr_db=snr_db,
                    max_loss=row["max_loss"],
                ),
            )
            assert row["latency_s"] == pytest.approx(one.latency_s, rel=2e-3)
            assert row["accuracy_source"] == one.accuracy_source
            assert row["accuracy_bound"] == pytest.approx(one.accuracy_bound)
        assert {row["accuracy_source"] for row in rows} == {"base", "measured"}


def test_an_atlas_ends_where_what_is_measured_changes(noisy: Problem) -> None:
    problem = with_facts(noisy, some_facts(noisy))
    ranges = Ranges.of_speeds((1e8, 1e10), (1.06e13, 1.06e13), (1e5, 1e7))
    for snr_db in (12.0, 20.0, 29.0):
        atlas = build(problem, ranges, max_loss=0.02, confidence=0.9, snr_db=snr_db, threads=1, quiet=True)
        assert atlas.info.snr_db is not None
        low, high = atlas.info.snr_db
        assert low < snr_db <= high
        assert not any(low < ratio <= high and ratio > snr_db for ratio in (10.0, 20.0, 30.0))
        weights = 1 / np.array([[1e9, 1.06e13, 3e5]])
        scenarios = Scenarios(weights, np.array([problem.base_accuracy - 0.02]), np.array([snr_db]))
        exact = solve(problem, scenarios, confidence=0.9)
        assert solve_by_atlas(problem, scenarios, [atlas], confidence=0.9).objective == pytest.approx(exact.objective)


def test_a_front_over_a_noisy_link_counts_what_holds_there(noisy: Problem) -> None:
    problem = with_facts(noisy, some_facts(noisy))
    sizes = []
    for snr_db in (5.0, 40.0):
        link = {"bandwidth_mhz": 1.0, "snr_db": snr_db}
        found = front(problem, resolve(device="rpi3b+", server="p100", max_loss=0.05, **link))
        sizes.append(found.looked_at)
    assert sizes[1] == sizes[0] + 2


def test_facts_of_a_refinement_hold_where_there_is_less_noise(noisy: Problem, tmp_path: Path) -> None:
    records = read_records(write_synthetic_records(tmp_path / "r.parquet", noisy=True, count=20))
    facts = Facts(noisy, records, "validation")
    trained = [fact for fact in facts.facts if fact.source == "records" and fact.snr_db is not None]
    for snr_db in (0.0, 20.0, 50.0):
        case = Case("x", (1e-9, 1e-13, 1e-6), 1.0, snr_db=snr_db)
        heard = [fact for fact in trained if fact.snr_db is not None and fact.snr_db <= snr_db]
        weights = np.array([case.weights])
        costs = [objective(noisy.delay.costs(np.array([fact.levels])), weights).item() for fact in heard]
        known = objective(noisy.known_costs, weights).min()
        assert facts.best(case, -1.0)[1] == pytest.approx(min([*costs, known]))


def facts_of(problem: Problem, seed: int) -> Problem:
    """Some coded and uncoded strategies that were measured without noise."""
    rng = np.random.default_rng(seed)
    rows = []
    for loss in rng.uniform(0, 0.05, 8):
        cut, pruned, coded = int(rng.integers(1, 11)), int(rng.integers(1, MOST_LEVELS)), bool(rng.integers(2))
        rows.append((strategy_at(problem, cut, pruned, coded), np.nan, problem.base_accuracy - loss))
    return with_facts(problem, rows)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_what_to_train_through_noise_ends_and_leaves_no_guess(quiet: Problem, seed: int) -> None:
    problem = facts_of(quiet, seed)
    rng = np.random.default_rng(seed)
    ratios = rng.uniform(-5, 50, 40)
    scenarios = batch_of(problem, ratios, rng.uniform(0.005, 0.06, 40))
    noise: dict[Any, float] = {}

    def truth(levels: tuple[int, ...], snr_db: float) -> float:
        """Without noise, less something that falls with the ratio and is another for each strategy."""
        own = noise.setdefault(levels, float(rng.uniform(0.02, 0.3)))
        alone = dict(zip(map(tuple, problem.measured.levels.tolist()), problem.measured.accuracy, strict=True))
        return float(alone.get(levels, problem.base_accuracy) - own * 10 ** (-snr_db / 20))

    measured: dict[tuple[tuple[int, ...], float], float] = {}
    while wanted := next_noisy(problem, scenarios, LADDER, measured, confidence=None).guesses:
        assert not set(wanted) & set(measured)  # nothing twice
        for levels, snr_db in wanted[:3]:
            assert snr_db in LADDER
            measured[levels, snr_db] = truth(levels, snr_db)
    best = _best_known(problem, scenarios, measured)
    assert best == pytest.approx(_best_known(problem, scenarios, measured, hopes=problem))
    # What answers by its measurements is not to be had without them, and nothing else is missed.
    winners = {levels for levels, _ in next_noisy(problem, scenarios, LADDER, measured, confidence=None).measured}
    for own in {levels for levels, _ in measured}:
        others = {key: value for key, value in measured.items() if key[0] != own}
        missed = _best_known(problem, scenarios, others) != pytest.approx(best)
        assert missed == (own in winners)


def _best_known(
    problem: Problem,
    scenarios: Scenarios,
    measured: Mapping[tuple[tuple[int, ...], float], float],
    hopes: Problem | None = None,
) -> list[float]:
    """The least objective of each scenario among what is measured, an oracle in plain Python; with ``hopes`` also among
    codecs at a cut of which none was trained at the scenario's step or above, as if noise cost nothing."""
    cut, codec = problem.space.cut_variable, problem.space.codec_variable
    every = {tuple(levels): problem.base_accuracy for levels in problem.known_levels.tolist()}
    every |= dict(zip(map(tuple, problem.measured.levels.tolist()), problem.measured.accuracy.tolist(), strict=True))

    def coded(levels: tuple[int, ...]) -> bool:
        return levels[codec:] != tuple(problem.space.tables.canonical[codec:].tolist())

    best = []
    for weights, floor, snr_db in zip(scenarios.weights, scenarios.accuracy_floor, scenarios.snr_db, strict=True):
        costs = []
        steps = [step for step in LADDER if step <= snr_db]
        for levels, alone in every.items():
            accuracies = [alone] if steps and not coded(levels) else []
            accuracies += [measured[levels, step] for step in steps if (levels, step) in measured]
            tried = {other[cut] for other, step in measured if steps and step >= steps[-1]}
            if hopes is not None and steps and (levels, steps[-1]) not in measured and levels[cut] not in tried:
                accuracies.append(alone)
            if accuracies and max(accuracies) >= floor:
                costs.append(objective(problem.delay.costs(np.array([levels])), weights[None]).item())
        best.append(min(costs, default=float("inf")))
    return best


def test_plain_methods_send_bits_and_answer_as_they_do_without_noise(noisy: Problem, quiet: Problem) -> None:
    scenarios = [
        resolve(device="rpi3b+", server="p100", bandwidth_mhz=mhz, snr_db=20.0) for mhz in (0.01, 0.1, 1.0, 10.0)
    ]
    batch = ScenarioBatch.of(scenarios)
    answers, alone = (METHODS["neurosurgeon"].solve(each, batch) for each in (noisy, quiet))
    np.testing.assert_array_equal(answers.objective, alone.objective)
    assert (answers.accuracy == noisy.base_accuracy).all() and answers.known.all()
    ours = METHODS["coinfer"].solve(noisy, batch)
    assert (ours.objective <= answers.objective * (1 + 1e-9)).all()
