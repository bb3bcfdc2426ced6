"""The quantum-inspired optimizer as a sampler of Optuna.

import optuna
from coinfer_ray.adapters.optuna import QuantumSampler

study = optuna.create_study(sampler=QuantumSampler(seed=0))
study.optimize(objective, n_trials=500)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler, RandomSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from coinfer_ray.adapters.one_by_one import OneByOne, Variable, choice, real, whole
from coinfer_ray.errors import InputError


class QuantumSampler(BaseSampler):
    """An :class:`optuna.samplers.BaseSampler` around :class:`coinfer_kernels.QuantumOptimizer`.

    The first trial is random and shows the parameters; from then on those that every trial has are searched, the
    others drawn at random. Trials that run while a batch's last answers are awaited are random too; after as many of
    those as a batch has, the answers that are still missing are given up. A trial that ran with other parameters than
    were suggested to it, as one that was enqueued does, counts for those. ``violation`` says of a finished trial by
    how much it breaks a constraint, 0 where it doesn't, NaN where that is not known; or gives several such numbers.
    The state lives in this object, not in the study's storage: one process asks, any may tell.
    """

    def __init__(
        self,
        *,
        population: int | None = None,
        seed: int | None = 0,
        violation: Callable[[FrozenTrial], float | Sequence[float]] | None = None,
    ) -> None:
        self._options: dict[str, Any] = {"population": population, "seed": seed, "patience": 1}
        self._violation = violation
        self._random = RandomSampler(seed=seed)
        self._space = IntersectionSearchSpace()
        self._search: OneByOne | None = None
        self._searched: dict[str, BaseDistribution] = {}
        self._lock = Lock()  # trials of one study may run in several threads

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=Lock())

    def reseed_rng(self) -> None:
        """Only the random trials' generator; the optimizer keeps its own."""
        self._random.reseed_rng()

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The parameters that all finished trials have."""
        _check_one(study)
        with self._lock:
            space = self._space.calculate(study)
        return {name: domain for name, domain in space.items() if not domain.single()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The next solution's parameters; none while answers are awaited."""
        if not search_space:
            return {}
        with self._lock:
            if self._search is None or search_space != self._searched:
                self._searched = dict(search_space)
                self._search = OneByOne([_variable(*item) for item in search_space.items()], **self._options)
            if awaited := set(self._search.awaited):
                # Those that another process told, or a storage gave up, are finished without a call of after_trial.
                for other in study.get_trials(deepcopy=False):
                    if other.state.is_finished() and str(other.number) in awaited:
                        self._tell(study, other, other.state, other.values)
            found = self._search.suggest(str(trial.number)) or {}
        return {str(name): value for name, value in found.items()}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A parameter at random."""
        _check_one(study)
        return self._random.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Tell the trial's answer; one that failed or was pruned counts as the worst."""
        with self._lock:
            self._tell(study, trial, state, values)

    def _tell(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        if self._search is None:
            return
        answer: tuple[float | None, Any] = None, 0.0
        try:
            if state == TrialState.COMPLETE and values:
                sign = -1.0 if study.direction == StudyDirection.MAXIMIZE else 1.0
                answer = sign * values[0], 0.0 if self._violation is None else self._violation(trial)
        finally:  # also where violation raises, so that the trial is not awaited
            self._search.answer(str(trial.number), *answer, trial.params)


def _check_one(study: Study) -> None:
    if len(study.directions) > 1:
        raise InputError("study: has several objectives; this sampler takes one")


def _variable(name: str, domain: BaseDistribution) -> Variable:
    if isinstance(domain, CategoricalDistribution):
        return choice(name, domain.choices)
    if isinstance(domain, FloatDistribution):
        return real(name, domain.low, domain.high, log=domain.log, step=domain.step)
    if isinstance(domain, IntDistribution):
        return whole(name, domain.low, domain.high, log=domain.log, step=domain.step)
    raise InputError(f"study: {name} is {domain}, which is not understood")
