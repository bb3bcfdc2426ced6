"""``coinfer pareto``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from coinfer_ray.cli import options
from coinfer_ray.cli.output import (
    check_output,
    note,
    print_json,
    print_table,
    rests_on,
    stdout_for_answers,
    strategy_cells,
)
from coinfer_ray.errors import InputError

if TYPE_CHECKING:
    from coinfer_ray.optimizer.pareto import Front

SCENARIO = {name: option for name, option in options.SCENARIO.items() if name != "max_loss"}
MAX_STEPS = 1000  # losses that a range may ask for


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(
        epilog="""Examples:

\b
  coinfer pareto --model alexnet --device rpi4b-ncnn --server v100-ncnn --link 4g-typical
  coinfer pareto --model alexnet --device rpi3b+ --server p100 --link 3g --max-losses 0.005:0.05:10
  coinfer pareto --model alexnet --device rpi4b-ncnn --server v100-ncnn --link 4g-typical \\
      --out front.csv --picture front.png
  coinfer pareto --model alexnet --device rpi4b --server p100 --link 4g --objective throughput
""",
    )(pareto)


@options.takes(SCENARIO, options.PROBLEM)
def pareto(
    model: options.Model = None,
    *,
    max_losses: Annotated[
        str | None,
        typer.Option(
            "--max-losses",
            help="Losses to keep to: 0.01,0.02 or FIRST:LAST:COUNT; default: any, 0.005,0.01,0.02,0.05 where "
            "predictions count.",
        ),
    ] = None,
    points: Annotated[
        int,
        typer.Option(
            "--points", min=0, help="Weighted sums of latency and energy for each loss, where predictions count."
        ),
    ] = 3,
    time_limit: options.TimeLimit = 10.0,
    objective: Annotated[
        Literal["latency", "throughput"],
        typer.Option("--objective", help="Throughput of a stream in the latency's place, among measured strategies."),
    ] = "latency",
    out: Annotated[Path | None, typer.Option("--out", help="Write the front as CSV.")] = None,
    picture: Annotated[Path | None, typer.Option("--picture", help="Draw the front (PNG, SVG or PDF).")] = None,
    seed: options.Seed = 0,
    json: options.Json = False,
    **chosen: Any,
) -> None:
    """List the strategies that nobody beats in latency, energy and loss of accuracy together."""
    losses = None if max_losses is None else losses_of(max_losses)
    check_output(out, "front")
    check_output(picture, "figure")
    with stdout_for_answers():
        from coinfer_ray.cli.compile_notice import announce_compilation
        from coinfer_ray.optimizer.pareto import pareto as run
        from coinfer_ray.report.front import draw_front, write_front
        from coinfer_ray.report.pictures import check_ending

        if picture is not None:
            check_ending(picture)
        if chosen["confidence"] is None:
            announce_compilation()
        front = run(
            options.network_of(model, chosen["records"]),
            **options.given(chosen),
            max_losses=losses,
            objective=objective,
            points=points,
            seed=seed,
            time_limit_s=time_limit,
        )
        if out is not None:
            write_front(front, out)
            note(f"front written to {out}")
        if picture is not None:
            draw_front(front, picture)
            note(f"picture written to {picture}")
    if json:
        print_json(front.to_json())
    else:
        _print_front(front)


def losses_of(text: str) -> list[float]:
    """The losses that ``--max-losses`` names: a list with commas, or FIRST:LAST:COUNT in even steps.

    Raises:
        InputError: it is neither.
    """
    fields = text.split(":")
    try:
        if len(fields) == 1:
            numbers = [float(field) for field in text.split(",")]
            if all(map(math.isfinite, numbers)):
                return numbers
        elif len(fields) == 3:
            first, last, count = float(fields[0]), float(fields[1]), int(fields[2])
            if 2 <= count <= MAX_STEPS and first < last and math.isfinite(last - first):
                return [first + (last - first) * step / (count - 1) for step in range(count - 1)] + [last]
    except ValueError:
        pass
    raise InputError(
        f"max losses: {text!r} is neither a list, 0.01,0.02, nor FIRST:LAST:COUNT, 0.005:0.05:10, of 2 to {MAX_STEPS}"
    )


def _print_front(front: Front) -> None:
    from rich.table import Table

    with_energy, predicts = front.without_energy is None, front.confidence is None
    held = "predictions count" if predicts else f"loss held with a confidence of {front.confidence:g}"
    table = Table(title=f"{front.model}, {front.input_px} px, {held}", title_justify="left")
    for name in (
        *(["items/s"] if front.of_streams else []),
        "latency ms",
        *(["energy J"] if with_energy else []),
        "loss",
        "accuracy",
    ):
        table.add_column(name, justify="right")
    table.add_column("rests on")
    if predicts:
        table.add_column("gap", justify="right")
    table.add_column("cut after")
    table.add_column("pruned", justify="right")
    table.add_column("codec")
    for point in front.points:
        cells = [] if point.items_per_s is None else [f"{point.items_per_s:,.4g}"]
        cells.append(f"{point.latency_s * 1e3:,.3f}")
        if point.energy_j is not None:
            cells.append(f"{point.energy_j:,.4g}")
        cells += [f"{point.loss:.4f}", f"{point.accuracy:.4f}", rests_on(point.accuracy_source, point.trainings)]
        if predicts:
            cells.append("-" if point.gap is None else f"{point.gap:.2%}")
        table.add_row(*cells, point.cut_after, *strategy_cells(point.strategy))
    print_table(table)
    note(f"{len(front.points)} unbeaten of {front.looked_at:,}")
    if front.without_energy is not None:
        note(f"energy does not count: {front.without_energy}")
