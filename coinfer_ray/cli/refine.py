"""``coinfer refine``, formerly ``coinfer search``: that name is still understood."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coinfer_ray.cli import options
from coinfer_ray.cli.output import print_json, print_table, stdout_for_answers
from coinfer_ray.errors import InputError, counted

if TYPE_CHECKING:
    from coinfer_ray.refine.cases import Case
    from coinfer_ray.refine.rounds import LoopResult


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(
        epilog="""Examples:

\b
  coinfer refine --model alexnet --data cifar10:images --records records/ --out found/ --candidates 20 \\
      --device rpi3b+ --server p100 --link 4g
  coinfer refine --model alexnet --data cifar10:images --records records/ --out found/ --candidates 60 \\
      --grid scenarios.yaml
""",
    )(refine)
    app.command("search", hidden=True)(refine)


@options.takes(
    {name: (option, default if name != "confidence" else 0.0) for name, (option, default) in options.SCENARIO.items()},
    {name: option for name, option in options.PROBLEM.items() if name != "records"},
)
def refine(
    model: options.TrainedModel,
    data: options.Data,
    out: Annotated[Path, typer.Option("--out", help="Folder for the trained strategies; give it again to resume.")],
    candidates: Annotated[int, typer.Option("--candidates", min=1, help="Trainings to spend at most, in all.")],
    records: Annotated[
        Path | None,
        typer.Option(
            "--records", callback=options.fetched, help="Records to start from (Parquet); default: the shipped ones."
        ),
    ] = None,
    base: options.Base = None,
    grid: Annotated[Path | None, typer.Option("--grid", help="Scenarios (YAML), instead of a single one.")] = None,
    *,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Trainings behind an answer; their mean counts.")] = 1,
    optimizer: options.Optimizer = "exact",
    executor: options.Executor = "ray",
    address: options.Address = None,
    workers: options.Workers = None,
    seed: options.Seed = 0,
    json: options.Json = False,
    **chosen: Any,
) -> None:
    """Optimize and train in turn until the fastest strategy is a measured one; run again to resume."""
    with stdout_for_answers():
        from coinfer_ray.cli.compile_notice import announce_compilation
        from coinfer_ray.refine.run import refine as run
        from coinfer_ray.runtime.executors import make_executor
        from coinfer_ray.scenarios.read import resolve
        from coinfer_ray.training.worker import gpu_share

        announce_compilation()
        of_scenario = {name: chosen.pop(name) for name in options.SCENARIO}
        if grid is None:
            from coinfer_ray.refine.cases import Case

            cases = [Case.of(resolve(network=model, **of_scenario))]  # type: ignore[typeddict-item]
        else:
            numbers = [name for name in of_scenario if name not in ("max_loss", "confidence")]
            cases = _cases_of(grid, model, [name for name in numbers if of_scenario[name] is not None])
        with make_executor(executor, address=address, workers=workers, gpus_per_worker=gpu_share()) as running:
            result = run(
                model,
                cases,
                data,
                out,
                budget=candidates,
                executor=running,
                records=records,
                base=base,
                repeats=seeds,
                optimizer=optimizer,
                seed=seed,
                **options.given(chosen),
            )
    if json:
        print_json(result.to_json())
    else:
        _print_refinement(result)


def _cases_of(grid: Path, model: str, beside: list[str]) -> list[Case]:
    from coinfer_ray.refine.cases import cases_of
    from coinfer_ray.scenarios.read import read_grid

    if beside:
        option = beside[0].replace("_", "-")
        raise InputError(f"grid: --{option} was given as well; the grid's scenarios say their own, leave it out")
    return cases_of(read_grid(grid), model)


def _print_refinement(result: LoopResult) -> None:
    from rich.table import Table

    table = Table(
        "scenario",
        title=f"{counted(result.trained, 'training')} in {counted(result.rounds, 'round')}",
        title_justify="left",
    )
    for name in ("latency ms", "measured", "least allowed"):
        table.add_column(name, justify="right")
    for name in ("from", "settled"):
        table.add_column(name)
    for state in result.states:
        best, latency = state.best, state.best_latency_s
        if best is None or latency is None or best.accuracy is None:
            cells = ["-", "-", f"{state.accuracy_floor:.4f}", "none keeps to it"]
        else:
            cells = [f"{latency * 1e3:,.3f}", f"{best.accuracy:.4f}", f"{state.accuracy_floor:.4f}", best.source]
        table.add_row(state.case.name, *cells, "yes" if state.settled else "no: out of trainings")
    print_table(table)
