import numpy as np
import pytest

pytest.importorskip("pymoo")

from coinfer_kernels import QuantumOptimizer
from pymoo.core.problem import Problem
from pymoo.core.variable import Binary, Choice, Integer, Real
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


class Mixed(Problem):
    def __init__(self):
        kinds = {"x": Real(bounds=(-2, 5)), "n": Integer(bounds=(0, 9)), "on": Binary(), "kind": Choice(options="abc")}
        super().__init__(vars=kinds, n_obj=1, n_ieq_constr=1)

    def _evaluate(self, solutions, out, *args, **kwargs):
        assert all(type(one["n"]) is int and type(one["on"]) is bool for one in solutions)
        out["F"] = np.array(
            [(one["x"] - 1) ** 2 + abs(one["n"] - 3) + one["on"] + (one["kind"] != "b") for one in solutions]
        )
        out["G"] = np.array([2.0 - one["x"] for one in solutions])


def test_mixed_variables():
    result = minimize(Mixed(), QuantumAlgorithm(), ("n_evals", 3000), seed=1)
    assert {name: result.X[name] for name in ("n", "on", "kind")} == {"n": 3, "on": False, "kind": "b"}
    assert result.X["x"] == pytest.approx(2.0, abs=0.05) and result.F[0] == pytest.approx(1.0, abs=0.05)


def test_binary_variables():
    class Bits(Problem):
        def __init__(self):
            super().__init__(n_var=6, n_obj=1, vtype=bool)

        def _evaluate(self, x, out, *args, **kwargs):
            assert x.dtype == bool
            out["F"] = np.abs(x.sum(axis=1) - 2.0)

    assert minimize(Bits(), QuantumAlgorithm(), ("n_evals", 400), seed=1).F[0] == 0


def test_answers_that_are_not_known_count_as_the_worst():
    class Broken(Problem):
        def __init__(self):
            super().__init__(n_var=1, n_obj=1, n_ieq_constr=1, xl=-5.0, xu=5.0)

        def _evaluate(self, x, out, *args, **kwargs):
            out["F"] = np.where(x > 4, np.nan, x)
            out["G"] = np.where(x < 0, np.nan, 0.0)

    algorithm = QuantumAlgorithm()
    algorithm.setup(Broken(), termination=("n_evals", 2000), seed=1)
    algorithm.run()
    assert algorithm.optimizer.best_x[0] == pytest.approx(0.0, abs=0.01)
    assert algorithm.optimizer.best_x[0] >= 0


def test_a_solution_that_was_changed_is_not_credited():
    problem = get_problem("rastrigin", n_var=2)
    algorithm = QuantumAlgorithm(population=6)
    algorithm.setup(problem, termination=("n_gen", 4), seed=7)
    infills = algorithm.ask()
    infills[2].X = np.zeros(2)
    algorithm.evaluator.eval(problem, infills)
    algorithm.tell(infills=infills)
    assert algorithm.result().F[0] == 0
    assert algorithm.optimizer.best_objective == min(problem.evaluate(np.delete(infills.get("X"), 2, axis=0)))[0]
    with pytest.raises(InputError, match="infills: are 3; all 6"):
        algorithm.tell(infills=algorithm.ask()[:3])


def test_what_it_cannot_do_is_said():
    with pytest.raises(InputError, match="2 objectives"):
        minimize(get_problem("zdt1"), QuantumAlgorithm(), ("n_gen", 2))
    with pytest.raises(InputError, match="no bounds"):
        minimize(Problem(n_var=2, n_obj=1), QuantumAlgorithm(), ("n_gen", 2))
