"""The genetic algorithm: as good as enumeration on small problems, reproducible, and judged as any optimizer is."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pymoo")

from coinfer_kernels import Scenarios, Solutions, TreeEnsemble, canonicalize, features, strategy_costs

from coinfer_ray.errors import InputError
from coinfer_ray.methods.registry import METHODS
from coinfer_ray.optimizer.genetic import solve_genetic
from coinfer_ray.optimizer.problem import Problem, assemble
from coinfer_ray.optimizer.solve import solve
from coinfer_ray.scenarios.batch import ScenarioBatch
from coinfer_ray.scenarios.read import resolve
from tests.kernels.test_crossing import objectives, with_crossings
from tests.kernels.test_exact import optima, small_problem
from tests.synthetic import trusted

FEW = {"population": 20, "max_evaluations": 600}


@pytest.fixture(scope="module")
def problem(synthetic_records: Path) -> Problem:
    found = assemble("alexnet", records=synthetic_records, regressor="decision_tree")
    return replace(found, fitted=trusted(found.predictor))


def scenarios_of(problem: Problem, max_loss: float) -> Scenarios:
    weights = [
        resolve(device=name, server="p100", link=link).weights() for name, link in (("tk1", "3g"), ("rpi4b", "4g"))
    ]
    return Scenarios(np.array(weights), np.full(2, problem.base_accuracy - max_loss), np.full(2, np.nan))


def assert_equal(a: Solutions, b: Solutions) -> None:
    for name in Solutions._fields:
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


@pytest.mark.parametrize("seed", range(4))
def test_small_problems_are_solved_as_by_enumeration(seed: int) -> None:
    tables, cost, _, scenarios = small = small_problem(seed, snr=seed % 2 == 0, median=seed % 3 == 0)
    found = solve_genetic(*small, population=40, max_evaluations=1_600)
    best = np.array(optima(small))
    np.testing.assert_array_equal(found.feasible, np.isfinite(best))
    np.testing.assert_allclose(found.objective, best, rtol=1e-9)
    rows = found.feasible
    levels = found.levels[rows]
    np.testing.assert_array_equal(levels, canonicalize(tables, levels))
    costs = strategy_costs(cost, tables.cut_variable, levels)
    np.testing.assert_allclose((costs * scenarios.weights[rows]).sum(axis=1), found.objective[rows], rtol=1e-12)
    assert (found.accuracy[rows] >= scenarios.accuracy_floor[rows]).all()


def test_where_nothing_is_accurate_enough_the_best_accuracy_is_told() -> None:
    tables, cost, ensemble, scenarios = small_problem(4)
    hopeless = scenarios._replace(accuracy_floor=np.full(len(scenarios.accuracy_floor), 1e3))
    found = solve_genetic(tables, cost, ensemble, hopeless, **FEW)
    assert not found.feasible.any() and np.isposinf(found.objective).all()
    predicted = TreeEnsemble(ensemble).predict(features(tables, found.levels))
    np.testing.assert_array_equal(found.accuracy, predicted)
    # Accuracy is what generations without a feasible strategy gain.
    first = solve_genetic(tables, cost, ensemble, hopeless, population=20, max_evaluations=20)
    assert (found.accuracy >= first.accuracy).all() and (found.evaluations > first.evaluations).all()


def test_an_answer_depends_on_seed_and_number_alone(problem: Problem) -> None:
    scenarios = scenarios_of(problem, 0.06)
    together = solve(problem, scenarios, "genetic", seed=3, first_scenario=7, **FEW)
    np.random.seed(0)  # noqa: NPY002 - nor on NumPy's own stream
    assert_equal(together, solve(problem, scenarios, "genetic", seed=3, first_scenario=7, **FEW))
    last = Scenarios(*(column[1:] for column in scenarios))
    apart = solve(problem, last, "genetic", seed=3, first_scenario=8, **FEW)
    assert_equal(apart, Solutions(*(column[1:] for column in together)))
    other = solve(problem, scenarios, "genetic", seed=4, first_scenario=7, **FEW)
    assert (other.levels != together.levels).any()


def test_evaluations_stay_within_their_bound_and_more_are_not_worse(problem: Problem) -> None:
    tables = problem.space.tables, problem.delay.tables, problem.predictor.ensemble.tables
    scenarios = scenarios_of(problem, 0.06)
    found = [solve_genetic(*tables, scenarios, population=20, max_evaluations=most) for most in (50, 2_000)]
    assert found[0].evaluations.tolist() == [40, 40] and (found[1].evaluations <= 2_000).all()
    assert (found[1].objective < found[0].objective).all()  # the first generations are the same


def test_measured_strategies_and_the_network_as_it_is_take_part(problem: Problem) -> None:
    """With a confidence that predictions do not carry, they are all that can be chosen: the answer of every solver."""
    scenarios = scenarios_of(problem, 0.06)
    calibration = replace(problem.predictor.calibration, rests_on="records")
    doubted = replace(problem, fitted=replace(problem.predictor, calibration=calibration))
    mine, exact = (solve(doubted, scenarios, name, confidence=0.9) for name in ("genetic", "exact"))
    np.testing.assert_array_equal(mine.levels, exact.levels)
    assert mine.feasible.all() and ((doubted.measured.find(mine.levels) >= 0) | doubted.is_known(mine.levels)).all()
    sure = solve(problem, scenarios, "genetic", confidence=0.9, certify=True, **FEW)
    assert (problem.accuracy_bound(problem.answers(sure), 0.9) >= scenarios.accuracy_floor - 1e-12).all()
    assert (sure.lower_bound <= sure.objective).all() and (sure.gap >= 0).all()
    assert np.isnan(solve(problem, scenarios, "genetic", confidence=0.9, **FEW).lower_bound).all()


def test_it_is_a_row_of_the_comparison(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    import coinfer_ray.optimizer.genetic as genetic

    monkeypatch.setitem(genetic.solve_genetic.__kwdefaults__, "max_evaluations", 200)
    batch = ScenarioBatch.of([resolve(device="tk1", server="p100", link="3g", max_loss=0.06, confidence=None)])
    row, own = (METHODS[name].solve(problem, batch) for name in ("genetic", "neurosurgeon"))
    assert row.objective[0] <= own.objective[0] and row.levels is not None


def test_parameters_out_of_range_are_refused() -> None:
    small = small_problem(4)
    for name in ("population", "max_evaluations", "seed"):
        with pytest.raises(ValueError, match=name):
            solve_genetic(*small, **{name: -1})


def test_without_pymoo_the_extra_is_named(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("pymoo")]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "pymoo", None)
    monkeypatch.delitem(sys.modules, "coinfer_ray.optimizer.genetic")
    with pytest.raises(InputError, match=r"genetic needs pymoo; pip install 'coinfer-ray\[peers\]'"):
        solve(problem, scenarios_of(problem, 0.06), "genetic")


def test_what_crossing_costs_by_itself_counts() -> None:
    for seed in range(3):
        small = with_crossings(small_problem(seed), seed + 1)
        found, best = solve_genetic(*small, population=40, max_evaluations=1_600), optima(small)
        np.testing.assert_allclose(found.objective, best, rtol=1e-9)
        rows = found.feasible
        np.testing.assert_allclose(np.array(objectives(small, found.levels))[rows], found.objective[rows], rtol=1e-12)
