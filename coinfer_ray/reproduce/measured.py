"""Figures and tables that go beyond the paper's: noise, promises, optimizers, and what was trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any

from coinfer_ray.methods.registry import METHODS
from coinfer_ray.records.choices import choices_path, read_choices
from coinfer_ray.records.store import read_records, shipped_parts
from coinfer_ray.report.model import Column, Figure, Series, TableView
from coinfer_ray.reproduce.figures import hover, network, titles
from coinfer_ray.reproduce.optimizers import Search
from coinfer_ray.reproduce.rows import SETTINGS, Row

NO_GAP = 1e-5  # what a gap of nothing is drawn at, on an axis of powers of ten


def noise_figure(rows: Sequence[Row], command: str) -> Figure:
    """Fig. 11: latency over the SNR, a panel for each setting."""
    series = []
    for setting in SETTINGS:
        for title in titles(rows):
            own = [row for row in rows if row.setting == setting.name and row.title == title]
            if own:
                series.append(
                    Series(
                        label=title,
                        x=[row.snr_db or 0.0 for row in own],
                        y=[1e3 * row.latency_s for row in own],
                        text=[hover(row) for row in own],
                        verified=[row.verified for row in own],
                        panel=setting.title,
                        filters={"device": own[0].device, "method": title},
                    )
                )
    return Figure(
        name="fig11-noise",
        title="Fig. 11: AlexNet on a Raspberry Pi 3B+ over the signal-to-noise ratio",
        caption="Latency at a loss of 2 points over a channel of 1 MHz (the paper does not say its bandwidth; with "
        "this one the worst ratio begins near the paper's), whose rate follows from the SNR. What a codec encodes "
        "would meet the noise, and only what was trained through it counts; other features are sent as bits, by every "
        "method: where no codec pays, as here, the noise enters by the rate alone. All values are floats.",
        command=command,
        kind="line",
        x_label="SNR (dB)",
        y_label="latency (ms)",
        y_log=True,
        series=series,
    )


def promise_figure(rows: Sequence[dict[str, Any]], command: str) -> Figure:
    """What answers promise to lose against what a fresh training lost."""
    series = []
    for model in dict.fromkeys(row["model"] for row in rows):
        for split in ("validation", "test"):
            own = [row for row in rows if (row["model"], row["split"]) == (model, split)]
            series.append(
                Series(
                    label=f"{split} images",
                    x=[100 * row["promised_loss"] for row in own],
                    y=[100 * row["measured_loss"] for row in own],
                    text=[
                        f"cut after {row['cut_after']}\npromised {100 * row['promised_loss']:.2f}, measured "
                        f"{100 * row['measured_loss']:.2f} \u00b1 {100 * row['standard_error']:.2f} points"
                        for row in own
                    ],
                    panel=network(model),
                    filters={"network": network(model)},
                )
            )
    return Figure(
        name="promised-measured",
        title="Promised and measured loss",
        caption="Compressed strategies of default answers to 40 random scenarios at 1, 2 and 5 points, each "
        "trained once more from a fresh seed (studies/verify_answers.py): where it measured less than it promised, it "
        "lost less than was said.",
        command=command,
        kind="points",
        x_label="promised loss (points)",
        y_label="measured loss (points)",
        series=series,
    )


def optimizer_figures(rows: Sequence[dict[str, Any]], command: str) -> Iterator[Figure]:
    """Certified gaps, and seconds of a search, by optimizer and scenario."""
    found = [Search(**row) for row in rows]
    for name, title, label, value in (
        ("gaps", "Certified gap of each optimizer", "gap to the proven best (%)", _gap),
        ("search-cost", "What a search costs", "seconds", _seconds),
    ):
        yield Figure(
            name=name,
            title=title,
            caption="The paper's devices and links at a loss of 2 points, predictions taken as they are. "
            + (
                "At most so much above the best strategy that the predictor accepts; no gap is drawn at 0.001 %."
                if name == "gaps"
                else "Processor of this machine, one scenario at a time; compilation apart."
            ),
            command=command,
            kind="points",
            x_label=label,
            y_label="scenario",
            x_log=True,
            series=[
                Series(
                    label=optimizer,
                    x=[value(row) for row in own],
                    y=[f"{row.device}, {row.link}" for row in own],
                    text=[
                        f"{optimizer}: {1e3 * row.latency_s:,.4g} ms, gap {100 * row.gap:.3g} %\n"
                        f"{row.seconds:.3g} s, {row.evaluations:,} evaluations"
                        for row in own
                    ],
                    panel=network(model),
                    filters={"network": network(model), "device": [row.device for row in own]},
                )
                for model in dict.fromkeys(row.model for row in found)
                for optimizer in dict.fromkeys(row.optimizer for row in found)
                if (own := [row for row in found if (row.model, row.optimizer) == (model, optimizer)])
            ],
        )


def _gap(row: Search) -> float:
    return 100 * max(row.gap, NO_GAP)


def _seconds(row: Search) -> float:
    return row.seconds


def trainings(models: Sequence[str]) -> list[dict[str, Any]]:
    """What stands behind each method's choices: a row for each network and method, coinfer's own records first.

    ``trainings``; ``choices``, the networks cut at a point that they left; ``images`` presented in all of them and, the
    median, in each; ``seconds`` likewise, as they were timed where they ran.
    """
    rows = []
    for model in models:
        records = read_records(shipped_parts(model)).table.to_pylist()
        own = [
            (row["fine_tune_images"] + row["end_to_end_images"], row["wall_s"] or 0.0)
            for row in records
            if row["end_to_end_images"]  # the network as it is was measured alone
        ]
        rows.append(_budget(model, "coinfer, Prune_Partition", len(records), own))
        if not choices_path(model).exists():
            continue
        choices = read_choices(choices_path(model))
        for method in choices.methods:
            left = [row for row in choices.table.to_pylist() if row["method"] == method]
            each = {(row["asked"], row["seed"]): (row["images"], row["wall_s"]) for row in left}
            rows.append(_budget(model, METHODS[method].title, len(left), list(each.values())))
    return rows


def _budget(model: str, title: str, choices: int, each: Sequence[tuple[int, float]]) -> dict[str, Any]:
    images, seconds = zip(*each, strict=True)
    return {
        "model": model,
        "method": title,
        "trainings": len(each),
        "choices": choices,
        "images": sum(images),
        "images_each": median(images),
        "seconds": sum(seconds),
        "seconds_each": median(seconds),
    }


def trainings_table(rows: Sequence[dict[str, Any]], command: str) -> TableView:
    """How many trainings, images and seconds stand behind each method, of rows as :func:`trainings` gives them."""
    names = ("trainings", "choices", "images", "images_each", "seconds", "seconds_each")
    return TableView(
        title="What was trained",
        caption="Trainings behind each method's choices (networks cut at a point), the images presented in them, and "
        "their seconds; each: the median. As many images each are an equal budget. 2-Step Pruning's second steps count "
        "their first step's; JALAD's measurements train nothing. Seconds are those of one processor core, often shared "
        "with other work; most of coinfer's own were trained on a GPU, so theirs say nothing beside the others'. FPGM "
        "and BottleNet++ have few settings; the wide space is coinfer's and Prune_Partition's alone.",
        command=command,
        columns=[
            Column("network"),
            Column("method"),
            Column("trainings", numeric=True),
            Column("choices", numeric=True),
            Column("images", numeric=True),
            Column("images each", numeric=True),
            Column("seconds", numeric=True),
            Column("seconds each", numeric=True),
        ],
        rows=[[network(row["model"]), row["method"], *(float(row[name]) for name in names)] for row in rows],
        filters={"network": "network"},
    )
