"""What pymoo's own tests hold of its algorithms for one objective, held of ours: runs repeat, seeds differ, a loop is a
run, and its test problems are solved within the default termination."""

import numpy as np
import pytest

pytest.importorskip("pymoo")

from pymoo.core.problem import ElementwiseProblem, Problem
from pymoo.core.variable import Binary, Choice, Integer, Real
from pymoo.optimize import minimize
from pymoo.problems.single import Himmelblau, Rosenbrock, Sphere

from coinfer_ray.adapters.pymoo import QuantumAlgorithm


class Mixed(ElementwiseProblem):
    """The product of factors that switches and choices turn on: 0 where z and y are."""

    def __init__(self):
        kinds = {"b": Binary(), "x": Choice(options=["once", "ten"]), "y": Integer(bounds=(0, 2))}
        super().__init__(vars={**kinds, "z": Real(bounds=(0, 5))}, n_obj=1)

    def _evaluate(self, x, out, *args, **kwargs):
        out["F"] = (x["z"] + x["y"] + 1) * (100 if x["b"] else 1) * (10 if x["x"] == "ten" else 1)


class ConstrainedSphere(Problem):
    def __init__(self):
        super().__init__(n_var=10, n_obj=1, n_ieq_constr=1, xl=0, xu=1)

    def _evaluate(self, x, out, *args, **kwargs):
        out["F"] = np.square(x - 0.5).sum(axis=1)
        out["G"] = 0.1 - out["F"]


@pytest.mark.parametrize("problem", [Sphere(n_var=2), Mixed()], ids=["real", "mixed"])
def test_the_same_seed_gives_the_same_answer_and_others_differ(problem):
    def run(seed):
        return minimize(problem, QuantumAlgorithm(), ("n_evals", 200), seed=seed)

    one, two = run(42), run(42)
    assert one.F == two.F and np.all(one.X == two.X)
    assert len({run(seed).F[0] for seed in (1, 42, 123)}) > 1


def test_an_algorithm_may_be_used_again():
    """``minimize`` runs a copy: what is given does not remember."""
    algorithm = QuantumAlgorithm()
    one, two = (minimize(Sphere(n_var=2), algorithm, ("n_gen", 10), seed=1) for _ in range(2))
    assert one.F == two.F and np.all(one.X == two.X)
    assert minimize(Mixed(), algorithm, ("n_gen", 10), seed=1).F[0] >= 1


def test_a_loop_is_a_run():
    whole = minimize(Rosenbrock(), QuantumAlgorithm(), ("n_gen", 60), seed=1)
    algorithm = QuantumAlgorithm()
    algorithm.setup(Rosenbrock(), termination=("n_gen", 60), seed=1)
    while algorithm.has_next():
        algorithm.next()
    assert np.all(algorithm.result().X == whole.X) and algorithm.n_gen - 1 == 60


@pytest.mark.parametrize("seed", [2, 3, 4])
@pytest.mark.parametrize(
    ("problem", "least", "within"),
    [
        (Sphere(), 0.0, 1e-5),
        (ConstrainedSphere(), 0.1, 1e-4),
        (Himmelblau(), 0.0, 1e-3),
        (Rosenbrock(), 0.0, 1e-3),
        (Mixed(), 1.0, 1e-3),
    ],
    ids=["sphere", "constrained", "himmelblau", "rosenbrock", "mixed"],
)
def test_its_problems_are_solved(problem, least, within, seed):
    result = minimize(problem, QuantumAlgorithm(), seed=seed)
    assert result.CV[0] == 0
    assert result.F[0] == pytest.approx(least, abs=within)


def test_the_whole_history_can_be_kept():
    result = minimize(Mixed(), QuantumAlgorithm(population=8), ("n_gen", 5), seed=1, save_history=True)
    assert [each.evaluator.n_eval for each in result.history] == [8, 16, 24, 32, 40]
    best = [each.opt[0].F[0] for each in result.history]
    assert best == sorted(best, reverse=True) and best[-1] == result.F[0]
