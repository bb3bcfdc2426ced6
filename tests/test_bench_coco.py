"""The benchmark on COCO's functions: it runs where these are installed, and checks before it measures."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    return runpy.run_path(str(ROOT / "benchmarks" / "bench_coco.py"))


def run(bench, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["bench_coco.py", *arguments])
    bench["run_script"](bench["main"])


def test_the_share_of_targets_counts_those_that_the_least_value_meets(bench):
    problem = SimpleNamespace(
        dimension=2, number_of_integer_variables=1, lower_bounds=np.zeros(2), upper_bounds=np.ones(2)
    )
    for above, met in ((1000.0, 0), (100.0, 1), (0.9, 11), (1e-3, 26), (0.0, 51)):
        watched = bench["Watched"](problem, 7.0, 10)
        watched.best = 7.0 + above * (1 - 1e-9)
        assert watched.share == pytest.approx(met / 51)
    assert watched.integral.tolist() == [True, False]


def test_a_run_ends_with_its_budget_and_with_the_last_target(bench):
    class Falling(SimpleNamespace):
        def __call__(self, x):
            return x[0]

    problem = Falling(dimension=1, number_of_integer_variables=0, lower_bounds=np.zeros(1), upper_bounds=np.ones(1))
    for optimum, counted in ((-1.0, 10), (0.5, 6)):
        watched = bench["Watched"](problem, optimum, 10)
        with pytest.raises(bench["SpentError"]):
            for step in range(20):
                watched([1.0 - 0.1 * step])
        assert watched.evaluations == counted


def test_it_runs_on_one_function_of_each_suite(bench, monkeypatch, capsys):
    pytest.importorskip("cocoex", reason="coco-experiment, COCO's functions, is not installed")
    chosen = ("--dimensions", "5", "--functions", "1", "--instances", "1", "--budget", "200", "--peers", "DE", "--json")
    run(bench, monkeypatch, *chosen)
    report = json.loads(capsys.readouterr().out)
    assert [(row["suite"], row["optimizer"], row["runs"]) for row in report["rows"]] == [
        (suite, name, 1) for suite in ("bbob", "bbob-mixint") for name in ("minimize (ours)", "SciPy DE")
    ]
    assert all(0 < row["share"] == row["functions"]["1"] <= 1 for row in report["rows"])  # the sphere
    assert all(row["own_us"] > 0 for row in report["compiled"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--functions", "25"), "--functions: 25 is not one; 1 to 24 are"),
        (("--dimensions", "2"), "--dimensions: bbob-mixint has none of 2; it has 5, 10, 20, 40, 80, 160"),
        (("--budget", "0"), "argument --budget: '0' must be a whole number, at least 1"),
        (("--suites", "bbob-noisy"), "argument --suites: invalid choice"),
    ],
)
def test_it_checks_before_it_measures(bench, monkeypatch, capsys, arguments, message):
    with pytest.raises(SystemExit) as ended:
        run(bench, monkeypatch, *arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_without_the_functions_it_says_what_to_install(bench, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "cocoex", None)
    with pytest.raises(SystemExit) as ended:
        run(bench, monkeypatch)
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("bench_coco.py: cocoex is not installed")
