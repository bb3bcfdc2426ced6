"""``coinfer robust``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
from coinfer_ray.errors import InputError, counted

if TYPE_CHECKING:
    from coinfer_ray.atlas.replay import Replay
    from coinfer_ray.optimizer.robust import Place, Robust


def _range(option: str, what: str) -> Any:
    return Annotated[str | None, typer.Option(option, help=f"LOW:HIGH, or one number: {what}.")]


RANGES = {
    "device_gflops": _range("--device-gflops", "the device's speed instead of a name"),
    "server_gflops": _range("--server-gflops", "the server's speed instead of a name"),
    "rate_mbps": _range("--rate-mbps", "uplink rate instead of a link's name"),
    "round_trip_ms": _range("--round-trip-ms", "time that crossing the link takes besides; default: the link's own"),
}
SCENARIO = {name: (RANGES.get(name, option), default) for name, (option, default) in options.SCENARIO.items()}
ROLES = {
    "least_regret": "least regret",
    "middle": "best in the middle",
    "worst_case": "best worst case",
    "plain_split": "plain split",
}

POLICIES = {"switching": "switch to the best", "fixed": "best fixed", "plain_split": "best plain split, fixed"}


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(
        epilog="""Examples:

\b
  coinfer robust --model alexnet --device rpi3b+ --server p100 --rate-mbps 0.5:20
  coinfer robust --model alexnet --device-gflops 5:12 --server p100 --rate-mbps 2:20 --round-trip-ms 10:60
  coinfer robust --model alexnet --device rpi4b --server p100 --rate-mbps 1:10 --max-loss 0.05 --out choices.csv
  coinfer robust --model alexnet --device rpi4b --server p100 --trace examples/uplink_trace.csv --round-trip-ms 10
""",
    )(robust)


@options.takes(SCENARIO, options.PROBLEM)
def robust(
    model: options.Model = None,
    *,
    trace: Annotated[
        Path | None,
        typer.Option("--trace", help="CSV with seconds (or timestamp) and rate_mbps, in place of a rate."),
    ] = None,
    atlas: Annotated[
        Path | None,
        typer.Option(
            "--atlas", help="With --trace: take the strategies of an atlas, a file or a folder that holds it."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the choices as CSV; with --trace, what is chosen by sample.")
    ] = None,
    json: options.Json = False,
    **chosen: Any,
) -> None:
    """Choose for ranges of speeds and rates, or for a trace of rates: one strategy that is never far from the best."""
    check_output(out, "robust" if trace is None else "replay")
    ranges = {
        name: options.read_range(name.replace("_", " "), chosen[name], 1.0)
        for name in RANGES
        if chosen[name] is not None
    }
    if trace is not None:
        _replay(model, trace, atlas, out, json, {**chosen, **{name: _one(name, ends) for name, ends in ranges.items()}})
        return
    if atlas is not None:
        raise InputError("atlas: is for --trace; ranges compare all measured strategies, so leave it out")
    with stdout_for_answers():
        from coinfer_ray.optimizer.robust import robust as run

        network = options.network_of(model, chosen["records"])
        found = run(network, **options.given({**chosen, **ranges}))
        if out is not None:
            from coinfer_ray.report.robust import write_robust

            write_robust(found, out)
            note(f"choices written to {out}")
    if json:
        print_json(found.to_json())
    else:
        _print_robust(found)


def _one(name: str, ends: tuple[float, float]) -> float:
    """The number that a trace needs in place of a range.

    Raises:
        InputError: it is a range.
    """
    if ends[0] != ends[1]:
        what = name.replace("_", " ")
        raise InputError(f"{what}: {ends[0]:g}:{ends[1]:g} is a range, and beside --trace one number is needed")
    return ends[0]


def _replay(
    model: str | None, trace: Path, atlas: Path | None, out: Path | None, json: bool, chosen: dict[str, Any]
) -> None:
    if chosen.pop("link") is not None:
        raise InputError("link: the trace has the rates; leave --link out, and say its --round-trip-ms")
    with stdout_for_answers():
        from coinfer_ray.atlas.replay import replay

        network = options.network_of(model, chosen["records"])
        found = replay(network, trace=trace, atlas=atlas, **options.given(chosen))
        if out is not None:
            from coinfer_ray.report.replay import write_replay

            write_replay(found, out)
            note(f"samples written to {out}")
    if json:
        print_json(found.to_json())
    else:
        _print_replay(found)


def _print_replay(found: Replay) -> None:
    from rich.table import Table

    held = "predictions count" if found.confidence is None else f"with a confidence of {found.confidence:g}"
    title = f"{found.model}, {found.input_px} px, loses at most {found.max_loss:g}, {held}"
    table = Table("", title=title, title_justify="left")
    for policy in found.policies:
        table.add_column(POLICIES[policy.name])
    cells = []
    for policy in found.policies:
        own = ("by sample", "", "", "")
        if policy.strategy is not None:
            used = found.strategies[policy.strategy]
            own = (used.cut_after, *strategy_cells(used.strategy), rests_on(used.accuracy_source, used.trainings))
        cells.append(
            (
                f"{policy.mean_latency_s * 1e3:,.3f} ms",
                f"{policy.p95_latency_s * 1e3:,.3f} ms",
                f"{policy.gap:.2%}",
                f"{policy.switches:,}",
                f"{policy.strategies:,}",
                *own,
            )
        )
    measures = ("mean latency", "95 % of the time below", "above the best", "switches", "strategies")
    rows = (*measures, "cut after", "pruned", "codec", "accuracy")
    for name, row in zip(rows, zip(*cells, strict=True), strict=True):
        table.add_row(name, *row)
    print_table(table)
    proven = "all measured strategies were compared"
    if found.ratio is not None:
        proven = f"the atlas proves its strategies to {max(found.ratio - 1, 0):.3%}"
    seconds = float(found.trace.duration_s.sum())
    note(f"{counted(len(found.trace), 'sample')}, {seconds:,.6g} s, each weighed by how long it holds; {proven}")


def _print_robust(found: Robust) -> None:
    from rich.table import Table

    held = f"loses at most {found.max_loss:g} with a confidence of {found.confidence:g}"
    table = Table("", title=f"{found.model}, {found.input_px} px, {held}", title_justify="left")
    for choice in found.choices:
        table.add_column(ROLES[choice.chosen_as])
    cells = [
        (
            f"{choice.regret:.2%}",
            _where(choice.worst_at, found) or "-",
            f"{choice.least_latency_s * 1e3:,.3f} to {choice.greatest_latency_s * 1e3:,.3f} ms",
            f"{choice.middle_latency_s * 1e3:,.3f} ms",
            f"{choice.loss:.4f}",
            rests_on(choice.accuracy_source, choice.trainings),
            choice.cut_after,
            *strategy_cells(choice.strategy),
        )
        for choice in found.choices
    ]
    rows = ("regret", "worst at", "latency", "  in the middle", "loss", "accuracy", "cut after", "pruned", "codec")
    for name, row in zip(rows, zip(*cells, strict=True), strict=True):
        table.add_row(name, *row)
    print_table(table)
    least, plain = found.choices[0], found.choices[-1]
    note(
        f"least regret: nowhere in the ranges more than {1 + least.regret:.4g} times the best latency there; exact "
        f"among {counted(found.looked_at, 'strategy', 'strategies')}, by {counted(found.corners, 'corner')}"
    )
    if plain.chosen_as == "plain_split":
        note(f"the best plain split: up to {1 + plain.regret:.4g} times")


def _where(place: Place, found: Robust) -> str:
    """What ranges have at a place, in the units of their options."""
    shown = (
        ("device_flops_per_s", 1e9, "GFLOPS"),
        ("server_flops_per_s", 1e9, "GFLOPS server"),
        ("rate_bps", 1e6, "Mb/s"),
        ("round_trip_s", 1e-3, "ms"),
    )
    return ", ".join(
        f"{getattr(place, name) / unit:g} {words}"
        for name, unit, words in shown
        if getattr(found.slow, name) != getattr(found.fast, name)
    )
