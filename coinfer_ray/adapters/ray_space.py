"""Ray Tune's search spaces: what is searched in one, a configuration from what was found, and the way back.

A space is nested at will in dictionaries, lists, tuples and choices. What is searched is known by its path: keys, and
places in lists and choices.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping
from contextlib import suppress
from copy import copy
from dataclasses import replace
from numbers import Integral
from typing import Any

from ray import tune
from ray.tune.search.sample import Categorical, Domain, Float, Integer, LogUniform, Quantized, Uniform

from coinfer_ray.adapters.one_by_one import Variable, choice, equal, multiple, real, whole
from coinfer_ray.errors import InputError

Path = tuple[Any, ...]
_PLAIN = (bool, int, float, str, type(None))  # what JSON gives back as it was


def variables(space: Any) -> list[Variable]:
    """All that is to be searched in ``space``; each variable's name is its path.

    Raises:
        InputError: there is nothing, or something that is not understood.
    """
    found = [_variable(path, domain) for path, domain in _domains(space, ())]
    if not found:
        raise InputError("space: holds nothing to search; tune.uniform and its like do")
    return found


def filled(space: Any, found: Mapping[Hashable, Any], path: Path = ()) -> Any:
    """The space with values in the place of what was searched; all else as it is."""
    if isinstance(space, Categorical):
        place = found[path]
        return filled(space.categories[place], found, (*path, place))
    if isinstance(space, Domain):
        return found[path]
    if isinstance(space, dict):
        made = copy(space)  # a subclass stays one
        made.update((key, filled(one, found, (*path, key))) for key, one in space.items())
        return made
    if isinstance(space, Mapping):
        return {key: filled(one, found, (*path, key)) for key, one in space.items()}
    if isinstance(space, list | tuple):
        parts = [filled(one, found, (*path, place)) for place, one in enumerate(space)]
        return type(space)(*parts) if hasattr(space, "_fields") else type(space)(parts)
    return space


def values_in(space: Any, configuration: Any) -> dict[Hashable, Any]:
    """What :func:`filled` makes ``configuration`` of; a variable inside of a choice that was not taken has its least.

    Constants may be left out of a configuration.

    Raises:
        InputError: it is none of the space's.
    """
    least = {variable.name: variable.decode(variable.low) for variable in variables(space)}
    return least | _values(space, configuration, ())


def document_of(space: Any) -> Any:
    """The space as JSON has it, from which :func:`space_of` makes it again.

    Raises:
        TypeError: it holds what JSON does not give back as it was.
    """
    if isinstance(space, Categorical):
        return {"choice": [document_of(one) for one in space.categories]}
    if isinstance(space, Float | Integer):
        log, step = _scale(space)
        kind, number = ("real", float) if isinstance(space, Float) else ("whole", int)
        bounds = [number(bound) for bound in (space.lower, space.upper)]  # which may be NumPy's
        return {kind: bounds, "log": log, "step": None if step is None else _plain(step)}
    if type(space) in (list, tuple):
        return {type(space).__name__: [document_of(one) for one in space]}
    if type(space) is dict:
        return {"dict": [[document_of(key), document_of(one)] for key, one in space.items()]}
    if type(space) in _PLAIN:
        return {"value": space}
    raise TypeError(f"{type(space).__name__} is not kept")


def _plain(number: Any) -> int | float:
    """A step, which may be NumPy's, as Python's own number; whole numbers stay whole."""
    return int(number) if isinstance(number, Integral) else float(number)


def searched_in(space: Any) -> str:
    """What is searched in ``space``, and where; two spaces of the same text take each other's states.

    Raises:
        TypeError: a choice holds what :func:`document_of` does not keep.
    """
    return repr([(path, document_of(domain)) for path, domain in _domains(space, ())])


def space_of(document: Any) -> Any:
    """The space that :func:`document_of` wrote."""
    kind = next(iter(document))
    held = document[kind]
    if kind == "value":
        return held
    if kind == "choice":
        return tune.choice([space_of(one) for one in held])
    if kind == "dict":
        return {space_of(key): space_of(one) for key, one in held}
    if kind in ("list", "tuple"):
        return (list if kind == "list" else tuple)(space_of(one) for one in held)
    domain: Any = (Float if kind == "real" else Integer)(*held)
    domain = domain.loguniform() if document["log"] else domain.uniform()
    return domain if document["step"] is None else domain.quantized(document["step"])


def _domains(space: Any, path: Path) -> Iterator[tuple[Path, Domain]]:
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


def _name(path: Path) -> str:
    return "/".join(map(str, path))


def _scale(domain: Domain) -> tuple[bool, float | None]:
    """Whether a domain's scale is logarithmic, and its step.

    Raises:
        InputError: it is neither uniform nor log-uniform.
    """
    sampler: Any = domain.get_sampler()  # type: ignore[no-untyped-call]
    step = None
    if isinstance(sampler, Quantized):
        sampler, step = sampler.sampler, sampler.q
    if not isinstance(sampler, Uniform | LogUniform):
        raise InputError(f"space: {domain} is neither uniform nor log-uniform")
    return isinstance(sampler, LogUniform), step


def _variable(path: Path, domain: Domain) -> Variable:
    name = _name(path)
    if isinstance(domain, Categorical):
        choices = range(len(domain.categories))
        return replace(choice(name, choices), name=path)  # the place: a choice may hold more to search
    try:
        log, step = _scale(domain)
    except InputError:
        step, domain = None, Domain()
    if not isinstance(domain, Float | Integer):
        raise InputError(
            f"space: {name} is of a kind that is not understood; use uniform, loguniform, randint or choice"
        )
    _check_range(name, domain, log, step)
    if step is not None:
        return _stepped(path, domain, log, step)
    if isinstance(domain, Float):
        return real(path, domain.lower, domain.upper, log=log)
    return whole(path, domain.lower, domain.upper - 1, log=log)


def _check_range(name: str, domain: Float | Integer, log: bool, step: float | None) -> None:
    """Raise InputError, in the user's own words, for bounds between which there is nothing or no end."""
    integral = isinstance(domain, Integer)
    kind = f"{'' if step is None else 'q'}{'log' if log else ''}{'randint' if integral else 'uniform'}"
    given = ", ".join(str(each) for each in (domain.lower, domain.upper, step) if each is not None)
    what = f"space: {name}: {kind}({given})"
    try:
        lower, upper = float(domain.lower), float(domain.upper)
    except (TypeError, ValueError):
        raise InputError(f"{what} has a bound that is no number; two numbers are needed") from None
    if not math.isfinite(upper - lower):
        raise InputError(f"{what} has no finite width; finite bounds are needed")
    if integral and not (lower.is_integer() and upper.is_integer()):
        raise InputError(f"{what} has a bound with a fraction; whole numbers are needed")
    if upper < lower or (upper == lower and integral and step in (None, 1)):
        raise InputError(f"{what} is empty; the upper end must exceed the lower")


def _stepped(path: Path, domain: Float | Integer, log: bool, step: float) -> Variable:
    """The multiples of ``step`` in the domain, whose ends are included; but not the upper one of integers in steps of
    one."""
    integral = isinstance(domain, Integer)
    upper = domain.upper - (integral and step == 1)
    first, last = _multiple(domain.lower, step, math.ceil), _multiple(upper, step, math.floor)
    if first > last:
        raise InputError(
            f"space: {_name(path)} has no multiple of {step} within {domain.lower} .. {domain.upper}; one is needed"
        )
    return multiple(path, first, last, step, log=log)


def _multiple(bound: float, step: float, rounded: Any) -> int:
    nearest = round(bound / step)
    return nearest if math.isclose(bound / step, nearest) else rounded(bound / step)


def _values(space: Any, given: Any, path: Path) -> dict[Hashable, Any]:
    if isinstance(space, Categorical):
        for place, one in enumerate(space.categories):
            try:
                return {path: place} | _values(one, given, (*path, place))
            except InputError:
                continue
    elif isinstance(space, Domain):
        variable = _variable(path, space)
        with suppress(ValueError):
            return {path: variable.decode(variable.place_of(given))}
    elif isinstance(space, Mapping) and isinstance(given, Mapping) and set(given) <= set(space):
        missing = [key for key in set(space) - set(given) if any(_domains(space[key], ()))]
        if not missing:
            parts = [_values(space[key], given[key], (*path, key)) for key in given]
            return {key: value for part in parts for key, value in part.items()}
        raise InputError(f"parameters: {_name((*path, missing[0]))} is missing")
    elif isinstance(space, list | tuple) and isinstance(given, list | tuple) and len(space) == len(given):
        pairs = enumerate(zip(space, given, strict=True))
        parts = [_values(one, value, (*path, place)) for place, (one, value) in pairs]
        return {key: value for part in parts for key, value in part.items()}
    elif equal(space, given):
        return {}
    raise InputError(f"parameters: {_name(path) or 'they'} = {given!r} is none of the space")
