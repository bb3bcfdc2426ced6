"""The commands' common root."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Annotated

import typer

import coinfer_ray
from coinfer_ray.cli import (
    atlas,
    collect,
    compare,
    devices,
    fit,
    models,
    optimize,
    pareto,
    profile,
    refine,
    report,
    reproduce,
    robust,
    status,
    sweep,
    verify,
)
from coinfer_ray.cli.exits import DEBUG_VARIABLE, EXIT_INTERRUPTED

app = typer.Typer(
    name="coinfer",
    help="Split, prune and compress a neural network between a device and a server so that it answers soonest.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
for command in (
    models,
    devices,
    profile,
    collect,
    fit,
    optimize,
    compare,
    pareto,
    robust,
    sweep,
    status,
    report,
    reproduce,
    verify,
    refine,
    atlas,
):
    command.register(app)


@app.callback(
    invoke_without_command=True,
    epilog="""Examples:

\b
  coinfer models alexnet
  coinfer optimize --model alexnet --device rpi3b+ --server p100 --link 4g
  coinfer compare --model alexnet --device rpi4b --server p100 --rate-mbps 20
  coinfer sweep grid.yaml --out answers/
""",
)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and end.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of a failure.")] = False,
) -> None:
    if debug:
        os.environ[DEBUG_VARIABLE] = "1"
    if version:
        typer.echo(coinfer_ray.__version__)
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit status where it ended early, else 0. Errors are raised, not printed."""
    try:
        status = typer.main.get_command(app).main(
            args=None if arguments is None else list(arguments), prog_name="coinfer", standalone_mode=False
        )
    except typer.Abort:
        return EXIT_INTERRUPTED
    return status if isinstance(status, int) else 0
