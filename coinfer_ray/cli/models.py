"""``coinfer models``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coinfer_ray.cli import options
from coinfer_ray.cli.output import print_json, print_table, stdout_for_answers

if TYPE_CHECKING:
    from coinfer_ray.models.layers import LayerGraph


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(
        epilog="""Examples:

\b
  coinfer models
  coinfer models alexnet --input-px 64
  coinfer models regnet_x_400mf --json
  coinfer models nets:Small --input-px 32 --json > small.json
""",
    )(models)


def models(
    model: Annotated[
        str | None,
        typer.Argument(
            help="Network whose layers to show: a name, package.module:callable or a layer graph (.json); without it, "
            "all networks."
        ),
    ] = None,
    input_px: options.InputPx = None,
    classes: Annotated[
        int | None,
        typer.Option("--classes", min=1, help="Class scores of a network that lets itself be told; default: 10."),
    ] = None,
    json: options.Json = False,
    write: Annotated[Path | None, typer.Option("--write", help="Trace the shipped networks again into DIR.")] = None,
) -> None:
    """List the networks, or one network's layers and cuts."""
    from coinfer_ray.models.library import CLASSES, load_graph, shipped_graphs
    from coinfer_ray.models.source import resolve_model

    if write is not None:
        from coinfer_ray.models.library import write_graphs

        with stdout_for_answers():
            written = [str(path) for path in write_graphs(write)]
        if json:
            print_json(written)
        else:
            typer.echo("\n".join(written))
    elif model is None:
        sizes: dict[str, list[int]] = {}
        for name, pixels in shipped_graphs():
            sizes.setdefault(name, []).append(pixels)
        if json:
            print_json([{"model": name, "input_px": sorted(pixels)} for name, pixels in sizes.items()])
        else:
            _print_networks(sizes)
    else:
        with stdout_for_answers():
            from coinfer_ray.records.store import usual_input_px

            source = resolve_model(model)
            pixels = usual_input_px(source) if input_px is None else input_px
            graph = load_graph(source, pixels, CLASSES if classes is None else classes)
        if json:
            print_json(graph.to_json())
        else:
            _print_graph(graph)


def _print_networks(sizes: dict[str, list[int]]) -> None:
    from rich.table import Table

    from coinfer_ray.models.library import load_graph

    table = Table("model", "input px", "layers", "prunable sets", "cuts", "GFLOP")
    for name, pixels in sizes.items():
        for px in sorted(pixels):
            graph = load_graph(name, px)
            cuts, sets = len(graph.cut_points), len(graph.prunable_sets)
            table.add_row(name, str(px), str(len(graph.layers)), str(sets), str(cuts), f"{graph.flops / 1e9:.3f}")
    print_table(table)


def _print_graph(graph: LayerGraph) -> None:
    from rich.table import Table

    title = f"{graph.model}, {graph.input_px} px, {graph.flops / 1e6:,.1f} MFLOP"
    layers = Table("#", "layer", "kind", "output", "MFLOP", "kbit out", "pruned with", "cut", title=title)
    for layer in graph.layers:
        shape = f"{layer.out_channels} x {layer.out_height} x {layer.out_width}"
        layers.add_row(
            str(layer.index),
            layer.name,
            layer.kind,
            str(layer.output_elements) if layer.vector else shape,
            f"{layer.flops / 1e6:,.3f}",
            f"{layer.output_elements * 32 / 1e3:,.1f}",
            layer.out_set or "",
            "yes" if layer.index in graph.cut_points else "",
        )
    sets = Table("set", "channels", "unit", "layers", title="Prunable sets: channels that only fall together")
    for prunable in graph.prunable_sets:
        sets.add_row(prunable.name, str(prunable.channels), str(prunable.unit), ", ".join(prunable.layers))
    print_table(layers, sets)
