"""``coinfer fit``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coinfer_ray.cli import options
from coinfer_ray.cli.output import check_output, note, print_json, print_table, stdout_for_answers
from coinfer_ray.errors import counted

if TYPE_CHECKING:
    from rich.table import Table

    from coinfer_ray.predictor.fit import FitReport
    from coinfer_ray.predictor.metrics import Metrics


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(
        epilog="""Examples:

\b
  coinfer fit records/
  coinfer fit alexnet-64px.parquet --out alexnet.npz
  coinfer fit records/ more-records/ --out alexnet.npz
  coinfer fit records/ --regressor random_forest --accuracy test --json
""",
    )(fit)


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
    check_output(out, "predictor")
    with stdout_for_answers():
        from coinfer_ray.predictor.fit import fit as run

        report = run(records, regressor=regressor, accuracy=accuracy, folds=folds, seed=seed)
        if out is not None:
            report.predictor.save(out)
    if json:
        print_json(report.to_json())
    else:
        _print_fit(report)
        if out is not None:
            note(f"predictor written to {out}")


def _print_fit(report: FitReport) -> None:
    from rich.table import Table

    predictor = report.predictor
    title = (
        f"{predictor.model}, {predictor.input_px} px: {predictor.accuracy} accuracy of "
        f"{counted(predictor.records, 'record')}, in sample and out of fold ({counted(report.folds, 'fold')})"
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
        repeated = counted(predictor.repeated, "strategy", "strategies")
        spread = f"{predictor.noise_floor:.4f} ({repeated} trained more than once)"
        table.add_row("between trainings of one strategy", spread)
        table.add_row("  adj. R\u00b2 of a predictor that errs no more than that", f"{report.attainable_r2:.3f}")
    if predictor.binomial_error is not None:
        images = predictor.settings[f"{predictor.accuracy}_images"]
        table.add_row(f"of measuring on {counted(images, 'image')}", f"{predictor.binomial_error:.4f}")
    if coverage is None:
        table.add_row("lower bound", "too few records to try it on records held out")
        return table
    table.add_row(
        f"records at or above their bound, confidence {coverage.confidence:g}", f"{coverage.covered:.1%}, held out"
    )
    if coverage.accepted is not None:
        right = "" if coverage.right is None else f"; {coverage.right:.0%} of those that it accepts do"
        text = f"accepts {coverage.accepted:.0%} of those that do{right}"
        table.add_row(f"  asked for a loss of at most {coverage.max_loss:g}", text)
    return table


def _metric_cells(metrics: Metrics) -> tuple[str, ...]:
    criteria = ("-" if value is None else f"{value:,.0f}" for value in (metrics.aic, metrics.bic))
    return (f"{metrics.mse:.2e}", f"{metrics.adjusted_r2:.3f}", *criteria)
