"""``coinfer sweep``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from coinfer_ray.cli import options
from coinfer_ray.cli.output import note, print_json, stdout_for_answers


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(
        epilog="""Examples:

\b
  coinfer sweep grid.yaml --out answers/
  coinfer sweep grid.yaml --out answers/ --executor local
  coinfer sweep grid.yaml --out /shared/answers --address ray-head:6379

\b
A grid file:
  model: [alexnet]
  device: [rpi3b+, {name: phone, gflops: {logspace: [0.1, 1000, 100]}}]
  server: [p100]
  link: [4g, {rate_mbps: [1, 10, 100], round_trip_ms: 40}, {bandwidth_mhz: 10, snr_db: {linspace: [0, 50, 51]}}]
  max_loss: [0.01, 0.02]
  confidence: [null, 0.95]       # may be left out: 0.9; null: predictions as they are
""",
    )(sweep)


@options.takes({name: option for name, option in options.PROBLEM.items() if name != "cuts"})
def sweep(
    grid: Annotated[Path, typer.Argument(help="Grid file (YAML).")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the answers; give it again to resume.")],
    *,
    solver: Annotated[
        str, typer.Option("--solver", help="exact, atlas, quantum, genetic, paper or paper-parent.")
    ] = "exact",
    time_limit: options.TimeLimit = None,
    certify: options.Certify = False,
    executor: options.Executor = "ray",
    address: options.Address = None,
    workers: options.Workers = None,
    chunk: Annotated[int | None, typer.Option("--chunk", min=1, help="Scenarios to a file; default: by size.")] = None,
    cuts: Annotated[
        options.CutsChoice | None, typer.Option("--cuts", help="all or inner, instead of what the grid file says.")
    ] = None,
    confidence: Annotated[
        float | None, typer.Option("--confidence", help="How sure the predictor must be, instead of the grid file's.")
    ] = None,
    round_trip_ms: Annotated[
        float | None, typer.Option("--round-trip-ms", help="Of every link, instead of what the grid file says.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Instead of the grid file's.")] = None,
    json: options.Json = False,
    **chosen: Any,
) -> None:
    """Answer a grid of scenarios into a Parquet data set; run again to resume."""
    with stdout_for_answers():
        from coinfer_ray.cli.compile_notice import announce_compilation
        from coinfer_ray.sweeps.sweep import sweep as run

        announce_compilation()
        if cuts is not None:
            chosen["cuts"] = cuts
        answers = run(
            grid,
            out,
            solver=solver,
            executor=executor,
            address=address,
            workers=workers,
            seed=seed,
            confidence=confidence,
            round_trip_ms=round_trip_ms,
            certify=certify,
            chunk=chunk,
            time_limit_s=time_limit,
            **options.given(chosen),
        )
        feasible = answers.to_table(columns=["feasible"])["feasible"]
        summary = {
            "out": str(out),
            "scenarios": len(feasible),
            "feasible": feasible.to_numpy().sum().item(),
            "columns": answers.schema.names,
        }
    if json:
        print_json(summary)
    else:
        typer.echo(f"{summary['scenarios']:,} scenarios in {out}, {summary['feasible']:,} of them feasible")
        note(f"`coinfer report {out}` shows them")
