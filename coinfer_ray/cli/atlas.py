"""Commands about the atlas: build it, show it, ask it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coinfer_ray.cli import options
from coinfer_ray.cli.output import check_output, note, print_json, print_table, stdout_for_answers
from coinfer_ray.errors import InputError

if TYPE_CHECKING:
    from coinfer_ray.atlas.atlas import StrategyAtlas


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
    device_gflops: Annotated[str, typer.Option("--device-gflops", help="LOW:HIGH, or one speed.")] = "0.1:1000",
    server_gflops: Annotated[str, typer.Option("--server-gflops", help="LOW:HIGH, or one speed.")] = "10600",
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
    """Build the atlas of a network for ranges of device speeds and uplink rates."""
    check_output(out, "atlas")
    with stdout_for_answers():
        from coinfer_ray.atlas.atlas import Ranges
        from coinfer_ray.atlas.build import build as run
        from coinfer_ray.cli.compile_notice import announce_compilation
        from coinfer_ray.optimizer.problem import assemble

        announce_compilation()
        ranges = Ranges.of_speeds(
            options.read_range("device gflops", device_gflops, 1e9),
            options.read_range("server gflops", server_gflops, 1e9),
            options.read_range("rate mbps", rate_mbps, 1e6),
        )
        problem = assemble(options.network_of(model, chosen["records"]), **options.given(chosen))
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
    server: options.Server = "p100",
    server_gflops: options.ServerGflops = None,
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
        from coinfer_ray.scenarios.read import device_of, link_of, round_trip_of, server_of
        from coinfer_ray.scenarios.scenario import Scenario, refuse_times

        found = load_atlas(atlas)
        document: dict[str, Any] = {"atlas": found.info.to_json(), "strategies": found.rows()}
        if device is not None or device_gflops is not None:
            side = device_of(device, device_gflops, found.info.model)
            other = server_of(None if server_gflops is not None else server, server_gflops, found.info.model)
            refuse_times("atlas", side, other)
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
    return (
        f"{len(atlas)} strategies for {info.model} at {info.input_px} px and a loss of {info.max_loss:g}, proven to "
        f"{max(info.ratio - 1, 0):.3%} by {info.solves:,} exact solutions ({info.nodes:,} boxes, {info.seconds:.1f} s)"
    )


def _print_atlas(atlas: StrategyAtlas, document: dict[str, Any]) -> None:
    from rich.table import Table

    typer.echo(_summary(atlas))
    intervals = document.get("intervals")
    table = Table("cut after", *(["rate Mb/s"] if intervals else ["share", "rate Mb/s"]))
    for name in ("device MFLOP", "server MFLOP", "kbit", "accuracy"):
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
        pruned = sum(row["sparsity"].values()) / max(1, len(row["sparsity"]))
        known = " (base)" if row["accuracy_source"] == "base" else ""
        table.add_row(
            row["cut_after"],
            *([] if share is None else [share]),
            "-" if low is None or high is None else f"{low / 1e6:.3g} - {high / 1e6:.3g}",
            f"{row['device_flop'] / 1e6:,.1f}",
            f"{row['server_flop'] / 1e6:,.1f}",
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
