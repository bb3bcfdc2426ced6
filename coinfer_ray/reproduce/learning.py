"""Whether CIA's agent learns anything: its best strategy so far, beside that of random decisions.

Both play as many episodes of the same decisions under the same reward, on the same predictions (confidence None), at
the same cut: the most promising of those that the method tries, and the one of them with most to decide. The control
needs no library; without the extra ``rl`` there is no figure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any, get_args

import numpy as np

from coinfer_ray.errors import InputError
from coinfer_ray.methods.cia import CUTS, WARM_UP, Decisions, candidate_cuts, learn
from coinfer_ray.methods.layerwise import codec_variable, own_sets
from coinfer_ray.optimizer.problem import Problem
from coinfer_ray.report.model import Cell, Column, Figure, Series, TableView
from coinfer_ray.reproduce.figures import network
from coinfer_ray.scenarios.scenario import Scenario

POINTS = 33  # of a curve, evenly spaced in the logarithm of the episode
LAST = 100  # episodes whose mean reward is compared
LABELS: dict[str, str] = {"learnt": "CIA's agent", "random": "random decisions"}


@dataclass(frozen=True)
class Lesson:
    """One run, at one of its episodes. ``decisions``: how many an episode has; ``best_s``: the least latency up to
    then of a strategy that keeps the bound, None before there is one; ``last_reward``: the mean of the run's last
    :data:`LAST` episodes."""

    model: str
    device: str
    link: str
    cut_after: str
    decisions: int
    player: str
    seed: int
    episode: int
    best_s: float | None
    last_reward: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def lessons(problem: Problem, scenario: Scenario, seeds: int, episodes: int) -> list[Lesson]:
    """Runs of the agent and of its control from ``seeds`` seeds each; none where the extra is not installed."""
    weights, floor = np.array(scenario.weights("latency")), problem.base_accuracy - scenario.max_loss
    found = []
    for cut in _cuts(problem, weights):
        point = int(problem.space.variables[problem.space.cut_variable].values[cut])
        steps = len(own_sets(problem, cut)) + (codec_variable(problem, cut) is not None)
        for player in get_args(Decisions):
            for seed in range(seeds):
                try:
                    run = learn(problem, weights, floor, np.nan, cut, episodes=episodes, seed=seed, decisions=player)
                except InputError:
                    return []
                last = fmean(run.rewards[-LAST:].tolist())
                for episode in _shown(episodes):
                    best = float(run.best[episode - 1])
                    found.append(
                        Lesson(
                            model=problem.graph.model,
                            device=scenario.device.name,
                            link=scenario.link.name,
                            cut_after=problem.graph.cut_name(point),
                            decisions=steps,
                            player=player,
                            seed=seed,
                            episode=episode,
                            best_s=best if np.isfinite(best) else None,
                            last_reward=last,
                        )
                    )
    return found


def _cuts(problem: Problem, weights: np.ndarray) -> list[int]:
    tried = candidate_cuts(problem, weights, CUTS)
    most = max(tried, key=lambda cut: len(own_sets(problem, cut)))
    return list(dict.fromkeys([tried[0], most]))


def _shown(episodes: int) -> list[int]:
    """Episodes of a curve, the last one and that of the warm-up's end among them."""
    even = np.geomspace(1, episodes, POINTS).round().astype(int).tolist()
    return sorted({*even, min(WARM_UP, episodes)})


def learning_parts(rows: Sequence[dict[str, Any]], command: str) -> list[Figure | TableView]:
    """Figure and table; the table alone where no seed's run, or not all, came to a strategy that keeps the bound."""
    if not rows:
        return []
    figure, table = learning_figure(rows, command), learning_table(rows, command)
    return [table] if figure is None else [figure, table]


def learning_figure(rows: Sequence[dict[str, Any]], command: str) -> Figure | None:
    """Mean over seeds of the best latency so far, a panel for each network and cut; None without a point to draw."""
    series = []
    for place, own in _places(rows).items():
        for player, label in LABELS.items():
            x, y, text = [], [], []
            for episode in sorted({row.episode for row in own}):
                found = [row.best_s for row in own if (row.player, row.episode) == (player, episode)]
                known = [best for best in found if best is not None]
                if not known or len(known) < len(found):
                    continue  # a mean over the seeds that have found one would favour the luckier half
                x.append(episode)
                y.append(1e3 * fmean(known))
                spread = f"{1e3 * min(known):,.4g} to {1e3 * max(known):,.4g}"
                text.append(f"{label}, episode {episode}: {y[-1]:,.4g} ms\n{spread} ms over {len(known)} seeds")
            if x:
                filters = {"network": network(own[0].model)}
                series.append(Series(label=label, x=x, y=y, text=text, panel=place, filters=filters))
    if not series:
        return None
    return Figure(
        name="cia-learning",  # beside learning.csv, the rows behind it
        title="Whether CIA's agent learns",
        caption="The best strategy so far, in the mean over seeds: the agent, whose first "
        f"{WARM_UP} episodes are random too, beside random decisions alone, under the same reward and predictions.",
        command=command,
        kind="line",
        x_label="episode",
        y_label="least latency so far (ms)",
        x_log=True,
        y_log=True,
        series=series,
    )


def learning_table(rows: Sequence[dict[str, Any]], command: str) -> TableView:
    """What both ended with, and what their last episodes were worth."""
    cells: list[Sequence[str | float | Cell | None]] = []
    for own in _places(rows).values():
        last = max(row.episode for row in own)
        for player, label in LABELS.items():
            ends = [row for row in own if (row.player, row.episode) == (player, last)]
            best = [1e3 * row.best_s for row in ends if row.best_s is not None]
            spread = [f"{value:,.4g}" for value in (min(best), max(best))] if best else ["none", "none"]
            one = ends[0]
            cells.append(
                [
                    network(one.model),
                    one.cut_after,
                    float(one.decisions),
                    label,
                    float(len(ends)),
                    f"{len(best)} of {len(ends)}",
                    Cell(f"{fmean(best):,.4g}", fmean(best)) if best else None,
                    " to ".join(spread),
                    round(fmean([row.last_reward for row in ends]), 3),
                ]
            )
    return TableView(
        title="CIA's agent and its control",
        caption=f"Least latency after all episodes, and the mean reward of the last {LAST}: an agent that learns ends "
        "with a higher one. The reward is the logarithm of the gain over the network as it is, less what the bound "
        "lacks.",
        command=command,
        columns=[
            Column("network"),
            Column("cut after"),
            Column("decisions", numeric=True),
            Column("who decides"),
            Column("seeds", numeric=True),
            Column("kept the bound"),
            Column("least latency, mean (ms)", numeric=True),
            Column("over the seeds (ms)"),
            Column("reward at the end", numeric=True),
        ],
        rows=cells,
        filters={"network": "network"},
    )


def _places(rows: Sequence[dict[str, Any]]) -> dict[str, list[Lesson]]:
    """Rows by network and cut."""
    found: dict[str, list[Lesson]] = {}
    for row in rows:
        each = Lesson(**row)
        name = f"{network(each.model)} after {each.cut_after} ({each.decisions} decisions)"
        found.setdefault(name, []).append(each)
    return found
