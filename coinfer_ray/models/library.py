"""The layer graphs that ship with the package, and the way to any other by a fresh trace."""

from __future__ import annotations

import difflib
import json
from functools import partial
from importlib import resources
from pathlib import Path

from coinfer_ray.errors import InputError, counted
from coinfer_ray.models.layers import LayerGraph
from coinfer_ray.models.source import Absent, ModelLike, ModelSource, resolve_model
from coinfer_ray.runtime.files import write_whole
from coinfer_ray.runtime.outputs import check_replaceable

# Networks whose graphs ship with the package, and at which input sizes.
SHIPPED = ("alexnet", "regnet_x_400mf")
SHIPPED_PX = (64, 128, 224)


def shipped_graphs() -> dict[tuple[str, int], Path]:
    """(model, input_px) of the graphs that ship with the package, and where they lie."""
    folder = Path(str(resources.files("coinfer_ray.models") / "graphs"))
    found = {}
    for path in sorted(folder.glob("*-*px.json")):
        model, _, pixels = path.stem.rpartition("-")
        found[model, int(pixels.removesuffix("px"))] = path
    return found


CLASSES = 10  # outputs of a network's graph where nothing says how many


def load_graph(model: ModelLike, input_px: int, classes: int = CLASSES) -> LayerGraph:
    """The layer graph of a network: the shipped one, the one in a file, or a fresh trace where torch is installed.

    ``model`` is what :func:`coinfer_ray.models.source.resolve_model` takes; ``classes`` are the outputs of a network
    that is built with as many as are asked for.

    Raises:
        InputError: an unknown model, one that cannot be built or traced, or an input size that neither ships nor can
            be traced here; :class:`Absent` where it is only out of reach.
    """
    source = resolve_model(model)
    if source.kind == "graph":
        graph: LayerGraph = source.given
        if graph.input_px != input_px:
            raise InputError(
                f"model: the layer graph of {graph.model} is for inputs of {graph.input_px} px, not of {input_px}; "
                f"give --input-px {graph.input_px}, or another graph"
            )
        return graph
    shipped = shipped_graphs()
    if not source.own and (source.name, input_px) in shipped and classes == CLASSES:
        return LayerGraph.from_json(json.loads(shipped[source.name, input_px].read_text()))
    try:
        from coinfer_ray.models import trace, zoo
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "torchvision"):
            raise
        if source.own:
            raise Absent(
                f"model: {source.name} has to be traced: pip install 'coinfer-ray[train]', or give records or a layer "
                "graph file of it"
            ) from None
        if source.name not in {name for name, _ in shipped}:
            raise _out_of_reach(source.name) from None
        sizes = sorted(pixels for name, pixels in shipped if name == source.name)
        raise Absent(
            f"model: {source.name} ships for inputs of {', '.join(map(str, sizes))} px; {input_px} px needs a trace: "
            "pip install 'coinfer-ray[train]'"
        ) from None
    return trace.trace_graph(zoo.build(source, classes), (3, input_px, input_px), source.name)


def ships(graph: LayerGraph) -> bool:
    """Whether this very graph ships with the package, so that its name is enough to find it."""
    place = graph.model, graph.input_px
    return place in shipped_graphs() and load_graph(*place).fingerprint == graph.fingerprint


def check_known(source: ModelSource) -> None:
    """Raise InputError, with the nearest names, for a name that neither ships nor is torchvision's; :class:`Absent`
    for one that does not ship where torchvision is not installed."""
    known = {name for name, _ in shipped_graphs()}
    if source.own or source.name in known:
        return
    try:
        from coinfer_ray.models import zoo
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "torchvision"):
            raise
        raise _out_of_reach(source.name) from None
    else:
        zoo.check_model(source.name)


def _out_of_reach(name: str) -> Absent:
    """What is said of a name that does not ship where torchvision, which may know it, is not installed."""
    names = sorted({shipped for shipped, _ in shipped_graphs()})
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.8)
    meant = f"did you mean {near[0]}? A" if near else "a"
    return Absent(
        f"model: {name!r} does not ship ({' and '.join(names)} do); {meant} network of torchvision needs a trace: "
        "pip install 'coinfer-ray[train]', or give records or a layer graph file of it"
    )


def check_same_network(source: ModelSource, of: LayerGraph, what: str) -> None:
    """Raise InputError unless ``source`` is the network of the graph ``of``, which ``what`` was made for.

    Names decide for what is named alone; a network of the user's own must have the same graph, whatever it is called.
    Where it cannot be built here its name has to do.
    """
    same = source.name == of.model
    if source.own:
        try:
            graph = load_graph(source, of.input_px, of.classes)
        except Absent:
            pass
        else:
            if graph.fingerprint != of.fingerprint:
                raise InputError(
                    f"{what} of {of.model} with another layer graph than {source.name} has ({_difference(of, graph)}); "
                    "give those of this network"
                )
            same = True
    if not same:
        check_known(source)
        raise InputError(f"{what} of {of.model}, not of {source.name}; give those of {source.name}")


def _difference(there: LayerGraph, here: LayerGraph) -> str:
    """The first thing in which two graphs differ."""
    if there.classes != here.classes:
        return f"{counted(there.classes, 'class', 'classes')} there, {here.classes} here"
    for one, other in zip(there.layers, here.layers, strict=False):
        for name, value in vars(one).items():
            if value != getattr(other, name):
                return f"layer {one.name}: {name} {value} there, {getattr(other, name)} here"
    return f"{counted(len(there.layers), 'layer')} there, {len(here.layers)} here"


def write_graphs(folder: str | Path) -> list[Path]:
    """Trace the networks that ship, at every size that ships, and write ``MODEL-NNpx.json`` into ``folder``.

    Raises:
        InputError: a file of one of these names is there and no layer graph; nothing is written then.
    """
    from coinfer_ray.models import trace, zoo

    folder = Path(folder)
    paths = {(model, pixels): folder / f"{model}-{pixels}px.json" for model in SHIPPED for pixels in SHIPPED_PX}
    for path in paths.values():
        check_replaceable(path, "graph")
    folder.mkdir(parents=True, exist_ok=True)
    for (model, pixels), path in paths.items():
        graph = trace.trace_graph(zoo.build(model, classes=10), (3, pixels, pixels), model)
        text = json.dumps(graph.to_json(), indent=1) + "\n"
        write_whole(path, partial(Path.write_text, data=text))
    return list(paths.values())
