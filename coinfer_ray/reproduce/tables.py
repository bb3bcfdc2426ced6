"""The paper's Tables I to IV: how costs are counted, the devices and links, the regressors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from coinfer_ray.models.library import load_graph
from coinfer_ray.report.model import Cell, Column, TableView
from coinfer_ray.reproduce.figures import network
from coinfer_ray.scenarios.scenario import DEVICE_FLOPS_PER_S, LINK_RATE_BPS, SERVER_FLOPS_PER_S

PAPER_INPUT_PX = 224
# Table IV, gradient boosting: MSE, adjusted R^2, AIC, BIC.
PAPER_BOOSTING = (4.87e-5, 0.832, -3900.0, -3830.0)


def layers_table(model: str, command: str) -> TableView:
    """Table I on a network: FLOPs and output elements of each layer at the paper's input size."""
    graph = load_graph(model, PAPER_INPUT_PX)
    rows: list[Sequence[str | float | Cell | None]] = [
        [float(layer.index), layer.name, layer.kind, float(layer.flops), float(layer.output_elements)]
        for layer in graph.layers
    ]
    total = sum(layer.flops for layer in graph.layers)
    return TableView(
        title=f"Table I: {network(model)} layer by layer",
        caption=f"At {PAPER_INPUT_PX} pixels, {total / 1e9:.3f} GFLOPs in all; a batch norm is folded into the "
        "convolution before it. FLOPs of convolutions and linear layers equal torch's own counter, biases aside "
        "(tests/models).",
        command=command,
        columns=[
            Column("layer", numeric=True),
            Column("name"),
            Column("kind"),
            Column("FLOPs", numeric=True),
            Column("elements out", numeric=True),
        ],
        rows=rows,
    )


def settings_table(command: str) -> TableView:
    """Tables II and III: computing speeds and uplink rates."""
    rows: list[Sequence[str | float | Cell | None]] = []
    for kind, speeds in (("device", DEVICE_FLOPS_PER_S), ("server", SERVER_FLOPS_PER_S)):
        rows += [[kind, name, speed / 1e9, "GFLOPS"] for name, speed in speeds.items()]
    rows += [["link", name, rate / 1e6, "Mb/s"] for name, rate in LINK_RATE_BPS.items()]
    return TableView(
        title="Tables II and III: devices, server, links",
        caption="As the paper has them: data sheets' figures, no measured speeds.",
        command=command,
        columns=[Column("kind"), Column("name"), Column("speed or rate", numeric=True), Column("unit")],
        rows=rows,
    )


def regressors_table(fits: Sequence[dict[str, Any]], command: str) -> TableView:
    """Table IV: the regressors on the records, out of fold, beside the paper's gradient boosting.

    ``fits`` are :meth:`coinfer_ray.predictor.fit.FitReport.to_json` of each network.
    """
    mse, r2, aic, bic = PAPER_BOOSTING
    rows: list[Sequence[str | float | Cell | None]] = [["the paper's", "gradient_boosting", "", mse, r2, aic, bic]]
    for fit in fits:
        for row in fit["regressors"]:
            held = row["out_of_fold"]
            figures = [held["mse"], held["adjusted_r2"], held["aic"], held["bic"]]
            chosen = "chosen" if row["regressor"] == fit["predictor"]["regressor"] else ""
            rows.append([network(fit["predictor"]["model"]), row["regressor"], chosen, *figures])
    return TableView(
        title="Table IV: regressors",
        caption="Ours on records held out of the fit, ten folds. A fifth of the records are what solvers chose, the "
        "hardest to predict.",
        command=command,
        columns=[
            Column("network"),
            Column("regressor"),
            Column("note"),
            Column("MSE", numeric=True),
            Column("adj. R\u00b2", numeric=True),
            Column("AIC", numeric=True),
            Column("BIC", numeric=True),
        ],
        rows=rows,
    )
