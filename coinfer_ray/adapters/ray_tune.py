"""The quantum-inspired optimizer as a search algorithm of Ray Tune.

from ray import tune
from coinfer_ray.adapters.ray_tune import QuantumSearch

search = QuantumSearch({"x": tune.uniform(-5, 5)}, metric="loss", mode="min")
tune.Tuner(trainable, tune_config=tune.TuneConfig(search_alg=search, num_samples=200)).fit()
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from copy import copy
from dataclasses import replace
from typing import Any

import numpy as np
from coinfer_kernels import QuantumOptimizer
from ray.tune.search import Searcher
from ray.tune.search.sample import Categorical, Domain, Float, Integer, LogUniform, Quantized, Uniform
from ray.tune.utils.util import flatten_dict  # type: ignore[attr-defined]

from coinfer_ray.adapters.one_by_one import OneByOne, Variable, choice, real, whole
from coinfer_ray.errors import InputError


class QuantumSearch(Searcher):  # type: ignore[misc]
    """A :class:`ray.tune.search.Searcher` around :class:`coinfer_kernels.QuantumOptimizer`.

    The space holds ``tune.uniform``, ``loguniform``, ``quniform``, ``randint``, ``lograndint``, ``qrandint``,
    ``choice`` and constants, nested at will in dictionaries, lists, tuples and choices; without it, the Tuner's
    ``param_space`` is taken. ``violation`` names a result by how much a trial breaks a constraint, 0 where it doesn't;
    a trial that doesn't report it counts as infeasible. Trials in flight are limited by the optimizer's
    population: a batch's last answers are awaited before the next one begins.
    """

    def __init__(
        self,
        space: Mapping[str, Any] | None = None,
        metric: str | None = None,
        mode: str | None = None,
        *,
        violation: str | None = None,
        population: int | None = None,
        seed: int | None = 0,
    ) -> None:
        """Raises InputError for a space that is not understood."""
        super().__init__(metric=metric, mode=mode)
        self.violation = violation
        self._options: dict[str, Any] = {"population": population, "seed": seed}
        self._search: OneByOne | None = None
        self._space: Mapping[str, Any] = {}
        if space is not None:
            self._start(space)

    def _start(self, space: Mapping[str, Any]) -> None:
        domains = list(_domains(space, ()))
        if not domains:
            raise InputError("space: holds nothing to search; tune.uniform and its like do")
        self._space = space
        self._search = OneByOne([_variable(path, domain) for path, domain in domains], **self._options)

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        """Called by Tune with the Tuner's metric, mode and ``param_space``; False where they are set already."""
        if self._search is None:
            self._start(config)
        elif config:
            return False
        self._metric = metric or self._metric
        self._mode = mode or self._mode
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """The next configuration; None while answers are awaited."""
        if self._search is None or self._metric is None:
            raise InputError("search: needs a space and a metric; give them here or to the Tuner")
        found = self._search.suggest(trial_id)
        return None if found is None else _filled(self._space, (), found)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell a trial's result; one that failed or reported no such metric counts as the worst."""
        if self._search is None:
            return
        flat = {} if result is None or error else {**flatten_dict(result, delimiter="/"), **result}
        sign = -1.0 if self._mode == "max" else 1.0
        try:
            value: float | None = sign * float(flat[self._metric])
        except (KeyError, TypeError, ValueError):
            value = None
        self._search.answer(trial_id, value, 0.0 if self.violation is None else flat.get(self.violation))

    @property
    def optimizer(self) -> QuantumOptimizer | None:
        """The optimizer behind; None before the space is known."""
        return None if self._search is None else self._search.optimizer

    def save(self, checkpoint_path: str) -> None:
        """Write the state as NumPy's npz; trials that are running are asked for again after a restore."""
        if self._search is None:
            raise InputError("search: there is nothing to save before the space is known")
        with open(checkpoint_path, "wb") as file:
            np.savez(file, allow_pickle=False, **self._search.state())

    def restore(self, checkpoint_path: str) -> None:
        """Go on from :meth:`save`, in a search over the same space."""
        if self._search is None:
            raise InputError("search: give the space before restoring")
        with np.load(checkpoint_path, allow_pickle=False) as state:
            self._search.load(state)


def _domains(space: Any, path: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], Domain]]:
    """Everything to be searched, with its path; what stands inside of a choice has the choice's place in its path."""
    if isinstance(space, Categorical):
        yield path, space
        for place, one in enumerate(space.categories):
            yield from _domains(one, (*path, place))
    elif isinstance(space, Domain):
        yield path, space
    elif isinstance(space, Mapping):
        if set(space) == {"grid_search"}:
            raise InputError(f"space: {_name(path)} is a grid_search; tune.choice is its like here")
        if set(space) == {"eval"}:
            raise InputError(f"space: {_name(path)} is to be evaluated, which is not understood; use uniform or choice")
        for key, one in space.items():
            yield from _domains(one, (*path, key))
    elif isinstance(space, list | tuple):
        for place, one in enumerate(space):
            yield from _domains(one, (*path, place))


def _filled(space: Any, path: tuple[Any, ...], found: Mapping[Hashable, Any]) -> Any:
    """The space with values in the place of what was searched; all else as it is."""
    if isinstance(space, Categorical):
        place = found[path]
        return _filled(space.categories[place], (*path, place), found)
    if isinstance(space, Domain):
        return found[path]
    if isinstance(space, dict):
        filled = copy(space)  # a subclass stays one
        filled.update((key, _filled(one, (*path, key), found)) for key, one in space.items())
        return filled
    if isinstance(space, Mapping):
        return {key: _filled(one, (*path, key), found) for key, one in space.items()}
    if isinstance(space, list | tuple):
        parts = [_filled(one, (*path, place), found) for place, one in enumerate(space)]
        return type(space)(*parts) if hasattr(space, "_fields") else type(space)(parts)
    return space


def _name(path: tuple[Any, ...]) -> str:
    return "/".join(map(str, path))


def _variable(path: tuple[Any, ...], domain: Domain) -> Variable:
    name = _name(path)
    sampler: Any = domain.get_sampler()  # type: ignore[no-untyped-call]
    step = None
    if isinstance(sampler, Quantized):
        sampler, step = sampler.sampler, sampler.q
    log = isinstance(sampler, LogUniform)
    if isinstance(domain, Categorical):
        choices = range(len(domain.categories))
        return replace(choice(name, choices), name=path)  # the place: a choice may hold more to search
    if isinstance(domain, Float | Integer) and (log or isinstance(sampler, Uniform)) and not (log and step):
        if isinstance(domain, Float):
            return real(path, domain.lower, domain.upper, log=log, step=step)
        # Without steps the upper end is excluded, with steps it is included.
        return whole(path, domain.lower, domain.upper - (step is None), log=log, step=step or 1)
    raise InputError(f"space: {name} is {domain}, which is not understood; use uniform, loguniform, randint or choice")
