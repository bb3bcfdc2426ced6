"""The quantum-inspired optimizer as a search algorithm of Ray Tune.

from ray import tune
from coinfer_ray.adapters.ray_tune import QuantumSearch

search = QuantumSearch({"x": tune.uniform(-5, 5)}, metric="loss", mode="min")
tune.Tuner(trainable, tune_config=tune.TuneConfig(search_alg=search, num_samples=200)).fit()
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from coinfer_kernels import QuantumOptimizer
from ray.tune.search import Searcher
from ray.tune.search.sample import Categorical, Domain, Float, Integer, LogUniform, Quantized, Uniform
from ray.tune.search.variant_generator import parse_spec_vars
from ray.tune.utils.util import flatten_dict, unflatten_dict  # type: ignore[attr-defined]

from coinfer_ray.adapters.one_by_one import OneByOne, Variable, choice, real, whole
from coinfer_ray.errors import InputError


class QuantumSearch(Searcher):  # type: ignore[misc]
    """A :class:`ray.tune.search.Searcher` around :class:`coinfer_kernels.QuantumOptimizer`.

    The space holds ``tune.uniform``, ``loguniform``, ``quniform``, ``randint``, ``lograndint``, ``qrandint``,
    ``choice`` and constants, nested at will; without it, the Tuner's ``param_space`` is taken. ``violation`` names a
    result by how much a trial breaks a constraint, 0 where it doesn't. Trials in flight are limited by the optimizer's
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
        seed: int = 0,
    ) -> None:
        """Raises InputError for a space that is not understood."""
        super().__init__(metric=metric, mode=mode)
        self.violation = violation
        self._options: dict[str, Any] = {"population": population, "seed": seed}
        self._search: OneByOne | None = None
        self._constants: dict[str, Any] = {}
        if space is not None:
            self._start(space)

    def _start(self, space: Mapping[str, Any]) -> None:
        fixed, domains, grids = parse_spec_vars(dict(space))
        if grids:
            raise InputError("space: holds a grid_search; tune.choice is its like here")
        if not domains:
            raise InputError("space: holds nothing to search; tune.uniform and its like do")
        variables = [_variable("/".join(map(str, path)), domain) for path, domain in domains]
        self._constants = {"/".join(map(str, path)): value for path, value in fixed}
        self._search = OneByOne(variables, **self._options)

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
        return None if found is None else unflatten_dict({**self._constants, **found}, delimiter="/")

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell a trial's result; one that failed or reported no such metric counts as the worst."""
        if self._search is None:
            return
        flat = {} if result is None or error else flatten_dict(result, delimiter="/")
        value = flat.get(self._metric)
        sign = -1.0 if self._mode == "max" else 1.0
        broken = 0.0 if self.violation is None else max(0.0, float(flat.get(self.violation, 0.0)))
        self._search.answer(trial_id, None if value is None else sign * float(value), broken)

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


def _variable(name: str, domain: Domain) -> Variable:
    sampler: Any = domain.get_sampler()  # type: ignore[no-untyped-call]
    step = None
    if isinstance(sampler, Quantized):
        sampler, step = sampler.sampler, sampler.q
    log = isinstance(sampler, LogUniform)
    if isinstance(domain, Categorical):
        return choice(name, domain.categories)
    if isinstance(domain, Float | Integer) and (log or isinstance(sampler, Uniform)) and not (log and step):
        if isinstance(domain, Float):
            return real(name, domain.lower, domain.upper, log=log, step=step)
        # Without steps the upper end is excluded, with steps it is included.
        return whole(name, domain.lower, domain.upper - (step is None), log=log, step=step or 1)
    raise InputError(f"space: {name} is {domain}, which is not understood; use uniform, loguniform, randint or choice")
