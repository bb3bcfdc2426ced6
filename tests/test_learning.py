"""The learning curve of CIA's agent beside its control: means over seeds, and what both end with."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coinfer_ray.methods.cia import candidate_cuts, learn
from coinfer_ray.methods.layerwise import own_sets
from coinfer_ray.optimizer.problem import Problem, assemble
from coinfer_ray.report.model import Cell, Figure, TableView
from coinfer_ray.reproduce.learning import LABELS, Lesson, learning_figure, learning_parts, learning_table, lessons
from coinfer_ray.scenarios.read import resolve
from tests.synthetic import trusted

SCENARIO = resolve(device="rpi4b", server="p100", link="4g", max_loss=0.06)


@pytest.fixture(scope="module")
def problem(synthetic_records: Path) -> Problem:
    found = assemble("alexnet", records=synthetic_records, regressor="gradient_boosting", feature_bits=32)
    return replace(found, fitted=trusted(found.predictor))


def rows_of(player: str, bests: list[list[float | None]], cut: str = "pool1") -> list[dict[str, Any]]:
    """Seeds by episodes 1, 10, 100."""
    fixed = {"model": "alexnet", "device": "rpi3b+", "link": "4g", "cut_after": cut, "decisions": 2, "player": player}
    return [
        fixed | {"seed": seed, "episode": episode, "best_s": best, "last_reward": 0.5 + seed}
        for seed, own in enumerate(bests)
        for episode, best in zip((1, 10, 100), own, strict=True)
    ]


def test_curves_are_means_over_seeds_once_all_have_found_one() -> None:
    rows = rows_of("learnt", [[None, 0.4, 0.2], [None, 0.2, 0.1]]) + rows_of(
        "random", [[None, None, 0.3], [0.5, 0.5, 0.1]]
    )
    figure = learning_figure(rows, "command")
    assert figure is not None
    curves = {one.label: (list(one.x), list(one.y)) for one in figure.series}
    assert curves["CIA's agent"] == ([10, 100], [pytest.approx(300), pytest.approx(150)])
    assert curves["random decisions"] == ([100], [pytest.approx(200)])
    assert figure.panels == ["AlexNet after pool1 (2 decisions)"]
    (agent, control) = learning_table(rows, "command").rows
    assert list(agent[:6]) == ["AlexNet", "pool1", 2.0, "CIA's agent", 2.0, "2 of 2"]
    assert isinstance(control[6], Cell) and control[6].value == pytest.approx(200)
    assert control[7] == "100 to 300" and control[8] == 1.0


def test_a_bound_that_nobody_kept_is_said() -> None:
    rows = rows_of("learnt", [[0.3, 0.2, 0.1]]) + rows_of("random", [[None, None, None]])
    figure = learning_figure(rows, "command")
    assert figure is not None and [one.label for one in figure.series] == ["CIA's agent"]
    control = learning_table(rows, "command").rows[1]
    assert control[5] == "0 of 1" and control[6] is None and control[7] == "none to none"
    assert [type(part) for part in learning_parts(rows, "command")] == [Figure, TableView]
    nobody = rows_of("learnt", [[None] * 3]) + rows_of("random", [[None] * 3])
    assert [type(part) for part in learning_parts(nobody, "command")] == [TableView]
    assert learning_parts([], "command") == []


def test_lessons_are_the_runs_that_learn_gives(problem: Problem) -> None:
    pytest.importorskip("stable_baselines3")
    found = lessons(problem, SCENARIO, seeds=2, episodes=30)
    weights = np.array(SCENARIO.weights())
    cuts = candidate_cuts(problem, weights)
    deepest = max(cuts, key=lambda cut: len(own_sets(problem, cut)))
    names = [problem.graph.cut_name(cut) for cut in (cuts[0], deepest)]
    assert list(dict.fromkeys(each.cut_after for each in found)) == names
    assert {each.player for each in found} == set(LABELS) and {each.seed for each in found} == {0, 1}
    floor = problem.base_accuracy - 0.06
    for player in LABELS:
        run = learn(problem, weights, floor, np.nan, deepest, episodes=30, seed=1, decisions=player)  # type: ignore[arg-type]
        own = [each for each in found if (each.cut_after, each.player, each.seed) == (names[1], player, 1)]
        assert own[-1].episode == 30 and own[0].episode == 1
        for each in own:
            assert (each.best_s or np.inf) == run.best[each.episode - 1]
            assert each.last_reward == pytest.approx(run.rewards.mean())
    assert all(Lesson(**each.to_json()) == each for each in found)
    assert learning_table([each.to_json() for each in found], "command").rows


def test_without_the_library_there_is_no_figure(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "stable_baselines3", None)
    monkeypatch.delitem(sys.modules, "coinfer_ray.methods.ddpg", raising=False)
    assert lessons(problem, SCENARIO, seeds=1, episodes=5) == []
