"""CIA (X. Zhang, J. Shao, Y. Mao, J. Zhang, "Communication-Computation Efficient Device-Edge Co-Inference via AutoML",
IEEE GLOBECOM 2021): a learnt agent decides the sparsity of one on-device layer after the other, and at last how far
the codec compresses the feature. **This is our reconstruction**: the paper's code is not public, and what it leaves
open is filled in from AMC (:mod:`coinfer_ray.methods.layerwise`, :mod:`coinfer_ray.methods.ddpg`).

For a cut one agent plays 800 episodes by default, the first 100 at random; each ends in a strategy, whose accuracy the
problem's predictor tells (the paper trains; so this row shows what the agent makes of the same predictions that the
proposed method goes by). The answer is the best strategy that any episode came to within the accuracy bound.

The cut is given to the paper's agent. Here an agent each plays the six cuts (:data:`CUTS`) at which the unpruned
network with a codec of ratio 1/8 costs least; of cuts that send as many bits behind the same prunable sets only the
cheapest counts. The server's layers are never pruned.

The network as it is, and the records' strategies that its steps could have led to, take part by their measured
accuracy, as with the proposed method. With a confidence that predictions do not carry they are all that can be chosen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from coinfer_kernels import Solutions
from coinfer_kernels.costs import latencies
from coinfer_kernels.notation import CUT_RAW
from numpy.typing import NDArray

from coinfer_ray.errors import InputError
from coinfer_ray.methods.layerwise import STATE, Episodes, Judge, codec_variable, expressible, own_sets
from coinfer_ray.optimizer.answers import Answers
from coinfer_ray.optimizer.problem import UNREACHABLE, Problem, each_confidence
from coinfer_ray.optimizer.solve import check_snr
from coinfer_ray.scenarios.batch import ScenarioBatch

Decisions = Literal["learnt", "random"]
EPISODES = 800
WARM_UP = 100
CUTS = 6
_USUAL_RATIO = 1 / 8  # of a codec, by which cuts are compared before anything is learnt


@dataclass(frozen=True)
class Cia:
    """See :class:`coinfer_ray.methods.registry.Method`. ``episodes`` are played at each of ``cuts`` cuts."""

    episodes: int = EPISODES
    cuts: int = CUTS
    name = "cia"
    title = "CIA (our reconstruction)"
    predicts = True
    plain = False
    in_paper = True

    def solve(self, problem: Problem, batch: ScenarioBatch, *, seed: int = 0) -> Answers:
        """The best strategies that the agents came to, one scenario after the other: a minute or two each.

        Raises:
            InputError: the extra ``rl`` is not installed; no records; a confidence that they cannot promise; or a
                link without SNR where they come from a noisy channel; a stream's throughput, which is no sum of costs.
        """
        if batch.stream:
            raise InputError("methods: cia learns sums of costs, and throughput is none; leave it out")
        check_snr(problem, batch.snr_db)
        floors = problem.base_accuracy - batch.max_loss
        confidence = each_confidence(batch.confidence, len(batch))
        required = problem.required_accuracy(floors, confidence)
        rows = []
        for s in range(len(batch)):
            link = problem.at_link(float(batch.snr_db[s]))
            measured = link.measured.levels
            facts = np.concatenate([problem.known_levels, measured[expressible(problem, measured)]])
            asked = None if np.isnan(confidence[s]) else float(confidence[s])
            judge = Judge(link, float(floors[s]), asked, float(batch.snr_db[s]))
            runs = []
            if required[s] < UNREACHABLE:
                for cut in candidate_cuts(problem, batch.weights[s], self.cuts):
                    own = int(np.random.SeedSequence([seed, batch.first + s, cut]).generate_state(1)[0])
                    runs.append(_learn(link, batch.weights[s], judge, cut, self.episodes, own))
            rows.append(_best(link, batch.weights[s], judge, facts, runs))
        found = Solutions._make(np.concatenate(column) for column in zip(*rows, strict=True))
        return problem.answers(found, batch.snr_db)


@dataclass(frozen=True, eq=False)
class CiaRun:
    """What one agent came to at one cut, and how.

    ``rewards`` (E,) of its episodes, warm-up first; ``best`` (E,) the objective of the best strategy within the
    accuracy bound up to each, infinite before there is one; ``levels`` (V,) that strategy at the end, or the most
    accurate one that was seen, and ``accuracy`` its accuracy.
    """

    rewards: NDArray[np.float64]
    best: NDArray[np.float64]
    levels: NDArray[np.int64]
    accuracy: float

    @property
    def objective(self) -> float:
        return float(self.best[-1])


def learn(
    problem: Problem,
    weights: NDArray[np.float64],
    floor: float,
    snr_db: float,
    cut: int,
    *,
    confidence: float | None = None,
    episodes: int = EPISODES,
    seed: int = 0,
    decisions: Decisions = "learnt",
) -> CiaRun:
    """Let one agent play ``episodes`` at the cut level ``cut`` of a scenario, the learning curve included.

    With ``decisions`` at ``random`` nobody learns: each is drawn evenly from 0..1, as in an agent's warm-up. That is
    the control that an agent has to beat on the same episodes.

    ``weights`` (3,) or (4,) are the scenario's, ``floor`` the accuracy to be reached, with ``confidence`` (None: as
    predicted); ``snr_db`` in dB is NaN where the predictor needs none.

    Raises:
        InputError: the extra ``rl`` is not installed, no episode is asked for, the cut has nothing to decide, or a
            confidence that the records cannot promise.
    """
    cuts = problem.space.searched_cuts
    if not (0 <= cut < cuts and own_sets(problem, cut)):
        raise InputError(f"cia: nothing can be decided at cut {cut} of 0 .. {cuts - 1}; take one behind a layer")
    link = problem.at_link(snr_db)
    return _learn(link, weights, Judge(link, floor, confidence, snr_db), cut, episodes, seed, decisions)


def candidate_cuts(problem: Problem, weights: NDArray[np.float64], most: int = CUTS) -> list[int]:
    """At most ``most`` levels of the cut, the most promising one first (see the module)."""
    tables, space = problem.delay.tables, problem.space
    cuts = [cut for cut, kind in enumerate(tables.cut_kind[: space.searched_cuts]) if kind != CUT_RAW]
    levels = np.zeros((len(cuts), len(space.variables)), dtype=np.int64)
    levels[:, space.cut_variable] = cuts
    plain_bits = problem.delay.costs(levels)[:, 2]
    for row, cut in enumerate(cuts):
        ratio = codec_variable(problem, cut)
        if ratio is not None:
            levels[row, ratio] = np.abs(np.asarray(space.variables[ratio].values) - _USUAL_RATIO).argmin()
    objective = latencies(problem.delay.costs(levels), weights[None])[:, 0]
    chosen: dict[tuple[int, float], int] = {}
    for row in np.argsort(objective, kind="stable"):
        chosen.setdefault((len(own_sets(problem, cuts[row])), float(plain_bits[row])), cuts[row])
    return [cut for cut in chosen.values() if own_sets(problem, cut)][:most]


class _Recorded:
    """Episodes, of which the rewards and the best strategy are kept."""

    def __init__(self, episodes: Episodes) -> None:
        self.episodes = episodes
        self.rewards: list[float] = []
        self.best: list[float] = []
        self.levels, self.objective, self.accuracy, self.spare = episodes.levels.copy(), np.inf, 0.0, -np.inf

    @property
    def steps(self) -> int:
        return self.episodes.steps

    @property
    def size(self) -> int:
        return STATE

    def reset(self) -> NDArray[np.float32]:
        return self.episodes.reset()

    def step(self, action: float) -> tuple[NDArray[np.float32], float, bool]:
        state, reward, end = self.episodes.step(action)
        if end:
            now = self.episodes
            objective = now.objective if now.spare >= 0 else np.inf
            if objective < self.objective or (np.isinf(self.objective) and now.spare > self.spare):
                self.levels, self.objective = now.levels.copy(), objective
                self.accuracy, self.spare = now.accuracy, now.spare
            self.rewards.append(reward)
            self.best.append(self.objective)
        return state, reward, end


def _learn(
    problem: Problem,
    weights: NDArray[np.float64],
    judge: Judge,
    cut: int,
    episodes: int,
    seed: int,
    decisions: Decisions = "learnt",
) -> CiaRun:
    if episodes < 1:
        raise InputError(f"cia: {episodes} episodes are too few; at least 1 is needed")
    task = _Recorded(Episodes(problem, weights, judge, cut))
    if decisions == "random":
        rng = np.random.default_rng(seed)
        for _ in range(episodes):
            task.reset()
            for action in rng.random(task.steps):
                task.step(float(action))
    else:
        try:
            from coinfer_ray.methods.ddpg import run_ddpg
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] not in ("stable_baselines3", "gymnasium", "torch"):
                raise
            raise InputError("cia: needs stable-baselines3 and gymnasium; pip install 'coinfer-ray[rl]'") from None
        run_ddpg(task, episodes, min(WARM_UP, episodes), seed)
    return CiaRun(np.array(task.rewards), np.array(task.best), task.levels, task.accuracy)


def _best(
    problem: Problem, weights: NDArray[np.float64], judge: Judge, facts: NDArray[np.int64], runs: list[CiaRun]
) -> Solutions:
    """The solution of one scenario: the cheapest accurate enough of the facts (K, V) and of what was learnt."""
    levels = np.concatenate([facts, *(run.levels[None] for run in runs)])
    accuracy, spare = judge(levels)
    costs, place = problem.delay.costs(levels), problem.measured.find(levels)
    costs[place >= 0] = problem.measured.costs[place[place >= 0]]
    objective = np.where(spare >= 0, latencies(costs, weights[None])[:, 0], np.inf)
    best = int(objective.argmin() if np.isfinite(objective).any() else accuracy.argmax())
    return Solutions(
        levels=levels[best : best + 1],
        objective=objective[best : best + 1],
        accuracy=accuracy[best : best + 1],
        evaluations=np.array([len(facts) + sum(len(run.rewards) for run in runs)]),
        feasible=np.isfinite(objective[best : best + 1]),
        lower_bound=np.full(1, np.nan),
    )
