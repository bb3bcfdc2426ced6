"""Commands about networks and their records: models, collect, fit."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coinfer_ray.cli import options
from coinfer_ray.cli.output import check_output, note, print_json, print_table, stdout_for_answers
from coinfer_ray.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

    from coinfer_ray.models.layers import LayerGraph
    from coinfer_ray.predictor import FitReport
    from coinfer_ray.regressors import Metrics

DEFAULT_INPUT_PX = 224


def register(app: typer.Typer) -> None:
    """Add the commands of this module to ``app``."""
    app.command(
        epilog="""Examples:

\b
  coinfer models
  coinfer models alexnet --input-px 64
  coinfer models regnet_x_400mf --json
""",
    )(models)
    app.command(
        epilog="""Examples:

\b
  coinfer collect --model alexnet --data cifar10:images --out records/ --candidates 300 --input-px 64
  coinfer collect --model alexnet --data photos/ --out noisy/ --candidates 150 --snr-db 0:50 --executor local
  coinfer collect --model alexnet --data photos/ --out records/ --candidates 100 --known records.parquet --near 0.05
""",
    )(collect)
    app.command(
        epilog="""Examples:

\b
  coinfer fit records/
  coinfer fit alexnet-64px.parquet --out alexnet.npz
  coinfer fit records/ more-records/ --out alexnet.npz
  coinfer fit records/ --regressor random_forest --accuracy test --json
""",
    )(fit)


def models(
    model: Annotated[str | None, typer.Argument(help="Network whose layers to show; without it, all networks.")] = None,
    input_px: options.InputPx = None,
    json: options.Json = False,
    write: Annotated[Path | None, typer.Option("--write", help="Trace the shipped networks again into DIR.")] = None,
) -> None:
    """List the networks, or one network's layers and cuts."""
    from coinfer_ray.models.layers import load_graph, shipped_graphs

    if write is not None:
        from coinfer_ray.models.trace import write_graphs

        with stdout_for_answers():
            written = [str(path) for path in write_graphs(write)]
        if json:
            print_json(written)
        else:
            typer.echo("\n".join(written))
    elif model is None:
        sizes: dict[str, list[int]] = {}
        for name, pixels in shipped_graphs():
            sizes.setdefault(name, []).append(pixels)
        if json:
            print_json([{"model": name, "input_px": sorted(pixels)} for name, pixels in sizes.items()])
        else:
            _print_networks(sizes)
    else:
        with stdout_for_answers():
            graph = load_graph(model, DEFAULT_INPUT_PX if input_px is None else input_px)
        if json:
            print_json(graph.to_json())
        else:
            _print_graph(graph)


def collect(
    model: options.Model,
    data: Annotated[str, typer.Option("--data", help="Folder of images, or cifar10:DIR to download into DIR.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the records; give it again to resume.")],
    candidates: Annotated[int, typer.Option("--candidates", min=1, help="Strategies to train, in all.")],
    repeats: Annotated[
        int, typer.Option("--repeats", min=1, help="Times that each is trained, from different seeds.")
    ] = 1,
    minutes: Annotated[
        float | None, typer.Option("--minutes", min=0, help="Begin no candidate later than this; run again to go on.")
    ] = None,
    input_px: Annotated[int, typer.Option("--input-px", min=1, help="Side of the network's input, in pixels.")] = 64,
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
    check_output(pack)
    snr_range = None if snr_db is None else _decibel_range(snr_db)
    with stdout_for_answers():
        from coinfer_ray.executors import make_executor
        from coinfer_ray.training.collect import collect as run
        from coinfer_ray.training.collect import default_settings, gpu_share

        settings = replace(default_settings(model), validation_images=validation_images, test_images=test_images)
        candidate = settings.candidate
        if base_images is not None:
            settings = replace(settings, base=replace(settings.base, images=base_images))
        if fine_tune_images is not None:
            candidate = replace(candidate, fine_tune=replace(candidate.fine_tune, images=fine_tune_images))
        if end_to_end_images is not None:
            candidate = replace(candidate, end_to_end=replace(candidate.end_to_end, images=end_to_end_images))
        gpus = gpu_share() if gpus_per_worker is None else gpus_per_worker
        with make_executor(executor, address=address, workers=workers, gpus_per_worker=gpus) as running:
            summary = run(
                model,
                data,
                out,
                candidates,
                repeats=repeats,
                minutes=minutes,
                executor=running,
                input_px=input_px,
                snr_db=snr_range,
                seed=seed,
                settings=replace(settings, candidate=candidate),
                base=base,
                known=known,
                near=near,
            )
        if pack is not None:
            from coinfer_ray import store

            store.pack(out, pack)
    if json:
        print_json(asdict(summary) | {"folder": str(summary.folder), "packed": None if pack is None else str(pack)})
    else:
        typer.echo(
            f"{summary.candidates} candidates in {summary.folder} ({summary.trained_now} trained now, "
            f"{summary.failed_now} of them failed); base accuracy {summary.base_validation_accuracy:.4f} "
            f"(validation), {summary.base_test_accuracy:.4f} (test)"
        )


def fit(
    records: Annotated[list[Path], typer.Argument(help="Records files, or folders of collections, of one setting.")],
    out: Annotated[Path | None, typer.Option("--out", help="Write the predictor here (.npz, no pickle).")] = None,
    regressor: Annotated[
        str | None, typer.Option("--regressor", help="Take this one; default: chosen by the error out of fold.")
    ] = None,
    accuracy: options.Accuracy = "validation",
    folds: Annotated[int, typer.Option("--folds", min=2, help="Folds of the cross-validation.")] = 10,
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Compare the regressors on the records, keep the best as predictor, and say what it is worth."""
    check_output(out)
    with stdout_for_answers():
        from coinfer_ray.predictor import fit as run

        report = run(records, regressor=regressor, accuracy=accuracy, folds=folds, seed=seed)
        if out is not None:
            report.predictor.save(out)
    if json:
        print_json(report.to_json())
    else:
        _print_fit(report)
        if out is not None:
            note(f"predictor written to {out}")


def _decibel_range(text: str) -> tuple[float, float]:
    low, colon, high = text.partition(":")
    try:
        bounds = float(low), float(high if colon else low)
    except ValueError:
        bounds = (1.0, 0.0)
    if not bounds[0] <= bounds[1]:
        raise InputError(f"--snr-db: {text!r} is no range of decibels; write LO:HI, for example 0:50")
    return bounds


def _print_networks(sizes: dict[str, list[int]]) -> None:
    from rich.table import Table

    from coinfer_ray.models.layers import load_graph

    table = Table("model", "input px", "layers", "prunable sets", "cuts", "GFLOP")
    for name, pixels in sizes.items():
        for px in sorted(pixels):
            graph = load_graph(name, px)
            cuts, sets = len(graph.cut_points), len(graph.prunable_sets)
            table.add_row(name, str(px), str(len(graph.layers)), str(sets), str(cuts), f"{graph.flops / 1e9:.3f}")
    print_table(table)


def _print_graph(graph: LayerGraph) -> None:
    from rich.table import Table

    title = f"{graph.model}, {graph.input_px} px, {graph.flops / 1e6:,.1f} MFLOP"
    layers = Table("#", "layer", "kind", "output", "MFLOP", "kbit out", "pruned with", "cut", title=title)
    for layer in graph.layers:
        shape = f"{layer.out_channels} x {layer.out_height} x {layer.out_width}"
        layers.add_row(
            str(layer.index),
            layer.name,
            layer.kind,
            str(layer.output_elements) if layer.vector else shape,
            f"{layer.flops / 1e6:,.3f}",
            f"{layer.output_elements * 32 / 1e3:,.1f}",
            layer.out_set or "",
            "yes" if layer.index in graph.cut_points else "",
        )
    sets = Table("set", "channels", "unit", "layers", title="Prunable sets: channels that only fall together")
    for prunable in graph.prunable_sets:
        sets.add_row(prunable.name, str(prunable.channels), str(prunable.unit), ", ".join(prunable.layers))
    print_table(layers, sets)


def _print_fit(report: FitReport) -> None:
    from rich.table import Table

    predictor = report.predictor
    title = (
        f"{predictor.model}, {predictor.input_px} px: {predictor.accuracy} accuracy of {predictor.records} records, "
        f"in sample and out of fold ({report.folds} folds)"
    )
    table = Table("regressor", title=title, title_justify="left")
    for place in ("in sample", "out of fold"):
        for figure in ("MSE", "adj. R\u00b2", "AIC", "BIC"):
            table.add_column(f"{figure}\n{place}", justify="right")
    for row in report.comparison:
        cells = [cell for metrics in (row.in_sample, row.out_of_fold) for cell in _metric_cells(metrics)]
        chosen = row.regressor == predictor.regressor
        table.add_row(f"{row.regressor} *" if chosen else row.regressor, *cells, style="bold" if chosen else None)
    print_table(table, _error_table(report))
    note(f"* chosen; {predictor.settings.get('data', 'data unknown')}, base accuracy {predictor.base_accuracy:.4f}")


def _error_table(report: FitReport) -> Table:
    """What the chosen regressor's predictions are worth, in points of accuracy."""
    from rich.table import Table

    predictor, coverage = report.predictor, report.coverage
    table = Table(show_header=False, title=f"Errors of {predictor.regressor}", title_justify="left")
    table.add_row("of a prediction, out of fold (root mean square)", f"{predictor.typical_error:.4f}")
    if predictor.noise_floor is None or report.attainable_r2 is None:
        table.add_row("between trainings of one strategy", "unknown: the records repeat none")
    else:
        spread = f"{predictor.noise_floor:.4f} ({predictor.repeated} strategies trained more than once)"
        table.add_row("between trainings of one strategy", spread)
        table.add_row("  adj. R\u00b2 of a predictor that errs no more than that", f"{report.attainable_r2:.3f}")
    if predictor.binomial_error is not None:
        images = predictor.settings[f"{predictor.accuracy}_images"]
        table.add_row(f"of measuring on {images:,} images", f"{predictor.binomial_error:.4f}")
    if coverage is None:
        table.add_row("lower bound", "too few records to try it on records held out")
        return table
    table.add_row(
        f"records at or above their bound, confidence {coverage.confidence:g}", f"{coverage.covered:.1%}, held out"
    )
    if coverage.accepted is not None:
        right = "" if coverage.right is None else f"; {coverage.right:.0%} of those that it lets pass do"
        text = f"lets pass {coverage.accepted:.0%} of those that do{right}"
        table.add_row(f"  asked for a loss of at most {coverage.max_loss:g}", text)
    return table


def _metric_cells(metrics: Metrics) -> tuple[str, ...]:
    criteria = ("-" if value is None else f"{value:,.0f}" for value in (metrics.aic, metrics.bic))
    return (f"{metrics.mse:.2e}", f"{metrics.adjusted_r2:.3f}", *criteria)
