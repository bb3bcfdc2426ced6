"""Compiling ahead: the types are those of any problem, and a helper that fails does no harm."""

import numpy as np
from coinfer_kernels import machine_code, solve_exact, solve_quantum, warm_up
from coinfer_kernels.exact import solve as exact
from coinfer_kernels.local_search import solve as quantum_levels

from tests.kernels.random_tables import random_ensemble, random_scenarios, random_tables


def test_nothing_is_left_to_compile_for_another_problem():
    warm_up.compile_solvers(threads=1)
    assert machine_code.is_kept(exact._advance)
    assert machine_code.is_kept(quantum_levels._solve_rows)
    rng = np.random.default_rng(3)
    space, cost = random_tables(rng)
    problem = space, cost, random_ensemble(rng, len(space.n_levels)), random_scenarios(rng, 2, -1e9)
    compiled = []
    end = machine_code.on_compile(compiled.append)
    begun = solve_quantum(*problem, max_evaluations=10, threads=1)
    assert begun.feasible.all()
    try:
        solve_exact(*problem, incumbents=begun, max_nodes=10, threads=1)
    except ValueError as refused:  # costs that do not follow the levels
        assert "exact solver" in str(refused)
    end()
    assert compiled == []


def test_the_small_problem_has_the_answer_that_one_can_see():
    """Half of the channels lose too little to matter, and cost less."""
    problem = warm_up.small_problem()
    found = solve_exact(*problem, incumbents=solve_quantum(*problem, max_evaluations=10))
    assert found.feasible.all()
    assert found.accuracy == [0.75]
    assert found.levels[0, 0] == 1
    assert found.gap[0] <= 1e-3


def test_what_a_helper_compiles_is_counted(monkeypatch):
    warm_up.compile_solvers(threads=1)
    seen = []
    monkeypatch.setattr(machine_code, "is_kept", lambda kernel: False)
    monkeypatch.setattr(warm_up, "_HELPER", "print('exact.one'); print('exact.two')")
    end = machine_code.on_compile(seen.append)
    warm_up.compile_solvers(threads=2)
    end()
    assert [at.function for at in seen] == ["exact.one", "exact.two"]
    assert seen[1].functions == seen[0].functions + 1


def test_a_helper_that_fails_leaves_the_work_to_this_process(monkeypatch):
    monkeypatch.setattr(machine_code, "is_kept", lambda kernel: False)
    monkeypatch.setattr(warm_up, "_HELPER", "raise SystemExit(3)")
    warm_up.compile_solvers(threads=2)
    assert exact._advance.overloads
