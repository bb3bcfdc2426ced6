"""``coinfer verify``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coinfer_ray.cli import options
from coinfer_ray.cli.options import Base, Data
from coinfer_ray.cli.output import note, print_json, print_table, stdout_for_answers

if TYPE_CHECKING:
    from coinfer_ray.training.verify import Verification


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(
        epilog="""Examples:

\b
  coinfer optimize --model alexnet --device rpi3b+ --server p100 --link 4g --json > strategy.json
  coinfer verify strategy.json --data cifar10:images --base records/_base.safetensors
  coinfer verify strategy.json --data cifar10:images --records records/ --append records/ --seeds 3
""",
    )(verify)


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
        int | None,
        typer.Option("--feature-bits", help="Instead of the strategy's own: 1..8, quantised, or 32, floats."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", help="The network as package.module:callable; default: what the strategy calls it."),
    ] = None,
    executor: options.Executor = "local",
    address: options.Address = None,
    workers: options.Workers = None,
    json: options.Json = False,
) -> None:
    """Train a strategy for real and compare with what was predicted."""
    with stdout_for_answers():
        from coinfer_ray.cli.compile_notice import announce_compilation
        from coinfer_ray.runtime.executors import make_executor
        from coinfer_ray.training.verify import Claim
        from coinfer_ray.training.verify import verify as run
        from coinfer_ray.training.worker import gpu_share

        announce_compilation()
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
                model=model,
            )
    if json:
        print_json(found.to_json())
    else:
        _print_verification(found)


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
    sent = found.rows[0].get("uplink_bit")
    if sent is not None:
        note(f"sent: {sent / 1e3:,.1f} kbit")
    for shard in found.shards:
        note(f"record: {shard}")
