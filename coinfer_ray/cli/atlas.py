"""Commands about the atlas: build it, show it, ask it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coinfer_ray.cli import options
from coinfer_ray.cli.output import check_output, note, print_json, print_table, stdout_for_answers
from coinfer_ray.errors import InputError, counted
from coinfer_ray.problem.strategy import FLOAT_BITS

if TYPE_CHECKING:
    from coinfer_ray.atlas.atlas import Range, StrategyAtlas
    from coinfer_ray.problem.network_times import SideTimes
    from coinfer_ray.scenarios.scenario import CostModel, Device, Server

DEVICE_GFLOPS, SERVER_GFLOPS, DEFAULT_SERVER = "0.1:1000", "10600", "p100"
_SIDES = ("device", "server")


def register(app: typer.Typer) -> None:
    """Add ``coinfer atlas`` to ``app``."""
    atlas = typer.Typer(
        help="The strategies that are the best in some scenario, proven: build once, ask for any scenario.",
        no_args_is_help=True,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    atlas.command(
        epilog="""Examples:

\b
  coinfer atlas build --model alexnet --out alexnet.atlas.parquet
  coinfer atlas build --model alexnet --max-loss 0.05 --device-gflops 0.1:500 --rate-mbps 0.1:100 --out a.parquet
  coinfer atlas build --model alexnet --crossings --out alexnet.crossings.parquet
  coinfer atlas build --model alexnet --device pi5.yaml --server box.yaml --server-load 0:4 --out pi5.parquet

\b
Run the same line again after it was stopped: it goes on where it was.
""",
    )(build)
    atlas.command(
        epilog="""Examples:

\b
  coinfer atlas show alexnet.atlas.parquet
  coinfer atlas show alexnet.atlas.parquet --device rpi3b+ --server p100
  coinfer atlas show alexnet.atlas.parquet --device rpi3b+ --server p100 --rate-mbps 3 --json
  coinfer atlas show alexnet.crossings.parquet --device-gflops 40 --server p100 --link 4g --round-trip-ms 40
  coinfer atlas show pi5.parquet --rate-mbps 20 --server-load 1.5
  coinfer atlas show alexnet.atlas.parquet --picture atlas.png
""",
    )(show)
    atlas.command(
        epilog="""Examples:

\b
  coinfer atlas sql alexnet.atlas.parquet --name alexnet > alexnet.sql
  duckdb -init alexnet.sql -c "SELECT alexnet_latency_s(3.62e9, 1.06e13, 5.85e6)"
""",
    )(sql)
    app.add_typer(atlas, name="atlas")


@options.takes(options.PROBLEM)
def build(
    out: Annotated[Path, typer.Option("--out", help="The atlas's file (Parquet).")],
    model: options.Model = None,
    *,
    device: options.Device = None,
    device_gflops: Annotated[
        str | None, typer.Option("--device-gflops", help=f"LOW:HIGH, or one speed; default: {DEVICE_GFLOPS}.")
    ] = None,
    server: options.Server = None,
    server_gflops: Annotated[
        str | None, typer.Option("--server-gflops", help=f"LOW:HIGH, or one speed; default: {SERVER_GFLOPS}.")
    ] = None,
    server_load: Annotated[
        str,
        typer.Option("--server-load", help="LOW:HIGH, or one: other work on the server."),
    ] = "0",
    cost_model: options.CostModel = None,
    rate_mbps: Annotated[str, typer.Option("--rate-mbps", help="LOW:HIGH, or one rate.")] = "0.01:1000",
    max_loss: options.MaxLoss = 0.02,
    confidence: options.Confidence = 0.9,
    snr_db: Annotated[
        float | None, typer.Option("--snr-db", help="For records of a noisy channel: the SNR that it is for.")
    ] = None,
    crossings: Annotated[
        bool,
        typer.Option("--crossings", help="For any round trip too: crossing may take time by itself."),
    ] = False,
    tolerance: Annotated[float, typer.Option("--tolerance", help="Share by which answers may miss the best.")] = 1e-3,
    max_nodes: Annotated[int, typer.Option("--max-nodes", min=1, help="Boxes for one call of the solver.")] = 200_000,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="Default: one per core.")] = None,
    json: options.Json = False,
    **chosen: Any,
) -> None:
    """Build the atlas of a network for ranges of device speeds and uplink rates, or for a measured device or server."""
    check_output(out, "atlas")
    with stdout_for_answers():
        from coinfer_ray.atlas.atlas import Ranges
        from coinfer_ray.atlas.build import build as run
        from coinfer_ray.cli.compile_notice import announce_compilation
        from coinfer_ray.optimizer.problem import assemble

        announce_compilation()
        network = options.network_of(model, chosen["records"])
        sides = _sides_to_build(network, device, device_gflops, server, server_gflops, cost_model)
        load = options.read_range("server load", server_load, 1.0)
        if not 0 <= load[0] <= load[1]:
            raise InputError(
                f"server load: {server_load} must rise from 0 on; 0 is an idle server, 1 takes twice as long"
            )
        slowest, fastest = sides[1][0]
        ranges = Ranges.of_speeds(
            sides[0][0],
            (slowest / (1 + load[1]), fastest / (1 + load[0])),
            options.read_range("rate mbps", rate_mbps, 1e6),
        )
        problem = assemble(network, times=(sides[0][1], sides[1][1]), **options.given(chosen))
        atlas = run(
            problem,
            ranges,
            max_loss=max_loss,
            confidence=confidence,
            snr_db=snr_db,
            crossings=crossings,
            tolerance=tolerance,
            out=out,
            max_nodes=max_nodes,
            threads=threads,
        )
    if json:
        print_json({"out": str(out), "strategies": len(atlas), **atlas.info.to_json()})
    else:
        typer.echo(f"{out}: {_summary(atlas)}")
    if not atlas.info.proven:
        note(f"more than --tolerance {tolerance:g} is open: raise --max-nodes, or allow a larger tolerance")


def show(
    atlas: Annotated[Path, typer.Argument(help="File that `coinfer atlas build` wrote.")],
    device: options.Device = None,
    device_gflops: options.DeviceGflops = None,
    server: options.Server = None,
    server_gflops: options.ServerGflops = None,
    server_load: options.ServerLoad = None,
    link: options.Link = None,
    rate_mbps: options.RateMbps = None,
    round_trip_ms: options.RoundTripMs = None,
    picture: Annotated[
        Path | None, typer.Option("--picture", help="Draw which strategy wins where (PNG, SVG or PDF).")
    ] = None,
    json: options.Json = False,
) -> None:
    """Show an atlas; with a device its strategies by uplink rate; with a link, too, the best one."""
    check_output(picture, "picture")
    with stdout_for_answers():
        from coinfer_ray.atlas.atlas import load_atlas
        from coinfer_ray.scenarios.read import link_of, round_trip_of
        from coinfer_ray.scenarios.scenario import Scenario

        found = load_atlas(atlas)
        document: dict[str, Any] = {"atlas": found.info.to_json(), "strategies": found.rows()}
        if device is not None or device_gflops is not None or found.info.measured[0]:
            side, other = _sides_to_ask(found, device, device_gflops, server, server_gflops, server_load)
            crossing_s = other.per_crossing_s + (0.0 if round_trip_ms is None else round_trip_of(round_trip_ms))
            if link is not None or rate_mbps is not None:
                scenario = Scenario(side, other, link_of(link, rate_mbps, round_trip_ms=round_trip_ms))
                document["answer"], crossing_s = _answer(found, scenario.weights()), scenario.crossing_s
            document["intervals"] = [
                {"row": row, "rate_low_bps": low, "rate_high_bps": high}
                for row, low, high in found.intervals(side.flops_per_s, other.flops_per_s, crossing_s)
            ]
        elif link is not None or rate_mbps is not None or round_trip_ms is not None:
            raise InputError("device: missing; a link alone is no scenario, give --device or --device-gflops too")
        if picture is not None:
            from coinfer_ray.report.atlas_figure import draw_atlas

            if any(found.info.measured):
                raise InputError("picture: its axes are speeds and rates, and this atlas is of measured times")
            draw_atlas(found, picture)
            note(f"picture written to {picture}")
    if json:
        print_json(document)
    else:
        _print_atlas(found, document)


def sql(
    atlas: Annotated[Path, typer.Argument(help="File that `coinfer atlas build` wrote.")],
    name: Annotated[str, typer.Option("--name", help="What the macros' names begin with.")] = "atlas",
) -> None:
    """Print an atlas as macros for DuckDB, which then answers any scenario."""
    from coinfer_ray.atlas.atlas import load_atlas
    from coinfer_ray.atlas.sql import atlas_sql

    typer.echo(atlas_sql(load_atlas(atlas), name), nl=False)


def _sides_to_build(
    network: Any,
    device: str | None,
    device_gflops: str | None,
    server: str | None,
    server_gflops: str | None,
    cost_model: CostModel | None,
) -> tuple[tuple[Range, SideTimes | None], tuple[Range, SideTimes | None]]:
    """The speeds of the devices and of the servers (FLOP/s) that an atlas is for, and their measured times.

    Raises:
        InputError: a side by name and by speeds, or a cost model for which nothing is measured.
    """
    from coinfer_ray.models.source import resolve_model
    from coinfer_ray.scenarios.read import check_measured, device_of, server_of

    for what, named, speeds in (("device", device, device_gflops), ("server", server, server_gflops)):
        if named is not None and speeds is not None:
            raise InputError(f"{what}: {named} and gflops were both given; give one of them")
    name = resolve_model(network).name
    own = None if device is None else device_of(device, network=name, cost_model=cost_model)
    other = None if server is None else server_of(server, network=name, cost_model=cost_model)
    times = None if own is None else own.times, None if other is None else other.times
    check_measured("cost model", cost_model, times)
    slow = options.read_range("device gflops", device_gflops or DEVICE_GFLOPS, 1e9)
    fast = options.read_range("server gflops", server_gflops or SERVER_GFLOPS, 1e9)
    return (
        (slow if own is None else (own.flops_per_s, own.flops_per_s), times[0]),
        (fast if other is None else (other.flops_per_s, other.flops_per_s), times[1]),
    )


def _sides_to_ask(
    atlas: StrategyAtlas,
    device: str | None,
    device_gflops: float | None,
    server: str | None,
    server_gflops: float | None,
    server_load: float | None,
) -> tuple[Device, Server]:
    """A scenario's device and server; those that an atlas was built with where it is of measured times.

    Raises:
        InputError: times that the atlas does not count by, or none where it does.
    """
    from coinfer_ray.scenarios.read import device_of, server_of
    from coinfer_ray.scenarios.scenario import Device, Server

    info, said = atlas.info, atlas.info.problem.get("layer_seconds") or {}
    if info.measured[0] and device is None and device_gflops is None:
        own = Device("as measured", 1.0)
    else:
        own = device_of(device, device_gflops, info.model)
    if info.measured[1] and server is None and server_gflops is None:
        other = server_of(Server("as measured", 1.0), load=server_load)
    else:
        default = None if server_gflops is not None else DEFAULT_SERVER
        other = server_of(server or default, server_gflops, info.model, load=server_load)
    _check_times("device", own, said.get("device"), device is not None or device_gflops is not None)
    _check_times("server", other, said.get("server"), server is not None or server_gflops is not None)
    return own, other


def _check_times(what: str, side: Device | Server, said: Any, given: bool) -> None:
    """Raise InputError where a ``given`` side is counted otherwise than the atlas, whose problem ``said`` how."""
    from coinfer_ray.problem.network_times import said_of
    from coinfer_ray.scenarios.scenario import refuse_times

    if said is None:
        refuse_times("atlas", side)
    elif given and said not in said_of(side.times):
        raise InputError(
            f"{what}: the atlas is of measured times, and not of those of {side.name}; give the file that it was built "
            "with, or none"
        )


def _answer(atlas: StrategyAtlas, weights: tuple[float, ...]) -> dict[str, Any]:
    import numpy as np

    index, latency_s = atlas.lookup(np.array([weights]))
    return {
        "row": int(index[0]),
        "latency_s": float(latency_s[0]),
        "lower_bound_s": float(latency_s[0]) / atlas.info.ratio,
    }


def _summary(atlas: StrategyAtlas) -> str:
    info = atlas.info
    strategies, boxes = counted(len(atlas), "strategy", "strategies"), counted(info.nodes, "box", "boxes")
    solves = counted(info.solves, "exact solution")
    return (
        f"{strategies} for {info.model} at {info.input_px} px and a loss of {info.max_loss:g}, proven to "
        f"{max(info.ratio - 1, 0):.3%} by {solves} ({boxes}, {info.seconds:.1f} s)"
    )


def _print_atlas(atlas: StrategyAtlas, document: dict[str, Any]) -> None:
    from rich.table import Table

    typer.echo(_summary(atlas))
    intervals = document.get("intervals")
    table = Table("cut after", *(["rate Mb/s"] if intervals else ["share", "rate Mb/s"]))
    units = [("ms", 1e3) if measured else ("MFLOP", 1e-6) for measured in atlas.info.measured]
    for name in (f"device {units[0][0]}", f"server {units[1][0]}", "kbit", "accuracy"):
        table.add_column(name, justify="right")
    table.add_column("pruned on average", justify="right")
    table.add_column("codec")
    rows = document["strategies"]
    shown: list[tuple[dict[str, Any], float | None, float | None, str | None]]
    if intervals:
        shown = [(rows[one["row"]], one["rate_low_bps"], one["rate_high_bps"], None) for one in intervals]
    else:
        ranked = sorted(rows, key=lambda row: -row["share"])
        shown = [(row, row["rate_low_bps"], row["rate_high_bps"], f"{row['share']:.2%}") for row in ranked]
    best = document.get("answer", {}).get("row")
    for row, low, high, share in shown:
        codec = ", ".join(f"{name} {value:g}" for name, value in row["codec"].items() if value != 1) or "none"
        codec += "" if row["feature_bits"] == FLOAT_BITS else f", {row['feature_bits']} bits"
        pruned = sum(row["sparsity"].values()) / max(1, len(row["sparsity"]))
        known = "" if row["accuracy_source"] == "predicted" else f" ({row['accuracy_source']})"
        table.add_row(
            row["cut_after"],
            *([] if share is None else [share]),
            "-" if low is None or high is None else f"{low / 1e6:.3g} - {high / 1e6:.3g}",
            *(f"{row[f'{side}_flop'] * unit:,.1f}" for side, (_, unit) in zip(_SIDES, units, strict=True)),
            f"{row['uplink_bit'] / 1e3:,.2f}",
            f"{row['predicted_accuracy']:.4f}{known}",
            f"{pruned:.0%}",
            codec,
            style="bold" if row["row"] == best else None,
        )
    print_table(table)
    if best is not None:
        answer = document["answer"]
        cut = rows[best]["cut_after"]
        typer.echo(
            f"latency {answer['latency_s'] * 1e3:,.3f} ms, cut after {cut}; "
            f"no strategy is below {answer['lower_bound_s'] * 1e3:,.3f} ms"
        )
