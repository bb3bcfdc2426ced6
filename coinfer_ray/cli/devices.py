"""``coinfer devices``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from coinfer_ray.cli import options
from coinfer_ray.cli.output import print_json, print_table

if TYPE_CHECKING:
    from coinfer_ray.scenarios.presets import Kind, Preset


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(
        epilog="""Examples:

\b
  coinfer devices
  coinfer devices --json
""",
    )(devices)


def devices(json: options.Json = False) -> None:
    """List the devices, servers and links that have a name, with where their numbers come from."""
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
