"""The layer graphs that ship with the package, and the way to any other by a fresh trace."""

from __future__ import annotations

import json
from functools import partial
from importlib import resources
from pathlib import Path

from coinfer_ray.errors import InputError, check_name
from coinfer_ray.models.layers import LayerGraph
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


def load_graph(model: str, input_px: int) -> LayerGraph:
    """The layer graph of a known network: the shipped one, or a fresh trace where torch is installed.

    Raises:
        InputError: unknown model, or an input size that neither ships nor can be traced here.
    """
    shipped = shipped_graphs()
    if (model, input_px) in shipped:
        return LayerGraph.from_json(json.loads(shipped[model, input_px].read_text()))
    known = sorted({name for name, _ in shipped})
    try:
        from coinfer_ray.models import trace, zoo
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "torchvision"):
            raise
        check_name("model", model, known)
        sizes = sorted(pixels for name, pixels in shipped if name == model)
        raise InputError(
            f"model: {model} ships for inputs of {', '.join(map(str, sizes))} px; {input_px} px needs a trace: "
            "pip install 'coinfer-ray[train]'"
        ) from None
    zoo.check_model(model)
    return trace.trace_graph(zoo.build(model, classes=10), (3, input_px, input_px), model)


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
