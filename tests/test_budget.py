"""Budgets of energy and latency: by an enumeration in plain Python, and refused where nothing keeps to them."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest

import coinfer_ray
from coinfer_ray.errors import InputError
from coinfer_ray.optimizer.budget import Budget, _rounded_up
from coinfer_ray.optimizer.optimize import answer
from coinfer_ray.optimizer.problem import Problem, assemble
from coinfer_ray.scenarios.scenario import Objective
from tests.synthetic import write_synthetic_records
from tests.test_front import DEVICE, LINK, SERVER, all_measured, of


@pytest.fixture(scope="module")
def problem(tmp_path_factory: pytest.TempPathFactory) -> Problem:
    records = write_synthetic_records(tmp_path_factory.mktemp("records") / "r.parquet", repeats=2)
    return assemble("alexnet", records=records, regressor="monotone_boosting")


@pytest.mark.parametrize(("objective", "other"), [("latency", "energy"), ("energy", "latency")])
def test_the_answer_is_the_best_of_all_that_keep_to_it(
    problem: Problem, objective: Objective, other: Objective
) -> None:
    place = {"latency": 0, "energy": 1}
    scenario = of(max_loss=0.1)
    every = [row for row in all_measured(problem, 0.9) if row[2] <= 0.1]
    spent = sorted({row[place[other]] for row in every})
    answers = set()
    for most in [each * (1 + 1e-9) for each in spent[:: max(1, len(spent) // 12)]]:
        found = answer(problem, scenario, objective=objective, budget=Budget(other, most))
        expected = min(row[place[objective]] for row in every if row[place[other]] <= most)
        got = (found.latency_s, found.energy_j)
        assert got[place[objective]] == pytest.approx(expected, rel=1e-12)
        spends = got[place[other]]
        assert spends is not None and spends <= most
        answers.add(got)
    assert len(answers) > 1
    free = answer(problem, scenario, objective=objective)
    wide = answer(problem, scenario, objective=objective, budget=Budget(other, 1e9))
    assert wide.strategy == free.strategy and wide.gap == 0

    least = spent[0]
    with pytest.raises(
        InputError, match=f"max {other}: no measured strategy that loses at most 0.1 keeps to"
    ) as caught:
        answer(problem, scenario, objective=objective, budget=Budget(other, least / 2))
    named = re.search(r"the least that can be had is (\S+) (J|ms)$", str(caught.value))
    assert named is not None
    advice = float(named[1]) / {"J": 1, "ms": 1e3}[named[2]]
    assert least <= advice <= least * 1.002
    answer(problem, scenario, objective=objective, budget=Budget(other, advice))  # can be followed


@pytest.mark.parametrize("value", [1.0, 0.0123449, 99999.0, 1e-7 / 3, 12.3451])
def test_what_is_advised_is_never_too_little(value: float) -> None:
    assert value <= float(_rounded_up(value)) <= value + 10 ** (math.floor(math.log10(value)) - 2)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_energy_j": 0}, "max energy: 0 J must be above 0, and finite"),
        ({"max_energy_j": math.nan}, "max energy: nan J must be above 0"),
        ({"max_latency_ms": 5}, "max latency: the objective is latency itself"),
        ({"max_energy_j": 1, "objective": "energy"}, "max energy: the objective is energy itself"),
        ({"max_energy_j": 1, "confidence": None}, "a budget is kept among measured strategies alone"),
        ({"max_energy_j": 1, "optimizer": "quantum"}, "all measured strategies are compared, and quantum does not"),
    ],
)
def test_what_no_budget_can_be_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        coinfer_ray.optimize("alexnet", DEVICE, SERVER, LINK, **options)


def test_energy_needs_powers(synthetic_records: Path) -> None:
    with pytest.raises(InputError, match="the powers of tk1 are not known"):
        coinfer_ray.optimize("alexnet", "tk1", SERVER, LINK, max_energy_j=1, records=synthetic_records)
