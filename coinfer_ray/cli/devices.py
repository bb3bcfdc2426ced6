"""``coinfer devices``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coinfer_ray.cli import options
from coinfer_ray.cli.output import check_output, print_json, print_table, stdout_for_answers
from coinfer_ray.errors import InputError

if TYPE_CHECKING:
    from coinfer_ray.scenarios.presets import Kind, Preset


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(
        epilog="""Examples:

\b
  coinfer devices
  coinfer devices --json
  coinfer devices --import times.csv --out board.yaml
  coinfer devices --import times.csv --side edge --out edge.yaml
""",
    )(devices)


def devices(
    table: Annotated[
        Path | None,
        typer.Option("--import", help="Times that others measured (CSV: network, layer, seconds), as a device file."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="That file (.yaml or .json).")] = None,
    side: Annotated[str | None, typer.Option("--side", help="Whose times, where a table has several.")] = None,
    name: Annotated[str | None, typer.Option("--name", help="Of what is imported; default: the table's.")] = None,
    input_px: options.InputPx = None,
    json: options.Json = False,
) -> None:
    """List the devices, servers and links that have a name, with their sources; or import measured times."""
    if table is not None:
        _import(table, out, json, side=side, name=name, input_px=input_px)
        return
    given = {"--out": out, "--side": side, "--name": name, "--input-px": input_px}
    if alone := next((option for option, value in given.items() if value is not None), None):
        raise InputError(f"import: {alone} goes with a table; give --import FILE")
    from coinfer_ray.scenarios.presets import presets_of

    kinds: tuple[Kind, ...] = ("device", "server", "link")
    if json:
        print_json({f"{kind}s": [preset.to_json() for preset in presets_of(kind).values()] for kind in kinds})
        return
    sources = list(dict.fromkeys(preset.source for kind in kinds for preset in presets_of(kind).values()))
    for kind in kinds:
        _print_presets(kind, list(presets_of(kind).values()), sources)
    typer.echo("\nSources")
    for number, source in enumerate(sources, start=1):
        typer.echo(f"  {number}  {source}")


def _import(table: Path, out: Path | None, json: bool, **options: Any) -> None:
    if out is None:
        raise InputError("out: no file is given; give --out FILE.yaml")
    check_output(out, "device")
    with stdout_for_answers():
        from coinfer_ray.profile.imported import import_times

        document = import_times(table, out, **options)
    if json:
        print_json({"out": str(out), **document})
        return
    for each in document["network_seconds"]:
        seconds = sum(block[-1] for block in each["measured"]["blocks"])
        typer.echo(f"{out}: {each['network']} at {each['input_px']} px, {seconds * 1e3:,.4g} ms in all")
    typer.echo(f"the five coefficients beside them miss a block left out by {document['held_out_error']['block']:.0%}")


def _print_presets(kind: Kind, presets: list[Preset], sources: list[str]) -> None:
    from rich.table import Table

    numbers = ("Mb/s", "round trip ms") if kind == "link" else ("GFLOPS", "on AlexNet", "on RegNetX-400MF")
    table = Table("name", "what", title=f"{kind}s", title_justify="left")
    for name in (*numbers, "source"):
        table.add_column(name, justify="right")
    table.add_column("date")
    for preset in presets:
        by_network = preset.gflops_by_network
        values = (
            (preset.rate_mbps, preset.round_trip_ms or 0.0)
            if kind == "link"
            else (preset.gflops, by_network.get("alexnet"), by_network.get("regnet_x_400mf"))
        )
        cells = ["-" if value is None else f"{value:,.4g}" for value in values]
        table.add_row(preset.name, preset.title, *cells, str(sources.index(preset.source) + 1), preset.date)
    print_table(table)
