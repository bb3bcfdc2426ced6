"""``coinfer report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from coinfer_ray.cli import options
from coinfer_ray.cli.output import check_output, note, print_json, print_table, stdout_for_answers


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(
        epilog="""Examples:

\b
  coinfer report answers/
  coinfer report answers/ --out page.html
  coinfer report part-1/ part-2/ --out page.html
""",
    )(report)


def report(
    answers: Annotated[
        list[str],
        typer.Argument(help="Folder or address that `coinfer sweep` wrote to; those of all shards of one sweep."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="Write an interactive page here (HTML, one file); its figures go to a folder beside it."
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Show a sweep's answers as a table, and as an interactive page."""
    check_output(out, "page")
    with stdout_for_answers():
        from coinfer_ray.report import read_sweep, summary_table, write_page

        results = read_sweep([options.as_place(each) for each in answers])
        if out is not None:
            write_page(results, out)
    if json:
        print_json({"page": None if out is None else str(out), "rows": [row.to_json() for row in results.rows]})
    else:
        print_table(summary_table(results))
        if out is not None:
            note(f"page written to {out}")
