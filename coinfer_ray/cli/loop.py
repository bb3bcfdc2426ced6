"""Commands that hold predictions to the truth: verify, search."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coinfer_ray.cli import options
from coinfer_ray.cli.output import note, print_json, print_table, stdout_for_answers
from coinfer_ray.errors import InputError

if TYPE_CHECKING:
    from coinfer_ray.loop import Case, LoopResult
    from coinfer_ray.training.verify import Verification

Data = Annotated[str, typer.Option("--data", help="Images: those of the records.")]
Base = Annotated[
    Path | None, typer.Option("--base", help="The records' base network; default: the one in their folder.")
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module to ``app``."""
    app.command(
        epilog="""Examples:

\b
  coinfer optimize --model alexnet --device rpi3b+ --server p100 --link 4g --json > strategy.json
  coinfer verify strategy.json --data cifar10:images --base records/base.safetensors
  coinfer verify strategy.json --data cifar10:images --records records/ --append records/ --seeds 3
""",
    )(verify)
    app.command(
        epilog="""Examples:

\b
  coinfer search --model alexnet --data cifar10:images --records records/ --out found/ --candidates 20 \\
      --device rpi3b+ --server p100 --link 4g
  coinfer search --model alexnet --data cifar10:images --records records/ --out found/ --candidates 60 \\
      --grid scenarios.yaml
""",
    )(search)


def verify(
    strategy: Annotated[Path, typer.Argument(help="What `coinfer optimize --json` printed.")],
    data: Data,
    records: options.Records = None,
    base: Base = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Times to train it, from different seeds.")] = 1,
    max_loss: Annotated[
        float | None, typer.Option("--max-loss", help="Allowed loss of accuracy, instead of the strategy's own.")
    ] = None,
    accuracy: options.Accuracy = "validation",
    snr_db: Annotated[
        float | None, typer.Option("--snr-db", help="Signal-to-noise ratio to train at, for records of noisy channels.")
    ] = None,
    append: Annotated[
        Path | None, typer.Option("--append", help="Keep the measurements as records in this folder.")
    ] = None,
    feature_bits: Annotated[
        int | None, typer.Option("--feature-bits", help="Send the feature quantised to 1..8 bits a value.")
    ] = None,
    executor: options.Executor = "local",
    address: options.Address = None,
    workers: options.Workers = None,
    json: options.Json = False,
) -> None:
    """Train a strategy for real and compare with what was predicted."""
    with stdout_for_answers():
        from coinfer_ray.executors import make_executor
        from coinfer_ray.training.collect import gpu_share
        from coinfer_ray.training.verify import Claim
        from coinfer_ray.training.verify import verify as run

        claim = Claim.load(strategy)
        with make_executor(executor, address=address, workers=workers, gpus_per_worker=gpu_share()) as running:
            found = run(
                claim,
                data,
                executor=running,
                records=records,
                base=base,
                seeds=seeds,
                max_loss=max_loss,
                accuracy=accuracy,
                snr_db=snr_db,
                append=append,
                feature_bits=feature_bits,
            )
    if json:
        print_json(found.to_json())
    else:
        _print_verification(found)


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
        from coinfer_ray.executors import make_executor
        from coinfer_ray.scenario import resolve
        from coinfer_ray.training.closed_loop import search as run
        from coinfer_ray.training.collect import gpu_share

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
            from coinfer_ray.loop import Case

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
    from coinfer_ray.loop import cases_of
    from coinfer_ray.scenario import Grid

    if beside:
        option = beside[0].replace("_", "-")
        raise InputError(f"grid: --{option} was given as well; the grid's scenarios say their own, leave it out")
    return cases_of(Grid.load(grid), model)


def _print_verification(found: Verification) -> None:
    from rich.table import Table

    claim, measured = found.claim, found.measured_accuracy
    title = f"{claim.model}, {claim.input_px} px: {found.split} accuracy"
    table = Table(show_header=False, title=title, title_justify="left")
    predicted = claim.predicted_accuracy
    table.add_row("predicted", "-" if predicted is None else f"{predicted:.4f}")
    if claim.accuracy_bound is not None:
        confidence = "" if claim.confidence is None else f" (at a confidence of {claim.confidence:g})"
        table.add_row("  bound", f"{claim.accuracy_bound:.4f}{confidence}")
    if measured is None:
        table.add_row("measured", "nothing: no training ended well")
    else:
        gap = "" if predicted is None else f" ({measured - predicted:+.4f} to the prediction)"
        table.add_row("measured", f"{measured:.4f}{gap}")
    for row in found.rows if len(found.rows) > 1 else ():
        value = row.get(f"{found.split}_accuracy")
        table.add_row(f"  seed {row['seed']}", row["status"] if value is None else f"{value:.4f}")
    validation, test = found.measured_validation_accuracy, found.measured_test_accuracy
    if validation is not None and test is not None:
        table.add_row("validation, test", f"{validation:.4f}, {test:.4f}")
    table.add_row("base: validation, test", f"{found.base_validation_accuracy:.4f}, {found.base_test_accuracy:.4f}")
    if claim.accuracy_floor is not None:
        table.add_row("least allowed", f"{claim.accuracy_floor:.4f}: {'kept' if found.floor_met else 'NOT kept'}")
    print_table(table)
    coded = found.rows[0].get("coded_bit")
    if coded is not None:
        note(f"sent: {found.rows[0]['uplink_bit'] / 1e3:,.1f} kbit quantised, {coded / 1e3:,.1f} kbit Huffman-coded")
    for shard in found.shards:
        note(f"record: {shard}")


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
