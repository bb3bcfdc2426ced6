"""``coinfer status``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from coinfer_ray.cli import options
from coinfer_ray.cli.output import print_json
from coinfer_ray.errors import counted


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(
        epilog="""Examples:

\b
  coinfer status answers/
  coinfer status records/ --json
  coinfer status s3://bucket/answers
""",
    )(status)


def status(
    folder: Annotated[
        str,
        typer.Argument(
            callback=options.as_place, help="Output folder of a run, or the address that a sweep writes to."
        ),
    ],
    json: options.Json = False,
) -> None:
    """Say how far a run is that goes on elsewhere, or has ended."""
    from coinfer_ray.runtime.status import run_status

    found = run_status(folder)
    document: dict[str, Any] = {"folder": folder, **asdict(found)}
    if found.kind == "sweep":
        from coinfer_ray.sweeps.progress import sweep_progress

        document |= asdict(sweep_progress(folder))
    if json:
        print_json(document)
        return
    at_work = f"at work: {found.holder}" if found.holder else "nobody works on it"
    quiet = "" if found.quiet_s is None else f", the last result {found.quiet_s:,.0f} s ago"
    typer.echo(f"{folder}: {found.kind}, {at_work}; {counted(found.files, 'file')}{quiet}")
    if found.kind == "sweep":
        done, total = document["rows"], document["scenarios"]
        end = (
            "complete"
            if document["complete"]
            else f"{counted(document['failed_chunks'], 'chunk')} failed when last tried"
        )
        typer.echo(
            f"  {done:,} of {counted(total, 'scenario')} ({done / total:.1%}), {document['bytes'] / 1e6:,.1f} MB; {end}"
        )
