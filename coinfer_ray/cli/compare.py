"""``coinfer compare``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from coinfer_ray.cli import options
from coinfer_ray.cli.output import print_json, print_table, stdout_for_answers


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(
        epilog="""Examples:

\b
  coinfer compare --model alexnet --device rpi3b+ --server p100 --link 4g
  coinfer compare --model regnet_x_400mf --input-px 224 --device tk1 --server p100 --link wifi \\
      --methods all_local,all_server,neurosurgeon --cuts inner
""",
    )(compare)


@options.takes(options.SCENARIO, options.PROBLEM)
def compare(
    model: options.Model = None,
    *,
    methods: Annotated[
        str | None,
        typer.Option(
            "--methods",
            help="Comma-separated; default: all_local,all_server,neurosurgeon,coinfer. "
            "Others: prune_partition,two_step,fpgm,bottlenetpp,jalad,edgent,dads,genetic,cia.",
        ),
    ] = None,
    optimizer: options.Optimizer = "exact",
    time_limit: options.TimeLimit = 10.0,
    objective: options.Objective = "latency",
    seconds_per_joule: options.SecondsPerJoule = None,
    seed: options.Seed = 0,
    json: options.Json = False,
    **chosen: Any,
) -> None:
    """Put the compared methods side by side on one scenario."""
    with stdout_for_answers():
        from coinfer_ray.cli.compile_notice import announce_compilation
        from coinfer_ray.methods.compare import compare as run
        from coinfer_ray.methods.registry import DEFAULT_METHODS

        announce_compilation()
        rows = run(
            options.network_of(model, chosen["records"]),
            **options.given(chosen),
            methods=DEFAULT_METHODS if methods is None else [name.strip() for name in methods.split(",")],
            optimizer=optimizer,
            objective=objective,
            seconds_per_joule=seconds_per_joule,
            seed=seed,
            time_limit_s=time_limit,
        )
    if json:
        print_json(rows)
    else:
        _print_comparison(rows)


def _print_comparison(rows: list[dict[str, Any]]) -> None:
    from rich.table import Table

    energy, streams = rows[0]["energy_j"] is not None, "items_per_s" in rows[0]
    weighted = "weighted_s" in rows[0]
    counted = "weighted_s" if weighted else "energy_j" if energy else "latency_s"
    measured = [1 / row["items_per_s"] if streams else row[counted] for row in rows]
    times = ["latency", "device", "uplink", "server", *(["crossing"] if any(row["crossing_s"] for row in rows) else [])]
    names = [*(f"{name} ms" for name in times), *(["energy J"] if energy else [])]
    names += ["items/s"] if streams else ["weighted ms"] if weighted else []
    bounded = any(row["accuracy_bound"] is not None for row in rows)
    table = Table("method")
    for name in (*names, "to the best", "accuracy", *(["at least"] if bounded else [])):
        table.add_column(name, justify="right")
    table.add_column("cut after")
    best = min(measured)
    for row, own in zip(rows, measured, strict=True):
        cells = [f"{row[f'{name}_s'] * 1e3:,.3f}" for name in times]
        if energy:
            cells.append(f"{row['energy_j']:,.4g}")
        if weighted:
            cells.append(f"{own * 1e3:,.3f}")
        if streams:
            cells.append(f"{row['items_per_s']:,.4g}")
        cells.append(f"{own / best:,.2f}x" if best else "-")
        for name in ("accuracy", *(["accuracy_bound"] if bounded else [])):
            cells.append("-" if row[name] is None else f"{row[name]:.4f}")
        style = "bold" if own == best else None
        bits = f", {row['bits']} bits" if row.get("bits") else ""
        table.add_row(row["method"], *cells, row["cut_after"] + bits, style=style)
    print_table(table)
