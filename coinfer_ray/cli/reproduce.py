"""``coinfer reproduce``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from coinfer_ray.cli.output import note, stdout_for_answers


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(
        epilog="""Examples:

\b
  coinfer reproduce --out evaluation/ --quick
  coinfer reproduce --out evaluation/
""",
    )(reproduce)


def reproduce(
    out: Annotated[Path, typer.Option("--out", help="Folder for page, figures and rows; give it again to resume.")],
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer points; without gaps, CIA's agent and regressors.")
    ] = False,
) -> None:
    """Make the tables and figures of the paper's evaluation, beside its own claims."""
    with stdout_for_answers():
        from coinfer_ray.cli.compile_notice import announce_compilation
        from coinfer_ray.reproduce.run import reproduce as run

        if not quick:
            announce_compilation()
        page = run(out, quick=quick)
    note(f"page written to {page}")
