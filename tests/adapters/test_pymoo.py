import numpy as np
import pytest

pytest.importorskip("pymoo")

from coinfer_kernels import QuantumOptimizer
from pymoo.core.problem import Problem
from pymoo.optimize import minimize
from pymoo.problems import get_problem

from coinfer_ray.adapters.pymoo import QuantumAlgorithm
from coinfer_ray.errors import InputError


class Whole(Problem):
    def __init__(self):
        super().__init__(n_var=3, n_obj=1, n_ieq_constr=1, xl=-10, xu=10, vtype=int)

    def _evaluate(self, x, out, *args, **kwargs):
        assert (x == np.round(x)).all()
        out["F"] = ((x - 0.4) ** 2).sum(axis=1)
        out["G"] = 5 - x.sum(axis=1)


def test_a_constrained_problem_is_solved_to_its_known_optimum():
    result = minimize(get_problem("g1"), QuantumAlgorithm(), ("n_evals", 20_000), seed=1)
    assert result.F[0] == pytest.approx(-15, abs=0.01)
    assert result.CV[0] == 0


def test_integers_and_constraints():
    result = minimize(Whole(), QuantumAlgorithm(), ("n_evals", 3000), seed=1)
    assert sorted(np.asarray(result.X).tolist()) == [1, 2, 2]


def test_the_populations_are_those_of_ask_and_tell():
    problem = get_problem("rastrigin", n_var=4)
    algorithm = QuantumAlgorithm(population=12)
    algorithm.setup(problem, termination=("n_gen", 4), seed=7)
    bare = QuantumOptimizer(np.column_stack([problem.xl, problem.xu]), population=12, seed=7)
    while algorithm.has_next():
        infills = algorithm.ask()
        x = bare.ask()
        assert (infills.get("X") == x).all()
        algorithm.evaluator.eval(problem, infills)
        algorithm.tell(infills=infills)
        bare.tell(x, problem.evaluate(x)[:, 0])
    assert algorithm.result().F[0] == bare.best_objective


def test_what_it_cannot_do_is_said():
    with pytest.raises(InputError, match="2 objectives"):
        minimize(get_problem("zdt1"), QuantumAlgorithm(), ("n_gen", 2))
    with pytest.raises(InputError, match="no bounds"):
        minimize(Problem(n_var=2, n_obj=1), QuantumAlgorithm(), ("n_gen", 2))
