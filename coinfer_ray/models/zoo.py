"""Building networks: torchvision's by name, a user's own by where they are or from an object."""

from __future__ import annotations

import copy
import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn
from torchvision import models as torchvision_models

from coinfer_ray.errors import InputError, check_name
from coinfer_ray.models.source import Absent, ModelLike, ModelSource, resolve_model

CLASSES_ARGUMENT = "num_classes"  # by which a callable is told how many class scores to give


def known_models() -> list[str]:
    """Classification networks of torchvision, by name."""
    return list(torchvision_models.list_models(module=torchvision_models))


def check_model(model: str) -> None:
    """Raises InputError, with the nearest names, unless torchvision builds ``model``."""
    check_name("model", model, known_models())


def build(model: ModelLike, classes: int) -> nn.Module:
    """A network with ``classes`` outputs, where it lets itself be told how many; freshly initialised unless it is a
    module, of which this is a copy with its weights.

    Raises:
        InputError: torchvision has no classification network of that name; a module or a callable that is not there,
            raises, or gives no ``nn.Module``; or a layer graph, which cannot be built.
    """
    source = resolve_model(model)
    if source.kind == "graph":
        raise InputError(
            f"model: the layer graph of {source.name} serves the search alone; to train, give the network itself, as "
            "package.module:callable"
        )
    if source.kind == "name":
        check_model(source.name)
        network: nn.Module = torchvision_models.get_model(source.name, weights=None, num_classes=classes)
        return network
    target = given(source)
    if isinstance(target, nn.Module):
        return copy.deepcopy(target).float()
    return _called(source.name, target, classes)


def given(source: ModelSource) -> nn.Module | Callable[..., Any]:
    """What stands behind a network of the user's own: a module with weights, or what builds one.

    Raises:
        InputError: as :func:`build`.
    """
    found: Any = _imported(source.given) if source.kind == "import" else source.given
    if not callable(found):
        raise InputError(
            f"model: {source.name} is a {type(found).__name__}, not callable; name a function or class that gives an "
            "nn.Module"
        )
    target: nn.Module | Callable[..., Any] = found
    return target


def _called(name: str, target: Callable[..., Any], classes: int) -> nn.Module:
    try:
        parameters = list(inspect.signature(target).parameters.values())
    except (TypeError, ValueError):  # built-in ones have none
        parameters = []
    told = any(one.name == CLASSES_ARGUMENT or one.kind is one.VAR_KEYWORD for one in parameters)
    arguments = {CLASSES_ARGUMENT: classes} if told else {}
    try:
        made = target(**arguments)
    except Exception as error:  # whatever the user's own code raises
        shown = ", ".join(f"{key}={value}" for key, value in arguments.items())
        raise InputError(f"model: {name}({shown}) fails ({_reason(error)})") from None
    if not isinstance(made, nn.Module):
        raise InputError(f"model: {name} gives a {type(made).__name__}, not an nn.Module")
    return made.float()


def _imported(path: str) -> Any:
    """What ``package.module:callable`` names; modules of the current folder are found too."""
    module_name, _, attribute = path.partition(":")
    here = str(Path.cwd())
    if "" not in sys.path and here not in sys.path:
        sys.path.append(here)  # workers get the path from here
    try:
        found: Any = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        missing = error.name or "" if isinstance(error, ModuleNotFoundError) else None
        if missing is not None and f"{module_name}.".startswith(f"{missing}."):
            raise Absent(
                f"model: there is no module {missing!r} for {path}; install it, or run where {missing}.py lies"
            ) from None
        raise InputError(f"model: the module {module_name} of {path} cannot be imported ({_reason(error)})") from None
    for name in attribute.split("."):
        if module_name == "__main__" and not hasattr(found, name):
            raise Absent(f"model: {path} was defined in a script that is not this one; give package.module:callable")
        if not hasattr(found, name):
            check_name(f"model: {path}", name, [each for each in dir(found) if not each.startswith("_")])
        found = getattr(found, name)
    return found


def _reason(error: BaseException) -> str:
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message}" if message else type(error).__name__
