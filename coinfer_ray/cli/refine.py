"""``coinfer search``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coinfer_ray.cli import options
from coinfer_ray.cli.options import Base, Data
from coinfer_ray.cli.output import print_json, print_table, stdout_for_answers
from coinfer_ray.errors import InputError

if TYPE_CHECKING:
    from coinfer_ray.refine.cases import Case
    from coinfer_ray.refine.rounds import LoopResult


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(
        epilog="""Examples:

\b
  coinfer search --model alexnet --data cifar10:images --records records/ --out found/ --candidates 20 \\
      --device rpi3b+ --server p100 --link 4g
  coinfer search --model alexnet --data cifar10:images --records records/ --out found/ --candidates 60 \\
      --grid scenarios.yaml
""",
    )(search)


def search(
    model: options.Model,
    data: Data,
    out: Annotated[Path, typer.Option("--out", help="Folder for the trained strategies; give it again to resume.")],
    candidates: Annotated[int, typer.Option("--candidates", min=1, help="Trainings to spend at most, in all.")],
    records: Annotated[
        Path | None, typer.Option("--records", help="Records to start from (Parquet); default: the shipped ones.")
    ] = None,
    base: Base = None,
    grid: Annotated[Path | None, typer.Option("--grid", help="Scenarios (YAML), instead of a single one.")] = None,
    device: options.Device = None,
    device_gflops: options.DeviceGflops = None,
    server: options.Server = None,
    server_gflops: options.ServerGflops = None,
    link: options.Link = None,
    rate_mbps: options.RateMbps = None,
    bandwidth_mhz: options.BandwidthMhz = None,
    snr_db: options.SnrDb = None,
    max_loss: options.MaxLoss = 0.02,
    confidence: options.Confidence = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Trainings behind an answer; their mean counts.")] = 1,
    accuracy: options.Accuracy = "validation",
    input_px: options.InputPx = None,
    cuts: options.Cuts = "all",
    codec_flops: options.CodecFlops = "count",
    input_bits: options.InputBits = 32,
    optimizer: options.Optimizer = "exact",
    executor: options.Executor = "ray",
    address: options.Address = None,
    workers: options.Workers = None,
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Optimize and train in turn until the fastest strategy is a measured one; run again to resume."""
    with stdout_for_answers():
        from coinfer_ray.refine.run import search as run
        from coinfer_ray.runtime.executors import make_executor
        from coinfer_ray.scenarios.read import resolve
        from coinfer_ray.training.worker import gpu_share

        numbers = {
            "device": device,
            "device_gflops": device_gflops,
            "server": server,
            "server_gflops": server_gflops,
            "link": link,
            "rate_mbps": rate_mbps,
            "bandwidth_mhz": bandwidth_mhz,
            "snr_db": snr_db,
        }
        if grid is None:
            from coinfer_ray.refine.cases import Case

            scenario = resolve(**numbers, max_loss=max_loss, confidence=confidence)  # type: ignore[arg-type]
            cases = [Case.of(scenario)]
        else:
            cases = _cases_of(grid, model, [name for name, value in numbers.items() if value is not None])
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
                input_px=input_px,
                repeats=seeds,
                cuts=cuts,
                codec_flops=codec_flops == "count",
                input_bits=input_bits,
                accuracy=accuracy,
                optimizer=optimizer,
                seed=seed,
            )
    if json:
        print_json(result.to_json())
    else:
        _print_search(result)


def _cases_of(grid: Path, model: str, beside: list[str]) -> list[Case]:
    from coinfer_ray.refine.cases import cases_of
    from coinfer_ray.scenarios.read import read_grid

    if beside:
        option = beside[0].replace("_", "-")
        raise InputError(f"grid: --{option} was given as well; the grid's scenarios say their own, leave it out")
    return cases_of(read_grid(grid), model)


def _print_search(result: LoopResult) -> None:
    from rich.table import Table

    table = Table("scenario", title=f"{result.trained} trainings in {result.rounds} rounds", title_justify="left")
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
