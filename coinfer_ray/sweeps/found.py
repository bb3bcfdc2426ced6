"""What was found for a chunk of scenarios: a few strategies, and which of them answers which scenario."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from coinfer_kernels.notation import Scenarios, Solutions
from numpy.typing import NDArray

from coinfer_ray.atlas.atlas import StrategyAtlas
from coinfer_ray.errors import InputError
from coinfer_ray.optimizer.problem import Problem
from coinfer_ray.optimizer.solve import judged
from coinfer_ray.problem.costs import Times
from coinfer_ray.scenarios.grid import SPEEDS, Grid

NOTHING = -1  # the index of a scenario that no strategy answers
_ID_BITS = 52  # an id stays exact as a float64, which is what some readers make of columns with nulls


@dataclass(frozen=True, eq=False)
class Found:
    """Answers to S scenarios out of K strategies.

    ``levels`` (K, V) and ``accuracy`` (K,): the strategies, of which two are the same where a noisy channel makes their
    accuracies differ; ``error`` (K,) the standard error of a loss that was measured, NaN where it was not. ``index``
    (S,): the one that answers each scenario, :data:`NOTHING` where none is feasible. ``objective``, ``lower_bound``
    (S,) and ``evaluations`` (S,) as in :class:`coinfer_kernels.notation.Solutions`.
    """

    levels: NDArray[np.int64]
    accuracy: NDArray[np.float64]
    error: NDArray[np.float64]
    index: NDArray[np.int64]
    objective: NDArray[np.float64]
    lower_bound: NDArray[np.float64]
    evaluations: NDArray[np.int64]

    @classmethod
    def of(cls, problem: Problem, solutions: Solutions, snr_db: np.ndarray) -> Found:
        """Solutions of ``problem`` for links of ``snr_db`` (S,) with each of their strategies once."""
        feasible, error = solutions.feasible, np.full(len(solutions.feasible), np.nan)
        for own, rows in problem.by_snr(snr_db):
            error[rows] = own.measured.errors_of(solutions.levels[rows])
        columns = solutions.levels, solutions.accuracy.view(np.int64), error.view(np.int64)
        rows = np.column_stack([column[feasible] for column in columns])
        distinct, which = np.unique(rows, axis=0, return_inverse=True)
        index = np.full(len(feasible), NOTHING)
        index[feasible] = which.reshape(-1)  # (n, 1) in NumPy 2.0
        return cls(
            np.ascontiguousarray(distinct[:, :-2]),
            np.ascontiguousarray(distinct[:, -2]).view(np.float64),
            np.ascontiguousarray(distinct[:, -1]).view(np.float64),
            index,
            solutions.objective,
            solutions.lower_bound,
            solutions.evaluations,
        )

    @classmethod
    def by_atlas(cls, problem: Problem, grid: Grid, start: int, stop: int, atlases: Sequence[StrategyAtlas]) -> Found:
        """The answers to scenarios ``start`` to ``stop - 1`` of ``grid``, all of ``problem``'s network, by look-ups.

        Raises:
            InputError: a scenario for which none of the atlases is proven.
        """
        entries, weights = grid.entries(start, stop), grid.objective_weights(start, stop)
        cases = _Cases.of(problem, grid, atlases)
        case = cases.number(entries)
        first = np.cumsum([0, *(len(atlas) for atlas in atlases)])
        index, objective = np.empty(stop - start, dtype=np.int64), np.empty(stop - start)
        lower_bound = np.empty(stop - start)
        atlas_of = cases.atlas[case]
        for number in np.flatnonzero(np.bincount(atlas_of)).tolist():
            rows = slice(None) if (atlas_of == number).all() else np.flatnonzero(atlas_of == number)
            found, objective[rows] = atlases[number].lookup(weights[rows])
            index[rows] = found + first[number]
            lower_bound[rows] = objective[rows] / atlases[number].info.ratio
        levels = np.concatenate([atlas.table.levels for atlas in atlases])
        accuracy = np.concatenate([atlas.table.accuracy for atlas in atlases])
        links = [problem.at_link(atlas.info.snr_db and atlas.info.snr_db[1]) for atlas in atlases]
        error = np.concatenate(
            [link.measured.errors_of(atlas.table.levels) for link, atlas in zip(links, atlases, strict=True)]
        )
        nothing = np.zeros(stop - start, dtype=np.int64)
        whole = cls(levels, accuracy, error, index, objective, lower_bound, nothing)
        refuted = cases.refuted(problem, levels)
        return whole._judged(problem, grid, start, refuted[case, index]) if refuted.any() else whole

    def _judged(self, problem: Problem, grid: Grid, start: int, wrong: np.ndarray) -> Found:
        """With the best measured strategy in place of those that were measured and fall below a scenario's floor."""
        rows = np.flatnonzero(wrong)
        if not len(rows):
            return self
        columns = grid.columns(start, start + len(self.index))
        scenarios = Scenarios(
            grid.objective_weights(start, start + len(self.index))[rows],
            problem.base_accuracy - columns["max_loss"][rows],
            columns["snr_db"][rows],
        )
        own = Solutions(
            self.levels[self.index[rows]],
            self.objective[rows],
            self.accuracy[self.index[rows]],
            self.evaluations[rows],
            np.ones(len(rows), dtype=np.bool_),
            self.lower_bound[rows],
        )
        right = Found.of(problem, judged(problem, own, scenarios, columns["confidence"][rows]), columns["snr_db"][rows])
        index, objective = self.index.copy(), self.objective.copy()
        index[rows] = np.where(right.index == NOTHING, NOTHING, right.index + len(self.levels))
        objective[rows] = right.objective
        return Found(
            np.concatenate([self.levels, right.levels]),
            np.concatenate([self.accuracy, right.accuracy]),
            np.concatenate([self.error, right.error]),
            index,
            objective,
            self.lower_bound,
            self.evaluations,
        )

    def used(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The strategies that answer some scenario, rising, and how many each answers."""
        counts = np.bincount(self.index[self.index != NOTHING], minlength=len(self.levels))
        return np.flatnonzero(counts), counts[counts > 0]


@dataclass(frozen=True, eq=False)
class _Cases:
    """What of a scenario decides which atlas answers it: its loss, its confidence and, over noise, its link.

    N cases: ``floor``, ``confidence``, ``snr_db`` and ``atlas`` (N,), the last an index.
    """

    floor: NDArray[np.float64]
    confidence: NDArray[np.float64]
    snr_db: NDArray[np.float64]
    atlas: NDArray[np.int64]
    losses: int
    confidences: int
    noisy: bool

    @classmethod
    def of(cls, problem: Problem, grid: Grid, atlases: Sequence[StrategyAtlas]) -> _Cases:
        noisy = problem.predictor.noisy
        ratios = grid.link.columns["snr_db"] if noisy else np.full(1, np.nan)
        shape = len(ratios), len(grid.max_loss), len(grid.confidence)
        ratio, loss, confidence = (
            np.broadcast_to(each, shape).ravel()
            for each in (ratios[:, None, None], grid.max_loss[:, None], grid.confidence)
        )
        floor = problem.base_accuracy - loss
        required = problem.required_accuracy(floor, confidence)
        which = np.empty(len(floor), dtype=np.int64)
        for case, (wanted, snr_db) in enumerate(zip(required, ratio, strict=True)):
            found = [number for number, atlas in enumerate(atlases) if atlas.covers(wanted, snr_db)]
            if not found:
                raise InputError(f"atlas: none was built for an accuracy of {wanted:.4f} at an SNR of {snr_db:g} dB")
            which[case] = found[0]
        return cls(floor, confidence, ratio, which, len(grid.max_loss), len(grid.confidence), noisy)

    def number(self, entries: dict[str, NDArray[np.int32]]) -> NDArray[np.int32]:
        """(S,) the case of each scenario."""
        case = entries["max_loss"] * np.int32(self.confidences) + entries["confidence"]
        return case + entries["link"] * np.int32(self.losses * self.confidences) if self.noisy else case

    def refuted(self, problem: Problem, levels: np.ndarray) -> np.ndarray:
        """(N, K) bool: whether a strategy was measured and falls below what a case asks for."""
        wrong = np.zeros((len(self.floor), len(levels)), dtype=np.bool_)
        for own, cases in problem.by_snr(self.snr_db):
            place = own.measured.find(levels)
            for case in cases:
                confidence = self.confidence[case]
                bound = own.measured_bound(None if np.isnan(confidence) else float(confidence))
                wrong[case, place >= 0] = bound[place[place >= 0]] < self.floor[case]
        return wrong


def measured_speeds(times: Times) -> list[str]:
    """The columns of speeds that mean nothing, for the times of that side's layers are measured."""
    return [SPEEDS[side] for side, each in zip(("device", "server"), times, strict=True) if each is not None]


def strategy_ids(problem: Problem, levels: np.ndarray) -> NDArray[np.int64]:
    """(K,) a number for each strategy ``levels`` (K, V) that follows from the network's graph, from what the strategy
    is, and from how its costs are counted: the same in every sweep in which these are.

    52 bits of a hash: among 100,000 strategies two are alike with a probability of 1e-6; writing a sweep's table of
    them checks it.
    """
    tables, provenance = problem.delay.tables, problem.provenance()
    counted = [tables.input_bits, tables.codec_flops, provenance.get("layer_seconds")]
    of_problem = hashlib.sha256(json.dumps([problem.graph.fingerprint, counted], sort_keys=True).encode())
    heads = []
    for row in levels:
        digest = of_problem.copy()
        digest.update(json.dumps(problem.space.strategy(row).to_json(), sort_keys=True).encode())
        heads.append(digest.digest()[:8])
    return np.array([int.from_bytes(head, "big") >> (64 - _ID_BITS) for head in heads], dtype=np.int64)
