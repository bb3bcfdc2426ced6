"""What a user names as a network, resolved in one place.

A network is named by torchvision's name for it, by ``package.module:callable``, by a layer graph file, or, in Python,
by an ``nn.Module`` or whatever builds one. Nothing here needs torch: building is :mod:`coinfer_ray.models.zoo`'s.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from coinfer_ray.errors import InputError
from coinfer_ray.models.layers import GRAPH_FORMAT, LayerGraph

if TYPE_CHECKING:
    from torch import nn

Kind = Literal["name", "import", "object", "graph"]
FORMS = "a torchvision name, package.module:callable or a layer graph file (.json)"
_NAME = r"[^\W\d]\w*"
_PATH = rf"{_NAME}(\.{_NAME})*:({_NAME}|<lambda>)(\.({_NAME}|<locals>|<lambda>))*"


class Absent(InputError):
    """A network that this installation cannot build: torch, or the module that it is in, is not there."""


@dataclass(frozen=True)
class ModelSource:
    """A network that a user named.

    ``name`` is what records, predictors and answers call it. ``kind`` says what ``given`` is: nothing beside the
    ``name`` (torchvision's, or one that ships); the path to ``import`` it from; an ``object``, an ``nn.Module`` or what
    builds one; or a layer ``graph``, which the search side takes alone.
    """

    name: str
    kind: Kind
    given: Any = None

    @property
    def own(self) -> bool:
        """Whether it is a network of the user's own, which a name does not settle."""
        return self.kind != "name"

    def __getstate__(self) -> dict[str, Any]:
        """Objects travel to workers by value, classes of a script or a notebook too."""
        state = dict(vars(self))
        if self.kind == "object":
            import cloudpickle

            try:
                state["given"] = cloudpickle.dumps(self.given)
            except Exception as error:  # whatever its attributes raise
                reason = " ".join(str(error).split())
                raise InputError(
                    f"model: {self.name} cannot be sent to workers ({reason}); use the local executor, or give what "
                    "builds it"
                ) from None
        return state

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        given = state["given"]
        if state["kind"] == "object":
            import cloudpickle

            given = cloudpickle.loads(given)
        for name, value in {**state, "given": given}.items():
            object.__setattr__(self, name, value)


ModelLike: TypeAlias = "str | Path | ModelSource | LayerGraph | nn.Module | Callable[..., nn.Module]"


def resolve_model(model: ModelLike) -> ModelSource:
    """The network that ``model`` names: a name, ``package.module:callable``, a graph file, or an object.

    Whether there is such a network shows when it is built or its graph is asked for.

    Raises:
        InputError: none of these, a graph file that cannot be read, or a path that is not written as one.
    """
    if isinstance(model, ModelSource):
        return model
    if isinstance(model, LayerGraph):
        return ModelSource(model.model, "graph", model)
    if isinstance(model, Path) or (isinstance(model, str) and model.endswith(".json")):
        graph = read_graph(model)
        return ModelSource(graph.model, "graph", graph)
    if isinstance(model, str):
        if ":" in model:
            if not re.fullmatch(_PATH, model):
                raise InputError(f"model: {model!r} is no path to a network; write package.module:callable")
            return ModelSource(model, "import", model)
        if "." in model and "/" not in model:
            module, _, name = model.rpartition(".")
            raise InputError(f"model: {model!r} is no network's name; write {module}:{name} for a callable of a module")
        return ModelSource(model, "name")
    if callable(model):
        return ModelSource(_name_of(model), "object", model)
    raise InputError(f"model: {model!r} is no network; give {FORMS}, an nn.Module or a callable that builds one")


def _name_of(thing: Any) -> str:
    """Where an object, or an instance's class, was defined, as ``package.module:name``."""
    defined = thing if hasattr(thing, "__qualname__") else type(thing)
    return f"{defined.__module__}:{defined.__qualname__}"


def read_graph(path: str | Path) -> LayerGraph:
    """The layer graph in a file that ``coinfer models MODEL --json`` wrote.

    Raises:
        InputError: it cannot be read, or is no layer graph.
    """
    try:
        document = json.loads(Path(path).read_text())
    except OSError as error:
        raise InputError(
            f"model: {path} cannot be read ({error.strerror}); write one with `coinfer models --json`"
        ) from None
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise InputError(f"model: {path} is no JSON ({reason}); write it with `coinfer models --json`") from None
    return graph_from(document, str(path))


def graph_from(document: Any, where: str) -> LayerGraph:
    """The layer graph of a JSON document; ``where`` names it in errors.

    Raises:
        InputError: it is none, or does not hold together.
    """
    try:
        if document["format"] != GRAPH_FORMAT:
            raise ValueError(f"format {document['format']}, this version reads {GRAPH_FORMAT}")
        graph = LayerGraph.from_json(document)
        graph.check()
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise InputError(
            f"model: {where} is no layer graph ({reason}); write it with `coinfer models --json`"
        ) from None
    return graph
