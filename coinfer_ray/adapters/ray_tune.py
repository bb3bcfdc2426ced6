"""The quantum-inspired optimizer as a search algorithm of Ray Tune.

from ray import tune
from coinfer_ray.adapters.ray_tune import QuantumSearch

search = QuantumSearch({"x": tune.uniform(-5, 5)}, metric="loss", mode="min")
tune.Tuner(trainable, tune_config=tune.TuneConfig(search_alg=search, num_samples=200)).fit()
"""

from __future__ import annotations

import io
import json
import math
import zlib
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from zipfile import BadZipFile

import numpy as np
from coinfer_kernels import QuantumOptimizer
from ray.tune.result import DEFAULT_METRIC
from ray.tune.search import Searcher
from ray.tune.utils.util import flatten_dict  # type: ignore[attr-defined]

from coinfer_ray.adapters.one_by_one import OneByOne
from coinfer_ray.adapters.ray_space import document_of, filled, searched_in, space_of, values_in, variables
from coinfer_ray.errors import InputError
from coinfer_ray.runtime.files import write_whole


class QuantumSearch(Searcher):  # type: ignore[misc]
    """A :class:`ray.tune.search.Searcher` around :class:`coinfer_kernels.QuantumOptimizer`.

    The space holds ``tune.uniform``, ``loguniform``, ``randint``, ``lograndint``, each with steps as well (``quniform``
    and so on), ``choice`` and constants, nested at will in dictionaries, lists, tuples and choices; without it, the
    Tuner's ``param_space`` is taken. ``violation`` names a result by how much a trial breaks a constraint, 0 where it
    doesn't; a trial that doesn't report it counts as infeasible. Trials in flight are limited by the optimizer's
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
        """Raises InputError for a space that is not understood, or several metrics."""
        _check_one(metric, mode)
        super().__init__(metric=metric, mode=mode)
        self.violation = violation
        self._options: dict[str, Any] = {"population": population, "seed": seed}
        self._search: OneByOne | None = None
        self._space: Mapping[str, Any] = {}
        if space is not None:
            self._start(space)

    def _start(self, space: Mapping[str, Any]) -> None:
        self._search = OneByOne(variables(space), **self._options)
        self._space = space

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        """Called by Tune with the Tuner's metric, mode and ``param_space``; False where they are set already.

        A mode without a metric means the number that a trainable returns, as in Tune's own searches.
        """
        _check_one(metric, mode)
        if self._search is None:
            self._start(config)
        elif config:
            return False
        self._metric = metric or self._metric
        self._mode = mode or self._mode
        if self._metric is None and self._mode is not None:
            self._metric = DEFAULT_METRIC
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """The next configuration; None while answers are awaited."""
        if self._search is None or self._metric is None:
            raise InputError("search: needs a space and a metric; give them here or to the Tuner")
        found = self._search.suggest(trial_id)
        return None if found is None else filled(self._space, found)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell a trial's result; one that failed, or whose metric is missing or not finite, counts as the worst."""
        if self._search is None:
            return
        flat = {} if result is None or error else {**flatten_dict(result, delimiter="/"), **result}
        value = self._objective(flat.get(self._metric))
        self._search.answer(trial_id, value, 0.0 if self.violation is None else flat.get(self.violation))

    def add_evaluated_point(
        self,
        parameters: dict[str, Any],
        value: float,
        error: bool = False,
        pruned: bool = False,
        intermediate_values: list[float] | None = None,
    ) -> None:
        """Take the metric of a configuration that was evaluated elsewhere, also through ``add_evaluated_trials``.

        One that failed or was pruned says nothing. With a ``violation`` it counts as infeasible, since what it violates
        is not known.

        Raises:
            InputError: the space is not known yet, or the configuration is none of it.
        """
        if self._search is None:
            raise InputError("search: give the space before points that were evaluated")
        found = values_in(self._space, parameters)
        objective = None if error or pruned else self._objective(value)
        if objective is not None:
            self._search.observe(found, objective, 0.0 if self.violation is None else None)

    def _objective(self, value: Any) -> float | None:
        """A metric as what is to be minimised; None for what is no finite number."""
        try:
            number = float(value)
        except (TypeError, ValueError):
            return None
        return (-number if self._mode == "max" else number) if math.isfinite(number) else None

    @property
    def optimizer(self) -> QuantumOptimizer | None:
        """The optimizer behind; None before the space is known."""
        return None if self._search is None else self._search.optimizer

    def save(self, checkpoint_path: str) -> None:
        """Write the state as NumPy's npz, with the space where it is made of numbers, texts and truth values.

        The file appears whole, in the place of one that is there, or not at all.
        After a restore the answers of trials that were running count. As they may never come, their configurations
        are also given to others, when there is nothing else to give before them.
        """
        if self._search is None:
            raise InputError("search: there is nothing to save before the space is known")
        about = {"metric": self._metric, "mode": self._mode, "violation": self.violation}
        with suppress(TypeError):
            about["space"] = document_of(self._space)
        content = io.BytesIO()
        np.savez(content, allow_pickle=False, about=np.array(json.dumps(about)), **self._search.state())
        write_whole(checkpoint_path, lambda temporary: temporary.write_bytes(content.getvalue()))

    def restore(self, checkpoint_path: str) -> None:
        """Go on from :meth:`save`, in a search over the same space, or one that has none yet and takes that saved.

        What is refused changes nothing.

        Raises:
            InputError: there is no space here, nor was one saved; the file cannot be read, is no checkpoint of a
                search, or is that of another space.
        """
        about, state = _checkpoint(checkpoint_path)
        space: Any = self._space
        if self._search is None:
            if "space" not in about:
                raise InputError("search: the space was not saved with the state; give it before restoring")
            space = space_of(about["space"])
        elif "space" in about and not _same_searched(space, space_of(about["space"])):
            raise InputError(f"search: {checkpoint_path} is of another space; restore it into a search over the same")
        search = OneByOne(variables(space), **self._options)
        try:
            search.load(state, running=True)
        except (IndexError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"search: {checkpoint_path} cannot be restored ({error}); give what save wrote") from None
        if self._search is None:
            self._metric, self._mode = self._metric or about["metric"], self._mode or about["mode"]
            self.violation = self.violation or about["violation"]
        self._search, self._space = search, space


def _checkpoint(path: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a checkpoint says of its search, and the search's state."""
    try:
        with np.load(path, allow_pickle=False) as file:
            state = {name: file[name] for name in file}
        about = json.loads(state.pop("about").item()) if "about" in state else {}
    except OSError as error:
        raise InputError(f"search: {path} cannot be read ({error.strerror or error}); give what save wrote") from None
    except (EOFError, TypeError, ValueError, BadZipFile, zlib.error):
        raise InputError(f"search: {path} is no checkpoint of a search; give what save wrote") from None
    return about, state


def _same_searched(one: Any, other: Any) -> bool:
    """Whether the same is searched in two spaces, as far as that can be said."""
    with suppress(TypeError):
        return searched_in(one) == searched_in(other)
    return True


def _check_one(metric: Any, mode: Any) -> None:
    if not isinstance(metric, str | None) or not isinstance(mode, str | None):
        raise InputError(f"search: has the metrics {metric} and modes {mode}; it takes one of each")
