import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from coinfer_kernels import Scenarios, TreeEnsemble, decode, features, solve_paper, strategy_costs
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.random_tables import random_ensemble, random_scenarios, random_tables
from tests.reference import algorithm1, latency, random_stream, space, trees

LIMITS = {"scales": 6, "shrink": 1.3, "max_evaluations": 400, "max_tries": 25}


def random_problem(seed, *, snr=False, scenarios=3, share=0.3):
    """Tables, and a floor that about that share of all strategies meets."""
    rng = np.random.default_rng(seed)
    tables, cost = random_tables(rng)
    ensemble = random_ensemble(rng, len(tables.n_levels) + snr, trees=4, depth=3)
    levels = decode(tables, rng.random((50, len(tables.n_levels))))
    accuracy = TreeEnsemble(ensemble).predict(features(tables, levels, 0.5 if snr else None))
    # Never exactly a prediction, which the oracle may round otherwise.
    floor = float(np.quantile(accuracy, 1 - share)) + 1e-9
    return tables, cost, ensemble, random_scenarios(rng, scenarios, floor)


def reference_answer(tables, cost, ensemble, scenarios, s, seed, solutions, limits):
    """Levels, objective and evaluations by the plain-Python Algorithm 1."""
    snr = scenarios.snr_db[s] if len(ensemble.coefficients) > len(tables.n_levels) else None

    def judge(point):
        levels = space.decode(tables, point)
        accurate = trees.predict(ensemble, space.features(tables, levels, snr)) >= scenarios.accuracy_floor[s]
        row = latency.costs(cost, tables.cut_variable, levels)
        return accurate, latency.objective(scenarios.weights[s], row)

    streams = [random_stream.Stream(seed, s, i) for i in range(solutions)]
    objective, point, evaluations = algorithm1.solve(judge, len(tables.n_levels), streams, **limits)
    return objective, None if point is None else space.decode(tables, point), evaluations


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans(), st.integers(2, 6), st.sampled_from(["best", "parent"]))
def test_algorithm_1_equals_the_oracle(seed, snr, solutions, rule):
    problem = random_problem(seed, snr=snr, share=[0.5, 0.05, 0.0][seed % 3])
    answer = solve_paper(*problem, solutions=solutions, seed=seed, rule=rule, **LIMITS)
    for s in range(3):
        objective, levels, evaluations = reference_answer(*problem, s, seed, solutions, LIMITS | {"rule": rule})
        assert answer.evaluations[s] == evaluations
        assert answer.feasible[s] == (levels is not None)
        assert answer.objective[s] == pytest.approx(objective, rel=1e-13)
        if levels is not None:
            assert answer.levels[s].tolist() == levels


def test_the_answer_is_what_it_says():
    tables, cost, ensemble, scenarios = random_problem(3)
    answer = solve_paper(tables, cost, ensemble, scenarios, seed=1, **LIMITS)
    assert answer.feasible.all()
    accuracy = TreeEnsemble(ensemble).predict(features(tables, answer.levels))
    assert (answer.accuracy == accuracy).all()
    assert (accuracy >= scenarios.accuracy_floor).all()
    costs = strategy_costs(cost, tables.cut_variable, answer.levels)
    assert answer.objective == pytest.approx((costs * scenarios.weights).sum(axis=1), rel=1e-14)


def test_neither_threads_nor_batches_change_an_answer():
    problem = random_problem(3, scenarios=7)
    one = solve_paper(*problem, seed=4, threads=1, **LIMITS)
    two = solve_paper(*problem, seed=4, threads=2, **LIMITS)
    assert all(np.array_equal(a, b, equal_nan=a.dtype == float) for a, b in zip(one, two, strict=True))

    tables, cost, ensemble, scenarios = problem
    part = Scenarios(*(array[[5, 2]] for array in scenarios))
    few = solve_paper(tables, cost, ensemble, part, seed=4, keys=[5, 2], **LIMITS)
    assert all(np.array_equal(a, b[[5, 2]], equal_nan=a.dtype == float) for a, b in zip(few, one, strict=True))

    few = solve_paper(tables, cost, ensemble, part, seed=4, **LIMITS)
    assert any((a != b[[5, 2]]).any() for a, b in zip(few[:5], one[:5], strict=True))
    other = solve_paper(*problem, seed=5, **LIMITS)
    assert any((a != b).any() for a, b in zip(other[:5], one[:5], strict=True))


def test_another_process_with_other_threads_gives_the_same_answer():
    code = (
        "from tests.kernels import test_algorithm1 as t\n"
        "answer = t.solve_paper(*t.random_problem(3, scenarios=5), seed=4, **t.LIMITS)\n"
        "print(answer.objective.tolist(), answer.levels.tolist(), answer.evaluations.tolist())"
    )
    path = os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])
    printed = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"NUMBA_NUM_THREADS": threads, "PYTHONPATH": path},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for threads in ("1", "2")
    }
    assert len(printed) == 1
    assert printed.pop().startswith("[")


def test_a_floor_that_nothing_meets_ends_infeasible_with_the_best_seen():
    tables, cost, ensemble, scenarios = random_problem(3)
    hopeless = scenarios._replace(accuracy_floor=np.full(3, 1e9))
    answer = solve_paper(tables, cost, ensemble, hopeless, **LIMITS)
    assert not answer.feasible.any()
    assert (answer.objective == np.inf).all()
    assert (answer.evaluations == LIMITS["max_evaluations"]).all()
    assert np.isfinite(answer.accuracy).all()
    # Feasible to the last bit at the accuracy that was reported.
    again = solve_paper(tables, cost, ensemble, hopeless._replace(accuracy_floor=answer.accuracy), **LIMITS)
    assert again.feasible.all()


def test_no_scenarios_is_a_batch_too():
    tables, cost, ensemble, _ = random_problem(3)
    empty = Scenarios(np.empty((0, 3)), np.empty(0), np.empty(0))
    assert solve_paper(tables, cost, ensemble, empty).levels.shape == (0, len(tables.n_levels))


def test_bad_input_is_named():
    tables, cost, ensemble, scenarios = random_problem(3)
    with_snr = random_problem(3, snr=True)
    seeing_99 = ensemble._replace(coefficients=np.zeros(99))
    for call, message in (
        (lambda: solve_paper(tables, cost, ensemble, scenarios, solutions=1), "solutions: 1 is too small"),
        (lambda: solve_paper(tables, cost, ensemble, scenarios, max_tries=0), "max_tries: 0"),
        (lambda: solve_paper(tables, cost, ensemble, scenarios, seed=-1), "seed: -1"),
        (lambda: solve_paper(tables, cost, ensemble, scenarios, shrink=1.0), "shrink: 1.0"),
        (lambda: solve_paper(tables, cost, ensemble, scenarios, keys=[1, 2]), "keys: has shape"),
        (lambda: solve_paper(tables, cost, ensemble, scenarios, threads=0), "threads: 0"),
        (lambda: solve_paper(tables, cost, ensemble, scenarios, rule="mean"), "rule: 'mean'"),
        (lambda: solve_paper(tables, cost, seeing_99, scenarios), "sees 99 features"),
        (lambda: solve_paper(tables, cost._replace(cut_layers=cost.cut_layers[1:]), ensemble, scenarios), "cost.cut"),
        (
            lambda: solve_paper(*with_snr[:3], with_snr[3]._replace(snr_db=np.full(3, np.nan))),
            "scenarios.snr_db: holds NaN",
        ),
        (
            lambda: solve_paper(tables, cost, ensemble, scenarios._replace(accuracy_floor=np.full(3, np.nan))),
            "scenarios.accuracy_floor",
        ),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
