"""``coinfer collect``."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coinfer_ray.cli import options
from coinfer_ray.cli.output import check_output, note, print_json, stdout_for_answers
from coinfer_ray.errors import InputError, counted

if TYPE_CHECKING:
    pass


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(
        epilog="""Examples:

\b
  coinfer collect --model alexnet --data cifar10:images --out records/ --candidates 300 --input-px 64
  coinfer collect --model alexnet --data photos/ --out noisy/ --candidates 150 --snr-db 0:50 --executor local
  coinfer collect --model nets:Small --data photos/ --out records/ --candidates 100 --weights small.safetensors
  coinfer collect --model alexnet --data photos/ --out records/ --candidates 100 --known records.parquet --near 0.05
""",
    )(collect)


def collect(
    model: options.TrainedModel,
    data: Annotated[
        str,
        typer.Option("--data", help="Folder of images, cifar10:DIR to download into DIR, or digits, which needs none."),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for the records; give it again to resume.")],
    candidates: Annotated[int, typer.Option("--candidates", min=1, help="Strategies to train, in all.")],
    repeats: Annotated[
        int, typer.Option("--repeats", min=1, help="Times that each is trained, from different seeds.")
    ] = 1,
    minutes: Annotated[
        float | None, typer.Option("--minutes", min=0, help="Begin no candidate later than this; run again to go on.")
    ] = None,
    input_px: options.InputPx = None,
    snr_db: Annotated[
        str | None,
        typer.Option("--snr-db", metavar="LO:HI", help="Train through a noisy channel, SNR drawn from LO to HI dB."),
    ] = None,
    executor: options.Executor = "ray",
    address: options.Address = None,
    workers: options.Workers = None,
    gpus_per_worker: Annotated[
        float | None,
        typer.Option("--gpus-per-worker", min=0, help="GPUs of a worker; default: 0.25 where this machine has any."),
    ] = None,
    seed: options.Seed = 0,
    base_images: Annotated[
        int | None, typer.Option("--base-images", min=1, help="Images to train the base network on, with repeats.")
    ] = None,
    prunable_images: Annotated[
        int | None,
        typer.Option(
            "--prunable-images",
            min=0,
            help="Images of its second phase, in which random sub-networks learn too, where its recipe has one; "
            "default: in proportion to --base-images.",
        ),
    ] = None,
    fine_tune_images: Annotated[
        int | None, typer.Option("--fine-tune-images", min=0, help="Images to fine-tune a pruned network on.")
    ] = None,
    end_to_end_images: Annotated[
        int | None, typer.Option("--end-to-end-images", min=0, help="Images to train network and codec on together.")
    ] = None,
    validation_images: Annotated[
        int | None, typer.Option("--validation-images", min=1, help="Validation images to measure a candidate on.")
    ] = None,
    test_images: Annotated[
        int | None, typer.Option("--test-images", min=1, help="Test images to measure a candidate on.")
    ] = None,
    base: Annotated[Path | None, typer.Option("--base", help="Trained base network; default: train one first.")] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights",
            help="Weights of the base network, which is then trained only on as many images as --base-images and "
            "--prunable-images say: a .safetensors file, a torch state dict, or `own`: those that --model builds.",
        ),
    ] = None,
    mean: Annotated[
        str | None,
        typer.Option("--mean", metavar="R,G,B", help="Normalise images by it, 0..1; default: the training images'."),
    ] = None,
    std: Annotated[
        str | None,
        typer.Option("--std", metavar="R,G,B", help="Normalise images by it, 0..1; default: the training images'."),
    ] = None,
    any_base: Annotated[
        bool, typer.Option("--any-base", help="Take a base network that is no better than guessing: for trials.")
    ] = False,
    known: Annotated[
        Path | None, typer.Option("--known", help="Records packed earlier; what they hold is not trained again.")
    ] = None,
    near: Annotated[
        float | None,
        typer.Option("--near", min=0, metavar="LOSS", help="Train candidates that --known predicts to lose no more."),
    ] = None,
    pack: Annotated[Path | None, typer.Option("--pack", help="Join the records into one FILE at the end.")] = None,
    json: options.Json = False,
) -> None:
    """Train candidates for real, one record each; run again to resume."""
    check_output(pack, "records")
    snr_range = None if snr_db is None else _decibel_range(snr_db)
    means, deviations = (
        None if each is None else _colours(name, each) for name, each in (("mean", mean), ("std", std))
    )
    with stdout_for_answers():
        from coinfer_ray.models.library import check_known
        from coinfer_ray.models.source import resolve_model
        from coinfer_ray.runtime.executors import make_executor
        from coinfer_ray.training.collect import collect as run
        from coinfer_ray.training.collect import usual_px
        from coinfer_ray.training.data import load_data
        from coinfer_ray.training.worker import default_settings, gpu_share

        source = resolve_model(model)
        check_known(source)
        # Whose size is that of the images is known when these are there.
        images = load_data(data) if source.own and input_px is None else data
        settings = replace(
            default_settings(source, input_px or usual_px(source, images)),
            validation_images=validation_images,
            test_images=test_images,
            any_base=any_base,
        )
        candidate = settings.candidate
        if fine_tune_images is not None:
            candidate = replace(candidate, fine_tune=replace(candidate.fine_tune, images=fine_tune_images))
        if end_to_end_images is not None:
            candidate = replace(candidate, end_to_end=replace(candidate.end_to_end, images=end_to_end_images))
        gpus = gpu_share() if gpus_per_worker is None else gpus_per_worker
        with make_executor(executor, address=address, workers=workers, gpus_per_worker=gpus) as running:
            summary = run(
                model,
                images,
                out,
                candidates,
                repeats=repeats,
                minutes=minutes,
                executor=running,
                input_px=input_px,
                snr_db=snr_range,
                seed=seed,
                settings=replace(settings, candidate=candidate),
                base_images=base_images,
                prunable_images=prunable_images,
                base=base,
                weights=weights,
                mean=means,
                std=deviations,
                known=known,
                near=near,
            )
        if pack is not None:
            from coinfer_ray.records import store

            store.pack(out, pack)
    if json:
        print_json(asdict(summary) | {"folder": str(summary.folder), "packed": None if pack is None else str(pack)})
    else:
        typer.echo(
            f"{counted(summary.candidates, 'candidate')} in {summary.folder} ({summary.trained_now} trained now, "
            f"{summary.failed_now} of them failed, {summary.unfinished_now} of which the next run tries again); "
            f"base accuracy {summary.base_validation_accuracy:.4f} (validation), "
            f"{summary.base_test_accuracy:.4f} (test)"
        )
        note_least(out)


def note_least(folder: Path) -> None:
    """Say where the collection is too small for a predictor, which a user would else learn from the next command."""
    from coinfer_ray.predictor.fit import usable_strategies
    from coinfer_ray.records.store import read_records

    try:
        have, least = usable_strategies(read_records(folder))
    except InputError:  # none of the candidates has an accuracy
        return
    if have < least:
        note(f"a predictor needs {least} strategies, {folder} holds {have}; run this again with more --candidates")


def _colours(name: str, text: str) -> list[float]:
    try:
        return [float(each) for each in text.split(",")]
    except ValueError:
        raise InputError(f"--{name}: {text!r} is no list of numbers; write R,G,B, for example 0.49,0.48,0.45") from None


def _decibel_range(text: str) -> tuple[float, float]:
    low, colon, high = text.partition(":")
    try:
        bounds = float(low), float(high if colon else low)
    except ValueError:
        bounds = (1.0, 0.0)
    if not bounds[0] <= bounds[1]:
        raise InputError(f"--snr-db: {text!r} is no range of decibels; write LO:HI, for example 0:50")
    return bounds
